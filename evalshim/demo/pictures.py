"""Questions about pictures of coloured shapes: looks, then picks the options that are true.

It opens no addresses; the limits of what it sees are listed in `answers`.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_LONGEST_SIDE = 256  # pixels; larger pictures are reduced
_SPECK = 0.003  # of the picture; JPEG leaves stray pixels of odd colours along edges

_KINDS = {"circle", "square", "triangle", "rectangle"}
# Where a colour's hue ends, in degrees; red is on both sides of 0.
_HUES = {
    16: "red",
    48: "orange",
    70: "yellow",
    170: "green",
    255: "blue",
    335: "purple",
    361: "red",
}
_COLOURS = {*_HUES.values(), "black"}


class UnreadableError(Exception):
    """The picture cannot be seen; the message says why."""


@dataclass(frozen=True)
class _Shape:
    """A connected patch of one colour; its centre in widths and heights, its area in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    area: int


def fitting(question: str, options: dict[str, str], url: str) -> list[str]:
    """The letters of the options that are true of the picture; none where no rule fits.

    Args:
        question: what is asked, without its options.
        options: their texts by letter.
        url: the picture as a `data:` URL in base64.

    Raises:
        UnreadableError: the URL is an address, or its data is no picture.
    """
    true = answers(question, url)
    return [letter for letter, text in options.items() if text.lower() in true]


def answers(question: str, url: str) -> set[str]:
    """What is true of the picture, of what is asked; nothing where no rule fits.

    Raises:
        UnreadableError: As `fitting`.
    """
    question = question.lower().replace("color", "colour")
    shapes = list(_find_shapes(_decode(url)))
    rule = next((rule for pattern, rule in _RULES if re.search(pattern, question)), None)
    return rule(question, shapes) if rule else set()


# Seeing


def _decode(url: str) -> Image.Image:
    from PIL import Image  # here, since the endpoint must start fast

    head, _, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise UnreadableError("it opens no addresses, only pictures sent with the message")
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError("it could not be decoded") from error
    # Without smoothing, which would mix new colours along edges.
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.NEAREST)
    return picture


def _find_shapes(picture: Image.Image) -> Iterator[_Shape]:
    """The coloured patches of a picture, by flood fill over named colours."""
    width, height = picture.size
    raw = picture.convert("HSV").tobytes()
    names = (_name_colour(*hsv) for hsv in zip(raw[::3], raw[1::3], raw[2::3], strict=True))
    left = {(i % width, i // width): name for i, name in enumerate(names) if name}
    while left:
        start, colour = left.popitem()
        patch = [start]
        for x, y in patch:  # which grows meanwhile
            for neighbour in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                if left.get(neighbour) == colour:
                    del left[neighbour]
                    patch.append(neighbour)
        if len(patch) >= _SPECK * width * height:
            yield _measure(patch, colour, width, height)


def _name_colour(hue: int, saturation: int, value: int) -> str | None:
    """The name of a colour in 0 to 255; None for a light background and for blurred edges."""
    if value < 80:
        return "black"
    if saturation < 115:
        return None
    return next(name for end, name in _HUES.items() if hue * 360 / 256 < end)


def _measure(patch: list[tuple[int, int]], colour: str, width: int, height: int) -> _Shape:
    xs, ys = zip(*patch, strict=True)
    wide, high = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
    fill = len(patch) / (wide * high)  # about: square 1, circle 0.8, triangle 0.5
    if fill > 0.87:
        kind = "square" if max(wide, high) < 1.3 * min(wide, high) else "rectangle"
    else:
        kind = "circle" if fill > 0.68 else "triangle"
    x, y = (min(xs) + wide / 2) / width, (min(ys) + high / 2) / height
    return _Shape(kind, colour, x, y, len(patch))


# Answering

_Order = Callable[[_Shape], float]  # what a question is about has the least of it
_ORDERS: tuple[tuple[str, _Order], ...] = (
    (r"\bleft\b|leftmost", lambda shape: shape.x),
    (r"\bright\b|rightmost", lambda shape: -shape.x),
    (r"\babove\b|\btop\b|topmost|highest", lambda shape: shape.y),
    (r"\bbelow\b|\bbottom\b|lowest", lambda shape: -shape.y),
    (r"largest|biggest", lambda shape: -shape.area),
    (r"smallest", lambda shape: shape.area),
)


def _order(question: str) -> _Order | None:
    return next((order for pattern, order in _ORDERS if re.search(pattern, question)), None)


def _named(question: str, shapes: list[_Shape]) -> list[_Shape]:
    """The shapes of the colours and kinds a question names; all of them where it names none."""
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", question)}
    colours, kinds = words & _COLOURS or _COLOURS, words & _KINDS or _KINDS
    return [shape for shape in shapes if shape.colour in colours and shape.kind in kinds]


def _meant(question: str, shapes: list[_Shape]) -> list[_Shape]:
    """The one shape a question is about, or none where that is not clear."""
    relation = re.fullmatch(r"(.*)(left of|right of|above|below)(.*)", question)
    if relation:
        return _beyond(
            _order(relation[2]), _named(relation[3], shapes), _named(relation[1], shapes)
        )
    found, order = _named(question, shapes), _order(question)
    if order:
        return sorted(found, key=order)[:1]
    return found if len(found) == 1 else []


def _beyond(order: _Order | None, anchors: list[_Shape], shapes: list[_Shape]) -> list[_Shape]:
    """The shape that comes right before the anchor, in an order from left, right, top or bottom."""
    if order is None or len(anchors) != 1:
        return []
    before = [shape for shape in shapes if order(shape) < order(anchors[0]) - 0.1]
    return sorted(before, key=order)[-1:]


def _place(shape: _Shape) -> str:
    row = "top" if shape.y < 0.4 else "bottom" if shape.y > 0.6 else ""
    column = "left" if shape.x < 0.4 else "right" if shape.x > 0.6 else ""
    return f"{row} {column}".strip() or "centre"


def _most_often(values: list[str]) -> set[str]:
    counts = Counter(values)
    return {value for value in counts if counts[value] == max(counts.values())}


# The first pattern found in a question settles which texts are true answers to it.
_RULES: tuple[tuple[str, Callable[[str, list[_Shape]], set[str]]], ...] = (
    (r"clos(?:e|er|est) to|next to|between|touch", lambda question, shapes: set()),
    (r"how many.* colours", lambda question, shapes: {str(len({s.colour for s in shapes}))}),
    (r"how many", lambda question, shapes: {str(len(_named(question, shapes)))}),
    (r"\bnot\b|missing", lambda question, shapes: _KINDS - {s.kind for s in shapes}),
    (r"colour.* most often", lambda question, shapes: _most_often([s.colour for s in shapes])),
    (r"where|which part", lambda question, shapes: {_place(s) for s in _meant(question, shapes)}),
    (r"colour", lambda question, shapes: {s.colour for s in _meant(question, shapes)}),
    (r"shape|object", lambda question, shapes: {s.kind for s in _meant(question, shapes)}),
)
