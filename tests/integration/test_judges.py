"""Judges that work, die, err and talk nonsense: what a run says of each.

One run for each upstream has them all: a cell is a dataset of the user's, or of OpenCompass's,
with a judge of its own. The model says everything in words that no rule of upstream's
understands, so that every sample needs a verdict; half of the answers are right.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .conftest import rows, shim, without_heeded
from .faulty import ALIVE, NONSENSE, Faulty, amount, word
from .own_data import tsv
from .test_parity import _TOKENIZER, upstream
from .vlmeval_data import picture

pytestmark = pytest.mark.timeout(1200)

N = 20
BACKEND = {"mcq": "vlmeval", "yn": "vlmeval", "vqa": "vlmeval", "oc": "opencompass"}
KINDS = tuple(BACKEND)
# Those that upstream can match without a judge.
MATCHED = ("mcq", "yn")
# A name of upstream's: sums with a GenericLLMEvaluator, in one file.
SUMS = "aime2024_llmjudge_gen_5e9f4f"
GRADED = ("good", "slow")
BROKEN = ("dead", "halfway")
# Of each cell: the state of its judge, and what is done where that fails.
STATES = (*GRADED, "errors30", "nonsense", *BROKEN)
FALLBACKS = ("error", "allow")
CASES = tuple(itertools.product(STATES, FALLBACKS))
# Of a multiple choice upstream draws what it has no verdict on.
SCORES = {"mcq": (0.4, 0.7), "yn": (0.4, 0.4), "vqa": (0.4, 0.4), "oc": (0.4, 0.4)}


def name(kind: str, state: str, fallback: str = "error") -> str:
    return f"{kind}_{state}_{fallback}"


@dataclass
class Ran:
    """A run, what it printed and wrote."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    rows: list[dict[str, Any]] = field(init=False, repr=False)
    samples: list[dict[str, Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assert self.done.stdout, self.done.stderr
        self.rows = rows(self.done)
        self.path = (self.folder / "outputs" / "latest").resolve()
        lines = (self.path / "samples.jsonl").read_text().splitlines()
        self.samples = [json.loads(line) for line in lines]

    def cell(self, dataset: str) -> list[dict[str, Any]]:
        own = [r for r in self.rows if r["dataset"] == dataset]
        assert own, f"no row of {dataset}"
        return own

    def primary(self, dataset: str) -> dict[str, Any]:
        [row] = [r for r in self.cell(dataset) if r["is_primary"]] or self.cell(dataset)
        return row

    def predictions(self, dataset: str) -> list[str]:
        return [s["prediction"] for s in self.samples if s["dataset"] == dataset]


# The data. Of the even numbers what the model says is right.


def write(folder: Path, kind: str, stem: str) -> Path:
    categories = ["low" if k < N // 2 else "high" for k in range(N)]
    if kind == "oc":
        path = folder / "cache" / "data" / "aime.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {
                    "origin_prompt": f"What comes out as number {k}?",
                    "gold_answer": str(int(amount(k)) + 1000 * (k % 2)),
                }
            )
            for k in range(N)
        ]
        if not path.exists():  # of runs side by side
            path.write_text("\n".join(lines) + "\n")
        return path
    found: list[list[Any]] = []
    columns = ["index", "image", "category", "question"]
    columns += ["A", "B", "C", "D", "answer"] if kind == "mcq" else ["answer"]
    for k in range(N):
        shown = [k, picture(k), categories[k]]
        if kind == "mcq":
            colours = ["red", "green", "blue", "white"]
            found.append([*shown, f"What is number {k}?", *colours, "AB"[k % 2]])
        elif kind == "yn":
            asked = f"Is number {k} of one colour? Please answer yes or no."
            found.append([*shown, asked, ("Yes", "No")[k % 2]])
        else:
            truth = word(k) if k % 2 == 0 else f"sign{k}"
            found.append([*shown, f"What is written on number {k}?", truth])
    return tsv(folder / f"{stem}.tsv", columns, found)


