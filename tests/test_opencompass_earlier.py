"""What of an earlier run is put where OpenCompass goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalshim.worker import opencompass_earlier

WHOLE = json.dumps({"0": {"prediction": "a"}, "1": {"prediction": "b"}})
LACKING = json.dumps({"0": {"prediction": "a"}, "1": {"prediction": ""}})


class Copied:
    """Copies what an earlier run has of the set `pets`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, str], Any] = {}
        self.earlier = folder / "then" / "20260101_000000"

    def had(self, **files: str) -> Copied:
        place = self.earlier / "predictions" / "m"
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name.replace("__", ".")).write_text(text)
        return self

    def now(
        self, mode: str = "all", abbr: str = "pets", there: tuple[str, ...] = ("pets",)
    ) -> dict[str, str]:
        """What is there of `abbr` afterwards, by the name of the file."""
        cell = {
            "id": "c", "model": "m", "dataset": "mine", "suffix": "-mine",
            "reuse": {"folder": str(self.earlier), "sets": list(there)},
        }  # fmt: skip
        job = {"cells": [cell], "arguments": {"work_dir": str(self.folder / "now"), "mode": mode}}
        tally = SimpleNamespace(know=lambda m, a, answers: self.known.update({(m, a): answers}))
        copy: Any = opencompass_earlier.copy_earlier  # the worker has no types
        found = copy(job, {"mine": {"datasets": [abbr]}}, "stamp", tally)
        place = self.folder / "now" / "stamp" / "predictions" / "m"
        files = {p.name: p.read_text() for p in place.iterdir()} if place.exists() else {}
        assert found is bool(files)
        return files


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    return Copied(tmp_path)


def test_files_of_a_set_are_whole_begun_divided_or_a_journal(copied: Copied) -> None:
    files = {
        "pets__json": WHOLE, "pets_0__json": WHOLE, "tmp_pets__jsonl": "{}",
        "pets__json__journal": "",
    }  # fmt: skip

    assert set(copied.had(**files).now()) == {
        "pets.json", "pets_0.json", "tmp_pets.jsonl", "pets.json.journal",
    }  # fmt: skip


def test_a_set_whose_name_begins_alike_is_another(copied: Copied) -> None:
    copied.had(pets__json=WHOLE, pets_small__json=WHOLE, pets_1b__json=WHOLE, petshop__json=WHOLE)

    assert copied.now() == {"pets.json": WHOLE}


def test_a_name_may_have_what_looks_like_an_ending(copied: Copied) -> None:
    copied.had(pets__jsonl__json=WHOLE, pets__json=LACKING)

    assert copied.now(abbr="pets.jsonl", there=("pets.jsonl",)) == {"pets.jsonl.json": WHOLE}


@pytest.mark.parametrize(
    ("abbr", "there", "name"),
    [("pets", "pets-mine", "pets.json"), ("pets-mine", "pets", "pets-mine.json")],
)
def test_a_set_may_have_had_another_name(copied: Copied, abbr: str, there: str, name: str) -> None:
    copied.had(**{f"{there}__json": WHOLE, f"{there}_0__json": WHOLE})

    assert set(copied.now(abbr=abbr, there=(there,))) == {name, name.replace(".", "_0.")}


def test_what_lacks_answers_is_known_and_not_copied(copied: Copied) -> None:
    assert copied.had(pets__json=LACKING).now() == {}
    assert copied.known == {("m", "pets"): json.loads(LACKING)}


def test_what_was_put_aside_is_known(copied: Copied) -> None:
    """A resume that was killed before the set was whole again."""
    assert copied.had(pets__json__lacking=LACKING).now() == {}
    assert copied.known == {("m", "pets"): json.loads(LACKING)}


def test_to_score_all_that_there_is_will_do(copied: Copied) -> None:
    copied.had(pets__json__lacking=LACKING)

    assert copied.now("eval") == {"pets.json": LACKING}


def test_to_score_the_newer_is_taken(copied: Copied) -> None:
    copied.had(pets__json__lacking=LACKING, pets__json=WHOLE)

    assert copied.now("eval") == {"pets.json": WHOLE}


def test_a_link_is_not_followed(copied: Copied, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text(WHOLE)
    copied.had()
    (copied.earlier / "predictions" / "m" / "pets.json").symlink_to(tmp_path / "theirs")

    assert copied.now() == {}
