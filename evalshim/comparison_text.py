"""Two runs side by side, for a person to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from evalshim.compare import CellPair, Comparison, Fact, MetricPair, Paired
from evalshim.errors import harmless


def text(comparison: Comparison) -> str:
    """The comparison for a person: for each pair of cells whether, then what, then how sure."""
    lines = [f"first:  {comparison.first}", f"second: {comparison.second}"]
    for pair in comparison.pairs:
        lines += ["", *_pair_lines(pair)]
    if not comparison.pairs:
        lines += ["", "NOT comparable: the runs share no model and dataset"]
    for which, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        lines += ["", f"only in the {which} run:"] if names else []
        lines += [_inline(f"  {name.model} x {name.dataset}") for name in names]
    return harmless("\n".join(lines))


def _pair_lines(pair: CellPair) -> Iterator[str]:
    reasons = [_differs(fact) for fact in pair.differs if fact.is_reason]
    models = list(dict.fromkeys((pair.first_model, pair.second_model)))
    verdict = f"NOT comparable: {', '.join(reasons)}" if reasons else "comparable"
    yield _inline(f"{' / '.join(models)} x {pair.dataset}: {verdict}")
    others = [_differs(fact) for fact in pair.differs if not fact.is_reason]
    if others:
        yield _inline(f"not a reason: {', '.join(others)}")
    if pair.unknown:
        yield f"not recorded: {', '.join(map(_lacking, pair.unknown))}"
    if pair.metrics:
        yield _table(pair.metrics)
    yield from _sample_lines(pair.paired)


def _differs(fact: Fact) -> str:
    if fact.first == fact.second:
        return f"{fact.what} is {_short(fact.first)} in both"
    return f"{fact.what} differs ({_short(fact.first)} / {_short(fact.second)})"


def _lacking(fact: Fact) -> str:
    where = "both" if fact.first == fact.second else "first" if fact.first is None else "second"
    return f"{fact.what} ({where})"


def _table(metrics: Sequence[MetricPair]) -> str:
    from tabulate import tabulate

    counts = {"n": "n", "failed": "n_failed", "judge failed": "n_judge_failed"}
    shown = {
        title: count
        for title, count in counts.items()
        if count == "n" or any(getattr(s, count) for m in metrics for s in (m.first, m.second))
    }
    headers = ["subset", "metric", "first", "second", "difference", *shown]
    lines = [
        [
            _inline(metric.subset),
            _inline(f"{metric.metric} *" if metric.is_primary else metric.metric),
            _value(metric.first.value, metric.unit),
            _value(metric.second.value, metric.unit),
            _signed(metric.difference, metric.unit),
            *(_both(getattr(metric.first, c), getattr(metric.second, c)) for c in shown.values()),
        ]
        for metric in metrics
    ]
    alignment = ["left", "left", *["right"] * (len(headers) - 2)]
    return tabulate(lines, headers, "simple", disable_numparse=True, colalign=alignment)


def _sample_lines(paired: Paired) -> Iterator[str]:
    found = paired.interval
    scored = paired.n - paired.unscored
    if found:
        zero = "excludes" if found.low > 0 or found.high < 0 else "includes"
        yield (
            f"second - first: {_four(found.difference)} on {found.n} paired samples, 95% interval "
            f"[{_four(found.low)}, {_four(found.high)}]: it {zero} 0 "
            f"(means {_four(found.first)} and {_four(found.second)})"
        )
    elif scored:
        yield "no interval: it takes two pairs of scored samples, and here is one"
    else:
        yield "no interval: upstream gave no scores of single samples that both runs have"
    if paired.unanswered_first or paired.unanswered_second:
        yield (
            f"unanswered: {paired.unanswered_first} in the first, {paired.unanswered_second} in "
            "the second; 0 where upstream gave no score"
        )
    if scored and paired.unscored:
        yield f"left out: {paired.unscored} of {paired.n} pairs, not scored in both"
    if paired.other_answer:
        yield f"another reference answer: {paired.other_answer} of {paired.n} pairs"
    if paired.only_first or paired.only_second:
        yield (
            f"samples of one run: {paired.only_first} only in the first, "
            f"{paired.only_second} only in the second"
        )


def _value(value: Any, unit: str | None) -> str:
    """As the table of results has it."""
    if isinstance(value, float):
        return f"{value:.4f}" if unit == "fraction" else f"{value:.2f}"
    return "" if value is None else _inline(str(value))


def _signed(difference: float | int | None, unit: str | None) -> str:
    return ("+" if (difference or 0) > 0 else "") + _value(difference, unit)


def _both(first: int | None, second: int | None) -> str:
    one, other = ("?" if count is None else str(count) for count in (first, second))
    return one if one == other else f"{one} / {other}"


def _four(number: float) -> str:
    return f"{round(number, 4) + 0.0:.4f}"  # no -0.0000


def _short(value: str | None) -> str:
    """A value on part of a line; of a hash as much as tells two apart."""
    cut = re.sub("[0-9a-f]{16,}", lambda found: found[0][:8] + "..", value or "")
    return cut if len(cut) <= 120 else cut[:117] + "..."


def _inline(line: str) -> str:
    return line.replace("\n", "\\n").replace("\t", "\\t")
