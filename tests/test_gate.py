"""Turns for the calls of an endpoint: the rules, and the real socket with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evalshim.gate import Gate
from evalshim.lanes import Budget, Lane, Limits, limits_of
from evalshim.spec import Cell, DatasetSpec, JudgeSpec, ModelSpec, RunSpec
from evalshim.worker import turns

URL = "http://h/v1"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestLane:
    def test_starts_as_many_calls_as_the_endpoint_gets(self, clock: Clock) -> None:
        lane = Lane(Limits(2), clock=clock)
        for _ in range(2):
            assert lane.ready_in() == 0
            lane.start()

        assert lane.ready_in() is None
        lane.end(200, None)
        assert lane.ready_in() == 0

    def test_keeps_to_the_rate(self, clock: Clock) -> None:
        lane = Lane(Limits(10, rate=60), clock=clock)
        lane.start()

        assert lane.ready_in() == pytest.approx(1)
        clock.now += 1
        assert lane.ready_in() == 0

    @pytest.mark.parametrize("status", [429, 503])
    def test_rests_when_the_endpoint_is_busy_and_recovers(self, clock: Clock, status: int) -> None:
        lane = Lane(Limits(8), clock=clock)
        for _ in range(8):
            lane.start()
        for _ in range(8):
            lane.end(status, 2.5)

        assert lane.ready_in() == pytest.approx(2.5)
        clock.now += 2.5
        assert lane.allowed == 4  # once for the eight of one moment
        for _ in range(40):
            assert lane.ready_in() == 0
            lane.start()
            lane.end(200, None)
        assert lane.allowed == 8

    def test_waits_for_an_endpoint_that_is_away(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        lane.start()
        lane.end(200, None)
        for _ in range(5):
            lane.start()
        for _ in range(5):
            lane.end(0, None)

        assert lane.is_down
        seconds = lane.ready_in()
        assert seconds is not None and 0 < seconds <= 1
        clock.now += seconds
        assert lane.start()  # to find out
        assert lane.ready_in() is None  # one at a time
        lane.end(502, None, is_probe=True)
        assert lane.is_down
        clock.now += lane.ready_in() or 0
        assert lane.start()
        lane.end(200, None, is_probe=True)
        assert not lane.is_down
        assert lane.ready_in() == 0

    def test_gives_up_when_its_patience_is_over(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        lane.start()
        lane.end(200, None)
        for _ in range(5):
            lane.start()
            lane.end(0, None)
        begun = clock.now
        while lane.is_down:
            seconds = lane.ready_in()
            assert seconds is not None
            clock.now += seconds
            lane.end(0, None, is_probe=lane.start())

        assert clock.now - begun == pytest.approx(30)
        assert lane.given_up
        assert lane.ready_in() == 0
        lane.start()
        lane.end(200, None)
        assert not lane.given_up

    def test_does_not_wait_for_one_that_never_answered(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        for _ in range(20):
            lane.start()
            lane.end(0, None)

        assert lane.ready_in() == 0

    def test_one_that_fails_some_and_answers_others_is_there(self, clock: Clock) -> None:
        lane = Lane(Limits(32), patience=30, clock=clock)
        for status in (200, *[500] * 20):
            lane.start()
            lane.end(status, None)
        assert not lane.is_down
        clock.now += 3
        lane.start()
        lane.end(500, None)

        assert lane.is_down  # nothing else came in the meantime

    def test_what_is_refused_is_answered(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        for status in (200, *[400] * 20):
            lane.start()
            lane.end(status, None)

        assert not lane.is_down

    def test_one_that_is_busy_when_it_is_asked_again_is_there(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        for status in (200, *[0] * 5):
            lane.start()
            lane.end(status, None)
        assert lane.is_down
        clock.now += lane.ready_in() or 0
        lane.end(429, 2, is_probe=lane.start())

        assert not lane.is_down
        assert lane.ready_in() == 2

    def test_who_dies_says_nothing_about_the_endpoint(self, clock: Clock) -> None:
        lane = Lane(Limits(8), patience=30, clock=clock)
        for status in (200, *[None] * 20):
            lane.start()
            lane.end(status, None)

        assert not lane.is_down
        assert lane.in_flight == 0


def test_the_limits_of_an_endpoint_are_of_all_that_call_it() -> None:
    fast = ModelSpec("a", "a", f"{URL}/", concurrency=5)
    slow = ModelSpec("b", "b", URL, rate_limit=30)
    judge = JudgeSpec("j", "http://j/v1?api-version=1", nproc=3)
    dataset = DatasetSpec("d", "vlmeval", "d")
    spec = RunSpec((fast, slow), (dataset,), judge, concurrency=4, rate_limit=100)

    found = limits_of([Cell("1", fast, dataset), Cell("2", slow, dataset)], spec)

    assert found == {URL: Limits(5, 30), "http://j/v1": Limits(3, 100)}


@pytest.mark.parametrize(
    ("path", "wanted", "threads"),
    [
        ("/v1/chat/completions", 16, 18),
        ("/v1/", 64, 72),
        # The gate has more to give, to other models: one more would be one more call of this one.
        ("/v1/chat/completions", 15, 15),
        ("/another/v1", 16, 16),
    ],
)
def test_threads_get_ready_beside_those_that_call_only_where_the_gate_holds_them_back(
    path: str, wanted: int, threads: int
) -> None:
    gives = 16 if wanted < 64 else 64
    turns.begin({"gate": {"path": "", "endpoints": {URL: gives}}})
    try:
        assert turns.threads_for(f"http://h{path}", wanted) == threads
    finally:
        turns.begin({})


def _until(holds: Callable[[], object]) -> None:
    """Wait for what the gate's own thread does."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Caller:
    """A thread's connection."""

    def __init__(self, gate: Gate, rank: int = 0) -> None:
        self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(10)
        self.line.connect(gate.path)
        self.line.sendall(f"hello {rank} {URL}\n".encode())

    def want(self) -> None:
        self.line.sendall(b"want\n")

    def answer(self) -> str:
        return self.line.recv(100).decode().strip()

    def has_none(self) -> bool:
        self.line.settimeout(0.2)
        try:
            return not self.line.recv(100)
        except TimeoutError:
            return True
        finally:
            self.line.settimeout(10)

    def done(self, text: str = "200 - 5 7") -> None:
        self.line.sendall(f"done {text}\n".encode())


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_the_lower_rank_is_first(opened: contextlib.ExitStack) -> None:
    gate = opened.enter_context(Gate({URL: Limits(1)}).open())
    first, later, sooner = Caller(gate), Caller(gate, 5), Caller(gate, 1)
    first.want()
    assert first.answer() == "go"
    later.want()
    time.sleep(0.1)
    sooner.want()
    time.sleep(0.1)

    first.done()
    assert sooner.answer() == "go"
    assert later.has_none()
    sooner.done()
    assert later.answer() == "go"
    later.done()
    counts = gate.lanes[URL].counts
    _until(lambda: counts.tokens_out == 21)
    assert (counts.calls, counts.tokens_in, counts.tokens_out) == (3, 15, 21)
    assert gate.traffic().startswith("3 calls, ")