def entry(folder: Path, kind: str, dataset: str, judge: Any) -> dict[str, Any]:
    path = write(folder, kind, dataset)
    given: dict[str, Any] = {"name": dataset, "judge": judge}
    if kind == "oc":
        return {**given, "dataset": f"opencompass:{SUMS}"}
    further: dict[str, Any] = {
        "mcq": {"format": "mcq"},
        "yn": {"class": "ImageYORNDataset"},
        "vqa": {"format": "vqa", "scorer": "judge"},
    }[kind]
    return {**given, "path": str(path), **further}


def judged(faulty: Faulty, state: str, dataset: str, fallback: str) -> dict[str, Any]:
    # Of a judge that fails, few calls at once and many tries only take longer.
    patient = {"retry": 2, "nproc": 4} if state in GRADED else {"retry": 1, "nproc": NPROC}
    return {
        "model": "j", "api_base": faulty.judge(state, dataset), "key": "EMPTY", "timeout": 5,
        "fallback": fallback, **patient,
    }  # fmt: skip


def evaluate(
    folder: Path,
    faulty: Faulty,
    datasets: list[dict[str, Any]],
    *flags: object,
    config: str = "eval.json",
    model: str = "",
    retry: int = 1,
) -> subprocess.CompletedProcess[str]:
    url = model or faulty.url("wordy")
    served = {"name": "m", "api_base": url, "key": "EMPTY", "retry": retry}
    # Nobody waits for a judge that is to be dead.
    written = {"models": [served], "datasets": datasets, "patience": 0}
    (folder / config).write_text(json.dumps(written))
    with without_heeded():
        return shim(
            "run", config, "--no-preflight", "--json", *flags, cwd=folder, timeout=1100,
            COMPASS_DATA_CACHE=str(folder / "cache"),
        )  # fmt: skip


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    with Faulty() as served:
        yield served


