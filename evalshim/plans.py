"""What a run would do, worked out before anything is started: cells, data, earlier answers.

Starts no evaluation. A configuration of OpenCompass's own is read by the upstream's
interpreter, and so are the samples counted that a dry run shows.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from evalshim import earlier, envs, process
from evalshim.adapters import opencompass_config, vlmeval_args
from evalshim.backends import BACKENDS
from evalshim.errors import ConfigError, SetupError, harmless
from evalshim.redaction import is_secret_name
from evalshim.secret_values import is_secret
from evalshim.spec import (
    AUTO,
    BackendName,
    Cell,
    DatasetSpec,
    Event,
    ModelSpec,
    Needed,
    RunSpec,
    slug,
)


@dataclass(frozen=True)
class Plan:
    """A run before it is one.

    Attributes:
        cells: In the order of the configuration.
        interpreters: By backend; a backend that has none is in `problems`.
        needs: By cell, the data that it needs.
        earlier: By cell, the folder in which an earlier run kept upstream's files of it.
        problems: Why the run cannot begin, as far as environments go.
        pictures: Names of the datasets whose samples show pictures.
        defaults: By backend, what upstream's own parser gives where nothing is said.
        counts: By cell, what a dry run counted: samples, requests, scorer.
    """

    spec: RunSpec
    cells: tuple[Cell, ...]
    interpreters: Mapping[BackendName, envs.Interpreter]
    needs: Mapping[str, Sequence[Needed]]
    earlier: Mapping[str, Path]
    problems: tuple[SetupError, ...] = ()
    pictures: frozenset[str] = frozenset()
    defaults: Mapping[BackendName, Mapping[str, Any]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def missing(self) -> list[tuple[Cell, Needed]]:
        return [(c, need) for c in self.cells for need in self.needs[c.id] if need.missing]

    @property
    def ready(self) -> bool:
        return not self.problems and not self.missing

    def __str__(self) -> str:
        return text(self)

    def records(self) -> list[dict[str, Any]]:
        """A mapping a cell: what a dry run prints."""
        return [self._record(cell) for cell in self.cells]

    def _record(self, cell: Cell) -> dict[str, Any]:
        dataset, counted = cell.dataset, self.counts.get(cell.id, {})
        native = self.spec.config is not None
        judge = self.spec.judge_of(dataset)
        scored = str(counted.get("scorer") or "upstream's rule")
        if self.spec.mode == "infer":
            scored = "none: inference only"
        elif dataset.answers == "private":
            scored = "none: its answers are not public"
        return {
            "model": cell.model.name,
            "dataset": dataset.name,
            "backend": dataset.backend,
            "upstream": str(self.spec.config) if native else dataset.cls or dataset.target,
            "samples": counted.get("samples"),
            "requests": counted.get("requests"),
            "scorer": scored,
            "judge": judge.model,
            "files": [vars(need) for need in self.needs[cell.id]],
            "earlier": str(self.earlier[cell.id]) if cell.id in self.earlier else None,
            "arguments": self._arguments(cell),
        }

    def _arguments(self, cell: Cell) -> Any:
        """The namespace, or the configuration, that upstream would get."""
        if cell.dataset.backend == "vlmeval":
            asked = vlmeval_args.namespace(cell, self.spec, Path("<run>/upstream/vlmeval", cell.id))
            return {
                "namespace": {**self.defaults.get("vlmeval", {}), **asked},
                "model": {
                    "class": cell.model.cls or "CustomAPIModel",
                    **vlmeval_args.model_arguments(cell.model),
                },
                "dataset": dict(cell.dataset.upstream) or None,
            }
        if self.spec.config:
            return {"config": str(self.spec.config), **self.spec.upstream}
        return opencompass_config.render([cell], self.spec)


def plan(spec: RunSpec, *, say: Callable[[str], None] | None = None) -> Plan:
    """The plan of `spec`.

    Raises:
        ConfigError: Data is malformed, or there is nothing to go on from.
        SetupError: The interpreter that must read the configuration is missing.
    """
    cells: tuple[Cell, ...]
    if spec.config:
        spec, cells = _of_upstreams_own(spec)
    else:
        cells = cells_of(spec)
    parts = by_backend(cells)
    pictures = {n for name, part in parts.items() for n in BACKENDS[name].check(part, spec)}
    interpreters, problems = _interpreters(list(parts), spec.python)
    names = {b: envs.names(b, spec.python, say=say) if b in interpreters else None for b in parts}
    needs: dict[DatasetSpec, Sequence[Needed]] = {}
    for dataset in dict.fromkeys(c.dataset for c in cells):
        asked = BACKENDS[dataset.backend].needs(dataset, spec, names[dataset.backend])
        needs[dataset] = () if spec.config else [_fetchable(need) for need in asked]
    planned = Plan(
        spec=spec,
        cells=cells,
        interpreters=interpreters,
        needs={cell.id: needs[cell.dataset] for cell in cells},
        earlier={},
        problems=tuple(problems),
        pictures=frozenset(pictures),
        defaults={
            b: {k: a["default"] for k, a in known.arguments.items() if a["flag"]}
            for b, known in names.items()
            if known
        },
    )
    # Which model is served is not known yet; then the run itself looks for what it goes on from.
    return planned if any(m.model == AUTO for m in spec.models) else going_on(planned)


def going_on(planned: Plan) -> Plan:
    """The plan with what earlier runs have of it, where that is asked for.

    Raises:
        ConfigError: There are to be scores alone, and answers are lacking.
    """
    spec = planned.spec
    if spec.predictions or (not spec.reuse and spec.mode != "eval"):
        return planned
    return replace(planned, earlier=earlier.find(spec, planned.cells))


def counted(planned: Plan) -> Plan:
    """The plan with its samples counted by the upstreams, where their data is there."""
    counts: dict[str, Mapping[str, Any]] = {}
    for name, part in by_backend(planned.cells).items():
        # What needs nothing that is known might be fetched.
        needs = planned.needs
        there = [c for c in part if needs[c.id] and all(n.present for n in needs[c.id])]
        if name not in planned.interpreters or not there or planned.spec.config:
            continue
        with tempfile.TemporaryDirectory(prefix="evalshim-") as folder:
            spec = replace(planned.spec, work_dir=Path(folder))
            job = BACKENDS[name].prepare(there, spec, Path(folder) / "upstream", {})
            job = {**job, "backend": name, "count": True, "gpus": 1}
            extra = BACKENDS[name].ENVIRONMENT
            for event in _ask(planned.interpreters[name], job, extra, Path(folder) / "logs"):
                if event.kind == "counted" and event.cell:
                    counts[event.cell] = event.data
    return replace(planned, counts=counts)


def cells_of(spec: RunSpec) -> tuple[Cell, ...]:
    """The cells of a run: every model on every dataset, in the order of the configuration."""
    cells: list[Cell] = []
    for model in spec.models:
        for dataset in spec.datasets:
            cells.append(Cell(_cell_id(model.name, dataset.name, cells), model, dataset))
    return tuple(cells)


def _cell_id(model: str, dataset: str, taken: Sequence[Cell]) -> str:
    name = f"{slug(model)}__{slug(dataset)}"
    twins = sum(c.id == name or c.id.startswith(f"{name}~") for c in taken)
    return f"{name}~{twins + 1}" if twins else name


def by_backend(cells: Sequence[Cell]) -> dict[BackendName, list[Cell]]:
    """The cells that each backend is to evaluate."""
    parts: dict[BackendName, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(cell.dataset.backend, []).append(cell)
    return parts


def _of_upstreams_own(spec: RunSpec) -> tuple[RunSpec, tuple[Cell, ...]]:
    """The cells of a configuration of OpenCompass's, and the run in the place it names."""
    chosen = envs.interpreter("opencompass", spec.python)
    with tempfile.TemporaryDirectory(prefix="evalshim-") as folder:
        job = {"backend": "describe", "config": str(spec.config)}
        try:
            events = _ask(chosen, job, {}, Path(folder))
        except SetupError as error:
            raise ConfigError(
                f"OpenCompass cannot read {spec.config}",
                _last_of_traceback(error.why, spec.config),
                "mend the configuration",
            ) from error
    found = next(e.data for e in events if e.kind == "described")
    cells: list[Cell] = []
    paths = {m["abbr"]: m["path"] or m["abbr"] for m in found["models"]}
    # Upstream takes them from its own configuration; we must know what to keep out.
    values = [v for name, v in found["named"] if is_secret_name(name) and is_secret(v)]
    secrets = {f"EVALSHIM_SECRET_{i}": value for i, value in enumerate(dict.fromkeys(values))}
    for abbr, name in found["pairs"]:
        model = ModelSpec(name=abbr, model=paths.get(abbr, abbr), secrets=secrets)
        dataset = DatasetSpec(name=name, backend="opencompass", target=name)
        cells.append(Cell(_cell_id(abbr, name, cells), model, dataset))
    if not cells:
        raise ConfigError(
            f"{spec.config} evaluates nothing",
            "it has no models, or no datasets",
            "it needs `models = [...]` and `datasets = [...]`",
        )
    if spec.work_dir == RunSpec.work_dir:
        own = found["work_dir"] or spec.work_dir
        spec = replace(spec, work_dir=Path(own).expanduser().absolute())
    return spec, tuple(cells)


