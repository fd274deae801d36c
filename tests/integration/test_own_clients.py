"""Which evaluators of the installed toolkits call endpoints by clients of their own.

A judge that is asked past the toolkit's model classes is not watched: it is refused, or made the
cell's, by name. A version of a toolkit that brings another shows here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from evalshim.worker import judging, opencompass_judge

# Calls by their last names: of HTTP, of a vendor's library, of a model.
_HTTP = {"post", "request", "urlopen"}
_CLIENTS = {
    "OpenAI", "AsyncOpenAI", "AzureOpenAI", "Anthropic", "InferenceClient", "GenerativeModel",
    "Client",
}  # fmt: skip
_MODELS = {"build_model_from_cfg"}

# By the file, what becomes of it: the classes below, or why it is none of our business.
VLMEVAL = {
    "dataset/medqbench_caption.py": "asks only whether its judge is there, which it then builds "
    "by build_judge",
    "dataset/medqbench_paired_description.py": "the same",
    "dataset/mmlongbench.py": "a font",
    "dataset/simplevqa.py": "SimpleVQA",
    "dataset/utils/mathcanvas.py": "MathCanvas",
    "dataset/utils/megabench/scoring/ascii_art_gpt4o_judge.py": "MEGABench",
    "dataset/utils/megabench/scoring/vlm_as_judge.py": "MEGABench",
}
OPENCOMPASS = {
    "datasets/SciReasoner/PEER.py": "PEER_Evaluator",
    "datasets/atlas/evaluation.py": "ATLASLLMEvaluator",
    "datasets/bigcodebench/bigcodebench.py": "a service that runs programs",
    "datasets/fake_alignment/fake_alignment.py": "judge_cfg, of a configuration",
    "datasets/gaokao_math.py": "GaoKaoMATHEvaluator",
    "datasets/healthbench/sampler/chat_completion_sampler.py": "HealthBenchEvaluator",
    "datasets/leval/evaluators.py": "LEvalGPTEvaluator",
    "datasets/livecodebench_pro/livecodebench_pro_evaluator.py": "a service that runs programs",
    "datasets/livemathbench/livemathbench.py": "LiveMathBenchEvaluator",
    "datasets/omni_math.py": "OmniMathEvaluator",
    "evaluator/generic_llm_evaluator.py": "GenericLLMEvaluator",
    "openicl/icl_evaluator/code_evaluator.py": "a service that runs programs",
    "openicl/icl_evaluator/icl_agent_evaluator.py": "WinRateEvaluator",
    "openicl/icl_evaluator/lm_evaluator.py": "LMEvaluator",
}


def _name(call: ast.Call) -> str:
    """What is called: `requests.post`, `OpenAI`."""
    return ast.unparse(call.func)


def _calls_by_itself(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
        if isinstance(node, ast.Call):
            owner, _, last = _name(node).rpartition(".")
            http = last in _HTTP and (owner in ("requests", "httpx") or last == "urlopen")
            if http or last in _CLIENTS | _MODELS or _name(node) == "MODELS.build":
                return True
    return False


def _found(package: Path, *parts: str) -> set[str]:
    files = [path for part in parts for path in (package / part).rglob("*.py")]
    assert len(files) > 100
    return {path.relative_to(package).as_posix() for path in files if _calls_by_itself(path)}


def _package(python: Path, name: str) -> Path:
    [found] = python.parents[1].glob(f"lib/python3.*/site-packages/{name}")
    return found


@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize(
    ("name", "parts", "known"),
    [
        ("vlmeval", ("dataset",), VLMEVAL),
        ("opencompass", ("datasets", "evaluator", "openicl/icl_evaluator"), OPENCOMPASS),
    ],
)
def test_all_are_known(
    environments: dict[str, Path], name: str, parts: tuple[str, ...], known: dict[str, str]
) -> None:
    assert _found(_package(environments[name], name), *parts) == {*known}


def test_and_seen_to() -> None:
    mended = {"ATLASLLMEvaluator", "GenericLLMEvaluator", "HealthBenchEvaluator"}
    by_name = {
        *judging.BY_THEMSELVES, *opencompass_judge.BY_THEMSELVES,
        *opencompass_judge.WITH_MODELS, *mended,
    }  # fmt: skip
    named = {what for what in (*VLMEVAL.values(), *OPENCOMPASS.values()) if " " not in what}

    assert named <= by_name
    assert {*judging.BY_THEMSELVES, *opencompass_judge.BY_THEMSELVES} <= named
