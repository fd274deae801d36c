"""The rule-based program behind the demo endpoint: it reads, looks and computes.

It must never look an answer up: nothing here knows a question, an index or a
picture of the demo's data. What no rule covers gets a sentence that says so.

Its known limits, which cost it a part of the demo's data:

Pictures
- Shapes of one colour that touch or overlap are seen as one shape.
- A shape is told by how much of its bounding box it fills, so a square that
  stands on its corner passes for a triangle.
- It has eight colour names; pink passes for red, brown for orange.
- It knows where shapes are, but has no rule for which are close to each other.

Word problems
- No percentages, no dozens and no fractions other than a half.
- No conversion of units: minutes are taken for hours.
- It reads a story forwards only; what was there "at first" it cannot work out.
- It divides exactly and does not round up to whole buses or boxes.
- It takes every number of a story for a part of the sum, needed or not.

Science
- It knows no facts, only what can be computed from the question itself.
- No negative numbers: the sign of -5 °C is lost.
- No conversion of units: 500 g are more than 2 kg.
"""

from __future__ import annotations

import base64
import binascii
import colorsys
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import dist
from typing import Any


class _NoRuleError(Exception):
    """No rule covers the question; the message is the honest reply.

    The messages hold no digit, no capital A to D and no option's text: upstream
    would take any of these for an answer.
    """


_NO_RULE = "Sorry, this is a rule-based demo, not a model, and it has no rule for this question."


def answer(messages: list[dict[str, Any]]) -> str:
    """The reply to the last user message of a chat in OpenAI's form."""
    user = [message for message in messages if message.get("role") == "user"]
    message = user[-1] if user else {}
    # In a few-shot prompt without turns, the question to answer is the last one.
    text = text_of(message).rpartition("Question:")[2]
    choices = dict(re.findall(r"^\s*([A-H])[.)] *(.*\S)", text, re.MULTILINE))
    ends = r"\n\s*(?:Options:|A[.)] |Answer:|Let's think|Please )"
    stem = " ".join(re.split(ends, text)[0].split())
    try:
        urls = _picture_urls(message)
        if urls:
            return _say(_look(stem, _find_shapes(_decode(urls[-1])), choices), choices)
        if choices:
            return _say(_science(stem, choices), choices)
        return _word_problem(stem)
    except _NoRuleError as reason:
        return str(reason)


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _say(letter: str, choices: dict[str, str]) -> str:
    text = choices[letter]
    # Upstream's exact matching gives up on a second lone capital, and takes a
    # leading "A" for an article where more than two words follow.
    if len(text.split()) > 2 or re.search(r"\b[A-Z]\b", text):
        return letter
    return f"{letter}. {text}"


# Pictures


_Pixel = tuple[int, int, int]


@dataclass(frozen=True)
class _Shape:
    """A connected patch of one colour; the position is in widths and heights, 0 to 1."""

    kind: str
    colour: str
    x: float
    y: float
    area: int


_KINDS = ("circle", "square", "triangle", "rectangle")
# Where a colour's hue ends, in degrees; red is on both sides of 0.
_HUES = (
    (16, "red"),
    (42, "orange"),
    (70, "yellow"),
    (170, "green"),
    (255, "blue"),
    (335, "purple"),
    (361, "red"),
)
_COLOURS = (*dict.fromkeys(name for _, name in _HUES), "black", "white")
_LONGEST_SIDE = 256
_SPECK = 0.003  # of the picture: JPEG leaves stray pixels of odd colours along edges


def _picture_urls(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    urls = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") == "image_url":
            image = part.get("image_url")
            urls.append(str(image.get("url", "") if isinstance(image, dict) else image))
    return urls


def _decode(url: str) -> Any:
    """The picture of a `data:` URL, RGB, its longest side at most `_LONGEST_SIDE`."""
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise _NoRuleError(
            "Sorry, this rule-based demo cannot see the picture: "
            "it opens no addresses, only pictures sent with the message."
        )
    from PIL import Image  # imported here, since the endpoint must start fast

    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            rgb = picture.convert("RGB")
            # Without smoothing, which would mix new colours along edges.
            rgb.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.NEAREST)
            return rgb
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise _NoRuleError(
            "Sorry, this rule-based demo cannot see the picture: it could not be decoded."
        ) from e


