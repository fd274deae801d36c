"""The table: what is run, what is looked at, and what evalshim is to reach.

Targets are ratios to upstream run directly on the same machine, or plain figures. The quick form
has the same lines with less of everything, and upstream only where that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.measure import Measured

System = Literal["upstream", "EvalScope", "evalshim", "dataset"]
ALL: tuple[System, ...] = ("upstream", "EvalScope", "evalshim")

_SETS_IN = {"mcq": 1, "sets": 2, "mmlu": 57, "command": 0}


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
        kind: What to make and whom to run: multiple-choice questions with pictures
            (VLMEvalKit), two sets or MMLU (OpenCompass), or only a command.
        rows: Questions, of each set where there are several.
        latency: Seconds an answer takes.
        parallel: Calls in flight.
        large: Pictures of 100 KB.
        systems: Who does it; `dataset` only builds upstream's dataset object.
        memory: Whether memory is looked at, which slows a run a little.
        command: The words after `shim`, and after `evalscope`.
    """

    name: str
    kind: Literal["mcq", "sets", "mmlu", "command"]
    rows: int = 0
    latency: float = 0.1
    parallel: int = 32
    large: bool = False
    systems: tuple[System, ...] = ALL
    memory: bool = False
    command: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return self.rows * _SETS_IN[self.kind]

    @property
    def limit(self) -> float:
        """Seconds that the endpoint's latency alone takes, with every call slot always in use."""
        return self.samples * self.latency / self.parallel

    @property
    def title(self) -> str:
        if self.kind == "command":
            return f"`{' '.join(('shim', *self.command))}`"
        work = {
            "mcq": f"VLMEvalKit, {self.rows:,} MCQ",
            "sets": f"OpenCompass, 2 sets of {self.rows}",
            "mmlu": f"OpenCompass, 57 subsets of {self.rows}",
        }[self.kind]
        pictures = ", 100 KB pictures" if self.large else ""
        return f"{work}{pictures}, {self.latency * 1000:.0f} ms, {self.parallel} at a time"


def cases(quick: bool) -> dict[str, Case]:
    """Every case by its name, shortest first."""
    ours: tuple[System, ...] = ("evalshim",)
    big = ours if quick else ALL
    found = [
        Case("help", "command", command=("--help",), systems=("EvalScope", "evalshim")),
        Case("list", "command", command=("list", "datasets"), systems=ours),
        Case("mcq", "mcq", 320 if quick else 1_000),
        Case("sets", "sets", 40),
        Case("wide", "mcq", 1_024 if quick else 5_120, 1.0, 256, systems=big),
        Case("pictures", "mcq", 512 if quick else 2_048, 1.0, 256, large=True, systems=big),
        Case("many", "mcq", 1_000 if quick else 10_000, systems=big),
        Case("mmlu", "mmlu", 4 if quick else 20, systems=big),
        Case(
            "memory", "mcq", 10_000 if quick else 100_000, memory=True,
            systems=("dataset", "evalshim"),
        ),
    ]  # fmt: skip
    return {case.name: case for case in found}


Value = Callable[[Case, Measured], "float | None"]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        value: The figure, of a case and what was measured of it.
        bound: What evalshim is to stay under, or to be over.
        of: Whose figure ours is set against, as a ratio or a difference: a case and a system.
        digits: Decimals of the figures.
    """

    case: str
    what: str
    unit: str
    value: Value
    bound: float
    over: bool = False
    of: tuple[str, System] | None = None
    how: Literal["ratio", "difference"] = "ratio"
    digits: int = 1

    @property
    def target(self) -> str:
        side = "over" if self.over else "under"
        if self.of is None:
            return f"{side} {self.bound:g} {self.unit}"
        if self.how == "difference":
            return f"{side} {self.bound:g} {self.unit} more"
        case, system = self.of
        return f"{side} {self.bound:g} of {system}'s" + (
            f" of `{case}`" if case != self.case else ""
        )

    def compared(self, ours: float, theirs: float | None) -> float | None:
        """What the target is about: our figure, or ours set against theirs."""
        if self.of is None:
            return ours
        if theirs is None:
            return None
        return ours - theirs if self.how == "difference" else ours / theirs

    def met(self, compared: float) -> bool:
        return compared > self.bound if self.over else compared < self.bound


def _seconds(case: Case, run: Measured) -> float:
    return run.seconds


def _first(case: Case, run: Measured) -> float | None:
    return run.first


def _of_limit(case: Case, run: Measured) -> float | None:
    return case.limit / run.span if run.span else None


def _rate(case: Case, run: Measured) -> float | None:
    return run.requests / run.span if run.span else None


def _own(case: Case, run: Measured) -> float | None:
    return run.own


def _own_percent(case: Case, run: Measured) -> float | None:
    return None if run.own is None else 100 * run.own / run.seconds


def _memory(case: Case, run: Measured) -> float | None:
    return run.memory


def _worker_memory(case: Case, run: Measured) -> float | None:
    return run.memory_below or run.memory


def _against(case: str, what: str, value: Value, bound: float) -> Line:
    return Line(case, what, "s", value, bound, of=(case, "upstream"))


def _beyond_rows(case: Case, run: Measured) -> float | None:
    return run.held or _worker_memory(case, run)


def _memory_above(what: str, value: Value) -> Line:
    """Against a process that imports upstream and builds its dataset, or the rows alone."""
    return Line(
        "memory", what, "MB", value, 150, of=("memory", "dataset"), how="difference", digits=0
    )


LINES = (
    _against("mcq", "in all", _seconds, 0.28),
    _against("many", "in all", _seconds, 0.20),
    Line("mcq", "inference", "of the limit", _of_limit, 0.95, over=True, digits=2),
    Line("many", "inference", "of the limit", _of_limit, 0.95, over=True, digits=2),
    Line("wide", "inference", "of the limit", _of_limit, 0.90, over=True, digits=2),
    Line("pictures", "inference", "requests/s", _rate, 150, over=True, digits=0),
    _against("sets", "in all", _seconds, 0.15),
    _against("mmlu", "in all", _seconds, 0.08),
    _against("mcq", "to the first request", _first, 0.35),
    _against("sets", "to the first request", _first, 0.35),
    Line("help", "in all", "s", _seconds, 0.15, digits=2),
    Line("list", "in all", "s", _seconds, 0.25, digits=2),
    Line("memory", "in all", "s", _seconds, 12, of=("many", "evalshim")),
    _memory_above("worker's memory", _worker_memory),
    _memory_above("worker's memory, against the rows alone", _beyond_rows),
    _memory_above("memory in all", _memory),
    Line("many", "evalshim's own share", "s", _own, 1, digits=2),
    Line("many", "evalshim's own share", "% of the run", _own_percent, 2),
)  # fmt: skip
