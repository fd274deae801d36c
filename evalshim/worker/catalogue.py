"""Everything that the upstream in this environment knows by name, as one event.

`catalogue` carries what `evalshim/catalogue.py` documents. Names, classes and
signatures only: nothing is built, nothing is downloaded.
"""

import argparse
import importlib
import inspect
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from . import channel, health, torchvision_ops


def run(job):
    begun = time.monotonic()
    torchvision_ops.install()
    collect = {"vlmeval": _vlmeval, "opencompass": _opencompass}[job["upstream"]]
    importlib.import_module(health.UPSTREAMS[job["upstream"]][0])
    found = collect()
    health.announce(job["upstream"], begun)
    channel.emit("catalogue", **found)


def parser_of(parse_args):
    """The parser that an upstream's `parse_args` builds and gives to nobody."""
    caught = []

    class _Caught(BaseException):
        pass

    def catch(parser, *args, **kwargs):
        caught.append(parser)
        raise _Caught

    original = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = catch
    try:
        parse_args()
    except _Caught:
        pass
    finally:
        argparse.ArgumentParser.parse_args = original
    return caught[0]


def _arguments(parser):
    return {
        action.dest: {
            "flag": next((o for o in action.option_strings if o.startswith("--")), None),
            "kind": _kind(action),
            "type": getattr(action.type, "__name__", "str"),
            "default": _plain(action.default),
            "choices": _plain(action.choices),
        }
        for action in parser._actions
        if action.dest != "help"
    }


def _kind(action):
    if action.nargs == 0:
        return "switch"
    if action.nargs == "?":
        return "optional"
    return "list" if action.nargs in ("+", "*") else "value"


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _vlmeval():
    import vlmeval.api
    import vlmeval.dataset
    import vlmeval.vlm
    from vlmeval.config import supported_VLM
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    from . import run_py

    datasets = {}
    for cls in vlmeval.dataset.DATASET_CLASSES:
        for name in cls.supported_datasets():
            datasets.setdefault(name, _dataset(cls, name))
    arguments = _arguments(parser_of(run_py.load().parse_args))
    try:
        from vlmeval.utils.arguments import Arguments
    except ImportError:  # a checkout of open-compass/VLMEvalKit
        extra = []
    else:
        extra = inspect.signature(Arguments).parameters.values()
    for field in extra:
        default = None if field.default in (field.empty, []) else _plain(field.default)
        switch = isinstance(field.default, bool)
        arguments.setdefault(
            field.name,
            {"flag": None, "kind": "switch" if switch else "value", "type": "str",
             "default": default, "choices": None},
        )  # fmt: skip
    return {
        "datasets": datasets,
        "settings": {name: _setting(value) for name, value in supported_video_datasets.items()},
        "models": {name: _named(value) for name, value in supported_VLM.items()},
        "classes": {
            **{c.__name__: _signature(c, "build_prompt") for c in vlmeval.dataset.DATASET_CLASSES},
            **_classes(vlmeval.dataset, "build_prompt"),
            **_classes(vlmeval.api, "generate"),
            **_classes(vlmeval.vlm, "generate"),
        },
        "arguments": arguments,
    }


def _dataset(cls, name):
    url = getattr(cls, "DATASET_URL", {}).get(name)
    url = url[0] if isinstance(url, list) and url else url
    return {
        "class": cls.__name__,
        "type": str(getattr(cls, "TYPE", "")),
        "modality": str(getattr(cls, "MODALITY", "")).lower(),
        "url": url if str(url).startswith("http") else None,
        "md5": getattr(cls, "DATASET_MD5", {}).get(name) or None,
    }


def _named(value):
    """A `partial` of a class, or a class, as its name and keywords."""
    if isinstance(value, partial):
        return {"class": value.func.__name__, "arguments": _plain(value.keywords)}
    return {"class": getattr(value, "__name__", str(value)), "arguments": {}}


def _setting(value):
    named = _named(value)
    return {**named, "dataset": named["arguments"].get("dataset")}


