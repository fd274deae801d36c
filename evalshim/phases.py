"""Where the time of a run went: spans of the clock, added up by phase."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

# What a moment counts as when cells are at several: the first of these.
ORDER = ("inference", "scoring", "plan", "import", "start", "collect")

# Its name, when it began and when it ended, in seconds since 1970.
Span = tuple[str, float, float]


def seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Seconds of each phase in `ORDER`; none is counted twice, so that they add up to the run."""
    spans = list(spans)
    edges = sorted({edge for _, begun, ended in spans for edge in (begun, ended)})
    found = dict.fromkeys(ORDER, 0.0)
    for begun, ended in itertools.pairwise(edges):
        under_way = {name for name, b, e in spans if b <= begun and e >= ended}
        if name := next((n for n in ORDER if n in under_way), None):
            found[name] += ended - begun
    return {name: round(total, 3) for name, total in found.items()}