class Runs:
    """The run of each upstream, made when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory, faulty: Faulty) -> None:
        self.factory, self.faulty = factory, faulty
        self.made: dict[str, Ran] = {}
        self._asked: dict[str, list[dict[str, Any]]] = {}

    def of(self, kind: str) -> Ran:
        backend = BACKEND[kind]
        if backend not in self.made:
            folder = self.factory.mktemp(backend)
            datasets = []
            for own in [k for k in KINDS if BACKEND[k] == backend]:
                if own in MATCHED:
                    datasets.append(entry(folder, own, f"{own}_none", "exact_matching"))
                for state, fallback in CASES:
                    dataset = name(own, state, fallback)
                    judge = judged(self.faulty, state, dataset, fallback)
                    datasets.append(entry(folder, own, dataset, judge))
            done = evaluate(folder, self.faulty, datasets)
            assert done.stdout, done.stderr
            self.made[backend] = Ran(done, folder)
            self._asked[backend] = list(self.faulty.asked)
        return self.made[backend]

    def asked(self, kind: str, state: str, fallback: str) -> list[dict[str, Any]]:
        """What the judge of a cell was asked in that run."""
        self.of(kind)
        judge = (f"judge-{state}", name(kind, state, fallback))
        return [a for a in self._asked[BACKEND[kind]] if (a["kind"], a["share"]) == judge]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path], faulty: Faulty
) -> Runs:
    return Runs(tmp_path_factory, faulty)


@pytest.mark.parametrize("kind", ["mcq", "oc"])
def test_the_run_ends_with_1_and_without_a_stack_trace(runs: Runs, kind: str) -> None:
    ran = runs.of(kind)

    assert ran.done.returncode == 1
    assert "Traceback" not in ran.done.stderr


@pytest.mark.parametrize("kind", MATCHED)
def test_without_a_judge(runs: Runs, faulty: Faulty, kind: str) -> None:
    row = runs.of(kind).primary(f"{kind}_none")

    assert (row["status"], row["error"]) == ("scored", "")
    assert (row["scorer"], row["judge_fallback"]) == ("exact_matching", False)
    assert (row["n"], row["n_failed"], row["n_judge_failed"]) == (N, 0, 0)
    # No rule finds an answer in what the model said.
    assert row["score"] == 0
    asked = [a for a in faulty.of("wordy") if a["body"]["model"] != "m"]
    assert asked == []
    judges = {a["share"] for a in faulty.asked if a["kind"].startswith("judge-")}
    assert f"{kind}_none" not in judges


def test_a_scorer_that_needs_a_judge_says_so(
    tmp_path: Path, environments: dict[str, Path], faulty: Faulty
) -> None:
    dataset = entry(tmp_path, "vqa", "vqa_none", "exact_matching")
    before = len(faulty.asked)
    done = evaluate(tmp_path, faulty, [dataset])

    assert done.returncode == 2
    assert "vqa_none" in done.stderr and "no judge" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(faulty.asked) == before


def test_a_set_that_needs_a_judge_says_so(
    tmp_path: Path, environments: dict[str, Path], faulty: Faulty
) -> None:
    before = len(faulty.asked)
    done = evaluate(tmp_path, faulty, [entry(tmp_path, "oc", "oc_none", "exact_matching")])

    assert done.returncode == 1
    [row] = rows(done)
    assert (row["status"], row["scorer"], row["judge_fallback"]) == ("failed", "", False)
    assert "there is none: `judge: {model" in row["error"]
    assert "Traceback" not in done.stderr
    assert "OC_JUDGE" not in done.stderr
    # Before a model is asked what nobody could grade.
    assert len(faulty.asked) == before


# Of each state of the judge, and each fallback, and each kind: the status, the scorer, whether it
# is a fallback, and how many samples are ungraded.
_GRADED = ("scored", "j", False, 0)
_OWED = ("scored", "j", False, 6)
_LOST = ("failed", "", False, N)
_MATCHED = ("scored", "exact_matching", True, 0)


def expected(kind: str, state: str, fallback: str) -> tuple[str, str, bool, int]:
    if state in GRADED:
        return _GRADED
    if state == "errors30":
        return _OWED
    return _MATCHED if (state in BROKEN and fallback == "allow" and kind in MATCHED) else _LOST


# How often the judge is asked of a sample that it does not grade: upstream's own tries, of which
# OpenCompass's client has three where the endpoint errs.
TRIES = {"mcq": 3, "yn": 5, "vqa": 3, "oc": 3}
OWED = 6  # at 30 % errors
NPROC = 8


@pytest.mark.parametrize(("state", "fallback"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_who_graded(runs: Runs, faulty: Faulty, kind: str, state: str, fallback: str) -> None:
    ran, dataset = runs.of(kind), name(kind, state, fallback)
    status, scorer, fell_back, ungraded = expected(kind, state, fallback)

    for row in ran.cell(dataset):
        assert (row["status"], row["scorer"], row["judge_fallback"]) == (
            status, scorer, fell_back,
        ), row["error"]  # fmt: skip
        assert row["n_judge_failed"] == ungraded
    row = ran.primary(dataset)
    assert (row["n"], row["n_failed"]) == (N, 0)
    # What was predicted is kept, whatever becomes of the judge.
    assert len(ran.predictions(dataset)) == N
    assert all(ran.predictions(dataset))
    assert NONSENSE not in ran.predictions(dataset)
    if status == "failed":
        assert (row["metric"], row["value"], len(ran.cell(dataset))) == ("", None, 1)
        assert re.search(r"judge\W+j\b", row["error"]), row["error"]
    elif state in GRADED:
        assert row["error"] == ""
        assert row["score"] == pytest.approx(0.5)
    elif state == "errors30":
        low, high = SCORES[kind]
        assert low - 1e-9 <= row["score"] <= high + 1e-9


@pytest.mark.parametrize(("state", "fallback"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_judge_was_asked(runs: Runs, kind: str, state: str, fallback: str) -> None:
    asked = runs.asked(kind, state, fallback)
    of_samples = Counter(a["sample"] for a in asked if a["sample"] is not None)
    total = of_samples.total()
    # Unknown is what upstream asks again.
    doubtful = TRIES["yn"] - 1 if kind == "yn" else 0

    assert {(a["body"]["model"], a["key"]) for a in asked} == {("j", "EMPTY")}
    if state in GRADED:
        assert {*of_samples} == {*range(N)}
        assert total == N + doubtful
    elif state == "errors30":
        assert total == N - OWED + OWED * TRIES[kind] + doubtful
        lost = [a for a in asked if a["status"] == 500]
        assert len(lost) == OWED * TRIES[kind]
    elif state == "nonsense":
        assert total == N * (1 if kind == "oc" else TRIES[kind])
    elif state == "halfway":
        assert sum(a["status"] == 200 for a in asked) == ALIVE
        # Those in flight when it died, and those that showed it.
        assert ALIVE < total + 1 <= ALIVE + (NPROC + 3) * TRIES["oc"]
    elif BACKEND[kind] == "vlmeval":
        # Asked for a word before anything else.
        assert (len(asked), total) == (3, 0)
    else:
        assert 3 <= total <= (NPROC + 3) * TRIES["oc"]


@pytest.mark.parametrize("state", BROKEN)
@pytest.mark.parametrize("kind", MATCHED)
def test_a_fallback_scores_as_without_a_judge(runs: Runs, kind: str, state: str) -> None:
    ran = runs.of(kind)

    def values(of: str) -> dict[tuple[str, str], Any]:
        return {(r["subset"], r["metric"]): r["value"] for r in ran.cell(of)}

    assert values(name(kind, state, "allow")) == values(f"{kind}_none")


# What each cell makes of the exit code, over predictions that are there.

FAIL = [c for c in itertools.product(KINDS, STATES, FALLBACKS) if expected(*c) in (_OWED, _LOST)]
# A run of OpenCompass takes ten seconds; its rows are above, and what is made of rows is in
# tests/test_live.py.
ALONE = [c for c in FAIL if c[0] != "oc" or c[1:] in (("errors30", "error"), ("halfway", "allow"))]


@pytest.mark.parametrize("backend", ["vlmeval", "opencompass"])
def test_what_was_graded_or_may_be_ungraded_ends_with_0(
    runs: Runs, faulty: Faulty, backend: str
) -> None:
    """`errors30` with leave."""
    kinds = [k for k in KINDS if BACKEND[k] == backend]
    ran = runs.of(kinds[0])
    good = [c for c in itertools.product(kinds, STATES, FALLBACKS) if expected(*c) != _LOST]

    datasets = [
        entry(ran.folder, c[0], name(*c), judged(faulty, c[1], f"{name(*c)}-code", c[2]))
        for c in good
    ]
    before = len(faulty.of("wordy"))
    done = evaluate(ran.folder, faulty, datasets, "--mode", "eval", "--fail-on", 6)

    assert done.returncode == 0, done.stderr
    found = {r["dataset"]: r["status"] for r in rows(done)}
    assert found == dict.fromkeys((name(*c) for c in good), "scored")
    assert len(faulty.of("wordy")) == before


@pytest.fixture(scope="module")
def codes(runs: Runs, faulty: Faulty) -> dict[tuple[str, str, str], int]:
    """The exit code of a run of each of `ALONE`."""

    def code(case: tuple[str, str, str]) -> int:
        ran, dataset = runs.of(case[0]), name(*case)
        judge = judged(faulty, case[1], f"{dataset}-alone", case[2])
        return evaluate(
            ran.folder, faulty, [entry(ran.folder, case[0], dataset, judge)], "--mode", "eval",
            config=f"{dataset}.json",
        ).returncode  # fmt: skip

    for kind in KINDS:
        runs.of(kind)
    # For all at once: what one run puts back would be there for another.
    with without_heeded(), ThreadPoolExecutor(3) as pool:
        return dict(zip(ALONE, pool.map(code, ALONE), strict=True))


@pytest.mark.parametrize("case", ALONE, ids="_".join)
def test_what_was_not_graded_ends_with_1(
    codes: dict[tuple[str, str, str], int], case: tuple[str, str, str]
) -> None:
    assert codes[case] == 1


@pytest.mark.parametrize("kind", MATCHED)
def test_a_fallback_is_below_the_table(runs: Runs, kind: str) -> None:
    ran = runs.of(kind)

    shown = shim("results", ran.path, cwd=ran.folder)
    assert shown.returncode == 0, shown.stderr

    # A row of the table begins with the name of its dataset.
    lines = shown.stdout.splitlines()
    last = max(i for i, line in enumerate(lines) if re.match(r"\w+_\w+\s", line))
    below = "\n".join([*lines[last + 1 :], shown.stderr])
    for state in BROKEN:
        dataset = name(kind, state, "allow")
        assert re.search(rf"^.*\b{dataset}\b.*$", below, re.MULTILINE), below
    assert re.search(r"judge\W+j\b", below), below
    assert name(kind, "good") not in below


@pytest.mark.parametrize("backend", ["vlmeval", "opencompass"])
def test_what_was_predicted_is_graded_by_a_judge_that_works(
    runs: Runs, faulty: Faulty, backend: str
) -> None:
    kinds = [k for k in KINDS if BACKEND[k] == backend]
    ran = runs.of(kinds[0])
    names = [(kind, name(kind, state)) for kind in kinds for state in BROKEN]
    before = len(faulty.of("wordy"))

    datasets = [
        entry(ran.folder, kind, dataset, judged(faulty, "good", f"{dataset}-again", "error"))
        for kind, dataset in names
    ]
    done = evaluate(ran.folder, faulty, datasets, "--mode", "eval")

    assert done.returncode == 0, done.stderr
    found = {r["dataset"]: r for r in rows(done) if r["is_primary"]}
    assert found.keys() == {dataset for _, dataset in names}
    for row in found.values():
        assert (row["status"], row["scorer"], row["judge_fallback"]) == ("scored", "j", False)
        assert row["score"] == pytest.approx(0.5)
        assert (row["n"], row["n_failed"], row["n_judge_failed"]) == (N, 0, 0)
    assert len(faulty.of("wordy")) == before
    for _, dataset in names:
        asked = faulty.of("judge-good", f"{dataset}-again")
        assert {a["sample"] for a in asked} >= {*range(N)}


# Beside upstream's own commands, under a judge that works.


def _verdicts(faulty: Faulty, judge: str) -> list[str]:
    """What a judge was asked of samples, in an order that does not depend on threads."""
    asked = [a for a in faulty.of("judge-good", judge) if a["sample"] is not None]
    return sorted(json.dumps(a["body"]["messages"], sort_keys=True) for a in asked)


def test_vlmevalkit_says_the_same(
    tmp_path: Path, runs: Runs, faulty: Faulty, environments: dict[str, Path]
) -> None:
    ran = runs.of("mcq")
    classes = {"mcq": "CustomMCQDataset", "yn": "ImageYORNDataset", "vqa": "ImageShortQADataset"}
    (tmp_path / "LMUData").mkdir()
    for kind in classes:
        write(tmp_path / "LMUData", kind, name(kind, "good"))
    served = {
        "class": "CustomAPIModel",
        "model": "m",
        "api_base": f"{faulty.url('wordy')}/chat/completions",
        "key": "EMPTY",
    }
    datasets = {
        name(kind, "good"): {"class": cls, "dataset": name(kind, "good")}
        for kind, cls in classes.items()
    }
    direct = tmp_path / "direct.json"
    direct.write_text(json.dumps({"model": {"m": served}, "data": datasets}))
    upstream(
        [environments["vlmeval"], "-m", "vlmeval", "--config", direct, "--work-dir",
         tmp_path / "direct", "--api-nproc", 8, "--retry", 2],
        tmp_path, LMUData=str(tmp_path / "LMUData"), PRED_FORMAT="tsv",
        OPENAI_API_BASE=f"{faulty.judge('good', 'direct-vlmeval')}/chat/completions",
        LOCAL_LLM="j", OPENAI_API_KEY="EMPTY",
    )  # fmt: skip

    ours: list[str] = []
    for kind in classes:
        dataset = name(kind, "good")
        [table] = (tmp_path / "direct" / "m").glob(f"m_{dataset}_*.csv")
        [theirs] = csv.DictReader(table.open())
        theirs.pop("split", None)
        values = {r["subset"].replace("overall", "Overall"): r["value"] for r in ran.cell(dataset)}
        assert values == pytest.approx({key: float(value) for key, value in theirs.items()})
        assert len(values) == 3
        ours += _verdicts(faulty, dataset)
    assert sorted(ours) == _verdicts(faulty, "direct-vlmeval")
    assert len(ours) == 3 * N + TRIES["yn"] - 1


_DIRECT = """
from mmengine.config import read_base
with read_base():
    from opencompass.configs.datasets.aime2024.{module} import aime2024_datasets
