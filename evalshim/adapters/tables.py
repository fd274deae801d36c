"""Data files as rows: TSV and CSV as upstream's pandas reads them, JSONL line by line.

One row is in memory at a time, however large the file is.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NamedTuple

from evalshim.errors import ConfigError, harmless

# What pandas (2.x, read_csv) takes for an empty cell, and so do the upstreams.
NO_VALUES = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
     "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)  # fmt: skip
_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_LONGEST_TEXT = 500
_MOST = 10_000  # columns of a file, texts of a cell
# A cell holds a picture; csv (Python's) refuses more than 128 KiB of its own accord.
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Defect:
    """Something that is wrong with a data file.

    Attributes:
        line: Of the file, the header is 1; None for the file itself.
        fatal: A run with this file is refused; others are worth knowing.
    """

    what: str
    why: str = ""
    cure: str = ""
    line: int | None = None
    column: str = ""
    fatal: bool = True

    def __post_init__(self) -> None:
        """They quote the file: short, and without what a terminal would carry out."""
        for name in ("what", "why", "cure", "column"):
            text = getattr(self, name)
            short = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
            object.__setattr__(self, name, harmless(short))

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else ""
        where += f"{', ' if where else ''}column {self.column}" if self.column else ""
        text = f"{where}: {self.what}" if where else self.what
        return text + (f" ({self.why})" if self.why else "")


class Row(NamedTuple):
    """One row: the line on which it begins, and its cells; of JSONL the members of its object."""

    line: int
    cells: dict[str, Any]


class Defective(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, defect: Defect) -> None:
        super().__init__(str(defect))
        self.defect = defect


def rows(path: Path, defects: list[Defect]) -> Iterator[Row]:
    """The rows of a TSV, CSV or JSONL file; rows that are none go to `defects`.

    Raises:
        Defective: What follows cannot be read.
    """
    yield from _objects(path, defects) if path.suffix == ".jsonl" else _table(path, defects)


def form(path: Path) -> list[Defect]:
    """What is wrong with the bytes of a file, and with the header of a table.

    Raises:
        Defective: It has no header.
    """
    return _of_bytes(path) + ([] if path.suffix == ".jsonl" else _of_header(path))


def columns(path: Path) -> list[str]:
    """The columns of a TSV or CSV file, or the members of the first object of a JSONL file.

    Raises:
        ConfigError: The file cannot be read that far.
    """
    defects: list[Defect] = []
    try:
        if path.suffix == ".jsonl":
            return list(next(rows(path, defects)).cells)
        with _opened(path) as file:
            return next(_records(path, file))[1]
    except StopIteration:
        empty = Defect("empty file", "", "put your data in it")
        raise unreadable(path, next(iter(defects), empty)) from None
    except Defective as error:
        raise unreadable(path, error.defect) from error


def unreadable(path: Path, defect: Defect) -> ConfigError:
    """What is said of a file that cannot be read."""
    return ConfigError(f"{path.name}: {defect}", "", f"mend {path}: {defect.cure}".rstrip(": "))


def empty(cell: Any) -> bool:
    """Whether a cell has no value, as upstream's pandas sees it."""
    return cell is None or (isinstance(cell, str) and cell in NO_VALUES)


def check_form(path: Path) -> None:
    """Read a file to its end.

    Raises:
        ConfigError: A row of it would be lost.
    """
    defects: list[Defect] = []
    try:
        defects += form(path)
        for _ in rows(path, defects):
            pass
    except Defective as error:
        raise unreadable(path, error.defect) from error
    if found := next((d for d in defects if d.fatal), None):
        raise unreadable(path, found)


def near(name: str, known: list[str]) -> str | None:
    """The one of `known` that was probably meant by `name`, whatever its case."""
    folded = {k.strip().casefold(): k for k in known}
    hits = get_close_matches(name.casefold(), folded, 1, 0.75)
    return folded[hits[0]] if hits else None


def as_list(cell: str) -> list[str]:
    """The texts of a cell that holds one, or several as the literal of a list."""
    if cell.startswith("[") and cell.endswith("]") and cell.count(",") < _MOST:
        value = literal(cell)
        if isinstance(value, list):
            with contextlib.suppress(ValueError):  # a number too long to be written
                return [str(v) for v in value]
    return [cell]


