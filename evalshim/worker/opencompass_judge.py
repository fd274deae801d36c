"""The judge that grades for OpenCompass: put where upstream looks for one, and watched.

Written for opencompass 0.5.4.
"""

import contextlib
import copy
import os
import re
from collections import Counter
from types import SimpleNamespace

from . import channel, environment, transport
from .grading import JudgeError

# Evaluators that take a judge of the environment where their configuration names none.
_WITH_DEFAULT = ("GenericLLMEvaluator",)
# Evaluators that build models at a `url` of their configuration, as their judges.
WITH_MODELS = ("LiveMathBenchEvaluator", "GaoKaoMATHEvaluator")
# Evaluators with clients of their own, and whom those ask; what fails is wrong, or ends nothing.
BY_THEMSELVES = {
    "LEvalGPTEvaluator": "OpenAI's endpoint",
    "LMEvaluator": "the judge of a kind of task of its own (SubjectiveEvalTask)",
    "OmniMathEvaluator": "a TurboMind server with KbsdJames/Omni-Judge, at its own `url`",
    "PEER_Evaluator": "a client without an address",
    "WinRateEvaluator": "OpenAI's endpoint",
}
# What upstream's prompts say to a judge that is to answer by a letter.
_CHOICE = re.compile("(?:Just return|只返回字母).*")

unanswered = ()  # positions of the samples that GenericLLMEvaluator was given without an answer


# How often HealthBench's judge may answer without a verdict: upstream would ask it for ever.
_ASKED_AGAIN = 5


class _Ended(BaseException):
    """Passes what ends an evaluation by a loop that tries again after any Exception."""


def install(tally):
    """Give upstream's evaluators the judge of the cell that they grade."""
    from opencompass.evaluator import CascadeEvaluator, GenericLLMEvaluator

    init, score = GenericLLMEvaluator.__init__, CascadeEvaluator.score
    generic_score = GenericLLMEvaluator.score

    def judged(self, prompt_template, judge_cfg=None, **kwargs):
        judge = tally.grading().judge
        if judge:
            judge_cfg = copy.deepcopy(judge["config"])
        elif not judge_cfg:
            raise tally.grading().error()
        tally.grading().built = True  # be it the one that the set's own configuration names
        init(self, prompt_template, judge_cfg, **kwargs)

    # Upstream reads the names of what it hands over from the signature.
    def noted(self, predictions, references=None, test_set=None):
        global unanswered
        unanswered = [i for i, prediction in enumerate(predictions) if prediction == ""]
        try:
            return generic_score(self, predictions, references, test_set)
        finally:
            unanswered = ()

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
    GenericLLMEvaluator.score = noted
    _give_models(tally)
    with contextlib.suppress(ImportError):
        from opencompass.datasets.atlas.evaluation import ATLASLLMEvaluator

        init_atlas = ATLASLLMEvaluator.__init__

        def judged_atlas(self, prompt_template, judge_cfg=None, **kwargs):
            # Its configurations name judges `xxx`, to be filled in.
            init_atlas(self, prompt_template, {"judgers": [_config(tally.grading())]}, **kwargs)

        ATLASLLMEvaluator.__init__ = judged_atlas
    with contextlib.suppress(ImportError):
        from opencompass.datasets.healthbench.sampler import chat_completion_sampler

        _watch_client(chat_completion_sampler.ChatCompletionSampler, tally)


def _give_models(tally):
    """The cell's judge in the place of the models that these evaluators build at a `url` of
    upstream's own network. Without a `url` LiveMathBench only warns, and goes by rules."""
    from opencompass.datasets import gaokao_math
    from opencompass.datasets.livemathbench import livemathbench
    from opencompass.utils import build_model_from_cfg

    def build(config):
        given = {**_config(tally.grading()), "temperature": config["temperature"]}
        tally.grading().built = True
        return build_model_from_cfg(given)

    def with_a_model(evaluator):
        init = evaluator.__init__

        def built(self, model_name="", url=(), *args, **kwargs):
            init(self, "the cell's judge", ["its address"], *args, **kwargs)

        evaluator.__init__ = built

    # Each module holds the registry of models under its own name.
    gaokao_math.MODELS = livemathbench.MODELS = SimpleNamespace(build=build)
    with_a_model(gaokao_math.GaoKaoMATHEvaluator)
    with_a_model(livemathbench.LiveMathBenchEvaluator)


