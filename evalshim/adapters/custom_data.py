"""A user's own data file: which format it has, and what is wrong with it.

Finds what a person can get wrong before anything is run, and names line and column. Knows
nothing of runs or workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evalshim.adapters import custom_rows, tables
from evalshim.adapters.custom_rows import Report, Say
from evalshim.adapters.tables import Defect, Defective
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
_SHOWN = 8


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
            say = Say(report, 1 if report.path.suffix != ".jsonl" else None)
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
    custom_rows.look(report, rows, names)
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
