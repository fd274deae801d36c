"""OpenCompass's own configurations, as they are; and both toolkits in one run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalshim import load_run
from evalshim.demo.endpoint import Endpoint

from . import tiny_lm
from .conftest import bodies, of_the_run, rows, shim
from .opencompass_data import REPLY, write

SERVED = """\
from opencompass.models import OpenAISDK

models += [
    dict(
        type=OpenAISDK,
        abbr='served',
        path='evalshim-demo',
        key='ENV',
        openai_api_base={url!r},
        tokenizer_path={tokenizer!r},
        query_per_second=5,
        max_out_len=64,
        max_seq_len=16384,
        batch_size=4,
        temperature=0.5,
        run_cfg=dict(num_gpus=0),
    )
]
"""
KEY = "sk-own-configuration"


@pytest.fixture(scope="session")
def language_model(environments: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([environments["opencompass"], tiny_lm.__file__, folder], check=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory, with the data that the configurations read."""
    for name in ("ARC_c", "gsm8k"):
        write(name, tmp_path)
    return tmp_path


@pytest.fixture
def endpoint(asked: list[dict[str, Any]]) -> Iterator[Endpoint]:
    with Endpoint(answer=lambda _: REPLY, on_request=of_the_run(asked.append)) as served:
        yield served


def test_the_same_as_upstreams_own_command(
    folder: Path,
    language_model: Path,
    endpoint: Endpoint,
    asked: list[dict[str, Any]],
    environments: dict[str, Path],
) -> None:
    text = tiny_lm.config(language_model, folder / "theirs", chat=True)
    text += SERVED.format(url=endpoint.url, tokenizer=str(language_model))
    (folder / "my_config.py").write_text(text)

    # In two steps; in debug mode upstream keeps its tasks in one process.
    inferred = shim(
        "run", "my_config.py", "--mode", "infer", "--debug", "--json", cwd=folder,
        OPENAI_API_KEY=KEY,
    )  # fmt: skip
    ours = asked.copy()
    scored = shim(
        "run", "my_config.py", "--mode", "eval", "--debug", "--json", cwd=folder,
        OPENAI_API_KEY=KEY,
    )  # fmt: skip
    again = len(asked) - len(ours)
    asked.clear()
    program = environments["opencompass"].with_name("opencompass")
    upstream = subprocess.run(
        [program, "my_config.py", "--debug", "-w", "upstream"],
        cwd=folder, env={**os.environ, "OPENAI_API_KEY": KEY}, capture_output=True, text=True,
    )  # fmt: skip

    assert upstream.returncode == 0, upstream.stderr
    assert inferred.returncode == 0, inferred.stderr
    assert scored.returncode == 0, scored.stderr
    # What was asked.
    assert len(ours) == 8 and again == 0
    assert bodies(ours) == bodies(asked)
    assert {r["body"]["temperature"] for r in ours} == {0.5}
    assert {r["headers"]["authorization"] for r in ours} == {f"Bearer {KEY}"}
    # Where: in the configuration's own work_dir.
    made = sorted(p for p in (folder / "theirs").glob("*/run.json") if not p.parent.is_symlink())
    assert len(made) == 2
    # Every prediction and every result, byte for byte.
    (theirs,) = (folder / "upstream").iterdir()
    (mine,) = (made[1].parent / "upstream" / "opencompass").glob("2*")
    for kind in ("predictions", "results"):
        assert _files(mine / kind) == _files(theirs / kind)
        assert len(_files(mine / kind)) == 4
    # Every number of the summary, the configuration's own average included.
    found = {(r["model"], r["dataset"]): r for r in rows(scored)}
    assert {r["status"] for r in rows(scored)} == {"scored"}
    assert all(r["is_primary"] and r["subset"] == "overall" for r in rows(scored))
    (summary,) = theirs.glob("summary/*.csv")
    with summary.open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [r["dataset"] for r in records] == ["both", "ARC-c", "gsm8k"]
    numbers = {(m, r["dataset"]): float(r[m]) for r in records for m in ("tiny", "served")}
    assert {cell: r["value"] for cell, r in found.items()} == numbers
    assert numbers["served", "both"] == 50.0
    assert numbers["tiny", "ARC-c"] in (0.0, 25.0, 50.0, 75.0, 100.0)
    assert {r["status"] for r in rows(inferred)} <= {"infer_only"}
    samples = load_run(made[1].parent).samples
    assert len(samples) == 16
    assert set(samples[samples["model"] == "served"]["prediction"]) == {REPLY}
    kept = [p for p in (folder / "theirs").rglob("*") if p.is_file()]
    assert not [p for p in kept if KEY.encode() in p.read_bytes()]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.json")}


