"""A run from what was asked to its results: configuration, plan, launch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evalshim import (
    config,
    dialects,
    envs,
    judge_entries,
    locks,
    model_entries,
    plans,
    progress,
    readers,
    readiness,
    results,
    resumption,
)
from evalshim.backends import BACKENDS
from evalshim.crew import Early
from evalshim.errors import ConfigError
from evalshim.live import LiveRun
from evalshim.plans import Plan
from evalshim.results import RunResult
from evalshim.spec import RunSpec

# Flags of VLMEvalKit's for a model behind an address (run.py, 0.0.20).
_SAMPLING = (
    "key", "temperature", "max_tokens", "top_p", "timeout", "top_k", "repetition_penalty",
    "extra_body",
)  # fmt: skip

Source = str | os.PathLike[str] | Mapping[str, Any]


def run(source: Source | None = None, /, *, preflight: bool = True, **keys: Any) -> RunResult:
    """Run an evaluation and return its results.

    Args:
        source: A configuration file, or its contents as a mapping, in any dialect.
        preflight: Whether endpoints are asked before anything starts.
        keys: Keys of our own dialect, over those of `source`.

    Raises:
        EvalshimError: Nothing was run: bad configuration, no environment, ...
    """
    return execute(spec_of(source, **keys), preflight=preflight)


def check(source: Source | None = None, /, **keys: Any) -> Plan:
    """What `run` with the same arguments would do, samples counted; nothing is run.

    Raises:
        EvalshimError: The configuration is bad. What is missing to run it is in the plan.
    """
    return plans.counted(plans.plan(spec_of(source, **keys), say=_say))


def spec_of(source: Source | None = None, /, **keys: Any) -> RunSpec:
    """The `RunSpec` that `run` with the same arguments would run.

    Raises:
        ConfigError: As `config.parse`.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        raw, words = dialects.translate(config.load(path), config.load)
        beside: Path | None = path.absolute().parent
    else:
        raw, words = dialects.translate(source or {}, config.load)
        beside = None
    return config.parse({**raw, **keys}, beside=beside, words=words, say=_say)


