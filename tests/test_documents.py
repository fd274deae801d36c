"""YAML and JSON, read strictly."""

from __future__ import annotations

import pytest

from evalshim import documents
from evalshim.errors import ConfigError


def test_a_trailing_comma_is_no_json_and_its_place_is_named() -> None:
    text = '{\n  "limit": 3,\n  "datasets": ["a", "b",]\n}\n'

    with pytest.raises(ConfigError) as caught:
        documents.parse_json(text, "eval.json")
    assert caught.value.what == "eval.json is not JSON"
    assert caught.value.why.startswith("line 3, column ")


@pytest.mark.parametrize(
    "text", ["", "{", "{limit: 3}", "{'limit': 3}", '{"a": 1} x', "[" * 100_000]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"eval\.json is not JSON"):
        documents.parse_json(text, "eval.json")


@pytest.mark.parametrize("text", ['{"limit": 3, "limit": 5}', '{"a": [{"b": 1, "b": 1}]}'])
def test_a_key_given_twice_is_an_error_in_json(text: str) -> None:
    with pytest.raises(ConfigError, match="is given twice"):
        documents.parse_json(text, "eval.json")


@pytest.mark.parametrize("text", ["limit: 3\nlimit: 5\n", "a:\n  - {b: 1, b: 1}\n"])
def test_a_key_given_twice_is_an_error_in_yaml(text: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2, column \d+: \w is given twice|limit is given"):
        documents.parse(text, "eval.yaml")


def test_values_come_as_they_are_written() -> None:
    values = {"a": 1, "b": [True, None, 0.5], "c": {"d": "text"}}

    assert documents.parse_json('{"a": 1, "b": [true, null, 0.5], "c": {"d": "text"}}', "x") == (
        values
    )
    assert documents.parse("{a: 1, b: [true, null, 0.5], c: {d: text}}", "x") == values


def test_no_objects_of_python_come_out_of_yaml() -> None:
    with pytest.raises(ConfigError, match="is not YAML"):
        documents.parse("a: !!python/object/apply:os.getcwd []", "eval.yaml")
