"""The flags of the upstreams' own commands, on the command line of `shim run`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evalshim import config, envs, secret_values
from evalshim.errors import ConfigError, did_you_mean
from evalshim.spec import BackendName

# Flags of upstream's with a short form (opencompass 0.5.4).
_SHORT = {
    "-p": "--partition",
    "-q": "--quotatype",
    "-r": "--reuse",
    "-w": "--work-dir",
    "-a": "--accelerator",
    "-m": "--mode",
    "-l": "--lark",
    "-sp": "--station-path",
}
# Flags of ours that several values may follow, as in upstream's commands (`--data A B`):
# each value gets the flag again.
_SEVERAL = ("--data", "--model")
# Ours that may stand alone, and what is one of its values.
_OPTIONAL = {"--reuse": re.compile(r"latest|true|false|\d{8}[-_]\d{6}\S*")}


def split(
    words: Sequence[str],
    ours: Sequence[str],
    switches: Sequence[str],
    backends: Sequence[BackendName],
) -> tuple[list[str], dict[str, Any]]:
    """What of a command line is ours, and the upstreams' arguments that the rest means.

    Args:
        ours: Our own flags.
        switches: Those of them that no value follows.
        backends: Where flags that are not ours are looked for.

    Returns:
        Words for our own parser, and arguments.

    Raises:
        ConfigError: Nobody knows a flag.
    """
    kept: list[str] = []
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = _SHORT.get(word, word).partition("=")
        argument = None if flag in ours else _argument(flag, backends)
        if flag in _SEVERAL and not equals:
            values = _values(rest)
            kept += [part for v in values for part in (flag, v)] or [flag]
        elif flag in _OPTIONAL and not equals:
            named = rest and _OPTIONAL[flag].fullmatch(rest[0])
            kept += [flag, rest.pop(0) if named else "latest"]
        elif word == "--":
            kept += [word, *rest]
            break
        elif argument is None and flag.startswith("--") and flag not in (*ours, "--help"):
            raise _unknown(flag, ours, backends)
        elif argument is None:
            kept.append(f"{flag}{equals}{value}")
            if flag in ours and flag not in switches and not equals and rest:
                kept.append(rest.pop(0))
        else:
            name, kind, numeric = argument
            alone = not equals and (not rest or rest[0].startswith("-"))
            if kind == "switch" or (kind == "optional" and alone):
                found[name] = True
            elif kind == "list":
                found[name] = [value] if equals else _values(rest)
            else:
                if not equals and (not rest or rest[0].startswith("--")):
                    raise ConfigError(f"{flag}: no value", "", f"e.g. {flag} VALUE")
                text = value if equals else rest.pop(0)
                # Text is text: the JSON of --judge-args, a key of digits.
                found[name] = config.value(text, flag) if numeric else text
    return kept, found


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` of `--upstream`; values are YAML.

    Raises:
        ConfigError: A word is not of that form.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--upstream {word}: not KEY=VALUE", "", "e.g. --upstream retry=3")
        found[key] = config.value(text, f"--upstream {secret_values.shown(word)}")
    return found


def _values(rest: list[str]) -> list[str]:
    """The words up to the next flag; they leave `rest`."""
    # Names of datasets and models do not end like a configuration file.
    ends = (
        i
        for i, w in enumerate(rest)
        if w.startswith("--") or w in _SHORT or w.endswith((".yaml", ".yml", ".json", ".py"))
    )
    end = next(ends, len(rest))
    values, rest[:] = rest[:end], rest[end:]
    return values


def _unknown(flag: str, ours: Sequence[str], backends: Sequence[BackendName]) -> ConfigError:
    known, missing = list(ours), []
    for backend in backends:
        if names := envs.names(backend):
            known += [a["flag"] for a in names.arguments.values() if a["flag"]]
        else:
            missing.append(backend)
    return ConfigError(
        f"no such option: {flag}",
        "".join(f"what {b} takes is unknown: it is not set up\n" for b in missing).strip(),
        did_you_mean(flag, known) + "`shim run --help` has ours",
    )


def _argument(flag: str, backends: Sequence[BackendName]) -> tuple[str, str, bool] | None:
    """Name and kind of the argument that `flag` means, and whether its value is a number."""
    if not flag.startswith("--"):
        return None
    for backend in backends:
        names = envs.names(backend)
        known: Mapping[str, Any] = names.arguments if names else {}
        for name, argument in known.items():
            if argument["flag"] == flag:
                return name, str(argument["kind"]), argument["type"] in ("int", "float")
    return None
