"""The configurations of EvalScope's VLMEvalKit document and of VLMEvalKit's tutorial, as they are.

A test a block, its keys and values copied; `--api-base` puts the endpoint in the place of the
address. The data is small and has the names and file formats of the document's datasets.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalshim import compat, load_run, plans, runs
from evalshim.demo.endpoint import Endpoint
from evalshim.errors import ConfigError
from evalshim.results import RunResult
from evalshim.spec import RunSpec
from tests.conftest import HEEDED

from . import vlmeval_data
from .conftest import of_the_run, rows, shim
from .test_kinds_vlmeval import Asked, picture, pictures
from .vlmeval_data import RED

# The document's blocks.

SERVICE_YAML = """\
eval_backend: VLMEvalKit
eval_config:
  model: 
    - type: qwen-vl-chat
      name: CustomAPIModel 
      api_base: http://localhost:8000/v1/chat/completions
      key: EMPTY
      temperature: 0.0
      img_size: -1
  data:
    - SEEDBench_IMG
    - ChartQA_TEST
  mode: all
  limit: 20
  rerun: true
  work_dir: outputs
  nproc: 16
"""  # noqa: W291

SERVICE_DICT: dict[str, Any] = ast.literal_eval(
    """\
{
    'eval_backend': 'VLMEvalKit',
    'eval_config': 
            {'data': ['SEEDBench_IMG', 'ChartQA_TEST'],
            'limit': 20,
            'mode': 'all',
            'model': [ 
                {'api_base': 'http://localhost:8000/v1/chat/completions',
                'key': 'EMPTY',
                'name': 'CustomAPIModel',
                'temperature': 0.0,
                'type': 'qwen-vl-chat'}
                ],
            'rerun': True,
            'work_dir': 'output'}}
"""  # noqa: W291
)

LOCAL_YAML = """\
eval_backend: VLMEvalKit
eval_config:
  model: 
    - name: qwen_chat
      model_path: models/Qwen-VL-Chat
  data:
    - SEEDBench_IMG
    - ChartQA_TEST
  mode: all
  limit: 20
  rerun: true
  work_dir: outputs
  nproc: 16
"""  # noqa: W291

LOCAL_DICT: dict[str, Any] = ast.literal_eval(
    """\
{
    'eval_backend': 'VLMEvalKit',
    'eval_config': 
            {'data': ['SEEDBench_IMG', 'ChartQA_TEST'],
            'limit': 20,
            'mode': 'all',
            'model': [ 
                {'name': 'qwen_chat',
                'model_path': 'models/Qwen-VL-Chat'}
                ],
            'rerun': True,
            'work_dir': 'outputs'}}
