"""Predictions made elsewhere: found in a folder, read in every form, refused before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from evalshim import config
from evalshim.adapters import predictions
from evalshim.errors import ConfigError
from evalshim.spec import Cell, DatasetSpec, ModelSpec, RunSpec
from evalshim.worker import predictions as placed

# The worker has no types.
match: Callable[..., None] = placed.match
MODEL = ModelSpec("org/m", "served-id", "http://h/v1")
PETS = DatasetSpec("pets", "vlmeval", "PETS_V1")
GSM8K = DatasetSpec("gsm8k", "opencompass", "gsm8k.gsm8k_gen:gsm8k_datasets")
CELL = Cell("org-m__pets", MODEL, PETS)
ROWS = [(0, "A"), (7, 'B: a\tb\n"c", 狗')]
FOUND = {"0": "A", "7": 'B: a\tb\n"c", 狗'}


def _write(path: Path, rows: Any = ROWS, header: tuple[str, ...] = ("index", "prediction")) -> Path:
    """Rows as VLMEvalKit, or whoever made them, would have written them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [dict(zip(header, row, strict=True)) for row in rows]
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for line in (header, *rows):
            book.active.append(line)
        book.save(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(r) for r in records), encoding="utf-8-sig")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        bar = "\t" if path.suffix == ".tsv" else ","
        quoted = (
            '"{}"'.format(str(v).replace('"', '""')) for line in (header, *rows) for v in line
        )
        text = "".join(f"{a}{bar}{b}\r\n" for a, b in zip(quoted, quoted, strict=True))
        path.write_text(text, encoding="utf-8", newline="")
    return path


def _spec(place: Path, *datasets: DatasetSpec, models: tuple[ModelSpec, ...] = (MODEL,)) -> RunSpec:
    return RunSpec(models, datasets or (PETS,), mode="eval", predictions=place)


def _names(cell: Cell, place: Path) -> list[str]:
    """The files found for a cell, as paths below the folder."""
    found = predictions.find(cell, _spec(place, cell.dataset))
    return [str(path.relative_to(place)) for path in found]


class TestRead:
    def test_every_form_is_tested(self) -> None:
        assert set(predictions.SUFFIXES) == {".tsv", ".csv", ".jsonl", ".json", ".xlsx"}

    def test_every_form(self, tmp_path: Path) -> None:
        for suffix in predictions.SUFFIXES:
            assert predictions.read(_write(tmp_path / f"p{suffix}")) == FOUND

    def test_what_opencompass_writes(self, tmp_path: Path) -> None:
        path = tmp_path / "gsm8k.json"
        prompt = [{"role": "HUMAN", "prompt": "q"}]
        kept = {"0": {"origin_prompt": prompt, "prediction": "A", "gold": "B"},
                "1": {"prediction": ["a", "b"]}}  # fmt: skip
        path.write_text(json.dumps(kept))

        assert predictions.read(path) == {"0": "A", "1": ["a", "b"]}

    def test_an_index_is_text(self, tmp_path: Path) -> None:
        rows = [(index, "A") for index in (7, 8.0, "9.0", "007", "a.0")]

        found = predictions.read(_write(tmp_path / "p.jsonl", rows))
        assert [*found] == ["7", "8", "9", "007", "a.0"]

    def test_what_has_none_is_refused(self, tmp_path: Path) -> None:
        twice = '{"index": 7, "prediction": "A"}\n{"index": "7.0", "prediction": "B"}\n'
        cases = [
            ("p.tsv", "", "it is empty"),
            ("p.json", "[]", "it is empty"),
            ("p.csv", "index,prediction\n", "it is empty"),
            ("p.tsv", "index\tanswer\n0\tA\n", "record 1 has no `prediction`"),
            ("p.csv", "id,prediction\n0,A\n", "record 1 has no `index`"),
            ("p.json", '{"accuracy": 50.0}', "record 1 has no `prediction`"),
            ("p.jsonl", twice, "index 7 comes twice"),
            ("p.json", "{", "Expecting property name"),
            ("p.tsv", "\udcff", "codec can't decode"),
            ("p.xlsx", "no workbook", "format cannot be determined"),
        ]

        for name, text, why in cases:
            (tmp_path / name).write_text(text, errors="surrogateescape")
            with pytest.raises(ConfigError) as caught:
                predictions.read(tmp_path / name)
            assert str(tmp_path / name) in caught.value.what
            assert why in caught.value.why

    def test_another_form_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "p.pkl").touch()

        with pytest.raises(ConfigError, match=r"p\.pkl: no file of predictions") as caught:
            predictions.read(tmp_path / "p.pkl")
        assert ".xlsx" in caught.value.cure

    @pytest.mark.parametrize(("name", "data"), [("p.json", b"null"), ("p.xlsx", b"PK\x03\x04cut")])
    def test_what_is_broken_is_no_traceback(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)

        with pytest.raises(ConfigError, match=r"p\."):
            predictions.read(tmp_path / name)

    @pytest.mark.parametrize("line", ["1", "1,A, because"])
    def test_a_row_that_does_not_fit_its_columns_is_refused(
        self, tmp_path: Path, line: str
    ) -> None:
        (tmp_path / "p.csv").write_text(f"index,prediction\n0,A\n{line}\n")

        with pytest.raises(ConfigError, match=r"p\.csv") as caught:
            predictions.read(tmp_path / "p.csv")
        assert "line 3" in caught.value.why


