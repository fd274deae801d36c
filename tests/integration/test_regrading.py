"""What a run that goes on grades once more: all that it could not grade before, and no more."""

from __future__ import annotations

import csv
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo.endpoint import Endpoint
from tests.conftest import as_base64, picture

from . import chaos, tiny_lm
from .conftest import rows, shim
from .opencompass_data import write
from .test_judges import SUMS

N = 6
GRADES = "[Begin Correctness]yes[End Correctness][Begin Reason]so it is[End Reason]"
# What no rule reads a letter from.
WORDY = "It is surely the first of them"


@dataclass
class Voice:
    """Says one thing; nothing about the samples that are `broken`, nothing more after `lives`.

    Nor about those of `lost_once` the first time. About those in `nonsense`, and where it reads
    the words `puzzling`, it says what no rule reads.
    """

    says: str
    broken: set[int] = field(default_factory=set)
    lost_once: set[int] = field(default_factory=set)
    nonsense: set[int] = field(default_factory=set)
    puzzling: str = "-never-"
    lives: int = 1000
    asked: list[str] = field(default_factory=list)

    def answer(self, messages: list[dict[str, Any]]) -> str:
        text = json.dumps(messages)
        self.asked.append(text)
        about = {k for k in range(N) if f"number {k}?" in text}
        if len(self.asked) > self.lives or about & {*self.broken, *self.lost_once}:
            self.lost_once -= about
            raise ConnectionAbortedError("not now")
        if about & self.nonsense or self.puzzling in text:
            return "The weather is fine"
        # What upstream shows a judge where a model did not answer.
        return "Z" if "Failed to obtain answer" in text else self.says

    def about_samples(self) -> list[str]:
        """What was asked since the last time, but whether it is there."""
        found = [text for text in self.asked if "number " in text]
        self.asked.clear()
        return found