def _classes(module, method):
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    return {n: _signature(cls, method) for n, cls in found.items() if hasattr(cls, method)}


def _signature(cls, method):
    """What a class may be given by keyword: a model's its bases' too, where it hands on
    keywords; of a dataset's upstream keeps what its own `__init__` names."""
    parameters = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            own = inspect.signature(base.__init__).parameters.values()
        except (TypeError, ValueError):
            break
        for p in own:
            if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                parameters[p.name] = True
        if method == "build_prompt" or all(p.kind is not p.VAR_KEYWORD for p in own):
            break
    first = inspect.signature(cls.__init__).parameters.values()
    return {
        "parameters": sorted(parameters),
        "open": any(p.kind is p.VAR_KEYWORD for p in first),
        "dataset": method == "build_prompt",
    }


def _opencompass():
    import opencompass
    from opencompass.cli.main import parse_args
    from opencompass.models import OpenAISDK
    from opencompass.utils.datasets_info import DATASETS_MAPPING, DATASETS_URL

    root = os.path.join(os.path.dirname(opencompass.__file__), "configs")
    found = {"datasets": {}, "models": {}}
    # In upstream's order (get_config_from_arg): the first file of a name is the one it takes.
    places = [("datasets", "datasets"), ("datasets", "dataset_collections"), ("models", "models")]
    files = [(kind, path) for kind, package in places for path in _files(root, package)]
    # 2,000 files, half a minute for one; a spawned process would not find this package.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        entries = pool.map(_configuration, [(root, *file) for file in files], chunksize=20)
        for (kind, path), entry in zip(files, entries, strict=True):
            if entry:
                found[kind].setdefault(os.path.basename(path)[:-3], entry)
    return {
        **found,
        "classes": {"OpenAISDK": _signature(OpenAISDK, "generate")},
        "arguments": _arguments(parser_of(parse_args)),
        "data": {
            path: {"local": entry.get("local"), "modelscope": entry.get("ms_id")}
            for path, entry in DATASETS_MAPPING.items()
        },
        "urls": {part: entry["url"] for part, entry in DATASETS_URL.items()},
    }


def _files(root, package):
    """The configurations that an import statement can name."""
    for folder, folders, files in os.walk(os.path.join(root, package)):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(folder, file)
            stem, suffix = os.path.splitext(os.path.relpath(path, root))
            if suffix == ".py" and all(p.isidentifier() for p in stem.split(os.sep)):
                yield path


def _configuration(file):
    from mmengine.config import Config

    root, kind, path = file
    try:
        # Lazy: what a configuration imports stays a name, so that nothing is imported for it.
        config = Config.fromfile(path, format_python_code=False)._to_lazy_dict()
    except BaseException:  # a template that needs what its importer defines
        return None
    module = os.path.relpath(path, root)[:-3].replace(os.sep, ".")
    if kind == "models":
        models = config.get("models") or []
        return {"module": module, "type": _type(models[0])} if models else None
    sets = {
        key: [d for d in value if isinstance(d, dict)]
        for key, value in config.items()
        if key.endswith("_datasets") and isinstance(value, list)
    }
    entries = [d for value in sets.values() for d in value]
    if not entries:
        return None
    kinds = {_type(d.get("infer_cfg", {}).get("inferencer")) for d in entries}
    return {
        "module": module,
        "variables": sorted(key for key, value in sets.items() if value),
        "sets": len(entries),
        "type": kinds.pop().removesuffix("Inferencer").lower() if len(kinds) == 1 else "",
        "paths": sorted({d["path"] for d in entries if isinstance(d.get("path"), str)}),
    }


def _type(config):
    """The name of a `type`: a class, a lazy reference to one, or a dotted name."""
    value = config.get("type") if isinstance(config, dict) else None
    # A lazy reference has every attribute; only its text is its name.
    return (value.__name__ if isinstance(value, type) else str(value or "")).rpartition(".")[2]
