"""A user's own multiple-choice file: what is wrong with it, and where upstream finds it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from evalshim.adapters import custom_data
from evalshim.errors import ConfigError

from .conftest import as_base64, picture

Tsv = Callable[..., Path]


def _refused(path: Path, *parts: str) -> None:
    """The file is refused, and `parts` are in what is said about it."""
    with pytest.raises(ConfigError) as caught:
        custom_data.check_mcq(path)
    text = str(caught.value)
    assert path.name in text
    for part in parts:
        assert part in text
    assert len(text) < 1500


def _noise(form: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((120, 120), 80).convert("RGB").save(out, form)
    return out.getvalue()


def _files(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / "img" / f"{i}.png" for i in range(count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture())
    return paths


class TestTable:
    def test_a_valid_file_has_its_rows_counted(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(5)) == 5

    def test_questions_need_no_pictures(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(drop=["image"])) == 3

    @pytest.mark.parametrize("column", ["index", "question", "answer"])
    def test_a_missing_column_is_named_with_those_there_are(self, tsv: Tsv, column: str) -> None:
        path = tsv(drop=[column])

        _refused(path, f"no column `{column}`", "its columns: ", "A, B", f"mend {path}")

    @pytest.mark.parametrize("drop", [["A"], ["B"], ["A", "B"]])
    def test_options_are_needed(self, tsv: Tsv, drop: list[str]) -> None:
        _refused(tsv(drop=drop), "no options", "its columns: index, question")

    def test_rows_are_needed(self, tsv: Tsv) -> None:
        _refused(tsv(0), "no rows")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "pets.tsv"
        path.touch()

        _refused(path, "empty file")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        _refused(tmp_path / "nothing.tsv", "cannot read")

    @pytest.mark.parametrize("data", [b"\xff\xfe\x00\x01", b"index\tquestion\n\xe9\tb\n"])
    def test_bytes_that_are_no_text(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "pets.tsv"
        path.write_bytes(data)

        _refused(path, "not a TSV file")

    def test_a_comma_separated_file_shows_its_one_column(self, tmp_path: Path) -> None:
        path = tmp_path / "pets.tsv"
        path.write_text("index,question,answer,A,B\n0,q,A,cat,dog\n")

        _refused(path, "no column `index`", "its columns: index,question,answer,A,B")

    def test_a_row_with_too_many_cells_names_its_line(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        path.write_text(path.read_text() + "3\tq\tcat\tdog\tA\textra\n")

        _refused(path, "not a TSV file", "line 5")

    def test_a_tab_behind_every_row_moves_no_column(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *(f"{row}\t" for row in rows)]) + "\n")

        _refused(path, "header")

    def test_an_unclosed_quote_is_refused(self, tsv: Tsv) -> None:
        path = tsv(drop=["image"])
        path.write_text(path.read_text() + '3\t"never closed\tcat\tdog\tA\n4\tq\tcat\tdog\tA\n')

        _refused(path, "not a TSV file")


class TestIndex:
    def test_a_duplicate_names_both_lines(self, tsv: Tsv) -> None:
        _refused(tsv(index=["0", "7", "7"]), "duplicate index 7", "lines 3 and 4")

    def test_an_empty_one_names_its_line(self, tsv: Tsv) -> None:
        _refused(tsv(index=["0", "", "2"]), "line 3: empty index")

    def test_numbers_that_upstream_reads_alike_are_duplicates(self, tsv: Tsv) -> None:
        path = tsv(index=["1", "01", "2"])
        assert not pd.read_csv(path, sep="\t")["index"].is_unique

        _refused(path, "duplicate index", "lines 2 and 3")

    def test_text_is_an_index(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(index=["a", "b/c", "NA"])) == 3

    def test_lines_are_those_of_the_file_behind_a_question_of_several(self, tsv: Tsv) -> None:
        path = tsv(index=["0", "1", ""], question=["two\nlines", "one", "one"])

        _refused(path, "line 5: empty index")


class TestBase64:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
    def test_any_common_format_is_a_picture(self, tsv: Tsv, form: str) -> None:
        assert custom_data.check_mcq(tsv(1, image=[as_base64(picture(form=form))])) == 1

    def test_several_pictures_of_a_question(self, tsv: Tsv) -> None:
        cell = str([as_base64(picture("red")), as_base64(picture("blue"))])

        assert custom_data.check_mcq(tsv(1, image=[cell])) == 1

    def test_the_second_of_several_is_checked_too(self, tsv: Tsv) -> None:
        cell = str([as_base64(picture()), as_base64(b"not a picture at all" * 5)])

        _refused(tsv(1, image=[cell]), "line 2, column image: not a picture")

    def test_base64_in_lines_is_base64(self, tsv: Tsv) -> None:
        text = as_base64(_noise("PNG"))
        lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))

        assert custom_data.check_mcq(tsv(1, image=[lines])) == 1

    def test_an_index_shares_the_picture_of_its_row(self, tsv: Tsv) -> None:
        whole = as_base64(picture())

        assert custom_data.check_mcq(tsv(index=["7", "8", "9"], image=["9", "9", whole])) == 3

    @pytest.mark.parametrize("cell", ["17", "1", "cat.png"])
    def test_an_index_without_a_picture_is_named(self, tsv: Tsv, cell: str) -> None:
        """Row 1 has no picture of its own: upstream follows one step and no more."""
        path = tsv(image=[as_base64(picture()), "0", cell])

        _refused(path, f"line 4, column image: {cell!r} is no picture", "no row has this one")

    def test_no_picture_in_one_row(self, tsv: Tsv) -> None:
        path = tsv(image=[as_base64(picture()), "", "0"])

        _refused(path, "line 3, column image: no picture")

    @pytest.mark.parametrize(
        ("cell", "why"),
        [
            ("!" * 80, "not base64"),
            ("data:image/png;base64," + as_base64(picture()), "not base64"),
            (as_base64(b"hello " * 20), "no format that Pillow knows"),
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
        Image.new("1", (12_000, 12_000)).save(out, "PNG")

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

        assert custom_data.check_mcq(path) == 3

    def test_relative_to_the_tsv_and_not_to_the_working_directory(
        self, with_files: Tsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

        assert custom_data.check_mcq(with_files("img/0.png")) == 1

    def test_a_missing_one_is_named(self, with_files: Tsv, tmp_path: Path) -> None:
        path = with_files("img/0.png", "img/none.png")

        _refused(
            path,
            "line 3, column image_path: not a picture",
            f"no such file: {tmp_path / 'img' / 'none.png'}",
        )

    def test_a_missing_one_in_a_list_is_named(self, with_files: Tsv) -> None:
        _refused(with_files("['img/0.png', 'img/none.png']"), "line 2, column image_path")

    @pytest.mark.parametrize("cell", ["", "img", "~nobody-of-that-name.png", "x" * 300])
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
        assert custom_data.check_mcq(tsv(encoding="utf-8-sig")) == 3

    def test_carriage_returns(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(newline="\r\n")) == 3

    def test_quoted_tabs_and_quotes(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(question=["a\tb", 'say "x"', "two\nlines"])) == 3

    def test_everything_quoted(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(quoting=csv.QUOTE_ALL)) == 3


class TestPlace:
    def test_a_file_that_upstream_can_read_is_linked(self, tsv: Tsv, tmp_path: Path) -> None:
        path, placed = tsv(), tmp_path / "LMUData" / "pets.tsv"

        custom_data.place(path, placed)

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

        custom_data.place(path, placed)

        assert not placed.is_symlink()
        cells = pd.read_csv(placed, sep="\t", dtype=str)["image_path"].tolist()
        assert cells == [str(zero), str(one), str([str(zero), str(two)])]

    def test_pictures_in_the_file_win_over_paths(self, tsv: Tsv, tmp_path: Path) -> None:
        """Upstream would write the pictures to those paths: the user's own files."""
        path, placed = tsv(image_path=["a.png", "b.png", "c.png"]), tmp_path / "out" / "pets.tsv"

        custom_data.place(path, placed)

        table = pd.read_csv(placed, sep="\t", dtype=str)
        assert "image_path" not in table
        assert table["image"].tolist() == pd.read_csv(path, sep="\t")["image"].tolist()

    def test_a_copy_keeps_every_other_cell(self, tsv: Tsv, tmp_path: Path) -> None:
        _files(tmp_path)
        path = tsv(
            index=["007", "NA", "1.50"],
            question=["a\tb", 'say "x"\nand y', "  spaced  "],
            A=["", "None", "1e5"],
            drop=["image"],
            image_path=["img/0.png"] * 3,
        )

        custom_data.place(path, tmp_path / "out" / "pets.tsv")

        before, after = (
            pd.read_csv(p, sep="\t", dtype=str, keep_default_na=False).drop(columns="image_path")
            for p in (path, tmp_path / "out" / "pets.tsv")
        )
        pd.testing.assert_frame_equal(before, after)


class TestAnswers:
    @pytest.mark.parametrize("answer", ["C", "a", "cat", ""])
    def test_one_that_names_no_option_is_refused(self, tsv: Tsv, answer: str) -> None:
        _refused(tsv(answer=["A", answer, "B"]), f"line 3, column answer: {answer!r}", "A, B")

    @pytest.mark.parametrize("text", ["None", "NA", "null", "N/A"])
    def test_an_option_that_upstream_takes_for_missing_is_none(self, tsv: Tsv, text: str) -> None:
        _refused(
            tsv(A=["x", text, "y"], answer=["A", "A", "B"]), "line 3, column answer: 'A'", text
        )

    def test_predictions_alone_need_none(self, tsv: Tsv) -> None:
        assert custom_data.check_mcq(tsv(answer=["", "", ""]), answers=False) == 3

    def test_a_slice_behind_the_last_row_is_refused(self, tsv: Tsv) -> None:
        with pytest.raises(ConfigError, match="takes no row"):
            custom_data.check_mcq(tsv(), "[3:9]")
