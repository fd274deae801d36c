"""pip's files and variables in uv's words.

What pip itself makes of a file is in pip's documentation, "Configuration", and in
`pip config list`, which some tests ask.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evalshim import pip_settings


@pytest.fixture
def conf(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Writes `<home>/<place>` and gives the variables under which pip reads it."""

    def write(text: str, place: str = ".config/pip/pip.conf") -> dict[str, str]:
        path = tmp_path / "home" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "no-xdg")}

    return write


Conf = Callable[..., dict[str, str]]


def _pip_lists(env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_nothing_said_adds_nothing() -> None:
    assert pip_settings.for_uv({"PIP_CONFIG_FILE": os.devnull}) == {}


def test_an_index(conf: Conf) -> None:
    env = conf("[global]\nindex-url = https://mirror/simple\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://mirror/simple"


@pytest.mark.parametrize("place", [".config/pip/pip.conf", ".pip/pip.conf"])
@pytest.mark.parametrize("section", ["global", "install"])
@pytest.mark.parametrize("option", ["index-url", "index_url", "INDEX-URL"])
def test_every_spelling_of_pip(conf: Conf, place: str, section: str, option: str) -> None:
    env = conf(f"[{section}]\n{option} = https://mirror/simple\n", place)

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://mirror/simple"


def test_the_newer_of_the_users_files_wins(conf: Conf) -> None:
    conf("[global]\nindex-url = https://old/simple\n", ".pip/pip.conf")
    env = conf("[global]\nindex-url = https://new/simple\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://new/simple"


def test_install_wins_over_global_in_a_file(conf: Conf) -> None:
    env = conf("[install]\nindex-url = https://i/simple\n[global]\nindex-url = https://g/simple\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://i/simple"


def test_install_wins_over_global_of_a_later_file(conf: Conf) -> None:
    conf("[install]\nindex-url = https://i/simple\n", ".pip/pip.conf")
    env = conf("[global]\nindex-url = https://g/simple\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://i/simple"


@pytest.mark.parametrize("section", ["download", "freeze"])
def test_other_commands_sections_do_not_count(conf: Conf, section: str) -> None:
    env = conf(f"[{section}]\nindex-url = https://mirror/simple\n")

    assert pip_settings.for_uv(env).get("UV_DEFAULT_INDEX") != "https://mirror/simple"


def test_xdg_directories(tmp_path: Path) -> None:
    for name in ("user", "first", "second"):
        (tmp_path / name / "pip").mkdir(parents=True)
    (tmp_path / "user" / "pip" / "pip.conf").write_text("[global]\nindex-url = https://user/s\n")
    (tmp_path / "first" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://first/s\ntrusted-host = first\n"
    )
    env = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "user"),
        "XDG_CONFIG_DIRS": f"{tmp_path / 'second'}:{tmp_path / 'first'}",
    }

    found = pip_settings.for_uv(env)
    assert found["UV_DEFAULT_INDEX"] == "https://user/s"
    assert found["UV_INSECURE_HOST"] == "first"


def test_an_empty_list_of_xdg_directories_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text("[global]\nindex-url = https://here/simple\n")
    monkeypatch.chdir(tmp_path)

    found = pip_settings.for_uv({"HOME": str(tmp_path), "XDG_CONFIG_DIRS": ""})
    assert found.get("UV_DEFAULT_INDEX") != "https://here/simple"


class TestConfigFile:
    def test_wins_over_the_others(self, conf: Conf, tmp_path: Path) -> None:
        env = conf("[global]\nindex-url = https://user/simple\n")
        own = tmp_path / "own.conf"
        own.write_text("[global]\nindex-url = https://own/simple\n")

        found = pip_settings.for_uv({**env, "PIP_CONFIG_FILE": str(own)})
        assert found["UV_DEFAULT_INDEX"] == "https://own/simple"

    def test_hides_the_users_own_file_as_it_does_from_pip(self, conf: Conf, tmp_path: Path) -> None:
        own = tmp_path / "own.conf"
        own.write_text("[global]\nindex-url = https://own/simple\n")
        env = {**conf("[global]\ntrusted-host = user-host\n"), "PIP_CONFIG_FILE": str(own)}
        assert "user-host" not in _pip_lists(env)

        assert "user-host" not in pip_settings.for_uv(env).get("UV_INSECURE_HOST", "")

    def test_a_missing_one_hides_nothing(self, conf: Conf, tmp_path: Path) -> None:
        env = {
            **conf("[global]\ntrusted-host = user-host\n"),
            "PIP_CONFIG_FILE": str(tmp_path / "none"),
        }
        assert "user-host" in _pip_lists(env)

        assert pip_settings.for_uv(env)["UV_INSECURE_HOST"] == "user-host"

    def test_the_null_device_turns_files_off_and_variables_not(self, conf: Conf) -> None:
        env = conf("[global]\nindex-url = https://user/simple\n")

        found = pip_settings.for_uv({**env, "PIP_CONFIG_FILE": os.devnull, "PIP_TRUSTED_HOST": "h"})
        assert found == {"UV_INSECURE_HOST": "h"}


class TestVariables:
    NO_FILES = {"PIP_CONFIG_FILE": os.devnull}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("PIP_INDEX_URL", "https://m/s", {"UV_DEFAULT_INDEX": "https://m/s"}),
            ("PIP_FIND_LINKS", "/w https://l", {"UV_FIND_LINKS": "/w,https://l"}),
            ("PIP_TRUSTED_HOST", "a b", {"UV_INSECURE_HOST": "a b"}),
            ("PIP_CERT", "/etc/ca.pem", {"SSL_CERT_FILE": "/etc/ca.pem"}),
            ("PIP_TIMEOUT", "60", {"UV_HTTP_TIMEOUT": "60"}),
            ("PIP_DEFAULT_TIMEOUT", "60", {"UV_HTTP_TIMEOUT": "60"}),
            (
                "PIP_EXTRA_INDEX_URL",
                "https://a https://b",
                {"UV_INDEX": "https://a https://b", "UV_INDEX_STRATEGY": "unsafe-best-match"},
            ),
            ("PIP_VERBOSE", "1", {}),
            ("PIP_INDEX_URL", "", {}),
        ],
    )
    def test_each(self, variable: str, value: str, expected: dict[str, str]) -> None:
        assert pip_settings.for_uv({**self.NO_FILES, variable: value}) == expected

    def test_win_over_files(self, conf: Conf) -> None:
        env = conf("[install]\nindex-url = https://file/simple\n")

        found = pip_settings.for_uv({**env, "PIP_INDEX_URL": "https://env/simple"})
        assert found["UV_DEFAULT_INDEX"] == "https://env/simple"

    def test_an_empty_one_leaves_the_file_as_it_does_for_pip(self, conf: Conf) -> None:
        """ConfigOptionParser: `ignore empty values`."""
        env = conf("[global]\nindex-url = https://file/simple\n")

        found = pip_settings.for_uv({**env, "PIP_INDEX_URL": ""})
        assert found["UV_DEFAULT_INDEX"] == "https://file/simple"

    @pytest.mark.parametrize(
        ("uv", "pip"),
        [
            ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
            ("UV_INDEX_URL", "PIP_INDEX_URL"),
            ("UV_FIND_LINKS", "PIP_FIND_LINKS"),
            ("UV_INSECURE_HOST", "PIP_TRUSTED_HOST"),
            ("SSL_CERT_FILE", "PIP_CERT"),
            ("UV_HTTP_TIMEOUT", "PIP_TIMEOUT"),
        ],
    )
    def test_uvs_own_win_over_all_of_pips(self, uv: str, pip: str) -> None:
        assert pip_settings.for_uv({**self.NO_FILES, uv: "uv's", pip: "pip's"}) == {}

    @pytest.mark.parametrize("uv", ["UV_INDEX", "UV_EXTRA_INDEX_URL"])
    def test_several_indexes_are_searched_as_pip_does(self, uv: str) -> None:
        assert pip_settings.for_uv({**self.NO_FILES, uv: "https://a"}) == {
            "UV_INDEX_STRATEGY": "unsafe-best-match"
        }
        assert (
            pip_settings.for_uv({**self.NO_FILES, uv: "https://a", "UV_INDEX_STRATEGY": "x"}) == {}
        )


def test_several_values_on_lines_of_their_own(conf: Conf) -> None:
    env = conf(
        "[global]\n"
        "extra-index-url =\n    https://a/simple\n    https://b/simple\n"
        "find-links =\n    /wheels\n    https://links/\n"
        "trusted-host = a\n    b\n"
    )

    found = pip_settings.for_uv(env)
    assert found["UV_INDEX"] == "https://a/simple https://b/simple"
    assert found["UV_FIND_LINKS"] == "/wheels,https://links/"
    assert found["UV_INSECURE_HOST"] == "a b"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_a_per_cent_sign_is_one(conf: Conf) -> None:
    env = conf("[global]\nindex-url = https://u:p%40ss@mirror/simple\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://u:p%40ss@mirror/simple"


@pytest.mark.parametrize(
    "broken",
    [
        "no section = 1\n",
        "[global\nindex-url = x\n",
        "[global]\na = 1\na = 2\n",
        "[global]\nindex-url\n",
    ],
)
def test_a_broken_file_does_not_hide_the_others(conf: Conf, broken: str) -> None:
    conf("[global]\nindex-url = https://good/simple\n", ".pip/pip.conf")
    env = conf(broken)

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://good/simple"


def test_a_file_that_is_no_text_does_not_hide_the_others(conf: Conf, tmp_path: Path) -> None:
    conf("[global]\nindex-url = https://good/simple\n", ".pip/pip.conf")
    env = conf("")
    (tmp_path / "home/.config/pip/pip.conf").write_bytes(b"[global]\nindex-url = \xff\xfe\n")

    assert pip_settings.for_uv(env)["UV_DEFAULT_INDEX"] == "https://good/simple"
