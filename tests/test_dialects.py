"""Configurations of EvalScope and VLMEvalKit mean what they meant there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evalshim import config, dialects
from evalshim.errors import ConfigError
from evalshim.spec import JudgeSpec, RunSpec, own

URL = "http://127.0.0.1:8000/v1"
API_MODEL = {
    "name": "CustomAPIModel", "type": "qwen-vl-chat", "api_base": f"{URL}/chat/completions",
}  # fmt: skip
SERVED = {"path": "qwen2-0_5b-instruct", "openai_api_base": f"{URL}/chat/completions"}

pytestmark = pytest.mark.usefixtures("upstreams")


def _vlmevalkit(**keys: Any) -> dict[str, Any]:
    """EvalScope's configuration for VLMEvalKit; None takes a key away."""
    given = {"model": [API_MODEL], "data": ["MMBench_DEV_EN"], **keys}
    kept = {key: value for key, value in given.items() if value is not None}
    return {"eval_backend": "VLMEvalKit", "eval_config": kept}


def _opencompass(**keys: Any) -> dict[str, Any]:
    given = {"models": [SERVED], "datasets": ["gsm8k"], **keys}
    kept = {key: value for key, value in given.items() if value is not None}
    return {"eval_backend": "OpenCompass", "eval_config": kept}


def _spec(raw: dict[str, Any]) -> RunSpec:
    ours, words = dialects.translate(raw, config.load)
    return config.parse(ours, words=words)


def _refused(raw: dict[str, Any], *parts: str) -> None:
    """Both halves of reading: what, why or cure has each of `parts`."""
    with pytest.raises(ConfigError) as caught:
        _spec(raw)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.why or caught.value.cure
    assert len(str(caught.value).splitlines()) < 10


def test_our_own_dialect_stays_as_it_is() -> None:
    raw = {"models": [{"name": "m", "api_base": URL}], "datasets": ["gsm8k"], "limit": 3}

    assert dialects.translate(raw, config.load) == (raw, {})


class TestEvalScopeVlmevalkit:
    def test_a_model_behind_an_endpoint(self) -> None:
        raw = _vlmevalkit(
            model=[{**API_MODEL, "key": "sk-1", "temperature": 0.0, "img_size": -1}],
            data=["MMBench_DEV_EN", "ChartQAPro"], limit=5.0, nproc=16, mode="infer",
            judge="exact_matching", reuse=False, work_dir="out",
        )  # fmt: skip

        spec = _spec(raw)
        [model] = spec.models
        assert (model.name, model.model, model.cls) == (
            "qwen-vl-chat", "qwen-vl-chat", "CustomAPIModel",
        )  # fmt: skip
        assert (model.api_base, model.key) == (URL, "sk-1")
        assert (model.temperature, model.img_size) == (0.0, -1)
        assert [(d.name, d.backend) for d in spec.datasets] == [
            ("MMBench_DEV_EN", "vlmeval"), ("ChartQAPro", "vlmeval"),
        ]  # fmt: skip
        assert (spec.limit, spec.concurrency, spec.mode) == (5, 16, "infer")
        assert (spec.judge, spec.reuse, spec.work_dir) == (JudgeSpec(), False, Path.cwd() / "out")

    def test_what_upstream_would_have_taken_is_taken(self) -> None:
        spec = _spec(_vlmevalkit())

        assert (spec.models[0].key, spec.models[0].img_detail, spec.models[0].retry) == (
            "EMPTY", "high", 6,
        )  # fmt: skip
        assert own(spec.upstream, "vlmeval") == {"nframe": 8}
        assert spec.work_dir == Path.cwd() / "outputs"

    def test_frames_by_the_second_replace_the_eight(self) -> None:
        assert own(_spec(_vlmevalkit(fps=1)).upstream, "vlmeval") == {"nframe": 0, "fps": 1}
        assert own(_spec(_vlmevalkit(nframe=4)).upstream, "vlmeval") == {"nframe": 4}

    def test_models_of_upstreams_own(self) -> None:
        local = {"name": "Qwen2-VL-2B-Instruct", "model_path": "/weights", "max_new_tokens": 5}

        by_name, by_mapping = _spec(_vlmevalkit(model=["qwen_chat", local])).models
        assert (by_name.name, by_name.cls, by_name.api_base) == ("qwen_chat", "qwen_chat", None)
        assert (by_mapping.cls, by_mapping.model_path) == ("Qwen2-VL-2B-Instruct", "/weights")
        assert by_mapping.upstream == {"max_new_tokens": 5}

    def test_a_number_of_tries_is_each_models(self) -> None:
        spec = _spec(_vlmevalkit(retry=2, verbose=True))

        assert spec.models[0].retry == 2
        assert spec.models[0].upstream == {"verbose": True}

    def test_models_behind_a_base_url(self) -> None:
        spec = _spec(_vlmevalkit(model=[{"type": "qwen"}], base_url=URL, temperature=0.5))

        [model] = spec.models
        assert (model.name, model.cls, model.api_base) == ("qwen", "LMDeployAPI", URL)
        assert (model.key, model.temperature, model.timeout) == ("sk-admin", 0.5, 1800)
        assert not {"base_url", "temperature"} & own(spec.upstream, "vlmeval").keys()

    @pytest.mark.parametrize("place", ["outside", "inside"])
    def test_a_judge_by_upstreams_variables(self, place: str) -> None:
        judge = {"OPENAI_API_KEY": "sk-j", "OPENAI_API_BASE": "http://j/v1", "LOCAL_LLM": "qwen"}
        raw = _vlmevalkit(**judge) if place == "inside" else {**_vlmevalkit(), **judge}

        assert _spec(raw).judge == JudgeSpec("qwen", "http://j/v1", key="sk-j")

    def test_a_judge_by_its_address(self) -> None:
        raw = _vlmevalkit(judge="qwen", judge_base_url="http://j/v1", judge_key="sk-j")

        assert _spec(raw).judge == JudgeSpec("qwen", "http://j/v1", key="sk-j")

    def test_starting_fresh_deletes_nothing_and_needs_no_word(self) -> None:
        assert _spec(_vlmevalkit(rerun=True)) == _spec(_vlmevalkit())


