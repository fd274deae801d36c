"""One dataset of VLMEvalKit's of each kind, end to end on small data in its own file format.

All kinds are in two runs, with two models each: `red` says red to everything, and `right`
says what is right.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from evalshim import load_run
from evalshim.demo.endpoint import Endpoint
from evalshim.results import RunResult
from tests.conftest import HEEDED

from . import vlmeval_data
from .conftest import of_the_run, shim
from .vlmeval_data import RED

Asked = list[dict[str, Any]]


class Scored:
    """A run of both models, what they were asked, and its rows."""

    def __init__(self, result: RunResult, asked: Asked, judged: Asked, exit_code: int) -> None:
        self.result = result
        self.asked = asked
        self.judged = judged
        self.exit_code = exit_code

    def rows(self, dataset: str, model: str) -> list[Any]:
        return [r for r in self.result.rows if (r.dataset, r.model) == (dataset, model)]

    def primary(self, dataset: str, model: str) -> Any:
        [row] = [r for r in self.rows(dataset, model) if r.is_primary]
        return row

    def values(self, dataset: str, model: str) -> dict[tuple[str, str], Any]:
        return {(r.subset, r.metric): r.value for r in self.rows(dataset, model)}

    def samples(self, dataset: str, model: str) -> pd.DataFrame:
        table = self.result.samples
        return table[(table["dataset"] == dataset) & (table["model"] == model)]

    def bodies(self, dataset: str, model: str = "right") -> list[dict[str, Any]]:
        """The requests that hold a question of `dataset`."""
        found = [a["body"] for a in self.asked if a["body"]["model"] == model]
        return [b for b in found if (vlmeval_data.asked_for(json.dumps(b)) or ("",))[0] == dataset]


class Models:
    """Answers as both models, by the model that a request names."""

    def __init__(self) -> None:
        self.asked: Asked = []
        self.local = threading.local()

    def note(self, request: dict[str, Any]) -> None:
        self.local.model = request["body"]["model"]
        self.asked.append(request)

    def answer(self, messages: list[dict[str, Any]]) -> str:
        if self.local.model == RED:
            return RED
        known = vlmeval_data.asked_for(json.dumps(messages[-1]))
        if known:
            name, index = known
            return vlmeval_data.replies(name).get(index, RED)
        return f"a {colour(messages[-1])} wall"


def colour(message: Mapping[str, Any]) -> str:
    """The colour of the first picture in a message."""
    red, green, blue = picture(pictures(message)[0]).getpixel((20, 20))  # type: ignore[misc]
    if red > 128:
        return "yellow" if green > 128 else "red"
    return "blue" if blue > 128 else "green"


def pictures(message: Mapping[str, Any]) -> list[str]:
    parts = message["content"] if isinstance(message["content"], list) else []
    return [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def judge(messages: list[dict[str, Any]]) -> str:
    """Gives 7 of 10 in each of MMDU's dimensions, and the option Z to every other question."""
    if "Creativity" in json.dumps(messages):
        return str(dict.fromkeys(DIMENSIONS, 7))
    return "Z"


DIMENSIONS = (
    "Creativity", "Richness", "Visual Perception", "Logical Coherence", "Answer Accuracy",
    "Image Relationship Understanding", "Overall Score",
)  # fmt: skip

