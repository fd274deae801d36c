"""Sets of OpenCompass's that ask a judge in a way of their own: it is the cell's, and watched.

A cascade of a rule and a judge, evaluators that build judges or clients themselves, and those
whose judges nobody here would see die.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo.endpoint import Endpoint

from .conftest import rows, shim, without_heeded

pytestmark = pytest.mark.timeout(600)

N = 8
ALIVE = 3  # calls that a judge which dies halfway answers
SETS = {
    "cascade": "gpqa_cascade_eval_gen_772ea0",
    "health": "healthbench_gen_831613",
    "live": "livemathbench_gen_6eb711",
    "gaokao": "gaokao_math_gen_f5fd28",
    "letters": "livereasonbench_genericllmeval_gen_f990de",
    "atlas": "atlas_val_gen_b2d1b6",
    "omni": "omni_math_gen_18cc08",
    "simple": "livereasonbench_gen_f990de",
}
CELLS = (
    "cascade_good_error", "cascade_dead_error", "cascade_dead_allow", "cascade_halfway_allow",
    "health_good_error", "health_dead_error", "health_nonsense_error",
    "live_good_error", "live_dead_error", "gaokao_good_error", "gaokao_dead_error",
    "letters_good_error", "letters_nonsense_error", "live_nonsense_error",
    "atlas_nonsense_error",
    "atlas_good_error", "atlas_dead_error",
    "omni_good_error", "simple_good_error",
)  # fmt: skip


def write(folder: Path) -> None:
    """The data, where upstream looks for it. Of the even numbers what the model says is right."""
    truth = [str(1000 + k + 500 * (k % 2)) for k in range(N)]
    questions = [f"What comes out as number {k}?" for k in range(N)]
    # GPQA's right option is the first; of those numbered 3 and 7 it is shown as A.
    options = [[*[""] * 7, q, *"wxyz"] for q in questions]
    header = [*[""] * 7, "Question", *["option"] * 4]
    (folder / "data" / "gpqa").mkdir(parents=True)
    with (folder / "data" / "gpqa" / "gpqa_diamond.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *options])
    reasons = [{"question": q, "answer": a} for q, a in zip(questions, truth, strict=True)]
    path = folder / "data" / "LiveReasonBench" / "livereasonbench-20241202.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(reasons))
    live = [{**r, "question_type": "problem-solving"} for r in reasons]
    for number, name in enumerate(("CNMO", "CCEE", "AMC", "WLPMC")):
        for k, language in enumerate(("cn", "en")):
            place = folder / "data" / "LiveMathBench" / "202412" / f"{name}_{language}.jsonl"
            _lines(place, [live[2 * number + k]])
    gaokao = folder / "data" / "gaokao_math" / "test_2k.json"
    gaokao.parent.mkdir()
    gaokao.write_text(json.dumps([_gaokao(**one) for one in reasons]))
    names = ("2025-05-07-06-14-12_oss_eval", "hard_2025-05-08-21-00-10",
             "consensus_2025-05-09-20-00-46")  # fmt: skip
    for k, name in enumerate(names):
        sample = {
            "prompt": [{"role": "user", "content": questions[k]}],
            "prompt_id": str(k),
            "example_tags": ["theme:x"],
            "rubrics": [{"criterion": f"Says {truth[k]}", "points": 5, "tags": ["axis:y"]}],
        }
        _lines(folder / "huihuixu" / "healthbench" / f"{name}.jsonl", [sample])
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: val\n    path: v.jsonl\n"
    )
    atlas = folder / "opencompass" / "ATLAS"
    _lines(atlas / "v.jsonl", [
        {"question": q, "refined_standard_answer": [a]}
        for q, a in zip(questions, truth, strict=True)
    ])  # fmt: skip
    (atlas / "README.md").write_text(f"{card}---\n")


def _gaokao(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "response": "", "question_type": "x", "extract_answer": answer}


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _text(messages: list[dict[str, Any]]) -> str:
    return "\n".join(str(m["content"]) for m in messages)


def model(messages: list[dict[str, Any]]) -> str:
    number = re.findall(r"number (\d+)", _text(messages))[-1]
    return f"ANSWER: A, which is {1000 + int(number)}, of number {number}"


def verdict(messages: list[dict[str, Any]]) -> str:
    """What a good judge says to each prompt of upstream's."""
    text = _text(messages)
    if text == "hello":
        return "hi"
    number = int(re.findall(r"number (\d+)", text)[-1])
    right = number % 2 == 0
    if "criteria_met" in text:
        return json.dumps({"explanation": "", "criteria_met": right})
    if "NOT_ATTEMPTED" in text:
        return "A" if right else "C"
    if "Just return" in text:
        return "A" if right else "B"
    if r"\boxed" in text and "yes" in text:
        return rf"\boxed{{{'yes' if right else 'no'}}}"
    return json.dumps([{"label": "A" if right else "B"}])


