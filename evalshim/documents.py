"""YAML and JSON text -> plain values, strictly: no key twice, no Python objects.

Turns whatever is wrong with a document into one `ConfigError` that names the place.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import yaml

from evalshim.errors import ConfigError

# The C loader is ten times faster; a PyYAML built without it still works.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


LARGEST = 8_000_000  # characters; larger ones are data
DEEPEST = 64
MOST_VALUES = 500_000


class _Loader(_SafeLoader):  # type: ignore[misc]
    """YAML's safe subset; a key given twice is an error, where PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<` may well come twice
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                mark = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)  # type: ignore[no-any-return]


def parse(text: str, what: str) -> Any:
    """The value that `text` holds.

    Args:
        what: What the text is, for the error: `<what> is not YAML`.

    Raises:
        ConfigError: With line and column.
    """
    try:
        _check_size(text, what)
        _check_events(text, what)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML", _problem(error), "mend that place") from error
    # PyYAML builds dates and numbers without catching what their constructors raise.
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ConfigError(f"{what} is not YAML", str(error), "quote what is text") from error


def parse_json(text: str, what: str) -> Any:
    """The value that a JSON document holds; the reader of YAML would take a trailing comma.

    Raises:
        ConfigError: With line and column.
    """
    _check_size(text, what)
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ConfigError(f"{what} is not JSON", where, "mend that place") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not JSON", str(error), "mend that place") from error
    level = [found]
    for _ in range(DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise _too_deep(what)
    return found


def _check_size(text: str, what: str) -> None:
    if len(text) > LARGEST:
        raise ConfigError(
            f"{what} is too large",
            f"{len(text):,} characters, and no configuration has more than {LARGEST:,}",
            "data goes into a file of its own: `path: FILE`",
        )


def _check_events(text: str, what: str) -> None:
    """Refuse what would take a reader's memory or stack: deep nesting, aliases that multiply.

    An alias costs nothing here, but whoever walks the value walks what it stands for again.
    """
    sizes: dict[str, int] = {}
    names: list[str | None] = []
    counts = [0]
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise ConfigError(f"{what} contains itself", f"*{event.anchor} is within it")
            counts[-1] += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            names.append(event.anchor)
            counts.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            count, name = counts.pop(), names.pop()
            counts[-1] += count
            if name:
                sizes[name] = count
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
        if len(counts) > DEEPEST:
            raise _too_deep(what)
        if counts[-1] > MOST_VALUES:
            raise ConfigError(
                f"{what} is too large",
                f"with its aliases written out it has more than {MOST_VALUES:,} values",
                "write less by aliases",
            )


def _too_deep(what: str) -> ConfigError:
    return ConfigError(f"{what} is nested too deeply", f"more than {DEEPEST} levels", "flatten it")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = value
    return found


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
