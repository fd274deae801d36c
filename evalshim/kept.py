"""What a run directory keeps of each cell that ended: its outcome, and its samples one a line.

<run>/cells/<cell>.json     the outcome, without samples
<run>/cells/<cell>.jsonl    the samples, as in samples.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from evalshim import results
from evalshim.spec import CellOutcome, Metric


def keep(run_dir: Path, cell: str, outcome: CellOutcome) -> CellOutcome:
    """Write an outcome down; what is left of it weighs nothing.

    Raises:
        OSError: The disk is full, say.
    """
    place = _place(run_dir, cell)
    place.parent.mkdir(exist_ok=True)
    lines = map(results.sample_line, outcome.samples)
    results.write_lines(place.with_suffix(".jsonl"), lines)
    left = replace(outcome, samples=())
    metrics = [{**asdict(m), "source_file": str(m.source_file)} for m in left.metrics]
    results.write_json(place, {**_plain(left), "metrics": metrics})
    return left


def outcome(run_dir: Path, cell: str) -> CellOutcome | None:
    """The outcome of a cell, without its samples; None where none was written down whole."""
    place = _place(run_dir, cell)
    try:
        raw: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        metrics = [Metric(**{**m, "source_file": Path(m["source_file"])}) for m in raw["metrics"]]
        raw.update(metrics=tuple(metrics), notes=tuple(raw["notes"]))
        return CellOutcome(**raw) if place.with_suffix(".jsonl").exists() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def samples(run_dir: Path, cell: str) -> Iterator[str]:
    """The lines that `keep` wrote."""
    place = _place(run_dir, cell).with_suffix(".jsonl")
    if place.exists():
        with place.open(encoding="utf-8", newline="\n") as file:
            yield from file


def _place(run_dir: Path, cell: str) -> Path:
    # Not with_suffix: a cell's name may hold dots.
    return run_dir / "cells" / f"{cell}.json"


def _plain(left: CellOutcome) -> dict[str, Any]:
    names = [f.name for f in fields(left) if f.name not in ("samples", "metrics")]
    return {name: getattr(left, name) for name in names}
