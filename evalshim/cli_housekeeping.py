"""The commands about what is on the disk: `shim runs`, `shim logs`, `shim env`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalshim import registry
from evalshim.errors import ConfigError, harmless

if TYPE_CHECKING:
    from evalshim.housekeeping import Run


class _RunPath(click.Path):
    """A run's directory, or the id of one in `outputs`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        from evalshim import housekeeping

        return housekeeping.place_of(str(value), Path("outputs"))


RUN = _RunPath()
_WORK_DIR = click.option(
    "--work-dir", type=click.Path(path_type=Path), default="outputs", metavar="DIR",
    help="Where runs are written.  [default: outputs]",
)  # fmt: skip
_YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_WIDEST = 60


@click.group(invoke_without_command=True)
@_WORK_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def runs(ctx: click.Context, work_dir: Path, as_json: bool) -> None:
    """List the runs, newest first.

    With status, cells done, exit code, age and size; `died` is a run that was killed before it
    had ended.
    """
    if ctx.invoked_subcommand:
        ctx.obj = work_dir
        return
    from evalshim import housekeeping, results

    found = housekeeping.runs(work_dir)
    if as_json:
        click.echo(results.to_json([_record(run) for run in found], indent=2))
    elif found:
        click.echo(_table(found))
    else:
        click.echo(f"no runs in {work_dir}", err=True)


@runs.command("rm")
@click.argument("names", metavar="RUN...", nargs=-1)
@click.option("--older-than", metavar="AGE", help="Those that began so long ago: 30d, 12h.")
@click.option("--keep", metavar="N", type=click.IntRange(min=0), help="But the N newest.")
@_WORK_DIR
@_YES
@click.pass_context
def runs_rm(
    ctx: click.Context,
    names: tuple[str, ...],
    older_than: str | None,
    keep: int | None,
    work_dir: Path,
    yes: bool,
) -> None:
    """Remove runs: those named by id or path, or all that the options say.

    One that is running is not removed.
    """
    from evalshim import housekeeping

    if ctx.get_parameter_source("work_dir") is click.core.ParameterSource.DEFAULT:
        work_dir = ctx.obj
    found = housekeeping.chosen(names, work_dir, older_than, keep)
    if not found:
        click.echo("nothing to remove", err=True)
        return
    ids = [run.id for run in found]
    named = ", ".join(ids) if len(ids) <= 10 else f"{len(ids)} runs, {ids[-1]} to {ids[0]}"
    _ask(f"remove {named}?", yes)
    freed = 0
    for run in found:
        freed += (of_this := housekeeping.remove(run.path))
        click.echo(harmless(f"removed {run.id} ({size(of_this)})"))
    click.echo(f"freed {size(freed)}")


@click.command()
@click.argument("run", required=False)
@click.argument("cell", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option("--lines", "-n", metavar="N", type=click.IntRange(min=0), help="The last N lines.")
@_WORK_DIR
def logs(
    run: str | None, cell: str | None, follow: bool, lines: int | None, work_dir: Path
) -> None:
    """Show what the upstreams printed in RUN (default: the newest).

    RUN is an id or a path. CELL is a cell's id, or a part of its model's or dataset's name;
    without it, what belongs to no cell is shown.
    """
    from evalshim import housekeeping, run_logs

    if run is not None:
        chosen = housekeeping.look(housekeeping.find(run, work_dir).resolve())
    # Not `latest`, which a run that is under way is not yet.
    elif newest := housekeeping.runs(work_dir):
        chosen = newest[0]
    else:
        raise ConfigError(f"no runs in {work_dir}")
    wanted = run_logs.cell_of(chosen, cell) if cell is not None else None
    several = wanted is None and len(chosen.header.get("backends") or ()) > 1
    shown = ""
    for name, line in run_logs.read(chosen, wanted, lines=lines, follow=follow):
        if several and name != shown:
            click.echo(f"==> {harmless(name)} <==")
        shown = name
        _show(line)
    if not shown:
        click.echo(f"nothing was printed in {chosen.path}", err=True)
    if wanted is None and chosen.cells:
        click.echo(harmless(f"cells with logs of their own: {', '.join(chosen.cells)}"), err=True)


@click.group()
def env() -> None:
    """Manage the environments that `shim setup` has made."""


@env.command("rm")
@click.argument("backends", nargs=-1, type=click.Choice(registry.BACKENDS))
@_YES
def env_rm(backends: tuple[Any, ...], yes: bool) -> None:
    """Remove the environment of each BACKEND (default: both); not while a run uses it."""
    from evalshim import envs, housekeeping

    found = [b for b in backends or registry.BACKENDS if envs.prefix(b).exists()]
    if not found:
        click.echo("nothing to remove", err=True)
        return
    _ask(f"remove the environment of {' and '.join(found)}?", yes)
    for backend in found:
        freed = housekeeping.remove_environment(backend, lambda text: click.echo(text, err=True))
        if freed is not None:
            click.echo(f"removed {backend}: freed {size(freed)}")


def size(count: int) -> str:
    """Bytes for a person: `2.1 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody to ask", "stdin is no terminal", "--yes removes without asking")
    click.confirm(harmless(question), abort=True, err=True)


def _show(line: bytes) -> None:
    """A line of a log: to a program as it is, to a terminal without what it would carry out."""
    if not sys.stdout.isatty():
        click.echo(line, nl=False)
        return
    # Of a progress bar its last state.
    text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
    click.echo(harmless(text))


def _record(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "path": str(run.path),
        "status": run.status,
        "exit_code": run.header.get("exit_code"),
        "cells": len(run.cells),
        "cells_done": run.done,
        "scores": run.scores,
        "started_at": run.started.isoformat(timespec="milliseconds"),
        "age": round(run.age.total_seconds()),
        "size": _bytes(run),
        "owner": asdict(run.owner) if run.owner else None,
    }


def _table(found: list[Run]) -> str:
    from tabulate import tabulate

    lines = []
    for run in found:
        code = run.header.get("exit_code")
        of = _of(run)
        cells = f"{run.done}/{len(run.cells)}"
        known = code if isinstance(code, int) else ""
        line = [run.id, run.status, cells, known, _age(run.age), size(_bytes(run)), of]
        lines.append([harmless(" ".join(str(cell).split())) for cell in line])
    return tabulate(
        lines,
        headers=["run", "status", "cells", "exit", "age", "size", "of"],
        disable_numparse=True,
        colalign=["left", "left", "right", "right", "right", "right", "left"],
    )


def _of(run: Run) -> str:
    """What a run was about, with the first score of each cell."""
    scores = {(s["model"], s["dataset"]): s["score"] for s in run.scores}
    named = []
    for cell in run.cells.values():
        model, dataset = cell.get("model"), cell.get("dataset")
        score = scores.get((model, dataset)) if isinstance(model, str) else None
        value = f" {score:.4f}" if isinstance(score, float) else ""
        named.append(f"{model} x {dataset}{value}")
    text = ", ".join(named)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _age(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _bytes(run: Run) -> int:
    from evalshim import housekeeping

    return housekeeping.size(run.path)
