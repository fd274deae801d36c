"""Two finished runs side by side: whether they may be compared, and by how much they differ.

Reads run directories and computes; scores nothing again, and prints nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from evalshim import results
from evalshim.errors import ResultsError
from evalshim.intervals import Interval, interval
from evalshim.spec import EXACT_MATCHING, Row

T = TypeVar("T")

# What may score a single sample, the finest first.
_MEASURES = ("score", "correct")
# Of a dataset in config.yaml, what decides which questions are asked and how they are scored.
_SETTINGS = ("dataset", "class", "format", "scorer", "upstream")


@dataclass(frozen=True)
class Fact:
    """Something in which two cells differ, or that not both runs recorded.

    Attributes:
        first: As the first run has it; None where it did not record it.
        second: As the second run has it.
        is_reason: It forbids a comparison. Parameters of the model do not: they may be what
            is compared.
    """

    what: str
    first: str | None
    second: str | None
    is_reason: bool = True


@dataclass(frozen=True)
class Side:
    """A metric of one run: `value` as upstream wrote it, None where it has none."""

    value: float | int | str | None = None
    n: int | None = None
    n_failed: int | None = None
    n_judge_failed: int | None = None


@dataclass(frozen=True)
class MetricPair:
    """One metric of both runs. `difference` is second - first, in `unit`."""

    subset: str
    metric: str
    unit: str | None
    is_primary: bool
    difference: float | int | None
    first: Side
    second: Side


@dataclass(frozen=True)
class Paired:
    """The samples of two cells, paired.

    Attributes:
        n: Pairs, scored or not.
        only_first: Samples that only the first run has.
        other_answer: Pairs whose reference answers are not the same.
        unscored: Pairs that upstream did not score in both runs.
        unanswered_first: Scored pairs without an answer in the first run.
        interval: None where fewer than two pairs are scored.
    """

    n: int
    only_first: int
    only_second: int
    other_answer: int
    unscored: int
    unanswered_first: int
    unanswered_second: int
    interval: Interval | None


@dataclass(frozen=True)
class CellName:
    model: str
    dataset: str


@dataclass(frozen=True)
class CellPair:
    """A cell of each run. `unknown` holds the facts that not both runs recorded."""

    dataset: str
    first_model: str
    second_model: str
    differs: tuple[Fact, ...]
    unknown: tuple[Fact, ...]
    metrics: tuple[MetricPair, ...]
    paired: Paired

    @property
    def comparable(self) -> bool:
        """No recorded fact forbids it."""
        return not any(fact.is_reason for fact in self.differs)


@dataclass(frozen=True)
class Comparison:
    """Two runs, by their directories, links resolved. `only_first`: cells without a partner."""

    first: str
    second: str
    pairs: tuple[CellPair, ...]
    only_first: tuple[CellName, ...]
    only_second: tuple[CellName, ...]

    @property
    def comparable(self) -> bool:
        """There are pairs, and each is comparable."""
        return bool(self.pairs) and all(pair.comparable for pair in self.pairs)


@dataclass(frozen=True)
class _Sample:
    subset: str
    index: str
    answer: str
    answered: bool
    score: float | None
    correct: float | None


@dataclass(frozen=True)
class _Run:
    """A run directory as it is compared: rows and samples by cell, and what it was asked."""

    path: Path
    header: Mapping[str, Any]
    asked: Mapping[str, Any]
    rows: Mapping[CellName, Sequence[Row]]
    samples: Mapping[CellName, Sequence[_Sample]]


def compare(first: Path, second: Path) -> Comparison:
    """What two run directories have to say about each other.

    Cells pair by model and dataset; where each run has one model, by dataset alone.

    Raises:
        ResultsError: One of them is no run directory, or cannot be read.
    """
    one, other = _read(first), _read(second)
    names = _partners(list(one.rows), list(other.rows))
    taken = set(names.values())
    return Comparison(
        first=str(one.path),
        second=str(other.path),
        pairs=tuple(_compare(one, a, other, b) for a, b in names.items()),
        only_first=tuple(name for name in one.rows if name not in names),
        only_second=tuple(name for name in other.rows if name not in taken),
    )


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints."""
    pairs = [{"comparable": pair.comparable, **asdict(pair)} for pair in comparison.pairs]
    return {"comparable": comparison.comparable, **asdict(comparison), "pairs": pairs}


def _read(path: Path) -> _Run:
    loaded = results.load(path)
    rows: dict[CellName, list[Row]] = {}
    for row in loaded.rows:
        rows.setdefault(CellName(row.model, row.dataset), []).append(row)
    samples: dict[CellName, list[_Sample]] = {}
    for name, sample in _samples(path / "samples.jsonl"):
        samples.setdefault(name, []).append(sample)
    asked = _asked(path / "config.yaml")
    return _Run(loaded.path, _mapping(loaded.header), asked, rows, samples)


def _asked(path: Path) -> Mapping[str, Any]:
    """config.yaml, empty where it cannot be read: then its facts are not recorded."""
    try:
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _samples(path: Path) -> Iterator[tuple[CellName, _Sample]]:
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise ResultsError(f"cannot read {path}", str(error)) from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            yield CellName(str(record["model"]), str(record["dataset"])), _sample(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"cannot read {path}", f"line {number}: {error!r}") from error


