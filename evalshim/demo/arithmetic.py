"""Word problems: an adding machine that reads a story clause by clause.

It knows verbs and a few phrases, not what a story means; its limits are listed
in `answers`.
"""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

NUMBER = r"(\d+(?:\.\d+)?)"
TIME = r"(?:second|minute|hour|day|week|month|year)"

_UNKNOWN = r"%|\b(?:per ?cent|third|quarter|fifth|tenth|dozen|twice)\b"
_QUESTION = r"(?i)\b(?:how (?:many|much|long|far)|what)\b[^?]*\?\s*$"
_SUM = rf"(?i)\bwhat is {NUMBER} ([-+x/]) {NUMBER}\?"
_CLAUSE_END = r"[.;?!](?:\s|$)|,\s|\s(?:and|but|then)\s"
_LOSES = (
    r"\b(?:gives?|gave|loses?|lost|sells?|sold|eats?|ate|uses?|used|spends?|spent|breaks?|lends?"
    r"|drops?|drinks?|takes? out|takes? away|gets? off|costing)\b"
)
_GAINS = (
    r"\b(?:has|have|finds?|found|buys?|bought|gets?|got|wins?|won|picks?|collects?|collected"
    r"|bakes?|earns?|makes?|more|pays?|reads?|there (?:is|are))\b"
)
_OPERATIONS = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.truediv}


def solve(problem: str) -> str | None:
    """The working and the answer, the number at the end; None where no rule fits.

    Of a sum that is asked as it stands the number alone.
    """
    problem = without_commas(problem)
    if plain := re.search(_SUM, problem):
        left, sign, right = plain.groups()
        with contextlib.suppress(ZeroDivisionError):
            return _show(_OPERATIONS[sign](Fraction(left), Fraction(right)))
    asked = re.search(_QUESTION, problem)
    if not asked or re.search(_UNKNOWN, problem):
        return None
    story = _Story()
    try:
        for clause in re.split(_CLAUSE_END, _with_prices(problem[: asked.start()])):
            story.read(clause)
        value = story.conclude(asked[0].lower())
    except (IndexError, ZeroDivisionError):  # the story begins in the middle, or divides by 0
        return None
    return " ".join([*(f"{step}." for step in story.steps), f"The answer is {_show(abs(value))}"])


def without_commas(text: str) -> str:
    """The text with `1,200` as `1200`."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)


def first(pattern: str, text: str) -> Fraction | None:
    """The number that the pattern's group holds where it is first found in the text."""
    match = re.search(pattern, text)
    return Fraction(match[1]) if match else None


def _with_prices(told: str) -> str:
    """The story with "a pen costs 4 dollars" left out, and "6 pens" as "6 pens costing 4"."""
    cost = rf"(?:\b[Aa]n? )?(\w+?)s? costs? {NUMBER} dollars?(?: each)?"
    for item, price in re.findall(cost, told):
        told = re.sub(rf"{NUMBER} {item}s?\b", rf"\g<0> costing {price}", told)
    return re.sub(cost, "", told)


def _show(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


@dataclass
class _Story:
    """What is told so far, as terms to add up, with the working to show."""

    terms: list[Fraction] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    sign: int = 1  # of the last verb: "gives 7 to Ana and 5 to Ben"
    compares: bool = False  # the terms are what several people have

    def work(self, left: Fraction, sign: str, right: Fraction) -> Fraction:
        """Compute and note one step."""
        value: Fraction = _OPERATIONS[sign](left, right)
        self.steps.append(f"{_show(left)} {sign} {_show(right)} = {_show(value)}")
        return value

    def total(self) -> Fraction:
        """All terms added up, which leaves one."""
        while len(self.terms) > 1:
            one, two, *rest = self.terms
            self.terms = [self.work(one, "-" if two < 0 else "+", abs(two)), *rest]
        return self.terms[0]

    def change(self, sign: str, by: Fraction) -> None:
        """Multiply or divide what there is."""
        self.terms = [self.work(self.total(), sign, by)]

    def compare(self, sign: str, by: Fraction) -> None:
        """Add what somebody has compared with the one before."""
        self.terms.append(self.work(self.terms[-1], sign, by))
        self.compares = True

    def read(self, clause: str) -> None:
        """Take in one clause; the first rule that fits reads it, none ignores it."""
        if re.search(_LOSES, clause):
            self.sign = -1
        elif re.search(_GAINS, clause):
            self.sign = 1
        for pattern, rule in _RULES:
            match = re.search(pattern, clause)
            if match:
                rule(self, *map(Fraction, match.groups()))
                break

    def conclude(self, question: str) -> Fraction:
        """What the question asks for, once the story is read."""
        if re.search(r"how many (?:more|fewer)", question):
            ordered = sorted(self.terms)
            return self.work(ordered[-1], "-", ordered[0])
        if self.compares and not re.search(r"altogether|together|in all|total", question):
            return self.terms[-1]
        duration = first(rf"\bin {NUMBER} {TIME}", question)
        if duration is not None:
            self.change("x", duration)
        return self.total()


_RULES: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"{NUMBER} times as many", lambda story, n: story.compare("x", n)),
    (r"half as many", lambda story: story.compare("/", Fraction(2))),
    (rf"{NUMBER} more .*than", lambda story, n: story.compare("+", n)),
    (rf"{NUMBER} (?:fewer|less) .*than", lambda story, n: story.compare("-", n)),
    (rf"\b(?:among|between|(?:into|in) \w+ of) {NUMBER}", lambda story, n: story.change("/", n)),
    # "8 trays with 11 rolls", "7 jars of honey for 6 dollars", "19 pages every day for 5 days"
    (
        rf"{NUMBER} (?:\w+ ){{1,3}}(?:with|of|for|at|costing) {NUMBER}",
        lambda story, n, m: story.terms.append(story.sign * story.work(n, "x", m)),
    ),
    (r"\bhalf\b", lambda story: story.change("/", Fraction(2))),
    (rf"\b[Ee]ach (?:\w+ ){{1,2}}{NUMBER}", lambda story, n: story.change("x", n)),
    (NUMBER, lambda story, n: story.terms.append(story.sign * n)),
)
