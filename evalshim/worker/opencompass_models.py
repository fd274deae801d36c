"""Models of OpenCompass's kind behind an endpoint: what is evaluated, and what grades.

The generated configuration names them. Written for opencompass 0.5.4.
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

from . import channel, opencompass_judge, run_opencompass, turns
from .answers import Answers
from .transport import filled, httpx_arguments


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
