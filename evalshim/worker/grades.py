"""Grades of an earlier try that hold no more: of samples that had no answer then, or no verdict.

Upstream (vlmeval 0.0.20) grades what its files of grades lack: some keep one a sample, and go on
from it, others keep all together, and grade nothing where that is there.
"""

import os
import re
import shutil

from . import pickles

_OF_INFERENCE = r"(?!.*_?(checkpoint|PREV)\.pkl)"
# What upstream notes of a sample whose judge said nothing that it could read: multiple choice
# (then it picks at random), short answers (0), and the sets that extract from long answers.
UNREAD = ("Failed to predict, thus", "Fail to Judge", "retries failed")


def of(eval_file):
    """The files in which upstream keeps the grades of some predictions; it names them after
    those, as it does what inference leaves, MEGABench otherwise."""
    folder, name = os.path.split(os.path.abspath(eval_file))
    stem = re.escape(os.path.splitext(name)[0])
    mine = re.compile(rf"{stem}_{_OF_INFERENCE}|megabench_(result|score)_")
    return sorted(entry.path for entry in os.scandir(folder) if mine.match(entry.name))


def unread(eval_file):
    """Indices of the samples, as texts, that upstream graded without having read a verdict."""
    return {
        str(key)
        for path in of(eval_file)
        for key, grade in _kept(path).items()
        if any(mark in str(grade) for mark in UNREAD)
    }


def forget(eval_file, samples, indices, groups):
    """Let upstream grade some samples again, and keep what it has of the others.

    Args:
        eval_file: The predictions.
        samples: Indices of theirs, or other words: those are of samples that nobody can name.
        indices: All of theirs.
        groups: By index, what a set that is graded by groups calls the one of a sample.
    """
    from vlmeval.smp import dump

    names = {*indices, *groups.values()}
    stale = {*samples, *(groups[sample] for sample in samples if sample in groups)}
    for path in of(eval_file):
        found = _kept(path)
        if not found or not names.issuperset({*samples, *map(str, found)}):
            remove(path)
        elif not stale.isdisjoint(map(str, found)):
            dump({key: value for key, value in found.items() if str(key) not in stale}, path)


def _kept(path):
    """The grades of a file by sample; none where it has them all together."""
    if not path.endswith(".pkl"):
        return {}
    try:
        with open(path, "rb") as file:
            found = pickles.load(file)
    except Exception:  # of something else than grades (pickles.Refused), or cut short
        return {}
    return found if isinstance(found, dict) else {}


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
