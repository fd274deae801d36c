"""The commands about what can be named in a configuration: `shim list`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from evalshim import registry

_BACKEND = click.Choice(registry.BACKENDS)


@click.group("list")
def list_() -> None:
    """List what can be named in a configuration."""


def _listing(
    name: str, help: str, records: Callable[..., list[dict[str, Any]]], *options: Any
) -> None:
    def command(pattern: str, backend: str | None, as_json: bool, **more: Any) -> None:
        found = records(pattern, backend, **more)
        if as_json:
            click.echo(json.dumps(found, ensure_ascii=False, indent=2))
            return
        width = max((len(record["name"]) for record in found), default=0)
        for record in found:
            first, *facts = record.values()
            click.echo("  ".join([f"{first:<{min(width, 48)}}", *filter(None, facts)]))
        missing = [b for b in registry.BACKENDS if backend in (None, b) and not registry.known(b)]
        if missing and name != "backends":
            click.echo(
                f"names of {' and '.join(missing)} are not known: shim setup {' '.join(missing)}",
                err=True,
            )

    shown = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    of = click.option("--backend", type=_BACKEND, help="Only this upstream's.")
    pattern = click.argument("pattern", default="*")
    for decorate in (shown, *options, of, pattern):
        command = decorate(command)
    list_.command(name, help=help)(command)


def _datasets(pattern: str, backend: str | None, type: str | None) -> list[dict[str, Any]]:
    return [
        {
            "name": d.name,
            "backend": d.backend,
            "upstream": f"{d.cls} {d.target}".strip() if d.cls else d.target,
            "type": d.type,
            "modality": d.modality,
            "answers": d.answers,
        }
        for d in registry.list_datasets(backend, pattern, type)
    ]


def _models(pattern: str, backend: str | None, type: str | None) -> list[dict[str, Any]]:
    return [
        {
            "name": m.name,
            "backend": m.backend,
            "upstream": m.target,
            "type": m.type if m.type != m.target else "",
        }
        for m in registry.list_models(backend, pattern, type)
    ]


def _backends(pattern: str, backend: str | None) -> list[dict[str, Any]]:
    from evalshim import envs

    return [
        {"name": b, "environment": "set up" if envs.state(b) else f"not set up: shim setup {b}"}
        for b in registry.BACKENDS
        if backend in (None, b) and registry.matches(b, pattern)
    ]


_TYPE = click.option("--type", metavar="T", help="Only this kind: MCQ, VQA, Y/N, gen, ...")
_listing("datasets", "Every dataset name of the installed upstreams.", _datasets, _TYPE)
_CLASS = click.option("--type", metavar="T", help="Only those of this class: GPT4V, ...")
_listing("models", "Every model that the installed upstreams know by name.", _models, _CLASS)
_listing("backends", "The upstreams, and whether their environments are there.", _backends)


@list_.command("scorers")
@click.argument("pattern", default="*")
@click.option("--backend", type=_BACKEND, help="Only this upstream's: all are VLMEvalKit's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scorers(pattern: str, backend: str | None, as_json: bool) -> None:
    """What can score questions of your own, and whose code does it."""
    from evalshim.adapters.scorers import SCORERS

    known = SCORERS if backend != "opencompass" else {}
    found = {n: s for n, s in known.items() if registry.matches(n, pattern)}
    if as_json:
        listed = [{"name": n, **s._asdict()} for n, s in found.items()]
        click.echo(json.dumps(listed, ensure_ascii=False, indent=2))
        return
    for name, scorer in found.items():
        click.echo(f"{name:<17} {scorer.what}\n{'':<17} {scorer.source}")
