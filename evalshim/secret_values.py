"""Secrets among the free values of a configuration: taken out of it, a name in their place.

`extra_body`, `headers` and `upstream` may hold a key under any name. What is kept of a
configuration, and what an upstream is given to read, has `${VARIABLE}` there; the worker finds
the value in that variable of its environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from evalshim.errors import ConfigError
from evalshim.redaction import HIDDEN, SHORTEST_SECRET, is_secret_name, password_of

_REFERENCE = re.compile(r"\$\{(\w+)\}")


def take(values: Any, where: str, *, every: bool = False) -> tuple[Any, dict[str, str]]:
    """`values` with its secrets replaced by `${VARIABLE}`, and what each variable is to hold.

    A user may write `${VARIABLE}` there as well, which is then a variable of the environment's.

    Args:
        where: The place, for errors; with it variables of different places differ.
        every: Whether every value may refer to a variable, not only one named like a secret.

    Raises:
        ConfigError: A variable is not set.
    """
    found: dict[str, str] = {}
    return _take(values, where, every, found), found


def _take(value: Any, where: str, may_refer: bool, found: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _secret(item, f"{where}.{key}", found)
            if isinstance(item, str) and is_secret_name(str(key))
            else _take(item, f"{where}.{key}", may_refer, found)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_take(v, f"{where}[{i}]", may_refer, found) for i, v in enumerate(value)]
    if isinstance(value, str) and (passwords := _in_url(value)):
        variable = _variable(where)
        found[variable] = value
        found.update({f"{variable}_{i}": text for i, text in enumerate(passwords)})
        return f"${{{variable}}}"
    if isinstance(value, str) and may_refer:
        _refer(value, where, found)
    return value


def _secret(text: str, where: str, found: dict[str, str]) -> str:
    if _refer(text, where, found) or not is_secret(text):
        return text
    variable = _variable(where)
    found[variable] = text
    return f"${{{variable}}}"


def _variable(where: str) -> str:
    digest = sha256(where.encode(errors="replace")).hexdigest()
    return f"EVALSHIM_SECRET_{digest[:8].upper()}"


def _in_url(text: str) -> list[str]:
    """The secrets in a text that is a URL: its password, and members of its query."""
    if not re.match(r"\w+://", text):
        return []
    try:
        query = parse_qsl(urlsplit(text).query)
    except ValueError:
        return []
    named = [value for name, value in query if is_secret_name(name) and is_secret(value)]
    return [secret for secret in (password_of(text), *named) if secret]


def _refer(text: str, where: str, found: dict[str, str]) -> bool:
    names = _REFERENCE.findall(text)
    for name in names:
        if not os.environ.get(name):
            why = "the value is read from it"
            if name.startswith("EVALSHIM_SECRET_"):
                why = "the value stood in the configuration of an earlier run, and is kept nowhere"
            raise ConfigError(f"{where}: {name} is not set", why, f"export {name}=...")
        found[name] = os.environ[name]
    return bool(names)


def is_secret(text: str) -> bool:
    """Whether the value of a member named like a secret is one: `<image>` and `EMPTY` are not."""
    return len(text) >= SHORTEST_SECRET and not text.startswith(("<", "[")) and " " not in text[:7]


def shown(assignment: str) -> str:
    """`a.b=value` for an error, without the value of a member named like a secret."""
    key, equals, _ = assignment.partition("=")
    return f"{key}={HIDDEN}" if is_secret_name(key.rpartition(".")[2]) and equals else assignment


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with each `${VARIABLE}` of `variables` put in."""
    if isinstance(value, Mapping):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(item, variables) for item in value]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda m: variables.get(m[1], m[0]), value)
    return value


def refuse(values: Any, where: str) -> None:
    """Refuse a secret where an upstream would write it down.

    Raises:
        ConfigError: With the place, never the value.
    """
    for place in _places(values, where):
        raise ConfigError(
            f"{place}: a secret, which upstream would write into its files",
            "",
            "set the variable that upstream, or the library behind it, reads it from (HF_TOKEN)",
        )


def _places(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            place = f"{where}.{key}"
            if isinstance(item, str) and is_secret_name(str(key)) and is_secret(item):
                yield place
            yield from _places(item, place)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _places(item, f"{where}[{i}]")
    elif isinstance(value, str) and _in_url(value):
        yield where
