"""Going on with a run in its own directory: what of it stays, and whether it is the same work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalshim import config, digests, earlier, envs, kept
from evalshim.earlier import config_sha256
from evalshim.errors import ConfigError
from evalshim.plans import Plan
from evalshim.spec import Cell, CellOutcome, RunSpec


@dataclass(frozen=True)
class GoingOn:
    """What a run that goes on has.

    Attributes:
        header: Its run.json.
        ended: The cells that need nothing more.
        forced: How the work differs, where that was accepted.
    """

    header: Mapping[str, Any]
    ended: Mapping[str, CellOutcome]
    forced: Sequence[str]


def folder(run: Path) -> Path:
    """The directory of a run that can be gone on with.

    Raises:
        ConfigError: It is none.
    """
    place = run.resolve()
    if not (place / "run.json").is_file() or not (place / "config.yaml").is_file():
        raise ConfigError(
            f"{run} is no run to go on with", "it has no run.json and config.yaml",
            "name a run directory: shim resume outputs/<run>",
        )  # fmt: skip
    return place


def header(run_dir: Path) -> dict[str, Any]:
    """The run.json of a run.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        found = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("cells"), dict):
            raise ValueError("not the header of a run")
        return found
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot go on with {run_dir}", f"run.json: {error}", "start it anew: shim run"
        ) from error


def identity(cell: Cell, spec: RunSpec) -> dict[str, Any]:
    """What makes the answers to a cell, and their grades, what they are."""
    if spec.config:
        return {"config_sha256": config_sha256(spec)}
    raw = config.plain(replace(spec, models=(cell.model,), datasets=(cell.dataset,)))
    judge = spec.judge_of(cell.dataset)
    return {
        "model": {k: v for k, v in raw["models"][0].items() if k not in earlier.NO_IDENTITY},
        "dataset": raw["datasets"][0],
        "limit": raw.get("limit"),
        "upstream": raw.get("upstream"),
        "judge": {"model": judge.model, "fallback": judge.fallback, **judge.upstream},
    }


def versions(planned: Plan) -> dict[str, str]:
    """The version of each upstream, where it is known before it is imported."""
    found: dict[str, str] = {}
    for name, interpreter in planned.interpreters.items():
        if interpreter.managed and (state := envs.state(name)):
            found[name] = f"{state.health.distribution} {state.health.version}"
    return found


def differences(old: Mapping[str, Any], planned: Plan, data: Mapping[str, Any]) -> list[str]:
    """How the work of a plan differs from that of a run, a line each.

    Args:
        old: The header of the run.
        data: By path, the hash of each data file now.
    """
    found = []
    for name, now in versions(planned).items():
        known = old["backends"].get(name) or {}
        was = f"{known.get('distribution')} {known.get('version')}"
        if known.get("version") and was != now:
            found.append(f"{name}: {was} -> {now}")
    for cell in planned.cells:
        entry = old["cells"].get(cell.id)
        if entry is None:
            continue
        # As JSON would give it back.
        asked = json.loads(json.dumps(identity(cell, planned.spec), default=str))
        found += _changed(cell.id, entry.get("identity") or {}, asked)
        for noted in entry.get("data") or ():
            sha = data.get(noted["path"])
            if noted.get("sha256") and sha and noted["sha256"] != sha:
                found.append(f"{cell.id}: another file at {noted['path']}")
    return list(dict.fromkeys(found))


def _changed(where: str, was: Any, now: Any) -> list[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*was, *now])
        return [
            line for key in keys for line in _changed(f"{where}.{key}", was.get(key), now.get(key))
        ]
    return [] if was == now else [f"{where}: {_shown(was)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"


def ended(old: Mapping[str, Any], planned: Plan) -> dict[str, CellOutcome]:
    """The cells that need nothing more, with their outcomes."""
    wanted = {"scored", "skipped", *(["infer_only"] if planned.spec.mode == "infer" else [])}
    found = {}
    for cell in planned.cells:
        outcome = kept.outcome(old["cells"].get(cell.id) or {})
        if outcome and outcome.status in wanted and not _lacks(outcome):
            found[cell.id] = outcome
    return found


def _lacks(outcome: CellOutcome) -> bool:
    """Samples that are asked, or graded, again."""
    return bool(outcome.n_failed or outcome.n_judge_failed or outcome.judge_fallback)


def look(run_dir: Path, planned: Plan, force: bool) -> GoingOn:
    """What a run has that can be gone on from.

    Raises:
        ConfigError: It is another piece of work, and nobody said that this is fine.
    """
    old = header(run_dir)
    noted = {d["path"] for cell in old["cells"].values() for d in cell.get("data") or ()}
    there = [Path(path) for path in noted if Path(path).exists()]
    data = {str(path): found.sha256 for path in there if (found := digests.of(path))}
    differ = differences(old, planned, data)
    if differ and not force:
        raise ConfigError(
            f"{run_dir} is another piece of work",
            "\n".join(differ[:20]),
            "run it anew, or --force to go on all the same",
        )
    return GoingOn(old, ended(old, planned), differ)
