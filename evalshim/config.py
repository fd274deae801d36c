"""A configuration, wherever it comes from, becomes one `RunSpec`.

Everything that a user wrote is checked here, once; behind it the types are
right. Reads configuration files and nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from evalshim import documents, readers, registry
from evalshim.errors import ConfigError
from evalshim.spec import EXACT_MATCHING, DatasetSpec, Mode, ModelSpec, RunSpec, slug

FORMATS = ("mcq",)


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON configuration file.

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
    raw = documents.parse(text, str(path))
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


def with_endpoint(models: Any, name: str | None, api_base: str | None) -> Any:
    """`models` of a configuration with `--model` and `--api-base` put in.

    A name takes the place of all models; an address alone, that of every model's.
    What is malformed stays, for `parse` to refuse.
    """
    if name:
        listed = models if isinstance(models, list) else []
        known = [m for m in listed if isinstance(m, dict) and m.get("name") == name]
        models = known or [{"name": name}]
    elif models is None:
        models = [{"name": "auto"}]
    if api_base is None or not isinstance(models, list):
        return models
    return [{**m, "api_base": api_base} if isinstance(m, dict) else m for m in models]


def parse(raw: Mapping[str, Any], *, beside: Path | None = None) -> RunSpec:
    """The `RunSpec` that a mapping of our own dialect asks for.

    Args:
        raw: The configuration.
        beside: Folder in which relative data paths are looked for before the
            working directory: that of the configuration file.

    Raises:
        ConfigError: Anything is missing, unknown, or of the wrong type or range.
    """
    readers.no_unknown(raw, RUN_KEYS, "the configuration")
    models = tuple(_model(m, i) for i, m in enumerate(_list(raw, "models", _NO_MODELS)))
    _distinct("model", [m.name for m in models])
    found = _list(raw, "datasets", _NO_DATASETS)
    datasets = tuple(_dataset(d, i, beside) for i, d in enumerate(found))
    _distinct("dataset", [d.name for d in datasets])
    for first, second in itertools.combinations(datasets, 2):
        if replace(first, name=second.name) == second:
            raise ConfigError(
                f"{first.name} and {second.name} are one dataset",
                "upstream would write the results of one over those of the other",
                "name it once",
            )
    given = {"work_dir": "outputs", **raw}
    known = {key: read(given[key], key) for key, read in RUN_KEYS.items() if key in given and read}
    return RunSpec(models=models, datasets=datasets, **known)


def plain(spec: RunSpec) -> dict[str, Any]:
    """`spec` as a mapping of our own dialect, without any key: what config.yaml holds."""
    models = []
    for m in spec.models:
        given = {key: getattr(m, key) for key in MODEL_KEYS if key != "key"}
        models.append({key: value for key, value in given.items() if value not in (None, {})})
    datasets = [_plain_dataset(d) for d in spec.datasets]
    rest = {key: getattr(spec, key) for key, read in RUN_KEYS.items() if read}
    rest["work_dir"] = str(spec.work_dir)
    kept = {key: value for key, value in rest.items() if value is not None}
    return {"models": models, "datasets": datasets, **kept}


def _plain_dataset(dataset: DatasetSpec) -> Any:
    known = registry.entries()
    if dataset == known.get(dataset.name):
        return dataset.name
    origins = [e for e in known.values() if e.target == dataset.target]
    origin = next((e for e in origins if e.path == dataset.path), next(iter(origins), None))
    own = dataset.path if not origin or origin.path != dataset.path else None
    return {
        "name": dataset.name,
        **({"dataset": origin.name} if origin else {"backend": dataset.backend}),
        **({"path": str(own)} if own else {}),
        **({"format": dataset.format} if dataset.format and not origin else {}),
    }


RUN_KEYS: dict[str, Callable[[Any, str], Any] | None] = {
    "models": None,
    "datasets": None,
    "judge": readers.choice(EXACT_MATCHING),
    "limit": readers.limit,
    "concurrency": readers.number(1, whole=True),
    "mode": readers.choice(*get_args(Mode)),
    "work_dir": readers.path,
    "fail_on": readers.number(0),
    "python": readers.text,
}

MODEL_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "api_base": readers.api_base,
    "model": readers.text,
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
}

DATASET_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "path": readers.file,
    "format": readers.choice(*FORMATS),
    "backend": readers.choice(*registry.BACKENDS),
    "dataset": readers.text,
}
# Set by the upstreams themselves, or arguments of VLMEvalKit's OpenAIWrapper (0.0.20),
# which would keep them from the body.
_NOT_IN_BODY = (
    "messages", "fail_msg", "max_file_size", "total_img_size", "use_azure", "verbose",
    "video_llm", "wait",
)  # fmt: skip
_NO_MODELS = "e.g. models: [{name: my-model, api_base: http://127.0.0.1:8000/v1}]"
_NO_DATASETS = "e.g. datasets: [gsm8k]; `shim list datasets` has all names"


def _model(raw: Any, position: int) -> ModelSpec:
    where = f"models[{position}]"
    if not isinstance(raw, dict):
        raise readers.wrong(where, raw, "a mapping with `name` and `api_base`")
    readers.no_unknown(raw, MODEL_KEYS, where)
    values = {
        key: read(raw[key], f"{where}.{key}") for key, read in MODEL_KEYS.items() if key in raw
    }
    for key in ("name", "api_base"):
        if key not in values:
            raise ConfigError(f"{where}: no `{key}`", "", _NO_MODELS)
    values.setdefault("model", values["name"])
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
    for name in values.get("extra_body", {}):
        if name in MODEL_KEYS or name in _NOT_IN_BODY:
            hint = f"say it as {where}.{name}" if name in MODEL_KEYS else "leave it out"
            raise ConfigError(f"{where}.extra_body.{name}: not by extra_body", "", hint)
    return ModelSpec(**values)


def _dataset(raw: Any, position: int, beside: Path | None) -> DatasetSpec:
    where = f"datasets[{position}]"
    if isinstance(raw, str):
        return registry.resolve(raw)
    if not isinstance(raw, dict):
        raise readers.wrong(where, raw, "a name, or a mapping with `name` and `path`")
    readers.no_unknown(raw, DATASET_KEYS, where)
    if "name" not in raw:
        raise ConfigError(f"{where}: no `name`", "", "e.g. {name: pets, path: data/pets.tsv}")
    given = {
        key: read(raw[key], f"{where}.{key}") for key, read in DATASET_KEYS.items() if key in raw
    }
    name, backend = given["name"], given.get("backend")
    if "dataset" in raw or "path" not in raw or name in registry.entries():
        found = registry.resolve(given.get("dataset", name), backend)
        if "format" in raw:
            raise ConfigError(f"{where}.format: {found.name} has its own", "", "leave `format` out")
        if "path" not in raw and found.path and found.backend == "vlmeval":
            return replace(found, name=_file_name(name, f"{where}.name"), target=name)
        if "path" not in raw:
            return replace(found, name=name)
        if found.backend == "opencompass":
            return replace(
                found, name=name, path=_data_path(given["path"], f"{where}.path", beside)
            )
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
    path = _data_path(given["path"], f"{where}.path", beside)
    kind = given.get("format", FORMATS[0])
    return DatasetSpec(name=name, backend="vlmeval", target=name, path=path, format=kind)


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


def _list(raw: Mapping[str, Any], key: str, example: str) -> list[Any]:
    value = raw.get(key)
    if value is None or value == []:
        raise ConfigError(f"no {key}", f"`{key}` is missing or empty", example)
    if not isinstance(value, list):
        raise readers.wrong(key, value, "a list", example)
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
