"""What OpenCompass goes on from: what this run has already, an earlier run, another program.

Written for opencompass 0.5.4.
"""

import contextlib
import json
import os
import re
import shutil
from glob import escape, glob

from . import predictions


def go_on(job, tally):
    """Look through what this run has already: upstream takes a file that is there for whole.

    Returns:
        Whether there is anything.
    """
    if not job.get("stamp"):
        return False
    folder = tally.work_dir = os.path.join(job["arguments"]["work_dir"], job["stamp"])
    for kind in ("predictions", "results"):
        for path in glob(os.path.join(escape(folder), kind, "**", "*.json"), recursive=True):
            if not _is_json(path):
                os.remove(path)
    for model, abbr in tally.cells:
        if job["arguments"].get("mode") != "eval":
            _ask_again(tally, model, abbr, os.path.join(folder, "predictions"))
    for (model, abbr), part in tally.kept().items():
        grading = part["grading"]
        if grading and (grading["ungraded"] or grading["without"]):
            # Graded anew; the judge's own journal has what it said.
            _remove(os.path.join(folder, "results", model, f"{abbr}.json"))
            part = {**part, "grading": None}
        if tally.still_has(part):
            tally.add(part)
    return True


def _ask_again(tally, model, abbr, folder):
    """Have a set asked again for what got no answer."""
    path = os.path.join(folder, model, f"{abbr}.json")
    aside = f"{path}.lacking"
    if (answers := _read(path)) is not None and not _is_whole(answers):
        # Aside until the set is answered anew: a kill must not cost what is there.
        os.replace(path, aside)
        _remove(os.path.join(os.path.dirname(folder), "results", model, f"{abbr}.json"))
    if (answers := _read(aside)) is not None:
        tally.know(model, abbr, answers)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _is_json(path):
    """Whether a kill did not cut a file short."""
    try:
        with open(path, encoding="utf-8") as file:
            json.load(file)
    except ValueError:
        return False
    return True


def _read(path):
    """The mapping in a JSON file; None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_whole(answers):
    return all(isinstance(a, dict) and a.get("prediction") for a in answers.values())


def copy_earlier(job, parts, stamp, tally):
    """Put the predictions of an earlier run where upstream goes on from them.

    Returns:
        Whether there are any.
    """
    found = False
    for cell in job["cells"]:
        earlier, suffix = cell.get("reuse"), cell["suffix"]
        for abbr in parts[cell["dataset"]]["datasets"] if earlier else ():
            # There it may have been the first of its name, or not.
            names = (abbr, abbr.removesuffix(suffix), abbr + suffix)
            there = next((name for name in names if name in earlier["sets"]), None)
            if there:
                place = os.path.join(job["arguments"]["work_dir"], stamp)
                found |= _copy(earlier["folder"], there, place, abbr, cell, job, tally)
    return found


def _copy(earlier, there, place, abbr, cell, job, tally):
    """Copy upstream's own files of a set: whole, begun (tmp_), or divided (_0, _1, ...)."""
    found = False
    folder, name = os.path.split(os.path.join(earlier, "predictions", cell["model"], there))
    target, own = os.path.split(os.path.join(place, "predictions", cell["model"], abbr))
    mine = re.compile(rf"(tmp_)?{re.escape(name)}(_\d+)?(\.json(l|\.journal|\.lacking)?)")
    for path in sorted(glob(os.path.join(escape(folder), "*"))):
        match = mine.fullmatch(os.path.basename(path))
        if not match or os.path.islink(path):  # which may lead out of the run
            continue
        begun, number, kind, _ = match.groups(default="")
        if kind == ".json.lacking":
            if job["arguments"].get("mode") != "eval":
                tally.know(cell["model"], abbr, _read(path) or {})
                continue
            kind = ".json"  # all that there is to score
        elif kind == ".json" and not begun + number:
            if _lacks_answers(job, cell, abbr, path, tally):
                continue
        new = os.path.join(target, f"{begun}{own}{number}{kind}")
        os.makedirs(target, exist_ok=True)
        if not os.path.exists(new):
            shutil.copyfile(path, f"{new}.copy")
            os.replace(f"{new}.copy", new)
        found = True
    return found


def write_owners(path, owners):
    """Keep which dataset of ours each abbr is of, by which a later run finds its answers."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(owners, file)
    os.replace(f"{path}.new", path)


def _lacks_answers(job, cell, abbr, path, tally):
    """Whether a set of an earlier run is to be asked again for what got no answer."""
    answers = _read(path)
    if answers is not None and (job["arguments"].get("mode") == "eval" or _is_whole(answers)):
        return False
    tally.know(cell["model"], abbr, answers or {})
    return True


def from_elsewhere(job, parts, stamp, tally):
    """Write predictions made elsewhere as upstream's inferencer (0.5.4) would have.

    Returns:
        Whether there are any.
    """
    found = False
    for cell in job["cells"]:
        own, given = parts[cell["dataset"]]["datasets"], cell.get("predictions")
        for abbr in own if given else ():
            path = given.get(abbr) or (given.get("") if len(own) == 1 else None)
            if path is None:
                error = ValueError(f"no predictions of {cell['model']} for {abbr}")
                tally.failed.setdefault(cell["id"], {})[abbr] = error
                continue
            place = os.path.join(
                job["arguments"]["work_dir"], stamp, "predictions", cell["model"], f"{abbr}.json"
            )
            os.makedirs(os.path.dirname(place), exist_ok=True)
            read = tally.given[cell["model"], abbr] = predictions.read(path)
            with open(place, "w", encoding="utf-8") as file:
                json.dump({i: {"prediction": p} for i, p in read.items()}, file, ensure_ascii=False)
            found = True
    return found
