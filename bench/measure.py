"""Runs one command beside an endpoint of its own, and measures it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

ENDPOINT = Path(__file__).with_name("endpoint.py")
HOURS = 3600
# What of run.json's phases is upstream's; the rest of a run is evalshim's own.
UPSTREAMS = ("import", "plan", "inference", "scoring")
_SAMPLED_EVERY = 0.1  # seconds


class Failed(Exception):
    """A command did not do its work; the message has its last lines."""


@dataclass(frozen=True)
class Measured:
    """One run; seconds, and megabytes.

    Attributes:
        first: From the start to the first request's arrival.
        span: From there to the last answer.
        own: evalshim's own share; None for the others.
        memory: Peak of all processes together: their proportional set size, so that what forks
            share counts once.
        memory_below: The same without the command's own process.
        held: The rows of upstream's dataset object, where that was all there was to make.
    """

    seconds: float
    first: float | None = None
    span: float | None = None
    requests: int = 0
    largest_parallel: int = 0
    connections: int = 0
    own: float | None = None
    phases: Mapping[str, float] | None = None
    memory: float | None = None
    memory_below: float | None = None
    held: float | None = None


class Endpoint:
    """endpoint.py as a process: its URL while it serves, its figures once it is stopped."""

    def __init__(self, latency: float, answer: str = "A") -> None:
        self.process = subprocess.Popen(
            [sys.executable, ENDPOINT, "--latency", str(latency), "--answer", answer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.figures = json.loads(self.process.communicate(timeout=30)[0] or "{}")


def timed(
    argv: Sequence[object], cwd: Path, env: Mapping[str, str], *, memory: bool = False
) -> tuple[float, float, dict[str, float]]:
    """Run a command to its end: when it began (epoch), how long it took, its peaks of memory."""
    log = cwd / "output.txt"
    with log.open("w") as out:
        begun, clock = time.time(), time.monotonic()
        with _started([*map(str, argv)], cwd, {**os.environ, **env}, out) as process:
            peaks = _peaks(process) if memory else {}
            code = process.wait(HOURS)
        took = time.monotonic() - clock
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise Failed(f"{argv[0]} ended with {code}\n{tail}")
    return begun, took, peaks


@contextmanager
def _started(
    argv: list[str], cwd: Path, env: dict[str, str], out: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, all of which is gone at the end."""
    process = subprocess.Popen(
        argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _peaks(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Follow the memory of a process and of those below it, until it ends."""
    root = psutil.Process(process.pid)
    whole = below = 0.0
    while process.poll() is None:
        try:
            children = sum(map(_megabytes, root.children(recursive=True)))
            whole, below = max(whole, children + _megabytes(root)), max(below, children)
        except psutil.Error:  # one of them ended meanwhile
            pass
        time.sleep(_SAMPLED_EVERY)
    return {"memory": whole, "memory_below": below}


def _megabytes(process: psutil.Process) -> float:
    info = process.memory_full_info()
    return float(getattr(info, "pss", info.uss)) / 2**20


def beside(endpoint: Endpoint, begun: float, took: float, **more: Any) -> Measured:
    """What the endpoint and the clock say of a run; the endpoint has stopped."""
    figures = endpoint.figures
    first = figures["first"]
    return Measured(
        seconds=took,
        first=first - begun if first else None,
        span=figures["span"] if first else None,
        requests=figures["requests"],
        largest_parallel=figures["largest_parallel"],
        connections=figures["connections"],
        **more,
    )


def share(run: Path, begun: float, took: float) -> dict[str, Any]:
    """evalshim's own share of a run and its phases, by what it wrote into the folder `run`."""
    header = json.loads((run / "run.json").read_text())
    if phases := header.get("phases"):
        own = took - sum(phases.get(name, 0.0) for name in UPSTREAMS)
        return {"own": own, "phases": phases}
    # Without phases: until upstream's import began, and after the last cell's end.
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    imported = [(_epoch(e), e["seconds"]) for e in events if e["event"] == "ready"]
    finished = [_epoch(e) for e in events if e["event"] in ("finished", "failed")]
    before = min(when - seconds for when, seconds in imported) - begun
    return {"own": before + begun + took - max(finished)}


def _epoch(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