def _sample(record: Mapping[str, Any]) -> _Sample:
    return _Sample(
        subset=str(record.get("subset", "")),
        index=str(record["index"]),
        answer=str(record.get("answer", "")),
        answered=record.get("prediction") is not None,
        score=_number(record.get("score")),
        correct=_number(record.get("correct")),
    )


def _partners(first: Sequence[CellName], second: Sequence[CellName]) -> dict[CellName, CellName]:
    single = len({name.model for name in first}) == len({name.model for name in second}) == 1
    there = {name.dataset if single else name: name for name in second}
    found = {name: there.get(name.dataset if single else name) for name in first}
    return {name: partner for name, partner in found.items() if partner}


def _compare(one: _Run, a: CellName, other: _Run, b: CellName) -> CellPair:
    paired, answers = _paired(one.samples.get(a, ()), other.samples.get(b, ()))
    facts = [*_facts(one, a, other, b), *answers, *_parameters(_cell(one, a), _cell(other, b))]
    return CellPair(
        dataset=a.dataset,
        first_model=a.model,
        second_model=b.model,
        differs=tuple(f for f in facts if f.first is not None and f.second is not None),
        unknown=tuple(f for f in facts if f.first is None or f.second is None),
        metrics=tuple(_metrics(one.rows[a], other.rows[b])),
        paired=paired,
    )


def _facts(one: _Run, a: CellName, other: _Run, b: CellName) -> list[Fact]:
    """What decides whether two cells may be compared, where it differs or is not known."""
    first, second = _recorded(one, a), _recorded(other, b)
    if first["backend"] != second["backend"]:
        # All else differs with it.
        return [Fact("backend", first["backend"], second["backend"])]
    first["data"], second["data"] = _differing(first["data"], second["data"])
    facts = [
        Fact(what, value, second[what])
        for what, value in first.items()
        if value != second[what] or value is None
    ]
    if (first["status"], second["status"]) == ("scored", "scored"):
        both = first["judge fallback"] == second["judge fallback"] == "yes"
        return [*facts, *([Fact("judge fallback", "yes", "yes", False)] if both else [])]
    # What has no scores has none of these either.
    facts = [f for f in facts if f.what not in ("status", "scorer", "judge", "judge fallback")]
    return [*facts, Fact("status", first["status"], second["status"])]


def _recorded(run: _Run, name: CellName) -> dict[str, str | None]:
    row, cell = run.rows[name][0], _cell(run, name)
    upstream = _mapping(_mapping(run.header.get("backends")).get(row.backend))
    return {
        "backend": row.backend,
        "upstream distribution": _known(upstream.get("distribution")),
        "upstream version": _known(upstream.get("version")),
        # None is known: what an index installed is at no commit.
        "upstream commit": _shown(upstream["commit"]) if "commit" in upstream else None,
        "data": _hashes(cell),
        "dataset settings": _settings(run.asked, name.dataset),
        # A configuration of OpenCompass's own keeps its limit to itself.
        "limit": _shown(run.asked.get("limit")) if "datasets" in run.asked else None,
        "scorer": row.scorer or None,
        "judge": _judge(cell, row),
        "judge fallback": "yes" if row.judge_fallback else "no",
        "status": row.status,
    }


def _cell(run: _Run, name: CellName) -> Mapping[str, Any]:
    """What run.json says of a cell."""
    cells = map(_mapping, _mapping(run.header.get("cells")).values())
    wanted = (name.model, name.dataset)
    return next((c for c in cells if (c.get("model"), c.get("dataset")) == wanted), {})


def _hashes(cell: Mapping[str, Any]) -> str | None:
    """The hashes of the data files; paths differ between machines."""
    files = cell.get("data")
    hashes = [_mapping(file).get("sha256") for file in files] if isinstance(files, list) else []
    return ", ".join(sorted(map(str, hashes))) if hashes and all(hashes) else None


