"""VLMEvalKit's files as metrics and samples.

tests/golden/vlmeval has what ms-vlmeval 0.0.20 wrote: for a set that was scored, for one
in which some answers never came, and for one in which none did.
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
from evalshim.adapters import vlmeval_outputs
from evalshim.errors import EvalshimError, ResultsError
from evalshim.spec import Cell, CellOutcome, DatasetSpec, JudgeSpec, ModelSpec, RunSpec

GOLDEN = Path(__file__).parent / "golden" / "vlmeval"
MODEL = ModelSpec("m", "m", "http://h/v1")
SHAPES = registry.resolve("demo_shapes")


class Run:
    """A run directory with one of the golden folders in it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "20260102-030405"
        self.upstream = self.path / "upstream" / "vlmeval" / "m"
        shutil.copytree(GOLDEN / name, self.upstream)
        [status] = self.upstream.glob("status.json")
        self.status = status
        entry = json.loads(status.read_text())["datasets"]["demo_shapes"]
        self.prediction = self.upstream / entry["prediction_file"]
        self.images = self.path / "upstream" / "vlmeval" / "LMUData" / "images" / "demo_shapes"
        self.images.mkdir(parents=True)

    def read(
        self,
        mode: str = "all",
        judge: JudgeSpec | None = None,
        dataset: DatasetSpec = SHAPES,
        **finished: Any,
    ) -> CellOutcome:
        made = [*self.upstream.glob("*_result.tsv"), *self.upstream.glob("*_acc.csv")]
        data = {
            "status": "done",
            "error": "",
            "made": sorted(map(str, made)),
            "files": {"prediction": str(self.prediction), "status": str(self.status)},
            "dataset_type": "MCQ",
            "dataset_class": "ImageMCQDataset",
            "img_root": str(self.images),
            "judge_model": "exact_matching",
            "judge_built": False,
            "judge_fallback": False,
            "judge_failed": 0,
            "unread": [],
            "last_error": "",
            **finished,
        }
        spec = RunSpec((MODEL,), (dataset,), judge or JudgeSpec(), mode=mode)  # type: ignore[arg-type]
        return vlmeval_outputs.read(Cell("m__demo_shapes", MODEL, dataset), data, self.path, spec)

    def change_status(self, **entry: Any) -> None:
        raw = json.loads(self.status.read_text())
        raw["datasets"]["demo_shapes"].update(entry)
        self.status.write_text(json.dumps(raw))


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Run]:
    return lambda name: Run(tmp_path, name)


def _without_grades(run: Run) -> Run:
    for graded in run.upstream.glob("*_result.tsv"):
        graded.unlink()
    return run


def test_a_scored_set(run: Callable[[str], Run]) -> None:
    outcome = run("scored").read()

    assert (outcome.status, outcome.error, outcome.scorer) == ("scored", "", "exact_matching")
    assert (outcome.n, outcome.n_failed) == (48, 0)
    assert [(m.subset, m.name, m.value, m.unit, m.is_primary) for m in outcome.metrics] == [
        ("overall", "acc", 0.75, "fraction", True),
        ("colour", "acc", 0.75, "fraction", False),
        ("count", "acc", 0.6666666666666666, "fraction", False),
        ("position", "acc", 0.8333333333333334, "fraction", False),
        ("shape", "acc", 0.75, "fraction", False),
    ]
    assert {m.source_file.name for m in outcome.metrics} == {"demo_demo_shapes_acc.csv"}


def test_its_samples(run: Callable[[str], Run]) -> None:
    scored = run("scored")
    samples = scored.read().samples

    assert len(samples) == 48
    assert samples[0].question == "What colour is the rectangle?"
    assert samples[0].options == {"A": "orange", "B": "red", "C": "green", "D": "blue"}
    assert (samples[0].answer, samples[0].prediction, samples[0].correct) == ("D", "D. blue", True)
    assert (samples[0].index, samples[0].category, samples[0].subset) == ("0", "colour", "")
    assert (samples[0].run_id, samples[0].model) == ("20260102-030405", "m")
    verdicts = [s.correct for s in samples]
    assert verdicts.count(True) / len(verdicts) == 0.75
    assert None not in verdicts


def test_some_answers_that_never_came(run: Callable[[str], Run]) -> None:
    outcome = run("some_failed").read()

    assert (outcome.status, outcome.n, outcome.n_failed) == ("scored", 24, 11)
    unanswered = [s for s in outcome.samples if s.prediction is None]
    assert len(unanswered) == 11
    assert {s.correct for s in unanswered} == {False}


