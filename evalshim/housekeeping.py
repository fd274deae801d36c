"""What evalshim has left on the disk: runs and environments, found and removed.

Returns what it found and did; prints nothing, asks nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from evalshim import envs, locks, results
from evalshim.errors import ConfigError, EvalshimError, SetupError, did_you_mean
from evalshim.locks import Owner
from evalshim.spec import BackendName

_DONE = ("scored", "infer_only", "skipped")
_ID = re.compile(r"\d{8}-\d{6}(-\d+)?")
# All that a run has which died before its run.json.
_FIRST = {"config.yaml", "logs", locks.LOCK}
_GOING = ".shim-removed"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Run:
    """A run directory as it stands.

    Attributes:
        status: As run.json says, but `died` for one that is nobody's and had not ended, and
            `unreadable` where run.json is.
        header: The contents of run.json; empty where it has none.
        owner: Who holds it now.
    """

    path: Path
    status: str
    header: Mapping[str, Any]
    owner: Owner | None

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def cells(self) -> Mapping[str, Mapping[str, Any]]:
        cells = self.header.get("cells")
        found = cells.items() if isinstance(cells, dict) else ()
        return {name: cell for name, cell in found if isinstance(cell, dict)}

    @property
    def done(self) -> int:
        """How many cells have what they were asked for."""
        return sum(cell.get("status") in _DONE for cell in self.cells.values())

    @property
    def started(self) -> datetime:
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            return datetime.fromisoformat(self.header["started_at"]).astimezone(timezone.utc)
        changed = 0.0
        with contextlib.suppress(OSError):
            changed = self.path.stat().st_mtime
        return datetime.fromtimestamp(changed, timezone.utc)

    @property
    def age(self) -> timedelta:
        """Since it started."""
        return max(datetime.now(timezone.utc) - self.started, timedelta())

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The metric that its upstream reports first, of each cell."""
        try:
            rows = results.load(self.path).rows
        except EvalshimError:
            return []
        shown = ("model", "dataset", "metric", "value", "score")
        return [{key: getattr(row, key) for key in shown} for row in rows if row.is_primary]


