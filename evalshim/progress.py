"""How a run shows itself while it runs: bars on a terminal, lines elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from evalshim.spec import Cell, Event


class Reporter(Protocol):
    """Is told of events as they come, on one thread."""

    def note(self, text: str) -> None: ...

    def event(self, event: Event) -> None: ...

    def __enter__(self) -> Reporter: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def for_stream(cells: Sequence[Cell], *, terminal: bool) -> Reporter:
    return Bars(cells) if terminal else Lines(cells)


class Lines:
    """One line when a cell starts and one when it ends."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._names = _names(cells)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def event(self, event: Event) -> None:
        if event.cell and event.kind != "progress":
            self.note(_sentence(self._names[event.cell], event))

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Bars:
    """A bar per running cell; what is done moves up as a line."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        self._names = _names(cells)
        self._tasks: dict[str, int] = {}
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
        if event.kind == "started":
            self._tasks[cell] = self._progress.add_task(_escape(self._names[cell]), total=None)
        elif event.kind == "progress" and cell in self._tasks:
            self._progress.update(
                self._tasks[cell],  # type: ignore[arg-type]
                completed=event.data["done"],
                total=event.data["total"],
            )
        elif event.kind in ("finished", "failed"):
            if cell in self._tasks:
                self._progress.remove_task(self._tasks.pop(cell))  # type: ignore[arg-type]
            self.note(_sentence(self._names[cell], event))

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    return {c.id: f"{c.model.name} x {c.dataset.name}" for c in cells}


def _sentence(name: str, event: Event) -> str:
    if event.kind == "failed":
        reason = str(event.data.get("message", "")).strip().splitlines()
        return f"{name}: failed: {reason[0] if reason else event.data.get('type')}"
    return f"{name}: {'started' if event.kind == 'started' else 'done'}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
