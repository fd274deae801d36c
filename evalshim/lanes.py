"""How many calls an endpoint gets, and how fast: the rules of the gate, without its socket."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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

    def end(self, status: int | None, after: float | None, is_probe: bool = False) -> None:
        """A call is over, with an HTTP status or 0; None: nobody knows how, as who made it died."""
        if status in BUSY:
            self.counts.busy += 1
            self._rest(_CALM if after is None else min(after, _LONGEST))
        elif status:
            self.allowed = min(self.limits.concurrency, self.allowed + 1 / self.allowed)
        self.in_flight -= 1
        if is_probe:
            self._is_probing = False
        if status is None:
            return
        if status == 0 or status >= _SERVER_FAILED:
            self._failed(status, is_probe)
        else:
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
