"""What a backend module provides: how to ask its upstream, and how to read its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evalshim.catalogue import Catalogue
from evalshim.spec import Cell, CellOutcome, DatasetSpec, Needed, RunSpec


class Backend(Protocol):
    # What people call the upstream.
    title: str

    # What its worker's environment has, beside the caller's.
    ENVIRONMENT: Mapping[str, str]

    # Check what can be checked of the cells before anything is started; ConfigError.
    # Names of the datasets whose samples show pictures.
    def check(self, cells: Sequence[Cell], spec: RunSpec) -> set[str]: ...

    # The data that a dataset needs, as far as upstream says where it looks.
    def needs(
        self, dataset: DatasetSpec, spec: RunSpec, names: Catalogue | None
    ) -> list[Needed]: ...

    # The folder in which an earlier run kept upstream's answers to a cell; None where it has none.
    def earlier(self, cell: Cell, spec: RunSpec, run_dir: Path) -> Path | None: ...

    # Write what upstream needs below `folder`; give the worker's job.
    # `earlier` has, by cell, the folder to go on from.
    def prepare(
        self, cells: Sequence[Cell], spec: RunSpec, folder: Path, earlier: Mapping[str, Path]
    ) -> dict[str, Any]: ...

    # Read back what upstream wrote for a cell, given the data of its `finished` event.
    # Paths in the outcome below `run_dir` are relative to it.
    def collect(
        self, cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec
    ) -> CellOutcome: ...
