"""A configuration, wherever it comes from, becomes one `RunSpec`.

Everything that a user wrote is checked here, once; behind it the types are
right. Reads configuration files and nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

from evalshim import documents, envs, readers, registry
from evalshim.catalogue import Catalogue
from evalshim.dialects import Words
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import (
    BackendName,
    DatasetSpec,
    JudgeSpec,
    Mode,
    ModelSpec,
    RunSpec,
    own,
    slug,
)

FORMATS = ("mcq",)
# VLMEvalKit's variables for a judge of one's own; `.env` in the working directory may set them.
JUDGE_VARIABLES = ("OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM")


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON configuration file; a `.py` file is one of OpenCompass's.

    Raises:
        ConfigError: Missing, unreadable, empty, malformed, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"no such configuration: {path}", "", "`shim run --help` shows how to run without one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}", str(error)) from error
    if path.suffix == ".py":
        return {"config": str(path.absolute())}
    json = path.suffix == ".json"
    raw = documents.parse_json(text, str(path)) if json else documents.parse(text, str(path))
    if raw is None:
        raise ConfigError(f"empty configuration: {path}", "", "it needs `models` and `datasets`")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"not a configuration: {path}",
            f"the file holds a {type(raw).__name__}, not keys with values",
            "it needs `models: [...]` and `datasets: [...]`",
        )
    return raw


def override(raw: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`raw` with `a.b.0.c=value` assignments carried out; values are YAML.

    Raises:
        ConfigError: An assignment is malformed or leads through something that is not there.
    """
    result: dict[str, Any] = _copy(dict(raw))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: not KEY=VALUE", "", "e.g. --set limit=20")
        _assign(result, key.split("."), value(text, f"--set {assignment}"), assignment)
    return result


def value(text: str, where: str) -> Any:
    """What `text` on the command line means: YAML, and a slice as it stands.

    Raises:
        ConfigError: It is not YAML.
    """
    if re.fullmatch(r"\[\d*:\d*\]", text.strip()):
        return text
    return documents.parse(text, f"{where}: the value")


def with_models(models: Any, names: Sequence[str], api_base: str | None) -> Any:
    """`models` of a configuration with `--model` and `--api-base` put in.

    Names take the place of all models; an address alone, that of every model's. A
    local model becomes the one of that name behind the address. What is malformed
    stays, for `parse` to refuse.
    """
    if names:
        listed = [_mapping(m) for m in models] if isinstance(models, list) else []
        known = {m.get("name"): m for m in listed if isinstance(m, dict)}
        models = [known.get(name, {"name": name}) for name in names]
    elif models is None:
        models = [{"name": "auto"}]
    if api_base is None or not isinstance(models, list):
        return models
    return [_behind(m, api_base) if isinstance(m, dict) else m for m in map(_mapping, models)]


def _mapping(model: Any) -> Any:
    return {"name": model} if isinstance(model, str) else model


def _behind(model: dict[str, Any], api_base: str) -> dict[str, Any]:
    named = str(model.get("class", ""))
    names = envs.names("vlmeval")
    known = names.models.get(named, {}).get("class", named) if names else named
    parameters = names.classes.get(known, {}).get("parameters", ()) if names else ()
    if "model_path" in model or (named and names and "api_base" not in parameters):
        return {"name": model.get("name"), "api_base": api_base}
    return {**model, "api_base": api_base}


