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
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalshim.spec import Cell, RunSpec

# Statuses by which an endpoint says that it has too much to do.
BUSY = (429, 503)
TOKENS = ("tokens_in", "tokens_out")
# Seconds of calm behind one, where it does not say how long; and the most that it may ask for.
_CALM = 1.0
_LONGEST = 60.0
_MINUTE = 60.0
_SERVER_FAILED = 500
# Failures in a row by which an endpoint that has answered is down; seconds between two probes.
_IN_A_ROW = 5
# Seconds without any answer, where those failures were answers of a kind.
_SILENT = 3.0
_LONGEST_PAUSE = 30.0
# Seconds after which a thread of this process makes room for the gate's.
_SWITCH = 0.0005


@dataclass(frozen=True)
class Limits:
    """What an endpoint gets.

    Attributes:
        concurrency: Calls in flight.
        rate: Calls a minute; None for as many as come.
    """

    concurrency: int
    rate: float | None = None


def limits_of(cells: Sequence[Cell], spec: RunSpec) -> dict[str, Limits]:
    """What each endpoint of a run gets: the most that one of its models or judges may have, and
    the lowest rate."""
    asked: list[tuple[str, int, float | None]] = []
    for cell in cells:
        model, judge = cell.model, spec.judge_of(cell.dataset)
        if model.api_base:
            rate = model.rate_limit or spec.rate_limit
            asked.append((model.api_base, model.concurrency or spec.concurrency, rate))
        if judge.is_model and judge.api_base:
            asked.append((judge.api_base, judge.nproc or spec.concurrency, spec.rate_limit))
    found: dict[str, Limits] = {}
    for api_base, concurrency, rate in asked:
        endpoint = api_base.partition("?")[0].rstrip("/")
        known = found.get(endpoint, Limits(concurrency, rate))
        found[endpoint] = Limits(
            max(known.concurrency, concurrency),
            min((r for r in (known.rate, rate) if r), default=None),
        )
    return found


@dataclass
class Counts:
    """What went to an endpoint.

    Attributes:
        busy: Calls that it turned away.
        tokens_in: As it reports them.
        begun: When the first call started, of the monotonic clock.
    """

    calls: int = 0
    busy: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    begun: float = 0.0


