"""What a run would do before it does it: data, earlier answers, and the text of a dry run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalshim import catalogue, config, envs, plans, readiness, runs
from evalshim.demo.endpoint import Endpoint
from evalshim.errors import ConfigError, SetupError
from evalshim.spec import Cell, Needed, RunSpec, slug

from .catalogues import OPENCOMPASS, OSS, UTILS, VLMEVAL

MODEL = {"name": "org/m", "api_base": "http://h/v1", "temperature": 0}
Spec = Callable[..., RunSpec]


@pytest.fixture
def spec(upstreams: Path, tmp_path: Path) -> Spec:
    """`spec("gsm8k", limit=3, model={"seed": 0})`: one model, both upstreams installed."""

    def parse(*datasets: Any, model: dict[str, Any] | None = None, **keys: Any) -> RunSpec:
        models = [{**MODEL, **(model or {})}]
        raw = {"models": models, "datasets": [*datasets], "work_dir": str(tmp_path / "runs")}
        return config.parse({**raw, **keys})

    return parse


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and home, and a proxy that is asked for everything else."""
    for name in ("cwd", "me"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def _needs(spec: RunSpec) -> list[Needed]:
    planned = plans.plan(spec)
    [cell] = planned.cells
    return [*planned.needs[cell.id]]


class TestOpencompassData:
    @pytest.mark.parametrize("place", ["data/gsm8k", "../me/.cache/opencompass/data/gsm8k"])
    def test_is_looked_for_where_upstream_looks(self, spec: Spec, place: str) -> None:
        Path(place).mkdir(parents=True)

        [need] = _needs(spec("gsm8k"))
        assert (need.present, need.problem) == (True, "")

    def test_is_looked_for_in_the_cache_that_is_named(
        self, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path / "cache"))
        Path("data/gsm8k").mkdir(parents=True)
        assert not _needs(spec("gsm8k"))[0].present

        (tmp_path / "cache" / "data" / "gsm8k").mkdir(parents=True)
        [need] = _needs(spec("gsm8k"))
        assert (need.present, need.path) == (True, str(tmp_path / "cache" / "data" / "gsm8k"))

    def test_is_fetched_by_upstream_where_it_knows_a_place(self, spec: Spec) -> None:
        [need] = _needs(spec("gsm8k"))

        assert (need.present, need.missing) == (False, False)
        assert need.source == f"{OSS}/gsm8k.zip"

    def test_that_nobody_has_is_missing_and_every_place_is_named(
        self, spec: Spec, tmp_path: Path
    ) -> None:
        planned = plans.plan(spec("ChemBench_gen"))

        places = (
            tmp_path / "cwd" / "data" / "ChemBench4K",
            tmp_path / "me" / ".cache" / "opencompass" / "data" / "ChemBench4K",
        )
        assert not planned.ready
        with pytest.raises(SetupError) as caught:
            readiness.look(planned, endpoints=False).require()
        assert caught.value.what == f"no data for ChemBench_gen: {places[0]}"
        assert all(str(place) in caught.value.why for place in places)
        assert "COMPASS_DATA_CACHE" in caught.value.cure
        assert "ModelScope" not in caught.value.cure

    def test_comes_from_modelscope_where_that_is_asked_for(
        self, spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATASET_SOURCE", "ModelScope")
        Path("data/gsm8k").mkdir(parents=True)

        [need] = _needs(spec("gsm8k"))
        assert need.source == "https://www.modelscope.cn/datasets/opencompass/gsm8k"
        [lacking] = _needs(spec("ChemBench_gen"))
        assert lacking.missing
        assert "ModelScope does not have it" in lacking.problem
        assert lacking.cure == "unset DATASET_SOURCE"

    def test_of_the_user_is_there(self, spec: Spec, tmp_path: Path) -> None:
        [need] = _needs(spec({"name": "mine", "dataset": "gsm8k", "path": str(tmp_path)}))

        assert (need.path, need.present) == (str(tmp_path), True)

    def test_everything_that_is_missing_is_named_at_once(self, spec: Spec) -> None:
        asked = spec("ChemBench_gen", {"name": "again", "dataset": "ChemBench_gen", "upstream":
                                       {"n": 2}})  # fmt: skip
        with pytest.raises(SetupError) as caught:
            readiness.look(plans.plan(asked), endpoints=False).require()
        assert caught.value.what == "2 things keep the run from starting"
        assert "1. no data for ChemBench_gen: " in caught.value.why
        assert "2. no data for again: " in caught.value.why
        assert "COMPASS_DATA_CACHE" in caught.value.cure

    def test_from_a_place_that_cannot_be_reached_is_missing(
        self, spec: Spec, upstreams: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        url = "https://127.0.0.1/gsm8k.zip"  # nothing listens there
        path = upstreams / "envs" / "opencompass" / envs.CATALOGUE
        catalogue.write(path, "opencompass", {**OPENCOMPASS, "urls": {"/gsm8k/": url}})

        [need] = _needs(spec("gsm8k"))
        assert need.missing
        assert need.problem == f"it would come from {url}, which cannot be reached"


class TestVlmevalData:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
        (tmp_path / "LMUData").mkdir()
        return tmp_path / "LMUData" / "MMBench_DEV_EN.tsv"

    def test_is_fetched_where_it_is_not_there(self, spec: Spec, file: Path) -> None:
        [need] = _needs(spec("MMBench_DEV_EN"))

        assert (need.path, need.present, need.missing) == (str(file), False, False)
        assert need.source == f"{UTILS}/benchmarks/MMBench/MMBench_DEV_EN.tsv"

    def test_is_looked_for_in_the_home_folder_otherwise(self, spec: Spec, tmp_path: Path) -> None:
        [need] = _needs(spec("MMBench_DEV_EN"))

        assert need.path == str(tmp_path / "me" / "LMUData" / "MMBench_DEV_EN.tsv")

    def test_that_is_not_the_published_file_is_refused(self, spec: Spec, file: Path) -> None:
        file.write_text("index\tquestion\n")

        planned = plans.plan(spec("MMBench_DEV_EN"))
        with pytest.raises(SetupError) as caught:
            readiness.look(planned, endpoints=False).require()
        assert caught.value.what == f"no data for MMBench_DEV_EN: {file}"
        assert "not the published file (another MD5)" in caught.value.why
        assert "`verify_data: off` takes it as it is" in caught.value.cure
        assert file.read_text() == "index\tquestion\n"

    def test_that_is_not_the_published_file_is_taken_where_that_is_asked_for(
        self, spec: Spec, file: Path
    ) -> None:
        file.write_text("index\tquestion\n")

        [need] = _needs(spec("MMBench_DEV_EN", verify_data="off"))
        assert (need.present, need.problem) == (True, "")

    def test_that_is_the_published_file_is_taken(
        self, spec: Spec, file: Path, upstreams: Path
    ) -> None:
        file.write_text("index\tquestion\n")
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        known = {**VLMEVAL["datasets"]["MMBench_DEV_EN"], "md5": digest}
        found = {**VLMEVAL, "datasets": {**VLMEVAL["datasets"], "MMBench_DEV_EN": known}}
        catalogue.write(upstreams / "envs" / "vlmeval" / envs.CATALOGUE, "vlmeval", found)

        assert [need.present for need in _needs(spec("MMBench_DEV_EN"))] == [True]

    def test_of_a_class_with_arguments_is_that_of_its_dataset(self, spec: Spec, file: Path) -> None:
        [need] = _needs(spec({"name": "mine", "class": "ImageMCQDataset",
                              "dataset": "MMBench_DEV_EN"}))  # fmt: skip

        assert need.path == str(file)

    def test_of_a_video_dataset_is_upstreams_business(self, spec: Spec) -> None:
        assert _needs(spec("Video-MME_8frame")) == []

    def test_of_the_user_is_there(self, spec: Spec, tsv: Callable[..., Path]) -> None:
        path = tsv()

        [need] = _needs(spec({"name": "pets", "path": str(path)}))
        assert (need.path, need.present) == (str(path), True)


class TestEarlier:
    """Which earlier run a run goes on from."""

    def _ran(self, spec: RunSpec, run_id: str, *, predicted: bool = True) -> Path:
        """The directory of a run of `spec`, as far as a later one looks at it."""
        folder = spec.work_dir / run_id
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        (folder / "config.yaml").write_text(yaml.safe_dump(config.plain(spec)))
        for cell in plans.cells_of(spec) if predicted else ():
            self._prediction(folder, cell).touch()
        return folder

    def _prediction(self, folder: Path, cell: Cell) -> Path:
        label = slug(cell.model.name)
        below = folder / "upstream" / cell.dataset.backend
        below.mkdir(parents=True, exist_ok=True)
        if cell.dataset.backend == "vlmeval":
            path = below / cell.id / label / f"{label}_{cell.dataset.target}.tsv"
        else:
            abbr = "gsm8k" if "gsm8k" in cell.dataset.target else cell.dataset.name
            path = below / "20260102_030406" / "predictions" / label / f"{abbr}.json"
            known = below / "owners.json"
            owners = json.loads(known.read_text()) if known.exists() else {}
            known.write_text(json.dumps({**owners, abbr: cell.dataset.name}))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _found(self, spec: RunSpec, **keys: Any) -> set[str]:
        """The runs whose files a later run of `spec` goes on from."""
        planned = plans.plan(replace(spec, **{"reuse": True, **keys}))
        return {path.relative_to(spec.work_dir).parts[0] for path in planned.earlier.values()}

    @pytest.mark.parametrize("dataset", ["demo_shapes", "gsm8k"])
    def test_is_the_newest_of_the_same_work(self, spec: Spec, dataset: str) -> None:
        asked = spec(dataset)
        for run_id in ("20260102-030405", "20260103-030405", "20260101-030405"):
            self._ran(asked, run_id)
        (asked.work_dir / "latest").symlink_to("20260101-030405")

        assert self._found(asked) == {"20260103-030405"}
        [place] = plans.plan(replace(asked, reuse=True)).earlier.values()
        assert any(place.rglob("*.tsv")) or any(place.rglob("*.json"))

    def test_is_none_where_nobody_asked(self, spec: Spec) -> None:
        asked = spec("gsm8k")
        self._ran(asked, "20260102-030405")

        assert plans.plan(asked).earlier == {}

    def test_is_the_one_that_was_named(self, spec: Spec) -> None:
        asked = spec("gsm8k")
        for run_id in ("20260102-030405", "20260103-030405"):
            self._ran(asked, run_id)

        assert self._found(asked, reuse="20260102-030405") == {"20260102-030405"}

    def test_that_was_named_must_be_there(self, spec: Spec) -> None:
        with pytest.raises(ConfigError, match="reuse: no run 20260102-030405 in "):
            plans.plan(spec("gsm8k", reuse="20260102-030405"))

    @pytest.mark.parametrize(
        "other",
        [
            {"limit": 3},
            {"model": {"temperature": 1}},
            {"model": {"model": "other"}},
            {"model": {"system_prompt": "Be brief."}},
            {"model": {"name": "another"}},
        ],
        ids=str,
    )
    def test_of_other_work_is_none(self, spec: Spec, other: dict[str, Any]) -> None:
        self._ran(spec("gsm8k", **other), "20260102-030405")

        assert self._found(spec("gsm8k")) == set()

    @pytest.mark.parametrize(
        "other",
        [
            {"model": {"api_base": "http://elsewhere/v1"}},
            {"model": {"concurrency": 1, "retry": 2, "timeout": 9}},
            {"model": {"key": "sk-1"}},
            {"mode": "infer"},
            {"judge": "gpt-4o"},
            {"concurrency": 1, "fail_on": 5},
        ],
        ids=str,
    )
    def test_that_differs_in_what_changes_no_answer_is_the_same(
        self, spec: Spec, other: dict[str, Any]
    ) -> None:
        self._ran(spec("gsm8k", **other), "20260102-030405")

        assert self._found(spec("gsm8k")) == {"20260102-030405"}

    def test_without_predictions_is_passed_over(self, spec: Spec) -> None:
        asked = spec("gsm8k")
        self._ran(asked, "20260102-030405")
        self._ran(asked, "20260103-030405", predicted=False)

        assert self._found(asked) == {"20260102-030405"}

    @pytest.mark.parametrize("text", [None, "", "[]", "{", "models: 5", "models: [{}]"])
    def test_with_an_unreadable_configuration_is_passed_over(
        self, spec: Spec, text: str | None
    ) -> None:
        asked = spec("gsm8k")
        self._ran(asked, "20260102-030405")
        broken = self._ran(asked, "20260103-030405") / "config.yaml"
        broken.unlink()
        if text is not None:
            broken.write_text(text)

        assert self._found(asked) == {"20260102-030405"}

    def test_may_have_done_more_than_is_asked_now(self, spec: Spec) -> None:
        self._ran(spec("demo_shapes", "gsm8k", "demo_arc"), "20260102-030405")

        assert self._found(spec("gsm8k")) == {"20260102-030405"}

    def test_is_looked_for_by_cell(self, spec: Spec) -> None:
        self._ran(spec("gsm8k"), "20260102-030405")
        self._ran(spec("demo_shapes"), "20260103-030405")

        assert self._found(spec("gsm8k", "demo_shapes", "demo_arc")) == {
            "20260102-030405", "20260103-030405",
        }  # fmt: skip

    def test_of_another_configuration_of_the_same_set_is_passed_over(self, spec: Spec) -> None:
        """Both would be `gsm8k.json`."""
        few, zero = (
            {"name": name, "dataset": f"opencompass:{target}"}
            for name, target in (
                ("few", "gsm8k_gen_1d7fe4"),
                ("zero", "gsm8k_gen"),
            )
        )
        self._ran(spec(few), "20260102-030405")
        both = self._ran(spec(few, zero), "20260103-030405", predicted=False)
        self._prediction(both, plans.cells_of(spec(zero))[0]).touch()

        assert self._found(spec(few)) == {"20260102-030405"}
        assert self._found(spec(zero)) == {"20260103-030405"}

    def test_of_a_dataset_whose_name_begins_alike_is_none(self, spec: Spec) -> None:
        both = spec("MMBench_DEV_EN", "MMBench_DEV_EN_V11", mode="eval")
        folder = self._ran(both, "20260102-030405", predicted=False)
        self._prediction(folder, plans.cells_of(both)[1]).touch()

        with pytest.raises(ConfigError, match="no predictions to score") as caught:
            plans.plan(both)
        assert "org/m x MMBench_DEV_EN" in caught.value.why

    def test_of_whatever_an_endpoint_served_is_found_again(
        self, spec: Spec, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """`model: auto` becomes the served model's id when the run begins."""
        with Endpoint() as endpoint:
            model = {"name": "auto", "model": "auto", "api_base": endpoint.url}
            asked = spec("demo_shapes", model=model)
            done = runs.execute(asked, terminal=False)
            assert done.exit_code == 1  # no upstream imports here
            [cell] = plans.cells_of(asked)
            self._prediction(done.path, cell).touch()
            again = runs.execute(replace(asked, reuse=True), terminal=False)

        assert again.header["cells"][cell.id]["goes_on_from"] == done.path.name

    def test_is_what_scoring_alone_needs(self, spec: Spec) -> None:
        asked = spec("gsm8k", mode="eval")
        with pytest.raises(ConfigError) as caught:
            plans.plan(asked)
        assert caught.value.what == "no predictions to score"
        assert "org/m x gsm8k" in caught.value.why
        assert "--mode infer" in caught.value.cure

        self._ran(spec("gsm8k", mode="infer"), "20260102-030405")
        assert plans.plan(asked).earlier


class TestDryRun:
    def test_says_what_would_be_done(
        self, spec: Spec, tsv: Callable[..., Path], tmp_path: Path
    ) -> None:
        asked = spec({"name": "pets", "path": str(tsv())}, "gsm8k",
                     model={"key": "sk-canary-12345678"}, limit=3)  # fmt: skip

        text = plans.text(plans.plan(asked))
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert lines[0] == "org/m x pets"
        assert "org/m x gsm8k" in lines
        assert f"data {tmp_path / 'pets.tsv'}: there" in lines
        data = tmp_path / "cwd" / "data" / "gsm8k"
        assert f"data {data}: will be fetched from {OSS}/gsm8k.zip" in lines
        assert lines.count("samples not counted, requests not counted") == 2
        # What upstream gets: a namespace, and a configuration.
        assert "api_nproc: 32" in lines
        assert "api_base: http://h/v1/chat/completions" in lines
        assert any("import gsm8k_datasets" in line for line in lines)
        assert "canary" not in text
        assert "no environment" not in text

    def test_says_why_it_would_not_begin(
        self, spec: Spec, upstreams: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked = spec("ChemBench_gen", "demo_shapes")
        (upstreams / "envs" / "vlmeval" / envs.STATE).unlink()

        planned = plans.plan(asked)
        text = plans.text(planned)
        assert not planned.ready
        assert "no environment for vlmeval" in text
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert f"data {tmp_path / 'cwd' / 'data' / 'ChemBench4K'}: missing" in lines
        assert "shim setup vlmeval" in text

    def test_shows_the_earlier_answers_that_it_goes_on_from(self, spec: Spec) -> None:
        asked = spec("gsm8k")
        folder = TestEarlier()._ran(asked, "20260102-030405")

        planned = plans.plan(replace(asked, reuse=True))
        assert f"goes on    {folder}" in plans.text(planned)
        assert str(planned.records()[0]["earlier"]).startswith(str(folder))

    @pytest.mark.parametrize(
        ("dataset", "mode", "scorer"),
        [
            ("gsm8k", "all", "upstream's rule"),
            ("gsm8k", "infer", "none: inference only"),
            ("MMBench_TEST_EN", "all", "none: its answers are not public"),
        ],
    )
    def test_says_what_would_score(self, spec: Spec, dataset: str, mode: str, scorer: str) -> None:
        [record] = plans.plan(spec(dataset, mode=mode)).records()

        assert record["scorer"] == scorer

    def test_its_records_are_json(self, spec: Spec) -> None:
        [record] = json.loads(json.dumps(plans.plan(spec("gsm8k")).records()))

        assert (record["model"], record["dataset"], record["backend"]) == (
            "org/m", "gsm8k", "opencompass",
        )  # fmt: skip
        assert record["files"][0]["present"] is False

    def test_starts_no_run(self, spec: Spec, tmp_path: Path) -> None:
        plans.plan(spec("gsm8k", "demo_shapes"))

        assert not (tmp_path / "runs").exists()
        assert [*(tmp_path / "cwd").iterdir()] == []


def test_data_that_is_malformed_is_no_plan(spec: Spec, tsv: Callable[..., Path]) -> None:
    path = tsv(drop=["question"])

    with pytest.raises(ConfigError, match="no column `question`"):
        plans.plan(spec({"name": "pets", "path": str(path)}))


def test_cells_go_to_their_backends_in_order(spec: Spec) -> None:
    cells = plans.cells_of(spec("gsm8k", "demo_shapes", "demo_arc"))

    assert {b: [c.dataset.name for c in part] for b, part in plans.by_backend(cells).items()} == {
        "opencompass": ["gsm8k", "demo_arc"],
        "vlmeval": ["demo_shapes"],
    }