JUDGED = """\
from mmengine.config import read_base

with read_base():
    from opencompass.configs.datasets.aime2024.aime2024_llmjudge_gen_5e9f4f import (
        aime2024_datasets,
    )
    from opencompass.configs.datasets.ARC_c.ARC_c_gen_1e0de5 import ARC_c_datasets

models = []
{served}
for d in aime2024_datasets:
    d['eval_cfg']['evaluator']['judge_cfg'] = dict(models[0], abbr='judge', path='their-judge')
datasets = [*aime2024_datasets, *ARC_c_datasets]
work_dir = 'theirs'
"""


def test_the_judge_that_a_configuration_names(folder: Path, language_model: Path) -> None:
    """Upstream alone runs it: who graded is read from the configuration, what was not graded
    from upstream's count."""
    asked: list[dict[str, Any]] = []
    lines = [{"origin_prompt": f"Sum {k}", "gold_answer": str(k)} for k in range(4)]
    (folder / "data" / "aime.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def answer(messages: list[dict[str, Any]]) -> str:
        text = json.dumps(messages)
        if "Gold Target" not in text:
            return "A"
        return {"Sum 0": "A", "Sum 1": "B"}.get(text[text.index("Sum ") :][:5], "well, who knows")

    with Endpoint(models=None, answer=answer, on_request=of_the_run(asked.append)) as served:
        text = SERVED.format(url=served.url, tokenizer=str(language_model))
        (folder / "my_config.py").write_text(JUDGED.format(served=text))
        done = shim(
            "run", "my_config.py", "--debug", "--json", cwd=folder, OPENAI_API_KEY=KEY,
        )  # fmt: skip

    assert done.returncode == 1, done.stderr
    found = {r["dataset"]: r for r in rows(done) if r["is_primary"]}
    judged, ruled = found["aime2024"], found["ARC-c"]
    assert (judged["status"], judged["value"], judged["n"]) == ("scored", 25.0, 4)
    assert (judged["scorer"], judged["judge_fallback"]) == ("their-judge", False)
    assert judged["n_judge_failed"] == 2
    assert (ruled["scorer"], ruled["n_judge_failed"]) == ("rule:accuracy", 0)
    graded = [a for a in asked if a["body"]["model"] == "their-judge"]
    assert len(graded) == 4


SRUN = """\
#!/bin/sh
echo "$@" >> '{log}'
while [ "$1" != "-J" ]; do shift; done
shift 2
exec "$@"
"""


def _only_arc(text: str) -> str:
    """The configuration with one of its two sets, hence without the average over both."""
    return text.replace("[*ARC_c_datasets, *gsm8k_datasets]", "[*ARC_c_datasets]")


def test_slurm_and_a_model_that_is_not_there(folder: Path, language_model: Path) -> None:
    srun, log = folder / "bin" / "srun", folder / "srun.log"
    srun.parent.mkdir()
    srun.write_text(SRUN.format(log=log))
    srun.chmod(0o755)
    # By perplexity; a second model has no weights.
    text = _only_arc(tiny_lm.config(language_model, folder / "theirs"))
    text += "models.append(dict(models[0], abbr='gone', path='/no/such/model'))\n"
    (folder / "my_config.py").write_text(text)

    done = shim(
        "run", "my_config.py", "--slurm", "-p", "test", "-q", "auto", "--max-num-workers", "3",
        "--retry", "0", "--work-dir", "elsewhere", "--json", cwd=folder,
        PATH=f"{srun.parent}:{os.environ['PATH']}",
    )  # fmt: skip

    assert done.returncode == 1, done.stderr
    found = {r["model"]: r for r in rows(done)}
    assert [(r["dataset"], r["status"]) for r in rows(done)] == [
        ("ARC-c", "scored"),
        ("ARC-c", "failed"),
    ]
    assert found["tiny"]["metric"] == "accuracy" and found["tiny"]["n"] == 4
    assert found["tiny"]["value"] in (0.0, 25.0, 50.0, 75.0, 100.0)
    # Upstream's reason, from the log of its task.
    assert "HFValidationError" in found["gone"]["error"]
    assert "'/no/such/model'" in found["gone"]["error"]
    calls = log.read_text().splitlines()
    assert all(c.startswith("-p test --quotatype=auto -N1 -u -J ") for c in calls)
    # Nothing was tried again.
    tasks = [(kind, m) for kind in ("Infer", "Eval") for m in ("tiny", "gone")]
    assert [len([c for c in calls if f"OpenICL{k}[{m}/ARC-c]" in c]) for k, m in tasks] == [1] * 4
    assert (folder / "elsewhere").is_dir() and not (folder / "theirs").exists()


DLC = """\
#!/bin/sh
echo "$@" >> '{log}'
if [ "$1" = submit ]; then
    eval "$4"
    echo '| dlc42 |'
else
    echo '{{"Status": "Succeeded"}}'
fi
"""


def test_dlc(folder: Path, language_model: Path, environments: dict[str, Path]) -> None:
    dlc, log = folder / "bin" / "dlc", folder / "dlc.log"
    dlc.parent.mkdir()
    dlc.write_text(DLC.format(log=log))
    dlc.chmod(0o755)
    prefix = environments["opencompass"].parents[1]
    (folder / "aliyun.py").write_text(
        f"python_env_path = {str(prefix)!r}\nworkspace_id = 'w7'\nresource_id = 'r7'\n"
        "worker_image = 'image:7'\ndata_sources = ['d7']\ndlc_sleep_time = 0\n"
    )
    text = _only_arc(tiny_lm.config(language_model, folder / "theirs"))
    (folder / "my_config.py").write_text(text)

    done = shim(
        "run", "my_config.py", "--dlc", "--aliyun-cfg", "aliyun.py", "--mode", "infer", "--json",
        cwd=folder, PATH=f"{dlc.parent}:{os.environ['PATH']}",
    )  # fmt: skip

    calls = log.read_text().splitlines()
    submitted = [c for c in calls if c.startswith("submit pytorchjob")]
    assert len(submitted) == 1 and [c for c in calls if c.startswith("get job dlc42")]
    for said in ("--workspace_id w7", "--resource_id=r7", "--worker_image image:7"):
        assert said in submitted[0]
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in rows(done)] == ["infer_only"]
    assert len(load_run(folder / "theirs" / "latest").samples) == 4


