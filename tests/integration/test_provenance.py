"""Data that is the published one, by its MD5."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evalshim import envs
from evalshim.demo.endpoint import Endpoint

from .conftest import shim
from .vlmeval_data import write


def _home(folder: Path, environment: Path, md5: str) -> Path:
    """The managed environment of VLMEvalKit, whose catalogue has another MD5 for MMStar."""
    place = folder / "envs" / "vlmeval"
    place.mkdir(parents=True)
    for path in environment.iterdir():
        if path.name != envs.CATALOGUE:
            (place / path.name).symlink_to(path)
    catalogue = json.loads((environment / envs.CATALOGUE).read_text())
    catalogue["datasets"]["SEEDBench_IMG"]["md5"] = md5
    (place / envs.CATALOGUE).write_text(json.dumps(catalogue))
    return folder


@pytest.mark.parametrize("same", [True, False])
def test_a_published_file_is_said_to_be_one(
    tmp_path: Path,
    environments: dict[str, Path],
    endpoint: Endpoint,
    config: Callable[..., Path],
    same: bool,
) -> None:
    write("SEEDBench_IMG", tmp_path / "LMUData")
    file = tmp_path / "LMUData" / "SEEDBench_IMG.tsv"
    md5 = hashlib.md5(file.read_bytes()).hexdigest() if same else "0" * 32
    home = _home(tmp_path / "home", environments["vlmeval"].parents[1], md5)

    # Upstream holds the file against a list of its own.
    path = config("vlmeval:SEEDBench_IMG", limit=2, verify_data="off")
    done = shim(
        "run", path, "--json", cwd=tmp_path, EVALSHIM_HOME=str(home),
        LMUData=str(tmp_path / "LMUData"),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    header = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())
    [cell] = header["cells"].values()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert cell["data"] == [{"path": str(file), "sha256": sha256, "published": same}]