class TestEvalScopeOpencompass:
    def test_a_model_behind_an_endpoint(self) -> None:
        raw = _opencompass(
            models=[{**SERVED, "is_chat": False, "batch_size": 16, "query_per_second": 2}],
            datasets=["gsm8k", "ARC_c"], limit=5, work_dir="outputs/qwen",
        )  # fmt: skip

        spec = _spec(raw)
        [model] = spec.models
        assert (model.name, model.model) == ("qwen2-0_5b-instruct", "qwen2-0_5b-instruct")
        assert (model.api_base, model.key, model.temperature) == (URL, "EMPTY", 0.0)
        assert (model.is_chat, model.concurrency) == (False, 16)
        assert model.meta_template == "none"
        assert model.upstream == {"query_per_second": 2}
        assert [(d.name, d.backend) for d in spec.datasets] == [
            ("gsm8k", "opencompass"), ("ARC_c", "opencompass"),
        ]  # fmt: skip
        assert (spec.limit, spec.work_dir) == (5, Path.cwd() / "outputs" / "qwen")

    def test_the_place_that_evalscope_writes_to(self) -> None:
        assert _spec(_opencompass()).work_dir == Path.cwd() / "outputs" / "default"

    def test_what_is_sent_along_with_each_request(self) -> None:
        sent = {"max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["#"]}

        [model] = _spec(_opencompass(generation_kwargs=sent)).models
        assert (model.max_tokens, model.temperature, model.top_p, model.seed) == (7, 0.5, 0.9, 1)
        assert model.extra_body == {"stop": ["#"]}

    def test_without_sampling_there_is_no_temperature(self) -> None:
        sent = {"do_sample": False, "temperature": 0.5}

        assert _spec(_opencompass(generation_kwargs=sent)).models[0].temperature == 0.0

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("default-api-meta-template-oc", "chat"),
            (None, "none"),
            ({"round": []}, {"round": []}),
        ],
    )
    def test_a_template_of_roles(self, written: Any, meant: Any) -> None:
        [model] = _spec(_opencompass(models=[{**SERVED, "meta_template": written}])).models

        assert model.meta_template == meant

    def test_a_name_of_its_own(self) -> None:
        [model] = _spec(_opencompass(models=[{**SERVED, "abbr": "mine"}])).models

        assert (model.name, model.model) == ("mine", "qwen2-0_5b-instruct")


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_inner_configuration_may_be_a_file(tmp_path: Path, suffix: str) -> None:
    inner = tmp_path / f"inner.{suffix}"
    inner.write_text(json.dumps(_vlmevalkit()["eval_config"]))

    raw = {"eval_backend": "VLMEvalKit", "eval_config": str(inner), "work_dir": "out"}
    assert _spec(raw) == _spec(_vlmevalkit(work_dir="out"))


