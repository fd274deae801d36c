"""Data of the user's own in a configuration: which format, which upstream, which scorer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalshim import config
from evalshim.adapters.scorers import SCORERS
from evalshim.backends import vlmeval
from evalshim.errors import ConfigError
from evalshim.spec import Cell, DatasetSpec, ModelSpec, RunSpec

JUDGE = {"model": "qwen-plus", "api_base": "http://127.0.0.1:9/v1", "key": "EMPTY"}
FILES = {
    "mcq.tsv": "index\tquestion\tA\tB\tanswer\n1\tWhich?\tcat\tdog\tA\n",
    "vqa.tsv": "index\tquestion\tanswer\n1\tWhich?\tcat\n",
    "asked.jsonl": '{"messages": [{"role": "user", "content": "q"}], "answer": "a"}\n',
    "asked.tsv": 'messages\tanswer\n[{"role": "user", "content": "q"}]\ta\n',
    "chosen.jsonl": '{"question": "q", "options": ["a", "b"], "answer": "A"}\n',
    "chosen.tsv": "question\toptions\tanswer\nq\t['a', 'b']\tA\n",
    "oc_mcq.jsonl": '{"question": "q", "A": "a", "B": "b", "answer": "A"}\n',
    "oc_mcq.csv": "question,A,B,answer\nq,a,b,A\n",
    "oc_qa.jsonl": '{"question": "q", "answer": "a"}\n',
    "oc_qa.csv": "question,answer\nq,a\n",
}
FORMATS = {
    "mcq.tsv": "mcq", "vqa.tsv": "vqa", "asked.jsonl": "general_vqa", "asked.tsv": "general_vqa",
    "chosen.jsonl": "general_vmcq", "chosen.tsv": "general_vmcq",
    "oc_mcq.jsonl": "opencompass_mcq", "oc_mcq.csv": "opencompass_mcq",
    "oc_qa.jsonl": "opencompass_qa", "oc_qa.csv": "opencompass_qa",
}  # fmt: skip
PLUGIN = """
from vlmeval.dataset.image_base import ImageBaseDataset

class MineDataset(ImageBaseDataset):
    DATASET_URL = {"mine": "", "other_mine": ""}
    def build_prompt(self, line): ...
    def evaluate(self, eval_file, **judge_kwargs): ...

class MyModel:
    def generate_inner(self, message, dataset=None): return "42"
