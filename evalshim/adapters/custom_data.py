"""A user's own data file: which format it has, what is wrong with it, and as upstream reads it.

Finds what a person can get wrong before anything is run, and names line and column. Knows
nothing of runs or workers.
"""

from __future__ import annotations

import mimetypes
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evalshim.adapters import general, pictures, tables
from evalshim.adapters.tables import Defect, Defective, Row
from evalshim.errors import ConfigError

FORMATS = {
    "mcq": "multiple choice, TSV: index, question, A, B, ..., answer",
    "vqa": "questions and answers, TSV: index, question, answer",
    "general_vqa": "EvalScope's General-VQA, JSONL or TSV: messages, answer",
    "general_vmcq": "EvalScope's General-VMCQ, JSONL or TSV: question, options, answer, image_1",
    "opencompass_mcq": "OpenCompass's multiple choice, JSONL or CSV: question, A, B, ..., answer",
    "opencompass_qa": "OpenCompass's questions and answers, JSONL or CSV: question, answer",
}
SUFFIXES = {
    "mcq": (".tsv",), "vqa": (".tsv",),
    "general_vqa": (".jsonl", ".tsv"), "general_vmcq": (".jsonl", ".tsv"),
    "opencompass_mcq": (".jsonl", ".csv"), "opencompass_qa": (".jsonl", ".csv"),
}  # fmt: skip
# VLMEvalKit (ImageBaseDataset.__init__, 0.0.20): a shorter `image` cell is the index of
# the row whose picture this one shares.
SHORTEST_PICTURE = 65
# Above it VLMEvalKit (CustomMCQDataset.load_data, 0.0.20) unpacks a file first.
_UNPACKED = 2**30
# What a TSV of upstream's may have beside the question.
FACTS = ("category", "l2-category", "split", "hint")
_SHOWN = 8


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


def recognise(path: Path) -> str:
    """The format of a data file, by its suffix and its columns.

    Raises:
        ConfigError: It is none of `FORMATS`.
    """
    known = sorted({suffix for suffixes in SUFFIXES.values() for suffix in suffixes})
    if path.suffix not in known:
        raise ConfigError(
            f"{path.name}: no data file", f"its name ends in none of {', '.join(known)}",
            "`shim check` knows: " + "; ".join(FORMATS.values()),
        )  # fmt: skip
    names = set(tables.columns(path))
    letters = {"A", "B"} <= names
    if path.suffix == ".csv":
        return "opencompass_mcq" if letters else "opencompass_qa"
    if "messages" in names:
        return "general_vqa"
    if "options" in names and not letters:
        return "general_vmcq"
    if path.suffix == ".jsonl":
        return "opencompass_mcq" if letters else "opencompass_qa"
    return "mcq" if letters else "vqa"


def inspect(path: Path, format: str | None = None) -> Report:
    """Everything that is wrong with a data file, and a summary of it.

    Raises:
        ConfigError: The file is in no format, or cannot be opened.
    """
    format = format or recognise(path)
    if path.suffix not in SUFFIXES[format]:
        raise ConfigError(
            f"{path.name}: no {format}", f"it is {FORMATS[format]}",
            f"name a file that ends in {' or '.join(SUFFIXES[format])}, or another format",
        )  # fmt: skip
    try:
        report = Report(path, format, size=path.stat().st_size)
    except OSError as error:
        raise ConfigError(f"cannot read {path}", str(error), "correct the path") from error
    try:
        _inspect(report)
    except Defective as error:
        report.defects.append(error.defect)
    except OSError as error:
        raise ConfigError(f"cannot read {path}", str(error), "mend the disk, or copy it") from error
    return report


def check(
    path: Path, format: str, limit: int | float | str | None = None, *, answers: bool = True
) -> Report:
    """Hold a data file against what its upstream needs of it.

    Args:
        limit: What is to be taken of it; a slice must reach into the file.
        answers: Whether every row must have one, as scoring needs.

    Raises:
        ConfigError: With the line (the header is line 1) and column of the first defects.
    """
    report = inspect(path, format)
    fatal = report.fatal
    if not answers:
        fatal = [defect for defect in fatal if defect.column != "answer"]
    if fatal:
        shown = [str(d) for d in fatal[:_SHOWN]]
        more = len(fatal) - len(shown)
        raise ConfigError(
            f"{path.name}: {shown[0]}",
            "\n".join(shown[1:] + ([f"and {more} more"] if more else [])),
            f"mend {path}" + (f": {fatal[0].cure}" if fatal[0].cure else ""),
        )
    start = int(limit.strip("[").partition(":")[0] or 0) if isinstance(limit, str) else 0
    if start >= report.rows:
        raise ConfigError(
            f"{path.name}: limit {limit} takes no row", f"the file has {report.rows} rows"
        )
    return report


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


# Looking


