"""A user's own data file as the file that VLMEvalKit reads.

Checks what a person can get wrong before anything is run, and names row and
column. Knows nothing of runs or workers.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

from evalshim.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

# VLMEvalKit (ImageBaseDataset.__init__, 0.0.20): a shorter `image` cell is the index of
# the row whose picture this one shares.
SHORTEST_PICTURE = 65


def check_mcq(path: Path, limit: int | float | str | None = None, *, answers: bool = True) -> int:
    """Hold a multiple-choice TSV against what VLMEvalKit needs of it.

    Args:
        limit: What is to be taken of it; a slice must reach into the file.
        answers: Whether every row must have one, as scoring needs.
        path: The file. Columns `index`, `question`, `answer`, options `A`, `B`, ...;
            pictures as base64 in `image` or as files in `image_path` (absolute, or
            relative to the TSV); neither for text-only questions.

    Returns:
        The number of rows.

    Raises:
        ConfigError: With the line (the header is line 1) and column of the first defect.
    """
    table = _read(path)
    for column in ("index", "question", "answer"):
        if column not in table:
            raise _defect(path, f"no column `{column}`", f"its columns: {', '.join(table.columns)}")
    if "A" not in table or "B" not in table:
        raise _defect(
            path,
            "no options",
            "a multiple-choice file has them in columns A, B, ...; "
            f"its columns: {', '.join(table.columns)}",
        )
    if table.empty:
        raise _defect(path, "no rows", "the file has a header and nothing below it")
    start = int(limit.strip("[").partition(":")[0] or 0) if isinstance(limit, str) else 0
    if start >= len(table):
        raise _defect(path, f"limit {limit} takes no row", f"the file has {len(table)} rows")
    _check_index(path, table)
    if answers:
        _check_answers(path, table)
    if "image" in table:
        _check_base64(path, table)
    else:
        for position, cell in enumerate(table.get("image_path", ())):
            for name in as_list(cell):
                _check_picture(path, table, position, "image_path", _beside(path, name))
    return len(table)


def place(path: Path, destination: Path) -> None:
    """Put the TSV at `path` where VLMEvalKit looks for it.

    A link where upstream can read the file as it is. A copy where it could not:
    VLMEvalKit takes a relative `image_path` from its working directory, and
    writes an `image` to the path that `image_path` names.
    """
    columns = list(_read(path, rows=0).columns)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if "image_path" not in columns:
        destination.symlink_to(path)
        return
    table = _read(path)
    if "image" in columns:
        table = table.drop(columns="image_path")
    else:
        table["image_path"] = [_absolute(path, cell) for cell in table["image_path"]]
    table.to_csv(destination, sep="\t", index=False)


def _read(path: Path, rows: int | None = None) -> pd.DataFrame:
    import pandas as pd

    try:
        # Text as it stands: upstream decides what "NA" or "007" mean.
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8", nrows=rows
        )
    except pd.errors.EmptyDataError:
        raise _defect(path, "empty file", "not even a header") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise _defect(path, "not a TSV file", str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}", str(error)) from error
    if not isinstance(table.index, pd.RangeIndex):
        raise _defect(
            path,
            "more cells than the header has columns",
            "every row has at least one more, and all would move by one",
        )
    return table


def _check_index(path: Path, table: pd.DataFrame) -> None:
    values: list[str] = table["index"].tolist()
    whole = all(re.fullmatch(r"\s*[+-]?\d+\s*", value) for value in values)
    seen: dict[str | int, int] = {}
    for position, value in enumerate(values):
        if not value:
            line = _line(table, position)
            raise _defect(path, f"line {line}: empty index", "every row needs one of its own")
        # Upstream reads a column of whole numbers as numbers: 1 and 01 are one index.
        first = seen.setdefault(int(value) if whole else value, position)
        if first != position:
            raise _defect(
                path,
                f"duplicate index {value}",
                f"lines {_line(table, first)} and {_line(table, position)}; "
                "upstream tells samples apart by it",
            )


def _check_answers(path: Path, table: pd.DataFrame) -> None:
    import pandas as pd

    letters = [letter for letter in string.ascii_uppercase if letter in table]
    # As upstream reads them: "None", "NA" and their like are no option there.
    shown = pd.read_csv(path, sep="\t", usecols=letters, encoding="utf-8").notna()
    for position, answer in enumerate(table["answer"]):
        if answer not in letters or not shown[answer].iloc[position]:
            filled = ", ".join(letter for letter in letters if shown[letter].iloc[position])
            text = table[answer].iloc[position] if answer in letters else ""
            raise _defect(
                path,
                f"line {_line(table, position)}, column answer: {answer!r} names no option",
                f"the row has options {filled}"
                + (f"; VLMEvalKit takes {text!r} for an empty cell" if text else ""),
            )


def _check_base64(path: Path, table: pd.DataFrame) -> None:
    cells: list[str] = table["image"].tolist()
    whole = set(table.loc[table["image"].str.len() >= SHORTEST_PICTURE, "index"])
    for position, cell in enumerate(cells):
        if len(cell) >= SHORTEST_PICTURE:
            for text in as_list(cell):
                _check_picture(path, table, position, "image", text)
        elif cell not in whole:
            raise _defect(
                path,
                f"line {_line(table, position)}, column image: "
                + (f"{cell!r} is no picture" if cell else "no picture"),
                "so short a cell names the index of a row with a picture; no row has this one"
                if cell
                else "VLMEvalKit would drop the row",
            )


def _check_picture(
    path: Path, table: pd.DataFrame, position: int, column: str, source: Path | str
) -> None:
    """Decode a picture, given as its file or its base64 text."""
    from PIL import Image

    try:
        with catch_warnings():
            simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else _decoded(source)) as image:
                # An eighth of the pixels of a JPEG: all of its data is still read.
                image.draft(None, (image.width // 8, image.height // 8))
                image.load()
    except Exception as error:  # Pillow raises whatever its decoders raise
        where = f"line {_line(table, position)}, column {column}: not a picture"
        raise _defect(path, where, _picture_problem(error, source)) from error


def _decoded(text: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode("".join(text.split()), validate=True))


def _picture_problem(error: Exception, source: Path | str) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, binascii.Error):
        return f"not base64: {error}"
    if isinstance(error, FileNotFoundError):
        return f"no such file: {source}"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"too large: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "it is in no format that Pillow knows"
    return str(error)


def _line(table: pd.DataFrame, position: int) -> int:
    """The line of the file on which a row begins: cells above it may hold several."""
    above = table.iloc[:position]
    breaks = sum(int(above[column].str.count("\n").sum()) for column in above)
    return 2 + position + breaks


def as_list(cell: str) -> list[str]:
    """The texts of a cell that holds one, or several as the literal of a list."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return [cell]
        if isinstance(value, list):
            return [str(v) for v in value]
    return [cell]


def _absolute(path: Path, cell: str) -> str:
    names = [str(_beside(path, name)) for name in as_list(cell)]
    return names[0] if len(names) == 1 else repr(names)


def _beside(path: Path, name: str) -> Path:
    try:
        return path.parent / Path(name).expanduser()
    except RuntimeError:  # ~someone, and there is no such user
        return path.parent / name


def _defect(path: Path, what: str, why: str) -> ConfigError:
    return ConfigError(f"{path.name}: {what}", why, f"mend {path}")
