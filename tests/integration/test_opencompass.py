"""OpenCompass's own: sets named in our own configuration, and what a missing file does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalshim import load_run

from .conftest import rows, shim
from .opencompass_data import write


def test_a_missing_data_file_is_named_before_anything_is_asked(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    # Nothing knows where C3's folder could be fetched from.
    done = shim("run", config("C3", "demo_arc", limit=2), "--json", cwd=tmp_path)

    assert done.returncode == 3
    assert f"no data for C3: {tmp_path / 'data' / 'CLUE' / 'C3'}" in done.stderr
    assert "COMPASS_DATA_CACHE" in done.stderr
    assert not asked and not (tmp_path / "outputs").exists()


def test_two_models_and_two_keys_in_one_run(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    path = config("demo_arc", limit=2, model={"key_env": "FIRST"})
    spec = json.loads(path.read_text())
    second = {**spec["models"][0], "name": "second", "key_env": "SECOND"}
    path.write_text(json.dumps({**spec, "models": [spec["models"][0], second]}))

    done = shim("run", path, "--json", cwd=tmp_path, FIRST="key-of-first", SECOND="key-of-second")

    assert done.returncode == 0, done.stderr
    assert [r["model"] for r in rows(done)] == ["m", "second"]
    sent = [{k.lower(): v for k, v in r["headers"].items()}["authorization"] for r in asked]
    assert sorted(sent) == ["Bearer key-of-first"] * 2 + ["Bearer key-of-second"] * 2


def test_two_configurations_of_one_set_in_one_run(
    tmp_path: Path, asked: list[dict[str, Any]], config: Callable[..., Path]
) -> None:
    """Upstream calls both gsm8k; each cell has predictions and numbers of its own."""
    write("gsm8k", tmp_path)
    names = ["gsm8k", "gsm8k_0shot_v2_gen_17d799"]

    done = shim("run", config(*names, "demo_arc", limit=2), "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    primary = [(r["dataset"], r["n"]) for r in rows(done) if r["is_primary"]]
    assert primary == [(name, 2) for name in [*names, "demo_arc"]]
    assert len(asked) == 6
    samples = load_run(tmp_path / "outputs" / "latest").samples
    boxed = ["\\boxed" in question for question in samples["question"]]
    assert boxed == [name == names[1] for name in samples["dataset"]]