def test_the_plan_of_a_configuration(folder: Path) -> None:
    (folder / "my_config.py").write_text(tiny_lm.config(folder / "lm", folder / "theirs"))

    done = shim(
        "run", "my_config.py", "--slurm", "-p", "test", "-q", "auto", "--max-num-workers", "3",
        "--retry", "1", "--upstream", "dump_extract_rate=true", "--dry-run", "--json", cwd=folder,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [(c["model"], c["dataset"]) for c in cells] == [
        ("tiny", "ARC-c"), ("tiny", "gsm8k"), ("tiny", "both"),
    ]  # fmt: skip
    assert cells[0]["arguments"] == {
        "config": str(folder / "my_config.py"),
        "slurm": True,
        "partition": "test",
        "quotatype": "auto",
        "max_num_workers": 3,
        "retry": 1,
        "dump_extract_rate": True,
    }
    assert not (folder / "theirs").exists()


NO_BASE = """\
from mmengine.config import read_base

with read_base():
    from opencompass.configs.datasets.gsm8k.no_such import gsm8k_datasets

datasets = gsm8k_datasets
models = [dict(type='x', abbr='x')]
"""


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        (None, ["--limit", "5"], ["limit", "the configuration decides that"]),
        (None, ["--data", "gsm8k"], ["datasets", "the configuration decides that"]),
        (None, ["--model", "m"], ["models", "the configuration decides that"]),
        (None, ["--api-base", "http://127.0.0.1:9/v1"], ["the configuration decides that"]),
        (None, ["--concurrency", "3"], ["concurrency", "the configuration decides that"]),
        (None, ["--upstream", "max_num_worker=3"], ["max_num_worker", "max_num_workers"]),
        (None, ["--max-num-worker", "3"], ["--max-num-worker"]),
        ("datasets = [\n", [], ["my_config.py", "line 1"]),
        ("datasets = [dict(type='x', abbr='x')]\n", [], ["evaluates nothing", "models = [...]"]),
        ("models = [dict(type='x', abbr='x')]\n", [], ["evaluates nothing", "datasets = [...]"]),
        (NO_BASE, [], ["my_config.py", "no_such.py not found"]),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else None,
)
def test_bad_input(folder: Path, text: str | None, args: list[str], said: list[str]) -> None:
    whole = tiny_lm.config(folder / "lm", folder / "theirs")
    (folder / "my_config.py").write_text(whole if text is None else text)

    done = shim("run", "my_config.py", *args, cwd=folder)

    assert done.returncode == 2, done.stderr
    for part in said:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 25
    assert not (folder / "theirs").exists() and not (folder / "outputs").exists()


