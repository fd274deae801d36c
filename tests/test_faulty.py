"""The faulty endpoint fails as it says, so that what is tested with it is tested."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from .integration import faulty as said
from .integration.faulty import FAULTS, STATUS, Faulty

OPTIONS = "Question: What is number {}?\nOptions:\nA. red\nB. green\n"
YES_NO = "Is number {} red? Please answer yes or no."
SUM = r"What is number {}? Put your final answer within \boxed{{}}."
SHORT = "What is written on number {}?"


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    with Faulty() as served:
        yield served


def post(
    url: str, text: str = OPTIONS.format(2), timeout: float = 5, path: str = "/chat/completions"
) -> tuple[int, Any]:
    """Status and parsed body of a chat; the text where it is not JSON."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Authorization": "Bearer secret"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
        error.close()
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw.decode()


def reply(url: str, text: str) -> str:
    status, body = post(url, text)
    assert status == 200, body
    return str(body["choices"][0]["message"]["content"])


def test_both_models_are_listed_everywhere(faulty: Faulty) -> None:
    for url in (faulty.url("ok"), faulty.url("500", 100), faulty.judge("dead")):
        with urllib.request.urlopen(f"{url}/models", timeout=5) as response:
            assert [m["id"] for m in json.load(response)["data"]] == ["m", "j"]


@pytest.mark.parametrize("kind", STATUS)
def test_a_status_comes_in_openais_form(faulty: Faulty, kind: str) -> None:
    status, body = post(faulty.url(kind, 100))

    assert status == int(kind)
    assert body["error"]["message"]
    assert (body["error"]["code"] == "model_not_found") == (kind == "404")


def test_too_many_requests_say_when_to_come_again(faulty: Faulty) -> None:
    connection = http.client.HTTPConnection(faulty.url("429").split("/")[2], timeout=5)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})

    connection.request("POST", "/429/100/v1/chat/completions", body)
    response = connection.getresponse()
    response.read()
    # The connection stays.
    connection.request("POST", "/429/0/v1/chat/completions", body)
    second = connection.getresponse()
    second.read()
    connection.close()

    assert (response.status, response.headers["Retry-After"], second.status) == (429, "1", 200)


def test_half_a_response(faulty: Faulty) -> None:
    with pytest.raises(http.client.IncompleteRead):
        post(faulty.url("cut", 100))


def test_an_answer_that_comes_too_late(faulty: Faulty) -> None:
    with pytest.raises(TimeoutError):
        post(faulty.url("timeout", 100), timeout=0.2)


def test_stopping_does_not_wait_for_late_answers() -> None:
    with Faulty() as faulty:
        url = faulty.url("timeout", 100)
        late = threading.Thread(target=lambda: _quietly(url), daemon=True)
        late.start()
        while not faulty.asked:
            time.sleep(0.01)
        begun = time.monotonic()
    late.join(8)

    assert time.monotonic() - begun < 8
    assert not late.is_alive()


def _quietly(url: str) -> None:
    try:
        post(url)
    except OSError:
        pass
    except http.client.HTTPException:
        pass


def test_replies_without_an_answer(faulty: Faulty) -> None:
    assert post(faulty.url("empty_choices", 100))[1]["choices"] == []
    [choice] = post(faulty.url("null_content", 100))[1]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "stop")
    status, text = post(faulty.url("html", 100))
    assert (status, text[:6]) == (200, "<html>")


def test_nothing_listens(faulty: Faulty) -> None:
    with pytest.raises(urllib.error.URLError) as caught:
        post(faulty.refused)
    assert isinstance(caught.value.reason, ConnectionRefusedError)
    port = int(faulty.refused.split(":")[2].split("/")[0])
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("kind", [k for k in FAULTS if k != "timeout"])
def test_the_same_samples_fail_every_time(faulty: Faulty, kind: str) -> None:
    for _ in range(2):
        for k in (2, 3, 4, 13):
            fails = False
            try:
                fails = reply(faulty.url(kind, 10), OPTIONS.format(k)) != "A"
            except (AssertionError, http.client.IncompleteRead, IndexError, TypeError):
                fails = True
            assert fails == (k % 10 == 3)
    assert reply(faulty.url(kind, 0), OPTIONS.format(3)) == "A"


def test_what_was_asked_is_remembered(faulty: Faulty) -> None:
    post(faulty.url("500", 10), OPTIONS.format(13))
    post(faulty.judge("good", "mine"), "hello")

    first, second = faulty.asked
    assert {k: first[k] for k in ("kind", "share", "status", "sample", "key")} == {
        "kind": "500", "share": 10, "status": 500, "sample": 13, "key": "secret",
    }  # fmt: skip
    assert first["body"]["model"] == "m"
    assert first["time"] <= second["time"]
    assert (second["kind"], second["share"], second["sample"]) == ("judge-good", "mine", None)
    assert faulty.of("500") == faulty.of("500", 10) == [first]
    assert faulty.of("500", 100) == []


