"""What VLMEvalKit wrote for a cell, as metrics and samples.

Reads `status.json` (every metric that `evaluate` returned, flattened by upstream),
the predictions, and the graded predictions where upstream writes them. Written
for 0.0.20.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalshim.adapters import answer_notes
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
    n = len(predictions)
    failed = int(predictions["prediction"].str.contains(FAIL_MSG, regex=False).sum())
    graded = _graded(finished, predictions)
    samples = _samples(cell, predictions, graded, finished, run_dir)
    known = CellOutcome(
        "scored",
        samples=samples,
        n=n,
        n_failed=failed,
        notes=answer_notes.notes(samples),
        sent=finished.get("sent", {}),
        reported=finished.get("reported", {}),
    )
    if n and failed == n:
        reason = f"no answer from {cell.model.api_base or cell.model.name} to any of {n} samples"
        last = finished.get("last_error")
        return replace(known, status="failed", error=f"{reason} ({last})" if last else reason)
    if finished["status"] == "failed":
        # Of a judge that died no grade is left, not even those that it gave.
        ungraded = n - failed if finished.get("unjudged") else None
        return replace(known, status="failed", error=finished["error"], n_judge_failed=ungraded)
    if spec.mode == "infer":
        return replace(known, status="infer_only")
    if not finished.get("answered", True):
        return replace(known, status="skipped", error="the file has no answers")
    if skipped:
        reason = f"upstream does not score it: {skipped}"
        return replace(known, status="skipped", error=reason)
    metrics = _metrics(files["status"], files["prediction"], cell, finished, samples)
    if not metrics:
        return replace(known, status="failed", error="upstream reported no metric")
    judge = spec.judge_of(cell.dataset)
    scorer = _scorer(finished, judge, metrics)
    fallback = bool(finished["judge_fallback"])
    ungraded = 0
    if finished["judge_built"] and not fallback:
        ungraded = max(finished["judge_failed"], _unread(finished, predictions))
    if ungraded >= n - failed > 0:
        reason = f"the judge {scorer} graded none of {n - failed} answers"
        return replace(known, status="failed", error=reason, n_judge_failed=ungraded)
    error = f"the judge {judge.model} did not answer: scored without it, by {scorer}"
    return replace(
        known, error=error if fallback else "", metrics=metrics, scorer=scorer,
        judge_fallback=fallback, n_judge_failed=ungraded,
    )  # fmt: skip


def _scorer(finished: Mapping[str, Any], judge: JudgeSpec, metrics: Sequence[Metric]) -> str:
    """What really graded."""
    if finished["judge_built"] and not finished["judge_fallback"]:
        return judge.model if judge.is_model else str(finished["judge_model"])
    matched = finished["dataset_type"] in _MATCHED_TYPES
    rule = "rule:" + next((m.name for m in metrics if m.is_primary), metrics[0].name)
    return EXACT_MATCHING if matched else rule


def _unread(finished: Mapping[str, Any], predictions: pd.DataFrame) -> int:
    """Answers of which upstream could not read what the judge said."""
    names = predictions["index"]
    if _is_of_parts(predictions):
        names = predictions["SUB_DATASET"] + "/" + predictions["original_index"]
    failed = predictions["prediction"].str.contains(FAIL_MSG, regex=False)
    return len({*finished["unread"]}.difference(names[failed]))


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


def _graded(finished: Mapping[str, Any], predictions: pd.DataFrame) -> pd.DataFrame | None:
    """The predictions as upstream graded them, where it keeps them: in a file named after the
    judge, `_auxmatch` (Y/N), `_judge` (short answers). Of questions asked with their options
    rotated only the first is graded; a set of sets (ConcatDataset) has a file for each."""
    made = [Path(path) for path in finished.get("made", ())]
    paths = [path for path in made if re.search(r"_(result|auxmatch|judge)\.tsv$", path.name)]
    if not _is_of_parts(predictions):
        return _read(paths[-1], "index") if paths else None
    found = []
    for name, own in predictions.groupby("SUB_DATASET"):
        for path in [path for path in paths if f"_{name}_" in path.name][-1:]:
            indices = dict(zip(own["original_index"], own["index"], strict=True))
            table = _read(path, "index")
            found.append(table.assign(index=table["index"].map(indices)))
    import pandas as pd

    return pd.concat(found) if found else None


def _is_of_parts(predictions: pd.DataFrame) -> bool:
    """Whether they are of a set of sets, which is graded part by part."""
    return {"SUB_DATASET", "original_index"}.issubset(predictions)


def _grades(graded: pd.DataFrame | None) -> tuple[str, dict[str, Any]]:
    """The column with grades of single samples, and they by index."""
    for kind in ("hit", "score"):
        if graded is not None and kind in graded:
            return kind, dict(zip(graded["index"], graded[kind], strict=True))
    return "hit", {}


def _samples(
    cell: Cell,
    table: pd.DataFrame,
    graded: pd.DataFrame | None,
    finished: Mapping[str, Any],
    run_dir: Path,
) -> tuple[Sample, ...]:
    letters = [c for c in string.ascii_uppercase if c in table]
    pictures = Path(finished["img_root"]) if finished.get("img_root") else None
    errors, finish = (_of_samples(finished.get(kind, ())) for kind in ("errors", "finish"))
    kind, grades = _grades(graded)
    return tuple(
        Sample(
            run_id=run_dir.name,
            backend=cell.dataset.backend,
            model=cell.model.name,
            dataset=cell.dataset.name,
            subset=str(row.get("SUB_DATASET", row.get("split", ""))),
            index=str(row["index"]),
            question=str(row.get("question", "")),
            options={c: str(row[c]) for c in letters if row[c] != ""},
            answer=str(row.get("answer", "")),
            prediction=None if FAIL_MSG in row["prediction"] else str(row["prediction"]),
            error=errors.get(str(row["index"]), "") if FAIL_MSG in row["prediction"] else "",
            finish=finish.get(str(row["index"]), ""),
            correct=_verdict(grade := grades.get(row["index"], row.get("hit")), kind),
            score=_score(grade),
            category=str(row.get("category", "")),
            images=_images(row, pictures, run_dir),
        )
        for row in table.to_dict("records")
    )


def _of_samples(by_text: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    return {index: text for text, indices in by_text for index in indices}


def _score(grade: Any) -> float | None:
    try:
        return float({"True": "1", "False": "0"}.get(str(grade), grade))
    except (TypeError, ValueError):
        return None


def _verdict(grade: Any, kind: str) -> bool | None:
    """Whether a sample was right; a `score` that is no truth value says how good it was."""
    score = _score(grade)
    if score is None or (kind == "score" and str(grade) not in ("True", "False")):
        return None
    return score > 0


def _images(row: Mapping[Any, Any], pictures: Path | None, run_dir: Path) -> tuple[str, ...]:
    """The pictures of a sample that are files, as upstream unpacks them into `pictures`."""
    found = [str(Path(name)) for name in as_list(str(row.get("image_path") or "")) if name]
    several: Iterator[str] = iter(())
    if pictures:
        beside = f"{pictures}{os.sep}"
        # ImageBaseDataset.dump_image: <index>.png, or <index>_<k>.png where there are several.
        found = [str(pictures / name) for name in found] or [f"{beside}{row['index']}.png"]
        several = (f"{beside}{row['index']}_{k}.png" for k in itertools.count())
    found = [*filter(os.path.isfile, found)] or [*itertools.takewhile(os.path.isfile, several)]
    return tuple(name.removeprefix(f"{run_dir}{os.sep}") for name in found)


def _table(path: Path) -> pd.DataFrame:
    return _read(path, "index", "prediction")


def _read(path: Path, *columns: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}", str(error)) from error
    for column in columns:
        if column not in table:
            raise ResultsError(f"cannot read {path}", f"no column `{column}`")
    return table
