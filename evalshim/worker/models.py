"""Upstream's models, their answers counted while they give them."""

import json
import os
import threading

from . import channel, custom_data, eval_files, fan_out, grades, judging, pace, plugins, transport
from .journal import Journal

# The keys of what is known of all samples, and of their judge, beside those of single ones.
_OF_ALL, _OF_JUDGE = "\x00all", "\x00judge"
# Sets (0.0.20) that cannot go on from the grades of some of their samples.
_GRADED_WHOLE = ("UniSVG", "WorldVQA", "MMAlignBench")
# Of a request, what is not a parameter of the answer.
_ASKED = ("messages", "prompt", "model")


class Watch:
    """What is seen of one cell while upstream runs it.

    Attributes:
        errors: By the key of a sample, why its last call brought no answer.
        finish: By the key of a sample, why the model stopped, where it did not do so itself.
        sent: Parameters of a request, as the endpoint got them.
        reported: The id of the model, as the endpoint reported it.
        judge_reported: That of the judge, an earlier process's too; None where none answered.
        unread: Samples, as texts, of which upstream could not read what the judge said.
    """

    def __init__(self, cell):
        self.cell = cell["id"]
        self.retries = cell["retries"]
        self.dataset = None
        self.model = None
        self.grading = None
        self.status = {}
        self.files = {}
        self.made = []  # files, while answers were graded
        self.total = 0
        self.done = 0
        self.last_error = ""
        self.judge_model = ""
        self.judge_reported = None
        self.unread = set()
        self.errors = {}
        self.finish = {}
        self.sent = {}
        self.reported = ""
        self.raised = None  # by a plug-in, where upstream made an answer of it
        self.lock = threading.Lock()
        self._journal = self._ungraded = None

    def go_on(self, folder):
        """Keep what is seen in a folder; begin with what it has of an earlier process."""
        os.makedirs(folder, exist_ok=True)
        self._ungraded = Journal(os.path.join(folder, "ungraded.jsonl"))
        self._journal = Journal(os.path.join(folder, "seen.jsonl"))
        for key, value in self._journal.read().items():
            if key == _OF_ALL:
                self.sent, self.reported = value
            elif key == _OF_JUDGE:
                self.judge_reported = value
            else:
                self.finish[key] = value

    def regrade(self, eval_file):
        """Forget the grades of samples that an earlier process could not grade; of those that
        have no answer now, note that they are none."""
        if stale := self._noted() | self._unread(eval_file):
            parts = eval_files.graded(self.dataset, eval_file)
            prefixes = tuple(prefix for _, _, prefix in parts)
            for dataset, path, prefix in parts:
                # What is of no part is of each.
                own = {s for s in stale if s.startswith(prefix) or not s.startswith(prefixes)}
                if own:
                    samples = {sample.removeprefix(prefix) for sample in own}
                    grades.forget(path, samples, *_samples(dataset))
            self._ungraded.remove()
        for sample in eval_files.unanswered(eval_file):
            self.lacks(sample)

    def lacks(self, sample):
        """Note a sample that gets no grade which would hold: at once, as a kill may come."""
        if sample is not None:
            self._ungraded.add(str(sample), True)

    def graded(self, eval_file):
        """Learn at the end of an evaluation what is ungraded, and take back the notes of samples
        that upstream's later tries graded."""
        grading = self.grading
        self.unread = self._unread(eval_file)
        if not grading.without:
            lacking = {*map(str, grading.ungraded), *eval_files.unanswered(eval_file)}
            for sample in self._noted() - lacking:
                self._ungraded.add(sample, False)
        if grading.judge and not grading.built and self.judge_reported is not None:
            # Upstream found all grades made by an earlier process.
            grading.built, grading.reported = True, self.judge_reported

    def _unread(self, eval_file):
        return {
            f"{prefix}{sample}"
            for _, path, prefix in eval_files.graded(self.dataset, eval_file)
            for sample in grades.unread(path)
        }

    def _noted(self):
        return {str(sample) for sample, lacks in self._ungraded.read().items() if lacks}

    def judged_by(self, reported):
        """Note the id of a judge that answers: a later process may find nothing to ask it."""
        if self.judge_reported != reported:
            self.judge_reported = reported
            self._journal.add(_OF_JUDGE, reported)

    def learn(self, sent, reported):
        self.sent, self.reported = sent, reported
        self._journal.add(_OF_ALL, [sent, reported])

    def answered(self, failed, error, finish):
        sample = fan_out.current()
        with self.lock:
            again = sample in self.errors
            if failed:
                self.last_error = error or self.last_error
            if sample is not None:
                self.errors.pop(sample, None)
                if failed:
                    self.errors[sample] = channel.redact(error)[:300]
                self.finish.pop(sample, None)
                if finish not in ("", "stop"):
                    self.finish[sample] = finish
                    self._journal.add(sample, finish)
            if not again:
                self.done += 1
                channel.progress(self.cell, self.done, self.total, len(self.errors))

    def again(self, failed):
        """What `fan_out` is to do again: calls that got no answer, while some others do."""

        def again(results, done):
            missing = [p for p in done if failed(results[p])]
            if not missing or self.retries < 1 or all(map(failed, results)):
                return ()
            self.retries -= 1
            return missing

        return again


def _samples(dataset):
    """The indices of a set, and by index what one that is graded by groups calls its group; none
    of one that is graded as a whole."""
    data = getattr(dataset, "data", {})
    if "index" not in data or type(dataset).__name__ in _GRADED_WHOLE:
        return [], {}
    indices = [str(index) for index in data["index"]]
    # As mcq_circular_eval (0.0.20) has it.
    groups = [str(int(i) % 1_000_000) if i.isdigit() else i for i in indices]
    groups = map(str, data["g_index"]) if "g_index" in data else groups
    return indices, dict(zip(indices, groups, strict=True))


