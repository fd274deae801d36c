"""Science questions: picks the options that follow from the numbers of the question.

It knows formulas and units, no facts; its limits are listed in `answers`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fractions import Fraction

from evalshim.demo.arithmetic import NUMBER, TIME, first, without_commas

_LENGTH = rf"{NUMBER} (?:km|metres|cm|mm)\b(?! per)"
_MASS = rf"{NUMBER} (?:kg|g)\b(?! per)"
_VOLUME = rf"{NUMBER} (?:cubic centimetres|mL)\b"
_TIME = rf"{NUMBER} {TIME}s?\b"
_SPEED = rf"{NUMBER} (?:km|metres|cm|mm) per {TIME}\b"
_DENSITY = rf"{NUMBER} g per (?:cubic centimetre|mL)\b"
_FORCE = rf"{NUMBER} N\b"
_RATE = rf"{NUMBER} \w+ (?:each|every|an?|per) {TIME}\b"

_Operation = Callable[[Fraction, Fraction], Fraction]
# What is asked, the two quantities it follows from, and how.
_FORMULAS: tuple[tuple[str, str, str, _Operation], ...] = (
    (r"speed|how fast", _LENGTH, _TIME, operator.truediv),
    (r"how far", _SPEED, _TIME, operator.mul),
    (r"how long", _LENGTH, _SPEED, operator.truediv),
    (r"density", _MASS, _VOLUME, operator.truediv),
    (r"\bmass\b", _DENSITY, _VOLUME, operator.mul),
    (r"\bwork\b", _FORCE, _LENGTH, operator.mul),
    (r"how many", rf"[Ee]ach \w+ has {NUMBER}", rf"\bdo {NUMBER}", operator.mul),
    (r"how much|how many", _RATE, _TIME, operator.mul),
)


def _span(numbers: list[Fraction]) -> Fraction:
    return max(numbers) - min(numbers)


# What a text speaks of, and what it makes of all its numbers.
_SUMMARIES: tuple[tuple[str, Callable[[list[Fraction]], Fraction]], ...] = (
    (r"\b(?:average|mean)\b", lambda numbers: sum(numbers, Fraction(0)) / len(numbers)),
    (r"\b(?:difference|rise|fall|warmer|colder|opposite)\b", _span),
    (r"\b(?:total|altogether|solution|net force)\b", lambda numbers: sum(numbers, Fraction(0))),
)
_EXTREMES: tuple[tuple[str, Callable[[list[Fraction]], Fraction]], ...] = (
    (r"most|(?:warm|hott|high|long|heavi|fast|dens|tall|strong|large|loud|bright)est", max),
    (r"least|(?:cold|cool|low|short|light|slow|small|weak|quiet|dimm)est", min),
)


def fitting(text: str, options: dict[str, str]) -> list[str]:
    """The letters of the options that follow from the text; none where no rule fits.

    Args:
        text: the question with all it tells, without its options.
        options: their texts by letter.
    """
    text = without_commas(text)
    question = re.split(r"(?<=[.?!])\s+", text)[-1].lower()
    readings = {letter: _reading(option, text) for letter, option in options.items()}
    known = [value for value in readings.values() if value is not None]
    for pattern, pick in _EXTREMES:
        if len(known) == len(options) and re.search(rf"\b(?:{pattern})\b", question):
            return [letter for letter, value in readings.items() if value == pick(known)]
    value = _formula(question, text)
    if value is None:
        value = _summary(text)
    amounts = {letter: first(NUMBER, without_commas(text)) for letter, text in options.items()}
    return [letter for letter, amount in amounts.items() if amount is not None and amount == value]


def _reading(name: str, text: str) -> Fraction | None:
    """The first number after a name, unless another sentence or entry comes between."""
    return first(rf"\b{re.escape(name)}\b[^\d.;,]*?{NUMBER}", text)


def _formula(question: str, text: str) -> Fraction | None:
    for asked, left_pattern, right_pattern, operation in _FORMULAS:
        left, right = first(left_pattern, text), first(right_pattern, text)
        if re.search(asked, question) and left and right:
            return operation(left, right)
    return None


def _summary(text: str) -> Fraction | None:
    numbers = [Fraction(number) for number in re.findall(NUMBER, text)]
    rule = next((rule for pattern, rule in _SUMMARIES if re.search(pattern, text)), None)
    return rule(numbers) if rule and len(numbers) > 1 else None
