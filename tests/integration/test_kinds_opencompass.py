"""OpenCompass sets of each kind, in their own file formats, end to end.

MMLU and C-Eval, sets with subsets and averages over them, are in test_documents_opencompass.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evalshim import load_run
from evalshim.demo.endpoint import Endpoint

from .conftest import of_the_run, rows, shim
from .opencompass_data import REPLY, expected, write

KINDS = ("humaneval", "C3", "ARC_c", "gsm8k", "winogrande", "piqa")


def test_one_of_each_kind(tmp_path: Path) -> None:
    for name in KINDS:
        write(name, tmp_path)
    asked: list[dict[str, Any]] = []

    with Endpoint(answer=lambda _: REPLY, on_request=of_the_run(asked.append)) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--data", *KINDS,
            "--json", cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = rows(done)
    assert {r["status"] for r in found} == {"scored"}
    assert Counter(r["dataset"] for r in found if r["is_primary"]) == dict.fromkeys(KINDS, 1)
    primary = {r["dataset"]: r for r in found if r["is_primary"]}
    sizes = {"humaneval": 164}
    for name in KINDS:
        (wanted,) = expected(name).values()
        assert primary[name]["subset"] == "overall"
        assert primary[name]["value"] == pytest.approx(wanted)
        assert primary[name]["score"] == pytest.approx(wanted / 100)
        assert primary[name]["n"] == sizes.get(name, 4)
        assert primary[name]["n_failed"] == 0
    assert primary["humaneval"]["metric"] == "humaneval_pass@1"

    # Chinese comes and goes as it is.
    samples = load_run(tmp_path / "outputs" / "latest").samples
    chinese = samples[samples["dataset"] == "C3"]
    assert len(chinese) == 4
    assert "第0题?" in chinese.iloc[0]["question"] and "今天星期几" in json.dumps(
        [r["body"]["messages"] for r in asked], ensure_ascii=False
    )
    assert len(asked) == len(samples) == sum(sizes.get(name, 4) for name in KINDS)
    assert set(samples["prediction"]) == {REPLY}
    # The verdict on a sample agrees with the number, where upstream gives one.
    for name in KINDS:
        verdicts = samples[samples["dataset"] == name]["correct"]
        assert [*verdicts].count(True) == round(primary[name]["score"] * sizes.get(name, 4))
        assert set(verdicts) == {True, False}


RIGHT = "def add(x, y):\n    return x + y\n"
PROGRAMS = {
    "fenced": f"Here it is.\n```python\n{RIGHT}```\nIt adds.",
    "bare": RIGHT,
    "body": "    return x + y\n",
    "wrong": f"```python\n{RIGHT.replace('+', '-')}```",
    "endless": "```python\ndef add(x, y):\n    while True:\n        pass\n```",
    "broken": "```python\ndef add(x, y) return\n```",
    "silent": "I would rather not.",
}


def test_code_is_run_by_upstream(tmp_path: Path) -> None:
    write("humaneval", tmp_path)

    with contextlib.ExitStack() as stack:
        models = [
            {
                "name": name,
                "model": "evalshim-demo",
                "api_base": stack.enter_context(Endpoint(answer=lambda _, p=program: p)).url,
            }
            for name, program in PROGRAMS.items()
        ]
        config = {"models": models, "datasets": ["humaneval"], "limit": "[53:54]"}
        (tmp_path / "eval.json").write_text(json.dumps(config))
        done = shim("run", "eval.json", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    values = {r["model"]: r["value"] for r in rows(done) if r["is_primary"]}
    # Upstream takes the program out of its fence; what it strips costs a body its indent
    # (humaneval_postprocess_v2, 0.5.4).
    right = {"fenced", "bare"}
    assert values == {name: 100.0 if name in right else 0.0 for name in PROGRAMS}
    assert {r["n"] for r in rows(done)} == {1}
    samples = load_run(tmp_path / "outputs" / "latest").samples
    assert dict(zip(samples["model"], samples["correct"], strict=True)) == {
        name: name in right for name in PROGRAMS
    }
