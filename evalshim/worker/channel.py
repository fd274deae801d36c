"""How a worker speaks to its parent: events, log sections, and what its logs must not show."""

import contextlib
import fcntl
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
import traceback

# Set in the processes that only share the inference of another (`ranks`).
RANK = "EVALSHIM_RANK"

_lock = threading.Lock()
_events = None  # file descriptor
_turn = None  # a file that a process locks for as long as it writes an event
_parent = None  # the pipe that is closed when the parent is gone
_is_child = False
_last_progress = 0.0
_EVERY = 0.1  # seconds
# Patterns of what no log and no answer may show (evalshim/redaction.py).
_hidden = _hidden_in_answers = None
plugins = []  # files of the user's that were loaded


def claim_stdout():
    """Keep the real stdout for events; what upstream prints there joins stderr."""
    global _events, _turn
    _events, _turn = os.dup(1), tempfile.TemporaryFile()  # noqa: SIM115 - for good
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def claim_stdin():
    """Keep the pipe to the parent for ourselves; upstream and its children read nothing."""
    global _parent
    _parent = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _end_with_parent()


def _end_with_parent():
    threading.Thread(target=_wait_for_its_end, daemon=True).start()


def _wait_for_its_end():
    while os.read(_parent, 4096):
        pass
    with contextlib.suppress(OSError):
        # The parent made a group of this process; its forks are in it.
        if os.getsid(0) == os.getpgrp():
            os.killpg(0, 9)
    os._exit(1)


def begin_child():
    """In a fork, whose output is a pipe to this process: `forward` says whose it is."""
    global _lock, _is_child
    _lock, _is_child = threading.Lock(), True
    _end_with_parent()


def emit(kind, cell=None, **data):
    """Report an event; safe from any thread, and from any fork."""
    event = {"event": kind, **({"cell": cell} if cell else {}), **data}
    # The first end of line ends what a process that was killed left of its own.
    text = b"\n" + json.dumps(event, default=str).encode() + b"\n"
    with _lock:
        # A process that is killed lets go of it.
        fcntl.lockf(_turn, fcntl.LOCK_EX)
        try:
            _write(_events, text)
        finally:
            fcntl.lockf(_turn, fcntl.LOCK_UN)


def progress(cell, done, total, failed=0, part=None):
    """Report how many samples of a cell are done; ten times a second are enough.

    Args:
        failed: How many of them have no answer.
        part: Of the cell, where several processes do parts of it: those are added up.
    """
    global _last_progress
    now = time.monotonic()
    if done < total and now - _last_progress < _EVERY:
        return
    _last_progress = now
    of = {"part": part} if part else {}
    emit("progress", cell, done=done, total=total, failed=failed, **of)


def _write(pipe, data):
    while data:
        data = data[os.write(pipe, data) :]


def forward(cell, lines):
    """Hand on what a child printed."""
    _write(2, b"\x1e" + cell.encode() + b"\n" + lines + b"\x1e\n")


def emit_failed(cell, error):
    """Report a cell that ended with the exception `error`."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    name = type(error).__name__
    emit("failed", cell, type=name, message=message_of(error), traceback=redact(text))


def message_of(error):
    """What an exception that ended a cell says, for the user."""
    if isinstance(error, SystemExit) and not in_plugin(error):
        return f"sys.exit({error.code!r})"
    if in_plugin(error) or not str(error) or isinstance(error, AssertionError):
        return redact(said(error))
    return redact(str(error))


def by_text(of_samples):
    """Samples under the text that they share: `[[text, [index, ...]], ...]`."""
    found = {}
    for sample, text in of_samples.items():
        found.setdefault(text, []).append(str(sample))
    return [list(item) for item in found.items()]


def said(error):
    """What an exception says: its type, its words or else the line that raised it, its place
    in a plug-in."""
    place, words = in_plugin(error), str(error)
    if not words and error.__traceback__:
        words = traceback.extract_tb(error.__traceback__)[-1].line or ""
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"plug-in {place}: {text}" if place else text


def in_plugin(error):
    """The file and line of a plug-in in which `error` came up, if it did in one."""
    files = {os.path.abspath(path) for path in plugins}
    while error is not None:
        if isinstance(error, SyntaxError) and os.path.abspath(error.filename or "") in files:
            return f"{os.path.basename(error.filename)}, line {error.lineno}"
        frames = traceback.extract_tb(error.__traceback__)
        for frame in reversed(frames):
            if os.path.abspath(frame.filename) in files:
                return f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        error = error.__cause__ or error.__context__
    return None


def section(cell=None):
    """What is printed from here on belongs to the log of `cell`."""
    if _is_child or os.environ.get(RANK):
        return  # its words are among those of another, who says where they belong
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, f"\x1e{cell or ''}\n".encode())


def hide(pattern, in_answers=None):
    """Keep what `pattern` finds out of every log record: upstream logs keys, to files of its
    own too.

    VLMEvalKit 0.0.20, OpenAIWrapper.__init__: `Using API Base: ...; API Key: ...`.
    """
    global _hidden, _hidden_in_answers
    if not pattern:
        return
    _hidden = re.compile(pattern)
    _hidden_in_answers = re.compile(in_answers) if in_answers else None
    plain = logging.getLogRecordFactory()

    def redacted(*args, **kwargs):
        record = plain(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # a malformed call, which logging itself reports
            return record
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        return record

    logging.setLogRecordFactory(redacted)


def short(text, most=200):
    """`text` on one line and cut, which must not leave half of a key."""
    return " ".join(redact(text).split())[:most]


def without_keys(answer):
    """An answer as upstream may write it down: an endpoint may send back what it was sent."""
    hidden = _hidden_in_answers
    return hidden.sub("***", answer) if hidden and isinstance(answer, str) else answer


def redact(text):
    """`text` without what is hidden."""
    return _hidden.sub("***", text) if _hidden else text