def is_verdict(prompt, answer):
    """Whether an answer is one that a prompt offers to a judge; None where that cannot be told."""
    if asked := _CHOICE.findall(prompt):
        return bool({*re.findall('"([A-Z])"', asked[-1])} & {*answer})
    if "boxed{yes}" in prompt:
        return re.search(r"\\boxed{(yes|no)}", answer) is not None
    return None


def may_be_verdict(prompt, answer):
    """Whether an answer is one to go on from: the judge is asked again for what is none."""
    return is_verdict(str(prompt), answer) is not False


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

        unread = Counter()

        def watched(**query):
            try:
                response = create(**query)
            except Exception as error:
                grading.problem = channel.short(f"{type(error).__name__}: {error}")
                count(query["messages"], True)
                raise
            answer = response.choices[0].message.content if response.choices else ""
            if answer:
                answer = response.choices[0].message.content = channel.without_keys(answer)
            grading.reported = grading.reported or str(response.model or "")
            count(query["messages"], not answer)
            if answer and "criteria_met" not in answer:
                unread[str(query["messages"])] += 1
                if unread.most_common(1)[0][1] >= _ASKED_AGAIN:
                    grading.dead = f"no verdict in {channel.short(answer)!r}"
                    raise _Ended(grading.error())
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
    evaluator = _evaluator(dataset)
    if _kind(evaluator) in ("HealthBenchEvaluator", "ATLASLLMEvaluator", *WITH_MODELS):
        return True
    return _kind(evaluator) in _WITH_DEFAULT and not evaluator.get("judge_cfg")


def named(dataset):
    """The id of the judge that a set's own configuration names, or the environment for it; empty
    where rules score it."""
    evaluator = _evaluator(dataset)
    if judge := evaluator.get("judge_cfg"):
        judge = (judge.get("judgers") or [judge])[0]
        return str(judge.get("path") or judge.get("abbr") or "a judge of the configuration")
    if _kind(evaluator) in WITH_MODELS:
        return str(evaluator.get("model_name", "")) if evaluator.get("url") else ""
    by_default = (*_WITH_DEFAULT, "ATLASLLMEvaluator", "HealthBenchEvaluator")
    return os.environ.get("OC_JUDGE_MODEL", "") if _kind(evaluator) in by_default else ""


def refuse_unseen(dataset):
    """Raise where a set asks a judge that nobody here would see die.

    Raises:
        JudgeError: It does.
    """
    evaluator = _evaluator(dataset)
    kind = _kind(evaluator)
    if kind in BY_THEMSELVES and evaluator.get("use_gpt", True):
        raise JudgeError(
            f"{kind} asks {BY_THEMSELVES[kind]}, unseen by evalshim: "
            "`mode: infer`, and score it with OpenCompass"
        )


def _evaluator(dataset):
    """What grades a set; of a cascade the part with a judge."""
    evaluator = (dataset.get("eval_cfg") or {}).get("evaluator") or {}
    if _kind(evaluator) == "CascadeEvaluator":
        return evaluator.get("llm_evaluator", {})
    return evaluator


def _kind(evaluator):
    kind = evaluator.get("type", "")  # a class, its name, or mmengine's promise of one
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]


@contextlib.contextmanager
def variables(judge):
    """The judge in the variables that some evaluators (HealthBench, ATLAS) read themselves."""
    given = dict(judge["variables"]) if judge else {}
    if judge and (key := os.environ.get(judge["key_env"])):
        given["OC_JUDGE_API_KEY"] = key
    with environment.variables(given):
        yield
