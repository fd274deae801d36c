"""A run from what was asked to its results: configuration, plan, checks, launch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evalshim import config, envs, process, progress, results
from evalshim.backends import BACKENDS
from evalshim.errors import ConfigError, SetupError
from evalshim.live import LiveRun, by_backend, key_of
from evalshim.results import RunResult
from evalshim.spec import BackendName, Cell, ModelSpec, RunSpec, slug


def run(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None, /, **keys: Any
) -> RunResult:
    """Run an evaluation and return its results.

    Args:
        source: A configuration file, or its contents as a mapping.
        keys: Keys of the configuration, over those of `source`.

    Raises:
        EvalshimError: Nothing was run: bad configuration, no environment, ...
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return execute(config.parse({**config.load(path), **keys}, beside=path.absolute().parent))
    return execute(config.parse({**(source or {}), **keys}))


def specify(
    path: Path | None,
    *,
    model: str | None = None,
    api_base: str | None = None,
    data: Sequence[str] = (),
    backend: str | None = None,
    assignments: Sequence[str] = (),
    **options: str | None,
) -> RunSpec:
    """The `RunSpec` of a command line: the file, then the flags, then `--set`.

    Args:
        options: Further keys of the configuration as text, None where not given.

    Raises:
        ConfigError: As `config.parse`.
    """
    if backend and not data:
        raise ConfigError("--backend without --data", "it says where to look for those names")
    raw = config.load(path) if path else {}
    if model or api_base:
        raw["models"] = config.with_endpoint(raw.get("models"), model, api_base)
    if data:
        raw["datasets"] = [
            f"{backend}:{name}" if backend and ":" not in name else name for name in data
        ]
    for key, value in options.items():
        if value is not None:
            raw[key] = value if key in ("work_dir", "python") else config.value(value, f"--{key}")
    raw = config.override(raw, assignments)
    return config.parse(raw, beside=path.absolute().parent if path else None)


def load_run(path: str | os.PathLike[str]) -> RunResult:
    """The results of an earlier run, from its directory (`outputs/latest`, say)."""
    return results.load(Path(path))


def plan(spec: RunSpec) -> tuple[Cell, ...]:
    """The cells of a run: every model on every dataset, in the order of the configuration."""
    cells: list[Cell] = []
    for model in spec.models:
        for dataset in spec.datasets:
            name = f"{slug(model.name)}__{slug(dataset.name)}"
            twins = sum(c.id == name or c.id.startswith(f"{name}~") for c in cells)
            cells.append(Cell(f"{name}~{twins + 1}" if twins else name, model, dataset))
    return tuple(cells)


def execute(
    spec: RunSpec, *, command: Sequence[str] = (), terminal: bool | None = None
) -> RunResult:
    """Run everything that `spec` asks for.

    Args:
        command: The command line, for run.json.
        terminal: Whether stderr shows bars; default: whether it is a terminal.

    Raises:
        ConfigError: Data or the work directory is unusable; nothing was run.
        SetupError: A backend has no usable interpreter; nothing was run.
    """
    cells = plan(spec)
    parts = by_backend(cells)
    for name, part in parts.items():
        BACKENDS[name].check(part, spec)
    interpreters = _interpreters(list(parts), spec.python)
    models = {model.name: _with_served_model(model) for model in spec.models}
    spec = replace(spec, models=tuple(models.values()))
    # Workers run side by side; what an endpoint may get at once is shared among them.
    shared = {
        name: replace(model, concurrency=max(1, _parallel(model, spec) // len(parts)))
        for name, model in models.items()
    }
    cells = tuple(replace(cell, model=shared[cell.model.name]) for cell in cells)
    run = LiveRun(spec, cells, interpreters, _new_run_directory(spec.work_dir), command)
    titles = {name: BACKENDS[name].title for name in parts}
    shown = sys.stderr.isatty() if terminal is None else terminal
    reporter = progress.for_stream(cells, titles, terminal=shown)
    with _terminated_as_interrupted(), reporter:
        return run.go(reporter)


def _interpreters(
    backends: Sequence[BackendName], python: str | None
) -> dict[BackendName, envs.Interpreter]:
    """The interpreter of each backend; what is missing is said of all at once."""
    found: dict[BackendName, envs.Interpreter] = {}
    problems: list[SetupError] = []
    for name in backends:
        try:
            found[name] = envs.interpreter(name, python)
        except SetupError as error:
            problems.append(error)
    if problems:
        parts = [(p.what, p.why, p.cure) for p in problems]
        raise SetupError(*("\n".join(dict.fromkeys(texts)) for texts in zip(*parts, strict=True)))
    return found


def _parallel(model: ModelSpec, spec: RunSpec) -> int:
    return model.concurrency or spec.concurrency


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: workers stopped, results written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored stays so: that is how nohup keeps a run alive.
    heeded = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_served_model(model: ModelSpec) -> ModelSpec:
    """`model: auto` becomes the id of the only model that the endpoint serves."""
    if model.model != "auto":
        return model
    import openai

    try:
        client = openai.OpenAI(
            base_url=model.api_base, api_key=key_of(model), timeout=10, max_retries=1
        )
        served = [m.id for m in client.models.list()]
    # The client raises what it meets: its own errors, httpx's, JSON's, AttributeError on HTML.
    except Exception as error:
        raise SetupError(
            f"{model.name}: cannot ask {model.api_base} which model it serves",
            process.redact(str(error), [key_of(model)]),
            "start the endpoint, or name the model: `model: <id>`",
        ) from error
    if len(served) != 1:
        raise ConfigError(
            f"{model.name}: `model: auto`, but {model.api_base} serves {len(served)} models",
            ", ".join(served[:20]),
            "name one of them: `model: <id>`",
        )
    return replace(model, model=served[0])


def _new_run_directory(work_dir: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        for twin in range(1, 1000):
            folder = work_dir / (stamp if twin == 1 else f"{stamp}-{twin}")
            try:
                folder.mkdir()
            except FileExistsError:
                if folder.is_dir():
                    continue
                raise
            (folder / "logs").mkdir()
            return folder
    except OSError as error:
        raise ConfigError(
            f"cannot write to the work directory {work_dir}",
            str(error),
            "give another: --work-dir DIR",
        ) from error
    raise ConfigError(f"too many runs a second in {work_dir}")
