"""Kills a run at random moments and goes on with it until it is done; counts what that cost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conftest import SHIM

# Of a run's id and of upstream's own time stamps, which alone may differ between two runs.
_IDS = re.compile(r"\b20\d{6}[-_]\d{6}(-\d+)?\b")


@dataclass
class Toll:
    """What a run went through.

    Attributes:
        kills: How many there were, by whom they hit.
        tries: Commands that it took.
    """

    kills: dict[str, int] = field(default_factory=dict)
    tries: int = 0

    @property
    def n(self) -> int:
        return sum(self.kills.values())


def finish(
    folder: Path, path: Path, dice: random.Random, within: tuple[float, float], kills: int
) -> Toll:
    """Run the configuration at `path` in `folder` to its end, through `kills` kills at the most.

    Args:
        within: When a kill comes, in seconds from the start of a command.
    """
    toll = Toll()
    while True:
        toll.tries += 1
        begun = (folder / "outputs" / "latest" / "config.yaml").exists()
        words = ["resume"] if begun else ["run", str(path)]
        with _started(folder, words) as command:
            if toll.n < kills and _survives(command, dice.uniform(*within)):
                victim = _kill(command, dice)
                toll.kills[victim] = toll.kills.get(victim, 0) + 1
            command.wait(120)
        if command.returncode == 0:
            return toll
        assert toll.tries <= 4 * kills + 10, "it never ends"


@contextlib.contextmanager
def _started(folder: Path, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    log = (folder / "commands.log").open("ab")
    command = subprocess.Popen([SHIM, *words, "--no-preflight"], cwd=folder, stdout=log, stderr=log)
    with log:
        try:
            yield command
        finally:
            command.kill()
            command.wait()


def _survives(command: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a command is still at it after some time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(seconds)
        return False
    return True


def _kill(command: subprocess.Popen[bytes], dice: random.Random) -> str:
    """SIGKILL for the command, for a worker, for one of its forks, or for all of them."""
    workers = children(command.pid)
    forks = [fork for worker in workers for fork in children(worker)]
    who: dict[str, list[int]] = {"command": [command.pid], "all": [command.pid, *workers, *forks]}
    if workers:
        who["worker"] = [dice.choice(workers)]
    if forks:
        who["fork"] = [dice.choice(forks)]
    victim = dice.choice(sorted(who))
    for pid in who[victim]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return victim


def children(parent: int) -> list[int]:
    """The processes that `parent` started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def left_of(folder: Path) -> list[str]:
    """Command lines of processes that still work below `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def without_ids(path: Path) -> str:
    """The text of a result file, without what names a run or a moment."""
    return _IDS.sub("ID", path.read_text(encoding="utf-8"))


def wait_until(true: Any, seconds: float = 20) -> bool:
    """Whether `true()` becomes so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


def samples(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "outputs" / "latest" / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
