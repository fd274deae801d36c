"""Everything a person can write into a configuration, right and wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from evalshim import config, model_entries, registry
from evalshim.errors import ConfigError
from evalshim.spec import EXACT_MATCHING, JudgeSpec, ModelSpec, RunSpec

PETS = "index\tquestion\tA\tB\tanswer\n1\tq\tcat\tdog\tA\n"
GSM8K = registry.entries()["gsm8k"].target


@pytest.fixture
def minimal(served: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """A valid configuration: `minimal(limit=3, model={"seed": 0})`."""

    def build(model: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
        return {"models": [{**served, **(model or {})}], "datasets": ["gsm8k"], **keys}

    return build


Minimal = Callable[..., dict[str, Any]]


def _refused(raw: dict[str, Any], *parts: str) -> str:
    """What `parse` says against `raw`; each of `parts` is in it."""
    with pytest.raises(ConfigError) as caught:
        config.parse(raw)
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


class TestFile:
    def test_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text("models: []\nlimit: '[10:20]'\n")

        assert config.load(path) == {"models": [], "limit": "[10:20]"}

    def test_json(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.json"
        path.write_text(json.dumps({"limit": 0.1}, indent=4))

        assert config.load(path) == {"limit": 0.1}

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text("limit: 3\n", encoding="utf-8-sig")

        assert config.load(path) == {"limit": 3}

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no such configuration: .*nothing\.yaml"):
            config.load(tmp_path / "nothing.yaml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            config.load(tmp_path)

    @pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
    def test_empty(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text(text)

        with pytest.raises(ConfigError, match="empty configuration"):
            config.load(path)

    def test_not_yaml_names_line_and_column(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text("models:\n  - name: a\n    api_base: [unclosed\nlimit: 3\n")

        with pytest.raises(ConfigError) as caught:
            config.load(path)
        assert "eval.yaml" in str(caught.value)
        assert "line 4, column 6" in str(caught.value)

    @pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "17\n"])
    def test_no_keys_at_top(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text(text)

        with pytest.raises(ConfigError, match="not a configuration"):
            config.load(path)

    @pytest.mark.parametrize("data", [b"models: \xff\xfe\n", b"models: \x00\n"])
    def test_not_text(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "eval.yaml"
        path.write_bytes(data)

        with pytest.raises(ConfigError, match=r"eval\.yaml"):
            config.load(path)

    def test_a_date_that_is_none_is_not_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text("models: [{name: 2024-13-45}]\n")

        with pytest.raises(ConfigError, match=r"eval\.yaml"):
            config.load(path)

    def test_a_key_given_twice_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text("limit: 3\nmodels: []\nlimit: 5\n")

        with pytest.raises(ConfigError, match="limit"):
            config.load(path)

    def test_what_models_share_may_be_written_once(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.yaml"
        path.write_text(
            "models:\n"
            "  - &base {name: a, api_base: http://h/v1, seed: 1}\n"
            "  - {<<: *base, name: b}\n"
        )

        assert config.load(path)["models"] == [
            {"name": "a", "api_base": "http://h/v1", "seed": 1},
            {"name": "b", "api_base": "http://h/v1", "seed": 1},
        ]


class TestKeys:
    def test_defaults(self, minimal: Minimal) -> None:
        spec = config.parse(minimal())

        [model] = spec.models
        assert model == ModelSpec("m", "m", "http://127.0.0.1:9/v1", key="EMPTY")
        assert [d.name for d in spec.datasets] == ["gsm8k"]
        assert spec.work_dir.name == "outputs"
        assert replace(spec, work_dir=Path("outputs")) == RunSpec(spec.models, spec.datasets)

    @pytest.mark.parametrize(
        ("change", "where", "near"),
        [
            ({"limti": 3}, "the configuration: limti", "did you mean limit"),
            ({"model": {"tempreature": 0}}, "models[0]: tempreature", "did you mean temperature"),
            (
                {"datasets": [{"name": "pets", "pth": "pets.tsv"}]},
                "datasets[0]: pth",
                "did you mean path?",
            ),
            ({"zzz": 3}, "the configuration: zzz", "known: models, datasets"),
            ({17: 3}, "the configuration: 17", "known: models, datasets"),
        ],
    )
    def test_an_unknown_key_is_refused_and_the_nearest_named(
        self, minimal: Minimal, change: dict[Any, Any], where: str, near: str
    ) -> None:
        raw = minimal(**change) if "model" in change else {**minimal(), **change}

        _refused(raw, f"unknown key in {where}", near)

    @pytest.mark.parametrize("missing", [{}, {"models": []}, {"models": None}])
    def test_no_models(self, missing: dict[str, Any]) -> None:
        _refused({"datasets": ["gsm8k"], **missing}, "no models", "api_base")

    @pytest.mark.parametrize("missing", [{}, {"datasets": []}, {"datasets": None}])
    def test_no_datasets(self, minimal: Minimal, missing: dict[str, Any]) -> None:
        raw = minimal()
        del raw["datasets"]

        _refused({**raw, **missing}, "no datasets", "shim list datasets")

    @pytest.mark.parametrize("key", ["models", "datasets"])
    @pytest.mark.parametrize("value", [{"name": "x"}, "x", 5])
    def test_models_and_datasets_are_lists(self, minimal: Minimal, key: str, value: Any) -> None:
        _refused({**minimal(), key: value}, f"{key}: ", "it must be a list")

    @pytest.mark.parametrize("value", [5, None, ["gpt"]])
    def test_a_model_is_a_name_or_a_mapping(self, minimal: Minimal, value: Any) -> None:
        _refused({**minimal(), "models": [value]}, "models[0]", "a mapping")

    @pytest.mark.parametrize("value", [5, None, ["gsm8k"]])
    def test_a_dataset_is_a_name_or_a_mapping(self, minimal: Minimal, value: Any) -> None:
        _refused({**minimal(), "datasets": [value]}, "datasets[0]", "a name, or a mapping")

    @pytest.mark.parametrize("key", ["name", "api_base"])
    def test_a_model_needs_name_and_api_base(self, minimal: Minimal, key: str) -> None:
        raw = minimal()
        del raw["models"][0][key]

        _refused(raw, f"models[0]: no `{key}`")

    def test_a_dataset_needs_a_name(self, minimal: Minimal) -> None:
        _refused(minimal(datasets=[{"path": "pets.tsv"}]), "datasets[0]: no `name`")

    def test_two_models_of_one_name(self, minimal: Minimal, served: dict[str, Any]) -> None:
        _refused({**minimal(), "models": [served, dict(served)]}, "two models are named m")

    def test_two_datasets_of_one_name(self, minimal: Minimal) -> None:
        _refused(minimal(datasets=["gsm8k", "opencompass:gsm8k"]), "two datasets are named gsm8k")

    @pytest.mark.parametrize("names", [("org/m", "org-m"), ("m 1", "m-1")])
    def test_two_models_whose_names_are_one_file_name(
        self, minimal: Minimal, served: dict[str, Any], names: tuple[str, str]
    ) -> None:
        models = [{**served, "name": name} for name in names]

        _refused({**minimal(), "models": models}, *names)

    def test_two_keys_of_models_that_spell_alike_stay_two(
        self, minimal: Minimal, served: dict[str, Any]
    ) -> None:
        models = [{**served, "name": name, "key": f"key-of-{name}"} for name in ("a-b", "a_b")]

        first, second = config.parse({**minimal(), "models": models}).models
        assert first.key_variable != second.key_variable


class TestEndpoint:
    @pytest.mark.parametrize(
        "written",
        [
            "http://h:8000/v1",
            "http://h:8000/v1/",
            "http://h:8000/v1/chat/completions",
            "http://h:8000/v1/chat/completions/",
            "  http://h:8000/v1 ",
        ],
    )
    def test_an_address_is_taken_with_or_without_the_path_of_a_call(
        self, minimal: Minimal, written: str
    ) -> None:
        [model] = config.parse(minimal({"api_base": written})).models

        assert model.api_base == "http://h:8000/v1"

    @pytest.mark.parametrize("written", ["h:8000/v1", "//h/v1", "ftp://h/v1", "http://", "http:h"])
    def test_an_address_needs_a_scheme_and_a_host(self, minimal: Minimal, written: str) -> None:
        _refused(minimal({"api_base": written}), "models[0].api_base", "http://", written)

    @pytest.mark.parametrize("value", [None, 5, "", " ", ["http://h"]])
    def test_an_address_is_text(self, minimal: Minimal, value: Any) -> None:
        _refused(minimal({"api_base": value}), "models[0].api_base", "a non-empty string")

    def test_the_key_is_read_from_the_variable_named(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "sk-1")

        [model] = config.parse(minimal({"key_env": "MY_KEY"})).models
        assert (model.key_env, model.key) == ("MY_KEY", "")
        assert model.key_variable.startswith("EVALSHIM_KEY_")

    @pytest.mark.parametrize("content", [None, ""])
    def test_a_key_variable_that_is_not_set(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch, content: str | None
    ) -> None:
        monkeypatch.delenv("MY_KEY", raising=False)
        if content is not None:
            monkeypatch.setenv("MY_KEY", content)

        _refused(minimal({"key_env": "MY_KEY"}), "MY_KEY is not set", "export MY_KEY=")

    def test_one_key_only(self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", "sk-1")

        _refused(minimal({"key": "sk-2", "key_env": "MY_KEY"}), "both `key` and `key_env`")


class TestValues:
    @pytest.mark.parametrize("value", [1, 20, 0.1, 0.999, "[10:20]", "[:5]", "[5:]", "[0:1]", None])
    def test_a_limit(self, minimal: Minimal, value: Any) -> None:
        assert config.parse(minimal(limit=value)).limit == value

    @pytest.mark.parametrize(
        "value",
        [0, -1, True, False, "[20:10]", "[10:10]", 1.5, 0.0, -0.5, "20", "[a:b]", [10, 20], 620.5,
         float("nan"), float("inf"), "10:20", "[1:2:3]", {}],
    )  # fmt: skip
    def test_no_limit(self, minimal: Minimal, value: Any) -> None:
        _refused(minimal(limit=value), "limit: ", "a count of at least 1")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("temperature", "hot"),
            ("temperature", -0.1),
            ("temperature", True),
            ("temperature", float("inf")),
            ("max_tokens", 0),
            ("max_tokens", 10.5),
            ("max_tokens", "2048"),
            ("top_p", [1]),
            ("seed", 1.0),
            ("seed", -1),
            pytest.param("seed", 10**400, id="seed-beyond-any-float"),
            ("retry", 0),
            ("timeout", 0),
            ("concurrency", 0),
            ("img_size", 0),
            ("img_size", -2),
            ("img_size", 10.0),
            ("img_size", True),
            ("img_detail", "medium"),
            ("extra_body", ["a"]),
            ("extra_body", "a: 1"),
            ("system_prompt", ""),
            ("name", 5),
            ("name", ""),
            ("model", None),
        ],
    )
    def test_a_wrong_value_of_a_model_is_named(
        self, minimal: Minimal, key: str, value: Any
    ) -> None:
        text = _refused(minimal({key: value}), f"models[0].{key}: ", "it must be ")
        assert max(map(len, text.splitlines())) < 200

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("concurrency", 0),
            ("concurrency", 2.5),
            ("concurrency", "32"),
            ("fail_on", -1),
            ("fail_on", "none"),
            ("mode", "eval_only"),
            ("mode", False),
            ("judge", 5),
            ("judge", ["gpt"]),
            ("work_dir", ""),
            ("work_dir", 5),
            ("python", ""),
        ],
    )
    def test_a_wrong_value_of_a_run_is_named(self, minimal: Minimal, key: str, value: Any) -> None:
        _refused(minimal(**{key: value}), f"{key}: ", "it must be ")

    def test_falsy_values_are_values(self, minimal: Minimal) -> None:
        spec = config.parse(minimal({"temperature": 0, "seed": 0, "top_p": 0.0}, fail_on=0))

        [model] = spec.models
        assert (model.temperature, model.seed, model.top_p) == (0, 0, 0.0)
        assert model.max_tokens is None

    def test_a_body_that_is_no_json_is_refused(self, minimal: Minimal) -> None:
        body = yaml.safe_load("since: 2024-01-01")

        _refused(minimal({"extra_body": body}), "models[0].extra_body")

    def test_the_work_directory_becomes_absolute(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/me")

        assert config.parse(minimal(work_dir="out")).work_dir == tmp_path / "out"
        assert config.parse(minimal(work_dir="~/out")).work_dir == Path("/home/me/out")

    def test_the_default_work_directory_is_absolute_too(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        assert config.parse(minimal()).work_dir == tmp_path / "outputs"

    def test_a_home_of_nobody_is_refused(self, minimal: Minimal) -> None:
        _refused(minimal(work_dir="~nobody-of-that-name/out"), "work_dir")

    def test_judge_is_exact_matching_where_nothing_else_is_said(self, minimal: Minimal) -> None:
        assert config.parse(minimal()).judge == JudgeSpec(EXACT_MATCHING)


class TestData:
    def test_a_path_is_relative_to_the_configuration_first(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in ("beside", "cwd"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "pets.tsv").write_text(PETS)
        monkeypatch.chdir(tmp_path / "cwd")
        raw = minimal(datasets=[{"name": "pets", "path": "pets.tsv"}])

        [beside] = config.parse(raw, beside=tmp_path / "beside").datasets
        assert beside.path == (tmp_path / "beside" / "pets.tsv").resolve()
        assert (beside.backend, beside.target, beside.format) == ("vlmeval", "pets", "mcq")

        (tmp_path / "beside" / "pets.tsv").unlink()
        [cwd] = config.parse(raw, beside=tmp_path / "beside").datasets
        assert cwd.path == (tmp_path / "cwd" / "pets.tsv").resolve()

    def test_a_missing_file_names_every_place_looked_at(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")

        with pytest.raises(ConfigError) as caught:
            config.parse(
                minimal(datasets=[{"name": "pets", "path": "data/pets.tsv"}]), beside=tmp_path
            )
        assert "datasets[0].path: no such file: data/pets.tsv" in str(caught.value)
        assert str(tmp_path / "data" / "pets.tsv") in str(caught.value)
        assert str(tmp_path / "cwd" / "data" / "pets.tsv") in str(caught.value)

    @pytest.mark.parametrize(
        "written",
        [
            pytest.param("~nobody-of-that-name/pets.tsv", id="home-of-nobody"),
            pytest.param("x" * 300, id="too-long"),
            pytest.param("a\0b", id="null-byte"),
        ],
    )
    def test_a_path_that_cannot_be_one_is_a_missing_file(
        self, minimal: Minimal, written: str
    ) -> None:
        _refused(minimal(datasets=[{"name": "pets", "path": written}]), "datasets[0].path")

    def test_a_name_with_a_slash_cannot_name_upstreams_files(
        self, minimal: Minimal, tmp_path: Path
    ) -> None:
        (tmp_path / "pets.tsv").touch()

        _refused(
            minimal(datasets=[{"name": "my/pets", "path": str(tmp_path / "pets.tsv")}]),
            "datasets[0].name",
            "e.g. my-pets",
        )

    def test_own_data_for_a_registered_set(self, minimal: Minimal, tmp_path: Path) -> None:
        data = {"name": "mine", "dataset": "gsm8k", "path": str(tmp_path)}

        [found] = config.parse(minimal(datasets=[data])).datasets
        assert (found.name, found.backend, found.path) == ("mine", "opencompass", tmp_path)
        assert found.target == GSM8K

    def test_a_registered_set_under_another_name(self, minimal: Minimal) -> None:
        [found] = config.parse(minimal(datasets=[{"name": "five", "dataset": "gsm8k"}])).datasets

        assert (found.name, found.path) == ("five", None)
        assert found.target == GSM8K

    def test_an_unknown_dataset_names_the_near_ones(self, minimal: Minimal) -> None:
        _refused(minimal(datasets=["gsm8"]), "unknown dataset: gsm8", "did you mean gsm8k")

    def test_a_set_of_another_backend(self, minimal: Minimal) -> None:
        _refused(
            minimal(datasets=[{"name": "gsm8k", "backend": "vlmeval"}]),
            "unknown dataset of vlmeval: gsm8k",
        )

    @pytest.mark.parametrize(
        ("key", "value"), [("backend", "openCompass"), ("backend", 5), ("format", "mqc")]
    )
    def test_a_wrong_choice_is_named(
        self, minimal: Minimal, tmp_path: Path, key: str, value: Any
    ) -> None:
        data = {"name": "pets", "path": str(tmp_path), key: value}

        _refused(minimal(datasets=[data]), f"datasets[0].{key}: ", "one of ")

    @pytest.mark.parametrize(
        "keys",
        [
            {"name": "pets", "backend": "opencompass", "path": "."},
            {"name": "pets", "dataset": "demo_shapes", "path": "."},
            {"name": "mine", "dataset": "gsm8k", "path": ".", "format": "mcq"},
            {"name": "mine", "dataset": "gsm8k", "format": "mcq"},
        ],
    )
    def test_a_key_without_effect_is_an_error(self, minimal: Minimal, keys: dict[str, Any]) -> None:
        _refused(minimal(datasets=[keys]), "datasets[0]")


class TestInstalled:
    """What is held against the names that an installed upstream knows."""

    pytestmark = pytest.mark.usefixtures("upstreams")
    LOCAL: ClassVar[dict[str, Any]] = {"models": ["qwen_chat"], "datasets": ["MMBench_DEV_EN"]}

    def test_a_model_without_an_address_is_one_of_upstreams(self) -> None:
        [model] = config.parse(self.LOCAL).models

        assert (model.name, model.model, model.cls) == ("qwen_chat", "qwen_chat", "qwen_chat")
        assert (model.api_base, model.key, model.module) == (None, "", None)

    def test_a_model_of_opencompass_has_its_module(self) -> None:
        raw = {"models": [{"name": "mine", "class": "hf_internlm2_chat_7b"}], "datasets": ["gsm8k"]}

        [model] = config.parse(raw).models
        assert model.module == "models.hf_internlm.hf_internlm2_chat_7b"

    @pytest.mark.parametrize(
        ("models", "near"),
        [(["qwen_caht"], "did you mean qwen_chat"), (["zzz"], "e.g. models: [{name: my-model,")],
    )
    def test_a_model_that_nobody_knows_needs_an_address(self, models: list[str], near: str) -> None:
        _refused({**self.LOCAL, "models": models}, "models[0]: no `api_base`, and ", near)

    @pytest.mark.parametrize("model", [{"name": "qwen_chat", "model": "auto"}, "auto"])
    def test_only_an_endpoint_can_say_what_it_serves(self, model: Any) -> None:
        _refused({**self.LOCAL, "models": [model]}, "models[0]: no `api_base`")

    def test_data_parallel_inference_is_for_local_models(self, served: dict[str, Any]) -> None:
        assert config.parse({**self.LOCAL, "gpus": 2}).gpus == 2
        _refused({**self.LOCAL, "models": [served], "gpus": 2}, "gpus: 2", "behind an endpoint")

    def test_an_argument_of_the_upstreams_commands(self, served: dict[str, Any]) -> None:
        raw = {"models": [served], "datasets": ["MMBench_DEV_EN"]}
        upstream = {"use_vllm": True, "vlmeval": {"verbose": True}}

        assert config.parse({**raw, "upstream": upstream}).upstream == upstream

    @pytest.mark.parametrize(
        ("upstream", "parts"),
        [
            (
                {"judgge_args": {}},
                ("no argument `judgge_args` of vlmeval", "did you mean judge_args"),
            ),
            ({"vlmeval": {"vebose": True}}, ("`vebose`", "did you mean verbose")),
            ({"slurm": True}, ("no argument `slurm` of vlmeval", "known: ")),
            ({"work_dir": "out"}, ("upstream.work_dir: not by upstream", "say it as work_dir")),
            ({"base_url": "http://h"}, ("upstream.base_url", "say it as api_base of a model")),
            (["verbose"], ("upstream: ['verbose']", "a mapping")),
            ({"vlmeval": 5}, ("upstream", "vlmeval", "a mapping")),
            ({"vlmeval": ["verbose"]}, ("upstream", "vlmeval", "a mapping")),
            ({"vlmeval": {5: 1}}, ("upstream", "5")),
        ],
    )
    def test_an_argument_that_no_command_takes(
        self, served: dict[str, Any], upstream: Any, parts: tuple[str, ...]
    ) -> None:
        raw = {"models": [served], "datasets": ["MMBench_DEV_EN"], "upstream": upstream}

        _refused(raw, *parts)

    @pytest.mark.parametrize("key", ["models", "datasets"])
    def test_arguments_under_the_name_of_an_upstream_are_a_mapping(
        self, served: dict[str, Any], key: str
    ) -> None:
        raw = {"models": [served], "datasets": [{"name": "MMBench_DEV_EN"}]}
        raw[key][0]["upstream"] = {"vlmeval": 5}

        _refused(raw, f"{key}[0]")

    def test_an_argument_that_opencompass_would_not_take(self, minimal: Minimal) -> None:
        raw = minimal(model={"upstream": {"think_tga": "</think>", "batch_size": 4}})

        _refused(raw, "OpenCompass's OpenAISDK takes no `think_tga`", "did you mean think_tag")

    @pytest.mark.parametrize(
        ("data", "parts"),
        [
            (
                {"name": "mine", "class": "ImageMCQDatset", "dataset": "MMBench_DEV_EN"},
                ("datasets[0].class: VLMEvalKit has no dataset class ImageMCQDatset",
                 "did you mean ImageMCQDataset"),
            ),
            ({"name": "mine", "class": "Qwen2VLChat"}, ("no dataset class Qwen2VLChat",)),
            (
                {"name": "MMBench_DEV_EN", "upstream": {"skip_nomig": False}},
                ("datasets[0]: ImageMCQDataset takes no `skip_nomig`", "did you mean skip_noimg",
                 "known: dataset, skip_noimg"),
            ),
            ("Video-MME", ("a video dataset without `fps` or `nframe`",
                           "one of upstream's settings: Video-MME_8frame")),
            ("MMBench-Video", ("MMBench_Video_8frame_nopack, MMBench_Video_1fps_nopack",)),
            ({"name": "Video-MME", "upstream": {"nframe": 0}}, ("without `fps` or `nframe`",)),
            ({"name": "Video-MME", "upstream": {"nframe": "8"}}, ("nframe",)),
            ("ChartQaPro", ("unknown dataset: ChartQaPro", "did you mean ChartQAPro")),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_dataset_that_upstream_would_not_take(
        self, served: dict[str, Any], data: Any, parts: tuple[str, ...]
    ) -> None:
        _refused({"models": [served], "datasets": [data]}, *parts)

    @pytest.mark.parametrize(
        ("data", "more"),
        [
            ("Video-MME_8frame", {}),
            ({"name": "Video-MME", "upstream": {"nframe": 8}}, {}),
            ({"name": "Video-MME", "upstream": {"fps": 0.5}}, {}),
            ("Video-MME", {"upstream": {"nframe": 8}}),
        ],
        ids=str,
    )
    def test_a_video_is_shown_by_frames(
        self, served: dict[str, Any], data: Any, more: dict[str, Any]
    ) -> None:
        [found] = config.parse({"models": [served], "datasets": [data], **more}).datasets

        assert found.modality == "video"

    @pytest.mark.parametrize(
        "datasets",
        [
            ["MMBench_DEV_EN", {"name": "again", "dataset": "MMBench_DEV_EN"}],
            ["gsm8k", {"name": "again", "dataset": "gsm8k"}],
        ],
        ids=["vlmeval", "opencompass"],
    )
    def test_one_dataset_under_two_names_is_one(
        self, served: dict[str, Any], datasets: list[Any]
    ) -> None:
        _refused({"models": [served], "datasets": datasets}, "again are one dataset")

    def test_it_all_comes_back_from_the_configuration_that_a_run_keeps(
        self, served: dict[str, Any], tmp_path: Path
    ) -> None:
        raw = {
            "models": [
                {**served, "is_chat": False, "meta_template": "none", "upstream": {"a": 1}},
                {"name": "mine", "class": "Qwen2VLChat", "model_path": "/weights"},
            ],
            "datasets": [
                "ChartQAPro", "Video-MME_8frame", "vlmeval:MMBench_DEV_EN_V11",
                {"name": "mm", "dataset": "MMBench_DEV_EN", "upstream": {"skip_noimg": False}},
                {"name": "vid", "class": "VideoMME", "dataset": "Video-MME",
                 "upstream": {"nframe": 8}},
            ],
            "judge": {"model": "qwen", "api_base": "http://j/v1"}, "reuse": True,
            "verify_data": "off", "work_dir": str(tmp_path), "upstream": {"verbose": True},
        }  # fmt: skip
        spec = config.parse(raw)

        text = yaml.safe_dump(config.plain(spec), sort_keys=False)
        assert config.parse(yaml.safe_load(text)) == spec


class TestJudge:
    def test_a_name_is_one_of_upstreams(self, minimal: Minimal) -> None:
        assert config.parse(minimal(judge="gpt-4o")).judge == JudgeSpec("gpt-4o")

    def test_a_model_behind_an_address(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "sk-1")
        given = {"model": "qwen", "api_base": "http://j/v1/chat/completions"}

        assert config.parse(minimal(judge=given)).judge == (
            JudgeSpec("qwen", "http://j/v1", key="EMPTY")
        )
        assert config.parse(minimal(judge={**given, "key_env": "MY_KEY"})).judge == (
            JudgeSpec("qwen", "http://j/v1", "MY_KEY")
        )

    @pytest.mark.parametrize(
        ("given", "part"),
        [
            ({"api_base": "http://j/v1"}, "judge: no `model`"),
            ({"model": "qwen", "api_base": "j/v1"}, "judge.api_base: 'j/v1'"),
            ({"model": "qwen", "url": "http://j"}, "unknown key in judge: url"),
            ({"model": "qwen", "key": "a", "key_env": "B"}, "both `key` and `key_env`"),
            ({"model": "qwen", "key_env": "MY_KEY"}, "MY_KEY is not set"),
        ],
    )
    def test_what_is_wrong_with_it_is_named(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch, given: Any, part: str
    ) -> None:
        monkeypatch.delenv("MY_KEY", raising=False)

        _refused(minimal(judge=given), part)

    def test_upstreams_variables_name_one_too(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_BASE", "http://j/v1/chat/completions")
        assert config.parse(minimal()).judge == JudgeSpec()

        monkeypatch.setenv("LOCAL_LLM", "qwen")
        assert config.parse(minimal()).judge == JudgeSpec("qwen", "http://j/v1", key="EMPTY")
        assert config.parse(minimal(judge=EXACT_MATCHING)).judge == JudgeSpec()

    def test_and_so_does_a_file_of_them_in_the_working_directory(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "OPENAI_API_KEY=sk-1\nOPENAI_API_BASE=http://j/v1\nLOCAL_LLM=qwen\n"
        (tmp_path / ".env").write_text(text)
        monkeypatch.chdir(tmp_path)

        assert config.parse(minimal()).judge == JudgeSpec("qwen", "http://j/v1", key="sk-1")


class TestUpstreamsOwn:
    """A configuration of OpenCompass's, run as it is."""

    def test_a_python_file_is_one(self, tmp_path: Path) -> None:
        path = tmp_path / "eval.py"
        path.write_text("models = []\n")

        raw = config.load(path)
        assert raw == {"config": str(path)}
        spec = config.parse(raw)
        assert (spec.config, spec.models, spec.datasets) == (path, (), ())
        assert config.plain(spec)["config"] == str(path)
        assert config.parse(config.plain(spec)).config == path

    @pytest.mark.parametrize("key", ["models", "datasets", "limit", "judge"])
    def test_it_decides_what_is_evaluated(self, minimal: Minimal, tmp_path: Path, key: str) -> None:
        (tmp_path / "eval.py").touch()
        raw = minimal(limit=3, judge=EXACT_MATCHING)

        _refused(
            {"config": str(tmp_path / "eval.py"), key: raw[key]},
            f"{key}: the configuration decides that", "only work_dir, mode, reuse",
        )  # fmt: skip

    def test_it_must_be_there(self) -> None:
        _refused({"config": "none.py"}, "config: no such file: none.py")