def _name_colour(red: int, green: int, blue: int) -> str | None:
    """The colour's name; None for the light background and for blurred edges."""
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 60:
        return "black" if high < 90 else None
    hue = 360 * colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]
    return next(name for end, name in _HUES if hue < end)


def _find_shapes(picture: Any) -> list[_Shape]:
    """The coloured patches of a picture, by flood fill over named colours."""
    width, height = picture.size
    raw = picture.tobytes()
    pixels = list(zip(raw[::3], raw[1::3], raw[2::3], strict=True))
    names = [_name_colour(*pixel) for pixel in pixels]
    light = [pixel for pixel, name in zip(pixels, names, strict=True) if name is None]
    background = _mean(light or [(255, 255, 255)])
    shapes = []
    for start, colour in enumerate(names):
        if colour is None:
            continue
        names[start] = None
        patch, todo = [], [start]
        while todo:
            here = todo.pop()
            patch.append(here)
            x = here % width
            around = (
                here - 1 if x else -1,
                here + 1 if x + 1 < width else -1,
                here - width,
                here + width,
            )
            for there in around:
                if 0 <= there < len(names) and names[there] == colour:
                    names[there] = None
                    todo.append(there)
        if len(patch) >= _SPECK * width * height:
            # JPEG leaves a tinted fringe: what is more background than shape goes.
            own = _mean([pixels[i] for i in patch])
            solid = [i for i in patch if dist(pixels[i], own) <= dist(pixels[i], background)]
            shapes.append(_measure(solid, colour, width, height))
    return shapes


def _mean(pixels: Sequence[_Pixel]) -> tuple[float, ...]:
    return tuple(sum(channel) / len(pixels) for channel in zip(*pixels, strict=True))


