"""The `shim` command on bad input: quick, one screen, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evalshim

from .conftest import as_base64, picture

Shim = Callable[..., subprocess.CompletedProcess[str]]
Tsv = Callable[..., Path]
NO_RUNS = {"outputs", "out"}


@pytest.fixture
def refused(shim: Shim, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused; gives what it says."""

    def run(code: int, *args: object, **variables: str | None) -> str:
        done = shim(*args, **variables)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        lines = done.stderr.splitlines()
        assert 1 <= len(lines) <= 15
        assert max(map(len, lines)) < 400
        assert not [name for name in NO_RUNS if (tmp_path / name).exists()]
        return done.stderr

    return run


Refused = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path, served: dict[str, Any]) -> Callable[..., Path]:
    """Writes a configuration for one model; keywords are its keys."""

    def write(*datasets: Any, **keys: Any) -> Path:
        path = tmp_path / "eval.json"
        path.write_text(json.dumps({"models": [served], "datasets": list(datasets), **keys}))
        return path

    return write


Config = Callable[..., Path]


def _says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, text


class TestConfiguration:
    def test_missing(self, refused: Refused) -> None:
        _says(refused(2, "run", "none.yaml"), "no such configuration: none.yaml", "mend: ")

    def test_empty(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "eval.yaml").touch()

        _says(refused(2, "run", "eval.yaml"), "empty configuration", "`models` and `datasets`")

    def test_not_yaml(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "eval.yaml").write_text("models:\n  - {name: m\ndatasets: [a]\n")

        _says(refused(2, "run", "eval.yaml"), "eval.yaml", "not YAML", "line 3, column", "mend: ")

    def test_no_configuration_and_no_flags(self, refused: Refused) -> None:
        _says(refused(2, "run"), "no datasets", "why: ", "mend: ")

    def test_an_unknown_key(self, refused: Refused, config: Config) -> None:
        text = refused(2, "run", config("gsm8k", limti=3))

        _says(text, "unknown key in the configuration: limti", "did you mean limit")

    def test_an_unknown_dataset(self, refused: Refused, config: Config) -> None:
        _says(refused(2, "run", config("gsm8")), "unknown dataset: gsm8", "did you mean gsm8k")

    @pytest.mark.parametrize("models", [[], None])
    def test_no_model(self, refused: Refused, config: Config, models: Any) -> None:
        _says(refused(2, "run", config("gsm8k", models=models)), "no models", "why: ", "mend: ")

    def test_two_models_of_one_name(
        self, refused: Refused, config: Config, served: dict[str, Any]
    ) -> None:
        text = refused(2, "run", config("gsm8k", models=[served, served]))

        _says(text, "two models are named m", "why: ", "mend: ")

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "[20:10]"])
    def test_a_limit_that_is_none(self, refused: Refused, config: Config, limit: Any) -> None:
        _says(refused(2, "run", config("gsm8k", limit=limit)), "limit: ", "at least 1")

    @pytest.mark.parametrize("limit", ["0", "-1", "many", "[20:10]"])
    def test_a_limit_flag_that_is_none(self, refused: Refused, config: Config, limit: str) -> None:
        _says(refused(2, "run", config("gsm8k"), f"--limit={limit}"), "limit: ", "at least 1")

    @pytest.mark.parametrize(
        ("assignment", "problem"),
        [
            ("limit", "not KEY=VALUE"),
            ("limit=[", "not YAML"),
            ("models.7.seed=1", "no item 7"),
            ("models.0.name=2024-13-45", "not YAML"),
        ],
    )
    def test_an_unreadable_assignment(
        self, refused: Refused, config: Config, assignment: str, problem: str
    ) -> None:
        _says(
            refused(2, "run", config("gsm8k"), "--set", assignment), f"--set {assignment}", problem
        )

    def test_a_key_that_is_not_set(
        self, refused: Refused, config: Config, served: dict[str, Any]
    ) -> None:
        path = config("gsm8k", models=[{**served, "key_env": "MY_KEY"}])

        _says(refused(2, "run", path, MY_KEY=None), "MY_KEY is not set", "export MY_KEY=")

    @pytest.mark.parametrize(
        "args",
        [
            ["run", "--backend", "vlmevla"],
            ["nonsense"],
            ["list", "nonsense"],
            ["setup", "nonsense"],
            ["setup", "--from", "."],
            ["results", "--format", "xml"],
            ["runs", "nonsense"],
            ["env", "rm", "nonsense"],
        ],
    )
    def test_bad_usage(self, refused: Refused, args: list[str]) -> None:
        _says(refused(2, *args), "Usage: shim", "Error: ")


