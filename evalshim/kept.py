"""What a run directory keeps of each cell that ended: its outcome in run.json, its samples in
samples.jsonl, each whole as soon as the cell has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from evalshim import results
from evalshim.spec import Cell, CellOutcome, Metric, Sample


def plain(outcome: CellOutcome) -> dict[str, Any]:
    """An outcome without its samples, for run.json."""
    names = [f.name for f in fields(outcome) if f.name not in ("samples", "metrics")]
    metrics = [{**asdict(m), "source_file": str(m.source_file)} for m in outcome.metrics]
    return {**{name: getattr(outcome, name) for name in names}, "metrics": metrics}


def outcome(entry: Mapping[str, Any]) -> CellOutcome | None:
    """The outcome that a cell's entry in run.json has; None where it has none."""
    try:
        raw: dict[str, Any] = dict(entry["outcome"])
        metrics = [Metric(**{**m, "source_file": Path(m["source_file"])}) for m in raw["metrics"]]
        return CellOutcome(**{**raw, "metrics": tuple(metrics), "notes": tuple(raw["notes"])})
    except (ValueError, KeyError, TypeError):
        return None


class Samples:
    """samples.jsonl while a run is under way: a block a cell, in the order in which they end.

    Args:
        path: The file.
        cells: Those of the run.
    """

    def __init__(self, path: Path, cells: Iterable[Cell]) -> None:
        self._path = path
        self._cells = {(c.model.name, c.dataset.name): c.id for c in cells}
        self._blocks: dict[str, list[tuple[int, int]]] = {}

    def begin(self, ended: Iterable[str]) -> None:
        """Keep what the file has of cells that ended, and no more."""
        wanted = set(ended)
        lines = [line for line in self._lines() if self._cell_of(line) in wanted]
        results.write_lines(self._path, lines)
        offset = 0
        for line in lines:
            size = len(line.encode())
            self._blocks.setdefault(self._cell_of(line), []).append((offset, size))
            offset += size

    def add(self, cell: str, samples: Iterable[Sample]) -> None:
        """Write the samples of a cell.

        Raises:
            OSError: The disk is full, say.
        """
        with self._path.open("ab") as file:
            begun = file.tell()
            for sample in samples:
                file.write(results.sample_line(sample).encode(errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
            self._blocks[cell] = [(begun, file.tell() - begun)]

    def of(self, cells: Iterable[str]) -> Iterator[str]:
        """The lines of these cells, in their order."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for cell in cells:
                for begun, size in self._blocks.get(cell, ()):
                    file.seek(begun)
                    end = begun + size
                    while file.tell() < end:
                        yield file.readline().decode()

    def _lines(self) -> Iterator[str]:
        if self._path.exists():
            with self._path.open(encoding="utf-8", newline="\n") as file:
                # The last one may be half of one.
                yield from (line for line in file if line.endswith("\n"))

    def _cell_of(self, line: str) -> str:
        try:
            sample = json.loads(line)
            return self._cells.get((sample["model"], sample["dataset"]), "")
        except (ValueError, KeyError, TypeError):
            return ""
