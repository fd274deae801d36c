"""Which names there are, and what each upstream calls them.

Two sources: registry.yaml, the names that documents promise, and the catalogue of
the installed upstream, which has every name. Imports no upstream and no pandas:
`shim list` must answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from evalshim import documents, envs
from evalshim.catalogue import Catalogue
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import BackendName, DatasetSpec, UpstreamModel

HERE = Path(__file__).parent
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


@cache
def entries() -> Mapping[str, DatasetSpec]:
    """Every registered dataset, by name, sorted; read-only."""
    raw = documents.parse((HERE / "registry.yaml").read_text(encoding="utf-8"), "registry.yaml")
    return MappingProxyType({name: _entry(name, fields) for name, fields in raw.items()})


def resolve(
    name: str,
    backend: BackendName | None = None,
    *,
    python: str | None = None,
    say: Callable[[str], None] | None = None,
) -> DatasetSpec:
    """The dataset that `name` means.

    Args:
        name: A registered name, one that an installed upstream knows, the name of a
            TSV in `$LMUData`, or `backend:name`.
        backend: Where to look when the name does not say.
        python: Interpreter that has the upstreams, as of `envs.interpreter`.
        say: As of `envs.names`.

    Raises:
        ConfigError: Nothing goes by that name, or several things do.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in BACKENDS:
        name, backend = rest, prefix  # type: ignore[assignment]
    found = entries().get(name)
    if found is not None and backend in (None, found.backend):
        return found
    asked = [b for b in BACKENDS if backend in (None, b)]
    catalogues = {b: envs.names(b, python, say=say) for b in asked}
    known = {b: _known(b, c) for b, c in catalogues.items() if c}
    hits = [own[name] for own in known.values() if name in own]
    if len(hits) > 1:
        raise ConfigError(
            f"{name} is a dataset of both upstreams",
            "",
            f"say vlmeval:{name} or opencompass:{name}",
        )
    if hits:
        return hits[0]
    named = len(name.encode(errors="replace")) <= 200 and not {"/", "\0"} & {*name}
    if "vlmeval" in asked and named and (path := lmudata() / f"{name}.tsv").exists():
        return DatasetSpec(name=name, backend="vlmeval", target=name, path=path.resolve())
    missing = [b for b, c in catalogues.items() if c is None]
    names = [n for n, e in entries().items() if e.backend in asked]
    names += [n for own in known.values() for n in own]
    raise ConfigError(
        f"unknown dataset{f' of {backend}' if backend else ''}: {name}",
        "it is not in the registry, and no data file was given for it"
        + "".join(f"\nwhat else {b} knows is unknown: it is not set up" for b in missing),
        did_you_mean(name, names)
        + "`shim list datasets` has all names; your own data goes as {name: ..., path: ...}"
        + (f"; `shim setup {' '.join(missing)}`" if missing else ""),
    )


def list_datasets(
    backend: str | None = None, pattern: str = "*", type: str | None = None
) -> list[DatasetSpec]:
    """Every dataset name, sorted: the registered ones and those that installed upstreams know.

    Args:
        backend: Only this upstream's.
        pattern: Shell pattern on the name, case ignored; without a wildcard, a substring.
        type: Only this kind of question (`MCQ`, `VQA`, `gen`, ...), case ignored.
    """
    found: dict[tuple[str, str], DatasetSpec] = {(e.backend, n): e for n, e in entries().items()}
    for name in BACKENDS:
        if backend in (None, name) and (catalogue := envs.names(name)):
            for key, entry in _known(name, catalogue).items():
                found.setdefault((name, key), entry)
    return sorted(
        (
            entry
            for entry in found.values()
            if backend in (None, entry.backend)
            and matches(entry.name, pattern)
            and (type is None or entry.type.lower() == type.lower())
        ),
        key=lambda e: (e.name, e.backend),
    )


def list_models(
    backend: str | None = None, pattern: str = "*", type: str | None = None
) -> list[UpstreamModel]:
    """Every model that an installed upstream knows by name, sorted.

    Args:
        backend: Only this upstream's.
        pattern: As of `list_datasets`.
        type: Only those of this class, case ignored.
    """
    found = [
        UpstreamModel(
            name, b, entry.get("module") or entry["class"], entry.get("class") or entry["type"]
        )
        for b in BACKENDS
        if backend in (None, b) and (catalogue := envs.names(b))
        for name, entry in catalogue.models.items()
        if matches(name, pattern)
    ]
    chosen = [m for m in found if type is None or m.type.lower() == type.lower()]
    return sorted(chosen, key=lambda m: (m.name, m.backend))


def known(backend: BackendName) -> bool:
    """Whether what `backend` knows by name was collected."""
    return envs.names(backend) is not None


def video_settings(dataset: str, catalogue: Catalogue) -> list[str]:
    """Upstream's settings (frames, subtitles) of a video dataset, by name."""
    return [n for n, s in catalogue.settings.items() if s["dataset"] == dataset]


def lmudata() -> Path:
    """Where VLMEvalKit looks for data (LMUDataRoot, 0.0.20)."""
    given = os.environ.get("LMUData")
    return Path(given) if given and Path(given).exists() else Path.home() / "LMUData"


def _known(backend: BackendName, catalogue: Catalogue) -> dict[str, DatasetSpec]:
    """The datasets of a catalogue by name."""
    if backend == "opencompass":
        return {
            name: DatasetSpec(
                name=name,
                backend=backend,
                target=" ".join(
                    f"{entry['module'].removeprefix('datasets.')}:{v}" for v in entry["variables"]
                ),
                type=entry["type"],
                modality="text",
            )
            for name, entry in catalogue.datasets.items()
        }
    plain = {
        name: DatasetSpec(
            name=name,
            backend=backend,
            target=name,
            cls=entry["class"],
            type=entry["type"],
            modality=entry["modality"],
        )
        for name, entry in catalogue.datasets.items()
    }
    settings = {
        name: replace(
            plain.get(entry["dataset"], DatasetSpec(name, backend, name, modality="video")),
            name=name,
            target=name,
            cls=entry["class"],
        )
        for name, entry in catalogue.settings.items()
    }
    return {**plain, **settings}


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
        cls=fields.get("class", ""),
        type=fields.get("type", ""),
        modality=fields.get("modality", ""),
        answers=fields.get("answers", "public"),
        path=HERE / path if path else None,
        format=fields.get("format"),
        summary_groups=tuple(fields.get("groups", ())),
    )
