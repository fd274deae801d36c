"""OpenCompass's files as metrics and samples.

tests/golden/opencompass has what opencompass 0.5.4 wrote, but for the few-shot rounds in
front of each question: two sets of one part, and three subsets of mmlu with its averages.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalshim import registry
from evalshim.adapters import opencompass_outputs
from evalshim.errors import ResultsError
from evalshim.spec import Cell, CellOutcome, JudgeSpec, ModelSpec, RunSpec, slug

GOLDEN = Path(__file__).parent / "golden" / "opencompass"
MODEL = ModelSpec("evalshim-demo", "m", "http://h/v1")
GROUPS = ["mmlu-humanities", "mmlu-stem", "mmlu-social-science", "mmlu-other", "mmlu"]


class Run:
    """A run directory with one of the golden folders in it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "20260102-030405"
        self.upstream = self.path / "upstream" / "opencompass" / "20260102_030406"
        shutil.copytree(GOLDEN / name, self.upstream)

    def file(self, kind: str, abbr: str) -> Path:
        return self.upstream / kind / MODEL.name / f"{abbr}.json"

    def write(self, kind: str, abbr: str, content: Any) -> None:
        self.file(kind, abbr).write_text(json.dumps(content))

    def read(
        self,
        dataset: str,
        mode: str = "all",
        only: list[str] | None = None,
        model: ModelSpec = MODEL,
        judge: JudgeSpec | None = None,
        **finished: Any,
    ) -> CellOutcome:
        entry = replace(registry.resolve(dataset), judge=judge)
        found = {
            kind: {
                path.stem: str(path)
                for path in sorted(self.upstream.glob(f"{kind}/*/*.json"))
                if only is None or path.stem in only
            }
            for kind in ("results", "predictions")
        }
        data = {
            "status": "done",
            "error": "",
            "files": {"summary": str(self.upstream / "summary" / "summary.csv")},
            "model": slug(model.name),
            "groups": [],
            "whole": [],
            "logs": {},
            **found,
            **finished,
        }
        spec = RunSpec((model,), (entry,), mode=mode)  # type: ignore[arg-type]
        return opencompass_outputs.read(Cell("c", model, entry), data, self.path, spec)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Run]:
    return lambda name: Run(tmp_path, name)


def _numbers(outcome: CellOutcome) -> list[tuple[Any, ...]]:
    return [(m.subset, m.name, m.value, m.unit, m.is_primary) for m in outcome.metrics]


def test_a_set_of_one_part(run: Callable[[str], Run]) -> None:
    outcome = run("sets").read("demo_gsm8k", only=["demo_gsm8k"])

    assert (outcome.status, outcome.error, outcome.scorer) == ("scored", "", "rule:accuracy")
    assert (outcome.n, outcome.n_failed) == (6, 0)
    assert _numbers(outcome) == [("overall", "accuracy", 50.0, "percent", True)]
    assert outcome.metrics[0].source_file.name == "demo_gsm8k.json"


