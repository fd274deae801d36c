"""`shim check FILE`, `shim convert` and `shim list scorers`."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evalshim import data_files
from evalshim.adapters.scorers import SCORERS
from evalshim.cli import main

GOOD = "index\tquestion\tA\tB\tanswer\tcategory\n1\tq\tcat\tdog\tA\tx\n2\tr\tcat\tdog\tB\ty\n"
BAD = "index\tquestion\tA\tB\tanswer\n1\tq\tcat\tdog\tC\n1\t\tcat\tdog\tA\n"


def _shim(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "pets.tsv"
    path.write_text(GOOD)
    return path


def test_a_good_file_is_summarised(good: Path) -> None:
    done = _shim("check", str(good))

    assert done.exit_code == 0
    assert "mcq, 2 rows, 2 answered, 2 categories, 0 pictures" in done.output
    assert "no defect" in done.output


def test_every_defect_has_its_line_column_and_cure(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(BAD)

    done = _shim("check", str(path))

    assert done.exit_code == 2
    for part in (
        "line 2, column answer: 'C' names no option", "mend: one of the letters",
        "line 3, column index: duplicate index 1", "line 3, column question: no question",
        "3 defects",
    ):  # fmt: skip
        assert part in done.output


def test_json_has_the_same(tmp_path: Path, good: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(BAD)

    found = json.loads(_shim("check", str(path), "--json").stdout)
    fine = json.loads(_shim("check", str(good), "--json").stdout)

    assert [(d["line"], d["column"]) for d in found["defects"]] == [
        (2, "answer"), (3, "index"), (3, "question"),
    ]  # fmt: skip
    assert fine["categories"] == {"x": 1, "y": 1}


def test_what_a_file_holds_reaches_the_terminal_harmless(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("index\tquestion\tA\tB\tanswer\n\x1b[2J/..\tq\ta\tb\t\u202eC\n")

    done = _shim("check", str(path))

    assert done.exit_code == 2
    assert "\x1b" not in done.output and "\u202e" not in done.output


def test_very_many_defects_are_counted_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("index\tquestion\tA\tB\tanswer\n" + "1\t\ta\tb\tC\n" * 500)

    done = _shim("check", str(path))

    assert "... and 1399 more" in done.output
    assert len(done.output.splitlines()) < 250


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("check", "nothing.tsv"), "no such file"),
        (("check", "PETS", "--format", "mcp"), "did you mean mcq"),
        (("convert", "PETS", "out.csv"), "not a .tsv"),
        (("convert", "nothing.jsonl", "out.tsv"), "no such file"),
    ],
    ids=str,
)
def test_bad_usage(good: Path, words: tuple[str, ...], part: str) -> None:
    done = _shim(*(str(good) if w == "PETS" else w for w in words))

    assert done.exit_code == 2
    assert part in done.output


def test_a_file_is_converted(tmp_path: Path) -> None:
    source, target = tmp_path / "set.csv", tmp_path / "set.tsv"
    source.write_text('question,A,B,answer\n"x, y?",1,2,B\n')

    done = _shim("convert", str(source), str(target))

    assert done.exit_code == 0, done.output
    assert target.read_text() == "index\tquestion\tA\tB\tanswer\n1\tx, y?\t1\t2\tB\n"
    assert not data_files.inspect(target).defects
    assert _shim("convert", str(source), str(target)).exit_code == 2  # never overwritten


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.tsv", GOOD.replace("\tx\n", "\tOverall\n"), "a category named Overall"),
        (
            "a.tsv",
            "index\tquestion\tA\tB\tanswer\timage\timage_path\n1\tq\ta\tb\tA\t\tx.png\n",
            "line 2, column image: no picture",
        ),
        (
            "a.jsonl",
            '{"question": "q", "options": ["a", "b"], "answer": "A", "hint": "<image 2>"}\n',
            "no image for <image 2>",
        ),
    ],
    ids=["overall", "two-places", "hint"],
)
def test_what_would_change_a_score_without_a_word(
    tmp_path: Path, name: str, text: str, part: str
) -> None:
    (tmp_path / name).write_text(text)

    assert part in _shim("check", str(tmp_path / name)).output


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.tsv"
    with path.open("w") as file:
        file.write("index\tquestion\tA\tB\tanswer\thint\n")
        for i in range(2000):
            file.write(f"{i}\tq\ta\tb\tA\t{'x' * 10_000}\n")
    tracemalloc.start()

    report = data_files.inspect(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (report.rows, report.defects) == (2000, [])
    assert report.size > 20e6
    assert peak < 3e6


def test_scorers_say_whose_they_are() -> None:
    done = _shim("list", "scorers")
    listed = json.loads(_shim("list", "scorers", "--json").stdout)

    assert [entry["name"] for entry in listed] == sorted(SCORERS)
    for scorer in SCORERS.values():
        assert scorer.source in done.output
    assert "VLMEvalKit" in done.output and "nltk" in done.output
    assert [e["name"] for e in json.loads(_shim("list", "scorers", "vqa*", "--json").stdout)] == [
        "vqa_score"
    ]
