"""A judge is seen to answer or not, and what becomes of an evaluation if not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from evalshim.worker import channel, grading

# The worker has no types.
Grading: Callable[[Any], Any] = grading.Grading
JUDGE = {"model": "qwen", "at": "http://j/v1", "fallback": "error"}
ALLOWED = {**JUDGE, "fallback": "allow"}


class Word:
    """A judge's answer when it is asked for a word: each of `answers`, then the last again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_calls_without_an_answer_are_counted_by_their_sample() -> None:
    seen, word = Grading(JUDGE), Word(True)
    calls = [("0", True), ("1", True), ("1", False), ("2", False), ("3", True), ("3", True)]
    for sample, failed in calls:
        seen.count(sample, failed, word)

    assert seen.ungraded == {"0", "3"}
    assert (word.asked, seen.dead, seen.fallback) == (0, "", False)


def test_three_in_a_row_are_suspicious_and_a_judge_that_has_a_word_goes_on() -> None:
    seen, word = Grading(JUDGE), Word(True)
    for sample in range(7):
        seen.count(sample, True, word)

    assert (word.asked, seen.dead) == (2, "")  # after the third and the sixth
    assert len(seen.ungraded) == 7


def test_a_judge_that_has_no_word_is_dead_and_says_why() -> None:
    seen, word = Grading(JUDGE), Word(False)
    seen.problem = "HTTP 503: overloaded"
    seen.count(0, True, word)
    seen.count(1, True, word)
    with pytest.raises(grading.JudgeError) as caught:
        seen.count(2, True, word)

    assert word.asked == 3
    assert str(caught.value) == (
        "the judge qwen at http://j/v1 does not answer (HTTP 503: overloaded); "
        "the predictions are kept, `--mode eval` scores them"
    )
    with pytest.raises(grading.JudgeError):
        seen.count(3, True, word)
    assert word.asked == 3
    seen.count(4, False, word)  # it was under way already
    assert seen.ungraded == {0, 1, 2, 3}


def test_a_probe_has_three_tries_and_an_exception_is_no_answer() -> None:
    seen = Grading(JUDGE)
    seen.probe(word := Word(ConnectionError("refused"), False, True))
    assert (word.asked, seen.dead) == (3, "")

    seen.probe(word := Word(ConnectionError("refused")))
    assert (word.asked, seen.dead) == (3, "no answer")


def test_no_key_in_why_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_hidden", re.compile("sk-canary-12345678"))
    seen = Grading(JUDGE)
    seen.problem = "HTTP 401: bad key sk-canary-12345678"
    seen.probe(Word(False))

    assert "canary" not in str(seen.error())
    assert "bad key ***" in str(seen.error())


def test_upstream_grades_without_it_only_where_that_is_allowed() -> None:
    graded = [Grading(judge) for judge in (JUDGE, ALLOWED, None)]
    assert [seen.may_do_without for seen in graded] == [False, True, False]
    assert [seen.fallback for seen in graded] == [False, False, False]

    for seen in graded:
        seen.without = True
    # Where no judge was asked for it is none.
    assert [seen.fallback for seen in graded] == [True, True, False]


def test_a_set_that_wants_a_judge_where_there_is_none_says_how_to_name_one() -> None:
    assert str(Grading(None).error()).startswith(
        "upstream grades this set by a judge, and there is none: `judge: {model: ..."
    )


def test_an_answer_that_is_no_verdict_leaves_its_sample_ungraded_and_the_judge_alive() -> None:
    seen = Grading(JUDGE)
    for sample in range(4):
        seen.count(sample, False, Word(True))
        seen.unread(sample)
    assert (seen.ungraded, seen.dead) == ({0, 1, 2, 3}, "")

    seen.count(3, False, Word(True))  # asked again, and now it says something
    assert seen.ungraded == {0, 1, 2}


def test_a_sample_without_an_answer_is_not_counted_twice() -> None:
    seen = Grading(JUDGE)
    seen.count(None, True, Word(True))
    seen.unread(None)

    assert seen.ungraded == set()
