"""What became of answers that were cut, or that thought aloud: told beside a score."""

from __future__ import annotations

from collections.abc import Sequence

from evalshim.spec import Sample


def notes(samples: Sequence[Sample]) -> tuple[str, ...]:
    """What a reader of the score should know of the answers."""
    n = len(samples)
    cut = sum(s.finish == "length" for s in samples)
    unclosed = sum(_is_unclosed(s.prediction or "") for s in samples)
    found = []
    if cut:
        found.append(f"{cut} of {n} answers were cut at max_tokens")
    if unclosed:
        found.append(f"{unclosed} of {n} answers have a <think> that never ends")
    return tuple(found)


def _is_unclosed(text: str) -> bool:
    return text.rfind("<think>") > text.rfind("</think>")
