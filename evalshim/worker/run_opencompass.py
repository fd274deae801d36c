"""Evaluates cells with OpenCompass: one generated configuration, upstream's own `main`, once.

Job, beside what `__main__` says:
    config: the configuration file; its `cells` say which of upstream's datasets and
            summary groups belong to which of ours
    argv:   further flags of the `opencompass` command
    cells:  [{"id", "model": upstream's abbr, "dataset": key of the configuration's `cells`}]
`finished` adds: results and predictions {abbr: path}, groups, summary (path or null).
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from glob import glob

from . import channel, health

tally = None


def run(job):
    global tally
    begun = time.monotonic()
    from mmengine.config import Config
    from opencompass.cli.main import main

    health.announce("opencompass", begun)
    tally = _Tally(job["cells"], Config.fromfile(job["config"], format_python_code=False).cells)
    sys.argv = ["opencompass", job["config"], *job["argv"]]
    try:
        main()
    except Exception as error:
        channel.section()
        tally.fail_rest(error)
    tally.finish()


class _Tally:
    """Which cell each task of upstream's belongs to, and how the cells are doing."""

    def __init__(self, cells, parts):
        self.cells = {}
        for cell in cells:
            for abbr in parts[cell["dataset"]]["datasets"]:
                taken = self.cells.setdefault((cell["model"], abbr), cell["id"])
                if taken != cell["id"]:
                    raise ValueError(f"two datasets of this run are {abbr} to OpenCompass")
        self.parts = {c["id"]: parts[c["dataset"]] for c in cells}
        self.started = set()
        self.failed = {}
        self.done = dict.fromkeys(self.parts, 0)
        self.total = dict.fromkeys(self.parts, 0)
        self.current = None
        self.work_dir = None
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def task(self, task, stage):
        """Around a task: an exception is the failure of its cell, not of the run."""
        model, dataset = task.model_cfgs[0]["abbr"], task.dataset_cfgs[0][0]["abbr"]
        cell = self.current = self.cells[model, dataset]
        self.work_dir = os.path.abspath(task.work_dir)
        channel.section(cell)
        if cell not in self.started:
            self.started.add(cell)
            channel.emit("started", cell)
        outcome = {"code": 0}
        try:
            yield outcome
        except Exception as error:
            traceback.print_exc()
            outcome["code"] = 1
            # The first is the cause; an evaluation without predictions only follows.
            self.failed.setdefault(cell, {}).setdefault(dataset, error)
        channel.section()

    def expect(self, samples):
        self._count(self.total, samples)

    def tick(self):
        self._count(self.done, 1)

    def _count(self, counter, more):
        cell = self.current
        with self.lock:  # answers arrive on the model's threads
            counter[cell] += more
            channel.emit("progress", cell, done=self.done[cell], total=self.total[cell])

    def fail_rest(self, error):
        """`main` itself raised, behind the last task or before the first."""
        for cell, part in self.parts.items():
            whole = len(self._files("results", cell)) == len(part["datasets"])
            # Scored cells lack the summary only; that is where groups are averaged.
            if not whole or part["groups"]:
                self.failed.setdefault(cell, {}).setdefault("summary" if whole else "", error)

    def finish(self):
        summary = sorted(glob(os.path.join(self.work_dir or "", "summary", "*.csv")))
        for cell, part in self.parts.items():
            errors = self.failed.get(cell, {})
            if "" in errors or len(errors) == len(part["datasets"]):
                channel.emit_failed(cell, next(iter(errors.values())))
                continue
            channel.emit(
                "finished",
                cell,
                status="done",
                error=channel.redact(
                    "; ".join(f"{abbr}: {error}" for abbr, error in errors.items())
                ),
                files={"summary": summary[-1] if summary else None},
                results=self._files("results", cell),
                predictions=self._files("predictions", cell),
                groups=part["groups"],
            )

    def _files(self, kind, cell):
        """What upstream wrote of a kind for a cell, by the abbr of the set."""
        paths = {
            abbr: os.path.join(self.work_dir or "", kind, model, f"{abbr}.json")
            for (model, abbr), owner in self.cells.items()
            if owner == cell
        }
        return {abbr: path for abbr, path in paths.items() if os.path.exists(path)}