def _measure(patch: list[int], colour: str, width: int, height: int) -> _Shape:
    (left, right), (top, bottom) = (
        _extent(i % width for i in patch),
        _extent(i // width for i in patch),
    )
    wide, high = right - left + 1, bottom - top + 1
    inside = sum(left <= i % width <= right and top <= i // width <= bottom for i in patch)
    fill = inside / (wide * high)  # about: square 1, circle 0.8, triangle 0.55
    if fill > 0.87:
        kind = "square" if max(wide, high) < 1.3 * min(wide, high) else "rectangle"
    else:
        kind = "circle" if fill > 0.7 else "triangle"
    x, y = (left + wide / 2) / width, (top + high / 2) / height
    return _Shape(kind, colour, x, y, len(patch))


def _extent(positions: Iterable[int]) -> tuple[int, int]:
    """The first and last row or column of a patch, without the fringe that JPEG leaves."""
    counts = Counter(positions)
    solid = [at for at, count in counts.items() if count >= 0.1 * max(counts.values())]
    return min(solid), max(solid)


def _look(stem: str, shapes: list[_Shape], choices: dict[str, str]) -> str:
    """The letter of the option that is right for the picture."""
    question = stem.lower().replace("color", "colour")
    attribute: Callable[[_Shape], str] = (
        (lambda shape: shape.colour)
        if re.search(r"\b(?:what|which) (?:is the )?colour", question)
        else (lambda shape: shape.kind)
    )
    if re.search(r"clos(?:e|est|er) to|next to|between|touch", question) or not shapes:
        raise _NoRuleError(_NO_RULE)
    if re.search(r"how many (?:different )?colours", question):
        return _option(str(len({shape.colour for shape in shapes})), choices)
    if "how many" in question:
        return _option(str(len(_named(question, shapes))), choices)
    if re.search(r"\bnot\b|missing", question):
        seen = {attribute(shape) for shape in shapes}
        return _only(letter for letter, text in choices.items() if text.lower() not in seen)
    if re.search(r"most (?:often|common)", question):
        ((most, _),) = Counter(map(attribute, shapes)).most_common(1)
        return _option(most, choices)
    shape = _pick(question, shapes)
    if re.search(r"\bwhere\b|which (?:part|corner)", question):
        return _option(_zone(shape), choices)
    return _option(attribute(shape), choices)


def _named(question: str, shapes: list[_Shape]) -> list[_Shape]:
    """The shapes of the colours and kinds a question names; all of them where it names none."""
    colours = [colour for colour in _COLOURS if re.search(rf"\b{colour}\b", question)]
    kinds = [kind for kind in _KINDS if re.search(rf"\b{kind}s?\b", question)]
    return [
        shape
        for shape in shapes
        if (not colours or shape.colour in colours) and (not kinds or shape.kind in kinds)
    ]


def _pick(question: str, shapes: list[_Shape]) -> _Shape:
    """The one shape a question is about."""
    side = re.search(r"(left of|right of|above|below) (?:the )?(.*)", question)
    if side:
        anchors = _named(side[2], shapes)
        if len(anchors) != 1:
            raise _NoRuleError(_NO_RULE)
        anchor = anchors[0]
        beyond: dict[str, Callable[[_Shape], float]] = {
            "left of": lambda shape: anchor.x - shape.x,
            "right of": lambda shape: shape.x - anchor.x,
            "above": lambda shape: anchor.y - shape.y,
            "below": lambda shape: shape.y - anchor.y,
        }
        distance = beyond[side[1]]
        candidates = [shape for shape in shapes if distance(shape) > 0.1]
        if not candidates:
            raise _NoRuleError(_NO_RULE)
        return min(candidates, key=distance)
    candidates = _named(question, shapes)
    if not candidates:
        raise _NoRuleError(_NO_RULE)
    orders: tuple[tuple[str, Callable[[_Shape], float]], ...] = (
        (r"largest|biggest", lambda shape: -shape.area),
        (r"smallest", lambda shape: shape.area),
        (r"furthest to the left|leftmost", lambda shape: shape.x),
        (r"furthest to the right|rightmost", lambda shape: -shape.x),
        (r"highest|topmost|nearest the top", lambda shape: shape.y),
        (r"lowest|bottommost", lambda shape: -shape.y),
    )
    for pattern, order in orders:
        if re.search(pattern, question):
            return min(candidates, key=order)
    if len(candidates) > 1:
        raise _NoRuleError(_NO_RULE)
    return candidates[0]


def _zone(shape: _Shape) -> str:
    row = "top" if shape.y < 0.4 else "bottom" if shape.y > 0.6 else ""
    column = "left" if shape.x < 0.4 else "right" if shape.x > 0.6 else ""
    return f"{row} {column}".strip() or "centre"


def _option(text: str, choices: dict[str, str]) -> str:
    return _only(letter for letter, choice in choices.items() if choice.lower() == text)


def _only(letters: Iterable[str]) -> str:
    """The one letter there is; a tie or nothing is no answer."""
    found = list(letters)
    if len(found) != 1:
        raise _NoRuleError(
            "Sorry, what this rule-based demo works out does not fit exactly one of the options."
        )
    return found[0]


# Numbers in text

_N = r"(\d+(?:\.\d+)?)"
_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_TIME = r"(?:second|minute|hour|day|night|week|month|year)"


def _plain(text: str) -> str:
    """The text with `1,200` as `1200`."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)


def _with_digits(text: str) -> str:
    """The text with every number as plain digits, `1,200` and `twelve` alike."""
    text = re.sub(r"[$€]" + _N, r"\1 dollars", _plain(text))
    for number, word in enumerate((*_WORDS, "twelve"), start=2):
        text = re.sub(rf"\b{word}\b", str(number), text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:twice|double)\b", "2 times", text)
    return re.sub(r"\btriple\b", "3 times", text)


def _show(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _first(pattern: str, text: str) -> Fraction | None:
    match = re.search(pattern, text, re.IGNORECASE)
    return Fraction(match[1]) if match else None


# Word problems

_SPLIT = r"[.;?!](?:\s+|$)|,\s+(?:and\s+|but\s+)?(?:then\s+)?|\s+(?:and|but|then)\s+(?:then\s+)?"
_LOSES = (
    r"\b(?:gives?|gave|loses?|lost|sells?|sold|eats?|ate|uses?|used|spends?|spent|breaks?|broke"
    r"|donates?|throws?|drinks?|removes?|lends?|leaves?|left|gets? off|got off|fl(?:y|ies|ew) away"
    r"|melts?|wilts?|burns?|pops?|takes? out|takes? away|returns?|drops?|pours? out)\b"
)
_GAINS = (
    r"\b(?:finds?|found|buys?|bought|gets?|got|receives?|wins?|won|picks?|adds?|collects?"
    r"|bakes?|earns?|saves?|arrives?|joins?|get on|more|makes?|gathers?|catches|plants?|has|have"
    r"|had|starts?|is|are|was|were|holds?|orders?|fills?|packs?|reads?|rides?|runs?|walks?"
    r"|prints?|sets?|puts?|carries|lays?|knits?)\b"
)
_NOT_NAMES = {"She", "He", "They", "It", "The", "There", "Each", "Every", "How", "Her", "His"}


@dataclass
class _Story:
    """What is known after the sentences read so far, with the working to show."""

    total: Fraction | None = None
    money: Fraction | None = None  # what was bought or sold is worth
    paid: Fraction | None = None
    rate: Fraction | None = None
    sign: int = 1  # of the last verb: "gives 7 to Ana and 5 to Ben"
    held: dict[str, Fraction] = field(default_factory=dict)  # by name of a person
    prices: dict[str, Fraction] = field(default_factory=dict)  # by item, singular
    sizes: dict[str, Fraction] = field(default_factory=dict)  # by container, singular
    steps: list[str] = field(default_factory=list)

    def work(self, left: Fraction, operation: str, right: Fraction) -> Fraction:
        """Compute and note one step."""
        if operation == "/" and not right:
            raise _NoRuleError(_NO_RULE)
        value = {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "x": lambda: left * right,
            "/": lambda: left / right,
        }[operation]()
        self.steps.append(f"{_show(left)} {operation} {_show(right)} = {_show(value)}")
        return value

    def change(self, amount: Fraction, sign: int) -> None:
        """Add to what is there, or take from it."""
        if self.total is None:
            self.total = amount
        else:
            self.total = self.work(self.total, "+" if sign > 0 else "-", amount)


def _word_problem(stem: str) -> str:
    """The working and the answer, as a number at the end."""
    text = _with_digits(stem)
    unknown = r"%|\bper ?cent|\b(?:third|quarter|fifth|tenth|dozen)s?\b|\d/\d"
    asks = re.search(r"\b(?:how (?:many|much|long|far)|what)\b[^?]*\?\s*$", text, re.IGNORECASE)
    if not asks or not re.search(r"\d", text) or re.search(unknown, text, re.IGNORECASE):
        raise _NoRuleError(_NO_RULE)
    told, question = text[: asks.start()], asks[0].lower()
    story = _Story()
    for item, price in _prices(told):
        story.prices[_singular(item)] = price
    for clause in re.split(_SPLIT, told):
        _read(clause, story)
    value = _conclude(question, story)
    if value is None or value < 0:
        raise _NoRuleError(_NO_RULE)
    working = ". ".join(story.steps)
    return f"{working}. The answer is {_show(value)}".removeprefix(". ")


def _singular(noun: str) -> str:
    return re.sub(r"(?<=ch|sh|ss|us)es$|(?<=x)es$|(?<![us])s$", "", noun.lower())


def _prices(text: str) -> list[tuple[str, Fraction]]:
    """The items with a price each: before the story, since the price may come last."""
    cost = r"(?:costs?|sells? for|is sold for)"
    one = rf"\b(?:an?|each|every|one) (\w+)(?: of \w+)? {cost} {_N}"
    many = rf"(\w+) {cost} {_N} \w+ each"
    found = re.findall(one, text, re.IGNORECASE) + re.findall(many, text, re.IGNORECASE)
    return [(item, Fraction(price)) for item, price in found]


def _read(clause: str, story: _Story) -> None:
    """Take one clause of a story in; the first rule that fits reads it, none ignores it."""
    for rule in (
        _read_money,
        _read_comparison,
        _read_sharing,
        _read_groups,
        _read_rate,
        _read_change,
    ):
        if rule(clause, story):
            return


def _read_money(clause: str, story: _Story) -> bool:
    if re.search(r"\b(?:costs?|sells? for|is sold for)\b", clause):
        return True  # prices have been read before
    bill = _first(rf"(?:pays?|paid) with .*?{_N}", clause)
    if bill is not None:
        story.paid = bill
        return True
    at = re.search(rf"{_N} [\w ]+?(?:at|for) {_N} dollars? (?:each|apiece|per)", clause)
    pairs = [(at[1], Fraction(at[2]))] if at else []
    if not pairs:
        for number, item in re.findall(rf"{_N} (\w+)", clause):
            if _singular(item) in story.prices:
                pairs.append((number, story.prices[_singular(item)]))
    for number, price in pairs:
        cost = story.work(Fraction(number), "x", price)
        story.money = cost if story.money is None else story.work(story.money, "+", cost)
    return bool(pairs)


def _read_comparison(clause: str, story: _Story) -> bool:
    who = re.match(r"\s*([A-Z]\w+)", clause)
    half = re.search(r"\bhalf as many .*\bas ([A-Z]\w+)", clause)
    times = re.search(rf"{_N} times as many .*\bas ([A-Z]\w+)", clause)
    more = re.search(rf"{_N} (more|fewer|less)\b.*\bthan ([A-Z]\w+)", clause)
    if who and half and half[1] in story.held:
        story.held[who[1]] = story.work(story.held[half[1]], "/", Fraction(2))
    elif who and times and times[2] in story.held:
        story.held[who[1]] = story.work(story.held[times[2]], "x", Fraction(times[1]))
    elif who and more and more[3] in story.held:
        sign = "+" if more[2] == "more" else "-"
        story.held[who[1]] = story.work(story.held[more[3]], sign, Fraction(more[1]))
    else:
        return False
    return True


def _read_sharing(clause: str, story: _Story) -> bool:
    if story.total is None:
        # "shares 48 grapes equally among 6 children": what is shared comes first.
        story.total = _first(rf"\b(?:shares?|divides?|splits?|deals?|packs?)\b.*?{_N}.*\d", clause)
        if story.total is None:
            return False
    share = _first(
        rf"\b(?:shar|divid|split|deal|dealt)\w*\b.*\b(?:among|between|into|to|by|with) {_N}", clause
    )
    packs = _first(
        rf"\b(?:put|pack|tie|tied|arrang|plac|cut|sort|group|seat|bag)\w*\b.*\b\w+s of {_N}", clause
    )
    divisor = share or packs
    if divisor is None:
        return False
    story.total = story.work(story.total, "/", divisor)
    return True


def _read_groups(clause: str, story: _Story) -> bool:
    sign = -1 if re.search(_LOSES, clause) else 1
    of = r"(?:with|of|holding|containing|filled with|each with|that hold|that each hold)"
    pair = re.search(rf"{_N} (?:\w+ ){{1,2}}{of} {_N}", clause) or re.search(
        rf"{_N} (?:\w+ ){{1,2}}(?:in|on|into|to) each of (?:the |her |his )?{_N}", clause
    )
    if pair:
        story.change(story.work(Fraction(pair[1]), "x", Fraction(pair[2])), sign)
        return True
    size = re.search(rf"\b(?:each|every) (\w+) (?:seats|takes|fits) {_N}", clause, re.IGNORECASE)
    if size:
        story.sizes[_singular(size[1])] = Fraction(size[2])
        return True
    per_group = _first(
        r"\b(?:each|every) (?:\w+ ){1,2}"
        rf"(?:has|have|holds?|contains?|gets?|carries|needs?|lays?) {_N}",
        clause,
    ) or _first(rf"{_N} (?:\w+ ){{1,2}}(?:in|on|into|to) each\b", clause)
    if per_group is None or story.total is None:
        return False
    story.total = story.work(story.total, "x", per_group)
    return True


def _read_rate(clause: str, story: _Story) -> bool:
    rate = _first(rf"{_N} (?:\w+ ){{0,3}}?(?:an?|per|every|each) {_TIME}\b", clause)
    duration = _first(rf"\b(?:for|in|after|over|lasts?) {_N} {_TIME}s?\b", clause)
    if rate is not None:
        story.rate = rate
    if duration is not None and story.rate is not None:
        story.change(story.work(story.rate, "x", duration), 1)
        return True
    return rate is not None


def _read_change(clause: str, story: _Story) -> bool:
    loses = re.search(_LOSES, clause)
    if loses and story.total is not None and re.search(r"\bhalf\b", clause):
        story.total = story.work(story.total, "/", Fraction(2))
        return True
    number = _first(_N, clause)
    if number is None:
        return False
    if loses or re.search(_GAINS, clause):
        story.sign = -1 if loses else 1
    who = re.match(r"\s*([A-Z]\w+) (?:has|have|had|owns|collected|scored|picked)\b", clause)
    if who and who[1] not in _NOT_NAMES and "more" not in clause:
        story.held[who[1]] = number
        if story.total is None:
            story.total = number
        return True
    story.change(number, story.sign)
    return True


def _conclude(question: str, story: _Story) -> Fraction | None:
    """What the question asks for, once the story is read."""
    everybody = re.search(r"altogether|in total|in all|together|both|total", question)
    if story.money is not None:
        budget = story.paid if story.paid is not None else story.total
        if budget is not None and re.search(r"\b(?:change|left|remain|keep)", question):
            return story.work(budget, "-", story.money)
        return story.money
    if len(story.held) > 1:
        names = [name for name in story.held if re.search(rf"\b{name.lower()}\b", question)]
        if re.search(r"how many (?:more|fewer)", question) and len(story.held) == 2:
            large, small = sorted(story.held.values(), reverse=True)
            return story.work(large, "-", small)
        if everybody:
            value, *others = story.held.values()
            for other in others:
                value = story.work(value, "+", other)
            return value
        return story.held[names[0]] if len(names) == 1 else None
    if story.rate is not None:
        duration = _first(rf"\b(?:for|in|after|over) {_N} {_TIME}s?\b", question)
        if duration is not None:
            return story.work(story.rate, "x", duration)
        if story.total is not None and re.search(rf"how (?:long|many {_TIME}s)", question):
            return story.work(story.total, "/", story.rate)
    share = _first(rf"\b(?:among|between|of|into|holds?|seats?|with) {_N}", question)
    if share is None and (needed := re.search(r"how many (\w+) are needed", question)):
        share = story.sizes.get(_singular(needed[1]))
    if share is not None and story.total is not None:
        return story.work(story.total, "/", share)
    return story.total


# Science

_LENGTH = r"(?:km|kilometres|m|metres|cm|centimetres|mm)"
_MASS = r"(?:kg|kilograms|g|grams)"
_HIGH = r"warm|hott?|high|long|heav|great|most|fast|dens|tall|strong|large|loud|bright|far"
_LOW = r"cold|cool|low|short|light|least|slow|small|weak|quiet|near|dim"


def _science(stem: str, choices: dict[str, str]) -> str:
    """The letter of the option that follows from the numbers of the question."""
    # Number words stay words: "two teams" and "three times" are seldom quantities here.
    text = _plain(stem)
    options = {letter: _plain(choice) for letter, choice in choices.items()}
    for rule in (_order, _extreme):
        letter = rule(text, options)
        if letter is not None:
            return letter
    value = _quantity(text)
    if value is None:
        raise _NoRuleError(_NO_RULE)
    return _only(k for k, option in options.items() if _first(_N, option) == value)


def _reading(name: str, text: str) -> Fraction | None:
    """The first number after a name, unless another sentence or entry comes between."""
    return _first(rf"\b{re.escape(name)}\b[^\d.;,]*?{_N}", text)


def _order(text: str, options: dict[str, str]) -> str | None:
    """Which list goes from the lightest to the heaviest: the options are lists of names."""
    asked = re.search(r"\bfrom (?:the )?(\w+) to (?:the )?(\w+)", text)
    lists = {letter: re.split(r",\s*", option) for letter, option in options.items()}
    if not asked or any(len(names) < 3 for names in lists.values()):
        return None
    falling = re.match(_HIGH, asked[1]) is not None
    right = []
    for letter, names in lists.items():
        values = [_reading(name, text) for name in names]
        known = [value for value in values if value is not None]
        ordered = all((a > b) if falling else (a < b) for a, b in pairwise(known))
        if len(known) == len(values) and ordered:
            right.append(letter)
    return _only(right)


def _extreme(text: str, options: dict[str, str]) -> str | None:
    """Which sample is the densest: the options are names with a number each in the text."""
    question = re.split(r"(?<=[.?!])\s+", text)[-1]
    asks_high = re.search(rf"\b(?:most|(?:{_HIGH})\w*est)\b", question)
    asks_low = re.search(rf"\b(?:least|(?:{_LOW})\w*est)\b", question)
    if not re.search(r"\b(?:which|what|who)\b", question, re.IGNORECASE):
        return None
    if not asks_high and not asks_low:
        return None
    readings = {}
    for letter, option in options.items():
        value = _first(_N, option)
        readings[letter] = value if value is not None else _reading(option, text)
    known = [value for value in readings.values() if value is not None]
    if len(known) < len(options):
        return None
    best = max(known) if asks_high else min(known)
    return _only(letter for letter, value in readings.items() if value == best)


def _quantity(text: str) -> Fraction | None:
    """The number a question asks for, by the formula its words name."""
    question = re.split(r"(?<=[.?!])\s+", text)[-1].lower()
    numbers = [Fraction(number) for number in re.findall(_N, text)]
    length = _first(rf"{_N} {_LENGTH}\b(?! per)", text)
    speed = _first(rf"{_N} {_LENGTH} per {_TIME}\b", text)
    time = _first(rf"{_N} {_TIME}s?\b", text)
    mass = _first(rf"{_N} {_MASS}\b(?! per)", text)
    volume = _first(rf"{_N} (?:cubic centimetres|mL)\b", text)
    density = _first(rf"{_N} {_MASS} per (?:cubic centimetre|mL)\b", text)
    force = _first(rf"{_N} (?:N|newtons)\b", text)
    rate = _first(rf"{_N} (?:\w+ ){{0,3}}?(?:an?|per|every|each) {_TIME}\b", text)

    def asks(pattern: str) -> bool:
        return re.search(rf"\b(?:{pattern})\b", question) is not None

    if asks("average|mean") and "speed" not in question:
        return sum(numbers, Fraction(0)) / len(numbers) if numbers else None
    if asks("speed|how fast"):
        return _divide(length, time)
    if asks("how far") and speed is not None:
        return _multiply(speed, time)
    if asks("how long|how much time") and speed is not None:
        return _divide(length, speed)
    if asks("density"):
        return _divide(mass, volume)
    if asks("mass") and density is not None:
        return _multiply(density, volume)
    if asks("work|joules"):
        return _multiply(force, length)
    if asks("night|darkness") and "daylight" in text and len(numbers) == 1:
        return 24 - numbers[0]
    if re.search(rf"\bdoubles every {_TIME}\b", text) and len(numbers) == 2:
        return numbers[0] * Fraction(2 ** int(numbers[1]))
    if rate is not None and time is not None:
        return rate * time
    if len(numbers) < 2:
        return None
    opposed = re.search(r"\bopposite\b|\bleft\b.*\bright\b|\bright\b.*\bleft\b", text)
    if asks(r"difference|range|rise|fall|drop|change|increase|decrease|how much \w+er"):
        return max(numbers) - min(numbers)
    if asks("net force|overall force") and opposed:
        return max(numbers) - min(numbers)
    if asks("total|altogether|combined|mixture|solution|in all|net force|overall force"):
        return sum(numbers, Fraction(0))
    per_one = re.search(r"\b(?:each|every|an?) \w+ has\b", text, re.IGNORECASE)
    if asks("how many") and len(numbers) == 2 and per_one:
        return numbers[0] * numbers[1]
    return None


def _multiply(left: Fraction | None, right: Fraction | None) -> Fraction | None:
    return None if left is None or right is None else left * right


def _divide(left: Fraction | None, right: Fraction | None) -> Fraction | None:
    return None if left is None or not right else left / right
