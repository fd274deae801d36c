"""Custom sets of OpenCompass, and EvalScope's tasks for custom data, with the real upstreams."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import evalshim
from evalshim.compat import JudgeStrategy, Summarizer, TaskConfig, run_task
from evalshim.demo.endpoint import Endpoint
from evalshim.endpoints import PROMPT

from . import tiny_lm
from .conftest import of_the_run, rows, shim

# A distractor, and an answer that OpenCompass must find by its text.
MCQ = [
    {"question": "2+2?", "A": "3", "B": "4", "C": "5", "answer": "B"},
    {"question": "1+1?", "A": "2", "B": "4", "C": "9", "answer": "A"},
    {"question": "3+3?", "A": "6", "B": "4", "C": "9", "answer": "A"},
]
QA = [("Capital of France?", "Paris"), ("Say x, y.", "x, y"), ("Never?", "never")]
SAID = {
    "2+2?": "B", "1+1?": "the answer is 2", "3+3?": "C",
    "Capital of France?": "Paris", "Say x, y.": "x, y", "Never?": "no",
}  # fmt: skip


def _jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _answer(messages: list[dict[str, Any]]) -> str:
    said = {**SAID, PROMPT: "OK"}  # the last is the preflight's
    return next(a for q, a in said.items() if q in str(messages[-1]["content"]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    _jsonl(tmp_path / "sums.jsonl", MCQ)
    lines = ["question,answer", *(f'"{q}","{a}"' for q, a in QA)]
    (tmp_path / "facts.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_both_forms_are_recognised_and_scored_by_upstream(data: Path) -> None:
    asked: list[dict[str, Any]] = []
    with Endpoint(answer=_answer, on_request=of_the_run(asked.append)) as served:
        run = evalshim.run(
            models=[{"name": "m", "model": "evalshim-demo", "api_base": served.url}],
            datasets=[
                {"name": "sums", "path": str(data / "sums.jsonl"), "backend": "opencompass"},
                {
                    "name": "facts",
                    "path": str(data / "facts.csv"),
                    "upstream": {"human_prompt": "Q: {question} A:"},
                },
            ],
            work_dir=str(data / "outputs"),
        )

    assert run.exit_code == 0
    found = {row.dataset: (row.metric, row.value, row.n) for row in run.rows}
    # Of MCQ "B" and "the answer is 2" (by its text) are right, of QA the first two.
    assert found["sums"][0] == "accuracy"
    assert found["sums"][1] == pytest.approx(200 / 3)
    assert found["facts"][1] == pytest.approx(200 / 3)
    assert {n for _, _, n in found.values()} == {3}
    prompts = {str(a["body"]["messages"][0]["content"]) for a in asked}
    assert "Question: 2+2?\nA. 3\nB. 4\nC. 5" in prompts
    assert "Q: Say x, y. A:" in prompts
    assert len(asked) == 6


def test_limit_and_the_plan(data: Path) -> None:
    config = data / "eval.yaml"
    config.write_text(
        "models: [{name: evalshim-demo, api_base: http://127.0.0.1:9/v1}]\n"
        "datasets: [{name: sums, path: sums.jsonl}]\nlimit: '[1:3]'\n"
    )
    planned = json.loads(shim("run", config, "--dry-run", "--json", cwd=data).stdout)
    with Endpoint(answer=_answer) as served:
        done = shim("run", config, "--api-base", served.url, "--json", cwd=data)

    assert planned["cells"][0]["samples"] == 2
    assert "OptionSimAccEvaluator" in planned["cells"][0]["scorer"]
    [row] = rows(done)
    assert (row["value"], row["n"]) == (50.0, 2)


def test_likelihoods_of_a_local_model(data: Path, environments: dict[str, Path]) -> None:
    subprocess.run(
        [environments["opencompass"], tiny_lm.__file__, data / "lm"], check=True, timeout=200
    )
    model = {
        "name": "tiny",
        "class": "hf_qwen2_0_5b",
        "model_path": str(data / "lm"),
        "upstream": {"model_kwargs": {"device_map": "cpu"}, "max_seq_len": 512},
    }
    sums = {"name": "sums", "path": str(data / "sums.jsonl"), "upstream": {"infer_method": "ppl"}}

    run = evalshim.run(models=[model], datasets=[sums], work_dir=str(data / "outputs"))

    assert run.exit_code == 0
    [row] = run.rows
    assert row.metric == "accuracy"
    assert float(row.value) in (0.0, pytest.approx(100 / 3), pytest.approx(200 / 3), 100.0)
    [path] = (run.path / "upstream").rglob("predictions/tiny/sums.json")
    assert "PPL" in path.read_text()


@pytest.mark.parametrize(
    ("upstream", "said"),
    [
        ("{infer_method: ppl}", ("infer_method: ppl", "likelihood")),
        ("{infer_method: guess}", ("infer_method: guess", "one of gen, ppl")),
        # Upstream takes a class there, and fails on its name.
        ("{evaluator: EMEvaluator}", ("take no `evaluator`", "known: ")),
    ],
)
def test_what_a_custom_set_cannot_have_is_refused(
    data: Path, upstream: str, said: tuple[str, ...]
) -> None:
    done = shim(
        "run", "--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--data", "x", "--set",
        f"datasets=[{{name: s, path: {data}/sums.jsonl, upstream: {upstream}}}]",
        cwd=data,
    )  # fmt: skip

    assert done.returncode == 2
    assert [part for part in said if part not in done.stderr] == []


class TestEvalScopesTasks:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        path = tmp_path / "custom_eval" / "multimodal" / "vqa"
        path.mkdir(parents=True)
        for name in ("example_openai", "second"):
            _jsonl(
                path / f"{name}.jsonl",
                [
                    {
                        "messages": [{"role": "user", "content": question}],
                        "answer": "the answer is 2" if question == "1+1?" else answer,
                    }
                    for question, answer in (("2+2?", "B"), ("1+1?", "2"))
                ],
            )
        return tmp_path

    def test_a_task_config(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        graded: list[dict[str, Any]] = []
        verdict = "[Begin Correctness]yes[End Correctness][Begin Reason]so[End Reason]"
        with (
            Endpoint(answer=_answer, models=None) as served,
            Endpoint(
                answer=lambda _: verdict, models=None, on_request=of_the_run(graded.append)
            ) as judging,
        ):
            task = TaskConfig(
                model="qwen-vl-plus",
                api_url=served.url,
                api_key="sk-of-the-model",
                eval_type="openai_api",
                datasets=["general_vqa"],
                dataset_args={
                    "general_vqa": {
                        "local_path": "custom_eval/multimodal/vqa",
                        "subset_list": ["example_openai", "second"],
                    }
                },
                limit=5,
                judge_model_args={
                    "model_id": "qwen-plus",
                    "api_url": judging.url,
                    "api_key": "sk-of-the-judge",
                    "generation_config": {"temperature": 0.0, "max_tokens": 77},
                },
                eval_batch_size=5,
                judge_strategy=JudgeStrategy.LLM,
            )
            run = run_task(task_cfg=task)

        assert not isinstance(run, list)
        assert [(r.dataset, r.value, r.scorer) for r in run.rows] == [
            ("general_vqa_example_openai", 1.0, "qwen-plus"),
            ("general_vqa_second", 1.0, "qwen-plus"),
        ]
        bodies = [g["body"] for g in graded]
        assert {b["model"] for b in bodies} == {"qwen-plus"}
        assert {b["max_tokens"] for b in bodies} == {77}
        assert all("sk-of-the-judge" in g["headers"]["Authorization"] for g in graded)
        assert Summarizer.get_report_from_cfg(task) == [
            {f"qwen-vl-plus_general_vqa_{s}_acc": {"split": "none", "Overall": "1.0"}}
            for s in ("example_openai", "second")
        ]

    def test_the_command(self, folder: Path) -> None:
        arguments = {"general_vqa": {"local_path": "custom_eval/multimodal/vqa"}}
        arguments["general_vqa"]["subset_list"] = ["example_openai"]  # type: ignore[assignment]
        with Endpoint(answer=_answer, models=None) as served:
            done = shim(
                "eval", "--model", "qwen-vl-plus", "--api-url", served.url,
                "--api-key", "$DASHSCOPE_API_KEY", "--eval-type", "openai_api",
                "--datasets", "general_vqa", "--dataset-args", json.dumps(arguments),
                "--limit", 5, "--json", cwd=folder, DASHSCOPE_API_KEY="sk-of-the-model",
            )  # fmt: skip

        assert done.returncode == 0, done.stderr
        found = {r["metric"]: r["value"] for r in rows(done)}
        assert len(found) == 13
        assert found["Rouge-L-R"] == pytest.approx(1.0, abs=1e-4)
        assert found["bleu-1"] == pytest.approx(1.0)


GUARDED = """
import sys
from vlmeval.dataset.image_vqa import CustomVQADataset


