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

from evalshim.adapters.tables import as_list
from evalshim.errors import ResultsError
from evalshim.spec import (
    EXACT_MATCHING,
    Cell,
    CellOutcome,
    JudgeSpec,
    Metric,
    RunSpec,
    Sample,
    Unit,
)

if TYPE_CHECKING:
    import pandas as pd

# BaseAPI's prediction for an answer that never came.
FAIL_MSG = "Failed to obtain answer via API."

# What report_acc writes is a mean of hits; the other types' evaluate methods report percent,
# and these classes count, or grade on a scale of their own.
_FRACTION_TYPES = ("MCQ", "MCQ_MMMU_Pro", "MMERealWorld", "Short")
_FRACTION_CLASSES = ("VideoMME", "WorldSense")
_COUNTING = ("OCRBench", "MVBench", "MVBench_MP4", "MMDUDataset", "MMBenchVideo")
# Where no judge answers, upstream matches options and yes or no exactly.
_MATCHED_TYPES = ("MCQ", "MCQ_MMMU_Pro", "MMERealWorld", "Y/N", "Video-MCQ")
# Metrics that upstream names behind the split they belong to (YORN_auxeval, Hallusion_rating).
_NAMED_LAST = ("aAcc", "fAcc", "qAcc", "acc", "precision", "recall")
# Those of the scorer bleu_rouge.
_OF_TEXT = ("bleu-", "Rouge-")


