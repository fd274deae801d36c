"""A user's own data file as the file that VLMEvalKit reads.

Checks what a person can get wrong before anything is run, and names row and
column. Knows nothing of runs or workers.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

from evalshim.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

# VLMEvalKit (ImageBaseDataset.__init__, 0.0.20): a shorter `image` cell is the index of
# the row whose picture this one shares.
SHORTEST_PICTURE = 65


def check_mcq(path: Path) -> int:
    """Hold a multiple-choice TSV against what VLMEvalKit needs of it.

    Args:
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
    _check_index(path, table["index"].tolist())
    if "image" in table:
        _check_base64(path, table["index"].tolist(), table["image"].tolist())
    elif "image_path" in table:
        for line, cell in enumerate(table["image_path"], start=2):
            for name in _as_list(cell):
                _check_picture(path, line, "image_path", _beside(path, name))
    return len(table)


def place(path: Path, destination: Path) -> None:
    """Put the TSV at `path` where VLMEvalKit looks for it.

    A link where upstream can read the file as it is. A copy where it could not:
    VLMEvalKit takes a relative `image_path` from its working directory, and
    writes an `image` to the path that `image_path` names.
    """
    columns = _header(path)
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


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        # Text as it stands: upstream decides what "NA" or "007" mean.
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except pd.errors.EmptyDataError:
        raise _defect(path, "empty file", "not even a header") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise _defect(path, "not a TSV file", str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}", str(error)) from error


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return file.readline().rstrip("\r\n").split("\t")


def _check_index(path: Path, index: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for line, value in enumerate(index, start=2):
        if not value:
            raise _defect(path, f"line {line}: empty index", "every row needs an index of its own")
        if value in seen:
            raise _defect(
                path,
                f"duplicate index {value}",
                f"lines {seen[value]} and {line}; upstream tells samples apart by it",
            )
        seen[value] = line


def _check_base64(path: Path, index: Sequence[str], cells: Sequence[str]) -> None:
    pictures = {i for i, cell in zip(index, cells, strict=True) if len(cell) >= SHORTEST_PICTURE}
    for line, cell in enumerate(cells, start=2):
        if not cell:
            raise _defect(
                path, f"line {line}, column image: no picture", "VLMEvalKit would drop the row"
            )
        if len(cell) < SHORTEST_PICTURE:
            if cell not in pictures:
                raise _defect(
                    path,
                    f"line {line}, column image: {cell!r} is no picture",
                    "so short a cell names the index of a row with a picture; no row has this one",
                )
            continue
        for text in _as_list(cell):
            try:
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError) as error:
                raise _defect(
                    path, f"line {line}, column image: not a picture", f"not base64: {error}"
                ) from error
            _check_picture(path, line, "image", io.BytesIO(data))


def _check_picture(path: Path, line: int, column: str, source: Path | io.BytesIO) -> None:
    from PIL import Image

    where = f"line {line}, column {column}: not a picture"
    try:
        with catch_warnings():
            simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                image.verify()
    except FileNotFoundError as error:
        raise _defect(path, where, f"no such file: {source}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _defect(path, where, f"too large: {error}") from error
    except Exception as error:  # Pillow raises whatever its decoders raise
        shown = "it is in no format that Pillow knows" if "BytesIO" in str(error) else str(error)
        raise _defect(path, where, shown) from error


def _as_list(cell: str) -> list[str]:
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return [cell]
        if isinstance(value, list):
            return [str(v) for v in value]
    return [cell]


def _absolute(path: Path, cell: str) -> str:
    names = [str(_beside(path, name)) for name in _as_list(cell)]
    return names[0] if len(names) == 1 else repr(names)


def _beside(path: Path, name: str) -> Path:
    return path.parent / Path(name).expanduser()


def _defect(path: Path, what: str, why: str) -> ConfigError:
    return ConfigError(f"{path.name}: {what}", why, f"mend {path}")
