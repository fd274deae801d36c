"""The rows of a user's own data file: what can be wrong with one, by the format of the file."""

from __future__ import annotations

import mimetypes
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalshim.adapters import general, pictures, tables
from evalshim.adapters.tables import Defect, Row

# VLMEvalKit (ImageBaseDataset.__init__, 0.0.20): a shorter `image` cell is the index of
# the row whose picture this one shares.
SHORTEST_PICTURE = 65
# Above it VLMEvalKit (CustomMCQDataset.load_data, 0.0.20) unpacks a file first.
_UNPACKED = 2**30


@dataclass
class Report:
    """What was found in a data file.

    Attributes:
        rows: How many there are.
        answered: Rows with an answer.
        categories: Rows of each.
        pictures: Pictures that are in the file or named by it.
        takes: What beside text and pictures a model must take: `audio`, `several turns`, ...
        size: Bytes of the file.
    """

    path: Path
    format: str
    defects: list[Defect] = field(default_factory=list)
    rows: int = 0
    answered: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    takes: set[str] = field(default_factory=set)
    size: int = 0

    @property
    def fatal(self) -> list[Defect]:
        return [defect for defect in self.defects if defect.fatal]


class Say:
    """Notes the defects of one row."""

    def __init__(self, report: Report, line: int | None, column: str = "") -> None:
        self.report, self.line, self.column = report, line, column

    def __call__(
        self, what: str, why: str = "", cure: str = "", column: str = "", fatal: bool = True
    ) -> None:
        column = column or self.column
        self.report.defects.append(Defect(what, why, cure, self.line, column, fatal))


