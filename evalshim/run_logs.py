"""The logs of a run: which there are, and what stands in them, while it is written too.

Returns lines as the bytes they are; shows nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from evalshim import locks
from evalshim.errors import ConfigError
from evalshim.housekeeping import Run, look

_PAUSE = 0.2  # seconds between two looks at what is written


def cell_of(run: Run, name: str) -> str:
    """The id of the cell that `name` means: its id, or a part of its model's or dataset's name.

    Raises:
        ConfigError: None, or several.
    """
    if name in run.cells:
        return name
    part = name.lower()
    found = [
        cell
        for cell, entry in run.cells.items()
        if any(
            part in str(text).lower() for text in (cell, entry.get("model"), entry.get("dataset"))
        )
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{len(found) or 'no'} cells of {run.id} are named like {name}",
            "",
            "one of " + ", ".join(found or run.cells or ["none"]),
        )
    return found[0]


def files(run: Run, cell: str | None = None) -> list[Path]:
    """The logs that there are: of one cell, or of the backends, which have what is of no cell."""
    folder = run.path / "logs"
    backends = run.header.get("backends")
    if cell is not None:
        names = [Path(str(run.cells[cell].get("log"))).name]
    elif isinstance(backends, dict) and backends:
        names = [f"{name}.log" for name in backends]
    else:
        names = sorted(path.name for path in folder.glob("*.log"))
    # Nothing else than what lies there: run.json may be anybody's.
    paths = [folder / Path(name).name for name in names]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def read(
    run: Run, cell: str | None = None, *, lines: int | None = None, follow: bool = False
) -> Iterator[tuple[str, bytes]]:
    """The lines of the logs, each with the name of its file.

    Args:
        lines: Only so many of each, the last ones.
        follow: Go on until the run has ended.
    """
    at: dict[Path, int] = {}
    while True:
        # First: what is written before a run ends is read all the same.
        ended = not follow or locks.owner(run.path) is None
        for path in files(run, cell):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                if path not in at:
                    at[path] = _tail(file, lines)
                file.seek(at[path])
                for line in file:
                    if not (line.endswith(b"\n") or ended):
                        break  # its rest is still to come
                    at[path] += len(line)
                    yield path.name, line
        if ended:
            return
        time.sleep(_PAUSE)
        if not run.header:  # it had only begun
            run = look(run.path)


def _tail(file: IO[bytes], lines: int | None) -> int:
    """Where the last `lines` lines begin."""
    if lines is None:
        return 0
    begins: deque[int] = deque(maxlen=lines)
    end = 0
    for line in file:
        begins.append(end)
        end += len(line)
    return begins[0] if begins else end
