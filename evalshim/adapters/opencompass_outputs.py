"""What OpenCompass wrote for a cell, as metrics and samples.

Metrics come from `results/<model>/<set>.json`, which has all of them, and the
averages over subsets from the summary, the only place where upstream writes
them. Written for 0.5.4.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalshim.adapters import answer_notes
from evalshim.errors import ResultsError
from evalshim.spec import Cell, CellOutcome, CellStatus, Metric, RunSpec, Sample, Unit

# DefaultSummarizer's order of importance, and what it leaves out.
_FIRST = (
    "score", "auc_score", "accuracy", "humaneval_pass@1", "rouge1", "avg_toxicity_score",
    "bleurt_diff", "matthews_correlation", "truth", "f1", "exact_match", "extract_rate",
)  # fmt: skip
_NO_METRIC = ("bp", "sys_len", "ref_len", "type")

_BLIND = "what the judge says and upstream cannot read counts as wrong, unseen"

# An option of a multiple-choice prompt: "A. text" or "A) text", one a line.
_OPTION = re.compile(r"^\(?([A-Z])[.):] *(.+)$", re.MULTILINE)


def read(cell: Cell, finished: Mapping[str, Any], run_dir: Path, spec: RunSpec) -> CellOutcome:
    """The outcome of a cell whose worker said `finished`.

    Raises:
        ResultsError: A file that upstream wrote is unreadable.
    """
    results = {abbr: _json(path) for abbr, path in finished["results"].items()}
    predictions = {abbr: _json(path) for abbr, path in finished["predictions"].items()}
    samples = tuple(
        sample
        for abbr, answers in predictions.items()
        for sample in _samples(cell, abbr, answers, results.get(abbr, {}), finished, run_dir)
    )
    n, n_failed = _counts("overall", samples)
    error = finished["error"]
    known = CellOutcome(
        "failed",
        samples=samples,
        n=n,
        n_failed=n_failed,
        notes=answer_notes.notes(samples),
        sent=finished.get("sent", {}),
        reported=finished.get("reported", {}),
    )
    if n and n_failed == n:
        reason = f"no answer from {cell.model.api_base or cell.model.name} to any of {n} samples"
        last = finished.get("last_error")
        return replace(known, error=f"{reason} ({last})" if last else reason)
    if spec.mode == "infer":
        return replace(known, status="failed" if error else "infer_only", error=error)
    # Where a set of several has only one prediction left, the error names the others.
    single = len(predictions) == 1 and not error
    metrics = [
        metric
        for abbr, values in results.items()
        for metric in _metrics("overall" if single else abbr, values, finished["results"][abbr])
    ]
    metrics = _with_one_primary([*_groups(cell, finished), *metrics], samples)
    error = error or _missing(predictions, results) or _log_tail(finished, results)
    # Of a judge that died no grade is left, not even those that it gave.
    unjudged = {*finished.get("unjudged", ())}
    lost = sum(s.subset in unjudged and s.prediction is not None for s in samples)
    if not metrics:
        error = error or "upstream wrote no result"
        return replace(known, error=error, n_judge_failed=lost if unjudged else None)
    judge = spec.judge_of(cell.dataset)
    fallback = bool(finished.get("judge_fallback"))
    scorer = "rule:" + next(m.name for m in metrics if m.is_primary)
    answered = (n or 0) - (n_failed or 0)
    ungraded = 0
    if finished.get("judge_named"):  # by the configuration of the set: nobody watched it
        scorer = finished["judge_named"]
        ungraded = min(answered, sum(map(_not_attempted, results.values())))
    elif judge.is_model and finished.get("judge_built") and not fallback:
        scorer = judge.model
        ungraded = finished["judge_failed"] + lost
    if ungraded >= answered > 0:
        reason = f"the judge {scorer} graded none of {answered} answers"
        return replace(known, error=reason, n_judge_failed=ungraded)
    if finished.get("judged_blindly") or (finished.get("judge_named") and not ungraded):
        known = replace(known, notes=(*known.notes, _BLIND))
    status: CellStatus = "failed" if error else "scored"
    if fallback and not error:
        error = f"the judge {judge.model} did not answer: scored without it, by {scorer}"
    return replace(
        known, status=status, error=error, metrics=tuple(metrics), scorer=scorer,
        judge_fallback=fallback, n_judge_failed=ungraded,
    )  # fmt: skip


def _not_attempted(result: Mapping[str, Any]) -> int:
    """Samples of which the judge said neither A nor B (get_final_results, 0.5.4)."""
    found = 0.0
    for name, count in result.items():
        # Of several runs the average.
        match = re.fullmatch(r"not_attempted_count(?: \((\d+) runs average\))?", name)
        if match and isinstance(count, (int, float)):
            found += count * int(match[1] or 1)
    return round(found)


def _missing(predictions: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What upstream did not score although it was answered, with upstream's first reason."""
    missing = [abbr for abbr in predictions if not _numbers(results.get(abbr, {}))]
    if not missing:
        return ""
    reasons = [str(results[abbr]["error"]) for abbr in missing if "error" in results.get(abbr, {})]
    return ": ".join([f"upstream reported no metric for {', '.join(missing)}", *reasons[:1]])


