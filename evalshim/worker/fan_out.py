"""Upstream's fan-out over threads, without its cost.

`track_progress_rich` (vlmeval 0.0.20) rewrites the pickle of all results after each sample, so
that its cost grows with the square of the samples, and a kill in the middle of a write leaves
a file that no later run can load. Here each result goes to a journal, and into the pickle once.

`infer_data_api` builds every prompt, and with it unpacks every picture, before the first call.
Here a prompt is built when its call is due.
"""

import contextlib
import dis
import itertools
import os
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from . import turns, unpacking
from .journal import Journal

_local = threading.local()
# As many prompts at a time as there are processors: with more, all would be late.
_building = threading.BoundedSemaphore(os.cpu_count() or 1)
# Names that a method has which draws lots: those must fall in upstream's order.
_LOTS = {"random", "rd", "rng", "shuffle", "choice", "choices", "sample", "randint"}


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


def build_prompts_when_due():
    """Let `infer_data_api` hand over prompts that `_fan_out` builds."""
    from vlmeval import inference

    inference.infer_data_api = _with_prompts_built_when_due(inference.infer_data_api)


class _Due:
    """A prompt that is yet to be built."""

    __slots__ = ("args", "build", "is_built", "kwargs", "turn")

    def __init__(self, build, args, kwargs, turn):
        self.build, self.args, self.kwargs, self.turn = build, args, kwargs, turn
        self.is_built = False

    def built(self):
        unpacking.begin()
        with self.turn:
            prompt = self.build(*self.args, **self.kwargs)
        self.is_built = True
        return prompt


def _with_prompts_built_when_due(infer_data_api):
    def infer(model, work_dir, model_name, dataset, *args, **kwargs):
        owners = [o for o in (model, dataset) if hasattr(o, "build_prompt")]
        codes = [code for owner in owners for code in _codes(owner)]
        if any(_LOTS & {*code.co_names, *code.co_varnames} for code in codes):
            return infer_data_api(model, work_dir, model_name, dataset, *args, **kwargs)
        own = [vars(owner).get("build_prompt") for owner in owners]
        # OlympiadBench (0.0.20) keeps on the dataset what it then makes a prompt of.
        turn = threading.Lock() if any(map(_keeps_something, codes)) else _building
        due = []
        try:
            with unpacking.behind(model, dataset) as all_written:
                for owner in owners:
                    owner.build_prompt = _deferred(owner.build_prompt, due, turn)
                answers = infer_data_api(model, work_dir, model_name, dataset, *args, **kwargs)
                written = all_written and all_written()
            for prompt in due if all_written else ():
                # Of what was answered before a kill too: its picture may not be there.
                if not (written and prompt.is_built):
                    prompt.built()
            return answers
        finally:
            for owner, before in zip(owners, own, strict=True):
                vars(owner).pop("build_prompt", None)
                if before is not None:
                    owner.build_prompt = before

    return infer


def _deferred(build_prompt, due, turn):
    def deferred(*args, **kwargs):
        due.append(_Due(build_prompt, args, kwargs, turn))
        return due[-1]

    return deferred


def _codes(owner):
    methods = (vars(cls).get("build_prompt") for cls in type(owner).__mro__)
    return [method.__code__ for method in methods if hasattr(method, "__code__")]


def _keeps_something(code):
    return any(instruction.opname == "STORE_ATTR" for instruction in dis.get_instructions(code))


def journal_of(save):
    """The journal beside a file of results."""
    return Journal(f"{save}.journal")


def resolve(save):
    """Put what a run that was cut short had in its journal into upstream's file of results."""
    from vlmeval.smp import dump, load

    journal = journal_of(save)
    found = journal.read()
    if found:
        dump({**(load(str(save)) if os.path.exists(save) else {}), **found}, str(save))
    journal.remove()


def current():
    """The key of the sample that this thread is working on; None where it has none."""
    return getattr(_local, "key", None)


@contextlib.contextmanager
def working_on(key):
    """Name the sample that this thread is working on, unless it has one."""
    outer = current()
    _local.key = key if outer is None else outer
    try:
        yield
    finally:
        _local.key = outer


def _fan_out(func, tasks, nproc, save, keys):
    """What upstream's does; beyond it, `func.again(results, done)` names those to do again, and
    what calls `func.endpoint` is kept ready for it."""
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
                task = {k: v.built() if isinstance(v, _Due) else v for k, v in task.items()}
                results[position] = func(**task)
            elif isinstance(task, (tuple, list)):
                results[position] = func(*task)
            else:
                results[position] = func(task)
            if journal:
                journal.add(keys[position], results[position])
        finally:
            _local.key = None

    again = getattr(func, "again", None)
    threads = turns.threads_for(getattr(func, "endpoint", None), nproc)
    positions = range(len(tasks))
    while positions:
        _each(do, positions, threads)
        positions = again(results, positions) if again else ()
    if keys is not None:
        kept.update(zip(keys, results, strict=True))
    if save is not None:
        dump(kept, save)
        if journal:
            journal.remove()
    return results


def _each(do, positions, n_threads):
    """Do each position, `n_threads` at a time; the first exception ends it."""
    left, lock = iter(positions), threading.Lock()

    def some():
        while True:
            with lock:
                position = next(left, None)
            if position is None:
                return
            do(position)

    # A future a thread, not a sample: those of 100,000 samples weigh as much as their data.
    with ThreadPoolExecutor(max_workers=n_threads) as pool:
        threads = [pool.submit(some) for _ in itertools.islice(positions, n_threads)]
        done, _ = wait(threads, return_when=FIRST_EXCEPTION)
        if any(thread.exception() for thread in done):
            left = iter(())
        for thread in threads:
            thread.result()
