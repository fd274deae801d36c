"""Makes the demo's data: `python -m evalshim.demo.make_data [DIR]`.

The same files every time, from a fixed seed and nothing else. It must not ask
`answers` anything: what is hard for the demo is here because it is a fair
question, and the limits it runs into are listed there.
"""

from __future__ import annotations

import base64
import io
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20240501
DATA = Path(__file__).parent / "data"

# VLMEvalKit 0.0.20 enlarges pictures with an edge below 100 before it sends them.
SIDE = 120


def make(directory: Path, seed: int = SEED) -> None:
    """Write shapes.tsv, gsm8k/ and ARC-c/ below `directory`."""
    _write(directory / "shapes.tsv", _shapes_tsv(random.Random(seed)))
    rng = random.Random(seed + 1)
    test = [row for template in _STORIES for row in _story_rows(template, rng, template.rows)]
    rng.shuffle(test)
    train = [row for template in _STORIES[:8] for row in _story_rows(template, rng, 1)]
    _write(directory / "gsm8k" / "test.jsonl", _jsonl(test))
    _write(directory / "gsm8k" / "train.jsonl", _jsonl(train))
    science = _science_rows(random.Random(seed + 2))
    _write(directory / "ARC-c" / "ARC-Challenge-Dev.jsonl", _jsonl(science))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(text.encode())
    beside.replace(path)


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _letters(rng: random.Random, count: int) -> list[str]:
    """The letters of `count` right answers, evenly over A to D, in random order."""
    letters = ["ABCD"[i % 4] for i in range(count)]
    rng.shuffle(letters)
    return letters


def _options(rng: random.Random, letter: str, right: str, wrong: Sequence[str]) -> list[str]:
    """The four options in order, the right one at `letter`."""
    options = [option for option in dict.fromkeys(wrong) if option != right][:3]
    if len(options) < 3:
        raise ValueError(f"too few wrong options for {right!r}: {wrong}")
    rng.shuffle(options)
    options.insert("ABCD".index(letter), right)
    return options


# Pictures

_BACKGROUND = (247, 246, 241)
_COLOURS = {
    "red": (214, 40, 44),
    "orange": (243, 132, 28),
    "yellow": (243, 205, 38),
    "green": (44, 158, 72),
    "blue": (42, 88, 214),
    "purple": (134, 56, 178),
    "black": (28, 28, 30),
    "pink": (244, 116, 146),
    "brown": (132, 76, 36),
}
_PLAIN = ["red", "orange", "yellow", "green", "blue", "purple", "black"]
_KINDS = ["circle", "square", "triangle", "rectangle"]
# Where a shape may stand, in 0 to 1, and what people call the place.
_PLACES = {
    "top left": (0.2, 0.2),
    "top": (0.5, 0.2),
    "top right": (0.8, 0.2),
    "left": (0.2, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.8, 0.5),
    "bottom left": (0.2, 0.8),
    "bottom": (0.5, 0.8),
    "bottom right": (0.8, 0.8),
}


@dataclass(frozen=True)
class _Mark:
    """A shape to draw, in pixels; `size` is half its height."""

    kind: str
    colour: str
    x: float
    y: float
    size: float

    def covers(self, x: float, y: float) -> bool:
        right, down = abs(x - self.x) / self.size, (y - self.y) / self.size
        return {
            "circle": right * right + down * down <= 1,
            "square": max(right, abs(down)) <= 0.9,
            "rectangle": right <= 1.25 and abs(down) <= 0.7,
            "triangle": abs(down) <= 1 and right <= (down + 1) / 2,
            "tilted square": right + abs(down) <= 1.1,
        }[self.kind]


@dataclass(frozen=True)
class _Picture:
    """A picture's shapes with a question about them."""

    category: str
    marks: list[_Mark]
    question: str
    right: str
    wrong: Sequence[str]


def _shapes_tsv(rng: random.Random) -> str:
    categories = [_colour_rows(rng), _shape_rows(rng), _count_rows(rng), _position_rows(rng)]
    letters = [_letters(rng, len(rows)) for rows in categories]
    lines = ["index\timage\tquestion\tA\tB\tC\tD\tanswer\tcategory"]
    # One category after the other, so that the first rows already have all of them.
    for number in range(len(categories[0])):
        for rows, keys in zip(categories, letters, strict=True):
            row, letter = rows[number], keys[number]
            options = _options(rng, letter, row.right, row.wrong)
            cells = [str(len(lines) - 1), _png(row.marks), row.question, *options, letter]
            lines.append("\t".join([*cells, row.category]))
    return "\n".join(lines) + "\n"


