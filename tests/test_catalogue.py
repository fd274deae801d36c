"""The names that an upstream knows: kept by set-up, read without importing it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from evalshim import catalogue, envs, registry
from evalshim.errors import ConfigError

from .catalogues import KNOWN, OPENCOMPASS, VLMEVAL


@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_what_was_written_is_read(tmp_path: Path, backend: registry.BackendName) -> None:
    path = tmp_path / "new" / "folder" / "names.json"
    catalogue.write(path, backend, KNOWN[backend])

    found = catalogue.read(path)
    assert found
    for name, value in KNOWN[backend].items():
        assert getattr(found, name) == value
    assert [p.name for p in path.parent.iterdir()] == ["names.json"]


def test_what_an_upstream_does_not_have_is_empty(tmp_path: Path) -> None:
    catalogue.write(tmp_path / "names.json", "opencompass", OPENCOMPASS)

    found = catalogue.read(tmp_path / "names.json")
    assert found and found.settings == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", "{}", '{"schema": 2}'])
def test_a_broken_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.json").write_text(text)

    assert catalogue.read(tmp_path / "names.json") is None


def test_an_absent_file_is_none(tmp_path: Path) -> None:
    assert catalogue.read(tmp_path / "names.json") is None


@pytest.mark.parametrize("schema", [catalogue.SCHEMA - 1, catalogue.SCHEMA + 1])
def test_the_file_of_another_version_is_none(tmp_path: Path, schema: int) -> None:
    (tmp_path / "names.json").write_text(json.dumps({**VLMEVAL, "schema": schema}))

    assert catalogue.read(tmp_path / "names.json") is None


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    catalogue.write(path, "vlmeval", VLMEVAL)
    first = catalogue.read(path)
    catalogue.write(path, "vlmeval", {**VLMEVAL, "models": {}})
    os.utime(path, ns=(0, 0))

    assert first and first.models
    second = catalogue.read(path)
    assert second and not second.models
    assert catalogue.read(path) is second


@pytest.fixture
def small_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A VLMEvalKit of a few lines, and an OpenCompass, that every Python finds."""
    files = {
        "opencompass/__init__.py": "",
        "vlmeval/__init__.py": "",
        "vlmeval/api.py": "",
        "vlmeval/vlm.py": (
            "class Base:\n    def __init__(self, temperature=0): pass\n"
            "class Small(Base):\n"
            "    def __init__(self, size, **kwargs): pass\n"
            "    def generate(self): pass\n"
        ),
        "vlmeval/config.py": (
            "from functools import partial\nfrom vlmeval.vlm import Small\n"
            "supported_VLM = {'small': partial(Small, size=7)}\n"
        ),
        "vlmeval/dataset/__init__.py": (
            "class Mine:\n"
            "    TYPE, MODALITY = 'MCQ', 'IMAGE'\n"
            "    DATASET_URL = {'Mine_VAL': 'http://h/mine.tsv'}\n"
            "    DATASET_MD5 = {'Mine_VAL': 'abc'}\n"
            "    def __init__(self, dataset, skip_noimg=True): pass\n"
            "    @classmethod\n"
            "    def supported_datasets(cls): return list(cls.DATASET_URL)\n"
            "DATASET_CLASSES = [Mine]\n"
        ),
        "vlmeval/dataset/video_dataset_config.py": (
            "from functools import partial\nfrom vlmeval.dataset import Mine\n"
            "supported_video_datasets = {'Mine_8frame': partial(Mine, dataset='Mine_VAL')}\n"
        ),
        "vlmeval/run.py": (
            "import argparse\n"
            "def parse_args():\n"
            "    parser = argparse.ArgumentParser()\n"
            "    parser.add_argument('--data', nargs='+')\n"
            "    parser.add_argument('--verbose', action='store_true')\n"
            "    parser.add_argument('--judge')\n"
            "    return parser.parse_args()\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return str(tmp_path / "site")


class TestNames:
    def test_of_a_managed_environment(self, upstreams: Path) -> None:
        found = envs.names("vlmeval")

        assert found and "MMBench_DEV_EN" in found.datasets

    def test_of_none_is_none(self) -> None:
        assert envs.names("vlmeval") is None
        assert envs.names("vlmeval", "/nonexistent/python") is None
        assert not registry.known("vlmeval")

    def test_are_not_collected_unless_somebody_may_be_told(self, upstreams: Path) -> None:
        (upstreams / "envs" / "vlmeval" / envs.CATALOGUE).unlink()

        assert envs.names("vlmeval") is None

    def test_of_an_interpreter_of_the_users_are_collected_once(self, small_upstream: str) -> None:
        said: list[str] = []

        found = envs.names("vlmeval", sys.executable, say=said.append)
        assert found and found.datasets == {
            "Mine_VAL": {"class": "Mine", "type": "MCQ", "modality": "image",
                         "url": "http://h/mine.tsv", "md5": "abc"},
        }  # fmt: skip
        assert found.models == {"small": {"class": "Small", "arguments": {"size": 7}}}
        assert found.classes == {
            "Mine": {"parameters": ["dataset", "skip_noimg"], "open": False, "dataset": True},
            "Small": {"parameters": ["size", "temperature"], "open": True, "dataset": False},
        }
        assert {name: (a["flag"], a["kind"]) for name, a in found.arguments.items()} == {
            "data": ("--data", "list"), "verbose": ("--verbose", "switch"),
            "judge": ("--judge", "value"),
        }  # fmt: skip
        assert found.settings["Mine_8frame"] == {
            "class": "Mine", "arguments": {"dataset": "Mine_VAL"}, "dataset": "Mine_VAL",
        }  # fmt: skip
        assert said == [f"vlmeval: collecting the names that {sys.executable} knows (once)"]
        assert envs.names("vlmeval", sys.executable) == found

    def test_of_two_upstreams_in_one_interpreter_are_kept_apart(self, small_upstream: str) -> None:
        assert envs.names("vlmeval", sys.executable, say=lambda _: None)

        assert envs.names("opencompass", sys.executable) is None


class TestRegistry:
    """Names beyond registry.yaml."""

    def test_a_name_that_only_an_installed_upstream_knows(self, upstreams: Path) -> None:
        found = registry.resolve("ChartQAPro")

        assert (found.backend, found.cls, found.type) == ("vlmeval", "ChartQAPro", "VQA")
        assert registry.resolve("opencompass:gsm8k_gen").target == "gsm8k.gsm8k_gen:gsm8k_datasets"
        with pytest.raises(ConfigError, match="unknown dataset of opencompass: ChartQAPro"):
            registry.resolve("ChartQAPro", "opencompass")

    def test_a_registered_name_wins(self, upstreams: Path) -> None:
        for name in ("MMBench_DEV_EN", "vlmeval:MMBench_DEV_EN"):
            assert registry.resolve(name) is registry.entries()["MMBench_DEV_EN"]

    def test_a_setting_of_a_video_dataset_is_a_dataset(self, upstreams: Path) -> None:
        found = registry.resolve("Video-MME_8frame")

        assert (found.cls, found.target, found.modality) == ("VideoMME", found.name, "video")

    def test_a_data_file_of_upstreams_folder_is_a_dataset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "mine.tsv").touch()
        monkeypatch.setenv("LMUData", str(tmp_path / "data"))

        assert registry.resolve("mine").backend == "vlmeval"
        with pytest.raises(ConfigError):
            registry.resolve("mine", "opencompass")

    def test_a_name_of_both_upstreams_must_say_which(self, upstreams: Path) -> None:
        path = upstreams / "envs" / "opencompass" / envs.CATALOGUE
        shared = {**OPENCOMPASS["datasets"], "ChartQAPro": OPENCOMPASS["datasets"]["gsm8k_gen"]}
        catalogue.write(path, "opencompass", {**OPENCOMPASS, "datasets": shared})

        with pytest.raises(ConfigError, match="ChartQAPro is a dataset of both") as caught:
            registry.resolve("ChartQAPro")
        assert "vlmeval:ChartQAPro or opencompass:ChartQAPro" in caught.value.cure
        assert registry.resolve("vlmeval:ChartQAPro").backend == "vlmeval"

    def test_near_names_are_those_of_the_upstream_too(self, upstreams: Path) -> None:
        with pytest.raises(ConfigError, match="did you mean ChartQAPro"):
            registry.resolve("ChartQApro")

    def test_what_is_not_set_up_is_said_beside_an_unknown_name(self) -> None:
        with pytest.raises(ConfigError) as caught:
            registry.resolve("ChartQAPro")
        assert "what else vlmeval knows is unknown: it is not set up" in caught.value.why
        assert "shim setup vlmeval opencompass" in caught.value.cure

    def test_the_lists_have_the_names_of_both_sources(self, upstreams: Path) -> None:
        names = [d.name for d in registry.list_datasets()]

        assert {"gsm8k", "gsm8k_gen", "ChartQAPro", "Video-MME_8frame"} <= {*names}
        assert names == sorted(names)
        assert names.count("MMBench_DEV_EN") == 1
        models = registry.list_models("opencompass")
        assert [(m.name, m.target) for m in models] == [
            ("hf_internlm2_chat_7b", "models.hf_internlm.hf_internlm2_chat_7b")
        ]

    @pytest.mark.parametrize("kind", ["MCQ", "mcq", "Mcq"])
    def test_a_list_of_one_kind_of_question(self, upstreams: Path, kind: str) -> None:
        found = registry.list_datasets("vlmeval", type=kind)

        assert found and {d.type for d in found} == {"MCQ"}
