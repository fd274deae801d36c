"""The datasets of a configuration: what a user wrote -> DatasetSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evalshim import readers, registry
from evalshim.errors import ConfigError, did_you_mean
from evalshim.reading import Reading, data_path, file_name
from evalshim.spec import BackendName, DatasetSpec, RunSpec, own

FORMATS = ("mcq",)
DATASET_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "name": readers.text,
    "path": readers.file,
    "format": readers.choice(*FORMATS),
    "backend": readers.choice(*registry.BACKENDS),
    "dataset": readers.text,
    "class": readers.text,
    "upstream": readers.upstream,
}
NO_DATASETS = "e.g. datasets: [gsm8k]; `shim list datasets` has all names"


def dataset_entry(raw: Any, position: int, reading: Reading) -> DatasetSpec:
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
    if backend == "opencompass":
        raise ConfigError(
            f"{where}: which configuration of opencompass?",
            "it needs one to read data of yours",
            "e.g. dataset: gsm8k",
        )
    file_name(name, f"{where}.name")
    path = data_path(given["path"], f"{where}.path", reading.beside)
    kind = given.get("format", FORMATS[0])
    return DatasetSpec(name=name, backend="vlmeval", target=name, path=path, format=kind)


def _resolve(name: str, backend: BackendName | None, reading: Reading) -> DatasetSpec:
    found = registry.resolve(name, backend, python=reading.python, say=reading.say)
    return replace(found, origin=found.name)


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
    found = replace(base, cls=given["class"], origin=dataset)
    return _configured(found, name, arguments, where, reading)


def _configured(
    found: DatasetSpec, name: str, arguments: Mapping[str, Any], where: str, reading: Reading
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


def plain_dataset(dataset: DatasetSpec) -> Any:
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