def judge(state: str) -> Callable[[list[dict[str, Any]]], str]:
    calls = iter(range(10**6))

    def answer(messages: list[dict[str, Any]]) -> str:
        number = next(calls)
        if state == "dead" or (state == "halfway" and number >= ALIVE):
            raise ConnectionAbortedError("gone")
        if state == "nonsense" and _text(messages) != "hello":
            return "I would rather talk about the weather."
        return verdict(messages)

    return answer


class Ran:
    def __init__(
        self, folder: Path, rows: list[dict[str, Any]], asked: dict[str, list[dict[str, Any]]]
    ) -> None:
        self.rows, self.asked = rows, asked
        header = json.loads((folder / "outputs" / "latest" / "run.json").read_text())
        self.notes = {c["dataset"]: c["notes"] for c in header["cells"].values()}

    def primary(self, cell: str) -> dict[str, Any]:
        own = [r for r in self.rows if r["dataset"] == cell]
        assert own, f"no row of {cell}"
        return next((r for r in own if r["is_primary"]), own[0])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("judges")
    write(folder)
    asked: dict[str, list[dict[str, Any]]] = {"model": [], **{cell: [] for cell in CELLS}}
    with ExitStack() as stack, without_heeded():

        def served(name: str, answer: Callable[..., str]) -> str:
            endpoint = Endpoint(models=None, answer=answer, on_request=asked[name].append)
            return stack.enter_context(endpoint).url

        datasets = []
        for cell in CELLS:
            kind, state, fallback = cell.split("_")
            by = {
                "model": "j", "api_base": served(cell, judge(state)), "key": "sk-of-the-judge",
                "retry": 1, "nproc": 2, "fallback": fallback,
            }  # fmt: skip
            # By an abbr without `_` LiveMathBenchEvaluator (0.5.4) fails.
            path = {"path": str(folder / "data" / "LiveMathBench")} if kind == "live" else {}
            dataset = {"name": cell, "dataset": f"opencompass:{SETS[kind]}", "judge": by}
            datasets.append({**dataset, **path})
        asker = {"name": "m", "api_base": served("model", model), "key": "EMPTY", "retry": 1}
        # Nobody waits for a judge that is to be dead.
        config = {"models": [asker], "datasets": datasets, "patience": 0}
        (folder / "eval.json").write_text(json.dumps(config))
        done = shim(
            "run", "eval.json", "--no-preflight", "--json", cwd=folder, timeout=500,
            HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(folder / "cache"),
        )  # fmt: skip
        assert done.stdout, done.stderr
        assert done.returncode == 1
        yield Ran(folder, rows(done), asked)


# Of ATLAS each question is asked four times.
GRADED = {"cascade": N, "health": 3, "live": N, "gaokao": N, "letters": N, "atlas": 4 * N}


