"""Processes that really run: what they report, what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evalshim import process
from evalshim.errors import SetupError
from evalshim.spec import Event

SECRET = "sk-canary-1234567890"
REAL_WORKER = process.WORKER


class Ended:
    """A worker that has ended, and what it left."""

    def __init__(self, exit: process.Exit, events: list[Event], logs: process.Logs, folder: Path):
        self.exit, self.events, self.logs, self.folder = exit, events, logs, folder

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a Python script in the worker's place."""

    def run(
        script: str,
        job: Mapping[str, Any] | None = None,
        secrets: Sequence[str] = (),
        seconds: float = 20,
    ) -> Ended:
        path = tmp_path / "script.py"
        path.write_text(f"import json, os, sys, time\n{script}\n")
        monkeypatch.setattr(process, "WORKER", path)
        logs = process.Logs(tmp_path / "logs", "backend", secrets)
        events: list[Event] = []
        started = process.Worker(sys.executable, job or {}, os.environ, logs, events.append)
        exits: list[process.Exit] = []
        thread = threading.Thread(target=lambda: exits.append(started.run()), daemon=True)
        thread.start()
        thread.join(seconds)
        hung = thread.is_alive()
        started.stop()
        assert not hung, f"the worker's end was not noticed within {seconds} s"
        assert exits, "run() raised"
        return Ended(exits[0], events, logs, tmp_path / "logs")

    return run


