"""A judge as each upstream reads it: variables, arguments of a command, a configuration.

No key is in any of it: the worker takes that from its environment and hands it on while
answers are graded, and only then. So no `.env` is ever written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evalshim.spec import JudgeSpec, ModelSpec, chat_url, own

# A module of the worker package as it is called inside an upstream environment.
_MODELS = "evalshim_worker.opencompass_models"


def transport(asked: ModelSpec | JudgeSpec) -> dict[str, Any] | None:
    """How a worker reaches an endpoint (worker/transport.py); None where nothing is special."""
    headers = dict(asked.headers) if isinstance(asked, ModelSpec) else {}
    special = headers or asked.trusted is not True
    return {"headers": headers, "verify": asked.trusted} if special else None


def vlmeval_arguments(judge: JudgeSpec) -> dict[str, Any]:
    """Arguments of run.py (0.0.20) for a judge.

    `--judge` is upstream's default for each dataset where a judge of the user's answers for
    it: build_judge takes LOCAL_LLM in the place of whatever model it wanted.
    """
    further = own(judge.upstream, "vlmeval")
    given = {
        "judge_api_nproc": judge.nproc,
        "judge_retry": judge.retry,
        "judge_timeout": judge.timeout,
        "judge_args": json.dumps(further) if further else None,
    }
    return {
        "judge": None if judge.api_base else judge.model,
        **{key: value for key, value in given.items() if value is not None},
    }


def vlmeval_variables(judge: JudgeSpec) -> dict[str, str]:
    """The variables by which build_judge (0.0.20) finds a judge of the user's."""
    if not judge.api_base:
        return {}
    return {"OPENAI_API_BASE": chat_url(judge.api_base), "LOCAL_LLM": judge.model}


def opencompass_variables(judge: JudgeSpec) -> dict[str, str]:
    """The variables that OpenCompass's evaluators (0.5.4) read, for those that build their own
    client (HealthBench, ATLAS)."""
    if not judge.is_model:
        return {}
    base = {"OC_JUDGE_API_BASE": judge.api_base} if judge.api_base else {}
    return {"OC_JUDGE_MODEL": judge.model, **base}


def opencompass_config(judge: JudgeSpec, parallel: int) -> dict[str, Any] | None:
    """`judge_cfg` of GenericLLMEvaluator: its default_judge_cfg (0.5.4), behind any endpoint.

    Left out: the tokenizer, which upstream downloads to count tokens, and what only that
    needs. `query_per_second` paces, which `nproc` does here.
    """
    if not judge.is_model:
        return None
    given: dict[str, Any] = {
        "type": f"{_MODELS}.JudgeModel",
        "abbr": "judge",
        "path": judge.model,
        "key_env": judge.key_variable,
        "openai_api_base": judge.api_base or "https://api.openai.com/v1/",
        "meta_template": {
            "round": [
                {"role": "HUMAN", "api_role": "HUMAN"},
                {"role": "BOT", "api_role": "BOT", "generate": True},
            ]
        },
        "temperature": 0.001,
        "max_out_len": 16384,
        # All samples at once (None is one by one to upstream's inferencer): `max_workers` bounds.
        "batch_size": 100_000,
        "max_workers": judge.nproc or parallel,
        "retry": judge.retry,
        "timeout": judge.timeout,
        "transport": transport(judge),
    }
    return {k: v for k, v in given.items() if v is not None} | own(judge.upstream, "opencompass")


def worker_judge(judge: JudgeSpec, backend: str, parallel: int) -> Mapping[str, Any] | None:
    """A judge as a worker's job has it; None where there is to be none.

    Args:
        parallel: Calls in flight where the judge says nothing of that.
    """
    if not judge.is_model:
        return None
    vlmeval = backend == "vlmeval"
    return {
        "model": judge.model,
        "at": judge.api_base or "its provider",
        "key_env": judge.key_variable,
        "transport": transport(judge),
        "fallback": judge.fallback,
        "variables": vlmeval_variables(judge) if vlmeval else opencompass_variables(judge),
        "config": None if vlmeval else opencompass_config(judge, parallel),
    }