def parse(
    raw: Mapping[str, Any],
    *,
    beside: Path | None = None,
    words: Words | None = None,
    say: Callable[[str], None] | None = None,
) -> RunSpec:
    """The `RunSpec` that a mapping of our own dialect asks for.

    Args:
        raw: The configuration.
        beside: Folder in which relative data paths are looked for before the
            working directory: that of the configuration file.
        words: What our words are called where the user wrote them.
        say: Told when names must be collected from an upstream first.

    Raises:
        ConfigError: Anything is missing, unknown, or of the wrong type or range.
    """
    words = words or {}
    readers.no_unknown(raw, RUN_KEYS, "the configuration")
    given = {"work_dir": "outputs", **raw}
    known = {
        key: read(given[key], words.get(key, key))
        for key, read in RUN_KEYS.items()
        if key in given and read
    }
    known.setdefault("judge", _judge_of_environment() or JudgeSpec())
    reading = _Reading(words, beside, known.get("python"), say)
    if "config" in raw:
        return _of_upstreams_own(raw, known, reading)
    found = _list(raw, "datasets", _NO_DATASETS, reading)
    datasets = tuple(_dataset(d, i, reading) for i, d in enumerate(found))
    _distinct("dataset", [d.name for d in datasets])
    for first, second in itertools.combinations(datasets, 2):
        if replace(first, name=second.name) == second:
            raise ConfigError(
                f"{first.name} and {second.name} are one dataset",
                "upstream would write the results of one over those of the other",
                "name it once",
            )
    backends = list(dict.fromkeys(d.backend for d in datasets))
    models = tuple(
        _model(m, i, backends, reading)
        for i, m in enumerate(_list(raw, "models", _NO_MODELS, reading))
    )
    _distinct("model", [m.name for m in models])
    spec = RunSpec(models=models, datasets=datasets, **known)
    _check_upstream(spec, backends, reading)
    for dataset in datasets:
        _check_frames(dataset, spec, reading)
    if spec.gpus > 1 and "vlmeval" not in backends:
        raise ConfigError(f"gpus: {spec.gpus}", "only VLMEvalKit divides samples among GPUs")
    if spec.gpus > 1 and (served := next((m.name for m in models if m.api_base), None)):
        raise ConfigError(
            f"gpus: {spec.gpus}", f"{served} is behind an endpoint", "gpus is for local models"
        )
    return spec


class _Reading:
    """What reading one configuration needs to know beside it."""

    def __init__(
        self,
        words: Words,
        beside: Path | None,
        python: str | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.words = words
        self.beside = beside
        self.python = python
        self.say = say
        self._names: dict[BackendName, Catalogue | None] = {}

    def word(self, ours: str) -> str:
        return self.words.get(ours, ours)

    def names(self, backend: BackendName) -> Catalogue | None:
        if backend not in self._names:
            self._names[backend] = envs.names(backend, self.python, say=self.say)
        return self._names[backend]


def _of_upstreams_own(raw: Mapping[str, Any], known: dict[str, Any], reading: _Reading) -> RunSpec:
    """A run of a configuration of OpenCompass's, which decides everything but where and how."""
    allowed = ("config", "work_dir", "mode", "reuse", "fail_on", "python", "upstream")
    if decided := next((key for key in raw if key not in allowed), None):
        raise ConfigError(
            f"{decided}: the configuration decides that",
            f"{raw['config']} is run as it is",
            f"change it there; beside it only {', '.join(allowed[1:])} can be given",
        )
    path = _data_path(readers.file(raw["config"], "config"), "config", reading.beside)
    if "work_dir" not in raw:
        del known["work_dir"]
    spec = RunSpec(**{**known, "config": path})
    _check_upstream(spec, ["opencompass"], reading)
    return spec


def plain(spec: RunSpec) -> dict[str, Any]:
    """`spec` as a mapping of our own dialect, without any key: what config.yaml holds."""
    models = []
    for m in spec.models:
        given = {key: getattr(m, _FIELDS.get(key, key)) for key in MODEL_KEYS if key != "key"}
        models.append({k: v for k, v in given.items() if v is not None and v != _DEFAULTS.get(k)})
    datasets = [_plain_dataset(d) for d in spec.datasets]
    rest = {key: getattr(spec, key) for key, read in RUN_KEYS.items() if read}
    rest["work_dir"] = str(spec.work_dir)
    rest["judge"] = _plain_judge(spec.judge)
    if spec.config:
        kept = ("work_dir", "mode", "reuse", "fail_on", "python", "upstream")
        rest = {"config": str(spec.config), **{key: rest[key] for key in kept}}
        models = datasets = []
    asked = {"models": models, "datasets": datasets, **rest}
    return {key: value for key, value in asked.items() if value not in (None, [], {})}


def _plain_judge(judge: JudgeSpec) -> Any:
    if not judge.api_base and not judge.key_env:
        return judge.model
    given = {"model": judge.model, "api_base": judge.api_base, "key_env": judge.key_env}
    return {key: value for key, value in given.items() if value is not None}


def _plain_dataset(dataset: DatasetSpec) -> Any:
    """The dataset as `_dataset` would read it again: a name, or what `origin` does not say."""
    known = registry.entries()
    if dataset == known.get(dataset.name):
        return dataset.name
    if dataset.name == dataset.origin and not dataset.path and not dataset.upstream:
        return f"{dataset.backend}:{dataset.name}"
    origin = known.get(dataset.origin)
    ours = None if origin and origin.path == dataset.path else dataset.path
    given = {
        "name": dataset.name,
        "backend": dataset.backend,
        "dataset": dataset.origin or None,
        "class": dataset.upstream.get("class"),
        "path": str(ours) if ours else None,
        "format": dataset.format if not dataset.origin else None,
        "upstream": {
            key: value for key, value in dataset.upstream.items() if key not in ("class", "dataset")
        },
    }
    return {key: value for key, value in given.items() if value not in (None, {})}


RUN_KEYS: dict[str, Callable[[Any, str], Any] | None] = {
    "models": None,
    "datasets": None,
    "config": None,
    "judge": lambda value, where: judge(value, where),
    "limit": readers.limit,
    "concurrency": readers.number(1, whole=True),
    "mode": readers.choice(*get_args(Mode)),
    "work_dir": readers.path,
    "fail_on": readers.number(0),
    "reuse": readers.reuse,
    "gpus": readers.number(1, whole=True),
    "verify_data": readers.verify_data,
    "python": readers.text,
    "upstream": readers.upstream,
}

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
    "concurrency": readers.number(1, whole=True),
    "is_chat": readers.flag,
    "meta_template": readers.meta_template,
    "upstream": readers.upstream,
}
# `class` is a word of Python's; the rest bear one name in a file and in a ModelSpec.
_FIELDS = {"class": "cls"}
_DEFAULTS = {
    f.name: f.default if f.default is not MISSING else {}
    for f in fields(ModelSpec)
    if f.name in ("extra_body", "is_chat", "meta_template", "upstream")
} | {"meta_template": "chat"}

