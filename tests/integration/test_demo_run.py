"""The main job, as `make demo` does it, and everything a run leaves behind."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from evalshim import load_run
from evalshim.spec import ROW_COLUMNS

from .conftest import shim


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    done = shim("demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_scores_every_set_and_each_differently(demo: Path) -> None:
    primary = [r for r in load_run(demo / "outputs" / "latest").rows if r.is_primary]

    assert [r.dataset for r in primary] == ["demo_shapes", "demo_gsm8k", "demo_arc"]
    scores = [r.score for r in primary]
    assert all(s is not None and 0.5 < s < 0.95 for s in scores)
    assert len(set(scores)) == 3


def test_stdout_is_the_table_and_nothing_else(demo: Path) -> None:
    result = load_run(demo / "outputs" / "latest")

    assert (demo / "stdout").read_text() == f"{result}\n"
    assert len(str(result).splitlines()) == len(result.rows) + 2


def test_the_readme_shows_this_table(demo: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()

    assert f"```text\n{(demo / 'stdout').read_text()}```" in readme


def test_stderr_says_start_and_end_of_every_cell(demo: Path) -> None:
    said = (demo / "stderr").read_text().splitlines()
    # How far they are is said of cells that take half a minute.
    lines = [line for line in said if not re.search(r": \d+ of \d+", line)]

    for row in load_run(demo / "outputs" / "latest").rows:
        if row.is_primary:
            assert [line for line in lines if row.dataset in line] == [
                f"demo x {row.dataset}: started",
                f"demo x {row.dataset}: scored, {row.metric} {row.value}",
            ]
    assert len(lines) < 12


def test_the_run_directory_holds_what_the_design_says(demo: Path) -> None:
    latest = demo / "outputs" / "latest"

    assert str(latest.readlink()) == latest.resolve().name
    assert {p.name for p in latest.iterdir()} == {
        "config.yaml", "run.json", "results.csv", "results.json", "samples.jsonl",
        "events.jsonl", "logs", "upstream",
    }  # fmt: skip
    with (latest / "results.csv").open() as file:
        records = list(csv.DictReader(file))
    assert tuple(records[0]) == ROW_COLUMNS
    for record in records:
        assert (latest / record["source_file"]).is_file()
    assert {r["scorer"] for r in records} == {"exact_matching", "rule:accuracy"}
    header = json.loads((latest / "run.json").read_text())
    assert header["status"] == "finished"
    assert header["exit_code"] == 0
    assert {b["distribution"] for b in header["backends"].values()} == {"ms-vlmeval", "opencompass"}
    for cell in header["cells"].values():
        assert cell["status"] == "scored"
        assert (latest / cell["log"]).stat().st_size > 0


def test_samples_say_what_was_asked_answered_and_counted(demo: Path) -> None:
    result = load_run(demo / "outputs" / "latest")

    for row in result.rows:
        if not row.is_primary:
            continue
        own = result.samples[result.samples["dataset"] == row.dataset]
        assert len(own) == row.n
        assert own["correct"].astype(bool).mean() == pytest.approx(row.score)
        assert own["prediction"].notna().all()
        assert (own["question"] != "").all()
        assert (own["answer"] != "").all()
    shapes = result.samples[result.samples["dataset"] == "demo_shapes"]
    assert set(shapes["category"]) == {"colour", "count", "position", "shape"}
    assert all(set(options) == set("ABCD") for options in shapes["options"])
    assert all((result.path / image).is_file() for images in shapes["images"] for image in images)


def test_categories_count_their_own_samples(demo: Path) -> None:
    categories = [
        r for r in load_run(demo / "outputs" / "latest").rows if r.subset in "colour shape"
    ]

    assert [r.n for r in categories] == [12, 12]


def test_results_shows_the_run_again(demo: Path) -> None:
    assert shim("results", cwd=demo).stdout == (demo / "stdout").read_text()
    markdown = shim("results", "--format", "md", cwd=demo).stdout
    assert markdown.startswith("| model")
    printed = json.loads(shim("results", "--format", "json", cwd=demo).stdout)
    assert printed == json.loads((demo / "outputs" / "latest" / "results.json").read_text())
