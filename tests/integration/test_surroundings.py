"""What surrounds a run and is none of its business: limits, variables, long paths."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from bench.measure import Endpoint
from evalshim.demo.endpoint import Endpoint as Demo

from .conftest import SHIM, shim
from .test_speed import _config, _questions


def test_more_calls_than_a_process_may_begin_with_files(tmp_path: Path) -> None:
    """The 256 files of macOS, which a system lets a process raise, and 300 calls."""
    sets = [_questions(tmp_path / f"{name}.tsv", 150, name) for name in ("one", "two", "three")]
    with Endpoint(0.5) as served:
        path = _config(tmp_path, served.url, sets, concurrency=300)
        done = subprocess.run(
            ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "-", SHIM, "run", path, "--no-preflight"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "out of system resource" not in done.stderr
    assert served.figures["largest_parallel"] > 256 / 2


def test_the_ranks_of_a_scheduler_are_not_those_of_a_run(tmp_path: Path) -> None:
    with Demo(models=None) as served:  # which is asked first, while upstream is imported
        path = _config(tmp_path, served.url, [_questions(tmp_path / "one.tsv", 4)])
        done = shim("run", path, cwd=tmp_path, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")

    assert done.returncode == 0, done.stderr


def test_a_folder_for_temporary_files_may_be_deep(tmp_path: Path) -> None:
    """No socket has a path that long; and nothing of it is left elsewhere."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    before = {*Path("/tmp").glob("evalshim-*")}
    with Endpoint(0.0) as served:
        path = _config(tmp_path, served.url, [_questions(tmp_path / "one.tsv", 4)])
        done = shim("run", path, "--no-preflight", cwd=tmp_path, TMPDIR=str(deep))

    assert done.returncode == 0, done.stderr
    header = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())
    assert header["status"] == "finished"
    new = {*Path("/tmp").glob("evalshim-*")} - before
    assert not [path for path in new if path.stat().st_uid == os.getuid() and any(path.iterdir())]
