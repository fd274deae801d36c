"""A user's own data file: what is wrong with it, where upstream finds it, and as a TSV."""

from __future__ import annotations

import csv
import io
import json
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from evalshim.adapters import custom_data, placing, tables
from evalshim.errors import ConfigError

from .conftest import as_base64, picture

Tsv = Callable[..., Path]
MCQ = "index\tquestion\tA\tB\tanswer\n"
PET = "1\tWhich animal?\tcat\tdog\tA\n"
ASKED = '{"messages": [{"role": "user", "content": "Which?"}], "answer": "cat"}\n'
CHOSEN = '{"question": "Which?", "options": ["cat", "dog"], "answer": "A"}\n'
# A good file of each format in each form that it may have.
GOOD = {
    ("mcq", ".tsv"): (
        "index\tcategory\tanswer\tquestion\tA\tB\tC\tD\timage_path\n"
        "1\tAnimals\tA\tWhat animal is this?\tDog\tCat\tTiger\tElephant\timg/0.png\n"
        "2\tCities\tD\tWhich city is this?\tNew York\tTokyo\tShanghai\tParis\timg/1.png\n"
    ),
    ("vqa", ".tsv"): (
        "index\tanswer\tquestion\timage_path\n"
        "1\tDog\tWhat animal is this?\timg/0.png\n"
        "2\t['Museum', 'A museum']\tWhat building is this?\timg/1.png\n"
    ),
    ("general_vqa", ".jsonl"): (
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "What animal?"}, '
        '{"type": "image_url", "image_url": {"url": "img/0.png"}}]}], "answer": "Dog"}\n'
        '{"messages": [{"role": "user", "content": "What is 2+2?"}], "answer": "4"}\n'
    ),
    ("general_vqa", ".tsv"): (
        "messages\tanswer\n"
        '[{"role": "user", "content": [{"type": "text", "text": "What animal?"}, '
        '{"type": "image_url", "image_url": {"url": "img/0.png"}}]}]\tDog\n'
        '[{"role": "user", "content": "What is 2+2?"}]\t4\n'
    ),
    ("general_vmcq", ".jsonl"): (
        '{"question": "Which image shows a dog?", "options": ["<image 1>", "<image 2>"], '
        '"image_1": "img/0.png", "image_2": "img/1.png", "answer": "A"}\n'
        '{"question": "<image 1> What is this?", "options": ["Park", "Museum", "School"], '
        '"image_1": "img/1.png", "answer": "C"}\n'
    ),
    ("general_vmcq", ".tsv"): (
        "question\toptions\tanswer\timage_1\timage_2\n"
        'Which image shows a dog?\t["<image 1>", "<image 2>"]\tA\timg/0.png\timg/1.png\n'
        "<image 1> What is this?\t['Park', 'Museum', 'School']\tC\timg/1.png\t\n"
    ),
    ("opencompass_mcq", ".jsonl"): (
        '{"question": "165+833+650+615=", "A": "2258", "B": "2263", "answer": "B"}\n'
        '{"question": "368+959+918+653+978=", "A": "3876", "B": "3878", "answer": "A"}\n'
    ),
    ("opencompass_mcq", ".csv"): (
        "question,A,B,C,answer\n127+545+588=,1260,1360,1234,A\n735+603=,1338,1183,1264,A\n"
    ),
    ("opencompass_qa", ".jsonl"): (
        '{"question": "752+361+181+933+235=", "answer": "2462"}\n'
        '{"question": "What is Pi?", "answer": "3.14"}\n'
    ),
    ("opencompass_qa", ".csv"): 'question,answer\n123+147=,270\n"Who, if anyone?",nobody\n',
}  # fmt: skip


def _refused(path: Path, *parts: str) -> None:
    """The file is refused, and `parts` are in what is said about it."""
    with pytest.raises(ConfigError) as caught:
        custom_data.check(path, "mcq")
    text = str(caught.value)
    assert path.name in text
    for part in parts:
        assert part in text
    assert len(text) < 1500


def _rows(path: Path, format: str = "mcq", *, answers: bool = True) -> int:
    return custom_data.check(path, format, answers=answers).rows


