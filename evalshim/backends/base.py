"""What a backend module provides: how to ask its upstream, and how to read its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evalshim.spec import Cell, CellOutcome, RunSpec


class Backend(Protocol):
    # What people call the upstream.
    title: str

    # Check what can be checked of the cells' data before anything is started; ConfigError.
    def check(self, cells: Sequence[Cell], spec: RunSpec) -> None: ...

    # Write what upstream needs below `folder`; give the worker's job and its extra environment.
    def prepare(
        self, cells: Sequence[Cell], spec: RunSpec, folder: Path
    ) -> tuple[dict[str, Any], dict[str, str]]: ...

    # Read back what upstream wrote for a cell, given the data of its `finished` event.
    # Paths in the outcome below `run_dir` are relative to it.
    def collect(
        self, cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec
    ) -> CellOutcome: ...
