"""OpenCompass: one configuration for all cells, generated or the user's own, one call of `main`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim import plugin_files
from evalshim.adapters import (
    custom_data,
    judge_env,
    opencompass_config,
    opencompass_outputs,
    predictions,
)
from evalshim.catalogue import Catalogue
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import Cell, CellOutcome, DatasetSpec, ModelSpec, Needed, RunSpec, own, slug

title = "OpenCompass"

ENVIRONMENT: Mapping[str, str] = {}

# What make_custom_dataset_config (0.5.4) reads of a set in a file, but `evaluator`: a class, which
# no configuration of ours can hold, and upstream fails on a name.
_OF_FILES = (
    "bot_prompt", "data_type", "evaluator_kwargs", "human_prompt", "infer_method",
    "input_columns", "meta_path", "options", "output_column", "template",
)  # fmt: skip
_DATA_TYPES = ("mcq", "qa", "circular-mcq")
# Beside the folders of upstream's runs.
_OWNERS = "owners.json"
_OF_ENDPOINTS = ("temperature", "top_p", "seed", "system_prompt", "timeout", "extra_body", "retry")


def check(cells: Sequence[Cell], spec: RunSpec) -> set[str]:
    predictions.check(cells, spec)
    asked = own(spec.upstream, "opencompass")
    if scheduler := next((k for k in ("slurm", "dlc") if asked.get(k) and not spec.config), None):
        raise ConfigError(
            f"{scheduler} is for configurations of OpenCompass's own",
            "what is generated here runs in one process, beside its endpoint",
            "write a .py configuration, and give that to `shim run`",
        )
    for dataset in dict.fromkeys(c.dataset for c in cells):
        if dataset.path and dataset.format:
            _check_file(dataset, spec)
    for cell in cells:
        method = own(cell.dataset.upstream, "opencompass").get("infer_method")
        if cell.dataset.format and method == "ppl" and cell.model.api_base:
            raise ConfigError(
                f"{cell.dataset.name}: infer_method: ppl",
                f"it needs the likelihood of each option, and {cell.model.name} is behind an "
                "endpoint, which does not tell",
                "infer_method: gen, or a local model",
            )
        if not spec.config and not cell.model.api_base and cell.model.secrets:
            # The configuration that upstream reads, and keeps, has no way to take it from us.
            raise ConfigError(
                f"{cell.model.name}: a secret in its `upstream`",
                "OpenCompass would write it into its files",
                "set the variable that the model's library reads it from (HF_TOKEN)",
            )
        if lost := [k for k in _OF_ENDPOINTS if cell.model.module and getattr(cell.model, k)]:
            raise ConfigError(
                f"{cell.model.name}: {', '.join(lost)}",
                "OpenCompass's local models have no such argument",
                "say it in the model's own words, under its `upstream`",
            )
        if not spec.config and not cell.model.api_base and not cell.model.module:
            raise ConfigError(
                f"{cell.model.name} cannot answer {cell.dataset.name}",
                f"{cell.model.cls} is a model of VLMEvalKit's, {cell.dataset.name} a dataset of "
                "OpenCompass",
                "give the model an `api_base`, or one of `shim list models --backend opencompass`",
            )
    return set()


def _check_file(dataset: DatasetSpec, spec: RunSpec) -> None:
    given = own(dataset.upstream, "opencompass")
    for key in given:
        if key not in _OF_FILES:
            raise ConfigError(
                f"{dataset.name}: OpenCompass's custom sets take no `{key}`", "",
                did_you_mean(key, _OF_FILES) + f"known: {', '.join(_OF_FILES)}",
            )  # fmt: skip
    for key, known in (("infer_method", ("gen", "ppl")), ("data_type", _DATA_TYPES)):
        if given.get(key, known[0]) not in known:
            raise ConfigError(f"{dataset.name}: {key}: {given[key]}", f"one of {', '.join(known)}")
    custom_data.check(
        dataset.path or Path(), str(dataset.format), spec.limit, answers=spec.mode != "infer"
    )


def needs(dataset: DatasetSpec, spec: RunSpec, names: Catalogue | None) -> list[Needed]:
    if dataset.path or names is None:
        return [Needed(str(dataset.path), True)] if dataset.path else []
    paths: list[str] = []
    for target in dataset.target.split():
        stem = target.partition(":")[0].rpartition(".")[2]
        paths += names.datasets.get(stem, {}).get("paths", ())
    return [found for path in dict.fromkeys(paths) if (found := _needed(path, names))]


def _needed(path: str, names: Catalogue) -> Needed | None:
    """One data path, as get_data_path (opencompass/utils/datasets.py, 0.5.4) looks for it."""
    known = names.data.get(path)
    if known is None and not path.startswith(("./data/", "data/")):
        return None  # a hub's name, or a word of its loader's own
    local = str(known["local"] if known else path)
    first = os.path.join(os.environ.get("COMPASS_DATA_CACHE", ""), local)  # noqa: PTH118 - as upstream
    # download_dataset: the last name of DATASETS_URL that the path holds.
    urls = [url for part, url in names.urls.items() if part in first]
    if os.environ.get("DATASET_SOURCE") == "ModelScope" and (known or urls):
        if known and known["modelscope"]:
            if (_modelscope() / known["modelscope"]).exists():
                return Needed(path, True)
            source = f"https://www.modelscope.cn/datasets/{known['modelscope']}"
            return Needed(path, False, source=source, cure="unset DATASET_SOURCE for local data")
        return Needed(
            path,
            False,
            problem="DATASET_SOURCE=ModelScope, and ModelScope does not have it",
            cure="unset DATASET_SOURCE",
        )
    places = [Path(first), Path.home() / ".cache" / "opencompass" / local]
    looked_for = tuple(str(place.absolute()) for place in places)
    if any(place.exists() for place in places):
        return Needed(looked_for[0], True)
    ways = [
        "put the data there, or set COMPASS_DATA_CACHE to the folder that has `data/`",
        *(["or DATASET_SOURCE=ModelScope"] if known and known["modelscope"] else []),
    ]
    return Needed(
        looked_for[0], False, source=urls[-1] if urls else "", looked_for=looked_for,
        cure=", ".join(ways),
    )  # fmt: skip


def _modelscope() -> Path:
    """Where modelscope (1.40) keeps the datasets that it fetched."""
    home = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope" / "hub"
    return Path(home) / "datasets"


def abbr(model: ModelSpec, spec: RunSpec) -> str:
    """What upstream calls a model; a configuration of the user's says it itself."""
    return model.name if spec.config else slug(model.name)