@pytest.mark.parametrize("kind", GRADED)
def test_a_judge_that_works(ran: Ran, kind: str) -> None:
    cell = f"{kind}_good_error"
    row = ran.primary(cell)

    assert (row["status"], row["error"]) == ("scored", "")
    assert (row["scorer"], row["judge_fallback"], row["n_judge_failed"]) == ("j", False, 0)
    # With the id, and the key, of the cell's judge, wherever upstream takes them from.
    assert {a["body"]["model"] for a in ran.asked[cell]} == {"j"}
    assert {a["headers"]["authorization"] for a in ran.asked[cell]} == {"Bearer sk-of-the-judge"}
    asked = [a for a in ran.asked[cell] if _text(a["body"]["messages"]) != "hello"]
    # Of a cascade, what the rule did not find right.
    assert len(asked) == {"cascade": 6}.get(kind, GRADED[kind])
    # Of a cascade the judge adds four; those of letters are graded as A or C.
    if kind in ("cascade", "live", "gaokao"):
        assert row["value"] == pytest.approx(75 if kind == "cascade" else 50)


@pytest.mark.parametrize("kind", ["cascade", "health", "live", "gaokao", "atlas"])
def test_a_judge_that_is_dead_ends_its_cell(ran: Ran, kind: str) -> None:
    row = ran.primary(f"{kind}_dead_error")

    assert (row["status"], row["metric"], row["value"]) == ("failed", "", None)
    assert (row["scorer"], row["judge_fallback"]) == ("", False)
    assert re.search(r"the judge j at \S+ does not answer", row["error"]), row["error"]
    assert row["n"] == row["n_judge_failed"] == GRADED[kind]
    assert row["n_failed"] == 0
    # Three of a set that were not answered, those in flight, and those that made sure, with a
    # client that tries thrice.
    sets = 3 if kind == "health" else 1
    assert 3 <= len(ran.asked[f"{kind}_dead_error"]) <= sets * 3 * (3 + 2 + 3)


@pytest.mark.parametrize("state", ["dead", "halfway"])
def test_a_cascade_may_do_without_its_judge(ran: Ran, state: str) -> None:
    row = ran.primary(f"cascade_{state}_allow")

    assert row["status"] == "scored", row["error"]
    assert (row["scorer"], row["judge_fallback"]) == ("rule:accuracy", True)
    assert row["n_judge_failed"] == 0
    # What the rule alone finds.
    assert row["value"] == pytest.approx(25)
    assert re.search(r"the judge j did not answer: scored without it", row["error"])


@pytest.mark.parametrize("kind", ["letters", "live"])
def test_what_is_no_verdict_is_seen_whatever_upstream_makes_of_it(ran: Ran, kind: str) -> None:
    """livereasonbench_postprocess takes everything for C, and counts nothing; LiveMathBench
    takes everything for no."""
    row = ran.primary(f"{kind}_nonsense_error")

    assert (row["status"], row["n_judge_failed"], row["value"]) == ("failed", N, None)
    assert "graded none of 8 answers" in row["error"]


def test_where_it_cannot_be_seen_that_is_said(ran: Ran) -> None:
    """ATLAS's judges answer in JSON."""
    row = ran.primary("atlas_nonsense_error")

    assert (row["status"], row["scorer"], row["value"]) == ("scored", "j", 0)
    noted = {cell for cell, notes in ran.notes.items() if notes}
    assert noted == {"atlas_good_error", "atlas_nonsense_error"}
    assert "counts as wrong" in ran.notes["atlas_nonsense_error"][0]


def test_a_judge_of_healthbench_that_gives_no_verdict_is_not_asked_for_ever(ran: Ran) -> None:
    row = ran.primary("health_nonsense_error")

    assert (row["status"], row["n_judge_failed"]) == ("failed", 3)
    assert "no verdict in" in row["error"] and "weather" in row["error"]
    assert len(ran.asked["health_nonsense_error"]) <= 3 * 6


@pytest.mark.parametrize(
    ("cell", "evaluator"),
    [("omni_good_error", "OmniMathEvaluator"), ("simple_good_error", "LMEvaluator")],
)
def test_who_asks_unseen_is_refused_before_anything_is_asked(
    ran: Ran, cell: str, evaluator: str
) -> None:
    row = ran.primary(cell)

    assert (row["status"], row["value"]) == ("failed", None)
    assert row["error"].startswith(f"{evaluator} asks ")
    assert "`mode: infer`" in row["error"]
    assert ran.asked[cell] == []
