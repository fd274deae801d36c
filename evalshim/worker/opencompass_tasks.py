"""What OpenCompass has to do for the cells of a job, and who does it: its tasks, and runners of
them.

The generated configuration names them. Written for opencompass 0.5.4.
"""

import os

from opencompass.partitioners import NaivePartitioner
from opencompass.registry import TASKS
from opencompass.runners.base import BaseRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask
from opencompass.utils import get_infer_output_path

from . import forks, opencompass_judge, phases, predictions, run_opencompass, turns
from .opencompass_models import EndpointModel

# As of VLMEvalKit's cells; the sets here are smaller.
_AT_ONCE = min(8, 2 * (os.cpu_count() or 1))


class InferTask(OpenICLInferTask):
    """Says how many samples it is about to ask."""

    def run(self, *args, **kwargs):
        if run_opencompass.tally.grades:
            opencompass_judge.refuse_unseen(self.dataset_cfgs[0][0])
        super().run(*args, **kwargs)

    def _inference(self):
        if not len(self.dataset.test):
            raise ValueError("limit takes none of its samples")
        if opencompass_judge.needs_judge(self.dataset_cfg):
            run_opencompass.tally.require_judge()
        run_opencompass.tally.expect(len(self.dataset.test))
        # Upstream's default is a folder in the working directory, made and not used.
        scratch = os.path.join(self.work_dir, "icl_inference_output")
        self.infer_cfg["inferencer"].setdefault("output_json_filepath", scratch)
        if not isinstance(self.model, EndpointModel):
            with phases.within("inference"):
                super()._inference()
            return
        path = get_infer_output_path(self.model_cfg, self.dataset_cfg, "predictions")
        path = os.path.join(self.work_dir, f"{path}.journal")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        abbr, size = self.dataset_cfg["abbr"], len(self.dataset.test)
        self.model.watch = watch = run_opencompass.tally.answers(abbr, path, size)
        with phases.within("inference"):
            super()._inference()
        # Before the answers' own journal goes: a kill may come while they are scored.
        run_opencompass.tally.keep(self, run_opencompass.tally.part(self))
        watch.done()
        lacking = f"{path.removesuffix('.journal')}.lacking"
        if os.path.exists(lacking):
            os.remove(lacking)


class EvalTask(OpenICLEvalTask):
    """Holds the indices of predictions made elsewhere against the samples of a set, which
    upstream (0.5.4) scores by their order."""

    def run(self):
        opencompass_judge.refuse_unseen(self.dataset_cfgs[0][0])
        with phases.within("scoring"):
            super().run()

    def _load_and_preprocess_test_data(self):
        samples = super()._load_and_preprocess_test_data()
        given = run_opencompass.tally.given.get((self.model_cfg["abbr"], self.dataset_cfg["abbr"]))
        if given is not None:
            predictions.match(given, [str(index) for index in range(len(samples))])
        return samples


def _names(config):
    return config["models"][0]["abbr"], config["datasets"][0][0]["abbr"]


class Partitioner(NaivePartitioner):
    """The tasks of this job's cells: not each model need have each set. Those of the evaluation
    are known to a runner of the inference."""

    scoring = {}  # noqa: RUF012 - by model and set, of the one run of a process
    scored = {}  # noqa: RUF012 - how those ended that are done

    def __call__(self, cfg):
        cells = run_opencompass.tally.cells
        tasks = [task for task in super().__call__(cfg) if _names(task) in cells]
        if os.path.basename(self.out_dir.rstrip("/")) == "results":
            self.scoring.update((_names(task), task) for task in tasks)
        return tasks


class ForkingRunner(BaseRunner):
    """Runs each task in a fork of this process, several at a time.

    Upstream's LocalRunner starts a process a task, each of which imports for 16 s; its debug
    mode stays in the process, but the first task that raises ends all.
    """

    def launch(self, tasks):
        found = {}
        numbered = list(enumerate(tasks))
        if self._stage == "eval":
            known = {n: Partitioner.scored.get(_names(config)) for n, config in numbered}
            found = {number: scored for number, scored in known.items() if scored}
        forks.each(
            [item for item in numbered if item[0] not in found],
            self._do,
            lambda item, value, died: found.update(self._ended(item, value, died)),
            _AT_ONCE,
            lambda item: run_opencompass.tally.cell_of(self._task(item[1])),
        )
        return [found[number] for number in range(len(tasks))]

    def _task(self, config):
        return TASKS.build({"cfg": config, "type": self.task_cfg["type"]})

    def _do(self, item):
        number, config = item
        turns.rank(number)
        tally, task = run_opencompass.tally, self._task(config)
        tally.begin_part(task)
        with tally.task(task, self._stage) as outcome:
            task.run()
        scored = None
        if self._stage == "infer" and not outcome["code"]:
            scored = self._score(config)
        return task.name, outcome["code"], scored, tally.part(task)

    def _score(self, config):
        """Score what was just answered: no set waits for the answers to all others."""
        later = Partitioner.scoring.get(_names(config))
        if later is None:
            return None
        with run_opencompass.tally.task(task := EvalTask(later), "eval") as outcome:
            task.run()
        return task.name, outcome["code"]

    def _ended(self, item, value, died):
        number, config = item
        task = self._task(config)
        if died:
            run_opencompass.tally.died(task, died)
            return {number: (task.name, 1)}
        name, code, scored, part = value
        run_opencompass.tally.keep(task, part)
        run_opencompass.tally.add(part)
        if scored:
            Partitioner.scored[_names(config)] = scored
        return {number: (name, code)}

    @property
    def _stage(self):
        return "infer" if "Infer" in self.task_cfg["type"] else "eval"


class InProcessRunner(ForkingRunner):
    """Runs tasks one after the other in this process: a local model goes on to the next set."""

    _model = _model_abbr = None

    def launch(self, tasks):
        return [self._launch(task) for task in tasks]

    def _launch(self, config):
        tally, task = run_opencompass.tally, self._task(config)
        with tally.task(task, self._stage) as outcome:
            if self._stage == "infer":
                # As in LocalRunner's debug mode.
                task.run(cur_model=self._model, cur_model_abbr=self._model_abbr)
                self._model, self._model_abbr = task.model, config["models"][0]["abbr"]
            else:
                task.run()
        if self._stage == "eval":
            tally.keep(task, tally.part(task))
        return task.name, outcome["code"]
