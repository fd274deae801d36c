"""A command line becomes what it says; a plan holds every model on every dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalshim import runs
from evalshim.errors import ConfigError
from evalshim.spec import ModelSpec, RunSpec


def test_flags_alone_are_a_configuration() -> None:
    spec = runs.specify(
        None, model="org/m", api_base="http://h/v1", data=["gsm8k"], backend="opencompass",
        limit="[2:5]", concurrency="7", fail_on="0.5", work_dir="out",
    )  # fmt: skip

    assert spec.models == (ModelSpec("org/m", "http://h/v1", "org/m"),)
    assert [d.name for d in spec.datasets] == ["gsm8k"]
    assert (spec.limit, spec.concurrency, spec.fail_on) == ("[2:5]", 7, 0.5)
    assert spec.work_dir == Path.cwd() / "out"


def test_set_reaches_into_what_the_flags_made() -> None:
    spec = runs.specify(
        None, model="m", api_base="http://h/v1", data=["gsm8k"],
        assignments=["models.0.seed=0", "models.0.key=sk-1", "limit=3"],
    )  # fmt: skip

    assert (spec.models[0].seed, spec.models[0].key, spec.limit) == (0, "sk-1", 3)


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text(
        "models: [{name: m, api_base: http://old/v1, seed: 5}]\ndatasets: [gsm8k]\nlimit: 9\n"
    )

    spec = runs.specify(path, api_base="http://new/v1", limit="2")

    assert (spec.models[0].api_base, spec.models[0].seed, spec.limit) == ("http://new/v1", 5, 2)


def test_a_backend_without_names_to_look_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="--backend without --data"):
        runs.specify(None, model="m", api_base="http://h/v1", backend="vlmeval")


def test_a_plan_has_every_model_on_every_dataset_under_names_of_their_own() -> None:
    models = tuple(ModelSpec(name, "http://h/v1", name) for name in ("a", "a__b"))
    spec = runs.specify(None, model="m", api_base="http://h/v1", data=["gsm8k", "demo_arc"])
    datasets = (*spec.datasets, spec.datasets[0].__class__("b__gsm8k", "opencompass", "x:y"))

    cells = runs.plan(RunSpec(models, datasets))

    assert len(cells) == 6
    assert len({cell.id for cell in cells}) == 6
    assert [(c.model.name, c.dataset.name) for c in cells[:2]] == [
        ("a", "gsm8k"),
        ("a", "demo_arc"),
    ]