"""  # noqa: W291
)

JUDGE_YAML = """\
OPENAI_API_KEY: EMPTY 
OPENAI_API_BASE: http://127.0.0.1:8866/v1/chat/completions # Judge model's api_base
LOCAL_LLM: qwen2-7b-instruct # Judge model's model_id
"""  # noqa: W291

# The tutorial's.

TUTORIAL_ENV = """\
OPENAI_API_KEY=sk-123456
OPENAI_API_BASE=http://0.0.0.0:23333/v1/chat/completions
LOCAL_LLM='/share/new_models/Shanghai_AI_Laboratory/internlm2_5-1_8b-chat' # 注册的模型名称
"""
COMMAND = "python run.py --data MMBench_DEV_EN MME SEEDBench_IMG --model InternVL2-2B --verbose"
TUTORIAL = COMMAND.split()[2:]

# That of the help of run.py, whose trailing comma JSON does not allow.
CONFIG_JSON = """\
{
    "model": {
        "GPT4o_20240806_T00_HIGH": {
            "class": "GPT4V",
            "model": "gpt-4o-2024-08-06",
            "temperature": 0,
            "img_detail": "high"
        },
        "GPT4o_20240806_T10_Low": {
            "class": "GPT4V",
            "model": "gpt-4o-2024-08-06",
            "temperature": 1.0,
            "img_detail": "low"
        },
        "GPT4o_20241120": {}
    },
    "data": {
        "MME-RealWorld-Lite": {
            "class": "MMERealWorld",
            "dataset": "MME-RealWorld-Lite"
        },
        "MMBench_DEV_EN_V11": {
            "class": "ImageMCQDataset",
            "dataset": "MMBench_DEV_EN_V11"
        },
        "MMBench_Video_8frame_nopack": {},
        "Video-MME_16frame_subs": {
            "class": "VideoMME",
            "dataset": "Video-MME",
            "nframe": 16,
            "use_subtitle": true,
        }
    }
}
"""

UNSURE = "Hard to say."


class Served(Endpoint):
    """An endpoint of any model id that says one thing, and what it was asked."""

    def __init__(self, says: Any = RED, models: tuple[str, ...] | None = None, **more: Any) -> None:
        self.asked: Asked = []
        answer = says if callable(says) else lambda _: says
        super().__init__(
            models=models, answer=answer, on_request=of_the_run(self.asked.append), **more
        )

    def bodies(self) -> list[dict[str, Any]]:
        return [a["body"] for a in self.asked]

    def questions(self) -> list[tuple[str, str]]:
        """Dataset and index of what was asked."""
        found = (vlmeval_data.asked_for(json.dumps(b)) for b in self.bodies())
        return sorted(f for f in found if f)


def judge(messages: list[dict[str, Any]]) -> str:
    """Extracts A, or Yes, from whatever was said, and gives 3 points where points are asked for."""
    text = json.dumps(messages)
    if "Candidate answer: " in text:
        return "3"
    return "Yes" if "Yes / No" in text or "output Yes" in text else "A"


@pytest.fixture(scope="module")
def lmudata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the documents' datasets: of two, 24 rows, the first with a large picture."""
    folder = tmp_path_factory.mktemp("LMUData")
    for name in ("MMBench_DEV_EN", "MMBench_DEV_EN_V11", "MME", "MME-RealWorld-Lite"):
        vlmeval_data.write(name, folder)
    for name in ("SEEDBench_IMG", "ChartQA_TEST"):
        vlmeval_data.write(name, folder, times=3, size=(300, 200))
    made = vlmeval_data.write("SEEDBench_IMG", folder / "made")
    made.rename(folder / "custom_mcq.tsv")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "hub"
    clip = vlmeval_data.clip(folder.parent / "clip.mp4", environments["vlmeval"])
    for name in ("Video-MME", "MMBench-Video"):
        vlmeval_data.write_video(name, folder, clip)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _variables(lmudata: Path, hub: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in HEEDED:
            patch.delenv(name, raising=False)
        patch.setenv("LMUData", str(lmudata))
        patch.setenv("HF_HUB_CACHE", str(hub))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLMEVALKIT_USE_MODELSCOPE", "0")
        yield


def run(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`shim run` on data that is not the published one."""
    return shim("run", *args, "--verify-data", "off", "--json", cwd=cwd, **env)


def primary(result: RunResult) -> dict[tuple[str, str], Any]:
    return {(r.model, r.dataset): r for r in result.rows if r.is_primary}


def files(folder: Path) -> dict[str, str]:
    """What is in a folder, by content."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def seen(served: Served) -> set[tuple[int, int]]:
    urls = [url for b in served.bodies() for url in pictures(b["messages"][-1])]
    return {picture(url).size for url in urls}


def _when(holds: Callable[[], bool]) -> Callable[[list[dict[str, Any]]], str]:
    """What answers once something holds, or after a minute."""

    def answer(_: list[dict[str, Any]]) -> str:
        deadline = time.monotonic() + 60
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.01)
        return RED

    return answer


# Method 1: a deployed model service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, lmudata: Path) -> dict[str, Any]:
    """The YAML block as it is; then with other values, which is a rerun; then reusing that."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "eval.yaml").write_text(SERVICE_YAML)
    fewer = [
        "--set", "eval_config.limit=3", "--set", "eval_config.nproc=2",
        "--set", "eval_config.model.0.img_size=224",
    ]  # fmt: skip
    reuse = ["--set", "eval_config.rerun=false", "--set", "eval_config.reuse=true"]
    found: dict[str, Any] = {"folder": folder}
    for name, more in (("block", []), ("rerun", fewer), ("reuse", [*fewer, *reuse])):
        with Served(latency=0.1 if name == "reuse" else 0.5) as served:
            if name == "block":
                served.answer = _when(
                    lambda served=served: not served.asked or served.largest_parallel >= 16
                )
            done = run("eval.yaml", "--api-base", served.url, *more, cwd=folder)
            found[name] = (done, served, served.largest_parallel)
            if name == "block":
                found["before"] = files((folder / "outputs" / "latest").resolve())
                found["first"] = (folder / "outputs" / "latest").resolve()
    return found


def test_the_yaml_block_asks_the_first_samples_as_it_says(service: dict[str, Any]) -> None:
    done, served, parallel = service["block"]

    assert done.returncode == 0, done.stderr
    assert served.questions() == sorted(
        [("SEEDBench_IMG", str(101669 + i)) for i in range(20)]
        + [("ChartQA_TEST", str(i)) for i in range(20)]
    )
    assert len(served.asked) == 40
    assert {a["path"] for a in served.asked} == {"/v1/chat/completions"}
    assert {a["headers"]["Authorization"] for a in served.asked} == {"Bearer EMPTY"}
    assert {b["model"] for b in served.bodies()} == {"qwen-vl-chat"}
    assert {b["temperature"] for b in served.bodies()} == {0.0}
    # Upstream enlarges what is smaller than 100 pixels, as all pictures but two are.
    assert (300, 200) in seen(served)
    assert {min(size) for size in seen(served)} == {200, 100}
    assert parallel == 16


def test_the_yaml_block_is_scored_under_its_names(service: dict[str, Any]) -> None:
    done, _, _ = service["block"]
    first = service["first"]

    found = primary(load_run(first))
    assert first.parent == service["folder"] / "outputs"
    assert {key: (r.value, r.n, r.unit, r.scorer) for key, r in found.items()} == {
        ("qwen-vl-chat", "SEEDBench_IMG"): (0.25, 20, "fraction", "exact_matching"),
        ("qwen-vl-chat", "ChartQA_TEST"): (25.0, 20, "percent", "rule:acc"),
    }
    metrics = first / "upstream" / "vlmeval" / "qwen-vl-chat__SEEDBench_IMG" / "qwen-vl-chat"
    assert (metrics / "qwen-vl-chat_SEEDBench_IMG_acc.csv").is_file()
    assert {r["model"] for r in rows(done)} == {"qwen-vl-chat"}


def test_other_values_do_what_they_say(service: dict[str, Any]) -> None:
    done, served, parallel = service["rerun"]

    assert done.returncode == 0, done.stderr
    assert [index for _, index in served.questions()] == [
        "0",
        "1",
        "2",
        "101669",
        "101670",
        "101671",
    ]
    assert parallel == 2
    assert max(seen(served)) == (224, 149)
    assert max(size for size in seen(served) if size != (224, 149)) < (150, 100)
    assert {r["n"] for r in rows(done) if r["is_primary"]} == {3}


def test_a_rerun_starts_fresh_and_deletes_nothing(service: dict[str, Any]) -> None:
    _, served, _ = service["rerun"]

    assert len(served.asked) == 6  # although the first run has answers to all of them
    assert files(service["first"]) == service["before"]
    made = [p for p in (service["folder"] / "outputs").iterdir() if not p.is_symlink()]
    assert len(made) == 3


def test_reuse_asks_nothing_again(service: dict[str, Any]) -> None:
    (again, _, _), (done, served, _) = service["rerun"], service["reuse"]

    assert done.returncode == 0, done.stderr
    assert served.asked == []
    values = [{(r["dataset"], r["subset"]): r["value"] for r in rows(d)} for d in (again, done)]
    assert values[0] == values[1]


def at(config: Mapping[str, Any], url: str) -> dict[str, Any]:
    """A block with the endpoint's address in the place of its own."""
    changed = copy.deepcopy(dict(config))
    for model in changed["eval_config"]["model"]:
        model["api_base"] = f"{url}/chat/completions"
    return changed


SCRIPT = """\
from evalscope.run import run_task
from evalscope.summarizer import Summarizer

def run_eval():
    # Option 1: Python dictionary
    task_cfg = task_cfg_dict
    # Option 2: YAML configuration file
    # task_cfg = 'eval_openai_api.yaml'
    
    run_task(task_cfg=task_cfg)
    print('>> Start to get the report with summarizer ...')
    report_list = Summarizer.get_report_from_cfg(task_cfg)
    print(f'\\n>> The report list: {report_list}')

run_eval()
"""  # noqa: W293


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    """Runs the document's script with our names for EvalScope's, and returns what it reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "run", partial(runs.run, verify_data="off"))

    def execute(option: str, **variables: Any) -> list[dict[str, Any]]:
        code = SCRIPT.replace("evalscope.run", "evalshim.compat")
        code = code.replace("evalscope.summarizer", "evalshim.compat")
        code = code.replace("= task_cfg_dict", f"= {option}")
        exec(compile(code, "example_eval_openai_api.py", "exec"), variables)
        _, _, shown = capsys.readouterr().out.partition(">> The report list: ")
        return ast.literal_eval(shown.strip())  # type: ignore[no-any-return]

    return execute


def test_the_dict_block_and_its_report(
    tmp_path: Path, script: Callable[..., list[dict[str, Any]]]
) -> None:
    with Served() as served:
        task_cfg_dict = at(SERVICE_DICT, served.url)
        report_list = script("task_cfg_dict", task_cfg_dict=task_cfg_dict)

    assert len(served.asked) == 40
    assert {(b["model"], b["temperature"]) for b in served.bodies()} == {("qwen-vl-chat", 0.0)}
    assert (300, 200) in seen(served)
    result = load_run(tmp_path / "output" / "latest")
    assert result.exit_code == 0
    assert {k: r.value for k, r in primary(result).items()} == {
        ("qwen-vl-chat", "SEEDBench_IMG"): 0.25,
        ("qwen-vl-chat", "ChartQA_TEST"): 25.0,
    }
    _check_report(report_list)
    task = compat.TaskConfig(**task_cfg_dict)
    assert compat.Summarizer.get_report_from_cfg(task) == report_list
    assert compat.Summarizer.get_report_from_cfg([task]) == report_list


def _check_report(report_list: list[dict[str, Any]]) -> None:
    report = {stem: columns for record in report_list for stem, columns in record.items()}
    assert len(report) == len(report_list)
    columns = report["qwen-vl-chat_SEEDBench_IMG_acc"]
    assert list(columns) == ["split", "Overall", "Instance Attributes", "Scene Understanding"]
    assert (columns["split"], columns["Overall"]) == ("none", "0.25")
    assert report["qwen-vl-chat_ChartQA_TEST_acc"]["Overall"] == "25.0"


# Method 2: local models


@pytest.mark.parametrize("block", ["yaml", "dict"])
def test_a_local_models_path_reaches_upstreams_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(LOCAL_YAML) if block == "yaml" else LOCAL_DICT

    records = plans.plan(runs.spec_of(config, verify_data="off")).records()

    assert [(r["model"], r["dataset"]) for r in records] == [
        ("qwen_chat", "SEEDBench_IMG"), ("qwen_chat", "ChartQA_TEST"),
    ]  # fmt: skip
    for record in records:
        arguments = record["arguments"]
        assert arguments["model"] == {"class": "qwen_chat", "model_path": "models/Qwen-VL-Chat"}
        assert arguments["namespace"]["mode"] == "all"
        if block == "yaml":
            assert arguments["namespace"]["api_nproc"] == 16


def test_the_plan_of_the_local_block(tmp_path: Path) -> None:
    (tmp_path / "eval.yaml").write_text(LOCAL_YAML)

    plan = run("eval.yaml", "--dry-run", cwd=tmp_path)

    assert plan.returncode == 0, plan.stderr
    cells = json.loads(plan.stdout)["cells"]
    assert [(c["samples"], c["requests"]) for c in cells] == [(20, 20)] * 2
    assert cells[0]["arguments"]["model"]["model_path"] == "models/Qwen-VL-Chat"
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [environments["vlmeval"], Path(__file__).with_name("tiny_vlm.py"), folder],
        check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    return folder


def test_local_models_are_scored_on_one_gpu_as_on_two(tmp_path: Path, tiny: Path) -> None:
    """One that is a model, made by the test; and the document's, of which there are no weights."""
    config = yaml.safe_load(LOCAL_YAML)
    config["eval_config"]["model"].append(
        {"name": "granite-docling-258M", "model_path": str(tiny), "max_new_tokens": 1}
    )
    config["eval_config"]["data"] = ["SEEDBench_IMG"]
    config["eval_config"]["limit"] = 6
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "models" / "Qwen-VL-Chat").mkdir(parents=True)
    (tmp_path / "models" / "Qwen-VL-Chat" / "config.json").write_text("{}")

    one = run("eval.yaml", cwd=tmp_path, ONEDNN_MAX_CPU_ISA="AVX2")
    first = load_run(tmp_path / "outputs" / "latest")
    two = run(
        "eval.yaml", "--gpus", 2, "--set", "eval_config.model=[" + json.dumps(
            config["eval_config"]["model"][1]) + "]",
        "--data", "SEEDBench_IMG", "MMBench_DEV_EN",  # the ranks meet again for the second
        cwd=tmp_path, ONEDNN_MAX_CPU_ISA="AVX2",
    )  # fmt: skip
    second = load_run(tmp_path / "outputs" / "latest")

    assert one.returncode == 1
    [failed] = [r for r in first.rows if r.model == "qwen_chat"]
    assert failed.status == "failed"
    assert "models/Qwen-VL-Chat" in failed.error
    assert two.returncode == 0, two.stderr
    [row] = primary(first).values()
    assert (row.model, row.n, row.n_failed, row.unit) == ("granite-docling-258M", 6, 0, "fraction")
    found = []
    for result, gpus in ((first, 1), (second, 2)):
        [folder] = result.path.glob("upstream/vlmeval/*SEEDBench_IMG/granite-docling-258M")
        assert json.loads((folder / "status.json").read_text())["world_size"] == gpus
        samples = result.samples[result.samples["model"] == "granite-docling-258M"]
        samples = samples[samples["dataset"] == "SEEDBench_IMG"]
        said = dict(zip(samples["index"], samples["prediction"], strict=True))
        assert len(said) == 6
        assert set(said.values()) <= set("ABCD")
        scores = {r.subset: r.value for r in result.rows
                  if (r.model, r.dataset) == ("granite-docling-258M", "SEEDBench_IMG")}  # fmt: skip
        found.append((said, scores))
    assert found[0] == found[1]
    assert {r.status for r in second.rows if r.dataset == "MMBench_DEV_EN"} == {"scored"}
    log = (second.path / "logs" / "granite-docling-258M__SEEDBench_IMG.log").read_text()
    for rank in (0, 1):
        assert re.search(rf"Rank {rank}/2: 100%.*3/3", log)