def look(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    """Note in `report` what is in the rows, and what is wrong with them.

    Args:
        names: The columns of the file.
    """
    of_format = {
        "mcq": _look_mcq, "vqa": _look_vqa, "general_vqa": _look_general_vqa,
        "general_vmcq": _look_general_vmcq, "opencompass_mcq": _look_text_mcq,
        "opencompass_qa": _look_text,
    }[report.format]  # fmt: skip
    of_format(report, _counted(report, rows), names)


def finder(path: Path) -> Callable[[str], Path | None]:
    """Where a file is that the data file at `path` names: beside it, or where we are."""

    def find(name: str) -> Path | None:
        for folder in (path.parent, Path.cwd()):
            try:
                found = folder / Path(name).expanduser()
                if found.is_file():
                    return found.absolute()
            except (OSError, RuntimeError, ValueError):  # too long; ~nobody; NUL
                return None
        return None

    return find


def names_in(cell: str) -> list[str]:
    return [] if cell in tables.NO_VALUES else [name for name in tables.as_list(cell) if name]


def beside(path: Path, name: str) -> Path:
    found = finder(path)(name)
    try:
        return found or path.parent / Path(name).expanduser()
    except RuntimeError:  # ~someone, and there is no such user
        return path.parent / name


def _counted(report: Report, rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        report.rows += 1
        report.answered += not tables.empty(row.cells.get("answer"))
        if category := row.cells.get("category"):
            report.categories[str(category)] += 1
            if category == "Overall":
                Say(report, row.line)(
                    "a category named Overall", "that is what the score of all is called",
                    "name it otherwise", "category",
                )  # fmt: skip
        yield row


def _look_mcq(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    letters = [letter for letter in general.LETTERS if letter in names]
    for row in _asked(report, rows, names):
        say = Say(report, row.line)
        shown = [letter for letter in letters if row.cells[letter] not in tables.NO_VALUES]
        for letter in letters:
            if letter not in shown and row.cells[letter]:
                say(f"{row.cells[letter]!r} is an empty cell to VLMEvalKit", "the option is not "
                    "shown", "say it otherwise: None of them", letter, fatal=False)  # fmt: skip
        if "answer" in names:
            _look_at_letter(row, shown, say)


def _look_at_letter(row: Row, shown: Sequence[str], say: Say) -> None:
    answer = row.cells.get("answer")
    if isinstance(answer, str) and answer in shown:
        return
    if answer is None:
        say("no answer", "", "one of the letters, or run with `mode: infer`", "answer")
        return
    text = (
        row.cells.get(answer) if isinstance(answer, str) and answer in set(general.LETTERS) else ""
    )
    why = f"the row has options {', '.join(shown)}"
    say(f"{str(answer)[:60]!r} names no option",
        why + (f"; VLMEvalKit takes {text!r} for an empty cell" if text else ""),
        "one of the letters", "answer")  # fmt: skip


def _look_vqa(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    for row in _asked(report, rows, names):
        answer = row.cells.get("answer", "")
        if answer in tables.NO_VALUES and "answer" in names:
            say = Say(report, row.line)
            say("no answer", f"VLMEvalKit takes {answer!r} for an empty cell" if answer else "",
                "give one, or run with `mode: infer`", "answer")  # fmt: skip


def _asked(report: Report, rows: Iterator[Row], names: Sequence[str]) -> Iterator[Row]:
    """The rows of a TSV of upstream's, their index, question and pictures looked at."""
    lines: dict[str, int] = {}
    whole: set[str] = set()
    shared: list[tuple[int, str]] = []
    bare = 0
    find = finder(report.path)
    for row in rows:
        say = Say(report, row.line)
        index = row.cells.get("index", "")
        if "index" in names:
            _look_at_index(index, lines, row.line, say)
        if row.cells.get("question", "-") in tables.NO_VALUES:
            question = row.cells["question"]
            say("no question", f"VLMEvalKit takes {question!r} for an empty cell"
                if question else "", "every row needs one", "question")  # fmt: skip
        picture = row.cells.get("image", "")
        if len(picture) >= SHORTEST_PICTURE:
            whole.add(index)
            for text in tables.as_list(picture):
                report.pictures += 1
                if why := pictures.problem(text):
                    say("not a picture", why, "replace it", "image")
        elif picture:
            shared.append((row.line, picture))
        elif "image" in names:
            bare += 1
            if not tables.empty(row.cells.get("image_path")):
                say("no picture", "the file keeps its pictures in `image`, and VLMEvalKit then "
                    "reads no `image_path`", "put the picture into `image`", "image")  # fmt: skip
        if "image" not in names:
            for name in names_in(row.cells.get("image_path", "")):
                report.pictures += 1
                path = find(name) or beside(report.path, name)
                if why := pictures.problem(path):
                    say("not a picture", why, "correct the path, or replace the file",
                        "image_path")  # fmt: skip
                elif not _named_as_picture(path):
                    say(f"{path.name}: not a picture to VLMEvalKit", "it goes by the suffix of "
                        "the name", "rename the file: .png, .jpg, ...", "image_path")  # fmt: skip
        yield row
    if bare and report.size > _UNPACKED:
        Say(report, None)(
            f"{bare} rows without a picture in a file above 1 GB",
            "VLMEvalKit unpacks the pictures of so large a file, and each row must have one",
            "name the pictures in `image_path`", "image",
        )  # fmt: skip
    for line, index in shared:
        if index not in whole:
            Say(report, line)(
                f"{index!r} is no picture",
                "so short a cell names the index of a row with a picture; no row has this one",
                "give the base64 of a picture, or the index of a row with one", "image",
            )  # fmt: skip
    kind = next((k for k in (int, float) if all(_reads(k, index) for index in lines)), None)
    if kind is None:
        return
    numbers: dict[float, str] = {}
    for index, line in lines.items():
        # Upstream reads a column of numbers as numbers: 1 and 01 are one index.
        first = numbers.setdefault(kind(index), index)
        if first != index:
            _duplicate(Say(report, line), index, lines[first], line)


def _reads(kind: Callable[[str], float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return len(text) < 20 and "_" not in text


def _named_as_picture(path: Path) -> bool:
    """As upstream's parse_file (0.0.20)."""
    suffix = path.suffix.lower()
    return suffix == ".webp" or mimetypes.types_map.get(suffix, "").startswith("image/")


def _look_at_index(index: str, lines: dict[str, int], line: int, say: Say) -> None:
    if index in tables.NO_VALUES:
        say("empty index", "", "every row needs one of its own", "index")
    elif index in lines:
        _duplicate(say, index, lines[index], line)
    elif len(index.encode()) > 200 or not {"", ".", ".."}.isdisjoint(index.split("/")):
        say(f"{index[:60]!r} cannot name a file", "VLMEvalKit names a row's picture after its "
            "index", "number the rows", "index")  # fmt: skip
    elif not re.fullmatch(r"\s*[+-]?\d+\s*", index):
        say(f"{index[:60]!r} is no whole number", "VLMEvalKit's own sets have numbers; some of "
            "its metrics need them", "number the rows", "index", fatal=False)  # fmt: skip
    lines.setdefault(index, line)


def _duplicate(say: Say, index: str, first: int, line: int) -> None:
    say(f"duplicate index {index}", f"lines {first} and {line}; upstream tells samples apart by it",
        "number the rows", "index")  # fmt: skip


def _look_general_vqa(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    find = finder(report.path)
    for row in rows:
        found = general.messages(row.cells, find, Say(report, row.line, "messages"))
        report.takes.update(general.takes(found))
        report.pictures += sum(
            part["type"] == "image_url"
            for message in found
            if isinstance(message["content"], list)
            for part in message["content"]
        )


def _look_general_vmcq(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    find = finder(report.path)
    for row in rows:
        say = Say(report, row.line, "question")
        if not str(row.cells.get("question") or "").strip():
            say("no question", "", "every row needs one")
        found = general.options(row.cells, Say(report, row.line, "options"))
        text = general.text_of(row.cells, found)
        media = general.media(row.cells, text, find, say)
        general.interleaved(text, media, say)
        report.takes.update(name.partition(" ")[0] for name in media if "image" not in name)
        report.pictures += sum(name.startswith("image") for name in media)
        shown = [
            c for c, o in zip(general.LETTERS, found, strict=False) if o not in tables.NO_VALUES
        ]
        if found:
            _look_at_letter(row, shown, say)


def _look_text(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    """OpenCompass (0.5.4) makes one table of all rows, in which a column has one type."""
    types: dict[str, type] = {}
    for row in rows:
        for name, value in row.cells.items():
            first = types.setdefault(name, type(value))
            if type(value) is not first:
                what = f"{type(value).__name__}, and {first.__name__} in the rows above"
                Say(report, row.line)(what, "", "write all as text", name)
        if "question" in names and not str(row.cells.get("question") or "").strip():
            Say(report, row.line)("no question", "", "every row needs one", "question")
        if missing := [name for name in names if name not in row.cells]:
            Say(report, row.line)(
                f"no {', '.join(missing)}", "the first row has it", "give every row one", missing[0]
            )


def _look_text_mcq(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    letters = [letter for letter in general.LETTERS if letter in names]

    def looked() -> Iterator[Row]:
        for row in rows:
            shown = [letter for letter in letters if row.cells.get(letter) not in (None, "")]
            if "answer" in names:
                _look_at_letter(row, shown, Say(report, row.line))
            yield row

    _look_text(report, looked(), names)
