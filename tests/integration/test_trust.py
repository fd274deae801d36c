"""A score that can be trusted: what a run checks before, watches meanwhile and records of it.

A run has many cells, since a start of the upstreams takes longer than they do; what is asked of
each stands in a test of its own. Who is asked is a voice of one endpoint, which notes every call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from evalshim.demo import answers
from evalshim.endpoints import USER_AGENT
from tests.conftest import HEEDED

from . import faulty
from .conftest import SHIM, rows, shim
from .faulty import _SAMPLE, _text
from .own_data import jsonl, put, tsv
from .test_failures import _workers
from .test_judges import N as GRADED
from .test_judges import entry
from .vlmeval_data import picture

pytestmark = pytest.mark.timeout(600)

N = 12  # questions of `pets`
# What OpenCompass's rule takes for an answer, where it is not told that it is a thought.
THINKING = "Maybe B. The answer is B."
HOLDS_KEY = "sk-canary-of-"  # how each key here begins


class Said(NamedTuple):
    text: str
    finish: str = "stop"
    status: int = 200


@dataclass
class Voice:
    """One model or judge behind the endpoint.

    Attributes:
        say: From the text asked, the number of the sample in it, and how often that was asked
            before, the reply.
        key: What it demands; empty: nothing.
        calls: Of a run, in order of arrival: `sample`, `body`, `headers`, `text`, `time`.
    """

    say: Callable[[str, int | None, int], Said]
    id: str = "m"
    key: str = ""
    delay: float = 0.0
    calls: list[dict[str, Any]] = field(default_factory=list)
    preflight: list[dict[str, Any]] = field(default_factory=list)

    def samples(self) -> list[int | None]:
        return [call["sample"] for call in self.calls]

    def authorizations(self) -> set[str]:
        every = [*self.calls, *self.preflight]
        return {call["headers"].get("authorization", "") for call in every}


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # every call of upstream's opens a connection


class Voices:
    """Voices on 127.0.0.1, each below a path of its own, while the context lasts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.of: dict[str, Voice] = {}
        self.stopping = threading.Event()

    def add(self, name: str, voice: Voice) -> Voice:
        self.of[name] = voice
        return voice

    def url(self, name: str) -> str:
        assert name in self.of
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}/v1"

    def __getitem__(self, name: str) -> Voice:
        return self.of[name]

    def __enter__(self) -> Voices:
        handler = type("Handler", (_Handler,), {"voices": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60
    voices: Voices

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client was killed
            self.close_connection = True

    def do_GET(self) -> None:
        _, name, _, what = self.path.split("/", 3)
        voice = self.voices.of.get(name)
        if voice is None or what != "models":
            self._send(404, {"error": {"message": "no such path"}})
        elif self._refused(voice):
            self._send(401, {"error": {"message": "Incorrect API key provided"}})
        else:
            self._send(200, {"object": "list", "data": [{"id": voice.id, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        voice = self.voices.of[self.path.split("/")[1]]
        text = _text(body["messages"])
        found = _SAMPLE.findall(text)
        sample = int(found[-1]) if found else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = {"sample": sample, "body": body, "headers": headers, "text": text}
        of_run = headers.get("user-agent") != USER_AGENT
        with self.voices.lock:
            before = sum(c["text"] == text for c in voice.calls)
            (voice.calls if of_run else voice.preflight).append({**call, "time": time.monotonic()})
        if self._refused(voice):
            self._send(401, {"error": {"message": "Incorrect API key provided"}})
            return
        if body["model"] != voice.id:
            message = f"The model `{body['model']}` does not exist"
            self._send(404, {"error": {"message": message, "code": "model_not_found"}})
            return
        if of_run and voice.delay:
            self.voices.stopping.wait(voice.delay)
        said = voice.say(text, sample, before) if of_run else Said("OK")
        if said.status != 200:
            self._send(said.status, {"error": {"message": said.text}})
            return
        message = {"role": "assistant", "content": said.text}
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        self._send(
            200,
            {
                "id": "c", "object": "chat.completion", "created": 0,
                "model": f"{voice.id}-2026-01", "choices": [choice],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            },
        )  # fmt: skip

    def _refused(self, voice: Voice) -> bool:
        given = self.headers.get("Authorization", "")
        return bool(voice.key) and given != f"Bearer {voice.key}"

    def _send(self, status: int, document: Any) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


# What the voices say. Of `pets` and ARC the answer stands in the number of the question.


def letter(k: int) -> str:
    """What is right of question `k`."""
    return "AB"[k % 2]


def guess(k: int) -> str:
    """What the model takes for right: three quarters are."""
    return "B" if k % 4 == 3 else "A"


def plainly(text: str, k: int | None, before: int) -> Said:
    if k is None:
        return Said(answers.answer([{"role": "user", "content": text}]))
    return Said(guess(k))


def otherwise(text: str, k: int | None, before: int) -> Said:
    return Said("A" if k is None or k % 2 == 0 or k == 1 else "C")


def spoken(k: int) -> str:
    return f"Option {guess(k)}, sure"


def thought(k: int) -> str:
    return f"<think>{THINKING}</think> {spoken(k)}"


def aloud(text: str, k: int | None, before: int) -> Said:
    return Said(thought(k or 0))


def cut(text: str, k: int | None, before: int) -> Said:
    """Three answers that are cut, one of them in its thoughts, and a thought without an end."""
    if k in (1, 2):
        return Said("A", "length")
    if k == 0:
        return Said("<think>well, the", "length")
    return Said("<think>hm A") if k == 3 else Said(guess(k or 0))


def later(text: str, k: int | None, before: int) -> Said:
    """No answer to question 2 when it is first asked."""
    if k == 2 and not before:
        return Said("not yet", status=400)
    return Said(guess(k or 0))


def wordy_with_a_gap(text: str, k: int | None, before: int) -> Said:
    return Said("not yet", status=400) if k == 2 else wordily(text, k, before)


def wordily(text: str, k: int | None, before: int) -> Said:
    return Said(faulty.wordy(text, k))


def verdict(text: str, k: int | None, before: int) -> Said:
    return Said(faulty.verdict(text))


# What they are asked.

PETS_OPTIONS = ["red", "green", "blue", "white"]
ARC_C = ["oak", "elm", "ash", "fir"]
ARC_E = ["copper", "silver", "gold", "tin"]


def pets(path: Path, first: int = 0) -> Path:
    columns = ["index", "image", "question", "A", "B", "C", "D", "answer"]
    asked = [f"What is number {k}?" for k in range(N)]
    lines = [[k, picture(k), asked[k], *PETS_OPTIONS, letter(k)] for k in range(first, N)]
    return tsv(path, columns, lines)


def arc(folder: Path) -> None:
    """OpenCompass's ARC: two sets of six and of four questions, with options of their own."""
    for place, count, options in (
        ("ARC-c/ARC-Challenge-Dev", 6, ARC_C),
        ("ARC-e/ARC-Easy-Dev", 4, ARC_E),
    ):
        jsonl(
            folder / "data" / "ARC" / f"{place}.jsonl",
            [
                {
                    "id": f"Q{k}",
                    "question": {
                        "stem": f"What is number {k}?",
                        "choices": [
                            {"text": t, "label": c} for t, c in zip(options, "ABCD", strict=True)
                        ],
                    },
                    "answerKey": letter(k),
                }
                for k in range(count)
            ],
        )


@dataclass
class Ran:
    """A run of the command, what it printed and wrote."""

    done: subprocess.CompletedProcess[str]
    path: Path
    before: float = 0.0  # when it was started, as time.time() has it

    def __post_init__(self) -> None:
        assert self.path.exists(), self.done.stderr
        self.rows = rows(self.done)
        self.header = json.loads((self.path / "run.json").read_text())
        lines = (self.path / "samples.jsonl").read_text().splitlines()
        self.samples = [json.loads(line) for line in lines]

    def cell(self, model: str, dataset: str) -> list[dict[str, Any]]:
        own = [r for r in self.rows if (r["model"], r["dataset"]) == (model, dataset)]
        assert own, f"no row of {model} x {dataset}"
        return own

    def primary(self, model: str, dataset: str) -> dict[str, Any]:
        own = self.cell(model, dataset)
        return next((r for r in own if r["is_primary"]), own[0])

    def values(self, model: str, dataset: str) -> dict[tuple[str, str], Any]:
        own = self.cell(model, dataset)
        assert {r["status"] for r in own} == {"scored"}, own[0]["error"]
        return {(r["subset"], r["metric"]): r["value"] for r in own}

    def of(self, model: str, dataset: str) -> dict[str, dict[str, Any]]:
        own = [s for s in self.samples if (s["model"], s["dataset"]) == (model, dataset)]
        return {f"{s['subset']}/{s['index']}".strip("/"): s for s in own}

    def entry(self, model: str, dataset: str) -> dict[str, Any]:
        cells = self.header["cells"].values()
        [found] = [c for c in cells if (c["model"], c["dataset"]) == (model, dataset)]
        return found  # type: ignore[no-any-return]

    def files(self) -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in self.path.rglob("*") if p.is_file()}


@dataclass
class Home:
    """A working directory with data and an endpoint with voices."""

    folder: Path
    voices: Voices

    def model(self, name: str, voice: str = "", **more: Any) -> dict[str, Any]:
        voice = voice or name
        return {
            "name": name, "model": self.voices[voice].id, "api_base": self.voices.url(voice),
            "key": "EMPTY", "retry": 1, **more,
        }  # fmt: skip

    def judge(self, voice: str, **more: Any) -> dict[str, Any]:
        found = {"model": self.voices[voice].id, "api_base": self.voices.url(voice), "retry": 2}
        return {**found, **({} if "key_env" in more else {"key": "EMPTY"}), **more}

    def config(self, name: str, models: list[Any], datasets: list[Any], **keys: Any) -> str:
        text = json.dumps({"models": models, "datasets": datasets, **keys})
        put(self.folder / f"{name}.json", text)
        return f"{name}.json"

    def variables(self) -> dict[str, str]:
        return {
            "COMPASS_DATA_CACHE": str(self.folder), "LMUData": str(self.folder / "LMUData"),
        }  # fmt: skip

    def shim(
        self, *args: object, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        with without_variables():
            return shim(
                *args, cwd=cwd or self.folder, timeout=400,
                **{**self.variables(), **variables},
            )  # fmt: skip

    def run(self, work: str, *args: object, cwd: Path | None = None, **variables: str) -> Ran:
        """A run below the folder `work`."""
        begun = time.time()
        done = self.shim(
            "run", *args, "--json", "--work-dir", self.folder / work, cwd=cwd, **variables
        )
        return Ran(done, (self.folder / work / "latest").resolve(), begun)


class without_variables:
    """No variable that a run heeds, whatever the machine has set."""

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for variable in HEEDED:
            self.patch.delenv(variable, raising=False)

    def __exit__(self, *exc: object) -> None:
        self.patch.undo()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("trust")
    pets(folder / "pets.tsv")
    arc(folder)
    (folder / "LMUData").mkdir()
    # Under the name of a published file, and not that.
    pets(folder / "LMUData" / "MMStar.tsv")
    with Voices() as voices:
        yield Home(folder, voices)


PETS = {"name": "pets", "path": "pets.tsv"}


# A run that asks, which the others are held against.


@pytest.fixture(scope="module")
def first(home: Home) -> Ran:
    home.voices.add("first", Voice(plainly))
    model = home.model("m", "first", temperature=0.25, max_tokens=77)
    datasets = [PETS, "MMStar", "ARC", "demo_gsm8k"]
    config = home.config("first", [model], datasets, verify_data="off")
    ran = home.run("first", config)
    assert ran.done.returncode == 0, ran.done.stderr
    return ran


class TestProvenance:
    def test_the_scores_are_those_of_the_voice(self, first: Ran) -> None:
        assert first.primary("m", "pets")["score"] == 0.75
        assert first.primary("m", "MMStar")["score"] == 0.75
        found = first.values("m", "ARC")
        assert found["ARC-c", "accuracy"] == pytest.approx(100 * 4 / 6)
        assert found["ARC-e", "accuracy"] == 75.0

    def test_the_toolkits(self, first: Ran, environments: dict[str, Path]) -> None:
        backends = first.header["backends"]

        assert backends.keys() == {"vlmeval", "opencompass"}
        for name, found in backends.items():
            assert found["version"] and found["version"][0].isdigit()
            assert found["distribution"] in (name, f"ms-{name}")
            assert len(found["pins"]) >= 8
            assert "commit" in found
            assert found["python"] == str(environments[name])

    def test_the_data(self, first: Ran, home: Home) -> None:
        def sha256(path: Path) -> str:
            return hashlib.sha256(path.read_bytes()).hexdigest()

        [own] = first.entry("m", "pets")["data"]
        assert own == {
            "path": str(home.folder / "pets.tsv"),
            "sha256": sha256(home.folder / "pets.tsv"),
            "published": None,
        }
        [wrong] = first.entry("m", "MMStar")["data"]
        assert wrong["published"] is False
        assert wrong["sha256"] == sha256(home.folder / "LMUData" / "MMStar.tsv")
        both = first.entry("m", "ARC")["data"]
        files = sorted((home.folder / "data" / "ARC").rglob("*.jsonl"))
        assert [file["sha256"] for file in both] == [sha256(path) for path in files]
        assert {file["published"] for file in both} == {None}
        [folder] = first.entry("m", "demo_gsm8k")["data"]
        assert Path(folder["path"]).is_dir() and len(folder["sha256"]) == 64

    @pytest.mark.parametrize("dataset", ["pets", "MMStar", "ARC", "demo_gsm8k"])
    def test_the_parameters_are_those_that_the_endpoint_got(
        self, first: Ran, home: Home, dataset: str
    ) -> None:
        found = first.entry("m", dataset)

        assert found["reported"] == "m-2026-01"
        assert (found["sent"]["temperature"], found["sent"]["max_tokens"]) == (0.25, 77)
        bodies = [
            {key: value for key, value in call["body"].items() if key not in ("messages", "model")}
            for call in home.voices["first"].calls
        ]
        assert found["sent"] in bodies
        assert {(b["temperature"], b["max_tokens"]) for b in bodies} == {(0.25, 77)}

    def test_nothing_was_asked_in_vain_and_soon(self, first: Ran, home: Home) -> None:
        asked = home.voices["first"]

        assert len(asked.calls) == 2 * N + 10 + 36
        # A list of models is a GET; the call is one.
        assert len(asked.preflight) == 1
        started = pd.Timestamp(first.header["started_at"]).timestamp()
        assert 0 < started - first.before < 60
        print(f"from the command to the run: {started - first.before:.1f} s")


# Predictions made elsewhere.


def predictions(ran: Ran, dataset: str) -> list[dict[str, Any]]:
    own = [s for s in ran.samples if s["dataset"] == dataset]
    return [{"index": s["index"], "prediction": s["prediction"]} for s in own]


FORMS = ("tsv", "csv", "xlsx", "jsonl", "json")
# Of each, what it has: all, all but indices 4 and 5, one too many, the first six.
WRONG = {
    "lacking": ([k for k in range(N) if k not in (4, 5)], ("10 predictions", "12", "4, 5")),
    "strange": ([*range(N), 99], ("13 predictions", "12", "99")),
    "limited": ([*range(6)], ("6 predictions", "12", "6, 7, 8", "limit")),
}


@pytest.fixture(scope="module")
def foreign(home: Home, first: Ran, direct: Path) -> Ran:
    """A folder with predictions of many models, in every form; nobody is to be asked."""
    folder = home.folder / "preds"
    given = pd.DataFrame(predictions(first, "pets"))
    folder.mkdir()
    given.to_csv(folder / "tsv_pets.tsv", sep="\t", index=False)
    given.to_csv(folder / "csv_pets.csv", index=False)
    given.to_excel(folder / "xlsx_pets.xlsx", index=False)
    jsonl(folder / "jsonl_pets.jsonl", given.to_dict("records"))
    put(folder / "json_pets.json", json.dumps(given.to_dict("records")))
    # As upstream's own command wrote it.
    written = direct / "strip" / "aloud" / "aloud_pets.xlsx"
    put(folder / "aloud" / written.name, written.read_bytes())
    for name, (indices, _) in WRONG.items():
        said = [{"index": k, "prediction": guess(k)} for k in indices]
        jsonl(folder / f"{name}_pets.jsonl", said)
    home.voices.add("nobody", Voice(plainly))
    models = [home.model(name, "nobody") for name in (*FORMS, "aloud", *WRONG)]
    config = home.config("foreign", models, [PETS])
    return home.run("foreign", config, "--mode", "eval", "--predictions", "preds")


@pytest.fixture(scope="module")
def foreign_sets(home: Home, first: Ran) -> Ran:
    """The same of OpenCompass's: of its own tree, of tables, and of some that do not fit."""
    folder = home.folder / "preds_oc"
    [own] = (first.path / "upstream" / "opencompass").glob("*/predictions/m")
    for path in own.glob("ARC-*.json"):
        put(folder / "own" / path.name, path.read_bytes())
        said = json.loads(path.read_text())
        jsonl(
            folder / "jsonl" / f"{path.stem}.jsonl",
            [{"index": i, "prediction": p["prediction"]} for i, p in said.items()],
        )
    wrong = {"lacking": [0, 1, 2, 4, 5], "strange": [*range(7)], "limited": [0, 1, 2]}
    for name, indices in wrong.items():
        jsonl(
            folder / name / "ARC-c.jsonl", [{"index": k, "prediction": guess(k)} for k in indices]
        )
        jsonl(
            folder / name / "ARC-e.jsonl", [{"index": k, "prediction": guess(k)} for k in range(4)]
        )
    # Of another set, and nothing of this one.
    jsonl(folder / "half" / "ARC-e.jsonl", [{"index": k, "prediction": "A"} for k in range(4)])
    home.voices.add("nobody-oc", Voice(plainly))
    models = [home.model(n, "nobody-oc") for n in ("own", "jsonl", *wrong, "half")]
    config = home.config("foreign_sets", models, ["ARC", "demo_gsm8k"])
    return home.run("foreign_sets", config, "--mode", "eval", "--predictions", "preds_oc")


class TestPredictions:
    def test_nobody_is_asked(self, foreign: Ran, home: Home) -> None:
        voice = home.voices["nobody"]

        assert (voice.calls, voice.preflight) == ([], [])

    @pytest.mark.parametrize("form", FORMS)
    def test_the_score_is_that_of_a_run_that_asked(
        self, foreign: Ran, first: Ran, form: str
    ) -> None:
        assert foreign.values(form, "pets") == first.values("m", "pets")
        assert [s["prediction"] for s in foreign.of(form, "pets").values()] == [
            s["prediction"] for s in first.of("m", "pets").values()
        ]

    def test_upstreams_own_file(self, foreign: Ran, thinking: Ran) -> None:
        assert foreign.values("aloud", "pets") == thinking.values("stripped", "pets")

    @pytest.mark.parametrize("name", WRONG)
    def test_indices_that_do_not_fit_fail_the_cell(self, foreign: Ran, name: str) -> None:
        [row] = foreign.cell(name, "pets")

        assert foreign.done.returncode == 1
        assert (row["status"], row["metric"], row["value"]) == ("failed", "", None)
        for part in WRONG[name][1]:
            assert part in row["error"], row["error"]

    def test_nobody_is_asked_for_sets(self, foreign_sets: Ran, home: Home) -> None:
        voice = home.voices["nobody-oc"]

        assert (voice.calls, voice.preflight) == ([], [])

    @pytest.mark.parametrize("name", ["own", "jsonl"])
    def test_a_set_of_several_from_a_folder(self, foreign_sets: Ran, first: Ran, name: str) -> None:
        assert foreign_sets.values(name, "ARC") == first.values("m", "ARC")

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("lacking", ("5 predictions", "6 samples", "(3)")),
            ("strange", ("7 predictions", "6 samples", "(6)")),
            ("limited", ("3 predictions", "6 samples", "3, 4, 5")),
            ("half", ("ARC-c",)),
        ],
    )
    def test_sets_that_do_not_fit_fail_the_cell(
        self, foreign_sets: Ran, name: str, parts: tuple[str, ...]
    ) -> None:
        row = foreign_sets.primary(name, "ARC")

        assert foreign_sets.done.returncode == 1
        assert row["status"] == "failed"
        for part in parts:
            assert part in row["error"], row["error"]

    def test_the_predictions_of_another_set_are_not_taken(self, foreign_sets: Ran) -> None:
        """The folders of the models have those of ARC alone."""
        for model in ("own", "half"):
            [row] = foreign_sets.cell(model, "demo_gsm8k")
            assert (row["status"], row["value"]) == ("failed", None)
            assert "no predictions" in row["error"], row["error"]
            assert "Traceback" not in row["error"] and "line" not in row["error"]

    def test_the_tree_of_an_earlier_run(self, first: Ran, home: Home) -> None:
        """All that upstream wrote, results beside predictions."""
        before = len(home.voices["first"].calls)

        again = home.run(
            "tree", "first.json", "--mode", "eval", "--predictions", first.path / "upstream"
        )

        assert again.done.returncode == 0, again.done.stderr
        for dataset in ("pets", "MMStar", "ARC", "demo_gsm8k"):
            assert again.values("m", dataset) == first.values("m", dataset)
        assert len(home.voices["first"].calls) == before

    def test_one_file_of_upstreams(self, first: Ran, home: Home) -> None:
        [path] = first.path.rglob("predictions/m/demo_gsm8k.json")
        before = len(home.voices["first"].calls)

        again = home.run(
            "one", "first.json", "--mode", "eval", "--predictions", path, "--data", "demo_gsm8k"
        )

        assert again.done.returncode == 0, again.done.stderr
        assert again.values("m", "demo_gsm8k") == first.values("m", "demo_gsm8k")
        assert len(home.voices["first"].calls) == before

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("none.tsv", None, "no such file"),
            ("other.tsv", "id\tprediction\n1\tA\n", "index"),
            ("other.jsonl", '{"index": 1, "answer": "A"}\n', "prediction"),
            ("twice.csv", "index,prediction\n1,A\n1,B\n", "twice"),
            ("empty.jsonl", "", "empty"),
            ("half.jsonl", '{"index": 1, "predic', "half.jsonl"),
            ("kind.parquet", "x", "parquet"),
        ],
    )
    def test_what_has_no_predictions_is_refused_before_anything_starts(
        self, tmp_path: Path, home: Home, name: str, text: str | None, said: str
    ) -> None:
        home.voices.add("unasked", Voice(plainly))
        config = home.config("refused", [home.model("m", "unasked")], [PETS])
        if text is not None:
            put(tmp_path / name, text)

        done = home.shim(
            "run", home.folder / config, "--mode", "eval", "--predictions", tmp_path / name,
            "--work-dir", tmp_path / "outputs", cwd=home.folder,
        )  # fmt: skip

        assert done.returncode == 2, done.stderr
        assert name in done.stderr and said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "outputs").exists()


# Thoughts, and answers that were cut.


@pytest.fixture(scope="module")
def thinking(home: Home) -> Ran:
    home.voices.add("other", Voice(otherwise, id="other"))
    for name, say in (("aloud", aloud), ("cut", cut)):
        home.voices.add(name, Voice(say))
    models = [
        # Beside the `m` of `first`: the same label, another model.
        home.model("m", "other", temperature=0.25, max_tokens=77),
        home.model("kept", "aloud"),
        home.model("stripped", "aloud", think="strip"),
        home.model("cut"),
        home.model("cut-stripped", "cut", think="strip"),
    ]
    return home.run("thinking", home.config("thinking", models, [PETS, "ARC"]))


_DIRECT = """
import os, sys
import vlmeval.run as run
for name, split in (("strip", "True"), ("keep", "")):
    os.environ["SPLIT_THINK"] = split
    sys.argv = ["run.py", "--config", "direct.json", "--judge", "exact_matching",
                "--work-dir", name]
    run.main()
"""


@pytest.fixture(scope="module")
def direct(home: Home, environments: dict[str, Path]) -> Path:
    """VLMEvalKit's own run, twice in one process; it writes .xlsx as it does by default."""
    folder = home.folder / "direct"
    pets(folder / "LMUData" / "pets.tsv")
    home.voices.add("direct", Voice(aloud))
    model = {
        "class": "CustomAPIModel", "model": "m", "key": "EMPTY", "retry": 1,
        "api_base": f"{home.voices.url('direct')}/chat/completions",
    }  # fmt: skip
    data = {"pets": {"class": "CustomMCQDataset", "dataset": "pets"}}
    put(folder / "direct.json", json.dumps({"model": {"aloud": model}, "data": data}))
    done = subprocess.run(
        [environments["vlmeval"], "-c", _DIRECT], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "LMUData": str(folder / "LMUData")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def accuracy(direct: Path, name: str) -> float:
    [path] = (direct / name / "aloud").glob("aloud_pets_acc.*")
    return float(pd.read_csv(path)["Overall"][0])


class TestThoughts:
    def test_vlmevalkit_as_upstream_does_with_and_without(
        self, thinking: Ran, direct: Path
    ) -> None:
        stripped, kept = (thinking.primary(n, "pets")["value"] for n in ("stripped", "kept"))

        assert stripped == accuracy(direct, "strip") == 0.75
        assert kept == accuracy(direct, "keep") != 0.75

    def test_vlmevalkits_column_of_thoughts(self, thinking: Ran, direct: Path) -> None:
        [path] = thinking.path.rglob("stripped/**/stripped_pets.tsv")
        ours = pd.read_csv(path, sep="\t")
        theirs = pd.read_excel(direct / "strip" / "aloud" / "aloud_pets.xlsx")

        assert list(ours["thinking"]) == list(theirs["thinking"])
        assert set(ours["thinking"]) == {THINKING}
        assert list(ours["prediction"]) == list(theirs["prediction"]) == [*map(spoken, range(N))]
        [path] = thinking.path.rglob("kept/**/kept_pets.tsv")
        raw = pd.read_csv(path, sep="\t")
        assert "thinking" not in raw
        assert list(raw["prediction"]) == [*map(thought, range(N))]

    def test_opencompass_as_upstreams_functions_do(
        self, thinking: Ran, first: Ran, environments: dict[str, Path]
    ) -> None:
        code = (
            "import sys, json\n"
            "from opencompass.utils import text_postprocessors as t\n"
            "found = [[t.first_option_postprocess(f(s), 'ABCD') for s in json.loads(sys.argv[1])]\n"
            "         for f in (t.extract_non_reasoning_content, str)]\n"
            "print(json.dumps(found))"
        )
        said = json.dumps([*map(thought, range(6))])
        done = subprocess.run(
            [environments["opencompass"], "-c", code, said], capture_output=True, text=True
        )
        stripped, kept = (
            100 * sum(found[k] == letter(k) for k in range(6)) / 6
            for found in json.loads(done.stdout.splitlines()[-1])
        )

        assert thinking.values("stripped", "ARC")["ARC-c", "accuracy"] == pytest.approx(stripped)
        assert thinking.values("kept", "ARC")["ARC-c", "accuracy"] == pytest.approx(kept)
        assert stripped != kept
        assert thinking.values("stripped", "ARC") == first.values("m", "ARC")

    @pytest.mark.parametrize("dataset", ["pets", "ARC"])
    @pytest.mark.parametrize("model", ["cut", "cut-stripped"])
    def test_what_was_cut_is_counted(self, thinking: Ran, model: str, dataset: str) -> None:
        samples = thinking.of(model, dataset)
        n, factor = (N, 1) if dataset == "pets" else (10, 2)

        assert thinking.entry(model, dataset)["notes"] == [
            f"{3 * factor} of {n} answers were cut at max_tokens",
            f"{2 * factor} of {n} answers have a <think> that never ends",
        ]
        finish = Counter(s["finish"] for s in samples.values())
        assert finish["length"] == 3 * factor
        indices = {s["index"] for s in samples.values() if s["finish"] == "length"}
        assert indices == {"0", "1", "2"}

    def test_what_was_cut_stands_below_the_table(self, thinking: Ran, home: Home) -> None:
        shown = home.shim("results", thinking.path).stdout

        below = shown[shown.rindex("scored") :]
        assert "cut x pets: 3 of 12 answers were cut at max_tokens" in below
        assert "cut x ARC: 6 of 10 answers were cut at max_tokens" in below
        assert "cut-stripped x pets: 2 of 12 answers have a <think> that never ends" in below
        assert "kept x" not in below and "stripped x pets: 3 of 12" in below

    @pytest.mark.parametrize("model", ["m", "kept", "stripped"])
    def test_where_nothing_was_cut_nothing_is_said(self, thinking: Ran, model: str) -> None:
        assert thinking.entry(model, "pets")["notes"] == []
        assert thinking.entry(model, "ARC")["notes"] == []


# What failed is asked again.


@pytest.fixture(scope="module")
def patient(home: Home) -> Ran:
    """Questions 0 to 3 of each; number 2 is answered when it is asked again."""
    home.voices.add("later", Voice(later))
    config = home.config("patient", [home.model("m", "later")], [PETS, "ARC"], limit=4)
    return home.run("patient", config)


class TestRetries:
    def test_a_sample_that_is_answered_later_did_not_fail(self, patient: Ran) -> None:
        assert patient.done.returncode == 0, patient.done.stderr
        for dataset, n in (("pets", 4), ("ARC", 8)):
            row = patient.primary("m", dataset)
            assert row["status"] == "scored", row["error"]
            samples = patient.of("m", dataset).values()
            assert len(samples) == n
            assert all(s["prediction"] and not s["error"] for s in samples)
            assert patient.entry("m", dataset)["n_failed"] == 0

    def test_it_was_asked_after_the_others(self, patient: Ran, home: Home) -> None:
        calls = home.voices["later"].calls
        for option in (PETS_OPTIONS[0], ARC_C[0], ARC_E[0]):
            own = [c["sample"] for c in calls if option in c["text"]]
            assert sorted(own) == [0, 1, 2, 2, 3]
            assert own[-1] == 2


# Judges.

RUN_KEY, SET_KEY, TASK_KEY, FLAG_KEY, ENV_KEY = (
    f"{HOLDS_KEY}{who}-0123456789" for who in ("run", "set", "task", "flag", "env")
)


def add_judges(home: Home) -> None:
    for name, key in (
        ("judge-run", RUN_KEY), ("judge-set", SET_KEY), ("judge-task", TASK_KEY),
        ("judge-flag", FLAG_KEY), ("judge-env", ENV_KEY), ("judge-stray", ""),
    ):  # fmt: skip
        if name not in home.voices.of:
            home.voices.add(name, Voice(verdict, id=name, key=key))
    if "wordy" not in home.voices.of:
        home.voices.add("wordy", Voice(wordily))
        home.voices.add("wordy-with-a-gap", Voice(wordy_with_a_gap))


def no_trace_of(home: Home, key: str, ran: Ran) -> None:
    """A key is in nothing that was printed or written, and no `.env` is left."""
    assert key.startswith(HOLDS_KEY)
    assert key not in ran.done.stdout + ran.done.stderr
    assert not [path for path, data in ran.files().items() if key.encode() in data]
    assert not list(ran.path.rglob(".env*"))


class EnvFiles(threading.Thread):
    """Watches for a `.env` in the folders given, for as long as the context lasts."""

    def __init__(self, *folders: Path) -> None:
        super().__init__(daemon=True)
        self.folders, self.seen = folders, set()
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            self.seen |= {f / ".env" for f in self.folders if (f / ".env").exists()}

    def __enter__(self) -> EnvFiles:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self.join()


@pytest.fixture(scope="module")
def judged(home: Home, environments: dict[str, Path]) -> tuple[Ran, EnvFiles]:
    """A judge of the run whose id is found out, and datasets with one of their own; and no
    retries."""
    add_judges(home)
    folder = home.folder / "judged"
    of_run = {
        "model": "auto", "api_base": home.voices.url("judge-run"), "key_env": "RUN_JUDGE_KEY",
        "retry": 2,
    }  # fmt: skip
    own = home.judge("judge-set", key_env="SET_JUDGE_KEY")
    datasets = [
        entry(folder, "mcq", "mcq_run", None),
        entry(folder, "mcq", "mcq_own", own),
        entry(folder, "oc", "oc_run", None),
        entry(folder, "oc", "oc_own", own),
        entry(folder, "mcq", "mcq_none", "exact_matching"),
    ]
    for dataset in datasets:
        if dataset["judge"] is None:
            del dataset["judge"]
    models = [home.model("wordy"), home.model("gap", "wordy-with-a-gap")]
    config = home.config("judged", models, datasets, judge=of_run, retries=0)
    [package] = environments["vlmeval"].parents[1].glob("lib/python3.*/site-packages")
    with EnvFiles(home.folder, folder, package) as watched:
        ran = home.run(
            "judged_runs", config, RUN_JUDGE_KEY=RUN_KEY, SET_JUDGE_KEY=SET_KEY,
            COMPASS_DATA_CACHE=str(folder / "cache"),
        )  # fmt: skip
    return ran, watched


class TestJudges:
    @pytest.mark.parametrize("dataset", ["mcq_run", "mcq_own", "oc_run", "oc_own"])
    def test_each_is_graded_by_its_own(self, judged: tuple[Ran, EnvFiles], dataset: str) -> None:
        ran, judge = judged[0], "judge-run" if dataset.endswith("run") else "judge-set"
        row = ran.primary("wordy", dataset)

        assert row["status"] == "scored", row["error"]
        assert (row["scorer"], row["score"]) == (judge, 0.5)
        assert (row["n"], row["n_failed"], row["n_judge_failed"]) == (GRADED, 0, 0)
        assert ran.entry("wordy", dataset)["judge"]["model"] == judge
        assert ran.entry("wordy", dataset)["judge"]["reported"] == f"{judge}-2026-01"

    def test_none_where_none_was_asked_for(self, judged: tuple[Ran, EnvFiles]) -> None:
        row = judged[0].primary("wordy", "mcq_none")

        assert (row["scorer"], row["score"]) == ("exact_matching", 0)
        assert judged[0].entry("wordy", "mcq_none")["judge"] is None

    @pytest.mark.parametrize(("judge", "key"), [("judge-run", RUN_KEY), ("judge-set", SET_KEY)])
    def test_each_gets_its_own_key_and_questions(
        self, judged: tuple[Ran, EnvFiles], home: Home, judge: str, key: str
    ) -> None:
        voice = home.voices[judge]

        assert voice.authorizations() == {f"Bearer {key}"}
        assert {call["body"]["model"] for call in voice.calls} == {judge}
        # Two models on a set of each toolkit, of which one answer is lacking.
        graded = [s for s in voice.samples() if s is not None]
        assert 4 * GRADED - 2 <= len(graded) <= 4 * GRADED
        no_trace_of(home, key, judged[0])

    def test_no_env_file_is_ever_written(self, judged: tuple[Ran, EnvFiles]) -> None:
        assert judged[1].seen == set()

    def test_without_retries_what_failed_is_not_asked_again(
        self, judged: tuple[Ran, EnvFiles], home: Home
    ) -> None:
        asked = Counter(call["sample"] for call in home.voices["wordy-with-a-gap"].calls)
        n_sets = 5

        assert judged[0].done.returncode == 1
        assert asked == dict.fromkeys(range(GRADED), n_sets)

    @pytest.mark.parametrize("dataset", ["mcq_run", "mcq_own", "mcq_none", "oc_run", "oc_own"])
    def test_what_failed_is_counted(self, judged: tuple[Ran, EnvFiles], dataset: str) -> None:
        ran = judged[0]

        assert ran.primary("gap", dataset)["n_failed"] == 1
        [failed] = [s for s in ran.of("gap", dataset).values() if s["prediction"] is None]
        assert "number 2" in failed["question"]
        assert "400" in failed["error"] and "not yet" in failed["error"]

    def test_evalscopes_configuration(self, home: Home) -> None:
        """Its judge goes before one of `.env`."""
        add_judges(home)
        folder = home.folder / "task"
        entry(folder / "LMUData", "mcq", "mcq_task", None)
        judge_key = f"OPENAI_API_KEY={ENV_KEY}\nOPENAI_API_BASE={home.voices.url('judge-env')}\n"
        put(folder / ".env", f"{judge_key}LOCAL_LLM=judge-env\n")
        put(
            folder / "task.yaml",
            f"""\
eval_backend: VLMEvalKit
eval_config:
  model:
    - type: m
      name: CustomAPIModel
      api_base: {home.voices.url("wordy")}/chat/completions
      key: EMPTY
  data: [mcq_task]
  mode: all
  nproc: 8
  OPENAI_API_KEY: {TASK_KEY}
  OPENAI_API_BASE: {home.voices.url("judge-task")}/chat/completions
  LOCAL_LLM: judge-task
""",
        )
        asked_before = len(home.voices["judge-env"].calls)

        ran = home.run("task_runs", "task.yaml", cwd=folder, LMUData=str(folder / "LMUData"))

        assert ran.done.returncode == 0, ran.done.stderr
        row = ran.primary("m", "mcq_task")
        assert (row["scorer"], row["score"], row["n_judge_failed"]) == ("judge-task", 0.5, 0)
        voice = home.voices["judge-task"]
        assert voice.authorizations() == {f"Bearer {TASK_KEY}"}
        assert {*range(GRADED)} <= {*voice.samples()}
        assert len(home.voices["judge-env"].calls) == asked_before
        no_trace_of(home, TASK_KEY, ran)
        no_trace_of(home, ENV_KEY, ran)

    def test_the_env_file_of_the_working_directory(self, home: Home) -> None:
        """And predictions made elsewhere, in one file."""
        add_judges(home)
        folder = home.folder / "env"
        dataset = entry(folder, "mcq", "mcq_env", None)
        del dataset["judge"]
        lines = [
            f"OPENAI_API_KEY={ENV_KEY}",
            f"OPENAI_API_BASE={home.voices.url('judge-env')}/chat/completions",
            "LOCAL_LLM=judge-env",
        ]
        written = put(folder / ".env", "\n".join(lines) + "\n")
        text = written.read_bytes()
        said = [faulty.wordy("Options:\nA. x", k) for k in range(GRADED)]
        jsonl(folder / "preds.jsonl", [{"index": k, "prediction": p} for k, p in enumerate(said)])
        config = home.config("env/eval", [home.model("wordy")], [dataset])
        asked = len(home.voices["wordy"].calls)

        ran = home.run(
            "env_runs", folder / Path(config).name, "--mode", "eval", "--predictions",
            "preds.jsonl", cwd=folder,
        )  # fmt: skip

        assert ran.done.returncode == 0, ran.done.stderr
        row = ran.primary("wordy", "mcq_env")
        assert (row["scorer"], row["score"], row["n_judge_failed"]) == ("judge-env", 0.5, 0)
        assert home.voices["judge-env"].authorizations() == {f"Bearer {ENV_KEY}"}
        assert {*range(GRADED)} <= {*home.voices["judge-env"].samples()}
        assert len(home.voices["wordy"].calls) == asked
        assert written.read_bytes() == text
        no_trace_of(home, ENV_KEY, ran)

    def test_flags_and_a_stray_env_file_beside_the_package(
        self, home: Home, environments: dict[str, Path]
    ) -> None:
        """Upstream reads `.env` beside its package, over the environment (load_env, 0.0.20)."""
        add_judges(home)
        tree = home.folder / "VLMEvalKit"
        [installed] = environments["vlmeval"].parents[1].glob("lib/python3.*/site-packages/vlmeval")
        (tree / "vlmeval").mkdir(parents=True)
        for part in installed.iterdir():
            if part.name != "__pycache__":
                (tree / "vlmeval" / part.name).symlink_to(part)
        stray = f"{HOLDS_KEY}stray-0123456789"
        lines = [
            f"OPENAI_API_KEY={stray}",
            f"OPENAI_API_BASE={home.voices.url('judge-stray')}/chat/completions",
            "LOCAL_LLM=judge-stray",
            "SOME_TOKEN=kept",
        ]
        env_file = put(tree / ".env", "\n".join(lines) + "\n")
        python = put(
            home.folder / "python",
            f"#!/bin/sh\nPYTHONPATH={tree} PYTHONDONTWRITEBYTECODE=1 "
            f'exec {environments["vlmeval"]} "$@"\n',
        )
        python.chmod(0o755)
        dataset = entry(home.folder / "flags", "mcq", "mcq_flag", None)
        del dataset["judge"]
        config = home.config("flags", [home.model("wordy")], [dataset])

        ran = home.run(
            "flag_runs", config, "--python", python, "--judge", "judge-flag", "--judge-api-base",
            home.voices.url("judge-flag"), "--judge-key-env", "FLAG_JUDGE_KEY",
            FLAG_JUDGE_KEY=FLAG_KEY, EVALSHIM_HOME=str(home.folder / "evalshim_home"),
        )  # fmt: skip

        assert ran.done.returncode == 0, ran.done.stderr
        row = ran.primary("wordy", "mcq_flag")
        assert (row["scorer"], row["score"], row["n_judge_failed"]) == ("judge-flag", 0.5, 0)
        assert home.voices["judge-flag"].authorizations() == {f"Bearer {FLAG_KEY}"}
        assert {*range(GRADED)} <= {*home.voices["judge-flag"].samples()}
        strange = home.voices["judge-stray"]
        assert (strange.calls, strange.preflight) == ([], [])
        no_trace_of(home, FLAG_KEY, ran)
        no_trace_of(home, stray, ran)
        # What was not heeded is said, with the file and the names.
        [notice] = ran.header["notices"]
        assert str(env_file) in notice
        assert all(name in notice for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "LOCAL_LLM"))
        shown = home.shim("results", ran.path).stdout
        assert notice in shown[shown.rindex("scored") :]
        assert env_file.read_text().splitlines() == lines


# Two runs side by side.


class TestCompare:
    def test_two_models(self, first: Ran, thinking: Ran, home: Home) -> None:
        done = home.shim("compare", first.path, thinking.path)

        assert done.returncode == 0, done.stdout + done.stderr
        assert "NOT comparable" not in done.stdout
        found = json.loads(home.shim("compare", first.path, thinking.path, "--json").stdout)
        assert found["comparable"]
        pairs = {pair["dataset"]: pair for pair in found["pairs"]}
        assert pairs.keys() == {"pets", "ARC"}
        paired = pairs["pets"]["paired"]
        assert (paired["n"], paired["only_first"], paired["only_second"]) == (N, 0, 0)
        one, other = (ran.primary("m", "pets")["value"] for ran in (first, thinking))
        assert one != other
        interval = paired["interval"]
        assert interval["difference"] == pytest.approx(other - one)
        assert interval["low"] < interval["difference"] < interval["high"]
        [metric] = [m for m in pairs["pets"]["metrics"] if m["is_primary"]]
        assert metric["difference"] == pytest.approx(other - one)
        assert f"{abs(other - one):.2f}"[:4] in done.stdout
        # Which model answered is what is compared, and said.
        reported = next(f for f in pairs["pets"]["differs"] if "reported" in f["what"])
        assert (reported["first"], reported["second"]) == ("m-2026-01", "other-2026-01")
        assert not reported["is_reason"]

    def test_another_limit(self, first: Ran, patient: Ran, home: Home) -> None:
        done = home.shim("compare", first.path, patient.path)

        assert done.returncode == 1
        assert "NOT comparable" in done.stdout
        assert "limit" in done.stdout


# Before a run starts.


@pytest.fixture
def closed() -> Iterator[str]:
    """API base at a port that is taken and on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/v1"


class TestBefore:
    def spoiled(self, home: Home, closed: str) -> str:
        home.voices.add("ready", Voice(plainly, id="Qwen/Qwen2.5-VL-7B-Instruct"))
        home.voices.add("locked", Voice(plainly, key=f"{HOLDS_KEY}lock-0123456789"))
        models = [
            {"name": "dead", "api_base": closed, "retry": 1},
            home.model("misnamed", "ready", model="Qwen/Qwen2.5-VL-7B-Instuct"),
            home.model("refused", "locked"),
            home.model("well", "ready"),
        ]
        judge = {"model": "j", "api_base": closed, "timeout": 5, "retry": 1}
        # The file in $LMUData is not the published one.
        return home.config("spoiled", models, [PETS, "MMStar"], judge=judge)

    NAMED = (
        "model dead", "connection refused", "model misnamed", "Qwen/Qwen2.5-VL-7B-Instruct",
        "model refused", "401", "judge j", "MMStar", "not the published file",
    )  # fmt: skip

    def test_all_that_is_wrong_is_named_at_once(self, home: Home, closed: str) -> None:
        config = self.spoiled(home, closed)
        work = home.folder / "spoiled_runs"
        begun = time.monotonic()

        done = home.shim("run", config, "--work-dir", work)

        assert time.monotonic() - begun < 45  # no time limit was waited for
        assert done.returncode == 3, done.stderr
        for word in self.NAMED:
            assert word in done.stderr, word
        assert "5 things" in done.stderr
        assert "Traceback" not in done.stderr
        assert not work.exists()
        assert home.voices["ready"].calls == home.voices["locked"].calls == []
        assert HOLDS_KEY not in done.stderr

    def test_check_says_the_same_and_then_that_all_is_well(self, home: Home, closed: str) -> None:
        config = self.spoiled(home, closed)

        bad = home.shim("check", config)

        assert bad.returncode == 3, bad.stderr
        for word in self.NAMED:
            assert word in bad.stdout, word
        assert bad.stdout.count("FAIL") == 5
        mended = json.loads((home.folder / config).read_text())
        mended["models"] = [mended["models"][3]]
        mended["judge"] = {"model": "j", "api_base": home.voices.url("ready")}
        mended["judge"]["model"] = home.voices["ready"].id
        mended["verify_data"] = "off"
        put(home.folder / "mended.json", json.dumps(mended))

        good = home.shim("check", "mended.json")

        assert good.returncode == 0, good.stdout
        lines = good.stdout.splitlines()
        assert all(line.startswith("ok ") for line in lines)
        # Two files, a model, a judge, the disk.
        assert len(lines) == 5
        assert home.voices["ready"].calls == []

    def test_a_run_that_is_told_not_to_look_starts(self, patient: Ran, home: Home) -> None:
        """Killed as soon as it is seen to: its worker would import for long."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = {"name": "m", "api_base": f"http://127.0.0.1:{unused.getsockname()[1]}/v1"}
            config = home.config("blind", [dead], [PETS])
            work = home.folder / "blind_runs"
            with without_variables():
                process = subprocess.Popen(
                    [SHIM, "run", config, "--no-preflight", "--work-dir", work],
                    cwd=home.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )  # fmt: skip
            deadline = time.monotonic() + 60
            while not list(work.glob("*/events.jsonl")) and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.1)
            started = list(work.glob("*/events.jsonl"))
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)

        assert started