@pytest.mark.parametrize("mode", ["all", "infer"])
def test_no_answer_at_all_fails_the_cell_though_upstream_scored_it(
    run: Callable[[str], Run], mode: str
) -> None:
    outcome = run("all_failed").read(mode, last_error="HTTP 404: no such model")

    assert (outcome.status, outcome.metrics) == ("failed", ())
    assert (outcome.n, outcome.n_failed) == (8, 8)
    assert outcome.error == (
        "no answer from http://h/v1 to any of 8 samples (HTTP 404: no such model)"
    )
    assert {s.prediction for s in outcome.samples} == {None}


def test_predictions_alone(run: Callable[[str], Run]) -> None:
    outcome = _without_grades(run("scored")).read("infer")

    assert (outcome.status, outcome.metrics, outcome.n) == ("infer_only", (), 48)
    assert {s.correct for s in outcome.samples} == {None}
    assert outcome.scorer == ""


def test_a_set_that_upstream_skipped(run: Callable[[str], Run]) -> None:
    outcome = run("scored").read(status="skipped", error="no judge", files={})

    assert outcome == CellOutcome("skipped", "upstream skipped it: no judge")


def test_a_percentage_is_one(run: Callable[[str], Run]) -> None:
    metrics = run("scored").read(dataset_type="VQA").metrics

    assert {m.unit for m in metrics} == {"percent"}


@pytest.mark.parametrize(
    ("dataset_class", "dataset_type", "value", "unit"),
    [
        ("OCRBench", "VQA", 80, "raw"),
        ("ImageCaptionDataset", "Caption", 812.0, "raw"),
        ("ImageYORNDataset", "Y/N", 81.2, "percent"),
        ("MMMUDataset", "MCQ_MMMU_Pro", 0.5, "fraction"),
    ],
)
def test_a_number_has_the_unit_of_its_kind(
    run: Callable[[str], Run], dataset_class: str, dataset_type: str, value: float, unit: str
) -> None:
    scored = run("scored")
    scored.change_status(metrics={"Overall": value})

    outcome = scored.read(dataset_class=dataset_class, dataset_type=dataset_type)
    assert [m.unit for m in outcome.metrics] == [unit]


JUDGE = JudgeSpec("qwen", "http://j/v1")


@pytest.mark.parametrize(
    ("judge", "finished", "scorer", "fallback"),
    [
        (JudgeSpec(), {}, "exact_matching", False),
        (JUDGE, {"judge_built": True}, "qwen", False),
        (JudgeSpec("gpt-4o"), {"judge_built": True}, "gpt-4o", False),
        (JUDGE, {"judge_built": True, "judge_fallback": True}, "exact_matching", True),
        (JUDGE, {"judge_fallback": True, "dataset_type": "VQA"}, "rule:acc", True),
        # A judge that upstream, or a plug-in, brings itself.
        (JudgeSpec(), {"judge_built": True, "judge_model": "gpt-4-0125"}, "gpt-4-0125", False),
        (JUDGE, {"dataset_type": "VQA"}, "rule:acc", False),
    ],
)
def test_the_scorer_is_what_really_graded(
    run: Callable[[str], Run],
    judge: JudgeSpec,
    finished: dict[str, Any],
    scorer: str,
    fallback: bool,
) -> None:
    outcome = run("scored").read(judge=judge, **finished)

    assert (outcome.status, outcome.scorer, outcome.judge_fallback) == ("scored", scorer, fallback)
    assert bool(outcome.error) is fallback
    assert outcome.n_judge_failed == 0


@pytest.mark.parametrize(
    ("failed", "fallback", "ungraded"), [(0, False, 3), (5, False, 5), (5, True, 0)]
)
def test_samples_without_a_grade_are_counted(
    run: Callable[[str], Run], failed: int, fallback: bool, ungraded: int
) -> None:
    scored = run("scored")
    of_the_judge = {
        "judge_built": True,
        "judge_failed": failed,
        "judge_fallback": fallback,
        "unread": ["0", "7", "31"],
    }

    outcome = scored.read(judge=JUDGE, **of_the_judge)
    assert (outcome.status, outcome.n_judge_failed) == ("scored", ungraded)
    assert scored.read().n_judge_failed == 0  # matched exactly: nothing was to be graded


def test_a_judge_of_the_dataset_is_the_scorer(run: Callable[[str], Run]) -> None:
    dataset = replace(SHAPES, judge=JudgeSpec("own", "http://k/v1"))
    outcome = run("scored").read(judge=JUDGE, dataset=dataset, judge_built=True)

    assert outcome.scorer == "own"


