"""What a plug-in defines, read without executing it: that is the worker's to do."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evalshim.errors import ConfigError
from evalshim.spec import BackendName

_PACKAGES: Mapping[str, BackendName] = {"vlmeval": "vlmeval", "opencompass": "opencompass"}


@dataclass(frozen=True)
class PluginFile:
    """A Python file of the user's.

    Attributes:
        classes: Those it defines at its top level.
        datasets: Dataset name -> the class whose DATASET_URL has it.
        backends: The upstreams that it imports; a worker of another does not load it.
        scores: Whether it says anything of how answers are evaluated.
    """

    path: Path
    classes: tuple[str, ...]
    datasets: Mapping[str, str]
    backends: frozenset[BackendName]
    scores: bool = False


def read(path: Path) -> PluginFile:
    """The plug-in at `path`.

    Raises:
        ConfigError: It cannot be read, or is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the plug-in {path}", str(error)) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        why = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise ConfigError(
            f"the plug-in {path.name}{line}: not Python", why, f"mend {path}"
        ) from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    imported = {
        _PACKAGES[module]
        for node in ast.walk(tree)
        for name in _imports(node)
        if (module := name.partition(".")[0]) in _PACKAGES
    }
    datasets = {name: cls.name for cls in classes for name in _names(cls)}
    names = tuple(c.name for c in classes)
    scores = b"evaluate" in path.read_bytes()
    return PluginFile(path, names, datasets, frozenset(imported), scores)


def loaded_by(paths: tuple[Path, ...], backend: BackendName) -> list[str]:
    """The plug-ins that a worker of `backend` loads: those that import it, or neither upstream."""
    return [str(p) for p in paths if backend in (read(p).backends or {backend})]


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def _names(cls: ast.ClassDef) -> list[str]:
    """The keys of DATASET_URL, by which upstream finds a class of datasets."""
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        named = any(isinstance(t, ast.Name) and t.id == "DATASET_URL" for t in targets)
        value = getattr(node, "value", None)
        if named and isinstance(value, ast.Dict):
            keys = [k.value for k in value.keys if isinstance(k, ast.Constant)]
            return [key for key in keys if isinstance(key, str)]
    return []
