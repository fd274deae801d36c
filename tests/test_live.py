"""What decides the exit code of a run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evalshim import resumption
from evalshim.live import LiveRun
from evalshim.plans import Plan
from evalshim.progress import Lines
from evalshim.spec import Cell, CellOutcome, DatasetSpec, Metric, ModelSpec, RunSpec, Sample

MODEL = ModelSpec("m", "m", "http://h/v1")
DATASET = DatasetSpec("d", "vlmeval", "d")
CELL = Cell("m__d", MODEL, DATASET)


@pytest.mark.parametrize(
    ("fail_on", "n", "n_failed", "ungraded", "code"),
    [
        (0, 40, 0, 0, 0), (0, 40, 1, 0, 1), (1, 40, 1, 0, 0), (1, 40, 2, 0, 1),
        (0.1, 40, 4, 0, 0), (0.1, 40, 5, 0, 1),
        # A product of floats that is a little too small, and one that is too large.
        (0.29, 100, 29, 0, 0), (0.29, 100, 30, 0, 1), (0.07, 100, 8, 0, 1),
        # What the judge did not grade is as good as unanswered.
        (0, 40, 0, 1, 1), (1, 40, 1, 1, 1), (0.1, 40, 2, 2, 0),
    ],
)  # fmt: skip
def test_unanswered_samples_are_held_against_the_whole_cell(
    tmp_path: Path, fail_on: float, n: int, n_failed: int, ungraded: int, code: int
) -> None:
    (tmp_path / "run").mkdir()
    spec = RunSpec((MODEL,), (DATASET,), fail_on=fail_on)
    run = LiveRun(Plan(spec, (CELL,), {}, {CELL.id: ()}, {}), tmp_path / "run", [], time.time())
    run.header["backends"]["vlmeval"] = {"distribution": "ms-vlmeval", "version": "0.0.20"}
    # All of them in one small category.
    metric = Metric("count", "acc", 0.5, "fraction", True, tmp_path / "acc.csv", 4, n_failed)
    run.outcomes[CELL.id] = CellOutcome("scored", "", (metric,), (), n, n_failed, ungraded)
    run.header["status"] = "finished"

    result = run._finish()

    assert result.exit_code == code
    assert (result.path / "results.csv").exists()
    assert result.header["finished_at"] >= result.header["started_at"]
    assert [row.n_judge_failed for row in result.rows] == [ungraded]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        # As many may be ungraded as there are: a cell without a score is none that is allowed.
        (CellOutcome("failed", "the judge j does not answer", n=20, n_judge_failed=20), 1),
        (CellOutcome("scored", "", n=20, n_failed=0, n_judge_failed=6), 0),
        (CellOutcome("scored", "", n=20, n_failed=0, n_judge_failed=0, judge_fallback=True), 0),
        (CellOutcome("infer_only", n=20, n_failed=0), 0),
    ],
)
def test_a_cell_without_a_score_fails_a_run_whatever_is_allowed(
    tmp_path: Path, outcome: CellOutcome, code: int
) -> None:
    (tmp_path / "run").mkdir()
    spec = RunSpec((MODEL,), (DATASET,), fail_on=20)
    run = LiveRun(Plan(spec, (CELL,), {}, {CELL.id: ()}, {}), tmp_path / "run", [], time.time())
    run.header["backends"]["vlmeval"] = {"distribution": "ms-vlmeval", "version": "0.0.20"}
    run.outcomes[CELL.id] = outcome
    run.header["status"] = "finished"

    assert run._finish().exit_code == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_cell_whose_samples_cannot_be_kept_has_not_ended(tmp_path: Path) -> None:
    spec = RunSpec((MODEL,), (DATASET,))
    planned = Plan(spec, (CELL,), {}, {CELL.id: ()}, {})
    run = LiveRun(planned, tmp_path, [], time.time())
    (tmp_path / "samples.jsonl").symlink_to("/dev/full")
    sample = Sample("r", "vlmeval", "m", "d", "", "1")

    run._end(CELL, CellOutcome("scored", samples=(sample,), n=1), Lines([CELL], {}))

    entry = run.header["cells"][CELL.id]
    assert (entry["status"], entry["n"]) == ("failed", 1)
    assert "cannot keep its samples" in entry["error"] and "No space left" in entry["error"]
    assert resumption.ended(run.header, planned) == {}
