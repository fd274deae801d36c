"""Upstream's files, written beside their place and moved over it: never half of one."""

import os
import sys
import threading


def write_whole():
    """`dump` (vlmeval 0.0.20, smp/file.py) writes in place: what a kill cuts short is taken for
    whole by the next run, or cannot be read."""
    from vlmeval.smp import file

    upstream = file.dump

    def dump(data, f, **kwargs):
        folder, name = os.path.split(str(f))
        beside = os.path.join(folder, f".{os.getpid()}-{threading.get_ident()}-{name}")
        try:
            result = upstream(data, beside, **kwargs)
            for here, there in ((beside, str(f)), (_pickled(beside), _pickled(str(f)))):
                if os.path.exists(here):  # upstream pickles what its format cannot hold
                    os.replace(here, there)
            return result
        finally:
            for left in (beside, _pickled(beside)):
                if os.path.exists(left):
                    os.remove(left)

    for name, module in list(sys.modules.items()):
        if name.startswith("vlmeval") and vars(module).get("dump") is upstream:
            module.dump = dump


def _pickled(path):
    return f"{path.rpartition('.')[0]}.pkl"