def specify(
    path: Path | None,
    *,
    model: Sequence[str] = (),
    api_base: str | None = None,
    retry: str | None = None,
    data: Sequence[str] = (),
    backend: str | None = None,
    assignments: Sequence[str] = (),
    upstream: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    **options: Any,
) -> RunSpec:
    """The `RunSpec` of a command line: the file, then the flags, then `--set`.

    `--set` speaks the dialect of the file; where that is not ours it comes first.

    Args:
        upstream: Arguments of the upstreams' commands, over those of the file.
        judge: Keys of `judge`, over those of the file.
        options: Further keys of the configuration; text is YAML; None where not given.

    Raises:
        ConfigError: As `config.parse`.
    """
    if backend and not data:
        raise ConfigError("--backend without --data", "it says where to look for those names")
    given = config.load(path) if path else {}
    raw, words = dialects.translate(given, config.load)
    foreign = raw != given
    if foreign and assignments:
        raw, words = dialects.translate(config.override(given, assignments), config.load)
    upstream = dict(upstream or {})
    if "base_url" in upstream and model:
        raw["models"] = dialects.with_base_url(list(model), upstream)
    elif model or api_base:
        raw["models"] = model_entries.with_models(raw.get("models"), model, api_base)
    models = raw.get("models")
    if isinstance(models, list) and any(isinstance(m, dict) and "api_base" in m for m in models):
        sampled = {key: upstream.pop(key) for key in _SAMPLING if key in upstream}
        raw["models"] = [dialects.with_sampling(m, sampled) for m in models]
    judge = {**dialects.judge_arguments(upstream), **_given(judge or {})}
    if judge:
        raw["judge"] = judge_entries.with_arguments(raw.get("judge"), judge)
    if retry is not None and "config" in raw:
        upstream["retry"] = config.value(retry, "--retry")
    elif retry is not None and isinstance(raw.get("models"), list):
        tries = config.value(retry, "--retry")
        named = [{"name": m} if isinstance(m, str) else m for m in raw["models"]]
        raw["models"] = [{**m, "retry": tries} if isinstance(m, dict) else m for m in named]
    if data:
        raw["datasets"] = [
            f"{backend}:{name}" if backend and ":" not in name else name for name in data
        ]
    if upstream:
        of_file = readers.upstream(raw.get("upstream", {}), "upstream")
        for backend in BACKENDS:
            # What stands under a backend would win over what is said for all.
            nested = {k: v for k, v in of_file.get(backend, {}).items() if k not in upstream}
            of_file = {**of_file, **({backend: nested} if backend in of_file else {})}
        raw["upstream"] = {**of_file, **upstream}
    for key, value in options.items():
        if value not in (None, ()):
            plain = key in ("work_dir", "python") or not isinstance(value, str)
            raw[key] = value if plain else config.value(value, f"--{key}")
    if not foreign:
        raw = config.override(raw, assignments)
    beside = path.absolute().parent if path else None
    return config.parse(raw, beside=beside, words=words, say=_say)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that were given; text is YAML, but names and keys."""
    return {
        key: config.value(value, f"--judge-{key}")
        if key in ("nproc", "retry", "timeout")
        else value
        for key, value in options.items()
        if value is not None
    }


def load_run(path: str | os.PathLike[str]) -> RunResult:
    """The results of an earlier run, from its directory (`outputs/latest`, say)."""
    return results.load(Path(path))


def execute(
    spec: RunSpec,
    *,
    command: Sequence[str] = (),
    terminal: bool | None = None,
    preflight: bool = True,
    resume: Path | None = None,
    force: bool = False,
) -> RunResult:
    """Run everything that `spec` asks for.

    Args:
        command: The command line, for run.json.
        terminal: Whether stderr shows bars; default: whether it is a terminal.
        preflight: Whether endpoints are asked before anything starts.
        resume: The directory of a run to go on with; `latest` of the work directory is one.
        force: Go on though the work differs.

    Raises:
        ConfigError: Data or the work directory is unusable, or the run to go on with is another
            piece of work; nothing was run.
        SetupError: A backend has no usable interpreter, data is missing, an endpoint cannot do
            what is asked of it; nothing was run.
    """
    begun = time.time()
    folder = resumption.folder(resume) if resume else None
    with contextlib.ExitStack() as held:
        if folder:
            held.enter_context(locks.held(folder))
            spec = replace(spec, work_dir=folder.parent)
        planned = plans.plan(spec, say=_say)
        early = held.enter_context(contextlib.closing(Early(planned)))
        looked = readiness.look(planned, endpoints=preflight)
        planned = plans.going_on(looked.require())
        for found in looked.findings:
            if found.notice:
                _say(f"{found.what}: {found.notice}")
        old = resumption.look(folder, planned, force) if folder else None
        if folder is None:
            folder = _new_run_directory(planned.spec.work_dir)
            held.enter_context(locks.held(folder))
        held.enter_context(_used(planned))
        run = LiveRun(planned, folder, command, begun, old, early)
        titles = {name: BACKENDS[name].title for name in run.parts}
        shown = sys.stderr.isatty() if terminal is None else terminal
        reporter = progress.for_stream(
            planned.cells, titles, terminal=shown, traffic=run.gate.traffic
        )
        with _interruptible(run.interrupt), reporter:
            return run.go(reporter)


@contextlib.contextmanager
def _used(planned: Plan) -> Iterator[None]:
    """Keep the managed environments of a run from being removed under it."""
    with contextlib.ExitStack() as stack:
        for name, found in planned.interpreters.items():
            if found.managed:
                stack.enter_context(locks.shared(envs.prefix(name) / envs.STATE))
        yield


def resume(
    run: str | os.PathLike[str] = "outputs/latest",
    *,
    assignments: Sequence[str] = (),
    force: bool = False,
    preflight: bool = True,
    command: Sequence[str] = (),
) -> RunResult:
    """Go on with a run in its directory, and return its results.

    Args:
        run: Its directory.
        assignments: `key=value` over its configuration, as of `--set`.
        force: Go on though something differs that changes answers; run.json says so.

    Raises:
        EvalshimError: As `execute`.
    """
    folder = resumption.folder(Path(run))
    raw = config.override(config.load(folder / "config.yaml"), assignments)
    spec = config.parse(raw, beside=folder, say=_say)
    return execute(spec, command=command, preflight=preflight, resume=folder, force=force)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def _interruptible(interrupt_run: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP let a run end in good order; a second one ends it at once."""
    told: list[int] = []

    def interrupt(number: int, _: object) -> None:
        told.append(number)
        if len(told) > 1:
            raise KeyboardInterrupt
        interrupt_run()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is ignored stays so: that is how nohup keeps a run alive.
    heeded = [s for s in ends if signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
