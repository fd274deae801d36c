"""OpenCompass: one generated configuration for all cells, one call of upstream's `main`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim.adapters import opencompass_config, opencompass_outputs
from evalshim.spec import Cell, CellOutcome, RunSpec, slug

title = "OpenCompass"


def check(cells: Sequence[Cell], spec: RunSpec) -> None:
    """Nothing yet: OpenCompass's own data files are looked for by OpenCompass."""


def prepare(
    cells: Sequence[Cell], spec: RunSpec, folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    config = folder / "config.py"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(opencompass_config.render(cells, spec), encoding="utf-8")
    job = {
        "config": str(config),
        "argv": ["--work-dir", str(folder), "--mode", spec.mode],
        "cells": [
            {"id": c.id, "model": slug(c.model.name), "dataset": c.dataset.name} for c in cells
        ],
    }
    return job, {}


def collect(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    return opencompass_outputs.read(cell, finished, run_dir, spec)
