"""Runs the cases side by side and prints the tables: `python -m bench`, in a clone.

Needs both environments (`shim setup`). Systems take turns, run by run, so that what else the
machine does falls on all of them. What was measured is kept as it comes (--record), so a run that
is cut short, or one case alone (--only), adds to the same tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import report, systems
from bench.cases import Case, System, cases
from bench.measure import Endpoint, Failed, Measured, beside, share, timed


def main() -> None:
    asked = _arguments()
    known = cases(asked.quick)
    record = Path(asked.record or f"outputs/bench{'-quick' if asked.quick else ''}.json")
    results: report.Results = {}
    if record.exists() and (asked.only or asked.report):
        results = report.restored(json.loads(record.read_text())["results"])
    header = report.machine()
    if not asked.report:
        skipped = _skipped(asked.evalscope)
        for name in asked.only or known:
            results[name] = {}
            for system, run in _runs(known[name], asked.runs, skipped):
                results[name].setdefault(system, []).append(run)
                record.parent.mkdir(parents=True, exist_ok=True)
                kept = {"header": header, "results": report.plain(results)}
                record.write_text(json.dumps(kept, indent=1))
    elif record.exists():
        header = json.loads(record.read_text())["header"]
    made = report.text(known, {n: results[n] for n in known if n in results}, header)
    print(made)
    if asked.write:
        report.write(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, once: minutes")
    parser.add_argument("--runs", type=int, help="of each system (3; 1 with --quick)")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=cases(True), help="these")
    parser.add_argument("--evalscope", action="store_true", help="EvalScope too; installs it")
    parser.add_argument(
        "--record", metavar="FILE", help="keep what is measured (outputs/bench.json)"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, print the record")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    asked = parser.parse_args()
    if asked.quick and asked.write:
        parser.error("README.md keeps the full tables: --write goes without --quick")
    asked.runs = asked.runs or (1 if asked.quick else 3)
    return asked


def _skipped(evalscope: bool) -> set[System]:
    """Systems that cannot or need not run."""
    if not evalscope:
        return {"EvalScope"}
    try:
        systems.install_evalscope()
    except (OSError, subprocess.CalledProcessError) as error:
        _say(f"EvalScope is left out, it cannot be installed: {error}")
        return {"EvalScope"}
    return set()


def _runs(case: Case, runs: int, skipped: set[System]) -> Iterator[tuple[System, Measured]]:
    """Each run of each system, in turn; what fails is said and left out."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        made = Path(folder) / "data"
        systems.prepare(case, made)
        for number in range(runs):
            for system in case.systems:
                if system in skipped:
                    continue
                here = Path(folder) / f"{system}{number}"
                try:
                    run = measured(system, case, made, here)
                except Failed as error:
                    _say(f"{case.title}: {system}: {error}")
                    skipped = skipped | {system}
                    continue
                _say(f"{case.title}: {system}: {run.seconds:.1f} s")
                yield system, run


def measured(system: System, case: Case, made: Path, here: Path) -> Measured:
    """One run of `system` in the new folder `here`, over the data in `made`.

    Raises:
        Failed: It failed, did not ask what it was to ask, or left no score.
    """
    here.mkdir()
    if not case.samples or system == "dataset":
        command = systems.command(system, case, made, here, "")
        _, took, peaks = timed(command.argv, here, command.env, memory=case.memory)
        held = systems.held(here) if system == "dataset" else None
        return Measured(took, held=held, **peaks)
    with Endpoint(case.latency) as endpoint:
        command = systems.command(system, case, made, here, endpoint.url)
        begun, took, peaks = timed(command.argv, here, command.env, memory=case.memory)
    if not systems.scored(system, case, here):
        raise Failed("it left no scores")
    more = share(here / "work" / "latest", begun, took) if system == "evalshim" else {}
    run = beside(endpoint, begun, took, **peaks, **more)
    if run.requests != case.samples:
        raise Failed(f"{run.requests} requests, where there are {case.samples} samples")
    return run


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
