"""The workers of a run: one a backend, each on a thread; a fresh one where one died too soon."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from evalshim import process
from evalshim.backends import BACKENDS
from evalshim.endpoints import variables_of
from evalshim.errors import EvalshimError
from evalshim.gate import Gate
from evalshim.plans import Plan, by_backend
from evalshim.spec import BackendName, Cell, Event, RunSpec


class Early:
    """Workers that import their upstream while the rest of a run is looked at.

    Each is taken once, by the crew; `close` ends those that were not.
    """

    def __init__(self, plan: Plan) -> None:
        self.begun = time.time()
        self._spawned: dict[BackendName, tuple[dict[str, str], process.Spawned]] = {}
        for name, cells in by_backend(plan.cells).items() if plan.ready else ():
            if _imports_alike(plan.spec, cells):
                env = _environment(plan, name, cells)
                with contextlib.suppress(EvalshimError):  # which the run will say
                    python = plan.interpreters[name].python
                    self._spawned[name] = env, process.spawn(python, env, importing=name)

    def take(self, name: BackendName, env: Mapping[str, str]) -> process.Spawned | None:
        """The worker of a backend, if it has this environment: that of a judge whose model is
        `auto` changes with the answer."""
        known, spawned = self._spawned.get(name, ({}, None))
        return self._spawned.pop(name)[1] if spawned and known == env else None

    def close(self) -> None:
        while self._spawned:
            _, (_, spawned) = self._spawned.popitem()
            process.kill(spawned)
            spawned.communicate()


def _imports_alike(spec: RunSpec, cells: Sequence[Cell]) -> bool:
    """Whether nothing in a job changes how its worker imports upstream."""
    served = all(cell.model.api_base for cell in cells)
    return served and not spec.config and not spec.plugins and spec.gpus == 1


def _environment(plan: Plan, name: BackendName, cells: Sequence[Cell]) -> dict[str, str]:
    """What a worker finds in its environment, keys among it."""
    env = process.environment_of(plan.interpreters[name].managed)
    keys = _keys(plan.spec, cells)
    return {**env, **BACKENDS[name].ENVIRONMENT, **{v: key for v, key in keys.items() if key}}


def _keys(spec: RunSpec, cells: Sequence[Cell]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for cell in cells:
        keys.update(variables_of(cell.model))
        keys.update(variables_of(spec.judge_of(cell.dataset)))
    return keys


class Crew:
    """The workers, and the events that they all report.

    A worker's last event is always `ended`, with its backend and what went wrong (`problem`).

    Args:
        upstream: Where the upstreams write, a folder a backend below it.
        early: Processes for the first worker of each backend.
    """

    def __init__(
        self,
        plan: Plan,
        upstream: Path,
        logs: Mapping[BackendName, process.Logs],
        gate: Gate,
        early: Early | None = None,
    ) -> None:
        self._early = early
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.running = 0
        self._plan = plan
        self._upstream = upstream
        self._logs = logs
        self._gate = gate
        self._workers: dict[BackendName, process.Worker] = {}
        self._threads: list[threading.Thread] = []

    def launch(self, name: BackendName, cells: Sequence[Cell]) -> None:
        """Start the worker of a backend."""
        self.running += 1
        try:
            self._workers[name] = self._worker(name, cells)
        except (EvalshimError, OSError) as error:
            self.events.put(Event("ended", None, {"backend": name, "problem": str(error)}))
            return
        thread = threading.Thread(target=self._run, args=(name, self._workers[name]), daemon=True)
        self._threads.append(thread)
        thread.start()

    def launch_all(self, parts: Mapping[BackendName, Sequence[Cell]]) -> None:
        for name, cells in parts.items():
            self.launch(name, cells)
        if self._early:
            self._early.close()  # a run that goes on may need fewer

    def stop(self) -> None:
        """End all workers at once, and whatever they started."""
        for worker in self._workers.values():
            worker.stop()
        for thread in self._threads:
            thread.join()

    def kill(self, name: BackendName, pid: int) -> None:
        """End a process of a worker; the worker itself, where it works by itself."""
        worker = self._workers[name]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Its number may be somebody else's by now.
            if worker.pid is not None and os.getpgid(pid) == worker.pid:
                os.kill(pid, signal.SIGKILL)

    def _worker(self, name: BackendName, cells: Sequence[Cell]) -> process.Worker:
        spec = self._plan.spec
        folder = self._upstream / name
        job = BACKENDS[name].prepare(cells, spec, folder, self._plan.earlier)
        gate = {"path": self._gate.path, "endpoints": self._gate.most()}
        job = {"backend": name, "secrets": sorted(_keys(spec, cells)), "gate": gate, **job}
        env = _environment(self._plan, name, cells)
        return process.Worker(
            self._plan.interpreters[name].python,
            job,
            env,
            self._logs[name],
            self.events.put,
            self._early.take(name, env) if self._early else None,
        )

    def _run(self, name: BackendName, worker: process.Worker) -> None:
        problem = ""
        try:
            ended = worker.run()
            if not ended.clean:
                problem = f"the {name} worker died ({process.describe_exit(ended.code)})"
        except Exception as error:  # a thread's exception would be lost
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.events.put(Event("ended", None, {"backend": name, "problem": problem}))
