"""Pieces of work in forks of this process, several at a time.

A fork has everything imported, and what it changes of upstream, of the environment or of its
own memory ends with it; so does what ends it.
"""

import contextlib
import gc
import os
import pickle
import selectors
import sys
import traceback

from . import channel

_CHUNK = 1 << 16
# A process of upstream's may hold a pipe open behind the child that started it.
_LOOK_EVERY = 0.2


def each(items, do, ended, at_once, cell_of):
    """Do each item in a child, in their order, `at_once` at a time.

    Args:
        do: Called in the child with the item.
        ended: Called here with the item, what `do` returned, and how the child ended where it
            did not come to that (`signal 11`; else None).
        cell_of: The cell of an item: its log gets what the child prints.
    """
    left, running = list(items), []
    gc.freeze()  # what the children only read stays shared with them
    with selectors.DefaultSelector() as pipes:
        while left or running:
            while left and len(running) < at_once:
                child = _Child(left[0], do, cell_of(left.pop(0)))
                running.append(child)
                for pipe in child.open:
                    pipes.register(pipe, selectors.EVENT_READ, child)
            for key, _ in pipes.select(_LOOK_EVERY):
                if key.data.read(key.fd) == b"":
                    pipes.unregister(key.fd)
            for child in [child for child in running if child.has_ended()]:
                running.remove(child)
                for pipe in child.open & set(pipes.get_map()):
                    pipes.unregister(pipe)
                ended(child.item, *child.outcome())


class _Child:
    """A child, the pipe of what it prints and that of what it returns."""

    def __init__(self, item, do, cell):
        self.item, self.cell = item, cell
        self._log, log = os.pipe()
        self._result, result = os.pipe()
        self._printed, self._returned = b"", []
        self._status = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _work(do, item, log, result)
        os.close(log)
        os.close(result)
        self.open = {self._log, self._result}
        for pipe in self.open:
            os.set_blocking(pipe, False)

    def read(self, pipe):
        """Take what a pipe has; empty at its end, None where it has nothing yet."""
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return None
        if pipe == self._result:
            self._returned.append(data)
        else:
            self._print(data)
        return data

    def _print(self, data):
        # Whole lines alone, for several children print at a time.
        *lines, self._printed = (self._printed + data).split(b"\n")
        if not data and self._printed:
            lines, self._printed = [self._printed], b""
        if lines:
            channel.forward(self.cell, b"\n".join([*lines, b""]))

    def has_ended(self):
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def outcome(self):
        """What `do` returned, and how the child died if it did."""
        for pipe in self.open:
            while self.read(pipe):
                pass
            os.close(pipe)
        self._print(b"")
        code = os.waitstatus_to_exitcode(self._status)
        if code:
            return None, f"signal {-code}" if code < 0 else f"exit code {code}"
        return pickle.loads(b"".join(self._returned)), None


def _work(do, item, log, result):
    """What a child does; it never returns."""
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        channel.begin_child()
        with os.fdopen(result, "wb") as file:
            file.write(pickle.dumps(do(item)))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Neither the parent's clean-up nor the threads that are still at it.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
