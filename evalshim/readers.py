"""Readers: each takes a value that a user wrote and where, and gives what it means.

Raises ConfigError with place, value and what was wanted. Knows single values only,
not configurations.
"""

from __future__ import annotations

import errno
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import BackendName


def text(value: Any, where: str) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise wrong(where, value, "a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8
        raise wrong(where, value, f"text ({error.reason})") from error
    return value


def file(value: Any, where: str) -> str:
    """The text of a path, which Python code may give as one."""
    return text(str(value) if isinstance(value, os.PathLike) else value, where)


def files(value: Any, where: str) -> list[str]:
    """The texts of one path, or of several."""
    found = value if isinstance(value, (list, tuple)) else [value]
    return [file(item, f"{where}[{i}]") for i, item in enumerate(found)]


def number(low: float, *, whole: bool = False) -> Callable[[Any, str], Any]:
    """A reader of numbers of at least `low`, below 2**63; `whole` ones alone if so asked."""

    def read(value: Any, where: str) -> float | int:
        kind = "a whole number" if whole else "a number"
        good = isinstance(value, int) or (isinstance(value, float) and not whole)
        if isinstance(value, bool) or not good or not low <= value < 2**63:
            raise wrong(where, value, f"{kind} of at least {low:g}")
        return value  # type: ignore[no-any-return]

    return read


def choice(*allowed: str) -> Callable[[Any, str], str]:
    """A reader of one of the strings in `allowed`."""

    def read(value: Any, where: str) -> str:
        if value not in allowed:
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise wrong(where, value, f"one of {', '.join(allowed)}", hint)
        return str(value)

    return read


def body(value: Any, where: str) -> dict[str, Any]:
    """Further members of a request: a JSON object."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong(where, value, f"JSON ({error})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise wrong(where, value, "a mapping")
    return value


def headers(value: Any, where: str) -> dict[str, str]:
    """Headers of a request: names with texts that HTTP can carry."""
    found = body(value, where)
    for name, item in found.items():
        good = isinstance(item, str) and re.fullmatch("[ -~]*", item)
        if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not good:
            raise ConfigError(
                f"{where}: {name[:60]!r} cannot be a header",
                "it must be a name and a text, of one line and ASCII",
                f"e.g. {where}: {{X-Team: eval}}",
            )
    return found


def certificates(value: Any, where: str) -> str:
    """The absolute path of a file with certificates of authorities."""
    found = str(path(value, where))
    try:
        ssl.create_default_context(cafile=found)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigError(
            f"{where}: no certificates in {found}",
            str(error),
            "it must be a PEM file with the certificate of the endpoint's authority",
        ) from error
    return found


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(where, value, "true or false")
    return value


def reuse(value: Any, where: str) -> bool | str:
    """Whether to go on from an earlier run, or the id of the run; `latest` is true."""
    if value in ("latest", True):
        return True
    if value in (None, False):
        return False
    found = text(value, where)
    if Path(found).name != found:
        raise wrong(where, value, "true, or the id of a run in the work directory")
    return found


def verify_data(value: Any, where: str) -> str:
    """`strict` or `off`, which YAML reads as false."""
    return choice("strict", "off")("off" if value is False else value, where)


def meta_template(value: Any, where: str) -> Mapping[str, Any] | str:
    """OpenCompass's template of roles: a mapping of upstream's, or the name of one."""
    # EvalScope's name for the usual one.
    value = "chat" if value == "default-api-meta-template-oc" else value
    if isinstance(value, str) and value not in ("chat", "none"):
        raise wrong(where, value, "chat, none, or a mapping", did_you_mean(value, ("chat", "none")))
    return value if isinstance(value, str) else body(value, where)


def upstream(value: Any, where: str) -> dict[str, Any]:
    """Arguments of upstream's: a mapping, in which one may stand under a backend's name."""
    found = body(value, where)
    for backend in get_args(BackendName):
        if backend in found:
            body(found[backend], f"{where}.{backend}")
    return found


def path(value: Any, where: str) -> Path:
    """An absolute path."""
    text = file(value, where)
    try:
        found = Path(text).expanduser().absolute()
        found.lstat()
    # ~someone, and there is no such user; a character that no path has
    except (RuntimeError, ValueError) as error:
        raise wrong(where, value, f"a path ({error})") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise wrong(where, value, f"a path ({error.strerror})") from error
    return found


def img_size(value: Any, where: str) -> int:
    """Pixels, or -1."""
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise wrong(where, value, "a number of pixels, or -1 to keep the size")
    return int(value)


def limit(value: Any, where: str) -> int | float | str | None:
    """A count, a fraction below 1, a slice `[start:stop]`, or None."""
    if value is None:
        return None
    if isinstance(value, str) and (
        match := re.fullmatch(r"\[(\d{0,18}):(\d{0,18})\]", value.strip())
    ):
        start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
        if stop is None or stop > start:
            return value.strip()
    if isinstance(value, float) and value > 1 and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise wrong(
        where, value, "a count of at least 1 (20), a fraction below 1 (0.1), or a slice ('[10:20]')"
    )


def api_base(value: Any, where: str) -> str:
    """The root of an API, without `/chat/completions` and without credentials."""
    # Azure's has a query: .../openai/deployments/<name>/chat/completions?api-version=...
    base, mark, query = text(value, where).strip().partition("?")
    base = base.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if re.match(r"https?://[^/]*@", base):
        raise ConfigError(
            f"{where}: a name or password in the URL", "URLs end up in logs", "use `key_env`"
        )
    if "#" in value or not re.fullmatch(r"(api-version=[\w.-]+)?", query):
        raise ConfigError(
            f"{where}: {base}{mark}...",
            "the only query that an address may have is Azure's api-version",
            "a key goes into `key_env`, other members of a request into `extra_body`",
        )
    try:
        host = urlsplit(base).hostname if urlsplit(base).port != 0 else None
    except ValueError as error:
        raise wrong(where, value, f"a URL ({error})") from error
    if not host or not re.match(r"https?://[^/]", base):
        raise wrong(where, value, "a URL with http:// or https://, e.g. http://127.0.0.1:8000/v1")
    return f"{base}{mark}{query}"


def no_unknown(
    raw: Mapping[Any, Any], known: Sequence[str] | Mapping[str, Any], where: str
) -> None:
    """Refuse a key that is not in `known`, naming the nearest that is."""
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"unknown key in {where}: {key}",
                "",
                did_you_mean(str(key), known) + f"known: {', '.join(known)}",
            )


def wrong(where: str, value: Any, wanted: str, hint: str = "") -> ConfigError:
    """The error for a value that is not what is `wanted`."""
    shown = repr(value)
    return ConfigError(
        f"{where}: {shown[:60]}{'...' if len(shown) > 60 else ''}", f"it must be {wanted}", hint
    )
