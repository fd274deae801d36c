"""The datasets of a configuration: what a user wrote -> DatasetSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalshim import plugin_files, readers, registry, secret_values
from evalshim.adapters.custom_data import FORMATS, SUFFIXES, recognise
from evalshim.adapters.scorers import SCORERS
from evalshim.errors import ConfigError, did_you_mean
from evalshim.judge_entries import judge_entry, plain_judge
from evalshim.reading import Reading, data_path, file_name
from evalshim.spec import BackendName, DatasetSpec, RunSpec, own

DATASET_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "path": readers.file,
    "format": readers.choice(*FORMATS),
    "scorer": readers.choice(*SCORERS),
    "backend": readers.choice(*registry.BACKENDS),
    "dataset": readers.text,
    "class": readers.text,
    "judge": judge_entry,
    "upstream": readers.upstream,
}
NO_DATASETS = "e.g. datasets: [gsm8k]; `shim list datasets` has all names"


def dataset_entry(raw: Any, position: int, reading: Reading) -> DatasetSpec:
    where = f"{reading.word('datasets')}[{position}]"
    found = _found(raw, where, reading)
    secret_values.refuse(found.upstream, f"{where}.{reading.word('upstream')}")
    if isinstance(raw, dict) and "judge" in raw:
        return replace(found, judge=judge_entry(raw["judge"], f"{where}.judge"))
    return found


def _found(raw: Any, where: str, reading: Reading) -> DatasetSpec:
    if isinstance(raw, str):
        found = _resolve(raw, None, reading)
        mine = found.path and not found.origin
        return _of_file(found.path, {"name": found.name}, where) if mine and found.path else found
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
    if "path" in raw and "dataset" not in raw and name not in registry.entries():
        path = data_path(given["path"], f"{where}.path", reading.beside)
        found = _of_file(path, given, where)
        if found.backend == "vlmeval":
            _not_upstreams(name, where, reading)
        return found
    found = _resolve(given.get("dataset", name), backend, reading)
    if found.path and not found.origin:  # a file of the user's, below $LMUData
        return _of_file(found.path, given, where)
    for key in ("format", "scorer"):
        if key in raw:
            raise ConfigError(f"{where}.{key}: {found.name} has its own", "", f"leave `{key}` out")
    if "path" not in raw and found.backend == "vlmeval" and (found.path or arguments):
        target = file_name(name, f"{where}.name")
        if arguments and not found.path:
            return _configured(found, target, arguments, where, reading)
        return replace(found, name=target, target=target)
    if "path" not in raw:
        return replace(found, name=name, upstream=arguments)
    if found.backend == "opencompass":
        path = data_path(given["path"], f"{where}.path", reading.beside)
        return replace(found, name=name, path=path, upstream=arguments)
    raise ConfigError(
        f"{where}: {found.name} is a dataset of {found.backend} with data of its own",
        "`path` is for data of yours",
        "give it another `name`, without `dataset`",
    )


def _not_upstreams(name: str, where: str, reading: Reading) -> None:
    """Under a name of its own VLMEvalKit would look for its own data, and download over yours."""
    names = reading.names("vlmeval")
    if names and (name in names.datasets or name in names.settings):
        raise ConfigError(
            f"{where}: {name} is a dataset of VLMEvalKit's own",
            "it would take its own data under that name",
            "give yours another `name`",
        )


def _of_file(path: Path, given: Mapping[str, Any], where: str) -> DatasetSpec:
    """Data of the user's own: the format says which upstream evaluates it."""
    name = file_name(given["name"], f"{where}.name")
    if "format" not in given and not path.is_file():
        raise ConfigError(
            f"{where}: {path.name} is no file",
            "a folder is data for a configuration of OpenCompass's",
            "say which: dataset: gsm8k",
        )
    format = given.get("format") or recognise(path)
    backend: BackendName = "opencompass" if format.startswith("opencompass_") else "vlmeval"
    if given.get("backend", backend) != backend:
        raise ConfigError(
            f"{where}: {path.name} is no data for {given['backend']}",
            f"it is {format}: {FORMATS[format]}",
            f"leave `backend` out, or `shim convert {path.name} {path.stem}.tsv`",
        )
    if path.suffix not in SUFFIXES[format]:
        raise ConfigError(
            f"{where}.format: {path.name} is no {format}", f"that is {FORMATS[format]}",
            "leave `format` out, or name another file",
        )  # fmt: skip
    if (scorer := given.get("scorer")) and format not in ("vqa", "general_vqa"):
        raise ConfigError(
            f"{where}.scorer: {scorer} is for questions with written answers",
            f"{path.name} is {format}, which upstream scores itself",
            "leave `scorer` out",
        )
    if "upstream" in given and backend == "vlmeval":
        raise ConfigError(
            f"{where}.upstream: for a file the class takes no arguments", "",
            "name a `class` with it",
        )  # fmt: skip
    return DatasetSpec(
        name=name, backend=backend, target=name if backend == "vlmeval" else "", path=path,
        format=format, scorer=scorer or ("bleu_rouge" if format == "general_vqa" else ""),
        cls="" if backend == "vlmeval" else "CustomDataset",
        modality="text" if backend == "opencompass" else "",
        upstream=given.get("upstream", {}),
    )  # fmt: skip


