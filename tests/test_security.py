"""SECURITY.md promises nothing that no test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", SECURITY)


def _within(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether a class, or a test, of these nested names stands in some code."""
    if not names:
        return True
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = [node for node in body if isinstance(node, kinds) and node.name == names[0]]
    return any(_within(node.body, names[1:]) for node in found)


def test_it_names_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "names"), NAMED, ids="".join)
def test_every_test_that_it_names_is_there(file: str, names: str) -> None:
    path = ROOT / file

    assert path.is_file()
    assert _within(ast.parse(path.read_text()).body, names.split("::")[1:])


def test_every_promise_names_one() -> None:
    promises = SECURITY.partition("## Promises")[2]
    items = re.split(r"\n- ", promises)[1:]

    assert len(items) > 10
    for item in items:
        assert "`tests/" in item.partition("\n\n")[0], item