@pytest.mark.parametrize(
    ("text", "right", "wordy"),
    [
        (OPTIONS.format(7), "A", "It is surely the first of them, number 7"),
        (YES_NO.format(7), "Yes", "That is indeed so, number 7"),
        (SUM.format(7), r"\boxed{1007}", r"It comes to \boxed{1007}, for number 7"),
        (SHORT.format(7), "word7", "It says word7 there, on number 7"),
    ],
)
def test_answers_are_of_the_kind_asked_for(
    faulty: Faulty, text: str, right: str, wordy: str
) -> None:
    assert reply(faulty.url("ok"), text) == right
    assert reply(faulty.url("wordy"), text) == wordy


# The ends of upstream's prompts.
MCQ = (
    "help me to match an answer with several options of a single-choice question.\n"
    "Example 1: \nQuestion: q\nOptions: A. cat\nAnswer: a cute one\nYour output: A\n"
    "Question: What is number 4?\nOptions: There are several options: \nA. red\nB. green\n"
    "\nAnswer: {}\nYour output: "
)
YORN = (
    "help me to match an answer with two options of a question.\n"
    "Question: Is number 4 red?\nAnswer: {}\nYour output: "
)
QA = (
    "[Begin Ground-Truth]Usain Bolt[End Ground-Truth]\n[Begin Response]Bolt[End Response]\n"
    "[Begin Correctness]no[End Correctness]\n"
    "[Begin Question]What is on number 4?[End Question]\n"
    "[Begin Ground-Truth]word4[End Ground-Truth]\n[Begin Response]{}[End Response]\n"
)
GRADE = (
    "<Original Question Begin>: \nnumber 4\n<Original Question End>\n"
    "<Gold Target Begin>: \n1004\n<Gold Target End>\n"
    "<Predicted Answer Begin>: \n{}\n<Predicted End>\n"
)
YES = "[Begin Correctness] yes [End Correctness] [Begin Reason] r [End Reason]"


@pytest.mark.parametrize(
    ("prompt", "prediction", "verdict"),
    [
        (MCQ, said.wordy(OPTIONS, 4), "A"),
        (MCQ, "a lorry", "Z"),
        (YORN, said.wordy(YES_NO, 4), "Yes"),
        (YORN, "a lorry", "Unknown"),
        (QA, said.wordy(SHORT, 4), YES),
        (QA, said.wordy(SHORT, 5), YES.replace("yes", "no")),
        (GRADE, said.wordy(SUM, 4), "A"),
        (GRADE, said.wordy(SUM, 5), "B"),
        ("{}", "hello", "hi"),
    ],
)
def test_a_good_judge(faulty: Faulty, prompt: str, prediction: str, verdict: str) -> None:
    text = prompt.format(prediction)

    assert reply(faulty.judge("good"), text) == verdict
    begun = time.monotonic()
    assert reply(faulty.judge("slow"), text) == verdict
    assert time.monotonic() - begun >= said.SLOW


def test_a_dead_judge_cuts_every_reply(faulty: Faulty) -> None:
    for text in ("hello", MCQ.format("x")):
        with pytest.raises(http.client.IncompleteRead):
            post(faulty.judge("dead"), text)


def test_a_judge_dies_halfway_and_another_by_that_name_lives(faulty: Faulty) -> None:
    statuses = [post(faulty.judge("halfway", "a"), "hello")[0] for _ in range(10)]

    assert statuses == [200] * 8 + [503] * 2
    assert post(faulty.judge("halfway", "b"), "hello")[0] == 200


def test_a_judge_that_fails_for_some_samples(faulty: Faulty) -> None:
    failed = {
        k
        for k in range(20)
        for _ in range(2)
        if post(faulty.judge("errors30"), f"number {k}")[0] == 500
    }

    assert failed == {1, 4, 7, 11, 14, 17}
    assert reply(faulty.judge("errors30"), "hello") == "hi"


def test_a_judge_that_talks_nonsense(faulty: Faulty) -> None:
    assert reply(faulty.judge("nonsense"), MCQ.format("x")) == said.NONSENSE
    assert reply(faulty.judge("nonsense"), "hello") == "hi"
    # None of upstream's parsers finds a verdict in it.
    assert not {*said.NONSENSE} & {*"ABCDZ"}
    assert not {"yes", "no"} & {*said.NONSENSE.lower().split()}


def test_what_fails_once_for_each_sample(faulty: Faulty) -> None:
    for url, status in ((faulty.url("once429"), 429), (faulty.judge("once500"), 500)):
        found = [post(url, f"number {k}")[0] for k in (1, 1, 2, 1, 2)]
        assert found == [status, 200, status, 200, 200]
        assert post(url, "hello")[0] == 200


def test_a_wordy_model_cannot_tell_one_sample(faulty: Faulty) -> None:
    said_of = reply(faulty.url("wordy"), YES_NO.format(said.DOUBTFUL))

    assert "cannot tell" in said_of
    assert reply(faulty.judge("good"), YORN.format(said_of)) == "Unknown"


def test_unknown_kinds_are_refused(faulty: Faulty) -> None:
    for call in (lambda: faulty.url("418"), lambda: faulty.url("ok", 5), lambda: faulty.judge("x")):
        with pytest.raises(ValueError):
            call()
    assert post(faulty.url("ok"), path="/embeddings")[0] == 404
