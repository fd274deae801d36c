"""What evalshim adds to OpenCompass, through its extension points: a model class, a
runner and a task, named in the generated configuration.

Written for opencompass 0.5.4.
"""

import fcntl
import hashlib
import itertools
import os
import re
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

from opencompass.models import OpenAISDK
from opencompass.partitioners import NaivePartitioner
from opencompass.registry import TASKS
from opencompass.runners.base import BaseRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask
from opencompass.utils import get_infer_output_path

from . import channel, forks, opencompass_judge, phases, predictions, run_opencompass, turns
from .answers import Answers
from .transport import filled, httpx_arguments

# As of VLMEvalKit's cells; the sets here are smaller.
_AT_ONCE = min(8, 2 * (os.cpu_count() or 1))


class EndpointModel(OpenAISDK):
    """OpenAISDK for any endpoint: no tokenizer, no pause between calls, key from the environment.

    Upstream loads a tokenizer only to hold prompts against `max_seq_len`, and takes
    it from a hub where none is given. Without one the endpoint does the holding.

    A call that fails after all its tries ends upstream's task, and with it the answers of the
    whole set. Here it becomes an empty answer, asked again when the others are done.
    """

    def __init__(
        self,
        *,
        key_env,
        tokenizer_path=None,
        query_per_second=None,
        max_seq_len=2**31,
        max_out_len=None,
        retries=0,
        transport=None,
        http_client_cfg=None,
        **kwargs,
    ):
        self._headers = filled((transport or {}).get("headers", {}))
        kwargs = filled(kwargs)
        self._paced = query_per_second
        self._name = hashlib.sha256(f"{kwargs.get('path')} {key_env}".encode()).hexdigest()[:16]
        self._bounded = max_seq_len < 2**31
        self.retries = retries
        self._local = threading.local()
        self.watch = Answers()
        super().__init__(
            key=os.environ.get(key_env) or "EMPTY",
            tokenizer_path=tokenizer_path,
            query_per_second=query_per_second or 1,
            max_seq_len=max_seq_len,
            http_client_cfg={**httpx_arguments(transport), **(http_client_cfg or {})},
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
        """A pause between the calls of this model where `query_per_second` asks for one: of all
        processes together, of which upstream's own bucket (0.5.4) knows one."""
        if not self._paced:
            return
        with open(f"{run_opencompass.tally.work_dir}/.paced-{self._name}", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            now = time.time()
            turn = max(now, float(file.read() or 0))
            file.truncate(0)
            file.write(repr(turn + 1 / self._paced))
        time.sleep(turn - now)

    def generate(self, inputs, max_out_len=512, temperature=0.7, **kwargs):
        temperature = temperature if self.temperature is None else self.temperature
        call = self.watch.begin(inputs, max_out_len)
        answers = [self.watch.earlier(call, i) for i in range(len(inputs))]
        missing = [i for i, answer in enumerate(answers) if not answer]
        self.watch.count(len(inputs) - len(missing))

        def ask(position):
            self._local.sample = (call[0], position)
            answer = self._answer(inputs[position], max_out_len, temperature)
            self.watch.note(call, position, answer, self._local)
            return position, answer

        for left in range(self.retries, -1, -1):
            with ThreadPoolExecutor(max_workers=self.max_workers) as pool:
                futures = [pool.submit(ask, i) for i in missing]
                try:
                    for future in as_completed(futures):
                        position, answer = future.result()
                        answers[position] = answer
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            missing = [i for i in missing if not answers[i]]
            if not left or not missing or not any(answers):
                break
        return answers

    def _answer(self, *args):
        """One answer; an empty one where there is none, `_local` says why."""
        self._local.error = self._local.finish = ""
        try:
            answer = self._generate(*args)
        except RuntimeError as error:
            self._local.error = self._local.error or str(error)
            return ""
        if not answer:
            self._local.error = self._local.error or "HTTP 200 without an answer: no content"
        return channel.without_keys(answer)

    def _create_fresh_client(self):
        self._query = getattr(self, "_query", None) or self.openai_api_base.partition("?")[2]
        self.openai_api_base = self.openai_api_base.partition("?")[0]
        client = super()._create_fresh_client()
        host = urlsplit(self.openai_api_base).hostname or ""
        client = client.with_options(
            default_query=dict(parse_qsl(self._query)),
            default_headers={
                # Azure takes a key by this header alone.
                **({"api-key": client.api_key} if host.endswith(".azure.com") else {}),
                **self._headers,
            },
        )
        create = self._create(client)

        url = str(client.base_url)

        def watched(**query):
            with turns.turn(url) as outcome:
                try:
                    response = create(**query)
                except Exception as error:
                    self._local.error = _wrong(error)
                    answer = getattr(error, "response", None)
                    if answer is not None:
                        outcome.learn(answer.status_code, answer.headers, "")
                    raise
                outcome.learn(200, {}, _usage(response))
                if getattr(response, "model", None):
                    outcome.answered_by(response.model)
            choices = getattr(response, "choices", None)
            if not choices:
                text = channel.short(str(response))
                self._local.error = f"HTTP 200 without an answer: {text}"
            else:
                self._local.error = ""
                self._local.finish = choices[0].finish_reason or ""
                self.watch.learn(query, response)
            return response

        completions = SimpleNamespace(create=watched)
        return SimpleNamespace(chat=SimpleNamespace(completions=completions))

    def _create(self, client):
        return client.chat.completions.create


class CompletionModel(EndpointModel):
    """A base model: the plain prompt to `/completions`, with upstream's own retries."""

    def _create(self, client):
        def create(*, messages, **query):
            answer = client.completions.create(prompt=messages[-1]["content"], **query)
            for choice in answer.choices:
                choice.message = SimpleNamespace(content=choice.text)
            return answer

        return create


def _usage(response):
    usage = getattr(response, "usage", None)
    return usage.model_dump_json() if usage else ""


# One is built for each set, replica and evaluator: of each set their numbers.
_judges = defaultdict(itertools.count)


class JudgeModel(EndpointModel):
    """The judge of GenericLLMEvaluator, behind any endpoint; one that is dead grades nothing."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.grading = run_opencompass.tally.grading()
        self.grading.built = True
        self._number = next(_judges[run_opencompass.tally.current])
        self._unanswered = opencompass_judge.unanswered
        self.watch = run_opencompass.tally.judged(self._number)

    def _answer(self, *args):
        if self.grading.dead:
            raise self.grading.error()
        answer = super()._answer(*args)
        if not answer:
            self.grading.problem = self._local.error
        sample = self._sample(*self._local.sample)
        self.grading.count(sample, not answer, self._has_a_word)
        self.grading.reported = self.grading.reported or self.watch.reported
        return answer

    def generate(self, inputs, *args, **kwargs):
        answers = super().generate(inputs, *args, **kwargs)
        for position, (prompt, answer) in enumerate(zip(inputs, answers, strict=True)):
            found = opencompass_judge.is_verdict(str(prompt), answer)
            self.grading.blind = self.grading.blind or found is None
            if answer and found is False:
                self.grading.unread(self._sample(self.watch.calls, position))
        return answers

    def _sample(self, call, position):
        unanswered = call == 1 and position in self._unanswered
        return None if unanswered else (self._number, call, position)

    def _has_a_word(self):
        query = {"model": self.path, "messages": [{"role": "user", "content": "hello"}]}
        response = self.openai_client.chat.completions.create(**query, timeout=self.timeout)
        return bool(response.choices)


def _wrong(error):
    """What came instead of an answer: the HTTP status, or what happened, and the message."""
    status = getattr(error, "status_code", None)
    text = str(getattr(error, "message", None) or error)
    cause = error.__cause__
    if status is None and cause is not None:
        text = f"{text} {type(cause).__name__}: {cause}"
    text = channel.short(text)
    return f"HTTP {status}: {text}" if status else f"{type(error).__name__}: {text}"


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