# A kill, and what is left.


@dataclass
class Killed:
    ran: Ran
    again: Ran
    before: Mapping[str, list[str]]
    after: Mapping[str, list[str]]
    journals: Mapping[str, int]


@pytest.fixture(scope="module")
def killed(home: Home) -> Killed:
    """Both workers are killed in the middle of their answers, and the run is taken up again."""
    voice = home.voices.add("slow", Voice(plainly, delay=1.0))
    work = home.folder / "killed"
    model = home.model("m", "slow", concurrency=2)
    config = home.config("killed", [model], [PETS, "demo_gsm8k"])
    with without_variables():
        process = subprocess.Popen(
            [SHIM, "run", config, "--json", "--work-dir", work],
            cwd=home.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **home.variables()},
        )  # fmt: skip
    done: dict[str, int] = {}
    workers: list[int] = []
    for _ in range(1200):
        assert process.poll() is None, process.communicate()
        for path in work.glob("*/events.jsonl"):
            for line in path.read_text().splitlines():
                event = json.loads(line) if line.endswith("}") else {}
                if event.get("event") == "progress":
                    done[event["cell"]] = event["done"]
        # One after the other, each in the middle of its own.
        for cell, count in done.items():
            if count >= 4 and len(workers) < 2:
                ours = _worker_of(process.pid, "pets" in cell)
                if ours and ours not in workers:
                    os.kill(ours, signal.SIGKILL)
                    workers.append(ours)
        if len(workers) == 2:
            break
        time.sleep(0.1)
    stdout, stderr = process.communicate(timeout=200)
    completed = subprocess.CompletedProcess([], process.returncode, stdout, stderr)
    ran = Ran(completed, (work / "latest").resolve())
    journals = {p.name: len(p.read_text().splitlines()) for p in ran.path.rglob("*.journal")}

    def by_set() -> dict[str, list[str]]:
        return {
            "pets": [c["text"] for c in voice.calls if c["sample"] is not None],
            "demo_gsm8k": [c["text"] for c in voice.calls if c["sample"] is None],
        }

    before = by_set()
    voice.calls.clear()
    voice.delay = 0
    again = home.run("killed", config, "--reuse")
    return Killed(ran, again, before, by_set(), journals)


