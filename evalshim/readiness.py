"""Whether a plan can be carried out: environments, data, endpoints, disk; everything at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evalshim import preflight, readers, secret_values
from evalshim.endpoints import key_of
from evalshim.errors import SetupError, harmless
from evalshim.plans import Plan
from evalshim.preflight import Finding, Target
from evalshim.spec import AUTO, Cell, DatasetSpec, JudgeSpec, ModelSpec, own

# Classes of VLMEvalKit's that speak OpenAI's protocol.
OPENAI_CLASSES = (None, "CustomAPIModel", "GPT4V", "OpenAIWrapper", "LMDeployAPI")
_OPENAI = "https://api.openai.com/v1"
# Judges that VLMEvalKit (build_judge, 0.0.20) finds elsewhere.
_ELSEWHERE = ("qwen-7b", "qwen-72b", "deepseek", "llama31-8b")


@dataclass(frozen=True)
class Readiness:
    """A plan, looked at.

    Attributes:
        plan: With the ids of models that were `auto`.
        findings: What was found, in the order of the configuration.
    """

    plan: Plan
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.problem]

    def require(self) -> Plan:
        """The plan.

        Raises:
            SetupError: With all that keeps the run from beginning.
        """
        problems = self.problems
        if not problems:
            return self.plan
        if len(problems) == 1:
            only = problems[0]
            raise SetupError(only.what, only.problem, only.cure)
        whats = [f"{i}. {found.what}: {found.problem}" for i, found in enumerate(problems, 1)]
        cures = [f"{i}. {found.cure}" for i, found in enumerate(problems, 1) if found.cure]
        raise SetupError(
            f"{len(problems)} things keep the run from starting",
            "\n".join(whats),
            "\n".join(dict.fromkeys(cures)),
        )

    def __str__(self) -> str:
        lines = []
        for found in self.findings:
            mark = "FAIL" if found.problem else "ok"
            said = found.problem or ", ".join(filter(None, (found.detail, found.notice)))
            lines.append(f"{mark:<5} {found.what}{': ' if said else ''}{said}")
            if found.problem and found.cure:
                lines.append(f"      mend: {found.cure}")
        return harmless("\n".join(lines))

    def records(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.findings]


def look(planned: Plan, *, endpoints: bool = True) -> Readiness:
    """Look at everything that a plan needs; nothing is run.

    Args:
        endpoints: False asks only those whose model is `auto`.
    """
    models, judges = _models(planned), _judges(planned)
    asked = {**models, **judges}
    targets = {spec: t for spec, t in asked.items() if endpoints or t.model == AUTO}
    found: list[Finding] = []
    if targets or endpoints:
        size = _data_size(planned)
        found = preflight.look(list(targets.values()), planned.spec.work_dir, 2 * size)
    served = {
        spec: finding.model
        for (spec, target), finding in zip(targets.items(), found, strict=False)
        if target.model == AUTO and finding.model
    }
    own = [Finding(p.what, problem=p.why or p.what, cure=p.cure) for p in planned.problems]
    return Readiness(_with_served(planned, served), (*own, *_data(planned), *found))


def _models(planned: Plan) -> dict[ModelSpec | JudgeSpec, Target]:
    if planned.spec.mode == "eval":
        return {}
    found: dict[ModelSpec | JudgeSpec, Target] = {}
    for model in dict.fromkeys(cell.model for cell in planned.cells):
        if model.api_base:
            sets = [cell.dataset for cell in planned.cells if cell.model == model]
            found[model] = Target(
                who=f"model {model.name}",
                api_base=model.api_base,
                key=key_of(model),
                model=_id(model),
                key_from=model.key_env or "",
                pictures=any(dataset.name in planned.pictures for dataset in sets),
                is_chat=model.is_chat,
                headers=tuple(secret_values.filled(model.headers, model.secrets).items()),
                verify=model.trusted,
                # Of a model that upstream has configured, it knows the id.
                openai=model.cls in OPENAI_CLASSES and bool(_id(model)),
            )
    return found


def _id(model: ModelSpec) -> str:
    """The id of a model at its endpoint, as vlmeval_args.model_arguments gives it."""
    given = str(own(model.upstream, "vlmeval").get("model", ""))
    named = model.cls in (None, "CustomAPIModel", "LMDeployAPI") or model.model != model.name
    return given or (model.model if named else "")


def _judges(planned: Plan) -> dict[ModelSpec | JudgeSpec, Target]:
    spec = planned.spec
    if spec.mode == "infer" or spec.config:
        return {}
    found: dict[ModelSpec | JudgeSpec, Target] = {}
    for judge in dict.fromkeys(spec.judge_of(cell.dataset) for cell in planned.cells):
        if not judge.is_model or (not judge.api_base and judge.model in _ELSEWHERE):
            continue
        # Without an address upstream takes these variables.
        base = judge.api_base or os.environ.get("OPENAI_API_BASE") or _OPENAI
        key_from = judge.key_env or ("" if judge.api_base or judge.key else "OPENAI_API_KEY")
        found[judge] = Target(
            who=f"judge {judge.model}",
            api_base=readers.api_base(base, "OPENAI_API_BASE"),
            key=key_of(judge) or os.environ.get(key_from, ""),
            model=judge.model,
            key_from=key_from,
            verify=judge.trusted,
        )
    return found


def _data(planned: Plan) -> list[Finding]:
    found = {}
    for cell in planned.cells:
        for need in planned.needs[cell.id]:
            detail = "there" if need.present else f"will be fetched from {need.source}"
            looked = f"looked for {' and '.join(need.looked_for)}" if need.looked_for else ""
            why = "; ".join(filter(None, (looked, need.problem))) or "no such file"
            found[cell.dataset.name, need.path] = Finding(
                f"data for {cell.dataset.name}: {need.path}",
                detail="" if need.missing else detail,
                problem=why if need.missing else "",
                cure=need.cure,
            )
    return [replace(f, what=f"no {f.what}") if f.problem else f for f in found.values()]


def _data_size(planned: Plan) -> int:
    """Bytes of the data files of VLMEvalKit's, which unpacks their pictures."""
    own = [c for c in planned.cells if c.dataset.backend == "vlmeval"]
    paths = {Path(need.path) for cell in own for need in planned.needs[cell.id] if need.present}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _with_served(planned: Plan, served: Mapping[ModelSpec | JudgeSpec, str]) -> Plan:
    """The plan with every id that is known now."""
    if not served:
        return planned

    def of_judge(judge: JudgeSpec) -> JudgeSpec:
        return replace(judge, model=served[judge]) if judge in served else judge

    def of_set(dataset: DatasetSpec) -> DatasetSpec:
        return replace(dataset, judge=of_judge(dataset.judge)) if dataset.judge else dataset

    def of_model(model: ModelSpec) -> ModelSpec:
        return replace(model, model=served[model]) if model in served else model

    def of_cell(cell: Cell) -> Cell:
        return replace(cell, model=of_model(cell.model), dataset=of_set(cell.dataset))

    spec = replace(
        planned.spec,
        models=_each(of_model, planned.spec.models),
        datasets=_each(of_set, planned.spec.datasets),
        judge=of_judge(planned.spec.judge),
    )
    return replace(planned, spec=spec, cells=_each(of_cell, planned.cells))


def _each(change: Any, items: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(change(item) for item in items)