def _png(marks: Sequence[_Mark]) -> str:
    from PIL import Image  # here, so that the rest of the demo imports without it

    pixels = bytearray()
    # Drawn by hand: Pillow's own circles differ by a pixel between versions.
    for y in range(SIDE):
        for x in range(SIDE):
            on_top = [mark.colour for mark in marks if mark.covers(x + 0.5, y + 0.5)]
            pixels.extend(_COLOURS[on_top[-1]] if on_top else _BACKGROUND)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), bytes(pixels)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _scatter(
    rng: random.Random,
    what: Sequence[tuple[str, str]],
    places: Sequence[str] = (),
    sizes: Sequence[float] = (),
) -> list[_Mark]:
    """Shapes (kind, colour) apart from each other, at the places given or at random ones."""
    chosen = list(places) or rng.sample(list(_PLACES), len(what))
    marks = []
    for number, ((kind, colour), place) in enumerate(zip(what, chosen, strict=True)):
        x, y = (SIDE * at + rng.uniform(-2, 2) for at in _PLACES[place])
        size = sizes[number] if sizes else rng.uniform(11, 14)
        marks.append(_Mark(kind, colour, x, y, size))
    return marks


def _others(names: Sequence[str], right: str, first: Sequence[str] = ()) -> list[str]:
    """Wrong options: those of the picture first, then the rest."""
    return [name for name in (*first, *names) if name != right]


def _colour_rows(rng: random.Random) -> list[_Picture]:
    rows = []
    for trial in range(12):
        kinds = rng.sample(_KINDS, 4)
        colours = rng.sample(_PLAIN, 4)
        if trial in (3, 8):  # colours between two names
            colours[0] = {3: "pink", 8: "brown"}[trial]
            colours = [c for c in colours if c not in ("red", "orange")]
            colours += [c for c in ("blue", "green", "black") if c not in colours]
            colours = colours[:4]
        if trial in (2, 6, 10):
            size, sizes = rng.choice([("largest", [16, 11, 10, 10]), ("smallest", [9, 13, 14, 13])])
            marks = _scatter(rng, list(zip(kinds, colours, strict=True)), sizes=sizes)
            question = f"What is the colour of the {size} shape?"
        elif trial in (4, 9):
            often = [(rng.choice(_KINDS[:3]), colours[0]) for _ in range(3)]
            marks = _scatter(rng, [*often, *zip(kinds[1:3], colours[1:3], strict=True)])
            question = "Which colour appears most often in the picture?"
        else:
            marks = _scatter(rng, list(zip(kinds, colours, strict=True)))
            question = rng.choice(
                [f"What colour is the {kinds[0]}?", f"Which colour does the {kinds[0]} have?"]
            )
        close = {"pink": ["red"], "brown": ["orange"]}.get(colours[0], [])
        wrong = _others(_PLAIN, colours[0], [*close, *colours[1:]])
        rows.append(_Picture("colour", marks, question, colours[0], wrong))
    return rows


def _shape_rows(rng: random.Random) -> list[_Picture]:
    rows = []
    for trial in range(12):
        kinds, colours = rng.sample(_KINDS, 4), rng.sample(_PLAIN, 4)
        right = kinds[0]
        if trial in (2, 7):
            size, sizes = rng.choice([("largest", [16, 10, 10]), ("smallest", [9, 14, 14])])
            what = list(zip(kinds[:3], colours[:3], strict=True))
            marks = _scatter(rng, what, sizes=sizes)
            question = f"What shape is the {size} object in the picture?"
        elif trial in (4, 11):
            what = [(kind, colour) for kind in kinds[1:] for colour in colours[:2]]
            marks = _scatter(rng, what)
            question = "Which shape is not in the picture?"
        else:
            if trial in (1, 9):  # a square is a square however it stands
                right = "square"
                kinds = ["tilted square", *(kind for kind in kinds if kind != "square")]
            marks = _scatter(rng, list(zip(kinds[:3], colours[:3], strict=True)))
            question = f"What shape is the {colours[0]} object?"
        rows.append(_Picture("shape", marks, question, right, _others(_KINDS, right)))
    return rows


