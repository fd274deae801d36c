"""One run while it runs: workers on threads, their events in order, every cell to its end.

Whatever happens to a worker or to upstream's files is the end of a cell, with its
reason; only an interrupt ends a run early.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import socket
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

import evalshim
from evalshim import config, digests, envs, process, redaction, results, sweep
from evalshim.backends import BACKENDS
from evalshim.earlier import config_sha256
from evalshim.endpoints import variables_of
from evalshim.errors import EvalshimError
from evalshim.plans import Plan, by_backend
from evalshim.progress import Reporter
from evalshim.results import RunResult
from evalshim.spec import (
    SCHEMA_VERSION,
    BackendName,
    Cell,
    CellOutcome,
    Event,
    JudgeSpec,
    Needed,
    Row,
    Sample,
)


class LiveRun:
    """A run under way; run.json follows its state.

    Args:
        plan: Ready to run.
        folder: The run directory; exists.
        command: The command line, for run.json.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        command: Sequence[str],
    ) -> None:
        self.plan = plan
        self.spec = plan.spec
        self.parts = by_backend(plan.cells)
        self.interpreters = plan.interpreters
        self.folder = folder
        self.cells = {cell.id: cell for cell in plan.cells}
        self.outcomes: dict[str, CellOutcome] = {}
        judges = {self.spec.judge_of(cell.dataset) for cell in plan.cells}
        models = {cell.model for cell in plan.cells}
        found = [*map(variables_of, models), *map(variables_of, judges)]
        keys = {key for variables in found for key in variables.values() if key}
        self.secrets = tuple(sorted({*keys, *redaction.of_environment()}))
        self.logs = {name: process.Logs(folder / "logs", name, self.secrets) for name in self.parts}
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.hashing = ThreadPoolExecutor(1, "evalshim-hashing")
        self.header = self._first_header(command)

    def go(self, reporter: Reporter) -> RunResult:
        """Run to the end, or to an interrupt; in both cases the result files are written."""
        plain = redaction.redacted(config.plain(self.spec), self.secrets)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        results.write_text(self.folder / "config.yaml", text)
        self._save()
        # Beside the run: a large file takes as long as the first answers.
        hashed = {path: self.hashing.submit(digests.of, path) for path in self._data()}
        try:
            self._work(reporter)
            self.header["status"] = "finished"
        except KeyboardInterrupt:
            self.header["status"] = "interrupted"
            raise
        except BaseException:
            self.header["status"] = "failed"
            raise
        finally:
            # Who interrupted a run does not wait for its hashes.
            ended = self.header["status"] == "finished"
            self.hashing.shutdown(wait=ended, cancel_futures=True)
            done = {path: f for path, f in hashed.items() if f.done() and not f.cancelled()}
            self._note_data({path: future.result() for path, future in done.items()})
            result = self._finish()
        return result

    def _data(self) -> dict[Path, str]:
        """The data files and folders of the run, and the published MD5 of each."""
        needs = [need for cell in self.plan.cells for need in self.plan.needs[cell.id]]
        return {_place(need): need.md5 for need in needs}

    def _note_data(self, found: Mapping[Path, digests.Digest | None]) -> None:
        """Say in run.json which data each cell was about."""
        published = self._data()
        for cell, needs in self.plan.needs.items():
            noted = []
            for path in dict.fromkeys(map(_place, needs)):
                # What was fetched meanwhile was not there to be hashed.
                late = self.header["status"] == "finished"
                digest = found.get(path) or (digests.of(path) if late else None)
                md5 = published[path]
                is_published = digest.md5 == md5 if digest and md5 else None
                hashed = digest.sha256 if digest else None
                noted.append({"path": str(path), "sha256": hashed, "published": is_published})
            self.header["cells"][cell]["data"] = noted

    def _work(self, reporter: Reporter) -> None:
        """Every backend's worker at once; their events, in order, on this thread."""
        workers: dict[BackendName, process.Worker] = {}
        for name in self.parts:
            try:
                workers[name] = self._worker(name)
            except (EvalshimError, OSError) as error:
                self.events.put(Event("ended", None, {"backend": name, "problem": str(error)}))
        running = len(self.parts)
        log = (self.folder / "events.jsonl").open("a", encoding="utf-8")
        with log, ThreadPoolExecutor(running) as pool:
            try:
                for name, worker in workers.items():
                    pool.submit(self._run, name, worker)
                while running:
                    event = self.events.get()
                    self._log(log, event)
                    self._apply(event, reporter)
                    running -= event.kind == "ended"
            except BaseException:
                # The pool waits for its threads, and they for their workers.
                for worker in workers.values():
                    worker.stop()
                raise

    def _worker(self, name: BackendName) -> process.Worker:
        part = self.parts[name]
        upstream = self.folder / "upstream" / name
        job, extra = BACKENDS[name].prepare(part, self.spec, upstream, self.plan.earlier)
        keys: dict[str, str] = {}
        for cell in part:
            keys.update(variables_of(cell.model))
            keys.update(variables_of(self.spec.judge_of(cell.dataset)))
        chosen = self.interpreters[name]
        env = process.isolated_environment() if chosen.managed else dict(os.environ)
        job = {"backend": name, "secrets": sorted(keys), **job}
        given = {variable: key for variable, key in keys.items() if key}
        return process.Worker(
            chosen.python, job, {**env, **extra, **given}, self.logs[name], self.events.put
        )

    def _run(self, name: BackendName, worker: process.Worker) -> None:
        """One backend, on a thread of its own; its last event is always `ended`."""
        problem = ""
        try:
            ended = worker.run()
            if not ended.clean:
                problem = f"the {name} worker died ({process.describe_exit(ended.code)})"
        except Exception as error:  # a thread's exception would be lost
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.events.put(Event("ended", None, {"backend": name, "problem": problem}))

    def _apply(self, event: Event, reporter: Reporter) -> None:
        if event.kind == "ready":
            self.header["backends"][event.data["upstream"]].update(event.data)
        elif event.kind == "notice":
            self.header["notices"].append(event.data["message"])
        elif event.kind == "ended":
            self._end_rest(event, reporter)
        entry = self.header["cells"].get(event.cell)
        if entry is None or event.cell in self.outcomes:
            reporter.event(event)
            return
        if event.kind == "progress":
            entry.update(event.data)
            reporter.event(event)
        elif event.kind == "started":
            entry.update(status="running", started_at=now())
            self._save()
            reporter.event(event)
        else:
            self._end(self.cells[event.cell or ""], self._outcome(event), reporter)

    def _end_rest(self, event: Event, reporter: Reporter) -> None:
        """A worker is gone: the cells that it had not ended are failed."""
        name: BackendName = event.data["backend"]
        for cell in self.parts[name]:
            if cell.id not in self.outcomes:
                problem = event.data["problem"] or f"the {name} worker said nothing of this cell"
                tail = self.logs[name].tail(cell.id)
                reason = "\n".join([problem, *(["its last lines:", *tail] if tail else [])])
                self._end(cell, CellOutcome("failed", reason), reporter)

    def _outcome(self, event: Event) -> CellOutcome:
        cell = self.cells[event.cell or ""]
        if event.kind == "failed":
            return CellOutcome("failed", str(event.data["message"]))
        backend = BACKENDS[cell.dataset.backend]
        try:
            return backend.collect(cell, event.data, self.folder, self.spec)
        except EvalshimError as error:
            return CellOutcome("failed", str(error))
        except Exception as error:  # one cell's odd file must not cost the others theirs
            with self.logs[cell.dataset.backend].path(cell.id).open("a", encoding="utf-8") as log:
                log.write(process.redact(traceback.format_exc(), self.secrets))
            return CellOutcome("failed", f"cannot read what upstream wrote: {error!r}")

    def _end(self, cell: Cell, outcome: CellOutcome, reporter: Reporter) -> None:
        entry = self.header["cells"][cell.id]
        # Events came without secrets; upstream's files may have some of processes of its own.
        outcome = redaction.redacted(outcome, redaction.unmistakable(self.secrets))
        outcome = replace(
            outcome,
            error=process.redact(outcome.error.strip(), self.secrets),
            n=entry.get("total") if outcome.n is None else outcome.n,
        )
        self.outcomes[cell.id] = outcome
        entry.update(status=outcome.status, error=outcome.error, finished_at=now())
        entry.update(n=outcome.n, n_failed=outcome.n_failed, n_judge_failed=outcome.n_judge_failed)
        entry.update(notes=list(outcome.notes), sent=dict(outcome.sent))
        entry.update(reported=outcome.reported.get("model") or None)
        if entry["judge"]:
            entry["judge"]["reported"] = outcome.reported.get("judge") or None
        self._save()
        reporter.ended(cell, outcome)

    def _finish(self) -> RunResult:
        """Write the result files, decide the exit code."""
        sweep.clean(self.folder / "upstream", redaction.unmistakable(self.secrets))
        unended = CellOutcome("failed", f"the run was {self.header['status']} before this ended")
        rows: list[Row] = []
        samples: list[Sample] = []
        for cell in self.cells.values():
            outcome = self.outcomes.get(cell.id, unended)
            self.header["cells"][cell.id].update(status=outcome.status, error=outcome.error)
            rows += self._rows(cell, outcome)
            samples += outcome.samples
        codes = {"interrupted": 130, "failed": 1}
        ended = [self.outcomes.get(cell, unended) for cell in self.cells]
        degraded = any(self._is_degraded(outcome) for outcome in ended)
        self.header["exit_code"] = codes.get(self.header["status"], int(degraded))
        self.header["finished_at"] = now()
        try:
            results.write(self.folder, self.header, rows, samples)
        except OSError as error:
            raise EvalshimError(
                f"cannot write the results to {self.folder}",
                str(error),
                "what upstream wrote is below it all the same",
            ) from error
        _point_latest(self.folder)
        return RunResult(self.folder, self.header, tuple(rows))

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
            n_judge_failed=outcome.n_judge_failed,
            scorer=outcome.scorer,
            judge_fallback=outcome.judge_fallback,
            status=outcome.status,
            error=" ".join(outcome.error.split()),
        )
        return [
            replace(
                bare,
                **results.row_numbers(metric),
                source_file=os.path.relpath(metric.source_file, self.folder),
            )
            for metric in outcome.metrics
        ] or [bare]

    def _is_degraded(self, outcome: CellOutcome) -> bool:
        if outcome.status == "failed":
            return True
        limit = self.spec.fail_on
        lacking = (outcome.n_failed or 0) + (outcome.n_judge_failed or 0)
        return lacking > (limit * (outcome.n or 0) if limit < 1 else limit)

    def _save(self) -> None:
        # A full disk must not end a run that may still bring its answers home.
        with contextlib.suppress(OSError):
            results.write_json(self.folder / "run.json", self.header)

    def _log(self, log: Any, event: Event) -> None:
        record = {"time": now(), "event": event.kind, "cell": event.cell, **event.data}
        with contextlib.suppress(OSError):
            log.write(json.dumps(record, default=str) + "\n")
            log.flush()

    def _earlier_run(self, cell: Cell) -> str | None:
        place = self.plan.earlier.get(cell.id)
        return place.relative_to(self.spec.work_dir).parts[0] if place else None

    def _first_header(self, command: Sequence[str]) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.folder.name,
            "evalshim_version": evalshim.__version__,
            "status": "running",
            "exit_code": None,
            "started_at": now(),
            "finished_at": None,
            "config_sha256": config_sha256(self.spec),
            "command": [process.redact(word, self.secrets) for word in command],
            "host": {
                "name": socket.gethostname(),
                "platform": platform.platform(),
                "python": platform.python_version(),
            },
            "backends": {
                name: {
                    "python": found.python,
                    "reason": found.reason,
                    "distribution": None,
                    "version": None,
                    "commit": None,
                    "pins": (made.pins if found.managed and (made := envs.state(name)) else None),
                }
                for name, found in self.interpreters.items()
            },
            "notices": [],
            "cells": {
                cell.id: {
                    "model": cell.model.name,
                    "dataset": cell.dataset.name,
                    "backend": cell.dataset.backend,
                    "judge": _named(self.spec.judge_of(cell.dataset)),
                    "goes_on_from": self._earlier_run(cell),
                    "status": "pending",
                    "error": "",
                    "started_at": None,
                    "finished_at": None,
                    "log": f"logs/{self.logs[cell.dataset.backend].path(cell.id).name}",
                }
                for cell in self.cells.values()
            },
        }


def _place(need: Needed) -> Path:
    """Where the data is: at one of the places that upstream looks at."""
    places = [Path(place) for place in (*need.looked_for, need.path)]
    return next((place for place in places if place.exists()), places[-1])


def _named(judge: JudgeSpec) -> dict[str, Any] | None:
    return {"model": judge.model, "api_base": judge.api_base} if judge.is_model else None


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


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
