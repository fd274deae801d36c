"""Hashes of data files, by which a run says what it was about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Digest:
    """Hashes of a file; of a folder over the names and contents of its files, in order."""

    sha256: str
    md5: str


def of(path: Path) -> Digest | None:
    """The hashes of what lies at `path`; None where nothing can be read there."""
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        for block in _blocks(path):
            sha.update(block)
            md5.update(block)
    except OSError:
        return None
    return Digest(sha.hexdigest(), md5.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield file.relative_to(path).as_posix().encode()
            yield from _blocks(file)
        return
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            yield block