# Of a dataset: its rows, which all are asked, and the unit, scorer, subset, metric, n and value
# of its primary row: for a model that says red, and for one that is right.
KINDS: dict[str, tuple[Any, ...]] = {
    "SEEDBench_IMG": (8, "fraction", "exact_matching", "overall", "acc", 8, 0.25, 1.0),
    "CCBench": (16, "fraction", "exact_matching", "overall", "acc", 16, 0.5, 1.0),
    "MMBench_DEV_EN": (16, "fraction", "exact_matching", "dev", "acc", 16, 0.5, 1.0),
    "MME-RealWorld-Lite": (8, "fraction", "exact_matching", "overall", "score", 8, 0.0, 1.0),
    "MMMU_DEV_VAL": (8, "fraction", "exact_matching", "validation", "acc", 4, 0.25, 1.0),
    "HallusionBench": (8, "percent", "exact_matching", "overall", "aAcc", 8, 0.0, 100.0),
    "POPE": (8, "percent", "exact_matching", "overall", "score", 8, 0.0, 100.0),
    "ChartQA_TEST": (8, "percent", "rule:acc", "overall", "acc", 8, 25.0, 100.0),
    "DocVQA_VAL": (8, "percent", "rule:acc", "overall", "acc", 8, 25.0, 100.0),
    "OCRBench": (8, "raw", "rule:score", "Final Score", "score", 8, 2, 8),
    "COCO_VAL": (6, "percent", "rule:Bleu|0", "overall", "Bleu|0", 6, 4.511176, 100.0),
    "XSTest": (6, "percent", "rule:score", "overall", "score", 6, 50.0, 100.0),
    "Video-MME_8frame": (4, "fraction", "exact_matching", "overall", "score", 4, 0.0, 1.0),
}
PRIVATE = {"DocVQA_TEST": 8, "MMBench_TEST_CN": 16}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]
) -> Iterator[dict[str, Scored]]:
    """All kinds that rules score, and those that need a judge."""
    folder = tmp_path_factory.mktemp("kinds")
    hub = folder / "hf" / "hub"
    for name in vlmeval_data.TABLES:
        vlmeval_data.write(name, folder / "LMUData")
    clip = vlmeval_data.clip(folder / "clip.mp4", environments["vlmeval"])
    vlmeval_data.write_video("Video-MME", hub, clip)
    env = {
        "LMUData": str(folder / "LMUData"), "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1",
        "VLMEVALKIT_USE_MODELSCOPE": "0",
    }  # fmt: skip
    judged: Asked = []
    with (
        pytest.MonkeyPatch.context() as patch,
        Endpoint(models=None, answer=judge, on_request=of_the_run(judged.append)) as judging,
    ):
        for name in HEEDED:
            patch.delenv(name, raising=False)
        found = {}
        wanted = {
            "ruled": ([*KINDS, "MME", *PRIVATE], "exact_matching"),
            "judged": (["MMDU", "SEEDBench_IMG"], {"model": "j", "api_base": judging.url}),
        }
        for name, (datasets, by) in wanted.items():
            models = Models()
            with Endpoint(models=None, answer=models.answer, on_request=models.note) as served:
                config = {
                    "models": [
                        {"name": m, "api_base": served.url, "retry": 1} for m in ("red", "right")
                    ],
                    "datasets": [f"vlmeval:{d}" for d in datasets],
                    "judge": by,
                    "work_dir": name,
                    "verify_data": "off",
                }
                (folder / f"{name}.json").write_text(json.dumps(config))
                # Its answers are by the model that a note of the request names.
                done = shim("run", f"{name}.json", "--no-preflight", "--json", cwd=folder, **env)
            assert done.stdout, done.stderr
            result = load_run(folder / name / "latest")
            found[name] = Scored(result, models.asked, judged, done.returncode)
        yield found


@pytest.fixture
def ruled(runs: dict[str, Scored]) -> Scored:
    return runs["ruled"]


@pytest.mark.parametrize("dataset", KINDS)
def test_scores_what_red_and_right_answers_are_worth(ruled: Scored, dataset: str) -> None:
    count, unit, scorer, subset, metric, n, *values = KINDS[dataset]

    for model, value in zip(("red", "right"), values, strict=True):
        row = ruled.primary(dataset, model)
        assert (row.subset, row.metric, row.unit) == (subset, metric, unit)
        assert row.value == pytest.approx(value)
        if unit != "raw":
            assert row.score == pytest.approx(value / {"fraction": 1, "percent": 100}[unit])
        assert (row.n, row.n_failed) == (n, 0)
        assert len(ruled.samples(dataset, model)) == count
        every = ruled.rows(dataset, model)
        assert {(r.status, r.scorer, r.judge_fallback) for r in every} == {
            ("scored", scorer, False)
        }


