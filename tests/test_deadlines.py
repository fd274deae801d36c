"""Which cells are ended for the time that they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evalshim.deadlines import Deadlines
from evalshim.spec import Cell, DatasetSpec, ModelSpec, RunSpec

DATASET = DatasetSpec("d", "vlmeval", "d")
CELL = Cell("m__d", ModelSpec("m", "m", "http://h/v1"), DATASET)
LOCAL = Cell("l__d", ModelSpec("l", "l", cls="qwen_chat"), DATASET)


def _after(seconds: float, spec: RunSpec, cell: Cell = CELL, waited_until: float = 0) -> str:
    """Why a cell that said nothing for `seconds` is ended; empty where it is not."""
    now = [0.0]
    deadlines = Deadlines(spec, lambda: now[0])
    deadlines.begin(cell, 7)
    now[0] = seconds
    found = list(deadlines.look((), waited_until))
    assert found == ([(cell, {7})] if deadlines.overdue else [])
    assert list(deadlines.look((), waited_until)) == []  # once
    return deadlines.overdue.get(cell.id, "")


def test_a_cell_that_says_nothing_is_ended() -> None:
    spec = RunSpec(stall_timeout=60)

    assert _after(59, spec) == ""
    assert _after(61, spec) == "nothing came of it for stall_timeout, 60 s"


def test_to_wait_for_an_endpoint_is_no_stall() -> None:
    assert _after(100, RunSpec(stall_timeout=60), waited_until=50) == ""


def test_what_an_upstream_runs_itself_says_nothing_in_between() -> None:
    spec = RunSpec(stall_timeout=60)

    assert _after(10_000, spec, LOCAL) == ""
    assert _after(10_000, replace(spec, config=Path("x.py"))) == ""


def test_a_cell_has_so_much_time_in_all() -> None:
    now = [0.0]
    deadlines = Deadlines(RunSpec(cell_timeout=60), lambda: now[0])
    deadlines.begin(LOCAL, 7)
    for _ in range(6):
        now[0] += 10
        deadlines.hear(LOCAL.id)
        deadlines.begin(LOCAL, 8)  # another part of it
    assert not list(deadlines.look((), 0))
    now[0] += 1

    assert list(deadlines.look((LOCAL.id,), 0)) == []  # it has ended
    assert list(deadlines.look((), 0)) == [(LOCAL, {7, 8})]
    assert deadlines.overdue[LOCAL.id] == "it took longer than cell_timeout, 60 s"