def _gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process ends; one that only waits to be collected has ended."""
    for _ in range(int(seconds * 20)):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except ProcessLookupError:
            return True
        except FileNotFoundError:  # ended meanwhile, or a system without /proc
            state = ""
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


class TestCommand:
    def test_gives_its_stdout(self) -> None:
        assert process.run([sys.executable, "-c", "print('out')"]) == "out\n"

    def test_cannot_be_started(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"cannot run .*nothing"):
            process.run([str(tmp_path / "nothing")])

    def test_fails_with_the_end_of_its_stderr(self) -> None:
        code = "import sys; [print('line', i, file=sys.stderr) for i in range(50)]; sys.exit(3)"

        with pytest.raises(SetupError) as caught:
            process.run([sys.executable, "-c", code])
        assert "failed (exit code 3)" in str(caught.value)
        assert caught.value.why.splitlines() == [f"line {i}" for i in range(38, 50)]

    def test_fails_with_its_stdout_where_stderr_is_empty(self) -> None:
        with pytest.raises(SetupError, match="on stdout"):
            process.run([sys.executable, "-c", "print('on stdout'); raise SystemExit(1)"])

    def test_takes_too_long(self) -> None:
        with pytest.raises(SetupError, match=r"no end after 0\.2 s"):
            process.run([sys.executable, "-c", "import time; time.sleep(30)"], timeout=0.2)

    def test_reads_nothing_from_us(self) -> None:
        assert process.run([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]) == (
            "''\n"
        )

    def test_may_print_what_is_no_text(self) -> None:
        out = process.run([sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'a\xffb')"])

        assert out.startswith("a") and out.endswith("b")

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (0, "exit code 0"),
            (3, "exit code 3"),
            (-9, "signal SIGKILL"),
            (-11, "signal SIGSEGV"),
            (-99, "signal 99"),
        ],
    )
    def test_describes_its_end(self, code: int, text: str) -> None:
        assert process.describe_exit(code) == text

    def test_isolation_leaves_out_what_leaks_packages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "leak")
        monkeypatch.setenv("VIRTUAL_ENV", "leak")
        monkeypatch.setenv("HTTPS_PROXY", "kept")

        found = process.isolated_environment()
        assert "leak" not in found.values()
        assert found["HTTPS_PROXY"] == "kept"
        assert found["PATH"] == os.environ["PATH"]


class TestEvents:
    def test_come_in_order_with_their_data(self, worker: Callable[..., Ended]) -> None:
        ended = worker(
            "job = json.loads(sys.stdin.readline())\n"
            "print(json.dumps({'event': 'ready', 'word': job['word']}))\n"
            "print(json.dumps({'event': 'progress', 'cell': 'c', 'done': 1, 'total': 2}))\n"
            "print(json.dumps({'event': 'done'}))",
            {"word": "héllo\n"},
        )

        assert ended.events == [
            Event("ready", None, {"word": "héllo\n"}),
            Event("progress", "c", {"done": 1, "total": 2}),
        ]
        assert ended.exit == process.Exit(0, True)

    def test_a_killed_worker_did_not_end_cleanly(self, worker: Callable[..., Ended]) -> None:
        ended = worker("print(json.dumps({'event': 'ready'}), flush=True)\nos.kill(os.getpid(), 9)")

        assert ended.exit == process.Exit(-9, False)
        assert ended.events == [Event("ready")]

    def test_the_end_without_the_last_event_is_not_clean(
        self, worker: Callable[..., Ended]
    ) -> None:
        assert worker("pass").exit == process.Exit(0, False)

    def test_a_failure_after_the_last_event_is_not_clean(
        self, worker: Callable[..., Ended]
    ) -> None:
        ended = worker("print(json.dumps({'event': 'done'}), flush=True)\nos._exit(4)")

        assert ended.exit == process.Exit(4, False)

    def test_half_a_line_is_no_event(self, worker: Callable[..., Ended]) -> None:
        ended = worker(
            "print(json.dumps({'event': 'ready'}))\n"
            'sys.stdout.write(\'{"event": "fini\'); sys.stdout.flush()\n'
            "os.kill(os.getpid(), 9)"
        )

        assert [e.kind for e in ended.events] == ["ready"]
        assert ended.exit == process.Exit(-9, False)

    @pytest.mark.parametrize("line", ["5", "[]", '"text"', "null", "{}", "text", "\\xff\\xfe"])
    def test_a_line_that_is_no_event_is_none(self, worker: Callable[..., Ended], line: str) -> None:
        """A .pth file or a sitecustomize of the environment may print before the worker runs."""
        ended = worker(
            f"sys.stdout.buffer.write(b'{line}\\n'); sys.stdout.flush()\n"
            "print(json.dumps({'event': 'ready'}))\n"
            "print(json.dumps({'event': 'done'}))"
        )

        assert [e.kind for e in ended.events] == ["ready"]
        assert ended.exit.clean

    def test_a_worker_that_never_reads_its_job_is_noticed(
        self, worker: Callable[..., Ended]
    ) -> None:
        ended = worker("os._exit(7)", {"large": "x" * 1_000_000})

        assert ended.exit == process.Exit(7, False)

    def test_a_killed_worker_is_noticed_though_its_children_live(
        self, worker: Callable[..., Ended]
    ) -> None:
        ended = worker("if os.fork() == 0: time.sleep(60)\nelse: os.kill(os.getpid(), 9)")

        assert ended.exit == process.Exit(-9, False)

    def test_children_end_with_the_worker(
        self, worker: Callable[..., Ended], tmp_path: Path
    ) -> None:
        ended = worker(
            "import subprocess\n"
            "child = subprocess.Popen(['sleep', '60'], stdout=2, stderr=subprocess.DEVNULL)\n"
            "print(json.dumps({'event': 'ready', 'child': child.pid}))\n"
            "print(json.dumps({'event': 'done'}))"
        )

        assert ended.exit.clean
        assert _gone(ended.events[0].data["child"])

    def test_stop_before_start_is_harmless(self, tmp_path: Path) -> None:
        logs = process.Logs(tmp_path, "backend")
        unstarted = process.Worker(sys.executable, {}, os.environ, logs, print)

        unstarted.stop()
        assert unstarted.pid is None

    def test_stop_ends_one_that_waits_for_its_job(self, tmp_path: Path) -> None:
        spawned = process.spawn(sys.executable, os.environ)
        logs = process.Logs(tmp_path, "backend")
        stopped = process.Worker(sys.executable, {}, os.environ, logs, print, spawned)
        stopped.stop()

        assert not stopped.run().clean
        assert spawned.returncode == -signal.SIGKILL

    def test_a_number_that_was_given_back_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be another process's by then."""
        killed: list[int] = []
        monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
        logs = process.Logs(tmp_path, "backend")
        ended = process.Worker(sys.executable, {"backend": "none"}, os.environ, logs, print)
        assert ended.run().code == 1
        deadline = time.monotonic() + 10
        while not killed and time.monotonic() < deadline:
            time.sleep(0.01)  # once, for its children
        ended.stop()
        ended.stop()

        assert killed == [ended.pid]

    def test_a_job_that_is_no_json_starts_nothing(self, tmp_path: Path) -> None:
        logs = process.Logs(tmp_path, "backend")
        unstarted = process.Worker(sys.executable, {"x": object()}, os.environ, logs, print)

        with pytest.raises(TypeError):
            unstarted.run()
        started = unstarted.pid
        unstarted.stop()
        assert started is None


def test_a_secret_is_hidden_in_every_spelling() -> None:
    secret = 'sk-"quoted"\\and-more'

    for text in (secret, json.dumps({"error": secret}), repr([secret])):
        assert "quoted" not in process.redact(f"bad key {text}", [secret])


