"""What evalshim adds to OpenCompass, through its extension points: a model class, a
runner and a task, named in the generated configuration.

Written for opencompass 0.5.4.
"""

import os
import re
from types import SimpleNamespace

from opencompass.models import OpenAISDK
from opencompass.registry import TASKS
from opencompass.runners.base import BaseRunner
from opencompass.tasks import OpenICLInferTask

from . import run_opencompass


class EndpointModel(OpenAISDK):
    """OpenAISDK for any endpoint: no tokenizer, no pause between calls, key from the environment.

    Upstream loads a tokenizer only to hold prompts against `max_seq_len`, and takes
    it from a hub where none is given. Without one the endpoint does the holding.
    """

    def __init__(
        self,
        *,
        key_env,
        tokenizer_path=None,
        query_per_second=None,
        max_seq_len=2**31,
        max_out_len=None,
        **kwargs,
    ):
        self._paced = query_per_second is not None
        self._bounded = max_seq_len < 2**31
        super().__init__(
            key=os.environ[key_env],
            tokenizer_path=tokenizer_path,
            query_per_second=query_per_second or 1,
            max_seq_len=max_seq_len,
            **kwargs,
        )

    def _init_tokenizer(self):
        if self.tokenizer_path != self.path:
            super()._init_tokenizer()

    def get_token_len(self, prompt):
        """Without a tokenizer and with a bound: words, and Chinese characters, as
        ms-opencompass 0.1.6 counts them for any endpoint (OpenAIExtra)."""
        if self.tokenizer:
            return super().get_token_len(prompt)
        text = prompt if isinstance(prompt, str) else str(prompt)
        return len(re.findall(r"[A-Za-z0-9]+|[\u4e00-\u9fff]", text)) if self._bounded else 0

    def wait(self):
        if self._paced:
            super().wait()

    def _generate(self, *args, **kwargs):
        try:
            return super()._generate(*args, **kwargs)
        except RuntimeError as error:
            raise RuntimeError(f"no answer from {self.openai_api_base}: {error}") from error
        finally:
            run_opencompass.tally.tick()


class CompletionModel(EndpointModel):
    """A base model: the plain prompt to `/completions`, with upstream's own retries."""

    def _create_fresh_client(self):
        client = super()._create_fresh_client()

        def create(*, messages, **query):
            answer = client.completions.create(prompt=messages[-1]["content"], **query)
            for choice in answer.choices:
                choice.message = SimpleNamespace(content=choice.text)
            return answer

        completions = SimpleNamespace(create=create)
        return SimpleNamespace(chat=SimpleNamespace(completions=completions))


class InferTask(OpenICLInferTask):
    """Says how many samples it is about to ask."""

    def _inference(self):
        if not len(self.dataset.test):
            raise ValueError("limit takes none of its samples")
        run_opencompass.tally.expect(len(self.dataset.test))
        # Upstream's default is a folder in the working directory, made and not used.
        scratch = os.path.join(self.work_dir, "icl_inference_output")
        self.infer_cfg["inferencer"].setdefault("output_json_filepath", scratch)
        super()._inference()


class InProcessRunner(BaseRunner):
    """Runs tasks one after the other in this process.

    Upstream's LocalRunner starts a process a task, each of which imports for 16 s;
    its debug mode stays in the process, but the first task that raises ends all.
    """

    _model = _model_abbr = None

    def launch(self, tasks):
        stage = "infer" if "Infer" in self.task_cfg["type"] else "eval"
        return [self._launch(task, stage) for task in tasks]

    def _launch(self, config, stage):
        task = TASKS.build({"cfg": config, "type": self.task_cfg["type"]})
        with run_opencompass.tally.task(task, stage) as outcome:
            if stage == "infer":
                # The model goes on to the next dataset, as in LocalRunner's debug mode.
                task.run(cur_model=self._model, cur_model_abbr=self._model_abbr)
                self._model, self._model_abbr = task.model, config["models"][0]["abbr"]
            else:
                task.run()
        return task.name, outcome["code"]
