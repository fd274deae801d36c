"""How long the cells of a run have been at it, and which of them are to be ended for that."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from evalshim.spec import Cell, RunSpec


class Deadlines:
    """The cells that have begun, by the processes that do them.

    Attributes:
        overdue: Why cells were ended, by cell.
    """

    def __init__(self, spec: RunSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self.overdue: dict[str, str] = {}
        self._spec = spec
        self._clock = clock
        self._cells: dict[str, Cell] = {}
        self._pids: dict[str, set[int]] = {}
        self._begun: dict[str, float] = {}
        self._heard: dict[str, float] = {}

    def begin(self, cell: Cell, pid: int) -> None:
        """A cell, or a part of it, has begun in a process."""
        self._cells[cell.id] = cell
        self._pids.setdefault(cell.id, set()).add(pid)
        self._begun.setdefault(cell.id, self._clock())
        self.hear(cell.id)

    def hear(self, cell: str) -> None:
        self._heard[cell] = self._clock()

    def has_begun(self, cell: str) -> bool:
        return cell in self._cells

    def look(self, ended: Collection[str], waited_until: float) -> Iterator[tuple[Cell, set[int]]]:
        """Cells whose time is over, and their processes; each once.

        Args:
            ended: Cells that need no more time.
            waited_until: When an endpoint was last waited for.
        """
        now = self._clock()
        for name, cell in self._cells.items():
            if name in ended or name in self.overdue:
                continue
            if why := self._why(cell, now, waited_until):
                self.overdue[name] = why
                yield cell, self._pids[name]

    def _why(self, cell: Cell, now: float, waited_until: float) -> str:
        whole, silent = self._spec.cell_timeout, self._spec.stall_timeout
        if whole and now - self._begun[cell.id] > whole:
            return f"it took longer than cell_timeout, {whole:g} s"
        # A model that an upstream runs itself says nothing in between, nor does a
        # configuration of OpenCompass's own.
        speaks = cell.model.api_base and not self._spec.config
        if speaks and now - max(self._heard[cell.id], waited_until) > silent:
            return f"nothing came of it for stall_timeout, {silent:g} s"
        return ""
