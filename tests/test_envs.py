"""Which interpreter a run uses, and what becomes of managed environments. No network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evalshim import envs, locks
from evalshim.errors import ConfigError, SetupError

ROOT = Path(envs.__file__).parents[1]
HEALTH = envs.Health("ms-vlmeval", "0.0.20", "3.11.7", "2.13.0+cpu", 19.1)
STATE = envs.State("abc", None, None, 164, 1_850_126_890, HEALTH)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for environments, and an uv that stays off the network."""
    monkeypatch.setenv("EVALSHIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    return tmp_path / "home"


@pytest.fixture
def managed(home: Path) -> Path:
    """A complete environment of vlmeval, as far as its state says."""
    folder = home / "envs" / "vlmeval"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / envs.STATE).write_text(json.dumps(asdict(STATE)))
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an importable vlmeval, to be put on a path."""
    folder = tmp_path / "site"
    (folder / "vlmeval").mkdir(parents=True)
    (folder / "vlmeval" / "__init__.py").touch()
    (folder / "vlmeval" / "config.py").touch()
    return folder


def _chosen(python: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What `interpreter` chooses for vlmeval when `python` is the running one."""
    code = (
        "from evalshim import envs, errors\n"
        "try: found = envs.interpreter('vlmeval'); print(found.python, found.managed)\n"
        "except errors.SetupError as error: print(error); raise SystemExit(error.exit_code)"
    )
    return subprocess.run(
        [python, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
        capture_output=True,
        text=True,
    )


class TestHome:
    def test_is_where_the_variable_says(self, home: Path) -> None:
        assert envs.home() == home
        assert envs.prefix("vlmeval") == home / "envs" / "vlmeval"

    def test_is_absolute(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("EVALSHIM_HOME", "here")
        assert envs.home() == tmp_path / "here"
        monkeypatch.setenv("EVALSHIM_HOME", "~/cache")
        assert envs.home() == Path("/home/me/cache")

    @pytest.mark.parametrize("value", [None, ""])
    def test_is_in_the_users_cache_otherwise(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
    ) -> None:
        monkeypatch.delenv("EVALSHIM_HOME")
        if value is not None:
            monkeypatch.setenv("EVALSHIM_HOME", value)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        assert tmp_path in envs.home().parents
        assert envs.home().name == "evalshim"


class TestState:
    def test_of_a_complete_environment(self, managed: Path) -> None:
        assert envs.state("vlmeval") == STATE
        assert envs.state("opencompass") is None

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "null", "5", "{}", '{"health": {}}', '{"health": null}', '{"pins": "a"}'],
    )
    def test_of_a_broken_file_is_none(self, managed: Path, text: str) -> None:
        (managed / envs.STATE).write_text(text)

        assert envs.state("vlmeval") is None

    def test_of_another_schema_is_none(self, managed: Path) -> None:
        (managed / envs.STATE).write_text(json.dumps({**asdict(STATE), "new": 1}))

        assert envs.state("vlmeval") is None

    def test_of_an_absent_file_is_none(self, managed: Path) -> None:
        (managed / envs.STATE).unlink()

        assert envs.state("vlmeval") is None

    def test_without_an_interpreter_is_none(self, managed: Path) -> None:
        """The Python that an environment was made from may be removed or upgraded."""
        (managed / "bin" / "python").unlink()
        (managed / "bin" / "python").symlink_to(managed / "removed")

        assert envs.state("vlmeval") is None


class TestInterpreter:
    def test_the_explicit_one_comes_first(
        self, managed: Path, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))

        found = envs.interpreter("vlmeval", sys.executable)
        assert (found.python, found.managed) == (sys.executable, False)
        assert "--python" in found.reason

    def test_then_the_managed_one(
        self, managed: Path, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(site))

        found = envs.interpreter("vlmeval")
        assert (found.python, found.managed) == (str(managed / "bin" / "python"), True)

    def test_then_the_running_one(self, bare: str, site: Path, tmp_path: Path) -> None:
        done = _chosen(bare, tmp_path, site)

        assert done.stdout.split() == [bare, "False"]

    def test_or_none_with_the_command_that_mends_it(self, bare: str, tmp_path: Path) -> None:
        done = _chosen(bare, tmp_path)

        assert done.returncode == 3
        assert done.stdout.splitlines()[0] == "no environment for vlmeval"
        assert "shim setup vlmeval" in done.stdout
        assert bare in done.stdout

    def test_a_folder_of_that_name_is_no_upstream(self, bare: str, tmp_path: Path) -> None:
        """A clone beside a notebook, say: `python -c` and Jupyter have it on their path."""
        (tmp_path / "cwd" / "vlmeval" / "docs").mkdir(parents=True)

        assert _chosen(bare, tmp_path / "cwd").returncode == 3


