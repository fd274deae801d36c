"""What stands beside a score of answers that were cut, or that think aloud."""

from __future__ import annotations

from dataclasses import replace

from evalshim.adapters import thoughts
from evalshim.spec import Sample


def _samples(*answers: tuple[str | None, str]) -> list[Sample]:
    plain = Sample("r", "vlmeval", "m", "d", "", "0")
    return [replace(plain, prediction=said, finish=finish) for said, finish in answers]


def test_answers_that_were_cut_and_thoughts_that_never_end_are_counted() -> None:
    samples = _samples(("<think>hm", "length"), ("A", "length"), ("<think>", "stop"), (None, ""))

    assert thoughts.notes(samples) == (
        "2 of 4 answers were cut at max_tokens",
        "2 of 4 answers have a <think> that never ends",
    )


def test_nothing_where_there_is_nothing_to_say() -> None:
    said = ("A", "", None, "<think>hm</think>A", "hm</think>A", "<think></think><think></think>")

    assert thoughts.notes(_samples(*((s, "stop") for s in said), ("A", "content_filter"))) == ()
    assert thoughts.notes([]) == ()