def _log_tail(finished: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Why a task of upstream's own runner left no result: the end of the log it kept."""
    for abbr, path in finished["logs"].items():
        if abbr not in results:
            text = Path(path).read_text(encoding="utf-8", errors="replace").strip()
            last = text.splitlines()[-1:]
            return ": ".join([f"upstream left no result for {abbr}", *last]) + f" ({path})"
    return ""


def _metrics(subset: str, values: Mapping[str, Any], path: str) -> Iterable[Metric]:
    ordered = sorted(
        _numbers(values),
        key=lambda m: _FIRST.index(_bare(m)) if _bare(m) in _FIRST else len(_FIRST),
    )
    for position, name in enumerate(ordered):
        unit = _unit(name, values)
        yield Metric(subset, name, values[name], unit, position == 0, Path(path))


def _bare(name: str) -> str:
    """A metric's name without what says that it is an average: `accuracy (4 runs average)`."""
    return name.partition(" (")[0]


def _unit(name: str, values: Mapping[str, Any]) -> Unit:
    """Evaluators report shares in percent, and beside them counts, as whole numbers or, where
    BaseEvaluator (0.5.4) took their mean, by their name."""
    bare = _bare(name)
    if bare.endswith("_count") or (isinstance(values[name], int) and bare not in _FIRST):
        return "raw"
    # get_final_results: its f1 alone is no percentage.
    judged = any(_bare(other) == "attempted_ratio" for other in values)
    return "fraction" if bare == "f1" and judged else "percent"


def _numbers(values: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, value in values.items()
        if name not in _NO_METRIC
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ]


def _groups(cell: Cell, finished: Mapping[str, Any]) -> Iterable[Metric]:
    summary = finished["files"].get("summary")
    if not finished["groups"] or not summary:
        return
    # Else the group that bears the name of its module, though it leaves out what has no score.
    named = [target.rpartition(":")[0].rpartition(".")[2] for target in cell.dataset.summary_groups]
    whole = finished["whole"] or named
    with Path(summary).open(encoding="utf-8", newline="") as file:
        # dataset, version, metric, mode, then a column a model, headed by its abbr.
        header, *lines = csv.reader(file)
    column = dict(zip(header[4:], range(4, len(header)), strict=True)).get(finished["model"])
    for line in lines:
        if column and line[0] in finished["groups"] and line[column] != "-":
            overall = line[0] in whole
            subset = "overall" if overall else line[0]
            yield Metric(subset, line[2], float(line[column]), "percent", overall, Path(summary))


def _with_one_primary(metrics: Sequence[Metric], samples: Sequence[Sample]) -> list[Metric]:
    """The metrics with the first of the primary ones alone as such, and what each counts."""
    first = next((m for m in metrics if m.is_primary), None)
    counts = {m.subset: _counts(m.subset, samples) for m in metrics}
    return [
        replace(m, is_primary=m is first, n=counts[m.subset][0], n_failed=counts[m.subset][1])
        for m in metrics
    ]


def _counts(subset: str, samples: Sequence[Sample]) -> tuple[int | None, int | None]:
    own = [s for s in samples if subset in ("overall", s.subset)]
    if not own:
        return None, None  # a group of subsets: the summary does not say which
    return len(own), sum(s.prediction is None for s in own)


def _samples(
    cell: Cell,
    abbr: str,
    answers: Mapping[str, Any],
    result: Mapping[str, Any],
    finished: Mapping[str, Any],
    run_dir: Path,
) -> Iterable[Sample]:
    errors, finish = (
        {i: text for text, indices in finished.get(kind, {}).get(abbr, ()) for i in indices}
        for kind in ("errors", "finish")
    )
    details = _details(result)
    equal = _counts_equality(result)
    for index, answer in answers.items():
        prompt = _last_prompt(answer.get("origin_prompt"))
        found = details.get(index, {})
        yield Sample(
            run_id=run_dir.name,
            backend=cell.dataset.backend,
            model=cell.model.name,
            dataset=cell.dataset.name,
            subset=abbr,
            index=index,
            question=prompt,
            options=dict(_OPTION.findall(prompt)),
            answer=_text(answer.get("gold", found.get("answer", ""))),
            # OpenAISDK (0.5.4) makes "" of an answer without content.
            prediction=(said := _said(answer.get("prediction"))),
            error="" if said else errors.get(index, ""),
            finish=finish.get(index, ""),
            correct=(verdict := _verdict(found, equal)),
            score=None if verdict is None else float(verdict),
        )


def _last_prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and prompt:
        last = prompt[-1]
        return (
            str(last.get("prompt", last.get("content", "")))
            if isinstance(last, dict)
            else str(last)
        )
    return str(prompt or "")


def _details(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Upstream's details by index; evaluators write a list of them, tasks a mapping (0.5.4)."""
    details = result.get("details")
    if isinstance(details, list):
        details = dict(enumerate(details))
    if not isinstance(details, dict):
        return {}
    return {str(index): found for index, found in details.items() if isinstance(found, dict)}


def _verdict(found: Mapping[str, Any], equal: bool) -> bool | None:
    # Code is `is_correct`; of several tries the first.
    verdict = found.get("correct", found.get("is_correct"))
    if verdict is not None:
        return bool(verdict[0] if isinstance(verdict, list) and verdict else verdict)
    return _is_equal(found) if equal else None


def _counts_equality(result: Mapping[str, Any]) -> bool:
    """Whether upstream's accuracy is the share of predictions that equal their reference.

    AccEvaluator and its like give no verdict on a single sample (0.5.4); where that
    share is the number they report, equality is what they counted.
    """
    found = list(_details(result).values())
    if not found or not isinstance(result.get("accuracy"), (int, float)):
        return False
    if not all({"predictions", "references"} <= d.keys() for d in found):
        return False
    share = 100 * sum(map(_is_equal, found)) / len(found)
    return abs(share - float(result["accuracy"])) < 1e-6


def _is_equal(found: Mapping[str, Any]) -> bool:
    return str(found["predictions"]) == str(found["references"])


def _said(prediction: Any) -> str | None:
    """A prediction; None where the model did not answer, in one of several turns at least."""
    if isinstance(prediction, list):
        # ChatInferencer's dialogues are of both sides.
        said = [p.get("assistant") if isinstance(p, dict) else p for p in prediction]
        if "" in said:
            return None
    return _text(prediction) or None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}, not an object")
        return value
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}", str(error)) from error
