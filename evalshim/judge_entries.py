"""The judges of a configuration: what a user wrote -> JudgeSpec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from evalshim import readers, secret_values
from evalshim.errors import ConfigError
from evalshim.model_entries import check_key
from evalshim.spec import EXACT_MATCHING, Fallback, JudgeSpec

# VLMEvalKit's variables for a judge of one's own; `.env` in the working directory may set them.
VARIABLES = ("OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM")
JUDGE_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "model": readers.text,
    "api_base": readers.api_base,
    "key_env": readers.text,
    "key": readers.text,
    "nproc": readers.number(1, whole=True),
    "retry": readers.number(1, whole=True),
    "timeout": readers.number(1),
    "verify": readers.flag,
    "ca_bundle": readers.certificates,
    "fallback": readers.choice(*get_args(Fallback)),
    "upstream": readers.upstream,
}
_EXAMPLE = "e.g. judge: {model: qwen-plus, api_base: http://127.0.0.1:8001/v1, key_env: KEY}"


def judge_entry(value: Any, where: str) -> JudgeSpec:
    """`exact_matching`, the name of a judge of upstream's, or a model at an endpoint.

    Raises:
        ConfigError: It is none of them.
    """
    if isinstance(value, str):
        value = {"model": value}
    if not isinstance(value, dict):
        raise readers.wrong(where, value, "exact_matching, or a mapping with model and api_base")
    readers.no_unknown(value, JUDGE_KEYS, where)
    values = {k: read(value[k], f"{where}.{k}") for k, read in JUDGE_KEYS.items() if k in value}
    if "model" not in values:
        raise ConfigError(f"{where}: no `model`", "the judge's id at its endpoint", _EXAMPLE)
    where_it_is = {"api_base", "key", "key_env"} & values.keys()
    if values["model"] == EXACT_MATCHING and where_it_is:
        raise ConfigError(
            f"{where}: exact_matching, and {min(where_it_is)}",
            "that is no model: nothing is asked",
            "name a model, or say `judge: exact_matching` alone",
        )
    if values["model"] == "auto" and "api_base" not in values:
        raise ConfigError(f"{where}: no `api_base`", "`auto` asks an endpoint", _EXAMPLE)
    check_key(values, where)
    if "api_base" in values and "key_env" not in values:
        values.setdefault("key", "EMPTY")
    if "key" in values.get("upstream", {}):
        raise ConfigError(f"{where}.upstream.key: not by upstream", "", "say it as key_env")
    secrets: dict[str, str] = {}
    if "upstream" in values:
        values["upstream"], secrets = secret_values.take(values["upstream"], f"{where}.upstream")
    return JudgeSpec(**values, secrets=secrets)


def judge_of_environment() -> JudgeSpec | None:
    """VLMEvalKit's way: OPENAI_API_BASE and LOCAL_LLM, in the environment or in `.env`."""
    from dotenv import dotenv_values

    path = Path(".env")
    given = {**(dotenv_values(path) if path.is_file() else {}), **os.environ}
    key, base, model = (given.get(name) for name in VARIABLES)
    if not (base and model):
        return None
    key = key or "EMPTY"
    check_key({"key": key}, "OPENAI_API_KEY")
    return JudgeSpec(model, readers.api_base(base, "OPENAI_API_BASE"), key=key)


def over_environment(judge: Any) -> Any:
    """`judge` of a configuration; without a model, that of the environment with these keys."""
    if not isinstance(judge, dict) or {"model", "api_base", "key", "key_env"} & judge.keys():
        return judge
    found = judge_of_environment()
    if not found:
        return {"model": EXACT_MATCHING, **judge}
    return {"model": found.model, "api_base": found.api_base, "key": found.key, **judge}


def with_arguments(judge: Any, arguments: Mapping[str, Any]) -> Any:
    """`judge` of a configuration with flags put in: the name of a model, and its arguments.

    What is malformed stays, for `judge_entry` to refuse.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    if not given:
        return judge
    named = {"model": judge} if isinstance(judge, str) else judge
    if named is not None and not isinstance(named, dict):
        return judge
    if "model" in given and "api_base" not in given and given["model"] == EXACT_MATCHING:
        return EXACT_MATCHING if len(given) == 1 else given
    if "key" in given or "key_env" in given:
        named = {k: v for k, v in (named or {}).items() if k not in ("key", "key_env")}
    return {**(named or {}), **given}


def plain_judge(judge: JudgeSpec) -> Any:
    """The judge as `judge_entry` would read it again, without its key."""
    given = {
        field.name: value
        for field in fields(judge)
        if field.name not in ("key", "secrets")
        and (value := getattr(judge, field.name)) not in (None, {})
        and (field.name == "model" or field.default is MISSING or value != field.default)
    }
    return judge.model if len(given) == 1 else given
