"""From what was measured to the tables, and to README.md."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

import evalshim
from bench.cases import LINES, Case, Line, System
from bench.measure import Measured
from bench.systems import EVALSCOPE
from evalshim import envs
from evalshim.spec import BackendName

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- what `python -m bench --write` last measured -->", "<!-- until here -->"

Results = dict[str, dict[System, list[Measured]]]
_SHOWN: tuple[System, ...] = ("upstream", "EvalScope", "evalshim")


def machine() -> dict[str, str]:
    """What the figures belong to: the day, the machine, the versions."""
    found = {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}",
        "Python": platform.python_version(),
        "evalshim": " ".join([evalshim.__version__, *_commit()]),
        "EvalScope": EVALSCOPE.partition("==")[2],
    }
    backends: tuple[BackendName, ...] = ("vlmeval", "opencompass")
    for backend in backends:
        if made := envs.state(backend):
            found[made.health.distribution] = made.health.version
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> list[str]:
    asked = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, cwd=README.parent, capture_output=True, text=True)
    return [f"({done.stdout.strip()})"] if done.returncode == 0 else []


def text(cases: Mapping[str, Case], results: Results, header: Mapping[str, str]) -> str:
    """Both tables as Markdown, with what they belong to."""
    about = "; ".join(f"{key} {value}" for key, value in header.items())
    rows = [row for line in LINES if (row := _row(line, cases, results))]
    columns = ("work", "measured", *_SHOWN, "target", "reached", "met")
    where = tabulate(_parts(cases, results), _PARTS, "github", disable_numparse=True)
    table = tabulate(rows, columns, "github", disable_numparse=True)
    return (
        f"{about}. Minimum / median / maximum of the runs, which took turns; a ratio is that of "
        f"two runs in turn.\n\n{table}\n\nWhere the seconds went, medians; own: evalshim outside "
        f"what upstream takes to import, plan, answer and score.\n\n{where}\n"
    )


def _row(line: Line, cases: Mapping[str, Case], results: Results) -> list[str] | None:
    found = results.get(line.case, {})
    values = {s: _values(line, cases[line.case], runs) for s, runs in found.items()}
    ours = values.get("evalshim", [])
    if not ours:
        return None
    theirs: Sequence[float | None] = [None] * len(ours)
    if line.of:
        case, system = line.of
        theirs = _values(line, cases[case], results.get(case, {}).get(system, []))
    pairs = zip(ours, theirs, strict=False)
    compared = [c for pair in pairs if (c := line.compared(*pair)) is not None]
    what = f"{line.what}, {line.unit}"
    shown = [_spread(values.get(system, []), line.digits) for system in _SHOWN]
    if line.how == "difference":
        shown[0] = _spread(list(theirs), line.digits) + " (its dataset)"
    met = ("yes" if line.met(statistics.median(compared)) else "no") if compared else ""
    digits = 3 if line.of and line.how == "ratio" else line.digits
    return [cases[line.case].title, what, *shown, line.target, _spread(compared, digits), met]


def _values(line: Line, case: Case, runs: Sequence[Measured]) -> list[float]:
    return [value for run in runs if (value := line.value(case, run)) is not None]


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    three = (min(known), statistics.median(known), max(known))
    return " / ".join(f"{value:.{digits}f}" for value in three)


_PARTS = ("work", "by", "until asked", "requests", "after them", "at once", "connections", "phases")


def _parts(cases: Mapping[str, Case], results: Results) -> list[list[str]]:
    """Per case and system: the time before, during and after its requests, and the phases."""
    rows = []
    for name, found in results.items():
        for system, runs in found.items():
            asked = [run for run in runs if run.first is not None and run.span is not None]
            if asked:
                after = [run.seconds - (run.first or 0) - (run.span or 0) for run in asked]
                rows.append(
                    [
                        cases[name].title,
                        system,
                        f"{statistics.median(run.first or 0 for run in asked):.1f} s",
                        f"{statistics.median(run.span or 0 for run in asked):.1f} s",
                        f"{statistics.median(after):.1f} s",
                        str(max(run.largest_parallel for run in asked)),
                        str(max(run.connections for run in asked)),
                        _phases(asked),
                    ]
                )
    return rows


def _phases(runs: Sequence[Measured]) -> str:
    names = list(runs[0].phases or {})
    found = {n: statistics.median((run.phases or {}).get(n, 0.0) for run in runs) for n in names}
    own = [run.own for run in runs if run.own is not None]
    if own:
        found["own"] = statistics.median(own)
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.items())


def plain(results: Results) -> dict[str, Any]:
    """`results` for a JSON file."""
    return {
        case: {system: [asdict(run) for run in runs] for system, runs in found.items()}
        for case, found in results.items()
    }


def restored(document: Mapping[str, Any]) -> Results:
    """What `plain` made a document of."""
    return {
        case: {system: [Measured(**run) for run in runs] for system, runs in found.items()}
        for case, found in document.items()
    }


def write(made: str, readme: Path = README) -> None:
    """Put the tables between the markers of README.md."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", encoding="utf-8")
