"""What earlier runs of the same work have left to go on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalshim import config, documents, results
from evalshim.backends import BACKENDS
from evalshim.errors import ConfigError
from evalshim.spec import AUTO, Cell, RunSpec

# Of a model, what changes no answer: an earlier run may have had it otherwise.
NO_IDENTITY = (
    "api_base", "ca_bundle", "concurrency", "key_env", "rate_limit", "retry", "timeout", "verify",
)  # fmt: skip


def find(spec: RunSpec, cells: Sequence[Cell]) -> dict[str, Path]:
    """For each cell, where the newest run of the same work kept upstream's files of it."""
    if isinstance(spec.reuse, str):
        runs = [spec.work_dir / spec.reuse]
        if not runs[0].is_dir():
            raise ConfigError(
                f"reuse: no run {spec.reuse} in {spec.work_dir}", "", "`true` takes the newest"
            )
    else:
        found = spec.work_dir.glob("*/run.json") if spec.work_dir.is_dir() else ()
        folders = [p.parent for p in found if not p.parent.is_symlink()]
        runs = results.newest_first(folders)
    earlier: dict[str, Path] = {}
    # `auto` is resolved where a model is asked; scores alone are of whatever was served.
    some = {cell.model.model == AUTO for cell in cells}
    asked = {any_id: [(run, _identities(run, any_id)) for run in runs] for any_id in some}
    for cell in cells:
        any_id = cell.model.model == AUTO
        wanted = _identity(_plain(cell, spec), config_sha256(spec), any_id)
        for run, identities in asked[any_id]:
            place = BACKENDS[cell.dataset.backend].earlier(cell, spec, run)
            # Not by a link out of the run, which is somebody else's perhaps.
            if place and wanted in identities and place.resolve().is_relative_to(run.resolve()):
                earlier[cell.id] = place
                break
    # An average over sets of a configuration of OpenCompass's has no predictions of its own.
    lacking = [c for c in cells if c.id not in earlier] if not spec.config or not earlier else []
    if spec.mode == "eval" and lacking:
        raise ConfigError(
            "no predictions to score",
            "no run of the same work (model, dataset, limit) in "
            f"{spec.work_dir} has any for "
            + ", ".join(f"{c.model.name} x {c.dataset.name}" for c in lacking[:10]),
            "run it with `--mode infer` or `all` first",
        )
    return earlier


def _plain(cell: Cell, spec: RunSpec) -> dict[str, Any]:
    """A cell as a run with nothing else would keep it in config.yaml."""
    if spec.config:
        return config.plain(spec)
    return config.plain(replace(spec, models=(cell.model,), datasets=(cell.dataset,)))


def _identity(
    raw: Mapping[str, Any], config_sha256: str | None = None, any_id: bool = False
) -> str:
    """What makes two cells the same work, as text."""
    if "config" in raw:
        return f"{raw['config']} {config_sha256}"
    left_out = (*NO_IDENTITY, "model") if any_id else NO_IDENTITY
    model = {k: v for k, v in raw["models"][0].items() if k not in left_out}
    dataset = raw["datasets"][0]
    if isinstance(dataset, dict) and "judge" in dataset:  # who grades changes no answer
        dataset = {k: v for k, v in dataset.items() if k != "judge"}
        dataset = dataset["dataset"] if dataset.keys() == {"name", "dataset"} else dataset
    # How many frames of a video are shown may stand among the arguments of the run.
    asked = [model, dataset, raw.get("limit"), raw.get("upstream")]
    return json.dumps(asked, sort_keys=True, default=str)


def config_sha256(spec: RunSpec) -> str | None:
    """The hash of a configuration of OpenCompass's own, by which a run says what it was."""
    return hashlib.sha256(spec.config.read_bytes()).hexdigest() if spec.config else None


def _identities(run: Path, any_id: bool = False) -> set[str]:
    try:
        raw = documents.parse((run / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
        if "config" in raw:
            header = json.loads((run / "run.json").read_text(encoding="utf-8"))
            return {_identity(raw, header["config_sha256"])}
        return {
            _identity({**raw, "models": [m], "datasets": [d]}, any_id=any_id)
            for m in raw["models"]
            for d in raw["datasets"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
        return set()
