"""The judge that grades for OpenCompass: put where upstream looks for one, and watched.

Written for opencompass 0.5.4.
"""

import contextlib
import copy
import os
from types import SimpleNamespace

from . import channel, transport
from .grading import JudgeError

# Evaluators that take the judge of the environment where their configuration names none.
_WITH_DEFAULT = ("GenericLLMEvaluator", "ATLASLLMEvaluator")


class _Ended(BaseException):
    """Passes what ends an evaluation by a loop that tries again after any Exception."""


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
        tally.grading().built = True  # be it the one that the set's own configuration names
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
    with contextlib.suppress(ImportError):
        from opencompass.datasets.atlas.evaluation import ATLASLLMEvaluator

        ATLASLLMEvaluator.default_judge_cfg = property(lambda _: _config(tally.grading()))
    with contextlib.suppress(ImportError):
        from opencompass.datasets.healthbench.sampler import chat_completion_sampler

        _watch_client(chat_completion_sampler.ChatCompletionSampler, tally)


def _config(grading):
    if grading.judge is None:
        raise grading.error()
    return copy.deepcopy(grading.judge["config"])


def _watch_client(sampler, tally):
    """Watch HealthBench's own client, which asks a dead judge for ever."""
    init, call = sampler.__init__, sampler.__call__

    def built(self, *args, **kwargs):
        grading = tally.grading()
        if grading.judge is None:
            raise grading.error()
        init(self, *args, **kwargs)
        grading.built = True
        settings = grading.judge["transport"]
        if settings:
            import httpx

            client = httpx.Client(**transport.httpx_arguments(settings))
            self.client = self.client.with_options(http_client=client)
        create, model = self.client.chat.completions.create, self.model
        hello = {"model": model, "messages": [{"role": "user", "content": "hello"}]}

        def count(messages, failed):
            try:
                grading.count(str(messages), failed, lambda: bool(create(**hello).choices))
            except JudgeError as error:
                raise _Ended(error) from None

        def watched(**query):
            try:
                response = create(**query)
            except Exception as error:
                grading.problem = channel.short(f"{type(error).__name__}: {error}")
                count(query["messages"], True)
                raise
            answered = bool(response.choices and response.choices[0].message.content)
            if answered:
                message = response.choices[0].message
                message.content = channel.without_keys(message.content)
            grading.reported = grading.reported or str(response.model or "")
            count(query["messages"], not answered)
            return response

        completions = SimpleNamespace(create=watched)
        self.client = SimpleNamespace(chat=SimpleNamespace(completions=completions))

    def asked(self, messages):
        try:
            return call(self, messages)
        except _Ended as ended:
            raise ended.args[0] from None

    sampler.__init__, sampler.__call__ = built, asked


def needs_judge(dataset):
    """Whether a set is graded by a judge that its own configuration does not name."""
    evaluator = dataset.get("eval_cfg", {}).get("evaluator", {})
    if _kind(evaluator) == "CascadeEvaluator":
        evaluator = evaluator.get("llm_evaluator", {})
    if _kind(evaluator) == "HealthBenchEvaluator":
        return True
    return _kind(evaluator) in _WITH_DEFAULT and not evaluator.get("judge_cfg")


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
