"""What a run promises whatever the endpoint, the names or upstream's own ideas are."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint

from .conftest import DEMO_DATA, rows, shim

KEY = "sk-canary-0987654321"


class _Echo(http.server.BaseHTTPRequestHandler):
    """An endpoint that refuses every call and repeats the key it was sent."""

    def do_POST(self) -> None:
        body = json.dumps(
            {"error": {"message": f"bad key {self.headers['Authorization']}"}}
        ).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_key_that_the_endpoint_repeats_is_in_no_file_and_no_reason(
    tmp_path: Path, echo: str
) -> None:
    done = shim(
        "run", "--model", "m", "--api-base", echo, "--data", "demo_shapes", "--data", "demo_arc",
        "--limit", 2, "--set", "models.0.key_env=CANARY", "--set", "models.0.retry=1", "--json",
        "--no-preflight", cwd=tmp_path, CANARY=KEY,
    )  # fmt: skip

    assert done.returncode == 1
    assert [r["status"] for r in rows(done)] == ["failed", "failed"]
    assert any("401" in r["error"] and "bad key Bearer ***" in r["error"] for r in rows(done))
    assert KEY not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_the_address_that_was_given_is_the_one_that_is_asked(
    tmp_path: Path, endpoint: Endpoint, asked: list[dict[str, Any]]
) -> None:
    """OpenAIWrapper has an address of its own for ids with `ernie` in them (0.0.20)."""
    done = shim(
        "run", "--model", "ernie-4.5-vl", "--api-base", endpoint.url, "--data", "demo_shapes",
        "--limit", 2, "--set", "models.0.retry=1", "--no-preflight", cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 1
    assert {request["body"]["model"] for request in asked} == {"ernie-4.5-vl"}
    assert "404" in done.stdout


def test_one_configuration_over_several_data_files(
    tmp_path: Path, config: Callable[..., Path]
) -> None:
    lines = (DEMO_DATA / "gsm8k" / "test.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("first", lines[:4]), ("second", lines[4:10])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(lines[:2]))
        (tmp_path / name / "test.jsonl").write_text("".join(part))
    path = config(
        {"name": "first", "dataset": "gsm8k", "path": "first"}, "demo_shapes",
        {"name": "second", "dataset": "gsm8k", "path": "second"}, "demo_gsm8k",
        {"name": "again", "dataset": "demo_shapes"}, limit=8,
    )  # fmt: skip

    done = shim("run", path, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    counts = [(r["dataset"], r["n"]) for r in rows(done) if r["is_primary"]]
    # In the order of the configuration, whichever upstream was done first.
    assert counts == [
        ("first", 4), ("demo_shapes", 8), ("second", 6), ("demo_gsm8k", 8), ("again", 8),
    ]  # fmt: skip


def test_a_file_under_a_name_of_upstreams_is_left_alone(
    tmp_path: Path, config: Callable[..., Path]
) -> None:
    own = tmp_path / "mine.tsv"
    shutil.copy(DEMO_DATA / "shapes.tsv", own)
    before = hashlib.md5(own.read_bytes()).hexdigest()

    for name in ("MMStar", "A-Bench_VAL"):  # a registered name, and one of the catalogue's
        done = shim("run", config({"name": name, "path": str(own)}), cwd=tmp_path)

        assert done.returncode == 2
        assert name in done.stderr
        assert "another `name`" in done.stderr
    assert hashlib.md5(own.read_bytes()).hexdigest() == before


def test_both_upstreams_share_what_an_endpoint_may_get_at_once(tmp_path: Path) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def slow(messages: list[dict[str, Any]]) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.3)
        with lock:
            under_way -= 1
        return answers.answer(messages)

    with Endpoint(answer=slow) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--concurrency", 6,
            "--data", "demo_shapes", "--data", "demo_gsm8k", cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert 3 <= most <= 6


def test_empty_answers_are_unanswered_samples(tmp_path: Path) -> None:
    with Endpoint(answer=lambda messages: "") as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--limit", 3,
            "--data", "demo_arc", "--json", cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 1
    assert [(r["status"], r["n"], r["n_failed"]) for r in rows(done)] == [("failed", 3, 3)]


def test_nothing_is_written_beside_the_run(tmp_path: Path, config: Callable[..., Path]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()

    done = shim("run", config("demo_shapes", "demo_gsm8k", limit=2), cwd=folder)

    assert done.returncode == 0, done.stderr
    assert [p.name for p in folder.iterdir()] == ["outputs"]


def test_odd_names_of_models_and_folders(tmp_path: Path, endpoint: Endpoint) -> None:
    folder = tmp_path / "a b é 数"
    folder.mkdir()
    path = folder / "eval.yaml"
    names = ["org/mödel:1,x", "模" * 90]
    models = [{"name": n, "api_base": endpoint.url, "model": "evalshim-demo"} for n in names]
    path.write_text(
        json.dumps({"models": models, "datasets": ["demo_shapes", "demo_arc"], "limit": 2})
    )

    done = shim("run", path, "--json", cwd=folder)

    assert done.returncode == 0, done.stderr
    assert {r["model"] for r in rows(done)} == set(names)
    assert {r["status"] for r in rows(done)} == {"scored"}
