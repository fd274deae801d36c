"""Results as they come are on disk, and come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalshim.worker import journal

# The worker has no types.
Journal: Callable[[str], Any] = journal.Journal


class _Numpys(int):
    """An integer that JSON takes for one, and that says what it is, as numpy's do."""

    def item(self) -> int:
        return int(self)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m_d.pkl.journal"


def test_a_value_comes_back_as_it_was(path: Path) -> None:
    values = [
        "狗\n\u2028\ud83d", "", None, True, 0, 0.1 + 0.2, ["a", [1]], {"a": {"b": None}},
        (1, "a"), ["a", (1,)], {0: "a"}, {"a": {1: (2,)}}, {"a"}, b"\xff", np.int64(3),
    ]  # fmt: skip
    kept = Journal(str(path))
    for key, value in enumerate(values):
        kept.add(key, value)

    found = Journal(str(path)).read()
    assert [*found] == [*range(len(values))]
    assert [*found.values()] == values
    assert [type(v) for v in found.values()] == [type(v) for v in values]


def test_text_and_numbers_are_keys_of_their_own(path: Path) -> None:
    kept = Journal(str(path))
    for key in (1, "1", _Numpys(2)):
        kept.add(key, "a")

    assert [(type(key), key) for key in kept.read()] == [(int, 1), (str, "1"), (int, 2)]


def test_each_result_is_on_disk_at_once_and_written_once(path: Path) -> None:
    kept = Journal(str(path))
    kept.add("0", "a")
    assert path.read_text() == json.dumps(["0", "a", False]) + "\n"

    size = path.stat().st_size
    kept.add("1", "a")
    assert path.stat().st_size == 2 * size
    kept.add("0", "b")
    assert kept.read() == {"0": "b", "1": "a"}


def test_half_a_last_line_costs_only_itself(path: Path) -> None:
    kept = Journal(str(path))
    for key in ("0", "1"):
        kept.add(key, ("a", key))
    whole = path.read_text()
    last = len(whole.splitlines()[-1])

    for cut in range(1, last + 1):
        path.write_text(whole[:-cut])
        again = Journal(str(path))
        # Without its line end alone the last result is whole.
        left = {"0": ("a", "0"), **({"1": ("a", "1")} if cut == 1 else {})}
        assert again.read() == left
        again.add("2", "b")
        again.add("3", "c")
        assert Journal(str(path)).read() == {**left, "2": "b", "3": "c"}


def test_what_was_never_written_is_empty_and_can_be_removed(path: Path) -> None:
    kept = Journal(str(path))
    assert kept.read() == {}
    kept.remove()
    kept.add("0", "a")
    kept.remove()
    assert not path.exists()
    kept.add("1", "b")
    assert kept.read() == {"1": "b"}
