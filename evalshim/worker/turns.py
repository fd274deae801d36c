"""A turn for each call of an endpoint: all processes of a run share what it gets at a time.

The other end, and the protocol, is evalshim/gate.py.
"""

import contextlib
import os
import re
import socket
import threading

from . import channel

_USAGE = re.compile(r'"(prompt|completion)_tokens" ?: ?(\d+)')
_MODEL = re.compile(r'"model" ?: ?"([^"\\]+)"')

_local = threading.local()
_gate = None  # where it listens
_endpoints = {}  # those that it knows: how many calls each gets at a time
_rank = 0
_models = {}  # by endpoint, the id by which it answered last


class Stopped(BaseException):
    """No further call is to start. Passes the loops of upstream that try again after any
    Exception."""


class Outcome:
    """How a call ended, for who gives the turns.

    Attributes:
        status: Of the HTTP answer; 0 where none came.
        after: Seconds of its `Retry-After`.
    """

    def __init__(self, endpoint):
        self._endpoint = endpoint
        self.status, self.after, self.tokens = 0, "-", {}

    def learn(self, status, headers, text):
        self.status = status
        with contextlib.suppress(TypeError, ValueError):
            self.after = max(0.0, float(headers.get("Retry-After")))
        # Not parsed: a long answer costs more than it is worth here.
        self.tokens = dict(_USAGE.findall(text[-2000:] if len(text) > 4000 else text))
        if status == 200 and (named := _MODEL.search(text, 0, 2000)):
            self.answered_by(named[1])

    def answered_by(self, model):
        """Say when an endpoint answers by another model than before."""
        before = _models.setdefault(self._endpoint, model)
        if before != model:
            _models[self._endpoint] = model
            text = f"{self._endpoint} answered as {before} and then as {model}"
            channel.emit("notice", message=channel.redact(text))

    def __str__(self):
        tokens = " ".join(self.tokens.get(kind, "-") for kind in ("prompt", "completion"))
        return f"done {self.status} {self.after} {tokens}\n"


def begin(job):
    """Learn of the gate of a job, if it has one."""
    global _gate, _endpoints
    gate = job.get("gate") or {}
    _gate, _endpoints = gate.get("path"), gate.get("endpoints", {})


def scratch():
    """A folder that the run takes away at its end; None where nobody does."""
    return os.path.dirname(_gate) if _gate else None


def rank(number):
    """The calls of this process are before those of one with a higher number."""
    global _rank
    _rank = number


def endpoint_of(url):
    """The endpoint at an address of a call, as the gate knows it; None where it does not."""
    base = url.partition("?")[0].rstrip("/")
    for tail in ("", "/chat/completions", "/completions"):
        if base.endswith(tail) and base.removesuffix(tail).rstrip("/") in _endpoints:
            return base.removesuffix(tail).rstrip("/")
    return None


def threads_for(url, wanted):
    """How many threads keep `wanted` calls to `url` in flight: where the gate has no more to give
    than these, some beside them that get ready for the next turn."""
    known = _endpoints.get(endpoint_of(url)) if url else None
    return wanted + max(2, wanted // 8) if known and known <= wanted else wanted


@contextlib.contextmanager
def turn(url):
    """Wait for a turn to call `url`, and have it for as long as the block lasts.

    Raises:
        Stopped: There will be none.
    """
    endpoint = endpoint_of(url)
    outcome = Outcome(endpoint)
    if endpoint is None:
        yield outcome
        return
    line = _line_to(endpoint)
    line.sendall(b"want\n")
    answer = _answer(line)
    if answer != "go":
        raise Stopped(answer.partition(" ")[2] or "the run is over")
    try:
        yield outcome
    finally:
        line.sendall(str(outcome).encode())


def _line_to(endpoint):
    lines = _local.__dict__.setdefault("lines", {})
    if endpoint not in lines:
        line = lines[endpoint] = socket.socket(socket.AF_UNIX)
        line.connect(_gate)
        line.sendall(f"hello {_rank} {endpoint}\n".encode())
    return lines[endpoint]


def _answer(line):
    text = b""
    while not text.endswith(b"\n"):
        data = line.recv(4096)
        if not data:
            return ""
        text += data
    return text.decode().strip()
