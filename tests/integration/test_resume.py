"""Runs that were killed, interrupted, stopped or grown, and went on."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evalshim.demo import answers
from evalshim.demo.endpoint import Endpoint
from tests.conftest import as_base64, picture

from . import chaos, opencompass_data
from .conftest import SHIM, shim
from .own_data import tsv

PARALLEL = 4
# `make chaos` wants more.
KILLS = int(os.environ.get("CHAOS_KILLS", "100"))


class Counting:
    """An endpoint that counts what it was asked, by what it was asked."""

    def __init__(self, latency: float, **keys: Any) -> None:
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.endpoint = Endpoint(latency=latency, on_request=self._note, **keys)

    def _note(self, request: dict[str, Any]) -> None:
        with self._lock:
            self.asked[json.dumps(request["body"], sort_keys=True)] += 1

    def __enter__(self) -> Counting:
        self.endpoint.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.endpoint.stop()

    def reset(self) -> int:
        """How many calls there were since the last time."""
        with self._lock:
            total = sum(self.asked.values())
            self.asked.clear()
        return total


@pytest.fixture
def counting() -> Iterator[Counting]:
    with Counting(0.05) as served:
        yield served


def _config(folder: Path, served: Endpoint, *datasets: Any, **keys: Any) -> Path:
    model = {"name": "m", "api_base": served.url, "model": "evalshim-demo", "temperature": 0}
    path = folder / "eval.json"
    asked = {"models": [model], "datasets": list(datasets), "concurrency": PARALLEL, **keys}
    path.write_text(json.dumps(asked))
    return path


def _results(folder: Path) -> dict[str, str]:
    run = folder / "outputs" / "latest"
    return {name: chaos.without_ids(run / name) for name in ("results.csv", "samples.jsonl")}


SETS = ("demo_shapes", "demo_gsm8k", "demo_arc")


def test_a_run_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    """Over both backends: every sample is answered once in the results, which are those of an
    undisturbed run, and no more calls are repeated than were in flight."""
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**31)))
    print(f"CHAOS_SEED={seed}")
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    with Counting(0.05) as served:
        path = _config(quiet, served.endpoint, *SETS)
        assert shim("run", path, "--no-preflight", cwd=quiet).returncode == 0
        wanted, n = _results(quiet), len(chaos.samples(quiet))
        assert served.reset() == n
    kills: Counter[str] = Counter()
    rounds = itertools.count(1)

    def killed(player: int) -> None:
        dice = random.Random(seed + player)
        while kills.total() < KILLS:
            folder = tmp_path / f"round{next(rounds)}"
            folder.mkdir()
            with Counting(0.05) as served:
                path = _config(folder, served.endpoint, *SETS)
                toll = chaos.finish(folder, path, dice, (0.3, 4.0), 12)
                calls = served.reset()
            kills.update(toll.kills)

            assert chaos.wait_until(lambda f=folder: not chaos.left_of(f)), chaos.left_of(folder)
            assert _results(folder) == wanted
            answered = Counter((s["dataset"], s["index"]) for s in chaos.samples(folder))
            assert set(answered.values()) == {1}
            # In flight, and one or two whose answer had come and was not written yet.
            assert n <= calls <= n + toll.n * (PARALLEL + 2), (calls, n, toll)

    # Two at a time: a run waits for most of the time that it takes.
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(killed, player) for player in range(2)]:
            done.result()
    print(f"{kills} in {next(rounds) - 1} runs")


def _begun(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """A command whose run has some answers."""
    command = subprocess.Popen(
        [SHIM, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def answered() -> bool:
        assert command.poll() is None, command.communicate()
        return bool(re.search(r'"progress".*"done": [1-9]', _events(folder)))

    assert chaos.wait_until(answered, 60)
    return command


def _events(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("outputs/*/events.jsonl"))


def test_an_interrupt_lets_the_calls_in_flight_end(tmp_path: Path) -> None:
    with Counting(1.0) as served:
        path = _config(tmp_path, served.endpoint, "demo_gsm8k", "demo_shapes")
        command = _begun(tmp_path, ["run", str(path)])
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=60)
        assert command.returncode == 130
        assert "finishing the calls in flight" in stderr
        assert "`shim resume outputs/" in stderr
        assert "Traceback" not in stderr
        header = json.loads((tmp_path / "outputs/latest/run.json").read_text())
        assert header["status"] == "interrupted"
        asked = served.reset()
        served.endpoint.latency = 0

        done = shim("resume", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        # One more is the preflight's; not a single call was in vain.
        assert asked + served.reset() == len(chaos.samples(tmp_path)) + 2


def test_a_second_interrupt_ends_a_run_at_once(tmp_path: Path) -> None:
    with Counting(60.0) as served:
        path = _config(tmp_path, served.endpoint, "demo_gsm8k")
        command = subprocess.Popen(
            [SHIM, "run", path, "--no-preflight"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert chaos.wait_until(lambda: served.asked, 60)
        command.send_signal(signal.SIGINT)
        assert chaos.wait_until(lambda: command.poll() is not None, 2) is False
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=8)
        assert command.returncode == 130
        assert chaos.wait_until(lambda: not chaos.left_of(tmp_path))


def test_what_failed_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    broken = threading.Event()
    broken.set()

    def sometimes(messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        if broken.is_set() and ("square" in text or "postcards" in text):
            raise ConnectionAbortedError("not now")
        return answers.answer(messages)

    with Counting(0.0, answer=sometimes) as served:
        path = _config(tmp_path, served.endpoint, "demo_gsm8k", "demo_shapes", retries=0)
        first = shim("run", path, "--set", "models.0.retry=1", "--no-preflight", cwd=tmp_path)
        assert first.returncode == 1
        failed = [s for s in chaos.samples(tmp_path) if s["prediction"] is None]
        kinds = Counter(s["dataset"] for s in failed)
        assert kinds.keys() == {"demo_gsm8k", "demo_shapes"}
        n = len(chaos.samples(tmp_path))
        broken.clear()
        served.reset()

        again = shim("resume", "--no-preflight", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert served.reset() == len(failed)
        assert all(s["prediction"] for s in chaos.samples(tmp_path))
        assert len(chaos.samples(tmp_path)) == n
        third = shim("resume", "--no-preflight", cwd=tmp_path)
        assert (third.returncode, served.reset()) == (0, 0)  # all of it has ended


def test_what_is_new_in_the_configuration_is_run_and_nothing_else(
    tmp_path: Path, counting: Counting
) -> None:
    path = _config(tmp_path, counting.endpoint, "demo_arc")
    assert shim("run", path, "--no-preflight", cwd=tmp_path).returncode == 0
    first = _results(tmp_path)
    run = (tmp_path / "outputs" / "latest").resolve()
    counting.reset()
    path = _config(tmp_path, counting.endpoint, "demo_arc", "demo_shapes")

    done = shim("run", path, "--resume", "--no-preflight", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "latest").resolve() == run
    shapes = [s for s in chaos.samples(tmp_path) if s["dataset"] == "demo_shapes"]
    assert counting.reset() == len(shapes) == 48
    second = _results(tmp_path)
    for name, text in first.items():
        assert second[name].startswith(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--set", "models.0.temperature=1"], "temperature: 0 -> 1"),
        (["--set", "limit=3"], "limit: not given -> 3"),
    ],
)
def test_another_piece_of_work_is_refused_unless_forced(
    tmp_path: Path, counting: Counting, change: list[str], said: str
) -> None:
    path = _config(tmp_path, counting.endpoint, "demo_arc")
    assert shim("run", path, "--no-preflight", cwd=tmp_path).returncode == 0
    before = _results(tmp_path)

    refused = shim("resume", *change, "--no-preflight", cwd=tmp_path)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert _results(tmp_path) == before
    forced = shim("resume", *change, "--force", "--no-preflight", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr
    header = json.loads((tmp_path / "outputs/latest/run.json").read_text())
    assert any(said in line for line in header["resumed"][-1]["forced"])


def test_another_data_file_is_refused(tmp_path: Path, counting: Counting) -> None:
    data = tmp_path / "pets.tsv"
    rows = "".join(f"{i}\tWhich? {i}\tcat\tdog\tA\n" for i in range(6))
    data.write_text(f"index\tquestion\tA\tB\tanswer\n{rows}")
    path = _config(tmp_path, counting.endpoint, {"name": "pets", "path": str(data)})
    assert shim("run", path, "--no-preflight", cwd=tmp_path).returncode == 0
    data.write_text(data.read_text().replace("cat", "hen"))

    refused = shim("resume", "--no-preflight", cwd=tmp_path)

    assert refused.returncode == 2
    assert f"another file at {data}" in refused.stderr


def test_two_that_go_on_with_one_run_are_told_apart(tmp_path: Path) -> None:
    with Counting(3.0) as served:
        path = _config(tmp_path, served.endpoint, "demo_gsm8k")
        command = _begun(tmp_path, ["run", str(path), "--no-preflight"])
        second = shim("resume", "--no-preflight", cwd=tmp_path)
        assert second.returncode == 2
        assert str(command.pid) in second.stderr
        assert os.uname().nodename in second.stderr
        command.kill()
        command.communicate()
        served.endpoint.latency = 0
        assert chaos.wait_until(lambda: not chaos.left_of(tmp_path))
        assert shim("resume", "--no-preflight", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_requests": 20}, "max_requests of 20 reached"),
        ({"run_timeout": 4}, "run_timeout of 4 s is over"),
    ],
)
def test_a_limit_stops_a_run_that_can_be_gone_on_with(
    tmp_path: Path, limit: dict[str, Any], said: str
) -> None:
    with Counting(0.3) as served:
        path = _config(tmp_path, served.endpoint, *SETS, **limit)
        stopped = shim("run", path, "--no-preflight", cwd=tmp_path)
        assert stopped.returncode == 1
        assert said in stopped.stdout
        header = json.loads((tmp_path / "outputs/latest/run.json").read_text())
        assert header["status"] == "stopped"
        asked = served.reset()
        if "max_requests" in limit:
            assert asked == 20
        served.endpoint.latency = 0

        key = next(iter(limit))
        done = shim("resume", "--set", f"{key}=null", "--no-preflight", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "stopped: " not in done.stdout
        n = len(chaos.samples(tmp_path))
        assert n <= asked + served.reset() <= n + PARALLEL


def test_a_limit_that_the_last_call_reaches_stops_nothing(tmp_path: Path) -> None:
    with Counting(0.0) as served:
        path = _config(tmp_path, served.endpoint, "demo_shapes", limit=3, max_requests=3)
        done = shim("run", path, "--no-preflight", cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert "stopped" not in done.stdout
    assert json.loads((tmp_path / "outputs/latest/run.json").read_text())["status"] == "finished"


def test_a_cell_that_hangs_fails_and_the_next_goes_on(tmp_path: Path) -> None:
    """Whatever hangs: here a plug-in, in a loop that no timeout of a request ends."""
    plugin = tmp_path / "hang.py"
    plugin.write_text(
        "import time\n"
        "from vlmeval.dataset import CustomTextMCQDataset as Set\n"
        "build_prompt = Set.build_prompt\n"
        "def slow(self, line):\n"
        "    while 'hang' in self.dataset_name: time.sleep(1)\n"
        "    return build_prompt(self, line)\n"
        "Set.build_prompt = slow\n"
    )
    for name in ("hangs", "works"):
        text = "index\tquestion\tA\tB\tanswer\n1\tWhich?\tcat\tdog\tA\n"
        (tmp_path / f"{name}.tsv").write_text(text)
    with Counting(0.0) as served:
        sets = [{"name": n, "path": str(tmp_path / f"{n}.tsv")} for n in ("hangs", "works")]
        path = _config(tmp_path, served.endpoint, *sets, stall_timeout=20, plugins=[str(plugin)])
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    found = {r["dataset"]: r for r in json.loads(done.stdout)["rows"]}
    assert done.returncode == 1
    assert found["hangs"]["status"] == "failed"
    assert "nothing came of it for stall_timeout" in found["hangs"]["error"]
    assert found["works"]["status"] == "scored"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import sys; sys.exit(7)", "SystemExit: 7"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_what_ends_a_process_ends_its_cell_alone(tmp_path: Path, code: str, said: str) -> None:
    plugin = tmp_path / "evil.py"
    plugin.write_text(
        "from vlmeval.dataset import CustomTextMCQDataset as Set\n"
        "evaluate = Set.evaluate\n"
        "def ends(self, *args, **kwargs):\n"
        f"    if 'dies' in self.dataset_name: {code}\n"
        "    return evaluate(self, *args, **kwargs)\n"
        "Set.evaluate = ends\n"
    )
    for name in ("dies", "lives"):
        text = "index\tquestion\tA\tB\tanswer\n1\tWhich?\tcat\tdog\tA\n"
        (tmp_path / f"{name}.tsv").write_text(text)
    with Counting(0.0) as served:
        sets = [{"name": n, "path": str(tmp_path / f"{n}.tsv")} for n in ("dies", "lives")]
        path = _config(tmp_path, served.endpoint, *sets, plugins=[str(plugin)])
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)

    found = {r["dataset"]: r for r in json.loads(done.stdout)["rows"]}
    assert (found["dies"]["status"], found["lives"]["status"]) == ("failed", "scored")
    assert said in found["dies"]["error"]


def test_a_kill_behind_the_grading_leaves_the_verdicts(tmp_path: Path, counting: Counting) -> None:
    """Whether upstream grades again (multiple choice) or takes what is there (yes or no)."""
    plugin = tmp_path / "killed.py"
    plugin.write_text(
        "import os\n"
        "from vlmeval.dataset import CustomTextMCQDataset, ImageYORNDataset\n"
        "def killed(evaluate):\n"
        "    def evaluated(self, *args, **kwargs):\n"
        "        found = evaluate(self, *args, **kwargs)\n"
        "        flag = f'{os.path.dirname(__file__)}/{self.dataset_name}.killed'\n"
        "        if not os.path.exists(flag):\n"
        "            open(flag, 'w').close()\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return found\n"
        "    return evaluated\n"
        "for one in (CustomTextMCQDataset, ImageYORNDataset): one.evaluate = killed(one.evaluate)\n"
    )
    (tmp_path / "two.tsv").write_text(
        "index\tquestion\tA\tB\tanswer\n1\tWhich?\tcat\tdog\tA\n2\tWhich one?\tcat\tdog\tB\n"
    )
    seen = as_base64(picture())
    rows = [["1", seen, "Is it? yes or no", "Yes"], ["2", seen, "Is it not? yes or no", "No"]]
    tsv(tmp_path / "whether.tsv", ["index", "image", "question", "answer"], rows)
    yes = str(tmp_path / "whether.tsv")
    whether = {"name": "whether", "path": yes, "class": "ImageYORNDataset"}
    sets = [{"name": "two", "path": str(tmp_path / "two.tsv")}, whether]
    path = _config(tmp_path, counting.endpoint, *sets, plugins=[str(plugin)])
    assert shim("run", path, "--no-preflight", cwd=tmp_path).returncode == 1
    assert {s["correct"] for s in chaos.samples(tmp_path)} <= {None}
    # And one that came while upstream held its lock.
    for held in (tmp_path / "outputs/latest/upstream/vlmeval").rglob("status.json"):
        held.with_name("status.json.lock").touch()
    asked = counting.reset()

    done = shim("resume", "--no-preflight", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert counting.reset() == 0 < asked
    found = {(s["dataset"], s["index"]): s["correct"] for s in chaos.samples(tmp_path)}
    assert len(found) == 4
    assert None not in found.values()


def test_a_kill_while_a_set_is_scored_leaves_what_was_seen_of_its_answers(
    tmp_path: Path, counting: Counting
) -> None:
    plugin = tmp_path / "killed.py"
    plugin.write_text(
        "import os\n"
        "from opencompass.tasks import OpenICLEvalTask\n"
        "run, flag = OpenICLEvalTask.run, f'{os.path.dirname(__file__)}/killed'\n"
        "def killed(self):\n"
        "    if not os.path.exists(flag):\n"
        "        open(flag, 'w').close()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return run(self)\n"
        "OpenICLEvalTask.run = killed\n"
    )
    path = _config(tmp_path, counting.endpoint, "demo_gsm8k", plugins=[str(plugin)])
    assert shim("run", path, "--no-preflight", cwd=tmp_path).returncode == 1
    asked = counting.reset()

    done = shim("resume", "--no-preflight", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert counting.reset() == 0 < asked
    [cell] = json.loads((tmp_path / "outputs/latest/run.json").read_text())["cells"].values()
    assert cell["sent"]["temperature"] == 0
    assert cell["reported"] == "evalshim-demo"


def test_cells_that_had_not_begun_get_a_fresh_worker(tmp_path: Path) -> None:
    sets = []
    for name in ("one", "two", "three", "four", "five", "six"):
        rows = "".join(f"{i}\tWhich is {name} {i}?\tcat\tdog\tA\n" for i in range(6))
        (tmp_path / f"{name}.tsv").write_text(f"index\tquestion\tA\tB\tanswer\n{rows}")
        sets.append({"name": name, "path": str(tmp_path / f"{name}.tsv")})
    with Counting(2.0) as served:
        path = _config(tmp_path, served.endpoint, *sets)
        command = _begun(tmp_path, ["run", str(path), "--no-preflight", "--json"])
        [worker] = chaos.children(command.pid)
        os.kill(worker, signal.SIGKILL)
        served.endpoint.latency = 0
        stdout, stderr = command.communicate(timeout=200)

    found = {r["dataset"]: r for r in json.loads(stdout)["rows"]}
    assert command.returncode == 1, stderr
    lost = {name for name, row in found.items() if row["status"] == "failed"}
    assert lost >= {"one"}
    assert all("signal SIGKILL" in found[name]["error"] for name in lost)
    assert {found[name]["status"] for name in ("five", "six")} == {"scored"}


def test_sets_of_some_models_alone_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCompass asks each model of a configuration each of its sets; a fresh worker has to do
    those that had not begun."""
    opencompass_data.write("gsm8k", tmp_path)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    for name in ("s1", "s2", "s3"):
        shutil.copytree(tmp_path / "data" / "gsm8k", tmp_path / "sets" / name)
    with Counting(1.0) as served:
        url = served.endpoint.url
        models = [{"name": f"m{k}", "api_base": url, "model": "evalshim-demo"} for k in (1, 2, 3)]
        sets = [
            {"name": name, "dataset": "opencompass:gsm8k_gen_1d7fe4",
             "path": str(tmp_path / "sets" / name)}
            for name in ("s1", "s2", "s3")
        ]  # fmt: skip
        path = _config(tmp_path, served.endpoint, *sets, models=models)
        command = _begun(tmp_path, ["run", str(path), "--no-preflight", "--json"])
        [worker] = chaos.children(command.pid)
        os.kill(worker, signal.SIGKILL)
        served.endpoint.latency = 0
        stdout, stderr = command.communicate(timeout=200)

    found = json.loads(stdout)["rows"]
    lost = [row for row in found if row["status"] == "failed"]
    assert len(found) == 9 and 0 < len(lost) < 9, stderr
    assert all("SIGKILL" in row["error"] for row in lost)