class TestVlmevalkit:
    """The JSON that VLMEvalKit takes with --config."""

    RAW: ClassVar[dict[str, Any]] = {
        "model": {
            "gpt": {"class": "GPT4V", "model": "gpt-4o", "temperature": 0, "retry": 2},
            "qwen_chat": {},
        },
        "data": {
            "mmbench": {
                "class": "ImageMCQDataset", "dataset": "MMBench_DEV_EN", "skip_noimg": False,
            },
            "Video-MME_8frame": {},
        },
    }  # fmt: skip

    def test_names_with_classes_and_names_that_upstream_knows(self) -> None:
        spec = _spec(self.RAW)

        gpt, qwen = spec.models
        assert (gpt.name, gpt.cls, gpt.temperature, gpt.retry) == ("gpt", "GPT4V", 0, 2)
        assert gpt.upstream == {"model": "gpt-4o"}
        assert (qwen.name, qwen.cls, qwen.upstream) == ("qwen_chat", "qwen_chat", {})
        mmbench, video = spec.datasets
        assert (mmbench.name, mmbench.target, mmbench.cls, mmbench.type) == (
            "mmbench", "mmbench", "ImageMCQDataset", "MCQ",
        )  # fmt: skip
        assert mmbench.upstream == {
            "class": "ImageMCQDataset", "dataset": "MMBench_DEV_EN", "skip_noimg": False,
        }  # fmt: skip
        assert (video.name, video.target, video.upstream) == (
            "Video-MME_8frame", "Video-MME_8frame", {},
        )  # fmt: skip

    def test_it_comes_back_from_the_configuration_that_a_run_keeps(self) -> None:
        spec = _spec(self.RAW)

        assert config.parse(json.loads(json.dumps(config.plain(spec)))) == spec

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"data": ["MMBench_DEV_EN"]}, ("data: ['MMBench", "a mapping of names")),
            ({"model": {}}, ("model: {}", "a mapping of names")),
            ({"model": {"gpt": {"model": "gpt-4o"}}}, ("gpt is no model that vlmeval knows",)),
            ({"data": {"a": {"dataset": "MMBench_DEV_EN"}}}, ("data.a: no `class`",)),
            ({"data": {"a": 5}}, ("data.a: 5", "a mapping")),
            ({"limit": 5}, ("unknown key in VLMEvalKit's configuration: limit", "model, data")),
            ({"model": {"qwen_caht": {}}}, ("qwen_caht", "did you mean qwen_chat")),
            ({"data": {"Video-MME_8fram": {}}}, ("did you mean Video-MME_8frame",)),
            (
                {"data": {"a": {"class": "ImageMCQDatset", "dataset": "MMBench_DEV_EN"}}},
                ("no dataset class ImageMCQDatset", "did you mean ImageMCQDataset"),
            ),
            (
                {"data": {"a": {"class": "VideoMME", "dataset": "Video-MME", "nframes": 8}}},
                ("VideoMME takes no `nframes`", "did you mean nframe", "known: dataset, fps"),
            ),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, change: dict[str, Any], parts: tuple[str, ...]) -> None:
        _refused({**self.RAW, **change}, *parts)


@pytest.mark.parametrize("given", ["Native", "vlmevalkit", None, 5, ["VLMEvalKit"]])
def test_a_backend_that_is_neither(given: Any) -> None:
    _refused({**_vlmevalkit(), "eval_backend": given}, "eval_backend: ", "VLMEvalKit, OpenCompass")


def test_the_keys_around_the_inner_configuration_are_known() -> None:
    _refused({**_vlmevalkit(), "eval_confg": {}}, "eval_confg", "did you mean eval_config")


@pytest.mark.parametrize("given", [None, 5, ["a"]])
def test_an_inner_configuration_that_is_none(given: Any) -> None:
    _refused({"eval_backend": "VLMEvalKit", "eval_config": given}, "eval_config: ", "a mapping")


def test_an_inner_configuration_that_is_not_there() -> None:
    raw = {"eval_backend": "VLMEvalKit", "eval_config": "none.yaml"}

    _refused(raw, "no such configuration: none.yaml")


BAD_API_BASE = {**API_MODEL, "api_base": "127.0.0.1:8000/v1"}


