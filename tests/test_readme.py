"""What the README shows is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from evalshim import config, dataset_entries, judge_entries, model_entries
from evalshim.judge_entries import judge_entry

UPSTREAMS = {"--verbose", "--use-vllm", "--slurm", "--config"}
README = (Path(__file__).parents[1] / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pets.tsv").write_text("index\tquestion\tA\tB\tanswer\n")
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-judge")
    first, judged = map(yaml.safe_load, _blocks("yaml"))

    spec = config.parse(first, beside=tmp_path)

    assert [d.name for d in spec.datasets] == ["gsm8k", "pets"]
    assert (spec.limit, spec.concurrency) == (20, 32)
    whole = config.parse({**first, "judge": judged["judge"]}, beside=tmp_path)
    assert whole.judge == judge_entry(judged["judge"], "judge")
    assert whole.judge_of(whole.datasets[0]).key_env == "JUDGE_KEY"


def test_every_key_is_in_the_table() -> None:
    cells = " ".join(re.findall(r"^\| (`.*?) \|", README, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", cells))

    assert named >= {*config.RUN_KEYS, *model_entries.MODEL_KEYS, *dataset_entries.DATASET_KEYS}
    assert {*judge_entries.JUDGE_KEYS} <= set(re.findall(r"\w+", _blocks("yaml")[1])) | {
        "key", "upstream", "verify", "ca_bundle",
    }  # fmt: skip


def test_every_command_and_option_exists() -> None:
    from evalshim.cli import main

    commands = re.findall(r"^\$ shim (\w+)|`shim (\w+)", README, re.MULTILINE)
    for command in {a or b for a, b in commands}:
        assert command in main.commands
    nested = [
        c for group in main.commands.values() for c in getattr(group, "commands", {}).values()
    ]
    every = [*main.commands.values(), *nested]
    # The last are the toolkits' own, which `shim run` takes too.
    options = {o for c in every for p in c.params for o in p.opts} | UPSTREAMS
    shown = " ".join(line for line in README.splitlines() if "shim " in line or "--data" in line)
    for option in set(re.findall(r"(--[a-z-]+)", shown)):
        assert option in options