def _evalscope(backend: str, **keys: Any) -> dict[str, Any]:
    """EvalScope's configuration; the keys are those of `eval_config`."""
    plain: dict[str, dict[str, Any]] = {
        "VLMEvalKit": {
            "model": [{"name": "CustomAPIModel", "type": "m", "api_base": "http://h/v1"}],
            "data": ["MMBench_DEV_EN"],
        },
        "OpenCompass": {
            "models": [{"path": "m", "openai_api_base": "http://h/v1"}],
            "datasets": ["gsm8k"],
        },
    }
    return {"eval_backend": backend, "eval_config": {**plain.get(backend, {}), **keys}}


class TestDialects:
    @pytest.mark.parametrize(
        ("raw", "parts"),
        [
            (_evalscope("VLMEvalKit", data={"a": 1}), ("eval_config.data: ", "must be a list")),
            (_evalscope("VLMEvalKit", model={"a": 1}), ("eval_config.model: ", "must be a list")),
            (_evalscope("VLMEvalKit", model=[{"type": "m"}]), ("model[0]: no `name`",)),
            (
                _evalscope("VLMEvalKit", model=[{"name": "CustomAPIModel"}]),
                ("model[0]: no `type`", "the model's id at the endpoint"),
            ),
            (
                _evalscope("OpenCompass", models=[{"openai_api_base": "http://h/v1"}]),
                ("models[0]: no `path`",),
            ),
            (
                _evalscope("OpenCompass", models=[{"path": "m", "openai_api_base": "h:80/v1"}]),
                ("models[0].openai_api_base: 'h:80/v1'", "http://"),
            ),
            (_evalscope("VLMEvalKit", limit=1.5), ("eval_config.limit: 1.5", "below 1 (0.1)")),
            (_evalscope("OpenCompass", limit=0.0), ("eval_config.limit: 0.0", "below 1 (0.1)")),
            (_evalscope("OpenCompass", limit=-1), ("eval_config.limit: -1", "at least 1 (20)")),
            (_evalscope("VLMEvalKit", limit="[20:10]"), ("limit: '[20:10]'", "'[10:20]'")),
            (_evalscope("Native"), ("eval_backend: 'Native'", "VLMEvalKit, OpenCompass")),
            (_evalscope("VLMEvalKit", rerun=True, reuse=True), ("both `rerun` and `reuse`",)),
            (_evalscope("VLMEvalKit", data=["MMBench_DEV_ENN"]), ("mean MMBench_DEV_EN",)),
            (_evalscope("VLMEvalKit", model=["qwen_caht"]), ("did you mean qwen_chat",)),
            (_evalscope("VLMEvalKit", judgge_args={}), ("`judgge_args`", "judge_args")),
            (
                _evalscope("VLMEvalKit", data=["Video-MME"], nframe=0),
                ("Video-MME is a video dataset without `fps` or `nframe`", "Video-MME_8frame"),
            ),
            (
                {"model": {"qwen_chat": {}}, "data": {"a": {"class": "ImageMCQDatset"}}},
                ("no dataset class ImageMCQDatset", "did you mean ImageMCQDataset"),
            ),
            (
                {
                    "model": {"qwen_chat": {}},
                    "data": {"a": {"class": "VideoMME", "dataset": "Video-MME", "frames": 8}},
                },
                ("VideoMME takes no `frames`", "did you mean nframe", "known: dataset, fps"),
            ),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_said_in_its_words(
        self,
        refused: Refused,
        tmp_path: Path,
        installed: Path,
        raw: dict[str, Any],
        parts: tuple[str, ...],
    ) -> None:
        (tmp_path / "task.json").write_text(json.dumps(raw))

        text = refused(2, "run", "task.json", EVALSHIM_HOME=str(installed))
        _says(text, *parts)
        assert "mend: " in text or "why:  it must be " in text

    def test_a_trailing_comma_in_json(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "task.json").write_text('{\n  "eval_backend": "VLMEvalKit",\n}\n')

        _says(refused(2, "run", "task.json"), "task.json is not JSON", "line 3, column 1", "mend: ")

    def test_a_key_given_twice_in_yaml(self, refused: Refused, tmp_path: Path) -> None:
        text = "eval_backend: OpenCompass\neval_config: {}\neval_backend: VLMEvalKit\n"
        (tmp_path / "task.yaml").write_text(text)

        _says(refused(2, "run", "task.yaml"), "line 3, column 1: eval_backend is given twice")

    def test_an_argument_that_no_upstream_takes(
        self, refused: Refused, config: Config, installed: Path
    ) -> None:
        home = {"EVALSHIM_HOME": str(installed)}
        text = refused(2, "run", config("MMBench_DEV_EN"), "--upstream", "vebose=true", **home)
        _says(text, "no argument `vebose` of vlmeval", "did you mean verbose", "known: ")

        text = refused(2, "run", config("MMBench_DEV_EN"), "--use-vlm", **home)
        _says(text, "no such option: --use-vlm", "did you mean --use-vllm")

    def test_scoring_alone_without_earlier_answers(
        self, refused: Refused, config: Config, installed: Path
    ) -> None:
        command = ("run", config("demo_shapes"), "--mode", "eval")

        text = refused(2, *command, EVALSHIM_HOME=str(installed))
        _says(text, "no predictions to score", "m x demo_shapes", "mend: ")


class TestDryRun:
    def test_says_what_is_missing_and_runs_nothing(
        self, shim: Shim, config: Config, tmp_path: Path
    ) -> None:
        done = shim("run", config("demo_shapes"), "--dry-run")

        assert done.returncode == 3, done.stderr
        _says(done.stdout, "m x demo_shapes", "no environment for vlmeval", "shim setup vlmeval")
        assert not [name for name in NO_RUNS if (tmp_path / name).exists()]

    def test_as_json(self, shim: Shim, config: Config) -> None:
        done = shim("run", config("demo_shapes"), "--dry-run", "--json")

        shown = json.loads(done.stdout)
        assert (done.returncode, shown["ready"]) == (3, False)
        [cell] = shown["cells"]
        assert (cell["model"], cell["dataset"], cell["samples"]) == ("m", "demo_shapes", None)


class TestData:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"drop": ["question"]}, "no column `question`"),
            ({"drop": ["B"]}, "no scorer"),  # then it is questions and answers
            ({"index": ["0", "7", "7"]}, "duplicate index 7"),
            ({"image": [as_base64(picture()), "!" * 80, "0"]}, "line 3, column image"),
            ({"image": [as_base64(picture()), as_base64(b"no" * 60), "0"]}, "line 3, column image"),
            ({"drop": ["image"], "image_path": ["a.png"] * 3}, "line 2, column image_path"),
        ],
    )
    def test_a_defect_of_the_file(
        self, refused: Refused, config: Config, tsv: Tsv, change: dict[str, Any], problem: str
    ) -> None:
        path = tsv(**change)

        text = refused(2, "run", config({"name": "pets", "path": "pets.tsv"}))
        if problem == "no scorer":
            _says(text, "pets: no scorer", "why: ", "scorer: accuracy")
        else:
            _says(text, "pets.tsv: line ", problem, f"mend: mend {path}: ")

    def test_no_rows(self, refused: Refused, config: Config, tsv: Tsv) -> None:
        tsv(0)

        _says(refused(2, "run", config({"name": "pets", "path": "pets.tsv"})), "pets.tsv: no rows")

    def test_a_missing_file(self, refused: Refused, config: Config) -> None:
        text = refused(2, "run", config({"name": "pets", "path": "pets.tsv"}))

        _says(text, "datasets[0].path: no such file: pets.tsv", "looked for:")


