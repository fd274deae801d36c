"""Pictures that stand in the data, and the processes that write them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from evalshim.worker import unpacking

PICTURES = 12
LARGE = "A" * 100_000  # more than a pipe takes


def _write_all(folder: Path, write: Callable[[str, str], object]) -> bool:
    """By two processes that hardly run, as where others take the whole processor."""
    here = os.getpid()

    def slowly(picture: str, path: str) -> None:
        if os.getpid() != here:
            time.sleep(0.5)
        write(picture, path)

    writers = unpacking._Writers(slowly, 2)  # type: ignore[no-untyped-call]
    for number in range(PICTURES):
        writers.put((LARGE, str(folder / f"{number}.png")))  # type: ignore[no-untyped-call]
    time.sleep(0.2)
    return writers.end()  # type: ignore[no-any-return, no-untyped-call]


def test_what_its_processes_have_not_come_to_is_written_by_who_waits_for_it(tmp_path: Path) -> None:
    def write(_: str, path: str) -> None:
        Path(path).write_text(str(os.getpid()))

    assert _write_all(tmp_path, write)
    wrote = Counter(path.read_text() for path in tmp_path.iterdir())
    assert sum(wrote.values()) == PICTURES
    assert wrote[str(os.getpid())] > PICTURES / 2
    assert len(wrote) > 1


# The first is with a process, the last is left.
@pytest.mark.parametrize("number", [0, PICTURES - 1])
def test_one_that_cannot_be_written_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    def write(_: str, path: str) -> None:
        if path.endswith(f"/{number}.png"):
            raise OSError("no room")
        Path(path).touch()

    assert not _write_all(tmp_path, write)
    assert f"/{number}.png: OSError: no room" in capfd.readouterr().err
    assert len([*tmp_path.iterdir()]) == PICTURES - 1