def read(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    """The outcome of a cell whose worker said `finished`.

    Raises:
        ResultsError: A file that upstream reports to have written is missing or unreadable.
    """
    files = {name: Path(path) for name, path in finished["files"].items()}
    skipped = finished["error"] if finished["status"] == "skipped" else ""
    if "prediction" not in files or (skipped and not files["prediction"].exists()):
        if skipped:
            return CellOutcome("skipped", f"upstream skipped it: {skipped}")
        raise ResultsError("upstream named no file of predictions")
    predictions = _table(files["prediction"])
    failed = int(predictions["prediction"].str.contains(FAIL_MSG, regex=False).sum())
    n = len(predictions)
    pictures = Path(finished["img_root"]) if finished.get("img_root") else None
    samples = _samples(cell, predictions, _hits(files["prediction"]), pictures, run_dir)
    if n and failed == n:
        reason = f"no answer from {cell.model.api_base or cell.model.name} to any of {n} samples"
        last = finished.get("last_error")
        return CellOutcome(
            "failed", f"{reason} ({last})" if last else reason, (), samples, n, failed
        )
    if spec.mode == "infer":
        return CellOutcome("infer_only", "", (), samples, n, failed)
    if not finished.get("answered", True):
        return CellOutcome("skipped", "the file has no answers", (), samples, n, failed)
    if skipped:
        reason = f"upstream does not score it: {skipped}"
        return CellOutcome("skipped", reason, (), samples, n, failed)
    metrics = _metrics(files["status"], files["prediction"], cell, finished, samples)
    if not metrics:
        return CellOutcome("failed", "upstream reported no metric", (), samples, n, failed)
    scorer, fallback = _scorer(finished, spec.judge, metrics)
    error = f"the judge {spec.judge.model} did not work: matched exactly instead"
    return CellOutcome(
        "scored", error if fallback else "", metrics, samples, n, failed, scorer, fallback
    )


def _scorer(
    finished: Mapping[str, Any], judge: JudgeSpec, metrics: Sequence[Metric]
) -> tuple[str, bool]:
    """What really graded, and whether that is not what was asked for."""
    if finished["judge_built"] and not finished["judge_failed"]:
        return (judge.model if judge.is_model else finished["judge_model"]), False
    matched = finished["dataset_type"] in _MATCHED_TYPES
    rule = "rule:" + next((m.name for m in metrics if m.is_primary), metrics[0].name)
    fallback = bool(finished["judge_failed"] and judge.is_model)
    return (EXACT_MATCHING if matched else rule), fallback


def _metrics(
    status: Path,
    prediction: Path,
    cell: Cell,
    finished: Mapping[str, Any],
    samples: Sequence[Sample],
) -> tuple[Metric, ...]:
    try:
        entry = json.loads(status.read_text(encoding="utf-8"))["datasets"][cell.dataset.target]
        values: dict[str, Any] = dict(entry.get("metrics") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"cannot read {status}", repr(error)) from error
    table = next(iter(sorted(prediction.parent.glob(f"{prediction.stem}_acc.*"))), None)
    primary = _primary(values, entry.get("primary_metric"))
    found = []
    for key, value in values.items():
        subset, name = _place(key, finished["dataset_type"])
        counts = _counts(subset, samples)
        if key == primary and counts == (None, None):
            counts = _counts("overall", samples)  # a total by a name of its own: `Final Score`
        found.append(
            Metric(
                subset,
                name or ("acc" if table else "score"),
                value,
                _unit(key, value, cell, finished),
                key == primary,
                table or status,
                *counts,
            )
        )
    return tuple(found)


def _unit(key: str, value: Any, cell: Cell, finished: Mapping[str, Any]) -> Unit:
    # MME sums two scores of up to 100 for each category; a plug-in's scale is its own.
    counts = finished["dataset_class"] in _COUNTING or cell.dataset.target == "MME"
    if counts or finished.get("own_scale"):
        return "raw"
    kinds = {finished["dataset_type"], finished["dataset_class"]}
    if kinds & {*_FRACTION_TYPES, *_FRACTION_CLASSES} or key.rpartition("|")[2].startswith(
        _OF_TEXT
    ):
        return "fraction"
    percent = isinstance(value, (int, float)) and 0 <= value <= 100 and key != "CIDEr"
    return "percent" if percent else "raw"


def _primary(values: Mapping[str, Any], named: Any) -> str | None:
    """The key of the metric that upstream reports first.

    `primary_metric` may be a label of its own ("Overall Acc"); then it is the overall
    value that upstream shows under it (ImageBaseDataset.report_primary_metric).
    """
    if named in values:
        return str(named)
    overall = [key for key in values if key.rsplit("|", 1)[-1].lower() == "overall"]
    # Of `short|overall` and `overall|overall` the one that is so throughout.
    overall.sort(key=lambda key: _place(key, "")[0] != "overall")
    return next(iter(overall), None) or next(iter(values), None)


def _place(key: str, kind: str) -> tuple[str, str]:
    """The subset of a metric, and its name where the key has one.

    `split=none|Overall` -> overall, `split=dev|ocr` -> dev/ocr, `Bleu|0` of a caption -> Bleu|0.
    """
    if kind == "Caption":
        return "overall", key
    *dimensions, last = key.split("|")
    parts = [d.partition("=")[2] or d for d in dimensions]
    parts = [p for p in parts if p != "none"]
    if last in _NAMED_LAST or last.startswith(_OF_TEXT):
        return "overall" if parts == ["Overall"] else "/".join(parts) or "overall", last
    if last.lower() != "overall":
        parts.append(last)
    return "overall" if parts == ["Overall"] else "/".join(parts) or "overall", ""


def _counts(subset: str, samples: Sequence[Sample]) -> tuple[int | None, int | None]:
    """Samples asked and unanswered of a split, a category, or a category of a split."""
    own = [
        sample
        for sample in samples
        # POPE's samples are of several categories: `adversarial,popular,random`.
        if subset in ("overall", sample.subset, *sample.category.split(","), sample.category)
        or subset == f"{sample.subset}/{sample.category}"
    ]
    # Upstream abbreviates some categories (MMB_abbrs): no sample bears such a name.
    return (len(own), sum(s.prediction is None for s in own)) if own else (None, None)


def _hits(prediction: Path) -> Mapping[str, Any]:
    """The verdict on each sample by its index, where upstream writes them: in a file named
    after the judge. Of questions asked with their options rotated only the first has one."""
    paths = sorted(prediction.parent.glob(f"{prediction.stem}_*_result{prediction.suffix}"))
    table = _table(paths[-1]) if paths else None
    if table is None or "hit" not in table:
        return {}
    return dict(zip(table["index"], table["hit"], strict=True))


def _samples(
    cell: Cell,
    table: pd.DataFrame,
    hits: Mapping[str, Any],
    pictures: Path | None,
    run_dir: Path,
) -> tuple[Sample, ...]:
    letters = [c for c in string.ascii_uppercase if c in table]
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
            correct=_verdict(hits.get(row["index"], row.get("hit"))),
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


def _images(row: Mapping[Any, Any], pictures: Path | None, run_dir: Path) -> tuple[str, ...]:
    """The pictures of a sample that are files, as upstream unpacks them into `pictures`."""
    found = [Path(name) for name in as_list(str(row.get("image_path") or "")) if name]
    if pictures:
        found = [path if path.is_absolute() else pictures / path for path in found]
        # ImageBaseDataset.dump_image: <index>.png, or <index>_<k>.png where there are several.
        one = [pictures / f"{row['index']}.png"]
        several = (pictures / f"{row['index']}_{k}.png" for k in itertools.count())
        found = found or one
        if not any(path.is_file() for path in found):
            found = list(itertools.takewhile(Path.is_file, several))
    inside = [path.relative_to(run_dir) if path.is_relative_to(run_dir) else path
              for path in found if path.is_file()]  # fmt: skip
    return tuple(map(str, inside))


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