@pytest.mark.parametrize("latency", [2.0, 60.0])
def test_a_cell_of_many_sets_ends_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latency: float
) -> None:
    """Those of its sets that begin later, too; and it is said why, whether or not it has any
    answer."""
    opencompass_data.write("mmlu", tmp_path)
    monkeypatch.setenv("COMPASS_DATA_CACHE", str(tmp_path))
    with Counting(latency) as served:
        path = _config(tmp_path, served.endpoint, "mmlu", cell_timeout=3)
        done = shim("run", path, "--no-preflight", "--json", cwd=tmp_path)
        asked = served.reset()

    assert done.returncode == 1
    [row] = {row["error"] for row in json.loads(done.stdout)["rows"]}
    assert row == "it took longer than cell_timeout, 3 s"
    assert asked < 2 * 57


def test_an_endpoint_that_restarts_costs_nothing(tmp_path: Path) -> None:
    """Its calls wait for it, and that is said."""
    with Counting(0.2) as served:
        path = _config(tmp_path, served.endpoint, "demo_gsm8k", "demo_shapes")
        command = _begun(tmp_path, ["run", str(path), "--no-preflight"])
        served.endpoint.stop()
        assert chaos.wait_until(lambda: "does not answer" in _events(tmp_path), 50)
        served.endpoint.start()
        stdout, stderr = command.communicate(timeout=200)

    assert command.returncode == 0, stderr
    assert "does not answer" in stderr
    assert "answers again" in stderr
    assert all(s["prediction"] for s in chaos.samples(tmp_path)), stdout
