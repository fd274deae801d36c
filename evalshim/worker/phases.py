"""What a piece of work spent its time on, as spans of the clock: what ran beside it is known."""

import contextlib
import time

_spans = []


@contextlib.contextmanager
def within(name):
    """Time spent on `plan`, `inference` or `scoring`."""
    begun = time.time()
    try:
        yield
    finally:
        _spans.append([name, round(begun, 3), round(time.time(), 3)])


def spans():
    """Those of this process: `[[name, begun, ended], ...]`, seconds since 1970."""
    return list(_spans)


def begin():
    """Forget those of before: a fork begins."""
    _spans.clear()
