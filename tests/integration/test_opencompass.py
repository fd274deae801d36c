"""OpenCompass's own: sets with subsets and group averages, and what a missing file does."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from evalshim import registry
from evalshim.demo.endpoint import Endpoint

from .conftest import rows, shim

_SUBSETS = """
import json
from opencompass.configs.datasets.mmlu.mmlu_all_sets import mmlu_all_sets
from opencompass.configs.datasets.ceval.ceval_gen_5f30c7 import ceval_all_sets
print(json.dumps([mmlu_all_sets, ceval_all_sets]))
"""


def _write(path: Path, records: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(records)


def _subsets(python: Path) -> list[list[str]]:
    done = subprocess.run([python, "-c", _SUBSETS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _first_option(messages: list[dict[str, Any]]) -> str:
    return "ANSWER: A"


def test_every_subset_and_upstreams_averages(tmp_path: Path, environments: dict[str, Path]) -> None:
    mmlu, ceval = _subsets(environments["opencompass"])
    # The endpoint always says A: subsets are all right, half right, or all wrong.
    answers = {name: ["AA", "AB", "BC"][i % 3] for i, name in enumerate([*mmlu, *ceval])}
    for name in mmlu:
        for split in ("dev", "test"):
            questions = [
                [f"{name} {i}?", "w", "x", "y", "z", a] for i, a in enumerate(answers[name])
            ]
            _write(tmp_path / "data" / "mmlu" / split / f"{name}_{split}.csv", questions)
    for name in ceval:
        for split in ("dev", "val", "test"):
            picked = answers[name] if split == "val" else "ABCDA"
            questions = [
                [str(i), f"{name} 第{i}题", "甲", "乙", "丙", "丁", a] for i, a in enumerate(picked)
            ]
            header = ["id", "question", "A", "B", "C", "D", "answer"]
            _write(
                tmp_path / "data" / "ceval" / "formal_ceval" / split / f"{name}_{split}.csv",
                [header, *questions],
            )

    with Endpoint(answer=_first_option) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--data", "mmlu",
            "--data", "ceval", "--json", cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    for dataset, names, prefix in (("mmlu", mmlu, "lukaemon_mmlu_"), ("ceval", ceval, "ceval-")):
        own = [r for r in rows(done) if r["dataset"] == dataset]
        by_subset = {r["subset"]: r for r in own if r["metric"] != "accuracy" or r["n"] == 2}
        expected = {name: 50.0 * answers[name].count("A") for name in names}
        for name, value in expected.items():
            assert by_subset[prefix + name]["value"] == value
        overall = next(r for r in own if r["is_primary"])
        assert overall["subset"] == "overall"
        assert overall["value"] == round(mean(expected.values()), 2)
        assert overall["n"] == 2 * len(names)
        assert [r for r in own if r["subset"] == f"{dataset}-humanities"]


def test_a_missing_data_file_fails_its_cell_with_upstreams_reason(
    tmp_path: Path, config: Callable[..., Path]
) -> None:
    done = shim("run", config("gsm8k", "demo_arc", limit=2), "--json", cwd=tmp_path)

    assert done.returncode == 1
    found = {r["dataset"]: r for r in rows(done)}
    assert found["demo_arc"]["status"] == "scored"
    assert found["gsm8k"]["status"] == "failed"
    assert found["gsm8k"]["error"]


def test_two_models_and_two_keys_in_one_run(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    path = config("demo_arc", limit=2, model={"key_env": "FIRST"})
    spec = json.loads(path.read_text())
    second = {**spec["models"][0], "name": "second", "key_env": "SECOND"}
    path.write_text(json.dumps({**spec, "models": [spec["models"][0], second]}))

    done = shim("run", path, "--json", cwd=tmp_path, FIRST="key-of-first", SECOND="key-of-second")

    assert done.returncode == 0, done.stderr
    assert [r["model"] for r in rows(done)] == ["m", "second"]
    sent = [{k.lower(): v for k, v in r["headers"].items()}["authorization"] for r in asked]
    assert sorted(sent) == ["Bearer key-of-first"] * 2 + ["Bearer key-of-second"] * 2


def test_every_registered_configuration_is_in_the_installed_upstream(
    environments: dict[str, Path],
) -> None:
    entries = [e for e in registry.entries().values() if e.backend == "opencompass"]
    targets = [f"datasets.{e.target}" for e in entries]
    targets += [f"summarizers.groups.{g}" for e in entries for g in e.summary_groups]
    code = (
        "import json, sys\nfrom mmengine.config import Config\nimport opencompass, pathlib\n"
        "root = pathlib.Path(opencompass.__file__).parent / 'configs'\n"
        "for target in json.loads(sys.argv[1]):\n"
        "    module, _, variable = target.partition(':')\n"
        "    assert Config.fromfile(root / (module.replace('.', '/') + '.py'))[variable], target\n"
    )
    done = subprocess.run(
        [environments["opencompass"], "-c", code, json.dumps(targets)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
