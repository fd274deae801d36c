"""How a worker speaks to its parent: events, log sections, and what its logs must not show."""

import json
import logging
import os
import sys
import threading
import traceback

# Set in the processes that only share the inference of another (`ranks`).
RANK = "EVALSHIM_RANK"

_lock = threading.Lock()
_events = None
_hidden = []


def claim_stdout():
    """Keep the real stdout for events; what upstream prints there joins stderr."""
    global _events
    _events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def emit(kind, cell=None, **data):
    """Report an event; safe from any thread."""
    event = {"event": kind, **({"cell": cell} if cell else {}), **data}
    with _lock:
        _events.write(json.dumps(event, default=str) + "\n")
        _events.flush()


def emit_failed(cell, error):
    """Report a cell that ended with the exception `error`."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    message = redact(str(error)) or type(error).__name__
    emit("failed", cell, type=type(error).__name__, message=message, traceback=redact(text))


def section(cell=None):
    """What is printed from here on belongs to the log of `cell`."""
    if os.environ.get(RANK):
        return  # its words are among those of rank 0, who says where they belong
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, f"\x1e{cell or ''}\n".encode())


def hide(values):
    """Keep `values` out of every log record: upstream logs keys, to files of its own too.

    VLMEvalKit 0.0.20, OpenAIWrapper.__init__: `Using API Base: ...; API Key: ...`.
    Values too short to be a secret (`EMPTY`) stay.
    """
    _hidden.extend(sorted((v for v in values if len(v) >= 8), key=len, reverse=True))
    if not _hidden:
        return
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


def redact(text):
    """`text` without the hidden values."""
    for value in _hidden:
        text = text.replace(value, "***")
    return text
