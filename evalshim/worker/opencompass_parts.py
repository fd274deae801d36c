"""What evalshim adds to OpenCompass, through its extension points: a model class, a
runner and a task, named in the generated configuration.

Written for opencompass 0.5.4.
"""

import os

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

    def __init__(self, *, key_env, tokenizer_path=None, query_per_second=None, **kwargs):
        self._paced = query_per_second is not None
        super().__init__(
            key=os.environ[key_env],
            tokenizer_path=tokenizer_path,
            query_per_second=query_per_second or 1,
            **kwargs,
        )

    def _init_tokenizer(self):
        if self.tokenizer_path != self.path:
            super()._init_tokenizer()

    def get_token_len(self, prompt):
        return super().get_token_len(prompt) if self.tokenizer else 0

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
