"""Data files on the command line: what `shim check` and `shim convert` say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from evalshim.adapters import custom_data, placing
from evalshim.adapters.custom_data import FORMATS
from evalshim.adapters.custom_rows import Report
from evalshim.errors import ConfigError, did_you_mean

SUFFIXES = {suffix for suffixes in custom_data.SUFFIXES.values() for suffix in suffixes}
_SHOWN = 100


def inspect(path: Path, form: str | None = None) -> Report:
    """Everything that is wrong with a data file.

    Raises:
        ConfigError: There is no such file, or it is in no format.
    """
    _known(path, form)
    return custom_data.inspect(path, form)


def convert(source: Path, target: Path, form: str | None = None) -> Report:
    """Turn a data file into a TSV of VLMEvalKit's.

    Raises:
        ConfigError: The file has defects, or something in it has no place in a TSV.
    """
    _known(source, form)
    if target.suffix != ".tsv":
        raise ConfigError(f"{target}: not a .tsv", "VLMEvalKit reads no other", "name it so")
    return placing.convert(source, target, form)


def text(report: Report) -> str:
    """A report as people read it: the defects with their cures, then what the file has."""
    lines: list[str] = []
    for defect in report.defects[:_SHOWN]:
        lines.append(str(defect))
        if defect.cure:
            lines.append(f"    mend: {defect.cure}")
    if more := len(report.defects) - _SHOWN:
        lines += [f"... and {more} more"] if more > 0 else []
    count = len(report.defects)
    facts = [
        f"{report.format}",
        f"{report.rows} rows",
        f"{report.answered} answered",
        f"{len(report.categories)} categories",
        f"{report.pictures} pictures",
        _size(report.size),
        f"{count} defect{'s' if count != 1 else ''}" if count else "no defect",
    ]
    return "\n".join([*lines, f"{report.path}: {', '.join(facts)}"])


def to_json(report: Report) -> str:
    """A report as one JSON object."""
    found = vars(report) | {
        "path": str(report.path),
        "defects": [asdict(defect) for defect in report.defects],
        "takes": sorted(report.takes),
    }
    return json.dumps(found, ensure_ascii=False, indent=2)


def _known(path: Path, form: str | None) -> None:
    if not path.is_file():
        raise ConfigError(f"no such file: {path}", "", "correct the path")
    if form is not None and form not in FORMATS:
        raise ConfigError(
            f"--format {form}: no format", "", did_you_mean(form, FORMATS) + ", ".join(FORMATS)
        )


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count //= 1000
    return f"{count} GB"
