"""Readers of what others write, given what nobody would: they say what is wrong, or read it.

Valid documents and files, with random changes. Whatever a reader raises but an EvalshimError
fails. EVALSHIM_FUZZ is how many inputs there are in all; `make fuzz` takes many.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import random
import string
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalshim import (
    compare,
    comparison_text,
    config,
    data_files,
    dialects,
    documents,
    earlier,
    evalscope_task,
    flags,
    judge_entries,
    process,
    results,
)
from evalshim.adapters import custom_data, predictions, tables
from evalshim.config import RUN_KEYS
from evalshim.dataset_entries import DATASET_KEYS
from evalshim.errors import EvalshimError
from evalshim.judge_entries import JUDGE_KEYS
from evalshim.model_entries import MODEL_KEYS
from evalshim.spec import ROW_COLUMNS

TOTAL = int(os.environ.get("EVALSHIM_FUZZ", 100_000))
BATCH = 25  # inputs of one example: hypothesis takes longer for one than a reader does

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, float("inf"), float("nan"), 2**63, 10**400, "", " ",
    "x" * 300, "\0", "\ud800", "a/b", "../..", "~nobody/x", "http://[", "http://h:99999", "$", "=1",
    "[1:2]", "[9:1]", "${HOME}", "${", "{}", "[", "null", "\u2028", "\x1b[2J", "é" * 90, ".", "..",
    "latest", "auto", "exact_matching", "gsm8k", "opencompass:", ":", "MMBench", "a" * 5000,
    [], {}, [[]], [{}], {"": None}, {1: 2}, {None: 0}, {"a": {"b": {}}}, b"bytes", (), ("a",),
    date(2026, 1, 2), {"name": []}, ["gsm8k", "gsm8k"], Path("x"),
)  # fmt: skip
KEYS = sorted(
    {*RUN_KEYS, *MODEL_KEYS, *DATASET_KEYS, *JUDGE_KEYS, *ROW_COLUMNS}
    | {"eval_backend", "eval_config", "model_args", "api_url", "api_key", "local_path", "data",
       "dataset_args", "subset_list", "judge_model_args", "model_id", "generation_config", "type",
       "work_dir", "nproc", "reuse", "class", "limit", "path", "vlmeval", "opencompass"}
)  # fmt: skip
CHARACTERS = string.printable + "\0\x1b\u2028é狗\ud800\ufeff"

AT = "http://127.0.0.1:8000/v1"
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {
        "models": [
            {"name": "m", "api_base": AT, "model": "x/y", "key": "sk-0123456789", "temperature": 0,
             "extra_body": {"a": {"api_key": "sk-0123456789"}}, "headers": {"X-A": "b"},
             "think": "strip", "upstream": {"vlmeval": {"retry": 3}}},
            {"name": "n", "api_base": AT, "verify": False, "is_chat": False},
        ],
        "datasets": ["gsm8k", "opencompass:ARC_c", {"name": "MMStar", "judge": "exact_matching"}],
        "judge": {"model": "j", "api_base": AT, "key": "EMPTY", "nproc": 2, "fallback": "allow"},
        "limit": 5, "mode": "all", "fail_on": 0.5, "concurrency": 3, "upstream": {"retry": 2},
    },
    {
        "eval_backend": "VLMEvalKit",
        "eval_config": {
            "model": [{"type": "q", "name": "CustomAPIModel", "api_base": AT, "key": "EMPTY",
                       "temperature": 0.0, "img_size": -1, "video_llm": False}],
            "data": ["MMBench_DEV_EN", "MME"], "mode": "all", "limit": 3, "reuse": False,
            "nproc": 4, "judge": "exact_matching", "work_dir": "outputs",
        },
    },
    {
        "eval_backend": "OpenCompass",
        "eval_config": {
            "datasets": ["gsm8k", "ARC_c"],
            "models": [{"path": "m", "openai_api_base": AT + "/chat/completions", "is_chat": True,
                        "batch_size": 4, "run_cfg": {"num_gpus": 0}, "temperature": 0.0}],
            "limit": "[0:3]", "time_str": "20260101_000000",
        },
    },
    {
        "model": {"q": {"class": "GPT4V", "model": "gpt-4o", "temperature": 0}},
        "data": {"MME": {"class": "ImageYORNDataset", "dataset": "MME"}},
    },
    {
        "model": "q", "api_url": AT, "api_key": "EMPTY", "datasets": ["general_vqa"],
        "dataset_args": {"general_vqa": {"local_path": "data", "subset_list": ["a"]}},
        "eval_type": "openai_api", "generation_config": {"temperature": 0}, "limit": 2,
    },
)  # fmt: skip
ROW = {"run_id": "r", "backend": "vlmeval", "backend_version": "1", "model": "m", "dataset": "d",
       "metric": "acc", "value": 0.5, "unit": "fraction", "score": 0.5, "is_primary": True,
       "n": 2, "status": "scored"}  # fmt: skip
HEADER = {
    "schema_version": 1,
    "exit_code": 0,
    "status": "finished",
    "notices": [],
    "cells": {"m__d": {"model": "m", "dataset": "d", "notes": ["cut"], "judge": None}},
}
SAMPLE = {"run_id": "r", "model": "m", "dataset": "d", "index": "0", "prediction": "A"}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)


def _tsv(columns: list[str], *rows: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()


CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]},
]  # fmt: skip
FILES: tuple[tuple[str, str], ...] = (
    ("mcq.tsv", _tsv(["index", "question", "A", "B", "answer", "image"],
                     [0, "Which?", "a", "b", "A", PIXEL], [1, "And?", "c", "d", "B", PIXEL])),
    ("vqa.tsv", _tsv(["index", "question", "answer", "image_path"],
                     [0, "Which?", "['5', 'five']", "x.png"], [1, "And?", "c", "['x.png']"])),
    ("vqa.jsonl", "".join(json.dumps({"messages": CHAT, "answer": a}) + "\n" for a in "ab")),
    ("vqa2.tsv", _tsv(["messages", "answer"], [json.dumps(CHAT), "a"])),
    ("vmcq.jsonl", json.dumps({"question": "Which <image 1>?", "options": ["a", "b"],
                               "answer": "A", "image_1": f"data:image/png;base64,{PIXEL}"}) + "\n"),
    ("oc.csv", "question,A,B,answer\nWhich?,a,b,A\n"),
    ("oc.jsonl", json.dumps({"question": "Which?", "answer": "a"}) + "\n"),
)  # fmt: skip
PREDICTED: tuple[tuple[str, str], ...] = (
    ("p.tsv", _tsv(["index", "prediction"], [0, "A"], [1, "=B"])),
    ("p.csv", "index,prediction\n0,A\n1,B\n"),
    ("p.json", json.dumps([{"index": 0, "prediction": "A"}, {"index": "1", "prediction": "B"}])),
    ("q.json", json.dumps({"0": {"prediction": "A", "gold": "B"}, "1": {"prediction": "B"}})),
    ("p.jsonl", "".join(json.dumps({"index": i, "prediction": "A"}) + "\n" for i in range(3))),
)


# The changes.


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each item of a value, as the container and the key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


def _changed(value: Any, random: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        places = list(_places(value)) if isinstance(value, (dict, list)) else []
        if not places:
            return random.choice(JUNK)
        container, key = random.choice(places)
        what = random.randrange(6)
        if what == 0:
            del container[key]
        elif what == 1 and isinstance(container, dict):
            container[random.choice(KEYS)] = random.choice(JUNK)
        elif what == 2 and isinstance(container, dict):
            container[random.choice(KEYS)] = container.pop(key)
        elif what == 3:
            other, place = random.choice(places)
            with_item = other[place] if _has(other, place) else None
            container[key] = copy.deepcopy(with_item)
        elif what == 4 and isinstance(container[key], str):
            container[key] = _misspelled(container[key], random)
        else:
            container[key] = copy.deepcopy(random.choice(JUNK))
    return value


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def _misspelled(text: str, random: random.Random) -> str:
    for _ in range(random.choice((1, 1, 2, 5))):
        at, end = sorted((random.randrange(len(text) + 1), random.randrange(len(text) + 1)))
        put = "".join(random.choices(CHARACTERS, k=random.choice((0, 1, 1, 3))))
        what = random.randrange(4)
        if what == 0:
            text = text[:at] + put + text[at:]
        elif what == 1:
            text = text[:at] + put + text[at + 1 :]
        elif what == 2:
            text = text[:at] + text[min(end, at + 9) :]
        else:
            text = text[:at] + text[at : at + 40] * 2 + text[at + 40 :]
    return text


# The readers: each makes an input of a random state and reads it.


def _yaml(random: random.Random, folder: Path) -> None:
    documents.parse(_misspelled(random.choice(_YAML), random), "it")


def _json(random: random.Random, folder: Path) -> None:
    documents.parse_json(_misspelled(random.choice(_JSON), random), "it")


_YAML = [yaml.safe_dump(one, sort_keys=False) for one in CONFIGURATIONS]
_YAML.append("a: &a {b: !!int 1}\nc: {<<: *a, d: 2026-01-02T03:04:05}\ne: |\n  text\n...\n")
_JSON = [json.dumps(one) for one in CONFIGURATIONS]


def _configuration(random: random.Random, folder: Path) -> None:
    raw = _changed(random.choice(CONFIGURATIONS), random)
    if not isinstance(raw, dict):
        return
    ours, words = dialects.translate(raw, config.load)
    spec = config.parse(ours, beside=folder, words=words)
    yaml.safe_dump(config.plain(spec))


def _assignment(random: random.Random, folder: Path) -> None:
    names = ("models.0.name=x", "limit=[1:2]", "judge.model=j", "datasets.9=a", "a.b.c={d: 1}")
    word = _misspelled(random.choice(names), random)
    config.override(CONFIGURATIONS[0], [word])


def _flags(random: random.Random, folder: Path) -> None:
    words = ("--data", "MME", "--limit", "3", "--retry=2", "--reuse", "latest", "--", "-r",
             "--judge-args", "{}", "eval.yaml", "--upstream", "x=1", "--model", "-1")  # fmt: skip
    given = [w if random.random() < 0.7 else _misspelled(w, random)
             for w in random.choices(words, k=random.randrange(8))]  # fmt: skip
    ours = ["--data", "--limit", "--model", "--reuse", "--upstream", "--json"]
    kept, _ = flags.split(given, ours, ["--json"], ("vlmeval", "opencompass"))
    flags.assignments([word for word in kept if not word.startswith("-")])


def _judge(random: random.Random, folder: Path) -> None:
    given = _changed({"judge": CONFIGURATIONS[0]["judge"]}, random)
    judge = given.get("judge") if isinstance(given, dict) else given
    judge = judge_entries.with_arguments(judge, {"model": random.choice((None, "j"))})
    judge_entries.plain_judge(judge_entries.judge_entry(judge, "judge"))


def _task(random: random.Random, folder: Path) -> None:
    texts = {"dataset_args": json.dumps(CONFIGURATIONS[4]["dataset_args"]), "limit": "3",
             "generation_config": '{"temperature": 0}', "judge_model_args": '{"model_id": "j"}',
             "model": "q", "api_url": AT, "eval_type": "openai_api"}  # fmt: skip
    options: dict[str, Any] = {
        key: text if random.random() < 0.6 else _misspelled(text, random)
        for key, text in texts.items()
    }
    task = evalscope_task.of_flags({**options, "datasets": ("general_vqa",), "more": ()})
    ours, words = dialects.translate(_changed(task, random), config.load)
    config.parse(ours, beside=folder, words=words)


def _data(random: random.Random, folder: Path) -> None:
    name, text = random.choice(FILES)
    path = _written(folder, name, text, random)
    form = random.choice((None, None, *custom_data.FORMATS))
    data_files.text(data_files.inspect(path, form))


def _checked(random: random.Random, folder: Path) -> None:
    name, text = random.choice(FILES)
    path = _written(folder, name, text, random)
    custom_data.check(path, custom_data.recognise(path), random.choice((None, 1, "[0:9]", 0.5)))


def _columns(random: random.Random, folder: Path) -> None:
    name, text = random.choice(FILES)
    tables.check_form(_written(folder, name, text, random))


def _predicted(random: random.Random, folder: Path) -> None:
    name, text = random.choice(PREDICTED)
    predictions.read(_written(folder, name, text, random))


def _written(folder: Path, name: str, text: str, random: random.Random) -> Path:
    path = folder / name
    data = _misspelled(text, random).encode(errors="surrogatepass")
    if random.random() < 0.2:
        at = random.randrange(len(data) + 1)
        data = data[:at] + random.randbytes(random.randrange(4)) + data[at:]
    path.write_bytes(data)
    return path


def _run(random: random.Random, folder: Path) -> None:
    envelope = {"schema_version": 1, "run": HEADER, "rows": [ROW, ROW]}
    text = json.dumps(_changed(envelope, random), default=str)
    lines = json.dumps(SAMPLE) + "\n"
    if random.random() < 0.3:
        text, lines = _misspelled(text, random), _misspelled(lines, random)
    for name, what in (("results.json", text), ("samples.jsonl", lines)):
        (folder / name).write_bytes(what.encode(errors="surrogatepass"))
    result = results.load(folder)
    for form in ("table", "csv", "md", "json"):
        results.render(result, form)
    _ = result.exit_code, result.notes
    if random.random() < 0.1:
        _ = result.samples, result._repr_html_()


def _compared(random: random.Random, folder: Path) -> None:
    for name in ("first", "second"):
        header = _changed(HEADER, random)
        (folder / name).mkdir(exist_ok=True)
        envelope = {"schema_version": 1, "run": header, "rows": [_changed(ROW, random), ROW]}
        for file, what in (("results.json", envelope), ("run.json", header)):
            (folder / name / file).write_text(json.dumps(what, default=str))
        sample = json.dumps(_changed(SAMPLE, random), default=str)
        (folder / name / "samples.jsonl").write_text(sample + "\n")
    comparison_text.text(compare.compare(folder / "first", folder / "second"))


def _converted(random: random.Random, folder: Path) -> None:
    name, text = random.choice(FILES)
    data_files.convert(_written(folder, name, text, random), folder / "out.tsv")


def _identities(random: random.Random, folder: Path) -> None:
    text = _misspelled(random.choice(_YAML), random)
    (folder / "config.yaml").write_bytes(text.encode(errors="surrogatepass"))
    earlier._identities(folder)


def _event(random: random.Random, folder: Path) -> None:
    text = json.dumps(
        _changed({"event": "progress", "cell": "m__d", "done": 1}, random), default=str
    )
    process._event(_misspelled(text, random).encode(errors="surrogatepass"), ("sk-0123456789",))


# Of each reader, its share of the inputs.
READERS: dict[Callable[[random.Random, Path], None], float] = {
    _yaml: 0.2, _json: 0.17, _configuration: 0.15, _assignment: 0.05, _flags: 0.08, _judge: 0.1,
    _task: 0.04, _data: 0.04, _checked: 0.02, _columns: 0.02, _converted: 0.02, _predicted: 0.03,
    _run: 0.02, _compared: 0.01, _identities: 0.02, _event: 0.03,
}  # fmt: skip


def test_every_input_is_somebodys() -> None:
    assert sum(READERS.values()) == pytest.approx(1)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__.strip("_"))
def test_a_reader_raises_nothing_but_what_it_means_to(
    read: Callable[[random.Random, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    count = max(1, round(TOTAL * READERS[read] / BATCH))

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize="EVALSHIM_FUZZ" not in os.environ,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.integers(0, 2**63))
    def examples(seed: int) -> None:
        for number in range(BATCH):
            try:
                read(random.Random(f"{seed} {number}"), tmp_path)
            except EvalshimError as error:
                assert str(error)

    examples()