class TestEnvironment:
    @pytest.mark.parametrize(
        ("dataset", "backend"), [("demo_shapes", "vlmeval"), ("demo_arc", "opencompass")]
    )
    def test_none_set_up(
        self, refused: Refused, config: Config, dataset: str, backend: str
    ) -> None:
        text = refused(3, "run", config(dataset))
        _says(text, "2 things keep the run from starting", f"1. no environment for {backend}: ")
        _says(text, "2. model m at http://127.0.0.1:9/v1: ", f"mend: 1. shim setup {backend}")

        text = refused(3, "run", config(dataset), "--no-preflight")
        _says(text, f"shim: no environment for {backend}", f"mend: shim setup {backend}")

    def test_a_python_without_the_upstream(self, refused: Refused, config: Config) -> None:
        text = refused(3, "run", config("demo_shapes"), "--python", sys.executable)

        _says(text, f"{sys.executable} has no `vlmeval`", "mend: ")

    def test_a_python_that_is_not_there(self, refused: Refused, config: Config) -> None:
        text = refused(3, "run", config("demo_shapes"), "--python", "/nonexistent/python")

        _says(text, "no such interpreter: /nonexistent/python", "mend: ")

    def test_a_python_whose_upstream_does_not_import(
        self, refused: Refused, config: Config, broken_upstream: dict[str, str]
    ) -> None:
        path = config("demo_shapes")

        text = refused(3, "run", path, "--python", sys.executable, **broken_upstream)
        _says(text, "vlmeval does not import", "this build is broken", "mend: ")

    def test_a_work_directory_that_cannot_be_written(
        self, refused: Refused, config: Config, tmp_path: Path, installed: Path
    ) -> None:
        (tmp_path / "file").touch()
        flags = ["--work-dir", "file/below"]

        command = ("run", config("demo_shapes"), *flags)
        text = refused(3, *command, EVALSHIM_HOME=str(installed))
        _says(text, "disk of", "file/below: ", "is not a folder", "--work-dir DIR")

        text = refused(2, *command, "--no-preflight", EVALSHIM_HOME=str(installed))
        _says(text, "cannot write to the work directory", "file/below", "mend: ")

    def test_an_endpoint_that_cannot_say_what_it_serves(
        self, refused: Refused, config: Config, served: dict[str, Any], installed: Path
    ) -> None:
        path = config("demo_shapes", models=[{**served, "model": "auto"}])

        for flags in ((), ("--no-preflight",)):  # nothing else says which model is asked
            text = refused(3, "run", path, *flags, EVALSHIM_HOME=str(installed))
            _says(text, f"model m at {served['api_base']}", "connection refused", "mend: ")

    def test_doctor_says_what_is_not_usable(self, shim: Shim) -> None:
        done = shim("doctor")

        assert done.returncode == 3
        assert done.stderr == ""
        _says(done.stdout, "vlmeval: NOT USABLE", "shim setup vlmeval", "disk free")
        assert json.loads(shim("doctor", "--json").stdout)["backends"][0]["usable"] is False

    def test_a_home_that_cannot_be_written(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        text = refused(3, "setup", "vlmeval", EVALSHIM_HOME=str(tmp_path / "file" / "home"))
        _says(text, "cannot write to", "EVALSHIM_HOME")


class TestResults:
    def test_no_run_there(self, refused: Refused) -> None:
        _says(refused(2, "results"), "no results in outputs/latest", "mend: ")

    def test_a_corrupt_run(self, shim: Shim, tmp_path: Path) -> None:
        (tmp_path / "results.json").write_text("{")

        done = shim("results", ".")
        assert (done.returncode, done.stdout) == (2, "")
        _says(done.stderr, "cannot read results.json")


class TestLists:
    def test_datasets(self, shim: Shim, installed: Path) -> None:
        command = ("list", "datasets", "demo*", "--backend", "opencompass")
        done = shim(*command, EVALSHIM_HOME=str(installed))

        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["demo_arc", "opencompass"],
            ["demo_gsm8k", "opencompass"],
        ]

    def test_names_of_an_upstream_that_is_not_set_up_are_said_to_be_missing(
        self, shim: Shim
    ) -> None:
        done = shim("list", "datasets", "gsm8k*")

        assert "gsm8k" in done.stdout
        assert done.stderr.endswith("are not known: shim setup vlmeval opencompass\n")

    @pytest.mark.parametrize(
        ("args", "names"),
        [
            (["datasets", "gsm8k_*"], ["gsm8k_gen", "gsm8k_gen_1d7fe4"]),
            (["datasets", "mmbench-*", "--type", "video-vqa"], ["MMBench-Video"]),
            (["models"], ["GPT4o", "Qwen2-VL-2B-Instruct", "hf_internlm2_chat_7b", "qwen_chat"]),
            (["models", "QWEN*", "--backend", "vlmeval"], ["Qwen2-VL-2B-Instruct", "qwen_chat"]),
        ],
    )
    def test_what_the_upstreams_know_is_listed(
        self, shim: Shim, installed: Path, args: list[str], names: list[str]
    ) -> None:
        done = shim("list", *args, "--json", EVALSHIM_HOME=str(installed))

        assert (done.returncode, done.stderr) == (0, "")
        assert [entry["name"] for entry in json.loads(done.stdout)] == names

    def test_datasets_as_json(self, shim: Shim) -> None:
        found = json.loads(shim("list", "datasets", "--json").stdout)

        keys = ("name", "backend", "upstream", "type", "modality", "answers")
        assert {tuple(entry) for entry in found} == {keys}
        assert [d.name for d in evalshim.list_datasets()] == [entry["name"] for entry in found]

    def test_backends_say_how_to_set_them_up(self, shim: Shim) -> None:
        lines = shim("list", "backends").stdout.splitlines()

        assert [line.split(maxsplit=1) for line in lines] == [
            [name, f"not set up: shim setup {name}"] for name in ("vlmeval", "opencompass")
        ]


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["setup"],
        ["run"],
        ["list"],
        ["list", "datasets"],
        ["list", "models"],
        ["list", "backends"],
        ["results"],
        ["compare"],
        ["runs"],
        ["runs", "rm"],
        ["logs"],
        ["env"],
        ["env", "rm"],
        ["doctor"],
        ["demo"],
    ],
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(shim: Shim, command: list[str], flag: str) -> None:
    done = shim(*command, flag)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["Usage: shim", *command]))


def test_version(shim: Shim) -> None:
    assert shim("--version").stdout == f"shim, version {evalshim.__version__}\n"