DATASET_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "path": readers.file,
    "format": readers.choice(*FORMATS),
    "backend": readers.choice(*registry.BACKENDS),
    "dataset": readers.text,
    "class": readers.text,
    "upstream": readers.upstream,
}
# Arguments of the upstreams' commands that have a name of ours.
_OURS = {
    "data": "datasets", "datasets": "datasets", "model": "models", "models": "models",
    "config": "the configuration itself", "work_dir": "work_dir", "mode": "mode",
    "limit": "limit", "reuse": "reuse", "api_nproc": "concurrency", "nproc": "concurrency",
    "judge": "judge", "judge_base_url": "judge.api_base", "judge_key": "judge.key_env",
    "base_url": "api_base of a model", "key": "key_env of a model", "dry_run": "--dry-run",
    "OPENAI_API_KEY": "judge", "OPENAI_API_BASE": "judge", "LOCAL_LLM": "judge",
}  # fmt: skip
# What get_config_from_arg (opencompass 0.5.4) does not look at beside a configuration.
_WITHOUT_CONFIGURATION = (
    "summarizer", "config_dir", "hf_type", "hf_path", "hf_num_gpus", "num_gpus", "model_kwargs",
    "tokenizer_path", "tokenizer_kwargs", "peft_path", "peft_kwargs", "generation_kwargs",
    "max_seq_len", "max_out_len", "min_out_len", "batch_size", "pad_token_id", "stop_words",
    "custom_dataset_path", "custom_dataset_meta_path", "custom_dataset_data_type",
    "custom_dataset_infer_method", "dataset_num_runs",
)  # fmt: skip
# Set by the upstreams themselves, or arguments of VLMEvalKit's OpenAIWrapper (0.0.20),
# which would keep them from the body.
_NOT_IN_BODY = (
    "messages", "fail_msg", "max_file_size", "total_img_size", "use_azure", "verbose",
    "video_llm", "wait",
)  # fmt: skip
_NO_MODELS = "e.g. models: [{name: my-model, api_base: http://127.0.0.1:8000/v1}]"
_NO_DATASETS = "e.g. datasets: [gsm8k]; `shim list datasets` has all names"


