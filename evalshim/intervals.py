"""By how much paired scores differ, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True)
class Interval:
    """The mean paired difference, second - first, with its 95% interval `low` to `high`.

    `first` and `second` are the means over the `n` pairs.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float


def interval(pairs: Sequence[tuple[float, float]]) -> Interval:
    """The mean difference of paired scores, with the 95% interval of Student's t.

    Two models answer the same questions, so the spread of the differences counts, not that
    of the scores: Miller (2024), "Adding Error Bars to Evals" (arXiv:2411.00640), section 4.2.
    Takes the samples for independent.

    Args:
        pairs: At least two, (first, second).
    """
    differences = [second - first for first, second in pairs]
    mean = fmean(differences)
    half = t_quantile(len(pairs) - 1) * stdev(differences) / math.sqrt(len(pairs))
    first, second = (fmean(scores) for scores in zip(*pairs, strict=True))
    return Interval(len(pairs), first, second, mean, mean - half, mean + half)


def t_quantile(df: int) -> float:
    """The 97.5% quantile of Student's t with `df` >= 1 degrees of freedom.

    To 30 from the exact distribution, above by the Cornish-Fisher expansion, which is then
    off by less than 3e-6: Abramowitz & Stegun (1964), 26.7.3 to 26.7.5.
    """
    if df > 30:
        z = NormalDist().inv_cdf(0.975)
        terms = (
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return sum(term / float(df) ** k for k, term in enumerate(terms))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < 0.95 else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _within(angle: float, df: int) -> float:
    """P(|t| < sqrt(df) * tan(angle)): A&S 26.7.3 for odd `df`, 26.7.4 for even."""
    cos, odd = math.cos(angle), df % 2
    term, total = (cos if odd else 1.0), 0.0
    for k in range(odd, df - 1, 2):
        total += term
        term *= cos**2 * (k + 1) / (k + 2)
    product = math.sin(angle) * total
    return 2 / math.pi * (angle + product) if odd else product
