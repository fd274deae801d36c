"""Predictions made elsewhere: files in upstream's formats, or tables with `index` and `prediction`.

Reads them here, where a mistake is found before anything starts; the worker holds the indices
against those of the dataset (worker/predictions.py).
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim.errors import ConfigError
from evalshim.spec import Cell, RunSpec, slug

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".xlsx")


def find(cell: Cell, spec: RunSpec) -> list[Path]:
    """The files with the predictions of a cell; several are those of a set's subsets.

    A folder is looked through for the names that upstreams give: `<model>_<dataset>.tsv`
    (VLMEvalKit), `<model>/<set>.json` (OpenCompass), or simply `<dataset>.jsonl`.

    Raises:
        ConfigError: There are none.
    """
    place = spec.predictions
    assert place
    if place.is_file():
        return [place]
    models = dict.fromkeys((cell.model.name, slug(cell.model.name), cell.model.model))
    sets = dict.fromkeys((cell.dataset.name, cell.dataset.target, slug(cell.dataset.name)))
    stems = [f"{m}_{d}" for m in models for d in sets if d]
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix in SUFFIXES)
    own = [p for p in files if p.parent.name in models]
    # A run of OpenCompass's has its results under the names of its predictions.
    own = [p for p in own if p.parent.parent.name == "predictions"] or own
    # A file that names no model is that of the only one.
    mine = own or (files if len(spec.models) == 1 else [])
    if found := next(filter(None, ([p for p in files if p.stem == stem] for stem in stems)), None):
        return [_only(found, cell)]
    if cell.dataset.backend == "opencompass" and mine:
        subsets = dict.fromkeys(p.stem for p in mine)
        return [_only([p for p in mine if p.stem == subset], cell) for subset in subsets]
    if found := [p for p in mine if p.stem in sets]:
        return [_only(found, cell)]
    raise ConfigError(
        f"no predictions of {cell.model.name} for {cell.dataset.name} in {place}",
        f"looked for {', '.join(stems[:4])} and {cell.dataset.name}, as {', '.join(SUFFIXES)}",
        "name the file: --predictions FILE",
    )


def read(path: Path) -> dict[str, Any]:
    """`{index: prediction}` of a file.

    Raises:
        ConfigError: It is unreadable, has no such columns, or an index twice.
    """
    found: dict[str, Any] = {}
    try:
        for position, record in enumerate(_records(path), start=1):
            if not isinstance(record, Mapping) or "prediction" not in record:
                raise _no_predictions(path, f"record {position} has no `prediction`")
            if "index" not in record:
                raise _no_predictions(path, f"record {position} has no `index`")
            index = _index(record["index"])
            if index in found:
                raise _no_predictions(path, f"index {index} comes twice")
            if record["prediction"] is None:
                raise _no_predictions(path, f"record {position} has none: null")
            found[index] = record["prediction"]
    except (OSError, ValueError, csv.Error, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read {path}", str(error)) from error
    if not found:
        raise _no_predictions(path, "it is empty")
    return found


def place(cells: Sequence[Cell], spec: RunSpec, folder: Path) -> dict[str, dict[str, str]]:
    """Write the predictions of each cell as the worker reads them: `[index, prediction]` a line.

    Returns:
        By cell, the paths by the name of the file they come from; without one, that of a file
        that is surely the cell's. Nothing where no predictions were given.
    """
    placed: dict[str, dict[str, str]] = {}
    for cell in cells if spec.predictions else ():
        (folder / cell.id).mkdir(parents=True, exist_ok=True)
        for source in find(cell, spec):
            path = folder / cell.id / f"{source.stem}.jsonl"
            with path.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(item) + "\n" for item in read(source).items())
            placed.setdefault(cell.id, {})[source.stem] = str(path)
            if spec.predictions == source or _names(cell, source.stem):
                placed[cell.id][""] = str(path)
    return placed


def _only(files: Sequence[Path], cell: Cell) -> Path:
    if len({path.resolve() for path in files}) > 1:
        raise ConfigError(
            f"several files have predictions of {cell.model.name} for {cell.dataset.name}",
            "\n".join(map(str, files[:10])),
            "name the file: --predictions FILE",
        )
    return files[0]


def _names(cell: Cell, stem: str) -> bool:
    """Whether a file of this name can be for no other dataset."""
    sets = (cell.dataset.name, cell.dataset.target, slug(cell.dataset.name))
    models = (cell.model.name, slug(cell.model.name), cell.model.model)
    return stem in (*sets, *(f"{m}_{d}" for m in models for d in sets))


def check(cells: Sequence[Cell], spec: RunSpec) -> None:
    """Read the predictions of each cell before anything starts; ConfigError."""
    if not spec.predictions:
        return
    if spec.predictions.is_file() and len(spec.models) * len(spec.datasets) > 1:
        named = [f"{m.name} x {d.name}" for m in spec.models for d in spec.datasets]
        raise ConfigError(
            f"one file of predictions, and {len(named)} cells",
            ", ".join(named[:5]),
            "name one model and one dataset, or give a folder with a file for each",
        )
    for cell in cells:
        for path in find(cell, spec):
            read(path)


def _records(path: Path) -> Iterator[Any]:
    if path.suffix in (".tsv", ".csv"):
        csv.field_size_limit(2**31 - 1)  # a row may carry its picture
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(f"line {rows.line_num}: not as many fields as columns")
                yield row
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8-sig") as file:
            yield from (json.loads(line) for line in file if line.strip())
    elif path.suffix == ".json":
        yield from _of_json(json.loads(path.read_text(encoding="utf-8-sig")))
    elif path.suffix == ".xlsx":
        import pandas as pd

        yield from pd.read_excel(path, dtype=str, keep_default_na=False).to_dict("records")
    else:
        raise ConfigError(f"{path}: no file of predictions", "", f"one of {', '.join(SUFFIXES)}")


def _of_json(raw: Any) -> Iterator[Any]:
    """A list of records (VLMEvalKit), or records by index (OpenCompass)."""
    if isinstance(raw, Mapping):
        for index, record in raw.items():
            yield {"index": index, **record} if isinstance(record, Mapping) else record
    elif isinstance(raw, list):
        yield from raw
    else:
        raise ValueError(f"a {type(raw).__name__}, not records")


def _index(value: Any) -> str:
    """An index as text: `7` of a table that pandas wrote as `7.0`."""
    text = str(value)
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _no_predictions(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} has no predictions", why, "each record needs an `index` and a `prediction`"
    )