def _model(
    raw: Any, position: int, backends: Sequence[BackendName], reading: _Reading
) -> ModelSpec:
    where = f"{reading.word('models')}[{position}]"
    raw = _mapping(raw)
    if not isinstance(raw, dict):
        raise readers.wrong(where, raw, "a mapping with `name` and `api_base`")
    readers.no_unknown(raw, MODEL_KEYS, where)
    values = {
        _FIELDS.get(key, key): read(raw[key], f"{where}.{reading.word(key)}")
        for key, read in MODEL_KEYS.items()
        if key in raw
    }
    if "name" not in values:
        raise ConfigError(f"{where}: no `name`", "", _NO_MODELS)
    values.setdefault("model", values["name"])
    if "api_base" not in values:
        values.setdefault("cls", values["name"])
        if values["model"] == "auto":
            raise ConfigError(f"{where}: no `api_base`", "`auto` asks an endpoint", _NO_MODELS)
    elif "key_env" not in values and values.get("cls") in (None, "CustomAPIModel"):
        values.setdefault("key", "EMPTY")  # other classes have variables of their own
    if "key" in own(values.get("upstream", {}), "vlmeval"):
        raise ConfigError(f"{where}.upstream.key: not by upstream", "", "say it as key_env")
    if "cls" in values:
        values["module"] = _check_class(values, where, backends, reading)
    _check_key(values, where)
    for name in values.get("extra_body", {}):
        if name in MODEL_KEYS or name in _NOT_IN_BODY:
            hint = f"say it as {where}.{name}" if name in MODEL_KEYS else "leave it out"
            raise ConfigError(f"{where}.extra_body.{name}: not by extra_body", "", hint)
    return ModelSpec(**values)


def _check_key(values: Mapping[str, Any], where: str) -> None:
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
    values: Mapping[str, Any], where: str, backends: Sequence[BackendName], reading: _Reading
) -> str | None:
    """Hold a model's class, or its name upstream, against what the upstreams of this run know.

    Returns:
        OpenCompass's module of it.
    """
    name, served = values["cls"], "api_base" in values
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
            did_you_mean(name, known) + _NO_MODELS,
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


def judge(value: Any, where: str) -> JudgeSpec:
    """`exact_matching`, the name of a judge of upstream's, or a model at an endpoint."""
    if isinstance(value, str):
        return JudgeSpec(readers.text(value, where))
    if not isinstance(value, dict):
        raise readers.wrong(where, value, "exact_matching, or a mapping with model and api_base")
    known = {
        "model": readers.text,
        "api_base": readers.api_base,
        "key_env": readers.text,
        "key": readers.text,
    }
    readers.no_unknown(value, known, where)
    values = {k: read(value[k], f"{where}.{k}") for k, read in known.items() if k in value}
    if "model" not in values:
        raise ConfigError(f"{where}: no `model`", "", "the judge's id at its endpoint")
    _check_key(values, where)
    if "api_base" in values and "key_env" not in values:
        values.setdefault("key", "EMPTY")
    return JudgeSpec(**values)


def _judge_of_environment() -> JudgeSpec | None:
    """VLMEvalKit's way: OPENAI_API_BASE and LOCAL_LLM, in the environment or in `.env`."""
    from dotenv import dotenv_values

    path = Path(".env")
    given = {**(dotenv_values(path) if path.is_file() else {}), **os.environ}
    key, base, model = (given.get(name) for name in JUDGE_VARIABLES)
    if not (base and model):
        return None
    where = "OPENAI_API_BASE"
    return JudgeSpec(model, readers.api_base(base, where), key=readers.text(key or "EMPTY", where))


