"""Makes the demo's data: `python -m evalshim.demo.make_data [DIR]`.

The same files every time, from `questions` and a fixed seed; it must not ask `answers`.
"""

from __future__ import annotations

import base64
import io
import json
import operator
import random
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

from evalshim.demo.questions import SCENES, SCIENCE, STORIES, Scene

SEED = 20240501
DATA = Path(__file__).parent / "data"

# VLMEvalKit 0.0.20 enlarges pictures with an edge below 100 before it sends them.
_SIDE = 120
_COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "black"]  # as CSS has them
# Whether a point belongs to a shape; from its centre, in halves of its height.
_KINDS: dict[str, Callable[[float, float], bool]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: max(abs(x), abs(y)) <= 0.9,
    "rectangle": lambda x, y: abs(x) <= 1.2 and abs(y) <= 0.65,
    "triangle": lambda x, y: abs(x) <= (y + 1) / 2 <= 1,
}
_PLACES = {
    f"{row} {column}".strip() or "centre": (x, y)
    for row, y in (("top", 24), ("", 60), ("bottom", 96))
    for column, x in (("left", 24), ("", 60), ("right", 96))
}

_NAMES = ["Mia", "Tom", "Lena", "Omar", "Ana", "Kofi", "Yuki", "Priya", "Noah", "Ivo", "Zoe", "Sam"]
_THINGS = ["marbles", "stamps", "shells", "stickers", "beads", "buttons", "postcards", "pebbles"]
_DRAWN = r"<(-?\d+)\.\.(-?\d+)>"
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_TIMES = 3  # that a template is used