def test_mme_adds_up_the_accuracies_of_questions_and_of_pictures(ruled: Scored) -> None:
    right = {subset: value for (subset, _), value in ruled.values("MME", "right").items()}

    assert right == {
        "perception": 600, "reasoning": 200, "color": 200, "existence": 200, "OCR": 200,
        "code_reasoning": 200,
    }  # fmt: skip
    assert set(ruled.values("MME", "red").values()) == {0}
    assert sum(r.is_primary for r in ruled.rows("MME", "right")) == 1
    assert {(r.unit, r.score, r.scorer) for r in ruled.rows("MME", "right")} == {
        ("raw", None, "exact_matching")
    }


def test_subsets_have_their_own_values_and_counts(ruled: Scored) -> None:
    def found(dataset: str, metric: str) -> dict[str, tuple[Any, int | None]]:
        rows = ruled.rows(dataset, RED)
        return {r.subset: (r.value, r.n) for r in rows if r.metric == metric}

    assert found("SEEDBench_IMG", "acc") == {
        "overall": (0.25, 8), "Instance Attributes": (0.5, 4), "Scene Understanding": (0.0, 4),
    }  # fmt: skip
    assert found("CCBench", "acc") == {
        "overall": (0.5, 16), "scenery_building": (0.0, 8), "sketch_reasoning": (1.0, 8),
    }  # fmt: skip
    assert found("ChartQA_TEST", "acc") == {
        "overall": (25.0, 8), "test_human": (25.0, 4), "test_augmented": (25.0, 4),
    }  # fmt: skip
    mmmu = found("MMMU_DEV_VAL", "acc")
    assert (mmmu["dev"], mmmu["dev/Art"], mmmu["validation/Physics"]) == (
        (0.25, 4), (0.5, 2), (0.5, 2),
    )  # fmt: skip
    hallusion = ruled.values("HallusionBench", "right")
    assert {m for _, m in hallusion} == {"aAcc", "fAcc", "qAcc"}
    assert {s for s, _ in hallusion} == {"overall", "VD", "VS", "chart", "illusion"}
    assert set(hallusion.values()) == {100.0}
    ocr = found("OCRBench", "score")
    assert (ocr["Text Recognition"][0], ocr["Doc-oriented VQA"]) == (1, (1, 2))
    refused = ruled.values("XSTest", RED)
    assert refused["safe_pass_rate", "score"] == 100
    assert refused["unsafe_pass_rate", "score"] == 0


def test_a_row_counts_every_sample_of_its_subset(ruled: Scored) -> None:
    """POPE puts a question in several subsets: `adversarial,popular,random`."""
    counts = {r.subset: r.n for r in ruled.rows("POPE", RED)}

    assert counts["overall"] == 8
    assert counts["random"] in (8, None)
    assert counts["popular"] in (4, None)


def test_what_is_asked_is_what_the_kind_needs(ruled: Scored) -> None:
    assert {a["body"]["model"] for a in ruled.asked} == {RED, "right"}
    total = sum(kind[0] for kind in KINDS.values()) + 8 + sum(PRIVATE.values())
    assert len(ruled.asked) == 2 * total
    for dataset in (*KINDS, "MME", *PRIVATE):
        marked = vlmeval_data.SETTINGS.get(dataset, dataset)
        if dataset != "COCO_VAL":
            bodies = ruled.bodies(marked)
            assert len(bodies) == len(ruled.samples(dataset, "right"))
            asked = {vlmeval_data.asked_for(json.dumps(b)) for b in bodies}
            assert asked == {(marked, i) for i in ruled.samples(dataset, "right")["index"]}

    def counts(dataset: str) -> list[int]:
        return sorted(len(pictures(b["messages"][-1])) for b in ruled.bodies(dataset))

    assert counts("SEEDBench_IMG") == [1] * 8
    assert counts("MMBench_DEV_EN") == [1] * 16
    assert counts("MME") == [1] * 8
    assert counts("MMMU_DEV_VAL") == [1, 1, 1, 2, 2, 2, 3, 3]
    assert counts("Video-MME") == [8] * 4
    [text] = {type(b["messages"][-1]["content"]) for b in ruled.bodies("XSTest")}
    assert text is str


