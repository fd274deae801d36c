"""Rows and samples -> files, tables, DataFrames; and back again.

The only writer of results.csv, results.json, samples.jsonl and run.json.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalshim.errors import ResultsError, harmless
from evalshim.spec import ROW_COLUMNS, SCHEMA_VERSION, Metric, Row, Sample

if TYPE_CHECKING:
    import pandas as pd

_TABLE = (
    "model", "dataset", "subset", "metric", "value", "score", "n", "failed", "ungraded", "status",
)  # fmt: skip
_TRUTHS = ("is_primary", "judge_fallback")
_NUMBERS = ("score", "n", "n_failed", "n_judge_failed")
# Columns that count samples, and are shown where there are any.
_COUNTS = {"failed": "n_failed", "ungraded": "n_judge_failed"}


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run.

    Attributes:
        path: The run directory.
        header: The contents of run.json.
        rows: The result rows; one a metric.
        exit_code: As of `shim run`.
    """

    path: Path
    header: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def exit_code(self) -> int:
        return int(self.header["exit_code"])

    @property
    def results(self) -> pd.DataFrame:
        """The rows as a DataFrame, columns as in results.csv."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(ROW_COLUMNS))

    @property
    def samples(self) -> pd.DataFrame:
        """One line per model x dataset x sample, columns as in samples.jsonl."""
        import pandas as pd

        file = self.path / "samples.jsonl"
        _no_link(file)
        try:
            records = [json.loads(line) for line in _lines(file) if line]
            if not all(isinstance(record, dict) for record in records):
                raise ValueError("a line is no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise ResultsError(f"cannot read {file}", str(error)) from error
        return pd.DataFrame(records, columns=[f.name for f in fields(Sample)])

    def _repr_html_(self) -> str:
        return self.results[
            ["model", "dataset", "subset", "metric", "value", "n", "status"]
        ].to_html(index=False)

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores should know: what the run met, and of each cell's answers."""
        cells = (self.header.get("cells") or {}).values()
        found = [f"{c['model']} x {c['dataset']}: {n}" for c in cells for n in c.get("notes") or ()]
        return [*found, *(self.header.get("notices") or ())]

    def __repr__(self) -> str:
        return f"<RunResult {self.path}: {len(self.rows)} rows, exit code {self.exit_code}>"

    def __str__(self) -> str:
        return table(self.rows, notes=self.notes)


def row_numbers(metric: Metric) -> dict[str, Any]:
    """The columns of a row that come from a metric."""
    return {
        "subset": metric.subset,
        "metric": metric.name,
        "value": metric.value,
        "unit": metric.unit,
        "score": score(metric.value, metric.unit),
        "is_primary": metric.is_primary,
        "n": metric.n,
        "n_failed": metric.n_failed,
    }


def score(value: Any, unit: str | None) -> float | None:
    """`value` on 0..1, where its unit allows that."""
    divisor = {"fraction": 1, "percent": 100}.get(unit or "")
    if divisor is None or isinstance(value, str) or value is None or not math.isfinite(value):
        return None
    return round(float(value) / divisor, 10)


def write(
    path: Path, header: Mapping[str, Any], rows: Sequence[Row], samples: Iterable[str]
) -> None:
    """Write every result file of a run; `samples` are lines (`sample_line`)."""
    write_lines(path / "samples.jsonl", samples)
    write_text(path / "results.csv", to_csv(rows))
    write_json(path / "results.json", envelope(header, rows))
    write_json(path / "run.json", header)


def sample_line(sample: Sample) -> str:
    """A sample as a line of samples.jsonl."""
    return to_json(vars(sample)) + "\n"  # `asdict` copies what is in it, ten times as slowly


def envelope(header: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What `--json` prints and results.json holds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": dict(header),
        "rows": [asdict(row) for row in rows],
    }


