"""The judge that grades for VLMEvalKit: in force while it grades, and seen to work or not."""

import contextlib
import os

_built = []  # of the evaluation under way: "built", and "dead" for one that does not work


def keep_from_models(judge):
    """A judge that the environment names is a judge alone: upstream's API models (0.0.20) read
    the same variables, and would send its key to another endpoint."""
    if judge and os.environ.get("LOCAL_LLM") == judge["LOCAL_LLM"]:
        for name in (*judge, "OPENAI_API_KEY"):
            os.environ.pop(name, None)


def judged_by_the_users(evaluate, watch, job):
    """The user's judge stands in the environment while answers are graded, and not before:
    upstream's own API models read the same variables."""

    def judged(*args, **kwargs):
        key = os.environ.get(job["judge_key"])
        _built.clear()
        with variables({**job["judge"], **({"OPENAI_API_KEY": key} if key else {})}):
            try:
                return evaluate(*args, **kwargs)
            finally:
                watch.judge_built = bool(_built)
                watch.judge_failed = "dead" in _built

    return judged


def notice():
    """Learn what grades: where a judge does not work upstream (0.0.20) warns and does without."""
    from vlmeval.api.base import BaseAPI

    init, working = BaseAPI.__init__, BaseAPI.working

    def built(self, *args, **kwargs):
        _built.append("built")
        init(self, *args, **kwargs)

    def observed(self):
        works = working(self)
        _built.extend([] if works else ["dead"])
        return works

    BaseAPI.__init__, BaseAPI.working = built, observed


@contextlib.contextmanager
def variables(values):
    """Environment variables for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
