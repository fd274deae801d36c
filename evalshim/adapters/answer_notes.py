"""What became of answers that were cut, thought aloud, or never came: told beside a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evalshim.spec import Sample


def notes(samples: Sequence[Sample]) -> tuple[str, ...]:
    """What a reader of the score should know of the answers."""
    n = len(samples)
    cut = sum(s.finish == "length" for s in samples)
    unclosed = sum(_is_unclosed(s.prediction or "") for s in samples)
    failed = sum(s.prediction is None for s in samples)
    reasons = Counter(s.error for s in samples if s.prediction is None and s.error)
    found = []
    if 0 < failed < n:
        why = [f", {k} of them: {' '.join(e.split())[:200]}" for e, k in reasons.most_common(1)]
        found.append(f"{failed} of {n} samples have no answer{''.join(why)}")
    if cut:
        found.append(f"{cut} of {n} answers were cut at max_tokens")
    if unclosed:
        found.append(f"{unclosed} of {n} answers have a <think> that never ends")
    return tuple(found)


def _is_unclosed(text: str) -> bool:
    return text.rfind("<think>") > text.rfind("</think>")
