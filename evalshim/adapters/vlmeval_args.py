"""A cell as the arguments of VLMEvalKit: its model class, its dataset class, its namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalshim.adapters import judge_env
from evalshim.spec import Cell, ModelSpec, RunSpec, chat_url, own, slug

# OpenAIWrapper.__init__ (0.0.20) takes these by name; what else it is given it sends
# along in the body of each request.
_ARGUMENTS = (
    "temperature",
    "max_tokens",
    "retry",
    "timeout",
    "img_size",
    "img_detail",
    "system_prompt",
    "top_p",
    "seed",
    "model_path",
)


def model_arguments(model: ModelSpec) -> dict[str, Any]:
    """Keyword arguments of the model's class, without the key.

    That class is `vlmeval.api.CustomAPIModel` where the model names none.
    """
    given = {name: getattr(model, name) for name in _ARGUMENTS}
    further = own(model.upstream, "vlmeval")
    found = {
        **model.extra_body,
        **{name: value for name, value in given.items() if value is not None},
        **further,
    }
    if model.api_base:
        found["api_base"] = chat_url(model.api_base)
    # A configuration of upstream's has the id of its model already.
    if model.cls in (None, "CustomAPIModel", "LMDeployAPI") or model.model != model.name:
        found["model"] = further.get("model", model.model)
    return found


def namespace(cell: Cell, spec: RunSpec, work_dir: Path) -> dict[str, Any]:
    """What evaluates one cell, over the defaults of upstream's argument parser.

    Args:
        work_dir: Where upstream writes.
    """
    found: dict[str, Any] = {
        "data": [cell.dataset.target],
        "model": [slug(cell.model.name)],
        "work_dir": str(work_dir),
        "mode": spec.mode,
        **judge_env.vlmeval_arguments(spec.judge_of(cell.dataset)),
        "api_nproc": cell.model.concurrency or spec.concurrency,
        "reuse": bool(spec.reuse),
    }
    if spec.mode == "eval":
        # Else is_prediction_complete leaves a cell with a single unanswered sample unscored.
        found["keep_failed"] = True
    if cell.model.retry is not None:
        # Without it run.py puts its own default in the place of the model's.
        found["retry"] = cell.model.retry
    found.update(own(spec.upstream, "vlmeval"))
    if not isinstance(found.get("reuse_aux", ""), str):
        # Its argument class and its parser take a truth value; what follows them does not.
        found["reuse_aux"] = "all" if found["reuse_aux"] else "none"
    return found
