"""What an API run imports of an upstream: what happens where that cannot be put off."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from evalshim.worker import api_imports


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vlmeval` of another version: it has nothing of what is to be put off."""
    package = tmp_path / "vlmeval"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "run.py").write_text("import vlmeval.part\nLIST = [1]\n")
    (package / "part.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in [n for n in sys.modules if n.partition(".")[0] == "vlmeval"]:
        monkeypatch.delitem(sys.modules, name)
    return package


def test_another_version_is_imported_as_it_is(
    upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = api_imports.load("vlmeval", lambda: importlib.import_module("vlmeval.run"))

    assert run.LIST == [1]
    said = capsys.readouterr().err
    assert "imports of vlmeval could not be put off" in said
    assert "FileNotFoundError" in said


def test_what_was_half_imported_is_imported_anew(upstream: Path) -> None:
    (upstream / "vlm").mkdir()
    (upstream / "vlm" / "__init__.py").write_text("")
    tries = []

    def whole() -> object:
        tries.append(importlib.import_module("vlmeval.run"))
        if len(tries) == 1:
            raise AttributeError("upstream computes with a stand-in")
        return tries[-1]

    assert api_imports.load("vlmeval", whole) is tries[1]
    assert tries[0] is not tries[1]


def test_an_upstream_that_cannot_be_imported_says_so_itself(upstream: Path) -> None:
    (upstream / "run.py").write_text("import not_there_at_all\n")

    with pytest.raises(ImportError, match="not_there_at_all"):
        api_imports.load("vlmeval", lambda: importlib.import_module("vlmeval.run"))
