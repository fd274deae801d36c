"""VLMEvalKit: one call of upstream's `run.py` a cell, all in one worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim.adapters import custom_data, vlmeval_args, vlmeval_outputs
from evalshim.spec import Cell, CellOutcome, RunSpec, slug

title = "VLMEvalKit"


def check(cells: Sequence[Cell], spec: RunSpec) -> None:
    for path in dict.fromkeys(c.dataset.path for c in cells):
        if path:
            custom_data.check_mcq(path, spec.limit, answers=spec.mode == "all")


def prepare(
    cells: Sequence[Cell], spec: RunSpec, folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    # Upstream finds a custom set by name below $LMUData and unpacks its pictures there;
    # a folder of the run's own keeps two files of one name, and their pictures, apart.
    lmudata = folder / "LMUData"
    for dataset in dict.fromkeys(c.dataset for c in cells):
        if dataset.path:
            custom_data.place(dataset.path, lmudata / f"{dataset.target}.tsv")
    job = {
        "cells": [
            {
                "id": cell.id,
                "dataset": cell.dataset.target,
                "label": slug(cell.model.name),
                "model": vlmeval_args.model_arguments(cell.model),
                "key_env": cell.model.key_variable,
                "argv": vlmeval_args.run_arguments(cell, slug(cell.model.name), spec, folder),
                "limit": spec.limit,
                "lmudata": str(lmudata) if cell.dataset.path else None,
            }
            for cell in cells
        ]
    }
    # Upstream's default, xlsx, loses a prediction that begins with a URL (VLMEvalKit#1689).
    return job, {"PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv"}


def collect(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    return vlmeval_outputs.read(cell, finished, run_dir, spec)
