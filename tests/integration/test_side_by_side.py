"""Two of everything at once: runs in one folder, over one $LMUData."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evalshim import envs, housekeeping, locks
from evalshim.demo.endpoint import Endpoint
from evalshim.errors import ConfigError
from tests.conftest import as_base64, picture
from tests.worker_package import AS_WORKER

from .conftest import SHIM, bodies, shim

Config = Callable[..., Path]
PICTURES = 6
# What stands at a file's place when the library that writes it for upstream has just begun;
# and what in the end, and after a download that broke.
WRITING = """
folder, patched = sys.argv[1:]
import base64, importlib, io, urllib.request
from evalshim_worker import api_imports, shared_data, torchvision_ops
torchvision_ops.install()
image_base = api_imports.load(
    "vlmeval", lambda: importlib.import_module("vlmeval.dataset.image_base")
)
from vlmeval.smp import read_ok
import pandas as pd
from PIL import Image
if patched == "patched":
    shared_data.write_whole()
from vlmeval import tools

begun = {}
def watched(function, name):
    def watch(*args, **kwargs):
        function(*args, **kwargs)
        begun[name] = os.path.exists(os.path.join(folder, name))
    return watch

out = io.BytesIO()
Image.new("RGB", (300, 300), "red").save(out, "PNG")
picture = os.path.join(folder, "0.png")
with open(picture, "wb") as file:
    file.write(out.getvalue()[:100])
half_is_ok = read_ok(picture)
os.remove(picture)
Image.Image.save = watched(Image.Image.save, "0.png")
pd.DataFrame.to_csv = watched(pd.DataFrame.to_csv, "d_local.tsv")
urllib.request.urlretrieve = watched(urllib.request.urlretrieve, "d.tsv")

image_base.decode_base64_to_image_file(base64.b64encode(out.getvalue()).decode(), picture)
source, data = os.path.join(os.path.dirname(folder), "source"), os.path.join(folder, "d.tsv")
with open(source, "w") as file:
    file.write("index\\n1\\n")
assert image_base.download_file(f"file://{source}", data) == data
tools.dump(pd.DataFrame({"index": [1]}), os.path.join(folder, "d_local.tsv"))
files = sorted(os.listdir(folder))
sizes = Image.open(picture).size, open(data).read(), len(pd.read_csv(data, sep="\\t"))

def broken(url, filename, **kwargs):
    with open(filename, "w") as file:
        file.write("half")
    raise OSError("no more of it")
urllib.request.urlretrieve = broken
try:
    image_base.download_file(f"file://{source}", os.path.join(folder, "b.tsv"))
except Exception as error:
    left = sorted(set(os.listdir(folder)) - set(files))
print(json.dumps([half_is_ok, begun, files, sizes, left]))
"""


@pytest.fixture
def lmudata(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a fresh $LMUData with MMStar.tsv: pictures that take a while to write."""
    noise = random.Random(7)
    table = [["index", "question", "A", "B", "answer", "category", "l2_category", "image"]]
    for number in range(PICTURES):
        out = io.BytesIO()
        Image.frombytes("RGB", (900, 900), noise.randbytes(900 * 900 * 3)).save(out, "PNG")
        encoded = base64.b64encode(out.getvalue()).decode()
        table.append([str(number), f"Which is {number}?", "yes", "no", "A", "c", "l", encoded])

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "MMStar.tsv").open("w", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(table)
        return folder

    return make


def _start(config: Path, folder: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SHIM, "run", config, "--json", *flags],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return json.loads(stdout)  # type: ignore[no-any-return]


def _scores(run: dict[str, Any]) -> list[Any]:
    """The rows of a run, but for what tells runs apart."""
    return [
        {k: v for k, v in row.items() if k not in ("run_id", "source_file")} for row in run["rows"]
    ]


def _samples(folder: Path, run: dict[str, Any]) -> list[str]:
    """The samples of a run, but for what tells runs apart."""
    text = (folder / "outputs" / run["run"]["run_id"] / "samples.jsonl").read_text()
    same = text.replace(run["run"]["run_id"], "RUN").replace(str(folder / "alone"), "DATA")
    return same.replace(str(folder / "shared"), "DATA").splitlines()


@pytest.mark.parametrize("how", ["upstream", "patched"])
def test_files_that_runs_share_are_written_whole(
    environments: dict[str, Path], tmp_path: Path, how: str
) -> None:
    (tmp_path / "lmudata").mkdir()
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + WRITING, tmp_path / "lmudata", how],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-4000:]
    half_is_ok, begun, files, sizes, left = json.loads(done.stdout.splitlines()[-1])
    assert half_is_ok  # upstream takes half a picture for one
    in_place = how == "upstream"
    assert begun == {"0.png": in_place, "d.tsv": in_place, "d_local.tsv": in_place}
    assert left == (["b.tsv"] if in_place else [])
    assert files == ["0.png", "d.tsv", "d_local.tsv"]
    assert sizes == [[300, 300], "index\n1\n", 1]


