"""`shim runs`, `runs rm`, `logs` and `env rm`: what is there, and nothing else goes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from evalshim import envs, housekeeping, locks, results
from evalshim.spec import Row

from .conftest import SHIM

Shim = Callable[..., subprocess.CompletedProcess[str]]
MakeRun = Callable[..., Path]
Hold = Callable[..., "subprocess.Popen[str]"]
# Does what the first argument says with the second, until its stdin closes.
HOLDER = """
import pathlib, sys
from evalshim import locks
with getattr(locks, sys.argv[1])(pathlib.Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


@pytest.fixture
def make_run(outputs: Path) -> MakeRun:
    """Makes a run directory that began so many days ago; keywords are keys of run.json."""

    def make(name: str, days: float = 0, status: str = "finished", **keys: Any) -> Path:
        folder = outputs / name
        (folder / "logs").mkdir(parents=True)
        began = datetime.now(timezone.utc) - timedelta(days=days)
        cells = {
            f"m__{dataset}": {
                "model": "m", "dataset": dataset, "status": done, "log": f"logs/m__{dataset}.log",
            }
            for dataset, done in (("pets", "scored"), ("birds", "failed"))
        }  # fmt: skip
        header = {
            "run_id": name, "status": status, "exit_code": 1, "started_at": began.isoformat(),
            "backends": {"vlmeval": {}}, "cells": cells, **keys,
        }  # fmt: skip
        row = Row(name, "vlmeval", "", "m", "pets", metric="acc", value=0.5, score=0.5,
                  is_primary=True, status="scored")  # fmt: skip
        results.write(folder, header, [row], [])
        for log in ("vlmeval", *cells):
            (folder / "logs" / f"{log}.log").write_text(f"first of {log}\nsecond of {log}\n")
        return folder

    return make


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Has another process hold a run, or use a file's environment, until the test ends."""
    holders = []

    def start(path: Path, how: str = "held") -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, how, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        holders.append(holder)
        assert holder.stdout and holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in holders:
        assert holder.stdin and holder.stdout
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def on_a_terminal(folder: Path, *args: str, typed: str = "") -> tuple[int, str]:
    """`shim` with a terminal: exit code, what that showed."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [SHIM, *args], cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    os.write(screen, typed.encode())
    shown = b""
    while True:
        try:
            found = os.read(screen, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not found:
            break
        shown += found
    os.close(screen)
    return process.wait(), shown.decode()


class TestRuns:
    def test_newest_first(self, shim: Shim, make_run: MakeRun) -> None:
        make_run("20260101-120000", days=2)
        make_run("20260102-120000-2", days=1, status="interrupted", exit_code=130)
        make_run("20260102-120000-10", days=0.1)

        done = shim("runs")

        assert (done.returncode, done.stderr) == (0, "")
        head, _, *lines = [line.split() for line in done.stdout.splitlines()]
        assert head == ["run", "status", "cells", "exit", "age", "size", "of"]
        assert [line[:6] for line in lines] == [
            ["20260102-120000-10", "finished", "1/2", "1", "2", "h"],
            ["20260102-120000-2", "interrupted", "1/2", "130", "1", "d"],
            ["20260101-120000", "finished", "1/2", "1", "2", "d"],
        ]
        assert done.stdout.count("m x pets 0.5000, m x birds") == 3

    @pytest.mark.parametrize("command", ["results", "compare", "resume"])
    def test_every_command_takes_the_id_of_a_run_and_its_path(
        self, shim: Shim, make_run: MakeRun, command: str
    ) -> None:
        name = make_run("20260101-120000").name
        twice = 2 if command == "compare" else 1

        by_id, by_path = (shim(command, *[n] * twice) for n in (name, f"outputs/{name}"))

        assert (by_id.stdout, by_id.stderr) == (by_path.stdout, by_path.stderr)
        assert name in by_id.stdout + by_id.stderr or command == "results"
        assert by_id.returncode == {"results": 0, "compare": 0, "resume": 2}[command]

    def test_as_json(self, shim: Shim, make_run: MakeRun) -> None:
        folder = make_run("20260101-120000", days=2)

        [found] = json.loads(shim("runs", "--json").stdout)

        assert found.pop("started_at")
        assert 172_800 <= found.pop("age") < 173_800
        assert found.pop("size") == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        assert found == {
            "run": "20260101-120000", "path": "outputs/20260101-120000", "status": "finished",
            "exit_code": 1, "cells": 2, "cells_done": 1, "owner": None,
            "scores": [
                {"model": "m", "dataset": "pets", "metric": "acc", "value": 0.5, "score": 0.5}
            ],
        }  # fmt: skip

    def test_a_run_that_nobody_has_and_that_did_not_end_died(
        self, shim: Shim, make_run: MakeRun, hold: Hold
    ) -> None:
        folder = make_run("20260101-120000", status="running", exit_code=None)
        holder = hold(folder)

        [found] = json.loads(shim("runs", "--json").stdout)
        assert (found["status"], found["owner"]["pid"]) == ("running", holder.pid)
        holder.kill()
        holder.wait()
        [found] = json.loads(shim("runs", "--json").stdout)
        assert (found["status"], found["owner"], found["exit_code"]) == ("died", None, None)

    def test_what_is_no_run_is_not_listed(self, outputs: Path, make_run: MakeRun) -> None:
        run = make_run("20260101-120000")
        (outputs / "latest").symlink_to(run.name)
        (outputs / "notes").mkdir()
        (outputs / "theirs").mkdir()
        (outputs / "theirs" / "run.json").write_text('{"tool": "of somebody else"}')
        (outputs / "20260102-120000").mkdir()
        (outputs / "20260102-120000" / "thesis.tex").touch()
        (outputs / "20260103-120000").touch()

        assert [found.id for found in housekeeping.runs(outputs)] == [run.name]

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"run_id": 1, "cells": 5}', "[" * 100_000, '{"run_id": "\x1b[2J"}']
    )
    def test_a_run_whose_header_says_nothing(self, shim: Shim, outputs: Path, text: str) -> None:
        (outputs / "20260101-120000").mkdir()
        (outputs / "20260101-120000" / "run.json").write_text(text)

        done = shim("runs")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[2].split()[:3] in (
            ["20260101-120000", "unreadable", "0/0"], ["20260101-120000", "None", "0/0"],
        )  # fmt: skip

    def test_what_a_file_says_does_nothing_to_the_terminal(
        self, shim: Shim, make_run: MakeRun
    ) -> None:
        make_run("20260101-120000", status="\x1b[2Jfinished\nnow")

        text = shim("runs").stdout
        assert "\\x1b[2Jfinished now" in text
        assert "\x1b" not in text

    def test_none(self, shim: Shim, outputs: Path) -> None:
        done = shim("runs")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "no runs in outputs\n")

        done = shim("runs", "--work-dir", "other")
        assert (done.returncode, done.stdout) == (2, "")
        assert "no runs in other" in done.stderr
        assert "--work-dir DIR" in done.stderr


class TestRemoval:
    def _left(self, outputs: Path) -> list[str]:
        return sorted(path.name for path in outputs.iterdir())

    def test_by_name(self, shim: Shim, outputs: Path, make_run: MakeRun) -> None:
        for day in (1, 2, 3, 4):
            make_run(f"2026010{day}-120000", days=10 - day)
        (outputs / "latest").symlink_to("20260104-120000")

        done = shim("runs", "rm", "20260104-120000", "outputs/20260102-120000", "--yes")

        assert (done.returncode, done.stderr) == (0, "")
        first, second, last = done.stdout.splitlines()
        assert first.startswith("removed 20260104-120000 (")
        assert second.startswith("removed 20260102-120000 (")
        assert last.startswith("freed ") and last.endswith(" kB")
        assert self._left(outputs) == ["20260101-120000", "20260103-120000", "latest"]
        assert (outputs / "latest").readlink() == Path("20260103-120000")

    def test_latest_goes_with_the_last_run(
        self, shim: Shim, outputs: Path, make_run: MakeRun
    ) -> None:
        make_run("20260101-120000")
        (outputs / "latest").symlink_to("20260101-120000")

        assert shim("runs", "rm", "20260101-120000", "--yes").returncode == 0
        assert self._left(outputs) == []

    def test_by_age_and_number(self, shim: Shim, outputs: Path, make_run: MakeRun) -> None:
        for day in range(1, 7):
            make_run(f"2026010{day}-120000", days=7 - day)

        done = shim("runs", "rm", "--keep", "2", "--older-than", "5d", "-y")
        assert [line.split()[1] for line in done.stdout.splitlines()[:-1]] == [
            "20260102-120000", "20260101-120000",
        ]  # fmt: skip
        shim("runs", "--work-dir", "outputs", "rm", "--keep", "2", "-y")
        assert self._left(outputs) == ["20260105-120000", "20260106-120000"]
        done = shim("runs", "rm", "--older-than", "52w", "-y")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing to remove\n")

    def test_one_that_is_running_stays(
        self, shim: Shim, outputs: Path, make_run: MakeRun, hold: Hold
    ) -> None:
        running, other = make_run("20260101-120000", days=9), make_run("20260102-120000", days=9)
        holder = hold(running)

        done = shim("runs", "rm", other.name, running.name, "--yes")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"the run {running.name} is running" in done.stderr
        assert f"process {holder.pid} on {socket.gethostname()}" in done.stderr
        assert self._left(outputs) == [running.name, other.name]

        assert shim("runs", "rm", "--older-than", "1d", "--yes").returncode == 0
        assert self._left(outputs) == [running.name]

    def test_what_a_killed_run_left_before_its_first_file(self, shim: Shim, outputs: Path) -> None:
        for name in ("20260101-120000", "20260101-120000-2"):
            (outputs / name / "logs").mkdir(parents=True)
            (outputs / name / ".lock").touch()
        (outputs / "20260101-120000-2" / "config.yaml").touch()

        assert [run.status for run in housekeeping.runs(outputs)] == ["died", "died"]
        assert shim("runs", "rm", "--keep", "0", "--yes").returncode == 0
        assert self._left(outputs) == []

    def test_an_interrupted_removal_is_finished_by_the_next(
        self, shim: Shim, outputs: Path, make_run: MakeRun
    ) -> None:
        make_run("20260101-120000").rename(outputs / ".20260101-120000.shim-removed")
        make_run("20260102-120000")

        assert len(housekeeping.runs(outputs)) == 1
        shim("runs", "rm", "20260102-120000", "--yes")
        assert self._left(outputs) == []

    def test_links_are_not_followed(
        self, shim: Shim, tmp_path: Path, outputs: Path, make_run: MakeRun
    ) -> None:
        run = make_run("20260101-120000")
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").touch()
        (run / "upstream").symlink_to(tmp_path / "thesis")
        (outputs / "latest").symlink_to(run.name)

        done = shim("runs", "rm", "latest", "--yes")
        assert (done.returncode, done.stdout) == (2, "")
        assert "is a link to a run" in done.stderr
        assert f"name the run: {run.name}" in done.stderr
        assert shim("runs", "rm", run.name, "--yes").returncode == 0
        assert (tmp_path / "thesis" / "thesis.tex").exists()
        assert self._left(outputs) == []

    @pytest.mark.parametrize(
        ("args", "problem"),
        [
            ([], "which runs?"),
            (["20260101-120000", "--keep", "1"], "runs by name and by age"),
            (["2026010-120000"], "did you mean 20260101-120000?"),
            (["notes"], "is not a run directory"),
            (["."], "is not a run directory"),
            (["--older-than", "soon"], "--older-than soon: no length of time"),
            (["--older-than", "-3d"], "no length of time"),
            (["--keep", "-1"], "x>=0"),
        ],
    )
    def test_bad_usage_removes_nothing(
        self, shim: Shim, outputs: Path, make_run: MakeRun, args: list[str], problem: str
    ) -> None:
        make_run("20260101-120000", days=100)
        (outputs / "notes").mkdir()

        done = shim("runs", "rm", *args, "--yes")
        assert (done.returncode, done.stdout) == (2, "")
        assert problem in done.stderr
        assert "Traceback" not in done.stderr
        assert self._left(outputs) == ["20260101-120000", "notes"]

    def test_asks_who_is_there_to_be_asked(
        self, shim: Shim, tmp_path: Path, outputs: Path, make_run: MakeRun
    ) -> None:
        run = make_run("20260101-120000")

        done = shim("runs", "rm", run.name)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr
        code, shown = on_a_terminal(tmp_path, "runs", "rm", run.name, typed="n\n")
        assert (code, f"remove {run.name}?" in shown) == (1, True)
        assert run.exists()
        code, shown = on_a_terminal(tmp_path, "runs", "rm", run.name, typed="y\n")
        assert (code, "freed" in shown) == (0, True)
        assert not run.exists()


class TestLogs:
    @pytest.mark.parametrize(
        "args", [[], ["20260102-120000"], ["outputs/20260102-120000"], ["latest"]]
    )
    def test_of_the_backend(
        self, shim: Shim, outputs: Path, make_run: MakeRun, args: list[str]
    ) -> None:
        make_run("20260101-120000", days=1)
        (outputs / "latest").symlink_to(make_run("20260102-120000").name)

        done = shim("logs", *args)
        assert (done.returncode, done.stdout) == (0, "first of vlmeval\nsecond of vlmeval\n")
        assert done.stderr == "cells with logs of their own: m__pets, m__birds\n"

    def test_of_several_backends(self, shim: Shim, make_run: MakeRun) -> None:
        run = make_run("20260101-120000", backends={"vlmeval": {}, "opencompass": {}})
        (run / "logs" / "opencompass.log").write_text("other\n")

        assert shim("logs", "-n", "1").stdout == (
            "==> vlmeval.log <==\nsecond of vlmeval\n==> opencompass.log <==\nother\n"
        )

    @pytest.mark.parametrize("name", ["m__pets", "pets", "PETS"])
    def test_of_a_cell(self, shim: Shim, make_run: MakeRun, name: str) -> None:
        done = shim("logs", make_run("20260101-120000"), name, "--lines", "1")

        assert (done.returncode, done.stdout, done.stderr) == (0, "second of m__pets\n", "")

    @pytest.mark.parametrize(
        ("args", "problem"),
        [
            (["20260101-120000", "m"], "2 cells of 20260101-120000"),
            (["20260101-120000", "dogs"], "no cells of 20260101-120000"),
            (["20260101-120000", "dogs"], "one of m__pets, m__birds"),
            (["none"], "none does not exist"),
            (["--work-dir", "other"], "no runs in other"),
            (["--lines", "-1"], "x>=0"),
        ],
    )
    def test_bad_usage(self, shim: Shim, make_run: MakeRun, args: list[str], problem: str) -> None:
        make_run("20260101-120000")

        done = shim("logs", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert problem in done.stderr
        assert "Traceback" not in done.stderr

    def test_only_what_lies_in_the_run_is_shown(
        self, shim: Shim, tmp_path: Path, make_run: MakeRun
    ) -> None:
        (tmp_path / "secret.log").write_text("secret\n")
        path = str(tmp_path / "secret.log")
        cells = {"c": {"model": "m", "dataset": "d", "log": path}}
        run = make_run("20260101-120000", cells=cells, backends={path[:-4]: {}})

        assert shim("logs", run).stdout == ""
        (run / "logs" / "secret.log").symlink_to(tmp_path / "secret.log")
        done = shim("logs", run, "c")
        assert (done.returncode, done.stdout) == (0, "")
        assert "nothing was printed" in done.stderr

    def test_raw_to_a_program_and_harmless_to_a_terminal(
        self, tmp_path: Path, make_run: MakeRun
    ) -> None:
        log = make_run("20260101-120000") / "logs" / "vlmeval.log"
        raw = b"10%\r20%\r\n\x1b]0;owned\x07 \xe2\x80\xae \xff\n"
        log.write_bytes(raw)

        piped = subprocess.run([SHIM, "logs"], cwd=tmp_path, capture_output=True).stdout
        assert piped == raw
        code, shown = on_a_terminal(tmp_path, "logs")
        assert code == 0
        assert shown.splitlines()[:2] == ["20%", "\\x1b]0;owned\\x07 \\u202e \ufffd"]

    def test_follows_until_the_run_has_ended(
        self, tmp_path: Path, make_run: MakeRun, hold: Hold
    ) -> None:
        run = make_run("20260101-120000", status="running")
        log = run / "logs" / "m__pets.log"
        holder = hold(run)
        follower = _follow(tmp_path, "-n", "1", run.name, "pets")
        assert follower.stdout
        assert follower.stdout.readline() == "second of m__pets\n"

        with log.open("a") as file:
            file.write("third\nhalf")
            file.flush()
            assert follower.stdout.readline() == "third\n"
            file.write(" a line\nand what has no end")
        assert follower.stdout.readline() == "half a line\n"
        assert follower.poll() is None
        holder.kill()
        assert follower.stdout.read() == "and what has no end"
        assert follower.wait() == 0
        follower.stdout.close()

    def test_follows_until_it_is_interrupted(
        self, tmp_path: Path, make_run: MakeRun, hold: Hold
    ) -> None:
        hold(make_run("20260101-120000", status="running"))
        follower = _follow(tmp_path, "-f")
        assert follower.stdout
        assert follower.stdout.readline() == "first of vlmeval\n"

        follower.send_signal(signal.SIGINT)
        assert follower.wait() == 130
        follower.stdout.close()

    def test_follows_nothing_that_has_ended(self, shim: Shim, make_run: MakeRun) -> None:
        make_run("20260101-120000")

        done = shim("logs", "-f")
        assert (done.returncode, done.stdout) == (0, "first of vlmeval\nsecond of vlmeval\n")


def _follow(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SHIM, "logs", "--follow", *args],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class TestEnvironments:
    def test_removed(self, shim: Shim, installed: Path) -> None:
        home = {"EVALSHIM_HOME": str(installed)}
        (installed / "envs" / ".vlmeval-123").mkdir()

        done = shim("env", "rm", "vlmeval", "--yes", **home)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("removed vlmeval: freed ")
        assert {p.name for p in (installed / "envs").iterdir()} == {"opencompass", ".vlmeval.lock"}
        done = shim("env", "rm", "-y", **home)
        assert done.stdout.startswith("removed opencompass: freed ")
        done = shim("env", "rm", "-y", **home)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing to remove\n")

    def test_nothing_is_made_where_there_is_nothing(self, shim: Shim, tmp_path: Path) -> None:
        assert shim("env", "rm", "--yes").returncode == 0
        assert not (tmp_path / "no-environments").exists()
        assert housekeeping.remove_environment("vlmeval") is None

    def test_not_while_a_run_uses_it(self, shim: Shim, installed: Path, hold: Hold) -> None:
        home = {"EVALSHIM_HOME": str(installed)}
        folder = installed / "envs" / "vlmeval"
        user = hold(folder / envs.STATE, "shared")

        done = shim("env", "rm", "vlmeval", "--yes", **home)
        assert (done.returncode, done.stdout) == (2, "")
        assert "a run uses the environment of vlmeval" in done.stderr
        assert (folder / envs.STATE).exists()
        user.kill()
        user.wait()
        assert shim("env", "rm", "vlmeval", "--yes", **home).returncode == 0

    def test_one_that_is_not_complete_goes_too(self, upstreams: Path) -> None:
        (upstreams / "envs" / "vlmeval" / envs.STATE).unlink()

        assert housekeeping.remove_environment("vlmeval")
        assert not (upstreams / "envs" / "vlmeval").exists()

    def test_a_link_is_not_ours(self, shim: Shim, installed: Path, tmp_path: Path) -> None:
        (installed / "envs" / "vlmeval").rename(tmp_path / "theirs")
        (installed / "envs" / "vlmeval").symlink_to(tmp_path / "theirs")

        done = shim("env", "rm", "vlmeval", "--yes", EVALSHIM_HOME=str(installed))
        assert (done.returncode, done.stdout) == (3, "")
        assert "is a link" in done.stderr
        assert (tmp_path / "theirs" / envs.STATE).exists()

    def test_asks_first(self, shim: Shim, installed: Path) -> None:
        done = shim("env", "rm", EVALSHIM_HOME=str(installed))

        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr
        assert (installed / "envs" / "vlmeval").exists()


def test_a_file_that_is_linked_elsewhere_frees_nothing(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "cache").write_bytes(b"x" * 1000)
    (tmp_path / "env" / "a").hardlink_to(tmp_path / "cache")
    (tmp_path / "env" / "b").write_bytes(b"x" * 10)
    (tmp_path / "env" / "c").hardlink_to(tmp_path / "env" / "b")

    assert housekeeping.size(tmp_path / "env") == 10
    shutil.rmtree(tmp_path / "env")
    assert housekeeping.size(tmp_path / "env") == 0


def test_a_run_is_not_removed_by_two_at_once(make_run: MakeRun) -> None:
    run = make_run("20260101-120000")

    with locks.held(run), pytest.raises(housekeeping.ConfigError, match="is in use"):
        housekeeping.remove(run)
    assert (run / "run.json").exists()
