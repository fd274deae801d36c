"""How a run behaves while it runs: parallel calls, bars on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint

from .conftest import SHIM, shim


class _Gauge:
    """An answer that takes its time and notes how many are under way."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.full = threading.Event()

    def __call__(self, messages: list[dict[str, Any]]) -> str:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 5:
                self.full.set()
        self.full.wait(timeout=1)
        with self.lock:
            self.now -= 1
        return answers.answer(messages)


@pytest.mark.parametrize("dataset", ["demo_shapes", "demo_gsm8k"])
def test_as_many_calls_at_once_as_asked_for(tmp_path: Path, dataset: str) -> None:
    gauge = _Gauge()
    with Endpoint(answer=gauge) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--data", dataset,
            "--concurrency", 5, cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert gauge.most == 5


def test_a_terminal_shows_bars_and_stdout_only_the_table(tmp_path: Path) -> None:
    with Endpoint(latency=0.3) as endpoint:
        returncode, shown, stdout = _on_a_terminal(tmp_path, endpoint)

    assert returncode == 0, shown
    assert "starting VLMEvalKit" in shown
    assert re.search(r"━.*[1-6]/6", shown)
    assert "evalshim-demo x demo_shapes: scored, acc " in shown
    assert stdout.splitlines()[0].startswith("dataset")
    assert "\x1b" not in stdout


def _on_a_terminal(folder: Path, endpoint: Endpoint) -> tuple[int, str, str]:
    """`shim run` with a terminal for its stderr: exit code, what that showed, stdout."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [
            SHIM,
            "run",
            "--model",
            "evalshim-demo",
            "--api-base",
            endpoint.url,
            "--data",
            "demo_shapes",
            "--limit",
            "6",
            "--concurrency",
            "2",
        ],
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(screen, 65536)
        except OSError:  # Linux's end of a terminal
            break
    stdout, _ = process.communicate()
    os.close(screen)

    return process.returncode, shown.decode(errors="replace"), stdout