def runs(work_dir: Path) -> list[Run]:
    """The runs in `work_dir`, newest first.

    Raises:
        ConfigError: There is no such folder.
    """
    try:
        folders = [folder for folder in work_dir.iterdir() if is_run(folder)]
    except OSError as error:
        raise ConfigError(
            f"no runs in {work_dir}", error.strerror or "", "say where they are: --work-dir DIR"
        ) from error
    found = [look(folder) for folder in folders]
    return sorted(found, key=lambda run: (run.started, len(run.id), run.id), reverse=True)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's directory: by its run.json, or as one that died before that.
    A link to one is none."""
    if folder.is_symlink() or not folder.is_dir() or folder.name.endswith(_GOING):
        return False
    if "run_id" in (_header(folder) or {}):
        return True
    return bool(_ID.fullmatch(folder.name)) and (
        (folder / "run.json").is_file() or _is_bare(folder)
    )


def _is_bare(folder: Path) -> bool:
    try:
        names = {path.name for path in folder.iterdir()}
        # What is written beside its place begins like .config.yaml.123
        return all(name in _FIRST or name.startswith((".config.", ".run.")) for name in names) and (
            not (folder / "logs").exists() or not any((folder / "logs").iterdir())
        )
    except OSError:
        return False


def look(folder: Path) -> Run:
    """The run in `folder`, which is one."""
    for _ in range(2):  # it may begin or end between one look and the next
        owner, header = locks.owner(folder), _header(folder)
        status = str((header or {}).get("status"))
        if owner:
            status = "running"
        elif header is None:
            status = "unreadable" if (folder / "run.json").exists() else "died"
        elif status == "running":
            status = "died"
        if status != "died":
            break
    return Run(folder, status, header or {}, owner)


def place_of(name: str, work_dir: Path) -> Path:
    """Where a run would be: an id in `work_dir`, if there is one, or a path."""
    by_id = work_dir / name
    return by_id if os.sep not in name and by_id.is_dir() else Path(name)


def find(name: str, work_dir: Path) -> Path:
    """The run directory that `name` means: an id in `work_dir`, or a path; or a link to it.

    Raises:
        ConfigError: It is none.
    """
    folder = place_of(name, work_dir)
    if not is_run(folder.resolve()):
        known = [p.name for p in work_dir.iterdir() if is_run(p)] if work_dir.is_dir() else []
        what = "is not a run directory" if folder.exists() else "does not exist"
        cure = f"{did_you_mean(name, known)}`shim runs` lists them"
        raise ConfigError(f"no run {name}", f"{folder} {what}", cure)
    return folder.absolute()


def chosen(
    names: Sequence[str], work_dir: Path, older_than: str | None = None, keep: int | None = None
) -> list[Run]:
    """The runs that a removal is about, newest first; none of them is running.

    Args:
        names: Ids or paths; else those of `work_dir` that
        older_than: began so long ago (`30d`), and
        keep: are not among so many newest.

    Raises:
        ConfigError: A name is of no run, or of one that is running.
    """
    if bool(names) == (older_than is not None or keep is not None):
        raise ConfigError(
            "which runs?" if not names else "runs by name and by age",
            "",
            "name runs, or say --older-than 30d or --keep N",
        )
    if names:
        found = [look(path) for path in dict.fromkeys(find(name, work_dir) for name in names)]
        for run in found:
            if run.path.is_symlink():
                target = run.path.resolve().name
                raise ConfigError(
                    f"{run.path} is a link to a run",
                    "tomorrow it may be one to another",
                    f"name the run: {target}",
                )
            if run.owner:
                raise ConfigError(
                    f"the run {run.id} is running", str(run.owner), "end it first, or wait"
                )
        return found
    least = _duration(older_than) if older_than is not None else timedelta()
    rest = runs(work_dir)[keep or 0 :]
    return [run for run in rest if not run.owner and run.age >= least]


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not match:
        raise ConfigError(
            f"--older-than {text}: no length of time", "", "a number and s, m, h, d or w: 30d"
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def remove(run: Path) -> int:
    """Remove a run directory, and let `latest` beside it name the newest that is left.

    Returns:
        How many bytes that freed.

    Raises:
        ConfigError: Somebody else has it.
    """
    freed = size(run)
    with locks.held(run):
        # Under a name that no run has: half a run is none, should this be interrupted.
        going = run.with_name(f".{run.name}{_GOING}")
        with _told(f"cannot remove {run}"):
            run.rename(going)
            (going / "run.json").unlink(missing_ok=True)
        _remove_tree(going)
    for left in run.parent.glob(f".*{_GOING}"):
        if not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    _repoint_latest(run.parent)
    return freed


def _repoint_latest(work_dir: Path) -> None:
    link = work_dir / "latest"
    if link.is_symlink() and not link.exists():
        rest = [run.path for run in runs(work_dir) if (run.path / "results.json").is_file()]
        if rest:
            results.point_latest(rest[0])
        else:
            link.unlink(missing_ok=True)


def remove_environment(
    backend: BackendName, say: Callable[[str], None] = lambda _: None
) -> int | None:
    """Remove the managed environment of `backend`, and what a killed set-up left.

    Returns:
        How many bytes that freed; None where there is no environment.

    Raises:
        ConfigError: A run uses it.
        SetupError: It cannot be removed.
    """
    place = envs.prefix(backend)
    if not place.parent.is_dir():
        return None
    with envs.lock(backend, say):
        envs.sweep(backend)
        if place.is_symlink():
            raise SetupError(f"{place} is a link", "it was not made by `shim setup`", "remove it")
        if not place.exists():
            return None
        freed = size(place)
        # Where a set-up would sweep it, should this be interrupted.
        going = place.with_name(f".{backend}-{os.getpid()}")
        with _told(f"cannot remove {place}"), envs.unused(backend):
            place.rename(going)
        _remove_tree(going)
    return freed


def size(folder: Path) -> int:
    """Bytes that are free once `folder` is removed: files that are linked elsewhere, as those
    of an environment are in uv's cache, stay there."""
    total = 0
    links: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a run may be writing
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - of very many
                inode = (found.st_dev, found.st_ino)
                links[inode] = links.get(inode, found.st_nlink) - 1
                total += 0 if links[inode] else found.st_size
    return total


def _remove_tree(folder: Path) -> None:
    with _told(f"cannot remove {folder}"):
        # A worker outlives its killed run by a moment, and may be writing.
        for _ in range(4):
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
                return
            time.sleep(0.2)
        shutil.rmtree(folder)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(what, str(error), "remove what is left by hand") from error


def _header(folder: Path) -> dict[str, Any] | None:
    """What run.json holds; None where it does not hold what we write."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
