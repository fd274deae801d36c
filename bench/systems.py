"""How each system does a piece of work: upstream's own commands, EvalScope's, and `shim run`.

Each gets the settings that somebody who knows it would give it for the same work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from bench import data
from bench.cases import Case, System
from bench.endpoint import MODEL
from evalshim import envs, pip_settings, process

SHIM = Path(sys.executable).with_name("shim")
EVALSCOPE = "evalscope==1.14.1"


@dataclass(frozen=True)
class Command:
    argv: Sequence[object]
    env: dict[str, str] = field(default_factory=dict)


def prepare(case: Case, folder: Path) -> None:
    """Make what a case asks, for every system."""
    scope = folder / "evalscope"
    scope.mkdir(parents=True)
    if case.kind == "mcq":
        data.mcq(folder, case.rows, large=case.large)
        if "EvalScope" in case.systems:
            data.general_vmcq(scope, case.rows, large=case.large)
    elif case.kind == "sets":
        data.sets(folder, case.rows)
        data.general_mcq(scope, len(data.SETS), case.rows)
    elif case.kind == "mmlu":
        data.mmlu(folder, case.rows)
        data.general_mcq(scope, len(data.SUBSETS), case.rows)
    if "upstream" in case.systems and case.kind in ("sets", "mmlu"):
        # OpenCompass's model class does not start without a tokenizer, which only counts tokens.
        python = envs.interpreter("opencompass").python
        subprocess.run([python, "-c", _TOKENIZER, folder / "tokenizer"], check=True)


def command(system: System, case: Case, made: Path, here: Path, url: str) -> Command:
    """What `system` is to run in the empty folder `here` for a case whose data is in `made`."""
    if case.kind == "command":
        first = SHIM if system == "evalshim" else evalscope_python().with_name("evalscope")
        return Command([first, *case.command])
    return _COMMANDS[system](case, made, here, url)


def _upstream(case: Case, made: Path, here: Path, url: str) -> Command:
    return (_vlmevalkit if case.kind == "mcq" else _opencompass)(case, made, here, url)


def _vlmevalkit(case: Case, made: Path, here: Path, url: str) -> Command:
    model = {
        "class": "CustomAPIModel",
        "model": MODEL,
        "api_base": f"{url}/chat/completions",
        "key": "EMPTY",
        "temperature": 0,
    }
    questions = {"class": "CustomMCQDataset", "dataset": "mcq"}
    config = here / "config.json"
    config.write_text(json.dumps({"model": {"m": model}, "data": {"mcq": questions}}))
    argv = [
        envs.interpreter("vlmeval").python, "-m", "vlmeval", "--config", config, "--mode", "all",
        "--judge", "exact_matching", "--api-nproc", case.parallel, "--work-dir", here / "work",
    ]  # fmt: skip
    return Command(argv, _lmudata(made, here))


def _lmudata(made: Path, here: Path) -> dict[str, str]:
    """A fresh $LMUData with the questions: VLMEvalKit unpacks their pictures beside them."""
    folder = here / "LMUData"
    folder.mkdir()
    (folder / "mcq.tsv").symlink_to(made / "mcq.tsv")
    return {"LMUData": str(folder), "PRED_FORMAT": "tsv"}


def _opencompass(case: Case, made: Path, here: Path, url: str) -> Command:
    config = here / "config.py"
    config.write_text(
        _CONFIG.format(
            sets=_IMPORTS[case.kind], model=MODEL, url=url, tokenizer=str(made / "tokenizer"),
            parallel=case.parallel,
        )
    )  # fmt: skip
    script = Path(envs.interpreter("opencompass").python).with_name("opencompass")
    env = {"COMPASS_DATA_CACHE": str(made), "OPENAI_API_KEY": "EMPTY"}
    return Command([script, config, "--work-dir", here / "work"], env)


def _evalshim(case: Case, made: Path, here: Path, url: str) -> Command:
    asked = {
        "mcq": [{"name": "mcq", "path": str(made / "mcq.tsv"), "format": "mcq"}],
        "sets": [f"opencompass:{name}" for name in data.SETS],
        "mmlu": ["opencompass:mmlu"],
    }[case.kind]
    config = here / "config.json"
    model = {"name": "m", "model": MODEL, "api_base": url, "temperature": 0}
    config.write_text(
        json.dumps({"models": [model], "datasets": asked, "concurrency": case.parallel})
    )
    env = {"COMPASS_DATA_CACHE": str(made), "LMUData": str(here / "LMUData")}
    return Command([SHIM, "run", config, "--work-dir", here / "work"], env)


def _dataset(case: Case, made: Path, here: Path, url: str) -> Command:
    return Command([envs.interpreter("vlmeval").python, "-c", _HOLD_DATASET], _lmudata(made, here))


def held(here: Path) -> float:
    """Megabytes of the rows that `dataset` held."""
    return float((here / "held.txt").read_text()) / 2**20


def _evalscope(case: Case, made: Path, here: Path, url: str) -> Command:
    name, subsets = "general_vmcq", ["mcq"]
    if case.kind != "mcq":
        count = len(data.SETS if case.kind == "sets" else data.SUBSETS)
        name, subsets = "general_mcq", [f"subset{number}" for number in range(count)]
    given = {name: {"local_path": str(made / "evalscope"), "subset_list": subsets}}
    argv = [
        evalscope_python().with_name("evalscope"), "eval", "--model", MODEL, "--api-url", url,
        "--api-key", "EMPTY", "--eval-type", "openai_api", "--datasets", name,
        "--dataset-args", json.dumps(given), "--eval-batch-size", case.parallel,
        "--generation-config", "temperature=0", "--work-dir", here / "work",
    ]  # fmt: skip
    return Command(argv)


_COMMANDS: dict[System, Callable[[Case, Path, Path, str], Command]] = {
    "upstream": _upstream,
    "EvalScope": _evalscope,
    "evalshim": _evalshim,
    "dataset": _dataset,
}


def scored(system: System, case: Case, here: Path) -> bool:
    """Whether a run left its scores: upstream's commands exit with 0 when they fail."""
    pattern, count = _SCORES[system, case.kind]
    return len(list((here / "work").glob(pattern))) == count