class TestOverride:
    @pytest.mark.parametrize(
        ("assignment", "expected"),
        [
            ("limit=20", {"limit": 20}),
            ("limit=[10:20]", {"limit": "[10:20]"}),
            ("limit=0.1", {"limit": 0.1}),
            ("limit=", {"limit": None}),
            ("judge=a=b", {"judge": "a=b"}),
            ("models.0.temperature=0", {"models": [{"name": "m", "temperature": 0}]}),
            ("models.0.extra_body.k=5", {"models": [{"name": "m", "extra_body": {"k": 5}}]}),
            ("models.0={name: n}", {"models": [{"name": "n"}]}),
            ("datasets=[gsm8k, mmlu]", {"datasets": ["gsm8k", "mmlu"]}),
        ],
    )  # fmt: skip
    def test_sets_a_value(self, assignment: str, expected: dict[str, Any]) -> None:
        raw: dict[str, Any] = {"models": [{"name": "m"}], "limit": 3}

        assert config.override(raw, [assignment]) == {**raw, **expected}
        assert raw == {"models": [{"name": "m"}], "limit": 3}

    def test_later_assignments_see_earlier_ones(self) -> None:
        assert config.override({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}

    @pytest.mark.parametrize(
        ("assignment", "problem"),
        [
            ("limit", "not KEY=VALUE"),
            ("=3", "not KEY=VALUE"),
            ("limit=[unclosed", "the value is not YAML"),
            ("limit=2024-13-45", "the value is not YAML"),
            ("models.1.name=x", "no item 1"),
            ("models.-1.name=x", "no item -1"),
            ("models.name=x", "no item name"),
            ("models.\N{SUPERSCRIPT TWO}=x", "no item"),
            ("models.0.name.first=x", "models.0.name has no keys"),
            ("limit.a=x", "limit has no keys"),
        ],
    )
    def test_says_what_cannot_be_set(self, assignment: str, problem: str) -> None:
        raw: dict[str, Any] = {"models": [{"name": "m"}], "limit": 3}

        with pytest.raises(ConfigError) as caught:
            config.override(raw, [assignment])
        assert problem in str(caught.value)
        assert "--set" in str(caught.value)


class TestEndpointFlags:
    def test_a_name_and_an_address_make_a_model(self) -> None:
        assert model_entries.with_models(None, ["m"], "http://h/v1") == [
            {"name": "m", "api_base": "http://h/v1"}
        ]

    def test_an_address_alone_asks_what_is_served(self) -> None:
        assert model_entries.with_models(None, [], "http://h/v1") == [
            {"name": "auto", "api_base": "http://h/v1"}
        ]

    def test_an_address_replaces_every_models(self) -> None:
        models = [{"name": "a", "api_base": "http://x"}, {"name": "b"}]

        assert model_entries.with_models(models, [], "http://h/v1") == [
            {"name": "a", "api_base": "http://h/v1"},
            {"name": "b", "api_base": "http://h/v1"},
        ]

    def test_a_name_chooses_among_the_models(self) -> None:
        models = [{"name": "a", "seed": 1}, {"name": "b", "seed": 2}]

        assert model_entries.with_models(models, ["b"], None) == [{"name": "b", "seed": 2}]
        assert model_entries.with_models(models, ["c"], None) == [{"name": "c"}]

    @pytest.mark.parametrize("malformed", ["a", {"name": "a"}, 5])
    def test_an_address_does_not_hide_malformed_models(self, malformed: Any) -> None:
        models = model_entries.with_models(malformed, [], "http://h/v1")

        _refused({"models": models, "datasets": ["gsm8k"]}, "models: ", "it must be a list")

    @pytest.mark.parametrize("malformed", ["a", {"name": "a"}, 5, [5]])
    def test_a_name_and_an_address_replace_whatever_was_there(self, malformed: Any) -> None:
        assert model_entries.with_models(malformed, ["m"], "http://h/v1") == [
            {"name": "m", "api_base": "http://h/v1"}
        ]


class TestPlain:
    def _round_trip(self, raw: dict[str, Any]) -> None:
        spec = config.parse({"work_dir": "out", **raw})
        text = yaml.safe_dump(config.plain(spec), sort_keys=False, allow_unicode=True)

        assert config.parse(yaml.safe_load(text)) == spec

    def test_everything_comes_back(
        self, minimal: Minimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "sk-1")
        model = {
            "name": "mödel", "model": "org/m", "key_env": "MY_KEY", "temperature": 0.0, "seed": 0,
            "max_tokens": 7, "top_p": 0.5, "retry": 2, "timeout": 9.5, "img_size": -1,
            "img_detail": "low", "system_prompt": "Be brief.\nBe right.", "concurrency": 1,
            "extra_body": {"a": {"b": [1, None, 0.5]}},
        }  # fmt: skip
        self._round_trip(
            minimal(
                model, limit="[10:20]", concurrency=3, mode="infer", fail_on=0.5,
                work_dir=str(tmp_path), python="python3",
            )
        )  # fmt: skip

    @pytest.mark.parametrize("limit", [None, 1, 0.25, "[:3]"])
    def test_limits_come_back(self, minimal: Minimal, limit: Any) -> None:
        self._round_trip(minimal(limit=limit))

    def test_own_data_comes_back(self, minimal: Minimal, tmp_path: Path) -> None:
        (tmp_path / "pets.tsv").write_text(PETS)

        self._round_trip(
            minimal(datasets=["demo_shapes", {"name": "pets", "path": str(tmp_path / "pets.tsv")}])
        )

    @pytest.mark.parametrize("name", ["gsm8k", "mmlu"])
    def test_a_registered_set_under_another_name_comes_back(
        self, minimal: Minimal, name: str
    ) -> None:
        self._round_trip(minimal(datasets=[{"name": "mine", "dataset": name}]))

    def test_own_data_for_a_registered_set_comes_back(
        self, minimal: Minimal, tmp_path: Path
    ) -> None:
        self._round_trip(
            minimal(datasets=[{"name": "mine", "dataset": "gsm8k", "path": str(tmp_path)}])
        )

    def test_holds_no_key(self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", "sk-canary-1")

        for model in ({"key": "sk-canary-1"}, {"key_env": "MY_KEY"}):
            assert "sk-canary-1" not in str(config.plain(config.parse(minimal(model))))


class TestKeysOfModels:
    @pytest.mark.parametrize("key", ["sk-1234567890\r", "sk 1234567890", "schlüssel-1234"])
    def test_a_key_that_cannot_be_one_is_refused_and_not_shown(
        self, minimal: Minimal, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv("MY_KEY", key)

        for model in ({"key_env": "MY_KEY"}, {"key": key}):
            with pytest.raises(ConfigError, match="the key has characters") as refused:
                config.parse(minimal(model))
            assert "1234" not in str(refused.value)

    @pytest.mark.parametrize("name", ["temperature", "timeout", "messages", "use_azure"])
    def test_what_has_a_place_of_its_own_is_not_said_by_extra_body(
        self, minimal: Minimal, name: str
    ) -> None:
        _refused(minimal({"extra_body": {name: 1}}), f"models[0].extra_body.{name}")

    @pytest.mark.parametrize("base", ["http://h:abc/v1", "http://[::1/v1", "http://u:p@h/v1"])
    def test_an_address_that_is_none_is_refused(self, minimal: Minimal, base: str) -> None:
        _refused(minimal({"api_base": base}), "models[0].api_base")
