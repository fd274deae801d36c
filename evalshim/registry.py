"""Which dataset names there are, and what each upstream calls them.

Reads registry.yaml and answers questions about it. Imports no upstream and no
pandas: `shim list` must answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from evalshim import documents
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import BackendName, DatasetSpec

HERE = Path(__file__).parent
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


@cache
def entries() -> Mapping[str, DatasetSpec]:
    """Every registered dataset, by name, sorted; read-only."""
    raw = documents.parse((HERE / "registry.yaml").read_text(encoding="utf-8"), "registry.yaml")
    return MappingProxyType({name: _entry(name, fields) for name, fields in raw.items()})


def resolve(name: str, backend: BackendName | None = None) -> DatasetSpec:
    """The dataset that `name` means.

    Args:
        name: A registered name, or `backend:name`.
        backend: Where to look when the name does not say.

    Raises:
        ConfigError: Nothing goes by that name; the nearest names are in the cure.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in BACKENDS:
        name, backend = rest, prefix  # type: ignore[assignment]
    found = entries().get(name)
    if found is None or backend not in (None, found.backend):
        where = f" of {backend}" if backend else ""
        known = [n for n, e in entries().items() if backend in (None, e.backend)]
        raise ConfigError(
            f"unknown dataset{where}: {name}",
            "it is not in the registry, and no data file was given for it",
            did_you_mean(name, known)
            + "`shim list datasets` has all names; your own data goes as {name: ..., path: ...}",
        )
    return found


def list_datasets(backend: str | None = None, pattern: str = "*") -> list[DatasetSpec]:
    """Registered datasets, sorted by name.

    Args:
        backend: Only this upstream's.
        pattern: Shell pattern on the name, case ignored; without a wildcard, a substring.
    """
    return [
        entry
        for name, entry in entries().items()
        if backend in (None, entry.backend) and matches(name, pattern)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether `name` fits a shell pattern, or holds `pattern` where that has no wildcard."""
    wanted = pattern.lower()
    return fnmatchcase(name.lower(), wanted if any(c in wanted for c in "*?[") else f"*{wanted}*")


def _entry(name: str, fields: Mapping[str, Any]) -> DatasetSpec:
    path = fields.get("path")
    return DatasetSpec(
        name=name,
        backend=fields["backend"],
        target=fields.get("target", name),
        path=HERE / path if path else None,
        format=fields.get("format"),
        summary_groups=tuple(fields.get("groups", ())),
    )
