"""The judge that grades for VLMEvalKit: in force while it grades, watched, never replaced in
silence.

Upstream (0.0.20) asks a judge for a word first; where none comes in 30 s and more it warns and
matches exactly. A judge that dies later grades at random, or as wrong.
"""

import contextlib
import copy
import functools
import os
import re
import sys
from urllib.parse import urlsplit

from . import channel, environment, eval_files, fan_out, grades, pace, phases, transport, turns
from .grading import Grading, JudgeError

_NONE = "exact_matching"
_ALL = "all of them"
# Classes that ask by a client of their own (0.0.20), at an address made otherwise, a model that
# they name themselves, and count what fails as wrong.
BY_THEMSELVES = ("SimpleVQA", "MathCanvas", "MEGABench")
# Names by which build_judge goes to a provider of its own, and one by which it does not.
_ELSEWHERE = ("qwen-7b", "qwen-72b", "deepseek", "llama31-8b")
_AT_AN_ADDRESS = "gpt-4o-mini"
VARIABLES = ("OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM")

_grading = None  # the evaluation under way


def _watch(grading, model):
    """Watch the calls of a judge that upstream just built."""
    none = _is_none(grading, model)
    grading.built = grading.built or not none
    generate, generate_inner = model.generate, model.generate_inner
    lacking = grading.lacking

    def inner(*args, **kwargs):
        if grading.judge and (base := grading.judge["variables"].get("OPENAI_API_BASE")):
            # OpenAIWrapper has addresses and keys of its own for some ids (`ernie`, BOYUE).
            model.api_base = base
            model.key = os.environ.get(grading.judge["key_env"]) or "EMPTY"
        speak_to_azure(model)
        settings = grading.judge["transport"] if grading.judge else None
        try:
            code, answer, response = transport.through(settings, generate_inner)(*args, **kwargs)
        except Exception as error:
            grading.problem = channel.said(error)
            raise
        pace.heed(response)
        answer = channel.without_keys(answer)
        if code != 0 or model.fail_msg in str(answer):
            grading.problem = wrong_with(code, response)
        elif not grading.reported:
            grading.reported = str(document(response).get("model") or "")
            grading.answered(grading.reported)
        return code, answer, response

    def counted(message, **kwargs):
        sample, about = fan_out.current(), str(message)  # upstream takes roles out of it
        sample = eval_files.named(about if sample is None else sample)
        sample = None if model.fail_msg.strip() in about else sample
        if grading.dead or none:
            grading.refused = True
            lacking(sample)
            raise grading.error()
        try:
            answer = generate(message, **kwargs)
        except turns.Stopped as stop:
            grading.stopped = stop
            lacking(sample)
            raise
        failed = model.fail_msg in str(answer)
        unread = not failed and not _is_verdict(about, str(answer))
        if failed or unread:
            lacking(sample)
        try:
            grading.count(sample, failed, lambda: _ask(model), about)
        except turns.Stopped as stop:
            grading.stopped = stop
            raise
        if unread:
            grading.unread(sample, about)
        return answer

    model.generate_inner, model.generate = inner, counted


def _is_verdict(prompt, answer):
    """Whether an answer is one of those that a prompt offers.

    YOrN_match_prompt (0.0.20) offers Unknown, too, which upstream makes of everything else.
    """
    if "the following 3 choices: Yes, No, Unknown" not in prompt:
        return True
    words = set(re.findall("[a-z]+", answer.lower()))
    return "unknown" in words or len(words & {"yes", "no"}) == 1


def _works(grading, model):
    """What upstream's `working` says, known in a second or two."""
    if _is_none(grading, model):
        grading.without = True
        return False
    if not grading.dead:
        try:
            grading.probe(lambda: _ask(model))
        except turns.Stopped as stop:
            grading.stopped = stop
            raise
    if not grading.dead:
        return True
    if not grading.may_do_without:
        raise grading.error()
    grading.without = True
    grading.lacking(_ALL)
    return False


