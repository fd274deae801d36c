"""Keys with a mark of their own go through runs of every kind, and are then looked for.

The endpoint sends each key back, in every spelling, in answers and errors. A key must be in no
file, in no output, and in no command line that any process shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalshim import envs
from tests.conftest import HEEDED

from .conftest import shim
from .talkative import Talkative, spellings
from .test_judges import SUMS, write
from .test_parity import _TOKENIZER, upstream

pytestmark = pytest.mark.timeout(900)

MODELS = ("good", "echo", "401", "500")
JUDGES = ("judge", "grader")
# All that may stand in a key, `/`, `+`, `=`, quotes and backslash among it.
KEYS = {name: f"sk-Canary/{name}+q\"'\\x%41=Zq7{i}" for i, name in enumerate((*MODELS, *JUDGES))}
HEADER, MEMBER = "header-Canary/42+Kx", "member-Canary/43+Ly"
CANARIES = (*KEYS.values(), HEADER, MEMBER)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Talkative]:
    with Talkative() as served:
        yield served


class Machine:
    """A machine whose every folder that a run may write to is a fresh one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **{f"KEY_{name.upper()}": key for name, key in KEYS.items()},
            "TMPDIR": str(folder / "tmp"),
            "LMUData": str(folder / "LMUData"),
            "COMPASS_DATA_CACHE": str(folder / "cache"),
            "EVALSHIM_HOME": str(folder / "home"),
            "MY_HEADER": HEADER,
        }
        for name in ("tmp", "LMUData", "home"):
            (folder / name).mkdir()
        # The environments themselves are read, and not looked through.
        (folder / "home" / "envs").symlink_to(envs.home() / "envs")

    def run(self, *args: object) -> tuple[int, str]:
        """A command's exit code, and what it printed."""
        with pytest.MonkeyPatch.context() as patch, _command_lines() as seen:
            for variable in HEEDED:
                patch.delenv(variable, raising=False)
            done = shim(*args, cwd=self.folder, timeout=600, **self.env)
        assert any("shim" in line for line in seen) or not Path("/proc").is_dir()
        assert _found("".join(seen)) == []
        printed = done.stdout + done.stderr
        assert _found(printed) == [], printed
        return done.returncode, printed

    def leaks(self) -> list[tuple[Path, str]]:
        """The files that have a canary, and which; the configuration aside, which is the user's."""
        own = self.folder / "eval.json"
        return [
            (path, canary)
            for path in self.folder.rglob("*")
            if path.is_file() and path != own
            for canary in _found(_text(path))
        ]


def _text(path: Path) -> str:
    """A file as text, that of an archive (.xlsx) as well."""
    text = path.read_bytes().decode("latin-1")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text += "".join(archive.read(n).decode("latin-1") for n in archive.namelist())
    return text


def _found(text: str) -> list[str]:
    return [form for canary in CANARIES for form in spellings(canary) if form in text]


