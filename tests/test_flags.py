"""The upstreams' own flags on our command line, and several values behind one of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from evalshim import cli, flags, registry
from evalshim.errors import ConfigError

Split = Callable[..., tuple[list[str], dict[str, Any]]]


@pytest.fixture
def split(upstreams: Path) -> Split:
    """`split("--data", "A", "B")`, with the flags of `shim run` as ours."""
    known = {o: p for p in cli.run.params if isinstance(p, click.Option) for o in p.opts}
    switches = [o for o, p in known.items() if p.is_flag]
    return lambda *words: flags.split(words, list(known), switches, registry.BACKENDS)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["eval.yaml"],
        ["eval.yaml", "--limit", "[10:20]", "--json"],
        ["--limit=3", "--dry-run", "eval.yaml"],
        ["--api-base", "http://h/v1", "--judge", "exact_matching"],
        ["--help"],
        ["-h"],
        ["--set", "a=b=c"],
    ],
    ids=" ".join,
)
def test_what_is_ours_stays_as_it_is(split: Split, words: list[str]) -> None:
    assert split(*words) == (words, {})


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--data", "A", "B"], ["--data", "A", "--data", "B"]),
        (["--model", "a", "b", "--data", "A"], ["--model", "a", "--model", "b", "--data", "A"]),
        (["--data", "A", "--data", "B"], ["--data", "A", "--data", "B"]),
        (["--data=A", "eval.yaml"], ["--data=A", "eval.yaml"]),
        (["eval.yaml", "--data", "A", "B", "--json"],
         ["eval.yaml", "--data", "A", "--data", "B", "--json"]),
    ],
)  # fmt: skip
def test_several_values_may_follow_one_flag(
    split: Split, words: list[str], kept: list[str]
) -> None:
    assert split(*words) == (kept, {})


def test_a_flag_without_its_value_is_left_for_our_parser_to_refuse(split: Split) -> None:
    assert split("--data") == (["--data"], {})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--use-vllm"], {"use_vllm": True}),
        (["--judge-args", '{"max_tokens": 8}'], {"judge_args": '{"max_tokens": 8}'}),
        (["--temperature", "0"], {"temperature": 0}),
        (["--max-num-workers=4"], {"max_num_workers": 4}),
        (["--stop-words", "a", "b", "--slurm"], {"stop_words": ["a", "b"], "slurm": True}),
        (["--stop-words=a"], {"stop_words": ["a"]}),
        (["--slurm", "-p", "gpu"], {"slurm": True, "partition": "gpu"}),
        (["-a", "vllm"], {"accelerator": "vllm"}),
    ],
)
def test_a_flag_of_an_upstream_becomes_its_argument(
    split: Split, words: list[str], found: dict[str, Any]
) -> None:
    assert split(*words) == ([], found)
    assert split("eval.yaml", *words, "--json") == (["eval.yaml", "--json"], found)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["-w", "out"], ["--work-dir", "out"]),
        (["-m", "eval"], ["--mode", "eval"]),
        (["-r"], ["--reuse", "latest"]),
        (["-r", "20260102-030405", "eval.yaml"], ["--reuse", "20260102-030405", "eval.yaml"]),
        (["--reuse", "eval.yaml"], ["--reuse", "latest", "eval.yaml"]),
        (["--work-dir", "out", "--retry", "3"], ["--work-dir", "out", "--retry", "3"]),
    ],
)
def test_a_flag_that_both_have_is_ours(split: Split, words: list[str], kept: list[str]) -> None:
    assert split(*words) == (kept, {})


def test_a_short_flag_behind_a_switch_of_ours_is_upstreams(split: Split) -> None:
    assert split("--dry-run", "-p", "gpu") == (["--dry-run"], {"partition": "gpu"})


def test_a_short_flag_ends_several_values(split: Split) -> None:
    assert split("--data", "A", "-m", "eval") == (["--data", "A", "--mode", "eval"], {})


@pytest.mark.parametrize("flag", ["--set", "--upstream"])
def test_an_assignment_is_one_value(split: Split, flag: str) -> None:
    assert split(flag, "limit=3", "eval.yaml") == ([flag, "limit=3", "eval.yaml"], {})


def test_a_value_that_is_not_yaml_is_refused(split: Split) -> None:
    with pytest.raises(ConfigError, match="--temperature: the value is not YAML"):
        split("--temperature", "{a: ")


def test_a_flag_that_nobody_knows_is_refused_with_near_ones(split: Split) -> None:
    with pytest.raises(ConfigError) as caught:
        split("--use-vlm")
    assert caught.value.what == "no such option: --use-vlm"
    assert "did you mean --use-vllm" in caught.value.cure


def test_flags_of_an_upstream_that_is_not_set_up_are_unknown() -> None:
    with pytest.raises(ConfigError) as caught:
        flags.split(["--use-vllm"], ["--json"], [], registry.BACKENDS)
    assert "what vlmeval takes is unknown: it is not set up" in caught.value.why


def test_assignments_are_yaml() -> None:
    words = ["retry=3", "stop_words=[a, b]", "name=a=b", "limit=[1:2]"]

    assert flags.assignments(words) == {
        "retry": 3, "stop_words": ["a", "b"], "name": "a=b", "limit": "[1:2]",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["retry", "=3", ""])
def test_an_assignment_needs_a_key_and_a_value(word: str) -> None:
    with pytest.raises(ConfigError, match="not KEY=VALUE"):
        flags.assignments([word])
