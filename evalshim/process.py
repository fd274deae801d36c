"""The only caller of `subprocess`: argument lists, environments, workers, redaction.

Knows how a process is started, watched and ended; not what it computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evalshim import redaction
from evalshim.errors import SetupError
from evalshim.redaction import redact as redact
from evalshim.spec import Event

# Files that a process of ours may have open, where the system lets it.
_FILES = 8192
WORKER = Path(__file__).parent / "worker" / "__main__.py"

# Would let packages of the calling environment into a managed one, or keep that one
# from writing the bytecode that halves the time its upstream takes to import.
_FOREIGN = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
    "PYTHONDONTWRITEBYTECODE",
)


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None
) -> str:
    """Run a command to its end.

    Returns:
        Its stdout.

    Raises:
        SetupError: It cannot be started, takes longer than `timeout` seconds, or
            ends with another code than 0; the end of its stderr is in the message.
    """
    shown = shlex.join(argv)
    try:
        done = subprocess.run(
            argv,
            env=env,
            timeout=timeout,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise SetupError(f"cannot run {argv[0]}", str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"no end after {timeout:g} s: {shown}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise SetupError(f"failed ({describe_exit(done.returncode)}): {shown}", tail)
    return done.stdout


def environment_of(managed: bool) -> dict[str, str]:
    """The environment of a worker: ours, isolated where we made its interpreter's."""
    return isolated_environment() if managed else dict(os.environ)


def isolated_environment() -> dict[str, str]:
    """Our environment without what would leak packages into another interpreter."""
    return {k: v for k, v in os.environ.items() if k not in _FOREIGN}


def describe_exit(code: int) -> str:
    """`exit code 3`, or `signal SIGKILL` for a process that was killed."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


Spawned = subprocess.Popen[bytes]


def spawn(python: str, env: Mapping[str, str], importing: str = "") -> Spawned:
    """A worker process that waits for its job; meanwhile it imports the upstream `importing`.

    Raises:
        SetupError: It cannot be started.
    """
    argv = [python, str(WORKER)]
    _allow_many_files()
    try:
        # A session of its own: a Ctrl-C on the terminal is the parent's to handle.
        process = subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SetupError(f"cannot run {python}", str(error)) from error
    if importing:
        _send(process, {"import": importing})
    return process


def _allow_many_files() -> None:
    """Each call under way holds files, here and in its worker: more of them than the 256 that
    macOS starts a process with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _send(process: Spawned, document: Mapping[str, Any]) -> None:
    assert process.stdin
    line = json.dumps(document).encode() + b"\n"
    # One that died at once has closed the pipe; its exit code tells the rest.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.flush()


def kill(process: Spawned) -> None:
    """End a worker process and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Exit:
    """How a worker ended. `clean` is false where it died before its last event."""

    code: int
    clean: bool


class Worker:
    """A worker process: a job in, events out, what upstream prints to log files.

    See `worker/__main__.py` for the contract.

    Args:
        spawned: A process that waits for the job, of this `python` and `env`; default: a new one.
    """

    def __init__(
        self,
        python: str,
        job: Mapping[str, Any],
        env: Mapping[str, str],
        logs: Logs,
        on_event: Callable[[Event], None],
        spawned: Spawned | None = None,
    ) -> None:
        self._python = python
        self._spawned = spawned
        self._job = job
        self._env = dict(env)
        self._logs = logs
        self._on_event = on_event
        self._process: Spawned | None = None
        self._stopped = self._gone = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def run(self) -> Exit:
        """Start the worker and return when it has ended; events come on this thread.

        Raises:
            SetupError: It cannot be started.
        """
        secrets = self._logs.secrets
        hidden = {
            "hidden": redaction.pattern(secrets),
            "hidden_in_answers": redaction.pattern(redaction.unmistakable(secrets)),
        }
        job = {**self._job, **hidden}
        json.dumps(job)  # before there is a process that would wait for it
        with self._lock:
            if self._stopped:
                if self._spawned:
                    kill(self._spawned)
                    self._spawned.communicate()
                return Exit(-signal.SIGKILL, False)
            self._process = process = self._spawned or spawn(self._python, self._env)
        assert process.stdin and process.stdout and process.stderr
        threading.Thread(target=self._reap, daemon=True).start()
        pump = threading.Thread(target=self._logs.pump, args=(process.stderr,), daemon=True)
        pump.start()
        _send(process, job)
        clean = False
        for line in process.stdout:
            event = _event(line, self._logs.secrets)
            if event is None:
                continue
            clean = event.kind == "done"
            if not clean:
                self._on_event(event)
        code = process.wait()
        pump.join(timeout=5)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return Exit(code, clean and code == 0)

    def _reap(self) -> None:
        """Once the worker is gone, its children go too: they hold the pipes we read from."""
        assert self._process
        self._process.wait()
        kill(self._process)
        with self._lock:
            self._gone = True

    def stop(self) -> None:
        """End the worker and whatever it started, or keep it from starting; from any thread."""
        with self._lock:
            self._stopped = True
            if self._process and not self._gone:  # else its number may be somebody else's
                kill(self._process)


class Logs:
    """The log files of one worker: one for the backend, one for each cell, without secrets.

    Args:
        folder: Where they go.
        name: File name of the backend's own log, without `.log`.
        secrets: Values that become `***`.
    """

    def __init__(self, folder: Path, name: str, secrets: Sequence[str] = ()) -> None:
        self._folder = folder
        self._name = name
        self.secrets = tuple(secrets)
        self._tail: dict[str, deque[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, cell: str | None = None) -> Path:
        return self._folder / (re.sub(r"[^\w.~-]", "-", cell or self._name) + ".log")

    def tail(self, cell: str | None = None) -> list[str]:
        """The last lines of a log, of the backend's own where the cell has none."""
        return list(self._tail.get(cell or "") or self._tail.get("") or ())

    def pump(self, stream: IO[bytes]) -> None:
        """Copy a worker's stderr to the files until it ends."""
        cell, file = "", self._open("")
        for raw in stream:
            # Upstream may have left a line without end, a progress bar say.
            line, mark, name = raw.rpartition(b"\x1e")
            text = name.decode(errors="replace").strip()
            if not mark or not re.fullmatch(r"[\w.~-]*", text):
                self._write(file, cell, raw)
                continue
            if line:
                self._write(file, cell, line)
            file.close()
            cell, file = text, self._open(text)
        file.close()

    def _open(self, cell: str) -> IO[bytes]:
        try:
            # Not through a link, which somebody may have put there.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            return os.fdopen(os.open(self.path(cell), flags, 0o666), "ab", buffering=0)
        except OSError:  # the disk is full, say; the worker must be read all the same
            return Path(os.devnull).open("wb", buffering=0)

    def _write(self, file: IO[bytes], cell: str, line: bytes) -> None:
        # latin-1 keeps every byte: a log may hold anything.
        line = redact(line.decode("latin-1"), self.secrets).encode("latin-1")
        # Even where the disk is full: a worker whose stderr nobody reads stands still.
        with contextlib.suppress(OSError):
            file.write(line if line.endswith(b"\n") else line + b"\n")
        text = line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]
        if text:
            self._tail.setdefault(cell, deque(maxlen=8)).append(text)


def _event(line: bytes, secrets: Sequence[str]) -> Event | None:
    try:
        data = json.loads(line)
        if redact(text := line.decode(), secrets) != text:
            data = redaction.redacted(data, secrets)
        return Event(data.pop("event"), data.pop("cell", None), data)
    # Half a line of a worker that was killed, or what is no event at all.
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
