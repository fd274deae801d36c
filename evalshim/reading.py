"""What reading one configuration needs to know beside it, and what its parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalshim import envs, readers
from evalshim.catalogue import Catalogue
from evalshim.dialects import Words
from evalshim.errors import ConfigError
from evalshim.plugin_files import PluginFile
from evalshim.spec import BackendName, slug


class Reading:
    """What reading one configuration needs to know beside it."""

    def __init__(
        self,
        words: Words,
        beside: Path | None,
        python: str | None,
        say: Callable[[str], None] | None,
        plugins: Sequence[PluginFile] = (),
    ) -> None:
        self.words = words
        self.beside = beside
        self.python = python
        self.say = say
        self.plugins = plugins
        self._names: dict[BackendName, Catalogue | None] = {}

    def word(self, ours: str) -> str:
        return self.words.get(ours, ours)

    def names(self, backend: BackendName) -> Catalogue | None:
        if backend not in self._names:
            self._names[backend] = envs.names(backend, self.python, say=self.say)
        return self._names[backend]

    def plugin_class(self, name: str) -> bool:
        return any(name in plugin.classes for plugin in self.plugins)


def listed(raw: Mapping[str, Any], key: str, example: str, reading: Reading) -> list[Any]:
    value = raw.get(key)
    word = reading.word(key)
    if value is None or value == []:
        raise ConfigError(f"no {key}", f"`{word}` is missing or empty", example)
    if not isinstance(value, list):
        raise readers.wrong(word, value, "a list", example)
    return value


def file_name(name: str, where: str) -> str:
    if slug(name) != name:
        raise ConfigError(
            f"{where}: {name!r} cannot name a file",
            "upstream names its result files after the dataset",
            f"e.g. {slug(name)}",
        )
    return name


def data_path(text: str, where: str, beside: Path | None) -> Path:
    places: list[Path] = []
    for folder in (beside, Path.cwd()):
        try:
            places += [folder / Path(text).expanduser()] if folder else []
            if places and places[-1].exists():
                return places[-1].resolve()
        except (RuntimeError, OSError) as error:  # ~someone; a name that is too long
            raise ConfigError(f"{where}: no such file: {text[:60]}", str(error)) from error
    looked = "\n".join(dict.fromkeys(str(p.absolute()) for p in places))
    raise ConfigError(
        f"{where}: no such file: {text}", f"looked for:\n{looked}", "correct the path"
    )
