"""Sets that take their predictions in a place or a format of their own, beside upstream itself,
which runs at its defaults."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo.endpoint import Endpoint
from evalshim.worker import eval_files
from tests.worker_package import AS_WORKER

from .conftest import rows, shim
from .own_data import tsv
from .test_parity import upstream
from .vlmeval_data import picture

N = 4
STATUS = "status.json"
# Upstream's command, with a model of the test's; hashes are those of the published files.
DIRECT = """
import functools, runpy
import vlmeval.api, vlmeval.dataset
from vlmeval.config import supported_VLM
supported_VLM["m"] = functools.partial(
    vlmeval.api.CustomAPIModel, model="m", key="EMPTY", api_base="{url}/chat/completions"
)
for known in vars(vlmeval.dataset).values():
    if isinstance(getattr(known, "DATASET_MD5", None), dict):
        known.DATASET_MD5.clear()
runpy.run_module("vlmeval", run_name="__main__", alter_sys=True)
"""


def parts(lmudata: Path, names: list[str]) -> None:
    """A set of sets, of which the later ones have fewer questions that `A` answers; each counts
    its own from 0."""
    columns = ["index", "question", "A", "B", "answer", "category", "image"]
    for place, name in enumerate(names):
        found = [
            [
                k,
                f"What is number {k} of {name}?",
                "cat",
                "dog",
                "AB"[k <= place],
                "seen",
                picture(k),
            ]
            for k in range(N)
        ]
        tsv(lmudata / f"{name}.tsv", columns, found)


def mmmb(lmudata: Path) -> None:
    parts(lmudata, [f"MMMB_{tongue}" for tongue in ("ar", "cn", "en", "pt", "ru", "tr")])


def mtl(lmudata: Path) -> None:
    parts(lmudata, [f"MMBench_dev_{tongue}" for tongue in ("ar", "cn", "en", "pt", "ru", "tr")])


def gsm8k_v(lmudata: Path) -> None:
    columns = ["index", "original_question", "modify_scene_related_question", "answer"]
    found = [[k, f"What is {k} + 1?", f"What is shown, {k}?", 5 + k % 2] for k in range(N)]
    tsv(lmudata / "GSM8K-V.tsv", [*columns, "category", "image"],
        [[*row, "sums", picture(k)] for k, row in enumerate(found)])  # fmt: skip


def treebench(lmudata: Path) -> None:
    columns = ["index", "question", "A", "B", "answer", "category", "target_instances", "image"]
    found = [
        [k, f"What is number {k}?", "cat", "dog", "AB"[k % 2], ("Perception/OCR",
         "Reasoning/Ordering")[k // 2], "[[0, 0, 10, 10]]", picture(k)]
        for k in range(N)
    ]  # fmt: skip
    tsv(lmudata / "TreeBench.tsv", columns, found)


# What writes a set, what is said to all of it, and how often upstream asks it.
CASES: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "MMMB": (mmmb, "A", 6),
    "MTL_MMBench_DEV": (mtl, "A", 6),
    "GSM8K-V": (gsm8k_v, "FINAL ANSWER: 5", 3),
    "TreeBench": (treebench, "<box>[0,0,10,20]</box><answer>A</answer>", 1),
}


def answer(messages: list[dict[str, Any]]) -> str:
    asked = json.dumps(messages)
    if "FINAL ANSWER" in asked:
        return CASES["GSM8K-V"][1]
    return "A" if " of MM" in asked else CASES["TreeBench"][1]


@dataclass
class Both:
    """A folder in which upstream ran, and evalshim, and what that printed."""

    folder: Path
    done: subprocess.CompletedProcess[str]

    def metrics(self, below: str, dataset: str) -> Any:
        found = [json.loads(p.read_text())["datasets"] for p in (self.folder / below).rglob(STATUS)]
        [known] = [datasets[dataset] for datasets in found if dataset in datasets]
        return known["metrics"]

    def samples(self, dataset: str) -> list[dict[str, Any]]:
        lines = (self.folder / "outputs" / "latest" / "samples.jsonl").read_text().splitlines()
        return [s for s in map(json.loads, lines) if s["dataset"] == dataset]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Both:
    folder = tmp_path_factory.mktemp("both")
    (folder / "LMUData").mkdir()
    for write, _, _ in CASES.values():
        write(folder / "LMUData")
    env = {"LMUData": str(folder / "LMUData"), "GSM8K_V_MODE": "all"}
    with Endpoint(models=None, answer=answer) as served:
        (folder / "direct.py").write_text(DIRECT.format(url=served.url))
        upstream(
            [environments["vlmeval"], "direct.py", "--model", "m", "--data", *CASES,
             "--judge", "exact_matching", "--work-dir", folder / "direct"],
            folder, **env,
        )  # fmt: skip
        config = {
            "models": [{"name": "m", "api_base": served.url}], "verify_data": "off",
            "datasets": [f"vlmeval:{name}" for name in CASES], "judge": "exact_matching",
        }  # fmt: skip
        (folder / "eval.json").write_text(json.dumps(config))
        done = shim("run", "eval.json", "--no-preflight", "--json", cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    return Both(folder, done)


@pytest.mark.parametrize("dataset", CASES)
def test_the_same_as_upstream(both: Both, dataset: str) -> None:
    _, said, times = CASES[dataset]

    assert both.metrics("outputs", dataset) == both.metrics("direct", dataset)
    found = [row for row in rows(both.done) if row["dataset"] == dataset]
    assert 0 < next(row["value"] for row in found if row["is_primary"]) < 1
    assert [s["prediction"] for s in both.samples(dataset)] == [said] * N * times


@pytest.mark.parametrize("dataset", ["MMMB", "MTL_MMBench_DEV"])
def test_the_samples_of_a_set_of_sets_have_their_own_grades(both: Both, dataset: str) -> None:
    own = {r["subset"]: r for r in rows(both.done) if r["dataset"] == dataset}
    wholes = {subset: row for subset, row in own.items() if "/" not in subset}

    assert len(wholes) == CASES[dataset][2]
    for name, row in wholes.items():
        correct = [s["correct"] for s in both.samples(dataset) if s["subset"] == name]
        assert (row["n"], row["value"]) == (N, sum(correct) / N)


# Sets whose methods speak of .xlsx, and take predictions in any format all the same: it is what
# they write (Asclepius, MMOral_OPG_OPEN, MMReason, WorldVQA), or they try both (MMHELIX).
ANY_FORMAT = {"Asclepius", "MMHELIX", "MMOral_OPG_OPEN", "MMReason", "WorldVQA"}
SPEAK = """
import inspect
import vlmeval.dataset as upstream
from evalshim_worker import eval_files
classes = {name: c for name, c in vars(upstream).items() if inspect.isclass(c)}
found = set()
for name, cls in classes.items():
    owner = next((c for c in cls.__mro__ if "evaluate" in vars(c)), None)
    methods = [getattr(m, "__func__", m) for m in vars(owner).values()] if owner else []
    for code in [m.__code__ for m in methods if inspect.isfunction(m)]:
        named = {*code.co_varnames, *code.co_names}
        if ".xlsx" in code.co_consts or {"xlsx2json", "read_excel"} & named:
            found.add(name)
print(json.dumps([sorted(found), sorted(set(eval_files._SPREADSHEETS) - set(classes))]))
"""


def test_every_set_that_takes_spreadsheets_alone_is_known(environments: dict[str, Path]) -> None:
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + SPEAK], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    speak, unknown = json.loads(done.stdout.splitlines()[-1])

    assert unknown == []
    spreadsheets: Any = eval_files._SPREADSHEETS  # the worker has no types
    assert set(speak) - ANY_FORMAT <= set(spreadsheets)
    assert set(speak) >= ANY_FORMAT | {"TreeBench", "VCRBench", "GSM8KVDataset"}
