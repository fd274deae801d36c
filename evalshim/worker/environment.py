"""Environment variables that hold for a while."""

import contextlib
import os


@contextlib.contextmanager
def variables(values):
    """Environment variables for as long as the block lasts; None for one that is not to be."""
    before = {name: os.environ.get(name) for name in values}
    _put(values)
    try:
        yield
    finally:
        _put(before)


def _put(values):
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
