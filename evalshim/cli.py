"""The command line: parse, call, render, exit. Nothing else lives here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import evalshim
from evalshim import registry
from evalshim.errors import EvalshimError

BACKEND = click.Choice(registry.BACKENDS)
FORM = click.Choice(["table", "csv", "json", "md"])


class _Group(click.Group):
    """Commands in the order a new user needs them; our errors as text and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
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
    """Make the environment of each BACKEND (default: both) and check that it works."""
    from evalshim import envs

    if source and len(backends) != 1:
        raise click.UsageError("--from needs exactly one BACKEND")
    for backend in backends or registry.BACKENDS:
        made = envs.setup(backend, python=python, source=source, upgrade=upgrade, say=_say)
        health = made.health
        click.echo(
            f"{backend}: {health.distribution} {health.version}, Python {health.python_version}, "
            f"torch {health.torch}, {made.packages} packages, {_size(made.size)}, "
            f"in {envs.prefix(backend)}"
        )


@main.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="Model id at the endpoint; the label in results.")
@click.option("--api-base", metavar="URL", help="The endpoint, e.g. http://127.0.0.1:8000/v1.")
@click.option("--data", metavar="NAME", multiple=True, help="Dataset; may be repeated.")
@click.option("--backend", type=BACKEND, help="Where to look for the --data names.")
@click.option("--limit", metavar="L", help="Samples of each dataset: 20, 0.1, or [10:20].")
@click.option("--mode", metavar="M", help="all, or infer for predictions without scores.")
@click.option("--judge", metavar="J", help="What grades answers: exact_matching.")
@click.option("--concurrency", metavar="N", help="Calls in flight per endpoint.  [default: 32]")
@click.option("--work-dir", metavar="DIR", help="Where runs are written.  [default: outputs]")
@click.option("--fail-on", metavar="N", help="Unanswered samples a cell may have.  [default: 0]")
@click.option("--python", metavar="PY", help="An interpreter that has the upstream installed.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Override any key.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a table.")
@click.pass_context
def run(ctx: click.Context, /, config: Path | None, as_json: bool, **options: Any) -> None:
    """Run the evaluation that CONFIG, or the options, describe."""
    from evalshim import results, runs

    spec = runs.specify(config, **options)
    result = runs.execute(spec, command=sys.argv)
    click.echo(results.render(result, "json" if as_json else "table"))
    _say(f"results in {result.path}")
    ctx.exit(result.exit_code)


@main.group("list")
def list_() -> None:
    """List what can be named in a configuration."""


def _listing(name: str, help: str, records: Callable[..., list[dict[str, Any]]]) -> None:
    @list_.command(name, help=help)
    @click.argument("pattern", default="*")
    @click.option("--backend", type=BACKEND, help="Only this upstream's.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def command(pattern: str, backend: str | None, as_json: bool) -> None:
        found = records(pattern, backend)
        if as_json:
            click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        else:
            for record in found:
                click.echo("  ".join([f"{record['name']:<24}", *list(record.values())[1:]]))


def _datasets(pattern: str, backend: str | None) -> list[dict[str, Any]]:
    found = registry.list_datasets(backend, pattern)
    return [{"name": d.name, "backend": d.backend, "upstream": d.target} for d in found]


def _backends(pattern: str, backend: str | None) -> list[dict[str, Any]]:
    from evalshim import envs

    return [
        {"name": b, "environment": "set up" if envs.state(b) else f"not set up: shim setup {b}"}
        for b in registry.BACKENDS
        if backend in (None, b) and registry.matches(b, pattern)
    ]


_listing("datasets", "Registered dataset names.", _datasets)
_listing("backends", "The upstreams, and whether their environments are there.", _backends)


@main.command()
@click.argument("run", type=click.Path(path_type=Path), default="outputs/latest")
@click.option("--format", "form", type=FORM, default="table", help="How.  [default: table]")
def results(run: Path, form: str) -> None:
    """Show the results of an earlier RUN (default: outputs/latest)."""
    from evalshim import results

    click.echo(results.render(results.load(run), form))


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


@main.command()
@click.option("--serve", is_flag=True, help="Only serve the endpoint, until Ctrl-C.")
@click.option("--port", type=int, default=0, help="Port to serve on.  [default: a free one]")
@click.option("--work-dir", metavar="DIR", help="Where the run is written.  [default: outputs]")
@click.pass_context
def demo(ctx: click.Context, serve: bool, port: int, work_dir: str | None) -> None:
    """Run examples/quickstart.yaml against an endpoint that comes along."""
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


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