_SCORES = {
    ("upstream", "mcq"): ("m/m_mcq_acc.csv", 1),
    ("upstream", "sets"): ("*/results/m/*.json", len(data.SETS)),
    ("upstream", "mmlu"): ("*/results/m/*.json", len(data.SUBSETS)),
    **{("EvalScope", kind): ("*/reports/*/*.json", 1) for kind in ("mcq", "sets", "mmlu")},
    **{("evalshim", kind): ("latest/results.csv", 1) for kind in ("mcq", "sets", "mmlu")},
}


def evalscope_python() -> Path:
    """The interpreter of the environment that `install_evalscope` makes."""
    return Path(envs.python_of(envs.home() / "bench" / "evalscope"))


def install_evalscope() -> None:
    """EvalScope without its extras, in an environment below the cache directory.

    Raises:
        subprocess.CalledProcessError: It cannot be installed.
    """
    python = evalscope_python()
    env = {**process.isolated_environment(), **pip_settings.for_uv(os.environ)}
    uv = os.fsdecode(find_uv_bin())
    if not python.exists():
        base = sys.executable
        folder = python.parents[1]
        subprocess.run([uv, "venv", "--quiet", "--python", base, folder], env=env, check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, EVALSCOPE]
    subprocess.run(install, env=env, check=True)


# It stays for a second, for its memory to be seen.
_HOLD_DATASET = """
import time
import vlmeval.dataset
made = vlmeval.dataset.CustomMCQDataset(dataset="mcq")
time.sleep(1)
with open("held.txt", "w") as out:
    out.write(str(made.data.memory_usage(deep=True).sum()))
"""

_IMPORTS = {
    "sets": """
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets
    from opencompass.configs.datasets.ARC_c.ARC_c_gen import ARC_c_datasets
""",
    "mmlu": """
    from opencompass.configs.datasets.mmlu.mmlu_gen_4d595a import mmlu_datasets
""",
}

_CONFIG = """
from mmengine.config import read_base
with read_base():{sets}
from opencompass.models import OpenAISDK
datasets = sum((v for k, v in locals().items() if k.endswith('_datasets')), [])
models = [dict(
    type=OpenAISDK, abbr='m', path={model!r}, key='ENV', openai_api_base={url!r},
    tokenizer_path={tokenizer!r}, max_seq_len=10**6, max_out_len=2048, batch_size={parallel},
    max_workers={parallel}, query_per_second=1000, temperature=0,
    meta_template=dict(
        round=[dict(role='HUMAN', api_role='HUMAN'),
               dict(role='BOT', api_role='BOT', generate=True)],
        reserved_roles=[dict(role='SYSTEM', api_role='SYSTEM')]))]
"""

_TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(sys.argv[1])
"""