def _count_rows(rng: random.Random) -> list[_Picture]:
    rows = []
    for trial in range(12):
        kind, other = rng.sample(_KINDS[:3], 2)
        colour, *rest = rng.sample(_PLAIN, 4)
        number = rng.randint(2, 5)
        if trial in (1, 6, 10):  # two of one colour overlap
            marks = _scatter(rng, [(kind, colour)] * number)
            first = marks[0]
            beside = first.x + (1.2 if first.x < SIDE / 2 else -1.2) * first.size
            marks.append(_Mark(kind, colour, beside, first.y + 3, first.size))
            # Keep the pair clear of the shapes beside it.
            marks = [m for m in marks if m in (first, marks[-1]) or abs(m.y - first.y) > 20]
            number = len(marks)
            question = f"How many {kind}s are in the picture?"
        elif trial in (3, 8):
            what = [(rng.choice(_KINDS), rng.choice(_PLAIN)) for _ in range(number + 2)]
            marks, number = _scatter(rng, what), number + 2
            question = "How many shapes are there in total?"
        elif trial == 5:
            colours = [colour, *rest[: number - 2]]
            what = [(rng.choice(_KINDS), shade) for shade in colours for _ in range(2)]
            marks, number = _scatter(rng, what), len(colours)
            question = "How many different colours do the shapes have?"
        elif trial in (0, 7):
            kinds = [rng.choice(_KINDS) for _ in range(number)]
            what = [(k, colour) for k in kinds] + [(kind, rest[0]), (other, rest[1])]
            marks = _scatter(rng, what)
            question = f"How many {colour} shapes do you see?"
        else:
            what = [(kind, rng.choice(_PLAIN)) for _ in range(number)]
            marks = _scatter(rng, [*what, (other, rest[0]), (other, rest[1])])
            question = f"How many {kind}s are in the picture?"
        wrong = [str(number - 1), str(number + 1), str(number + 2)]
        rows.append(_Picture("count", marks, question, str(number), wrong))
    return rows


def _position_rows(rng: random.Random) -> list[_Picture]:
    corners = ["top left", "top right", "bottom left", "bottom right"]
    rows = []
    for trial in range(12):
        kinds, colours = rng.sample(_KINDS, 4), rng.sample(_PLAIN, 4)
        what = list(zip(kinds, colours, strict=True))
        if trial in (4, 9):
            places = rng.choice(
                [
                    ["top left", "left", "top right", "bottom right"],
                    ["bottom right", "right", "top left", "bottom left"],
                ]
            )
            marks = _scatter(rng, what, places)
            question = f"What colour is the shape closest to the {kinds[1]}?"
            right, wrong = colours[0], _others(_PLAIN, colours[0], colours[1:])
        elif trial in (2, 7):
            relation, places = rng.choice(
                [
                    ("above", ["top", "centre", "bottom", "bottom right"]),
                    ("below", ["bottom", "centre", "top", "top left"]),
                    ("to the left of", ["left", "centre", "right", "top right"]),
                    ("to the right of", ["right", "centre", "left", "bottom left"]),
                ]
            )
            marks = _scatter(rng, what, places)
            question = f"What colour is the shape {relation} the {colours[1]} {kinds[1]}?"
            right, wrong = colours[0], _others(_PLAIN, colours[0], colours[1:])
        elif trial in (1, 5, 11):
            words, places = rng.choice(
                [
                    ("furthest to the left", ["left", "centre", "top right", "bottom right"]),
                    ("furthest to the right", ["right", "centre", "top left", "bottom left"]),
                    ("nearest the top", ["top", "centre", "bottom left", "bottom right"]),
                    ("lowest", ["bottom", "centre", "top left", "top right"]),
                ]
            )
            marks = _scatter(rng, what, places)
            question = f"Which shape is {words}?"
            right, wrong = kinds[0], kinds[1:]
        else:
            places = rng.sample(corners, 4)
            marks = _scatter(rng, what, places)
            question = rng.choice(
                [
                    f"Where is the {colours[0]} {kinds[0]}?",
                    f"In which part of the picture is the {kinds[0]}?",
                ]
            )
            right, wrong = places[0], places[1:]
        rows.append(_Picture("position", marks, question, right, wrong))
    return rows


# Word problems

