"""The models of a configuration: what a user wrote -> ModelSpec."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_args

from evalshim import envs, readers, secret_values
from evalshim.errors import ConfigError, did_you_mean
from evalshim.reading import Reading
from evalshim.spec import BackendName, ModelSpec, Think, own

MODEL_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "api_base": readers.api_base,
    "model": readers.text,
    "class": readers.text,
    "model_path": readers.file,
    "key_env": readers.text,
    "key": readers.text,
    "temperature": readers.number(0),
    "max_tokens": readers.number(1, whole=True),
    "top_p": readers.number(0),
    "seed": readers.number(0, whole=True),
    "retry": readers.number(1, whole=True),
    "timeout": readers.number(1),
    "img_size": readers.img_size,
    "img_detail": readers.choice("low", "high"),
    "system_prompt": readers.text,
    "extra_body": readers.body,
    "headers": readers.headers,
    "verify": readers.flag,
    "ca_bundle": readers.certificates,
    "concurrency": readers.number(1, whole=True),
    "rate_limit": readers.number(1),
    "think": readers.choice(*get_args(Think)),
    "is_chat": readers.flag,
    "meta_template": readers.meta_template,
    "upstream": readers.upstream,
}
# `class` is a word of Python's; the rest bear one name in a file and in a ModelSpec.
_FIELDS = {"class": "cls"}
_DEFAULTS = {
    f.name: f.default if f.default is not MISSING else {}
    for f in fields(ModelSpec)
    if f.name in MODEL_KEYS and (f.default is MISSING or f.default not in (None, ""))
} | {"meta_template": "chat"}
# Set by the upstreams themselves, or arguments of VLMEvalKit's OpenAIWrapper (0.0.20),
# which would keep them from the body.
_NOT_IN_BODY = (
    "messages", "fail_msg", "max_file_size", "total_img_size", "use_azure", "verbose",
    "video_llm", "wait",
)  # fmt: skip
# What OpenCompass (0.5.4) reads from a model's configuration beside its class.
_IN_CONFIGURATION = (
    "batch_size", "max_out_len", "min_out_len", "pred_postprocessor", "run_cfg", "summarizer_abbr",
)  # fmt: skip
NO_MODELS = "e.g. models: [{name: my-model, api_base: http://127.0.0.1:8000/v1}]"


def model_entry(
    raw: Any, position: int, backends: Sequence[BackendName], reading: Reading
) -> ModelSpec:
    where = f"{reading.word('models')}[{position}]"
    raw = as_mapping(raw)
    if not isinstance(raw, dict):
        raise readers.wrong(where, raw, "a mapping with `name` and `api_base`")
    readers.no_unknown(raw, MODEL_KEYS, where)
    values = {
        _FIELDS.get(key, key): read(raw[key], f"{where}.{reading.word(key)}")
        for key, read in MODEL_KEYS.items()
        if key in raw
    }
    if "name" not in values:
        raise ConfigError(f"{where}: no `name`", "", NO_MODELS)
    values.setdefault("model", values["name"])
    if "api_base" not in values:
        values.setdefault("cls", values["name"])
        if values["model"] == "auto":
            raise ConfigError(f"{where}: no `api_base`", "`auto` asks an endpoint", NO_MODELS)
    elif "key_env" not in values and values.get("cls") in (None, "CustomAPIModel"):
        values.setdefault("key", "EMPTY")  # other classes have variables of their own
    if "api_base" not in values:
        for key in ("headers", "verify", "ca_bundle"):
            if key in values:
                why = "it is for an endpoint"
                raise ConfigError(f"{where}.{key}: no `api_base`", why, NO_MODELS)
    if "key" in own(values.get("upstream", {}), "vlmeval"):
        raise ConfigError(f"{where}.upstream.key: not by upstream", "", "say it as key_env")
    if "api_base" in values and "opencompass" in backends:
        _check_endpoint_arguments(values, where, reading)
    if "cls" in values:
        values["module"] = _check_class(values, where, backends, reading)
    check_key(values, where)
    for name in values.get("extra_body", {}):
        if name in MODEL_KEYS or name in _NOT_IN_BODY:
            hint = f"say it as {where}.{name}" if name in MODEL_KEYS else "leave it out"
            raise ConfigError(f"{where}.extra_body.{name}: not by extra_body", "", hint)
    secrets: dict[str, str] = {}
    for key in ("extra_body", "headers", "upstream"):
        if key in values:
            values[key], taken = secret_values.take(
                values[key], f"{where}.{key}", every=key == "headers"
            )
            secrets.update(taken)
    return ModelSpec(**values, secrets=secrets)


def check_key(values: Mapping[str, Any], where: str) -> None:
    """Hold a key, written down or in a variable, to what a key can be; ConfigError."""
    if "key" in values and "key_env" in values:
        raise ConfigError(f"{where}: both `key` and `key_env`", "", "keep `key_env`")
    key_env = values.get("key_env")
    if key_env and not os.environ.get(key_env):
        raise ConfigError(
            f"{where}.key_env: {key_env} is not set",
            "the key is read from it",
            f"export {key_env}=...",
        )
    key = os.environ[key_env] if key_env else values.get("key", "")
    if not re.fullmatch("[!-~]*", key):
        raise ConfigError(
            f"{where}: the key has characters that no key has",
            "a space, a line end (of a CRLF file, say) or a letter beyond ASCII",
            f"look at {key_env or '`key`'}",
        )


def _check_class(
    values: Mapping[str, Any], where: str, backends: Sequence[BackendName], reading: Reading
) -> str | None:
    """Hold a model's class, or its name upstream, against what the upstreams of this run know.

    Returns:
        OpenCompass's module of it.
    """
    name, served = values["cls"], "api_base" in values
    if reading.plugin_class(name):
        return None
    known: list[str] = []
    module = None
    for backend in backends:
        if names := reading.names(backend):
            classes = [n for n, signature in names.classes.items() if not signature["dataset"]]
            known += [*names.models, *classes]
            module = module or names.models.get(name, {}).get("module")
    missing = [b for b in backends if reading.names(b) is None]
    # A checkout of open-compass/VLMEvalKit has no CustomAPIModel; the worker knows a way.
    if name not in known and name != "CustomAPIModel" and not (served and missing):
        lacking = "" if served else f"no `{reading.word('api_base')}`, and "
        raise ConfigError(
            f"{where}: {lacking}{name} is no model that {' or '.join(backends)} knows",
            "a model needs the address of its endpoint, or to be one of upstream's own"
            + "".join(f"\nwhat {b} knows is unknown: it is not set up" for b in missing),
            did_you_mean(name, known) + NO_MODELS,
        )
    names = reading.names("vlmeval") if "vlmeval" in backends else None
    if names:
        cls = names.models.get(name, {}).get("class", name)
        signature = names.classes.get(cls, {"open": True})
        for key in own(values.get("upstream", {}), "vlmeval"):
            if not signature["open"] and key not in signature["parameters"]:
                raise ConfigError(
                    f"{where}: {cls} takes no `{key}`",
                    "",
                    did_you_mean(key, signature["parameters"])
                    + f"known: {', '.join(signature['parameters'])}",
                )
    return module


def _check_endpoint_arguments(values: Mapping[str, Any], where: str, reading: Reading) -> None:
    """Hold the further arguments of a model against OpenCompass's class for an endpoint."""
    names = reading.names("opencompass")
    if not names or "OpenAISDK" not in names.classes:
        return
    known = sorted({*names.classes["OpenAISDK"]["parameters"], *_IN_CONFIGURATION})
    for key in own(values.get("upstream", {}), "opencompass"):
        if key not in known:
            raise ConfigError(
                f"{where}: OpenCompass's OpenAISDK takes no `{key}`",
                "",
                did_you_mean(key, known) + f"known: {', '.join(known)}",
            )


