"""The command line: parse, call, render, exit. Nothing else lives here."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import Any

import click

import evalshim
from evalshim import cli_housekeeping, cli_listing, registry
from evalshim.cli_housekeeping import RUN, size
from evalshim.errors import EvalshimError

BACKEND = click.Choice(registry.BACKENDS)
FORM = click.Choice(["table", "csv", "json", "md"])


class _Group(click.Group):
    """Commands in the order a new user needs them; our errors as text and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        # A collection for every few hundred objects that imports make, and one over all of them
        # at the end, take a fifth of the time that the command itself does.
        gc.set_threshold(100_000)
        atexit.register(gc.freeze)
        try:
            return super().invoke(ctx)
        except EvalshimError as error:
            click.echo(f"shim: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("shim: interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(evalshim.__version__, prog_name="shim")
def main() -> None:
    """Evaluate models with VLMEvalKit and OpenCompass: one command, one table."""


@main.command()
@click.argument("backends", nargs=-1, type=BACKEND)
@click.option("--python", metavar="PY", help="Interpreter or version for the environment.")
@click.option("--from", "source", metavar="SPEC", help="A checkout, URL or requirement to install.")
@click.option("--upgrade", is_flag=True, help="Newest versions the bounds allow, not the pins.")
def setup(backends: tuple[Any, ...], python: str | None, source: str | None, upgrade: bool) -> None:
    """Make the environment of each BACKEND (default: both); check it."""
    from evalshim import envs

    if source and len(backends) != 1:
        raise click.UsageError("--from needs exactly one BACKEND")
    for backend in backends or registry.BACKENDS:
        made = envs.setup(backend, python=python, source=source, upgrade=upgrade, say=_say)
        health = made.health
        click.echo(
            f"{backend}: {health.distribution} {health.version}, Python {health.python_version}, "
            f"torch {health.torch}, {made.packages} packages, {size(made.size)}, "
            f"in {envs.prefix(backend)}"
        )


class _Run(click.Command):
    """Takes the flags of the upstreams' own commands as well, several values behind one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from evalshim import flags

        known = {o: p for p in self.params if isinstance(p, click.Option) for o in p.opts}
        switches = [o for o, p in known.items() if p.is_flag]
        args, ctx.meta["upstream"] = flags.split(args, list(known), switches, registry.BACKENDS)
        return super().parse_args(ctx, args)


@main.command(cls=_Run)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME...", multiple=True, help="Model id, or upstream's name.")
@click.option("--api-base", metavar="URL", help="The endpoint, e.g. http://127.0.0.1:8000/v1.")
@click.option("--data", metavar="NAME...", multiple=True, help="Datasets.")
@click.option("--backend", type=BACKEND, help="Where to look for the --data names.")
@click.option("--limit", metavar="L", help="Samples of each dataset: 20, 0.1, or [10:20].")
@click.option("--mode", metavar="M", help="all, infer (no scores), or eval (earlier answers).")
@click.option("--judge", "judge_model", metavar="J", help="What grades.  [default: exact_matching]")
@click.option("--judge-api-base", "--judge-base-url", metavar="URL", help="The judge's endpoint.")
@click.option("--judge-key-env", metavar="NAME", help="The variable that holds the judge's key.")
@click.option("--judge-key", metavar="KEY", help="The key itself; better: --judge-key-env.")
@click.option("--judge-nproc", "--judge-api-nproc", metavar="N", help="Judge's calls in flight.")
@click.option("--judge-retry", metavar="N", help="Tries of a judge's call that fails.")
@click.option("--judge-timeout", metavar="S", help="Seconds for one call of the judge.")
@click.option("--judge-fallback", metavar="F", help="A judge that is gone: error, or allow.")
@click.option(
    "--concurrency", "--api-nproc", "--nproc", metavar="N",
    help="Calls in flight per endpoint.  [default: 32]",
)  # fmt: skip
@click.option("--retry", metavar="N", help="Tries of a call that fails.")
@click.option("--work-dir", metavar="DIR", help="Where runs are written.  [default: outputs]")
@click.option("--predictions", metavar="PATH", help="With --mode eval: score these.")
@click.option("--reuse", metavar="[RUN]", help="Go on from the newest run of the same, or RUN.")
@click.option("--gpus", metavar="N", help="Data-parallel inference on N local GPUs.")
@click.option("--fail-on", metavar="N", help="Samples a cell may lack: 5, or a share as 0.1.")
@click.option("--verify-data", metavar="V", help="off: take data that is not the published one.")
@click.option("--plugin", "plugins", metavar="FILE", multiple=True, help="Python code of yours.")
@click.option("--python", metavar="PY", help="An interpreter that has the upstream installed.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Override any key.")
@click.option("--upstream", "more", metavar="KEY=VALUE", multiple=True, help="Upstream's own.")
@click.option("--no-preflight", is_flag=True, help="Do not ask the endpoints before the run.")
@click.option("--resume", is_flag=True, help="Go on with the latest run, where it stopped.")
@click.option("--force", is_flag=True, help="With --resume: though something differs.")
@click.option("--dry-run", is_flag=True, help="Print the plan; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a table.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    config: Path | None,
    more: tuple[str, ...],
    no_preflight: bool,
    resume: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the evaluation that CONFIG, or the options, describe.

    CONFIG is a file of evalshim's, of EvalScope's (VLMEvalKit and OpenCompass
    backends), a --config JSON of VLMEvalKit's, or a .py of OpenCompass's. Flags of
    the upstreams' own commands work too: --retry 3, --use-vllm, --slurm -p gpu.
    """
    from evalshim import flags, runs

    upstream = {**ctx.meta.get("upstream", {}), **flags.assignments(more)}
    judge = {k.removeprefix("judge_"): options.pop(k) for k in list(options) if k[:6] == "judge_"}
    spec = runs.specify(config, upstream=upstream, judge=judge, **options)
    if dry_run:
        _show_plan(ctx, spec, as_json)
    latest = spec.work_dir / "latest" if resume else None
    _evaluate(ctx, spec, as_json, preflight=not no_preflight, resume=latest, force=force)


def _evaluate(ctx: click.Context, spec: Any, as_json: bool, **how: Any) -> None:
    from evalshim import runs

    _show(ctx, runs.execute(spec, command=sys.argv, **how), as_json)


def _show(ctx: click.Context, result: Any, as_json: bool) -> None:
    from evalshim import results

    click.echo(results.render(result, "json" if as_json else "table"))
    _say(f"results in {result.path}")
    ctx.exit(result.exit_code)


def _show_plan(ctx: click.Context, spec: Any, as_json: bool) -> None:
    from evalshim import plans, results

    planned = plans.counted(plans.plan(spec, say=_say))
    problems = [str(problem) for problem in planned.problems]
    shown = {"ready": planned.ready, "problems": problems, "cells": planned.records()}
    click.echo(results.to_json(shown, indent=2) if as_json else plans.text(planned))
    ctx.exit(0 if planned.ready else 3)


@main.command()
@click.argument("run", type=RUN, default="outputs/latest")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Override any key.")
@click.option("--force", is_flag=True, help="Though something differs that changes answers.")
@click.option("--no-preflight", is_flag=True, help="Do not ask the endpoints before the run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a table.")
@click.pass_context
def resume(
    ctx: click.Context,
    run: Path,
    assignments: tuple[str, ...],
    force: bool,
    no_preflight: bool,
    as_json: bool,
) -> None:
    """Go on with a RUN where it stopped (default: outputs/latest).

    What has a score, an answer or a grade keeps it; what got none is asked again.
    """
    from evalshim import runs

    result = runs.resume(
        run, assignments=assignments, force=force, preflight=not no_preflight, command=sys.argv
    )
    _show(ctx, result, as_json)


@main.command("eval")
@click.option("--model", required=True, metavar="NAME", help="The model's id at the endpoint.")
@click.option("--api-url", required=True, metavar="URL", help="The endpoint.")
@click.option("--api-key", metavar="KEY", help="Its key; better: --api-key-env.")
@click.option("--api-key-env", metavar="NAME", help="The variable that holds the key.")
@click.option("--datasets", metavar="NAME...", multiple=True, help="general_vqa, general_vmcq.")
@click.argument("more", metavar="", nargs=-1)
@click.option("--dataset-args", metavar="JSON", help="{name: {local_path, subset_list}}.")
@click.option("--limit", metavar="L", help="Samples of each subset.")
@click.option("--eval-batch-size", metavar="N", help="Calls in flight.")
@click.option("--generation-config", metavar="JSON", help="temperature, max_tokens, ...")
@click.option("--judge-strategy", metavar="S", help="auto, rule, or llm.")
@click.option("--judge-model-args", metavar="JSON", help="{model_id, api_url, api_key, ...}.")
@click.option("--judge-worker-num", metavar="N", help="Calls of the judge in flight.")
@click.option("--eval-type", metavar="T", help="openai_api: no other is for these toolkits.")
@click.option("--work-dir", metavar="DIR", help="Where runs are written.  [default: outputs]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a table.")
@click.pass_context
def eval_(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """EvalScope's `eval` for general_vqa and general_vmcq.

    VLMEvalKit does the work.
    """
    from evalshim import evalscope_task, runs

    _evaluate(ctx, runs.spec_of(evalscope_task.of_flags(options)), as_json)


@main.command()
@click.argument("path", metavar="CONFIG|FILE", type=click.Path(path_type=Path))
@click.option("--format", "form", metavar="F", help="Of a data file; recognised where not said.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(ctx: click.Context, path: Path, form: str | None, as_json: bool) -> None:
    """Say all that is wrong with a data file or a configuration.

    A data file (.tsv, .jsonl, .csv): each defect with line, column and cure, then a
    summary; exit 2 where there is one. A configuration: every environment, data file,
    endpoint and judge is looked at; exit 3 where one is not ready.
    """
    from evalshim import data_files, plans, readiness, results, runs

    if path.suffix not in data_files.SUFFIXES:
        looked = readiness.look(plans.plan(runs.spec_of(path), say=_say))
        shown = {"ready": not looked.problems, "findings": looked.records()}
        click.echo(results.to_json(shown, indent=2) if as_json else str(looked))
        ctx.exit(3 if looked.problems else 0)
    report = data_files.inspect(path, form)
    click.echo(data_files.to_json(report) if as_json else data_files.text(report))
    ctx.exit(2 if report.defects else 0)


@main.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--format", "form", metavar="F", help="Of IN; recognised where not said.")
def convert(source: Path, target: Path, form: str | None) -> None:
    """Turn a data file of any format into a TSV that VLMEvalKit reads."""
    from evalshim import data_files

    report = data_files.convert(source, target, form)
    click.echo(f"{target}: {report.rows} rows")


main.add_command(cli_listing.list_)


@main.command()
@click.argument("run", type=RUN, default="outputs/latest")
@click.option("--format", "form", type=FORM, default="table", help="How.  [default: table]")
def results(run: Path, form: str) -> None:
    """Show the results of an earlier RUN (default: outputs/latest)."""
    from evalshim import results

    click.echo(results.render(results.load(run), form))


main.add_command(cli_housekeeping.runs)
main.add_command(cli_housekeeping.logs)


@main.command()
@click.argument("first", metavar="RUN", type=RUN)
@click.argument("second", metavar="RUN", type=RUN)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def compare(ctx: click.Context, first: Path, second: Path, as_json: bool) -> None:
    """Say whether two runs may be compared, and how they differ.

    Differences are those of the second RUN from the first. Exit 1 where something other than
    the model and its parameters differs: upstream, data, scorer, limit.
    """
    from evalshim import compare, comparison_text, results

    found = compare.compare(first, second)
    shown = compare.to_dict(found)
    click.echo(results.to_json(shown, indent=2) if as_json else comparison_text.text(found))
    ctx.exit(0 if found.comparable else 1)


@main.command()
@click.option(
    "--python", metavar="PY", help="Check this interpreter, not the managed environments."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, python: str | None, as_json: bool) -> None:
    """Check each environment for real; exit 3 when one is not usable."""
    from evalshim import diagnosis

    found = diagnosis.diagnose(python)
    click.echo(json.dumps(found, indent=2) if as_json else diagnosis.text(found))
    ctx.exit(0 if all(b["usable"] for b in found["backends"]) else 3)


main.add_command(cli_housekeeping.env)


@main.command()
@click.option("--serve", is_flag=True, help="Only serve the endpoint, until Ctrl-C.")
@click.option("--port", type=int, default=0, help="Port to serve on.  [default: a free one]")
@click.option("--work-dir", metavar="DIR", help="Where the run is written.  [default: outputs]")
@click.pass_context
def demo(ctx: click.Context, serve: bool, port: int, work_dir: str | None) -> None:
    """Run a small example against an endpoint that comes along."""
    from evalshim.demo import endpoint

    if serve:
        endpoint.serve(port)
        return
    with endpoint.Endpoint(port) as served:
        _say(f"demo endpoint: {served.url}, a rule-based program and no model")
        options = {"work_dir": work_dir} if work_dir else {}
        ctx.invoke(
            run, config=registry.HERE / "demo" / "quickstart.yaml", api_base=served.url, **options
        )


def _say(text: str) -> None:
    click.echo(text, err=True)
