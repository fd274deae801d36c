"""The benchmarks: the endpoint counts what it is asked, the data is upstream's, a case runs."""

from __future__ import annotations

import csv
import http.client
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench import cases, data, report, systems
from bench.__main__ import measured
from bench.measure import Endpoint, Failed, Measured, timed
from evalshim.adapters import custom_data
from evalshim.endpoints import USER_AGENT

CHAT = "/v1/chat/completions"


def connect(endpoint: Endpoint) -> http.client.HTTPConnection:
    url = urlsplit(endpoint.url)
    return http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)


def test_the_endpoint_answers_and_counts() -> None:
    with Endpoint(latency=0.05, answer="B") as endpoint:
        connection = connect(endpoint)
        for path, key in ((CHAT, "message"), ("/v1/completions", "text")):
            connection.request("POST", path, b"x" * 200_000)
            reply = json.loads(connection.getresponse().read())["choices"][0][key]
            assert reply in ("B", {"role": "assistant", "content": "B"})
        # Several chunks, the lines between them in packets of their own.
        connection.request("POST", CHAT, iter([b"{", b"y" * 70_000, b"}"]), encode_chunked=True)
        assert connection.getresponse().read()

    figures = endpoint.figures
    assert (figures["requests"], figures["connections"], figures["largest_parallel"]) == (3, 1, 1)
    assert figures["last"] - figures["first"] == figures["span"] > 0


def test_the_endpoint_does_not_count_what_comes_before_a_run() -> None:
    with Endpoint(latency=0.05) as endpoint:
        connection = connect(endpoint)
        connection.request("GET", "/v1/models")
        assert json.loads(connection.getresponse().read())["data"][0]["id"] == "bench"
        connection.request("POST", CHAT, b"{}", {"User-Agent": USER_AGENT})
        assert connection.getresponse().read()

    assert endpoint.figures["requests"] == 0
    assert endpoint.figures["first"] is None


def test_the_endpoint_sees_what_is_asked_at_once() -> None:
    def ask() -> None:
        connection = connect(endpoint)
        connection.request("POST", CHAT, b"{}")
        connection.getresponse().read()

    with Endpoint(latency=1) as endpoint:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert endpoint.figures["largest_parallel"] == endpoint.figures["connections"] == 4


@pytest.mark.parametrize("large", [False, True])
def test_the_questions_are_sound(tmp_path: Path, large: bool) -> None:
    path = data.mcq(tmp_path, 12, large=large)
    scope = data.general_vmcq(tmp_path, 12, large=large)

    custom_data.inspect(path, "mcq")
    custom_data.inspect(scope, "general_vmcq")
    with path.open() as file:
        csv.field_size_limit(10**6)
        rows = list(csv.DictReader(file, delimiter="\t"))
    sizes = [len(row["image"]) * 3 // 4 for row in rows]
    assert len(rows) == len(scope.read_text().splitlines()) == 12
    assert all(90_000 < size < 110_000 if large else size < 1_000 for size in sizes)


def test_sets_have_as_many_questions_as_asked(tmp_path: Path) -> None:
    data.sets(tmp_path, 40)
    data.mmlu(tmp_path, 20)

    def lines(paths: Sequence[Path]) -> set[int]:
        return {len(path.read_text().splitlines()) for path in paths}

    tests = list((tmp_path / "data" / "mmlu" / "test").iterdir())
    assert len(tests) == len(data.SUBSETS) == 57
    assert lines(tests) == {20}
    assert lines(list((tmp_path / "data").rglob("*.jsonl"))) == {40}


def test_a_command_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no disk"):
        timed(["sh", "-c", "echo no disk >&2; exit 3"], tmp_path, {})


def test_a_run_is_scored_when_every_set_has_its_file(tmp_path: Path) -> None:
    case = cases.Case("sets", "sets", 4)
    folder = tmp_path / "work" / "20261124_120000" / "results" / "m"
    folder.mkdir(parents=True)
    for name, known in (("gsm8k", False), ("ARC-c", True)):
        (folder / f"{name}.json").write_text("{}")
        assert systems.scored("upstream", case, tmp_path) == known


def test_memory_is_that_of_all_processes(tmp_path: Path) -> None:
    child = "import time; held = bytearray(80 * 2**20); time.sleep(4)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    _, _, peaks = timed([systems.SHIM.with_name("python"), "-c", code], tmp_path, {}, memory=True)

    assert 80 < peaks["memory_below"] < peaks["memory"] < 160


def test_the_tables_say_what_was_reached(tmp_path: Path) -> None:
    known = cases.cases(quick=False)
    limit = known["mcq"].limit
    ours = [Measured(5, 1, limit / 0.9, own=0.5), Measured(4, 1, limit / 0.96, own=0.5)]
    theirs = [Measured(20, 10, 9), Measured(20, 10, 9)]
    results: report.Results = {"mcq": {"upstream": theirs, "evalshim": ours}}

    made = report.text(known, report.restored(report.plain(results)), {"machine": "one"})

    in_all, limits, first = [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in made.splitlines()
        if "| under" in line or "| over" in line
    ]
    assert in_all[-3:] == ["under 0.28 of upstream's", "0.200 / 0.225 / 0.250", "yes"]
    assert limits[-3:] == ["over 0.95 of the limit", "0.90 / 0.93 / 0.96", "no"]
    assert first[-2:] == ["0.100 / 0.100 / 0.100", "yes"]

    readme = tmp_path / "README.md"
    readme.write_text(report.README.read_text())
    before = readme.read_text().partition(report.BEGIN)[0]
    report.write(made, readme)
    report.write(made, readme)
    text = readme.read_text()
    assert text.startswith(before)
    assert text.count(made) == text.count(report.BEGIN) == text.count(report.END) == 1
    assert "## Large data files" in text.partition(report.END)[2]


@pytest.mark.upstream
def test_a_small_case_runs_by_upstream_and_by_evalshim(tmp_path: Path) -> None:
    case = cases.Case("mcq", "mcq", 8, latency=0.01, parallel=4)
    systems.prepare(case, tmp_path / "data")

    runs = {
        name: measured(name, case, tmp_path / "data", tmp_path / name)
        for name in ("upstream", "evalshim")
    }

    for run in runs.values():
        assert run.requests == 8
        assert run.first is not None and run.span is not None
        assert 0 < run.first + run.span < run.seconds
        assert 1 <= run.largest_parallel <= 4
    assert runs["upstream"].own is None
    own = runs["evalshim"].own
    assert own is not None and 0 < own < runs["evalshim"].seconds

    dataset = measured("dataset", case, tmp_path / "data", tmp_path / "dataset")
    assert dataset.held is not None and 0 < dataset.held < 1
