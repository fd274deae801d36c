"""What keeps a plan from being carried out: all of it at once, and nothing that it needs not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evalshim import config, envs, plans, preflight, readiness
from evalshim.demo.endpoint import MODEL_ID, Endpoint
from evalshim.errors import SetupError
from evalshim.plans import Plan
from evalshim.preflight import Finding, Target

from .catalogues import OSS

SECRET = "sk-canary-12345678"
MODEL = {"name": "m", "api_base": "http://h/v1"}
JUDGE = {"model": "qwen", "api_base": "http://j/v1"}
Planned = Callable[..., Plan]


@pytest.fixture
def planned(upstreams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """`planned("gsm8k", model={...}, judge=...)`: a plan, both upstreams installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")

    def plan(*datasets: Any, model: dict[str, Any] | None = None, **keys: Any) -> Plan:
        raw = {"datasets": [*datasets] or ["demo_arc"], "work_dir": str(tmp_path / "runs"), **keys}
        return plans.plan(config.parse({"models": [{**MODEL, **(model or {})}], **raw}))

    return plan


class Asked:
    """Stands for the preflight: remembers whom it was to ask, and finds what a test says."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.needed = 0
        self.times = 0
        self.found: dict[str, Finding] = {}

    def __call__(self, targets: Sequence[Target], work_dir: Path, needed: int) -> list[Finding]:
        self.targets, self.needed, self.times = [*targets], needed, self.times + 1
        found = [self.found.get(t.who, Finding(t.who, detail="serves it")) for t in targets]
        return [*found, self.found.get("disk", Finding("disk", detail="1.0 GB free"))]

    @property
    def who(self) -> list[str]:
        return [target.who for target in self.targets]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stub = Asked()
    monkeypatch.setattr(preflight, "look", stub)
    return stub


class TestProblems:
    def test_are_named_all_at_once(self, planned: Planned, asked: Asked, upstreams: Path) -> None:
        (upstreams / "envs" / "vlmeval" / envs.STATE).unlink()
        asked.found = {
            "model m": Finding("model m at http://h/v1", problem="refused", cure="start it"),
            "judge qwen": Finding("judge qwen at http://j/v1", problem="no key", cure="start it"),
            "disk": Finding("disk of runs", problem="1 MB free"),
        }
        looked = readiness.look(planned("ChemBench_gen", "demo_shapes", judge=JUDGE))

        with pytest.raises(SetupError) as caught:
            looked.require()
        assert caught.value.exit_code == 3
        assert caught.value.what == "5 things keep the run from starting"
        lines = caught.value.why.splitlines()
        assert lines[0].startswith("1. no environment for vlmeval: ")
        assert lines[1].startswith("2. no data for ChemBench_gen: ")
        assert lines[2:] == [
            "3. model m at http://h/v1: refused", "4. judge qwen at http://j/v1: no key",
            "5. disk of runs: 1 MB free",
        ]  # fmt: skip
        cures = caught.value.cure.splitlines()
        assert [line.partition(".")[0] for line in cures] == ["1", "2", "3", "4"]
        assert cures[0] == "1. shim setup vlmeval"

    def test_that_are_one_are_said_as_one(self, planned: Planned, asked: Asked) -> None:
        finding = Finding("model m at http://h/v1", problem="refused", cure="start it")
        asked.found = {"model m": finding}

        with pytest.raises(SetupError) as caught:
            readiness.look(planned()).require()
        error = caught.value
        assert (error.what, error.why, error.cure) == (finding.what, "refused", "start it")

    def test_that_are_none_leave_the_plan(self, planned: Planned, asked: Asked) -> None:
        plan = planned("demo_arc", judge=JUDGE)
        looked = readiness.look(plan)

        assert looked.require() == plan
        assert "FAIL" not in str(looked)
        assert [record["problem"] for record in looked.records()] == [""] * len(looked.findings)
        assert asked.times == 1

    def test_are_marked_for_a_person(self) -> None:
        findings = (
            Finding("a", detail="well", notice="it was busy"), Finding("b"),
            Finding("c", problem="broken", cure="mend it"),
        )  # fmt: skip
        looked = readiness.Readiness(Plan(None, (), {}, {}, {}), findings)  # type: ignore[arg-type]

        assert str(looked).splitlines() == [
            "ok    a: well, it was busy", "ok    b", "FAIL  c: broken", "      mend: mend it",
        ]  # fmt: skip
        assert looked.records() == [asdict(finding) for finding in findings]

    def test_of_one_file_are_said_once_whatever_the_models(
        self, planned: Planned, asked: Asked
    ) -> None:
        looked = readiness.look(
            planned("ChemBench_gen", models=[{**MODEL, "name": name} for name in "ab"])
        )

        assert [f.what.partition(": ")[0] for f in looked.problems] == ["no data for ChemBench_gen"]


class TestWhoIsAsked:
    def test_is_who_will_be(self, planned: Planned, asked: Asked, tmp_path: Path) -> None:
        (tmp_path / "demo_arc.json").write_text('{"0": {"prediction": "A"}}')
        given = {"predictions": str(tmp_path / "demo_arc.json"), "mode": "eval"}
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({}, ["model m"]),
            ({"judge": JUDGE}, ["model m", "judge qwen"]),
            ({"judge": JUDGE, "mode": "infer"}, ["model m"]),
            ({"judge": JUDGE, **given}, ["judge qwen"]),
            (given, []),
            ({"judge": "gpt-4o"}, ["model m", "judge gpt-4o"]),
            ({"judge": "qwen-7b"}, ["model m"]),  # upstream knows where it is
        ]

        for keys, who in cases:
            readiness.look(planned(**keys))
            assert asked.who == who

    def test_is_nobody_where_that_is_asked_for(self, planned: Planned, asked: Asked) -> None:
        looked = readiness.look(planned(judge=JUDGE), endpoints=False)

        assert asked.times == 0
        assert all(finding.what.startswith("data for ") for finding in looked.findings)

    def test_each_judge_of_a_dataset_once(self, planned: Planned, asked: Asked) -> None:
        own = {"name": "demo_gsm8k", "judge": {**JUDGE, "model": "other"}}
        same = {"name": "gsm8k", "judge": JUDGE}
        readiness.look(planned("demo_arc", own, same, judge=JUDGE))

        assert asked.who == ["model m", "judge qwen", "judge other"]

    def test_with_pictures_where_a_dataset_has_them(self, planned: Planned, asked: Asked) -> None:
        pictures = {}
        for datasets in (("demo_arc",), ("demo_shapes",), ("demo_arc", "demo_shapes")):
            readiness.look(planned(*datasets, judge=JUDGE))
            pictures[datasets] = [target.pictures for target in asked.targets]

        assert [*pictures.values()] == [[False, False], [True, False], [True, False]]

    def test_with_pictures_where_a_file_of_the_users_has_them(
        self, planned: Planned, asked: Asked, tsv: Any
    ) -> None:
        for drop in ((), ("image",)):
            readiness.look(planned({"name": "pets", "path": str(tsv(drop=drop))}))
            assert [target.pictures for target in asked.targets] == [not drop]

    def test_as_the_run_will(
        self, planned: Planned, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", SECRET)
        judge = {**JUDGE, "key_env": "MY_KEY"}
        readiness.look(planned(model={"is_chat": False, "model": "id", "key": "a"}, judge=judge))

        model, grader = asked.targets
        assert (model.model, model.key, model.key_from, model.is_chat) == ("id", "a", "", False)
        assert (grader.api_base, grader.key, grader.key_from) == ("http://j/v1", SECRET, "MY_KEY")
        assert SECRET not in repr(grader)

    def test_of_upstreams_own_judges_where_upstream_looks(
        self, planned: Planned, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        readiness.look(planned(judge="gpt-4o"))
        grader = asked.targets[1]
        assert grader.api_base == "https://api.openai.com/v1"
        assert (grader.key, grader.key_from) == (SECRET, "OPENAI_API_KEY")

        monkeypatch.setenv("OPENAI_API_BASE", "http://k/v1/chat/completions")
        readiness.look(planned(judge="gpt-4o"))
        assert asked.targets[1].api_base == "http://k/v1"


class TestAuto:
    def test_becomes_what_is_served(self, planned: Planned, asked: Asked, tmp_path: Path) -> None:
        asked.found = {
            "model m": Finding("model m", model="served-id"),
            "judge auto": Finding("judge auto", model="served-judge"),
        }
        auto = {**JUDGE, "model": "auto"}
        plan = planned("demo_arc", {"name": "gsm8k", "judge": {**auto, "nproc": 2}},
                       model={"model": "auto"}, judge=auto)  # fmt: skip
        found = readiness.look(plan, endpoints=False).plan

        assert asked.who == ["model m", "judge auto", "judge auto"]
        assert [m.model for m in found.spec.models] == ["served-id"]
        assert {cell.model.model for cell in found.cells} == {"served-id"}
        assert {cell.model.name for cell in found.cells} == {"m"}
        judges = [found.spec.judge_of(cell.dataset) for cell in found.cells]
        assert [(j.model, j.nproc) for j in judges] == [("served-judge", None), ("served-judge", 2)]
        assert [cell.dataset for cell in found.cells] == [*found.spec.datasets]
        assert found.needs == plan.needs

    def test_asks_the_others_only_where_all_are_to_be(self, planned: Planned, asked: Asked) -> None:
        plan = planned(judge={**JUDGE, "model": "auto"})
        readiness.look(plan, endpoints=False)
        assert asked.who == ["judge auto"]

        readiness.look(plan)
        assert asked.who == ["model m", "judge auto"]

    def test_of_a_real_endpoint(self, planned: Planned) -> None:
        with Endpoint() as endpoint:
            at = {"api_base": endpoint.url, "model": "auto"}
            looked = readiness.look(planned("demo_shapes", model=at, judge=at))

        assert looked.problems == []
        [cell] = looked.require().cells
        assert (cell.model.model, looked.plan.spec.judge.model) == (MODEL_ID, MODEL_ID)
        shown = str(looked)
        assert f"ok    model m at {endpoint.url}: serves {MODEL_ID}, takes pictures" in shown

    def test_finds_its_earlier_answers_again(self, planned: Planned, asked: Asked) -> None:
        """What was predicted stands under the id that was served."""
        asked.found = {"model m": Finding("model m", model="served-id")}
        done = readiness.look(planned(model={"model": "auto"})).plan
        folder = done.spec.work_dir / "20260102-030405"
        label = folder / "upstream/opencompass/20260102_030406/predictions/m"
        label.mkdir(parents=True)
        (label / "ARC-c.json").touch()
        owners = folder / "upstream" / "opencompass" / "owners.json"
        owners.write_text(json.dumps({"ARC-c": "demo_arc"}))
        (folder / "run.json").write_text("{}")
        (folder / "config.yaml").write_text(str(config.plain(done.spec)))

        served = planned(model={"model": "served-id"}, mode="eval")
        assert [*served.earlier] == [done.cells[0].id]
        again = readiness.look(planned(model={"model": "auto"}, mode="eval"))
        assert plans.going_on(again.require()).earlier == served.earlier


def test_room_is_wanted_for_the_pictures_of_vlmevalkits_data(
    planned: Planned, asked: Asked, tsv: Any
) -> None:
    path = tsv()
    both = [{**MODEL, "name": name} for name in "ab"]
    readiness.look(planned({"name": "pets", "path": str(path)}, "demo_arc", models=both))

    assert asked.needed == 2 * path.stat().st_size


def test_data_says_where_it_is_or_comes_from(planned: Planned, asked: Asked) -> None:
    plan = planned("demo_arc", "gsm8k")
    found = {f.what.partition(": ")[0]: f for f in readiness.look(plan).findings}

    assert found["data for demo_arc"].detail == "there"
    assert found["data for gsm8k"].detail == f"will be fetched from {OSS}/gsm8k.zip"
    # Where a fetch is in vain, that is a problem.
    cut = replace(plan.needs["m__gsm8k"][0], problem="it cannot be reached", cure="a proxy")
    looked = readiness.look(replace(plan, needs={**plan.needs, "m__gsm8k": [cut]}))
    [problem] = looked.problems
    assert problem.problem.endswith("it cannot be reached")
    assert problem.cure == "a proxy"
