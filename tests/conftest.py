"""What many tests need: data files with real pictures, and the `shim` command as a process."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evalshim import catalogue, envs, registry

from .catalogues import KNOWN

SHIM = Path(sys.executable).with_name("shim")
ANIMALS = ("cat", "dog", "cow", "hen", "fox", "owl")
HEEDED = (
    "OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM", "LMUData", "COMPASS_DATA_CACHE",
    "DATASET_SOURCE",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "black", "white", "orange")


def picture(colour: str = "red", form: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture as the bytes of its file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(autouse=True)
def _machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without managed environments, and without variables that a run heeds."""
    if request.node.get_closest_marker("upstream"):
        return
    monkeypatch.setenv("EVALSHIM_HOME", str(tmp_path / "no-environments"))
    for name in HEEDED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tsv(tmp_path: Path) -> Callable[..., Path]:
    """Writes a multiple-choice TSV that VLMEvalKit can read: `tsv(3, image=[...], drop=["A"])`.

    A keyword is a column: it replaces one of the valid columns, or is added behind them.
    """

    def write(
        rows: int = 3,
        *,
        name: str = "pets.tsv",
        drop: Sequence[str] = (),
        encoding: str = "utf-8",
        newline: str = "\n",
        quoting: int = csv.QUOTE_MINIMAL,
        **columns: Sequence[str],
    ) -> Path:
        table: dict[str, Sequence[str]] = {
            "index": [str(i) for i in range(rows)],
            "question": [f"Which animal is number {i}?" for i in range(rows)],
            "A": [ANIMALS[i % 6] for i in range(rows)],
            "B": [ANIMALS[(i + 1) % 6] for i in range(rows)],
            "answer": ["A"] * rows,
            "image": [as_base64(picture(COLOURS[i % 6])) for i in range(rows)],
        }
        table = {key: value for key, value in {**table, **columns}.items() if key not in drop}
        path = tmp_path / name
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator=newline, quoting=quoting)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        return path

    return write


@pytest.fixture
def shim(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the `shim` command to its end, on a machine without managed environments.

    Keywords are environment variables; None takes a variable away.
    """

    def run(
        *args: object, cwd: Path = tmp_path, timeout: float = 60, **variables: str | None
    ) -> subprocess.CompletedProcess[str]:
        merged = {**os.environ, "EVALSHIM_HOME": str(tmp_path / "no-environments"), **variables}
        return subprocess.run(
            [str(SHIM), *map(str, args)],
            cwd=cwd,
            env={key: value for key, value in merged.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def broken_upstream(tmp_path: Path) -> dict[str, str]:
    """Variables under which any Python finds upstreams that do not import."""
    folder = tmp_path / "broken"
    for name in ("vlmeval", "opencompass", "mmengine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('this build is broken')\n")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def installed(tmp_path: Path, broken_upstream: dict[str, str]) -> Path:
    """A home with both environments, complete as their files say; no upstream imports there."""
    home = tmp_path / "home"
    health = envs.Health("upstream", "0.0.1", "3.11.7", None, 1.0)
    for backend in registry.BACKENDS:
        folder = home / "envs" / backend
        python = folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        variable = f"PYTHONPATH='{broken_upstream['PYTHONPATH']}'"
        python.write_text(f'#!/bin/sh\n{variable} exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        state = envs.State("abc", None, None, 1, 1, health)
        (folder / envs.STATE).write_text(json.dumps(asdict(state)))
        catalogue.write(folder / envs.CATALOGUE, backend, KNOWN[backend])
    return home


@pytest.fixture
def upstreams(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both upstreams are `installed` as far as this process can see."""
    monkeypatch.setenv("EVALSHIM_HOME", str(installed))
    return installed


@pytest.fixture
def served() -> dict[str, Any]:
    """The model of a configuration; nothing listens at its address."""
    return {"name": "m", "api_base": "http://127.0.0.1:9/v1"}
