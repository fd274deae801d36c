"""An error says what, why and how to mend it, and carries the exit code of `shim`."""

from __future__ import annotations

import pytest

from evalshim.errors import ConfigError, EvalshimError, ResultsError, SetupError


def test_says_what_why_and_the_cure() -> None:
    error = EvalshimError("no such file", "looked for:\na\nb", "give another")

    assert str(error) == (
        "no such file\n"
        "why:  looked for:\n"
        "      a\n"
        "      b\n"
        "mend: give another"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("why", "cure", "expected"),
    [
        ("", "", "what"),
        ("because", "", "what\nwhy:  because"),
        ("", "do", "what\nmend: do"),
    ],
)
def test_leaves_out_what_is_not_known(why: str, cure: str, expected: str) -> None:
    assert str(EvalshimError("what", why, cure)) == expected


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (SetupError, 3), (ResultsError, 2), (EvalshimError, 1)],
)
def test_each_kind_has_its_exit_code(kind: type[EvalshimError], code: int) -> None:
    assert issubclass(kind, EvalshimError)
    assert kind("what").exit_code == code
