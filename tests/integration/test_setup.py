"""`shim setup` and `shim doctor` with real installs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from .conftest import SHIM, shim


def _setup(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SHIM, "setup", "opencompass"],
        env={**os.environ, "EVALSHIM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_one_that_is_killed_leaves_nothing_and_two_at_once_make_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    killed = _setup(home)
    for _ in range(600):
        if list(home.glob("envs/.opencompass-*/lib/python3.*/site-packages/*.dist-info")):
            break
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (home / "envs" / "opencompass").exists()
    listed = shim("list", "backends", "open", cwd=tmp_path, EVALSHIM_HOME=str(home))
    assert "not set up: shim setup opencompass" in listed.stdout

    first = _setup(home)
    while not (home / "envs" / f".opencompass-{first.pid}").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    second = _setup(home)
    out, _ = first.communicate()
    waited, said = second.communicate()

    assert first.returncode == second.returncode == 0
    assert out == waited
    assert "opencompass 0.5.4" in out
    assert f"waiting for another set-up (process {first.pid})" in said
    assert "installing" not in said
    assert sorted(p.name for p in (home / "envs").iterdir()) == [".opencompass.lock", "opencompass"]
    # The commands of an environment that was moved into place run there.
    command = home / "envs" / "opencompass" / "bin" / "opencompass"
    assert command.read_text(errors="replace").startswith("#!/bin/sh")


def test_doctor_finds_both_backends_usable(tmp_path: Path) -> None:
    done = shim("doctor", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert [b["usable"] for b in found["backends"]] == [True, True]
    assert all(b["reason"] == "the managed environment" for b in found["backends"])
    assert found["disk_free"] > 0
    assert set(found["data"]) == {"LMUData", "COMPASS_DATA_CACHE"}


def test_doctor_exits_3_where_there_is_no_environment(tmp_path: Path) -> None:
    done = shim("doctor", cwd=tmp_path, EVALSHIM_HOME=str(tmp_path / "none"))

    assert done.returncode == 3
    assert "vlmeval: NOT USABLE" in done.stdout
    assert "shim setup vlmeval" in done.stdout
