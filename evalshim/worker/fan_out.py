"""Upstream's fan-out over threads, without its cost.

`track_progress_rich` (vlmeval 0.0.20) rewrites the pickle of all results after each sample, so
that its cost grows with the square of the samples, and a kill in the middle of a write leaves
a file that no later run can load. Here each result goes to a journal, and into the pickle once.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

from .journal import Journal

_local = threading.local()


def install():
    """Put ours in the place of upstream's, in whichever modules have it by name."""
    from vlmeval.utils import mp_util

    upstream = mp_util.track_progress_rich

    def fan_out(func, tasks=(), nproc=1, save=None, keys=None, use_process=False, **kwargs):
        if use_process or not callable(func):
            return upstream(func, tasks, nproc, save, keys, use_process, **kwargs)
        return _fan_out(func, list(tasks), nproc or mp_util.cpu_count(), save, keys)

    for name, module in list(sys.modules.items()):
        own = vars(module) if name.startswith("vlmeval") else {}
        if own.get("track_progress_rich") is upstream:
            module.track_progress_rich = fan_out


def journal_of(save):
    """The journal beside a file of results."""
    return Journal(f"{save}.journal")


def resolve(save):
    """Put what a run that was cut short had in its journal into upstream's file of results."""
    from vlmeval.smp import dump, load

    journal = journal_of(save)
    dump({**(load(str(save)) if os.path.exists(save) else {}), **journal.read()}, str(save))
    journal.remove()


def current():
    """The key of the sample that this thread is working on; None where it has none."""
    return getattr(_local, "key", None)


def _fan_out(func, tasks, nproc, save, keys):
    """What upstream's does; beyond it, `func.again(results, done)` names those to do again."""
    from vlmeval.smp import dump, load

    if keys is not None and len(keys) != len(tasks):
        raise AssertionError("a key for each task")
    kept = {}
    if save is not None:
        assert os.path.exists(os.path.dirname(save) or "."), os.path.dirname(save)
        kept = load(save) if os.path.exists(save) else {}
    journal = journal_of(save) if save is not None and keys is not None else None
    results = [None] * len(tasks)

    def do(position):
        _local.key = keys[position] if keys is not None else position
        task = tasks[position]
        try:
            if isinstance(task, dict):
                return func(**task)
            return func(*task) if isinstance(task, (tuple, list)) else func(task)
        finally:
            _local.key = None

    again = getattr(func, "again", None)
    positions = range(len(tasks))
    while positions:
        _each(do, positions, nproc, results, keys, journal)
        positions = again(results, positions) if again else ()
    if keys is not None:
        kept.update(zip(keys, results, strict=True))
    if save is not None:
        dump(kept, save)
        if journal:
            journal.remove()
    return results


def _each(do, positions, nproc, results, keys, journal):
    with ThreadPoolExecutor(max_workers=nproc) as pool:
        futures = {pool.submit(do, position): position for position in positions}
        try:
            for future in as_completed(futures):
                position = futures[future]
                results[position] = future.result()
                if journal:
                    journal.add(keys[position], results[position])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