def _noise(form: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((120, 120), 80).convert("RGB").save(out, form)
    return out.getvalue()


def _read(path: Path) -> pd.DataFrame:
    """As it stands, and as a text each cell."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def _files(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / "img" / f"{i}.png" for i in range(count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture())
    return paths


class TestTable:
    def test_a_valid_file_has_its_rows_counted(self, tsv: Tsv) -> None:
        assert _rows(tsv(5)) == 5

    def test_questions_need_no_pictures(self, tsv: Tsv) -> None:
        assert _rows(tsv(drop=["image"])) == 3

    @pytest.mark.parametrize("column", ["index", "question", "answer"])
    def test_a_missing_column_is_named_with_those_there_are(self, tsv: Tsv, column: str) -> None:
        path = tsv(drop=[column])

        _refused(path, f"no column `{column}`", "its columns: ", "A, B", f"mend {path}")

    @pytest.mark.parametrize("drop", [["A"], ["B"], ["A", "B"]])
    def test_options_are_needed(self, tsv: Tsv, drop: list[str]) -> None:
        _refused(tsv(drop=drop), "no options", "in columns A, B")

    def test_rows_are_needed(self, tsv: Tsv) -> None:
        _refused(tsv(0), "no rows")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "pets.tsv"
        path.touch()

        _refused(path, "empty file")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        _refused(tmp_path / "nothing.tsv", "cannot read")

    @pytest.mark.parametrize(
        "data", [b"\xff\xfe\x00\x01", b"index\tquestion\tA\tB\tanswer\n\xe9\tb\n"]
    )
    def test_bytes_that_are_no_text(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "pets.tsv"
        path.write_bytes(data)

        _refused(path, "not UTF-8")

    def test_a_comma_separated_file_shows_its_one_column(self, tmp_path: Path) -> None:
        path = tmp_path / "pets.tsv"
        path.write_text("index,question,answer,A,B\n0,q,A,cat,dog\n")

        _refused(path, "separated by commas", "its columns: index,question,answer,A,B")

    def test_a_row_with_too_many_cells_names_its_line(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        path.write_text(path.read_text() + "3\tq\tcat\tdog\tA\textra\n")

        _refused(path, "line 5: 6 cells, and the header has 5 columns")

    def test_a_tab_behind_every_row_moves_no_column(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *(f"{row}\t" for row in rows)]) + "\n")

        _refused(path, "line 2: 6 cells", "line 4: 6 cells", "header")

    def test_an_unclosed_quote_is_refused(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        path.write_text(path.read_text() + '3\t"never closed\tcat\tdog\tA\n4\tq\tcat\tdog\tA\n')

        _refused(path, "line 5: a quote that never closes")


class TestIndex:
    def test_a_duplicate_names_both_lines(self, tsv: Tsv) -> None:
        _refused(tsv(index=["0", "7", "7"]), "duplicate index 7", "lines 3 and 4")

    def test_an_empty_one_names_its_line(self, tsv: Tsv) -> None:
        _refused(tsv(index=["0", "", "2"]), "line 3, column index: empty index")

    def test_numbers_that_upstream_reads_alike_are_duplicates(self, tsv: Tsv) -> None:
        path = tsv(index=["1", "01", "2"])
        assert not pd.read_csv(path, sep="\t")["index"].is_unique

        _refused(path, "duplicate index", "lines 2 and 3")

    def test_text_is_an_index(self, tsv: Tsv) -> None:
        assert _rows(tsv(index=["a", "b/c", "d..e"])) == 3

    @pytest.mark.parametrize("index", ["NA", "None", "nan", "null"])
    def test_what_upstream_takes_for_empty_is_empty(self, tsv: Tsv, index: str) -> None:
        _refused(tsv(index=["0", "1", index]), "line 4, column index: empty index")

    @pytest.mark.parametrize(
        "index",
        ["../x", "/x", "a/../../b", "..", ".", "a/", "a//b", "a/./b", "x" * 300, "\u72d7" * 120],
    )
    def test_one_that_cannot_name_a_file_below_its_folder(self, tsv: Tsv, index: str) -> None:
        _refused(tsv(index=["0", index, "2"]), "line 3, column index: ", "cannot name a file")

    @pytest.mark.parametrize("index", [["1", "1.0", "2"], ["1", "1e0", "2.5"]])
    def test_fractions_that_upstream_reads_alike_are_duplicates(
        self, tsv: Tsv, index: list[str]
    ) -> None:
        path = tsv(index=index)
        assert not pd.read_csv(path, sep="\t")["index"].is_unique

        _refused(path, "duplicate index", "lines 2 and 3")

    def test_lines_are_those_of_the_file_behind_a_question_of_several(self, tsv: Tsv) -> None:
        path = tsv(index=["0", "1", ""], question=["two\nlines", "one", "one"])

        _refused(path, "line 5, column index: empty index")


class TestBase64:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
    def test_any_common_format_is_a_picture(self, tsv: Tsv, form: str) -> None:
        assert _rows(tsv(1, image=[as_base64(picture(form=form))])) == 1

    def test_several_pictures_of_a_question(self, tsv: Tsv) -> None:
        cell = str([as_base64(picture("red")), as_base64(picture("blue"))])

        assert _rows(tsv(1, image=[cell])) == 1

    def test_the_second_of_several_is_checked_too(self, tsv: Tsv) -> None:
        cell = str([as_base64(picture()), as_base64(b"not a picture at all" * 5)])

        _refused(tsv(1, image=[cell]), "line 2, column image: not a picture")

    def test_base64_in_lines_is_base64(self, tsv: Tsv) -> None:
        text = as_base64(_noise("PNG"))
        lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))

        assert _rows(tsv(1, image=[lines])) == 1

    def test_an_index_shares_the_picture_of_its_row(self, tsv: Tsv) -> None:
        whole = as_base64(picture())

        assert _rows(tsv(index=["7", "8", "9"], image=["9", "9", whole])) == 3

    @pytest.mark.parametrize("cell", ["17", "1", "cat.png"])
    def test_an_index_without_a_picture_is_named(self, tsv: Tsv, cell: str) -> None:
        """Row 1 has no picture of its own: upstream follows one step and no more."""
        path = tsv(image=[as_base64(picture()), "0", cell])

        _refused(path, f"line 4, column image: {cell!r} is no picture", "no row has this one")

    def test_a_row_may_have_no_picture(self, tsv: Tsv) -> None:
        report = custom_data.check(tsv(image=[as_base64(picture()), "", "0"]), "mcq")

        assert (report.rows, report.pictures) == (3, 1)

    def test_a_row_without_one_shares_none(self, tsv: Tsv) -> None:
        path = tsv(image=[as_base64(picture()), "", "1"])

        _refused(path, "line 4, column image: '1' is no picture")

    @pytest.mark.parametrize(
        ("cell", "why"),
        [
            ("!" * 80, "not base64"),
            ("data:image/png;base64," + as_base64(picture()), "not base64"),
            (as_base64(b"hello " * 20), "none of PNG"),
        ],
    )
    def test_what_is_no_picture_is_named_by_line_and_column(
        self, tsv: Tsv, cell: str, why: str
    ) -> None:
        path = tsv(image=[as_base64(picture()), cell, "0"])

        _refused(path, "line 3, column image: not a picture", why)

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
    def test_half_a_picture_is_none(self, tsv: Tsv, form: str) -> None:
        whole = _noise(form)
        path = tsv(2, image=[as_base64(whole), as_base64(whole[: len(whole) // 2])])

        _refused(path, "line 3, column image: not a picture")

    def test_a_damaged_png_is_none(self, tsv: Tsv) -> None:
        data = bytearray(_noise("PNG"))
        data[len(data) // 2] ^= 0xFF

        _refused(tsv(1, image=[as_base64(bytes(data))]), "line 2, column image: not a picture")

    def test_a_picture_of_too_many_pixels_is_refused(self, tsv: Tsv) -> None:
        out = io.BytesIO()
        Image.new("1", (14_000, 14_000)).save(out, "PNG")

        _refused(tsv(1, image=[as_base64(out.getvalue())]), "line 2, column image", "too large")


class TestFiles:
    @pytest.fixture
    def with_files(self, tsv: Tsv, tmp_path: Path) -> Tsv:
        """A TSV with `image_path` and no `image`; the files are there."""
        _files(tmp_path)

        def write(*cells: str, **columns: list[str]) -> Path:
            return tsv(len(cells), drop=["image"], image_path=list(cells), **columns)

        return write

    def test_absolute_relative_and_several(self, with_files: Tsv, tmp_path: Path) -> None:
        path = with_files(
            str(tmp_path / "img" / "0.png"), "img/1.png", "['img/0.png', './img/2.png']"
        )

        assert _rows(path) == 3

    def test_relative_to_the_tsv_before_the_working_directory(
        self, with_files: Tsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere" / "img").mkdir(parents=True)
        (tmp_path / "elsewhere" / "img" / "0.png").write_text("no picture")
        monkeypatch.chdir(tmp_path / "elsewhere")

        assert _rows(with_files("img/0.png")) == 1

    def test_relative_to_the_working_directory_where_none_is_beside_the_tsv(
        self, with_files: Tsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "9.png").write_bytes(picture())
        monkeypatch.chdir(tmp_path / "elsewhere")
        path, placed = with_files("9.png"), tmp_path / "out" / "pets.tsv"

        assert _rows(path) == 1
        placing.place(path, "mcq", placed)
        assert _read(placed)["image_path"].tolist() == [str(tmp_path / "elsewhere" / "9.png")]

    @pytest.mark.parametrize("cell", ["", "[]", "NA"])
    def test_a_row_may_name_none(self, with_files: Tsv, cell: str) -> None:
        assert _rows(with_files("img/0.png", cell)) == 2

    def test_a_missing_one_is_named(self, with_files: Tsv, tmp_path: Path) -> None:
        path = with_files("img/0.png", "img/none.png")

        _refused(
            path,
            "line 3, column image_path: not a picture",
            f"no such file: {tmp_path / 'img' / 'none.png'}",
        )

    def test_a_missing_one_in_a_list_is_named(self, with_files: Tsv) -> None:
        _refused(with_files("['img/0.png', 'img/none.png']"), "line 2, column image_path")

    @pytest.mark.parametrize("cell", ["img", "~nobody-of-that-name.png", "x" * 300])
    def test_what_names_no_file_is_a_defect_of_the_row(self, with_files: Tsv, cell: str) -> None:
        _refused(with_files("img/0.png", cell), "line 3, column image_path: not a picture")

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_half_a_picture_is_none(self, with_files: Tsv, tmp_path: Path, form: str) -> None:
        whole = _noise(form)
        (tmp_path / "img" / "1.png").write_bytes(whole[: len(whole) // 2])

        _refused(with_files("img/0.png", "img/1.png"), "line 3, column image_path: not a picture")

    def test_text_is_no_picture(self, with_files: Tsv, tmp_path: Path) -> None:
        (tmp_path / "img" / "1.png").write_text("<html>404</html>")

        _refused(with_files("img/0.png", "img/1.png"), "line 3, column image_path: not a picture")


class TestSpelling:
    """What spreadsheets and editors do to a TSV."""

    def test_a_byte_order_mark(self, tsv: Tsv) -> None:
        assert _rows(tsv(encoding="utf-8-sig")) == 3

    def test_carriage_returns(self, tsv: Tsv) -> None:
        assert _rows(tsv(newline="\r\n")) == 3

    def test_quoted_tabs_and_quotes(self, tsv: Tsv) -> None:
        assert _rows(tsv(question=["a\tb", 'say "x"', "two\nlines"])) == 3

    def test_everything_quoted(self, tsv: Tsv) -> None:
        assert _rows(tsv(quoting=csv.QUOTE_ALL)) == 3


class TestPlace:
    def test_a_file_that_upstream_can_read_is_linked(self, tsv: Tsv, tmp_path: Path) -> None:
        path, placed = tsv(), tmp_path / "LMUData" / "pets.tsv"

        placing.place(path, "mcq", placed)

        assert placed.is_symlink()
        assert placed.resolve() == path.resolve()

    @pytest.mark.parametrize(
        "spelling",
        [{}, {"quoting": csv.QUOTE_ALL}, {"encoding": "utf-8-sig"}, {"newline": "\r\n"}],
        ids=["plain", "quoted", "bom", "crlf"],
    )
    @pytest.mark.parametrize("first", [False, True])
    def test_paths_become_absolute_in_a_copy(
        self, tsv: Tsv, tmp_path: Path, spelling: dict[str, str], first: bool
    ) -> None:
        zero, one, two = _files(tmp_path)
        path = tsv(
            drop=["image"],
            image_path=["img/0.png", str(one), "['img/0.png', 'img/2.png']"],
            **spelling,
        )
        if first:
            table = pd.read_csv(path, sep="\t", dtype=str)
            table = table[["image_path", *(c for c in table if c != "image_path")]]
            table.to_csv(
                path, sep="\t", index=False, encoding=spelling.get("encoding", "utf-8"),
                quoting=spelling.get("quoting", csv.QUOTE_MINIMAL),
                lineterminator=spelling.get("newline", "\n"),
            )  # fmt: skip
        placed = tmp_path / "LMUData" / "pets.tsv"

        placing.place(path, "mcq", placed)

        assert not placed.is_symlink()
        cells = pd.read_csv(placed, sep="\t", dtype=str)["image_path"].tolist()
        assert cells == [str(zero), str(one), str([str(zero), str(two)])]

    def test_pictures_in_the_file_win_over_paths(self, tsv: Tsv, tmp_path: Path) -> None:
        """Upstream would write the pictures to those paths: the user's own files."""
        path, placed = tsv(image_path=["a.png", "b.png", "c.png"]), tmp_path / "out" / "pets.tsv"

        placing.place(path, "mcq", placed)

        table = pd.read_csv(placed, sep="\t", dtype=str)
        assert "image_path" not in table
        assert table["image"].tolist() == pd.read_csv(path, sep="\t")["image"].tolist()

    def test_a_copy_keeps_every_other_cell(self, tsv: Tsv, tmp_path: Path) -> None:
        _files(tmp_path)
        path = tsv(
            index=["007", "b/c", "1.50"],
            question=["a\tb", 'say "x"\nand y', "  spaced\rout  "],
            A=["", "None", "1e5"],
            drop=["image"],
            image_path=["img/0.png"] * 3,
        )

        placing.place(path, "mcq", tmp_path / "out" / "pets.tsv")

        before, after = (
            pd.read_csv(p, sep="\t", dtype=str, keep_default_na=False).drop(columns="image_path")
            for p in (path, tmp_path / "out" / "pets.tsv")
        )
        pd.testing.assert_frame_equal(before, after)


class TestAnswers:
    @pytest.mark.parametrize("answer", ["C", "a", "cat"])
    def test_one_that_names_no_option_is_refused(self, tsv: Tsv, answer: str) -> None:
        _refused(tsv(answer=["A", answer, "B"]), f"line 3, column answer: {answer!r}", "A, B")

    @pytest.mark.parametrize("text", ["None", "NA", "null", "N/A"])
    def test_an_option_that_upstream_takes_for_missing_is_none(self, tsv: Tsv, text: str) -> None:
        _refused(
            tsv(A=["x", text, "y"], answer=["A", "A", "B"]), "line 3, column answer: 'A'", text
        )

    def test_predictions_alone_need_none(self, tsv: Tsv) -> None:
        assert _rows(tsv(answer=["", "", ""]), answers=False) == 3

    def test_a_slice_behind_the_last_row_is_refused(self, tsv: Tsv) -> None:
        with pytest.raises(ConfigError, match="takes no row"):
            custom_data.check(tsv(), "mcq", "[3:9]")


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data file, beside which there are pictures and a sound: `data("x.tsv", text)`."""
    _files(tmp_path)
    (tmp_path / "img" / "no.png").write_text("<html>404</html>")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 80)

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _told(path: Path, format: str | None = None) -> str:
    """All that is said of a file, whether it is refused at once or in a report."""
    try:
        report = custom_data.inspect(path, format)
    except ConfigError as error:
        return str(error)
    return "\n".join(f"{defect}\n{defect.cure}" for defect in report.defects)


class TestGoodFile:
    @pytest.mark.parametrize(("format", "suffix"), GOOD)
    def test_has_no_defect(self, data: Tsv, format: str, suffix: str) -> None:
        report = custom_data.inspect(data(f"good{suffix}", GOOD[format, suffix]))

        assert report.format == format
        assert report.defects == []
        assert (report.rows, report.answered) == (2, 2)

    @pytest.mark.parametrize(("format", "suffix"), GOOD)
    def test_is_accepted_by_the_name_of_its_format(
        self, data: Tsv, format: str, suffix: str
    ) -> None:
        assert _rows(data(f"good{suffix}", GOOD[format, suffix]), format) == 2

    def test_is_summed_up(self, data: Tsv) -> None:
        path = data("good.tsv", GOOD["mcq", ".tsv"])

        report = custom_data.inspect(path)

        assert report.categories == {"Animals": 1, "Cities": 1}
        assert report.pictures == 2
        assert report.size == path.stat().st_size

    @pytest.mark.parametrize(
        ("key", "pictures"),
        [(("general_vqa", ".jsonl"), 1), (("general_vmcq", ".tsv"), 3), (("vqa", ".tsv"), 2)],
    )
    def test_has_its_pictures_counted(self, data: Tsv, key: tuple[str, str], pictures: int) -> None:
        assert custom_data.inspect(data(f"good{key[1]}", GOOD[key])).pictures == pictures

    @pytest.mark.parametrize("count", [2, 3, 25, 26])
    def test_may_have_up_to_26_options(self, data: Tsv, count: int) -> None:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
        head = "\t".join(["index", "question", *letters, "answer"])
        row = "\t".join(["1", "Which?", *letters.lower(), letters[-1]])

        assert custom_data.inspect(data("many.tsv", f"{head}\n{row}\n")).defects == []

    def test_a_general_one_needs_no_answer(self, data: Tsv) -> None:
        path = data("x.jsonl", '{"messages": [{"role": "user", "content": "Which?"}]}\n')

        report = custom_data.check(path, "general_vqa")

        assert (report.rows, report.answered) == (1, 0)


class TestFormat:
    @pytest.mark.parametrize("name", ["x.txt", "x.json", "x.xlsx", "x", "x.TSV.gz"])
    def test_is_not_known_of_another_suffix(self, data: Tsv, name: str) -> None:
        with pytest.raises(ConfigError, match=r"none of \.csv, \.jsonl, \.tsv"):
            custom_data.recognise(data(name, MCQ + PET))

    def test_options_as_columns_win_over_a_list(self, data: Tsv) -> None:
        text = "index\tquestion\toptions\tA\tB\tanswer\n1\tWhich?\t[]\tcat\tdog\tA\n"

        assert custom_data.recognise(data("x.tsv", text)) == "mcq"

    @pytest.mark.parametrize(
        ("format", "name", "text"),
        [
            ("mcq", "x.jsonl", '{"index": 1, "question": ["q"], "A": 1, "B": 2, "answer": []}\n'),
            ("vqa", "x.jsonl", '{"index": [1], "question": {"q": 1}, "answer": null}\n'),
            ("mcq", "x.csv", "index,question,A,B,answer\n1,Which?,cat,dog,A\n"),
            ("general_vqa", "x.csv", "messages,answer\n[],cat\n"),
            ("opencompass_mcq", "x.tsv", MCQ + PET),
            ("opencompass_qa", "x.tsv", "question\tanswer\nWhich?\tcat\n"),
        ],
    )
    def test_in_a_file_of_another_suffix_is_refused(
        self, data: Tsv, format: str, name: str, text: str
    ) -> None:
        """Upstream finds `<name>.tsv`, and OpenCompass reads .jsonl and .csv alone."""
        with pytest.raises(ConfigError):
            custom_data.check(data(name, text), format)


def _general(**members: Any) -> str:
    return json.dumps({"answer": "A", **members}) + "\n"


def _asks(*parts: Any) -> str:
    return _general(messages=[{"role": "user", "content": list(parts)}])


def _picture_of(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _sound_of(data: Any, form: Any = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


# format, file, what is in it; line, column, what is said of it, how to mend it
DEFECTS: dict[str, tuple[str, str, str | bytes, int | None, str, str, str]] = {
    # mcq
    "mcq-no-index": (
        "mcq", "x.tsv", "question\tA\tB\tanswer\nWhich?\tcat\tdog\tA\n",
        1, "index", "no column `index`", "add it",
    ),
    "mcq-capital": (
        "mcq", "x.tsv", (MCQ + PET).replace("index", "Index"), 1, "index", "no column `index`",
        "rename `Index`",
    ),
    "mcq-misspelt": (
        "mcq", "x.tsv", (MCQ + PET).replace("question", "qestion"), 1, "question",
        "no column `question`", "rename `qestion`",
    ),
    "mcq-misspelt-answer": (
        "mcq", "x.tsv", (MCQ + PET).replace("answer", " anwser "), 1, "answer",
        "no column `answer`", "rename ",
    ),
    "mcq-one-option": (
        "mcq", "x.tsv", "index\tquestion\tA\tanswer\n1\tWhich?\tcat\tA\n", 1, "", "no options", "",
    ),
    "mcq-duplicate": (
        "mcq", "x.tsv", MCQ + PET + PET, 3, "index", "duplicate index 1", "number the rows",
    ),
    "mcq-text-index": (
        "mcq", "x.tsv", MCQ + PET.replace("1", "cat-1"), 2, "index",
        "'cat-1' is no whole number", "number the rows",
    ),
    "mcq-fraction-index": (
        "mcq", "x.tsv", MCQ + PET.replace("1", "1.5"), 2, "index", "'1.5' is no whole number",
        "number the rows",
    ),
    "mcq-empty-index": (
        "mcq", "x.tsv", MCQ + PET + PET[1:], 3, "index", "empty index", "every row needs one",
    ),
    "mcq-answer": (
        "mcq", "x.tsv", MCQ + PET.replace("A\n", "C\n"), 2, "answer", "'C' names no option",
        "one of the letters",
    ),
    "mcq-no-answer": (
        "mcq", "x.tsv", MCQ + PET.replace("A\n", "\n"), 2, "answer", "no",
        "one of the letters",
    ),
    "mcq-no-question": (
        "mcq", "x.tsv", MCQ + PET.replace("Which animal?", ""), 2, "question", "no question",
        "every row needs one",
    ),
    "mcq-question-NA": (
        "mcq", "x.tsv", MCQ + PET.replace("Which animal?", "NA"), 2, "question", "no question",
        "every row needs one",
    ),
    "mcq-option-NA": (
        "mcq", "x.tsv", MCQ + PET.replace("dog", "None"), 2, "B", "'None' is an empty cell",
        "say it otherwise",
    ),
    "mcq-no-picture": (
        "mcq", "x.tsv", "image_path\t" + MCQ + "img/none.png\t" + PET, 2, "image_path",
        "not a picture", "correct the path",
    ),
    "mcq-picture-unreadable": (
        "mcq", "x.tsv", "image_path\t" + MCQ + "img/no.png\t" + PET, 2, "image_path",
        "not a picture", "replace the file",
    ),
    "mcq-base64": (
        "mcq", "x.tsv", "image\t" + MCQ + "!" * 99 + "\t" + PET, 2, "image", "not a picture",
        "replace it",
    ),
    "mcq-shared": (
        "mcq", "x.tsv", "image\t" + MCQ + "7\t" + PET, 2, "image", "'7' is no picture",
        "the base64 of a picture, or the index",
    ),
    "mcq-too-many-cells": (
        "mcq", "x.tsv", MCQ + PET + PET.replace("\n", "\textra\n"), 3, "",
        "6 cells, and the header has 5 columns", "take out the delimiters",
    ),
    "mcq-mixed-delimiters": (
        "mcq", "x.tsv", MCQ + PET + "2,Which?,cat,dog,A\n", 3, "",
        "one cell, and the header has 5 columns", "one delimiter",
    ),
    "mcq-commas": (
        "mcq", "x.tsv", (MCQ + PET).replace("\t", ","), 1, "", "the header is separated by commas",
        "by tabs",
    ),
    "mcq-semicolons": (
        "mcq", "x.tsv", (MCQ + PET).replace("\t", ";"), 1, "",
        "the header is separated by semicolons", "by tabs",
    ),
    "mcq-columns-twice": (
        "mcq", "x.tsv", MCQ.replace("answer", "answer\tA") + PET.replace("A\n", "A\tcow\n"), 1, "",
        "two columns are named A", "name each once",
    ),
    "mcq-quote": (
        "mcq", "x.tsv", MCQ + PET + '2\t"Which?\tcat\tdog\tA\n3\tWhich?\tcat\tdog\tA\n', 3, "",
        "a quote that never closes", 'as ""',
    ),
    "mcq-nul": ("mcq", "x.tsv", MCQ + PET + PET.replace("cat", "c\0t"), 3, "", "NUL", ""),
    "mcq-bom": (
        "mcq", "x.tsv", b"\xef\xbb\xbf" + (MCQ + PET).encode(), None, "", "a byte order mark",
        "without one",
    ),
    "mcq-crlf": (
        "mcq", "x.tsv", (MCQ + PET).replace("\n", "\r\n"), None, "", "lines end in CRLF", "with LF",
    ),
    "mcq-no-rows": ("mcq", "x.tsv", MCQ, None, "", "no rows", ""),
    # vqa
    "vqa-no-answer-column": (
        "vqa", "x.tsv", "index\tquestion\n1\tWhich?\n", 1, "answer", "no column `answer`", "add it",
    ),
    "vqa-misspelt": (
        "vqa", "x.tsv", "index\tquestion\tanswers\n1\tWhich?\tcat\n", 1, "answer",
        "no column `answer`", "rename `answers`",
    ),
    "vqa-no-answer": (
        "vqa", "x.tsv", "index\tquestion\tanswer\n1\tWhich?\t\n", 2, "answer", "no answer",
        "mode: infer",
    ),
    "vqa-answer-NA": (
        "vqa", "x.tsv", "index\tquestion\tanswer\n1\tWhich?\tN/A\n", 2, "answer", "no answer",
        "give one",
    ),
    "vqa-duplicate": (
        "vqa", "x.tsv", "index\tquestion\tanswer\n1\tWhich?\tcat\n1\tWho?\tI\n", 3, "index",
        "duplicate index 1", "number the rows",
    ),
    "vqa-no-question": (
        "vqa", "x.tsv", "index\tquestion\tanswer\n1\t\tcat\n", 2, "question", "no question",
        "every row needs one",
    ),
    "vqa-no-picture": (
        "vqa", "x.tsv", "index\tquestion\tanswer\timage_path\n1\tq\ta\t['img/0.png', 'no']\n", 2,
        "image_path", "not a picture", "correct the path",
    ),
    # general_vqa
    "asked-misspelt": (
        "general_vqa", "x.jsonl", ASKED.replace("messages", "mesages"), None, "messages",
        "no column `messages`", "rename `mesages`",
    ),
    "asked-malformed": (
        "general_vqa", "x.jsonl", ASKED + ASKED.replace('"Which?"}', '"Which?"'), 2, "",
        "malformed JSON, character 51", "one object a line",
    ),
    "asked-half-a-line": (
        "general_vqa", "x.jsonl", ASKED + ASKED[:30], 2, "", "malformed JSON, character",
        "one object a line",
    ),
    "asked-no-object": (
        "general_vqa", "x.jsonl", ASKED + "[1, 2]\n", 2, "", "a list, no object",
        "one object a line",
    ),
    "asked-nothing": (
        "general_vqa", "x.jsonl", ASKED + '\n{"answer": "cat"}\n', 3, "messages", "no messages",
        "role",
    ),
    "asked-null": (
        "general_vqa", "x.jsonl", ASKED + _general(messages=None), 2, "messages", "no messages",
        "role",
    ),
    "asked-no-list": (
        "general_vqa", "x.jsonl", _general(messages={"role": "user"}), 1, "messages", "no messages",
        "role",
    ),
    "asked-role": (
        "general_vqa", "x.jsonl", _general(messages=[{"role": "usr", "content": "q"}]), 1,
        "messages", "message 1 has no role", "",
    ),
    "asked-content": (
        "general_vqa", "x.jsonl", _general(messages=[{"role": "user"}]), 1, "messages",
        "message 1 has no content", "",
    ),
    "asked-by-nobody": (
        "general_vqa", "x.jsonl", _general(messages=[{"role": "system", "content": "q"}]), 1,
        "messages", "no message of a user", "",
    ),
    "asked-part": (
        "general_vqa", "x.jsonl", _asks({"type": "image", "image": "img/0.png"}), 1, "messages",
        "is no part", "",
    ),
    "asked-no-picture": (
        "general_vqa", "x.jsonl", ASKED + _asks(_picture_of("img/none.png")), 2, "messages",
        "message 1: no such picture: img/none.png", "correct the path",
    ),
    "asked-picture-unreadable": (
        "general_vqa", "x.jsonl", _asks(_picture_of("img/no.png")), 1, "messages",
        "message 1: not a picture", "replace it",
    ),
    "asked-data-url": (
        "general_vqa", "x.jsonl", _asks(_picture_of("data:image/png;base64,AAAA")), 1, "messages",
        "message 1: not a picture", "",
    ),
    "asked-sound": (
        "general_vqa", "x.jsonl",
        _asks(_sound_of("tone.wav", "ogg")), 1,
        "messages", "audio of the format 'ogg'", "wav",
    ),
    "asked-no-sound": (
        "general_vqa", "x.jsonl",
        _asks(_sound_of("no.wav")), 1,
        "messages", "no such audio: no.wav", "correct the path",
    ),
    "asked-no-picture-at-a-placeholder": (
        "general_vqa", "x.jsonl", _general(messages=[{"role": "user", "content": "<image 1> q"}]),
        1, "messages", "no image for <image 1>", "image_1",
    ),
    "asked-cell-malformed": (
        "general_vqa", "x.tsv", 'messages\tanswer\n[{"role": "user", "content" "q"}]\tcat\n', 2,
        "messages", "malformed JSON, character 29", "",
    ),
    "asked-cell-empty": (
        "general_vqa", "x.tsv", "messages\tanswer\n\tcat\n", 2, "messages", "malformed JSON", "",
    ),
    "asked-bom": (
        "general_vqa", "x.jsonl", b"\xef\xbb\xbf" + ASKED.encode(), None, "",
        "a byte order mark", "without one",
    ),
    "asked-crlf": (
        "general_vqa", "x.jsonl", ASKED.replace("\n", "\r\n"), None, "", "lines end in CRLF",
        "with LF",
    ),
    "asked-no-rows": ("general_vqa", "x.tsv", "messages\tanswer\n", None, "", "no rows", ""),
    # general_vmcq
    "chosen-misspelt": (
        "general_vmcq", "x.jsonl", CHOSEN.replace("options", "option"), None, "options",
        "no column `options`", "rename `option`",
    ),
    "chosen-options": (
        "general_vmcq", "x.jsonl", CHOSEN + _general(question="q", options=["one"]), 2, "options",
        "no list of 2 to 26 options", "[",
    ),
    "chosen-cell-malformed": (
        "general_vmcq", "x.tsv", 'question\toptions\tanswer\nq\t["cat", "dog\tA\n', 2, "options",
        "malformed JSON, character 9", "",
    ),
    "chosen-answer": (
        "general_vmcq", "x.jsonl", CHOSEN + CHOSEN.replace('"A"', '"C"'), 2, "answer",
        "'C' names no option", "one of the letters",
    ),
    "chosen-answer-in-words": (
        "general_vmcq", "x.jsonl", CHOSEN.replace('"A"', '"cat"'), 1, "answer",
        "'cat' names no option", "one of the letters",
    ),
    "chosen-answer-list": (
        "general_vmcq", "x.jsonl", CHOSEN.replace('"A"', '["A"]'), 1, "answer",
        "names no option", "one of the letters",
    ),
    "chosen-unanswered": (
        "general_vmcq", "x.jsonl", CHOSEN + '{"question": "q", "options": ["a", "b"]}\n', 2,
        "answer", "no answer", "one of the letters",
    ),
    "chosen-no-question": (
        "general_vmcq", "x.jsonl", CHOSEN.replace("Which?", " "), 1, "question", "no question",
        "every row needs one",
    ),
    "chosen-no-picture": (
        "general_vmcq", "x.jsonl", _general(question="<image 1>", options="ab", image_1="no.png"),
        1, "image_1", "no such picture: no.png", "correct the path",
    ),
    "chosen-picture-of-a-wrong-kind": (
        "general_vmcq", "x.jsonl", _general(question="<image 1>", options=["a", "b"], image_1=5),
        1, "image_1", "image_1 is no path, URL or data URL", "",
    ),
    "chosen-placeholder": (
        "general_vmcq", "x.tsv", "question\toptions\tanswer\n<image 1>?\t['a', 'b']\tA\n", 2, "",
        "no image for <image 1>", "image_1",
    ),
    # opencompass
    "oc-mcq-no-answer": (
        "opencompass_mcq", "x.csv", "question,A,B\nq,1,2\n", 1, "answer", "no column `answer`",
        "add it",
    ),
    "oc-mcq-answer": (
        "opencompass_mcq", "x.csv", "question,A,B,answer\nq,1,2,C\n", 2, "answer",
        "'C' names no option", "one of the letters",
    ),
    "oc-mcq-answer-list": (
        "opencompass_mcq", "x.jsonl", '{"question": "q", "A": "1", "B": "2", "answer": ["A"]}\n',
        1, "answer", "names no option", "one of the letters",
    ),
    "oc-mcq-no-question": (
        "opencompass_mcq", "x.csv", "question,A,B,answer\n,1,2,A\n", 2, "question", "no question",
        "every row needs one",
    ),
    "oc-mcq-member": (
        "opencompass_mcq", "x.jsonl",
        '{"question": "q", "A": "1", "B": "2", "answer": "A"}\n{"question": "q", "A": "1", '
        '"answer": "A"}\n',
        2, "B", "no B", "",
    ),
    "oc-mcq-semicolons": (
        "opencompass_mcq", "x.csv", "question;A;B;answer\nq;1;2;A\n", 1, "",
        "the header is separated by semicolons", "by commas",
    ),
    "oc-qa-tabs": (
        "opencompass_qa", "x.csv", "question\tanswer\nq\t1\n", 1, "",
        "the header is separated by tabs", "by commas",
    ),
    "oc-qa-too-many": (
        "opencompass_qa", "x.csv", "question,answer\nq,1\nWho, if anyone?,nobody\n", 3, "",
        "3 cells, and the header has 2 columns", "quote the cell",
    ),
    "oc-qa-no-question": (
        "opencompass_qa", "x.jsonl", '{"question": "", "answer": "1"}\n', 1, "question",
        "no question", "every row needs one",
    ),
    "oc-qa-malformed": (
        "opencompass_qa", "x.jsonl", '{"question": "q", "answer": 1}\n{"question": \'q\'}\n', 2, "",
        "malformed JSON, character 14", "one object a line",
    ),
    "oc-qa-bom": (
        "opencompass_qa", "x.csv", b"\xef\xbb\xbfquestion,answer\nq,1\n", None, "",
        "a byte order mark", "without one",
    ),
    "oc-qa-crlf": (
        "opencompass_qa", "x.csv", "question,answer\r\nq,1\r\n", None, "", "lines end in CRLF",
        "with LF",
    ),
}  # fmt: skip
# Upstream makes do with these.
HARMLESS = (
    "mcq-text-index", "mcq-fraction-index", "mcq-option-NA", "mcq-bom", "mcq-crlf", "asked-bom",
    "asked-crlf", "asked-no-picture-at-a-placeholder", "chosen-placeholder", "oc-qa-crlf",
)  # fmt: skip


class TestDefect:
    def _found(self, data: Tsv, name: str) -> tables.Defect:
        """The defect that the case is about."""
        format, file, content, _, _, what, _ = DEFECTS[name]
        found = custom_data.inspect(data(file, content), format).defects
        hits = [defect for defect in found if what in defect.what]
        assert hits, [str(defect) for defect in found]
        return hits[0]

    @pytest.mark.parametrize("name", DEFECTS)
    def test_has_its_line_and_its_cure(self, data: Tsv, name: str) -> None:
        defect = self._found(data, name)

        assert defect.line == DEFECTS[name][3]
        assert DEFECTS[name][6] in defect.cure

    @pytest.mark.parametrize("name", [n for n, case in DEFECTS.items() if case[4]])
    def test_names_its_column(self, data: Tsv, name: str) -> None:
        assert self._found(data, name).column == DEFECTS[name][4]

    @pytest.mark.parametrize("name", DEFECTS)
    def test_says_how_to_mend_it(self, data: Tsv, name: str) -> None:
        assert self._found(data, name).cure

    @pytest.mark.parametrize("name", DEFECTS)
    def test_stops_a_run_unless_upstream_makes_do(self, data: Tsv, name: str) -> None:
        format, file, content = DEFECTS[name][:3]
        path = data(file, content)

        if name in HARMLESS:
            custom_data.check(path, format)
        else:
            with pytest.raises(ConfigError) as caught:
                custom_data.check(path, format)
            assert DEFECTS[name][5] in str(caught.value)

    def test_is_the_only_one_where_there_is_one(self, data: Tsv) -> None:
        several = {
            "mcq-one-option", "mcq-columns-twice", "mcq-commas", "mcq-semicolons", "mcq-capital",
            "mcq-mixed-delimiters", "mcq-misspelt-answer", "oc-mcq-semicolons", "oc-qa-tabs",
            "oc-qa-malformed", "asked-misspelt", "asked-role", "asked-content", "chosen-misspelt",
            "chosen-no-picture", "asked-part",
        }  # fmt: skip
        for name in set(DEFECTS) - several:
            format, file, content = DEFECTS[name][:3]
            found = custom_data.inspect(data(file, content), format).defects
            assert len(found) == 1, (name, [str(defect) for defect in found])

    def test_all_of_a_file_are_reported(self, data: Tsv) -> None:
        rows = [f"{i}\t\tcat\tdog\tX\n" for i in range(20)]
        path = data("x.tsv", MCQ + "".join(rows))

        found = custom_data.inspect(path).defects

        assert len(found) == 40
        assert [d.line for d in found] == [line for line in range(2, 22) for _ in range(2)]

    def test_the_first_eight_stop_a_run(self, data: Tsv) -> None:
        rows = [f"{i}\t\tcat\tdog\tX\n" for i in range(20)]

        with pytest.raises(ConfigError) as caught:
            custom_data.check(data("x.tsv", MCQ + "".join(rows)), "mcq")
        text = str(caught.value)
        assert "line 2, column question" in text
        assert "line 5, column answer" in text
        assert "line 6" not in text
        assert "and 32 more" in text

    def test_lines_of_jsonl_count_the_empty_ones(self, data: Tsv) -> None:
        path = data("x.jsonl", "\n\n" + ASKED + "\n" + '{"messages": 5}\n')

        assert [d.line for d in custom_data.inspect(path, "general_vqa").defects] == [5]


class TestEncoding:
    TEXT = "index\tquestion\tA\tB\tanswer\n1\tplain\tcat\tdog\tA\n2\t{}\tcat\tdog\tA\n"

    @pytest.mark.parametrize("format", [None, "mcq"])
    @pytest.mark.parametrize(
        ("encoding", "question"),
        [
            ("gb18030", "\u8fd9\u662f\u4ec0\u4e48\u52a8\u7269\uff1f"),
            ("latin-1", "O\u00f9 est-il n\u00e9 ? \u00c0 B\u00e2le ?"),
        ],
    )
    def test_another_is_named_with_its_line_and_how_to_recode_it(
        self, data: Tsv, encoding: str, question: str, format: str | None
    ) -> None:
        text = _told(data("x.tsv", self.TEXT.format(question).encode(encoding)), format)

        assert "not UTF-8" in text
        assert "line 3" in text
        assert f"iconv -f {encoding} -t utf-8 x.tsv" in text

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_utf_16_is_named(self, data: Tsv, encoding: str) -> None:
        text = _told(data("x.tsv", ("\ufeff" if "-" in encoding[4:] else "").encode(encoding)
                          + self.TEXT.format("\u8fd9").encode(encoding)))  # fmt: skip

        assert "line 1: not UTF-8" in text
        assert "iconv -f utf-16 " in text

    def test_a_last_character_cut_short_is_no_other_encoding(self, data: Tsv) -> None:
        text = _told(data("x.tsv", self.TEXT.format("q").encode() + b"3\tcaf\xe9"))

        assert "line 4" in text
        assert "iconv -f latin-1" in text

    def test_the_line_is_that_of_the_first_bad_byte(self, data: Tsv) -> None:
        rows = [f"{i}\tIs this a question?\tcat\tdog\tA\n".encode() for i in range(2000)]
        rows[1234] = rows[1234].replace(b"cat", b"c\xe2t")

        text = _told(data("x.tsv", MCQ.encode() + b"".join(rows)), "mcq")

        assert "line 1236: not UTF-8" in text

    def test_the_line_of_jsonl(self, data: Tsv) -> None:
        text = _told(data("x.jsonl", ASKED.encode() * 3 + ASKED.encode("utf-8")[:-8] + b'\xff"}\n'))

        assert "line 4: not UTF-8" in text

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
    def test_of_other_files(self, data: Tsv, suffix: str) -> None:
        good = GOOD["opencompass_qa", suffix].replace(
            "What is Pi?", "\u4ec0\u4e48\u662f\u5706\u5468\u7387\uff1f"
        )
        good = good.replace("123+147=", "\u4ec0\u4e48\u662f\u5706\u5468\u7387\uff1f")

        text = _told(data(f"x{suffix}", good.encode("gb18030")))

        assert "not UTF-8" in text
        assert "iconv -f gb18030" in text


class TestPlaceGeneral:
    def test_asks_what_is_asked_beside_the_tsv(self, data: Tsv, tmp_path: Path) -> None:
        path = data("good.jsonl", GOOD["general_vqa", ".jsonl"])
        placed = tmp_path / "LMUData" / "good.tsv"

        assert placing.place(path, "general_vqa", placed) is True

        table = _read(placed)
        assert table["index"].tolist() == ["1", "2"]
        assert table["question"].tolist() == ["What animal?\n<image>", "What is 2+2?"]
        assert table["answer"].tolist() == ["Dog", "4"]
        first, second = placed.with_suffix(".jsonl").read_text().splitlines()
        assert json.loads(first)["messages"][0]["content"] == [
            {"type": "text", "text": "What animal?"},
            _picture_of(f"file://{tmp_path}/img/0.png"),
        ]
        assert json.loads(second) == {"messages": [{"role": "user", "content": "What is 2+2?"}]}

    @pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
    def test_options_become_columns(self, data: Tsv, tmp_path: Path, suffix: str) -> None:
        path = data(f"good{suffix}", GOOD["general_vmcq", suffix])
        placed = tmp_path / "LMUData" / "good.tsv"

        placing.place(path, "general_vmcq", placed)

        table = _read(placed)
        assert table[["A", "B", "C"]].values.tolist() == [
            ["<image 1>", "<image 2>", ""], ["Park", "Museum", "School"],
        ]  # fmt: skip
        media = [json.loads(m)["media"] for m in placed.with_suffix(".jsonl").open()]
        assert media == [
            {
                "image 1": _picture_of(f"file://{tmp_path}/img/0.png"),
                "image 2": _picture_of(f"file://{tmp_path}/img/1.png"),
            },
            {"image 1": _picture_of(f"file://{tmp_path}/img/1.png")},
        ]

    def test_facts_are_kept(self, data: Tsv, tmp_path: Path) -> None:
        rows = [
            {"messages": [{"role": "user", "content": "q"}], "category": "x", "l2-category": 3},
            {"messages": [{"role": "user", "content": "q"}], "split": "dev", "answer": ["a", "b"]},
        ]
        path = data("x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

        placing.place(path, "general_vqa", tmp_path / "out" / "x.tsv")

        table = _read(tmp_path / "out" / "x.tsv")
        assert list(table) == ["index", "category", "l2-category", "split", "question", "answer"]
        assert table.values.tolist() == [
            ["1", "x", "3", "", "q", ""], ["2", "", "", "dev", "q", "['a', 'b']"],
        ]  # fmt: skip

    def test_says_whether_there_is_any_answer(self, data: Tsv, tmp_path: Path) -> None:
        path = data("x.jsonl", '{"messages": [{"role": "user", "content": "q"}], "answer": ""}\n')

        assert placing.place(path, "general_vqa", tmp_path / "out" / "x.tsv") is False

    @pytest.mark.parametrize("text", ["a\rb", "a\r\nb", 'say "x"', "a\tb", "\u2028", "\x85"])
    def test_a_question_stays_one_cell(self, data: Tsv, tmp_path: Path, text: str) -> None:
        path = data("x.jsonl", _general(messages=[{"role": "user", "content": text}]) * 2)

        placing.place(path, "general_vqa", tmp_path / "out" / "x.tsv")

        table = _read(tmp_path / "out" / "x.tsv")
        assert table["question"].tolist() == [text, text]
        assert table["answer"].tolist() == ["A", "A"]

    def test_a_question_without_a_picture_of_a_tsv(self, data: Tsv, tmp_path: Path) -> None:
        """Upstream needs one of `image` and `image_path` of a VQA set."""
        path = data("x.tsv", "index\tquestion\tanswer\n1\tWhich?\tcat\n2\tWho?\tI\n")

        placing.place(path, "vqa", tmp_path / "out" / "x.tsv")

        table = _read(tmp_path / "out" / "x.tsv")
        assert list(table) == ["index", "question", "answer", "image_path"]
        assert table["image_path"].tolist() == ["[]", "[]"]

    def test_a_row_without_a_path_has_an_empty_list(self, data: Tsv, tmp_path: Path) -> None:
        path = data("x.tsv", GOOD["mcq", ".tsv"].replace("img/1.png", ""))

        placing.place(path, "mcq", tmp_path / "out" / "x.tsv")

        assert _read(tmp_path / "out" / "x.tsv")["image_path"].tolist() == [
            str(tmp_path / "img" / "0.png"), "[]",
        ]  # fmt: skip

    def test_what_only_a_class_of_the_users_knows_gets_what_the_base_class_needs(
        self, data: Tsv, tmp_path: Path
    ) -> None:
        """ImageBaseDataset.build_prompt takes one of `image` and `image_path` for given."""
        plain = data("x.tsv", "anything\nat all\n")
        pictured = data("y.tsv", "anything\timage\nat all\tAAAA\n")

        assert placing.place(plain, None, tmp_path / "out" / "x.tsv") is True
        assert placing.place(pictured, None, tmp_path / "out" / "y.tsv") is True
        assert (tmp_path / "out" / "x.tsv").read_text() == "anything\timage_path\nat all\t[]\n"
        assert (tmp_path / "out" / "y.tsv").resolve() == pictured.resolve()

    def test_half_a_file_never_bears_the_name(
        self, data: Tsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = data("x.tsv", GOOD["mcq", ".tsv"])
        first = next(tables.rows(path, []))

        def broken(*_: Any) -> Iterator[tables.Row]:
            yield first
            raise ZeroDivisionError

        monkeypatch.setattr(tables, "rows", broken)

        with pytest.raises(ZeroDivisionError):
            placing.place(path, "mcq", tmp_path / "out" / "x.tsv")
        assert list((tmp_path / "out").iterdir()) == []


class TestConvert:
    @pytest.mark.parametrize(("format", "suffix"), GOOD)
    def test_every_format_becomes_a_tsv_of_upstreams(
        self, data: Tsv, tmp_path: Path, format: str, suffix: str
    ) -> None:
        (tmp_path / "out").mkdir()
        out = tmp_path / "out" / "upstreams.tsv"

        report = placing.convert(data(f"good{suffix}", GOOD[format, suffix]), out)

        assert (report.format, report.rows) == (format, 2)
        found = custom_data.inspect(out)
        assert found.format == ("mcq" if "mcq" in format else "vqa")
        assert found.defects == []
        assert (found.rows, found.answered) == (2, 2)
        assert found.pictures == report.pictures
        table = pd.read_csv(out, sep="\t")  # as VLMEvalKit's load does
        assert table["index"].tolist() == [1, 2]
        assert [p.name for p in out.parent.iterdir()] == [out.name]

    def test_a_general_question_keeps_text_and_picture(self, data: Tsv, tmp_path: Path) -> None:
        out = tmp_path / "out.tsv"

        placing.convert(data("good.jsonl", GOOD["general_vqa", ".jsonl"]), out)

        assert _read(out)[["question", "answer", "image_path"]].values.tolist() == [
            ["What animal?", "Dog", str(tmp_path / "img" / "0.png")], ["What is 2+2?", "4", "[]"],
        ]  # fmt: skip

    def test_options_and_their_pictures(self, data: Tsv, tmp_path: Path) -> None:
        out = tmp_path / "out.tsv"

        placing.convert(data("good.jsonl", GOOD["general_vmcq", ".jsonl"]), out)

        table = _read(out)
        assert list(table) == ["index", "question", "A", "B", "C", "answer", "image_path"]
        assert table["image_path"].tolist() == [
            str([str(tmp_path / "img" / "0.png"), str(tmp_path / "img" / "1.png")]),
            str(tmp_path / "img" / "1.png"),
        ]

    def test_a_file_in_another_folder_still_names_its_pictures(
        self, data: Tsv, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        out = tmp_path / "elsewhere" / "out.tsv"

        placing.convert(data("x.tsv", GOOD["mcq", ".tsv"]), out)

        assert custom_data.inspect(out).defects == []

    def test_mark_and_carriage_returns_are_gone(self, data: Tsv, tmp_path: Path) -> None:
        text = (MCQ + PET).replace("\n", "\r\n").encode("utf-8-sig")

        placing.convert(data("x.tsv", text), tmp_path / "out.tsv")

        assert (tmp_path / "out.tsv").read_bytes() == (MCQ + PET).encode()

    @pytest.mark.parametrize("text", ["a\rb", "a\nb", 'say "x"', "a\tb", " a ", "", "NA"])
    def test_a_cell_stays_what_it_is(self, data: Tsv, tmp_path: Path, text: str) -> None:
        row = {"question": "q", "A": text, "B": "b", "C": "c", "answer": "B"}
        path = data("x.jsonl", json.dumps(row) + "\n" + json.dumps(row) + "\n")

        placing.convert(path, tmp_path / "out.tsv")

        assert _read(tmp_path / "out.tsv")["A"].tolist() == [text, text]

    def test_an_index_of_the_file_is_kept(self, data: Tsv, tmp_path: Path) -> None:
        path = data("x.csv", "question,index,answer\nq,7,a\nr,9,b\n")

        placing.convert(path, tmp_path / "out.tsv")

        assert _read(tmp_path / "out.tsv").values.tolist() == [["q", "7", "a"], ["r", "9", "b"]]

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (
                _asks(_sound_of("tone.wav")),
                "audio",
            ),
            (
                _general(messages=[
                    {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "r"},
                ]),
                "several turns",
            ),
            (
                _general(messages=[
                    {"role": "system", "content": "s"}, {"role": "user", "content": "r"},
                ]),
                "a system prompt",
            ),
            (
                _general(messages=[
                    {"role": "developer", "content": "s"}, {"role": "user", "content": "r"},
                ]),
                "a system prompt",
            ),
            (_asks({"type": "video_url", "video_url": {"url": "http://h/v.mp4"}}), "video"),
            (_asks(_picture_of("http://127.0.0.1:9/a.png")), "image_url http://127.0.0.1:9/a.png"),
        ],
        ids=["audio", "turns", "system", "developer", "video", "url"],
    )  # fmt: skip
    def test_what_has_no_place_in_a_tsv_is_refused(
        self, data: Tsv, tmp_path: Path, text: str, why: str
    ) -> None:
        out = tmp_path / "out.tsv"

        with pytest.raises(ConfigError) as caught:
            placing.convert(data("x.jsonl", ASKED + text), out)
        assert why in str(caught.value)
        assert "x.jsonl: line 2: " in str(caught.value)
        assert not list(tmp_path.glob("out*"))

    def test_a_picture_in_a_data_url_is_kept(self, data: Tsv, tmp_path: Path) -> None:
        url = f"data:image/png;base64,{as_base64(picture(size=(60, 60)))}"
        text = _general(question="<image 1>?", options=["a", "b"], image_1=url)

        placing.convert(data("x.jsonl", text), tmp_path / "out.tsv")

        assert custom_data.inspect(tmp_path / "out.tsv").pictures == 1

    def test_a_file_that_is_there_is_not_written_over(self, data: Tsv, tmp_path: Path) -> None:
        out = tmp_path / "out.tsv"
        out.write_text("mine")

        with pytest.raises(ConfigError, match=r"out\.tsv exists"):
            placing.convert(data("x.tsv", MCQ + PET), out)
        assert out.read_text() == "mine"

    def test_nor_is_a_link_that_leads_nowhere(self, data: Tsv, tmp_path: Path) -> None:
        out = tmp_path / "out.tsv"
        out.symlink_to(tmp_path / "nowhere")

        with pytest.raises(ConfigError, match=r"out\.tsv exists"):
            placing.convert(data("x.tsv", MCQ + PET), out)
        assert out.is_symlink()

    def test_a_folder_that_is_not_there_is_named(self, data: Tsv, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nowhere"):
            placing.convert(data("x.tsv", MCQ + PET), tmp_path / "nowhere" / "out.tsv")

    def test_a_file_with_defects_is_refused(self, data: Tsv, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="duplicate index"):
            placing.convert(data("x.tsv", MCQ + PET + PET), tmp_path / "out.tsv")
        assert not (tmp_path / "out.tsv").exists()