def _dataset(raw: Any, position: int, reading: _Reading) -> DatasetSpec:
    where = f"{reading.word('datasets')}[{position}]"
    if isinstance(raw, str):
        return _resolve(raw, None, reading)
    if not isinstance(raw, dict):
        raise readers.wrong(where, raw, "a name, or a mapping with `name` and `path`")
    readers.no_unknown(raw, DATASET_KEYS, where)
    if "name" not in raw:
        raise ConfigError(f"{where}: no `name`", "", "e.g. {name: pets, path: data/pets.tsv}")
    given = {
        key: read(raw[key], f"{where}.{key}") for key, read in DATASET_KEYS.items() if key in raw
    }
    name, backend = given["name"], given.get("backend")
    arguments = given.get("upstream", {})
    if "class" in given:
        return _of_class(given, where, reading)
    if "dataset" in raw or "path" not in raw or name in registry.entries():
        found = _resolve(given.get("dataset", name), backend, reading)
        if "format" in raw:
            raise ConfigError(f"{where}.format: {found.name} has its own", "", "leave `format` out")
        if "path" not in raw and found.backend == "vlmeval" and (found.path or arguments):
            target = _file_name(name, f"{where}.name")
            if arguments and not found.path:
                return _configured(found, target, arguments, where, reading)
            return replace(found, name=target, target=target)
        if "path" not in raw:
            return replace(found, name=name, upstream=arguments)
        if found.backend == "opencompass":
            path = _data_path(given["path"], f"{where}.path", reading.beside)
            return replace(found, name=name, path=path, upstream=arguments)
        raise ConfigError(
            f"{where}: {found.name} is a dataset of {found.backend} with data of its own",
            "`path` is for data of yours",
            "give it another `name`, without `dataset`",
        )
    if backend == "opencompass":
        raise ConfigError(
            f"{where}: which configuration of opencompass?",
            "it needs one to read data of yours",
            "e.g. dataset: gsm8k",
        )
    _file_name(name, f"{where}.name")
    path = _data_path(given["path"], f"{where}.path", reading.beside)
    kind = given.get("format", FORMATS[0])
    return DatasetSpec(name=name, backend="vlmeval", target=name, path=path, format=kind)


def _resolve(name: str, backend: BackendName | None, reading: _Reading) -> DatasetSpec:
    found = registry.resolve(name, backend, python=reading.python, say=reading.say)
    return replace(found, origin=found.name)


def _of_class(given: Mapping[str, Any], where: str, reading: _Reading) -> DatasetSpec:
    """A dataset by its class, as in VLMEvalKit's own configurations."""
    name = _file_name(given["name"], f"{where}.name")
    dataset = given.get("dataset", name)
    arguments = given.get("upstream", {})
    names = reading.names("vlmeval")
    known = names.datasets.get(dataset, {}) if names else {}
    base = DatasetSpec(
        name, "vlmeval", name, type=known.get("type", ""), modality=known.get("modality", "")
    )
    found = replace(base, cls=given["class"], origin=dataset)
    return _configured(found, name, arguments, where, reading)


def _configured(
    found: DatasetSpec, name: str, arguments: Mapping[str, Any], where: str, reading: _Reading
) -> DatasetSpec:
    """A dataset of VLMEvalKit's with arguments of its class.

    Upstream (build_dataset_from_config, 0.0.20) drops what the class does not take.
    """
    if names := reading.names("vlmeval"):
        signature = names.classes.get(found.cls)
        if signature is None or not signature["dataset"]:
            classes = sorted(n for n, known in names.classes.items() if known["dataset"])
            raise ConfigError(
                f"{where}.class: VLMEvalKit has no dataset class {found.cls}",
                "",
                did_you_mean(found.cls, classes) + "`shim list datasets` names those it has",
            )
        for key in arguments:
            if key not in signature["parameters"]:
                raise ConfigError(
                    f"{where}: {found.cls} takes no `{key}`",
                    "",
                    did_you_mean(key, signature["parameters"])
                    + f"known: {', '.join(signature['parameters'])}",
                )
    dataset = found.upstream.get("dataset", found.origin or found.target)
    given = {"class": found.cls, "dataset": dataset, **arguments}
    return replace(found, name=name, target=name, upstream=given)


def _check_upstream(spec: RunSpec, backends: Sequence[BackendName], reading: _Reading) -> None:
    """Hold `upstream:` against the arguments of the upstreams' commands."""
    where = reading.word("upstream")
    known: dict[str, Any] = {}
    for backend in backends:
        if (names := reading.names(backend)) is None:
            return  # it cannot run either, and says so
        known.update(names.arguments)
    for backend in backends:
        for key in own(spec.upstream, backend):
            if key in _OURS:
                raise ConfigError(f"{where}.{key}: not by {where}", "", f"say it as {_OURS[key]}")
            if backend == "opencompass" and key in _WITHOUT_CONFIGURATION:
                raise ConfigError(
                    f"{where}.{key}: of no effect",
                    "OpenCompass reads it only where no configuration says what to run",
                    "`upstream` of a model has what is a model's",
                )
            if key not in known:
                raise ConfigError(
                    f"{where}: no argument `{key}` of {' or '.join(backends)}",
                    "",
                    did_you_mean(key, known) + f"known: {', '.join(sorted({*known} - {*_OURS}))}",
                )