# The judge


def _judged(url: str) -> dict[str, Any]:
    block = yaml.safe_load(JUDGE_YAML)
    return {**block, "OPENAI_API_BASE": f"{url}/chat/completions"}


def test_the_judge_block_at_the_top_grades(
    tmp_path: Path, script: Callable[..., list[dict[str, Any]]]
) -> None:
    """By the script's second option, with a data set of the user's own as well."""
    with Served(UNSURE) as served, Served(judge) as judging:
        config = {**at(yaml.safe_load(SERVICE_YAML), served.url), **_judged(judging.url)}
        config["eval_config"]["data"].append("custom_mcq")
        (tmp_path / "eval_openai_api.yaml").write_text(yaml.safe_dump(config))
        report_list = script("'eval_openai_api.yaml'")

    assert len(served.asked) == 48
    assert {b["model"] for b in served.bodies()} == {"qwen-vl-chat"}
    assert {b["model"] for b in judging.bodies()} == {"qwen2-7b-instruct"}
    assert {a["headers"]["Authorization"] for a in judging.asked} == {"Bearer EMPTY"}
    assert sum(UNSURE in json.dumps(b) for b in judging.bodies()) == 28
    found = primary(load_run(tmp_path / "outputs" / "latest"))
    for dataset, value in (("SEEDBench_IMG", 6 / 20), ("custom_mcq", 2 / 8)):  # A is right so often
        row = found["qwen-vl-chat", dataset]
        assert (row.scorer, row.judge_fallback) == ("qwen2-7b-instruct", False)
        assert row.value == value
    assert found["qwen-vl-chat", "ChartQA_TEST"].scorer == "rule:acc"  # upstream asks no judge
    [custom] = [r for r in report_list if "qwen-vl-chat_custom_mcq_acc" in r]
    assert custom["qwen-vl-chat_custom_mcq_acc"]["Overall"] == "0.25"


