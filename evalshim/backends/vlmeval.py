"""VLMEvalKit: one call of upstream's `run.py` a cell, in a folder of its own, all in one worker."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim import digests, plugin_files, registry
from evalshim.adapters import (
    custom_data,
    custom_rows,
    judge_env,
    placing,
    predictions,
    tables,
    vlmeval_args,
    vlmeval_outputs,
)
from evalshim.catalogue import Catalogue
from evalshim.errors import ConfigError
from evalshim.spec import Cell, CellOutcome, DatasetSpec, Needed, RunSpec, own, slug

title = "VLMEvalKit"

# Upstream's default, xlsx, loses a prediction that begins with a URL (VLMEvalKit#1689).
ENVIRONMENT: Mapping[str, str] = {"PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv"}

# Classes that send messages as OpenAI has them.
_OPENAI = (None, "CustomAPIModel", "GPT4V", "OpenAIWrapper", "LMDeployAPI")


def check(cells: Sequence[Cell], spec: RunSpec) -> set[str]:
    predictions.check(cells, spec)
    pictures = set()
    for dataset in dict.fromkeys(c.dataset for c in cells):
        if dataset.modality in ("image", "video"):
            pictures.add(dataset.name)
        if dataset.path and not dataset.format:
            tables.check_form(dataset.path)
        if dataset.path and dataset.format:
            answers = spec.mode != "infer"
            report = custom_data.check(dataset.path, dataset.format, spec.limit, answers=answers)
            pictures |= {dataset.name} if report.pictures else set()
            if answers and dataset.scorer not in ("", "bleu_rouge"):
                _check_answered(dataset, report)
            asked = [c.model for c in cells if c.dataset == dataset]
            mine = [m for m in asked if not m.api_base or m.cls not in _OPENAI]
            if mine and (beyond := report.takes - {"video"}):
                raise ConfigError(
                    f"{mine[0].name} cannot be asked {dataset.name}",
                    f"the file has {' and '.join(sorted(beyond))}; a model that is not behind an "
                    "OpenAI API takes one turn of text and pictures in files",
                    "give the model an `api_base`, and no `class`",
                )
    return pictures


def _check_answered(dataset: DatasetSpec, report: custom_rows.Report) -> None:
    if 0 < report.answered < report.rows:
        raise ConfigError(
            f"{dataset.name}: {report.rows - report.answered} of {report.rows} rows have no answer",
            f"{dataset.scorer} would count them as wrong",
            "answer them, take them out, or run with `mode: infer`",
        )


def needs(dataset: DatasetSpec, spec: RunSpec, names: Catalogue | None) -> list[Needed]:
    if dataset.path:
        return [Needed(str(dataset.path), True)]
    if dataset.modality == "video":
        return []  # each class of upstream's keeps its videos elsewhere, and fetches them
    # ImageBaseDataset.load_data (0.0.20): $LMUData/<dataset>.tsv, or what lies at its URL.
    name = str(dataset.upstream.get("dataset", dataset.target))
    path = registry.lmudata() / f"{name}.tsv"
    known = names.datasets.get(name, {}) if names else {}
    # The name that it had once, which upstream renames (prepare_tsv).
    legacy = path.with_name(str(known.get("url")).rpartition("/")[2])
    if not path.exists() and legacy.is_file():
        path = legacy
    if not path.exists():
        # Without one its class knows another way, which upstream alone can say.
        cure = f"put it there, or set LMUData to the folder that has {path.name}"
        return (
            [Needed(str(path), False, source=known["url"], cure=cure)] if known.get("url") else []
        )
    published = known.get("md5")
    found = digests.of(path) if spec.verify_data == "strict" and published else None
    if found and found.md5 != published:
        return [
            Needed(
                str(path),
                False,
                problem="it is not the published file (another MD5), and VLMEvalKit would "
                "download that one over it",
                cure="`verify_data: off` takes it as it is",
            )
        ]
    return [Needed(str(path), True, md5=published or "")]


def earlier(cell: Cell, spec: RunSpec, run_dir: Path) -> Path | None:
    label = slug(cell.model.name)
    folders = (run_dir / "upstream" / "vlmeval").glob(f"*/{glob.escape(label)}")
    # Predictions, or those of a run that was cut short (infer_data_job, infer_data_job_video).
    cut_short = r"(_[\d.]+(frame|fps)_(no)?pack)?_(checkpoint|PREV)\.pkl(\.journal)?"
    own = re.compile(re.escape(f"{label}_{cell.dataset.target}") + rf"(\.\w+|{cut_short})")
    for folder in sorted(folders):
        if any(own.fullmatch(path.name) for path in folder.rglob("*")):
            return folder
    return None


def prepare(
    cells: Sequence[Cell], spec: RunSpec, folder: Path, earlier: Mapping[str, Path]
) -> dict[str, Any]:
    # Upstream finds a custom set by name below $LMUData and unpacks its pictures there;
    # a folder of the run's own keeps two files of one name, and their pictures, apart.
    lmudata = folder / "LMUData"
    answered = {}
    for dataset in dict.fromkeys(c.dataset for c in cells):
        if dataset.path:
            place = lmudata / f"{dataset.target}.tsv"
            answered[dataset.name] = placing.place(dataset.path, dataset.format, place)
    foreign = predictions.place(cells, spec, folder / "predictions")
    return {
        "plugins": plugin_files.loaded_by(spec.plugins, "vlmeval"),
        "gpus": spec.gpus,
        "verify_data": spec.verify_data,
        "cells": [
            {
                "id": cell.id,
                "dataset": cell.dataset.target,
                "dataset_config": dict(cell.dataset.upstream) or None,
                "label": slug(cell.model.name),
                "class": cell.model.cls,
                "model": vlmeval_args.model_arguments(cell.model),
                "key_env": cell.model.key_variable,
                "transport": judge_env.transport(cell.model),
                "namespace": {
                    **vlmeval_args.namespace(cell, spec, folder / cell.id),
                    **({} if answered.get(cell.dataset.name, True) else {"mode": "infer"}),
                },
                "limit": spec.limit,
                "lmudata": str(lmudata) if cell.dataset.path else None,
                "format": cell.dataset.format,
                "scorer": cell.dataset.scorer,
                "answered": answered.get(cell.dataset.name, True),
                "judge": judge_env.worker_judge(
                    spec.judge_of(cell.dataset), "vlmeval", spec.concurrency
                ),
                "retries": 0 if own(spec.upstream, "vlmeval").get("keep_failed") else spec.retries,
                "strip": cell.model.think == "strip",
                "predictions": next(iter(foreign.get(cell.id, {}).values()), None),
                "reuse": str(earlier[cell.id]) if cell.id in earlier else None,
            }
            for cell in cells
        ],
    }


def collect(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    return vlmeval_outputs.read(cell, finished, run_dir, spec)
