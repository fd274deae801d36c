"""What dataset names mean, and what is suggested for those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from evalshim import registry
from evalshim.errors import ConfigError, did_you_mean


def test_every_entry_is_complete() -> None:
    assert len(registry.entries()) >= 159
    for name, entry in registry.entries().items():
        assert entry.name == name
        assert entry.backend in registry.BACKENDS
        if entry.backend == "opencompass":
            for part in entry.target.split():
                module, colon, variable = part.partition(":")
                assert colon and all(name.isidentifier() for name in module.split("."))
                assert variable.isidentifier()
        if entry.path:
            assert entry.path.is_absolute()
            assert entry.path.exists()


def test_entries_cannot_be_changed() -> None:
    entries: Any = registry.entries()
    with pytest.raises(TypeError):
        entries["mine"] = entries["gsm8k"]


@pytest.mark.parametrize("name", ["gsm8k", "opencompass:gsm8k"])
def test_resolves_a_name_with_or_without_its_backend(name: str) -> None:
    assert registry.resolve(name) is registry.entries()["gsm8k"]
    assert registry.resolve(name, "opencompass") is registry.entries()["gsm8k"]


@pytest.mark.parametrize(
    ("name", "what", "near"),
    [
        ("gsm8", "unknown dataset: gsm8", "did you mean gsm8k"),
        ("GSM8K", "unknown dataset: GSM8K", "did you mean gsm8k"),
        ("demo_shape", "unknown dataset: demo_shape", "did you mean demo_shapes"),
        ("vlmeval:gsm8k", "unknown dataset of vlmeval: gsm8k", "shim list datasets"),
        ("opencompass:demo_shapes", "unknown dataset of opencompass", "shim list datasets"),
        ("nobackend:gsm8k", "unknown dataset: nobackend:gsm8k", "did you mean gsm8k"),
        ("", "unknown dataset: ", "shim list datasets"),
    ],
)
def test_an_unknown_name_is_refused_with_the_near_ones(name: str, what: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.resolve(name)
    assert what in str(caught.value)
    assert near in str(caught.value)


def test_suggests_only_what_the_backend_has() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.resolve("demo_gsm8k", "vlmeval")
    assert "did you mean demo_gsm8k" not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "pattern", "expected"),
    [
        (None, "demo*", {"demo_arc", "demo_gsm8k", "demo_shapes"}),
        (None, "DEMO_?*s", {"demo_shapes"}),
        (None, "gsm", {"demo_gsm8k", "gsm8k"}),
        (None, "[gc]*", {"gsm8k", "ceval"}),
        ("vlmeval", "demo*", {"demo_shapes"}),
        ("opencompass", "shapes", set()),
    ],
)
def test_lists_by_backend_and_pattern(
    backend: str | None, pattern: str, expected: set[str]
) -> None:
    found = {d.name for d in registry.list_datasets(backend, pattern)}

    assert found & {"demo_arc", "demo_gsm8k", "demo_shapes", "gsm8k", "ceval"} == expected


def test_lists_sorted() -> None:
    names = [d.name for d in registry.list_datasets()]

    assert names == sorted(names)
    assert len(names) == len(registry.entries())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("tempreature", "did you mean temperature? "),
        ("TEMPERATURE", "did you mean temperature? "),
        ("zzzzzz", ""),
    ],
)
def test_suggests_what_comes_near(word: str, expected: str) -> None:
    assert did_you_mean(word, ["temperature", "max_tokens", "name"]) == expected