def with_models(models: Any, names: Sequence[str], api_base: str | None) -> Any:
    """`models` of a configuration with `--model` and `--api-base` put in.

    Names take the place of all models; an address alone, that of every model's. A
    local model becomes the one of that name behind the address. What is malformed
    stays, for `parse` to refuse.
    """
    if names:
        listed = [as_mapping(m) for m in models] if isinstance(models, list) else []
        known = {m.get("name"): m for m in listed if isinstance(m, dict)}
        models = [known.get(name, {"name": name}) for name in names]
    elif models is None:
        models = [{"name": "auto"}]
    if api_base is None or not isinstance(models, list):
        return models
    return [_behind(m, api_base) if isinstance(m, dict) else m for m in map(as_mapping, models)]


def as_mapping(model: Any) -> Any:
    return {"name": model} if isinstance(model, str) else model


def _behind(model: dict[str, Any], api_base: str) -> dict[str, Any]:
    named = str(model.get("class", ""))
    names = envs.names("vlmeval")
    known = names.models.get(named, {}).get("class", named) if names else named
    parameters = names.classes.get(known, {}).get("parameters", ()) if names else ()
    if "model_path" in model or (named and names and "api_base" not in parameters):
        return {"name": model.get("name"), "api_base": api_base}
    return {**model, "api_base": api_base}


def plain_model(model: ModelSpec) -> dict[str, Any]:
    """The model as `model_entry` would read it again, without its key."""
    given = {key: getattr(model, _FIELDS.get(key, key)) for key in MODEL_KEYS if key != "key"}
    return {k: v for k, v in given.items() if v is not None and v != _DEFAULTS.get(k)}
