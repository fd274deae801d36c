"""EvalScope's names: `run_task`, `Summarizer`, `TaskConfig`, for code written against it.

    from evalshim.compat import run_task, Summarizer, TaskConfig

    run_task(task_cfg)
    Summarizer.get_report_from_cfg(task_cfg)

For EvalScope's VLMEvalKit and OpenCompass backends, and its custom multimodal data
(general_vqa, general_vmcq); the rest of its native evaluation is its own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evalshim import results, runs
from evalshim.errors import ResultsError
from evalshim.results import RunResult
from evalshim.spec import RunSpec


class JudgeStrategy:
    """When a judge grades, in EvalScope's words."""

    AUTO, RULE, LLM, LLM_RECALL = "auto", "rule", "llm", "llm_recall"


class EvalType:
    """Where a model is, in EvalScope's words; these toolkits ask an endpoint."""

    OPENAI_API, SERVICE = "openai_api", "server"


@dataclass
class TaskConfig:
    """A task of EvalScope's: a backend and the configuration for it, or custom data.

    Attributes:
        eval_backend: `VLMEvalKit` or `OpenCompass`.
        eval_config: The backend's configuration, or the path of a YAML or JSON file with it.
        work_dir: Where runs are written, unless `eval_config` says.
        model: Id at `api_url`, of a task with `datasets` of its own.
        datasets: `general_vqa`, `general_vmcq`.
        dataset_args: By dataset, `local_path` (a folder) and `subset_list` (its files).
        limit: Samples of each subset.
        eval_batch_size: Calls in flight.
        judge_strategy: `llm` lets the judge of `judge_model_args` grade.
        plugins: Python files to load beside the upstream.
    """

    eval_backend: str | None = None
    eval_config: Mapping[str, Any] | str | None = None
    work_dir: str | None = None
    model: str | None = None
    model_id: str | None = None
    api_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    eval_type: str | None = None
    datasets: Sequence[str] | None = None
    dataset_args: Mapping[str, Any] | None = None
    limit: int | float | None = None
    eval_batch_size: int | None = None
    generation_config: Mapping[str, Any] | None = None
    timeout: float | None = None
    seed: int | None = None
    judge_strategy: str | None = None
    judge_model_args: Mapping[str, Any] | None = field(default=None, repr=False)
    judge_worker_num: int | None = None
    plugins: Sequence[str] | None = None


Task = str | Mapping[str, Any] | TaskConfig


def run_task(task_cfg: Task | list[Task]) -> RunResult | list[RunResult]:
    """Run a task, or several one after the other.

    Args:
        task_cfg: A file, its contents, or a TaskConfig.

    Returns:
        The run's results; EvalScope returns an empty mapping for these backends.

    Raises:
        EvalshimError: Nothing was run.
    """
    if isinstance(task_cfg, list):
        return [runs.run(_source(task)) for task in task_cfg]
    return runs.run(_source(task_cfg))


class Summarizer:
    """The results of tasks that were run, in EvalScope's form."""

    @staticmethod
    def get_report_from_cfg(task_cfg: Task | list[Task]) -> list[dict[str, Any]]:
        """What the newest run of a task found.

        Returns:
            VLMEvalKit: `{name of a metric file: its first row}` each, as text:
            `[{'qwen-vl-chat_SEEDBench_IMG_acc': {'split': 'none', 'Overall': '0.5', ...}}]`.
            OpenCompass: the rows of its summary:
            `[{'dataset': 'gsm8k', 'version': '1d7fe4', 'metric': 'accuracy', ...}]`.

        Raises:
            ResultsError: The task was not run in its work directory.
        """
        tasks = task_cfg if isinstance(task_cfg, list) else [task_cfg]
        return [record for task in tasks for record in _report(runs.spec_of(_source(task)))]


def _source(task: Task) -> str | Mapping[str, Any]:
    if not isinstance(task, TaskConfig):
        return task
    return {key: value for key, value in asdict(task).items() if value is not None}


def _report(spec: RunSpec) -> list[dict[str, Any]]:
    wanted = {(m.name, d.name) for m in spec.models for d in spec.datasets}
    runs = [path.parent for path in spec.work_dir.glob("*/results.json")]
    for path in results.newest_first(run for run in runs if not run.is_symlink()):
        found = results.load(path)
        if {(row.model, row.dataset) for row in found.rows} == wanted:
            return [*_vlmevalkit(found.path), *_opencompass(found.path)]
    raise ResultsError(
        f"no run of this task in {spec.work_dir}", "", "run it first: run_task(task_cfg)"
    )


def _vlmevalkit(run: Path) -> list[dict[str, Any]]:
    """EvalScope takes every CSV and JSON file in a model's folder for a metric file."""
    folder = run / "upstream" / "vlmeval"
    reports: list[dict[str, Any]] = []
    for model in sorted(
        p for p in folder.glob("*/*") if p.parent.name != "LMUData" and p.name != "logs"
    ):
        for path in sorted([*model.rglob("*.csv"), *model.rglob("*.json")]):
            if path.name == "status.json":
                continue
            value: Any
            if path.suffix == ".csv":
                value = next(iter(_rows(path)), {})
            else:
                value = json.loads(path.read_text(encoding="utf-8"))
            reports.append({path.stem: value})
    return reports


def _opencompass(run: Path) -> list[dict[str, Any]]:
    found = sorted((run / "upstream" / "opencompass").glob("*/summary/*.csv"))
    return _rows(found[-1]) if found else []


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]
