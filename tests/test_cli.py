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
        _says(refused(2, "run"), "no models", "api_base")

    def test_an_unknown_key(self, refused: Refused, config: Config) -> None:
        text = refused(2, "run", config("gsm8k", limti=3))

        _says(text, "unknown key in the configuration: limti", "did you mean limit?")

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
            ["run", "--nonsense"],
            ["run", "--backend", "vlmevla"],
            ["nonsense"],
            ["list", "nonsense"],
            ["setup", "nonsense"],
            ["setup", "--from", "."],
            ["results", "--format", "xml"],
        ],
    )
    def test_bad_usage(self, refused: Refused, args: list[str]) -> None:
        _says(refused(2, *args), "Usage: shim", "Error: ")


class TestData:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"drop": ["question"]}, "no column `question`"),
            ({"drop": ["A", "B"]}, "no options"),
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
        _says(text, f"pets.tsv: {problem}", "why: ", f"mend: mend {path}")

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

        _says(text, f"no environment for {backend}", "why: ", f"mend: shim setup {backend}")

    def test_a_python_without_the_upstream(self, refused: Refused, config: Config) -> None:
        text = refused(3, "run", config("demo_shapes"), "--python", sys.executable)

        _says(text, f"{sys.executable} has no `vlmeval`", "mend: ")

    def test_a_python_that_is_not_there(self, refused: Refused, config: Config) -> None:
        text = refused(3, "run", config("demo_shapes"), "--python", "/nonexistent/python")

        _says(text, "no such interpreter: /nonexistent/python", "mend: ")

    def test_a_work_directory_that_cannot_be_written(
        self, refused: Refused, config: Config, tmp_path: Path, broken_upstream: dict[str, str]
    ) -> None:
        (tmp_path / "file").touch()
        flags = ["--python", sys.executable, "--work-dir", "file/below"]

        text = refused(2, "run", config("demo_shapes"), *flags, **broken_upstream)
        _says(text, "cannot write to the work directory", "file/below", "mend: ")

    def test_an_endpoint_that_cannot_say_what_it_serves(
        self, refused: Refused, config: Config, served: dict[str, Any],
        broken_upstream: dict[str, str],
    ) -> None:  # fmt: skip
        path = config("demo_shapes", models=[{**served, "model": "auto"}])

        text = refused(3, "run", path, "--python", sys.executable, **broken_upstream)
        _says(text, f"cannot ask {served['api_base']} which model it serves", "mend: ")

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
    def test_datasets(self, shim: Shim) -> None:
        done = shim("list", "datasets", "demo*", "--backend", "opencompass")

        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["demo_arc", "opencompass"],
            ["demo_gsm8k", "opencompass"],
        ]

    def test_datasets_as_json(self, shim: Shim) -> None:
        found = json.loads(shim("list", "datasets", "--json").stdout)

        assert {tuple(entry) for entry in found} == {("name", "backend", "upstream")}
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
        ["list", "backends"],
        ["results"],
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
