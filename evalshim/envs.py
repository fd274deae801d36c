"""The managed environments: made, pinned, locked, checked.

One environment a backend, below the user's cache directory. It is built beside
its place and moved there whole, so that what stands there is complete. Knows
nothing of runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalshim import catalogue, locks, pip_settings, process
from evalshim.catalogue import Catalogue
from evalshim.errors import ConfigError, EvalshimError, SetupError
from evalshim.spec import BackendName, Event

PINS = Path(__file__).parent / "pins"
STATE = "evalshim-state.json"
CATALOGUE = "evalshim-catalogue.json"
# Seconds; half a minute is usual on a laptop, ten where the disk is a network's.
_LONGEST_IMPORT = 600
TORCHVISION_OPS = Path(__file__).parent / "worker" / "torchvision_ops.py"


@dataclass(frozen=True)
class Health:
    """What a real import of an upstream found.

    Attributes:
        distribution: The package that carries the upstream's import name.
        seconds: What the import took.
        commit: Of the repository that it was installed from, or of its checkout.
    """

    distribution: str
    version: str
    python_version: str
    torch: str | None
    seconds: float
    commit: str | None = None


@dataclass(frozen=True)
class State:
    """A complete environment, as its state file records it.

    Attributes:
        pins: Hash of our files that decided what was installed.
        source: What was given with `--from`; None for the pinned distribution.
        python: What was given with `--python`.
        size: Bytes on disk.
    """

    pins: str
    source: str | None
    python: str | None
    packages: int
    size: int
    health: Health


@dataclass(frozen=True)
class Interpreter:
    """The Python that a run uses for a backend, and why that one."""

    python: str
    reason: str
    managed: bool


def home() -> Path:
    """Where managed environments live: $EVALSHIM_HOME, or the user's cache directory."""
    if given := os.environ.get("EVALSHIM_HOME"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("evalshim")


def prefix(backend: BackendName) -> Path:
    return home() / "envs" / backend


def python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


def interpreter(backend: BackendName, explicit: str | None = None) -> Interpreter:
    """The interpreter that a run uses for `backend`; the first that there is.

    Raises:
        SetupError: There is none, or `explicit` cannot import the upstream.
    """
    if explicit:
        found = _with_upstream(explicit, backend)
        return Interpreter(found, "given with --python or `python:`", False)
    if state(backend):
        return Interpreter(python_of(prefix(backend)), "the managed environment", True)
    # A folder of that name is found as well, as a package without a file.
    if (spec := importlib.util.find_spec(backend)) and spec.origin:
        return Interpreter(sys.executable, "the running interpreter has it installed", False)
    raise SetupError(
        f"no environment for {backend}",
        f"{prefix(backend)} is not set up, and {sys.executable} has no `{backend}`",
        f"shim setup {backend}",
    )


def state(backend: BackendName) -> State | None:
    """The state of a complete managed environment; None where there is none."""
    try:
        raw = json.loads((prefix(backend) / STATE).read_text(encoding="utf-8"))
        found = State(**{**raw, "health": Health(**raw["health"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    # The interpreter that it was made with may be gone.
    return found if Path(python_of(prefix(backend))).exists() else None


def setup(
    backend: BackendName,
    *,
    python: str | None = None,
    source: str | None = None,
    upgrade: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> State:
    """Make the managed environment of `backend`, unless it is complete.

    Args:
        python: Interpreter or version for the environment; default: the running one.
        source: A checkout, URL or requirement in the place of the pinned distribution.
        upgrade: Newest versions that the bounds allow, instead of the pins.
        say: Told what is being done.

    Raises:
        ConfigError: A run uses the environment that is there, and it would not stay.
        SetupError: An install or the health check failed; nothing is left behind.
    """
    if source and Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser().resolve())
    pins = _pins(backend)
    with lock(backend, say):
        current = state(backend)
        asked = (source, python)
        if current and not upgrade and current.pins == pins:
            if asked == (current.source, current.python):
                _complete_names(backend, current.source, say)
                return current
            if asked == (None, None):
                # Somebody asked for this one; a plain set-up is content with it.
                say(
                    f"{backend}: keeping the environment that was set up otherwise; "
                    f"remove {prefix(backend)} for the pinned one"
                )
                return current
        with unused(backend):
            sweep(backend)
        place = prefix(backend)
        building = place.with_name(f".{backend}-{os.getpid()}")
        try:
            _build(backend, building, python, source, upgrade, say)
            say(f"{backend}: checking that it imports")
            health, names = _ask(python_of(building), backend, "catalogue", managed=True)
            catalogue.write(building / CATALOGUE, backend, names)
            made = State(pins, source, python, _packages(building), _size(building), health)
            _write(building / STATE, json.dumps(asdict(made), indent=2))
            _put(building, place)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return made


def check(python: str, backend: BackendName, *, managed: bool) -> Health:
    """Import the upstream with `python` for real.

    Raises:
        SetupError: It does not import; with the end of what it printed.
    """
    return _ask(python, backend, "health", managed=managed)[0]


def names(
    backend: BackendName,
    explicit: str | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Catalogue | None:
    """What the upstream that a run would use knows by name; None where none is installed.

    Args:
        explicit: As of `interpreter`.
        say: Told when the names must be collected first, which imports the upstream.
            Without it only what was collected before is read.
    """
    try:
        chosen = interpreter(backend, explicit)
    except SetupError:
        return None
    path = (
        prefix(backend) / CATALOGUE
        if chosen.managed
        else _unmanaged_catalogue(chosen.python, backend)
    )
    if (found := catalogue.read(path)) or say is None:
        return found
    say(f"{backend}: collecting the names that {chosen.python} knows (once)")
    with lock(backend, say):
        _, collected = _ask(chosen.python, backend, "catalogue", managed=chosen.managed)
        catalogue.write(path, backend, collected)
    return catalogue.read(path)


def _complete_names(backend: BackendName, source: str | None, say: Callable[[str], None]) -> None:
    """Collect anew what an environment knows whose checkout has changed, or whose names an
    older version collected."""
    place = prefix(backend)
    known = catalogue.read(place / CATALOGUE)
    if known and source and Path(source).is_dir():
        newest = max((p.stat().st_mtime for p in Path(source).rglob("*.py")), default=0)
        known = None if newest > (place / CATALOGUE).stat().st_mtime else known
    if known is None:
        say(f"{backend}: collecting the names that it knows")
        _, collected = _ask(python_of(place), backend, "catalogue", managed=True)
        catalogue.write(place / CATALOGUE, backend, collected)


def _unmanaged_catalogue(python: str, backend: BackendName) -> Path:
    """Its name changes with every install into the environment of `python`."""
    code = "import os, sysconfig as s; p = s.get_path('purelib'); print(p, os.stat(p).st_mtime_ns)"
    packages = process.run([python, "-c", code], timeout=60)
    digest = hashlib.sha256(f"{python} {packages}".encode()).hexdigest()[:16]
    return home() / "catalogues" / f"{backend}-{digest}.json"


def _ask(
    python: str, backend: BackendName, what: str, *, managed: bool
) -> tuple[Health, Mapping[str, Any]]:
    """Import the upstream with `python`; its health, and the last event's data.

    Args:
        what: The worker's job: `health` or `catalogue`.
    """
    found: list[Event] = []
    env = process.environment_of(managed)
    with _scratch() as folder:
        logs = process.Logs(folder, what)
        job = {"backend": what, "upstream": backend}
        worker = process.Worker(python, job, env, logs, found.append)
        alarm = threading.Timer(_LONGEST_IMPORT, worker.stop)
        alarm.start()
        try:
            ended = worker.run()
        finally:
            alarm.cancel()
        if not ended.clean or not found:
            raise SetupError(
                f"{backend} does not import in {python}",
                "\n".join([process.describe_exit(ended.code), *logs.tail()]),
                f"shim setup {backend} --upgrade, or see `shim doctor`",
            )
    facts = {key: value for key, value in found[0].data.items() if key != "upstream"}
    return Health(**facts), found[-1].data


def _build(
    backend: BackendName,
    folder: Path,
    python: str | None,
    source: str | None,
    upgrade: bool,
    say: Callable[[str], None],
) -> None:
    uv = [_uv(), "--no-progress"]
    env = {**process.isolated_environment(), **pip_settings.for_uv(os.environ)}
    say(f"{backend}: making an environment with Python {python or sys.executable}")
    base = python or getattr(sys, "_base_executable", None) or sys.executable
    # Relocatable: it is built in one folder and used in another.
    process.run([*uv, "venv", "--relocatable", "--python", base, str(folder)], env=env)
    argv = [*uv, "pip", "install", "--python", python_of(folder)]
    argv += ["--overrides", str(PINS / "overrides.txt")]
    if not _has_compiler():
        argv += ["--overrides", str(PINS / "overrides-no-compiler.txt")]
        say(f"{backend}: no C compiler, so polygon3 is left out (OCRBench_v2 needs it to score)")
    if not upgrade:
        # As constraints, not requirements: what a torch without CUDA does not ask for stays out.
        argv += ["--constraints", str(PINS / f"{backend}.txt")]
    say(f"{backend}: installing (2 GB on disk, more with CUDA; minutes the first time)")
    requirements = _requirements(backend, source, upgrade)
    listing = folder / "evalshim-requirements.txt"
    listing.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    process.run([*argv, "--requirements", str(listing)], env=env)
    _mend_torchvision(folder)


def _requirements(backend: BackendName, source: str | None, upgrade: bool) -> list[str]:
    lines = (PINS / f"{backend}.in").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    if upgrade:
        wanted = [
            line.partition("==")[0] if line.startswith(_DISTRIBUTIONS) else line for line in wanted
        ]
    if source:
        wanted = [line for line in wanted if not line.startswith(_DISTRIBUTIONS)]
        # Editable: VLMEvalKit's run.py stands beside its package and is not installed with it.
        wanted.insert(0, f"--editable {source}" if Path(source).is_dir() else source)
    return wanted


_DISTRIBUTIONS = ("ms-vlmeval", "opencompass")


def _pins(backend: BackendName) -> str:
    digest = hashlib.sha256()
    for name in (f"{backend}.in", f"{backend}.txt", "overrides.txt", "overrides-no-compiler.txt"):
        digest.update((PINS / name).read_bytes())
    digest.update(TORCHVISION_OPS.read_bytes())
    digest.update(str(_has_compiler()).encode())
    return digest.hexdigest()[:16]


def _mend_torchvision(folder: Path) -> None:
    """Let torchvision import beside a CPU-only torch for upstream's own commands as well."""
    packages = next((folder / "lib").glob("python3.*/site-packages"))
    if (packages / "torchvision").exists():
        shutil.copyfile(TORCHVISION_OPS, packages / "evalshim_torchvision_ops.py")
        line = "import evalshim_torchvision_ops; evalshim_torchvision_ops.install()\n"
        (packages / "evalshim_torchvision_ops.pth").write_text(line, encoding="utf-8")


def _with_upstream(python: str, backend: BackendName) -> str:
    """The path of `python`, which must have the upstream installed."""
    found = shutil.which(os.path.expanduser(python))  # noqa: PTH111 - keeps a bare name bare
    if not found:
        raise SetupError(f"no such interpreter: {python}", "", "give the path of a Python")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"  # '' is the working directory
        "from importlib.util import find_spec\n"
        f"spec = find_spec({backend!r}); sys.exit(not (spec and spec.origin))"
    )
    try:
        process.run([found, "-c", code], timeout=60)
    except SetupError as error:
        raise SetupError(
            f"{python} has no `{backend}`",
            error.why,
            f"install it there: pip install 'evalshim[{backend}]', or leave --python out",
        ) from error
    return found


@contextlib.contextmanager
def lock(backend: BackendName, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the set-up of `backend`; the lock ends with its process, however that ends."""
    path = home() / "envs" / f".{backend}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise SetupError(
            f"cannot write to {path.parent}", str(error), "set EVALSHIM_HOME to a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"{backend}: waiting for another set-up (process {file.read().strip() or '?'})")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def unused(backend: BackendName) -> Iterator[None]:
    """Keep runs from the environment of `backend` within the block.

    Raises:
        ConfigError: One uses it, and would be left without what it imports.
    """
    with locks.unshared(prefix(backend) / STATE) as free:
        if not free:
            raise ConfigError(
                f"a run uses the environment of {backend}",
                "it would be left without what it has still to import",
                "wait until it has ended; `shim runs` lists the runs of a folder",
            )
        yield


def sweep(backend: BackendName) -> None:
    """Remove what a killed set-up left; for who has the `lock`: nobody builds there."""
    for folder in prefix(backend).parent.glob(f".{backend}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _put(built: Path, place: Path) -> None:
    old = built.with_name(f"{built.name}-old")
    if place.exists():
        place.rename(old)
    built.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _uv() -> str:
    from uv import find_uv_bin

    try:
        return os.fsdecode(find_uv_bin())
    except FileNotFoundError as error:
        raise SetupError("no uv", str(error), "pip install uv") from error


def _has_compiler() -> bool:
    configured = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return any(shutil.which(c) for c in (os.environ.get("CC", ""), configured, "cc", "gcc") if c)


def _packages(folder: Path) -> int:
    return sum(1 for _ in folder.glob("lib/python3.*/site-packages/*.dist-info"))


def _size(folder: Path) -> int:
    return sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_dir())


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="evalshim-") as folder:
        yield Path(folder)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def report(backend: BackendName, explicit: str | None = None) -> dict[str, Any]:
    """The health of a backend as `shim doctor` shows it; never raises."""
    try:
        chosen = interpreter(backend, explicit)
        health = check(chosen.python, backend, managed=chosen.managed)
    except EvalshimError as error:
        return {"backend": backend, "usable": False, "problem": str(error)}
    made = state(backend) if chosen.managed else None
    facts: Mapping[str, Any] = {"packages": made.packages, "size": made.size} if made else {}
    return {"backend": backend, "usable": True, **asdict(chosen), **asdict(health), **facts}
