"""Dialogues: a sample of several calls, asked again as a whole where a turn has no answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo.endpoint import Endpoint

from . import vlmeval_data
from .conftest import of_the_run, shim, without_heeded

pytestmark = pytest.mark.timeout(300)

# Of four dialogues the last turn of one never gets an answer, that of another not at first.
NEVER, LATE = 2, 1
# Requests of a call: OpenCompass's client tries thrice.
TRIES = {"vlmeval": 1, "opencompass": 3}
SETS = {"vlmeval": "vlmeval:MMDU", "opencompass": "opencompass:mtbench_single_judge_diff_temp"}


class Model:
    """Answers the turns of dialogues, all but those."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.turns: Counter[tuple[int, int]] = Counter()

    def answer(self, messages: list[dict[str, Any]]) -> str:
        dialogue = int(re.findall(r"in dialogue (\d+)", json.dumps(messages))[0])
        turn = sum(m["role"] == "user" for m in messages)
        self.turns[dialogue, turn] += 1
        asked = self.turns[dialogue, turn]
        if turn == 2 and (dialogue == NEVER or (dialogue == LATE and asked <= self.tries)):
            raise ConnectionAbortedError(f"no answer in dialogue {dialogue}")
        return f"said in turn {turn} of {dialogue}"


def write(folder: Path, backend: str) -> None:
    if backend == "vlmeval":
        vlmeval_data.write("MMDU", folder / "LMUData")
        return
    place = folder / "data" / "subjective" / "mtbench"
    place.mkdir(parents=True)
    for name in ("mtbench_0.0", "mtbench_0.1", "mtbench_0.7"):
        dialogues = [
            {
                "dialogue": [
                    {"role": "user", "content": f"Write a line, in dialogue {k}."},
                    {"role": "assistant", "content": ""},
                    {"role": "user", "content": "And another."},
                    {"role": "assistant", "content": ""},
                ],
                "capability": "writing",
                "others": {},
            }
            # Three sets of one model: the dialogues of the others are always answered.
            for k in (range(4) if name == "mtbench_0.0" else [9])
        ]
        (place / f"{name}.json").write_text(json.dumps(dialogues))


@pytest.fixture(params=SETS)
def ran(
    request: pytest.FixtureRequest, tmp_path: Path, environments: dict[str, Path]
) -> tuple[str, Path, Model, Callable[[], list[dict[str, Any]]]]:
    backend, model = request.param, Model(TRIES[request.param])
    write(tmp_path, backend)
    with (
        without_heeded(),
        Endpoint(models=None, answer=model.answer, on_request=of_the_run(lambda _: None)) as served,
    ):
        config = {
            "models": [{"name": "m", "api_base": served.url, "retry": 1}],
            "datasets": [{"name": "talk", "dataset": SETS[backend]}],
            "mode": "infer",
            "verify_data": "off",
        }
        (tmp_path / "eval.json").write_text(json.dumps(config))
        done = shim(
            "run", "eval.json", "--no-preflight", cwd=tmp_path, LMUData=str(tmp_path / "LMUData")
        )
    assert done.returncode == 1, done.stderr
    path = tmp_path / "outputs" / "latest"

    def samples() -> list[dict[str, Any]]:
        lines = (path / "samples.jsonl").read_text().splitlines()
        own = [json.loads(line) for line in lines]
        return [s for s in own if s["subset"] in ("", "mtbench_0.0")]

    return backend, path, model, samples


def test_what_lacks_an_answer_is_asked_again_and_says_why(
    ran: tuple[str, Path, Model, Callable[[], list[dict[str, Any]]]],
) -> None:
    backend, path, model, samples = ran

    found = {int(s["index"]): s for s in samples()}
    assert {*found} == {0, 1, 2, 3}
    assert {k for k, s in found.items() if s["prediction"] is None} == {NEVER}
    assert {k for k, s in found.items() if s["error"]} == {NEVER}
    assert "no answer in dialogue 2" in found[NEVER]["error"]
    # From its first turn on, and in order.
    assert re.findall(r"said in turn \d of \d", found[LATE]["prediction"]) == [
        f"said in turn {turn} of {LATE}" for turn in (1, 2)
    ]
    assert model.turns[0, 1] == model.turns[0, 2] == model.turns[3, 2] == 1
    assert model.turns[NEVER, 1] == model.turns[LATE, 1] == 2
    assert model.turns[NEVER, 2] == 2 * model.tries
    assert model.turns[LATE, 2] == model.tries + 1
    [cell] = json.loads((path / "run.json").read_text())["cells"].values()
    every = 4 if backend == "vlmeval" else 6
    assert (cell["n"], cell["n_failed"]) == (every, 1)
    assert (cell["done"], cell["total"]) == (every, every)