def test_the_judge_block_in_eval_config_and_a_judge_that_refuses(tmp_path: Path) -> None:
    with Served(UNSURE) as served, Served(models=("another",)) as judging:
        config = at(yaml.safe_load(SERVICE_YAML), served.url)
        config["eval_config"].update({**_judged(judging.url), "retry": 1})
        (tmp_path / "eval.yaml").write_text(yaml.safe_dump(config))
        looked = run("eval.yaml", cwd=tmp_path)
        assert looked.returncode == 3
        assert "judge qwen2-7b-instruct" in looked.stderr
        assert "it serves another" in looked.stderr
        done = run("eval.yaml", "--no-preflight", "--judge-fallback", "allow", cwd=tmp_path)

    assert judging.asked
    assert {b["model"] for b in judging.bodies()} == {"qwen2-7b-instruct"}
    found = primary(load_run(tmp_path / "outputs" / "latest"))
    seedbench = found["qwen-vl-chat", "SEEDBench_IMG"]
    assert (seedbench.scorer, seedbench.judge_fallback) == ("exact_matching", True)
    assert seedbench.value == 0
    assert "qwen2-7b-instruct did not answer" in seedbench.error
    assert not found["qwen-vl-chat", "ChartQA_TEST"].judge_fallback
    assert done.returncode == 0, done.stderr


