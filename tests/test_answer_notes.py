"""What stands beside a score of answers that were cut, think aloud, or never came."""

from __future__ import annotations

from dataclasses import replace

from evalshim.adapters import answer_notes
from evalshim.spec import Sample


def _samples(*answers: tuple[str | None, str]) -> list[Sample]:
    plain = Sample("r", "vlmeval", "m", "d", "", "0")
    return [replace(plain, prediction=said, finish=finish) for said, finish in answers]


def test_answers_that_were_cut_and_thoughts_that_never_end_are_counted() -> None:
    samples = _samples(("<think>hm", "length"), ("A", "length"), ("<think>", "stop"), ("B", ""))

    assert answer_notes.notes(samples) == (
        "2 of 4 answers were cut at max_tokens",
        "2 of 4 answers have a <think> that never ends",
    )


def test_nothing_where_there_is_nothing_to_say() -> None:
    said = ("A", "", "<think>hm</think>A", "hm</think>A", "<think></think><think></think>")

    assert answer_notes.notes(_samples(*((s, "stop") for s in said), ("A", "content_filter"))) == ()
    assert answer_notes.notes([]) == ()


def test_samples_without_an_answer_are_counted_with_the_reason_of_most() -> None:
    answered, failed = _samples(("A", "stop"), (None, ""))
    busy, gone = replace(failed, error="HTTP 503:\nbusy"), replace(failed, error="timed out")

    assert answer_notes.notes([busy, answered, gone, busy]) == (
        "3 of 4 samples have no answer, 2 of them: HTTP 503: busy",
    )
    assert answer_notes.notes([answered, failed]) == ("1 of 2 samples have no answer",)


def test_where_no_sample_has_an_answer_the_error_of_the_cell_says_so() -> None:
    [failed] = _samples((None, ""))

    assert answer_notes.notes([failed, failed]) == ()