class TestLogs:
    def test_what_is_printed_is_split_by_cell(self, worker: Callable[..., Ended]) -> None:
        ended = worker(
            "def say(text): os.write(2, text.encode())\n"
            "say('start\\n'); say('\\x1eone\\n'); say('in one\\n'); say('\\x1e\\n')\n"
            "say('between\\n'); say('\\x1etwo\\n'); say('in two\\n'); say('\\x1eone\\n')\n"
            "say('again\\n')"
        )

        assert ended.log("backend") == "start\nbetween\n"
        assert ended.log("one") == "in one\nagain\n"
        assert ended.log("two") == "in two\n"
        assert sorted(p.name for p in ended.folder.iterdir()) == [
            "backend.log", "one.log", "two.log",
        ]  # fmt: skip

    def test_a_cell_begins_behind_an_unfinished_line_too(
        self, worker: Callable[..., Ended]
    ) -> None:
        """A progress bar leaves its line open."""
        ended = worker(
            "os.write(2, b'50%|##'); os.write(2, b'\\x1eone\\n'); os.write(2, b'in one\\n')"
        )

        assert "50%|##" in ended.log("backend")
        assert ended.log("one") == "in one\n"

    def test_the_tail_is_a_cells_own_or_else_the_backends(
        self, worker: Callable[..., Ended]
    ) -> None:
        ended = worker(
            "for i in range(20): os.write(2, f'line {i}\\n'.encode())\n"
            "os.write(2, b'\\x1eone\\n\\n  \\nfirst\\rlast\\n')"
        )

        assert ended.logs.tail() == [f"line {i}" for i in range(12, 20)]
        assert ended.logs.tail("one") == ["last"]
        assert ended.logs.tail("unknown") == ended.logs.tail()

    def test_bytes_that_are_no_text_are_kept(self, worker: Callable[..., Ended]) -> None:
        ended = worker("os.write(2, b'a\\xff\\xfeb\\n')")

        assert (ended.folder / "backend.log").read_bytes() == b"a\xff\xfeb\n"
        assert ended.logs.tail() == ["a\ufffd\ufffdb"]

    @pytest.mark.parametrize("junk", ["\\x1e\\xff\\xfe", "binary \\x1e\\xff\\xfe junk"])
    def test_bytes_like_a_mark_do_not_stop_the_log(
        self, worker: Callable[..., Ended], junk: str
    ) -> None:
        """A worker whose stderr nobody reads waits for ever."""
        ended = worker(
            f"os.write(2, b'{junk}\\n'); os.write(2, b'line\\n' * 100_000)\n"
            "print(json.dumps({'event': 'done'}))"
        )

        assert ended.exit.clean
        assert sum(p.read_bytes().count(b"line\n") for p in ended.folder.iterdir()) == 100_000

    def test_secrets_are_in_no_log_and_no_tail(self, worker: Callable[..., Ended]) -> None:
        ended = worker(
            f"os.write(2, b'key {SECRET} and {SECRET}\\n\\x1eone\\nBearer {SECRET}\\n')",
            secrets=[SECRET, "EMPTY"],
        )

        assert ended.log("backend") == "key *** and ***\n"
        assert ended.log("one") == "Bearer ***\n"
        assert ended.logs.tail("one") == ["Bearer ***"]

    def test_a_word_too_short_for_a_secret_stays(self, worker: Callable[..., Ended]) -> None:
        assert worker("os.write(2, b'EMPTY line\\n')", secrets=["EMPTY"]).log("backend") == (
            "EMPTY line\n"
        )

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_secret_that_begins_like_another_leaves_no_rest(
        self, worker: Callable[..., Ended], order: int
    ) -> None:
        secrets = [SECRET, f"{SECRET}-and-more"][::order]
        ended = worker(f"os.write(2, b'{SECRET}-and-more\\n')", secrets=secrets)

        assert ended.log("backend") == "***\n"

    def test_later_output_is_appended(self, worker: Callable[..., Ended]) -> None:
        worker("os.write(2, b'first\\n')")

        assert worker("os.write(2, b'second\\n')").log("backend") == "first\nsecond\n"

    def test_a_cells_file_lies_in_the_folder_whatever_its_name(self, tmp_path: Path) -> None:
        logs = process.Logs(tmp_path, "backend")

        assert logs.path("../../etc/passwd").parent == tmp_path
        assert logs.path() == tmp_path / "backend.log"