def test_the_judge_is_the_same_wherever_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = yaml.safe_load(JUDGE_YAML)
    service = yaml.safe_load(SERVICE_YAML)
    inside = copy.deepcopy(service)
    inside["eval_config"].update(block)

    top = runs.spec_of({**service, **block}).judge
    found = [top, runs.spec_of(inside).judge]
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in block.items()))
    found.append(runs.spec_of(service).judge)
    Path(".env").unlink()
    for name, value in block.items():
        monkeypatch.setenv(name, value)
    found.append(runs.spec_of(service).judge)

    assert (top.model, top.api_base, top.key) == (
        "qwen2-7b-instruct", "http://127.0.0.1:8866/v1", "EMPTY",
    )  # fmt: skip
    assert found == [top] * 4


def test_without_a_judge_answers_are_matched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert not runs.spec_of(yaml.safe_load(SERVICE_YAML)).judge.is_model


# The tutorial's commands


def test_inference_first_and_scores_later(tmp_path: Path) -> None:
    with Served() as served:
        inferred = run(*TUTORIAL, "--mode", "infer", "--api-base", served.url, cwd=tmp_path)
        asked = len(served.asked)
        evaluated = run(*TUTORIAL, "--mode", "eval", "--api-base", served.url, cwd=tmp_path)

    for done in (inferred, evaluated):
        assert done.returncode == 0, done.stderr
    assert asked == len(served.asked) == 16 + 8 + 24
    assert {b["model"] for b in served.bodies()} == {"InternVL2-2B"}
    assert {r["status"] for r in rows(inferred)} == {"infer_only"}
    assert [(r["dataset"], r["n"]) for r in rows(inferred)] == [
        ("MMBench_DEV_EN", 16), ("MME", 8), ("SEEDBench_IMG", 24),
    ]  # fmt: skip
    values = {(r["dataset"], r["subset"]): (r["value"], r["n"]) for r in rows(evaluated)}
    assert values["SEEDBench_IMG", "overall"] == (0.25, 24)
    assert values["MMBench_DEV_EN", "dev"] == (0.5, 16)
    assert values["MME", "perception"][0] == 0
    metrics = tmp_path / "outputs" / "latest" / "upstream" / "vlmeval"
    assert {p.name for p in metrics.glob("*/InternVL2-2B/*_acc.csv")} == {
        "InternVL2-2B_MMBench_DEV_EN_acc.csv", "InternVL2-2B_SEEDBench_IMG_acc.csv",
    }  # fmt: skip


