"""What the benchmarks ask, in the formats of VLMEvalKit, of OpenCompass and of EvalScope.

A model that says `A` to everything is right in a part of the questions. The same arguments make
the same files.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.integration import opencompass_data, vlmeval_data

SETS = ("gsm8k", "ARC_c")
SUBSETS = tuple(opencompass_data.MMLU)
_OPTIONS = {"A": "this", "B": "that", "C": "both", "D": "neither"}
_PICTURES = 8  # distinct ones


def mcq(folder: Path, rows: int, *, large: bool = False) -> Path:
    """`mcq.tsv`, multiple-choice questions as VLMEvalKit has them.

    Args:
        large: Pictures are noise, JPEGs of about 100 KB, and not a few hundred bytes each.
    """
    path = folder / "mcq.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "question", *_OPTIONS, "answer", "image"])
        for number, question, answer, picture in _questions(rows, large):
            writer.writerow([number, question, *_OPTIONS.values(), answer, picture])
    return path


def general_vmcq(folder: Path, rows: int, *, large: bool = False) -> Path:
    """The same questions as EvalScope's General-VMCQ has them."""
    path = folder / "mcq_val.jsonl"
    kind = "jpeg" if large else "png"
    with path.open("w", encoding="utf-8") as file:
        for _, question, answer, picture in _questions(rows, large):
            row = {"question": f"<image 1> {question}", "options": [*_OPTIONS.values()]}
            row |= {"answer": answer, "image_1": f"data:image/{kind};base64,{picture}"}
            file.write(json.dumps(row) + "\n")
    return path


def _questions(rows: int, large: bool) -> Iterator[tuple[int, str, str, str]]:
    make = _noise if large else vlmeval_data.picture
    pictures = [make(number) for number in range(_PICTURES)]
    for i in range(rows):
        yield i, f"Which of these is picture {i}?", "ABCD"[i % 4], pictures[i % _PICTURES]


def _noise(seed: int, side: int = 330) -> str:
    pixels = random.Random(seed).randbytes(side * side * 3)
    written = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(written, "JPEG", quality=90)
    return base64.b64encode(written.getvalue()).decode()


def sets(folder: Path, rows: int) -> Path:
    """gsm8k and ARC_c with `rows` questions each; what COMPASS_DATA_CACHE is to name."""
    for name in SETS:
        opencompass_data.write(name, folder)
    for path in (folder / "data").rglob("*.jsonl"):
        _lengthen(path, rows)
    return folder


def mmlu(folder: Path, rows: int) -> Path:
    """MMLU, `rows` questions in each of its 57 subsets; what COMPASS_DATA_CACHE is to name."""
    opencompass_data.write("mmlu", folder)
    for path in (folder / "data").rglob("*_test.csv"):
        _lengthen(path, rows)
    return folder


def _lengthen(path: Path, rows: int) -> None:
    """Say the lines of a file again until there are `rows`."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(lines[i % len(lines)] for i in range(rows))
    path.write_text(text, encoding="utf-8")


def general_mcq(folder: Path, subsets: int, rows: int) -> list[str]:
    """Questions without pictures as EvalScope's General-MCQ has them; the names of the subsets."""
    names = [f"subset{number}" for number in range(subsets)]
    for name in names:
        with (folder / f"{name}_val.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", *_OPTIONS, "answer"])
            for i in range(rows):
                writer.writerow([f"{name} {i}?", *_OPTIONS.values(), "ABCD"[i % 4]])
    return names
