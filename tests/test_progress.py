"""How a run shows itself while it runs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from evalshim import progress
from evalshim.spec import Cell, CellOutcome, DatasetSpec, Event, Metric, ModelSpec

CELL = Cell("m__d", ModelSpec("m", "m", "http://h/v1"), DatasetSpec("d", "vlmeval", "d"))
TITLES = {"vlmeval": "VLMEvalKit"}


def _progress(done: int, total: int, failed: int = 0) -> Event:
    return Event("progress", CELL.id, {"done": done, "total": total, "failed": failed})


def test_lines_say_every_half_minute_how_far_a_cell_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    lines = progress.Lines([CELL], TITLES, lambda: "40 calls", lambda: now[0])  # type: ignore[arg-type]
    lines.event(Event("started", CELL.id))
    for done in range(1, 40):
        now[0] += 1
        lines.event(_progress(done, 100, failed=2))

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "m x d: started"
    assert said[1] == "m x d: 30 of 100, 70 s left, 2 without an answer; 40 calls"
    assert len(said) == 2


def test_what_a_run_waits_for_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.Lines([CELL], TITLES)  # type: ignore[arg-type]
    lines.event(Event("waiting", None, {"message": "http://h/v1 does not answer"}))

    assert capsys.readouterr().err == "http://h/v1 does not answer\n"


def test_what_is_all_there_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines([CELL], {}):
        pass

    assert capsys.readouterr().err == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_show_counts_failures_and_what_went_to_the_endpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "160")):
        monkeypatch.setenv(name, value)
    metric = Metric("overall", "acc", 0.5, "fraction", True, Path("x"))
    with progress.Bars([CELL], TITLES, lambda: "31 calls, 7.5 a second") as bars:  # type: ignore[arg-type]
        bars.event(Event("ready", None, {"upstream": "vlmeval"}))
        bars.event(Event("started", CELL.id))
        bars.event(_progress(31, 100, failed=3))
        bars._progress.refresh()
        bars.ended(CELL, CellOutcome("scored", metrics=(metric,)))

    text = screen.getvalue()
    for shown in ("31/100", "3 without an answer", "31 calls, 7.5 a second", "m x d: scored, acc"):
        assert shown in text
