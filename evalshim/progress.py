"""How a run shows itself while it runs: bars on a terminal, lines elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from evalshim.errors import harmless
from evalshim.spec import BackendName, Cell, CellOutcome, Event

if TYPE_CHECKING:
    from rich.progress import TaskID


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
    cells: Sequence[Cell], backends: Mapping[BackendName, str], *, terminal: bool
) -> Reporter:
    """The reporter for a run.

    Args:
        backends: The upstreams that take part, and what people call them.
        terminal: Whether stderr is one.
    """
    return Bars(cells, backends) if terminal else Lines(cells, backends)


class Lines:
    """One line when a cell starts and one when it ends."""

    def __init__(self, cells: Sequence[Cell], backends: Mapping[BackendName, str]) -> None:
        self._names = _names(cells)
        self._titles = list(backends.values())

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def event(self, event: Event) -> None:
        if event.kind == "started":
            self.note(f"{self._names[event.cell or '']}: started")

    def ended(self, cell: Cell, outcome: CellOutcome) -> None:
        self.note(_sentence(cell, outcome))

    def __enter__(self) -> Lines:
        self.note(f"starting {' and '.join(self._titles)}; the imports take up to half a minute")
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Bars:
    """A bar per running cell, and per upstream that starts; what is done moves up as a line."""

    def __init__(self, cells: Sequence[Cell], backends: Mapping[BackendName, str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        self._names = _names(cells)
        self._titles = backends
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def event(self, event: Event) -> None:
        cell = event.cell or ""
        if event.kind == "ready":
            self._remove(event.data["upstream"])
        elif event.kind == "started":
            self._add(cell, self._names[cell])
        elif event.kind == "progress" and cell in self._tasks:
            self._progress.update(
                self._tasks[cell],
                completed=event.data["done"],
                total=event.data["total"],
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
        self._tasks[key] = self._progress.add_task(_escape(text), total=None)

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
