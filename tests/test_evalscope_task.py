"""EvalScope's own tasks for custom data, in our dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalshim import evalscope_task, runs
from evalshim.compat import JudgeStrategy, TaskConfig
from evalshim.errors import ConfigError

RECORD = {"messages": [{"role": "user", "content": "What animal is this?"}], "answer": "Dog"}


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """The task of the guide, over two subsets."""
    folder = tmp_path / "vqa"
    folder.mkdir()
    for name in ("example_openai", "other"):
        (folder / f"{name}.jsonl").write_text(json.dumps(RECORD) + "\n")
    return {
        "model": "qwen-vl-plus",
        "api_url": "http://127.0.0.1:9/compatible-mode/v1",
        "api_key": "sk-dashscope",
        "eval_type": "openai_api",
        "datasets": ["general_vqa"],
        "dataset_args": {
            "general_vqa": {"local_path": str(folder), "subset_list": ["example_openai", "other"]}
        },
        "limit": 5,
    }


JUDGE = {
    "model_id": "qwen-plus",
    "api_url": "http://127.0.0.1:8/v1",
    "api_key": "sk-judge-key",
    "generation_config": {"temperature": 0.0, "max_tokens": 4096},
}


def test_each_subset_is_a_cell(task: dict[str, Any], tmp_path: Path) -> None:
    spec = runs.spec_of(task)

    assert [d.name for d in spec.datasets] == [
        "general_vqa_example_openai", "general_vqa_other",
    ]  # fmt: skip
    assert [d.path for d in spec.datasets] == [
        tmp_path / "vqa" / "example_openai.jsonl", tmp_path / "vqa" / "other.jsonl",
    ]  # fmt: skip
    assert {(d.format, d.scorer) for d in spec.datasets} == {("general_vqa", "bleu_rouge")}
    [model] = spec.models
    assert (model.name, model.key, model.api_base) == (
        "qwen-vl-plus", "sk-dashscope", "http://127.0.0.1:9/compatible-mode/v1",
    )  # fmt: skip
    assert spec.limit == 5


def test_a_task_config_is_the_same_as_its_dict(task: dict[str, Any]) -> None:
    from evalshim import compat

    assert runs.spec_of(compat._source(TaskConfig(**task))) == runs.spec_of(task)
    assert "sk-" not in repr(TaskConfig(**task, judge_model_args=JUDGE))


def test_the_judge_grades_where_the_strategy_says_so(task: dict[str, Any]) -> None:
    more = {"judge_model_args": JUDGE, "eval_batch_size": 5, "judge_worker_num": 3}

    by_judge = runs.spec_of({**task, **more, "judge_strategy": JudgeStrategy.LLM})
    by_rule = runs.spec_of({**task, **more, "judge_strategy": JudgeStrategy.RULE})

    assert {d.scorer for d in by_judge.datasets} == {"judge"}
    assert (by_judge.judge.model, by_judge.judge.api_base, by_judge.judge.key) == (
        "qwen-plus", "http://127.0.0.1:8/v1", "sk-judge-key",
    )  # fmt: skip
    assert by_judge.concurrency == 5
    assert by_judge.judge.upstream == {"temperature": 0.0, "max_tokens": 4096}
    assert by_judge.judge.nproc == 3
    assert by_judge.upstream == {}
    assert {d.scorer for d in by_rule.datasets} == {"bleu_rouge"}
    assert not by_rule.judge.is_model


def test_generation_settings_reach_the_requests(task: dict[str, Any]) -> None:
    config = {"temperature": 0.0, "max_tokens": 64, "top_p": 0.5, "top_k": 3, "stream": True,
              "extra_headers": {"X-Team": "eval"}}  # fmt: skip

    [model] = runs.spec_of({**task, "generation_config": config, "seed": 7}).models

    assert (model.temperature, model.max_tokens, model.top_p, model.seed) == (0.0, 64, 0.5, 7)
    assert model.extra_body == {"top_k": 3}
    assert model.headers == {"X-Team": "eval"}


def test_a_key_may_be_named_where_the_shell_does_not_fill_it_in(
    task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-of-the-environment")

    [model] = runs.spec_of({**task, "api_key": "$DASHSCOPE_API_KEY"}).models

    assert (model.key_env, model.key) == ("DASHSCOPE_API_KEY", "")


def test_the_flags_of_the_guide(task: dict[str, Any]) -> None:
    flags = {
        **task,
        "datasets": ("general_vqa",),
        "dataset_args": json.dumps(task["dataset_args"]),
        "limit": "5",
        "judge_strategy": None,
    }

    assert runs.spec_of(evalscope_task.of_flags(flags)) == runs.spec_of(task)


def test_a_folder_without_subsets_named_has_a_default_one(
    task: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "vqa" / "default.jsonl").write_text(json.dumps(RECORD) + "\n")
    del task["dataset_args"]["general_vqa"]["subset_list"]

    assert [d.name for d in runs.spec_of(task).datasets] == ["general_vqa_default"]


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"datasets": ["gsm8k"]}, ("datasets: gsm8k", "general_vqa and general_vmcq")),
        ({"datasets": ["general_vaq"]}, ("did you mean general_vqa",)),
        ({"datasets": []}, ("datasets: []",)),
        ({"model": None}, ("model: None",)),
        ({"eval_type": "llm_ckpt"}, ("eval_type: 'llm_ckpt'",)),
        ({"dataset_args": {}}, ("no `local_path`",)),
        ({"dataset_arg": {}}, ("unknown key", "did you mean dataset_args")),
        ({"judge_strategy": "llm"}, ("no judge", "judge_model_args")),
        ({"judge_strategy": "never"}, ("judge_strategy: 'never'",)),
        ({"generation_config": 5}, ("generation_config: 5",)),
        ({"generation_config": {"extra_query": {"a": "b"}}}, ("extra_query", "leave it out")),
        (
            {
                "judge_strategy": "llm",
                "judge_model_args": {
                    "model_id": "j",
                    "generation_config": {"extra_headers": {"a": "b"}},
                },
            },
            ("judge_model_args.generation_config.extra_headers: not sent",),
        ),
        ({"generation_config": {"extra_body": "x"}}, ("generation_config.extra_body",)),
        ({"dataset_args": ["x"]}, ("dataset_args: ['x']",)),
        ({"dataset_args": {"general_vqa": "x"}}, ("dataset_args.general_vqa: 'x'",)),
    ],
    ids=str,
)
def test_what_is_no_task_is_refused(
    task: dict[str, Any], changed: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        runs.spec_of({**task, **changed})
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_subset_names_those_there_are(task: dict[str, Any]) -> None:
    task["dataset_args"]["general_vqa"]["subset_list"] = ["example_opena"]

    with pytest.raises(ConfigError, match="did you mean example_openai"):
        runs.spec_of(task)


def test_flags_that_are_no_json_say_so() -> None:
    with pytest.raises(ConfigError, match="--dataset-args: not JSON"):
        evalscope_task.of_flags({"model": "m", "api_url": "u", "dataset_args": "{'a': 1}"})
