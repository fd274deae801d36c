"""VLMEvalKit's own: data at any path, limits, modes, and the checkout's shape."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalshim import load_run
from evalshim.demo.endpoint import Endpoint

from .conftest import DEMO_DATA, bodies, rows, shim


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The demo's picture set with its pictures as files beside the TSV."""
    folder = tmp_path / "data"
    (folder / "img").mkdir(parents=True)
    with (DEMO_DATA / "shapes.tsv").open() as file:
        records = list(csv.DictReader(file, delimiter="\t"))[:6]
    for number, record in enumerate(records):
        name = f"img/{record['index']}.png"
        (folder / name).write_bytes(base64.b64decode(record.pop("image")))
        record["image_path"] = name if number % 2 else str(folder / name)
    with (folder / "files.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return folder / "files.tsv"


def test_pictures_as_files_are_asked_like_pictures_in_the_file(
    tmp_path: Path, pictures: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    path = config(
        {"name": "files", "path": "data/files.tsv"},
        {"name": "inline", "path": str(DEMO_DATA / "shapes.tsv")},
        limit=6,
    )

    done = shim("run", path, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found = bodies(asked)
    assert len(found) == 12
    assert found[::2] == found[1::2]
    values = {(r["dataset"], r["subset"]): r["value"] for r in rows(done)}
    assert values["files", "overall"] == values["inline", "overall"]
    samples = load_run(tmp_path / "outputs" / "latest").samples
    images = samples[samples["dataset"] == "files"]["images"]
    assert all(Path(image).is_file() for paths in images for image in paths)


def test_a_slice_of_the_data_and_predictions_without_scores(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    path = config("demo_shapes", "demo_arc", limit="[10:14]", mode="infer")

    done = shim("run", path, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert [(r["status"], r["metric"], r["n"]) for r in rows(done)] == [("infer_only", "", 4)] * 2
    samples = load_run(tmp_path / "outputs" / "latest").samples
    shapes = samples[samples["dataset"] == "demo_shapes"]
    assert list(shapes["index"]) == ["10", "11", "12", "13"]
    assert len(asked) == 8


def test_what_the_configuration_says_of_a_model_reaches_the_endpoint(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    model = {
        "model": "auto", "temperature": 0.0, "max_tokens": 77, "top_p": 0.5, "seed": 0,
        "system_prompt": "Be brief.", "img_size": 50, "img_detail": "high",
        "extra_body": {"repetition_penalty": 1.5},
    }  # fmt: skip
    path = config("demo_shapes", "demo_arc", model=model, limit=1)

    done = shim("run", path, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    for request in asked:
        body = request["body"]
        assert body["model"] == "evalshim-demo"
        assert body["max_tokens"] == 77
        assert (body["temperature"], body["top_p"], body["seed"]) == (0.0, 0.5, 0)
        assert body["repetition_penalty"] == 1.5
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    picture = next(
        part["image_url"]
        for request in asked
        for part in request["body"]["messages"][-1]["content"]
        if isinstance(part, dict) and part["type"] == "image_url"
    )
    assert picture["detail"] == "high"


def _commit(tree: Path) -> str:
    """Make a repository of a folder; its commit."""
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "setup.py", "run.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--no-gpg-sign", "-m", "All of it"], check=True)
    said = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return said.stdout.strip()


def test_a_checkout_scores_as_the_indexed_distribution(
    tmp_path: Path, environments: dict[str, Path], endpoint: Endpoint, config: Callable[..., Path]
) -> None:
    """A tree of open-compass/VLMEvalKit's shape: run.py at the root, none of ms-vlmeval's own."""
    [installed] = environments["vlmeval"].parents[1].glob("lib/python3.*/site-packages/vlmeval")
    tree = tmp_path / "VLMEvalKit"
    shutil.copytree(installed, tree / "vlmeval", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "vlmeval" / "run.py").rename(tree / "run.py")
    (tree / "vlmeval" / "__main__.py").unlink()
    (tree / "vlmeval" / "utils" / "arguments.py").unlink()
    api = tree / "vlmeval" / "api" / "__init__.py"
    api.write_text(
        api.read_text().replace("CustomAPIModel, ", "").replace("'CustomAPIModel', ", "")
    )
    settings = tree / "vlmeval" / "config.py"
    kept = [line for line in settings.read_text().splitlines() if "CustomAPIModel" not in line]
    settings.write_text("\n".join(kept) + "\n")
    [metadata] = installed.parent.glob("ms_vlmeval-*.dist-info/METADATA")
    needs = [
        line.partition(": ")[2]
        for line in metadata.read_text().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    (tree / "setup.py").write_text(
        "from setuptools import setup\n"
        f"setup(name='vlmeval', version='0.1.0', packages=['vlmeval'],\n"
        f"      install_requires={needs!r})\n"
    )
    commit = _commit(tree)
    home = str(tmp_path / "home")
    made = shim("setup", "vlmeval", "--from", tree, cwd=tmp_path, EVALSHIM_HOME=home, timeout=900)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("vlmeval: vlmeval 0.1.0")

    path = config("demo_shapes", limit="[0:12]")
    ours = shim("run", path, "--json", cwd=tmp_path)
    theirs = shim("run", path, "--json", cwd=tmp_path, EVALSHIM_HOME=home)

    assert theirs.returncode == ours.returncode == 0, theirs.stderr
    assert {r["backend_version"] for r in rows(theirs)} == {"vlmeval 0.1.0"}
    header = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())
    assert header["backends"]["vlmeval"]["commit"] == commit
    values = [{r["subset"]: (r["value"], r["n"]) for r in rows(done)} for done in (ours, theirs)]
    assert values[0] == values[1]


def test_runs_with_an_interpreter_of_the_users_own(
    tmp_path: Path, environments: dict[str, Path], config: Callable[..., Path]
) -> None:
    path = config("demo_shapes", limit=2, python=str(environments["vlmeval"]))

    done = shim("run", path, cwd=tmp_path, EVALSHIM_HOME=str(tmp_path / "empty"))

    assert done.returncode == 0, done.stderr
    header = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())
    assert "--python" in header["backends"]["vlmeval"]["reason"]
