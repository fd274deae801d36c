"""Upstream's run.py: where it is, and what is wrapped around the functions that it imports.

Written for ms-vlmeval 0.0.20 and open-compass/VLMEvalKit of August 2026.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

from . import channel, custom_data, eval_files, judging, phases, predictions


def load():
    """Upstream's run.py: inside the package (ms-vlmeval), or at the root of a checkout."""
    if importlib.util.find_spec("vlmeval.run"):
        import vlmeval.run

        return vlmeval.run
    import vlmeval

    path = Path(vlmeval.__file__).parents[1] / "run.py"
    if not path.exists():
        raise ImportError(f"this vlmeval has neither vlmeval/run.py nor {path}")
    spec = importlib.util.spec_from_file_location("vlmeval_run", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["vlmeval_run"] = module
    spec.loader.exec_module(module)
    return module


def wrap(runner, cell, watch):
    """Wrap what run.py imported, anew for each cell."""
    runner.build_dataset = _prepared(_upstream(runner, "build_dataset"), runner, cell, watch)
    for name in ("infer_data_job", "infer_data_job_mt", "infer_data_job_video"):
        setattr(runner, name, _timed(_upstream(runner, name)))
    runner.upsert_dataset_status = _observed(_upstream(runner, "upsert_dataset_status"), watch)


def _upstream(runner, name):
    """The function `name` as run.py came with it."""
    function = getattr(runner, name)
    return getattr(function, "upstream", function)


def _timed(infer):
    def timed(*args, **kwargs):
        with phases.within("inference"):
            return infer(*args, **kwargs)

    timed.upstream = infer
    return timed


def _prepared(build_dataset, runner, cell, watch):
    """The dataset as a cell asks for it: its arguments, its judge, and what `limit` takes.

    A fraction or a slice too, and in a checkout, whose run.py has no --limit, at all.
    0.0.20 does the same with a count, in infer_data_job.
    """

    def prepared(*args, **kwargs):
        with phases.within("plan"):
            dataset = dataset_of(build_dataset, runner, cell, watch, args, kwargs)
        if dataset is not None:
            whole = len(dataset.data)
            dataset.data = taken(dataset.data, cell["limit"])
            if not len(dataset.data):
                raise ValueError(f"limit {cell['limit']} takes none of {whole} samples")
            watch.dataset, watch.total = dataset, len(dataset)
            if cell["predictions"]:
                predictions.place(cell, dataset, watch.files["prediction"])
            dataset.evaluate = judging.judged(eval_files.taken(dataset), watch, cell)
            channel.progress(cell["id"], 0, watch.total)
        return dataset

    prepared.upstream = build_dataset
    return prepared


def dataset_of(build_dataset, runner, cell, watch, args, kwargs):
    """Upstream's way for what it is: `--config` for a class with arguments and for a video
    setting, which build_dataset (0.0.20) gives arguments that it does not take."""
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    name = cell["dataset"]
    if cell["dataset_config"] or name in supported_video_datasets:
        dataset = runner.build_dataset_from_config({name: cell["dataset_config"] or {}}, name)
        if cell["scorer"]:
            custom_data.score_by(dataset, cell["scorer"])
        return dataset
    if cell["format"]:
        return custom_data.build(cell, watch, lambda: build_dataset(*args, **kwargs))
    return build_dataset(*args, **kwargs)


def _observed(upsert_dataset_status, watch):
    """Learn where upstream writes, and how it ended: run_local_mode returns nothing and
    swallows what a dataset raises (0.0.20)."""

    def observed(*args, **kwargs):
        watch.judge_model = kwargs.get("judge_model") or watch.judge_model
        for key in ("skip_reason", "error_message"):
            if kwargs.get(key) is not None:  # an assertion without words has an empty message
                watch.status[key] = kwargs[key]
        if kwargs.get("prediction_file"):
            watch.files["prediction"] = os.path.abspath(kwargs["prediction_file"])
        watch.files["status"] = os.path.abspath(os.path.join(kwargs["run_dir"], "status.json"))
        return upsert_dataset_status(*args, **kwargs)

    observed.upstream = upsert_dataset_status
    return observed


def taken(data, limit):
    """The rows of a DataFrame that `limit` asks for: a count, a fraction, or `[start:stop]`."""
    if limit is None:
        return data
    if isinstance(limit, str):
        start, stop = re.fullmatch(r"\[(\d*):(\d*)\]", limit).groups()
        return data.iloc[int(start or 0) : int(stop) if stop else None]
    return data.iloc[: limit if isinstance(limit, int) else max(1, int(len(data) * limit))]


class _Same(str):
    """An MD5 that equals any other."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


def accept_local_files():
    """Take a dataset's file as it is: upstream (0.0.20) downloads over one with another MD5.

    Each module of upstream's holds the function under its own name."""
    same = _Same("local")
    for name, module in list(sys.modules.items()):
        if name.startswith("vlmeval.dataset") and "md5" in vars(module):
            module.md5 = lambda path: same
