"""A cell in VLMEvalKit's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalshim import registry
from evalshim.adapters import judge_env, vlmeval_args
from evalshim.spec import Cell, DatasetSpec, JudgeSpec, ModelSpec, RunSpec

MODEL = ModelSpec("m", "org/m", "http://h/v1", key="sk-canary-1")


def _namespace(
    model: ModelSpec = MODEL, dataset: DatasetSpec | None = None, **keys: Any
) -> dict[str, Any]:
    dataset = dataset or registry.resolve("demo_shapes")
    spec = RunSpec((model,), (dataset,), **keys)
    return vlmeval_args.namespace(Cell("c", model, dataset), spec, Path("out"))


def test_a_model_without_options_leaves_all_to_upstream() -> None:
    assert vlmeval_args.model_arguments(MODEL) == {
        "model": "org/m",
        "api_base": "http://h/v1/chat/completions",
    }


def test_every_option_is_passed_on_and_falsy_ones_too() -> None:
    model = ModelSpec(
        "m", "org/m", "http://h/v1", temperature=0, max_tokens=7, top_p=0.0, seed=0, retry=2,
        timeout=9.5, img_size=-1, img_detail="low", system_prompt="Be brief.",
        extra_body={"top_k": 0, "stop": None},
    )  # fmt: skip

    assert vlmeval_args.model_arguments(model) == {
        "model": "org/m", "api_base": "http://h/v1/chat/completions", "temperature": 0,
        "max_tokens": 7, "top_p": 0.0, "seed": 0, "retry": 2, "timeout": 9.5, "img_size": -1,
        "img_detail": "low", "system_prompt": "Be brief.", "top_k": 0, "stop": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["api_base", "model"])
def test_a_body_member_does_not_redirect_the_model(name: str) -> None:
    model = ModelSpec("m", "org/m", "http://h/v1", extra_body={name: "elsewhere"})

    arguments = vlmeval_args.model_arguments(model)
    assert arguments["api_base"] == "http://h/v1/chat/completions"
    assert arguments["model"] == "org/m"


def test_no_key_among_the_arguments() -> None:
    assert "sk-canary-1" not in str(vlmeval_args.model_arguments(MODEL)) + str(_namespace())


def test_the_namespace_of_a_cell() -> None:
    assert _namespace() == {
        "data": ["demo_shapes"],
        "model": ["m"],
        "work_dir": "out",
        "mode": "all",
        "judge": "exact_matching",
        "api_nproc": 32,
        "reuse": False,
    }


@pytest.mark.parametrize("reuse", [True, "20260102-030405"])
def test_going_on_from_an_earlier_run_is_upstreams_reuse(reuse: bool | str) -> None:
    assert _namespace(reuse=reuse)["reuse"] is True


def test_further_arguments_of_the_command_reach_it_and_none_of_the_other_upstream() -> None:
    upstream = {"verbose": True, "vlmeval": {"nframe": 8}, "opencompass": {"slurm": True}}

    found = _namespace(upstream=upstream)
    assert (found["verbose"], found["nframe"]) == (True, 8)
    assert not {"slurm", "vlmeval", "opencompass"} & found.keys()


@pytest.mark.parametrize(
    ("judge", "named", "variables"),
    [
        (JudgeSpec(), "exact_matching", {}),
        (JudgeSpec("gpt-4o"), "gpt-4o", {}),
        (
            JudgeSpec("qwen", "http://j/v1", key="sk-canary-1"),
            None,  # upstream's own default, which LOCAL_LLM then stands for
            {"OPENAI_API_BASE": "http://j/v1/chat/completions", "LOCAL_LLM": "qwen"},
        ),
    ],
)
def test_a_judge_is_a_name_or_variables(
    judge: JudgeSpec, named: str | None, variables: dict[str, str]
) -> None:
    assert _namespace(judge=judge)["judge"] == named
    assert judge_env.vlmeval_variables(judge) == variables


def test_a_judge_of_the_dataset_goes_before_that_of_the_run() -> None:
    dataset = replace(registry.resolve("demo_shapes"), judge=JudgeSpec("gpt-4o", nproc=3))

    found = _namespace(dataset=dataset, judge=JudgeSpec("other", "http://j/v1", retry=2))
    assert (found["judge"], found["judge_api_nproc"]) == ("gpt-4o", 3)
    assert "judge_retry" not in found


def test_scoring_alone_keeps_a_cell_with_a_single_unanswered_sample() -> None:
    assert _namespace(mode="eval")["keep_failed"] is True
    assert "keep_failed" not in _namespace()


def test_a_model_of_upstreams_own_keeps_the_id_that_it_was_configured_with() -> None:
    model = ModelSpec("GPT4o", "GPT4o", cls="GPT4o", upstream={"verbose": True})

    assert vlmeval_args.model_arguments(model) == {"verbose": True}


def test_weights_of_a_local_model_are_an_argument_of_its_class() -> None:
    model = ModelSpec("mine", "mine", cls="Qwen2VLChat", model_path="/weights")

    assert vlmeval_args.model_arguments(model) == {"model_path": "/weights"}


def test_upstreams_name_of_the_dataset_is_asked_for() -> None:
    dataset = DatasetSpec("mine", "vlmeval", "MMBench_DEV_EN")

    assert _namespace(dataset=dataset)["data"] == ["MMBench_DEV_EN"]


def test_a_models_concurrency_and_retry_win() -> None:
    model = ModelSpec("m", "m", "http://h/v1", concurrency=1, retry=3)

    found = _namespace(model, concurrency=8, mode="infer")
    assert (found["api_nproc"], found["retry"], found["mode"]) == (1, 3, "infer")
    assert _namespace(concurrency=8)["api_nproc"] == 8
