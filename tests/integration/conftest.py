"""The real upstreams in managed environments, and an endpoint that remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo.endpoint import Endpoint
from evalshim.endpoints import USER_AGENT
from tests.conftest import HEEDED

SHIM = Path(sys.executable).with_name("shim")
DEMO_DATA = Path(__file__).parents[2] / "evalshim" / "demo" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.upstream)


def shim(
    *args: object, cwd: Path, timeout: float = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the `shim` command to its end."""
    return subprocess.run(
        [SHIM, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@contextlib.contextmanager
def without_heeded() -> Iterator[None]:
    """Without the variables that name judges and data."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in HEEDED:
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session")
def environments() -> dict[str, Path]:
    """The Python of each managed environment; made by `shim setup` where it is not there."""
    done = subprocess.run([SHIM, "setup"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from evalshim import envs

    return {b: Path(envs.python_of(envs.prefix(b))) for b in ("vlmeval", "opencompass")}


@pytest.fixture(autouse=True)
def _environments(environments: dict[str, Path]) -> None:
    """Every test here needs them."""


def of_the_run(note: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Notes what a run asks an endpoint, and not what is asked before it starts."""

    def of_run(request: dict[str, Any]) -> None:
        if USER_AGENT not in request["headers"].values():
            note(request)

    return of_run


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    """The requests that `endpoint` received."""
    return []


@pytest.fixture
def endpoint(asked: list[dict[str, Any]]) -> Iterator[Endpoint]:
    with Endpoint(on_request=of_the_run(asked.append)) as served:
        yield served


def bodies(asked: list[dict[str, Any]]) -> list[str]:
    """What was asked, pictures included, in an order that does not depend on threads."""
    return sorted(json.dumps(request["body"], sort_keys=True) for request in asked)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The rows that `shim run --json` printed."""
    return json.loads(done.stdout)["rows"]  # type: ignore[no-any-return]


@pytest.fixture
def config(tmp_path: Path, endpoint: Endpoint) -> Callable[..., Path]:
    """Writes a configuration for one model behind `endpoint`."""

    def write(*datasets: Any, model: dict[str, Any] | None = None, **keys: Any) -> Path:
        served = {"name": "m", "api_base": endpoint.url, "model": "evalshim-demo", "temperature": 0}
        path = tmp_path / "eval.json"
        path.write_text(
            json.dumps({"models": [{**served, **(model or {})}], "datasets": [*datasets], **keys})
        )
        return path

    return write