class Formulas(CustomVQADataset):
    def evaluate(self, eval_file, **judge_kwargs):
        from sympy.parsing.sympy_parser import parse_expr

        if str(parse_expr("2*x + sqrt(4)")) != "2*x + 2":
            raise ValueError("formulas are read no more")
        ran = 0
        for code in ("open('ran', 'w')", "().__class__", "print(1)", "__import__('os')"):
            try:
                parse_expr(code)
                ran += 1
            except Exception:
                pass
        return {"Overall": ran}


class Leaves(CustomVQADataset):
    DATASET_URL = {"leaves": ""}

    def evaluate(self, eval_file, **judge_kwargs):
        sys.exit(7)
"""


def test_answers_stay_texts_and_plug_ins_within_their_cell(tmp_path: Path) -> None:
    (tmp_path / "guarded.py").write_text(GUARDED)
    (tmp_path / "set.tsv").write_text("index\tquestion\tanswer\n1\tNever?\tno\n")
    asked = [{"messages": [{"role": "user", "content": q}], "answer": a}
             for q, a in (("2+2?", "007"), ("1+1?", "008"))]  # fmt: skip
    _jsonl(tmp_path / "codes.jsonl", asked)
    with Endpoint(answer=lambda m: "007", models=None) as served:
        run = evalshim.run(
            models=[{"name": "m", "api_base": served.url}],
            datasets=[
                {"name": "leaves", "class": "Leaves", "path": str(tmp_path / "set.tsv")},
                {"name": "formulas", "class": "Formulas", "path": str(tmp_path / "set.tsv")},
                {"name": "codes", "path": str(tmp_path / "codes.jsonl"), "scorer": "accuracy"},
            ],
            plugins=[str(tmp_path / "guarded.py")],
            work_dir=str(tmp_path / "outputs"),
        )

    found = {row.dataset: row for row in run.rows}
    assert found["leaves"].status == "failed"
    assert "guarded.py, line 26" in found["leaves"].error
    assert "SystemExit: 7" in found["leaves"].error
    assert (found["formulas"].status, found["formulas"].value) == ("scored", 0)
    assert found["codes"].value == 50.0
    assert not list(tmp_path.rglob("ran"))
    assert not (tmp_path / "__pycache__").exists()
