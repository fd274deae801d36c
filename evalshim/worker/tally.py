"""What is known of the cells of an OpenCompass run while its tasks are under way."""

import contextlib
import os
import threading
import traceback
from glob import escape, glob
from types import SimpleNamespace

from . import channel, opencompass_judge, phases, turns
from .answers import Answers, facts
from .grading import Grading, JudgeError
from .journal import Journal


def _pair(task):
    """The abbrs of the model and the set of a task."""
    return task.model_cfgs[0]["abbr"], task.dataset_cfgs[0][0]["abbr"]


def _plain(error):
    """An exception that can be handed on: its text, and whether a judge is what failed."""
    kind = JudgeError if isinstance(error, JudgeError) else RuntimeError
    return kind(channel.message_of(error))


class Tally:
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
        self.gradings = {}  # by model and set
        self.spans = {cell: [] for cell in self.parts}
        self.seen = {cell: {} for cell in self.parts}  # what was seen of its sets, by abbr
        self.started = set()
        self.failed = {}
        self.known = {}  # by model and set, answers of an earlier run that lacked some
        self.given = {}  # by model and set, predictions made elsewhere
        self.done = dict.fromkeys(self.parts, 0)
        self.total = dict.fromkeys(self.parts, 0)
        self.current = None  # model and set of the task under way
        self.parts_seen = None  # a journal of what was seen of each set
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
        return all(part["set"] in self._files(stage, part["cell"]) for stage in stages)

    def begin_part(self, task):
        """In a fork that does a task: what it sees is its own; that a judge is dead it knows."""
        phases.begin()
        self.part_name = "/".join(_pair(task))
        self.seen = {self.cell_of(task): {}}
        self.failed = {}
        self.gradings.pop(_pair(task), None)

    def part(self, task):
        """What is seen of the set of a task, for `add`."""
        cell, abbr = self.cell_of(task), _pair(task)[1]
        seen, error = self.seen[cell].get(abbr), self.failed.get(cell, {}).get(abbr)
        grading = self.gradings.get(_pair(task))
        return {
            "cell": cell,
            "set": abbr,
            "seen": {abbr: facts(seen)} if seen else {},
            "failed": {abbr: _plain(error)} if error else {},
            "grading": grading.facts() if grading else None,
            "spans": phases.spans(),
        }

    def add(self, part):
        """Take over what another process has seen."""
        cell, abbr = part["cell"], part["set"]
        for name, known in part["seen"].items():
            self.seen[cell][name] = SimpleNamespace(**known)
        for name, error in part["failed"].items():
            self.failed.setdefault(cell, {}).setdefault(name, error)
        if part["grading"]:
            grading = self.gradings[self.models[cell], abbr] = Grading(self.judges[cell])
            grading.add(part["grading"])
        self.spans[cell] += part["spans"]

    def keep(self, task, part):
        """Write down what is seen of a set: a later process goes on from it."""
        abbr, known = _pair(task)[1], self.seen[part["cell"]]
        if not part["seen"] and abbr in known:  # it graded what another had asked
            part = {**part, "seen": {abbr: facts(known[abbr])}}
        if not part["failed"]:
            self._journal().add("/".join(_pair(task)), {**part, "spans": []})

    def kept(self):
        """What was written down of the sets of this job, by model and set."""
        written = self._journal().read()
        found = {}
        for pair, cell in self.cells.items():
            part = written.get("/".join(pair))
            if part and part["cell"] == cell:
                # A line of an older version names its set in the key alone.
                found[pair] = {**part, "set": pair[1]}
        return found

    def _journal(self):
        if self.parts_seen is None:
            self.parts_seen = Journal(os.path.join(self.work_dir, "parts.jsonl"))
        return self.parts_seen

    def died(self, task, how):
        """The fork of a task did not come to its end."""
        error = RuntimeError(f"its process died ({how})")
        self.failed.setdefault(self.cell_of(task), {}).setdefault(_pair(task)[1], error)
        part = self.kept().get(_pair(task))
        if part and self.still_has(part):
            self.add(part)

    @contextlib.contextmanager
    def task(self, task, stage):
        """Around a task: an exception is the failure of its cell, not of the run."""
        self.current = _pair(task)
        cell, dataset = self.cell_of(task), self.current[1]
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
        """What grades the set of the task under way."""
        if self.current not in self.gradings:
            self.gradings[self.current] = self._grading_of(self.cells[self.current]).anew()
        return self.gradings[self.current]

    def _grading_of(self, cell):
        """What graded the sets of a cell, taken together."""
        found = Grading(self.judges[cell])
        for pair, grading in self.gradings.items():
            if self.cells[pair] == cell:
                found.add(grading.facts())
        return found

    def require_judge(self):
        """Raise before anything is asked where nobody could grade it."""
        if self.grades and self.judges[self.cells[self.current]] is None:
            raise self.grading().error(kept="")

    def answers(self, abbr, path, samples):
        """What is to see the answers to a set of the task under way."""
        cell = self.cells[self.current]
        known = self.known.get((self.models[cell], abbr))
        seen = Answers(path, samples, lambda more: self._count(cell, self.done, more), known)
        self.seen[cell][abbr] = seen
        return seen

    def judged(self, number):
        """What is to see the answers of a judge, the `number`-th of the set under way."""
        name = "/".join(self.current).replace("/", "_")
        folder = os.path.join(self.work_dir, "judge_journals")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{name}_{number}.journal")
        return Answers(path, keeps=opencompass_judge.may_be_verdict)

    def expect(self, samples):
        self._count(self.cells[self.current], self.total, samples)

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
            grading = self._grading_of(cell)
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
