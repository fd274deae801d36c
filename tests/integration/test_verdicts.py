"""Calls that fail at first, and samples that have nothing to be graded."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker_package import AS_WORKER

from .conftest import rows
from .faulty import Faulty
from .test_faults import FAILING
from .test_judges import BACKEND, N, Ran, entry, evaluate, judged

pytestmark = pytest.mark.timeout(300)

BACKENDS = ("vlmeval", "opencompass")


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with Faulty() as served:
        yield served


def of(backend: str) -> list[str]:
    return [kind for kind in BACKEND if BACKEND[kind] == backend]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_of_the_judge_that_fails_is_tried_again(
    tmp_path: Path, environments: dict[str, Path], faulty: Faulty, backend: str
) -> None:
    """Each sample once. Of Y/N the judge says Unknown of one, which upstream asks again."""
    kinds = [kind for kind in of(backend) if kind != "yn"]
    datasets: list[dict[str, Any]] = []
    for kind in kinds:
        # One at a time: three failures in a row make a judge suspicious, and these alternate.
        judge = {**judged(faulty, "once500", kind, "error"), "retry": 2, "nproc": 1}
        datasets.append(entry(tmp_path, kind, kind, judge))

    done = evaluate(tmp_path, faulty, datasets)

    assert done.returncode == 0, done.stderr
    for kind in kinds:
        row = Ran(done, tmp_path).primary(kind)
        assert (row["status"], row["scorer"], row["n_judge_failed"]) == ("scored", "j", 0)
        assert row["score"] == pytest.approx(0.5)
        asked = faulty.of("judge-once500", kind)
        calls = Counter(a["sample"] for a in asked if a["sample"] is not None)
        assert calls == dict.fromkeys(range(N), 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_endpoint_that_says_when_to_come_again_is_left_alone_so_long(
    tmp_path: Path, environments: dict[str, Path], faulty: Faulty, backend: str
) -> None:
    kind = of(backend)[0]
    dataset = entry(tmp_path, kind, kind, judged(faulty, "good", kind, "error"))
    given = {"model": faulty.url("once429"), "retry": 2}

    done = evaluate(tmp_path, faulty, [dataset], "--mode", "infer", "--limit", 4, **given)

    assert done.returncode == 0, done.stderr
    [row] = rows(done)
    assert (row["status"], row["n"], row["n_failed"]) == ("infer_only", 4, 0)
    asked = faulty.of("once429")
    for sample in range(4):
        first, second = (a["time"] for a in asked if a["sample"] == sample)
        # What Retry-After says, and no less.
        assert second - first >= 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("state", "code"), [("good", 0), ("nonsense", 1)])
def test_a_sample_without_an_answer_is_not_ungraded_as_well(
    tmp_path: Path,
    environments: dict[str, Path],
    faulty: Faulty,
    backend: str,
    state: str,
    code: int,
) -> None:
    kinds = of(backend)
    datasets = [entry(tmp_path, kind, kind, judged(faulty, state, kind, "error")) for kind in kinds]

    failing = faulty.url("500", 10)
    done = evaluate(tmp_path, faulty, datasets, "--fail-on", 2, model=failing)

    assert done.returncode == code, done.stderr
    for kind in kinds:
        row = Ran(done, tmp_path).primary(kind)
        assert (row["n"], row["n_failed"]) == (N, len(FAILING))
        # What the model says is such that rules find it, where there are some.
        ruled = state == "good" or kind in ("mcq", "yn")
        assert row["n_judge_failed"] == (0 if ruled else N - len(FAILING))
        assert row["status"] == ("scored" if ruled else "failed")


# A set that asks in a loop of its own, as those of videos do: about sample 0 nonsense is said,
# about 1 nothing, about 2 what it is; 3 has no answer, 4 no options (VideoMME).
_GUESSES = """
from types import SimpleNamespace
from evalshim_worker import fan_out, judging
from evalshim_worker.grading import Grading
from vlmeval.dataset.utils import multiple_choice
judging._notice_guesses()
lost = "Failed to obtain answer via API."
def generate(message, **kwargs):
    said = ["The weather is fine", lost, "A", "The weather is fine", "A"]
    return said[int(message.split("number ")[1][0])]
judge = SimpleNamespace(
    model="j", fail_msg=lost, default_kwargs={}, generate=generate,
    generate_inner=lambda *args, **kwargs: (0, "hello", None),
)
given = {"model": "j", "at": "there", "fallback": "error", "variables": {}, "transport": None}
grading = judging._grading = Grading(given)
judging._watch(grading, judge)
for k in range(5):
    said = lost if k == 3 else "It is surely one of them"
    item = {"index": k, "question": f"What is number {k}?", "A": "cat", "B": "dog",
            "prediction": said, "answer": "A"}
    if k == 4:
        del item["A"], item["B"]
    multiple_choice.extract_answer_from_item(judge, item)
assert fan_out.current() is None
print(sorted(grading.ungraded))
"""


def test_a_sample_that_upstream_guesses_is_ungraded_once(environments: dict[str, Path]) -> None:
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + _GUESSES], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['0', '1']"
