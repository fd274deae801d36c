"""Secrets among the free values of a configuration are kept under the name of a variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evalshim import config, flags, secret_values
from evalshim.errors import ConfigError

SECRET = "sk-canary-0123456789"
JUDGE = {"model": "j", "api_base": "http://127.0.0.1:1"}


def _entry(**more: Any) -> dict[str, Any]:
    model = {"name": "m", "api_base": "http://127.0.0.1:1/v1", **more}
    return {"models": [model], "datasets": ["MME"]}


def test_a_secret_leaves_its_name_behind() -> None:
    given = {"user": {"api_key": SECRET}, "tools": [{"token": SECRET}], "n": 1, "eos_token": "</s>"}
    kept, found = secret_values.take(given, "extra_body")

    assert SECRET not in str(kept)
    assert set(found.values()) == {SECRET}
    assert len(found) == 2
    assert kept["n"] == 1
    assert kept["eos_token"] == "</s>"
    assert secret_values.filled(kept, found) == given


def test_a_variable_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HEADER", SECRET)
    kept, found = secret_values.take(
        {"X-Who": "${MY_HEADER}", "Authorization": "Basic ${MY_HEADER}"}, "headers", every=True
    )

    assert kept == {"X-Who": "${MY_HEADER}", "Authorization": "Basic ${MY_HEADER}"}
    assert found == {"MY_HEADER": SECRET}


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_HEADER", raising=False)

    with pytest.raises(ConfigError, match=r"headers.X-Who: MY_HEADER is not set"):
        secret_values.take({"X-Who": "${MY_HEADER}"}, "headers", every=True)


def test_text_that_is_no_secret_refers_to_nothing() -> None:
    given = {"system": "say ${NOTHING}"}

    assert secret_values.take(given, "extra_body") == (given, {})


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        (f"http://me:{SECRET}@proxy:3128", SECRET),
        ("http://me:p%40ss-word-7@proxy", "p@ss-word-7"),
        (f"https://h/v1?a=b&api-key={SECRET}", SECRET),
    ],
)
def test_a_secret_in_a_url_goes_with_the_url(url: str, secret: str) -> None:
    kept, found = secret_values.take({"proxies": {"https": url}}, "upstream")

    assert secret not in str(kept)
    assert "proxy" not in str(kept["proxies"]["https"])
    assert {url, secret} <= {*found.values()}
    assert secret_values.filled(kept, found)["proxies"]["https"] == url


@pytest.mark.parametrize("url", ["http://h/v1", "https://h?a=b", "http://me@h", "http://[", "a://"])
def test_another_url_stays(url: str) -> None:
    assert secret_values.take({"url": url}, "upstream") == ({"url": url}, {})


@pytest.mark.parametrize("value", ["EMPTY", "<|endoftext|>", "[END] of text", "a b c d e f g"])
def test_values_that_are_no_secrets_stay(value: str) -> None:
    assert secret_values.take({"token": value}, "extra_body") == ({"token": value}, {})


@pytest.mark.parametrize(
    "more",
    [
        {"extra_body": {"nested": {"api_key": SECRET}}},
        {"headers": {"X-Api-Key": SECRET}},
        {"upstream": {"password": SECRET}},
        {"key": SECRET},
    ],
    ids=["extra_body", "headers", "upstream", "key"],
)
def test_a_kept_configuration_has_no_secret_and_reads_back(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.parse(_entry(**more))
    kept = yaml.safe_dump(config.plain(spec))

    assert SECRET not in kept
    assert SECRET not in repr(spec)
    for variable, value in spec.models[0].secrets.items():
        monkeypatch.setenv(variable, value)
    assert config.plain(config.parse(yaml.safe_load(kept))) == yaml.safe_load(kept)


@pytest.mark.parametrize("key", ["api_key", "password"])
def test_where_upstream_would_write_it_down_a_secret_is_refused(key: str) -> None:
    raw = {
        "models": _entry()["models"],
        "datasets": [{"name": "MME", "upstream": {"judge_cfg": {key: SECRET}}}],
    }

    with pytest.raises(ConfigError, match=rf"upstream.judge_cfg.{key}: a secret") as refused:
        config.parse(raw)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({**_entry(key=SECRET)}, "models[0].key"),
        (
            {**_entry(), "judge": {**JUDGE, "key": SECRET}},
            "judge.key",
        ),
        (
            {**_entry(), "datasets": [{"name": "MME", "judge": {**JUDGE, "key": SECRET}}]},
            "datasets[0].judge.key",
        ),
    ],
    ids=["model", "judge", "judge of a set"],
)
def test_a_key_that_is_written_down_comes_with_a_hint(raw: dict[str, Any], where: str) -> None:
    said: list[str] = []
    config.parse(raw, say=said.append)

    assert [text for text in said if text.startswith(f"{where}: it works")]
    assert SECRET not in "".join(said)


@pytest.mark.parametrize("key", ["EMPTY", "none"])
def test_a_word_in_place_of_a_key_needs_no_hint(key: str) -> None:
    said: list[str] = []
    config.parse(_entry(key=key), say=said.append)

    assert not [text for text in said if "it works" in text]


@pytest.mark.parametrize("option", ["--set", "--upstream"])
def test_an_assignment_is_quoted_without_a_key(option: str) -> None:
    with pytest.raises(ConfigError) as refused:
        if option == "--set":
            config.override({}, [f"models.0.key={SECRET}: ["])
        else:
            flags.assignments([f"api_key={SECRET}: ["])
    assert SECRET not in str(refused.value).partition("why:")[0]


@pytest.mark.parametrize("value", ["two\nlines", "ünicode", 5])
def test_headers_are_what_http_can_carry(value: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be a header"):
        config.parse(_entry(headers={"X-Team": value}))


def test_a_bundle_must_hold_certificates(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for name in ("none.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=r"ca_bundle: no certificates in"):
            config.parse(_entry(ca_bundle=str(tmp_path / name)))
