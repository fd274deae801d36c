"""`shim check` asks all endpoints at once."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint

from .conftest import shim, without_heeded

MODELS, JUDGES = 5, 3


def test_all_endpoints_are_asked_at_once(tmp_path: Path) -> None:
    # None is answered before all are asked; one after the other they would never be.
    meeting = threading.Barrier(MODELS + JUDGES)
    asked: list[object] = []

    def note(request: dict[str, Any]) -> None:
        asked.append(request)
        meeting.wait(30)

    def answer(messages: list[dict[str, Any]]) -> str:
        asked.append(messages)
        return answers.answer(messages)

    with without_heeded(), ExitStack() as stack:
        bases = [
            stack.enter_context(Endpoint(models=None, on_request=note, answer=answer)).url
            for _ in range(MODELS + JUDGES)
        ]
        config = {
            "models": [{"name": f"m{k}", "api_base": bases[k]} for k in range(MODELS)],
            "datasets": [
                {
                    "name": f"d{k}", "dataset": "vlmeval:demo_shapes",
                    "judge": {"model": "j", "api_base": base},
                }
                for k, base in enumerate(bases[MODELS:])
            ],
        }  # fmt: skip
        (tmp_path / "eval.json").write_text(json.dumps(config))
        done = shim("check", "eval.json", cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert len(asked) == 2 * (MODELS + JUDGES)
