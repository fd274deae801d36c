"""One run from a `RunSpec` to results: plan the cells, launch workers, collect, finish."""

from __future__ import annotations

import json
import os
import platform
import queue
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

import evalshim
from evalshim import config, envs, process, progress, results
from evalshim.backends import BACKENDS
from evalshim.errors import ConfigError, EvalshimError, SetupError
from evalshim.results import RunResult
from evalshim.spec import (
    SCHEMA_VERSION,
    BackendName,
    Cell,
    CellOutcome,
    Event,
    ModelSpec,
    Row,
    RunSpec,
    Sample,
    slug,
)


def run(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None, /, **keys: Any
) -> RunResult:
    """Run an evaluation and return its results.

    Args:
        source: A configuration file, or its contents as a mapping.
        keys: Keys of the configuration, over those of `source`.

    Raises:
        EvalshimError: Nothing was run: bad configuration, no environment, ...
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return execute(config.parse({**config.load(path), **keys}, beside=path.absolute().parent))
    return execute(config.parse({**(source or {}), **keys}))


def specify(
    path: Path | None,
    *,
    model: str | None = None,
    api_base: str | None = None,
    data: Sequence[str] = (),
    backend: str | None = None,
    assignments: Sequence[str] = (),
    **options: str | None,
) -> RunSpec:
    """The `RunSpec` of a command line: the file, then `--set`, then the other flags.

    Args:
        options: Further keys of the configuration as text, None where not given.

    Raises:
        ConfigError: As `config.parse`.
    """
    raw = config.override(config.load(path) if path else {}, assignments)
    if model or api_base:
        raw["models"] = config.with_endpoint(raw.get("models"), model, api_base)
    if data:
        raw["datasets"] = [
            f"{backend}:{name}" if backend and ":" not in name else name for name in data
        ]
    for key, value in options.items():
        if value is not None:
            raw[key] = value if key in ("work_dir", "python") else config.value(value, f"--{key}")
    return config.parse(raw, beside=path.absolute().parent if path else None)


def load_run(path: str | os.PathLike[str]) -> RunResult:
    """The results of an earlier run, from its directory (`outputs/latest`, say)."""
    return results.load(Path(path))


def plan(spec: RunSpec) -> tuple[Cell, ...]:
    """The cells of a run: every model on every dataset, in the order of the configuration."""
    cells: list[Cell] = []
    for model in spec.models:
        for dataset in spec.datasets:
            name = f"{slug(model.name)}__{slug(dataset.name)}"
            twins = sum(c.id == name or c.id.startswith(f"{name}~") for c in cells)
            cells.append(Cell(f"{name}~{twins + 1}" if twins else name, model, dataset))
    return tuple(cells)


def execute(
    spec: RunSpec, *, command: Sequence[str] = (), terminal: bool | None = None
) -> RunResult:
    """Run everything that `spec` asks for.

    Args:
        command: The command line, for run.json.
        terminal: Whether stderr shows bars; default: whether it is a terminal.

    Raises:
        ConfigError: Data or the work directory is unusable; nothing was run.
        SetupError: A backend has no usable interpreter; nothing was run.
    """
    cells = plan(spec)
    parts: dict[BackendName, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(cell.dataset.backend, []).append(cell)
    for name, part in parts.items():
        BACKENDS[name].check(part)
    interpreters = {name: envs.interpreter(name, spec.python) for name in parts}
    models = {m.name: _with_served_model(m) for m in spec.models}
    spec = replace(spec, models=tuple(models.values()))
    parts = {n: [replace(c, model=models[c.model.name]) for c in part] for n, part in parts.items()}
    folder = _new_run_directory(spec.work_dir)
    shown = sys.stderr.isatty() if terminal is None else terminal
    active = _Run(spec, parts, interpreters, folder, command)
    titles = {name: BACKENDS[name].title for name in parts}
    with progress.for_stream(cells, titles, terminal=shown) as reporter:
        return active.go(reporter)


class _Run:
    """The state of one run while it runs; written to run.json whenever it changes."""

    def __init__(
        self,
        spec: RunSpec,
        parts: Mapping[BackendName, Sequence[Cell]],
        interpreters: Mapping[BackendName, envs.Interpreter],
        folder: Path,
        command: Sequence[str],
    ) -> None:
        self.spec = spec
        self.parts = parts
        self.interpreters = interpreters
        self.folder = folder
        self.cells = {cell.id: cell for part in parts.values() for cell in part}
        self.secrets = [_key(m) for m in spec.models]
        self.logs = {name: process.Logs(folder / "logs", name, self.secrets) for name in parts}
        self.workers: dict[BackendName, process.Worker] = {}
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.finished: dict[str, Event] = {}
        self.header: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": folder.name,
            "evalshim_version": evalshim.__version__,
            "status": "running",
            "exit_code": None,
            "started_at": _now(),
            "finished_at": None,
            "command": [_redacted(word, self.secrets) for word in command],
            "host": {
                "name": socket.gethostname(),
                "platform": platform.platform(),
                "python": platform.python_version(),
            },
            "backends": {
                name: {
                    "python": i.python,
                    "reason": i.reason,
                    "distribution": None,
                    "version": None,
                    "pins": (state.recipe if i.managed and (state := envs.state(name)) else None),
                }
                for name, i in interpreters.items()
            },
            "cells": {
                c.id: {
                    "model": c.model.name,
                    "dataset": c.dataset.name,
                    "backend": c.dataset.backend,
                    "status": "pending",
                    "error": "",
                    "started_at": None,
                    "finished_at": None,
                    "log": f"logs/{self.logs[c.dataset.backend].path(c.id).name}",
                }
                for c in self.cells.values()
            },
        }

    def go(self, reporter: progress.Reporter) -> RunResult:
        text = yaml.safe_dump(config.plain(self.spec), sort_keys=False, allow_unicode=True)
        results.write_text(self.folder / "config.yaml", text)
        self.save()
        try:
            self._launch(reporter)
        except KeyboardInterrupt:
            self.header["status"] = "interrupted"
            raise
        finally:
            result = self._finish()
        return result

    def save(self) -> None:
        results.write_json(self.folder / "run.json", self.header)

    def _launch(self, reporter: progress.Reporter) -> None:
        """Every backend's worker at once; their events, in order, on this thread."""
        log = (self.folder / "events.jsonl").open("a", encoding="utf-8")
        with log, ThreadPoolExecutor(len(self.parts)) as pool:
            for name in self.parts:
                pool.submit(self._work, name)
            running = len(self.parts)
            try:
                while running:
                    event = self.events.get()
                    if event is None:
                        running -= 1
                        continue
                    record = {"time": _now(), "event": event.kind, "cell": event.cell, **event.data}
                    log.write(
                        _redacted(json.dumps(record, ensure_ascii=False), self.secrets) + "\n"
                    )
                    log.flush()
                    self._apply(event)
                    reporter.event(event)
            except BaseException:
                # The pool waits for its threads, and they for their workers.
                for worker in self.workers.values():
                    worker.stop()
                raise

    def _work(self, name: BackendName) -> None:
        """One backend, on a thread of its own; whatever happens ends as events."""
        part, logs = self.parts[name], self.logs[name]
        try:
            upstream = self.folder / "upstream" / name
            job, extra = BACKENDS[name].prepare(part, self.spec, upstream)
            keys = {c.model.key_variable: _key(c.model) for c in part}
            chosen = self.interpreters[name]
            env = process.isolated_environment() if chosen.managed else dict(os.environ)
            job = {"backend": name, "secrets": sorted(keys), **job}
            worker = process.Worker(
                chosen.python, job, {**env, **extra, **keys}, logs, self.events.put
            )
            self.workers[name] = worker
            ended = worker.run()
            if not ended.clean:
                how = process.describe_exit(ended.code)
                for cell in part:
                    tail = "\n".join(logs.tail(cell.id))
                    message = f"the {name} worker died ({how}); its last lines:\n{tail}"
                    self.events.put(
                        Event("failed", cell.id, {"type": "WorkerDied", "message": message})
                    )
        except Exception as error:  # a thread's exception would be lost
            for cell in part:
                data = {"type": type(error).__name__, "message": str(error)}
                self.events.put(Event("failed", cell.id, data))
        finally:
            self.events.put(None)

    def _apply(self, event: Event) -> None:
        if event.kind == "ready":
            self.header["backends"][event.data["upstream"]].update(event.data)
        entry = self.header["cells"].get(event.cell)
        if entry is None or event.kind == "progress":
            if entry is not None:
                entry.update(event.data)
            return
        if event.kind == "started":
            entry.update(status="running", started_at=_now())
        elif event.cell not in self.finished:
            self.finished[event.cell or ""] = event
            entry["finished_at"] = _now()
        self.save()

    def _finish(self) -> RunResult:
        """Read everything back, write the result files, decide the exit code."""
        rows: list[Row] = []
        samples: list[Sample] = []
        for cell in self.cells.values():
            outcome = self._outcome(cell)
            entry = self.header["cells"][cell.id]
            entry.update(status=outcome.status, error=outcome.error)
            entry.update(n=outcome.n, n_failed=outcome.n_failed)
            rows += self._rows(cell, outcome)
            samples += outcome.samples
        degraded = any(self._is_degraded(r) for r in rows)
        if self.header["status"] == "interrupted":
            self.header["exit_code"] = 130
        else:
            self.header.update(status="finished", exit_code=1 if degraded else 0)
        self.header["finished_at"] = _now()
        results.write(self.folder, self.header, rows, samples)
        _point_latest(self.folder)
        return RunResult(self.folder, self.header, tuple(rows))

    def _outcome(self, cell: Cell) -> CellOutcome:
        event = self.finished.get(cell.id)
        if event is None:
            return CellOutcome(
                "failed", f"the run was {self.header['status']} before this cell ended"
            )
        if event.kind == "failed":
            reason = _redacted(str(event.data["message"]).strip(), self.secrets)
            return CellOutcome("failed", reason)
        try:
            return BACKENDS[cell.dataset.backend].collect(cell, event.data, self.folder, self.spec)
        except EvalshimError as error:
            return CellOutcome("failed", str(error))

    def _rows(self, cell: Cell, outcome: CellOutcome) -> list[Row]:
        found = self.header["backends"][cell.dataset.backend]
        bare = Row(
            run_id=self.folder.name,
            backend=cell.dataset.backend,
            backend_version=f"{found['distribution']} {found['version']}"
            if found["version"]
            else "",
            model=cell.model.name,
            dataset=cell.dataset.name,
            n=outcome.n,
            n_failed=outcome.n_failed,
            n_judge_failed=0 if outcome.status == "scored" else None,
            scorer=outcome.scorer,
            status=outcome.status,
            error=" ".join(outcome.error.split()),
        )
        return [
            replace(
                bare,
                **results.row_numbers(metric),
                **_counts(metric.subset, outcome),
                source_file=os.path.relpath(metric.source_file, self.folder),
            )
            for metric in outcome.metrics
        ] or [bare]

    def _is_degraded(self, row: Row) -> bool:
        if row.status == "failed":
            return True
        limit = self.spec.fail_on
        return (row.n_failed or 0) > (limit * (row.n or 0) if limit < 1 else limit)


