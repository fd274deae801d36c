"""A secret is found in whatever spelling it comes, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import pytest

from evalshim import redaction

PLAIN = "sk-canary-0123456789abcdefXYZ"
ODD = "p/w+\"q\\uo'ted & <ünder> 100%?="
SECRETS = (PLAIN, ODD)


def _twice(text: str) -> str:
    return json.dumps(json.dumps({"error": text}))


def _all_escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04X}" for c in text)


def _all_quoted(text: str) -> str:
    return "".join(f"%{octet:02x}" for octet in text.encode())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON of JSON": _twice,
    "JSON in full": lambda s: json.dumps(s, ensure_ascii=False),
    "JSON, each character escaped": _all_escaped,
    "repr": lambda s: repr([s]),
    "repr of repr": lambda s: repr(repr(s)),
    "repr of JSON": lambda s: repr(json.dumps(s)),
    "quote": quote,
    "quote, slashes too": lambda s: quote(s, safe=""),
    "quote twice": lambda s: quote(quote(s)),
    "quote_plus": quote_plus,
    "each octet quoted": _all_quoted,
    "HTML": html.escape,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64, unpadded": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64, URL-encoded": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "base64 in JSON of PHP": lambda s: base64.b64encode(s.encode()).decode().replace("/", "\\/"),
    "Basic, one before": lambda s: base64.b64encode(f"u{s}".encode()).decode(),
    "Basic": lambda s: base64.b64encode(f"u:{s}".encode()).decode(),
    "Basic, three before": lambda s: base64.b64encode(f"me:{s}".encode()).decode(),
    "base64 with more behind": lambda s: base64.b64encode(f"a{s}more".encode()).decode(),
}


@pytest.mark.parametrize("secret", SECRETS, ids=["plain", "odd"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_found_in_every_spelling(spelling: str, secret: str) -> None:
    spelled = SPELLINGS[spelling](secret)
    text = redaction.redact(f"before {spelled} behind", SECRETS)

    assert text.startswith("before ")
    assert text.endswith(" behind")
    assert redaction.HIDDEN in text
    # What stood around it, and at the ends of base64 a few characters that hold bits of both.
    assert len(text) <= len("before  behind") + 22


@pytest.mark.parametrize("secret", SECRETS, ids=["plain", "odd"])
def test_the_bytes_of_a_log_are_searched_too(secret: str) -> None:
    line = f"key {secret}\xff".encode().decode("latin-1")

    assert redaction.redact(line, SECRETS).startswith("key ***")


@pytest.mark.parametrize(
    "text",
    ["", "sk-canary", PLAIN[:-1], PLAIN.swapcase(), "A" * 10_000, "\\" * 5_000, "%25" * 5_000],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redaction.redact(text, SECRETS) == text


@pytest.mark.parametrize("word", ["", "EMPTY", "1234567"])
def test_what_is_too_short_for_a_secret_stays(word: str) -> None:
    assert redaction.redact(f"<{word}>", [word]) == f"<{word}>"
    assert redaction.pattern([word]) == ""


def test_the_longer_of_two_secrets_that_begin_alike_leaves_no_rest() -> None:
    assert redaction.redact(f"{PLAIN}-more", [PLAIN, f"{PLAIN}-more"]) == "***"


def test_the_pattern_of_the_same_secrets_is_made_once() -> None:
    redaction.redact("x", SECRETS)
    before = redaction._compiled.cache_info().misses
    for _ in range(100):
        redaction.redact("y", list(SECRETS))

    assert redaction._compiled.cache_info().misses == before


@dataclass(frozen=True)
class _Thing:
    name: str
    parts: tuple[dict[str, object], ...]


def test_values_are_searched_to_the_last() -> None:
    thing = _Thing("m", ({"key": PLAIN, PLAIN: [1, None, True, f"a {PLAIN}"]},))

    assert redaction.redacted(thing, [PLAIN]) == _Thing(
        "m", ({"key": "***", "***": [1, None, True, "a ***"]},)
    )


@pytest.mark.parametrize(
    "name",
    ["key", "token", "api_key", "apikey", "X-API-Key", "api-key", "Authorization", "password",
     "client_secret", "hf_token", "access_token", "Cookie", "Ocp-Apim-Subscription-Key", "auth",
     "OPENAI_API_KEY", "openai_api_key"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert redaction.is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["image_key", "pad_token", "eos_token", "max_tokens", "tokenizer", "keyword", "author",
     "monkey", "key_env", "tokens", "secretary"],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not redaction.is_secret_name(name)


@pytest.mark.parametrize("word", ["placeholder", "not-needed", "20260102", "password"])
def test_a_key_that_is_a_word_is_none_that_an_answer_loses(word: str) -> None:
    assert redaction.unmistakable([word, PLAIN]) == [PLAIN]
    assert redaction.redact(f"key {word}", [word]) == "key ***"


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YI_KEY", "of-another-provider-0")
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id")
    monkeypatch.setenv("https_proxy", "http://me:pass%20word1@proxy:3128")

    found = redaction.of_environment()

    assert {"of-another-provider-0", "pass word1"} <= {*found}
    assert "/home/me/.ssh/id" not in found
