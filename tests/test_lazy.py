"""Imports that wait until they are used: of a small package, by a small upstream."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evalshim.worker import lazy

FILES = {
    "heavy/__init__.py": """
class Shape:
    sides = 0
class ShapeError(Exception):
    pass
def double(number):
    return 2 * number
def has_device(index=0):
    return "asked the real one"
SIZES = [1, 2]
""",
    "heavy/part.py": "def deep():\n    return 'deep'\n",
    "light.py": "import heavy\nfound = heavy.SIZES\n",
    "upstream/__init__.py": "",
    "upstream/main.py": """
from typing import Union

import heavy
import heavy.part as part
from heavy import SIZES, Shape, double, has_device
from heavy.part import deep

try:
    import not_there
except ImportError:
    not_there = None

def either(shape: Union[Shape, str] = "", sizes: SIZES = None) -> Shape:
    return has_device()
""",
    "upstream/device.py": "from heavy import has_device\nDEVICE = has_device()\n",
    "upstream/strict.py": """
from heavy import ShapeError

def caught(error):
    try:
        raise error
    except ShapeError as found:
        return found
""",
    "upstream/square.py": "import heavy\nclass Square(heavy.Shape):\n    sides = 4\n",
    "upstream/sets/__init__.py": "from .plain import *\nfrom .computed import *\n",
    "upstream/sets/plain.py": "class Plain:\n    pass\n",
    "upstream/sets/computed.py": """
from heavy import double

SIZE = double(4)

class Computed:
    size = SIZE
""",
}


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`heavy`, `light` that needs it, and an `upstream` that needs both."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def upstreams(name: str, *parts: str, **given: Any) -> Any:
    """A module of upstream's, imported while `heavy` and `parts` of its own are put off."""
    with lazy.imports(["heavy", "not_there", *parts], **given):
        return importlib.import_module(f"upstream.{name}")


def is_imported(name: str) -> bool:
    return type(sys.modules.get(name)) is ModuleType


def test_naming_imports_nothing() -> None:
    main = upstreams("main")

    assert not is_imported("heavy")
    assert "heavy" not in sys.modules  # other packages see no stand-in
    assert main.not_there is None
    assert main.either.__annotations__["return"] is main.Shape


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.double(2) == 4,
        lambda m: m.heavy.double(2) == 4,
        lambda m: m.deep() == m.part.deep() == m.heavy.part.deep() == "deep",
        lambda m: m.Shape.sides == 0,
        lambda m: list(m.SIZES) == [1, 2],
        lambda m: m.SIZES[0] == 1,
        lambda m: 2 in m.SIZES,
        lambda m: not isinstance("", (m.Shape, int)),
        lambda m: not issubclass(str, m.Shape),
        lambda m: type(m.Shape()).__name__ == "Shape",
        lambda m: pickle.loads(pickle.dumps(m.double))(2) == 4,
        lambda m: pickle.loads(pickle.dumps(m.heavy)).double(2) == 4,
    ],
)
def test_use_imports_the_real_one(use: Callable[[Any], bool]) -> None:
    main = upstreams("main")

    assert use(main)
    assert is_imported("heavy")


def test_a_setting_arrives_in_the_real_one() -> None:
    main = upstreams("main")

    main.heavy.SIZES = [3]

    assert importlib.import_module("heavy").SIZES == [3]


def test_what_is_put_off_is_real_to_every_other_package() -> None:
    with lazy.imports(["heavy", "light"]):
        importlib.import_module("upstream.main")
        light = importlib.import_module("light")
        assert light.found[0] == 1  # within the block, too
    assert is_imported("heavy") and is_imported("light")
    assert sys.modules["light"].found is sys.modules["heavy"].SIZES


def test_an_exception_can_be_caught() -> None:
    strict = upstreams("strict")
    error = sys.modules["heavy"].ShapeError()

    assert strict.caught(error) is error


def test_what_is_imported_already_stays() -> None:
    heavy = importlib.import_module("heavy")

    assert upstreams("main").heavy is heavy


def test_an_answer_is_given_until_the_package_is_imported() -> None:
    main = upstreams("main", answers={"heavy.has_device": lambda: "no"})

    assert main.either() == "no"
    assert not is_imported("heavy")
    main.double(1)
    assert main.either() == "asked the real one"


def test_an_answer_within_the_block_is_none_behind_it() -> None:
    device = upstreams("device", answers_within={"heavy.has_device": lambda: "no"})

    assert device.DEVICE == "no"
    assert not is_imported("heavy")
    assert device.has_device() == "asked the real one"


def test_an_answer_may_leave_it_to_the_real_one() -> None:
    answers = {"heavy.has_device": lambda index=0: NotImplemented if index else "no"}
    main = upstreams("main", answers=answers)

    assert main.has_device() == "no"
    assert main.has_device(1) == "asked the real one"


def test_a_base_that_a_class_can_do_without() -> None:
    square = upstreams("square", no_bases=["heavy.Shape"])

    assert square.Square().sides == 4
    assert not is_imported("heavy")


def test_any_other_base_is_imported() -> None:
    square = upstreams("square")

    assert issubclass(square.Square, sys.modules["heavy"].Shape)


def test_a_module_of_upstreams_waits_as_well() -> None:
    name = "upstream.sets.computed"
    sets = upstreams("sets", name, stars={name: lazy.names(name, imported=False)})

    assert sets.Plain.__name__ == "Plain"
    assert not is_imported(name) and not is_imported("heavy")
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = sets.Other
    assert sets.Computed.size == 8
    assert sets.Computed is sys.modules[name].Computed


def test_a_module_that_waits_can_be_loaded() -> None:
    name = "upstream.sets.computed"
    upstreams("sets", name, stars={name: lazy.names(name)})

    assert lazy.load(name).SIZE == 8
    assert lazy.load("upstream.sets.plain").Plain


def test_the_names_that_a_star_brings() -> None:
    assert lazy.names("upstream.sets") == ["Computed", "Plain", "double"]
    assert lazy.names("upstream.sets", imported=False) == ["Computed", "Plain"]
