"""What happens to a run when an endpoint, a worker or the command itself goes away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint

from .conftest import SHIM, rows, shim


def test_a_dead_endpoint_fails_its_cells_and_no_other(
    tmp_path: Path, endpoint: Endpoint, config: Callable[..., Path]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    path = config("demo_shapes", "demo_arc", limit=8)
    spec = json.loads(path.read_text())
    dead = {"name": "dead", "api_base": f"http://127.0.0.1:{port}/v1", "retry": 1}
    path.write_text(json.dumps({**spec, "models": [*spec["models"], dead]}))

    done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = {(r["model"], r["dataset"]): r for r in rows(done) if r["subset"] in ("overall", "")}
    assert len(found) == 4
    for dataset in ("demo_shapes", "demo_arc"):
        assert found["m", dataset]["status"] == "scored"
        failed = found["dead", dataset]
        assert failed["status"] == "failed"
        assert f"http://127.0.0.1:{port}/v1" in failed["error"]
        assert failed["metric"] == ""
        assert failed["value"] is None


def test_an_endpoint_that_refuses_pictures_leaves_the_text_sets(tmp_path: Path) -> None:
    def refuse_pictures(messages: list[dict[str, Any]]) -> str:
        if isinstance(messages[-1]["content"], list):
            raise ConnectionAbortedError("no pictures here")
        return answers.answer(messages)

    with Endpoint(answer=refuse_pictures) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--limit", 8,
            "--data", "demo_shapes", "--data", "demo_gsm8k", "--data", "demo_arc",
            "--set", "models.0.retry=1", "--no-preflight", "--json", cwd=tmp_path,
        )  # fmt: skip

        assert done.returncode == 1
        found = {r["dataset"]: r for r in rows(done)}
        assert found["demo_shapes"]["status"] == "failed"
        assert endpoint.url in found["demo_shapes"]["error"]
        assert found["demo_shapes"]["n_failed"] == found["demo_shapes"]["n"] == 8
        assert found["demo_gsm8k"]["status"] == found["demo_arc"]["status"] == "scored"


def test_a_few_unanswered_samples_are_counted_and_fail_the_run_unless_allowed(
    tmp_path: Path,
) -> None:
    def sometimes(messages: list[dict[str, Any]]) -> str:
        if "square" in str(messages[-1]["content"][-1]):
            raise ConnectionAbortedError("not this one")
        return answers.answer(messages)

    with Endpoint(answer=sometimes) as endpoint:
        command = [
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url,
            "--data", "demo_shapes", "--set", "models.0.retry=1",
        ]  # fmt: skip
        strict = shim(*command, "--json", cwd=tmp_path)
        overall = next(r for r in rows(strict) if r["subset"] == "overall")
        assert strict.returncode == 1
        assert overall["status"] == "scored"
        assert 0 < overall["n_failed"] < 48
        samples = (tmp_path / "outputs" / "latest" / "samples.jsonl").read_text().splitlines()
        unanswered = [s for s in map(json.loads, samples) if s["prediction"] is None]
        assert len(unanswered) == overall["n_failed"]

        allowed = shim(*command, "--fail-on", overall["n_failed"], cwd=tmp_path)
        assert allowed.returncode == 0
        assert f"{overall['n_failed']}/48" in allowed.stdout


def _start(folder: Path, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SHIM, "run", path, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup it would be ignored, as the run should then.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def _answered(folder: Path, process: subprocess.Popen[str]) -> Path:
    """The run directory of `process`, once its first answer is in."""
    for _ in range(1200):
        for events in folder.glob("outputs/*/events.jsonl"):
            if '"done": 1,' in events.read_text():
                return events.parent
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no answer in 120 s")


def _workers(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(entry.name))
    return found


def test_a_killed_worker_fails_its_cells_with_the_signal(tmp_path: Path) -> None:
    with Endpoint(latency=0.5) as endpoint:
        path = tmp_path / "eval.json"
        served = {"name": "m", "api_base": endpoint.url, "model": "evalshim-demo", "concurrency": 1}
        path.write_text(json.dumps({"models": [served], "datasets": ["demo_gsm8k", "demo_arc"]}))
        process = _start(tmp_path, path)
        run = _answered(tmp_path, process)
        [worker] = _workers(process.pid)
        os.kill(worker, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "Traceback" not in stderr
    found = json.loads(stdout)["rows"]
    assert [r["status"] for r in found] == ["failed", "failed"]
    assert all("signal SIGKILL" in r["error"] for r in found)
    header = json.loads((run / "run.json").read_text())
    assert (header["status"], header["exit_code"]) == ("finished", 1)


def test_workers_end_when_the_command_is_killed(tmp_path: Path) -> None:
    with Endpoint(latency=0.5) as endpoint:
        path = tmp_path / "eval.json"
        served = {"name": "m", "api_base": endpoint.url, "model": "evalshim-demo", "concurrency": 1}
        path.write_text(json.dumps({"models": [served], "datasets": ["demo_gsm8k"]}))
        process = _start(tmp_path, path)
        _answered(tmp_path, process)
        [worker] = _workers(process.pid)
        process.kill()
        process.communicate()
        for _ in range(100):
            if not Path(f"/proc/{worker}").exists():
                break
            time.sleep(0.1)

    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_a_valid_run_and_exit_code_130(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Endpoint(latency=0.5) as endpoint:
        path = tmp_path / "eval.json"
        served = {"name": "m", "api_base": endpoint.url, "model": "evalshim-demo", "concurrency": 1}
        path.write_text(json.dumps({"models": [served], "datasets": ["demo_gsm8k"]}))
        process = _start(tmp_path, path)
        run = _answered(tmp_path, process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert not _workers(process.pid)


def test_the_key_reaches_the_endpoint_and_no_file(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    key = "sk-canary-1234567890"
    path = config("demo_shapes", "demo_arc", model={"key_env": "CANARY"}, limit=2)

    done = shim("run", path, cwd=tmp_path, CANARY=key)

    assert done.returncode == 0, done.stderr
    sent = [{k.lower(): v for k, v in r["headers"].items()}["authorization"] for r in asked]
    assert set(sent) == {f"Bearer {key}"}
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 15
    assert not [p for p in files if key.encode() in p.read_bytes()]
    assert key not in done.stdout + done.stderr
