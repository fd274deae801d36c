"""What is a verdict, who is a judge that nobody sees, and who takes Azure's header."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalshim.worker import judging, models, opencompass_judge
from evalshim.worker.grading import JudgeError

# Of YOrN_match_prompt (VLMEvalKit 0.0.20), and of a prompt that offers nothing.
YES_NO = (
    "Your should output a single word among the following 3 choices: Yes, No, Unknown.\n"
    "Question: Is it?\nAnswer: I cannot tell\nYour output: "
)


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        (YES_NO, "Yes", True), (YES_NO, "no.", True), (YES_NO, "Unknown", True),
        (YES_NO, "It is unknown to me whether yes or no", True),
        (YES_NO, "Yes and no", False), (YES_NO, "The weather is fine", False),
        (YES_NO, "I know nothing", False), ("Say what it is.", "The weather is fine", True),
    ],
)  # fmt: skip
def test_a_verdict_of_vlmevalkits_judge(prompt: str, answer: str, found: bool) -> None:
    assert judging._is_verdict(prompt, answer) is found


TWO = 'A: CORRECT\nB: INCORRECT\nJust return the letters "A" or "B", with no text around it.'
THREE = 'Just return the letters "A", "B", or "C", with no text around it.'
BOXED = "If they match, output \\boxed{yes}, otherwise output \\boxed{no}."


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        (TWO, "A", True), (TWO, "It is B", True), (TWO, "C", False), (TWO, "well", False),
        (THREE, "C", True), (THREE, "", False),
        ('只返回字母"A"、"B"或"C"', "C", True),
        # What comes last counts: the question may have such words of its own.
        (f'Just return "X".\n{TWO}', "X", False),
        (BOXED, r"\boxed{no}", True), (BOXED, "no", False),
        ("Give a score from 1 to 10.", "7", None),
    ],
)  # fmt: skip
def test_a_verdict_of_opencompass_judge(prompt: str, answer: str, found: bool | None) -> None:
    assert opencompass_judge.is_verdict(prompt, answer) is found


def _graded(folder: Path, name: str, **attributes: Any) -> Any:
    """`evaluate` of a dataset of upstream's, by the name of its class, as the worker has it."""
    new_watch: Any = models.Watch  # the worker has no types
    watch = new_watch({"id": "c", "retries": 0})
    watch.go_on(str(folder))
    watch.dataset = type(name, (), attributes)()
    judge: dict[str, Any] = {"model": "j", "variables": {}, "key_env": "NO_SUCH", "at": "there",
                             "fallback": "error"}  # fmt: skip
    evaluate: Any = judging.judged
    return evaluate(lambda path, **_: path, watch, {"judge": judge})


@pytest.mark.parametrize("name", judging.BY_THEMSELVES)
def test_who_asks_a_judge_unseen_is_refused(name: str, tmp_path: Any) -> None:
    with pytest.raises(JudgeError, match=f"{name} asks a judge by a client of its own") as caught:
        _graded(tmp_path, name)(str(tmp_path / "x.tsv"))
    assert "`mode: infer`" in str(caught.value)


def _predictions(folder: Path) -> str:
    path = folder / "x.tsv"
    path.write_text("index\tprediction\n0\tA\n")
    return str(path)


def test_what_is_scored_by_rules_is_not(tmp_path: Any) -> None:
    path = _predictions(tmp_path)

    assert _graded(tmp_path, "MEGABench", subset_name="core")(path) == path
    with pytest.raises(JudgeError):
        _graded(tmp_path, "MEGABench", subset_name="open")(path)


def test_a_file_that_cannot_be_read_ends_the_evaluation(tmp_path: Path) -> None:
    """Else the next one would be taken for one within it."""
    with pytest.raises(FileNotFoundError):
        _graded(tmp_path, "ImageMCQDataset")(str(tmp_path / "none.tsv"))
    assert judging._grading is None


def test_an_evaluation_within_another_leaves_that_watched(tmp_path: Path) -> None:
    """CreationMMBench evaluates its answers in both orders."""
    new_watch: Any = models.Watch
    watch = new_watch({"id": "c", "retries": 0})
    watch.go_on(str(tmp_path))
    watched = []

    def evaluate(path: str, inner: bool = False) -> str:
        if not inner:
            outer(path, inner=True)
        watched.append(judging._grading)
        return path

    outer: Any = judging.judged(evaluate, watch, {"judge": None})  # type: ignore[no-untyped-call]
    path = _predictions(tmp_path)

    assert outer(path) == path
    assert watched == [watch.grading] * 2


PEER = {"eval_cfg": {"evaluator": {"type": "opencompass.datasets.PEER_Evaluator"}}}


def test_of_opencompass_those_with_a_client_of_their_own_are_refused() -> None:
    refuse: Any = opencompass_judge.refuse_unseen

    with pytest.raises(JudgeError, match="PEER_Evaluator asks a client without an address"):
        refuse(PEER)
    by_rules = {"eval_cfg": {"evaluator": {**PEER["eval_cfg"]["evaluator"], "use_gpt": False}}}
    refuse(by_rules)
    refuse({"eval_cfg": {"evaluator": {"type": "AccEvaluator"}}})
    refuse({})


@pytest.mark.parametrize(
    ("evaluator", "judge"),
    [
        ({"type": "AccEvaluator"}, ""),
        ({"type": "GenericLLMEvaluator", "judge_cfg": {"path": "theirs"}}, "theirs"),
        ({"type": "GenericLLMEvaluator", "judge_cfg": {}}, "of the environment"),
        (
            {
                "type": "CascadeEvaluator",
                "rule_evaluator": {"type": "AccEvaluator"},
                "llm_evaluator": {"type": "GenericLLMEvaluator", "judge_cfg": {"path": "theirs"}},
            },
            "theirs",
        ),
        ({"type": "ATLASLLMEvaluator", "judge_cfg": {"judgers": [{"path": "theirs"}]}}, "theirs"),
        ({"type": "LiveMathBenchEvaluator", "model_name": "m", "url": ["http://x"]}, "m"),
        ({"type": "LiveMathBenchEvaluator", "model_name": "", "url": []}, ""),
        ({"type": "HealthBenchEvaluator"}, "of the environment"),
    ],
)
def test_the_judge_that_a_configuration_names(
    monkeypatch: pytest.MonkeyPatch, evaluator: dict[str, Any], judge: str
) -> None:
    monkeypatch.setenv("OC_JUDGE_MODEL", "of the environment")

    named: Any = opencompass_judge.named
    assert named({"eval_cfg": {"evaluator": evaluator}}) == judge
    assert named({}) == ""


@pytest.mark.parametrize(
    ("base", "azure"),
    [
        ("https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1", True),
        ("https://x.openai.azure.com:443/openai/deployments/d/chat/completions", True),
        ("https://api.openai.com/v1/chat/completions", False),
        ("https://proxy.example.org/x.openai.azure.com/v1", False),
        ("https://azure.com.example.org/v1", False),
        (None, False),
    ],
)
def test_who_takes_azures_header(base: str | None, azure: bool) -> None:
    model = SimpleNamespace(api_base=base, use_azure=False)
    judging.speak_to_azure(model)

    assert model.use_azure is azure
    other = SimpleNamespace(api_base=base)  # a class without that switch
    judging.speak_to_azure(other)
    assert not hasattr(other, "use_azure")
