"""Results as they come, one a line: what a kill leaves behind is whole, and writing is linear."""

import base64
import errno
import json
import os
import pickle
import threading

from . import pickles


class Journal:
    """A file of `key -> value`, to which each result is appended once.

    A value that JSON would give back otherwise (a tuple, a table) is kept as a pickle.
    """

    def __init__(self, path):
        self.path = path
        self._lock = threading.Lock()
        self._file = None

    def read(self):
        """What the file has; half a line at its end is the one that a kill cut short."""
        found = {}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                for line in file:
                    try:
                        key, value, pickled = json.loads(line)
                    except ValueError:
                        continue
                    found[key] = pickles.loads(base64.b64decode(value)) if pickled else value
        return found

    def add(self, key, value):
        key = key.item() if hasattr(key, "item") else key  # numpy's integers
        try:
            text = json.dumps([key, value, False])
            same = _is_plain(value)
        except (TypeError, ValueError):
            same = False
        if not same:
            data = base64.b64encode(pickle.dumps(value)).decode()
            text = json.dumps([key, data, True])
        with self._lock:
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until `remove`
                if self._file.tell():
                    self._file.write(b"\n")  # behind half a line
            # Whole, as other processes may add to the same file.
            line = f"{text}\n".encode()
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    def remove(self):
        with self._lock:
            if self._file:
                self._file.close()
            self._file = None
        if os.path.exists(self.path):
            os.remove(self.path)


def _is_plain(value):
    """Whether JSON gives `value` back as it is."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, bool, int, float)