"""

Raw = Callable[..., dict[str, Any]]


@pytest.fixture
def raw(served: dict[str, Any], tmp_path: Path) -> Raw:
    """A configuration of one dataset: `raw("vqa.tsv", scorer="anls")`, `raw("mine", path=None)`."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "mine.py").write_text(PLUGIN)

    def build(file: str, *, run: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
        entry = {"name": Path(file).stem, "path": str(tmp_path / file), **keys}
        entry = {key: value for key, value in entry.items() if value is not None}
        return {"models": [served], "datasets": [entry], **(run or {})}

    return build


def _only(raw: dict[str, Any]) -> DatasetSpec:
    [found] = config.parse(raw).datasets
    return found


def _refused(raw: dict[str, Any], *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(raw)
    for part in parts:
        assert part in str(caught.value)


def _again(spec: RunSpec) -> RunSpec:
    """What its config.yaml says of a run."""
    return config.parse(yaml.safe_load(yaml.safe_dump(config.plain(spec), allow_unicode=True)))


class TestFormat:
    @pytest.mark.parametrize(("file", "format"), FORMATS.items())
    def test_is_that_of_the_file(self, raw: Raw, file: str, format: str) -> None:
        found = _only(raw(file, run={"mode": "infer"}))

        backend = "opencompass" if format.startswith("opencompass") else "vlmeval"
        assert (found.format, found.backend) == (format, backend)
        assert found.path
        assert found.path.name == file

    @pytest.mark.parametrize(("file", "format"), FORMATS.items())
    def test_may_be_said(self, raw: Raw, file: str, format: str) -> None:
        said = raw(file, format=format, run={"mode": "infer"})

        assert _only(said) == _only(raw(file, run={"mode": "infer"}))

    def test_that_there_is_none_of_is_refused(self, raw: Raw) -> None:
        _refused(raw("mcq.tsv", format="mqc"), "datasets[0].format", "did you mean mcq?")

    @pytest.mark.parametrize(
        ("file", "backend"),
        [(f, "vlmeval" if form.startswith("opencompass") else "opencompass")
         for f, form in FORMATS.items()],
    )  # fmt: skip
    def test_of_another_upstream_is_refused(self, raw: Raw, file: str, backend: str) -> None:
        _refused(raw(file, backend=backend), f"{file} is no data for {backend}", "shim convert")

    @pytest.mark.parametrize(
        ("file", "format"),
        [("oc_mcq.jsonl", "mcq"), ("oc_qa.csv", "vqa"), ("mcq.tsv", "opencompass_mcq"),
         ("vqa.tsv", "opencompass_qa"), ("oc_qa.csv", "general_vqa")],
    )  # fmt: skip
    def test_that_the_suffix_cannot_be_is_refused(self, raw: Raw, file: str, format: str) -> None:
        _refused(raw(file, format=format, scorer=None, run={"mode": "infer"}), file)

    def test_of_no_data_file(self, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")

        _refused(raw("notes.txt"), "notes.txt: no data file", "none of .csv, .jsonl, .tsv")

    @pytest.mark.parametrize("name", ["folder.tsv", "folder"])
    def test_of_a_folder(self, raw: Raw, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()

        _refused(raw(name), name)


class TestScorer:
    @pytest.mark.parametrize("scorer", sorted(set(SCORERS) - {"judge"}))
    @pytest.mark.parametrize("file", ["vqa.tsv", "asked.jsonl", "asked.tsv"])
    def test_is_one_of_those_there_are(self, raw: Raw, file: str, scorer: str) -> None:
        assert _only(raw(file, scorer=scorer)).scorer == scorer

    def test_that_there_is_none_of_is_refused(self, raw: Raw) -> None:
        _refused(raw("vqa.tsv", scorer="acuracy"), "datasets[0].scorer", "did you mean accuracy")

    def test_of_written_answers_must_be_named(self, raw: Raw) -> None:
        _refused(raw("vqa.tsv"), "vqa: no scorer", "scorer: accuracy", "shim list scorers")

    def test_needs_no_name_where_nothing_is_scored(self, raw: Raw) -> None:
        assert _only(raw("vqa.tsv", run={"mode": "infer"})).scorer == ""

    def test_may_be_a_plug_in(self, raw: Raw, tmp_path: Path) -> None:
        run = {"plugins": [str(tmp_path / "mine.py")]}

        assert _only(raw("vqa.tsv", run=run)).scorer == ""

    def test_may_be_a_class(self, raw: Raw, tmp_path: Path) -> None:
        run = {"plugins": str(tmp_path / "mine.py")}

        found = _only(raw("vqa.tsv", run=run, **{"class": "MineDataset"}))

        assert (found.cls, found.scorer) == ("MineDataset", "")

    def test_beside_a_class_is_refused_or_kept(self, raw: Raw, tmp_path: Path) -> None:
        """It must not be dropped in silence."""
        run = {"plugins": str(tmp_path / "mine.py")}
        both = raw("vqa.tsv", run=run, scorer="anls", **{"class": "MineDataset"})

        try:
            found = _only(both)
        except ConfigError as error:
            assert "scorer" in str(error)
        else:
            assert found.scorer == "anls"

    @pytest.mark.parametrize("file", ["asked.jsonl", "asked.tsv"])
    def test_of_general_vqa_is_bleu_and_rouge(self, raw: Raw, file: str) -> None:
        assert _only(raw(file)).scorer == "bleu_rouge"

    @pytest.mark.parametrize("file", [f for f, form in FORMATS.items() if "vqa" not in form])
    def test_beside_a_format_that_has_its_own_is_refused(self, raw: Raw, file: str) -> None:
        _refused(raw(file, scorer="accuracy"), "datasets[0].scorer: accuracy is for questions",
                 FORMATS[file], "leave `scorer` out")  # fmt: skip

    @pytest.mark.parametrize("file", ["vqa.tsv", "asked.jsonl"])
    def test_that_judges_needs_a_judge(self, raw: Raw, file: str) -> None:
        _refused(raw(file, scorer="judge"), "scorer: judge, and no judge", "api_base")
        assert _only(raw(file, scorer="judge", run={"judge": JUDGE})).scorer == "judge"
        assert _only(raw(file, scorer="judge", run={"mode": "infer"})).scorer == "judge"

    def test_of_a_registered_dataset_is_its_own(self, raw: Raw) -> None:
        _refused(raw("demo_shapes", path=None, scorer="anls"), "demo_shapes has its own")


class TestLmudata:
    @pytest.fixture
    def lmudata(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "LMUData"
        folder.mkdir()
        monkeypatch.setenv("LMUData", str(folder))
        for name in ("mcq.tsv", "vqa.tsv", "asked.tsv", "chosen.tsv"):
            (folder / name).write_text(FILES[name])
        return folder

    @pytest.mark.parametrize("name", ["mcq", "asked", "chosen"])
    def test_a_name_is_that_of_a_file(self, raw: Raw, lmudata: Path, name: str) -> None:
        found = _only({**raw("mcq.tsv"), "datasets": [name]})

        assert (found.name, found.format) == (name, FORMATS[f"{name}.tsv"])
        assert found.path == lmudata / f"{name}.tsv"

    def test_a_prefix_says_whose(self, raw: Raw, lmudata: Path) -> None:
        plain = {**raw("mcq.tsv"), "datasets": ["mcq"]}

        assert _only({**plain, "datasets": ["vlmeval:mcq"]}) == _only(plain)

    def test_a_scorer_may_be_named_beside_it(self, raw: Raw, lmudata: Path) -> None:
        _refused({**raw("vqa.tsv"), "datasets": ["vqa"]}, "vqa: no scorer")

        found = _only(raw("vqa", path=None, scorer="anls"))

        assert (found.path, found.scorer) == (lmudata / "vqa.tsv", "anls")

    def test_under_another_name(self, raw: Raw, lmudata: Path) -> None:
        found = _only(raw("mine", path=None, dataset="mcq"))

        assert (found.name, found.target, found.path) == ("mine", "mine", lmudata / "mcq.tsv")

    @pytest.mark.parametrize("name", ["../mcq", "x/../mcq", "/mcq", "..", ""])
    def test_a_name_that_leaves_the_folder_is_refused(
        self, raw: Raw, lmudata: Path, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "mcq.tsv").write_text(FILES["mcq.tsv"])
        (lmudata / "x").mkdir()

        _refused({**raw("mcq.tsv"), "datasets": [name]})
        _refused(raw(name or "x", path=None, dataset=name, name=name))

    def test_both_spellings_are_one_after_a_round(self, raw: Raw, lmudata: Path) -> None:
        spec = config.parse({**raw("mcq.tsv"), "datasets": ["mcq", "chosen"]})

        assert _again(spec) == spec


class TestPlugin:
    def test_a_name_of_its_urls_is_a_dataset(self, raw: Raw, tmp_path: Path) -> None:
        plain = {**raw("mcq.tsv"), "plugins": [str(tmp_path / "mine.py")]}

        for spelling in ("mine", "vlmeval:mine", {"name": "mine"}):
            found = _only({**plain, "datasets": [spelling]})
            assert (found.name, found.backend, found.cls) == ("mine", "vlmeval", "MineDataset")

    def test_two_names_of_one_class_are_two_datasets(self, raw: Raw, tmp_path: Path) -> None:
        plain = {**raw("mcq.tsv"), "plugins": [str(tmp_path / "mine.py")]}

        spec = config.parse({**plain, "datasets": ["mine", "other_mine"]})

        assert [d.target for d in spec.datasets] == ["mine", "other_mine"]

    def test_without_it_nobody_knows_the_name(self, raw: Raw) -> None:
        _refused({**raw("mcq.tsv"), "datasets": ["mine"]}, "unknown dataset: mine")

    def test_its_class_of_models_is_known(
        self, raw: Raw, served: dict[str, Any], tmp_path: Path
    ) -> None:
        plugins = [str(tmp_path / "mine.py")]
        model = {"name": "m", "class": "MyModel", "upstream": {"anything": 1}}

        spec = config.parse({**raw("mcq.tsv"), "models": [model], "plugins": plugins})

        assert spec.models[0].cls == "MyModel"

    def test_its_class_needs_no_upstream_that_knows_it(
        self, raw: Raw, upstreams: Path, tmp_path: Path
    ) -> None:
        run = {"plugins": [str(tmp_path / "mine.py")]}
        entry = {"class": "MineDataset", "upstream": {"anything": 1}}

        assert _only(raw("vqa.tsv", run=run, **entry)).upstream["class"] == "MineDataset"
        _refused(raw("vqa.tsv", **entry), "no dataset class MineDataset")

    def test_is_looked_for_beside_the_configuration(
        self, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

        spec = config.parse({**raw("mcq.tsv"), "plugins": ["mine.py"]}, beside=tmp_path)

        assert spec.plugins == (tmp_path / "mine.py",)

    @pytest.mark.parametrize("value", [5, [5], [""], "", {}, [None], [["mine.py"]]])
    def test_that_is_no_path_is_refused(self, raw: Raw, value: Any) -> None:
        _refused({**raw("mcq.tsv"), "plugins": value}, "plugins[0]")

    def test_that_is_missing_is_refused(self, raw: Raw) -> None:
        _refused({**raw("mcq.tsv"), "plugins": ["none.py"]}, "plugins[0]: no such file: none.py")

    def test_that_is_not_python_is_refused(self, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("class A:\nx\n")

        _refused({**raw("mcq.tsv"), "plugins": [str(tmp_path / "bad.py")]}, "bad.py, line 2")


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("file", "keys", "run"),
        [
            ("mcq.tsv", {}, {}),
            ("mcq.tsv", {"name": "my-pets"}, {"limit": 3}),
            ("vqa.tsv", {"scorer": "anls"}, {}),
            ("vqa.tsv", {"scorer": "judge"}, {"judge": JUDGE}),
            ("vqa.tsv", {}, {"mode": "infer"}),
            ("asked.jsonl", {}, {}),
            ("asked.jsonl", {"scorer": "accuracy"}, {}),
            ("asked.tsv", {"format": "general_vqa"}, {}),
            ("chosen.jsonl", {}, {}),
            ("chosen.tsv", {}, {}),
            ("oc_mcq.jsonl", {}, {}),
            ("oc_mcq.csv", {}, {}),
            ("oc_qa.jsonl", {"backend": "opencompass"}, {}),
            ("oc_qa.csv", {}, {}),
        ],
    )
    def test_of_a_file(
        self, raw: Raw, file: str, keys: dict[str, Any], run: dict[str, Any]
    ) -> None:
        spec = config.parse(raw(file, run=run, **keys))

        assert _again(spec) == spec
        assert json.dumps(config.plain(spec)) == json.dumps(config.plain(_again(spec)))

    @pytest.mark.parametrize(
        "entry",
        [
            "mine",
            {"name": "mine", "class": "MineDataset"},
            {"name": "own", "class": "MineDataset", "dataset": "mine", "upstream": {"a": 1}},
        ],
    )
    def test_of_a_plug_in(self, raw: Raw, tmp_path: Path, entry: Any) -> None:
        plugins = [str(tmp_path / "mine.py")]

        spec = config.parse({**raw("mcq.tsv"), "datasets": [entry], "plugins": plugins})

        assert _again(spec) == spec
        assert _again(spec).plugins == (tmp_path / "mine.py",)

    def test_of_a_class_with_a_file(self, raw: Raw, tmp_path: Path) -> None:
        run = {"plugins": [str(tmp_path / "mine.py")]}

        spec = config.parse(raw("vqa.tsv", run=run, **{"class": "MineDataset"}))

        assert _again(spec) == spec
        assert _again(spec).datasets[0].path == tmp_path / "vqa.tsv"


class TestLocalModels:
    """What a model that VLMEvalKit runs itself cannot be asked is said before the run."""

    @pytest.mark.parametrize(
        ("messages", "named"),
        [
            ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
              {"role": "user", "content": "r"}], "several turns"),
            ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {
                "data": "tone.wav", "format": "wav"}}]}], "audio"),
            ([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], ""),
        ],
        ids=["turns", "audio", "one-turn"],
    )  # fmt: skip
    def test_one_turn_of_text_and_pictures(
        self, tmp_path: Path, messages: list[dict[str, Any]], named: str
    ) -> None:
        (tmp_path / "tone.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(20))
        path = tmp_path / "chat.jsonl"
        path.write_text(json.dumps({"messages": messages, "answer": "a"}) + "\n")
        dataset = DatasetSpec("chat", "vlmeval", "chat", path=path, format="general_vqa")
        local = Cell("m-chat", ModelSpec("m", "m", cls="Qwen2VLChat"), dataset)
        served = Cell("s-chat", ModelSpec("s", "s", api_base="http://h/v1"), dataset)

        vlmeval.check([served], RunSpec())
        if not named:
            vlmeval.check([local], RunSpec())
            return
        with pytest.raises(ConfigError, match=f"m cannot be asked chat(.|\n)*{named}"):
            vlmeval.check([served, local], RunSpec())


class TestRefusedBeforeTheRun:
    """What upstream would leave out, or count as wrong, without a word."""

    def test_unanswered_rows_where_a_scorer_needs_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "chat.jsonl"
        asked = {"messages": [{"role": "user", "content": "q"}]}
        path.write_text(json.dumps({**asked, "answer": "5"}) + "\n" + json.dumps(asked) + "\n")
        dataset = DatasetSpec("chat", "vlmeval", "chat", path=path, format="general_vqa")
        model = ModelSpec("s", "s", api_base="http://h/v1")

        for scorer in ("", "bleu_rouge"):
            vlmeval.check([Cell("x", model, replace(dataset, scorer=scorer))], RunSpec())
        cell = Cell("x", model, replace(dataset, scorer="accuracy"))
        vlmeval.check([cell], RunSpec(mode="infer"))
        with pytest.raises(ConfigError, match="1 of 2 rows have no answer"):
            vlmeval.check([cell], RunSpec())

    @pytest.mark.parametrize("row", ["2\tr\tcat\tdog\tB\textra", '2\t"r\tcat\tdog\tB'])
    def test_a_row_that_would_be_lost_to_a_class(self, tmp_path: Path, row: str) -> None:
        path = tmp_path / "mine.tsv"
        path.write_text(FILES["mcq.tsv"] + row + "\n")
        cell = Cell(
            "x", ModelSpec("s", "s", api_base="http://h/v1"),
            DatasetSpec("mine", "vlmeval", "mine", "Mine", path=path),
        )  # fmt: skip

        with pytest.raises(ConfigError, match="line 3"):
            vlmeval.check([cell], RunSpec())

    def test_a_class_reads_a_tsv(self, raw: Raw, tmp_path: Path) -> None:
        plugins = {"plugins": [str(tmp_path / "mine.py")]}

        _refused(
            raw("asked.jsonl", run=plugins, **{"class": "MineDataset"}), "asked.jsonl", "convert"
        )

    def test_two_plug_ins_with_one_class(self, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "two.py").write_text("class MyModel:\n    pass\n")
        plugins = {"plugins": [str(tmp_path / name) for name in ("mine.py", "two.py")]}

        _refused(raw("mcq.tsv", run=plugins), "mine.py and two.py both define MyModel")

    def test_a_plug_in_that_evaluates_nothing_is_no_scorer(self, raw: Raw, tmp_path: Path) -> None:
        (tmp_path / "model.py").write_text("class Mine:\n    def generate_inner(self): ...\n")

        _refused(raw("vqa.tsv", run={"plugins": [str(tmp_path / "model.py")]}), "vqa: no scorer")
