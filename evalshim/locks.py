"""Locks on files, which end with the process that holds them, however that ends.

Advisory, and of the kernel (flock): a lock outlives no death of its owner, and no program
that a holder starts inherits it. The file of a run's lock says who holds it, for a message
alone; whether anybody does, the kernel knows. Knows nothing of what the locks are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from evalshim.errors import ConfigError

LOCK = ".lock"
# Who only looks whether a lock is held (`owner`) has it for a moment.
_TRIES, _PAUSE = 20, 0.05  # seconds


@dataclass(frozen=True)
class Owner:
    """Who holds a run; empty where its file does not say.

    Attributes:
        started_at: Since when, as ISO 8601.
    """

    pid: int | None = None
    host: str = ""
    started_at: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"process {self.pid} on {self.host} has it since {self.started_at}"


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Hold the run directory `run_dir`, for as long as something changes it.

    Where the file system has no locks nothing is held: a run is worth more than its lock.

    Raises:
        ConfigError: Somebody else holds it, or it is not there.
    """
    path = run_dir / LOCK
    file = _taken(run_dir)
    with file:
        owner = Owner(os.getpid(), socket.gethostname(), _now())
        with contextlib.suppress(OSError):  # a full disk: it is held all the same
            file.truncate(0)
            file.write(json.dumps(asdict(owner)) + "\n")
            file.flush()
        try:
            yield
        finally:
            # While it is held: who waits for this file sees that it is no longer the one.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def owner(run_dir: Path) -> Owner | None:
    """Who holds `run_dir`; None where nobody does."""
    try:
        file = (run_dir / LOCK).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # held; or there are no locks here, and its file must do
            return _read(file)
        return None


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Use what the file `path` belongs to, as others may at the same time.

    Where there is no such file, or no locks, nothing is held.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(path.open(encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def unshared(path: Path) -> Iterator[bool]:
    """Whether nobody uses what the file `path` belongs to, nor can within the block."""
    with contextlib.ExitStack() as stack:
        free = True
        with contextlib.suppress(FileNotFoundError):
            free = _lock(stack.enter_context(path.open("r+", encoding="utf-8")), fcntl.LOCK_EX)
        yield free


def _taken(run_dir: Path) -> IO[str]:
    path = run_dir / LOCK
    for _ in range(_TRIES):
        try:
            # Never through a link that somebody else has put there.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            file = os.fdopen(os.open(path, flags, 0o644), "r+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot lock the run {run_dir}", str(error)) from error
        try:
            free = _lock(file, fcntl.LOCK_EX)
            # Whoever had it may have removed the file in between.
            if free and _is_still(file, path):
                return file
            holder = _read(file) if not free else None
        except BaseException:
            file.close()
            raise
        file.close()
        if holder:
            time.sleep(_PAUSE)
    raise ConfigError(
        f"the run {run_dir} is in use",
        str(holder or Owner()),
        "wait until it has ended, or end that process",
    )


def _lock(file: IO[str], kind: int) -> bool:
    """Take a lock without waiting; false where another process has one in the way."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    return True


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _read(file: IO[str]) -> Owner:
    try:
        file.seek(0)
        return Owner(**json.loads(file.read(4096)))
    except (OSError, ValueError, TypeError):
        return Owner()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
