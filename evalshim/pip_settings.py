"""What pip was told about indexes and certificates, in the words of uv.

uv reads neither pip's configuration files nor its environment variables (uv's
documentation, "pip compatibility"). Reads pip's files, writes nothing.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

# pip's option -> uv's variables, the first of which is set; any that is set already wins.
_UV: Final[Mapping[str, tuple[str, ...]]] = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "proxy": ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
}
# How uv separates several values of a variable; find-links alone takes commas.
_SEPARATOR: Final = {"find-links": ","}


def for_uv(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `environ` so that uv sees what pip would see."""
    found: dict[str, str] = {}
    for option, value in _options(environ).items():
        names = _UV.get(option)
        if names and value.split() and not any(environ.get(name) for name in names):
            found[names[0]] = _SEPARATOR.get(option, " ").join(value.split())
    extra = "UV_INDEX" in found or environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL")
    if extra and not environ.get("UV_INDEX_STRATEGY"):
        # pip takes the best version of all its indexes; uv would stop at the first that has one.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def _options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options: from [global] of its files, then [install], then its variables."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for path in _files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for name, options in sections.items():
            if parser.has_section(name):
                options.update((_option(key), value) for key, value in parser.items(name))
    variables = {
        _option(name[4:].lower()): value
        for name, value in environ.items()
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value
    }
    return {**sections["global"], **sections["install"], **variables}


def _option(key: str) -> str:
    key = key.replace("_", "-")
    return "timeout" if key == "default-timeout" else key


def _files(environ: Mapping[str, str]) -> Iterable[Path]:
    """pip's configuration files in its order (pip documentation, "Configuration")."""
    given = environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
    else:
        for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
            yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    if not (given and Path(given).exists()):
        yield home / ".pip" / "pip.conf"
        if sys.platform == "darwin":
            yield home / "Library" / "Application Support" / "pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if given:
        yield Path(given)
