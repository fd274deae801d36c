"""What VLMEvalKit wrote for a cell, as metrics and samples.

Reads `status.json` (every metric that `evaluate` returned, flattened by upstream),
the predictions, and the graded predictions where upstream writes them. Written
for 0.0.20.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalshim.adapters.custom_data import as_list
from evalshim.errors import ResultsError
from evalshim.spec import Cell, CellOutcome, Metric, RunSpec, Sample, Unit

if TYPE_CHECKING:
    import pandas as pd

# BaseAPI's prediction for an answer that never came.
FAIL_MSG = "Failed to obtain answer via API."

# What report_acc writes is a mean of hits; the other types' evaluate methods report percent.
_FRACTION_TYPES = ("MCQ",)


def read(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    """The outcome of a cell whose worker said `finished`.

    Raises:
        ResultsError: A file that upstream reports to have written is missing or unreadable.
    """
    files = {name: Path(path) for name, path in finished["files"].items()}
    if finished["status"] == "skipped":
        return CellOutcome("skipped", finished["error"])
    if "prediction" not in files:
        raise ResultsError("upstream named no file of predictions")
    predictions = _table(files["prediction"])
    failed = int(predictions["prediction"].str.contains(FAIL_MSG, regex=False).sum())
    n = len(predictions)
    graded = _graded(files["prediction"], spec.judge)
    samples = _samples(cell, graded if graded is not None else predictions, run_dir)
    if n and failed == n:
        reason = f"no answer from {cell.model.api_base} to any of {n} samples"
        last = finished.get("last_error")
        return CellOutcome(
            "failed", f"{reason} ({last})" if last else reason, (), samples, n, failed
        )
    if spec.mode == "infer":
        return CellOutcome("infer_only", "", (), samples, n, failed)
    unit: Unit = "fraction" if finished["dataset_type"] in _FRACTION_TYPES else "percent"
    metrics = _metrics(files["status"], files["prediction"], cell.dataset.target, unit, samples)
    if not metrics:
        return CellOutcome("failed", "upstream reported no metric", (), samples, n, failed)
    return CellOutcome("scored", "", metrics, samples, n, failed, spec.judge)


def _metrics(
    status: Path, prediction: Path, dataset: str, unit: Unit, samples: Sequence[Sample]
) -> tuple[Metric, ...]:
    try:
        entry = json.loads(status.read_text(encoding="utf-8"))["datasets"][dataset]
        values: dict[str, Any] = dict(entry.get("metrics") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"cannot read {status}", repr(error)) from error
    table = next(iter(sorted(prediction.parent.glob(f"{prediction.stem}_acc.*"))), None)
    name = "acc" if table else "score"
    primary = _primary(values, entry.get("primary_metric"))
    return tuple(
        Metric(
            _subset(key),
            name,
            value,
            unit,
            key == primary,
            table or status,
            *_counts(_subset(key), samples),
        )
        for key, value in values.items()
    )


def _primary(values: Mapping[str, Any], named: Any) -> str | None:
    """The key of the metric that upstream reports first.

    `primary_metric` may be a label of its own ("Overall Acc"); then it is the overall
    value that upstream shows under it (ImageBaseDataset.report_primary_metric).
    """
    if named in values:
        return str(named)
    overall = [key for key in values if key.rsplit("|", 1)[-1].lower() == "overall"]
    return next(iter(overall), None) or next(iter(values), None)


def _subset(key: str) -> str:
    """`split=none|Overall` -> overall, `split=dev|ocr` -> dev/ocr."""
    *dimensions, last = key.split("|")
    parts = [d.partition("=")[2] or d for d in dimensions]
    parts = [p for p in parts if p != "none"]
    if last.lower() != "overall":
        parts.append(last)
    return "/".join(parts) or "overall"


def _counts(subset: str, samples: Sequence[Sample]) -> tuple[int | None, int | None]:
    """Samples asked and unanswered of a split, a category, or a category of a split."""
    own = [
        sample
        for sample in samples
        if subset
        in ("overall", sample.subset, sample.category, f"{sample.subset}/{sample.category}")
    ]
    # Upstream abbreviates some categories (MMB_abbrs): no sample bears such a name.
    return (len(own), sum(s.prediction is None for s in own)) if own else (None, None)


def _graded(prediction: Path, judge: str) -> pd.DataFrame | None:
    path = prediction.with_name(f"{prediction.stem}_{judge}_result{prediction.suffix}")
    return _table(path) if path.exists() else None


def _samples(cell: Cell, table: pd.DataFrame, run_dir: Path) -> tuple[Sample, ...]:
    letters = [c for c in string.ascii_uppercase if c in table]
    pictures = run_dir / "upstream" / "vlmeval" / "LMUData" / "images" / cell.dataset.target
    return tuple(
        Sample(
            run_id=run_dir.name,
            backend=cell.dataset.backend,
            model=cell.model.name,
            dataset=cell.dataset.name,
            subset=str(row.get("split", "")),
            index=str(row["index"]),
            question=str(row.get("question", "")),
            options={c: str(row[c]) for c in letters if row[c] != ""},
            answer=str(row.get("answer", "")),
            prediction=None if FAIL_MSG in row["prediction"] else str(row["prediction"]),
            correct=_verdict(row.get("hit")),
            category=str(row.get("category", "")),
            images=_images(row, pictures, run_dir),
        )
        for row in table.to_dict("records")
    )


def _verdict(hit: Any) -> bool | None:
    try:
        return None if hit in (None, "") else float(hit) > 0
    except ValueError:
        return None


def _images(row: Mapping[Any, Any], pictures: Path, run_dir: Path) -> tuple[str, ...]:
    if row.get("image_path"):
        return tuple(as_list(str(row["image_path"])))
    # ImageBaseDataset.dump_image: <index>.png, or <index>_<k>.png where there are several.
    one = pictures / f"{row['index']}.png"
    several = (pictures / f"{row['index']}_{k}.png" for k in itertools.count())
    found = [one] if one.exists() else itertools.takewhile(Path.exists, several)
    return tuple(str(p.relative_to(run_dir)) for p in found)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}", str(error)) from error
    for column in ("index", "prediction"):
        if column not in table:
            raise ResultsError(f"cannot read {path}", f"no column `{column}`")
    return table