def _counts(subset: str, outcome: CellOutcome) -> dict[str, Any]:
    """Samples asked and unanswered of a subset or category; None where no sample bears its name."""
    if subset == "overall":
        return {"n": outcome.n, "n_failed": outcome.n_failed}
    own = [s for s in outcome.samples if subset in (s.subset, s.category)]
    if not own:
        return {"n": None, "n_failed": None}
    return {"n": len(own), "n_failed": sum(s.prediction is None for s in own)}


def _with_served_model(model: ModelSpec) -> ModelSpec:
    """`model: auto` becomes the id of the only model that the endpoint serves."""
    if model.model != "auto":
        return model
    import openai

    try:
        client = openai.OpenAI(
            base_url=model.api_base, api_key=_key(model), timeout=10, max_retries=1
        )
        served = [m.id for m in client.models.list()]
    except openai.OpenAIError as error:
        raise SetupError(
            f"{model.name}: cannot ask {model.api_base} which model it serves",
            str(error),
            "start the endpoint, or name the model: `model: <id>`",
        ) from error
    if len(served) != 1:
        raise ConfigError(
            f"{model.name}: `model: auto`, but {model.api_base} serves {len(served)} models",
            ", ".join(served[:20]),
            "name one of them: `model: <id>`",
        )
    return replace(model, model=served[0])


def _key(model: ModelSpec) -> str:
    return os.environ[model.key_env] if model.key_env else model.key


def _new_run_directory(work_dir: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        for twin in range(1, 1000):
            folder = work_dir / (stamp if twin == 1 else f"{stamp}-{twin}")
            try:
                folder.mkdir()
            except FileExistsError:
                if folder.is_dir():
                    continue
                raise
            (folder / "logs").mkdir()
            return folder
    except OSError as error:
        raise ConfigError(
            f"cannot write to the work directory {work_dir}",
            str(error),
            "give another: --work-dir DIR",
        ) from error
    raise ConfigError(f"too many runs a second in {work_dir}")


def _point_latest(folder: Path) -> None:
    """`latest` beside the run, moved over the old one; without it where links are not possible."""
    link = folder.parent / "latest"
    beside = folder.parent / f".latest-{folder.name}"
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(folder.name)
        beside.replace(link)
    except OSError:
        beside.unlink(missing_ok=True)


def _redacted(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if len(secret) >= 8:
            text = text.replace(secret, "***")
    return text


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
