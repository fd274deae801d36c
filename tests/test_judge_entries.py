"""The judge of a configuration: each key, each spelling, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from evalshim import config, runs
from evalshim.adapters import judge_env
from evalshim.errors import ConfigError
from evalshim.judge_entries import (
    JUDGE_KEYS,
    judge_entry,
    judge_of_environment,
    plain_judge,
    with_arguments,
)
from evalshim.spec import EXACT_MATCHING, JudgeSpec, RunSpec

SECRET = "sk-canary-12345678"
AT = {"model": "qwen", "api_base": "http://j/v1"}
EVERY = {
    **AT, "key_env": "MY_KEY", "nproc": 3, "retry": 2, "timeout": 9.5, "fallback": "allow",
    "upstream": {"max_tokens": 8, "opencompass": {"max_out_len": 9}},
    "verify": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and a variable with a key."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("MY_KEY", SECRET)


def _parsed(judge: Any = None, *datasets: Any) -> RunSpec:
    raw = {
        "models": [{"name": "m", "api_base": "http://h/v1"}],
        "datasets": [*datasets] or ["gsm8k"],
    }
    return config.parse({**raw, **({"judge": judge} if judge else {})})


def _flags(judge: Any = None, **flags: Any) -> JudgeSpec:
    """The judge of a command line: `shim run` of a file, or of none."""
    path = Path("eval.json")
    raw = {"models": [{"name": "m", "api_base": "http://h/v1"}], "datasets": ["demo_shapes"]}
    path.write_text(json.dumps({**raw, **({"judge": judge} if judge else {})}))
    upstream = flags.pop("upstream", None)
    return runs.specify(path, judge=flags, upstream=upstream).judge


class TestEntry:
    def test_has_every_key(self, tmp_path: Path) -> None:
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        every = {**EVERY, "ca_bundle": str(tmp_path / "ca.pem")}

        assert set(every) | {"key"} == set(JUDGE_KEYS)
        assert judge_entry(every, "judge") == JudgeSpec(**every)

    def test_at_an_endpoint_without_a_key_has_none_to_leak(self) -> None:
        assert judge_entry(AT, "judge") == JudgeSpec(**AT, key="EMPTY")
        assert judge_entry("gpt-4o", "judge") == JudgeSpec("gpt-4o")  # nor here
        assert SECRET not in repr(judge_entry({**AT, "key": SECRET}, "judge"))

    @pytest.mark.parametrize(
        ("given", "parts"),
        [
            (5, ("judge: 5", "exact_matching, or a mapping")),
            ({"api_base": "http://j/v1"}, ("judge: no `model`", "api_base: http")),
            ({**AT, "nprocs": 3}, ("unknown key in judge: nprocs", "did you mean nproc?")),
            ({**AT, "nproc": 0}, ("judge.nproc: 0", "at least 1")),
            ({**AT, "fallback": "alow"}, ("judge.fallback: 'alow'", "did you mean allow?")),
            ({**AT, "upstream": "x"}, ("judge.upstream: 'x'", "a mapping")),
            ({**AT, "key": "a", "key_env": "MY_KEY"}, ("both `key` and `key_env`",)),
            ({**AT, "key_env": "NO_KEY"}, ("judge.key_env: NO_KEY is not set", "export NO_KEY")),
            ("auto", ("judge: no `api_base`", "`auto` asks an endpoint")),
            ({**AT, "model": EXACT_MATCHING}, ("exact_matching, and api_base",)),
        ],
        ids=str,
    )
    def test_that_is_none_is_refused(self, given: Any, parts: tuple[str, ...]) -> None:
        with pytest.raises(ConfigError) as caught:
            judge_entry(given, "judge")
        for part in parts:
            assert part in str(caught.value)

    def test_has_one_address_however_it_is_written(self) -> None:
        for base in ("http://[::1]:8000/v1", "https://j:8443/a/b/v1", "http://j"):
            for end in ("", "/", "//", " ", "/chat/completions", "/chat/completions/"):
                assert judge_entry({**AT, "api_base": f"{base}{end}"}, "judge").api_base == base

    def test_at_azure_keeps_the_query_of_its_address(self) -> None:
        base = "https://x.openai.azure.com/openai/deployments/d"
        query = "?api-version=2024-10-21"
        for end in ("", "/", "/chat/completions", "/chat/completions/"):
            judge = judge_entry({**AT, "api_base": f"{base}{end}{query}"}, "judge")
            assert judge.api_base == f"{base}{query}"
            assert judge_env.vlmeval_variables(judge)["OPENAI_API_BASE"] == (
                f"{base}/chat/completions{query}"
            )


class TestOfADataset:
    def test_goes_before_that_of_the_run(self) -> None:
        own = {"name": "gsm8k", "judge": {**AT, "nproc": 2}}
        spec = _parsed("gpt-4o", own, "demo_arc")

        judges = [spec.judge_of(dataset) for dataset in spec.datasets]
        assert judges == [JudgeSpec(**AT, nproc=2, key="EMPTY"), JudgeSpec("gpt-4o")]
        assert [d.name for d in spec.datasets] == ["gsm8k", "demo_arc"]

    def test_may_be_none_where_the_run_has_one(self) -> None:
        spec = _parsed(AT, {"name": "gsm8k", "judge": EXACT_MATCHING})

        assert not spec.judge_of(spec.datasets[0]).is_model

    def test_says_where_it_is_wrong(self) -> None:
        with pytest.raises(ConfigError, match=r"datasets\[1\]\.judge\.nproc: 0"):
            _parsed(None, "demo_arc", {"name": "gsm8k", "judge": {**AT, "nproc": 0}})

    def test_makes_two_sets_of_one_for_opencompass_alone(self) -> None:
        def twice(dataset: str) -> RunSpec:
            again = {"name": "again", "dataset": dataset, "judge": AT}
            return _parsed(None, dataset, again)

        assert [d.judge is None for d in twice("gsm8k").datasets] == [True, False]
        with pytest.raises(ConfigError, match="are one dataset"):
            twice("MMBench_DEV_EN")

    def test_comes_back_from_a_run_without_its_key(self, tsv: Any) -> None:
        keyed = {**AT, "key": SECRET, "nproc": 2}
        asked = _parsed(
            keyed,
            {"name": "gsm8k", "judge": "gpt-4o"},
            {"name": "again", "dataset": "gsm8k", "judge": {**AT, "key_env": "MY_KEY"}},
            {"name": "pets", "path": str(tsv()), "judge": keyed},
        )

        plain = config.plain(asked)
        assert SECRET not in str(plain)
        read = config.parse(plain)
        assert [d.judge for d in read.datasets] == [
            JudgeSpec("gpt-4o"), JudgeSpec(**AT, key_env="MY_KEY"),
            JudgeSpec(**AT, nproc=2, key="EMPTY"),
        ]  # fmt: skip
        assert [d.origin for d in read.datasets] == [d.origin for d in asked.datasets]


def test_a_judge_is_read_again_as_it_was() -> None:
    given: Any
    for given in (EXACT_MATCHING, "gpt-4o", AT, {"model": "x", "retry": 2}, EVERY):
        judge = judge_entry(given, "judge")
        assert plain_judge(judge) == given
        assert judge_entry(plain_judge(judge), "judge") == judge


class TestArguments:
    """Flags over the judge of a configuration."""

    def test_go_before_it(self) -> None:
        keyed, named = {**AT, "key": "sk-1"}, {**AT, "key_env": "MY_KEY"}
        cases: list[tuple[Any, dict[str, Any], Any]] = [
            (None, {"model": "gpt-4o", "nproc": None}, {"model": "gpt-4o"}),
            ("gpt-4o", {"nproc": 3}, {"model": "gpt-4o", "nproc": 3}),
            (AT, {"model": "other"}, {**AT, "model": "other"}),
            (AT, {"model": EXACT_MATCHING}, EXACT_MATCHING),
            (keyed, {"key_env": "MY_KEY"}, named),
            (named, {"key": "sk-1"}, keyed),
            (5, {"nproc": 3}, 5),
        ]

        for judge, flags, found in cases:
            assert with_arguments(judge, flags) == found

    def test_of_a_model_make_none_of_exact_matching(self) -> None:
        flags = {"api_base": "http://j/v1"}
        with pytest.raises(ConfigError, match="exact_matching, and "):
            judge_entry(with_arguments(EXACT_MATCHING, flags), "judge")
        with pytest.raises(ConfigError, match="exact_matching, and "):
            judge_entry(with_arguments(AT, {"model": EXACT_MATCHING, **flags}), "judge")

    def test_reach_the_run(self) -> None:
        flags = {"nproc": "3", "retry": "2", "timeout": "9.5", "fallback": "allow"}
        judge = _flags({**AT, "nproc": 1}, **flags, key_env="MY_KEY")

        assert judge == JudgeSpec(
            **AT, key_env="MY_KEY", nproc=3, retry=2, timeout=9.5, fallback="allow"
        )  # fmt: skip
        with pytest.raises(ConfigError, match=r"judge\.nproc: 'many'"):
            _flags(AT, nproc="many")

    def test_a_key_of_digits_stays_text(self) -> None:
        assert _flags(AT, key="12345678").key == "12345678"

    def test_in_vlmevalkits_words(self) -> None:
        further = {
            "judge_base_url": "http://j/v1/chat/completions", "judge_key": SECRET,
            "judge_api_nproc": 3, "judge_retry": 2, "judge_timeout": 9,
            "judge_args": '{"max_tokens": 8}',
        }  # fmt: skip
        judge = _flags(model="qwen", upstream=further)

        assert judge == JudgeSpec(
            **AT, key=SECRET, nproc=3, retry=2, timeout=9, upstream={"max_tokens": 8}
        )

    def test_go_before_the_judge_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """VLMEvalKit's own way: LOCAL_LLM in `.env`, and --judge-api-nproc."""
        monkeypatch.setenv("OPENAI_API_BASE", AT["api_base"])
        monkeypatch.setenv("LOCAL_LLM", AT["model"])

        assert _flags(nproc="3") == JudgeSpec(**AT, key="EMPTY", nproc=3)