def test_answers_that_could_not_be_graded_are_kept(run: Callable[[str], Run]) -> None:
    error = "the judge qwen at http://j/v1 does not answer (HTTP 500)"
    of_the_judge = {"status": "failed", "error": error, "judge_built": True, "unjudged": True}
    scored = run("scored")
    outcome = scored.read(judge=JUDGE, **of_the_judge)

    assert (outcome.status, outcome.error, outcome.metrics) == ("failed", error, ())
    assert (outcome.n, outcome.n_failed, outcome.n_judge_failed) == (48, 0, 48)
    assert len(outcome.samples) == 48
    other = scored.read(judge=JUDGE, **{**of_the_judge, "unjudged": False})
    assert other.n_judge_failed is None


def test_grades_are_those_of_this_evaluation_alone(run: Callable[[str], Run]) -> None:
    outcome = run("scored").read(made=[])

    assert {s.correct for s in outcome.samples} == {s.score for s in outcome.samples} == {None}


def test_a_grade_is_a_verdict_where_it_is_a_truth_value(run: Callable[[str], Run]) -> None:
    scored = run("scored")
    graded = scored.upstream / "m_auxmatch.tsv"
    grades = {
        ("hit", "1"): (True, 1.0), ("hit", "0"): (False, 0.0), ("hit", "0.5"): (True, 0.5),
        ("score", "True"): (True, 1.0), ("score", "0.5"): (None, 0.5), ("hit", "x"): (None, None),
    }  # fmt: skip

    found = {}
    for column, grade in grades:
        graded.write_text(f"index\t{column}\n0\t{grade}\n")
        sample = scored.read(made=[str(graded)]).samples[0]
        found[column, grade] = (sample.correct, sample.score)
    assert found == grades


def test_why_a_sample_has_no_answer_and_how_the_others_ended(run: Callable[[str], Run]) -> None:
    failed = run("some_failed")
    unanswered = [s.index for s in failed.read().samples if s.prediction is None]
    answered = next(s.index for s in failed.read().samples if s.prediction)

    outcome = failed.read(
        errors=[["HTTP 500: x", unanswered[1:]], ["HTTP 400: y", [answered]]],
        finish=[["length", [answered]]],
        sent={"temperature": 0},
        reported={"model": "served-id", "judge": ""},
    )
    by_index = {s.index: s for s in outcome.samples}
    assert [by_index[i].error for i in unanswered] == ["", *["HTTP 500: x"] * 10]
    # What came at last is an answer.
    assert (by_index[answered].error, by_index[answered].finish) == ("", "length")
    assert outcome.notes == (
        "11 of 24 samples have no answer, 10 of them: HTTP 500: x",
        "1 of 24 answers were cut at max_tokens",
    )
    assert (outcome.sent, outcome.reported["model"]) == ({"temperature": 0}, "served-id")


def test_a_set_without_public_answers_keeps_what_was_predicted(run: Callable[[str], Run]) -> None:
    outcome = _without_grades(run("scored")).read(status="skipped", error="no ground truth")

    assert (outcome.status, outcome.metrics, outcome.n) == ("skipped", (), 48)
    assert outcome.error == "upstream does not score it: no ground truth"
    assert len(outcome.samples) == 48


@pytest.mark.parametrize(
    ("kind", "key", "place"),
    [
        ("Y/N", "split=Overall|aAcc", ("overall", "aAcc")),
        ("Y/N", "split=dev|precision", ("dev", "precision")),
        ("Caption", "Bleu|0", ("overall", "Bleu|0")),
    ],
)
def test_a_metric_with_a_name_of_its_own_keeps_it(
    run: Callable[[str], Run], kind: str, key: str, place: tuple[str, str]
) -> None:
    scored = run("scored")
    scored.change_status(metrics={key: 50.0})

    [metric] = scored.read(dataset_type=kind).metrics
    assert (metric.subset, metric.name) == place


