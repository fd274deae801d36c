"""The exceptions that a user may see, each with the exit code of `shim`.

Every error says what is wrong, why, and how to mend it. Nothing here imports
anything of ours.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class EvalshimError(Exception):
    """The root. `what` happened, `why`, and the `cure`.

    `why` and `cure` may be empty; each may hold several lines.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.cure = cure

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(f"why:  {_hang(self.why)}")
        if self.cure:
            parts.append(f"mend: {_hang(self.cure)}")
        return harmless("\n".join(parts))


class ConfigError(EvalshimError):
    """Bad usage, configuration or data file; nothing was run."""

    exit_code = 2


class SetupError(EvalshimError):
    """The environment (an interpreter, an install, a disk) is not usable; nothing was run."""

    exit_code = 3


class ResultsError(EvalshimError):
    """A run directory or an upstream file cannot be read back."""

    exit_code = 2


def harmless(text: str) -> str:
    """`text` without what a terminal would carry out: it may quote a file, or its name."""
    shown = (
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in text
    )
    return "".join(shown)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean a, b? ` for what in `known` comes near `word`, else the empty string."""
    lower = {k.lower(): k for k in known}
    near = [lower[k] for k in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.5)]
    return f"did you mean {', '.join(near)}? " if near else ""


def _hang(text: str) -> str:
    return text.replace("\n", "\n      ")
