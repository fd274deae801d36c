"""Pieces of work in real forks: their order, their number, what they print and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.worker_package import AS_WORKER

# As `__main__` begins, with a job of our own instead of an upstream's.
_BEGIN = """
import signal, threading, time
from evalshim_worker import channel, forks
channel.claim_stdout()
channel.claim_stdin()
ended = []
def note(item, value, died):
    ended.append([item, value, died])
def each(items, do, at_once=2):
    forks.each(items, do, note, at_once, lambda item: f"cell{item}")
    channel.emit("ended", ended=ended)
"""


def _work(code: str) -> tuple[str, str]:
    """What reached stdout and stderr of a worker; its stdin stays open, as its parent is there."""
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", AS_WORKER + _BEGIN + code],
        stdin=reading,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def _run(code: str) -> tuple[list[dict[str, Any]], str]:
    """The events, and what reached stderr."""
    stdout, stderr = _work(code)
    return [json.loads(line) for line in stdout.splitlines() if line], stderr


def _ended(code: str) -> list[Any]:
    [event] = [e for e in _run(code)[0] if e["event"] == "ended"]
    return sorted(event["ended"])


def test_each_item_is_done_in_a_process_of_its_own_and_what_it_returns_comes_back() -> None:
    found = _ended("each(range(5), lambda item: [item * 2, os.getpid() != os.getppid()])")

    assert found == [[i, [i * 2, True], None] for i in range(5)]


def test_only_so_many_are_at_it_at_once_and_in_their_order() -> None:
    events, _ = _run(
        "def do(item):\n"
        "    channel.emit('began', item=item, at=time.time())\n"
        "    time.sleep(0.3)\n"
        "    channel.emit('left', item=item, at=time.time())\n"
        "each(range(6), do, at_once=2)\n"
    )
    spans = {kind: {e["item"]: e["at"] for e in events if e["event"] == kind}
             for kind in ("began", "left")}  # fmt: skip

    assert len(spans["began"]) == 6
    for item in range(2, 6):
        # It waited for one of those before it.
        assert sum(spans["left"][i] <= spans["began"][item] for i in range(item)) >= item - 1


def test_what_ends_one_leaves_the_others() -> None:
    found = _ended(
        "def do(item):\n"
        "    if item == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if item == 2: os._exit(7)\n"
        "    if item == 3: raise RuntimeError('no')\n"
        "    return item\n"
        "each(range(5), do)\n"
    )

    assert found == [
        [0, 0, None], [1, None, "signal 9"], [2, None, "exit code 7"], [3, None, "exit code 1"],
        [4, 4, None],
    ]  # fmt: skip


def test_a_large_value_comes_back_whole() -> None:
    assert _ended("each([1], lambda item: 'x' * 3_000_000)")[0][1] == "x" * 3_000_000


def test_a_child_of_a_child_does_not_hold_it() -> None:
    """A process of upstream's that outlives who started it still has the pipes."""
    code = (
        "def do(item):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(20); os._exit(0)\n"
        "    return item\n"
        "begun = time.monotonic()\n"
        "each([1], do)\n"
        "channel.emit('took', seconds=time.monotonic() - begun)\n"
        "os.killpg(0, 9) if os.getpgrp() == os.getpid() else None\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", AS_WORKER + _BEGIN + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert done.stdout
    lines = [line for line in done.stdout if line.strip()]
    done.wait(30)

    took = next(e for e in map(json.loads, lines) if e["event"] == "took")
    assert took["seconds"] < 15


def test_lines_of_several_children_go_whole_to_the_logs_of_their_cells() -> None:
    _, stderr = _run(
        "def do(item):\n"
        "    for i in range(200): print(f'{item}:' + 'x' * 200)\n"
        "    os.write(2, b'without an end')\n"
        "each([1, 2, 3], do, at_once=3)\n"
    )
    found: dict[str, list[str]] = {}
    cell = ""
    for line in stderr.split("\n"):
        if line.startswith("\x1e"):
            cell = line[1:]
        elif line:
            found.setdefault(cell, []).append(line)

    for item in (1, 2, 3):
        lines = found[f"cell{item}"]
        assert lines == [*[f"{item}:" + "x" * 200] * 200, "without an end"]


def test_events_of_several_children_do_not_mix() -> None:
    events, _ = _run(
        "def do(item):\n"
        "    def some():\n"
        "        for i in range(30): channel.emit('big', item=item, text='y' * 9000)\n"
        "    threads = [threading.Thread(target=some) for _ in range(3)]\n"
        "    [t.start() for t in threads]; [t.join() for t in threads]\n"
        "each(range(4), do, at_once=4)\n"
    )

    big = [e for e in events if e["event"] == "big"]
    assert len(big) == 4 * 3 * 30
    assert {len(e["text"]) for e in big} == {9000}


def test_half_an_event_of_one_that_was_killed_costs_no_other() -> None:
    code = (
        "def do(item):\n"
        "    if item == 0:\n"
        '        os.write(channel._events, b\'{"event": "half\')\n'
        "        os.kill(os.getpid(), 9)\n"
        "    channel.emit('whole', item=item)\n"
        "each(range(2), do, at_once=1)\n"
    )
    stdout, _ = _work(code)

    assert '{"event": "half\n' in stdout
    assert '\n{"event": "whole", "item": 1}\n' in stdout