def literal(text: str) -> Any:
    """The value of a Python literal; None for what is none. Executes nothing."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _opened(path: Path) -> IO[bytes]:
    csv.field_size_limit(_LONGEST_CELL)
    try:
        # A pipe or a device would be read for ever.
        if path.exists() and not path.is_file():
            raise ConfigError(f"cannot read {path}", "it is no file", "correct the path")
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"cannot read {path}", str(error), "correct the path") from error


def _lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            text = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
            # A carriage return alone ends a line too, for pandas and for csv.
            yield from re.split(r"(?<=\r)(?!\n)", text) if b"\r" in line else [text]
        except UnicodeDecodeError as error:
            raise Defective(_encoding(path, error, number)) from error


def _table(path: Path, defects: list[Defect]) -> Iterator[Row]:
    with _opened(path) as file:
        records = _records(path, file)
        _, header = next(records, (1, []))
        for line, cells in records:
            if len(cells) > len(header):
                defects.append(
                    Defect(
                        f"{len(cells)} cells, and the header has {len(header)} columns",
                        "upstream cannot read the file, or moves all cells by one",
                        "take out the delimiters that are too many, or quote the cell",
                        line,
                    )
                )
                continue
            if len(cells) == 1 < len(header):
                other = next((w for d, w in _DELIMITERS.items() if d in cells[0]), None)
                if other:
                    defects.append(
                        Defect(
                            f"one cell, and the header has {len(header)} columns",
                            f"its cells are separated by {other}",
                            "one delimiter for the whole file",
                            line,
                        )
                    )
            cells += [""] * (len(header) - len(cells))
            yield Row(line, dict(zip(header, cells, strict=True)))


def _records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line on which it begins."""
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from _lines(path, file)
        ended = True

    reader = csv.reader(lines(), delimiter="," if path.suffix == ".csv" else "\t")
    while True:
        begun = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cure = "quote the cell, and end lines with LF"
            raise Defective(Defect("cannot be read", str(error), cure, begun)) from error
        if ended:
            raise Defective(
                Defect(
                    "a quote that never closes",
                    "upstream cannot read the file",
                    'write a quote within a quoted cell as ""',
                    begun,
                )
            )
        if any("\0" in cell for cell in cells):
            cure = "save it as text in UTF-8"
            raise Defective(Defect("a NUL character", "the file is no text", cure, begun))
        if cells:
            yield begun, cells


def _objects(path: Path, defects: list[Defect]) -> Iterator[Row]:
    with _opened(path) as file:
        for line, text in enumerate(_lines(path, file), 1):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                at = f", character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                why = getattr(error, "msg", None) or str(error)
                defects.append(Defect(f"malformed JSON{at}", why, "one object a line", line))
                continue
            if not isinstance(value, dict):
                kind = type(value).__name__
                defects.append(Defect(f"a {kind}, no object", "", "one object a line", line))
                continue
            if len(value) > _MOST:
                cure = "one object a row"
                defects.append(Defect(f"{len(value)} members", "more than a row has", cure, line))
                continue
            if "\\ud" in text.lower() and not _writable(value):
                cure = "write whole characters"
                defects.append(Defect("half a character", "a lone surrogate", cure, line))
                continue
            yield Row(line, value)


def _writable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_header(path: Path) -> list[Defect]:
    with _opened(path) as file:
        _, header = next(_records(path, file), (1, []))
    if not header:
        raise Defective(Defect("empty file", "not even a header", "put your data in it"))
    if len(header) > _MOST:
        cure = "separate the rows by line ends"
        raise Defective(Defect(f"{len(header)} columns", "more than a data file has", cure, 1))
    wanted = "," if path.suffix == ".csv" else "\t"
    found = []
    if len(header) == 1:
        other = next((d for d in _DELIMITERS if d != wanted and d in header[0]), None)
        if other:
            raise Defective(
                Defect(
                    f"the header is separated by {_DELIMITERS[other]}",
                    f"a {path.suffix} file needs {_DELIMITERS[wanted]}; "
                    f"its columns: {header[0][:200]}",
                    f"separate the cells by {_DELIMITERS[wanted]}",
                    1,
                )
            )
    doubled = sorted(name for name, count in Counter(header).items() if count > 1)[:10]
    if doubled:
        found.append(Defect(f"two columns are named {', '.join(doubled)}", "", "name each once", 1))
    return found


def _of_bytes(path: Path) -> list[Defect]:
    with _opened(path) as file:
        head = file.read(1 << 16)
    found = []
    if head.startswith(codecs.BOM_UTF8):
        cure = "save it as UTF-8 without one; `shim convert` does"
        found.append(Defect("a byte order mark", "some tools read it into the first column's name",
                            cure, fatal=False))  # fmt: skip
    if head.partition(b"\n")[0].endswith(b"\r"):
        found.append(Defect("lines end in CRLF", "", "save it with LF; `shim convert` does",
                            fatal=False))  # fmt: skip
    return found


def _encoding(path: Path, error: UnicodeDecodeError, line: int) -> Defect:
    with path.open("rb") as file:
        head = file.read(1 << 20)
        whole = not file.read(1)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        guess = "utf-16"
    else:
        guess = "gb18030" if _decodes(head, "gb18030", whole) else "latin-1"
    return Defect(
        "not UTF-8",
        f"{error.reason}: {error.object[error.start : error.start + 4]!r}",
        f"e.g. iconv -f {guess} -t utf-8 {path.name}",
        line,
    )


def _decodes(head: bytes, encoding: str, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return True
