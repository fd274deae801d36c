"""What a run imports of an upstream where every model is behind an endpoint, and how it counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from evalshim import config, plans, process
from evalshim.backends import BACKENDS
from evalshim.demo.endpoint import Endpoint

from . import opencompass_data, vlmeval_data

# Names in the file argv[1] every package of which code is read, in whatever process, and is then
# the worker argv[2].
WATCHED = r"""
import os, re, runpy, sys
report, worker = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY), sys.argv[2]
of_a_package = re.compile(r"site-packages/(\w+)/(?:__pycache__/)?__init__\.[\w.-]+$").search
def watch(event, args):
    if event == "open" and isinstance(args[0], str) and (found := of_a_package(args[0])):
        os.write(report, found[1].encode() + b"\n")
sys.addaudithook(watch)
sys.path[0] = os.path.dirname(worker)
sys.argv = [worker]
runpy.run_path(worker, run_name="__main__")
"""

UNUSED = {
    "accelerate", "cv2", "jieba", "matplotlib", "nltk", "rouge", "sympy", "torch", "torchvision",
    "transformers",
}  # fmt: skip


def run(backend: str, python: Path, folder: Path, **asked: Any) -> tuple[set[str], dict[str, Any]]:
    """The packages that the worker of a run imported, and its `finished` events by dataset."""
    with Endpoint() as endpoint:
        model = {"name": "m", "api_base": endpoint.url, "model": "evalshim-demo"}
        planned = plans.plan(config.parse({"models": [model], **asked}))
        job = BACKENDS[backend].prepare(planned.cells, planned.spec, folder / "run", {})
        with (folder / "worker.log").open("w+") as log, subprocess.Popen(
            [python, "-c", WATCHED, folder / "packages", process.WORKER],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={**process.isolated_environment(), **BACKENDS[backend].ENVIRONMENT}, text=True,
            start_new_session=True,
        ) as worker:  # fmt: skip
            if not asked.get("plugins"):  # as a run does, before it knows the job
                worker.stdin.write(json.dumps({"import": backend}) + "\n")
            worker.stdin.write(json.dumps({"backend": backend, **job}) + "\n")
            worker.stdin.flush()  # and left open: a worker ends with its parent
            events = [json.loads(line) for line in worker.stdout if line.strip()]
            assert events[-1]["event"] == "done", (folder / "worker.log").read_text()
    cells = {c.id: c.dataset.name for c in planned.cells}
    finished = {cells[e["cell"]]: e for e in events if e["event"] == "finished"}
    assert finished.keys() == set(cells.values()), events
    return set((folder / "packages").read_text().split()), finished


def statuses(finished: dict[str, Any]) -> set[str]:
    return {e["status"] for e in finished.values()}


def test_opencompass_imports_what_it_uses(
    tmp_path: Path, environments: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k", "ARC_c"):
        opencompass_data.write(name, tmp_path)

    imported, finished = run(
        "opencompass", environments["opencompass"], tmp_path, datasets=["gsm8k", "ARC_c"]
    )

    assert statuses(finished) == {"done"}
    assert not imported & UNUSED
    # Upstream's sets, its client, and the metric of ARC: that they are seen shows that others were.
    assert imported >= {"opencompass", "datasets", "openai", "evaluate", "sklearn"}


def test_scikit_learn_is_for_accuracy_alone(
    tmp_path: Path, environments: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opencompass_data.write("gsm8k", tmp_path)

    imported, finished = run(
        "opencompass", environments["opencompass"], tmp_path, datasets=["gsm8k"]
    )

    assert statuses(finished) == {"done"}
    assert not imported & {*UNUSED, "scipy", "sklearn"}


@pytest.mark.parametrize("backend", ["vlmeval", "opencompass"])
def test_beside_a_plug_in_all_of_upstream_is_imported(
    backend: str, tmp_path: Path, environments: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opencompass_data.write("gsm8k", tmp_path)
    vlmeval_data.write("MME", tmp_path / "LMUData")
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"import {backend}\n")

    imported, finished = run(
        backend, environments[backend], tmp_path, plugins=[str(plugin)], verify_data="off",
        datasets=["gsm8k" if backend == "opencompass" else "MME"], limit=2,
        judge="exact_matching",
    )  # fmt: skip

    assert statuses(finished) == {"done"}
    assert imported >= {"torch", "transformers"}


def test_vlmevalkit_imports_what_it_uses(
    tmp_path: Path, environments: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["MMStar", "MME", "TextVQA_VAL"]  # multiple choice, yes or no, open questions
    for name in kinds:
        vlmeval_data.write(name, tmp_path / "LMUData")
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))

    imported, finished = run(
        "vlmeval", environments["vlmeval"], tmp_path, datasets=kinds, limit=4,
        judge="exact_matching", verify_data="off",
    )  # fmt: skip

    assert statuses(finished) == {"done"}
    assert not imported & {*UNUSED, "datasets", "openai", "scipy", "sklearn"}
    assert imported >= {"vlmeval", "pandas", "requests"}


# OpenCompass as an API run imports it, or as it imports itself.
IMPORTED = r"""
import contextlib, importlib.util, json, os, sys
here, way = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "evalshim_worker", os.path.join(here, "__init__.py"), submodule_search_locations=[here])
sys.modules["evalshim_worker"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from evalshim_worker import api_imports, run_opencompass
if way == "put off":
    api_imports.load("opencompass", run_opencompass._upstream)
else:
    run_opencompass._upstream()
assert ("torch" in sys.modules) == (way == "whole")
from opencompass import registry
registries = {k: r for k, r in vars(registry).items() if isinstance(r, registry.Registry)}
names = json.load(sys.stdin)
names = names or [f"{k} {key}" for k, r in registries.items() for key in r.module_dict]
def get(name):
    kind, key = name.split(" ")
    return registries[kind].get(key)
"""
REGISTERED = (
    IMPORTED
    + r"""
found = {name: get(name) for name in names}
print(json.dumps({name: f"{one.__module__}.{one.__qualname__}" for name, one in found.items()}))
"""
)
# What each evaluator says of three answers; of most it is an error, as they are for other sets.
SCORED = (
    IMPORTED
    + r"""
def scored(name):
    try:
        found = get(name)().score(list(PREDICTIONS), list(REFERENCES))
    except Exception as error:
        return type(error).__name__
    if isinstance(found, dict):
        found.pop("details", None)  # some in the order in which threads were done
    return repr(found)
PREDICTIONS = ["the cat sat on the mat", "a dog ran", "1"]
REFERENCES = ["the cat sat on a mat", "a dog ran away", "1"]
with contextlib.redirect_stdout(sys.stderr):
    scores = {name: scored(name) for name in names if name.startswith("ICL_EVALUATORS")}
print(json.dumps(scores))
"""
)


def said(script: str, way: str, python: Path, names: Iterable[str] = ()) -> dict[str, str]:
    done = subprocess.run(
        [python, "-c", script, process.WORKER.parent, way],
        env={**process.isolated_environment(), "HF_HUB_OFFLINE": "1"},
        input=json.dumps(list(names)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_opencompass_is_the_same_however_it_is_imported(environments: dict[str, Path]) -> None:
    """Each name that its modules register is found, and each evaluator says the same."""
    python = environments["opencompass"]
    whole = said(REGISTERED, "whole", python)

    assert len(whole) > 500
    assert "LOAD_DATASET TruthfulQADataset" in whole  # of a module that waits
    assert said(REGISTERED, "put off", python, whole) == whole

    scores = said(SCORED, "whole", python, whole)
    assert sum(score.startswith("{") for score in scores.values()) > 50
    assert said(SCORED, "put off", python, whole) == scores
