"""Text without secrets, in whatever spelling a log, a file or an error may have them.

One pattern finds a secret as it stands, base64, URL-encoded, as JSON and Python would quote it,
and mixtures of these. It is made once; the worker is handed it ready.
"""

from __future__ import annotations

import base64
import functools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

Value = TypeVar("Value")

HIDDEN = "***"
SHORTEST_SECRET = 8  # `EMPTY` and the like are none

# Names whose value is a secret. A bare `key` or `token` is one alone only: a data file has an
# `image_key`, a tokenizer a `pad_token`.
_NAME = re.compile(
    r"(key|token|auth"
    r"|(.*[^a-z])?((api|access|secret|private|subscription|account|auth|model|judge)[_-]?keys?"
    r"|(access|api|auth|bearer|hf|id|refresh|secret|session|security)[_-]?token"
    r"|secret|passw(or)?d|passphrase|authorization|credentials?|cookie|bearer))"
)
_WORDS = re.compile(r"[A-Za-z]+([-_. ][A-Za-z]+)*|[\d.,:/-]+")
_VARIABLE = re.compile(r".*(key|token|secret|passw(or)?d|credentials?)")


_SIXTY_FOUR = {"+": r"(?:[+-]|%2[bB]|\\+u002[bB])", "/": r"(?:\\*/|_|%2[fF])"}
_PADDING = r"(?:[\w+/-]?(?:=|%3[dD]|\\+u003[dD]){1,2})?"


def is_secret_name(name: str) -> bool:
    """Whether a member, header or parameter of that name holds a secret: `api_key`, `Cookie`."""
    return _NAME.fullmatch(name.lower()) is not None


def of_environment() -> list[str]:
    """Secrets that are no key of this run, but that an upstream may take and log: those of
    variables named like one, and the passwords of proxies."""
    named = [v for name, v in os.environ.items() if _VARIABLE.fullmatch(name.lower())]
    passwords = [password_of(url) for url in getproxies().values()]
    # A path says where a secret is.
    return unmistakable([v for v in (*named, *passwords) if v and v[0] not in "/~"])


def unmistakable(secrets: Iterable[str]) -> list[str]:
    """Those of `secrets` that no answer holds by chance: not `placeholder`, `not-needed`, 2026.

    What a model said is searched for these alone: its words are upstream's to score.
    """
    return [s for s in secrets if len(s) >= 20 or not _WORDS.fullmatch(s)]


def password_of(url: str) -> str:
    """The password in a URL; empty without one."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def pattern(secrets: Iterable[str]) -> str:
    """A regular expression that finds each of `secrets`; empty where there is none.

    What is too short to be one stays.
    """
    # The longest first: one secret may begin like another.
    known = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=lambda s: (-len(s), s))
    return "|".join(form for secret in known for form in (_quoted(secret), *_base64(secret)))


def redact(text: str, secrets: Sequence[str]) -> str:
    """`text` without `secrets`; what is too short to be one (`EMPTY`) stays."""
    found = _compiled(tuple(secrets))
    return found.sub(HIDDEN, text) if found else text


def redacted(value: Value, secrets: Sequence[str]) -> Value:
    """`value` with every text in it redacted: of mappings, sequences and dataclasses."""
    found = _compiled(tuple(secrets))
    return _walk(value, found) if found else value


@functools.lru_cache(maxsize=64)
def _compiled(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    text = pattern(secrets)
    return re.compile(text) if text else None


def _walk(value: Any, found: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return found.sub(HIDDEN, value)
    if isinstance(value, Mapping):
        return {_walk(key, found): _walk(item, found) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walk(item, found) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _walk(getattr(value, f.name), found) for f in fields(value)}
        return replace(value, **changed)
    return value


def _quoted(secret: str) -> str:
    """A secret as it stands, or with any of its characters escaped, however often over."""
    return "".join(map(_character, secret))


@functools.cache
def _character(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    codes = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
    octets = char.encode(errors="surrogatepass")
    # `\` itself comes doubled with each quoting; `u` and hexadecimals may be of either case.
    forms = [
        r"\\+" if char == "\\" else rf"\\*{re.escape(char)}" if not char.isalnum() else char,
        "".join(r"\\+u" + _hexadecimal(code) for code in codes),
        "".join("%(?:25)*" + _hexadecimal(f"{octet:02x}") for octet in octets),
        rf"&\#(?:0*{ord(char)}|[xX]0*{_hexadecimal(f'{ord(char):x}')});",
    ]
    if len(octets) == 1:
        forms.append(r"\\+x" + _hexadecimal(codes[0][2:]))
    else:
        forms.append(re.escape(octets.decode("latin-1")))  # of a log, which is read as bytes
    named = {"&": "amp", '"': "quot", "<": "lt", ">": "gt"}.get(char)
    if named:
        forms.append(f"&{named};")
    if char == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


def _hexadecimal(digits: str) -> str:
    return "".join(d if d.isdecimal() else f"[{d}{d.upper()}]" for d in digits)


def _base64(secret: str) -> list[str]:
    """A secret in base64, of either alphabet, on its own or anywhere in what is encoded.

    Of the characters at its ends some hold bits of a neighbour's as well; the padding goes along.
    """
    data = secret.encode(errors="surrogatepass")
    found = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + data).decode()
        whole = text[math.ceil(before * 8 / 6) : (before + len(data)) * 8 // 6]
        found.append("".join(_SIXTY_FOUR.get(c, c) for c in whole) + _PADDING)
    return found
