"""Configurations that people already have, in the words of our own dialect.

EvalScope's `eval_backend`/`eval_config` and VLMEvalKit's `--config` JSON become
the mapping that `config.parse` takes. Translates words and shapes only; whether a
value is right is `config`'s to say, in the words of the file (`Words`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evalshim import evalscope_task, readers
from evalshim.errors import ConfigError, did_you_mean

# What each of our words is called in the file that a user wrote, for error messages.
Words = Mapping[str, str]

BACKENDS = ("VLMEvalKit", "OpenCompass")
_JUDGE = ("OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM")
# Arguments of run.py (0.0.20), and what of `judge` they are.
JUDGE_ARGUMENTS = {
    "judge_base_url": "api_base",
    "judge_key": "key",
    "judge_api_nproc": "nproc",
    "judge_retry": "retry",
    "judge_timeout": "timeout",
    "judge_args": "upstream",
}
# Keys of a model that are ours by the same name in EvalScope and VLMEvalKit.
_MODEL = (
    "api_base", "key", "temperature", "max_tokens", "top_p", "seed", "retry", "timeout",
    "img_size", "img_detail", "system_prompt", "model_path",
)  # fmt: skip
# Classes of VLMEvalKit's that take the address of an OpenAI-compatible endpoint (0.0.20).
_OPENAI = ("CustomAPIModel", "GPT4V", "OpenAIWrapper", "LMDeployAPI")
# Fields of VLMEvalKit's Arguments (0.0.20) for the model behind `base_url`, with the values
# that run.py gives to LMDeployAPI where a user gives none.
_BASE_URL = {
    "key": "sk-admin", "max_tokens": 2**15, "timeout": 1800, "retry": 6, "temperature": None,
    "top_p": None, "top_k": None, "repetition_penalty": None, "custom_prompt": None,
    "video_llm": None, "local_media": None,
}  # fmt: skip


def translate(
    raw: Mapping[str, Any], load: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], Words]:
    """`raw` in our own dialect, and the words in which its author wrote it.

    Args:
        load: Reads a file that the configuration names.

    Raises:
        ConfigError: Its shape is none that can be translated.
    """
    if "eval_backend" in raw or "eval_config" in raw:
        return _evalscope(raw, load)
    if evalscope_task.is_task(raw):
        return evalscope_task.translate(raw)
    if isinstance(raw.get("model"), Mapping) or isinstance(raw.get("data"), Mapping):
        return _vlmevalkit(raw)
    return dict(raw), {}


def with_base_url(models: list[Any], arguments: dict[str, Any]) -> list[Any]:
    """`models` behind VLMEvalKit's `--base-url`, whose flags leave `arguments`.

    Upstream (run.py, 0.0.20) then builds its LMDeployAPI from them.
    """
    given = {key: arguments.pop(key) for key in (*_BASE_URL, "extra_body") if key in arguments}
    url = arguments.pop("base_url")
    values = {**_BASE_URL, **{k: v for k, v in given.items() if v is not None}}
    if arguments.pop("thinker", False):
        values.update(timeout=values["timeout"] * 2, max_tokens=values["max_tokens"] * 2)
    body = values.pop("extra_body", None) or {}
    fields = {k: values.pop(k) for k in _MODEL if k in values}
    rest = {k: v for k, v in values.items() if v is not None}
    return [
        {
            "name": m["name"] if isinstance(m, Mapping) else m,
            "class": "LMDeployAPI",
            "api_base": url,
            **{k: v for k, v in fields.items() if v is not None},
            "upstream": {**rest, **_json_object(body, "extra_body")},
        }
        for m in models
    ]


def with_sampling(model: Any, arguments: Mapping[str, Any]) -> Any:
    """`model` with the flags that VLMEvalKit has for the model behind an address."""
    if not isinstance(model, Mapping) or "api_base" not in model or not arguments:
        return model
    body = _json_object(arguments.get("extra_body") or {}, "--extra-body")
    rest = {k: v for k, v in arguments.items() if k not in (*_MODEL, "extra_body")}
    ours = {k: v for k, v in arguments.items() if k in _MODEL}
    return {**model, **ours, "extra_body": {**model.get("extra_body", {}), **body, **rest}}


def _evalscope(
    raw: Mapping[str, Any], load: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], Words]:
    readers.no_unknown(
        raw,
        ("eval_backend", "eval_config", "work_dir", "plugins", *_JUDGE),
        "EvalScope's configuration",
    )
    backend = raw.get("eval_backend")
    if backend not in BACKENDS:
        raise ConfigError(
            f"eval_backend: {backend!r}",
            f"it must be one of {', '.join(BACKENDS)}",
            did_you_mean(str(backend), BACKENDS)
            + "EvalScope's native evaluation is not a job for these toolkits",
        )
    given = raw.get("eval_config")
    if isinstance(given, str):
        given = load(Path(given))
    if not isinstance(given, Mapping):
        raise readers.wrong("eval_config", given, "a mapping, or the path of a YAML or JSON file")
    config = {
        **{key: raw[key] for key in _JUDGE if key in raw},
        **({"work_dir": raw["work_dir"]} if "work_dir" in raw else {}),
        **given,
    }
    if config.get("rerun") and config.get("reuse"):
        raise ConfigError(
            "eval_config: both `rerun` and `reuse`",
            "one starts fresh, the other goes on from an earlier run",
            "keep one of them",
        )
    # Every run has a directory of its own, so that starting fresh deletes nothing.
    config.pop("rerun", None)
    to_ours = _evalscope_vlmevalkit if backend == "VLMEvalKit" else _evalscope_opencompass
    ours, words = to_ours(config)
    return {**ours, **({"plugins": raw["plugins"]} if "plugins" in raw else {})}, words


def _evalscope_vlmevalkit(config: dict[str, Any]) -> tuple[dict[str, Any], Words]:
    ours = {
        "datasets": _prefixed(config.pop("data", None), "vlmeval"),
        "work_dir": config.pop("work_dir", None) or "outputs",
        "judge": judge(config),
    }
    # The older name goes before the newer one (Arguments, 0.0.20).
    parallel = config.pop("api_nproc", None)
    older = config.pop("nproc", None)
    ours["concurrency"] = parallel if older is None else older
    for key in ("mode", "limit", "reuse"):
        ours[key] = config.pop(key, None)
    models = config.pop("model", None)
    if config.get("base_url") and isinstance(models, list):
        ours["models"] = with_base_url([_named(m) for m in models], config)
    elif isinstance(models, list):
        ours["models"] = [_evalscope_model(m, i, config) for i, m in enumerate(models)]
    else:
        ours["models"] = models
    config.pop("key", None)  # that of `base_url` alone
    # Arguments (0.0.20) takes eight frames of a video where nothing is said.
    fps = -1 if config.get("fps") is None else readers.number(-1)(config["fps"], "eval_config.fps")
    frames = {"nframe": 0} if fps > 0 else {"nframe": 8}
    ours["upstream"] = {"vlmeval": {**frames, **_no_none(config)}}
    words = {
        "models": "eval_config.model",
        "datasets": "eval_config.data",
        "model": "type",
        "concurrency": "eval_config.nproc",
        "upstream": "eval_config",
        **{key: f"eval_config.{key}" for key in ("mode", "limit", "reuse", "work_dir")},
    }
    return _no_none(ours), words


def _evalscope_model(raw: Any, position: int, config: Mapping[str, Any]) -> Any:
    where = f"eval_config.model[{position}]"
    if isinstance(raw, str):
        return {"name": raw, "class": raw}
    if not isinstance(raw, Mapping):
        raise readers.wrong(where, raw, "a mapping with `name`, or a model name of VLMEvalKit's")
    if "name" not in raw:
        raise ConfigError(f"{where}: no `name`", "", "CustomAPIModel, or a model of VLMEvalKit's")
    rest = _no_none({key: value for key, value in raw.items() if key not in ("name", "type")})
    ours = {key: rest.pop(key) for key in _MODEL if key in rest}
    if raw["name"] != "CustomAPIModel":
        return {"name": raw["name"], "class": raw["name"], **ours, "upstream": rest}
    if "type" not in raw:
        raise ConfigError(
            f"{where}: no `type`", "CustomAPIModel needs the model's id at the endpoint",
            "e.g. type: qwen-vl-chat",
        )  # fmt: skip
    if "api_base" not in raw:
        raise ConfigError(
            f"{where}: no `api_base`", "CustomAPIModel needs the endpoint's address",
            "e.g. api_base: http://127.0.0.1:8000/v1",
        )  # fmt: skip
    # What VLMEvalKit's configuration of CustomAPIModel holds, and run.py's --retry (0.0.20).
    retry = config.get("retry")
    defaults = {"key": "EMPTY", "img_detail": "high", "retry": 6 if retry is None else retry}
    verbose = {"verbose": True} if config.get("verbose") else {}
    return {
        "name": raw["type"],
        "class": "CustomAPIModel",
        "model": raw["type"],
        **defaults,
        **ours,
        "upstream": {**verbose, **rest},
    }


def _evalscope_opencompass(config: dict[str, Any]) -> tuple[dict[str, Any], Words]:
    graded = judge(config)
    generation = config.pop("generation_kwargs", None) or {}
    generation = readers.body(generation, "eval_config.generation_kwargs")
    models = config.pop("models", None)
    if isinstance(models, list):
        models = [_opencompass_model(m, i, generation) for i, m in enumerate(models)]
    limit = config.pop("limit", None)
    if isinstance(limit, float) and limit >= 1 and limit.is_integer():
        limit = int(limit)  # the document's 5.0
    ours = {
        "models": models,
        "datasets": _prefixed(config.pop("datasets", None), "opencompass"),
        "work_dir": config.pop("work_dir", None) or "outputs/default",
        "limit": limit,
        "reuse": config.pop("reuse", None),
        "mode": config.pop("mode", None),
        "judge": graded,
        "upstream": {"opencompass": _no_none(config)},
    }
    words = {
        "models": "eval_config.models",
        "api_base": "openai_api_base",
        "model": "path",
        "upstream": "eval_config",
        **{key: f"eval_config.{key}" for key in ("datasets", "limit", "reuse", "work_dir")},
    }
    return _no_none(ours), words


def _opencompass_model(raw: Any, position: int, generation: Mapping[str, Any]) -> Any:
    where = f"eval_config.models[{position}]"
    if not isinstance(raw, Mapping):
        raise readers.wrong(where, raw, "a mapping with `path` and `openai_api_base`")
    for key in ("path", "openai_api_base"):
        if key not in raw:
            raise ConfigError(
                f"{where}: no `{key}`",
                "",
                "e.g. {path: qwen2-0_5b-instruct, openai_api_base: http://127.0.0.1:8000/v1}",
            )
    rest = dict(raw)
    path = rest.pop("path")
    rest.pop("type", None)  # EvalScope's own class for any endpoint
    sent = dict(generation)
    body = {k: v for k, v in sent.items() if k not in ("temperature", "top_p", "seed",
                                                       "max_tokens", "max_new_tokens",
                                                       "do_sample")}  # fmt: skip
    most = sent.get("max_tokens", sent.get("max_new_tokens"))
    # ApiModelConfig's defaults (ms-opencompass 0.1.6); without sampling its temperature is 0.
    temperature = 0.0 if not sent.get("do_sample", True) else sent.get("temperature", 0.0)
    ours = {
        "name": rest.pop("abbr", path),
        "model": path,
        "api_base": rest.pop("openai_api_base"),
        "key": rest.pop("key", "EMPTY"),
        "temperature": rest.pop("temperature", temperature),
        "top_p": sent.get("top_p"),
        "seed": sent.get("seed"),
        "max_tokens": most,
        "extra_body": body or None,
        "is_chat": rest.pop("is_chat", True),
        "concurrency": rest.pop("batch_size", None),
        "retry": rest.pop("retry", None),
        "meta_template": _or_none(rest.pop("meta_template", None)),
    }
    return {**_no_none(ours), "upstream": rest}


def _vlmevalkit(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Words]:
    readers.no_unknown(raw, ("model", "data"), "VLMEvalKit's configuration")
    for key in ("model", "data"):
        value = raw.get(key)
        if not isinstance(value, Mapping) or not value:
            raise readers.wrong(key, value, "a mapping of names to their arguments, {} for none")
        for name, fields in value.items():
            if not isinstance(fields, Mapping):
                raise readers.wrong(f"{key}.{name}", fields, "a mapping, {} for a known name")
            if key == "data" and fields and "class" not in fields:
                raise ConfigError(
                    f"{key}.{name}: no `class`",
                    "arguments are those of a class of VLMEvalKit's",
                    "name it, or leave {} for a name that upstream knows",
                )
    models = []
    for name, fields in raw["model"].items():
        rest = _no_none({key: value for key, value in fields.items() if key != "class"})
        cls = fields.get("class", name)
        # Each other class has its own idea of an address.
        other = "class" in fields and (cls not in _OPENAI or rest.get("api_base") == "OFFICIAL")
        kept = [key for key in _MODEL if key in rest and not (other and key == "api_base")]
        ours = {key: rest.pop(key) for key in kept}
        models.append({"name": name, "class": cls, **ours, "upstream": rest})
    datasets: list[Any] = []
    for name, fields in raw["data"].items():
        rest = dict(fields)
        if rest:
            cls, dataset = rest.pop("class"), rest.pop("dataset", name)
            datasets.append({"name": name, "backend": "vlmeval", "class": cls,
                             "dataset": dataset, "upstream": rest})  # fmt: skip
        else:
            datasets.append(f"vlmeval:{name}")
    return {"models": models, "datasets": datasets}, {"models": "model", "datasets": "data"}


def judge(config: dict[str, Any]) -> Any:
    """The judge that VLMEvalKit's and EvalScope's arguments ask for; they leave `config`."""
    key, base, model = (config.pop(name, None) for name in _JUDGE)
    named = config.pop("judge", None)
    given = judge_arguments(config)
    url, secret = given.pop("api_base", None), given.pop("key", None)
    if named == "exact_matching" or not (named or model or url):
        # What says more of no judge is for that of the environment, if there is one.
        return _no_none({"model": named, **given}) if given else named
    found = {
        "model": model or named,  # LOCAL_LLM goes before whatever upstream wanted
        "api_base": url or base,
        "key": secret or (key if model or base else None),
        **given,
    }
    return _no_none(found)


def judge_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What VLMEvalKit's own arguments say of a judge, in our words; they leave `config`."""
    found = {ours: config.pop(name, None) for name, ours in JUDGE_ARGUMENTS.items()}
    if found["upstream"] is not None:
        found["upstream"] = _json_object(found["upstream"], "judge_args")
    return _no_none(found)


def _prefixed(names: Any, backend: str) -> Any:
    if not isinstance(names, list):
        return names
    return [f"{backend}:{n}" if isinstance(n, str) and ":" not in n else n for n in names]


def _named(raw: Any) -> Any:
    return {"name": raw.get("type", raw.get("name"))} if isinstance(raw, Mapping) else raw


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


def _json_object(value: Any, where: str) -> dict[str, Any]:
    """VLMEvalKit takes `extra_body` as the text of a JSON object."""
    if isinstance(value, str):
        from evalshim import documents

        value = documents.parse_json(value, where)
    return readers.body(value, where)


def _no_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
