"""What run.json says of a run before it begins, and of the data that it is about."""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import evalshim
from evalshim import digests, envs, resumption
from evalshim.earlier import config_sha256
from evalshim.plans import Plan
from evalshim.spec import SCHEMA_VERSION, Cell, JudgeSpec, Needed

# What the notice of a run that was stopped begins with.
STOPPED = "stopped: "


def first(
    plan: Plan, run_id: str, command: Sequence[str], log_of: Callable[[Cell], str]
) -> dict[str, Any]:
    """The header of a run that is about to begin.

    Args:
        command: The command line, without secrets.
        log_of: The path of a cell's log in the run directory.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "evalshim_version": evalshim.__version__,
        "status": "running",
        "exit_code": None,
        "started_at": now(),
        "finished_at": None,
        "config_sha256": config_sha256(plan.spec),
        "command": list(command),
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
            for name, found in plan.interpreters.items()
        },
        "notices": [],
        "resumed": [],
        "phases": {},
        "traffic": {},
        "cells": {cell.id: _of_cell(cell, plan, log_of(cell)) for cell in plan.cells},
    }


def going_on(
    new: dict[str, Any], old: Mapping[str, Any], ended: Sequence[str], forced: Sequence[str]
) -> dict[str, Any]:
    """The header of a run that goes on: what has ended is as it was.

    Args:
        ended: Cells that need nothing more.
        forced: How the work differs, where that was accepted.
    """
    backends = {n: {**b, **_known(old["backends"].get(n, {}))} for n, b in new["backends"].items()}
    cells = {c: old["cells"][c] if c in ended else entry for c, entry in new["cells"].items()}
    again = {"at": now(), "status": old.get("status"), "forced": list(forced)}
    return {
        **new,
        "started_at": old.get("started_at"),
        "notices": [n for n in old.get("notices", ()) if not n.startswith(STOPPED)],
        "resumed": [*old.get("resumed", ()), again],
        "backends": backends,
        "cells": cells,
    }


def _known(backend: Mapping[str, Any]) -> dict[str, Any]:
    names = ("distribution", "version", "commit")
    return {name: backend[name] for name in names if backend.get(name)}


def _of_cell(cell: Cell, plan: Plan, log: str) -> dict[str, Any]:
    place = plan.earlier.get(cell.id)
    return {
        "model": cell.model.name,
        "dataset": cell.dataset.name,
        "backend": cell.dataset.backend,
        "judge": _named(plan.spec.judge_of(cell.dataset)),
        "identity": resumption.identity(cell, plan.spec),
        "goes_on_from": place.relative_to(plan.spec.work_dir).parts[0] if place else None,
        "status": "pending",
        "error": "",
        "started_at": None,
        "finished_at": None,
        "log": log,
    }


def _named(judge: JudgeSpec) -> dict[str, Any] | None:
    return {"model": judge.model, "api_base": judge.api_base} if judge.is_model else None


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class DataNotes:
    """The hashes of the data of a run, made beside it: a large file takes as long as the first
    answers.

    Args:
        hashed: Called, on a thread, when another file is known.
    """

    def __init__(self, plan: Plan, hashed: Callable[[], None]) -> None:
        self._needs = {c: list(needs) for c, needs in plan.needs.items()}
        every = [need for needs in self._needs.values() for need in needs]
        self._md5 = {place(need): need.md5 for need in every}
        self._pool = ThreadPoolExecutor(1, "evalshim-hashing")
        self._hashes: dict[Path, Future[digests.Digest | None]] = {
            path: self._pool.submit(digests.of, path) for path in self._md5
        }
        for future in self._hashes.values():
            future.add_done_callback(lambda _: hashed())

    def end(self, wait: bool) -> None:
        """Who interrupted a run does not wait for its hashes."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def of(self, cell: str, late: bool = False) -> list[dict[str, Any]]:
        """What is known of the data of a cell.

        Args:
            late: Look for what was fetched meanwhile, and was not there to be hashed.
        """
        noted = []
        for path in dict.fromkeys(map(place, self._needs[cell])):
            future = self._hashes[path]
            digest = future.result() if future.done() and not future.cancelled() else None
            if digest is None and late:
                digest = digests.of(path)
            md5 = self._md5[path]
            noted.append(
                {
                    "path": str(path),
                    "sha256": digest.sha256 if digest else None,
                    "published": digest.md5 == md5 if digest and md5 else None,
                }
            )
        return noted


def place(need: Needed) -> Path:
    """Where the data is: at one of the places that upstream looks at."""
    places = [Path(place) for place in (*need.looked_for, need.path)]
    return next((place for place in places if place.exists()), places[-1])
