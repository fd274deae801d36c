"""Pickles that may be somebody else's: of answers, and of nothing that runs.

A run goes on from files in a directory that others may write to, and a pickle can call whatever
it names. What upstream and the journal keep is text, numbers, containers, arrays and tables.
"""

import io
import os
import pickle

_ALLOWED = {
    "_codecs": {"encode"},
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "collections": {"Counter", "OrderedDict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "pandas": {"Timestamp"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas._libs.missing": {"NAType"},
    "pandas._libs.tslibs.timestamps": {"_unpickle_timestamp"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.multi": {"MultiIndex"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager", "SingleBlockManager"},
    "pandas.core.series": {"Series"},
}
_PLUGIN = "evalshim_plugin_"


class Refused(pickle.UnpicklingError):
    """A pickle names something that no answer is made of."""


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module.startswith(_PLUGIN) and "." not in name:
            found = super().find_class(module, name)
            # A class of the user's own, not what its file imported.
            if isinstance(found, type) and found.__module__ == module:
                return found
        file = getattr(self, "place", "")
        raise Refused(f"{file or 'a pickle'} is not loaded: it names {module}.{name}, no answer's")


def load(file):
    """What the pickle in an open file holds.

    Raises:
        Refused: It names what no answer is made of; nothing of it was called.
    """
    reader = _Plain(file)
    reader.place = str(getattr(file, "name", ""))
    return reader.load()


def loads(data):
    return load(io.BytesIO(data))


def install(folders):
    """Let VLMEvalKit's `load` (vlmeval/smp/file.py, 0.0.20), which unpickles whatever it is
    given, read what lies below `folders` with care. Its own data is its own."""
    from vlmeval.smp import file as upstream

    own = [os.path.realpath(folder) + os.sep for folder in folders]

    class Pickle:
        """The `pickle` of upstream's module."""

        def __getattr__(self, name):
            return getattr(pickle, name)

        @staticmethod
        def load(file, **kwargs):
            place = os.path.realpath(str(file.name))
            mine = any(place.startswith(folder) for folder in own)
            return load(file) if mine else pickle.load(file, **kwargs)

    upstream.pickle = Pickle()