def test_both_toolkits_in_one_run_and_one_fails_alone(folder: Path) -> None:
    # A name of the catalogue only, on gsm8k's data; and data that upstream cannot read.
    listed = "opencompass:gsm8k_0shot_v2_gen_17d799"
    write("C3", folder)
    (folder / "data" / "CLUE" / "C3" / "dev_0.json").write_text("[")
    asked: list[dict[str, Any]] = []

    with Endpoint(answer=lambda _: REPLY, on_request=of_the_run(asked.append)) as endpoint:
        done = shim(
            "run", "--model", "evalshim-demo", "--api-base", endpoint.url, "--limit", "2",
            "--data", "demo_shapes", listed, "C3", "--concurrency", "4", "--json", cwd=folder,
        )  # fmt: skip

    assert done.returncode == 1, done.stderr
    primary = {r["dataset"]: r for r in rows(done) if r["is_primary"]}
    failed = {r["dataset"]: r for r in rows(done) if r["status"] == "failed"}
    name = listed.partition(":")[2]
    assert {*primary} == {"demo_shapes", name} and {*failed} == {"C3"}
    assert primary["demo_shapes"]["backend"] == "vlmeval"
    assert primary[name]["backend"] == "opencompass"
    assert primary[name]["value"] == 50.0 and primary[name]["n"] == 2
    assert failed["C3"]["error"]
    assert len(asked) == 4
    boxed = [r for r in asked if "\\boxed" in json.dumps(r["body"])]
    assert len(boxed) == 2


def test_names_and_arguments_of_upstream(folder: Path) -> None:
    listed = shim(
        "list", "models", "hf_qwen2_0_5b_instruct", "--backend", "opencompass", "--json",
        cwd=folder,
    )  # fmt: skip
    found = json.loads(listed.stdout)
    assert [m["name"] for m in found] == ["hf_qwen2_0_5b_instruct"]
    assert found[0]["backend"] == "opencompass" and "qwen" in found[0]["upstream"]

    datasets = shim(
        "list", "datasets", "gsm8k_0shot_v2_gen_17d799", "--backend", "opencompass", "--json",
        cwd=folder,
    )  # fmt: skip
    assert json.loads(datasets.stdout)[0]["upstream"].startswith("gsm8k.gsm8k_0shot_v2_gen_17d799:")

    base = ("run", "--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--data")
    for args, near in (
        (("gsm8k", "--upstream", "dump_eval_detail=true"), "dump_eval_details"),
        (("opencompass:gsm8k_0shot_v2_gen_17d79",), "gsm8k_0shot_v2_gen_17d799"),
        (("gsm9k",), "gsm8k"),
    ):
        done = shim(*base, *args, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert near in done.stderr
    assert not (folder / "outputs").exists()