@pytest.mark.parametrize(
    ("build", "keys", "parts"),
    [
        (_vlmevalkit, {"data": {"a": 1}}, ("eval_config.data: {'a': 1}", "it must be a list")),
        (_vlmevalkit, {"model": {"a": 1}}, ("eval_config.model: {'a': 1}", "it must be a list")),
        (_vlmevalkit, {"model": "qwen"}, ("eval_config.model: 'qwen'", "it must be a list")),
        (_vlmevalkit, {"model": [5]}, ("eval_config.model[0]: 5", "a mapping with `name`")),
        (_vlmevalkit, {"data": [5]}, ("eval_config.data[0]: 5",)),
        (_vlmevalkit, {"data": None}, ("`eval_config.data` is missing",)),
        (_vlmevalkit, {"model": []}, ("`eval_config.model` is missing or empty",)),
        (_vlmevalkit, {"model": [{"type": "m"}]}, ("eval_config.model[0]: no `name`",)),
        (
            _vlmevalkit,
            {"model": [{"name": "CustomAPIModel", "api_base": URL}]},
            ("eval_config.model[0]: no `type`", "e.g. type: "),
        ),
        (
            _vlmevalkit,
            {"model": [{"name": "CustomAPIModel", "type": "m"}]},
            ("eval_config.model[0]: no `api_base`", "e.g. api_base: http://"),
        ),
        (_vlmevalkit, {"model": [BAD_API_BASE]}, ("eval_config.model[0].api_base: ", "http://")),
        (_vlmevalkit, {"model": ["qwen_caht"]}, ("qwen_caht", "did you mean qwen_chat")),
        (_vlmevalkit, {"data": ["MMBench_DEV_ENN"]}, ("did you mean MMBench_DEV_EN",)),
        (_vlmevalkit, {"limit": 1.5}, ("eval_config.limit: 1.5", "a fraction below 1")),
        (_vlmevalkit, {"limit": 0.0}, ("eval_config.limit: 0.0", "a fraction below 1")),
        (_vlmevalkit, {"limit": -1}, ("eval_config.limit: -1", "a fraction below 1")),
        (_vlmevalkit, {"limit": "[20:10]"}, ("eval_config.limit: '[20:10]'", "a slice")),
        (_vlmevalkit, {"nproc": 0}, ("eval_config.nproc: 0", "at least 1")),
        (_vlmevalkit, {"mode": "evil"}, ("eval_config.mode: 'evil'", "did you mean eval")),
        (_vlmevalkit, {"rerun": True, "reuse": True}, ("both `rerun` and `reuse`",)),
        (_vlmevalkit, {"judgge_args": {}}, ("`judgge_args`", "did you mean judge_args")),
        (_vlmevalkit, {"fps": "many"}, ("fps",)),
        (_vlmevalkit, {"data": ["Video-MME"], "nframe": "8"}, ("nframe",)),
        (
            _vlmevalkit,
            {"data": ["Video-MME"], "nframe": 0},
            ("a video dataset without `fps` or `nframe`", "Video-MME_8frame", "{nframe: 8}"),
        ),
        (_opencompass, {"models": {"path": "m"}}, ("eval_config.models: ", "it must be a list")),
        (_opencompass, {"models": ["m"]}, ("eval_config.models[0]: 'm'", "a mapping with `path`")),
        (_opencompass, {"datasets": "gsm8k"}, ("eval_config.datasets: 'gsm8k'", "a list")),
        (
            _opencompass,
            {"models": [{"openai_api_base": URL}]},
            ("eval_config.models[0]: no `path`", "e.g. {path: "),
        ),
        (
            _opencompass,
            {"models": [{"path": "m"}]},
            ("eval_config.models[0]: no `openai_api_base`", "e.g. {path: "),
        ),
        (
            _opencompass,
            {"models": [{**SERVED, "openai_api_base": "h:8000/v1"}]},
            ("eval_config.models[0].openai_api_base: ", "http://"),
        ),
        (_opencompass, {"datasets": ["gsm8"]}, ("unknown dataset", "did you mean gsm8k")),
        (_opencompass, {"limit": 0.0}, ("eval_config.limit: 0.0", "a fraction below 1")),
        (_opencompass, {"acelerator": "vllm"}, ("`acelerator`", "did you mean accelerator")),
        (_opencompass, {"rerun": True, "reuse": True}, ("both `rerun` and `reuse`",)),
        (_opencompass, {"generation_kwargs": 5}, ("generation_kwargs",)),
        (_opencompass, {"generation_kwargs": ["a"]}, ("generation_kwargs",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_the_words_of_the_file(
    build: Callable[..., dict[str, Any]], keys: dict[str, Any], parts: tuple[str, ...]
) -> None:
    _refused(build(**keys), *parts)