def earlier(cell: Cell, spec: RunSpec, run_dir: Path) -> Path | None:
    work_dir = run_dir / "upstream" / "opencompass"
    model = abbr(cell.model, spec)  # of a user's own configuration it may hold slashes
    names = "|".join(map(re.escape, _sets(cell, spec, work_dir)))
    # Whole, begun (tmp_), or divided (_0); of a run that was cut short, the worker's journal, or
    # what it put aside (opencompass_earlier).
    own = re.compile(rf"({names})(_\d+)?\.json(l|\.journal|\.lacking)?")
    for folder in sorted(work_dir.glob("*/predictions"), reverse=True):
        place = folder / model
        found = (path.relative_to(place).as_posix() for path in place.rglob("*"))
        if names and any(own.fullmatch(re.sub("(^|/)tmp_", r"\1", name)) for name in found):
            return folder.parent
    return None


def _sets(cell: Cell, spec: RunSpec, work_dir: Path) -> list[str]:
    """The abbrs of a cell's sets in a run of upstream's there."""
    if spec.config:
        return [cell.dataset.name]
    return [abbr for abbr, name in _owners(work_dir).items() if name == cell.dataset.name]


def prepare(
    cells: Sequence[Cell], spec: RunSpec, folder: Path, earlier: Mapping[str, Path]
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    config = spec.config
    if config is None:
        config = folder / "config.py"
        text = opencompass_config.render(cells, spec, _owners(folder))
        config.write_text(text, encoding="utf-8")
    foreign = predictions.place(cells, spec, folder / "given_predictions")
    return {
        "plugins": plugin_files.loaded_by(spec.plugins, "opencompass"),
        "config": str(config),
        "native": spec.config is not None,
        "served": spec.config is None and all(c.model.api_base for c in cells),
        "limited": spec.limit is not None,
        "arguments": {
            **own(spec.upstream, "opencompass"),
            "work_dir": str(folder),
            "mode": spec.mode,
        },
        "stamp": _stamp(folder),
        "owners": str(folder / _OWNERS),
        "cells": [
            {
                "id": c.id,
                "model": abbr(c.model, spec),
                "dataset": c.dataset.name,
                "judge": judge_env.worker_judge(
                    spec.judge_of(c.dataset), "opencompass", spec.concurrency
                ),
                "predictions": foreign.get(c.id),
                "suffix": opencompass_config.suffix(c.dataset),
                "reuse": {
                    "folder": str(earlier[c.id]),
                    "sets": _sets(c, spec, earlier[c.id].parent),
                }
                if c.id in earlier
                else None,
            }
            for c in cells
        ],
    }


def _owners(work_dir: Path) -> dict[str, str]:
    """By abbr, the dataset of ours whose results bear it in runs of upstream's there so far."""
    try:
        found = json.loads((work_dir / _OWNERS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _stamp(folder: Path) -> str | None:
    """The folder that upstream made for this run before it was cut short."""
    found = sorted(path.parent.name for path in folder.glob("*/configs"))
    return found[0] if found else None


def collect(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    return opencompass_outputs.read(cell, finished, run_dir, spec)