class Lane:
    """The calls to one endpoint.

    It starts with all its calls. When the endpoint is busy half of those in flight are enough,
    and none starts until it has had the rest it asked for; each full round of answers then
    brings one back (as TCP shares a line).

    An endpoint that has answered and then fails some calls in a row is down: a single call at
    a time finds out whether it is back, later and later, for as long as there is patience. Then
    calls are let through, to fail, until one is answered. One that never answered is not waited
    for.
    """

    def __init__(
        self,
        limits: Limits,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.counts = Counts()
        self.in_flight = 0
        self.allowed = float(limits.concurrency)
        self.down_since: float | None = None
        self.given_up = False
        self._patience = patience
        self._clock = clock
        self._calm_until = 0.0
        self._next_at = 0.0  # by the rate
        self._answered_at: float | None = None
        self._failures: list[int] = []  # statuses, in a row
        self._probes = 0  # in a row
        self._is_probing = False

    @property
    def is_down(self) -> bool:
        return self.down_since is not None and not self.given_up

    def ready_in(self) -> float | None:
        """Seconds until a call may start; None: not before another is over."""
        if self._is_probing if self.is_down else self.in_flight >= max(1, int(self.allowed)):
            return None
        return max(0.0, max(self._calm_until, self._next_at) - self._clock())

    def start(self) -> bool:
        """A call starts; whether it is to find out if the endpoint is back."""
        self.in_flight += 1
        self._is_probing = self.is_down
        self.counts.begun = self.counts.begun or self._clock()
        self.counts.calls += 1
        if self.limits.rate:
            self._next_at = max(self._clock(), self._next_at) + _MINUTE / self.limits.rate
        return self._is_probing

    def end(self, status: int, after: float | None, is_probe: bool = False) -> None:
        """A call is over, with an HTTP status or 0."""
        if status in BUSY:
            self.counts.busy += 1
            self._rest(_CALM if after is None else min(after, _LONGEST))
        elif status:
            self.allowed = min(self.limits.concurrency, self.allowed + 1 / self.allowed)
        self.in_flight -= 1
        if is_probe:
            self._is_probing = False
        if status == 0 or status >= _SERVER_FAILED:
            self._failed(status, is_probe)
        elif status not in BUSY:
            self._answered_at, self._failures, self._probes = self._clock(), [], 0
            self.down_since, self.given_up = None, False

    def _failed(self, status: int, is_probe: bool) -> None:
        now = self._clock()
        self._failures = [*self._failures, status][-_IN_A_ROW:]
        if self.down_since is None:
            if self._patience and self._seems_away(now):
                self.down_since = now
                self._calm_until = max(self._calm_until, now + self._pause())
        elif is_probe:
            self.given_up = now - self.down_since >= self._patience
            self._probes += 1
            self._calm_until = now if self.given_up else now + self._pause()

    def _seems_away(self, now: float) -> bool:
        if self._answered_at is None or len(self._failures) < _IN_A_ROW:
            return False
        # What answers some and fails others is there: it fails them sooner than it answers.
        return not any(self._failures) or now - self._answered_at >= _SILENT

    def _pause(self) -> float:
        """Twice as long from probe to probe; never in step with other runs."""
        assert self.down_since is not None
        left = self.down_since + self._patience - self._clock()
        pause = min(_LONGEST_PAUSE, 2.0**self._probes) * random.uniform(0.5, 1.0)
        return max(0.0, min(pause, left))

    def _rest(self, seconds: float) -> None:
        now = self._clock()
        if now >= self._calm_until:  # else the calls that were under way say it again
            self.allowed = max(1.0, self.in_flight / 2)
        self._calm_until = max(self._calm_until, now + seconds)


@dataclass(frozen=True)
class Budget:
    """What a run may take; None: as much as it needs."""

    calls: int | None = None
    tokens: int | None = None

    def spent(self, lanes: Iterable[Lane]) -> str:
        """Which of its parts is used up; empty while none is."""
        counts = [lane.counts for lane in lanes]
        if self.calls and sum(c.calls for c in counts) >= self.calls:
            return f"max_requests of {self.calls} reached"
        if self.tokens and sum(c.tokens_in + c.tokens_out for c in counts) >= self.tokens:
            return f"max_tokens_total of {self.tokens} reached"
        return ""


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
        self._folder = tempfile.mkdtemp(prefix="evalshim-")
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
    def open(self) -> Iterator[Gate]:
        """Serve for as long as the block lasts."""
        thread = threading.Thread(target=self._loop.run_forever, name="evalshim-gate", daemon=True)
        thread.start()
        # Not on this thread: that of a notebook has a loop of its own under way.
        server = asyncio.run_coroutine_threadsafe(
            self._loop.create_unix_server(lambda: _Caller(self), self.path, backlog=4096),
            self._loop,
        ).result()
        interval = sys.getswitchinterval()
        # Else every turn might wait for 5 ms of what another thread does.
        sys.setswitchinterval(min(interval, _SWITCH))
        try:
            yield self
        finally:
            sys.setswitchinterval(interval)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            server.close()
            self._loop.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def want(self, caller: _Caller) -> None:
        if self.why_stopped:
            caller.say(f"stop {self.why_stopped}")
            return
        heapq.heappush(self._waiting[caller.endpoint], (caller.rank, next(self._numbers), caller))
        self._serve(caller.endpoint)

    def done(self, caller: _Caller, status: int, after: float | None, is_probe: bool) -> None:
        lane = self.lanes[caller.endpoint]
        before = (lane.is_down, lane.given_up)
        lane.end(status, after, is_probe)
        if (lane.is_down, lane.given_up) != before:
            self._tell(caller.endpoint, lane, status)
        if why := self._budget.spent(self.lanes.values()):
            self._stop(why)
        self._serve(caller.endpoint)

    def _tell(self, endpoint: str, lane: Lane, status: int) -> None:
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
            self._over(0, None)

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

    def _over(self, status: int, after: float | None) -> None:
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