from opencompass.models import OpenAISDK
roles = dict(round=[dict(role='HUMAN', api_role='HUMAN'),
                    dict(role='BOT', api_role='BOT', generate=True)])
# As GenericLLMEvaluator's own, but for its tokenizer, which it would download.
judge = dict(
    type=OpenAISDK, path='j', key='EMPTY', openai_api_base=[{judge!r}], meta_template=roles,
    query_per_second=100, batch_size=1024, temperature=0.001, tokenizer_path={tokenizer!r},
    max_out_len=16384, max_seq_len=10**6)
for d in aime2024_datasets:
    d['eval_cfg']['evaluator']['judge_cfg'] = judge
datasets = [*aime2024_datasets]
models = [dict(
    type=OpenAISDK, abbr='m', path='m', key='EMPTY', openai_api_base={url!r},
    tokenizer_path={tokenizer!r}, max_seq_len=10**6, max_out_len=2048, batch_size=32,
    query_per_second=100, meta_template=roles)]
"""


def test_opencompass_says_the_same(
    tmp_path: Path, runs: Runs, faulty: Faulty, environments: dict[str, Path]
) -> None:
    ran = runs.of("oc")
    python = environments["opencompass"]
    write(tmp_path, "oc", "")
    upstream([python, "-c", _TOKENIZER, tmp_path / "tokenizer"], tmp_path)
    direct = tmp_path / "direct.py"
    direct.write_text(
        _DIRECT.format(
            module=SUMS,
            judge=faulty.judge("good", "direct-opencompass"),
            url=faulty.url("wordy"),
            tokenizer=str(tmp_path / "tokenizer"),
        )
    )
    upstream(
        [python.with_name("opencompass"), direct, "--debug", "--work-dir", tmp_path / "direct"],
        tmp_path, COMPASS_DATA_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip

    [result] = (tmp_path / "direct").glob("2*/results/m/aime2024.json")
    theirs = json.loads(result.read_text())
    theirs.pop("details")
    dataset = name("oc", "good")
    ours = {r["metric"]: r["value"] for r in ran.cell(dataset) if r["subset"] == "overall"}
    assert ours == theirs
    assert ours["accuracy"] == 50
    assert _verdicts(faulty, dataset) == _verdicts(faulty, "direct-opencompass")
    assert len(_verdicts(faulty, dataset)) == N
