"""One run while it runs: workers on threads, their events in order, every cell to its end.

Whatever happens to a worker or to upstream's files is the end of a cell, with its
reason; only an interrupt ends a run early.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evalshim import config, header, kept, phases, process, redaction, results, resumption, sweep
from evalshim.backends import BACKENDS
from evalshim.crew import Crew, Early
from evalshim.deadlines import Deadlines
from evalshim.endpoints import variables_of
from evalshim.errors import EvalshimError
from evalshim.gate import Gate
from evalshim.lanes import TOKENS, Budget, limits_of
from evalshim.plans import Plan, by_backend
from evalshim.progress import Reporter
from evalshim.results import RunResult
from evalshim.resumption import GoingOn
from evalshim.spec import BackendName, Cell, CellOutcome, Event, Row

INTERRUPTED = "the run was interrupted"
# Seconds that the calls in flight have when a run is interrupted, and between two looks at
# the clock.
GRACE = 10.0
_TICK = 1.0


@functools.cache
def _get_ready_to_collect() -> None:
    """Import what reads results, while upstream scores: it takes long, and would hold up the
    gate if it came while calls are made."""
    threading.Thread(target=importlib.import_module, args=("pandas",), daemon=True).start()


class LiveRun:
    """A run under way; run.json follows its state.

    Args:
        plan: Ready to run.
        folder: The run directory; exists.
        command: The command line, for run.json.
        begun: When the run was asked for, in seconds since 1970.
        old: What it has already, where a run goes on.
        early: Workers that were started ahead.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        command: Sequence[str],
        begun: float,
        old: GoingOn | None = None,
        early: Early | None = None,
    ) -> None:
        self.plan = plan
        self.spans: list[phases.Span] = [("start", begun, time.time())]
        self._importing_since = early.begun if early else self.spans[0][2]
        self.spec = plan.spec
        self.folder = folder
        self.cells = {cell.id: cell for cell in plan.cells}
        self.outcomes: dict[str, CellOutcome] = dict(old.ended) if old else {}
        self.samples = kept.Samples(folder / "samples.jsonl", plan.cells)
        self.parts = by_backend([c for c in plan.cells if c.id not in self.outcomes])
        self.parts_done: dict[str, dict[str, tuple[int, ...]]] = {}
        judges = {self.spec.judge_of(cell.dataset) for cell in plan.cells}
        models = {cell.model for cell in plan.cells}
        found = [*map(variables_of, models), *map(variables_of, judges)]
        keys = {key for variables in found for key in variables.values() if key}
        self.secrets = tuple(sorted({*keys, *redaction.of_environment()}))
        self.logs = {
            name: process.Logs(folder / "logs", name, self.secrets)
            for name in by_backend(plan.cells)
        }
        self.gate = Gate(
            limits_of(plan.cells, plan.spec),
            Budget(self.spec.max_requests, self.spec.max_tokens_total),
            self.spec.patience,
            lambda text: self.crew.events.put(Event("waiting", None, {"message": text})),
        )
        self.crew = Crew(plan, folder / "upstream", self.logs, self.gate, early)
        self.why_stopped = ""  # before all cells came to their end
        self.deadlines = Deadlines(plan.spec)
        self._kill_at = float("inf")
        self._must_end_at = time.monotonic() + (self.spec.run_timeout or float("inf"))
        self.header = header.first(
            plan, folder.name, redaction.redacted(list(command), self.secrets), self._log_of
        )
        if old:
            self.header = header.going_on(self.header, old.header, list(old.ended), old.forced)

    def _log_of(self, cell: Cell) -> str:
        return f"logs/{self.logs[cell.dataset.backend].path(cell.id).name}"

    def interrupt(self) -> None:
        """Let the calls in flight end, and the run with them; from a signal handler too."""
        self.crew.events.put(Event("interrupt"))

    def go(self, reporter: Reporter) -> RunResult:
        """Run to the end, or to an interrupt; in both cases the result files are written."""
        plain = redaction.redacted(config.plain(self.spec), self.secrets)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        results.write_text(self.folder / "config.yaml", text)
        self.samples.begin(self.outcomes)
        self._save()
        results.point_latest(self.folder)
        data = header.DataNotes(self.plan, lambda: self.crew.events.put(Event("hashed")))
        try:
            with self.gate.open():
                self._work(reporter, data)
            whole = len(resumption.ended(self.header, self.plan)) == len(self.cells)
            if whole and self.why_stopped != INTERRUPTED:
                self.why_stopped = ""  # a limit that the last call reached
            self.header["status"] = "stopped" if self.why_stopped else "finished"
            if self.why_stopped == INTERRUPTED:
                raise KeyboardInterrupt
            if self.why_stopped:
                self.header["notices"].append(
                    f"{header.STOPPED}{self.why_stopped}; `shim resume "
                    f"{os.path.relpath(self.folder)}` goes on from here"
                )
        except KeyboardInterrupt:
            self.header["status"] = "interrupted"
            place = os.path.relpath(self.folder)
            text = f"`shim resume {place}` goes on from here"
            reporter.event(Event("waiting", None, {"message": text}))
            raise
        except BaseException:
            self.header["status"] = "failed"
            raise
        finally:
            ended = self.header["status"] == "finished"
            data.end(wait=ended)
            self._note(data, late=ended)
            result = self._finish()
        return result

    def _note(self, data: header.DataNotes, late: bool = False) -> None:
        """Say in run.json which data each cell is about."""
        for cell in self.cells:
            self.header["cells"][cell]["data"] = data.of(cell, late)

    def _work(self, reporter: Reporter, data: header.DataNotes) -> None:
        """Every backend's worker at once; their events, in order, on this thread."""
        log = (self.folder / "events.jsonl").open("a", encoding="utf-8")
        with log:
            try:
                self.crew.launch_all(self.parts)
                while self.crew.running:
                    try:
                        event = self.crew.events.get(timeout=_TICK)
                    except queue.Empty:
                        event = Event("tick")
                    if event.kind == "hashed":
                        self._note(data)
                        self._save()
                    elif event.kind == "interrupt":
                        self._stop(INTERRUPTED, reporter)
                    elif event.kind != "tick":
                        self._log(log, event)
                        self._apply(event, reporter)
                    self._look_at_the_clock(reporter)
            finally:
                self.crew.stop()

    def _stop(self, why: str, reporter: Reporter) -> None:
        """Start no further call, and give those in flight their time."""
        if self.why_stopped:
            return
        self.why_stopped = why
        self.gate.stop(why)
        self._kill_at = time.monotonic() + GRACE
        text = f"{why}: finishing the calls in flight, {GRACE:.0f} s at the most"
        more = "; Ctrl-C again ends it at once" if why == INTERRUPTED else ""
        reporter.event(Event("waiting", None, {"message": text + more}))

    def _look_at_the_clock(self, reporter: Reporter) -> None:
        now = time.monotonic()
        if self.gate.why_stopped:
            self._stop(self.gate.why_stopped, reporter)
        if now >= self._must_end_at:
            self._stop(f"run_timeout of {self.spec.run_timeout:g} s is over", reporter)
        if now >= self._kill_at:
            self.crew.stop()
            self._kill_at = float("inf")
        for cell, pids in self.deadlines.look(self.outcomes, self.gate.waited_until):
            for pid in pids:
                self.crew.kill(cell.dataset.backend, pid)

    def _apply(self, event: Event, reporter: Reporter) -> None:
        self.spans += [(name, begun, ended) for name, begun, ended in event.data.get("spans", ())]
        if event.kind == "progress" and event.data["done"] >= event.data["total"]:
            _get_ready_to_collect()
        if event.kind == "ready":
            self.header["backends"][event.data["upstream"]].update(event.data)
            # Its interpreter started, too.
            self.spans.append(("import", self._importing_since, time.time()))
        elif event.kind == "notice":
            self.header["notices"].append(event.data["message"])
        elif event.kind == "ended":
            self._end_rest(event, reporter)
        self.deadlines.hear(event.cell or "")
        entry = self.header["cells"].get(event.cell)
        if entry is None or event.cell in self.outcomes:
            reporter.event(event)
            return
        if event.kind == "progress":
            reporter.event(self._summed(event))
        elif event.kind == "started":
            cell = self.cells[event.cell or ""]
            self.deadlines.begin(cell, event.data["pid"])
            if cell.id in self.deadlines.overdue:
                self.crew.kill(cell.dataset.backend, event.data["pid"])
            if entry["status"] == "pending":  # else another part of it starts
                entry.update(status="running", started_at=header.now())
                self._save()
                reporter.event(event)
        else:
            self._end(self.cells[event.cell or ""], self._outcome(event), reporter)

    def _summed(self, event: Event) -> Event:
        """The progress of a cell, of which a process may report a part."""
        cell, data = event.cell or "", event.data
        parts = self.parts_done.setdefault(cell, {})
        kinds = ("done", "total", "failed")
        parts[data.get("part", "")] = tuple(data[kind] for kind in kinds)
        summed = dict(zip(kinds, map(sum, zip(*parts.values(), strict=True)), strict=True))
        self.header["cells"][cell].update(done=summed["done"], total=summed["total"])
        return Event("progress", cell, summed)

    def _end_rest(self, event: Event, reporter: Reporter) -> None:
        """A worker is gone: the cells that it had begun are failed, others get a fresh one."""
        self.crew.running -= 1
        name: BackendName = event.data["backend"]
        left = [cell for cell in self.parts[name] if cell.id not in self.outcomes]
        begun = [cell for cell in left if self.deadlines.has_begun(cell.id)]
        problem = event.data["problem"] or f"the {name} worker said nothing of this cell"
        again = [cell for cell in left if cell not in begun]
        # Who died before it began anything would do so again.
        for cell in begun if begun and event.data["problem"] else left:
            self._end(
                cell, self._dead(cell, self.deadlines.overdue.get(cell.id, problem)), reporter
            )
        if begun and again and event.data["problem"] and not self.why_stopped:
            self.crew.launch(name, again)

    def _dead(self, cell: Cell, problem: str) -> CellOutcome:
        """A cell whose process is gone."""
        tail = self.logs[cell.dataset.backend].tail(cell.id)
        reason = "\n".join([problem, *(["its last lines:", *tail] if tail else [])])
        return CellOutcome("failed", reason)

    def _outcome(self, event: Event) -> CellOutcome:
        cell = self.cells[event.cell or ""]
        overdue = self.deadlines.overdue.get(cell.id, "")
        if event.kind == "failed":
            message = overdue or str(event.data["message"])
            if event.data["type"] == "Died":
                return self._dead(cell, overdue or f"the process of this cell died ({message})")
            return CellOutcome("failed", message)
        outcome = self._collected(cell, event.data)
        # Whatever it says else is what became of processes that were ended.
        return replace(outcome, error=overdue) if overdue and outcome.error else outcome

    def _collected(self, cell: Cell, finished: Mapping[str, Any]) -> CellOutcome:
        begun = time.time()
        try:
            return BACKENDS[cell.dataset.backend].collect(cell, finished, self.folder, self.spec)
        except EvalshimError as error:
            return CellOutcome("failed", str(error))
        except Exception as error:  # one cell's odd file must not cost the others theirs
            with self.logs[cell.dataset.backend].path(cell.id).open("a", encoding="utf-8") as log:
                log.write(process.redact(traceback.format_exc(), self.secrets))
            return CellOutcome("failed", f"cannot read what upstream wrote: {error!r}")
        finally:
            self.spans.append(("collect", begun, time.time()))

    def _end(self, cell: Cell, outcome: CellOutcome, reporter: Reporter) -> None:
        entry = self.header["cells"][cell.id]
        # Events came without secrets; upstream's files may have some of processes of its own.
        outcome = redaction.redacted(outcome, redaction.unmistakable(self.secrets))
        outcome = replace(
            outcome,
            error=process.redact(outcome.error.strip(), self.secrets),
            n=entry.get("total") if outcome.n is None else outcome.n,
        )
        try:
            self.samples.add(cell.id, outcome.samples)
        except OSError as error:  # not ended: to go on reads them anew from what upstream wrote
            outcome = CellOutcome("failed", f"cannot keep its samples: {error}", n=outcome.n)
        self.outcomes[cell.id] = outcome = replace(outcome, samples=())
        entry.update(
            outcome=kept.plain(outcome),
            status=outcome.status,
            error=outcome.error,
            finished_at=header.now(),
        )
        entry.update(n=outcome.n, n_failed=outcome.n_failed, n_judge_failed=outcome.n_judge_failed)
        entry.update(notes=list(outcome.notes), sent=dict(outcome.sent))
        entry.update(reported=outcome.reported.get("model") or None)
        if entry["judge"]:
            entry["judge"]["reported"] = outcome.reported.get("judge") or None
        self._save()
        reporter.ended(cell, outcome)

    def _finish(self) -> RunResult:
        """Write the result files, decide the exit code."""
        begun = time.time()
        self.header["finished_at"] = header.now()
        sweep.clean(self.folder / "upstream", redaction.unmistakable(self.secrets))
        unended = CellOutcome("failed", f"the run was {self.header['status']} before this ended")
        rows: list[Row] = []
        for cell in self.cells.values():
            outcome = self.outcomes.get(cell.id, unended)
            self.header["cells"][cell.id].update(status=outcome.status, error=outcome.error)
            rows += self._rows(cell, outcome)
        codes = {"interrupted": 130, "failed": 1, "stopped": 1}
        ended = [self.outcomes.get(cell, unended) for cell in self.cells]
        degraded = any(self._is_degraded(outcome) for outcome in ended)
        self.header["exit_code"] = codes.get(self.header["status"], int(degraded))
        self.header["traffic"] = {
            endpoint: {
                "calls": c.calls,
                "turned_away": c.busy,
                **{k: getattr(c, k) for k in TOKENS},
            }
            for endpoint, c in ((e, lane.counts) for e, lane in self.gate.lanes.items())
        }
        try:
            lines = self.samples.of(self.cells)
            self.header["phases"] = phases.seconds([*self.spans, ("collect", begun, time.time())])
            results.write(self.folder, self.header, rows, lines)
        except OSError as error:
            raise EvalshimError(
                f"cannot write the results to {self.folder}",
                str(error),
                "what upstream wrote is below it all the same",
            ) from error
        return RunResult(self.folder, self.header, tuple(rows))

    def _rows(self, cell: Cell, outcome: CellOutcome) -> list[Row]:
        found = self.header["backends"][cell.dataset.backend]
        bare = Row(
            run_id=self.folder.name,
            backend=cell.dataset.backend,
            backend_version=f"{found['distribution']} {found['version']}"
            if found["version"]
            else "",
            model=cell.model.name,
            dataset=cell.dataset.name,
            n=outcome.n,
            n_failed=outcome.n_failed,
            n_judge_failed=outcome.n_judge_failed,
            scorer=outcome.scorer,
            judge_fallback=outcome.judge_fallback,
            status=outcome.status,
            error=" ".join(outcome.error.split()),
        )
        return [
            replace(
                bare,
                **results.row_numbers(metric),
                source_file=os.path.relpath(metric.source_file, self.folder),
            )
            for metric in outcome.metrics
        ] or [bare]

    def _is_degraded(self, outcome: CellOutcome) -> bool:
        if outcome.status == "failed":
            return True
        limit = self.spec.fail_on
        lacking = (outcome.n_failed or 0) + (outcome.n_judge_failed or 0)
        # 0.29 * 100 is a little less than 29.
        return lacking > (round(limit * (outcome.n or 0), 6) if limit < 1 else limit)

    def _save(self) -> None:
        # A full disk must not end a run that may still bring its answers home.
        with contextlib.suppress(OSError):
            results.write_json(self.folder / "run.json", self.header)

    def _log(self, log: Any, event: Event) -> None:
        record = {"time": header.now(), "event": event.kind, "cell": event.cell, **event.data}
        with contextlib.suppress(OSError):
            log.write(json.dumps(record, default=str) + "\n")
            log.flush()
