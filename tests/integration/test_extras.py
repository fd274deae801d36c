"""`pip install 'evalshim[vlmeval,opencompass]'`: no managed environment, both upstreams import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from evalshim import pip_settings
from evalshim.envs import PINS

ROOT = Path(__file__).parents[2]
UV = find_uv_bin()


def test_both_extras_import_in_one_environment(tmp_path: Path) -> None:
    env = {**os.environ, **pip_settings.for_uv(os.environ), "EVALSHIM_HOME": str(tmp_path / "none")}
    venv = tmp_path / "venv"
    # The override keeps the test from needing libGL, as a server has none.
    install = [UV, "pip", "install", "--quiet", "--python", venv / "bin" / "python"]
    install += ["--overrides", PINS / "overrides.txt", "opencv-python-headless"]
    for argv in (
        [UV, "venv", "--quiet", "--python", sys.executable, venv],
        [*install, f"{ROOT}[vlmeval,opencompass]"],
    ):
        done = subprocess.run(argv, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    done = subprocess.run(
        [venv / "bin" / "shim", "doctor", "--json"], env=env, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for backend in json.loads(done.stdout)["backends"]:
        assert backend["usable"]
        assert backend["reason"] == "the running interpreter has it installed"
    listed = subprocess.run(
        [venv / "bin" / "shim", "list", "datasets", "demo"], env=env, capture_output=True, text=True
    )
    assert "demo_shapes" in listed.stdout