def _resolve(name: str, backend: BackendName | None, reading: Reading) -> DatasetSpec:
    """What a name means; `origin` says which, but of a file below $LMUData, which has no other."""
    for plugin in reading.plugins:
        if cls := plugin.datasets.get(own := name.removeprefix("vlmeval:")):
            return DatasetSpec(own, "vlmeval", own, cls, origin=own)
    found = registry.resolve(name, backend, python=reading.python, say=reading.say)
    custom = found.path and found.name not in registry.entries()
    return found if custom else replace(found, origin=found.name)


def _of_class(given: Mapping[str, Any], where: str, reading: Reading) -> DatasetSpec:
    """A dataset by its class, as in VLMEvalKit's own configurations."""
    name = file_name(given["name"], f"{where}.name")
    dataset = given.get("dataset", name)
    arguments = given.get("upstream", {})
    names = reading.names("vlmeval")
    known = names.datasets.get(dataset, {}) if names else {}
    base = DatasetSpec(
        name, "vlmeval", name, type=known.get("type", ""), modality=known.get("modality", "")
    )
    found = replace(base, cls=given["class"], origin=dataset, scorer=given.get("scorer", ""))
    if "path" in given:
        if dataset != name:
            raise ConfigError(
                f"{where}: both `path` and `dataset`", "data of yours goes by its `name`",
                "leave `dataset` out",
            )  # fmt: skip
        path = data_path(given["path"], f"{where}.path", reading.beside)
        if path.suffix != ".tsv" or given.get("format", "mcq") not in ("mcq", "vqa"):
            raise ConfigError(
                f"{where}: {given['class']} over {path.name}",
                "a class of VLMEvalKit's reads a TSV of its own",
                f"shim convert {path.name} {path.stem}.tsv",
            )
        found = replace(found, path=path, format=given.get("format"))
    return _configured(found, name, arguments, where, reading)


def _configured(
    found: DatasetSpec, name: str, arguments: Mapping[str, Any], where: str, reading: Reading
) -> DatasetSpec:
    """A dataset of VLMEvalKit's with arguments of its class.

    Upstream (build_dataset_from_config, 0.0.20) drops what the class does not take.
    """
    names = reading.names("vlmeval")
    if names and not reading.plugin_class(found.cls):
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


def check_frames(dataset: DatasetSpec, spec: RunSpec, reading: Reading) -> None:
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


def check_scorer(dataset: DatasetSpec, spec: RunSpec) -> None:
    """A set of questions of the user's own is scored by what is named, or by a plug-in."""
    if spec.mode == "infer":
        return
    named = dataset.scorer or dataset.cls or any(plugin_files.read(p).scores for p in spec.plugins)
    if dataset.format in ("vqa", "general_vqa") and not named:
        raise ConfigError(
            f"{dataset.name}: no scorer",
            "VLMEvalKit does not say how questions of your own are scored",
            f"{{name: {dataset.name}, path: ..., scorer: accuracy}}; `shim list scorers` has all; "
            "or a plug-in, or `mode: infer`",
        )
    if dataset.scorer == "judge" and not spec.judge_of(dataset).is_model:
        raise ConfigError(
            f"{dataset.name}: scorer: judge, and no judge", "",
            "e.g. judge: {model: qwen-plus, api_base: http://127.0.0.1:8001/v1, key_env: KEY}",
        )  # fmt: skip


def plain_dataset(dataset: DatasetSpec) -> Any:
    """The dataset as `_dataset` would read it again: a name, or what `origin` does not say."""
    if dataset.judge:
        rest = plain_dataset(replace(dataset, judge=None))
        named = {"name": dataset.name, "dataset": rest} if isinstance(rest, str) else rest
        return {**named, "judge": plain_judge(dataset.judge)}
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
        "format": dataset.format if not dataset.origin or dataset.cls else None,
        "scorer": dataset.scorer,
        "upstream": {
            key: value for key, value in dataset.upstream.items() if key not in ("class", "dataset")
        },
    }
    return {key: value for key, value in given.items() if value not in (None, {}, "")}
