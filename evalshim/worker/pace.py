"""Upstream's pauses: none before a call, and short ones before it is tried again.

BaseAPI.generate (vlmeval 0.0.20) sleeps a random 0 to 0.5 s before every call, 0 to 6 s
behind every try that fails, the last one too, and knows nothing of `Retry-After`.
"""

import contextlib
import functools
import threading
import time

_LONGEST = 60  # of what an endpoint may ask for, in seconds

_local = threading.local()


def install():
    from vlmeval.api import base

    for name in ("generate", "chat"):
        setattr(base.BaseAPI, name, _paced(getattr(base.BaseAPI, name)))
    base.time = _Clock()


def heed(response):
    """Note how long an endpoint asks to be left alone."""
    _local.asked = 0
    if getattr(response, "status_code", 200) in (429, 503):
        with contextlib.suppress(TypeError, ValueError):
            _local.asked = min(float(response.headers.get("Retry-After")), _LONGEST)


def _paced(call):
    @functools.wraps(call)
    def paced(self, *args, **kwargs):
        _local.pauses, _local.tries, _local.asked = 0, self.retry, 0
        try:
            return call(self, *args, **kwargs)
        finally:
            _local.tries = None

    return paced


class _Clock:
    """The `time` of upstream's module."""

    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, seconds):
        tries = getattr(_local, "tries", None)
        if tries is None:
            time.sleep(seconds)
            return
        behind = _local.pauses
        _local.pauses += 1
        if 0 < behind < tries:
            # As long as upstream's at the most, and longer from try to try.
            asked, _local.asked = _local.asked, 0
            time.sleep(asked or min(seconds, 0.5 * 2 ** (behind - 1)))
