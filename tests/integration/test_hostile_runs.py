"""A run goes on from a directory that somebody else could write to."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import rows, shim
from .test_judges import write

pytestmark = pytest.mark.timeout(600)


class _Harm:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def earlier(tmp_path: Path, config: Callable[..., Path]) -> tuple[Path, Path]:
    """The folder of an earlier run's answers, without them; and the configuration."""
    data = {"name": "mine", "path": str(write(tmp_path, "mcq", "mine")), "format": "mcq"}
    path = config(data, limit=2)
    done = shim("run", path, "--mode", "infer", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "outputs" / "latest").resolve()
    [predictions] = (run / "upstream" / "vlmeval").rglob("m_mine.tsv")
    predictions.unlink()
    return predictions, path


@pytest.mark.parametrize("suffix", ["_PREV.pkl", "_checkpoint.pkl"])
def test_a_pickle_of_an_earlier_run_calls_nothing(
    suffix: str, earlier: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions, path = earlier
    mark = tmp_path / "harm"
    kept = predictions.with_name(f"m_mine{suffix}")
    kept.write_bytes(pickle.dumps({0: "A", 1: _Harm(mark)}))

    done = shim("run", path, "--reuse", "--json", cwd=tmp_path)

    assert not mark.exists()
    assert done.returncode == 1, done.stdout
    [row] = rows(done)
    assert f"m_mine{suffix} is not loaded" in row["error"]


def test_a_pickle_of_answers_is_gone_on_from(
    earlier: tuple[Path, Path], tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    predictions, path = earlier
    asked.clear()
    predictions.with_name("m_mine_checkpoint.pkl").write_bytes(pickle.dumps({"0": "A"}))

    done = shim("run", path, "--reuse", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(asked) == 1


def test_a_link_in_an_earlier_run_leads_nowhere(
    earlier: tuple[Path, Path], tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    predictions, path = earlier
    asked.clear()
    outside = tmp_path / "outside.tsv"
    outside.write_text("index\tquestion\tanswer\tprediction\n0\tq\tA\tstolen\n1\tq\tA\tstolen\n")
    predictions.symlink_to(outside)

    done = shim("run", path, "--reuse", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(asked) == 2
    newest = (tmp_path / "outputs" / "latest").resolve()
    texts = [p.read_text() for p in newest.rglob("*") if p.suffix in (".tsv", ".jsonl", ".json")]
    assert not [text for text in texts if "stolen" in text]
    assert "stolen" in outside.read_text()
    assert json.loads((newest / "run.json").read_text())["status"] == "finished"