_NAMES = ["Mia", "Tom", "Lena", "Omar", "Ana", "Kofi", "Yuki", "Priya", "Noah", "Ivo", "Zoe", "Sam"]
_THINGS = ["marbles", "stamps", "shells", "stickers", "beads", "buttons", "postcards", "pebbles"]


@dataclass(frozen=True)
class _Template:
    """A story with numbers to draw and the working that solves it.

    A step is `left operation right`; both are a number, the name of a drawn
    number, or `_` for the result of the step before, `_1` for the first step's.
    Draws are repeated until every result is a whole number above 0.
    """

    text: str
    numbers: dict[str, tuple[int, int]]
    steps: tuple[str, ...]
    rows: int = 1


def _story_rows(template: _Template, rng: random.Random, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        values: dict[str, float] = {k: rng.randint(*span) for k, span in template.numbers.items()}
        lines = _solve(template.steps, values)
        if lines is None:
            continue
        one, two, three = rng.sample(_NAMES, 3)
        words = {"one": one, "two": two, "three": three, "things": rng.choice(_THINGS)}
        question = template.text.format(**words, **values)
        rows.append({"question": question, "answer": "\n".join(lines)})
    return rows


def _solve(steps: Sequence[str], values: dict[str, float]) -> list[str] | None:
    """The lines of a GSM8K answer, or None where a step is not a whole number above 0."""
    known = dict(values)
    lines = []
    for number, step in enumerate(steps, start=1):
        left_name, operation, right_name = step.split()
        left, right = (
            known[name] if name in known else int(name) for name in (left_name, right_name)
        )
        exact: float = {
            "+": left + right,
            "-": left - right,
            "*": left * right,
            "/": left / right,
        }[operation]
        if exact != int(exact) or exact <= 0:
            return None
        result = int(exact)
        known["_"] = known[f"_{number}"] = result
        sum_ = f"{left:g}{operation}{right:g}"
        lines.append(f"{left:g} {operation} {right:g} = <<{sum_}={result}>>{result}")
    return [*lines, f"#### {result}"]


_STORIES = (
    # gain and loss
    _Template(
        "{one} has {a} {things}. {one} gives {b} to {two} and finds {c} more on the way home. "
        "How many {things} does {one} have now?",
        {"a": (20, 60), "b": (3, 15), "c": (3, 15)},
        ("a - b", "_ + c"),
        rows=2,
    ),
    # groups, then a loss
    _Template(
        "A baker fills {a} trays with {b} rolls each. By noon the baker has sold {c} of the rolls. "
        "How many rolls are left?",
        {"a": (4, 9), "b": (8, 15), "c": (10, 30)},
        ("a * b", "_ - c"),
        rows=2,
    ),
    # sharing equally
    _Template(
        "{one} picks {a} plums and {two} picks {b} plums. They share all the plums equally among "
        "{c} friends. How many plums does each friend get?",
        {"a": (10, 40), "b": (10, 40), "c": (3, 8)},
        ("a + b", "_ / c"),
        rows=2,
    ),
    # price times number, with change
    _Template(
        "A notebook costs {p} dollars and a pen costs {q} dollars. {one} buys {a} notebooks and "
        "{b} pens and pays with a 100 dollar note. How much change does {one} get?",
        {"p": (3, 7), "q": (2, 4), "a": (3, 7), "b": (3, 8)},
        ("a * p", "b * q", "_1 + _2", "100 - _"),
        rows=2,
    ),
    # comparison
    _Template(
        "{one} has {a} {things}. {two} has {b} times as many {things} as {one}. "
        "How many {things} do they have altogether?",
        {"a": (6, 25), "b": (3, 6)},
        ("a * b", "a + _"),
        rows=2,
    ),
    # rate over time
    _Template(
        "A printer prints {a} pages per minute. How many pages does it print in {b} minutes?",
        {"a": (12, 40), "b": (5, 20)},
        ("a * b",),
    ),
    # a half
    _Template(
        "There are {a} apples in a crate. {one} takes out {b} bad apples and then sells half of "
        "the rest. How many apples are still in the crate?",
        {"a": (40, 90), "b": (4, 12)},
        ("a - b", "_ / 2"),
    ),
    # packing
    _Template(
        "{one} bakes {a} muffins in the morning and {b} muffins in the afternoon. "
        "{one} packs them into boxes of {c}. How many boxes does {one} fill?",
        {"a": (20, 50), "b": (20, 50), "c": (4, 9)},
        ("a + b", "_ / c"),
    ),
    _Template(
        "A bus sets out with {a} passengers. At the first stop {b} people get off and {c} get on. "
        "At the second stop {d} people get off. How many passengers are on the bus now?",
        {"a": (25, 50), "b": (4, 9), "c": (5, 12), "d": (3, 9)},
        ("a - b", "_ + c", "_ - d"),
    ),
    _Template(
        "A florist has {a} buckets with {b} tulips each and buys {c} more tulips. "
        "She ties all the tulips into bunches of {d}. How many bunches does she make?",
        {"a": (3, 7), "b": (10, 20), "c": (5, 20), "d": (5, 9)},
        ("a * b", "_ + c", "_ / d"),
    ),
    _Template(
        "{one} has ${a}. Cinema tickets cost {b} dollars each. {one} buys {c} tickets. "
        "How many dollars does {one} have left?",
        {"a": (50, 90), "b": (6, 11), "c": (2, 5)},
        ("c * b", "a - _"),
    ),
    _Template(
        "At the market {one} sells {a} jars of honey for {b} dollars each and {c} candles for "
        "{d} dollars each. How much money does {one} earn?",
        {"a": (4, 12), "b": (5, 9), "c": (5, 15), "d": (2, 4)},
        ("a * b", "c * d", "_1 + _2"),
    ),
    _Template(
        "{one} has {a} {things}. {two} has {b} more than {one}, and {three} has half as many "
        "{things} as {two}. How many {things} does {three} have?",
        {"a": (10, 40), "b": (4, 20)},
        ("a + b", "_ / 2"),
    ),
    _Template(
        "{one} reads {a} pages every day for {b} days and then {c} pages every day for {d} days. "
        "How many pages does {one} read in all?",
        {"a": (8, 20), "b": (3, 7), "c": (15, 30), "d": (2, 6)},
        ("a * b", "c * d", "_1 + _2"),
    ),
    _Template(
        "A tank holds {a} litres of water. A pump takes {b} litres per minute out of it. "
        "How many minutes does it take to empty the tank?",
        {"a": (120, 600), "b": (12, 40)},
        ("a / b",),
    ),
    _Template(
        "A farm has {a} hens. Each hen lays {b} eggs. The farmer drops {c} of the eggs. "
        "How many eggs are not broken?",
        {"a": (8, 20), "b": (3, 6), "c": (3, 9)},
        ("a * b", "_ - c"),
    ),
    _Template(
        "{one} collected {a} bottles and {two} collected {b} bottles. "
        "How many more bottles did {one} collect than {two}?",
        {"a": (40, 80), "b": (10, 35)},
        ("a - b",),
    ),
    _Template(
        "There are {a} chairs in the hall. The caretaker carries in {b} stacks of {c} chairs. "
        "The chairs are arranged in rows of {d}. How many rows are there?",
        {"a": (20, 60), "b": (3, 6), "c": (6, 10), "d": (6, 10)},
        ("b * c", "a + _", "_ / d"),
    ),
    _Template(
        "If a cyclist rides {a} km per hour, how many km does she ride in {b} hours?",
        {"a": (14, 28), "b": (3, 7)},
        ("a * b",),
    ),
    # percentages and fractions
    _Template(
        "A jacket costs {a} dollars. In the sale it is {b} percent cheaper. "
        "How many dollars does the jacket cost in the sale?",
        {"a": (60, 200), "b": (10, 40)},
        ("a * b", "_ / 100", "a - _"),
    ),
    _Template(
        "A school has {a} pupils and {b}% of them come by bike. How many pupils come by bike?",
        {"a": (100, 400), "b": (15, 60)},
        ("a * b", "_ / 100"),
    ),
    _Template(
        "{one} has {a} {things} and gives a third of them to {two}. "
        "How many {things} does {one} keep?",
        {"a": (30, 90)},
        ("a / 3", "a - _"),
    ),
    _Template(
        "A cook buys {a} dozen eggs and uses {b} of them for a cake. How many eggs are left?",
        {"a": (3, 6), "b": (5, 10)},
        ("a * 12", "_ - b"),
    ),
    # units
    _Template(
        "A machine fills {a} bottles per minute. How many bottles does it fill in {b} hours?",
        {"a": (10, 30), "b": (2, 5)},
        ("b * 60", "a * _"),
    ),
    _Template(
        "{one} walks {a} km every day. How many km does {one} walk in {b} weeks?",
        {"a": (3, 8), "b": (2, 6)},
        ("b * 7", "a * _"),
    ),
    # backwards
    _Template(
        "{one} gave {a} {things} to {two} and {b} to {three}. Now {one} has {c} left. "
        "How many {things} did {one} have at first?",
        {"a": (5, 15), "b": (5, 15), "c": (10, 30)},
        ("a + b", "_ + c"),
        rows=2,
    ),
    # rounding up
    _Template(
        "{a} children go on a trip. Each minibus seats {b} children. "
        "How many minibuses are needed?",
        {"a": (31, 80), "b": (8, 14), "c": (1, 7)},
        ("a + c", "_ / b"),
    ),
    # a number that is not needed
    _Template(
        "{one} is {a} years old. {one} has {b} {things} and buys {c} more. "
        "How many {things} does {one} have now?",
        {"a": (8, 14), "b": (12, 40), "c": (5, 15)},
        ("b + c",),
    ),
    _Template(
        "On page {a} of a cookbook is a recipe for {b} pancakes. {one} makes {c} more than that. "
        "How many pancakes does {one} make?",
        {"a": (20, 90), "b": (8, 16), "c": (4, 12)},
        ("b + c",),
    ),
    _Template(
        "A ribbon is {a} cm long. {one} cuts it into pieces of {b} mm each. "
        "How many pieces does {one} get?",
        {"a": (20, 90), "b": (20, 60)},
        ("a * 10", "_ / b"),
    ),
)


# Science


@dataclass(frozen=True)
class _Item:
    """A science question with its right option and at least three wrong ones."""

    stem: str
    right: str
    wrong: Sequence[str]


def _science_rows(rng: random.Random) -> list[dict[str, Any]]:
    families = (_motion, _matter, _forces, _growth, _readings, _extremes, _orders)
    items = [item for family in families for item in family(rng)] + list(_FACTS)
    rng.shuffle(items)
    rows: list[dict[str, Any]] = []
    for item, letter in zip(items, _letters(rng, len(items)), strict=True):
        options = _options(rng, letter, item.right, item.wrong)
        choices = [
            {"text": text, "label": label} for text, label in zip(options, "ABCD", strict=True)
        ]
        question = {"stem": item.stem, "choices": choices}
        rows.append({"id": f"demo_{len(rows) + 1}", "question": question, "answerKey": letter})
    return rows


def _amount(stem: str, right: float, wrong: Sequence[float], unit: str) -> _Item:
    """A question whose options are numbers of one unit; `wrong` is filled up where it is short."""
    spare = [right + 10, right * 2, right + 5, right + 1]
    texts = [f"{value:g} {unit}" for value in (*wrong, *spare) if value > 0]
    return _Item(stem, f"{right:g} {unit}", texts)


def _motion(rng: random.Random) -> list[_Item]:
    speed, hours = rng.randint(12, 90), rng.randint(2, 6)
    way = speed * hours
    walk, minutes = rng.randint(40, 90), rng.randint(3, 9)
    pace, rest = rng.randint(2, 9) * 10, rng.choice([30, 15])
    return [
        _amount(
            f"A train travels {way} km in {hours} hours. What is its average speed?",
            speed,
            [way + hours, way * hours, way - hours],
            "km per hour",
        ),
        _amount(
            f"It takes a beetle {minutes} seconds to crawl {minutes * 4} cm. "
            "How fast does the beetle move?",
            4,
            [minutes * 5, minutes, minutes * 4],
            "cm per second",
        ),
        _amount(
            f"A student walks at a steady {walk} metres per minute. "
            f"How far does the student get in {minutes} minutes?",
            walk * minutes,
            [walk + minutes, walk - minutes, walk],
            "metres",
        ),
        _amount(
            f"Sound travels about 340 metres per second. Thunder is heard from a storm that is "
            f"{340 * minutes} metres away. How long did the sound travel?",
            minutes,
            [340 * minutes, 340, minutes + 3],
            "seconds",
        ),
        _amount(
            f"A car drives at {pace} km per hour. How far does it drive in {rest} minutes?",
            pace * rest / 60,
            [pace * rest, pace + rest, pace],
            "km",
        ),
    ]


def _matter(rng: random.Random) -> list[_Item]:
    density, volume = rng.randint(2, 11), rng.randint(4, 20)
    mass = density * volume
    salt, water = rng.randint(5, 25), rng.randint(10, 30) * 10
    part = rng.randint(3, 12)
    iron, sulfur = 7 * part, 4 * part  # the ratio in which they react
    return [
        _amount(
            f"A stone has a mass of {mass} g and a volume of {volume} cubic centimetres. "
            "What is the density of the stone?",
            density,
            [mass * volume, mass - volume, mass + volume],
            "g per cubic centimetre",
        ),
        _amount(
            f"Aluminium has a density of 2.7 g per cubic centimetre. "
            f"What is the mass of a block with a volume of {volume * 10} cubic centimetres?",
            27 * volume,
            [volume * 10 + 2.7, volume * 10, 2.7],
            "g",
        ),
        _amount(
            f"{salt} g of salt are stirred into {water} g of water until the salt has dissolved. "
            "What is the mass of the solution?",
            salt + water,
            [water - salt, water, salt],
            "g",
        ),
        _amount(
            f"In a closed flask, {iron} g of iron react completely with {sulfur} g of sulfur. "
            "What is the total mass of the matter in the flask afterwards?",
            iron + sulfur,
            [iron, iron - sulfur, sulfur],
            "g",
        ),
    ]


def _forces(rng: random.Random) -> list[_Item]:
    strong, weak = rng.randint(20, 60), rng.randint(5, 18)
    path = rng.randint(3, 12)
    return [
        _amount(
            f"Two teams pull on a rope in opposite directions, one with {strong * 10} N and the "
            f"other with {weak * 10} N. What is the net force on the rope?",
            (strong - weak) * 10,
            [(strong + weak) * 10, strong * 10, weak * 10],
            "N",
        ),
        _amount(
            f"Two children push a sledge in the same direction, one with {strong} N and one with "
            f"{weak} N. What is the net force on the sledge?",
            strong + weak,
            [strong - weak, strong, weak],
            "N",
        ),
        _amount(
            f"A force of {strong} N moves a crate {path} metres along the floor. "
            "How much work is done on the crate?",
            strong * path,
            [strong + path, strong - path, strong],
            "joules",
        ),
    ]


def _growth(rng: random.Random) -> list[_Item]:
    rate, weeks = rng.randint(2, 8), rng.randint(5, 12)
    start, hours = rng.randint(3, 9), rng.randint(3, 6)
    light, spiders = rng.randint(8, 11), rng.randint(6, 12)
    return [
        _amount(
            f"A bean plant grows {rate} cm each week. How much does it grow in {weeks} weeks?",
            rate * weeks,
            [rate + weeks, weeks, rate],
            "cm",
        ),
        _amount(
            f"A dish holds {start} bacteria, and their number doubles every hour. "
            f"How many bacteria are there after {hours} hours?",
            start * 2**hours,
            [start * 2 * hours, start + hours, start * hours],
            "bacteria",
        ),
        _amount(
            f"On a winter day a town has {light} hours of daylight. "
            "How many hours of darkness are there between noon and noon?",
            24 - light,
            [light, 12 - light, 24],
            "hours",
        ),
        _amount(
            f"Each spider has 8 legs. How many legs do {spiders} spiders have?",
            8 * spiders,
            [8 + spiders, 6 * spiders, spiders],
            "legs",
        ),
        _amount(
            f"A dripping tap loses {weeks * 10} mL every hour. How much water does it lose in "
            "2 days?",
            weeks * 480,
            [weeks * 20, weeks * 10, weeks * 240],
            "mL",
        ),
    ]


def _readings(rng: random.Random) -> list[_Item]:
    low, rise = rng.randint(8, 20), rng.randint(6, 25)
    middle = rng.randint(20, 40)
    return [
        _amount(
            f"A beaker of water warms up from {low} °C to {low + rise} °C. "
            "What is the rise in temperature?",
            rise,
            [2 * low + rise, low + rise, low],
            "degrees",
        ),
        _amount(
            f"A class measures the same stem three times and reads {middle - 3} mm, "
            f"{middle + 1} mm and {middle + 2} mm. What is the mean of the readings?",
            middle,
            [3 * middle, middle + 1, middle - 3],
            "mm",
        ),
        _amount(
            f"The air in a valley is at {low + rise} °C and the air on the summit at {low} °C. "
            "How much warmer is the valley?",
            rise,
            [2 * low + rise, low + rise, low],
            "degrees",
        ),
        _amount(
            f"Rain gauges at a school collect {low} mm on Monday, {middle} mm on Tuesday and "
            f"{rise} mm on Friday. How much rain is that altogether?",
            low + middle + rise,
            [middle - low, low + middle, middle + rise],
            "mm",
        ),
        _amount(
            f"At high tide the water at a pier is {middle * 10} cm deep and at low tide it is "
            f"{low * 10} cm deep. What is the difference between the tides?",
            (middle - low) * 10,
            [(middle + low) * 10, middle * 10, low * 10],
            "cm",
        ),
    ]


def _list(names: Sequence[str], values: Sequence[int], unit: str) -> str:
    entries = [f"{name} {value} {unit}" for name, value in zip(names, values, strict=True)]
    return ", ".join(entries[:-1]) + " and " + entries[-1]


def _extremes(rng: random.Random) -> list[_Item]:
    metals = ["iron", "copper", "tin", "zinc"]
    lamps = ["the desk lamp", "the street lamp", "the torch", "the hall lamp"]
    cars = ["the red car", "the old car", "the tin car", "the small car"]
    cities = ["Oslo", "Rome", "Lima", "Tromsø"]
    months = ["January", "April", "July", "October"]
    samples = ["the red ball", "the blue ball", "the green ball", "the white ball"]
    items = []
    for stem, names, unit, question, pick in (
        ("In a test, metal rods bend by these amounts: {}.", metals, "mm", "bends the most", max),
        ("The masses of four balls are {}.", samples, "g", "is the heaviest", max),
        ("Toy cars have top speeds: {}.", cars, "cm per second", "is the slowest", min),
        ("Lamps give off light: {}.", lamps, "lumens", "is the brightest", max),
    ):
        values = rng.sample(range(12, 95), 4)
        right = names[values.index(pick(values))]
        stem = stem.format(_list(names, values, unit)) + f" Which one {question}?"
        items.append(_Item(stem, right, names))
    # Below zero the order of the digits is not the order of the temperatures.
    noon, station = [-4, 12, 17, -11], [-28, -9, 3, -14]
    for stem, names, values, right in (
        ("At noon it is {}. Which city is the coldest?", cities, noon, "Tromsø"),
        ("Monthly means are {}. Which month is the warmest?", months, station, "July"),
    ):
        items.append(_Item(stem.format(_list(names, values, "°C")), right, names))
    heavy = rng.randint(2, 5)
    items.append(
        _Item(
            f"The masses are: brick {heavy} kg, book 900 g, cup 350 g and spoon 40 g. "
            "Which of these things is the heaviest?",
            "brick",
            ["book", "cup", "spoon"],
        )
    )
    return items


def _orders(rng: random.Random) -> list[_Item]:
    lists = (
        ("Melting points are: {}.", ("fat", "wax", "resin"), "°C", "lowest to highest"),
        ("Leaves were measured: {}.", ("willow", "beech", "oak"), "mm", "longest to shortest"),
        ("Seeds were weighed: {}.", ("pea", "bean", "maize"), "mg", "lightest to heaviest"),
    )
    items = []
    for stem, (a, b, c), unit, way in lists:
        values = sorted(rng.sample(range(20, 90), 3), reverse=way.startswith("longest"))
        told = rng.sample(list(zip((a, b, c), values, strict=True)), 3)
        listed = _list([name for name, _ in told], [value for _, value in told], unit)
        question = f"Which list goes from the {way.replace(' to ', ' to the ')}?"
        wrong = [", ".join(other) for other in ((c, b, a), (b, a, c), (a, c, b), (c, a, b))]
        items.append(_Item(f"{stem.format(listed)} {question}", f"{a}, {b}, {c}", wrong))
    return items


_FACTS = (
    _Item(
        "Which gas do green plants take in from the air to make sugar?",
        "carbon dioxide",
        ["oxygen", "nitrogen", "helium"],
    ),
    _Item(
        "What causes day and night on Earth?",
        "the turning of Earth",
        ["the phases of the moon", "the tides", "the clouds"],
    ),
    _Item(
        "Which part of a flowering plant takes up water from the soil?",
        "the roots",
        ["the petals", "the pollen", "the fruit"],
    ),
    _Item(
        "Which of these materials conducts electricity best?",
        "copper",
        ["glass", "rubber", "dry wood"],
    ),
)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