# Fetches a set of data as upstream does; whether its folder stands there while it is unpacked.
FETCHING = """
folder, patched = sys.argv[1:]
import hashlib, zipfile
os.environ["COMPASS_DATA_CACHE"] = folder
from evalshim_worker import shared_data
from opencompass.utils import datasets
if patched == "patched":
    shared_data.unpack_whole()
archive = os.path.join(os.path.dirname(folder), "pets.zip")
md5 = hashlib.md5(open(archive, "rb").read()).hexdigest()
datasets.DATASETS_URL["/pets"] = {"url": f"file://{archive}", "md5": md5}
begun = []
extractall = zipfile.ZipFile.extractall
def watch(*args, **kwargs):
    extractall(*args, **kwargs)
    begun.append(os.path.exists(os.path.join(folder, "data", "pets")))
zipfile.ZipFile.extractall = watch
print("ready", file=sys.stderr, flush=True)
sys.stdin.readline()
path = datasets.get_data_path("data/pets", local_mode=True)
files = sorted(os.listdir(path))
print(json.dumps([begun, files]))
"""


@pytest.mark.parametrize(("how", "runs"), [("upstream", 1), ("patched", 1), ("patched", 2)])
def test_a_folder_of_data_is_fetched_whole_and_once(
    environments: dict[str, Path], tmp_path: Path, how: str, runs: int
) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for number in range(200):
            archive.writestr(f"pets/{number}.jsonl", "{}\n" * 1000)
    (tmp_path / "cache" / "data" / "birds").mkdir(parents=True)
    code, cache = AS_WORKER + FETCHING, tmp_path / "cache"
    processes = [
        subprocess.Popen(
            [environments["opencompass"], "-c", code, cache, how],
            cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(runs)
    ]  # fmt: skip
    for process in processes:
        assert process.stderr
        assert "ready\n" in iter(process.stderr.readline, "")
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=300) for process in processes]

    assert [p.returncode for p in processes] == [0] * runs, ended[0][1][-4000:]
    found = [json.loads(stdout.splitlines()[-1]) for stdout, _ in ended]
    assert [begun for each, _ in found for begun in each] == [how == "upstream"]
    assert [len(files) for _, files in found] == [200] * runs
    left = {path.name for path in (tmp_path / "cache" / "data").iterdir()}
    assert left == {"birds", "pets"}


def test_two_runs_unpack_the_same_pictures(
    tmp_path: Path, config: Config, asked: list[dict[str, Any]], lmudata: Callable[[str], Path]
) -> None:
    path = config("MMStar", verify_data="off")
    alone = _ended(_start(path, tmp_path, LMUData=str(lmudata("alone"))))
    asked_alone = bodies(asked)
    asked.clear()
    shared = lmudata("shared")

    both = [_start(path, tmp_path, LMUData=str(shared)) for _ in range(2)]
    first, second = map(_ended, both)

    assert len(asked_alone) == PICTURES
    assert bodies(asked) == sorted(asked_alone * 2)
    assert _scores(first) == _scores(second) == _scores(alone)
    assert _samples(tmp_path, first) == _samples(tmp_path, second) == _samples(tmp_path, alone)
    # And two runs of one second, as these may be, each have their folder.
    ids = {run["run"]["run_id"] for run in (alone, first, second)}
    outputs = tmp_path / "outputs"
    assert {p.name for p in outputs.iterdir()} == {"latest", *ids}
    assert (outputs / "latest").readlink().name in ids
    pictures = sorted(p.name for p in (shared / "images" / "MMStar").iterdir())
    assert pictures == [f"{number}.png" for number in range(PICTURES)]


