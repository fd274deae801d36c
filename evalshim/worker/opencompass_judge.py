"""The judge that grades for OpenCompass: put where upstream looks for one, and watched.

Written for opencompass 0.5.4.
"""

import contextlib
import copy
import os

from .grading import JudgeError


def install(tally):
    """Give upstream's evaluators the judge of the cell that they grade."""
    from opencompass.evaluator import CascadeEvaluator, GenericLLMEvaluator

    init, score = GenericLLMEvaluator.__init__, CascadeEvaluator.score

    def judged(self, prompt_template, judge_cfg=None, **kwargs):
        judge = tally.grading().judge
        if judge:
            judge_cfg = copy.deepcopy(judge["config"])
        elif not judge_cfg:
            raise tally.grading().error()
        init(self, prompt_template, judge_cfg, **kwargs)

    def scored(self, predictions, references, test_set=None):
        try:
            return score(self, predictions, references, test_set)
        except JudgeError:
            grading = tally.grading()
            if not grading.may_do_without:
                raise
            grading.without = True
            # Without the set upstream's rule grades alone.
            return score(self, predictions, references, None)

    GenericLLMEvaluator.__init__, CascadeEvaluator.score = judged, scored


def needs_judge(dataset):
    """Whether a set is graded by a judge that its own configuration does not name."""
    evaluator = dataset.get("eval_cfg", {}).get("evaluator", {})
    if _kind(evaluator) == "CascadeEvaluator":
        evaluator = evaluator.get("llm_evaluator", {})
    return _kind(evaluator) == "GenericLLMEvaluator" and not evaluator.get("judge_cfg")


def _kind(evaluator):
    kind = evaluator.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


@contextlib.contextmanager
def variables(judge):
    """The judge in the variables that some evaluators (HealthBench, ATLAS) read themselves."""
    given = dict(judge["variables"]) if judge else {}
    if judge and (key := os.environ.get(judge["key_env"])):
        given["OC_JUDGE_API_KEY"] = key
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