def _inspect(report: Report) -> None:
    report.defects += tables.form(report.path)
    if report.format.startswith("opencompass_"):
        # It reads the first line without regard to a byte order mark (parse_example_dataset).
        report.defects = [
            replace(d, fatal=d.fatal or "byte order" in d.what) for d in report.defects
        ]
    names = tables.columns(report.path)
    for wanted in _wanted(report.format):
        if wanted not in names:
            meant = tables.near(wanted, names)
            say = _Say(report, 1 if report.path.suffix != ".jsonl" else None)
            say(f"no column `{wanted}`", f"its columns: {', '.join(names)[:400]}",
                f"rename `{meant}`" if meant else "add it", wanted)  # fmt: skip
    if report.format in ("mcq", "opencompass_mcq") and not {"A", "B"} <= set(names):
        raise Defective(
            Defect(
                "no options",
                "a multiple-choice file has them in columns A, B, ...; "
                f"its columns: {', '.join(names)[:400]}",
                "name the columns of the options so",
                1,
            )
        )
    rows = tables.rows(report.path, report.defects)
    look = {
        "mcq": _look_mcq, "vqa": _look_vqa, "general_vqa": _look_general_vqa,
        "general_vmcq": _look_general_vmcq, "opencompass_mcq": _look_text_mcq,
        "opencompass_qa": _look_text,
    }[report.format]  # fmt: skip
    look(report, _counted(report, rows), names)
    if not report.rows:
        raise Defective(Defect("no rows", "nothing is below the header", "put your data in it"))


def _wanted(format: str) -> Sequence[str]:
    return {
        "mcq": ("index", "question", "answer"),
        "vqa": ("index", "question", "answer"),
        "general_vqa": ("messages",),
        "general_vmcq": ("question", "options", "answer"),
        "opencompass_mcq": ("answer",),
        "opencompass_qa": (),
    }[format]


def _counted(report: Report, rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        report.rows += 1
        report.answered += not tables.empty(row.cells.get("answer"))
        if category := row.cells.get("category"):
            report.categories[str(category)] += 1
            if category == "Overall":
                _Say(report, row.line)(
                    "a category named Overall", "that is what the score of all is called",
                    "name it otherwise", "category",
                )  # fmt: skip
        yield row


class _Say:
    """Notes the defects of one row."""

    def __init__(self, report: Report, line: int | None, column: str = "") -> None:
        self.report, self.line, self.column = report, line, column

    def __call__(
        self, what: str, why: str = "", cure: str = "", column: str = "", fatal: bool = True
    ) -> None:
        column = column or self.column
        self.report.defects.append(Defect(what, why, cure, self.line, column, fatal))


def _look_mcq(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    letters = [letter for letter in general.LETTERS if letter in names]
    for row in _asked(report, rows, names):
        say = _Say(report, row.line)
        shown = [letter for letter in letters if row.cells[letter] not in tables.NO_VALUES]
        for letter in letters:
            if letter not in shown and row.cells[letter]:
                say(f"{row.cells[letter]!r} is an empty cell to VLMEvalKit", "the option is not "
                    "shown", "say it otherwise: None of them", letter, fatal=False)  # fmt: skip
        if "answer" in names:
            _look_at_letter(row, shown, say)


def _look_at_letter(row: Row, shown: Sequence[str], say: _Say) -> None:
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
            say = _Say(report, row.line)
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
        say = _Say(report, row.line)
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
        _Say(report, None)(
            f"{bare} rows without a picture in a file above 1 GB",
            "VLMEvalKit unpacks the pictures of so large a file, and each row must have one",
            "name the pictures in `image_path`", "image",
        )  # fmt: skip
    for line, index in shared:
        if index not in whole:
            _Say(report, line)(
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
            _duplicate(_Say(report, line), index, lines[first], line)


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


def _look_at_index(index: str, lines: dict[str, int], line: int, say: _Say) -> None:
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


def _duplicate(say: _Say, index: str, first: int, line: int) -> None:
    say(f"duplicate index {index}", f"lines {first} and {line}; upstream tells samples apart by it",
        "number the rows", "index")  # fmt: skip


def _look_general_vqa(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    find = finder(report.path)
    for row in rows:
        found = general.messages(row.cells, find, _Say(report, row.line, "messages"))
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
        say = _Say(report, row.line, "question")
        if not str(row.cells.get("question") or "").strip():
            say("no question", "", "every row needs one")
        found = general.options(row.cells, _Say(report, row.line, "options"))
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
                _Say(report, row.line)(what, "", "write all as text", name)
        if "question" in names and not str(row.cells.get("question") or "").strip():
            _Say(report, row.line)("no question", "", "every row needs one", "question")
        if missing := [name for name in names if name not in row.cells]:
            _Say(report, row.line)(
                f"no {', '.join(missing)}", "the first row has it", "give every row one", missing[0]
            )


def _look_text_mcq(report: Report, rows: Iterator[Row], names: Sequence[str]) -> None:
    letters = [letter for letter in general.LETTERS if letter in names]

    def looked() -> Iterator[Row]:
        for row in rows:
            shown = [letter for letter in letters if row.cells.get(letter) not in (None, "")]
            if "answer" in names:
                _look_at_letter(row, shown, _Say(report, row.line))
            yield row

    _look_text(report, looked(), names)


def names_in(cell: str) -> list[str]:
    return [] if cell in tables.NO_VALUES else [name for name in tables.as_list(cell) if name]


def beside(path: Path, name: str) -> Path:
    found = finder(path)(name)
    try:
        return found or path.parent / Path(name).expanduser()
    except RuntimeError:  # ~someone, and there is no such user
        return path.parent / name
