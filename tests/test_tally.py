"""What a run of OpenCompass's knows of its cells, and what a later process goes on from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalshim.worker import channel, opencompass_earlier, tally

# The worker has no types.
Tally: Callable[..., Any] = tally.Tally
go_on: Callable[..., Any] = opencompass_earlier.go_on

JUDGE = {"model": "j", "at": "http://j/v1", "fallback": "error", "variables": {}, "key_env": "K"}
CELL = {"id": "m__d", "model": "m", "dataset": "d", "judge": JUDGE}
SETS = ["one", "two"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Upstream's folder of a run in which both sets were answered and scored."""
    for kind in ("predictions", "results"):
        (tmp_path / "stamp" / kind / "m").mkdir(parents=True)
        for abbr in SETS:
            answers = {"0": {"prediction": "x"}} if kind == "predictions" else {"accuracy": 50.0}
            (tmp_path / "stamp" / kind / "m" / f"{abbr}.json").write_text(json.dumps(answers))
    return tmp_path / "stamp"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The events of the worker until now."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as turn:
        monkeypatch.setattr(channel, "_events", file.fileno())
        monkeypatch.setattr(channel, "_turn", turn)

        def read() -> list[dict[str, Any]]:
            file.seek(0)
            return [json.loads(line) for line in file.read().splitlines() if line]

        yield read


def _tally() -> Any:
    return Tally([CELL], {"d": {"datasets": SETS, "groups": []}}, grades=True)


def _goes_on(folder: Path) -> Any:
    found = _tally()
    job = {"stamp": folder.name, "arguments": {"work_dir": str(folder.parent)}}
    assert go_on(job, found)
    return found


def _task(folder: Path, abbr: str) -> Any:
    names = {"model_cfgs": [{"abbr": "m"}], "dataset_cfgs": [[{"abbr": abbr}]]}
    return SimpleNamespace(work_dir=str(folder), **names)


def _scored(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "results" / "m").iterdir())


def _finished(events: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    [event] = [e for e in events() if e["event"] == "finished"]
    return event


def test_what_an_older_version_wrote_down_is_gone_on_from(
    folder: Path, events: Callable[[], list[dict[str, Any]]]
) -> None:
    """It named the set of a line in its key alone, and had seen nothing of one it only graded."""
    seen = {"errors": {}, "finish": {}, "last_error": "", "sent": {"seed": 1}, "reported": "id"}
    graded = {"built": True, "dead": "", "without": False, "reported": "j-1", "problem": ""}
    parts = {
        "m/one": {"cell": "m__d", "seen": {}, "grading": {"ungraded": 1, **graded}},
        "m/two": {"cell": "m__d", "seen": {"two": seen}, "grading": {"ungraded": 0, **graded}},
        "m/gone": {"cell": "m__gone", "seen": {}, "grading": {"ungraded": 1, **graded}},
    }
    lines = [json.dumps([k, {**p, "failed": {}, "spans": []}, False]) for k, p in parts.items()]
    (folder / "parts.jsonl").write_text("\n".join(lines) + "\n")

    found = _goes_on(folder)
    assert found.part(_task(folder, "two"))["seen"] == {"two": seen}  # for the next process
    found.finish(str(folder))

    assert _scored(folder) == ["two"]
    known = _finished(events)
    assert (known["judge_built"], known["judge_failed"], known["sent"]) == (True, 0, {"seed": 1})
    assert known["reported"] == {"model": "id", "judge": "j-1"}


def test_sets_that_one_process_grades_are_told_apart(
    folder: Path, events: Callable[[], list[dict[str, Any]]]
) -> None:
    before = _tally()
    for abbr, lacking in zip(SETS, (["first", "second"], []), strict=True):
        task = _task(folder, abbr)
        with before.task(task, "eval"):
            before.grading().built = True
            for sample in lacking:
                before.grading().unread(sample)
        before.keep(task, before.part(task))
    before.finish(str(folder))
    assert _finished(events)["judge_failed"] == 2

    after = _goes_on(folder)

    assert _scored(folder) == ["two"]
    with after.task(_task(folder, "one"), "eval"):
        after.grading().unread("second")
    after.finish(str(folder))
    assert [e["judge_failed"] for e in events() if e["event"] == "finished"] == [2, 1]


def test_a_judge_that_died_of_one_set_is_dead_to_the_next_of_its_cell(
    folder: Path, events: Callable[[], list[dict[str, Any]]]
) -> None:
    found = _tally()
    with found.task(_task(folder, "one"), "eval"):
        found.grading().dead = "HTTP 503"
        found.grading().unread("first")
    with found.task(_task(folder, "two"), "eval"):
        assert found.grading().dead == "HTTP 503"
        assert found.grading().ungraded == set()
