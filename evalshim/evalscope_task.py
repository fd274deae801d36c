"""EvalScope's own tasks (not its backends) for custom data: general_vqa and general_vmcq.

`TaskConfig(datasets=["general_vqa"], dataset_args={...})` and `evalscope eval` become a
configuration of our own dialect: each subset a dataset, evaluated through VLMEvalKit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalshim import readers
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import slug

DATASETS = ("general_vqa", "general_vmcq")
# Of EvalScope's TaskConfig (1.14).
_KEYS = (
    "model", "model_id", "api_url", "api_key", "key_env", "eval_type", "datasets",
    "dataset_args", "limit", "eval_batch_size", "generation_config", "judge_strategy",
    "judge_model_args", "judge_worker_num", "work_dir", "timeout", "seed", "plugins",
)  # fmt: skip
_STRATEGIES = ("auto", "rule", "llm", "llm_recall")
# Members of generation_config that are ours by another name, or by the same.
_GENERATION = {
    "temperature": "temperature", "max_tokens": "max_tokens", "top_p": "top_p", "seed": "seed",
    "timeout": "timeout", "retries": "retry", "extra_headers": "headers",
}  # fmt: skip
_SUFFIXES = (".jsonl", ".tsv")


def is_task(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of EvalScope's own tasks."""
    return "api_url" in raw or "dataset_args" in raw