def test_a_run_is_held_while_it_runs_and_nothing_holds_it_when_it_is_killed(
    tmp_path: Path, config: Config, environments: dict[str, Path]
) -> None:
    answering = threading.Event()

    def answer(messages: list[dict[str, Any]]) -> str:
        begun.set()
        answering.wait()
        return "A"

    begun = threading.Event()
    with Endpoint(answer=answer) as endpoint:
        path = config("demo_arc", limit=4, model={"api_base": endpoint.url})
        running = _start(path, tmp_path, "--no-preflight")
        assert begun.wait(timeout=120)

        [run] = housekeeping.runs(tmp_path / "outputs")
        assert (run.status, run.done) == ("running", 0)
        assert run.owner and run.owner.pid == running.pid
        with pytest.raises(ConfigError, match="is running"):
            housekeeping.chosen([run.id], tmp_path / "outputs")
        with pytest.raises(ConfigError, match="is in use"), locks.held(run.path):
            pass
        with locks.unshared(envs.prefix("opencompass") / envs.STATE) as free:
            assert not free
        follower = subprocess.Popen(
            [SHIM, "logs", "--follow"], cwd=tmp_path, stdout=subprocess.PIPE
        )
        running.kill()
        running.communicate()
        assert follower.communicate(timeout=60)[0]
        assert follower.returncode == 0
        answering.set()

    [run] = housekeeping.runs(tmp_path / "outputs")
    assert (run.status, run.owner) == ("died", None)
    with locks.unshared(envs.prefix("opencompass") / envs.STATE) as free:
        assert free
    assert shim("runs", "rm", run.id, "--yes", cwd=tmp_path).returncode == 0
    assert list((tmp_path / "outputs").iterdir()) == []


def test_circular_sets_of_one_run_never_read_one_another(tmp_path: Path) -> None:
    """Upstream sends the table of each through /tmp, under the second of the day."""
    before = set(Path("/tmp").glob("20*.tsv"))
    sets = []
    for number in range(4):
        # Set 1 has one question, and so on; rotated once each; right where the number is even.
        table = [["index", "g_index", "question", "A", "B", "answer", "image"]]
        for group in range(number + 1):
            for turn in (0, 1_000_000):
                table.append([str(turn + group), str(group), f"Set {number}, {group}, {turn}?",
                              "yes", "no", "AB"[number % 2], as_base64(picture())])  # fmt: skip
        path = tmp_path / f"circular_{number}.tsv"
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(table)
        sets.append({"name": path.stem, "path": str(path)})
    with Endpoint(answer=lambda messages: "A") as served:
        model = {"name": "m", "api_base": served.url, "model": "evalshim-demo"}
        (tmp_path / "eval.json").write_text(json.dumps({"models": [model], "datasets": sets}))
        run = _ended(_start(Path("eval.json"), tmp_path, "--no-preflight"))

    scores = {r["dataset"]: r["score"] for r in run["rows"] if r["is_primary"]}
    assert scores == {f"circular_{number}": 1.0 - number % 2 for number in range(4)}
    samples = [json.loads(line) for line in _samples(tmp_path, run)]
    graded = [s for s in samples if s["correct"] is not None]
    assert len(graded) == 1 + 2 + 3 + 4
    # Runs of upstream's own, beside this one, may leave theirs.
    new = set(Path("/tmp").glob("20*.tsv")) - before
    assert not [path for path in new if "Set " in path.read_text()]
    assert not [*(tmp_path / "outputs" / run["run"]["run_id"]).rglob("*_table.*")]