def test_the_tutorials_judge_in_a_dotenv_file(tmp_path: Path) -> None:
    """And ids of models as LMDeploy, Ollama and vLLM give them, under which results stand."""
    ids = (
        "InternVL2-2B",
        "/share/new_models/OpenGVLab/InternVL2-2B", "llava:7b", "Qwen/Qwen2.5-VL-7B-Instruct",
    )  # fmt: skip
    local = "/share/new_models/Shanghai_AI_Laboratory/internlm2_5-1_8b-chat"
    with Served(UNSURE) as served, Served(judge) as judging:
        address = "http://0.0.0.0:23333/v1"
        (tmp_path / ".env").write_text(TUTORIAL_ENV.replace(address, judging.url))
        done = run(
            *TUTORIAL[:-1], *ids[1:], "--verbose", "--limit", 4, "--api-base", served.url,
            cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert {b["model"] for b in judging.bodies()} == {local}
    assert {a["headers"]["Authorization"] for a in judging.asked} == {"Bearer sk-123456"}
    assert {a["headers"]["Authorization"] for a in served.asked} == {"Bearer EMPTY"}
    result = load_run(tmp_path / "outputs" / "latest")
    found = primary(result)
    assert {model for model, _ in found} == set(ids)
    assert len(found) == 12
    assert {b["model"] for b in served.bodies()} == set(ids)
    assert len(served.asked) == 4 * 3 * 4
    for (_, dataset), row in found.items():
        assert (row.scorer, row.judge_fallback) == (local, False)
        if dataset == "SEEDBench_IMG":
            assert row.value == 0.5
    assert set(result.samples["model"]) == set(ids)
    assert (
        len(list((result.path / "upstream" / "vlmeval").glob("*/*/*_SEEDBench_IMG_acc.csv"))) == 4
    )


# run.py: its --config


def test_the_help_of_run_py_has_a_comma_too_many(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG_JSON)
    line = CONFIG_JSON[: CONFIG_JSON.index("true,")].count("\n") + 1

    done = shim("run", "config.json", cwd=tmp_path)

    assert done.returncode == 2
    assert f"line {line}" in done.stderr or f"line {line + 1}" in done.stderr
    assert "column" in done.stderr


def test_the_config_json_of_run_py(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG_JSON.replace("true,", "true"))
    with Served() as served, Served(judge) as judging:
        done = run(
            "config.json", "--api-base", served.url, cwd=tmp_path, LOCAL_LLM="j",
            OPENAI_API_BASE=f"{judging.url}/chat/completions", OPENAI_API_KEY="sk-judge",
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    settings = {
        (b["model"], b["temperature"], part["image_url"]["detail"])
        for b in served.bodies()
        for part in b["messages"][-1]["content"]
        if part["type"] == "image_url"
    }
    assert settings == {
        ("gpt-4o-2024-08-06", 0, "high"),
        ("gpt-4o-2024-08-06", 1.0, "low"),
        ("gpt-4o-2024-11-20", 0, "high"),
    }
    assert not any("sk-judge" in str(a["headers"]) for a in served.asked)
    frames: dict[str, set[int]] = {}
    for body in served.bodies():
        name, _ = vlmeval_data.asked_for(json.dumps(body)) or ("", "")
        frames.setdefault(name, set()).add(len(pictures(body["messages"][-1])))
    assert frames == {
        "MME-RealWorld-Lite": {1}, "MMBench_DEV_EN_V11": {1}, "MMBench-Video": {8},
        "Video-MME": {16},
    }  # fmt: skip
    assert len(served.asked) == 3 * (8 + 16 + 4 + 4)
    subtitled = [b for b in served.bodies() if "A wall of one colour." in json.dumps(b)]
    assert len(subtitled) == 3 * 4
    found = primary(load_run(tmp_path / "outputs" / "latest"))
    assert {model for model, _ in found} == {
        "GPT4o_20240806_T00_HIGH", "GPT4o_20240806_T10_Low", "GPT4o_20241120",
    }  # fmt: skip
    assert {dataset for _, dataset in found} == {
        "MME-RealWorld-Lite", "MMBench_DEV_EN_V11", "MMBench_Video_8frame_nopack",
        "Video-MME_16frame_subs",
    }  # fmt: skip
    assert len(found) == 12
    assert {found[m, d].value for m, d in found if d == "MMBench_DEV_EN_V11"} == {0.5}
    graded = [r for (_, d), r in found.items() if d == "MMBench_Video_8frame_nopack"]
    assert {(r.scorer, float(r.value)) for r in graded} == {("j", 3.0)}


# run.py: its flags


def test_the_flags_of_run_py(tmp_path: Path) -> None:
    failing = "#101670]"

    def answer(messages: list[dict[str, Any]]) -> str:
        if failing in json.dumps(messages):
            raise RuntimeError("no")
        return RED

    with Served(answer) as served:
        done = run(
            "--base-url", served.url, "--key", "K", "--max-tokens", 77, "--temperature", 0.5,
            "--model", "m", "--data", "SEEDBench_IMG", "Video-MME", "--retry", 3, "--keep-failed",
            "--use-vllm", "--upstream", "nframe=4", "--limit", 2, "--fail-on", 1,
            "--set", "models.0.upstream.wait=0",
            cwd=tmp_path,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert {a["headers"]["Authorization"] for a in served.asked} == {"Bearer K"}
    assert {(b["model"], b["max_tokens"], b["temperature"]) for b in served.bodies()} == {
        ("m", 77, 0.5)
    }
    tries = sum(failing in json.dumps(b) for b in served.bodies())
    assert tries == 3
    assert len(served.asked) == 1 + tries + 2
    frames = {
        len(pictures(b["messages"][-1])) for b in served.bodies() if "[Video-MME" in json.dumps(b)
    }
    assert frames == {4}
    seedbench = primary(load_run(tmp_path / "outputs" / "latest"))["m", "SEEDBench_IMG"]
    assert (seedbench.n, seedbench.n_failed) == (2, 1)


def test_falsy_values_arrive_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = runs.specify(
        None, model=["m"], data=["SEEDBench_IMG"], verify_data="off",
        upstream={
            "base_url": "http://127.0.0.1:9/v1", "temperature": 0, "top_p": 0.0,
            "verbose": False, "nframe": 0,
        },
    )  # fmt: skip

    [record] = plans.plan(spec).records()

    model, namespace = record["arguments"]["model"], record["arguments"]["namespace"]
    assert model["class"] == "LMDeployAPI"
    assert (model["temperature"], model["top_p"], model["max_tokens"]) == (0, 0.0, 2**15)
    assert (namespace["verbose"], namespace["nframe"]) == (False, 0)


# vlmeval.utils.arguments, to which the document refers


def _fields(python: Path) -> dict[str, Any]:
    """The fields of upstream's Arguments, with their defaults."""
    [path] = python.parents[1].glob("lib/python3.*/site-packages/vlmeval/utils/arguments.py")
    tree = ast.parse(path.read_text())
    [cls] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Arguments"]
    fields = [n for n in cls.body if isinstance(n, ast.AnnAssign)]
    found = {}
    for field in fields:
        assert isinstance(field.target, ast.Name)
        text = ast.unparse(field.value or ast.Constant(None))
        found[field.target.id] = None if text.startswith("field(") else eval(text)
    return found


# Fields whose place on our side is another: of these the value is checked there.
_PLACED = {
    "data", "model", "config", "work_dir", "mode", "api_nproc", "nproc", "reuse", "limit", "judge",
    "judge_base_url", "judge_key", "base_url", "key", "OPENAI_API_KEY", "OPENAI_API_BASE",
    "LOCAL_LLM",
}  # fmt: skip


def test_every_field_of_upstreams_arguments_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environments: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = _fields(environments["vlmeval"])
    assert len(fields) > 40
    wrong = {}
    for name, default in fields.items():
        if name in _PLACED:
            continue
        values: list[Any] = [default, 0.5 if name == "temperature" else 7]
        if isinstance(default, bool):
            values = [True, False]
        elif isinstance(default, str) or name in ("judge_args", "custom_prompt", "extra_body"):
            values = ['{"a": 1}' if name in ("judge_args", "extra_body") else "all"]
        for value in values:
            config = copy.deepcopy(SERVICE_DICT)
            config["eval_config"][name] = value
            try:
                record = plans.plan(runs.spec_of(config, verify_data="off")).records()[0]
            except Exception as error:
                wrong[name, value] = str(error)
                continue
            namespace = record["arguments"]["namespace"]
            if value is not None and namespace.get(name) != value:
                wrong[name, value] = namespace.get(name)
    assert wrong == {}


def changed(**fields: Any) -> RunSpec:
    """The dict block with other fields."""
    config = copy.deepcopy(SERVICE_DICT)
    config["eval_config"].update(fields)
    return runs.spec_of(config, verify_data="off")


URL = "http://127.0.0.1:9/v1"


def test_fields_with_a_place_of_ours_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert changed(api_nproc=3).concurrency == 3
    assert changed(nproc=5).concurrency == 5
    assert changed(mode="infer").mode == "infer"
    assert changed(mode="eval").mode == "eval"
    assert changed(limit=None).limit is None
    assert changed(work_dir="elsewhere").work_dir == tmp_path / "elsewhere"
    assert changed(judge="exact_matching").judge.model == "exact_matching"
    assert changed(judge="gpt-4o-mini").judge.model == "gpt-4o-mini"
    judged = changed(judge="j", judge_base_url=URL, judge_key="sk").judge
    assert (judged.model, judged.api_base, judged.key) == ("j", URL, "sk")
    [model] = changed(base_url=URL, max_tokens=55, key="K", model=["m"]).models
    assert (model.cls, model.api_base, model.max_tokens, model.key) == (
        "LMDeployAPI", URL, 55, "K",
    )  # fmt: skip
    assert changed(retry=2).models[0].retry == 2
    assert changed(rerun=False, reuse=True).reuse is True
    assert changed(rerun=False, reuse=False).reuse is False


def test_nproc_goes_before_api_nproc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Arguments.__post_init__."""
    monkeypatch.chdir(tmp_path)

    assert changed(api_nproc=3, nproc=5).concurrency == 5


def test_a_key_that_upstream_would_not_use_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments.key is for `base_url`, as its temperature and max_tokens, which are taken."""
    monkeypatch.chdir(tmp_path)

    assert changed(key="sk-admin", temperature=0.5).models[0].key == "EMPTY"


@pytest.mark.parametrize(("given", "meant"), [(True, "all"), (False, "none"), ("infer", "infer")])
def test_reuse_aux_is_a_word_or_a_truth_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, meant: str
) -> None:
    """Upstream's own functions compare it with the words."""
    monkeypatch.chdir(tmp_path)

    record = plans.plan(changed(reuse_aux=given)).records()[0]

    assert record["arguments"]["namespace"]["reuse_aux"] == meant


def test_thinker_doubles_what_a_thinker_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in run.py's build_model_from_base_url."""
    monkeypatch.chdir(tmp_path)

    [model] = changed(base_url=URL, model=["m"], thinker=True, max_tokens=50, timeout=10).models

    assert (model.max_tokens, model.timeout) == (100, 20)


def test_a_models_fields_reach_upstreams_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {
        "max_tokens": 3, "top_p": 0.0, "seed": 0, "timeout": 30, "retry": 4, "img_detail": "low",
        "system_prompt": "Be brief.", "max_file_size": 0, "total_img_size": -1, "wait": 0,
        "video_llm": False, "use_azure": False, "verbose": False, "stop": [],
    }  # fmt: skip
    served = {"name": "CustomAPIModel", "type": "q", "api_base": URL, **more}

    records = plans.plan(changed(model=[served, "qwen_chat"], data=["SEEDBench_IMG"])).records()

    assert records[0]["arguments"]["model"] == {
        "class": "CustomAPIModel", "model": "q", "api_base": f"{URL}/chat/completions", **more,
    }  # fmt: skip
    assert records[1]["arguments"]["model"] == {"class": "qwen_chat"}
    ends = [changed(model=[{**served, "api_base": f"{URL}{end}"}]).models[0].api_base
            for end in ("", "/", "/chat/completions")]  # fmt: skip
    assert ends == [URL] * 3


def test_a_model_of_the_command_line_takes_the_flags_of_its_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is a flag of a model's is not dropped where its address is `--api-base`."""
    monkeypatch.chdir(tmp_path)

    [model] = runs.specify(
        None, model=["m"], data=["SEEDBench_IMG"], api_base=URL,
        upstream={"temperature": 0, "max_tokens": 77},
    ).models  # fmt: skip

    assert (model.temperature, model.max_tokens) == (0, 77)


def test_the_flags_of_a_judge_are_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    judged = runs.specify(
        None, model=["m"], data=["SEEDBench_IMG"], api_base=URL, judge={"model": "j"},
        upstream={"judge_base_url": URL, "judge_key": "sk"},
    ).judge  # fmt: skip

    assert (judged.model, judged.api_base, judged.key) == ("j", URL, "sk")


def test_a_video_is_not_sampled_in_two_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's classes refuse it once they are built."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="nframe"):
        changed(data=["Video-MME"], fps=1, nframe=8)
    assert changed(data=["Video-MME"], fps=1).datasets[0].modality == "video"


def test_an_unknown_field_is_refused_with_near_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = copy.deepcopy(SERVICE_DICT)
    config["eval_config"]["keep_faild"] = True

    with pytest.raises(ConfigError) as refused:
        runs.spec_of(config)

    assert "keep_faild" in str(refused.value)
    assert "keep_failed" in str(refused.value)
    both = copy.deepcopy(SERVICE_DICT)
    both["eval_config"]["reuse"] = True
    with pytest.raises(ConfigError, match="rerun"):
        runs.spec_of(both)
