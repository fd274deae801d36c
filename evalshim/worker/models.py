"""Upstream's models, their answers counted while they give them."""

import os
import threading

from . import channel, custom_data, plugins


class Watch:
    """What is seen of one cell while upstream runs it."""

    def __init__(self, cell):
        self.cell = cell["id"]
        self.dataset = None
        self.model = None
        self.status = {}
        self.files = {}
        self.total = 0
        self.done = 0
        self.last_error = ""
        self.raised = None  # by a plug-in, where upstream made an answer of it
        self.judge_model = ""
        self.judge_built = False
        self.judge_failed = False
        self.lock = threading.Lock()

    def answered(self, failed, error):
        with self.lock:
            self.done += 1
            if failed:
                self.last_error = error or self.last_error
            channel.emit("progress", self.cell, done=self.done, total=self.total)


def build(cell, models, watch, **overrides):
    """Upstream's model, with its answers counted.

    `overrides` is what upstream hands to the local models of some names (use_vllm).
    """
    api_base = cell["model"].get("api_base")
    arguments = dict(cell["model"]) if api_base else {**cell["model"], **overrides}
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
    custom_data.send_as_written(model, cell["model"])
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
    failure = getattr(model, "fail_msg", "Failed to obtain answer").strip()

    def remember(*args, **kwargs):
        local.error = ""
        try:
            code, answer, response = generate_inner(*args, **kwargs)
        except Exception as error:
            local.error = channel.said(error)
            raise
        if code != 0:
            local.error = f"HTTP {code}: {getattr(response, 'text', '')[:200]}"
        return code, answer, response

    def counted(*args, **kwargs):
        answer = generate(*args, **kwargs)
        watch.answered(failure in str(answer), getattr(local, "error", ""))
        return answer

    if hasattr(model, "chat_inner"):
        _notice_what_chat_raises(model, watch)
    if getattr(model, "is_api", False):
        model.generate_inner = remember
    model.generate = counted


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
