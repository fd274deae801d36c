"""How a run shows itself while it runs: bars on a terminal, lines elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from evalshim.errors import harmless
from evalshim.spec import BackendName, Cell, CellOutcome, Event

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID

# Seconds between two lines about what is under way, where nobody watches bars.
SAY_EVERY = 30


class Reporter(Protocol):
    """Is told of events as they come, on one thread."""

    def event(self, event: Event) -> None: ...

    def ended(self, cell: Cell, outcome: CellOutcome) -> None: ...

    def __enter__(self) -> Reporter: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def for_stream(
    cells: Sequence[Cell],
    backends: Mapping[BackendName, str],
    *,
    terminal: bool,
    traffic: Callable[[], str] = str,
) -> Reporter:
    """The reporter for a run.

    Args:
        backends: The upstreams that take part, and what people call them.
        terminal: Whether stderr is one.
        traffic: What went to the endpoints so far, in words.
    """
    kind = Bars if terminal else Lines
    return kind(cells, backends, traffic)


class Lines:
    """One line when a cell starts and one when it ends; in between one every half minute."""

    def __init__(
        self,
        cells: Sequence[Cell],
        backends: Mapping[BackendName, str],
        traffic: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = _names(cells)
        self._titles = list(backends.values())
        self._traffic = traffic
        self._clock = clock
        self._said_at = clock()
        self._begun: dict[str, float] = {}

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def event(self, event: Event) -> None:
        cell = event.cell or ""
        if event.kind == "started":
            self._begun[cell] = self._clock()
            self.note(f"{self._names[cell]}: started")
        elif event.kind == "waiting":
            self.note(event.data["message"])
        elif event.kind == "progress" and self._clock() - self._said_at >= SAY_EVERY:
            self._said_at = self._clock()
            self.note("; ".join(filter(None, (self._state(cell, event.data), self._traffic()))))

    def _state(self, cell: str, data: Mapping[str, Any]) -> str:
        done, total = data["done"], data["total"]
        said = [f"{self._names[cell]}: {done} of {total}"]
        seconds = self._clock() - self._begun.get(cell, self._said_at)
        if done and seconds > 0:
            said.append(f"{(total - done) * seconds / done:.0f} s left")
        if data.get("failed"):
            said.append(f"{data['failed']} without an answer")
        return ", ".join(said)

    def ended(self, cell: Cell, outcome: CellOutcome) -> None:
        self.note(_sentence(cell, outcome))

    def __enter__(self) -> Lines:
        if self._titles:  # else all is there already
            self.note(f"starting {' and '.join(self._titles)}")
        return self

    def __exit__(self, *_: object) -> None:
        if said := self._traffic():
            self.note(said)


class Bars:
    """A bar per running cell, and per upstream that starts; what is done moves up as a line."""

    def __init__(
        self,
        cells: Sequence[Cell],
        backends: Mapping[BackendName, str],
        traffic: Callable[[], str] = str,
    ) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class WithTraffic(Progress):
            def get_renderables(self) -> Iterable[RenderableType]:
                yield self.make_tasks_table(self.tasks)
                if said := traffic():
                    yield Text(said, style="dim")

        self._names = _names(cells)
        self._titles = backends
        self._traffic = traffic
        self._tasks: dict[str, TaskID] = {}
        self._progress = WithTraffic(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def event(self, event: Event) -> None:
        cell = event.cell or ""
        if event.kind == "ready":
            self._remove(event.data["upstream"])
        elif event.kind == "started":
            self._add(cell, self._names[cell])
        elif event.kind == "waiting":
            self.note(event.data["message"])
        elif event.kind == "progress" and cell in self._tasks:
            failed = event.data.get("failed")
            self._progress.update(
                self._tasks[cell],
                completed=event.data["done"],
                total=event.data["total"],
                failed=f"{failed} without an answer" if failed else "",
            )

    def ended(self, cell: Cell, outcome: CellOutcome) -> None:
        self._remove(cell.id)
        self.note(_sentence(cell, outcome))

    def __enter__(self) -> Bars:
        self._progress.start()
        for name, title in self._titles.items():
            self._add(name, f"starting {title}")
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._tasks):
            self._remove(key)
        self._progress.stop()

    def _add(self, key: str, text: str) -> None:
        self._tasks[key] = self._progress.add_task(_escape(text), total=None, failed="")

    def _remove(self, key: str) -> None:
        if key in self._tasks:
            self._progress.remove_task(self._tasks.pop(key))


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    return {cell.id: _name(cell) for cell in cells}


def _name(cell: Cell) -> str:
    return harmless(f"{cell.model.name} x {cell.dataset.name}")


def _sentence(cell: Cell, outcome: CellOutcome) -> str:
    said = outcome.status.replace("_", " ")
    if primary := next((m for m in outcome.metrics if m.is_primary), None):
        said += f", {primary.name} {primary.value}"
    if outcome.error:
        said += f": {outcome.error.splitlines()[0]}"
    return harmless(f"{_name(cell)}: {said}")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