def _last_of_traceback(text: str, config: Path | None) -> str:
    """The exception at the end of a traceback, and the line of the configuration it is about."""
    lines = text.splitlines()
    # Python calls a text that it parses without a file <unknown>.
    own = rf'"({re.escape(str(config))}|<unknown>)", (line \d+)'
    places = [re.search(own, line) for line in lines]
    where = [place[2] for place in places if place]
    return ": ".join([*where[-1:], *lines[-1:]])


def _ask(
    chosen: envs.Interpreter, job: Mapping[str, Any], extra: Mapping[str, str], folder: Path
) -> list[Event]:
    """The events of a worker that only looks around."""
    found: list[Event] = []
    folder.mkdir(parents=True, exist_ok=True)
    env = process.environment_of(chosen.managed)
    logs = process.Logs(folder, "plan")
    ended = process.Worker(chosen.python, job, {**env, **extra}, logs, found.append).run()
    if not ended.clean:
        raise SetupError(
            f"{chosen.python} failed ({process.describe_exit(ended.code)})",
            "\n".join(logs.tail()),
        )
    return found


def _interpreters(
    backends: Sequence[BackendName], python: str | None
) -> tuple[dict[BackendName, envs.Interpreter], list[SetupError]]:
    found: dict[BackendName, envs.Interpreter] = {}
    problems: list[SetupError] = []
    for name in backends:
        try:
            found[name] = envs.interpreter(name, python)
        except SetupError as error:
            problems.append(error)
    return found, problems