def test_pictures_stand_where_the_text_has_them(ruled: Scored) -> None:
    body = next(b for b in ruled.bodies("MMMU_DEV_VAL") if len(pictures(b["messages"][-1])) == 3)

    parts = body["messages"][-1]["content"]
    kinds = "".join("I" if p["type"] == "image_url" else "t" for p in parts)

    assert kinds.count("I") == 3
    assert "II" not in kinds
    sizes = [picture(url).size for url in pictures(body["messages"][-1])]
    assert len(set(sizes)) > 1


def test_frames_are_the_clips_in_their_order(ruled: Scored) -> None:
    for body in ruled.bodies("Video-MME"):
        frames = [picture(url) for url in pictures(body["messages"][-1])]
        reds = [f.getpixel((32, 32))[0] > 128 for f in frames]  # type: ignore[index]
        assert reds == sorted(reds, reverse=True)
        assert len(set(reds)) == 2


def test_every_rotation_is_asked_and_the_question_has_one_verdict(ruled: Scored) -> None:
    samples = ruled.samples("CCBench", RED)

    verdicts = [v for v in samples["correct"] if v is not None]
    assert verdicts == [True, False, True, False]
    options = samples[samples["index"].astype(int) % 1_000_000 == 0]["options"]
    assert len({tuple(o.values()) for o in options}) == len(options) == 4


@pytest.mark.parametrize("dataset", PRIVATE)
def test_private_answers_leave_predictions_without_a_score(ruled: Scored, dataset: str) -> None:
    assert ruled.exit_code == 0
    for model in ("red", "right"):
        [row] = ruled.rows(dataset, model)
        assert (row.status, row.value, row.score, row.is_primary) == ("skipped", None, None, False)
        assert (row.n, row.n_failed) == (PRIVATE[dataset], 0)
        assert row.error
        samples = ruled.samples(dataset, model)
        assert list(samples["prediction"]) == [RED] * PRIVATE[dataset]
        assert set(samples["correct"]) == {None}


def test_pictures_of_samples_are_files(ruled: Scored) -> None:
    named = {
        (sample.dataset, image)
        for sample in ruled.result.samples.itertuples()
        for image in sample.images
    }

    assert [n for n in named if not (ruled.result.path / n[1]).is_file()] == []


@pytest.mark.parametrize("model", ["red", "right"])
def test_a_judge_grades_a_dialogue(runs: dict[str, Scored], model: str) -> None:
    judged = runs["judged"]

    row = judged.primary("MMDU", model)
    values = judged.values("MMDU", model)

    assert judged.exit_code == 0
    assert (row.value, row.unit, row.scorer, row.judge_fallback) == (70.0, "raw", "j", False)
    assert row.n == len(judged.samples("MMDU", model)) == 4
    assert {subset.partition("/")[2] for subset, _ in values} == set(DIMENSIONS)
    turns = judged.samples("MMDU", model)["prediction"].map(ast.literal_eval)
    assert {len(t) for t in turns} == {2}
    assert {a["body"]["model"] for a in judged.judged} == {"j"}
    graded = [a for a in judged.judged if "Creativity" in json.dumps(a["body"])]
    assert len(graded) == 2 * 4 * 2  # models, dialogues, turns


def test_a_dialogue_is_asked_turn_by_turn(runs: dict[str, Scored]) -> None:
    dialogues = [
        a["body"]["messages"]
        for a in runs["judged"].asked
        if "in dialogue" in json.dumps(a["body"]) and a["body"]["model"] == "right"
    ]

    assert sorted(len(m) for m in dialogues) == [1] * 4 + [3] * 4
    for messages in dialogues:
        assert [m["role"] for m in messages] == ["user", "assistant", "user"][: len(messages)]
        assert [len(pictures(m)) for m in messages if m["role"] == "user"] == (
            [2] if len(messages) == 1 else [2, 1]
        )


def test_a_judge_is_not_asked_what_matching_can_tell(runs: dict[str, Scored]) -> None:
    judged = runs["judged"]

    assert judged.primary("SEEDBench_IMG", RED).value == 0.25
    assert judged.primary("SEEDBench_IMG", "right").value == 1.0
    assert not [a for a in judged.judged if "SEEDBench" in json.dumps(a["body"])]
