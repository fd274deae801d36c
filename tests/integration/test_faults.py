"""Models that fail for none, some or all samples, in every way that an endpoint can fail.

One run for each upstream has them all: a cell a model. A sample that fails does so at every call.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import as_base64, picture

from .conftest import rows, shim, without_heeded
from .faulty import FAULTS, SHARES, Faulty
from .own_data import tsv

pytestmark = pytest.mark.timeout(900)

N = 20
# The samples that fail at 10 %.
FAILING = (3, 13)
# What a reason says of each fault.
SAID = {
    "401": r"\b401\b",
    "404": r"\b404\b",
    "429": r"\b429\b",
    "500": r"\b500\b",
    "timeout": r"time[ds]?[ -]?out",
    "cut": r"connection|incomplete|closed|reset|broken|prematurely",
    "empty_choices": r"choices|empty|no (content|answer)",
    "null_content": r"null|none|empty|no (content|text|answer)",
    "html": r"html|json|decod|proxy",
    "refused": r"refused|connect",
}
BACKENDS = ("vlmeval", "opencompass")


@dataclass
class Ran:
    """A run, what it printed and wrote, and what its models were asked."""

    backend: str
    done: subprocess.CompletedProcess[str]
    folder: Path
    faulty: Faulty
    rows: list[dict[str, Any]] = field(init=False, repr=False)
    samples: list[dict[str, Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assert self.done.stdout, self.done.stderr
        self.rows = rows(self.done)
        lines = (self.folder / "outputs" / "latest" / "samples.jsonl").read_text().splitlines()
        self.samples = [json.loads(line) for line in lines]

    def primary(self, kind: str, share: int) -> dict[str, Any]:
        """The row of a cell that counts; of a cell without a score its only one."""
        own = [r for r in self.rows if r["model"] == name(kind, share)]
        assert own, f"no row of {name(kind, share)}"
        return next((r for r in own if r["is_primary"]), own[0])

    def of(self, kind: str, share: int) -> dict[int, dict[str, Any]]:
        """The samples of a cell, by their numbers."""
        own = [s for s in self.samples if s["model"] == name(kind, share)]
        numbers = [int(re.findall(r"number (\d+)", s["question"])[-1]) for s in own]
        assert len({*numbers}) == len(numbers)
        return dict(zip(numbers, own, strict=True))

    def calls(self, kind: str, share: int) -> Counter[int]:
        """How often each sample was asked."""
        return Counter(a["sample"] for a in self.faulty.of(kind, share))


def name(kind: str, share: int) -> str:
    return kind if kind in ("ok", "refused") else f"m-{kind}-{share}"


def model(faulty: Faulty, kind: str, share: int) -> dict[str, Any]:
    base = faulty.refused if kind == "refused" else faulty.url(kind, share)
    return {
        "name": name(kind, share), "model": "m", "api_base": base, "key": "EMPTY", "retry": 1,
        "timeout": 2 if kind == "timeout" else 30,
    }  # fmt: skip


def question(k: int) -> str:
    return f"What is number {k}?"


def options(k: int) -> dict[str, str]:
    return {"A": "red", "B": "green", "C": "blue", "D": "white", "answer": "AB"[k % 2]}


def data(folder: Path, backend: str) -> dict[str, Any]:
    """An entry with 20 questions; the first option is right of those with even numbers."""
    if backend == "opencompass":
        path = folder / "twenty.jsonl"
        lines = [json.dumps({"question": question(k), **options(k)}) for k in range(N)]
        if not path.exists():  # others may read it
            path.write_text("\n".join(lines) + "\n")
        return {"name": "twenty", "path": str(path), "format": "opencompass_mcq"}
    columns = ["index", "image", "question", *options(0)]
    table = [[k, as_base64(picture()), question(k), *options(k).values()] for k in range(N)]
    path = folder / "twenty.tsv"
    if not path.exists():  # others may read it
        tsv(path, columns, table)
    return {"name": "twenty", "path": str(path), "format": "mcq"}


def run(
    folder: Path,
    backend: str,
    faulty: Faulty,
    models: list[tuple[str, int]],
    *flags: object,
    config: str = "eval.json",
    served: Sequence[dict[str, Any]] = (),
) -> Ran:
    with without_heeded():
        asked = [*(model(faulty, kind, share) for kind, share in models), *served]
        # Nobody waits for what is to be dead.
        written = {"models": asked, "datasets": [data(folder, backend)], "patience": 0}
        (folder / config).write_text(json.dumps(written))
        done = shim("run", config, "--no-preflight", "--json", *flags, cwd=folder, timeout=800)
    return Ran(backend, done, folder, faulty)


@pytest.fixture(scope="module", params=BACKENDS)
def ran(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    environments: dict[str, Path],
) -> Iterator[Ran]:
    models = [(kind, share) for kind in FAULTS for share in SHARES]
    with Faulty() as faulty:
        folder = tmp_path_factory.mktemp(request.param)
        yield run(folder, request.param, faulty, [("ok", 0), ("refused", 100), *models])


def test_the_run_ends_with_1_and_without_a_stack_trace(ran: Ran) -> None:
    assert ran.done.returncode == 1
    assert "Traceback" not in ran.done.stderr
    assert len({r["model"] for r in ran.rows}) == 2 + len(FAULTS) * len(SHARES)
    assert "-" not in {r["value"] for r in ran.rows}


@pytest.mark.parametrize("kind", ["ok", *FAULTS])
def test_where_nothing_fails(ran: Ran, kind: str) -> None:
    row = ran.primary(kind, 0)

    assert (row["status"], row["error"]) == ("scored", "")
    assert (row["n"], row["n_failed"], row["n_judge_failed"]) == (N, 0, 0)
    assert row["score"] == pytest.approx(0.5)
    assert not row["judge_fallback"]
    samples = ran.of(kind, 0)
    assert len(samples) == N
    assert {(s["prediction"], s["error"]) for s in samples.values()} <= {("A", ""), ("A", None)}
    assert ran.calls(kind, 0) == dict.fromkeys(range(N), 1)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_tenth_that_fails_is_counted(ran: Ran, kind: str) -> None:
    row = ran.primary(kind, 10)

    assert row["status"] == "scored", row["error"]
    assert (row["n"], row["n_failed"]) == (N, len(FAILING))
    assert row["value"] not in (None, "", "-")
    # Those that fail would have been wrong.
    assert row["score"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", FAULTS)
def test_the_samples_that_failed_say_why(ran: Ran, kind: str) -> None:
    samples = ran.of(kind, 10)

    assert len(samples) == N
    assert {k for k, s in samples.items() if s["prediction"] is None} == {*FAILING}
    assert {s["prediction"] for k, s in samples.items() if k not in FAILING} == {"A"}
    assert {k for k, s in samples.items() if s["error"]} == {*FAILING}
    for k in FAILING:
        assert re.search(SAID[kind], samples[k]["error"], re.IGNORECASE), samples[k]["error"]
        assert "Traceback" not in samples[k]["error"]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_failed_is_asked_once_more_at_the_end(ran: Ran, kind: str) -> None:
    calls = ran.calls(kind, 10)
    asked = [a["sample"] for a in ran.faulty.of(kind, 10)]
    first = {k: asked.index(k) for k in range(N)}

    assert {k: calls[k] for k in range(N) if k not in FAILING} == {
        k: 1 for k in range(N) if k not in FAILING
    }
    for k in FAILING:
        # A call of upstream's is one request, or three where its client tries twice again.
        assert calls[k] in (2, 6), calls
        last = len(asked) - 1 - asked[::-1].index(k)
        assert last > max(first.values())


@pytest.mark.parametrize("kind", [*FAULTS, "refused"])
def test_a_model_that_answers_nothing_fails_its_cell(ran: Ran, kind: str) -> None:
    row = ran.primary(kind, 100)

    assert row["status"] == "failed"
    assert (row["n"], row["n_failed"]) == (N, N)
    assert (row["metric"], row["value"]) == ("", None)
    base = ran.faulty.refused if kind == "refused" else ran.faulty.url(kind, 100)
    assert base in row["error"]
    said = row["error"].replace(base, "")
    assert re.search(SAID[kind], said, re.IGNORECASE), said
    assert {s["prediction"] for s in ran.of(kind, 100).values()} <= {None}


@pytest.mark.parametrize("kind", FAULTS)
def test_where_nothing_was_answered_nothing_is_asked_again(ran: Ran, kind: str) -> None:
    calls = ran.calls(kind, 100)

    assert calls
    assert max(calls.values()) <= 3


@pytest.fixture(scope="module")
def codes(ran: Ran) -> dict[str, int]:
    """The exit codes of runs over what is there, of one fault at 10 % each, and of all with leave.

    A run of OpenCompass takes ten seconds; there one stands for all.
    """
    faults = FAULTS if ran.backend == "vlmeval" else ("500",)
    models = {kind: [(kind, 10)] for kind in faults} | {"all": [(kind, 10) for kind in FAULTS]}
    asked = len(ran.faulty.asked)

    def code(kind: str) -> int:
        leave = ("--fail-on", len(FAILING)) if kind == "all" else ()
        again = ("--mode", "eval", *leave)
        done = run(ran.folder, ran.backend, ran.faulty, models[kind], *again, config=f"{kind}.json")
        return done.done.returncode

    # For all at once: what one run puts back would be there for another.
    with without_heeded(), ThreadPoolExecutor(3) as pool:
        found = dict(zip(models, pool.map(code, models), strict=True))
    assert len(ran.faulty.asked) == asked
    return found


def test_a_tenth_that_fails_ends_a_run_with_1_unless_allowed(codes: dict[str, int]) -> None:
    assert codes.pop("all") == 0
    assert {*codes.values()} == {1}


class Closing(ThreadingHTTPServer):
    """An endpoint that closes its listening socket with the answer to its last request.

    Args:
        alive: How many requests it answers.
    """

    daemon_threads = True

    def __init__(self, alive: int) -> None:
        self.left = alive
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Closing)

    def __enter__(self) -> Closing:
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Closing(BaseHTTPRequestHandler):
    server: Closing

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.left -= 1
            if self.server.left == 0:
                self.server.shutdown()
                self.server.socket.close()
        message = {"role": "assistant", "content": "A"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                           "choices": [choice]}).encode()  # fmt: skip
        # HTTP/1.0: each request is a connection of its own.
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_endpoint_that_refuses_the_last_of_its_calls(
    tmp_path: Path, environments: dict[str, Path], backend: str, lost: int
) -> None:
    with Faulty() as faulty, Closing(N - lost if lost else N + 1) as closing:
        base = f"http://127.0.0.1:{closing.server_address[1]}/v1"
        served = {**model(faulty, "ok", 0), "api_base": base, "concurrency": 1}
        ran = run(tmp_path, backend, faulty, [], served=[served])

    assert ran.done.returncode == (1 if lost else 0), ran.done.stderr
    row = ran.primary("ok", 0)
    assert row["status"] == "scored", row["error"]
    assert (row["n"], row["n_failed"]) == (N, lost)
    samples = ran.of("ok", 0).values()
    failed = [s for s in samples if s["prediction"] is None]
    assert len(failed) == lost
    for sample in failed:
        assert re.search(SAID["refused"], sample["error"], re.IGNORECASE), sample["error"]


# tests/test_live.py has the arithmetic of a fraction.


@pytest.mark.parametrize(
    ("backend", "flags", "code"),
    [("vlmeval", ("--fail-on", 2), 0), ("opencompass", ("--fail-on", 0.05), 1)],
)
def test_fail_on_decides_over_the_exit_code(
    tmp_path: Path, backend: str, flags: tuple[object, ...], code: int
) -> None:
    with Faulty() as faulty:
        ran = run(tmp_path, backend, faulty, [("ok", 0), ("500", 0), ("401", 10)], *flags)

        assert ran.done.returncode == code, ran.done.stderr
        assert [ran.primary(*m)["n_failed"] for m in (("ok", 0), ("500", 0), ("401", 10))] == [
            0, 0, 2,
        ]  # fmt: skip
        if code:
            asked = len(faulty.asked)
            again = ["run", "eval.json", "--mode", "eval", "--no-preflight", "--json"]
            allowed = shim(*again, "--fail-on", 0.2, cwd=tmp_path)
            assert allowed.returncode == 0, allowed.stderr
            assert len(faulty.asked) == asked
