"""A run is held by one process at a time, and by none that is dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalshim import locks
from evalshim.errors import ConfigError

# Holds the run that it is given, starts a program that outlives it, and says so.
HOLDER = """
import subprocess, sys, pathlib
from evalshim import locks
with locks.held(pathlib.Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
    child.kill()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path` until its stdin closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    child = int(process.stdout.readline())
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 9)


def test_a_run_has_one_owner(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError) as refused, locks.held(tmp_path):
        pass

    assert refused.value.exit_code == 2
    assert str(tmp_path) in refused.value.what
    assert re.fullmatch(
        rf"process {holder.pid} on {re.escape(socket.gethostname())} "
        r"has it since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
        refused.value.why,
    )
    found = locks.owner(tmp_path)
    assert found and found.pid == holder.pid


def test_a_killed_owner_holds_nothing_though_what_it_started_lives(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()

    assert (tmp_path / ".lock").exists()
    assert locks.owner(tmp_path) is None
    with locks.held(tmp_path):
        found = locks.owner(tmp_path)
        assert found and found.pid == os.getpid()


def test_a_lock_of_another_host_that_nobody_holds_is_taken(tmp_path: Path) -> None:
    left = {"pid": 1, "host": "elsewhere", "started_at": "2026-01-01T00:00:00+00:00"}
    (tmp_path / ".lock").write_text(json.dumps(left))

    with locks.held(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["host"] == socket.gethostname()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1, "other": 2}'])
def test_an_owner_that_does_not_say_who_it_is(tmp_path: Path, text: str) -> None:
    with locks.held(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(ConfigError, match="is in use") as refused, locks.held(tmp_path):
            pass

    assert refused.value.why == "another process"


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot lock the run"), locks.held(tmp_path / "none"):
        pass
    assert locks.owner(tmp_path / "none") is None


def test_a_lock_is_never_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "theirs")

    with pytest.raises(ConfigError, match="cannot lock"), locks.held(tmp_path / "run"):
        pass
    assert (tmp_path / "theirs").read_text() == "keep"


def test_never_two_at_once_though_each_removes_its_file(tmp_path: Path) -> None:
    inside, most, entered = [0], [0], [0]

    def enter() -> None:
        for _ in range(50):
            try:
                with locks.held(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    entered[0] += 1
                    inside[0] -= 1
            except ConfigError:
                pass  # the others were quicker for a whole second

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1]
    assert entered[0] > 50


def test_what_is_shared_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.touch()

    def free() -> bool:
        with locks.unshared(path) as found:
            return found

    with locks.shared(path), locks.shared(path):
        assert not free()
    assert free()


def test_nothing_to_share(tmp_path: Path) -> None:
    with locks.shared(tmp_path / "none"), locks.unshared(tmp_path / "none") as free:
        assert free
