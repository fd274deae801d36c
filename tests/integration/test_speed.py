"""What makes a run as fast as its endpoint, counted and not timed: connections, bytes, processes.

What it imports is counted in test_api_imports.py.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.measure import Endpoint as Bare
from evalshim.demo.endpoint import Endpoint
from tests.worker_package import AS_WORKER, WORKER

from . import chaos, opencompass_data
from .conftest import SHIM, of_the_run, shim


def _questions(path: Path, rows: int, kind: str = "cat") -> dict[str, str]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "question", "A", "B", "answer"])
        writer.writerows([i, f"Which is {kind} {i}?", "this", "that", "A"] for i in range(rows))
    return {"name": path.stem, "path": str(path)}


def _config(folder: Path, url: str, datasets: Sequence[Any], **keys: Any) -> Path:
    model = {"name": "m", "api_base": url, "model": "bench", "temperature": 0}
    path = folder / "eval.json"
    path.write_text(json.dumps({"models": [model], "datasets": list(datasets), **keys}))
    return path


def _run(folder: Path, path: Path, *words: object) -> None:
    done = shim("run", path, "--no-preflight", *words, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def few_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opencompass_data.write("mmlu", tmp_path)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))


def test_upstream_is_imported_while_the_endpoint_is_asked(tmp_path: Path) -> None:
    """And nothing of it is left where that says no."""
    seen: list[int] = []

    def note(_: Any) -> None:
        seen.append(len(chaos.left_of(tmp_path)))

    sets = [_questions(tmp_path / "one.tsv", 4)]
    with Endpoint(models=None, on_request=note) as served:
        done = shim("run", _config(tmp_path, served.url, sets), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert seen[0] == 2  # the command and its worker

    done = shim("run", _config(tmp_path, served.url, sets, work_dir="none"), cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    assert not chaos.left_of(tmp_path)
    assert not (tmp_path / "none").exists()


def test_the_calls_of_a_cell_share_its_connections(tmp_path: Path) -> None:
    sets = [_questions(tmp_path / f"{n}.tsv", 150, n) for n in ("one", "two")]
    with Bare(0.01) as served:
        _run(tmp_path, _config(tmp_path, served.url, sets, concurrency=8))

    figures = served.figures
    assert figures["requests"] == 300
    # Upstream opens one for each call. Each cell has threads of its own, of which two that begin
    # at once may open one in vain.
    assert figures["connections"] <= 3 * 8
    assert figures["largest_parallel"] <= 8


@pytest.mark.usefixtures("few_subsets")
def test_the_calls_of_all_sets_and_backends_share_what_an_endpoint_gets(tmp_path: Path) -> None:
    """A short set never leaves it idle: 57 sets of two questions keep it busy, and no more."""
    sets = [_questions(tmp_path / "one.tsv", 60), "mmlu"]
    with Bare(0.2) as served:
        _run(tmp_path, _config(tmp_path, served.url, sets, concurrency=12))

    assert served.figures["requests"] == 60 + 57 * 2
    # OpenCompass alone comes to eight: two of each set, of which four run at a time.
    assert 8 < served.figures["largest_parallel"] <= 12
    header = json.loads((tmp_path / "outputs/latest/run.json").read_text())
    assert header["traffic"][served.url]["calls"] == 60 + 57 * 2
    # More than one set of two at a time, and both backends at once.
    assert set(header["phases"]) == {
        "start", "import", "plan", "inference", "scoring", "collect",
    }  # fmt: skip
    assert header["phases"]["inference"] > 0


@pytest.mark.usefixtures("few_subsets")
def test_no_set_of_opencompass_starts_an_interpreter(tmp_path: Path) -> None:
    """A fork a set, and not a process a set and stage that imports everything again."""
    seen: dict[int, str] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (entry / "cwd").readlink() == tmp_path:
                        text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        seen[int(entry.name)] = text
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with Bare(0.05) as served:
            _run(tmp_path, _config(tmp_path, served.url, ["mmlu"]))
    finally:
        ended.set()
    watcher.join()

    worker, command = str(WORKER / "__main__.py"), str(SHIM)
    others = {t for t in seen.values() if "python" in t and worker not in t and command not in t}
    assert not others
    events = (tmp_path / "outputs/latest/events.jsonl").read_text().splitlines()
    pids = [e["pid"] for e in map(json.loads, events) if e["event"] == "started"]
    assert len(set(pids)) == 57


# What a process writes, as Linux counts it, while it does N samples.
_WRITTEN = """
n, folder = int(sys.argv[1]), sys.argv[2]
from evalshim_worker import fan_out
import vlmeval.inference
from vlmeval.utils import mp_util
if sys.argv[3] == "ours":
    fan_out.install()
def written():
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar"))
before = written()
mp_util.track_progress_rich(
    lambda x: "an answer of some length", [dict(x=i) for i in range(n)], nproc=4,
    save=os.path.join(folder, f"{n}.pkl"), keys=[str(i) for i in range(n)],
)
print("WRITTEN", written() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counted by Linux")
def test_what_is_written_while_samples_are_answered_grows_as_they_do(
    tmp_path: Path, environments: dict[str, Path]
) -> None:
    def written(n: int, whose: str) -> int:
        folder = tmp_path / whose
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [environments["vlmeval"], "-c", AS_WORKER + _WRITTEN, str(n), folder, whose],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout.partition("WRITTEN ")[2].split()[0])

    ours = [written(n, "ours") for n in (500, 2000)]
    upstreams = [written(n, "upstreams") for n in (200, 400)]

    assert ours[1] < 6 * ours[0]
    assert ours[0] < upstreams[0]
    assert upstreams[1] > 3 * upstreams[0]  # else there is nothing to mend any more