class TestFind:
    def test_a_file_of_vlmevalkits_by_every_name(self, tmp_path: Path) -> None:
        names = (
            "org-m_pets.tsv", "org-m/T20260102/org-m_PETS_V1.xlsx", "served-id_pets.jsonl",
            "pets.csv", "deep/er/PETS_V1.json", "org-m/pets.jsonl",
        )  # fmt: skip
        for place, name in enumerate(names):
            for other in ("org-m_pets_acc.csv", "cats.tsv", "other_pets.tsv", "pets.pkl", name):
                path = tmp_path / str(place) / other
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            assert _names(CELL, tmp_path / str(place)) == [name]

    def test_the_name_with_the_model_goes_before_that_without(self, tmp_path: Path) -> None:
        for name in ("org-m_pets.tsv", "pets.tsv"):
            (tmp_path / name).touch()

        assert _names(CELL, tmp_path) == ["org-m_pets.tsv"]

    def test_all_sets_of_the_model_are_opencompasss(self, tmp_path: Path) -> None:
        for name in ("org-m/a.json", "org-m/b.json", "other/a.json"):
            _write(tmp_path / name)

        assert _names(replace(CELL, dataset=GSM8K), tmp_path) == ["org-m/a.json", "org-m/b.json"]

    def test_a_folder_of_a_whole_run_of_opencompass(self, tmp_path: Path) -> None:
        for kind in ("predictions", "results"):
            _write(tmp_path / kind / "org-m" / "gsm8k.json")

        found = _names(replace(CELL, dataset=GSM8K), tmp_path)
        assert found == ["predictions/org-m/gsm8k.json"]

    def test_another_models_file_is_not_this_ones(self, tmp_path: Path) -> None:
        for name in ("a/pets.jsonl", "b/pets.jsonl"):
            _write(tmp_path / name)
        models = tuple(ModelSpec(name, name, "http://h/v1") for name in "abc")
        spec = _spec(tmp_path, models=models)

        assert predictions.find(Cell("b", models[1], PETS), spec) == [tmp_path / "b/pets.jsonl"]
        with pytest.raises(ConfigError, match="no predictions of c for pets"):
            predictions.find(Cell("c", models[2], PETS), spec)

    def test_one_file_is_not_several_models(self, tmp_path: Path) -> None:
        _write(tmp_path / "pets.jsonl")
        models = tuple(ModelSpec(name, name, "http://h/v1") for name in "ab")
        cells = [Cell(m.name, m, PETS) for m in models]

        with pytest.raises(ConfigError):
            predictions.check(cells, _spec(tmp_path, models=models))

    def test_several_for_one_cell_are_refused(self, tmp_path: Path) -> None:
        """VLMEvalKit keeps every evaluation of a model in a folder of its own."""
        for day in ("T20260101_G1", "T20260102_G1"):
            _write(tmp_path / "org-m" / day / "org-m_pets.tsv")
        (tmp_path / "org-m" / "org-m_pets.tsv").symlink_to("T20260102_G1/org-m_pets.tsv")

        with pytest.raises(ConfigError, match="several files") as caught:
            predictions.find(CELL, _spec(tmp_path))
        assert "T20260101_G1" in caught.value.why
        assert "T20260102_G1" in caught.value.why

    def test_none_says_what_was_looked_for(self, tmp_path: Path) -> None:
        (tmp_path / "cats.tsv").touch()

        with pytest.raises(ConfigError, match="no predictions of org/m for pets in ") as caught:
            predictions.find(CELL, _spec(tmp_path))
        assert "org-m_pets" in caught.value.why
        assert "--predictions FILE" in caught.value.cure


