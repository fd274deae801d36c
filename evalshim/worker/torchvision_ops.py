"""Lets torchvision import beside a CPU-only torch.

torchvision's wheels on the package index are built for CUDA. Beside a torch
without CUDA its compiled operators do not load, and torchvision 0.28.0 then
raises `operator torchvision::nms does not exist` while it is imported. Declaring
the operators' schemas first is enough; whoever calls one gets torch's own error.

Works in two places: `install()` in a worker, and as a file beside a .pth file in
a managed environment, where upstream's own commands need it too.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from glob import glob

# The operators for which torchvision 0.28.0 registers a fake kernel at import.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept = []


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def install():
    """Declare the operators when torchvision is about to be imported, and not before."""
    # By name: in a managed environment the .pth file's copy of this module came first.
    waiting = any(type(finder).__name__ == "_BeforeTorchvision" for finder in sys.meta_path)
    if not waiting and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare():
    import torch

    try:
        # Declared before it loads, a library that has the operators would abort the process.
        torch.ops.load_library(_library())
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _kept.append(library)  # a Library takes its definitions back when it is collected


def _library():
    """The compiled operators, found without importing torchvision."""
    found = importlib.machinery.PathFinder.find_spec("torchvision")
    folders = found.submodule_search_locations if found else []
    return next(path for folder in folders for path in glob(os.path.join(folder, "_C.*")))
