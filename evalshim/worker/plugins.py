"""Python files of the user's, loaded beside their upstream."""

import importlib.util
import os
import sys

from . import channel

classes = {}  # by name, those that plug-ins define
datasets = set()  # the names that they have for their data


def load(job):
    """Run each file of the job once.

    Returns:
        Whether all could be; where not, every cell was reported as failed.
    """
    try:
        _load(job["plugins"])
        if job["backend"] == "vlmeval" and classes:
            _register()
    except Exception as error:
        for cell in job["cells"]:
            channel.emit_failed(cell["id"], error)
        return False
    return True


def _load(paths):
    for number, path in enumerate(paths):
        name = f"evalshim_plugin_{number}"
        channel.plugins.append(path)
        sys.path.append(os.path.dirname(path))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is the user's
        try:
            spec.loader.exec_module(module)
        except SystemExit as error:
            raise RuntimeError(f"it ended the worker: sys.exit({error.code!r})") from error
        finally:
            sys.dont_write_bytecode = before
        classes.update(
            (key, found)
            for key, found in vars(module).items()
            if isinstance(found, type) and found.__module__ == name
        )


def _register():
    """Let VLMEvalKit find the datasets and models of plug-ins by their names."""
    import vlmeval.dataset
    from vlmeval.api.base import BaseAPI
    from vlmeval.dataset.image_base import ImageBaseDataset
    from vlmeval.vlm.base import BaseModel

    for name, found in list(classes.items()):
        if hasattr(found, "build_prompt") and hasattr(found, "evaluate"):
            if hasattr(vlmeval.dataset, name):
                raise ValueError(f"VLMEvalKit has a {name} of its own; name yours otherwise")
            if not hasattr(found, "supported_datasets"):  # it says only what differs
                found = type(name, (found, ImageBaseDataset), {})
            if not hasattr(found, "TYPE"):  # run.py asks each class for it; the base has none
                found.TYPE = "VQA"
            setattr(vlmeval.dataset, name, found)
            vlmeval.dataset.DATASET_CLASSES.append(found)
            vlmeval.dataset.SUPPORTED_DATASETS.extend(found.supported_datasets())
            datasets.update(found.supported_datasets())
        elif hasattr(found, "generate_inner") and not issubclass(found, (BaseAPI, BaseModel)):
            found = type(name, (found, BaseModel), {})
        classes[name] = found