@pytest.fixture
def upstream(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which `import vlmeval.config` runs the code given."""

    def write(code: str) -> dict[str, str]:
        package = tmp_path / "site" / "vlmeval"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "config.py").write_text(f"import os, sys, time\n{code}\n")
        return {**os.environ, "PYTHONPATH": str(package.parent)}

    return write


def _real(
    env: Mapping[str, str], upstream: str = "vlmeval", **job: Any
) -> subprocess.CompletedProcess[str]:
    """The real worker's answer to a health job."""
    started = subprocess.Popen(
        [sys.executable, str(REAL_WORKER)],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdin and started.stdout and started.stderr
    started.stdin.write(json.dumps({"backend": "health", "upstream": upstream, **job}) + "\n")
    started.stdin.flush()
    out, err = started.stdout.read(), started.stderr.read()
    started.stdin.close()
    code = started.wait(timeout=20)
    started.stdout.close()
    started.stderr.close()
    return subprocess.CompletedProcess([], code, out, err)


def _events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines() if line]


class TestRealWorker:
    def test_says_what_it_imported(self, upstream: Callable[[str], dict[str, str]]) -> None:
        done = _real(upstream(""))

        ready, last = _events(done.stdout)
        assert done.returncode == 0
        assert (ready["event"], ready["version"], ready["torch"]) == ("ready", "unknown", None)
        assert ready["python_version"] == ".".join(map(str, sys.version_info[:3]))
        assert last == {"event": "done"}

    def test_what_upstream_prints_is_no_event(
        self, upstream: Callable[[str], dict[str, str]]
    ) -> None:
        env = upstream("print('printed'); os.system('echo by a child'); os.write(1, b'raw\\n')")
        done = _real(env)

        assert [event["event"] for event in _events(done.stdout)] == ["ready", "done"]
        for text in ("printed", "by a child", "raw"):
            assert text in done.stderr

    def test_upstream_and_its_children_read_nothing(
        self, upstream: Callable[[str], dict[str, str]]
    ) -> None:
        code = "print(repr(sys.stdin.read())); os.system('cat; echo read')"

        assert _real(upstream(code)).stderr == "''\nread\n"

    def test_its_modules_hide_none_of_upstreams(
        self, upstream: Callable[[str], dict[str, str]]
    ) -> None:
        code = "import importlib.util as u; print([u.find_spec(n) for n in ('channel', 'health')])"

        assert "[None, None]" in _real(upstream(code)).stderr

    def test_an_upstream_that_does_not_import_ends_it(
        self, upstream: Callable[[str], dict[str, str]]
    ) -> None:
        done = _real(upstream("raise ImportError('libGL.so.1')"))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1] == "ImportError: libGL.so.1"

    def test_an_upstream_it_does_not_know_ends_it(self) -> None:
        done = _real(os.environ, "nonexistent")

        assert (done.returncode, done.stdout) == (1, "")
        assert "nonexistent" in done.stderr

    def test_no_job_ends_it(self) -> None:
        done = subprocess.run(
            [sys.executable, str(REAL_WORKER)], input="", capture_output=True, text=True, timeout=20
        )

        assert (done.returncode, done.stdout) == (1, "")

    def test_secrets_are_in_no_log_record(
        self, upstream: Callable[[str], dict[str, str]], tmp_path: Path
    ) -> None:
        """Upstream logs its key, and to files of its own too."""
        log = tmp_path / "own.log"
        env = upstream(
            f"import logging; logging.basicConfig(filename={str(log)!r}, level=20)\n"
            "logging.info('API Key: %s', os.environ['MY_KEY'])\n"
            "logging.info('%s samples', 5)"
        )
        done = _real({**env, "MY_KEY": SECRET}, secrets=["MY_KEY"], hidden=SECRET)

        assert done.returncode == 0, done.stderr
        assert [line.split(":", 2)[2] for line in log.read_text().splitlines()] == [
            "API Key: ***",
            "5 samples",
        ]

    def test_a_malformed_log_call_of_upstreams_stays_harmless(
        self, upstream: Callable[[str], dict[str, str]]
    ) -> None:
        env = upstream("import logging; logging.warning('%d samples', 'many')")
        done = _real({**env, "MY_KEY": SECRET}, secrets=["MY_KEY"], hidden=SECRET)

        assert done.returncode == 0, done.stderr
        assert "Logging error" in done.stderr

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_ends_with_its_parent_and_its_children_too(
        self, upstream: Callable[[str], dict[str, str]], tmp_path: Path, how: signal.Signals
    ) -> None:
        pids = tmp_path / "pids"
        env = upstream(
            "import subprocess; child = subprocess.Popen(['sleep', '120'])\n"
            f"open({str(pids) + '.part'!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
            f"os.rename({str(pids) + '.part'!r}, {str(pids)!r})\n"
            "time.sleep(120)"
        )
        parent = (
            "import json, os, subprocess, sys, time\n"
            f"worker = subprocess.Popen([sys.executable, {str(REAL_WORKER)!r}], "
            "stdin=subprocess.PIPE, start_new_session=True)\n"
            "job = json.dumps({'backend': 'health', 'upstream': 'vlmeval'})\n"
            "worker.stdin.write(job.encode() + b'\\n'); worker.stdin.flush()\n"
            "time.sleep(120)"
        )
        started = subprocess.Popen([sys.executable, "-c", parent], env=env)
        for _ in range(400):
            if pids.exists():
                break
            time.sleep(0.05)
        worker, child = map(int, pids.read_text().split())
        started.send_signal(how)
        started.wait(timeout=20)

        assert _gone(worker)
        assert _gone(child)
