"""The answers to one set of OpenCompass's: kept as they come, counted, explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalshim.worker import answers, channel

# The worker has no types.
Answers: Callable[..., Any] = answers.Answers


def _said(error: str = "", finish: str = "stop") -> SimpleNamespace:
    return SimpleNamespace(error=error, finish=finish)


def test_a_later_run_goes_on_where_this_one_was_cut_short(tmp_path: Path) -> None:
    path = str(tmp_path / "gsm8k.journal")
    seen = Answers(path, 3)
    call = seen.begin(["a", "b", "a"], 64)
    seen.note(call, 0, "first", _said())
    seen.note(call, 1, "", _said("HTTP 500: x"))  # is asked again

    again = Answers(path, 3)
    call = again.begin(["a", "b", "a"], 64)
    assert [again.earlier(call, i) for i in range(3)] == ["first", "", ""]
    second = again.begin(["a", "b", "a"], 64)  # the second turn of a conversation
    assert again.earlier(second, 0) == ""
    for inputs, limit in ((["b", "a"], 64), (["a", "b"], 32)):
        other = Answers(path, 3)
        assert other.earlier(other.begin(inputs, limit), 0) == ""
    again.done()
    assert [*tmp_path.iterdir()] == []


def test_what_is_not_to_be_kept_is_asked_for_again(tmp_path: Path) -> None:
    path = str(tmp_path / "judge.journal")

    def keeps(asked: str, answer: str) -> bool:
        return asked == "b" or answer != "nonsense"

    def all_said(**how: Any) -> list[str]:
        """What an earlier run has, and then "nonsense" to all."""
        seen = Answers(path, **how)
        call = seen.begin(["a", "b"], 64)
        found = [seen.earlier(call, i) for i in (0, 1)]
        for position in (0, 1):
            seen.note(call, position, "nonsense", _said())
        return found

    assert all_said(keeps=keeps) == ["", ""]
    assert all_said() == ["", "nonsense"]  # a version that keeps everything
    assert all_said() == ["nonsense", "nonsense"]
    assert all_said(keeps=keeps) == ["", "nonsense"]


def test_without_a_file_nothing_is_kept() -> None:
    seen = Answers()
    call = seen.begin(["a"], 64)
    seen.note(call, 0, "first", _said())

    assert seen.earlier(call, 0) == ""
    seen.done()


def test_each_sample_is_counted_once_however_often_it_is_asked() -> None:
    ticks: list[int] = []
    seen = Answers(None, 2, ticks.append)
    call = seen.begin(["a", "b"], 64)
    seen.note(call, 0, "", _said("HTTP 500: x"))
    seen.note(call, 1, "said", _said())
    seen.note(call, 0, "said", _said())
    seen.count(0)
    seen.count(2)

    assert ticks == [1, 1, 2]


def test_errors_are_those_of_the_last_call_and_without_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "_hidden", re.compile("sk-canary-12345678"))
    seen = Answers(None, 3)
    call = seen.begin(["a", "b", "c"], 64)
    seen.note(call, 0, "", _said("HTTP 401: sk-canary-12345678 " + "x" * 400))
    seen.note(call, 1, "", _said("HTTP 500: x"))
    seen.note(call, 1, "said", _said())

    assert [*seen.errors] == [0]
    assert seen.errors[0].startswith("HTTP 401: *** xxx")
    assert len(seen.errors[0]) == 300
    assert seen.last_error == "HTTP 500: x"


def test_what_is_no_sample_has_no_error() -> None:
    seen = Answers(None, 3)
    seen.note(seen.begin(["a"], 64), 0, "", _said("HTTP 500: x"))  # a part, e.g. of few shots

    assert (seen.errors, seen.finish, seen.last_error) == ({}, {}, "HTTP 500: x")


def test_a_later_call_says_nothing_of_a_samples_answer() -> None:
    seen = Answers(None, 1)
    seen.note(seen.begin(["a"], 64), 0, "", _said("HTTP 500: x"))
    seen.note(seen.begin(["a again"], 64), 0, "said", _said())

    assert seen.errors == {0: "HTTP 500: x"}


def test_an_answer_that_the_model_did_not_end_itself_is_noted() -> None:
    seen = Answers(None, 3)
    call = seen.begin(["a", "b", "c"], 64)
    for position, finish in enumerate(("length", "stop", "")):
        seen.note(call, position, "said", _said(finish=finish))

    assert seen.finish == {0: "length"}


def test_an_answer_that_was_cut_at_the_first_try_alone_is_not_noted() -> None:
    seen = Answers(None, 1)
    call = seen.begin(["a"], 64)
    seen.note(call, 0, "", _said("no text", "length"))
    seen.note(call, 0, "said", _said(finish="stop"))

    assert seen.finish == {}


def test_what_was_sent_and_who_answered_is_learnt_once() -> None:
    seen = Answers()
    query = {"messages": [], "model": "m", "timeout": 9, "temperature": 0.0, "top_p": None,
             "extra_body": {"top_k": 3}}  # fmt: skip
    seen.learn(query, SimpleNamespace(model="served-id"))
    seen.learn({"temperature": 1.0}, SimpleNamespace(model="other"))

    assert (seen.reported, seen.sent) == ("served-id", {"temperature": 0.0, "top_k": 3})


def test_a_dialogue_is_one_sample_of_several_calls() -> None:
    ticks: list[int] = []
    seen = Answers(None, 2, ticks.append)

    def dialogue(sample: int, *answers: str) -> None:
        seen.begin_dialogue(sample)
        for answer in answers:
            seen.note(seen.begin(["a turn"], 64), 0, answer, _said("" if answer else "HTTP 500: x"))
        seen.end_dialogue()

    dialogue(0, "said", "said")
    dialogue(1, "", "said")  # a later turn says nothing of an earlier one
    assert (seen.errors, ticks) == ({1: "HTTP 500: x"}, [1, 1])

    dialogue(1, "said", "said")  # from the beginning again
    assert (seen.errors, ticks) == ({}, [1, 1])