def make(directory: Path, seed: int = SEED) -> None:
    """Write shapes.tsv, gsm8k/ and ARC-c/ below `directory`."""
    rng = random.Random(seed)
    stories = _blocks(STORIES)
    _write(directory / "shapes.tsv", _tsv(_shapes(rng)))
    _write(directory / "gsm8k" / "test.jsonl", _jsonl(_stories(stories * _TIMES, rng)))
    _write(directory / "gsm8k" / "train.jsonl", _jsonl(_stories(stories[:8], rng)))
    _write(directory / "ARC-c" / "ARC-Challenge-Dev.jsonl", _jsonl(_science(rng)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(text.encode())
    beside.replace(path)


def _tsv(rows: Sequence[dict[str, str]]) -> str:
    return "".join("\t".join(cells) + "\n" for cells in (rows[0], *(row.values() for row in rows)))


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _letters(rng: random.Random, count: int) -> list[str]:
    """The letters of the right answers, evenly over A to D, in random order."""
    return rng.sample("ABCD" * (count // 4), count)


def _options(rng: random.Random, letter: str, right: str, wrong: Sequence[str]) -> dict[str, str]:
    """The four options by letter, the right one at `letter`."""
    texts = rng.sample(wrong, 3)
    texts.insert("ABCD".index(letter), right)
    return dict(zip("ABCD", texts, strict=True))


# Pictures


class _Shape(NamedTuple):
    kind: str
    colour: str
    centre: tuple[int, int]  # in pixels from the left and the top
    size: int  # half the height, in pixels


def _shapes(rng: random.Random) -> list[dict[str, str]]:
    scenes = rng.sample(SCENES * _TIMES, len(SCENES) * _TIMES)
    rows: list[dict[str, str]] = []
    for scene, letter in zip(scenes, _letters(rng, len(scenes)), strict=True):
        image, question, (right, *wrong) = _picture(scene, rng)
        row = {"index": str(len(rows)), "image": image, "question": question}
        options = _options(rng, letter, right, wrong)
        rows.append({**row, **options, "answer": letter, "category": scene.category})
    return rows


def _picture(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]]:
    """A picture, its question and four options, the right one first."""
    kinds, colours = rng.sample(list(_KINDS), 4), rng.sample(_COLOURS, 4)
    kinds.sort(key=lambda kind: kind != scene.kind)
    colours[0] = scene.colour or colours[0]
    places = scene.places.split(", ") if scene.places else rng.sample(list(_PLACES), 9)
    shapes = []
    for shape, place in zip(scene.shapes.split(), places, strict=False):
        size = scene.size if shape == "00" else Scene.size
        shapes.append(_Shape(kinds[int(shape[0])], colours[int(shape[1])], _PLACES[place], size))
    number = rng.randint(2, 4)
    if scene.asks == "number":
        del shapes[number:4]
    numbers = [str(number + more) for more in (0, -1, 1, 2)]
    options = {"kind": kinds, "colour": colours, "place": places, "number": numbers}
    words = {"kind": kinds[0], "colour": colours[0], "other": f"{colours[1]} {kinds[1]}"}
    return _png(shapes), scene.question.format(**words), options[scene.asks][:4]


def _png(shapes: Sequence[_Shape]) -> str:
    """A picture in base64."""
    from PIL import Image, ImageColor  # here, so that the rest of the demo imports without it

    picture = Image.new("RGB", (_SIDE, _SIDE), "ivory")
    for kind, colour, (left, top), size in shapes:
        # Pixel by pixel: Pillow's own circles differ between versions.
        for x, y in product(range(_SIDE), repeat=2):
            if _KINDS[kind]((x + 0.5 - left) / size, (y + 0.5 - top) / size):
                picture.putpixel((x, y), ImageColor.getrgb(colour))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# Word problems and science


def _blocks(templates: str) -> list[tuple[str, str]]:
    """The text of each template, on one line, and what stands below it."""
    blocks = [block.partition("\n= ") for block in templates.strip().split("\n\n")]
    return [(text.replace("\n", " "), solution) for text, _, solution in blocks]


def _stories(templates: Sequence[tuple[str, str]], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for text, working in rng.sample(templates, len(templates)):
        question, steps = _draw(text, working, rng)
        people = dict(zip("ABC", rng.sample(_NAMES, 3), strict=True))
        question = question.format(**people, things=rng.choice(_THINGS))
        lines = [f"{step} = <<{step.replace(' ', '')}={result}>>{result}" for step, result in steps]
        rows.append({"question": question, "answer": "\n".join([*lines, f"#### {steps[-1][1]}"])})
    return rows


def _science(rng: random.Random) -> list[dict[str, Any]]:
    templates = _blocks(SCIENCE)
    templates += [block for block in templates if "<" in block[0]] * (_TIMES - 1)
    rng.shuffle(templates)
    rows: list[dict[str, Any]] = []
    for (text, solution), letter in zip(templates, _letters(rng, len(templates)), strict=True):
        working, _, unit = solution.rpartition("; ")
        stem, steps = _draw(text, working, rng)
        right, *wrong = _amounts(stem, steps[-1][1], unit) if steps else solution.split(" / ")
        options = _options(rng, letter, right, wrong).items()
        choices = [{"text": option, "label": label} for label, option in options]
        question = {"stem": stem, "choices": choices}
        rows.append({"id": f"demo_{len(rows) + 1}", "question": question, "answerKey": letter})
    return rows


def _amounts(stem: str, right: Fraction, unit: str) -> list[str]:
    """The right amount and what wrong ways lead to from the numbers told."""
    told = [Fraction(number) for number in re.findall(r"\d+", stem)]
    pairs = [(x, y, x + y, abs(x - y), x * y) for x, y in combinations(told, 2)]
    wrong = {amount for pair in pairs for amount in pair} - {Fraction(0), right}
    return [f"{amount} {unit}" for amount in (right, *sorted(wrong))]


def _draw(text: str, working: str, rng: random.Random) -> tuple[str, list[tuple[str, Fraction]]]:
    """A text with its numbers, all different, and the steps of its solution, whole and above 0."""
    spans = [(int(low), int(high)) for low, high in re.findall(_DRAWN, text)]
    while True:
        numbers = [rng.randint(*span) for span in spans]
        steps = _solve(working, numbers)
        whole = all(result > 0 and result.denominator == 1 for _, result in steps)
        if whole and len(set(numbers)) == len(numbers):
            break
    return re.sub(_DRAWN, lambda _: str(numbers.pop(0)), text), steps


def _solve(working: str, numbers: Sequence[int]) -> list[tuple[str, Fraction]]:
    """Each step, such as `3 * 12`, with its result."""
    known = {name: Fraction(number) for name, number in zip("abcd", numbers, strict=False)}
    steps = []
    for one, operation, two in re.findall(r"(\w+) (.) (\w+)", working):
        left, right = (known[name] if name in known else Fraction(name) for name in (one, two))
        known["_"] = _OPERATIONS[operation](left, right)
        steps.append((f"{left} {operation} {right}", known["_"]))
    return steps


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
