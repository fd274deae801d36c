"""A cell as the arguments of VLMEvalKit: its model class and the flags of its `run.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalshim.spec import Cell, ModelSpec, RunSpec

# OpenAIWrapper.__init__ (0.0.20) takes these by name; what else it is given it sends
# along in the body of each request.
_BY_NAME = (
    "temperature",
    "max_tokens",
    "retry",
    "timeout",
    "img_size",
    "img_detail",
    "system_prompt",
)
_IN_BODY = ("top_p", "seed")


def model_arguments(model: ModelSpec) -> dict[str, Any]:
    """Keyword arguments of `vlmeval.api.CustomAPIModel`, without the key."""
    given = {name: getattr(model, name) for name in (*_BY_NAME, *_IN_BODY)}
    return {
        **model.extra_body,
        "model": model.model,
        "api_base": f"{model.api_base}/chat/completions",
        **{name: value for name, value in given.items() if value is not None},
    }


def run_arguments(cell: Cell, label: str, spec: RunSpec, work_dir: Path) -> list[str]:
    """The flags of upstream's `run.py` that evaluate one cell.

    Args:
        label: What upstream calls the model; part of its file names.
        work_dir: Where upstream writes.
    """
    flags = ["--data", cell.dataset.target, "--model", label]
    flags += ["--work-dir", str(work_dir), "--mode", spec.mode, "--judge", spec.judge]
    flags += ["--api-nproc", str(cell.model.concurrency or spec.concurrency)]
    if cell.model.retry is not None:
        # Without it run.py puts its own default in the place of the model's.
        flags += ["--retry", str(cell.model.retry)]
    return flags
