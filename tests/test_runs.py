"""A command line becomes what it says; a plan holds every model on every dataset."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from evalshim import plans, readiness, runs
from evalshim.errors import ConfigError, SetupError
from evalshim.spec import Cell, DatasetSpec, ModelSpec, RunSpec


def test_flags_alone_are_a_configuration() -> None:
    spec = runs.specify(
        None, model=["org/m"], api_base="http://h/v1", data=["gsm8k"], backend="opencompass",
        limit="[2:5]", concurrency="7", fail_on="0.5", work_dir="out",
    )  # fmt: skip

    assert spec.models == (ModelSpec("org/m", "org/m", "http://h/v1", key="EMPTY"),)
    assert [d.name for d in spec.datasets] == ["gsm8k"]
    assert (spec.limit, spec.concurrency, spec.fail_on) == ("[2:5]", 7, 0.5)
    assert spec.work_dir == Path.cwd() / "out"


def test_set_reaches_into_what_the_flags_made() -> None:
    spec = runs.specify(
        None, model=["m"], api_base="http://h/v1", data=["gsm8k"],
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


@pytest.mark.parametrize("models", ["[qwen_chat]", "[{name: qwen_chat}]"])
def test_flags_reach_models_however_they_are_written(
    tmp_path: Path, upstreams: Path, models: str
) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text(f"models: {models}\ndatasets: [MMBench_DEV_EN]\n")

    [model] = runs.specify(path, retry="3").models
    assert (model.name, model.retry) == ("qwen_chat", 3)
    [behind] = runs.specify(path, api_base="http://h/v1").models
    assert (behind.name, behind.api_base) == ("qwen_chat", "http://h/v1")


def test_a_base_url_makes_models_as_upstreams_own_flag_does(upstreams: Path) -> None:
    upstream = {"base_url": "http://h/v1", "temperature": 0.5, "verbose": True}
    spec = runs.specify(None, model=["a", "b"], data=["MMBench_DEV_EN"], upstream=upstream)

    assert [(m.name, m.cls, m.api_base) for m in spec.models] == [
        ("a", "LMDeployAPI", "http://h/v1"), ("b", "LMDeployAPI", "http://h/v1"),
    ]  # fmt: skip
    assert spec.models[0].temperature == 0.5
    assert spec.upstream == {"verbose": True}


def test_flags_of_an_upstream_add_to_those_of_the_file(tmp_path: Path, upstreams: Path) -> None:
    path = tmp_path / "eval.yaml"
    text = "models: [qwen_chat]\ndatasets: [MMBench_DEV_EN]\nupstream: "
    path.write_text(text + "{verbose: false, ignore: true}\n")

    spec = runs.specify(path, upstream={"verbose": True})
    assert spec.upstream == {"verbose": True, "ignore": True}
    for malformed in ("5", "[verbose]", ""):
        path.write_text(text + malformed + "\n")
        with pytest.raises(ConfigError, match="upstream: "):
            runs.specify(path, upstream={"verbose": True})


def test_set_speaks_the_language_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    model = {"name": "CustomAPIModel", "type": "m", "api_base": "http://h/v1"}
    inner = {"model": [model], "data": ["MMBench_DEV_EN"], "limit": 5}
    path.write_text(json.dumps({"eval_backend": "VLMEvalKit", "eval_config": inner}))

    assert runs.specify(path).limit == 5
    spec = runs.specify(path, assignments=["eval_config.limit=2"], concurrency="3")
    assert (spec.limit, spec.concurrency) == (2, 3)
    with pytest.raises(ConfigError, match="unknown key in EvalScope's configuration: limit"):
        runs.specify(path, assignments=["limit=2"])


def test_a_mapping_and_keywords_are_a_configuration_too(served: dict[str, Any]) -> None:
    planned = runs.check({"models": [served], "datasets": ["gsm8k"], "limit": 3}, limit=5)

    assert planned.spec.limit == 5
    assert not planned.ready  # nothing is set up
    assert [c.dataset.name for c in planned.cells] == ["gsm8k"]


def test_a_backend_without_names_to_look_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="--backend without --data"):
        runs.specify(None, model=["m"], api_base="http://h/v1", backend="vlmeval")


def test_a_plan_has_every_model_on_every_dataset_under_names_of_their_own() -> None:
    models = tuple(ModelSpec(name, name, "http://h/v1") for name in ("a", "a__b"))
    spec = runs.specify(None, model=["m"], api_base="http://h/v1", data=["gsm8k", "demo_arc"])
    datasets = (*spec.datasets, spec.datasets[0].__class__("b__gsm8k", "opencompass", "x:y"))

    cells = plans.cells_of(RunSpec(models, datasets))

    assert len(cells) == 6
    assert len({cell.id for cell in cells}) == 6
    assert [(c.model.name, c.dataset.name) for c in cells[:2]] == [
        ("a", "gsm8k"),
        ("a", "demo_arc"),
    ]


class _Answer(http.server.BaseHTTPRequestHandler):
    """Answers every GET with what its server was given."""

    def do_GET(self) -> None:
        status, kind, text = self.server.answer  # type: ignore[attr-defined]
        body = text.replace("KEY", self.headers["Authorization"]).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, "text/html", "<html>no API here</html>"), "no list of models: "),
        ((200, "application/json", "not JSON"), "no list of models: "),
        ((200, "application/json", "[1, 2]"), "it serves 0 models"),
        ((200, "application/json", '{"data": [{"id": "a"}, {"id": "b"}]}'), "2 models: a, b"),
        ((401, "application/json", '{"error": {"message": "bad key KEY"}}'), "refused the key"),
    ],
    ids=["html", "no-json", "list", "several", "refused"],
)
def test_an_endpoint_that_does_not_say_what_it_serves(
    answer: tuple[int, str, str], why: str, tmp_path: Path
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    server.answer = answer  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    model = ModelSpec("m", "auto", url, key="sk-canary-12345678")

    dataset = DatasetSpec("d", "vlmeval", "d")
    cell = Cell("m__d", model, dataset)
    spec = RunSpec((model,), (dataset,), work_dir=tmp_path)
    looked = readiness.look(plans.Plan(spec, (cell,), {}, {cell.id: ()}, {}), endpoints=False)
    with pytest.raises(SetupError, match=r"^model m at ") as refused:
        looked.require()

    server.shutdown()
    server.server_close()
    assert url in str(refused.value)
    assert why in refused.value.why
    assert "`model: <id>`" in refused.value.cure
    assert "canary" not in str(refused.value)


def test_nohup_keeps_a_run_alive() -> None:
    code = (
        "import signal; from evalshim import runs\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with runs._interruptible(lambda: print('interrupted')):\n"
        "    signal.raise_signal(signal.SIGHUP); print('alive')\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: print('ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.split() == ["alive", "interrupted", "ended"]


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from evalshim import results, runs\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(50):\n"
        "    folder = runs._new_run_directory(pathlib.Path(sys.argv[1]))\n"
        "    results.point_latest(folder); print(folder.name)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "out")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    names = [name for process in both for name in process.communicate()[0].split()]

    assert [process.returncode for process in both] == [0, 0]
    assert len(set(names)) == 100
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"latest", *names}
    assert (tmp_path / "out" / "latest").readlink().name in names