class TestCheck:
    def test_one_file_for_several_cells_is_refused(self, tmp_path: Path) -> None:
        path = _write(tmp_path / "p.tsv")
        cats = replace(PETS, name="cats")

        # Of which one toolkit may have but one.
        with pytest.raises(ConfigError, match="one file of predictions, and 2 cells") as caught:
            predictions.check([CELL], _spec(path, PETS, cats))
        assert "org/m x pets, org/m x cats" in caught.value.why
        predictions.check([CELL], _spec(path))

    def test_reads_the_file_of_each_cell(self, tmp_path: Path) -> None:
        _write(tmp_path / "pets.tsv")
        (tmp_path / "cats.tsv").write_text("index\tprediction\n")
        cells = [CELL, replace(CELL, id="b", dataset=replace(PETS, name="cats"))]

        with pytest.raises(ConfigError, match=r"cats\.tsv has no predictions"):
            predictions.check(cells, _spec(tmp_path))

    def test_nothing_where_none_were_given(self) -> None:
        predictions.check([CELL], RunSpec((MODEL,), (PETS,)))
        assert predictions.place([CELL], RunSpec((MODEL,), (PETS,)), Path("none")) == {}


class TestPlace:
    def test_the_worker_reads_what_was_given(self, tmp_path: Path) -> None:
        path = _write(tmp_path / "given.xlsx")

        found = predictions.place([CELL], _spec(path), tmp_path / "run")
        assert found[CELL.id]["given"] == str(tmp_path / "run" / CELL.id / "given.jsonl")
        assert placed.read(found[CELL.id]["given"]) == FOUND

    def test_a_file_that_is_surely_the_cells_is_marked_as_such(self, tmp_path: Path) -> None:
        """Of OpenCompass's sets only the worker knows the names; it must not take any file."""
        cell = replace(CELL, dataset=GSM8K)
        for name, sure in (("org-m_gsm8k.jsonl", True), ("gsm8k.jsonl", True), ("b.json", False)):
            folder = tmp_path / Path(name).stem
            _write(folder / name)
            found = predictions.place([cell], _spec(folder, GSM8K), folder / "run")
            assert ("" in found[cell.id]) is sure

    def test_each_subset_has_its_own(self, tmp_path: Path) -> None:
        for name in "ab":
            _write(tmp_path / "org-m" / f"{name}.json")

        cell = replace(CELL, dataset=GSM8K)
        found = predictions.place([cell], _spec(tmp_path, GSM8K), tmp_path / "run")
        assert list(found[cell.id]) == ["a", "b"]


class TestMatch:
    def test_the_same_indices_whatever_their_order(self) -> None:
        match({"1": "a", "0": "b"}, ["0", "1"])

    def test_others_are_named(self) -> None:
        given = dict.fromkeys(map(str, range(10)), "a")

        with pytest.raises(ValueError, match="10 predictions for 7 samples") as caught:
            match(given, ["0", "1", *(f"x{i}" for i in range(5))])
        assert "none for 5 of them (x0, x1, x2, x3, x4)" in str(caught.value)
        assert "8 for samples that it has not (2, 3, 4, 5, 6, ...)" in str(caught.value)
        assert "`limit` must be as it was" in str(caught.value)


class TestConfiguration:
    def _parsed(self, **keys: Any) -> RunSpec:
        models = [{"name": "m", "api_base": "http://h/v1"}]
        return config.parse({"models": models, "datasets": ["gsm8k"], **keys})

    def test_says_mode_eval_and_comes_back(self, tmp_path: Path) -> None:
        spec = self._parsed(predictions=str(tmp_path))

        assert (spec.mode, spec.predictions) == ("eval", tmp_path)
        assert config.parse(config.plain(spec)) == spec

    def test_goes_with_nothing_else(self, tmp_path: Path) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({"mode": "all"}, "both `predictions` and `mode: all`"),
            ({"mode": "infer"}, "both `predictions` and `mode: infer`"),
            ({"reuse": True}, "both `predictions` and `reuse`"),
            ({"predictions": "/none"}, "no such file or folder: /none"),
        ]

        for keys, what in cases:
            with pytest.raises(ConfigError) as caught:
                self._parsed(**{"predictions": str(tmp_path), **keys})
            assert what in caught.value.what