def load(path: Path) -> RunResult:
    """A run as its directory records it.

    Raises:
        ResultsError: `path` is no run directory, or its results.json is unreadable.
    """
    file = path / "results.json"
    try:
        _no_link(file)
        raw = json.loads(file.read_text(encoding="utf-8"))
        rows = tuple(map(_row, raw["rows"]))
        return RunResult(path.resolve(), _header(raw["run"]), rows)
    except FileNotFoundError:
        raise ResultsError(
            f"no results in {path}",
            f"{file} does not exist",
            "give the directory of a finished run",
        ) from None
    except (
        AttributeError, KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ResultsError(f"cannot read {file}", repr(error)) from error


def _row(raw: Mapping[str, Any]) -> Row:
    """A row of results.json, with the types that a row has; ValueError, TypeError."""
    row = Row(**raw)
    for name in ROW_COLUMNS:
        value = getattr(row, name)
        if name in _TRUTHS:
            good = isinstance(value, bool)
        elif name in _NUMBERS:
            good = value is None or (isinstance(value, (int, float)) and abs(value) < 2**63)
            good = good or (name == "score" and isinstance(value, str))  # one that is not finite
        elif name == "value":
            good = value is None or isinstance(value, (float, str))
            good = good or (isinstance(value, int) and abs(value) < 2**63)
        else:
            good = isinstance(value, str) or (value is None and name == "unit")
        if not good:
            raise ValueError(f"{name}: {value!r:.60}")
    return row


def _header(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The header of results.json, as far as it is made use of; ValueError, KeyError, ..."""
    int(raw["exit_code"])
    notes = [raw.get("notices") or ()]
    for cell in dict(raw.get("cells") or {}).values():
        if cell.get("notes"):
            notes += [[cell["model"], cell["dataset"]], cell["notes"]]
    if not isinstance(raw, dict) or not all(isinstance(n, str) for found in notes for n in found):
        raise ValueError("its header is none")
    return raw


def newest_first(runs: Iterable[Path]) -> list[Path]:
    """Run directories by age: 20260102-030405-10 is newer than 20260102-030405-2."""
    return sorted(runs, key=lambda p: (p.name[:15], len(p.name), p.name), reverse=True)


def render(result: RunResult, form: str) -> str:
    """The rows as `table`, `csv`, `json` or `md`."""
    if form == "csv":
        return _printable(to_csv(result.rows).rstrip("\n"))
    if form == "json":
        return to_json(envelope(result.header, result.rows), indent=2)
    return _printable(table(result.rows, "github" if form == "md" else "simple", result.notes))


def table(rows: Sequence[Row], form: str = "simple", notes: Sequence[str] = ()) -> str:
    """The rows for a person: a line a metric, and below it why a cell failed.

    Args:
        form: A format of `tabulate`.
        notes: What else stands below it.
    """
    from tabulate import tabulate

    bar = "\\|" if form == "github" else "|"
    columns = [c for c in _TABLE if c not in _COUNTS or any(getattr(r, _COUNTS[c]) for r in rows)]
    # The model's name says nothing where there is one.
    if len({r.model for r in rows}) == 1 and form == "simple":
        columns.remove("model")
    shown = tabulate(
        [[_shown(_cell(row, c)).replace("|", bar) for c in columns] for row in rows],
        headers=columns,
        tablefmt=form,
        disable_numparse=True,
        colalign=["right" if c in ("value", "score", "n", *_COUNTS) else "left" for c in columns],
    )
    below = dict.fromkeys(
        _shown(f"{row.model} x {row.dataset} {row.status}: {row.error}")
        for row in rows
        if row.error
    )
    below.update(dict.fromkeys(map(_shown, notes)))
    return "\n".join([shown, *([""] if below else []), *below])


def to_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(ROW_COLUMNS)
    for row in rows:
        record = asdict(row)
        writer.writerow([_harmless_in_a_sheet(record[c]) for c in ROW_COLUMNS])
    return out.getvalue()


def _harmless_in_a_sheet(value: Any) -> Any:
    """A cell of results.csv: a spreadsheet would carry out a text that begins with `=` or the
    like. An apostrophe before it keeps it text; results.json has it as it is."""
    if not isinstance(value, str):
        return "" if value is None else value
    value = "\n".join(re.split("\r\n?", value))  # which csv (Python 3.12) would not quote
    if not value.startswith(("=", "+", "-", "@", "\t", "\n")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: no NaN, and no half of a surrogate pair as it stands."""
    try:
        text = _encoder(indent).encode(data)
    except ValueError:
        text = json.dumps(_finite(data), ensure_ascii=False, indent=indent, default=str)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def write_json(path: Path, data: Any) -> None:
    write_text(path, to_json(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file beside its place and move it there: a reader never sees half of it, nor does
    who comes after a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)  # a link there would lead elsewhere
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            file.writelines(map(_printable, lines))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def point_latest(folder: Path) -> None:
    """`latest` beside the run, moved over the old one; without it where links are not possible."""
    link = folder.parent / "latest"
    beside = folder.parent / f".latest-{folder.name}"
    try:
        beside.unlink(missing_ok=True)
        beside.symlink_to(folder.name)
        beside.replace(link)
    except OSError:
        beside.unlink(missing_ok=True)


def _no_link(file: Path) -> None:
    """Refuse a file of a run that is a link: it may lead to what its maker cannot read."""
    if file.is_symlink():
        raise ResultsError(
            f"{file} is a link", "a run's files are files", "put what it leads to in its place"
        )


def _printable(text: str) -> str:
    """`text` that can be encoded: a lone half of a surrogate pair becomes its escape."""
    return text.encode(errors="backslashreplace").decode()


def _cell(row: Row, column: str) -> str:
    if column in _COUNTS:
        count = getattr(row, _COUNTS[column])
        if column == "ungraded" and row.metric and not row.is_primary:
            return ""  # it is of the whole cell
        return f"{count}/{row.n}" if count else ""
    value = getattr(row, column)
    if column == "metric" and row.is_primary:
        return f"{value} *"
    if isinstance(value, float):
        return f"{value:.4f}" if column == "score" or row.unit == "fraction" else f"{value:.2f}"
    return "" if value is None else str(value)


def _shown(text: str) -> str:
    """`text` of an upstream's or an endpoint's on one line, without what a terminal obeys."""
    return harmless(" ".join(text.splitlines()))


def _lines(path: Path) -> list[str]:
    # Not splitlines, which takes U+2028 and its like for the end of a line.
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n") if path.exists() else []


@functools.cache
def _encoder(indent: int | None) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