def _check_frames(dataset: DatasetSpec, spec: RunSpec, reading: _Reading) -> None:
    """A video must be shown to a model somehow; upstream then sends it whole, or nothing."""
    if dataset.modality != "video" or dataset.backend != "vlmeval":
        return
    names = reading.names("vlmeval")
    if names is None or dataset.target in names.settings:
        return
    given = {**own(spec.upstream, "vlmeval"), **dataset.upstream}
    settings = registry.video_settings(dataset.upstream.get("dataset", dataset.target), names)
    frames = [
        readers.number(-1)(given[key], f"{dataset.name}: {key}")
        for key in ("fps", "nframe")
        if given.get(key) is not None
    ]
    if sum(value > 0 for value in frames) > 1:
        raise ConfigError(
            f"{dataset.name}: both `fps` and `nframe`",
            "a video is sampled by one of them",
            "leave one out, or set it to 0",
        )
    if settings and not any(value > 0 for value in frames):
        raise ConfigError(
            f"{dataset.name} is a video dataset without `fps` or `nframe`",
            "how many frames of a video the model sees is not said",
            f"one of upstream's settings: {', '.join(settings)}; "
            f"or {{name: {dataset.name}, upstream: {{nframe: 8}}}}",
        )


def _file_name(name: str, where: str) -> str:
    if slug(name) != name:
        raise ConfigError(
            f"{where}: {name!r} cannot name a file",
            "upstream names its result files after the dataset",
            f"e.g. {slug(name)}",
        )
    return name


def _data_path(text: str, where: str, beside: Path | None) -> Path:
    places: list[Path] = []
    for folder in (beside, Path.cwd()):
        try:
            places += [folder / Path(text).expanduser()] if folder else []
            if places and places[-1].exists():
                return places[-1].resolve()
        except (RuntimeError, OSError) as error:  # ~someone; a name that is too long
            raise ConfigError(f"{where}: no such file: {text[:60]}", str(error)) from error
    looked = "\n".join(dict.fromkeys(str(p.absolute()) for p in places))
    raise ConfigError(
        f"{where}: no such file: {text}", f"looked for:\n{looked}", "correct the path"
    )


def _list(raw: Mapping[str, Any], key: str, example: str, reading: _Reading) -> list[Any]:
    value = raw.get(key)
    word = reading.word(key)
    if value is None or value == []:
        raise ConfigError(f"no {key}", f"`{word}` is missing or empty", example)
    if not isinstance(value, list):
        raise readers.wrong(word, value, "a list", example)
    return value


def _distinct(kind: str, names: Sequence[str]) -> None:
    """Refuse two names that are one, or become one where they name files."""
    for first, second in itertools.combinations(names, 2):
        if slug(first).casefold() == slug(second).casefold():
            raise ConfigError(
                f"two {kind}s are named {first}"
                + (f" and {second}, one name for a file" if first != second else ""),
                "names tell the rows of the result table and the files of a run apart",
                "give each a `name` of its own",
            )


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _assign(target: Any, keys: Sequence[str], value: Any, assignment: str) -> None:
    for step, key in enumerate(keys):
        index: Any = key
        if isinstance(target, list):
            index = int(key) if key.isdecimal() and key.isascii() else len(target)
        if isinstance(target, list) and index >= len(target):
            raise ConfigError(f"--set {assignment}: no item {key}", f"the list has {len(target)}")
        if not isinstance(target, (dict, list)):
            raise ConfigError(f"--set {assignment}: {'.'.join(keys[:step])} has no keys")
        if step == len(keys) - 1:
            target[index] = value
        else:
            target = target.setdefault(index, {}) if isinstance(target, dict) else target[index]
