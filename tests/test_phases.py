"""Where the time of a run went."""

from __future__ import annotations

from evalshim import phases


def test_a_moment_counts_once_as_the_first_of_what_was_under_way() -> None:
    found = phases.seconds(
        [
            ("start", 0, 1), ("import", 1, 3), ("plan", 3, 4), ("inference", 4, 10),
            # Another cell: its inference goes on while the first is scored.
            ("plan", 4, 5), ("inference", 5, 12), ("scoring", 10, 14), ("collect", 13, 15),
        ]
    )  # fmt: skip

    assert found == {
        "inference": 8, "scoring": 2, "plan": 1, "import": 2, "start": 1, "collect": 1,
    }  # fmt: skip
    assert sum(found.values()) == 15


def test_what_was_not_is_nothing() -> None:
    assert set(phases.seconds([]).values()) == {0}