def _differing(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """Of two lists of hashes, those that only one of them has."""
    if first is None or second is None:
        return first, second
    one, other = set(first.split(", ")), set(second.split(", "))
    return ", ".join(sorted(one - other)) or "none", ", ".join(sorted(other - one)) or "none"


def _settings(asked: Mapping[str, Any], dataset: str) -> str | None:
    """How config.yaml has a dataset: a name, perhaps behind its backend's, or a mapping."""
    entries = asked.get("datasets")
    for entry in entries if isinstance(entries, list) else []:
        known = _mapping({"name": entry, "dataset": entry} if isinstance(entry, str) else entry)
        if _bare(known.get("name")) == dataset:
            kept = {key: known[key] for key in _SETTINGS if key in known}
            return _shown({**kept, "dataset": _bare(kept.get("dataset", ""))})
    return None


def _bare(name: Any) -> str:
    return re.sub("^(vlmeval|opencompass):", "", str(name))


def _judge(cell: Mapping[str, Any], row: Row) -> str | None:
    """The id that the judge reported, `none` where no judge graded."""
    ruled = row.scorer == EXACT_MATCHING or row.scorer.startswith("rule:")
    unjudged = ruled or cell.get("judge", "") is None
    return _reported(_mapping(cell.get("judge"))) or ("none" if unjudged else None)


def _reported(endpoint: Mapping[str, Any]) -> str | None:
    """The id that an endpoint gave itself; workers write `unknown` where it gave none."""
    reported = endpoint.get("reported")
    return None if reported in (None, "", "unknown") else _shown(reported)


def _parameters(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Fact]:
    """In what the models and the requests to them differ."""
    model = Fact("model as reported", _reported(first), _reported(second), False)
    facts = [model] if model.first != model.second or model.first is None else []
    # Empty where nothing was asked: all answers are those of an earlier run.
    one, other = _mapping(first.get("sent")), _mapping(second.get("sent"))
    if not one or not other:
        known = ["recorded" if sent else None for sent in (one, other)]
        return [*facts, Fact("parameters as sent", known[0], known[1], False)]
    differing = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return [*facts, *(Fact(k, _shown(one.get(k)), _shown(other.get(k)), False) for k in differing)]


def _metrics(first: Sequence[Row], second: Sequence[Row]) -> Iterator[MetricPair]:
    def by_metric(rows: Sequence[Row]) -> dict[Hashable, Row]:
        return _numbered((r for r in rows if r.metric), lambda r: (r.subset, r.metric))

    one, other = by_metric(first), by_metric(second)
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        known = [row for row in (a, b) if row]
        units = list(dict.fromkeys(row.unit or "" for row in known))
        comparable = a and b and len(units) == 1
        yield MetricPair(
            subset=known[0].subset,
            metric=known[0].metric,
            unit=" / ".join(units) or None,
            is_primary=any(row.is_primary for row in known),
            difference=_difference(a.value, b.value) if a and b and comparable else None,
            first=_side(a),
            second=_side(b),
        )


def _side(row: Row | None) -> Side:
    return Side(row.value, row.n, row.n_failed, row.n_judge_failed) if row else Side()


def _difference(first: Any, second: Any) -> float | int | None:
    """`second` - `first`, as exact as it is: 0.8 - 0.6 is 0.2."""
    if _number(first) is None or _number(second) is None:
        return None
    difference: float | int = round(second - first, 10)
    return difference


def _paired(first: Sequence[_Sample], second: Sequence[_Sample]) -> tuple[Paired, list[Fact]]:
    """The samples of two cells, and whether they have other reference answers."""

    def by_index(samples: Sequence[_Sample]) -> dict[Hashable, _Sample]:
        return _numbered(samples, lambda s: (s.subset, s.index))

    one, other = by_index(first), by_index(second)
    pairs = [(sample, other[key]) for key, sample in one.items() if key in other]
    graded = _graded(first) & _graded(second)
    found = [(pair, scores) for pair in pairs if (scores := _scores(*pair, graded))]
    # An upstream that keeps no reference answer for a sample leaves it empty.
    odd = [(a.answer, b.answer) for a, b in pairs if a.answer and b.answer]
    odd = [answers for answers in odd if answers[0] != answers[1]]
    paired = Paired(
        n=len(pairs),
        only_first=len(one) - len(pairs),
        only_second=len(other) - len(pairs),
        other_answer=len(odd),
        unscored=len(pairs) - len(found),
        unanswered_first=sum(not pair[0].answered for pair, _ in found),
        unanswered_second=sum(not pair[1].answered for pair, _ in found),
        interval=interval([scores for _, scores in found]) if len(found) > 1 else None,
    )
    return paired, [Fact("reference answer", *answers) for answers in odd[:1]]


def _numbered(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, T]:
    """The items by key; those of one key by how many came before."""
    seen: Counter[Hashable] = Counter()
    found: dict[Hashable, T] = {}
    for item in items:
        name = key(item)
        found[name, seen[name]] = item
        seen[name] += 1
    return found


def _graded(samples: Sequence[_Sample]) -> set[tuple[str, str]]:
    """The subsets that upstream scores sample by sample, and by what."""
    return {(s.subset, m) for s in samples for m in _MEASURES if getattr(s, m) is not None}


def _scores(
    first: _Sample, second: _Sample, graded: set[tuple[str, str]]
) -> tuple[float, float] | None:
    """The scores of a pair by one measure, that both runs have: two may differ in scale."""
    for measure in _MEASURES:
        one, other = (_score(sample, measure) for sample in (first, second))
        if (first.subset, measure) in graded and one is not None and other is not None:
            return one, other
    return None


def _score(sample: _Sample, measure: str) -> float | None:
    """As upstream has it; where it says nothing of a sample without an answer, 0."""
    value: float | None = getattr(sample, measure)
    return 0.0 if value is None and not sample.answered else value


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else results.to_json(value)


def _known(value: Any) -> str | None:
    return None if value is None else _shown(value)


def _number(value: Any) -> float | None:
    """A finite number of JSON, also true and false; NaN and the like are there as text."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
