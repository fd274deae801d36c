"""What an installed upstream knows by name: written by `shim setup`, read without importing it.

`worker/catalogue.py` collects it inside the upstream's environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalshim.spec import BackendName

SCHEMA = 4


@dataclass(frozen=True)
class Catalogue:
    """The names of one installed upstream.

    Attributes:
        datasets: VLMEvalKit: name -> class, type, modality, url, md5. OpenCompass: name of
            a configuration file -> module, variables, sets (how many), type, paths.
        models: Name -> class and arguments (VLMEvalKit), or module and type (OpenCompass).
        arguments: Argument of upstream's command -> flag, kind (`switch`, `value`, `optional`,
            `list`), type, default, choices; for VLMEvalKit also the fields of its argument class.
        settings: Video settings of VLMEvalKit -> class, dataset, arguments.
        classes: Classes of VLMEvalKit, and OpenCompass's for an endpoint -> parameters, whether
            it takes others (open), and whether it is one of datasets.
        data: OpenCompass: data path -> local path, id at ModelScope.
        urls: OpenCompass: part of a local path -> where it downloads that from by itself.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    arguments: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Mapping[str, Any]]
    urls: Mapping[str, str]


def write(path: Path, backend: BackendName, found: Mapping[str, Any]) -> None:
    """Keep what the worker reported."""
    beside = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**found, "schema": SCHEMA, "backend": backend}
    beside.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Catalogue | None:
    """The catalogue at `path`; None where there is none that this version can read."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, KeyError):
        return None


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> Catalogue:
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw["schema"] != SCHEMA:
        raise ValueError(f"schema {raw['schema']}")
    return Catalogue(
        datasets=raw["datasets"],
        models=raw["models"],
        arguments=raw["arguments"],
        settings=raw.get("settings", {}),
        classes=raw.get("classes", {}),
        data=raw.get("data", {}),
        urls=raw.get("urls", {}),
    )
