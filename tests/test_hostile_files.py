"""Files that somebody made to do harm: configurations, run directories, text of a model's."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import pickle
import time
import tracemalloc
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalshim import config, documents, process, results, sweep
from evalshim.errors import ConfigError, ResultsError
from evalshim.results import RunResult
from evalshim.spec import Row
from evalshim.worker import journal, pickles

Journal: Callable[..., Any] = journal.Journal
load, loads, Refused = pickles.load, pickles.loads, pickles.Refused


def _laughs(value: str) -> str:
    letters = "abcdefghijklm"
    lines = [f"{letters[0]}: &{letters[0]} {value}"]
    for before, name in pairwise(letters):
        ten = ", ".join([f"*{before}"] * 10)
        merged = f"{{<<: [{ten}]}}" if value.startswith("{") else f"[{ten}]"
        lines.append(f"{name}: &{name} {merged}")
    return "\n".join(lines)


class TestConfigurations:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("!!python/object/apply:os.system ['true']", "not YAML"),
            ("a: !!python/name:os.system", "not YAML"),
            (_laughs("[x, x]"), "too large"),
            (_laughs("{k: v}"), "too large"),
            ("a: &a [*a]", "contains itself"),
            ("a: &a {b: {c: *a}}", "contains itself"),
            ("- " * 1_000_000, "nested too deeply"),
            ("{a: " * 100_000, "nested too deeply"),
            ("[" * 1_000_000, "not YAML"),
            ("".join(f"{' ' * i}a:\n" for i in range(3000)), "nested too deeply"),
            ("a: " + "1" * 5_000, "not YAML"),
            ("a: " + "x" * 50_000_000, "too large"),
        ],
        ids=["object", "name", "lists", "merges", "self", "deep self", "dashes", "braces",
             "brackets", "indents", "digits", "large"],
    )  # fmt: skip
    def test_of_yaml(self, text: str, said: str) -> None:
        self._refused(documents.parse, text, said)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[" * 1_000_000, "not JSON"),
            ("[" * 100 + "]" * 100, "nested too deeply"),
            ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
            ('"' + "x" * 50_000_000 + '"', "too large"),
        ],
        ids=["open", "brackets", "braces", "large"],
    )
    def test_of_json(self, text: str, said: str) -> None:
        self._refused(documents.parse_json, text, said)

    def _refused(self, parse: Callable[[str, str], Any], text: str, said: str) -> None:
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(ConfigError, match=said):
            parse(text, "it")
        print(f"{time.monotonic() - begun:.3f} s")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50_000_000

    def test_a_file_of_a_hundred_megabytes_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        with path.open("wb") as file:
            file.truncate(100_000_000)

        with pytest.raises(ConfigError, match="too large for a configuration"):
            config.load(path)

    def test_aliases_of_an_ordinary_file_are_fine(self) -> None:
        text = "base: &b {seed: 1}\nmodels: [{<<: *b, name: x}, {<<: *b, name: y}]"

        assert documents.parse(text, "it")["models"][1] == {"seed": 1, "name": "y"}


class _Harm:
    """Calls what it names when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


HARM = [(os.system, "touch harm"), (eval, "open('harm', 'w')"), (getattr, "text", "upper")]


