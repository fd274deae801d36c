"""A user's own data as the file that VLMEvalKit reads."""

from __future__ import annotations

import base64
import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim.adapters import general, tables
from evalshim.adapters.custom_data import check, recognise
from evalshim.adapters.custom_rows import SHORTEST_PICTURE, Report, beside, finder, names_in
from evalshim.adapters.tables import Row
from evalshim.errors import ConfigError

# What a TSV of upstream's may have beside the question.
_FACTS = ("category", "l2-category", "split", "hint")


def place(path: Path, format: str | None, destination: Path) -> bool:
    """Put a data file where VLMEvalKit looks for it, in the form that it reads.

    A link where upstream can read the file as it is. General formats become a TSV, and
    beside it `<stem>.jsonl` with what is asked of the model, a line a row.

    Args:
        format: None where only a class of the user's knows what is in it.
        destination: The TSV.

    Returns:
        Whether any row has an answer.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if format and format.startswith("general_"):
        return _translate(path, format, destination)
    columns = tables.columns(path)
    if "image_path" not in columns and ("image" in columns or format == "mcq"):
        if not destination.is_symlink():  # else a run goes on
            destination.symlink_to(path)
        return True
    _with_absolute_paths(path, columns, destination, "image_path" in columns or format != "mcq")
    return True


def convert(path: Path, destination: Path, format: str | None = None) -> Report:
    """Any format as a TSV that VLMEvalKit reads, pictures and all.

    Raises:
        ConfigError: The file has defects, or something in it has no place in a TSV.
    """
    format = format or recognise(path)
    report = check(path, format, answers=False)
    if destination.exists() or destination.is_symlink():
        raise ConfigError(f"{destination} exists", "", "name another file, or remove it")
    if not destination.parent.is_dir():
        raise ConfigError(f"no such folder: {destination.parent}", "", "make it first")
    if format.startswith("opencompass_"):
        _convert_text(path, destination)
    elif format.startswith("general_"):
        _convert_general(path, format, destination)
    else:
        columns = tables.columns(path)
        _with_absolute_paths(path, columns, destination, "image_path" in columns)
    return report


def _with_absolute_paths(
    path: Path, columns: Sequence[str], destination: Path, named: bool
) -> None:
    """VLMEvalKit takes a relative `image_path` from its working directory, writes an `image` to
    the path that `image_path` names, and needs one of the two."""
    kept = [c for c in columns if c != "image_path"]
    written = [*kept, "image_path"] if named and "image" not in columns else kept
    with _writer(destination, written) as write:
        for row in tables.rows(path, []):
            found = [str(beside(path, name)) for name in names_in(row.cells.get("image_path", ""))]
            cell = found[0] if len(found) == 1 else repr(found)
            write([cell if c == "image_path" else row.cells[c] for c in written])


def _translate(path: Path, format: str, destination: Path) -> bool:
    """A General format as a TSV of upstream's, and what is asked beside it."""
    facts, most, answered = _extent(path, format)
    letters = list(general.LETTERS[:most])
    find = finder(path)
    part = destination.with_suffix(".jsonl.part")
    with (
        part.open("w", encoding="utf-8") as as_asked,
        _writer(destination, ["index", *facts, "question", *letters, "answer"]) as write,
    ):
        for number, row in enumerate(tables.rows(path, []), 1):
            if format == "general_vqa":
                asked = general.messages(row.cells, find, _quiet)
                question, given = general.asked(asked), []
                what: Mapping[str, Any] = {"messages": asked}
            else:
                given = general.options(row.cells, _quiet)
                question = str(row.cells["question"])
                text = general.text_of(row.cells, given)
                what = {"media": general.media(row.cells, text, find, _quiet)}
            as_asked.write(json.dumps(what, ensure_ascii=False) + "\n")
            given = given + [""] * (most - len(given))
            write([
                number, *(_cell(row.cells.get(fact)) for fact in facts), question, *given,
                _cell(row.cells.get("answer")),
            ])  # fmt: skip
    part.replace(destination.with_suffix(".jsonl"))
    return answered


def _extent(path: Path, format: str) -> tuple[list[str], int, bool]:
    """Which facts a file has, the most options of a row, whether anything is answered."""
    facts: set[str] = set()
    most, answered = 0, False
    for row in tables.rows(path, []):
        facts |= {fact for fact in _FACTS if row.cells.get(fact) not in (None, "")}
        answered = answered or row.cells.get("answer") not in (None, "", [])
        if format == "general_vmcq":
            most = max(most, len(general.options(row.cells, _quiet)))
    return [fact for fact in _FACTS if fact in facts], most, answered