@contextlib.contextmanager
def _command_lines() -> Iterator[set[str]]:
    """The command lines of all processes, as long as the block lasts; on Linux."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(place.read_bytes().decode("latin-1"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _configuration(
    folder: Path, endpoint: Talkative, key_of: Callable[[str], dict[str, str]], **more: Any
) -> None:
    write(folder, "oc", "")
    path = write(folder, "mcq", "mine")
    models = [
        {
            "name": name, "api_base": endpoint.url(name), "model": "m", "retry": 1, **key_of(name),
            "headers": {"X-Extra": "${MY_HEADER}"}, "extra_body": {"my": {"api_key": MEMBER}},
        }
        for name in MODELS
    ]  # fmt: skip
    judge, grader = (
        {"model": "m", "api_base": endpoint.url(name), "retry": 1, **key_of(name)}
        for name in JUDGES
    )
    raw = {
        "models": models,
        "datasets": [
            {"name": "mine", "path": str(path), "format": "mcq"},
            {"name": "graded", "path": str(path), "format": "mcq", "judge": grader},
            {"name": "sums", "dataset": f"opencompass:{SUMS}"},
        ],
        "judge": judge,
        "limit": 3,
        "retries": 0,
        **more,
    }
    (folder / "eval.json").write_text(json.dumps(raw))


def _by_variable(name: str) -> dict[str, str]:
    return {"key_env": f"KEY_{name.upper()}"}


def _written_down(name: str) -> dict[str, str]:
    return {"key": KEYS[name]}


def _came_through(endpoint: Talkative, name: str) -> None:
    """The canaries were sent, so that they could leak."""
    asked = [(headers, body) for kind, headers, body in endpoint.asked if kind == name and body]
    assert {headers["authorization"] for headers, _ in asked} == {f"Bearer {KEYS[name]}"}
    if name in MODELS:
        # The preflight has no members of a run's.
        assert any(json.loads(body).get("my") == {"api_key": MEMBER} for _, body in asked)
        assert {headers["x-extra"] for headers, _ in asked} == {HEADER}


@pytest.mark.parametrize("key_of", [_by_variable, _written_down])
def test_no_key_is_left_by_a_run(
    key_of: Callable[[str], dict[str, str]], machine: Machine, endpoint: Talkative
) -> None:
    endpoint.asked.clear()
    _configuration(machine.folder, endpoint, key_of)

    code, printed = machine.run("run", "eval.json", "--no-preflight")

    assert code == 1, printed
    for name in KEYS:
        _came_through(endpoint, name)
    run = (machine.folder / "outputs" / "latest").resolve()
    # What was sent back is there, without the key.
    assert "***" in (run / "samples.jsonl").read_text()
    assert list((run / "upstream").rglob("*.tsv"))
    assert list((run / "upstream").rglob("predictions/echo/*.json"))
    assert machine.leaks() == []
    assert ("it works, and is kept out" in printed) == (key_of is _written_down)


def test_no_key_is_left_by_what_only_looks(machine: Machine, endpoint: Talkative) -> None:
    endpoint.asked.clear()
    _configuration(machine.folder, endpoint, _written_down)

    code, printed = machine.run("run", "eval.json", "--dry-run")
    assert code == 0, printed
    for command in (("check",), ("run", "--json")):
        code, printed = machine.run(command[0], "eval.json", *command[1:])
        assert code == 3, printed
        assert "401" in printed
        assert "no entry with ***" in printed
    assert {headers["authorization"] for headers in endpoint.headers("401")} == {
        f"Bearer {KEYS['401']}"
    }
    assert machine.leaks() == []


def test_a_key_in_a_configuration_of_opencompass_is_left_nowhere(
    machine: Machine, endpoint: Talkative, environments: dict[str, Path]
) -> None:
    """Upstream writes that configuration down, and has processes and logs of its own."""
    endpoint.asked.clear()
    data = write(machine.folder, "oc", "").parent / "questions.jsonl"
    data.write_text("".join(json.dumps({"question": f"{k}?", "answer": "1"}) + "\n" for k in "ab"))
    tokenizer = machine.folder / "tokenizer"
    upstream([environments["opencompass"], "-c", _TOKENIZER, tokenizer], machine.folder)
    config = machine.folder / "eval.py"
    config.write_text(
        "from opencompass.models import OpenAISDK\n"
        "datasets = [dict(path=" + repr(str(data)) + ", data_type='qa')]\n"
        "models = [dict(type=OpenAISDK, abbr='echo', path='m', retry=1, max_seq_len=4096,\n"
        f"    key={KEYS['echo']!r}, openai_api_base={endpoint.url('echo')!r},\n"
        f"    tokenizer_path={str(tokenizer)!r}, max_out_len=8, batch_size=2)]\n"
    )
    _, printed = machine.run("run", "eval.py")
    config.unlink()

    assert endpoint.headers("echo"), printed
    assert list((machine.folder / "outputs").rglob("configs/*.py"))
    assert machine.leaks() == []


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """A canary test that could find nothing would show nothing."""
    machine = Machine(tmp_path)
    for i, form in enumerate(spellings(KEYS["judge"])):
        (tmp_path / f"{i}.txt").write_text(f"so {form} it is")
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sheet.xml", HEADER * 100)

    found = {path.name for path, _ in machine.leaks()}
    assert found == {"book.xlsx", *(f"{i}.txt" for i in range(len(spellings(KEYS["judge"]))))}
    assert os.environ.get("KEY_JUDGE") is None
