"""evalshim beside upstream's own entry: same data, same endpoint, same settings."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from evalshim.demo.endpoint import Endpoint

from .conftest import DEMO_DATA, bodies, shim
from .own_data import tsv

LIMIT = 20


def upstream(argv: list[object], cwd: Path, **env: str) -> None:
    """Run an upstream's own command."""
    done = subprocess.run(
        [*map(str, argv)], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


def vlmevalkit(
    python: Path, folder: Path, dataset: str, url: str, *flags: object, **arguments: Any
) -> None:
    """Run VLMEvalKit's own command over `LMUData/<dataset>.tsv` in `folder`; it writes into
    `direct` there. `arguments` are the model's."""
    served = {
        "class": "CustomAPIModel",
        "model": "evalshim-demo",
        "api_base": f"{url}/chat/completions",
        "key": "EMPTY",
        "temperature": 0,
        **arguments,
    }
    data = {dataset: {"class": "CustomMCQDataset", "dataset": dataset}}
    path = folder / "direct.json"
    path.write_text(json.dumps({"model": {"m": served}, "data": data}))
    upstream(
        [python, "-m", "vlmeval", "--config", path, "--judge", "exact_matching",
         "--work-dir", folder / "direct", *flags],
        folder, LMUData=str(folder / "LMUData"), PRED_FORMAT="tsv",
    )  # fmt: skip


def test_vlmevalkit(
    tmp_path: Path,
    environments: dict[str, Path],
    endpoint: Endpoint,
    asked: list[dict[str, Any]],
    config: Callable[..., Path],
) -> None:
    data = tmp_path / "LMUData"
    data.mkdir()
    shutil.copy(DEMO_DATA / "shapes.tsv", data / "shapes.tsv")
    vlmevalkit(environments["vlmeval"], tmp_path, "shapes", endpoint.url, "--limit", LIMIT)
    theirs = bodies(asked)
    asked.clear()

    path = config({"name": "shapes", "path": str(DEMO_DATA / "shapes.tsv")}, limit=LIMIT)
    done = shim("run", path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    assert len(theirs) == LIMIT
    assert bodies(asked) == theirs
    [accuracy] = csv.DictReader((tmp_path / "direct" / "m" / "m_shapes_acc.csv").open())
    accuracy.pop("split")
    ours = {r["subset"].replace("overall", "Overall"): r for r in json.loads(done.stdout)["rows"]}
    assert {subset: row["value"] for subset, row in ours.items()} == {
        subset: float(value) for subset, value in accuracy.items()
    }
    assert {row["unit"] for row in ours.values()} == {"fraction"}
    predictions = pd.read_csv(tmp_path / "direct" / "m" / "m_shapes.tsv", sep="\t", dtype=str)
    samples = _samples(tmp_path / "outputs" / "latest")
    assert samples["shapes"] == dict(
        zip(predictions["index"], predictions["prediction"], strict=True)
    )


def _pictures() -> dict[str, bytes]:
    """Pictures by kind: what their formats keep beside the pixels must not come through."""
    noise = Image.frombytes("RGB", (150, 120), random.Random(3).randbytes(150 * 120 * 3))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    clear = noise.convert("RGBA")
    clear.putalpha(noise.convert("L"))

    def saved(picture: Image.Image, form: str, **how: Any) -> bytes:
        out = io.BytesIO()
        picture.save(out, form, **how)
        return out.getvalue()

    return {
        "comment": saved(noise, "JPEG", comment=b"not to be sent", quality=85),
        "exif": saved(noise, "JPEG", exif=turned, dpi=(300, 300)),
        "progressive": saved(noise, "JPEG", progressive=True, subsampling=0),
        "gray": saved(noise.convert("L"), "JPEG"),
        "png": saved(noise, "PNG", dpi=(72, 72)),
        "alpha": saved(clear, "PNG"),
        "gray and alpha": saved(clear.convert("LA"), "PNG"),
        "palette": saved(noise.convert("P"), "PNG", transparency=3),
        "bits": saved(noise.convert("1"), "PNG"),
        "webp": saved(noise, "WEBP"),
        "small": saved(noise.resize((20, 30)), "JPEG"),
        "wide": saved(noise.resize((900, 60)), "PNG"),
    }


@pytest.mark.parametrize("img_size", [-1, 64])
def test_pictures(
    tmp_path: Path,
    environments: dict[str, Path],
    endpoint: Endpoint,
    asked: list[dict[str, Any]],
    config: Callable[..., Path],
    img_size: int,
) -> None:
    """Whether they are read back from the files that upstream unpacks, or sent before those are
    written; the files are the same."""
    pictures = _pictures()
    data = tmp_path / "LMUData"
    rows = [[i, f"What is {kind}?", "this", "that", "A", base64.b64encode(picture).decode()]
            for i, (kind, picture) in enumerate(pictures.items())]  # fmt: skip
    path = tsv(data / "kinds.tsv", ["index", "question", "A", "B", "answer", "image"], rows)
    vlmevalkit(environments["vlmeval"], tmp_path, "kinds", endpoint.url, img_size=img_size)
    theirs = bodies(asked)
    asked.clear()
    given = {"name": "kinds", "path": str(path)}
    written = config(given, model={"upstream": {"img_size": img_size}}, mode="infer")

    done = shim("run", written, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(theirs) == len(pictures)
    assert bodies(asked) == theirs
    ours = _files(tmp_path / "outputs/latest/upstream/vlmeval/LMUData/images/kinds")
    assert ours == _files(data / "images" / "kinds")
    assert len(ours) == len(pictures)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


_DIRECT = """
from mmengine.config import read_base
with read_base():
    from opencompass.configs.datasets.gsm8k.gsm8k_gen import gsm8k_datasets
    from opencompass.configs.datasets.ARC_c.ARC_c_gen import ARC_c_datasets
from opencompass.models import OpenAISDK
for d in gsm8k_datasets + ARC_c_datasets:
    d['reader_cfg']['test_range'] = '[:{limit}]'
datasets = [*gsm8k_datasets, *ARC_c_datasets]
models = [dict(
    type=OpenAISDK, abbr='m', path='evalshim-demo', key='ENV', openai_api_base={url!r},
    tokenizer_path={tokenizer!r}, max_seq_len=10**6, max_out_len=2048, batch_size=32,
    max_workers=32, query_per_second=100, temperature=0,
    meta_template=dict(
        round=[dict(role='HUMAN', api_role='HUMAN'),
               dict(role='BOT', api_role='BOT', generate=True)],
        reserved_roles=[dict(role='SYSTEM', api_role='SYSTEM')]))]
"""

_TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(sys.argv[1])
"""


def test_opencompass(
    tmp_path: Path,
    environments: dict[str, Path],
    endpoint: Endpoint,
    asked: list[dict[str, Any]],
    config: Callable[..., Path],
) -> None:
    python = environments["opencompass"]
    cache = _compass_data(tmp_path)
    # Upstream's model class does not start without a tokenizer.
    upstream([python, "-c", _TOKENIZER, tmp_path / "tokenizer"], tmp_path)
    direct = tmp_path / "direct.py"
    direct.write_text(
        _DIRECT.format(limit=LIMIT, url=endpoint.url, tokenizer=str(tmp_path / "tokenizer"))
    )
    upstream(
        [python.with_name("opencompass"), direct, "--debug", "--work-dir", tmp_path / "direct"],
        tmp_path, OPENAI_API_KEY="EMPTY", COMPASS_DATA_CACHE=str(cache),
    )  # fmt: skip
    theirs = bodies(asked)
    asked.clear()

    path = config("gsm8k", "ARC_c", limit=LIMIT)
    done = shim("run", path, "--json", cwd=tmp_path, COMPASS_DATA_CACHE=str(cache))
    assert done.returncode == 0, done.stderr

    assert len(theirs) == 2 * LIMIT
    assert bodies(asked) == theirs
    [written] = (tmp_path / "direct").glob("2*")
    samples = _samples(tmp_path / "outputs" / "latest")
    ours = {
        (r["dataset"], r["subset"], r["metric"]): r["value"]
        for r in json.loads(done.stdout)["rows"]
    }
    for dataset, abbr in (("gsm8k", "gsm8k"), ("ARC_c", "ARC-c")):
        result = json.loads((written / "results" / "m" / f"{abbr}.json").read_text())
        result.pop("details")
        for metric, value in result.items():
            assert ours.pop((dataset, "overall", metric)) == value
        predictions = json.loads((written / "predictions" / "m" / f"{abbr}.json").read_text())
        assert samples[dataset] == {i: p["prediction"] for i, p in predictions.items()}
    assert not ours


def _compass_data(folder: Path) -> Path:
    """The demo's sets where OpenCompass looks for its own."""
    cache = folder / "cache"
    shutil.copytree(DEMO_DATA / "gsm8k", cache / "data" / "gsm8k")
    shutil.copytree(DEMO_DATA / "ARC-c", cache / "data" / "ARC" / "ARC-c")
    return cache


def _samples(run: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in (run / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        found.setdefault(sample["dataset"], {})[sample["index"]] = sample["prediction"]
    return found
