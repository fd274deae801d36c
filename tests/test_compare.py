"""Two runs side by side: what forbids it, what pairs with what, and numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalshim import results
from evalshim.compare import CellName, Fact, compare, to_dict
from evalshim.comparison_text import text
from evalshim.errors import ResultsError
from evalshim.intervals import Interval, t_quantile
from evalshim.spec import Row, Sample

SHA, OTHER = "ab12" * 16, "cd34" * 16
UPSTREAM = {"distribution": "ms-vlmeval", "version": "0.0.20", "commit": None}
CELL = {
    "data": [{"path": "/data/pets.tsv", "sha256": SHA, "published": True}],
    "judge": None,
    "reported": "qwen",
    "sent": {"temperature": 0, "max_tokens": 64},
}
ASKED = {"model": "gpt-x", "api_base": "http://127.0.0.1:9/v1", "reported": None}
Write = Callable[..., Path]


def row(model: str = "m", dataset: str = "pets", **changes: Any) -> Row:
    return Row(
        **{
            "run_id": "r", "backend": "vlmeval", "backend_version": "ms-vlmeval 0.0.20",
            "model": model, "dataset": dataset, "subset": "overall", "metric": "acc",
            "value": 0.75, "unit": "fraction", "score": 0.75, "is_primary": True, "n": 4,
            "n_failed": 0, "n_judge_failed": 0, "scorer": "exact_matching", "status": "scored",
            **changes,
        }
    )  # fmt: skip


def samples(verdicts: Sequence[bool | None], **changes: Any) -> list[Sample]:
    """One sample a verdict, by index."""
    same = {"subset": "", "answer": "A", "prediction": "A", **changes}
    return [
        Sample("r", "vlmeval", "m", "pets", index=str(i), correct=verdict, **same)
        for i, verdict in enumerate(verdicts)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Write:
    """Writes a run: its rows, samples, and changes to what is recorded of each cell."""

    def write(
        name: str,
        rows: Sequence[Row] | None = None,
        answered: Sequence[Sample] = (),
        cell: Mapping[str, Any] = CELL,
        upstream: Mapping[str, Any] = UPSTREAM,
        asked: Mapping[str, Any] | None = None,
    ) -> Path:
        rows = [row()] if rows is None else rows
        header = {
            "exit_code": 0,
            "backends": {r.backend: upstream for r in rows},
            "cells": {
                f"{r.model}__{r.dataset}": {"model": r.model, "dataset": r.dataset, **cell}
                for r in rows
            },
        }
        (tmp_path / name).mkdir()
        config = asked or {"datasets": list(dict.fromkeys(r.dataset for r in rows))}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        results.write(tmp_path / name, header, rows, map(results.sample_line, answered))
        return tmp_path / name

    return write


def interval_of(first: Path, second: Path) -> Interval | None:
    [pair] = compare(first, second).pairs
    return pair.paired.interval


def test_t_is_as_in_the_tables() -> None:
    tabulated = {
        1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 31: 2.040, 100: 1.984,
        100_000: 1.960,
    }  # fmt: skip

    assert {df: round(t_quantile(df), 3) for df in tabulated} == tabulated


class TestComparable:
    def test_equal_runs_are(self, run: Write) -> None:
        answered = samples([True, False, True])

        found = compare(run("a", answered=answered), run("b", answered=answered))
        [pair] = found.pairs
        assert found.comparable
        assert (pair.differs, pair.unknown) == ((), ())
        assert pair.metrics[0].difference == 0
        assert pair.paired.interval == Interval(3, 2 / 3, 2 / 3, 0, 0, 0)
        assert text(found).splitlines()[3] == "m x pets: comparable"

        link = Path(found.first).with_name("latest")
        link.symlink_to("b")
        assert text(compare(link, link)).splitlines()[0] == f"first:  {found.second}"

    @pytest.mark.parametrize(
        ("change", "facts"),
        [
            (
                {"rows": [row(backend="opencompass")], "upstream": {"version": "0.5.4"}},
                [("backend", "vlmeval", "opencompass")],
            ),
            (
                {"upstream": {"distribution": "vlmeval", "version": "0.1", "commit": SHA}},
                [
                    ("upstream distribution", "ms-vlmeval", "vlmeval"),
                    ("upstream version", "0.0.20", "0.1"),
                    ("upstream commit", "none", SHA),
                ],
            ),
            (
                {"asked": {"datasets": ["cats", {"name": "pets", "dataset": "dogs"}]}},
                [("dataset settings", '{"dataset": "pets"}', '{"dataset": "dogs"}')],
            ),
            ({"asked": {"datasets": ["vlmeval:pets"], "limit": 20}}, [("limit", "none", "20")]),
            (
                {"rows": [row(scorer="rule:acc", judge_fallback=True)]},
                [("scorer", "exact_matching", "rule:acc"), ("judge fallback", "no", "yes")],
            ),
            ({"cell": {**CELL, "judge": {"reported": "gpt-x"}}}, [("judge", "none", "gpt-x")]),
            (
                {
                    "rows": [row(status="failed", metric="", scorer="")],
                    "asked": {"datasets": ["pets"], "limit": 0.5},
                },
                [("limit", "none", "0.5"), ("status", "scored", "failed")],
            ),
        ],
        ids=["backend", "upstream", "settings", "limit", "scorer", "judge", "status"],
    )
    def test_each_of_these_forbids_it(
        self, run: Write, change: dict[str, Any], facts: list[tuple[str, str, str]]
    ) -> None:
        found = compare(run("a"), run("b", **change))

        assert [m.metric for m in found.pairs[0].metrics] == ["acc"]
        assert found.pairs[0].differs == tuple(Fact(*fact) for fact in facts)
        assert found.pairs[0].unknown == ()
        for alone in found.pairs[0].differs:
            assert not replace(found.pairs[0], differs=(alone,)).comparable
        assert not found.comparable

    def test_data_forbids_it_and_is_told_by_the_hashes_that_differ(self, run: Write) -> None:
        common = {"path": "/elsewhere/b.tsv", "sha256": "ee" * 32}
        one = run("a", cell={**CELL, "data": [common, {"sha256": SHA}]})
        other = run("b", cell={**CELL, "data": [{"sha256": OTHER}, common]})

        found = compare(one, other)
        assert found.pairs[0].differs == (Fact("data", SHA, OTHER),)
        line = "m x pets: NOT comparable: data differs (ab12ab12.. / cd34cd34..)"
        assert text(found).splitlines()[3] == line

    def test_these_are_said_and_do_not_forbid_it(self, run: Write) -> None:
        sent = {"temperature": 0.7, "max_tokens": 64, "seed": 1}
        found = compare(run("a"), run("b", cell={**CELL, "reported": "qwen2", "sent": sent}))

        assert found.comparable
        assert text(found).splitlines()[4] == (
            "not a reason: model as reported differs (qwen / qwen2), temperature differs "
            "(0 / 0.7), seed differs (none / 1)"
        )

        # Nor does what went wrong in both.
        found = compare(*(run(name, [row(judge_fallback=True)]) for name in "cd"))
        assert found.comparable
        assert "not a reason: judge fallback is yes in both" in text(found)

    def test_what_an_older_run_did_not_record_is_named(self, run: Write) -> None:
        known = {"distribution": "ms-vlmeval", "version": "0.0.20"}
        older = run("a", [row(scorer="gpt-x")], cell={}, upstream=known)
        (older / "config.yaml").unlink()

        found = compare(older, run("b", [row(scorer="gpt-x")], cell={**CELL, "judge": ASKED}))
        assert found.comparable
        assert text(found).splitlines()[4] == (
            "not recorded: upstream commit (first), data (first), dataset settings (first), "
            "limit (first), judge (both), model as reported (first), parameters as sent (first)"
        )

    def test_where_a_rule_scored_no_judge_is_missed(self, run: Write) -> None:
        """Though one was asked for; and an older run says nothing of it."""
        older = run("a", cell={})
        reused = run("b", cell={**CELL, "judge": ASKED, "reported": "unknown", "sent": {}})

        for found in (compare(older, reused), compare(reused, run("c"))):
            assert {fact.what for fact in found.pairs[0].unknown} <= {
                "data", "model as reported", "parameters as sent",
            }  # fmt: skip
            assert found.pairs[0].differs == ()
            assert "model as reported (" in text(found)
            assert "parameters as sent (" in text(found)

    def test_another_reference_answer_forbids_it(self, run: Write) -> None:
        first = samples([True, True, True])
        second = [first[0], replace(first[1], answer="B" * 500), replace(first[2], answer="")]

        found = compare(run("a", answered=first), run("b", answered=second))
        assert found.pairs[0].differs == (Fact("reference answer", "A", "B" * 500),)
        assert f"reference answer differs (A / {'B' * 117}...)" in text(found)
        assert "another reference answer: 1 of 3 pairs" in text(found)


class TestCells:
    def test_one_model_each_is_a_pair_whatever_the_names(self, run: Write) -> None:
        found = compare(run("a", [row("m")]), run("b", [row("n", value=0.5)]))

        [pair] = found.pairs
        assert (pair.first_model, pair.second_model) == ("m", "n")
        assert pair.metrics[0].difference == -0.25
        assert text(found).splitlines()[3] == "m / n x pets: comparable"

    def test_several_models_pair_by_name(self, run: Write) -> None:
        found = compare(run("a", [row("m"), row("n")]), run("b", [row("n"), row("o")]))

        assert [(p.first_model, p.second_model) for p in found.pairs] == [("n", "n")]
        assert found.only_first == (CellName("m", "pets"),)
        assert found.only_second == (CellName("o", "pets"),)

    def test_datasets_of_one_run_are_listed(self, run: Write) -> None:
        found = compare(run("a", [row(), row(dataset="cats")]), run("b"))

        assert found.comparable
        assert text(found).splitlines()[-2:] == ["only in the first run:", "  m x cats"]

        found = compare(run("c", [row(dataset="cats")]), run("d"))
        assert not found.comparable
        assert "NOT comparable: the runs share no model and dataset" in text(found)


class TestMetrics:
    def test_pair_by_subset_and_name(self, run: Write) -> None:
        ocr = row(subset="ocr", is_primary=False, value=0.6)
        first = run("a", [row(), ocr, row(metric="f1", is_primary=False)])
        second = run("b", [replace(ocr, value=0.8, n=3, n_failed=2), row(is_primary=False)])

        [pair] = compare(first, second).pairs
        assert [(m.subset, m.metric, m.difference) for m in pair.metrics] == [
            ("overall", "acc", 0), ("ocr", "acc", 0.2), ("overall", "f1", None),
        ]  # fmt: skip
        assert [m.is_primary for m in pair.metrics] == [True, False, False]
        shown = text(compare(first, second)).splitlines()[6:8]
        assert [line.split() for line in shown] == [
            ["overall", "acc", "*", "0.7500", "0.7500", "0.0000", "4", "0"],
            ["ocr", "acc", "0.6000", "0.8000", "+0.2000", "4", "/", "3", "0", "/", "2"],
        ]

    def test_what_cannot_be_subtracted_has_no_difference(self, run: Write) -> None:
        odd = row(metric="f1", value=float("nan"))
        first = run("a", [row(), odd])
        second = run("b", [row(value=75.0, unit="percent"), replace(odd, value=0.5)])

        acc, f1 = compare(first, second).pairs[0].metrics
        assert (acc.unit, acc.difference) == ("fraction / percent", None)
        assert (f1.first.value, f1.second.value, f1.difference) == ("nan", 0.5, None)


class TestPaired:
    def test_the_interval(self, run: Write) -> None:
        """Differences 0, -1, 0, 0, -1: mean -0.4, sd sqrt(0.3), t(4) 2.77645."""
        first = run("a", answered=samples([True, True, False, False, True]))
        second = run("b", answered=samples([True, False, False, False, False]))

        found = interval_of(first, second)
        assert found is not None
        assert (found.n, found.first, found.second) == (5, 0.6, 0.2)
        assert (found.low, found.high) == pytest.approx((-1.08009, 0.28009), abs=1e-5)
        assert text(compare(first, second)).splitlines()[-1] == (
            "second - first: -0.4000 on 5 paired samples, 95% interval [-1.0801, 0.2801]: "
            "it includes 0 (means 0.6000 and 0.2000)"
        )

    def test_an_interval_without_0(self, run: Write) -> None:
        """Nine differences of 1 and one of 0: mean 0.9, standard error 0.1, t(9) 2.26216."""
        first = run("a", answered=samples([False] * 10))
        second = run("b", answered=samples([True] * 9 + [False]))

        assert "interval [0.6738, 1.1262]: it excludes 0" in text(compare(first, second))
        assert "interval [-1.1262, -0.6738]: it excludes 0" in text(compare(second, first))

    def test_scores_that_are_not_binary(self, run: Write) -> None:
        """Differences 1, 2, 3: standard error 1 / sqrt(3), t(2) 4.30265."""
        a = [replace(s, score=v) for s, v in zip(samples([True] * 3), (10, 20, 30), strict=True)]
        b = [replace(s, score=v) for s, v in zip(samples([True] * 3), (11, 22, 33), strict=True)]

        found = interval_of(run("a", answered=a), run("b", answered=b))
        assert found is not None
        assert (found.difference, found.low) == pytest.approx((2, -0.48414), abs=1e-5)

    def test_next_to_nothing_is_shown_as_0(self, run: Write) -> None:
        a = [replace(s, score=0.1 + 0.2) for s in samples([None, None])]
        b = [replace(s, score=0.3) for s in samples([None, None])]

        shown = text(compare(run("a", answered=a), run("b", answered=b)))
        assert "second - first: 0.0000 on 2" in shown

    def test_a_score_that_one_run_lacks_is_not_set_against_a_verdict(self, run: Write) -> None:
        a = [replace(s, score=50.0) for s in samples([True, True])]

        found = interval_of(run("a", answered=a), run("b", answered=samples([True, True])))
        assert found == Interval(2, 1, 1, 0, 0, 0)

    def test_no_answer_counts_as_0_where_upstream_gave_no_score(self, run: Write) -> None:
        """Upstream may grade what was not answered: its verdict stands."""
        a = samples([True, True, True, True])
        b = [*a[:1], replace(a[1], prediction=None, correct=None), *a[2:]]
        b[2] = replace(a[2], prediction=None, correct=True)

        found = compare(run("a", answered=a), run("b", answered=b))
        paired = found.pairs[0].paired
        assert paired.interval is not None
        assert (paired.interval.n, paired.interval.second) == (4, 0.75)
        assert (paired.unanswered_first, paired.unanswered_second) == (0, 2)
        assert "unanswered: 0 in the first, 2 in the second" in text(found)

    def test_no_answers_without_any_scores_are_no_pairs(self, run: Write) -> None:
        lost = samples([None, None, None], prediction=None)

        unscored, scored = run("a", answered=lost), run("b", answered=samples([True] * 3))
        for other in (unscored, scored):
            found = compare(unscored, other)
            assert (found.pairs[0].paired.n, found.pairs[0].paired.unscored) == (3, 3)
            assert "upstream gave no scores of single samples that both runs have" in text(found)

    def test_a_sample_that_is_not_scored_in_both_is_left_out(self, run: Write) -> None:
        first = run("a", answered=samples([True, None, False]))
        second = run("b", answered=samples([True, True, False]))

        assert interval_of(first, second) == Interval(2, 0.5, 0.5, 0, 0, 0)
        assert "left out: 1 of 3 pairs, not scored in both" in text(compare(first, second))

    def test_samples_of_one_index_pair_in_order(self, run: Write) -> None:
        a = [replace(s, index="7") for s in samples([True, False])]
        b = [replace(s, index="7") for s in samples([True, False, True])]

        paired = compare(run("a", answered=a), run("b", answered=b)).pairs[0].paired
        assert paired.interval == Interval(2, 0.5, 0.5, 0, 0, 0)
        assert (paired.n, paired.only_first, paired.only_second) == (2, 0, 1)

    def test_samples_pair_by_subset_and_index(self, run: Write) -> None:
        first = run("a", answered=samples([True, False], subset="dev"))
        second = run("b", answered=samples([True, False], subset="test"))

        found = compare(first, second)
        assert found.pairs[0].paired.n == 0
        assert "samples of one run: 2 only in the first, 2 only in the second" in text(found)

    def test_one_pair_has_no_interval(self, run: Write) -> None:
        found = compare(*(run(n, answered=samples([True])) for n in "ab"))

        assert found.pairs[0].paired.interval is None
        assert text(found).endswith("it takes two pairs of scored samples, and here is one")


class TestReading:
    def test_no_run_there(self, run: Write, tmp_path: Path) -> None:
        with pytest.raises(ResultsError, match="no results in"):
            compare(run("a"), tmp_path / "nothing")

    def test_a_broken_line_of_samples_is_named(self, run: Write) -> None:
        broken = run("b", answered=samples([True]))
        whole = (broken / "samples.jsonl").read_text()

        for line in ("{", "5", "{}", '{"model": "m", "dataset": "pets"}'):
            (broken / "samples.jsonl").write_text(whole + line + "\n")
            with pytest.raises(ResultsError, match=r"samples\.jsonl") as caught:
                compare(broken, broken)
            assert "why:  line 2: " in str(caught.value)

    def test_names_carry_nothing_out_on_a_terminal(self, run: Write) -> None:
        odd = "pets\x1b[2J\nm x cats: comparable"

        shown = text(compare(*(run(n, [row(dataset=odd, metric="\x1b]0;acc")]) for n in "ab")))
        assert "\x1b" not in shown
        assert "m x cats: comparable" not in shown.splitlines()
        assert "pets\\x1b[2J\\nm x cats" in shown

    def test_as_json(self, run: Write) -> None:
        first = run("a", answered=samples([True, False]))
        found = compare(first, run("b", [row(value=float("inf"))], samples([True, True])))

        record = json.loads(results.to_json(to_dict(found)))
        assert set(record) == {
            "comparable", "first", "second", "pairs", "only_first", "only_second",
        }  # fmt: skip
        [pair] = record["pairs"]
        assert (record["comparable"], pair["comparable"]) == (True, True)
        assert pair["metrics"][0]["second"]["value"] == "inf"
        assert pair["paired"]["interval"]["difference"] == 0.5