def translate(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """A task in our own dialect, and the words in which its author wrote it.

    Raises:
        ConfigError: It is no task for custom data at an endpoint.
    """
    readers.no_unknown(raw, _KEYS, "EvalScope's task")
    if raw.get("eval_type") not in (None, "openai_api", "server"):
        raise ConfigError(
            f"eval_type: {raw['eval_type']!r}",
            "custom data is asked of an endpoint",
            "eval_type: openai_api",
        )
    names = raw.get("datasets") or []
    if not isinstance(names, (list, tuple)) or not names:
        raise readers.wrong("datasets", names, f"a list of {' and '.join(DATASETS)}")
    model = raw.get("model")
    if not isinstance(model, str):
        raise readers.wrong("model", model, "the model's id at the endpoint")
    found: dict[str, Any] = {
        "models": [_model(raw, model)],
        "datasets": [entry for name in names for entry in _subsets(str(name), raw)],
    }
    for ours, theirs in (
        ("limit", "limit"), ("concurrency", "eval_batch_size"), ("work_dir", "work_dir"),
        ("plugins", "plugins"),
    ):  # fmt: skip
        if raw.get(theirs) is not None:
            found[ours] = raw[theirs]
    _judge(raw, found)
    words = {"concurrency": "eval_batch_size", "judge": "judge_model_args", "models": "model"}
    return found, words


def of_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """The task that the flags of `shim eval` describe.

    Raises:
        ConfigError: A flag that takes JSON has something else.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    for key in ("dataset_args", "generation_config", "judge_model_args"):
        if key in given:
            given[key] = _json(given[key], f"--{key.replace('_', '-')}")
    for key in ("limit", "eval_batch_size", "judge_worker_num"):
        if key in given:
            given[key] = _json(given[key], f"--{key.replace('_', '-')}")
    if "api_key_env" in given:
        given["key_env"] = given.pop("api_key_env")
    datasets = [*given.get("datasets", ()), *given.pop("more", ())]
    return {**given, "datasets": datasets, "dataset_args": given.get("dataset_args", {})}


def _model(raw: Mapping[str, Any], model: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": raw.get("model_id") or model, "model": model}
    entry["api_base"] = raw.get("api_url")
    if raw.get("key_env"):
        entry["key_env"] = raw["key_env"]
    else:
        entry.update(_key(raw.get("api_key")))
    for key in ("timeout", "seed"):
        if raw.get(key) is not None:
            entry[key] = raw[key]
    return {**entry, **_generation(raw.get("generation_config"), "generation_config")}


def _generation(given: Any, where: str) -> dict[str, Any]:
    """EvalScope's generation settings, as keys of a model of ours."""
    given = readers.body(given or {}, where)
    body = readers.body(given.get("extra_body") or {}, f"{where}.extra_body")
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key == "extra_query":
            raise _not_sent(f"{where}.{key}")
        if key in _GENERATION:
            found[_GENERATION[key]] = value
        elif key not in ("stream", "batch_size", "n", "extra_body"):
            body = {**body, key: value}
    return {**found, **({"extra_body": body} if body else {})}


def _not_sent(what: str) -> ConfigError:
    return ConfigError(f"{what}: not sent", "VLMEvalKit has no way to", "leave it out")


def _subsets(name: str, raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    if name not in DATASETS:
        raise ConfigError(
            f"datasets: {name}",
            f"of EvalScope's own evaluations only {' and '.join(DATASETS)} go through these "
            "toolkits",
            did_you_mean(name, DATASETS) + "`shim list datasets` names what the toolkits have",
        )
    given = readers.body(raw.get("dataset_args") or {}, "dataset_args")
    arguments = readers.body(given.get(name) or {}, f"dataset_args.{name}")
    readers.no_unknown(
        arguments, ("local_path", "dataset_id", "subset_list"), f"dataset_args.{name}"
    )
    folder = arguments.get("local_path") or arguments.get("dataset_id")
    if not folder:
        raise ConfigError(
            f"dataset_args.{name}: no `local_path`",
            "it is the folder with your data",
            f'e.g. {{"{name}": {{"local_path": "custom_eval/multimodal/vqa"}}}}',
        )
    path = readers.path(str(folder), f"dataset_args.{name}.local_path")
    subsets = arguments.get("subset_list") or ([path.stem] if path.is_file() else ["default"])
    subsets = [subsets] if isinstance(subsets, str) else subsets
    if not isinstance(subsets, (list, tuple)):
        raise readers.wrong(f"dataset_args.{name}.subset_list", subsets, "a list of names")
    return [
        {
            "name": slug(f"{name}_{subset}"),
            "path": str(_file(path, str(subset), name)),
            "format": name,
        }
        for subset in subsets
    ]


def _file(path: Path, subset: str, name: str) -> Path:
    if path.is_file():
        return path
    where = f"dataset_args.{name}.subset_list"
    places = [readers.path(path / f"{subset}{suffix}", where) for suffix in _SUFFIXES]
    for place in places:
        if place.is_file():
            return place
    there = sorted(p.stem for p in path.glob("*") if p.suffix in _SUFFIXES)
    raise ConfigError(
        f"dataset_args.{name}: no subset {subset}",
        "looked for:\n" + "\n".join(str(p.absolute()) for p in places),
        did_you_mean(subset, there) + (f"there are: {', '.join(there)}" if there else ""),
    )


def _judge(raw: Mapping[str, Any], found: dict[str, Any]) -> None:
    """EvalScope's judge grades where judge_strategy is `llm`; elsewhere its metrics do."""
    strategy = raw.get("judge_strategy") or "auto"
    readers.choice(*_STRATEGIES)(str(strategy), "judge_strategy")
    arguments = raw.get("judge_model_args") or {}
    if strategy not in ("llm", "llm_recall"):
        return
    if not isinstance(arguments, Mapping) or not arguments.get("model_id"):
        raise ConfigError(
            f"judge_strategy: {strategy}, and no judge",
            "judge_model_args names it",
            'e.g. {"model_id": "qwen-plus", "api_url": "http://127.0.0.1:8001/v1"}',
        )
    readers.no_unknown(
        arguments, ("model_id", "api_url", "api_key", "generation_config"), "judge_model_args"
    )
    judge = {"model": arguments["model_id"], "api_base": arguments.get("api_url")}
    # These go to the judge's class; ShortQA sets the temperature itself.
    where = "judge_model_args.generation_config"
    settings = _generation(arguments.get("generation_config"), where)
    if "headers" in settings:
        raise _not_sent(f"{where}.extra_headers")
    body = settings.pop("extra_body", {})
    judge |= {"nproc": raw.get("judge_worker_num"), "upstream": {**settings, **body}}
    found["judge"] = {
        **{key: value for key, value in judge.items() if value},
        **_key(arguments.get("api_key")),
    }
    for dataset in found["datasets"]:
        if dataset["format"] == "general_vqa":
            dataset["scorer"] = "judge"


def _key(given: Any) -> dict[str, Any]:
    """A key, or the variable that `$NAME` names: JSON on a command line is quoted."""
    if not given:
        return {}
    named = re.fullmatch(r"\$\{?(\w+)\}?", str(given))
    return {"key_env": named[1]} if named else {"key": given}


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON", str(error), "quote it for the shell") from error
