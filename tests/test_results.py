"""The files of a run: their columns and keys, odd values, and what is read back."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import evalshim
from evalshim import results
from evalshim.errors import ResultsError
from evalshim.results import RunResult
from evalshim.spec import Metric, Row, Sample

# DESIGN.md, "results.csv".
COLUMNS = [
    "run_id", "backend", "backend_version", "model", "dataset", "subset", "metric", "value",
    "unit", "score", "is_primary", "n", "n_failed", "n_judge_failed", "scorer",
    "judge_fallback", "status", "error", "source_file",
]  # fmt: skip
HEADER = {
    "schema_version", "run_id", "evalshim_version", "status", "exit_code", "started_at",
    "finished_at", "command", "host", "backends", "cells", "config_sha256", "notices",
    "phases", "traffic", "resumed",
}  # fmt: skip
CELL = {
    "model", "dataset", "backend", "status", "error", "started_at", "finished_at", "log",
    "n", "n_failed", "n_judge_failed", "notes", "sent", "reported", "judge", "data", "goes_on_from",
    "identity", "outcome",
}  # fmt: skip


@pytest.fixture
def row() -> Row:
    return Row(
        run_id="20260102-030405",
        backend="vlmeval",
        backend_version="ms-vlmeval 0.0.20",
        model="m",
        dataset="pets",
        subset="overall",
        metric="acc",
        value=0.75,
        unit="fraction",
        score=0.75,
        is_primary=True,
        n=4,
        n_failed=0,
        n_judge_failed=0,
        scorer="exact_matching",
        status="scored",
        source_file="upstream/vlmeval/m/m_pets_acc.csv",
    )


@pytest.fixture
def failed(row: Row) -> Row:
    return Row(row.run_id, row.backend, "", row.model, "cats", status="failed", error="no answer")


@pytest.fixture
def sample(row: Row) -> Sample:
    return Sample(
        run_id=row.run_id,
        backend=row.backend,
        model=row.model,
        dataset=row.dataset,
        subset="",
        index="0",
        question="Which?",
        options={"A": "cat"},
        answer="A",
        prediction="A",
        correct=True,
        images=("upstream/0.png",),
    )


class TestCsv:
    def test_columns_are_those_of_the_design_in_its_order(self, row: Row) -> None:
        [header, line] = csv.reader(io.StringIO(results.to_csv([row])))

        assert header == COLUMNS
        assert dict(zip(header, line, strict=True))["source_file"] == row.source_file

    def test_a_cell_without_scores_leaves_its_numbers_empty(self, failed: Row) -> None:
        [record] = csv.DictReader(io.StringIO(results.to_csv([failed])))

        for column in ("metric", "value", "unit", "score", "n", "n_failed", "n_judge_failed"):
            assert record[column] == ""
        assert (record["status"], record["error"]) == ("failed", "no answer")

    @pytest.mark.parametrize("odd", ['a,b\t"c"\nd', "émoji \N{GRINNING FACE}", "'=1+1", " x "])
    def test_odd_text_comes_back(self, row: Row, odd: str) -> None:
        text = results.to_csv([replace(row, model=odd, error=odd)])

        [record] = csv.DictReader(io.StringIO(text, newline=""))
        assert (record["model"], record["error"]) == (odd, odd)

    @pytest.mark.parametrize(
        ("value", "written"), [(0, "0"), (0.1 + 0.2, "0.30000000000000004"), ("n/a", "n/a")]
    )
    def test_a_value_stands_as_upstream_wrote_it(self, row: Row, value: Any, written: str) -> None:
        [record] = csv.DictReader(io.StringIO(results.to_csv([replace(row, value=value)])))

        assert record["value"] == written


class TestEnvelope:
    def test_keys(self, row: Row) -> None:
        envelope = results.envelope({"run_id": "r"}, [row])

        assert set(envelope) == {"schema_version", "run", "rows"}
        assert [list(r) for r in envelope["rows"]] == [COLUMNS]
        assert envelope["schema_version"] == 1

    def test_keys_of_a_real_run(
        self,
        tmp_path: Path,
        shim: Callable[..., subprocess.CompletedProcess[str]],
        installed: Path,
    ) -> None:
        """Both upstreams fail to import, so the run finishes with failed cells."""
        judge = "{model: qwen, api_base: http://127.0.0.1:9/v1/, key_env: MY_KEY}"
        judged = f"{{name: demo_arc, judge: {judge}}}"
        done = shim(
            "run", "--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--data", "demo_shapes",
            "--data", "demo_arc", "--json", "--no-preflight", "--set", f"datasets.1={judged}",
            EVALSHIM_HOME=str(installed), MY_KEY="sk-canary-12345678",
        )  # fmt: skip

        assert done.returncode == 1, done.stderr
        printed = json.loads(done.stdout)
        assert printed == json.loads((tmp_path / "outputs/latest/results.json").read_text())
        assert printed["run"] == json.loads((tmp_path / "outputs/latest/run.json").read_text())
        assert set(printed) == {"schema_version", "run", "rows"}
        header = printed["run"]
        assert set(header) == HEADER
        assert set(header["host"]) == {"name", "platform", "python"}
        assert set(header["backends"]) == {"vlmeval", "opencompass"}
        for name, backend in header["backends"].items():
            assert set(backend) == {
                "python", "reason", "distribution", "version", "pins", "commit",
            }  # fmt: skip
            assert backend["python"] == str(installed / "envs" / name / "bin" / "python")
            assert backend["pins"] == "abc"
        assert set(header["cells"]) == {"m__demo_shapes", "m__demo_arc"}
        for cell in header["cells"].values():
            assert set(cell) == CELL
            assert cell["status"] == "failed"
            assert (cell["notes"], cell["sent"], cell["reported"]) == ([], {}, None)
        assert header["cells"]["m__demo_shapes"]["judge"] is None
        assert header["cells"]["m__demo_arc"]["judge"] == {
            "model": "qwen", "api_base": "http://127.0.0.1:9/v1", "reported": None,
        }  # fmt: skip
        assert "canary" not in done.stdout + done.stderr
        assert [list(row) for row in printed["rows"]] == [COLUMNS, COLUMNS]
        for row in printed["rows"]:
            assert "this build is broken" in row["error"]
            assert row["error"].startswith(f"the {row['backend']} worker died (exit code 1)")
        assert "Traceback" not in done.stderr.splitlines()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_is_json_whatever_upstream_computed(
        self, tmp_path: Path, row: Row, value: float
    ) -> None:
        metric = Metric("overall", "acc", value, "percent", True, Path("acc.csv"))
        row = replace(row, **results.row_numbers(metric))
        results.write(tmp_path, {"run_id": "r", "exit_code": 0}, [row], [])

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)


class TestScore:
    @pytest.mark.parametrize(
        ("value", "unit", "expected"),
        [
            (0.75, "fraction", 0.75),
            (1, "fraction", 1.0),
            (0, "percent", 0.0),
            (66.66666666666667, "percent", 0.6666666667),
            (100, "percent", 1.0),
            (812, "raw", None),
            (0.5, None, None),
            ("75", "percent", None),
            (None, "percent", None),
            (float("nan"), "percent", None),
            (float("inf"), "fraction", None),
        ],
    )
    def test_is_0_to_1_where_the_unit_allows_it(
        self, value: Any, unit: str | None, expected: float | None
    ) -> None:
        assert results.score(value, unit) == expected

    def test_a_metric_becomes_the_numbers_of_its_row(self) -> None:
        metric = Metric("ocr", "acc", 25.0, "percent", False, Path("acc.csv"))

        assert results.row_numbers(metric) == {
            "subset": "ocr",
            "metric": "acc",
            "value": 25.0,
            "unit": "percent",
            "score": 0.25,
            "is_primary": False,
            "n": None,
            "n_failed": None,
        }


class TestTable:
    def test_marks_the_primary_metric(self, row: Row) -> None:
        ocr = replace(row, subset="ocr", is_primary=False)
        lines = results.table([row, ocr]).splitlines()

        assert lines[0].split() == [
            "dataset", "subset", "metric", "value", "score", "n", "status",
        ]  # fmt: skip
        assert lines[2].split() == [
            "pets",
            "overall",
            "acc",
            "*",
            "0.7500",
            "0.7500",
            "4",
            "scored",
        ]
        assert lines[3].split() == ["pets", "ocr", "acc", "0.7500", "0.7500", "4", "scored"]
        assert len(lines) == 4

    def test_shows_failed_samples_only_where_there_are_any(self, row: Row) -> None:
        assert "failed" not in results.table([row])

        shown = results.table([replace(row, n_failed=3), row])
        assert "failed" in shown.splitlines()[0].split()
        assert "3/4" in shown.splitlines()[2].split()
        assert "0/4" not in shown

    def test_shows_ungraded_samples_only_where_there_are_any(self, row: Row) -> None:
        shown = results.table([replace(row, n_judge_failed=2), row])

        assert "ungraded" in shown.splitlines()[0].split()
        assert "failed" not in shown.splitlines()[0].split()
        assert "2/4" in shown.splitlines()[2].split()
        assert "0/4" not in shown

    def test_shows_ungraded_samples_of_a_cell_once(self, row: Row) -> None:
        """How many are of which subset is not known."""
        overall = replace(row, n_judge_failed=3, is_primary=True)
        lines = results.table([overall, replace(overall, subset="ocr", is_primary=False)])

        assert lines.count("3/4") == 1
        failed = replace(overall, metric="", is_primary=False, status="failed")
        assert "3/4" in results.table([failed])

    def test_notes_stand_below_once_behind_the_reasons(self, row: Row, failed: Row) -> None:
        note = "m x pets: 3 of 4 answers were cut at max_tokens"
        lines = results.table([row, failed], notes=[note, note]).splitlines()

        assert lines[-3:] == ["", "m x cats failed: no answer", note]
        assert results.table([row], notes=[note]).splitlines()[-2:] == ["", note]

    def test_names_the_models_where_there_are_several(self, row: Row) -> None:
        shown = results.table([row, replace(row, model="n")])

        assert [line.split()[0] for line in shown.splitlines()[::2]] == ["model", "m"]

    def test_says_below_why_a_cell_failed_once(self, row: Row, failed: Row) -> None:
        lines = results.table([row, failed, failed]).splitlines()

        assert lines[-2:] == ["", "m x cats failed: no answer"]
        assert len(lines) == 7

    def test_no_rows(self) -> None:
        assert results.table([]).splitlines()[0].split()[0] in ("model", "dataset")

    def test_percentages_have_two_decimals(self, row: Row) -> None:
        shown = results.table([replace(row, value=66.666, unit="percent", score=0.66666)])

        assert shown.splitlines()[2].split()[-5:] == ["*", "66.67", "0.6667", "4", "scored"]


class TestRender:
    @pytest.fixture
    def result(self, tmp_path: Path, row: Row, failed: Row) -> RunResult:
        return RunResult(tmp_path, {"run_id": "r", "exit_code": 1}, (row, failed))

    def test_notes_of_cells_and_of_the_run(self, result: RunResult) -> None:
        cell = {"model": "m", "dataset": "pets", "notes": ["1 of 4 answers were cut"]}
        header = {**result.header, "cells": {"m__pets": cell}, "notices": [".env is not heeded"]}
        noted = replace(result, header=header)

        assert noted.notes == ["m x pets: 1 of 4 answers were cut", ".env is not heeded"]
        for form in ("table", "md"):
            assert results.render(noted, form).splitlines()[-2:] == noted.notes
        assert result.notes == []  # of a run of an earlier version

    def test_csv(self, result: RunResult) -> None:
        assert results.render(result, "csv") + "\n" == results.to_csv(result.rows)

    def test_json(self, result: RunResult) -> None:
        assert json.loads(results.render(result, "json")) == results.envelope(
            result.header, result.rows
        )

    def test_table(self, result: RunResult) -> None:
        assert results.render(result, "table") == str(result) == results.table(result.rows)

    def test_markdown(self, result: RunResult) -> None:
        lines = results.render(result, "md").splitlines()

        assert lines[0].startswith("| model")
        assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}

    def test_a_bar_in_a_name_is_no_column_of_markdown(self, result: RunResult, row: Row) -> None:
        result = replace(result, rows=(replace(row, subset="dev|ocr"),))
        lines = results.render(result, "md").splitlines()

        assert lines[2].replace("\\|", "").count("|") == lines[0].count("|")


class TestReadBack:
    def test_what_was_written_is_loaded(
        self, tmp_path: Path, row: Row, failed: Row, sample: Sample
    ) -> None:
        header = {"run_id": "r", "exit_code": 1, "cells": {"m__pets": {"n": None}}}
        results.write(tmp_path, header, [row, failed], map(results.sample_line, [sample]))

        result = evalshim.load_run(tmp_path)
        assert (result.rows, result.header, result.exit_code) == ((row, failed), header, 1)
        assert result.path == tmp_path.resolve()
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "results.csv", "results.json", "run.json", "samples.jsonl",
        ]  # fmt: skip
        assert json.loads((tmp_path / "run.json").read_text()) == header
        assert (tmp_path / "results.csv").read_text() == results.to_csv([row, failed])

    def test_as_data_frames(self, tmp_path: Path, row: Row, failed: Row, sample: Sample) -> None:
        unanswered = replace(sample, index="1", prediction=None, correct=None)
        results.write(
            tmp_path,
            {"exit_code": 0},
            [row, failed],
            map(results.sample_line, [sample, unanswered]),
        )

        result = results.load(tmp_path)
        assert list(result.results.columns) == COLUMNS
        assert list(result.results["value"].isna()) == [False, True]
        assert list(result.samples.columns) == list(asdict(sample))
        assert list(result.samples["prediction"]) == ["A", None]
        assert "<table" in result._repr_html_()
        assert repr(result) == f"<RunResult {tmp_path}: 2 rows, exit code 0>"

    def test_a_run_without_samples_has_an_empty_frame(self, tmp_path: Path, row: Row) -> None:
        results.write(tmp_path, {"exit_code": 0}, [row], [])

        assert len(results.load(tmp_path).samples) == 0
        assert "prediction" in results.load(tmp_path).samples.columns

    @pytest.mark.parametrize(
        "prediction",
        ["line\nbreak", "\u2028", "\x85", "\x0c", '"', "\\", "", "\N{GRINNING FACE}", "\ud83d"],
        ids=ascii,
    )
    def test_any_prediction_comes_back(
        self, tmp_path: Path, row: Row, sample: Sample, prediction: str
    ) -> None:
        odd = replace(sample, prediction=f"a{prediction}b")
        results.write(tmp_path, {"exit_code": 0}, [row], map(results.sample_line, [odd, sample]))

        assert list(results.load(tmp_path).samples["prediction"]) == [odd.prediction, "A"]

    def test_no_run_there(self, tmp_path: Path) -> None:
        with pytest.raises(ResultsError, match="no results in") as caught:
            results.load(tmp_path / "nothing")
        assert "the directory of a finished run" in str(caught.value)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "5", "{}", '{"rows": []}', '{"run": {}, "rows": [{"model": "m"}]}']
    )
    def test_a_corrupt_file_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "results.json").write_text(text)

        with pytest.raises(ResultsError, match=r"cannot read .*results\.json"):
            results.load(tmp_path)

    def test_a_file_in_the_place_of_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "results.csv").touch()

        with pytest.raises(ResultsError, match="cannot read"):
            results.load(tmp_path / "results.csv")

    def test_half_of_a_surrogate_pair_costs_no_file(self, tmp_path: Path, row: Row) -> None:
        odd = replace(row, model="m\udcff", error="\ud83d")

        results.write(tmp_path, {"exit_code": 0}, [odd], [])

        assert "m\\udcff" in (tmp_path / "results.csv").read_text()
        assert results.load(tmp_path).rows[0].model == "m\udcff"
        for form in ("table", "csv", "md", "json"):
            results.render(results.load(tmp_path), form).encode()

    def test_a_file_is_never_seen_half_written(self, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        path.write_text("old")

        with pytest.raises(AttributeError):
            results.write_text(path, b"new")  # type: ignore[arg-type]
        assert path.read_text() == "old"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Who is killed, or finds the disk full, while writing leaves what was there."""
    path = tmp_path / "samples.jsonl"
    results.write_lines(path, ["old\n"])

    def lines() -> Iterator[str]:
        yield "new\n" * 100_000
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        results.write_lines(path, lines())

    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]