def _convert_text(path: Path, destination: Path) -> None:
    columns = tables.columns(path)
    written = columns if "index" in columns else ["index", *columns]
    with _writer(destination, written) as write:
        for number, row in enumerate(tables.rows(path, []), 1):
            write([_cell(row.cells.get(c)) if c in columns else number for c in written])


def _convert_general(path: Path, format: str, destination: Path) -> None:
    """As a TSV alone: the pictures of a row go before its question."""
    facts, most, _ = _extent(path, format)
    letters = list(general.LETTERS[:most])
    inline = any(
        not url.startswith(general.FILE)
        for row in tables.rows(path, [])
        for url in _pictures(path, row, _parts(path, row, format)[2])
    )
    column = "image" if inline else "image_path"
    with _writer(destination, ["index", *facts, "question", *letters, "answer", column]) as write:
        for number, row in enumerate(tables.rows(path, []), 1):
            question, given, parts = _parts(path, row, format)
            found = _pictures(path, row, parts)
            cells = [_base64(url) if inline else url.removeprefix(general.FILE) for url in found]
            write([
                number, *(_cell(row.cells.get(fact)) for fact in facts), question,
                *given, *[""] * (most - len(given)), _cell(row.cells.get("answer")),
                cells[0] if len(cells) == 1 else "" if inline and not cells else repr(cells),
            ])  # fmt: skip


def _parts(path: Path, row: Row, format: str) -> tuple[str, list[str], list[Any]]:
    """The question of a row, its options, and its pictures as parts of a message."""
    find = finder(path)
    if format == "general_vqa":
        asked = general.messages(row.cells, find, _quiet)
        _fits(path, row, asked)
        parts = [p for m in asked if isinstance(m["content"], list) for p in m["content"]]
        question = "\n".join(text for m in asked for text in _texts(m["content"]))
        return question, [], [part for part in parts if part["type"] != "text"]
    given = general.options(row.cells, _quiet)
    question = str(row.cells["question"])
    text = general.text_of(row.cells, given)
    return question, given, list(general.media(row.cells, text, find, _quiet).values())


def _fits(path: Path, row: Row, asked: Sequence[Mapping[str, Any]]) -> None:
    roles = {m["role"] for m in asked}
    beyond = [what for what in general.takes(list(asked)) if what != "pictures by URL"]
    lost = [*beyond, *(["a system prompt"] if roles - {"user"} else [])]
    if lost:
        raise ConfigError(
            f"{path.name}: line {row.line}: {', '.join(dict.fromkeys(lost))}",
            "a TSV of VLMEvalKit's has no place for it",
            "evaluate the file as it is: format: general_vqa",
        )


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part["type"] == "text"]


def _pictures(path: Path, row: Row, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    urls = [str(part.get("image_url", {}).get("url", "")) for part in parts]
    for url, part in zip(urls, parts, strict=True):
        if not url.startswith((general.FILE, "data:")):
            raise ConfigError(
                f"{path.name}: line {row.line}: {part['type']} {url[:60]}",
                "a TSV holds pictures, or names files with them",
                "save the picture, and name its path",
            )
    return urls


def _base64(url: str) -> str:
    if url.startswith(general.FILE):
        return base64.b64encode(Path(url.removeprefix(general.FILE)).read_bytes()).decode()
    found = "".join(url.partition(",")[2].split())
    if len(found) < SHORTEST_PICTURE:
        raise ConfigError(
            "a picture of so few bytes", "VLMEvalKit takes so short a text for an index",
            "save it as a file, and name its path",
        )  # fmt: skip
    return found


@contextlib.contextmanager
def _writer(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Writes a TSV as upstream's pandas reads it; half a file never bears the name."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            plain = csv.writer(file, delimiter="\t", lineterminator="\n")
            # csv quotes no carriage return, which ends a line for pandas.
            quoted = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)

            def write(cells: Sequence[Any]) -> None:
                (quoted if any("\r" in str(c) for c in cells) else plain).writerow(cells)

            write(columns)
            yield write
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _quiet(*_: Any, **__: Any) -> None:
    """Defects were told when the file was checked."""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # Upstream's methods take answers for texts: `[3, 'three']` ends them.
    return repr([str(v) for v in value]) if isinstance(value, list) else str(value)