def _is_none(grading, model):
    """Whether nobody was asked for: some sets build a judge all the same."""
    named = (getattr(model, "model", None), grading.named)
    return grading.judge is None and _NONE in named


def _ask(model):
    """Whether a judge has a word, asked for as upstream's `working` does."""
    timeout = getattr(model, "timeout", None)
    if timeout:
        model.timeout = min(timeout, 120)  # as upstream
    try:
        given = copy.deepcopy(model.default_kwargs)
        code, answer, _ = model.generate_inner([{"type": "text", "value": "hello"}], **given)
        return code == 0 and answer and model.fail_msg not in answer
    finally:
        if timeout:
            model.timeout = timeout


def judged(evaluate, watch, cell):
    """`evaluate` under the judge of a cell, which stands in the environment only meanwhile:
    upstream's own API models read the same variables."""

    def graded(*args, **kwargs):
        global _grading
        if _grading is not None:
            return evaluate(*args, **kwargs)  # within another (CreationMMBench, 0.0.20)
        judge = cell["judge"]
        # MEGABench's core is scored by rules.
        by_rules = getattr(watch.dataset, "subset_name", "") == "core"
        if (name := type(watch.dataset).__name__) in BY_THEMSELVES and not by_rules:
            raise JudgeError(
                f"{name} asks a judge by a client of its own, unseen by evalshim: "
                "`mode: infer`, and score it with VLMEvalKit"
            )
        _grading = watch.grading = grading = Grading(judge, watch.lacks, watch.judged_by)
        grading.named = kwargs.get("model")
        given = _of(judge)
        if "LOCAL_LLM" in given and grading.named in _ELSEWHERE:
            # build_judge would ask their provider for the user's judge.
            kwargs["model"] = _AT_AN_ADDRESS
        eval_file = args[0] if args else kwargs["eval_file"]
        before = {}
        try:
            watch.regrade(eval_file)
            before = _written(os.path.dirname(os.path.abspath(eval_file)))
            with phases.within("scoring"), environment.variables({"LOCAL_LLM": None, **given}):
                try:
                    result = evaluate(*args, **kwargs)
                    if grading.stopped:  # upstream swallowed it
                        grading.lacking(_ALL)
                        raise grading.stopped
                    if not grading.refused and (not grading.dead or grading.without):
                        watch.graded(eval_file)
                        return result
                except Exception as error:
                    if grading.stopped:
                        grading.lacking(_ALL)
                        raise grading.stopped from error
                    _refuse(grading, error)
                if not grading.may_do_without:
                    raise grading.error()  # upstream swallowed it
                # It died under way. What it graded until then is no exact matching.
                for path in _made(eval_file, before):
                    grades.remove(path)
                grading.lacking(_ALL)
                grading.refused, cause = False, None
                try:
                    result = evaluate(*args, **kwargs)
                    if grading.without and not grading.refused:
                        return result
                except Exception as error:
                    cause = error
                raise JudgeError(f"{grading.error()}; upstream grades no other way") from cause
        finally:
            watch.made = _made(eval_file, before)
            _grading = None

    return graded


def _written(folder):
    """What is in a folder, and when it was written."""
    return {entry.path: entry.stat().st_mtime_ns for entry in os.scandir(folder)}


def _made(eval_file, before):
    """The files that graded `eval_file`: of a try that a kill cut short, which upstream need not
    write again, and behind them those that are new since `before`, by name."""
    eval_file = os.path.abspath(eval_file)
    now = _written(os.path.dirname(eval_file))
    # Some sets (circular ones) write the predictions themselves once more.
    new = {p for p, written in now.items() if before.get(p) != written and p != eval_file}
    return [*(path for path in grades.of(eval_file) if path not in new), *sorted(new)]


def _refuse(grading, error):
    """Raise what ended an evaluation, unless upstream is to try it without its judge."""
    if grading.dead and grading.judge:
        if not grading.without and grading.may_do_without:
            return
        other = "; upstream grades no other way" if grading.without else ""
        raise JudgeError(f"{grading.error()}{other}") from error
    if grading.judge is None and grading.without and not isinstance(error, JudgeError):
        raise grading.error() from error
    raise error