def test_who_dies_gives_its_turn_back(opened: contextlib.ExitStack) -> None:
    gate = opened.enter_context(Gate({URL: Limits(1)}).open())
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        caller = Caller(gate)
        caller.want()
        caller.answer()
        ready.set()
        time.sleep(60)

    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(10)
    waiting = Caller(gate)
    waiting.want()
    assert waiting.has_none()
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()

    assert waiting.answer() == "go"


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (Budget(calls=1), "max_requests of 1 reached"),
        (Budget(tokens=10), "max_tokens_total of 10 reached"),
    ],
)
def test_a_budget_stops_all(opened: contextlib.ExitStack, budget: Budget, why: str) -> None:
    gate = opened.enter_context(Gate({URL: Limits(1)}, budget).open())
    one, other = Caller(gate), Caller(gate)
    one.want()
    assert one.answer() == "go"
    other.want()
    time.sleep(0.1)
    one.done()

    assert other.answer() == f"stop {why}"
    one.want()
    assert one.answer() == f"stop {why}"
    assert gate.why_stopped == why


def test_who_waits_is_told_that_a_run_was_stopped(opened: contextlib.ExitStack) -> None:
    gate = opened.enter_context(Gate({URL: Limits(1)}).open())
    one, other = Caller(gate), Caller(gate)
    one.want()
    assert one.answer() == "go"
    other.want()
    time.sleep(0.1)
    gate.stop("enough")

    assert other.answer() == "stop enough"


def test_what_it_waits_for_is_said(opened: contextlib.ExitStack) -> None:
    said: list[str] = []
    gate = opened.enter_context(Gate({URL: Limits(8)}, Budget(), 0.3, said.append).open())
    caller = Caller(gate)
    for answer in ("200 - - -", *["0 - - -"] * 5):
        caller.want()
        assert caller.answer() == "go"
        caller.done(answer)
    _until(lambda: said)
    assert said == [
        f"{URL} does not answer (no connection, or none in time): its calls wait, 0.3 s at the most"
    ]
    while not gate.lanes[URL].given_up:
        caller.want()
        assert caller.answer() == "go"
        caller.done("0 - - -")
        time.sleep(0.05)

    _until(lambda: len(said) > 1)
    assert said[-1] == f"{URL} did not answer for 0.3 s: its calls fail from here on"


def test_it_opens_where_a_loop_is_under_way() -> None:
    """As on the thread of a notebook."""

    async def notebook() -> str:
        with Gate({URL: Limits(1)}).open() as gate:
            caller = Caller(gate)
            caller.want()
            return caller.answer()

    assert asyncio.run(notebook()) == "go"


def test_nothing_is_left_of_it() -> None:
    before = threading.active_count()
    with Gate({URL: Limits(1)}).open() as gate:
        place = Path(gate.path).parent
        assert place.stat().st_mode & 0o077 == 0  # nobody else's
    assert not place.exists()
    assert threading.active_count() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no such sockets")
def test_many_callers_never_have_more_turns_than_there_are(opened: contextlib.ExitStack) -> None:
    gate = opened.enter_context(Gate({URL: Limits(5)}).open())
    now, most, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal now, most
        caller = Caller(gate)
        for _ in range(20):
            caller.want()
            assert caller.answer() == "go"
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= 1
            caller.done()

    threads = [threading.Thread(target=call) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert most == 5
    assert gate.lanes[URL].counts.calls == 800
