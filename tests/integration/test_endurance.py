"""Full disks, grades of a killed run, endpoints that hang, drip, fail for hours or change."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint

from . import chaos
from .conftest import SHIM, shim
from .test_judges import SUMS
from .test_speed import _questions

Reply = tuple[int, dict[str, Any]]


def _said(text: str, model: str = "m") -> Reply:
    message = {"role": "assistant", "content": text}
    return 200, {"model": model, "choices": [{"index": 0, "message": message,
                                              "finish_reason": "stop"}]}  # fmt: skip


@contextmanager
def _serving(reply: Callable[[int, BaseHTTPRequestHandler], Reply | None]) -> Iterator[str]:
    """An endpoint whose n-th POST gets `reply(n, ...)`; None where that has answered itself."""
    lock, count = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                count[0] += 1
                number = count[0]
            if found := reply(number, self):
                status, document = found
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _config(folder: Path, url: str, *datasets: Any, model: Any = (), **keys: Any) -> Path:
    served = {"name": "m", "api_base": url, "model": "m", "temperature": 0, "retry": 1}
    path = folder / "eval.json"
    asked = {"models": [{**served, **dict(model)}], "datasets": list(datasets), **keys}
    path.write_text(json.dumps({"concurrency": 4, **asked}))
    return path


def _rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.stdout, done.stderr
    return {r["dataset"]: r for r in json.loads(done.stdout)["rows"] if r["subset"] in
            ("", "overall")}  # fmt: skip


# Both backends have their own loop of tries.
SETS = ("one", "demo_gsm8k")


@pytest.mark.parametrize("name", SETS)
def test_hours_of_503_are_not_waited_for_longer_than_there_is_patience(
    tmp_path: Path, name: str
) -> None:
    def reply(number: int, _: Any) -> Reply:
        return _said("A") if number <= 6 else (503, {"error": {"message": "overloaded"}})

    dataset = _questions(tmp_path / "one.tsv", 20) if name == "one" else name
    with _serving(reply) as url:
        path = _config(tmp_path, url, dataset, patience=3, limit=20, retries=0)
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    row = _rows(done)[name]
    assert done.returncode == 1
    assert row["n_failed"] == 14
    assert "does not answer (HTTP 503): its calls wait, 3 s at the most" in done.stderr
    assert "did not answer for 3 s: its calls fail from here on" in done.stderr
    failed = [s for s in chaos.samples(tmp_path) if s["prediction"] is None]
    assert all("503" in s["error"] for s in failed)


@pytest.mark.parametrize("name", SETS)
def test_an_endpoint_that_hangs_is_left_after_its_timeout(tmp_path: Path, name: str) -> None:
    over = threading.Event()

    def reply(number: int, _: Any) -> Reply | None:
        if number > 10:
            over.wait(200)
            return None  # who asked is gone
        return _said("A")

    dataset = _questions(tmp_path / "one.tsv", 20) if name == "one" else name
    with _serving(reply) as url:
        path = _config(
            tmp_path, url, dataset, model={"timeout": 3}, patience=0, limit=20, retries=0
        )
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)
        over.set()

    assert done.returncode == 1
    assert _rows(done)[name]["n_failed"] == 10


def test_an_answer_that_drips_is_left_too(tmp_path: Path) -> None:
    over = threading.Event()

    def reply(number: int, handler: BaseHTTPRequestHandler) -> Reply | None:
        if number != 3:
            return _said("A")
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                break
        return None

    with _serving(reply) as url:
        path = _config(
            tmp_path, url, _questions(tmp_path / "one.tsv", 8), model={"timeout": 2}, retries=0
        )
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)
        over.set()

    assert _rows(done)["one"]["n_failed"] == 1
    [failed] = [s for s in chaos.samples(tmp_path) if s["prediction"] is None]
    assert "no whole answer" in failed["error"]


@pytest.mark.parametrize("name", SETS)
def test_a_model_that_changes_half_way_is_said(tmp_path: Path, name: str) -> None:
    def reply(number: int, _: Any) -> Reply:
        return _said("A", "first" if number <= 10 else "second")

    dataset = _questions(tmp_path / "one.tsv", 20) if name == "one" else name
    with _serving(reply) as url:
        path = _config(tmp_path, url, dataset, limit=20, concurrency=1)
        done = shim("run", path, "--no-preflight", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "answered as first and then as second" in done.stdout


@contextmanager
def _small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_fails_a_run_that_can_be_gone_on_with_when_there_is_room(
    tmp_path: Path,
) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    large.mkdir()
    long = "because it is so, " * 60

    def talk(messages: list[dict[str, Any]]) -> str:
        return long + answers.answer(messages)

    with Endpoint(answer=talk) as served, _small_disk(small, "700k"):
        sets = ("demo_shapes", "demo_gsm8k", "demo_arc")
        model = {"name": "m", "api_base": served.url, "model": "evalshim-demo", "temperature": 0}
        path = tmp_path / "eval.json"
        path.write_text(json.dumps({"models": [model], "datasets": sets}))
        assert shim("run", path, "--no-preflight", cwd=large).returncode == 0

        full = shim("run", path, "--no-preflight", cwd=small)
        assert full.returncode == 1
        assert "Traceback" not in full.stderr
        assert "No space left on device" in full.stderr + full.stdout
        subprocess.run(["mount", "-o", "remount,size=60m", small], check=True)
        again = shim("resume", "--no-preflight", cwd=small)
        assert again.returncode == 0, again.stderr + again.stdout
        for name in ("results.csv", "samples.jsonl"):
            ours, wanted = (f / "outputs" / "latest" / name for f in (small, large))
            assert chaos.without_ids(ours) == chaos.without_ids(wanted)


@pytest.mark.parametrize("backend", ["vlmeval", "opencompass"])
def test_what_a_judge_graded_is_kept_when_a_run_is_killed(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grade that was paid for is not asked for again."""
    n, asked, released, lock = 12, Counter[str](), threading.Event(), threading.Lock()

    def note(request: dict[str, Any]) -> None:
        text = json.dumps(request["body"]["messages"])
        if "hello" not in text:  # whether it is there at all
            with lock:
                asked[text] += 1
                late = sum(asked.values()) > 6
            if late:
                released.wait(60)

    def grade(messages: list[dict[str, Any]]) -> str:
        if backend == "opencompass":
            return "A"
        return "[Begin Correctness]yes[End Correctness][Begin Reason]so it is[End Reason]"

    if backend == "vlmeval":
        data = tmp_path / "vqa.tsv"
        rows = "".join(f"{i}\tWhat is {i} and {i}?\t{2 * i}\n" for i in range(n))
        data.write_text(f"index\tquestion\tanswer\n{rows}")
        dataset = {"name": "vqa", "path": str(data), "format": "vqa", "scorer": "judge"}
    else:
        data = tmp_path / "data" / "aime.jsonl"
        data.parent.mkdir()
        sums = [{"origin_prompt": f"What is {i} and {i}?", "gold_answer": 2 * i} for i in range(n)]
        data.write_text("".join(json.dumps(s) + "\n" for s in sums))
        monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
        dataset = {"name": "sums", "dataset": f"opencompass:{SUMS}"}
    with (
        Endpoint(answer=lambda messages: "two") as served,
        Endpoint(models=None, on_request=note, answer=grade) as judge,
    ):
        path = _config(
            tmp_path, served.url, dataset, model={"model": "evalshim-demo"},
            judge={"model": "j", "api_base": judge.url, "nproc": 2},
        )  # fmt: skip
        command = subprocess.Popen([SHIM, "run", path, "--no-preflight"], cwd=tmp_path)
        assert chaos.wait_until(lambda: sum(asked.values()) > 6, 60)
        command.kill()
        command.wait()
        released.set()
        assert chaos.wait_until(lambda: not chaos.left_of(tmp_path))
        assert sum(asked.values()) < n
        done = shim("resume", "--no-preflight", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    [row] = [r for r in json.loads(done.stdout)["rows"] if r["is_primary"]]
    assert (row["scorer"], row["score"], row["n_judge_failed"]) == ("j", 1.0, 0)
    assert len(asked) == n
    assert sum(asked.values()) <= n + 2  # those in flight


def test_a_worker_without_memory_fails_its_cell_alone(tmp_path: Path) -> None:
    plugin = tmp_path / "hungry.py"
    plugin.write_text(
        "import resource\n"
        "from vlmeval.dataset import CustomTextMCQDataset as Set\n"
        "evaluate = Set.evaluate\n"
        "def hungry(self, *args, **kwargs):\n"
        "    if 'big' in self.dataset_name:\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "        self.all = bytearray(2**32)\n"
        "    return evaluate(self, *args, **kwargs)\n"
        "Set.evaluate = hungry\n"
    )
    sets = [_questions(tmp_path / f"{name}.tsv", 2) for name in ("big", "small")]
    with Endpoint(models=None, answer=lambda messages: "A") as served:
        path = _config(tmp_path, served.url, *sets, plugins=[str(plugin)])
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    found = _rows(done)
    assert done.returncode == 1
    assert "MemoryError" in found["big"]["error"]
    assert found["small"]["status"] == "scored"


def test_a_redirect_leads_nowhere_with_a_key(tmp_path: Path) -> None:
    """Shown in full by the tests of transport; here: the run says what it got."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/chat/completions"

    def reply(_: int, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", elsewhere)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with _serving(reply) as url:
        path = _config(tmp_path, url, _questions(tmp_path / "one.tsv", 4), retries=0)
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    assert done.returncode == 1
    assert _rows(done)["one"]["n_failed"] == 4