def _fetchable(need: Needed) -> Needed:
    """What would be fetched from a place that cannot be reached is missing."""
    url = urlsplit(need.source)
    port = url.port or (80 if url.scheme == "http" else 443)
    if need.present or need.problem or not url.hostname or _reachable(url.hostname, port):
        return need
    return replace(need, problem=f"it would come from {need.source}, which cannot be reached")


@cache
def _reachable(host: str, port: int) -> bool:
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if any(value for name, value in os.environ.items() if name.lower() in proxies):
        return True  # the proxy's business
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def text(planned: Plan) -> str:
    """The plan for a person."""
    lines = []
    for record in planned.records():
        lines.append(f"{record['model']} x {record['dataset']}")
        lines.append(f"  upstream   {record['backend']}: {record['upstream']}")
        lines.append(f"  samples    {_or(record['samples'])}, requests {_or(record['requests'])}")
        lines.append(f"  scorer     {record['scorer']}; judge: {record['judge']}")
        for need in record["files"]:
            lines.append(f"  data       {need['path']}: {_state(need)}")
            if need["cure"] and not need["present"]:
                lines.append(f"             mend: {need['cure']}")
        if record["earlier"]:
            lines.append(f"  goes on    {record['earlier']}")
        shown = record["arguments"]
        if not isinstance(shown, str):
            shown = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
        lines += ["  upstream gets", *(f"    {line}" for line in shown.strip().splitlines())]
    lines += ["", *map(str, planned.problems)] if planned.problems else []
    return harmless("\n".join(lines))


def _or(value: Any) -> str:
    return "not counted" if value is None else str(value)


def _state(need: Mapping[str, Any]) -> str:
    if need["problem"]:
        return str(need["problem"])
    if need["present"]:
        return "there"
    return f"will be fetched from {need['source']}" if need["source"] else "missing"
