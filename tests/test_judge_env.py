"""What each upstream is told of a judge, and never its key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evalshim.adapters import judge_env
from evalshim.spec import JudgeSpec

NONE = JudgeSpec()
NAMED = JudgeSpec("gpt-4o", key="sk-canary-1")
FULL = JudgeSpec(
    "qwen", "http://j/v1", key="sk-canary-1", nproc=3, retry=2, timeout=9.5, fallback="allow",
    upstream={"max_tokens": 8},
)  # fmt: skip


@pytest.mark.parametrize(
    ("judge", "arguments", "variables"),
    [
        (NONE, {"judge": "exact_matching"}, {}),
        (NAMED, {"judge": "gpt-4o"}, {}),
        (
            FULL,
            # Upstream's default for the dataset, which LOCAL_LLM then stands for.
            {"judge": None, "judge_api_nproc": 3, "judge_retry": 2, "judge_timeout": 9.5,
             "judge_args": json.dumps({"max_tokens": 8})},
            {"OPENAI_API_BASE": "http://j/v1/chat/completions", "LOCAL_LLM": "qwen"},
        ),
    ],
    ids=["none", "named", "full"],
)  # fmt: skip
def test_vlmevalkit_takes_arguments_and_variables(
    judge: JudgeSpec, arguments: dict[str, Any], variables: dict[str, str]
) -> None:
    assert judge_env.vlmeval_arguments(judge) == arguments
    assert judge_env.vlmeval_variables(judge) == variables


def test_opencompass_takes_variables() -> None:
    assert [judge_env.opencompass_variables(judge) for judge in (NONE, NAMED, FULL)] == [
        {},
        {"OC_JUDGE_MODEL": "gpt-4o"},
        {"OC_JUDGE_MODEL": "qwen", "OC_JUDGE_API_BASE": "http://j/v1"},
    ]


def test_opencompass_takes_a_configuration() -> None:
    found = judge_env.opencompass_config(FULL, 32)

    assert found is not None
    assert found.pop("meta_template")["round"][1]["generate"] is True
    assert found == {
        "type": "evalshim_worker.opencompass_models.JudgeModel", "abbr": "judge", "path": "qwen",
        "key_env": FULL.key_variable, "openai_api_base": "http://j/v1", "temperature": 0.001,
        "max_out_len": 16384, "batch_size": 100_000, "max_workers": 3, "retry": 2,
        "timeout": 9.5, "max_tokens": 8,
    }  # fmt: skip


def test_opencompass_has_a_place_and_a_pace_where_nothing_is_said() -> None:
    found = judge_env.opencompass_config(NAMED, 32)

    assert found is not None
    assert (found["openai_api_base"], found["max_workers"]) == ("https://api.openai.com/v1/", 32)
    assert not {"retry", "timeout"} & found.keys()
    assert judge_env.opencompass_config(NONE, 32) is None


def test_arguments_for_one_upstream_do_not_reach_the_other() -> None:
    upstream = {"vlmeval": {"max_tokens": 8}, "opencompass": {"max_out_len": 9}}
    judge = JudgeSpec("qwen", "http://j/v1", upstream=upstream)

    assert json.loads(judge_env.vlmeval_arguments(judge)["judge_args"]) == {"max_tokens": 8}
    found = judge_env.opencompass_config(judge, 32)
    assert found is not None
    assert found["max_out_len"] == 9
    assert not {"max_tokens", "vlmeval", "opencompass"} & found.keys()


@pytest.mark.parametrize("backend", ["vlmeval", "opencompass"])
def test_a_worker_is_told_who_grades_and_what_if_not(backend: str) -> None:
    told = judge_env.worker_judge(FULL, backend, 32)

    assert told is not None
    assert (told["model"], told["at"], told["fallback"]) == ("qwen", "http://j/v1", "allow")
    assert told["key_env"] == FULL.key_variable
    assert (told["config"] is None) is (backend == "vlmeval")
    assert told["variables"]
    named = judge_env.worker_judge(NAMED, backend, 32)
    assert named is not None
    assert (named["at"], named["fallback"]) == ("its provider", "error")
    assert judge_env.worker_judge(NONE, backend, 32) is None


def test_no_key_in_what_a_worker_is_told() -> None:
    backends = ("vlmeval", "opencompass")
    told = [judge_env.worker_judge(j, backend, 32) for j in (NAMED, FULL) for backend in backends]

    assert "canary" not in json.dumps([told, judge_env.vlmeval_arguments(FULL)])


def test_judges_do_not_share_the_variable_of_a_key() -> None:
    judges = (
        NAMED, FULL, JudgeSpec("qwen", "http://k/v1"), JudgeSpec("qwen2", "http://j/v1"),
        *(JudgeSpec("qwen", "http://j/v1", key_env=name) for name in "AB"),
    )  # fmt: skip

    assert len({judge.key_variable for judge in judges}) == len(judges)


def test_nor_do_two_that_differ_in_their_keys_alone() -> None:
    first, second = (JudgeSpec("qwen", "http://j/v1", key=key) for key in ("sk-1", "sk-2"))

    assert first.key_variable != second.key_variable
