"""The workers of a run: one a backend, each on a thread; a fresh one where one died too soon."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from evalshim import process
from evalshim.backends import BACKENDS
from evalshim.endpoints import variables_of
from evalshim.errors import EvalshimError
from evalshim.gate import Gate
from evalshim.plans import Plan
from evalshim.spec import BackendName, Cell, Event


class Crew:
    """The workers, and the events that they all report.

    A worker's last event is always `ended`, with its backend and what went wrong (`problem`).

    Args:
        upstream: Where the upstreams write, a folder a backend below it.
    """

    def __init__(
        self,
        plan: Plan,
        upstream: Path,
        logs: Mapping[BackendName, process.Logs],
        gate: Gate,
    ) -> None:
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
        job, extra = BACKENDS[name].prepare(cells, spec, folder, self._plan.earlier)
        keys: dict[str, str] = {}
        for cell in cells:
            keys.update(variables_of(cell.model))
            keys.update(variables_of(spec.judge_of(cell.dataset)))
        chosen = self._plan.interpreters[name]
        env = process.isolated_environment() if chosen.managed else dict(os.environ)
        gate = {"path": self._gate.path, "endpoints": sorted(self._gate.lanes)}
        job = {"backend": name, "secrets": sorted(keys), "gate": gate, **job}
        given = {variable: key for variable, key in keys.items() if key}
        return process.Worker(
            chosen.python, job, {**env, **extra, **given}, self._logs[name], self.events.put
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