class TestEnvironment:
    @pytest.mark.parametrize("place", ["environment", ".env"])
    def test_names_a_judge(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {
            "OPENAI_API_KEY": SECRET, "OPENAI_API_BASE": "http://j/v1/chat/completions",
            "LOCAL_LLM": "qwen",
        }  # fmt: skip
        for name, value in given.items() if place == "environment" else ():
            monkeypatch.setenv(name, value)
        if place == ".env":
            Path(".env").write_text("".join(f"{k}={v}\n" for k, v in given.items()))

        assert judge_of_environment() == JudgeSpec(**AT, key=SECRET)
        assert _parsed().judge == JudgeSpec(**AT, key=SECRET)
        assert _parsed("gpt-4o").judge == JudgeSpec("gpt-4o")

    def test_names_none_by_half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        monkeypatch.setenv("OPENAI_API_BASE", "http://j/v1")
        assert judge_of_environment() is None

        monkeypatch.setenv("OPENAI_API_BASE", "")
        monkeypatch.setenv("LOCAL_LLM", "qwen")
        assert judge_of_environment() is None

    def test_goes_before_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("OPENAI_API_BASE=http://j/v1\nLOCAL_LLM=old\n")
        monkeypatch.setenv("LOCAL_LLM", "qwen")

        assert judge_of_environment() == JudgeSpec(**AT, key="EMPTY")

    def test_with_a_key_that_is_none_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_BASE", AT["api_base"])
        monkeypatch.setenv("LOCAL_LLM", AT["model"])
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1\r")  # of a `.env` with CRLF, exported

        with pytest.raises(ConfigError) as caught:
            judge_of_environment()
        assert "OPENAI_API_KEY" in str(caught.value)


class TestEvalScope:
    def _judge(self, **inner: Any) -> JudgeSpec:
        model = {"name": "CustomAPIModel", "type": "m", "api_base": "http://h/v1"}
        given = {"model": [model], "data": ["demo_shapes"], **inner}
        return runs.spec_of({"eval_backend": "VLMEvalKit", "eval_config": given}).judge

    def test_by_variables(self) -> None:
        for base in ("http://j/v1", "http://j/v1/", "http://j/v1/chat/completions"):
            judge = self._judge(OPENAI_API_KEY=SECRET, OPENAI_API_BASE=base, LOCAL_LLM="qwen")
            assert judge == JudgeSpec(**AT, key=SECRET)

    def test_by_arguments(self) -> None:
        judge = self._judge(
            judge="qwen", judge_base_url="http://j/v1", judge_key=SECRET, judge_api_nproc=3,
            judge_retry=2, judge_timeout=9, judge_args={"max_tokens": 8},
        )  # fmt: skip

        assert judge == JudgeSpec(
            **AT, key=SECRET, nproc=3, retry=2, timeout=9, upstream={"max_tokens": 8}
        )

    def test_by_name_at_the_address_of_the_variables(self) -> None:
        """Without the address the key would go to OpenAI."""
        judge = self._judge(judge="gpt-4o", OPENAI_API_KEY=SECRET, OPENAI_API_BASE="http://j/v1")

        assert judge == JudgeSpec("gpt-4o", "http://j/v1", key=SECRET)

    def test_a_broken_argument_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="judge_args"):
            self._judge(judge="qwen", judge_args="{max_tokens: 8}")

    def test_arguments_of_no_judge_make_none(self) -> None:
        for named in (None, EXACT_MATCHING):
            judge = self._judge(judge=named, judge_args={"max_tokens": 8}, judge_api_nproc=3)

            assert not judge.is_model
            assert (judge.nproc, judge.upstream) == (3, {"max_tokens": 8})

    def test_arguments_of_the_judge_of_the_environment_are_its(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_BASE", AT["api_base"])
        monkeypatch.setenv("LOCAL_LLM", AT["model"])

        assert self._judge(judge_api_nproc=3) == JudgeSpec(**AT, key="EMPTY", nproc=3)

    def test_settings_of_a_task_are_arguments_of_the_judges_class(self) -> None:
        Path("vqa").mkdir()
        record = {"messages": [{"role": "user", "content": "What?"}], "answer": "Dog"}
        Path("vqa/default.jsonl").write_text(json.dumps(record) + "\n")
        settings = {"temperature": 0.5, "top_k": 3}
        task = {
            "model": "q", "api_url": "http://h/v1", "eval_type": "openai_api",
            "datasets": ["general_vqa"], "dataset_args": {"general_vqa": {"local_path": "vqa"}},
            "judge_strategy": "llm", "judge_worker_num": 3,
            "judge_model_args": {"model_id": "qwen", "api_url": "http://j/v1",
                                 "generation_config": settings},
        }  # fmt: skip

        assert runs.spec_of(task).judge == JudgeSpec(
            **AT, key="EMPTY", nproc=3, upstream={"temperature": 0.5, "top_k": 3}
        )