@pytest.mark.parametrize(
    ("metrics", "named", "primary"),
    [
        ({"split=none|a": 1.0, "split=none|Overall": 2.0}, "Overall Acc", ("overall", 2.0)),
        ({"a": 1.0, "b": 2.0}, "b", ("b", 2.0)),
        ({"a": 1.0, "b": 2.0}, None, ("a", 1.0)),
        ({"split=dev|Overall": 1.0, "split=test|Overall": 2.0}, "Overall Acc", ("dev", 1.0)),
    ],
)
def test_exactly_one_metric_is_primary(
    run: Callable[[str], Run],
    metrics: dict[str, float],
    named: str | None,
    primary: tuple[str, float],
) -> None:
    scored = run("scored")
    scored.change_status(metrics=metrics, primary_metric=named)

    found = scored.read().metrics
    assert [(m.subset, m.value) for m in found if m.is_primary] == [primary]
    assert len(found) == len(metrics)


def test_splits_and_categories_are_subsets(run: Callable[[str], Run]) -> None:
    scored = run("scored")
    keys = ("split=dev|Overall", "split=dev|ocr", "split=none|ocr", "split=none|l2|ocr")
    scored.change_status(metrics=dict.fromkeys(keys, 0.5))

    assert [m.subset for m in scored.read().metrics] == ["dev", "dev/ocr", "ocr", "l2/ocr"]


@pytest.mark.parametrize("metrics", [{}, None])
def test_no_metric_fails_the_cell(run: Callable[[str], Run], metrics: Any) -> None:
    scored = run("scored")
    scored.change_status(metrics=metrics)

    outcome = scored.read()
    assert (outcome.status, outcome.error) == ("failed", "upstream reported no metric")
    assert len(outcome.samples) == 48


def test_metrics_without_an_accuracy_table_come_from_the_status(
    run: Callable[[str], Run],
) -> None:
    scored = run("scored")
    next(scored.upstream.glob("*_acc.csv")).unlink()

    metrics = scored.read().metrics
    assert {(m.name, m.source_file) for m in metrics} == {("score", scored.status)}


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"datasets": {}}'])
def test_an_unreadable_status_is_named(run: Callable[[str], Run], text: str | None) -> None:
    scored = run("scored")
    scored.status.unlink()
    if text is not None:
        scored.status.write_text(text)

    with pytest.raises(ResultsError, match=r"cannot read .*status\.json"):
        scored.read()


@pytest.mark.parametrize("text", [None, "", "index\tquestion\n0\tq\n"])
def test_unreadable_predictions_are_named(run: Callable[[str], Run], text: str | None) -> None:
    scored = run("scored")
    scored.prediction.unlink()
    if text is not None:
        scored.prediction.write_text(text)

    with pytest.raises(ResultsError, match=r"cannot read .*demo_shapes\.tsv"):
        scored.read("infer")


def test_predictions_that_upstream_never_named_are_our_error(run: Callable[[str], Run]) -> None:
    with pytest.raises(EvalshimError):
        run("scored").read(files={})


def test_pictures_of_a_sample_in_their_order(run: Callable[[str], Run]) -> None:
    scored = run("scored")
    for name in ["0.png", *(f"1_{i}.png" for i in range(12))]:
        (scored.images / name).touch()

    samples = scored.read().samples
    folder = "upstream/vlmeval/LMUData/images/demo_shapes"
    assert samples[0].images == (f"{folder}/0.png",)
    assert samples[1].images == tuple(f"{folder}/1_{i}.png" for i in range(12))
    assert samples[2].images == ()


@pytest.mark.parametrize(
    ("cell", "images"),
    [
        ("{}/a.png", ("{}/a.png",)),
        ("['{0}/a.png', '{0}/b.png']", ("{0}/a.png", "{0}/b.png")),
        ("[draft] a.png", ("upstream/vlmeval/LMUData/images/demo_shapes/[draft] a.png",)),
        ("{}/gone.png", ()),
    ],
)
def test_pictures_that_the_file_names(
    run: Callable[[str], Run], tmp_path: Path, cell: str, images: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    scored = _without_grades(run("scored"))
    for path in (data / "a.png", data / "b.png", scored.images / "[draft] a.png"):
        path.touch()
    text = cell.format(data)
    scored.prediction.write_text(f"index\timage_path\tprediction\n0\t{text}\tA\n")

    [sample] = scored.read("infer").samples
    assert sample.images == tuple(image.format(data) for image in images)


def test_text_that_looks_like_a_missing_value_stays_text(run: Callable[[str], Run]) -> None:
    scored = _without_grades(run("scored"))
    scored.prediction.write_text("index\tanswer\tA\tB\tprediction\n007\tNA\tNone\tnan\tNA\n")

    [sample] = scored.read("infer").samples
    assert (sample.index, sample.answer, sample.prediction) == ("007", "NA", "NA")
    assert sample.options == {"A": "None", "B": "nan"}