class TestExplicit:
    def _refused(self, python: str) -> SetupError:
        with pytest.raises(SetupError) as caught:
            envs.interpreter("vlmeval", python)
        assert caught.value.exit_code == 3
        return caught.value

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        error = self._refused(str(tmp_path / "python"))

        assert error.what == f"no such interpreter: {tmp_path / 'python'}"

    def test_that_is_no_program(self, tmp_path: Path) -> None:
        (tmp_path / "python").write_text("not executable")

        assert "no such interpreter" in self._refused(str(tmp_path / "python")).what

    def test_that_is_no_python(self, tmp_path: Path) -> None:
        (tmp_path / "python").write_text("#!/bin/sh\necho oops >&2\nexit 9\n")
        (tmp_path / "python").chmod(0o755)

        assert "oops" in self._refused(str(tmp_path / "python")).why

    def test_without_the_upstream(self, bare: str) -> None:
        error = self._refused(bare)

        assert error.what == f"{bare} has no `vlmeval`"
        assert "pip install 'evalshim[vlmeval]'" in error.cure

    def test_without_the_upstream_beside_a_folder_of_that_name(
        self, bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cwd" / "vlmeval").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "cwd")

        assert "has no `vlmeval`" in self._refused(bare).what

    def test_given_from_the_home_folder(
        self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`python: ~/envs/eval/bin/python`: no shell expands what stands in a configuration."""
        monkeypatch.setenv("PYTHONPATH", str(site))
        monkeypatch.setenv("HOME", str(Path(bare).parent))

        assert envs.interpreter("vlmeval", "~/python").python == bare

    def test_given_by_name(self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))
        monkeypatch.setenv("PATH", str(Path(bare).parent), prepend=os.pathsep)

        assert envs.interpreter("vlmeval", "python").python == bare

    def test_with_the_upstream_where_python_keeps_the_working_directory_off_its_path(
        self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))
        monkeypatch.setenv("PYTHONSAFEPATH", "1")

        assert envs.interpreter("vlmeval", bare).python == bare


class TestCheck:
    def test_imports_for_real(self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))

        health = envs.check(bare, "vlmeval", managed=False)
        assert (health.distribution, health.version) == ("vlmeval", "unknown")
        assert health.python_version == ".".join(map(str, sys.version_info[:3]))
        assert health.torch is None

    def test_says_why_it_does_not_import(
        self, bare: str, broken_upstream: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", broken_upstream["PYTHONPATH"])

        with pytest.raises(SetupError) as caught:
            envs.check(bare, "vlmeval", managed=False)
        assert caught.value.what == f"vlmeval does not import in {bare}"
        assert "this build is broken" in caught.value.why
        assert "exit code 1" in caught.value.why

    def test_a_managed_one_sees_no_packages_of_ours(
        self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))

        with pytest.raises(SetupError, match="does not import"):
            envs.check(bare, "vlmeval", managed=True)

    def test_an_interpreter_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError) as caught:
            envs.check(str(tmp_path / "python"), "vlmeval", managed=True)
        assert str(tmp_path / "python") in str(caught.value)

    def test_leaves_nothing_behind(
        self, bare: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setenv("TMPDIR", str(scratch))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("PYTHONPATH", str(site))

        envs.check(bare, "vlmeval", managed=False)
        assert list(scratch.iterdir()) == []


class TestReport:
    def test_of_a_usable_one(self, bare: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(site))

        found = envs.report("vlmeval", bare)
        assert (found["usable"], found["python"], found["managed"]) == (True, bare, False)

    def test_of_none(self, bare: str) -> None:
        found = envs.report("vlmeval", bare)

        assert found["usable"] is False
        assert "has no `vlmeval`" in found["problem"]

    def test_of_an_environment_whose_python_is_gone(self, managed: Path) -> None:
        (managed / "bin" / "python").unlink()
        (managed / "bin" / "python").symlink_to(managed / "removed")

        found = envs.report("vlmeval")
        assert found["usable"] is False
        assert "vlmeval" in found["problem"]


class TestSetup:
    NO_PYTHON = "/nonexistent/bin/python"

    def _fails(self, **options: Any) -> str:
        with pytest.raises(SetupError) as caught:
            envs.setup("vlmeval", python=self.NO_PYTHON, **options)
        return str(caught.value)

    def _left(self, home: Path) -> list[str]:
        return sorted(p.name for p in (home / "envs").iterdir() if not p.name.endswith(".lock"))

    def test_a_failure_leaves_nothing_and_says_what_was_run(self, home: Path) -> None:
        said: list[str] = []

        text = self._fails(say=said.append)
        assert self.NO_PYTHON in text
        assert "venv" in text
        assert self._left(home) == []
        assert said and all(line.startswith("vlmeval: ") for line in said)

    def test_a_failure_leaves_the_environment_that_was_there(
        self, home: Path, managed: Path
    ) -> None:
        self._fails(upgrade=True)

        assert envs.state("vlmeval") == STATE
        assert self._left(home) == ["vlmeval"]

    @pytest.mark.parametrize("text", [None, '{"schema": 0}'])
    def test_a_complete_environment_without_its_names_is_asked_for_them(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
    ) -> None:
        """`shim list` sends people here when it has no names."""
        monkeypatch.setenv("EVALSHIM_HOME", str(installed))
        folder = envs.prefix("vlmeval")
        pinned = replace(STATE, pins=envs._pins("vlmeval"))
        (folder / envs.STATE).write_text(json.dumps(asdict(pinned)))
        assert envs.setup("vlmeval") == pinned

        (folder / envs.CATALOGUE).unlink()
        if text is not None:
            (folder / envs.CATALOGUE).write_text(text)
        with pytest.raises(SetupError, match="this build is broken"):
            envs.setup("vlmeval")

    def test_what_a_killed_one_left_is_swept(self, home: Path, managed: Path) -> None:
        for name in (".vlmeval-123", ".vlmeval-123-old", ".opencompass-123"):
            (home / "envs" / name / "lib").mkdir(parents=True)

        self._fails()
        assert self._left(home) == [".opencompass-123", "vlmeval"]

    def test_a_home_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("EVALSHIM_HOME", str(tmp_path / "file" / "home"))

        text = self._fails()
        assert "cannot write to" in text
        assert "EVALSHIM_HOME" in text

    def test_waits_for_another_and_says_so(self, home: Path) -> None:
        (home / "envs").mkdir(parents=True)
        code = (
            "import fcntl, os, sys\n"
            "file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX)\n"
            "file.write(str(os.getpid())); file.flush(); print('held', flush=True)\n"
            "sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(home / "envs" / ".vlmeval.lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "held\n"
        said: list[str] = []
        ended: list[str] = []
        thread = threading.Thread(target=lambda: ended.append(self._fails(say=said.append)))
        thread.start()
        for _ in range(200):
            if said:
                break
            time.sleep(0.05)
        waiting = list(said), list(ended)
        holder.stdin.close()
        holder.wait(timeout=20)
        holder.stdout.close()
        thread.join(timeout=20)

        assert waiting == (
            [f"vlmeval: waiting for another set-up (process {holder.pid})"],
            [],
        )
        assert len(ended) == 1
        assert self.NO_PYTHON in ended[0]

    def test_the_lock_of_a_killed_one_is_free(self, home: Path) -> None:
        (home / "envs").mkdir(parents=True)
        (home / "envs" / ".vlmeval.lock").write_text("1")
        said: list[str] = []

        self._fails(say=said.append)
        assert not [line for line in said if "waiting" in line]
        assert (home / "envs" / ".vlmeval.lock").read_text() == str(os.getpid())

    def test_one_that_waited_takes_what_the_other_has_made(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two processes: it looks again once it has the lock, and installs nothing."""
        monkeypatch.setenv("EVALSHIM_HOME", str(installed))
        folder = envs.prefix("vlmeval")
        made = folder.rename(folder.with_name("made"))
        pinned = replace(STATE, pins=envs._pins("vlmeval"))
        (made / envs.STATE).write_text(json.dumps(asdict(pinned)))

        with envs.lock("vlmeval", print):
            waiting = subprocess.Popen(
                [Path(sys.executable).with_name("shim"), "setup", "vlmeval"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert waiting.stderr
            said = waiting.stderr.readline()
            made.rename(folder)
        stdout, stderr = waiting.communicate()

        assert said == f"vlmeval: waiting for another set-up (process {os.getpid()})\n"
        assert (waiting.returncode, stderr) == (0, "")
        assert stdout.startswith("vlmeval: ")
        assert envs.state("vlmeval") == pinned

    def test_not_under_a_run(self, managed: Path) -> None:
        with (
            locks.shared(managed / envs.STATE),
            pytest.raises(ConfigError, match="a run uses the environment of vlmeval"),
        ):
            envs.setup("vlmeval", upgrade=True)

        assert envs.state("vlmeval") == STATE
