"""A cell in VLMEvalKit's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalshim import registry
from evalshim.adapters import vlmeval_args
from evalshim.spec import Cell, DatasetSpec, ModelSpec, RunSpec

MODEL = ModelSpec("m", "http://h/v1", "org/m", key="sk-canary-1")


def _flags(
    model: ModelSpec = MODEL, dataset: DatasetSpec | None = None, **keys: object
) -> dict[str, str]:
    dataset = dataset or registry.resolve("demo_shapes")
    spec = RunSpec((model,), (dataset,), **keys)  # type: ignore[arg-type]
    argv = vlmeval_args.run_arguments(Cell("c", model, dataset), "label", spec, Path("out"))
    assert all(isinstance(word, str) for word in argv)
    return dict(zip(argv[::2], argv[1::2], strict=True))


def test_a_model_without_options_leaves_all_to_upstream() -> None:
    assert vlmeval_args.model_arguments(MODEL) == {
        "model": "org/m",
        "api_base": "http://h/v1/chat/completions",
    }


def test_every_option_is_passed_on_and_falsy_ones_too() -> None:
    model = ModelSpec(
        "m", "http://h/v1", "org/m", temperature=0, max_tokens=7, top_p=0.0, seed=0, retry=2,
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
    model = ModelSpec("m", "http://h/v1", "org/m", extra_body={name: "elsewhere"})

    arguments = vlmeval_args.model_arguments(model)
    assert arguments["api_base"] == "http://h/v1/chat/completions"
    assert arguments["model"] == "org/m"


def test_no_key_among_the_arguments() -> None:
    assert "sk-canary-1" not in str(vlmeval_args.model_arguments(MODEL)) + str(_flags())


def test_the_flags_of_a_cell() -> None:
    assert _flags() == {
        "--data": "demo_shapes",
        "--model": "label",
        "--work-dir": "out",
        "--mode": "all",
        "--judge": "exact_matching",
        "--api-nproc": "32",
    }


def test_upstreams_name_of_the_dataset_is_asked_for() -> None:
    dataset = DatasetSpec("mine", "vlmeval", "MMBench_DEV_EN")

    assert _flags(dataset=dataset)["--data"] == "MMBench_DEV_EN"


def test_a_models_concurrency_and_retry_win() -> None:
    model = ModelSpec("m", "http://h/v1", "m", concurrency=1, retry=3)

    flags = _flags(model, concurrency=8, mode="infer")
    assert (flags["--api-nproc"], flags["--retry"], flags["--mode"]) == ("1", "3", "infer")
    assert _flags(concurrency=8)["--api-nproc"] == "8"
