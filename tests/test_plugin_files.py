"""What is known of a plug-in before it is run, and that reading it does not run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalshim import plugin_files
from evalshim.errors import ConfigError

SCRIPT = """
import os

import numpy as np

from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.dataset.image_vqa import CustomVQADataset
from vlmeval.smp import load, dump, d2df


class CustomDataset:
    def load_data(self, dataset):
        return load(os.path.join(os.path.expanduser("~/LMUData"), f"{dataset}.tsv"))


CustomVQADataset.load_data = CustomDataset.load_data
"""


def _plugin(folder: Path, text: str | bytes, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestRead:
    def test_the_script_of_the_document(self, tmp_path: Path) -> None:
        found = plugin_files.read(_plugin(tmp_path, SCRIPT))

        assert found.classes == ("CustomDataset",)
        assert found.datasets == {}
        assert found.backends == {"vlmeval"}

    def test_classes_are_those_at_top_level(self, tmp_path: Path) -> None:
        text = "class A:\n    class B: pass\ndef f():\n    class C: pass\nclass D(A): pass\n"

        assert plugin_files.read(_plugin(tmp_path, text)).classes == ("A", "D")

    @pytest.mark.parametrize(
        "line",
        [
            "DATASET_URL = {'mine': '', 'other': 'http://h/x.tsv'}",
            "DATASET_URL: dict[str, str] = {'mine': '', 'other': ''}",
            "DATASET_URL = DATASET_MD5 = {'mine': None, 'other': None}",
            "DATASET_URL = {'mine': '', 5: '', **{}, 'other': '', NAME: ''}",
        ],
    )
    def test_datasets_are_the_keys_of_its_urls(self, tmp_path: Path, line: str) -> None:
        text = f"class Mine:\n    TYPE = 'VQA'\n    {line}\n"

        assert plugin_files.read(_plugin(tmp_path, text)).datasets == {
            "mine": "Mine", "other": "Mine",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "line", ["DATASET_URL = dict(mine='')", "DATASET_URL: dict", "URL = {'mine': ''}", "pass"]
    )
    def test_urls_that_are_no_mapping_say_nothing(self, tmp_path: Path, line: str) -> None:
        assert plugin_files.read(_plugin(tmp_path, f"class Mine:\n    {line}\n")).datasets == {}

    @pytest.mark.parametrize(
        ("text", "backends"),
        [
            ("import vlmeval", {"vlmeval"}),
            ("import vlmeval.api as api", {"vlmeval"}),
            ("from vlmeval.smp import load", {"vlmeval"}),
            ("def f():\n    from opencompass.models import BaseModel", {"opencompass"}),
            ("import vlmeval, opencompass", {"vlmeval", "opencompass"}),
            ("try:\n    import opencompass\nexcept ImportError: pass", {"opencompass"}),
            ("import vlmevalx, os", set()),
            ("from . import vlmeval_like", set()),
            ("from .vlmeval import mine", set()),
            ("'import vlmeval'", set()),
            ("", set()),
        ],
    )
    def test_backends_are_the_upstreams_that_it_imports(
        self, tmp_path: Path, text: str, backends: set[str]
    ) -> None:
        assert plugin_files.read(_plugin(tmp_path, text)).backends == backends

    def test_nothing_of_it_runs(self, tmp_path: Path) -> None:
        run = f"open({str(tmp_path / 'ran')!r}, 'w')"
        text = f"{run}\nclass A({run}): 1\n"

        assert plugin_files.read(_plugin(tmp_path, text)).classes == ("A",)
        assert not (tmp_path / "ran").exists()

    def test_another_encoding_is_read_as_it_says(self, tmp_path: Path) -> None:
        text = "# -*- coding: gbk -*-\nclass A: word = '\u72d7'\n".encode("gbk")

        assert plugin_files.read(_plugin(tmp_path, text)).classes == ("A",)

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        assert plugin_files.read(_plugin(tmp_path, b"\xef\xbb\xbfclass A: pass\n")).classes == (
            "A",
        )


class TestRefused:
    def _refused(self, path: Path, *parts: str) -> None:
        with pytest.raises(ConfigError) as caught:
            plugin_files.read(path)
        for part in (path.name, *parts):
            assert part in str(caught.value)
        assert "None" not in str(caught.value)

    def test_one_that_is_missing(self, tmp_path: Path) -> None:
        self._refused(tmp_path / "none.py", "cannot read the plug-in")

    def test_a_folder(self, tmp_path: Path) -> None:
        self._refused(tmp_path, "cannot read the plug-in")

    def test_one_that_is_not_python_names_the_line(self, tmp_path: Path) -> None:
        self._refused(_plugin(tmp_path, "a = 1\nclass A:\nb = 2\n"), "mine.py, line 3: not Python")

    @pytest.mark.parametrize(
        "text",
        [
            b"a = '\xff'\n",
            b"a = 1\0\n",
            b"# coding: nonsense\na = 1\n",
            b"\xff\xfea\x00",
            b"\x7fELF\x02\x01\x01\x00",
            b"(" * 100_000,
            b"-" * 100_000 + b"1",
            b"a" + b".a" * 100_000,
            b"1" * 10_000,
            b"if 1:\n\tx\n        y\n",
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_one_that_is_not_python(self, tmp_path: Path, text: bytes) -> None:
        self._refused(_plugin(tmp_path, text), "not Python", "mend ")


class TestLoadedBy:
    def test_a_worker_loads_what_imports_its_upstream_or_neither(self, tmp_path: Path) -> None:
        vlmeval = _plugin(tmp_path, "import vlmeval", "a.py")
        opencompass = _plugin(tmp_path, "import opencompass", "b.py")
        neither = _plugin(tmp_path, "import numpy", "c.py")
        both = _plugin(tmp_path, "import vlmeval, opencompass", "d.py")
        all_of_them = (vlmeval, opencompass, neither, both)

        assert plugin_files.loaded_by(all_of_them, "vlmeval") == [
            str(vlmeval), str(neither), str(both),
        ]  # fmt: skip
        assert plugin_files.loaded_by(all_of_them, "opencompass") == [
            str(opencompass), str(neither), str(both),
        ]  # fmt: skip

    def test_none(self) -> None:
        assert plugin_files.loaded_by((), "vlmeval") == []
