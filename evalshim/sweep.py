"""A last look at what upstream wrote: no secret stays in a text file below a run.

A net below what the worker keeps out at the source: upstream has processes of its own in a run
of a user's configuration, and writes that configuration down, keys and all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from evalshim.redaction import redact

# Of the user's own data, pictures inside, nothing is upstream's to leak.
_NOT_UPSTREAMS = ("LMUData", "images")
_TEXT = {
    ".csv", ".html", ".json", ".jsonl", ".journal", ".log", ".md", ".out", ".py", ".tsv", ".txt",
    ".yaml",
}  # fmt: skip


def clean(folder: Path, secrets: Sequence[str]) -> list[Path]:
    """Redact the text files below `folder` in place; links are not followed.

    Returns:
        The files that had a secret.
    """
    found = []
    for path in _texts(folder):
        with contextlib.suppress(OSError):
            # latin-1 keeps every byte: upstream's files may hold anything.
            text = path.read_bytes().decode("latin-1")
            if (redacted := redact(text, secrets)) != text:
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                beside.write_bytes(redacted.encode("latin-1"))
                beside.chmod(path.stat().st_mode)
                beside.replace(path)
                found.append(path)
    return found


def _texts(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_UPSTREAMS]
        for name in names:
            path = Path(place, name)
            if path.suffix in _TEXT and path.is_file() and not path.is_symlink():
                yield path