def test_a_rate_is_kept(tmp_path: Path) -> None:
    with Bare(0.0) as served:
        path = _config(tmp_path, served.url, [_questions(tmp_path / "one.tsv", 8)], rate_limit=120)
        _run(tmp_path, path)

    assert served.figures["requests"] == 8
    # Half a second between two, though the first may come late; without a rate it is a tenth.
    assert served.figures["span"] > 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_left_alone_and_then_asked_again(tmp_path: Path, status: int) -> None:
    """It takes three calls at a time, and says `Retry-After` to the others."""
    lock, now, turned_away, most = threading.Lock(), [0], [0], [0]

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                now[0] += 1
                free = now[0] <= 3
                turned_away[0] += not free
                most[0] = max(most[0], now[0])
            time.sleep(0.05 if free else 0)
            message = {"role": "assistant", "content": "A"}
            body = json.dumps(
                {
                    "model": "m",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                }
            ).encode()
            with lock:
                now[0] -= 1
            self.send_response(200 if free else status)
            self.send_header("Content-Length", str(len(body)))
            if not free:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    path = _config(tmp_path, url, [_questions(tmp_path / "one.tsv", 40)], concurrency=16)
    try:
        _run(tmp_path, path, "--set", "models.0.retry=8")
    finally:
        server.shutdown()
        server.server_close()

    header = json.loads((tmp_path / "outputs/latest/run.json").read_text())
    traffic = header["traffic"][url]
    assert traffic["turned_away"] == turned_away[0]
    assert traffic["calls"] == 40 + turned_away[0]
    # Sixteen at once, and again and again sixteen, would be turned away far more often.
    assert turned_away[0] <= 40


def test_headers_are_those_of_upstream(
    tmp_path: Path, environments: dict[str, Path], asked: list[dict[str, Any]]
) -> None:
    """A connection that is kept changes nothing that an endpoint sees of a call."""
    code = (
        "import sys\n"
        "from vlmeval.api import CustomAPIModel\n"
        "model = CustomAPIModel('bench', api_base=sys.argv[1] + '/chat/completions',\n"
        "                       key='sk-123', temperature=0, retry=1)\n"
        "model.generate([{'type': 'text', 'value': 'hello'}])\n"
    )
    with Endpoint(models=None, on_request=of_the_run(asked.append)) as served:
        subprocess.run(
            [environments["vlmeval"], "-c", code, served.url], check=True, capture_output=True,
            env={**os.environ, "LMUData": str(tmp_path)},
        )  # fmt: skip
        [direct] = asked
        asked.clear()
        path = _config(tmp_path, served.url, [_questions(tmp_path / "one.tsv", 2)])
        raw = json.loads(path.read_text())
        raw["models"][0]["key"] = "sk-123"
        path.write_text(json.dumps(raw))
        _run(tmp_path, path)

    assert len(asked) == 2
    for request in asked:
        left, right = dict(request["headers"]), dict(direct["headers"])
        assert left.pop("Content-Length") and right.pop("Content-Length")
        assert left == right


@pytest.mark.parametrize("drawn", [False, True])
def test_prompts_are_built_when_their_call_is_due_unless_lots_are_drawn(
    tmp_path: Path, drawn: bool
) -> None:
    """What draws lots draws them in upstream's order: all prompts before the first call."""
    plugin = tmp_path / "lots.py"
    body = "random.random() and line" if drawn else "line"
    plugin.write_text(
        "import os, random, time\n"
        "from vlmeval.dataset import CustomTextMCQDataset as Set\n"
        "build_prompt = Set.build_prompt\n"
        "def noted(self, line):\n"
        f"    line = {body}\n"
        "    with open(os.environ['NOTES'], 'a') as file: file.write(f'{time.time()}\\n')\n"
        "    return build_prompt(self, line)\n"
        "Set.build_prompt = noted\n"
    )
    notes = tmp_path / "notes"
    with Bare(0.2) as served:
        path = _config(
            tmp_path, served.url, [_questions(tmp_path / "one.tsv", 12)], concurrency=2,
            plugins=[str(plugin)],
        )  # fmt: skip
        done = shim("run", path, "--no-preflight", cwd=tmp_path, NOTES=str(notes))
        assert done.returncode == 0, done.stderr

    built = [float(line) for line in notes.read_text().split()]
    first = served.figures["first"]
    assert len(built) == 12
    assert sum(moment > first for moment in built) == (0 if drawn else pytest.approx(9, abs=2))


_ANOTHER_VERSION = """
import vlmeval.api.gpt
import vlmeval.inference
from evalshim_worker import run_vlmeval
from vlmeval.utils import mp_util
del vlmeval.inference.infer_data_api, vlmeval.api.gpt.requests
upstreams = mp_util.track_progress_rich
run_vlmeval.speed_up()
assert mp_util.track_progress_rich is not upstreams
"""


def test_an_upstream_of_another_version_runs_without_what_was_written_for_this_one(
    environments: dict[str, Path],
) -> None:
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + _ANOTHER_VERSION],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("this VLMEvalKit")]
    names = [line.partition("not what ")[2].partition(" was")[0] for line in said]
    assert names == ["fan_out.build_prompts_when_due", "connections.keep"]
