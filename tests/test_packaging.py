"""What is shipped: dependencies, pins, licence, registry, help texts."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement

from evalshim.cli import main

ROOT = Path(__file__).parents[1]
PINS = ROOT / "evalshim" / "pins"
BACKENDS = ("vlmeval", "opencompass")
BOUND_IN_BOTH = {
    "ms-vlmeval", "opencompass", "torch", "torchvision", "transformers",
    "numpy", "pandas", "pyarrow", "datasets",
}  # fmt: skip


def _block(name: str) -> list[str]:
    """The lines of the TOML array `name`; Python 3.10 has no TOML reader."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert match, name
    return [line.strip() for line in match[1].splitlines()]


def _array(name: str) -> dict[str, str]:
    """Package -> requirement of the TOML array `name`."""
    found = [match[1] for line in _block(name) if (match := re.match(r'"([^"]+)"', line))]
    return {Requirement(text).name: text for text in found}


def _requirements(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    return {Requirement(line).name: line for line in kept}


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_extra_has_the_bounds_of_the_managed_environment(backend: str) -> None:
    extra, pins = _array(backend), _requirements(PINS / f"{backend}.in")

    both = extra.keys() & pins.keys()
    assert {name: extra[name] for name in both} == {name: pins[name] for name in both}
    assert extra.keys() <= BOUND_IN_BOTH
    assert BOUND_IN_BOTH & pins.keys() == extra.keys()


@pytest.mark.parametrize("backend", BACKENDS)
def test_pins_are_versions_and_nothing_else(backend: str) -> None:
    lines = (PINS / f"{backend}.txt").read_text(encoding="utf-8").splitlines()

    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.!_]+( ; [^/@+]+)?", line), line


@pytest.mark.parametrize("backend", BACKENDS)
def test_pins_cover_what_is_asked_for_within_its_bounds(backend: str) -> None:
    pinned: dict[str, list[Requirement]] = {}
    for line in (PINS / f"{backend}.txt").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        pinned.setdefault(requirement.name, []).append(requirement)

    for name, line in _requirements(PINS / f"{backend}.in").items():
        assert name in pinned
        for pin in pinned[name]:
            [version] = [s.version for s in pin.specifier]
            assert Requirement(line).specifier.contains(version, prereleases=True), (line, version)


def test_every_core_dependency_says_what_it_is_for() -> None:
    lines = _block("dependencies")

    assert lines
    for line in lines:
        assert re.fullmatch(r'"[^"]+", +# \S.*', line), line


def test_the_registry_is_sorted_and_names_each_dataset_once() -> None:
    text = (ROOT / "evalshim" / "registry.yaml").read_text(encoding="utf-8")
    names = [match[1] for match in re.finditer(r"^([^#\s][^:]*):", text, re.MULTILINE)]

    assert names == sorted(names)
    assert len(names) == len(set(names)) == len(yaml.safe_load(text))


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        found.append((" ".join([*path, name]), command))
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
    return found


@pytest.mark.parametrize(("name", "command"), _commands(main))
def test_every_command_and_every_option_has_help(name: str, command: click.Command) -> None:
    assert command.help and command.help.strip(), name
    bare = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert bare == []