def build(cell, models, watch, **overrides):
    """Upstream's model, with its answers counted.

    `overrides` is what upstream hands to the local models of some names (use_vllm).
    """
    api_base = cell["model"].get("api_base")
    given = transport.filled(cell["model"])
    arguments = dict(given) if api_base else {**given, **overrides}
    key = os.environ.get(cell["key_env"])
    if key:
        arguments["key"] = key
    model = _model_class(cell["class"], models)(**arguments)
    if api_base and hasattr(model, "api_base"):
        # OpenAIWrapper (0.0.20) has addresses of its own for some model ids (`ernie`) and
        # variables (BOYUE); the one that was asked for is the one that gets pictures and key.
        model.api_base = api_base
        if key and hasattr(model, "key"):
            model.key = key
        judging.speak_to_azure(model)
    custom_data.send_as_written(model, given)
    if hasattr(model, "generate_inner"):
        model.generate_inner = transport.through(cell["transport"], model.generate_inner)
    _count_answers(model, watch)
    watch.model = model
    return model


def _model_class(name, models):
    """A configured model of upstream's, or a class.

    A checkout of open-compass/VLMEvalKit has no CustomAPIModel; GPT4V is the same
    two lines over OpenAIWrapper.
    """
    import vlmeval.api
    import vlmeval.vlm

    if name in plugins.classes:
        return plugins.classes[name]
    if name and name != "CustomAPIModel":
        if name in models:
            return models[name]
        return getattr(vlmeval.api, name, None) or getattr(vlmeval.vlm, name)
    return getattr(vlmeval.api, "CustomAPIModel", None) or vlmeval.api.GPT4V


def _count_answers(model, watch):
    local = threading.local()
    generate, generate_inner = model.generate, model.generate_inner
    failure = getattr(model, "fail_msg", eval_files.FAIL_MSG).strip()

    def no_answer(answer):
        return failure in str(answer)

    def remember(*args, **kwargs):
        local.error = local.finish = ""
        try:
            code, answer, response = generate_inner(*args, **kwargs)
        except Exception as error:
            local.error = channel.said(error)
            raise
        pace.heed(response)
        answer = channel.without_keys(answer)
        if code != 0 or no_answer(answer) or answer == "":
            local.error = judging.wrong_with(code, response)
        else:
            local.finish = _learn(watch, response)
        return code, answer, response

    def counted(*args, **kwargs):
        local.error = local.finish = ""
        answer = generate(*args, **kwargs)
        watch.answered(no_answer(answer), local.error, local.finish)
        return answer

    if hasattr(model, "chat_inner"):
        _notice_what_chat_raises(model, watch)
        _count_dialogues(model, watch, local, no_answer)
    if getattr(model, "is_api", False):
        model.generate_inner = remember
        counted.again = watch.again(no_answer)
        counted.endpoint = getattr(model, "api_base", None)
    model.generate = counted


def _count_dialogues(model, watch, local, no_answer):
    """Let a dialogue be answered where each of its turns is, and be asked again as a whole.

    chat_mt (0.0.20) goes through `chat`, a call a turn.
    """
    from vlmeval import inference_mt

    chat, chat_mt = model.chat, getattr(inference_mt.chat_mt, "upstream", inference_mt.chat_mt)

    def lacks_a_turn(answers):
        return any(map(no_answer, answers))

    def turn(*args, **kwargs):
        local.error = local.finish = ""
        answer = chat(*args, **kwargs)
        if no_answer(answer):
            local.lacking = local.error
        elif local.finish not in ("", "stop"):
            local.cut = local.finish
        return answer

    def dialogue(*args, **kwargs):
        local.lacking = local.cut = ""
        answers = chat_mt(*args, **kwargs)
        watch.answered(lacks_a_turn(answers), local.lacking, local.cut)
        return answers

    if getattr(model, "is_api", False):
        dialogue.again = watch.again(lacks_a_turn)
    dialogue.upstream = chat_mt
    model.chat, inference_mt.chat_mt = turn, dialogue


def _learn(watch, response):
    """Why the model stopped; once, what it was sent and what it calls itself."""
    text = getattr(response, "text", "")
    if not watch.reported:
        request = getattr(getattr(response, "request", None), "body", None)
        reported = str(judging.document(response).get("model") or "unknown")
        watch.learn(parameters(request), reported)
    if '"length"' not in text and '"content_filter"' not in text:
        return "stop"
    choices = judging.document(response).get("choices")
    return str(choices[0].get("finish_reason") or "") if choices else ""


def parameters(body):
    """The parameters in the body of a request: all but what was asked, and of whom."""
    try:
        found = json.loads(body)
    except (TypeError, ValueError):
        return {}
    return {key: value for key, value in found.items() if key not in _ASKED}


def _notice_what_chat_raises(model, watch):
    """BaseModel.chat and BaseAPI.chat (0.0.20) answer "Failed with all possible conversation
    turns" where chat_inner raises; of a plug-in that is an error."""
    chat, chat_inner, local = model.chat, model.chat_inner, threading.local()

    def inner(*args, **kwargs):
        try:
            return chat_inner(*args, **kwargs)
        except Exception as error:
            local.error = error
            raise

    def noticed(*args, **kwargs):
        local.error = None
        answer = chat(*args, **kwargs)
        if "Failed with all possible" in str(answer) and channel.in_plugin(local.error):
            watch.raised = local.error
        return answer

    model.chat_inner, model.chat = inner, noticed
