"""The notebook API of evalshim, and nothing else.

Importing this package costs milliseconds: neither pandas nor openai nor any
upstream is imported before a function below needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalshim.plans import Plan
    from evalshim.registry import list_datasets, list_models
    from evalshim.results import RunResult
    from evalshim.runs import check, load_run, resume, run

__version__ = "0.1.0"
__all__ = [
    "Plan",
    "RunResult",
    "check",
    "list_datasets",
    "list_models",
    "load_run",
    "resume",
    "run",
]

_HOMES = {
    "run": "evalshim.runs",
    "check": "evalshim.runs",
    "Plan": "evalshim.plans",
    "load_run": "evalshim.runs",
    "resume": "evalshim.runs",
    "list_datasets": "evalshim.registry",
    "list_models": "evalshim.registry",
    "RunResult": "evalshim.results",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evalshim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