def _of(judge):
    if judge is None:
        return {}
    key = os.environ.get(judge["key_env"])
    return {**judge["variables"], **({"OPENAI_API_KEY": key} if key else {})}


def notice():
    """Watch each judge that upstream builds, and answer for it whether it works."""
    from vlmeval.api.base import BaseAPI

    init, working = BaseAPI.__init__, BaseAPI.working

    def built(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if _grading is not None:
            _watch(_grading, self)

    def observed(self):
        return _works(_grading, self) if _grading is not None else working(self)

    BaseAPI.__init__, BaseAPI.working = built, observed
    _notice_guesses()


def _notice_guesses():
    """An option that upstream draws where it read none in three answers of the judge: what keeps
    of it the option alone, or a right one of a circular set, has no mark of that."""
    from vlmeval.dataset.utils import multiple_choice

    upstream = multiple_choice.extract_answer_from_item
    options = multiple_choice.build_choices

    @functools.wraps(upstream)
    def extract_answer_from_item(model, item, *args, **kwargs):
        with fan_out.working_on(str(item.get("index"))):
            found = upstream(model, item, *args, **kwargs)
            # Without options (VideoMME hands over none) no verdict could be read.
            gradable = eval_files.FAIL_MSG not in str(item["prediction"]) and options(item)
            if _grading is not None and gradable and grades.UNREAD[0] in str(found["log"]):
                sample = eval_files.named(fan_out.current())
                _grading.lacking(sample)
                _grading.unread(sample)
        return found

    for name, module in list(sys.modules.items()):
        if name.startswith("vlmeval") and vars(module).get(upstream.__name__) is upstream:
            module.extract_answer_from_item = extract_answer_from_item


def keep_from_models(cells):
    """A judge that the environment names is a judge alone: upstream's API models (0.0.20) read
    the same variables, and would send its key to another endpoint."""
    judges = [cell["judge"]["variables"] for cell in cells if cell["judge"]]
    if any(j.get("LOCAL_LLM") == os.environ.get("LOCAL_LLM", "") for j in judges):
        for name in VARIABLES:
            os.environ.pop(name, None)


@contextlib.contextmanager
def without_stray_env():
    """Import upstream without the `.env` beside its package, which would override the
    environment (load_env, 0.0.20), at import and whenever a judge is built.

    What it sets and nothing else does stays, the judge's variables excepted.
    """
    import importlib.util

    spec = importlib.util.find_spec("vlmeval")
    place = os.path.realpath(spec.submodule_search_locations[0])
    path = os.path.join(os.path.dirname(place), ".env")
    before = dict(os.environ)
    yield
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    if not os.path.exists(path):
        return
    for name in changed & {*before, *VARIABLES}:
        os.environ.pop(name)
        if name in before:
            os.environ[name] = before[name]
    for name, module in list(sys.modules.items()):
        if name.startswith("vlmeval") and "load_env" in vars(module):
            module.load_env = lambda: None
    named = ", ".join(sorted(changed & {*before, *VARIABLES}))
    if named:
        channel.emit("notice", message=f"{path} is not heeded: it sets {named}")


def speak_to_azure(model):
    """Let OpenAIWrapper (0.0.20) send the key as Azure takes it, at an address that was given:
    its own switch wants four variables instead."""
    host = urlsplit(str(getattr(model, "api_base", ""))).hostname or ""
    if host.endswith(".azure.com") and hasattr(model, "use_azure"):
        model.use_azure = True


def document(response):
    """The JSON of a response, a mapping; empty where it is none."""
    try:
        found = response.json()
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}


def wrong_with(code, response):
    """What came instead of an answer: the HTTP status and the message."""
    text = channel.short(str(getattr(response, "text", response or "")))
    if code == 0:
        return f"HTTP {getattr(response, 'status_code', 200)} without an answer: {text}"
    return f"HTTP {code}: {text}"