def _worker_of(parent: int, vlmeval: bool) -> int | None:
    """The worker of a toolkit among the children of a run: it has that environment's Python."""
    for worker in _workers(parent):
        with contextlib.suppress(OSError):  # it may have ended
            words = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")
            if words[0] and (b"vlmeval" in words[0]) is vlmeval:
                return worker
    return None


class TestKill:
    @pytest.mark.parametrize("dataset", ["pets", "demo_gsm8k"])
    def test_the_cell_failed_with_the_signal(self, killed: Killed, dataset: str) -> None:
        [row] = killed.ran.cell("m", dataset)

        assert killed.ran.done.returncode == 1
        assert row["status"] == "failed" and "SIGKILL" in row["error"]

    @pytest.mark.parametrize(("dataset", "n"), [("pets", N), ("demo_gsm8k", 36)])
    def test_what_was_answered_is_not_asked_again(
        self, killed: Killed, first: Ran, dataset: str, n: int
    ) -> None:
        before, after = killed.before[dataset], killed.after[dataset]

        assert killed.again.done.returncode == 0, killed.again.done.stderr
        assert killed.again.values("m", dataset) == first.values("m", dataset)
        # What was under way in the moment of the kill is asked once more, and nothing else.
        assert len(before) < n and 4 <= n - len(after) <= len(before)
        assert len({*before} & {*after}) <= 4
        assert len({*before} | {*after}) == n
        assert killed.again.entry("m", dataset)["goes_on_from"] == killed.ran.path.name

    def test_what_it_had_was_in_journals(self, killed: Killed) -> None:
        assert len(killed.journals) == 2
        assert all(lines >= 4 for lines in killed.journals.values()), killed.journals
