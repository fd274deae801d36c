"""Single values as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalshim import readers
from evalshim.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "meant"),
    [(3, 3), (5.0, 5), (0.1, 0.1), ("[10:20]", "[10:20]"), (" [:5] ", "[:5]"), (None, None)],
)
def test_a_limit(written: Any, meant: Any) -> None:
    found = readers.limit(written, "limit")

    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    "written", [1.5, 1.0, 0.0, -1, -0.1, 0, True, "[20:10]", "[a:b]", "20", float("inf"), [1, 2]]
)
def test_no_limit(written: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        readers.limit(written, "eval_config.limit")
    assert caught.value.what == f"eval_config.limit: {written!r}"
    assert "a count of at least 1 (20), a fraction below 1 (0.1)" in caught.value.why


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, True), ("latest", True), (False, False), (None, False),
        ("20260102-030405", "20260102-030405"),
    ],
)  # fmt: skip
def test_what_to_go_on_from(written: Any, meant: Any) -> None:
    assert readers.reuse(written, "reuse") == meant


@pytest.mark.parametrize("written", [2, "", ["latest"], {}])
def test_nothing_to_go_on_from(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"^reuse: "):
        readers.reuse(written, "reuse")


@pytest.mark.parametrize(
    ("written", "meant"), [("strict", "strict"), ("off", "off"), (False, "off")]
)
def test_whether_data_is_verified(written: Any, meant: str) -> None:
    assert readers.verify_data(written, "verify_data") == meant


@pytest.mark.parametrize("written", [True, "on", 0, None])
def test_no_way_to_verify_data(written: Any) -> None:
    with pytest.raises(ConfigError, match="one of strict, off"):
        readers.verify_data(written, "verify_data")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("chat", "chat"), ("none", "none"), ("default-api-meta-template-oc", "chat"),
        ({"round": []}, {"round": []}),
    ],
)  # fmt: skip
def test_a_template_of_roles(written: Any, meant: Any) -> None:
    assert readers.meta_template(written, "meta_template") == meant


@pytest.mark.parametrize("written", ["chatt", 5, ["chat"], None])
def test_no_template_of_roles(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"^meta_template: "):
        readers.meta_template(written, "meta_template")


def test_a_path_may_come_from_python(tmp_path: Path) -> None:
    assert readers.file(tmp_path, "path") == str(tmp_path)
    assert readers.path(tmp_path, "work_dir") == tmp_path


@pytest.mark.parametrize("written", ["yes", 1, None])
def test_a_flag_is_true_or_false(written: Any) -> None:
    assert readers.flag(False, "is_chat") is False
    with pytest.raises(ConfigError, match="true or false"):
        readers.flag(written, "is_chat")


@pytest.mark.parametrize("low", [0, 1])
def test_a_number_has_a_least_value(low: int) -> None:
    read = readers.number(low, whole=True)

    assert read(low, "n") == low
    for wrong in (low - 1, low + 0.5, True, "1", None, 2**63):
        with pytest.raises(ConfigError, match=f"a whole number of at least {low}"):
            read(wrong, "n")


def test_a_choice_suggests_what_comes_near() -> None:
    with pytest.raises(ConfigError) as caught:
        readers.choice("all", "infer", "eval")("infr", "mode")
    assert caught.value.why == "it must be one of all, infer, eval"
    assert "did you mean infer" in caught.value.cure


def test_a_long_value_is_not_shown_whole() -> None:
    assert len(readers.wrong("key", "x" * 500, "short").what) < 80