class TestPickles:
    @pytest.mark.parametrize(
        "value",
        [
            {"1": "text", 2: ("a", ["b"]), 3: None, 4: 1.5, 5: b"x", 6: {1, 2}},
            OrderedDict(a=1),
            Counter("aab"),
            datetime(2026, 1, 2, tzinfo=timezone.utc),
            Decimal("1.5"),
            np.float64(0.25),
            np.int64(3),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("protocol", [3, 4, 5])
    def test_what_answers_are_made_of_is_loaded(self, value: Any, protocol: int) -> None:
        assert loads(pickle.dumps(value, protocol)) == value

    @pytest.mark.parametrize("protocol", [3, 4, 5])
    def test_arrays_and_tables_are_loaded(self, protocol: int) -> None:
        table = pd.DataFrame(
            {"index": [1, 2], "text": ["a", None], "score": [0.5, 1.0], "right": [True, False]}
        )

        pd.testing.assert_frame_equal(loads(pickle.dumps(table, protocol)), table)
        pd.testing.assert_series_equal(loads(pickle.dumps(table.text, protocol)), table.text)
        array = np.array([[1, 2], [3, 4]])
        assert (loads(pickle.dumps(array, protocol)) == array).all()
        mixed = np.array(["a", None], dtype=object)
        assert (loads(pickle.dumps(mixed, protocol)) == mixed).all()

    @pytest.mark.parametrize("harm", HARM, ids=["system", "eval", "getattr"])
    @pytest.mark.parametrize("protocol", [0, 2, 5])
    def test_what_calls_something_is_refused_before_the_call(
        self, harm: tuple[Any, ...], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        data = pickle.dumps({"1": "fine", "2": _Harm(*harm)}, protocol)
        (tmp_path / "PREV.pkl").write_bytes(data)

        with (tmp_path / "PREV.pkl").open("rb") as file, pytest.raises(Refused, match=r"PREV\.pkl"):
            load(file)
        assert not (tmp_path / "harm").exists()

    def test_a_plugin_is_no_way_to_what_it_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys
        import types

        module = types.ModuleType("evalshim_plugin_x")
        exec("import os\nfrom os import system\nclass Answer(str): pass", vars(module))
        monkeypatch.setitem(sys.modules, "evalshim_plugin_x", module)

        kept = loads(pickle.dumps(module.Answer("yes")))
        assert (type(kept), kept) == (module.Answer, "yes")
        for name in (b"system", b"os.system"):
            data = b"\x80\x04\x8c\x11evalshim_plugin_x\x8c" + bytes([len(name)]) + name + b"\x93."
            with pytest.raises(Refused):
                loads(data)

    def test_a_journal_is_read_with_the_same_care(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        mine = Journal("mine.journal")
        mine.add("1", ("a", "tuple"))
        mine.add("2", "text")
        harm = base64.b64encode(pickle.dumps(_Harm(os.system, "touch harm"))).decode()
        (tmp_path / "theirs.journal").write_text(json.dumps(["1", harm, True]) + "\n")

        assert Journal("mine.journal").read() == {"1": ("a", "tuple"), "2": "text"}
        with pytest.raises(Refused):
            Journal("theirs.journal").read()
        assert not (tmp_path / "harm").exists()


class TestLinks:
    def test_a_log_is_not_written_through_one(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("mine\n")
        logs = process.Logs(tmp_path / "logs", "vlmeval")
        logs.path().symlink_to(outside)

        logs.pump(io.BytesIO(b"a line\n"))

        assert outside.read_text() == "mine\n"
        assert logs.tail() == ["a line"]

    def test_a_result_file_is_not_written_through_one(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("mine\n")
        for name in ("run.json", f".run.json.{os.getpid()}"):
            (tmp_path / name).symlink_to(outside)

        results.write_json(tmp_path / "run.json", {"a": 1})

        assert outside.read_text() == "mine\n"
        assert json.loads((tmp_path / "run.json").read_text()) == {"a": 1}
        assert not (tmp_path / "run.json").is_symlink()

    def test_results_are_not_read_through_one(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        run.mkdir()
        results.write(run, {"exit_code": 0}, [], [])
        (tmp_path / "latest").symlink_to("run")
        assert results.load(tmp_path / "latest").rows == ()

        for name in ("samples.jsonl", "results.json"):
            (run / name).rename(tmp_path / name)
            (run / name).symlink_to(tmp_path / name)
            with pytest.raises(ResultsError, match="is a link"):
                _ = results.load(run).samples

    def test_the_sweep_follows_none(self, tmp_path: Path) -> None:
        (tmp_path / "outside.txt").write_text("sk-canary-0123")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "a.txt").symlink_to(tmp_path / "outside.txt")
        (tmp_path / "run" / "folder").symlink_to(tmp_path)
        (tmp_path / "run" / "b.txt").write_bytes(b"key sk-canary-0123\r\n\xff")

        assert sweep.clean(tmp_path / "run", ["sk-canary-0123"]) == [tmp_path / "run" / "b.txt"]
        assert (tmp_path / "outside.txt").read_text() == "sk-canary-0123"
        assert (tmp_path / "run" / "b.txt").read_bytes() == b"key ***\r\n\xff"


ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\u200b\x9b1A\r\ndone"


def _row(**more: Any) -> Row:
    given = {"run_id": "r", "backend": "vlmeval", "backend_version": "1", "model": "m",
             "dataset": "d"}  # fmt: skip
    return Row(**{**given, **more})


class TestText:
    @pytest.mark.parametrize("form", ["simple", "github"])
    def test_a_table_obeys_nothing(self, form: str) -> None:
        rows = [
            _row(model=f"a{ESCAPES}", error=ESCAPES),
            _row(dataset=ESCAPES, subset=ESCAPES, metric=ESCAPES, value=ESCAPES, status="scored"),
        ]
        shown = results.table(rows, form, notes=[ESCAPES])

        assert not set(shown) & set("\x1b\x07\x9b\r\u202e\u2066\u200b")
        assert "\\x1b[2J" in shown
        assert "\\u202egnp.exe" in shown
        # Nor does a line end make a row of its own.
        assert not [line for line in shown.splitlines() if line.startswith("done")]

    def test_a_notebook_shows_no_markup_of_a_models(self) -> None:
        result = RunResult(Path(), {}, (_row(subset="<script>alert(1)</script>"),))

        assert "<script>" not in result._repr_html_()

    @pytest.mark.parametrize(
        "text", ["=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
    )
    def test_a_spreadsheet_carries_out_no_cell(self, text: str) -> None:
        rows = [_row(model=text, dataset=text, subset=text, metric=text, value=text, error=text)]
        [read] = csv.DictReader(io.StringIO(results.to_csv(rows), newline=""))

        for column in ("model", "dataset", "subset", "metric", "value", "error"):
            assert read[column] == "'" + text.replace("\r", "\n")

    @pytest.mark.parametrize("value", [-1.5, -3, "-0.25", "+1e5", "-inf", "text", "'=1", ""])
    def test_numbers_and_other_text_stay_as_they_are(self, value: Any) -> None:
        [read] = csv.DictReader(io.StringIO(results.to_csv([_row(value=value)])))

        assert read["value"] == str(value)

    def test_a_run_is_loaded_as_it_was(self, tmp_path: Path) -> None:
        rows = (_row(model="=1+1", error=ESCAPES),)
        results.write(tmp_path, {"exit_code": 0}, rows, [])

        assert results.load(tmp_path).rows == rows
