"""What all workers of a run share: how many calls an endpoint gets, and how fast.

A server on a local socket. Each thread that calls an endpoint holds a connection of its own;
who dies gives back its turn with it. Decides when a call may start; makes none itself.

The protocol, lines of text
    caller   hello RANK ENDPOINT    once: the lower its rank, the sooner its turn
             want                   a turn
             done STATUS AFTER IN OUT    the call is over: HTTP status (0: none came), seconds
                                    of its Retry-After (or -), tokens in and out (or -)
    gate     go                     it is your turn
             stop WHY               there will be none
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from evalshim.lanes import TOKENS, Budget, Lane, Limits

# Bytes of a socket's path, of which Linux takes 107 and macOS 103.
_LONGEST_PATH = 100
# Seconds after which a thread of this process makes room for the gate's.
_SWITCH = 0.0005


def _folder() -> str:
    """A new folder for the socket; a TMPDIR may be too long for one."""
    folder = tempfile.mkdtemp(prefix="evalshim-")
    if len(os.fsencode(folder)) + len("/gate") <= _LONGEST_PATH:
        return folder
    Path(folder).rmdir()
    return tempfile.mkdtemp(prefix="evalshim-", dir="/tmp")


class Gate:
    """The server, on a thread of its own.

    Args:
        limits: By endpoint.
        patience: Seconds for which an endpoint that is down is waited for.
        say: Told, on the gate's thread, what the run waits for.
    """

    def __init__(
        self,
        limits: Mapping[str, Limits],
        budget: Budget = Budget(),  # noqa: B008 - it is frozen
        patience: float = 0.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.lanes = {endpoint: Lane(given, patience) for endpoint, given in limits.items()}
        self.why_stopped = ""
        self.waited_until = 0.0  # for an endpoint that is down, by the monotonic clock
        self._budget = budget
        self._patience = patience
        self._say = say
        self._waiting: dict[str, list[tuple[int, int, _Caller]]] = {e: [] for e in limits}
        self._numbers = itertools.count()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop = asyncio.new_event_loop()
        self._folder = _folder()
        self.path = str(Path(self._folder) / "gate")

    def most(self) -> dict[str, int]:
        """How many calls each endpoint gets at a time."""
        return {endpoint: lane.limits.concurrency for endpoint, lane in self.lanes.items()}

    def traffic(self) -> str:
        """What went to the endpoints so far, for a person; empty before the first call."""
        found = [lane.counts for lane in self.lanes.values()]
        calls = sum(counts.calls for counts in found)
        begun = min((counts.begun for counts in found if counts.calls), default=0.0)
        if not calls:
            return ""
        said = [f"{calls} calls, {calls / max(1e-3, time.monotonic() - begun):.1f} a second"]
        tokens_in, tokens_out = (sum(getattr(c, kind) for c in found) for kind in TOKENS)
        if tokens_in or tokens_out:
            said.append(f"{tokens_in} tokens in, {tokens_out} out")
        if busy := sum(counts.busy for counts in found):
            said.append(f"turned away {busy} times")
        return "; ".join(said)

    def stop(self, why: str) -> None:
        """Let no further call start; from any thread."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._stop, why)

    def _stop(self, why: str) -> None:
        self.why_stopped = self.why_stopped or why
        for waiting in self._waiting.values():
            for _, _, caller in waiting:
                caller.say(f"stop {self.why_stopped}")
            waiting.clear()

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._loop.run_forever, name="evalshim-gate", daemon=True)
        thread.start()
        try:
            # Not on this thread: that of a notebook has a loop of its own under way. Where no
            # file can be opened, asyncio says so as many times at once as `backlog` has it.
            server = asyncio.run_coroutine_threadsafe(
                self._loop.create_unix_server(lambda: _Caller(self), self.path, backlog=128),
                self._loop,
            ).result()
            try:
                yield
            finally:
                self._loop.call_soon_threadsafe(server.close)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def open(self) -> Iterator[Gate]:
        """Serve for as long as the block lasts."""
        interval = sys.getswitchinterval()
        with self._serving():
            # Else every turn might wait for 5 ms of what another thread does.
            sys.setswitchinterval(min(interval, _SWITCH))
            try:
                yield self
            finally:
                sys.setswitchinterval(interval)

    def want(self, caller: _Caller) -> None:
        if self.why_stopped:
            caller.say(f"stop {self.why_stopped}")
            return
        heapq.heappush(self._waiting[caller.endpoint], (caller.rank, next(self._numbers), caller))
        self._serve(caller.endpoint)

    def done(
        self, caller: _Caller, status: int | None, after: float | None, is_probe: bool
    ) -> None:
        lane = self.lanes[caller.endpoint]
        before = (lane.is_down, lane.given_up)
        lane.end(status, after, is_probe)
        if (lane.is_down, lane.given_up) != before:
            self._tell(caller.endpoint, lane, status)
        if why := self._budget.spent(self.lanes.values()):
            self._stop(why)
        self._serve(caller.endpoint)

    def _tell(self, endpoint: str, lane: Lane, status: int | None) -> None:
        if lane.given_up:
            text = f"did not answer for {self._patience:g} s: its calls fail from here on"
        elif lane.is_down:
            what = f"HTTP {status}" if status else "no connection, or none in time"
            text = f"does not answer ({what}): its calls wait, {self._patience:g} s at the most"
        else:
            text = "answers again"
        self._say(f"{endpoint} {text}")

    def _serve(self, endpoint: str) -> None:
        """Give turns for as long as there are some."""
        lane, waiting = self.lanes[endpoint], self._waiting[endpoint]
        while waiting:
            if lane.is_down:
                self.waited_until = time.monotonic()
            seconds = lane.ready_in()
            if seconds is None:
                return
            if seconds > 0:
                timer = self._timers.get(endpoint)
                if timer is None or timer.when() < self._loop.time():
                    self._timers[endpoint] = self._loop.call_later(seconds, self._serve, endpoint)
                return
            caller = heapq.heappop(waiting)[2]
            if not caller.alive:
                continue
            if why := self._budget.spent(self.lanes.values()):
                caller.say(f"stop {why}")
                self._stop(why)
                return
            caller.go(lane.start())


class _Caller(asyncio.Protocol):
    """One connection: a thread that calls an endpoint."""

    def __init__(self, gate: Gate) -> None:
        self.alive = True
        self.rank, self.endpoint = 0, ""
        self._gate = gate
        self._has_turn = self._is_probe = False
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        if self._has_turn:
            self._over(None, None)

    def data_received(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "want":
                self._gate.want(self)
            elif word == "done":
                status, after, tokens_in, tokens_out = rest.split()
                counts = self._gate.lanes[self.endpoint].counts
                counts.tokens_in += _number(tokens_in)
                counts.tokens_out += _number(tokens_out)
                self._over(int(status), None if after == "-" else float(after))
            else:
                rank, _, self.endpoint = rest.partition(" ")
                self.rank = int(rank)

    def _over(self, status: int | None, after: float | None) -> None:
        self._has_turn = False
        self._gate.done(self, status, after, self._is_probe)

    def go(self, is_probe: bool) -> None:
        self._has_turn, self._is_probe = True, is_probe
        self.say("go")

    def say(self, text: str) -> None:
        if self.alive:
            assert isinstance(self._transport, asyncio.WriteTransport)
            self._transport.write(f"{text}\n".encode())


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