@dataclass
class Setting:
    folder: Path
    model: Voice
    judge: Voice
    urls: tuple[str, str]

    @property
    def served(self) -> dict[str, Any]:
        return {"name": "m", "api_base": self.urls[0], "model": "m", "retry": 1}

    def run(
        self, *datasets: dict[str, Any], judge: dict[str, Any] | None = None, **keys: Any
    ) -> subprocess.CompletedProcess[str]:
        config = {
            "models": [self.served],
            "judge": {"model": "j", "api_base": self.urls[1], "retry": 1, **(judge or {})},
            "datasets": datasets,
            "retries": 0,
            **keys,
        }
        (self.folder / "eval.json").write_text(json.dumps(config))
        return shim("run", "eval.json", "--no-preflight", "--json", cwd=self.folder)

    def go_on(self, *args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = shim("resume", *args, "--no-preflight", "--json", cwd=self.folder)
        assert done.returncode == code, done.stderr
        return done

    def correct(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for sample in chaos.samples(self.folder):
            found.setdefault(sample["dataset"], []).append(sample["correct"])
        return found


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    model, judge = Voice("A"), Voice("A")
    with (
        Endpoint(models=None, answer=model.answer) as answering,
        Endpoint(models=None, answer=judge.answer) as judging,
    ):
        yield Setting(tmp_path, model, judge, (answering.url, judging.url))


def choices(path: Path, circular: bool = False) -> dict[str, Any]:
    """Six questions, of which the first option is right; circular: asked in a second order."""
    table = [["index", "g_index", "question", "A", "B", "answer", "image"]]
    for k in range(N):
        for turn in (0, 1_000_000) if circular else (0,):
            asked = f"What is number {k}?" if not turn else f"And the other way, number {k}?"
            table.append([str(turn + k), str(k), asked, "cat", "dog", "A", as_base64(picture())])
    if not circular:
        table = [[cell for place, cell in enumerate(line) if place != 1] for line in table]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(table)
    return {"name": path.stem, "path": str(path)}


def said(path: Path) -> dict[str, Any]:
    """Six questions whose answers a judge compares."""
    lines = "".join(f"{k}\tWhat is number {k}?\tit\n" for k in range(N))
    path.write_text(f"index\tquestion\tanswer\n{lines}")
    return {"name": path.stem, "path": str(path), "format": "vqa", "scorer": "judge"}


def sums(path: Path) -> dict[str, Any]:
    """Six questions of a set of OpenCompass's, whose answers a judge compares."""
    asked = [f"Of {path.stem}, what is number {k}?" for k in range(N)]
    lines = [{"origin_prompt": question, "gold_answer": 1} for question in asked]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"name": path.stem, "dataset": f"opencompass:{SUMS}", "path": str(path)}


def local_model(weights: Path, python: Path) -> dict[str, Any]:
    """A tiny model that OpenCompass loads into its own process."""
    subprocess.run([python, tiny_lm.__file__, weights], check=True, timeout=200)
    on_the_cpu = {"model_kwargs": {"device_map": "cpu"}, "max_seq_len": 512}
    model = {"name": "tiny", "class": "hf_qwen2_0_5b", "model_path": str(weights)}
    return {**model, "max_tokens": 4, "upstream": on_the_cpu}


def primary(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {row["dataset"]: row for row in rows(done) if row["is_primary"]}


def test_a_sample_that_is_answered_at_last_is_graded_anew(setting: Setting) -> None:
    """Of the others the judge is not asked again."""
    setting.model.says = WORDY
    setting.model.broken = {3}
    sets = [
        choices(setting.folder / "plain.tsv"),
        choices(setting.folder / "circular_one.tsv", circular=True),
    ]
    before = setting.run(*sets)
    assert before.returncode == 1
    failed = {name: row["n_failed"] for name, row in primary(before).items()}
    assert failed == {"plain": 1, "circular_one": 2}
    assert all(row["score"] == pytest.approx((N - 1) / N) for row in primary(before).values())
    assert len(setting.judge.about_samples()) >= 3 * (N - 1)
    setting.model.broken = set()
    setting.model.asked.clear()

    after = primary(setting.go_on())

    assert len(setting.model.about_samples()) == 3
    assert {row["score"] for row in after.values()} == {1.0}
    assert not [c for found in setting.correct().values() for c in found if c is False]
    again = setting.judge.about_samples()
    assert again and all("number 3?" in text for text in again)


def test_what_is_graded_as_missing_meanwhile_is_graded_anew(setting: Setting) -> None:
    """A process that only scores knows of no sample that it asked in vain."""
    setting.model.says = WORDY
    setting.model.broken = {3}
    assert setting.run(choices(setting.folder / "one.tsv")).returncode == 1
    setting.go_on("--set", "mode=eval", code=1)
    setting.model.broken = set()
    setting.judge.about_samples()

    after = primary(setting.go_on("--set", "mode=all"))["one"]

    assert (after["n_failed"], after["score"]) == (0, 1.0)
    again = setting.judge.about_samples()
    assert again and all("number 3?" in text for text in again)


@pytest.mark.parametrize("kind", ["choices", "said", "opencompass", "opencompass-reused"])
def test_what_the_judge_left_ungraded_is_graded(
    setting: Setting, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.model.says = WORDY
    setting.judge.broken = {2}
    if kind.startswith("opencompass"):
        path = setting.folder / "data" / "aime.jsonl"
        path.parent.mkdir()
        lines = [{"origin_prompt": f"What is number {k}?", "gold_answer": 1} for k in range(N)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        monkeypatch.setenv("COMPASS_DATA_CACHE", str(setting.folder))
        dataset = {"name": "one", "dataset": f"opencompass:{SUMS}"}
    elif kind == "said":
        setting.judge.says = GRADES
        dataset = said(setting.folder / "one.tsv")
    else:
        dataset = choices(setting.folder / "one.tsv")
    if kind.endswith("reused"):
        assert setting.run(dataset, mode="infer").returncode == 0
    before = setting.run(dataset, reuse=kind.endswith("reused"))
    assert before.returncode == 1, before.stderr
    assert primary(before)["one"]["n_judge_failed"] == 1
    setting.judge.broken = set()
    setting.judge.about_samples()
    setting.model.asked.clear()

    after = primary(setting.go_on())["one"]

    assert setting.model.about_samples() == []
    assert (after["n_judge_failed"], after["score"], after["scorer"]) == (0, 1.0, "j")
    again = setting.judge.about_samples()
    assert again and all("number 2?" in text for text in again)


@pytest.mark.parametrize("kind", ["served", "local"])
def test_only_of_what_was_no_verdict_is_the_judge_asked_again(
    setting: Setting, kind: str, environments: dict[str, Path]
) -> None:
    """A local model is evaluated in one process, and so is one of an endpoint beside it."""
    models = [setting.served]
    if kind == "local":
        models.append(local_model(setting.folder / "lm", environments["opencompass"]))
    setting.judge.puzzling = "Of two, what is number 2?"

    def graded(done: subprocess.CompletedProcess[str]) -> Counter[tuple[Any, ...]]:
        return Counter(
            (row["dataset"], row["n_judge_failed"], row["scorer"], round(row["score"], 2))
            for row in rows(done)
            if row["is_primary"] and row["status"] == "scored"
        )

    n = len(models)
    lacking = {("one", 0, "j", 1.0): n, ("two", 1, "j", 0.83): n}
    before = setting.run(
        *(sums(setting.folder / f"{s}.jsonl") for s in ("one", "two")), models=models
    )
    assert before.returncode == 1, before.stderr
    assert len(setting.judge.about_samples()) == 2 * N * n
    assert graded(before) == lacking
    setting.model.asked.clear()

    assert graded(setting.go_on(code=1)) == lacking
    again = setting.judge.about_samples()
    assert [setting.judge.puzzling in text for text in again] == [True] * n

    setting.judge.puzzling = "-never-"
    assert graded(setting.go_on()) == {("one", 0, "j", 1.0): n, ("two", 0, "j", 1.0): n}
    again = setting.judge.about_samples()
    assert ["Of two, what is number 2?" in text for text in again] == [True] * n
    assert setting.model.about_samples() == []


def yes_or_no(path: Path) -> dict[str, Any]:
    """Six questions to which the answer is yes."""
    lines = [[str(k), f"Is it number {k}?", "Yes", as_base64(picture())] for k in range(N)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    path.write_text(f"index\tquestion\tanswer\timage\n{text}")
    return {"name": path.stem, "path": str(path), "class": "ImageYORNDataset"}


MADE = {"choices": choices, "said": said, "yes_or_no": yes_or_no}
RIGHT = {"choices": "A", "said": GRADES, "yes_or_no": "Yes"}


def judged(setting: Setting, kind: str) -> dict[str, Any]:
    """A set of which each sample takes the judge, who says that it is right."""
    setting.model.says, setting.judge.says = WORDY, RIGHT[kind]
    return MADE[kind](setting.folder / "one.tsv")


@pytest.mark.parametrize("kind", MADE)
def test_what_upstream_could_not_read_of_the_judge_is_graded(setting: Setting, kind: str) -> None:
    dataset = judged(setting, kind)
    setting.judge.nonsense = {2}
    before = setting.run(dataset)
    assert before.returncode == 1, before.stderr
    assert primary(before)["one"]["n_judge_failed"] == 1
    setting.judge.about_samples()

    still = primary(setting.go_on(code=1))["one"]

    assert (still["n_judge_failed"], still["scorer"]) == (1, "j")
    again = setting.judge.about_samples()
    assert again and all("number 2?" in text for text in again)
    setting.judge.nonsense = set()

    after = primary(setting.go_on())["one"]

    assert (after["n_judge_failed"], after["score"], after["scorer"]) == (0, 1.0, "j")
    again = setting.judge.about_samples()
    assert again and all("number 2?" in text for text in again)


@pytest.mark.parametrize("kind", MADE)
def test_what_the_judge_graded_at_another_try_is_not_graded_again(
    setting: Setting, kind: str
) -> None:
    dataset = judged(setting, kind)
    setting.model.broken, setting.judge.lost_once = {3}, {2}
    before = primary(setting.run(dataset))["one"]
    assert (before["n_failed"], before["n_judge_failed"]) == (1, 0)
    assert len([t for t in setting.judge.about_samples() if "number 2?" in t]) == 2
    setting.model.broken = set()

    after = primary(setting.go_on())["one"]

    assert (after["n_judge_failed"], after["score"]) == (0, 1.0)
    again = setting.judge.about_samples()
    assert again and all("number 3?" in text for text in again)


def test_a_set_of_sets_is_graded_where_it_lacks(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its parts counts its samples from 0, in files of its own name (MTL_MMBench_DEV)."""
    parts = [f"MMBench_dev_{tongue}" for tongue in ("ar", "cn", "en", "pt", "ru", "tr")]
    for name in parts:
        choices(setting.folder / f"{name}.tsv")
    monkeypatch.setenv("LMUData", str(setting.folder))
    setting.model.says, setting.model.broken, setting.judge.nonsense = WORDY, {3}, {2}
    before = setting.run({"name": "one", "dataset": "MTL_MMBench_DEV"}, verify_data="off")
    assert before.returncode == 1
    row = primary(before)["one"]
    assert (row["n"], row["n_failed"], row["n_judge_failed"]) == (N, 1, 6), before.stderr
    failed = [s for s in chaos.samples(setting.folder) if s["prediction"] is None]
    assert {s["subset"] for s in failed} == {*parts}
    setting.model.broken = setting.judge.nonsense = set()
    setting.judge.about_samples()
    setting.model.asked.clear()

    after = primary(setting.go_on())["one"]

    assert (after["n_failed"], after["n_judge_failed"], after["score"]) == (0, 0, 1.0)
    assert setting.correct()["one"] == [True] * 6 * N
    assert len(setting.model.about_samples()) == 6
    again = setting.judge.about_samples()
    assert len(again) >= 12
    assert all("number 2?" in text or "number 3?" in text for text in again)


# Ends the first process that graded all, before evalshim knows that it did.
KILLED = """
import functools, os, signal
from vlmeval.dataset.image_shortqa import ImageShortQADataset
from vlmeval.dataset.image_yorn import ImageYORNDataset
def then_killed(evaluate):
    @functools.wraps(evaluate)
    def evaluated(self, eval_file, **judge):
        found = evaluate(self, eval_file, **judge)
        if not os.path.exists("{place}"):
            open("{place}", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return evaluated
for cls in (ImageShortQADataset, ImageYORNDataset):
    cls.evaluate = then_killed(cls.evaluate)
"""


@pytest.mark.parametrize(("kind", "nonsense"), [("said", set()), ("said", {2}), ("yes_or_no", {2})])
def test_what_a_killed_process_graded_is_the_judges(
    setting: Setting, kind: str, nonsense: set[int]
) -> None:
    dataset = judged(setting, kind)
    setting.judge.nonsense = set(nonsense)
    (setting.folder / "killed.py").write_text(KILLED.format(place=setting.folder / "killed"))
    [cut] = rows(setting.run(dataset, plugins=["killed.py"]))
    assert cut["status"] == "failed", cut["error"]
    setting.judge.nonsense = set()
    setting.judge.about_samples()

    after = primary(setting.go_on())["one"]

    assert (after["n_judge_failed"], after["score"], after["scorer"]) == (0, 1.0, "j")
    header = json.loads((setting.folder / "outputs/latest/run.json").read_text())
    assert [cell["judge"]["reported"] for cell in header["cells"].values()] == ["j"]
    again = setting.judge.about_samples()
    assert bool(again) is bool(nonsense) and all("number 2?" in text for text in again)


@pytest.mark.parametrize(
    ("name", "circular", "lives"),
    [("circular_one", False, 3), ("circular_one", True, 3), ("plain", False, 0)],
)
def test_what_was_matched_exactly_for_want_of_a_judge_is_graded_by_it(
    setting: Setting, name: str, circular: bool, lives: int
) -> None:
    """And the predictions stay, which upstream writes once more where a set is circular."""
    setting.model.says = WORDY
    setting.judge.lives = lives
    dataset = choices(setting.folder / f"{name}.tsv", circular)
    before = primary(setting.run(dataset, judge={"fallback": "allow", "nproc": 1}))
    [row] = before.values()
    assert row["status"] == "scored", row["error"]
    assert (row["judge_fallback"], row["scorer"]) == (True, "exact_matching")
    setting.judge.lives = 1000
    setting.model.asked.clear()

    [row] = primary(setting.go_on()).values()

    assert setting.model.about_samples() == []
    assert (row["judge_fallback"], row["scorer"], row["score"]) == (False, "j", 1.0)
    assert row["n_judge_failed"] == 0


SWALLOWS = """
from vlmeval.dataset import CustomTextMCQDataset
from vlmeval.dataset.utils import build_judge
evaluate = CustomTextMCQDataset.evaluate
def swallowing(self, eval_file, **judge):
    # As ChartX and ChartBench (0.0.20) do.
    try:
        found = build_judge(**judge)
        assert found.working()
    except BaseException:
        judge["model"] = "exact_matching"
    return evaluate(self, eval_file, **judge)
CustomTextMCQDataset.evaluate = swallowing
"""


def test_a_stop_that_upstream_swallows_makes_no_score(setting: Setting) -> None:
    setting.model.says = WORDY
    (setting.folder / "swallows.py").write_text(SWALLOWS)
    (setting.folder / "one.tsv").write_text(
        "index\tquestion\tA\tB\tanswer\n"
        + "".join(f"{k}\tWhat is number {k}?\tcat\tdog\tA\n" for k in range(N))
    )
    dataset = {"name": "one", "path": str(setting.folder / "one.tsv")}
    stopped = setting.run(dataset, max_requests=N, plugins=["swallows.py"])
    assert stopped.returncode == 1
    [row] = rows(stopped)
    assert (row["status"], row["value"]) == ("failed", None)
    assert "max_requests" in row["error"]

    after = primary(setting.go_on("--set", "max_requests=100000"))["one"]

    assert (after["status"], after["value"], after["scorer"]) == ("scored", 1.0, "j")


def test_two_configurations_of_one_set_never_get_one_anothers_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream names what it keeps of a set by a name that both have."""
    write("gsm8k", tmp_path)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    broken = [True]
    asked = Counter[str]()

    def answer(messages: list[dict[str, Any]]) -> str:
        text = json.dumps(messages)
        kind = "third" if "Please put" in text else "zero" if "boxed" in text else "few"
        asked[kind] += 1
        if broken[0] and kind == "zero" and "5 plus 2" in text:
            raise ConnectionAbortedError("not now")
        return f"this is {kind}"

    def of(dataset: str) -> list[str | None]:
        return [s["prediction"] for s in chaos.samples(tmp_path) if s["dataset"] == dataset]

    few = {"name": "few", "dataset": "opencompass:gsm8k_gen_1d7fe4"}
    zero = {"name": "zero", "dataset": "opencompass:gsm8k_0shot_gen_a58960"}
    with Endpoint(models=None, answer=answer) as served:
        model = {"name": "m", "api_base": served.url, "model": "m", "retry": 1}
        config = {"models": [model], "datasets": [few, zero], "retries": 0}
        path = tmp_path / "eval.json"
        path.write_text(json.dumps(config))
        first = shim("run", path, "--no-preflight", cwd=tmp_path)
        assert first.returncode == 1, first.stderr
        assert None in of("zero") and set(of("few")) == {"this is few"}
        broken[0] = False
        asked.clear()

        again = shim("resume", "--no-preflight", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert asked == {"zero": 1}
        assert set(of("zero")) == {"this is zero"}

        # A new one of the set, now the first, is asked too; to reuse the run mixes none.
        other = {"name": "third", "dataset": "opencompass:gsm8k_0shot_nocot_gen_6cbf22"}
        config["datasets"] = [other, zero, few]
        path.write_text(json.dumps(config))
        asked.clear()
        third = shim("run", path, "--resume", "--no-preflight", cwd=tmp_path)
        assert third.returncode == 0, third.stderr
        assert asked == {"third": 4}
        assert (set(of("third")), set(of("zero"))) == ({"this is third"}, {"this is zero"})
        asked.clear()
        reusing = shim("run", path, "--reuse", "--no-preflight", cwd=tmp_path)
        assert reusing.returncode == 0, reusing.stderr
        assert not asked
        for name in ("few", "zero", "third"):
            assert set(of(name)) == {f"this is {name}"}