def test_verdicts_that_upstream_gives(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    details = json.loads(sets.file("results", "demo_gsm8k").read_text())["details"]

    samples = sets.read("demo_gsm8k", only=["demo_gsm8k"]).samples
    assert [s.correct for s in samples] == [d["correct"] == [True] for d in details]
    assert {True, False} == {s.correct for s in samples}
    assert samples[0].question.startswith("Question: A florist has 3 buckets")
    assert samples[0].answer.endswith("#### 8")
    assert samples[0].prediction and samples[0].prediction.endswith("The answer is 8")
    assert (samples[0].run_id, samples[0].index) == ("20260102-030405", "0")


def test_verdicts_that_follow_from_equality(run: Callable[[str], Run]) -> None:
    outcome = run("sets").read("demo_arc", only=["demo_arc"])

    verdicts = [s.correct for s in outcome.samples]
    assert verdicts == [s.score == 1.0 for s in outcome.samples]
    assert verdicts.count(True) / len(verdicts) == pytest.approx(0.8333333333333334)
    assert outcome.metrics[0].value == 83.33333333333334
    assert set(outcome.samples[0].options) == set("ABCD")
    assert outcome.samples[0].options["B"] == "20 degrees"


def test_no_verdict_where_equality_is_not_what_was_counted(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    result = json.loads(sets.file("results", "demo_arc").read_text())
    sets.write("results", "demo_arc", {**result, "accuracy": 12.0})

    outcome = sets.read("demo_arc", only=["demo_arc"])
    assert {s.correct for s in outcome.samples} == {None}
    assert outcome.metrics[0].value == 12.0


def test_subsets_and_the_averages_over_them(run: Callable[[str], Run]) -> None:
    outcome = run("subsets").read("mmlu", groups=GROUPS)

    numbers = _numbers(outcome)
    assert ("mmlu-stem", "naive_average", 39.47, "percent", False) in numbers
    assert ("overall", "accuracy", 48.25, "percent", True) in numbers
    assert numbers[-3:] == [
        ("lukaemon_mmlu_anatomy", "accuracy", 50.0, "percent", False),
        ("lukaemon_mmlu_college_biology", "accuracy", 100.0, "percent", False),
        ("lukaemon_mmlu_sociology", "accuracy", 100.0, "percent", False),
    ]
    assert [m.is_primary for m in outcome.metrics].count(True) == 1
    assert not [m for m in outcome.metrics if m.subset.startswith("ceval")]
    assert (outcome.n, len(outcome.samples)) == (6, 6)
    assert {s.subset for s in outcome.samples} == {
        "lukaemon_mmlu_anatomy", "lukaemon_mmlu_college_biology", "lukaemon_mmlu_sociology",
    }  # fmt: skip


@pytest.mark.parametrize("model", [replace(MODEL, name="other"), replace(MODEL, name="a,b")])
def test_averages_of_another_model_are_not_this_ones(
    run: Callable[[str], Run], model: ModelSpec
) -> None:
    outcome = run("subsets").read("mmlu", groups=GROUPS, model=model)

    assert {m.subset for m in outcome.metrics} == {
        "lukaemon_mmlu_anatomy", "lukaemon_mmlu_college_biology", "lukaemon_mmlu_sociology",
    }  # fmt: skip


def test_the_group_over_all_subsets_is_the_overall_number(run: Callable[[str], Run]) -> None:
    outcome = run("subsets").read("mmlu", groups=GROUPS, whole=["mmlu-stem"])

    assert {m.value for m in outcome.metrics if m.subset == "overall"} == {39.47}
    assert [m.subset for m in outcome.metrics if m.is_primary] == ["overall"]
    assert "mmlu" in {m.subset for m in outcome.metrics}


def test_a_task_of_upstreams_own_runner_that_left_nothing_says_why(
    run: Callable[[str], Run], tmp_path: Path
) -> None:
    log = tmp_path / "demo_gsm8k.out"
    log.write_text("loading\nRuntimeError: CUDA out of memory\n")

    outcome = run("sets").read("demo_arc", only=["demo_arc"], logs={"demo_gsm8k": str(log)})
    assert outcome.status == "failed"
    assert "demo_gsm8k: RuntimeError: CUDA out of memory" in outcome.error
    assert str(log) in outcome.error
    assert outcome.metrics


def test_without_a_summary_the_subsets_remain(run: Callable[[str], Run]) -> None:
    outcome = run("subsets").read("mmlu", groups=GROUPS, files={"summary": None})

    assert len(outcome.metrics) == 3
    assert [m.is_primary for m in outcome.metrics] == [True, False, False]


def test_one_subset_of_many_is_not_the_whole(run: Callable[[str], Run]) -> None:
    outcome = run("subsets").read(
        "mmlu",
        only=["lukaemon_mmlu_anatomy"],
        groups=GROUPS,
        files={"summary": None},
        error="lukaemon_mmlu_sociology: no answer",
    )

    assert outcome.status == "failed"
    assert [m.subset for m in outcome.metrics] == ["lukaemon_mmlu_anatomy"]


def test_predictions_alone(run: Callable[[str], Run]) -> None:
    outcome = run("sets").read("demo_arc", "infer", only=["demo_arc"], results={})

    assert (outcome.status, outcome.error, outcome.metrics) == ("infer_only", "", ())
    assert outcome.n == 6
    assert {s.correct for s in outcome.samples} == {None}


def test_predictions_with_a_failed_subset_are_a_failure(run: Callable[[str], Run]) -> None:
    outcome = run("subsets").read("mmlu", "infer", results={}, error="mmlu_x: no answer")

    assert (outcome.status, outcome.error) == ("failed", "mmlu_x: no answer")


def test_a_missing_result_fails_the_cell_and_is_named(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    sets.file("results", "demo_arc").unlink()

    outcome = sets.read("demo_arc", only=["demo_arc"])
    assert (outcome.status, outcome.metrics) == ("failed", ())
    assert outcome.error == "upstream reported no metric for demo_arc"
    assert (outcome.n, outcome.scorer) == (6, "")


def test_why_upstream_could_not_evaluate_is_passed_on(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    sets.write("results", "demo_arc", {"error": "predictions and references differ in length"})

    outcome = sets.read("demo_arc", only=["demo_arc"])
    assert outcome.status == "failed"
    assert "demo_arc" in outcome.error
    assert "predictions and references differ in length" in outcome.error


def test_nothing_at_all_is_a_failure_with_a_reason(run: Callable[[str], Run]) -> None:
    outcome = run("sets").read("demo_arc", results={}, predictions={})

    assert (outcome.status, outcome.metrics, outcome.n) == ("failed", (), None)
    assert outcome.error


JUDGE = JudgeSpec("qwen", "http://j/v1")


@pytest.mark.parametrize(
    ("judge", "finished", "scorer", "ungraded"),
    [
        (JUDGE, {}, "rule:accuracy", 0),
        # Who watched it knows more than upstream's count: one of its verdicts may be `C`.
        (JUDGE, {"judge_built": True, "judge_failed": 0}, "qwen", 0),
        (JUDGE, {"judge_built": True, "judge_failed": 3}, "qwen", 3),
        (None, {"judge_named": "theirs", "judge_failed": 0}, "theirs", 2),
    ],
)
def test_the_scorer_is_what_really_graded(
    run: Callable[[str], Run],
    judge: JudgeSpec | None,
    finished: dict[str, Any],
    scorer: str,
    ungraded: int,
) -> None:
    sets = run("sets")
    counts = {"attempted_ratio": 66.7, "not_attempted_count": 2} if finished else {}
    sets.write("results", "demo_arc", {"accuracy": 50.0, **counts})

    outcome = sets.read("demo_arc", only=["demo_arc"], judge=judge, **finished)
    assert (outcome.status, outcome.error, outcome.judge_fallback) == ("scored", "", False)
    assert (outcome.scorer, outcome.n_judge_failed) == (scorer, ungraded)


def test_a_fallback_is_said(run: Callable[[str], Run]) -> None:
    graded = {"judge_built": True, "judge_failed": 3, "judge_fallback": True}
    outcome = run("sets").read("demo_arc", only=["demo_arc"], judge=JUDGE, **graded)

    assert (outcome.status, outcome.judge_fallback, outcome.n_judge_failed) == ("scored", True, 0)
    assert outcome.scorer == "rule:accuracy"
    assert outcome.error == "the judge qwen did not answer: scored without it, by rule:accuracy"


def test_answers_that_could_not_be_graded_are_kept(run: Callable[[str], Run]) -> None:
    error = "the judge qwen at http://j/v1 does not answer (HTTP 500)"
    outcome = run("sets").read(
        "demo_arc", only=["demo_arc"], judge=JUDGE, results={}, status="failed", error=error,
        unjudged=["demo_arc"],
    )  # fmt: skip

    assert (outcome.status, outcome.error, outcome.metrics) == ("failed", error, ())
    assert (outcome.n, outcome.n_failed, outcome.n_judge_failed) == (6, 0, 6)
    assert len(outcome.samples) == 6


def test_why_a_sample_has_no_answer_and_how_the_others_ended(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    answers = json.loads(sets.file("predictions", "demo_arc").read_text())
    answers["1"]["prediction"] = ""
    sets.write("predictions", "demo_arc", answers)

    outcome = sets.read(
        "demo_arc",
        only=["demo_arc"],
        errors={"demo_arc": [["HTTP 500: x", ["1", "2"]]], "other": [["HTTP 400: y", ["0"]]]},
        finish={"demo_arc": [["length", ["0"]]]},
        sent={"temperature": 0},
        reported={"model": "served-id", "judge": ""},
    )
    assert [s.error for s in outcome.samples] == ["", "HTTP 500: x", "", "", "", ""]
    assert [s.finish for s in outcome.samples] == ["length", "", "", "", "", ""]
    assert (outcome.n_failed, outcome.samples[1].prediction) == (1, None)
    assert outcome.notes == (
        "1 of 6 samples have no answer, 1 of them: HTTP 500: x",
        "1 of 6 answers were cut at max_tokens",
    )
    assert (outcome.sent, outcome.reported["model"]) == ({"temperature": 0}, "served-id")


def test_no_answer_at_all_fails_the_cell_and_says_the_last_reason(
    run: Callable[[str], Run],
) -> None:
    sets = run("sets")
    sets.write("predictions", "demo_arc", {"0": {"prediction": ""}, "1": {"prediction": ""}})

    for mode in ("all", "infer"):
        outcome = sets.read("demo_arc", mode, only=["demo_arc"], last_error="HTTP 404: no model")
        assert (outcome.status, outcome.metrics, outcome.n_failed) == ("failed", (), 2)
        assert outcome.error == (
            "no answer from http://h/v1 to any of 2 samples (HTTP 404: no model)"
        )


@pytest.mark.parametrize("kind", ["results", "predictions"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_an_unreadable_file_is_named(run: Callable[[str], Run], kind: str, text: str) -> None:
    sets = run("sets")
    sets.file(kind, "demo_arc").write_text(text)

    with pytest.raises(ResultsError, match=r"cannot read .*demo_arc\.json"):
        sets.read("demo_arc", only=["demo_arc"])


def test_upstreams_order_of_metrics_decides_the_primary(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    sets.write("results", "demo_arc", {"rouge2": 1.0, "bp": 1.0, "f1": 2.0, "score": 3.0, "x": "y"})

    assert _numbers(sets.read("demo_arc", only=["demo_arc"])) == [
        ("overall", "score", 3.0, "percent", True),
        ("overall", "f1", 2.0, "percent", False),
        ("overall", "rouge2", 1.0, "percent", False),
    ]


def test_counts_are_no_percentages(run: Callable[[str], Run]) -> None:
    """What MBPPEvaluator (0.5.4) reports: counts of 500 programs, and the share that passed."""
    sets = run("sets")
    counts = {"pass": 300, "timeout": 2, "failed": 98, "wrong_answer": 100, "score": 60.0}
    sets.write("results", "demo_arc", counts)

    units = {m.name: m.unit for m in sets.read("demo_arc", only=["demo_arc"]).metrics}
    assert units == {
        "pass": "raw", "timeout": "raw", "failed": "raw", "wrong_answer": "raw",
        "score": "percent",
    }  # fmt: skip


@pytest.mark.parametrize(
    "details",
    [None, [], ["a"] * 6, [{"correct": [True]}], {"0": "a"}, {}, "text", [None] * 6],
    ids=str,
)
def test_details_of_a_shape_of_their_own_cost_verdicts_and_no_scores(
    run: Callable[[str], Run], details: Any
) -> None:
    sets = run("sets")
    sets.write("results", "demo_arc", {"accuracy": 50.0, "details": details})

    outcome = sets.read("demo_arc", only=["demo_arc"])
    assert (outcome.status, outcome.metrics[0].value) == ("scored", 50.0)
    assert [s.correct for s in outcome.samples][1:] == [None] * 5


def test_an_answer_that_is_none_is_not_the_word_null(run: Callable[[str], Run]) -> None:
    sets = run("sets")
    prompt = [{"role": "HUMAN", "prompt": "Say something."}]
    sets.write(
        "predictions", "demo_arc", {"0": {"origin_prompt": prompt, "prediction": "x", "gold": None}}
    )

    [sample] = sets.read("demo_arc", only=["demo_arc"], results={}).samples
    assert (sample.question, sample.answer) == ("Say something.", "")


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("plain text", "plain text"),
        ([{"role": "user", "content": "first"}, {"role": "user", "content": "last"}], "last"),
        ([], ""),
        (None, ""),
        (["a", "b"], "b"),
    ],
)
def test_the_question_is_the_last_of_the_prompt(
    run: Callable[[str], Run], prompt: Any, question: str
) -> None:
    sets = run("sets")
    sets.write("predictions", "demo_arc", {"0": {"origin_prompt": prompt, "prediction": "x"}})

    [sample] = sets.read("demo_arc", only=["demo_arc"], results={}).samples
    assert sample.question == question
