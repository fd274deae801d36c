"""Evaluates cells with VLMEvalKit, through upstream's own `run.py`.

Job, beside what `__main__` says:
    cells: [{"id", "dataset", "label", "model": {keyword arguments of the model class}, "key_env",
             "argv": [flags of run.py], "limit", "lmudata": folder or null}]
`finished` adds: dataset_type, last_error (why the last answer that never came did not).
Written for ms-vlmeval 0.0.20 and open-compass/VLMEvalKit of August 2026.
"""

import importlib.util
import logging
import os
import re
import sys
import threading
import time
from functools import partial
from pathlib import Path

from . import channel, health, torchvision_ops


def run(job):
    begun = time.monotonic()
    torchvision_ops.install()
    runner = _load_runner()
    health.announce("vlmeval", begun)
    for cell in job["cells"]:
        channel.section(cell["id"])
        channel.emit("started", cell["id"])
        try:
            _run_cell(runner, cell)
        except Exception as error:
            channel.emit_failed(cell["id"], error)
        channel.section()


def _load_runner():
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


def _run_cell(runner, cell):
    if cell["lmudata"] and cell["dataset"] in _known_datasets():
        # Upstream would look for its own data under that name, and download over the user's.
        raise ValueError(
            f"{cell['dataset']} is a dataset of VLMEvalKit's own; name yours otherwise"
        )
    watch = _Watch(cell)
    runner.supported_VLM[cell["label"]] = partial(_build_model, cell, watch)
    runner.build_dataset = _limited(_upstream(runner, "build_dataset"), cell, watch)
    runner.upsert_dataset_status = _observed(_upstream(runner, "upsert_dataset_status"), watch)
    errors = _ErrorLog()
    logging.getLogger("vlmeval").addHandler(errors)
    before = os.environ.get("LMUData")
    if cell["lmudata"]:
        os.environ["LMUData"] = cell["lmudata"]
    sys.argv = ["run.py", *cell["argv"]]
    try:
        runner.run_local_mode(runner.parse_args())
    finally:
        logging.getLogger("vlmeval").removeHandler(errors)
        if cell["lmudata"]:
            os.environ.pop("LMUData")
            if before is not None:
                os.environ["LMUData"] = before
    _report(cell, watch, errors)


def _known_datasets():
    from vlmeval.dataset import SUPPORTED_DATASETS
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    return {*SUPPORTED_DATASETS, *supported_video_datasets}


def _report(cell, watch, errors):
    skipped = watch.status.get("skip_reason")
    if watch.status.get("error_message") and errors.last is not None:
        channel.emit_failed(cell["id"], errors.last)
        return
    if watch.status.get("error_message") or watch.dataset is None:
        reason = watch.status.get("error_message") or skipped or "upstream built no dataset"
        raise RuntimeError(reason)
    channel.emit(
        "finished",
        cell["id"],
        status="skipped" if skipped and skipped != "mode_infer" else "done",
        error=skipped or "",
        files=watch.files,
        dataset_type=getattr(watch.dataset, "TYPE", ""),
        last_error=channel.redact(watch.last_error),
    )


class _Watch:
    """What is seen of one cell while upstream runs it."""

    def __init__(self, cell):
        self.cell = cell["id"]
        self.dataset = None
        self.status = {}
        self.files = {}
        self.total = 0
        self.done = 0
        self.last_error = ""
        self.lock = threading.Lock()

    def answered(self, failed, error):
        with self.lock:
            self.done += 1
            if failed:
                self.last_error = error or self.last_error
            channel.emit("progress", self.cell, done=self.done, total=self.total)


def _build_model(cell, watch, **overrides):
    """Upstream's model, with its answers counted.

    A checkout of open-compass/VLMEvalKit has no CustomAPIModel; GPT4V is the same
    two lines over OpenAIWrapper.
    """
    import vlmeval.api

    model_class = getattr(vlmeval.api, "CustomAPIModel", None) or vlmeval.api.GPT4V
    key = os.environ[cell["key_env"]]
    model = model_class(key=key, **{**cell["model"], **overrides})
    # OpenAIWrapper (0.0.20) has addresses of its own for some model ids (`ernie`) and
    # variables (BOYUE); the one that was asked for is the one that gets pictures and key.
    model.api_base, model.key = cell["model"]["api_base"], key
    local = threading.local()
    generate, generate_inner = model.generate, model.generate_inner

    def remember(*args, **kwargs):
        local.error = ""
        try:
            code, answer, response = generate_inner(*args, **kwargs)
        except Exception as error:
            local.error = f"{type(error).__name__}: {error}"
            raise
        if code != 0:
            local.error = f"HTTP {code}: {getattr(response, 'text', '')[:200]}"
        return code, answer, response

    def counted(*args, **kwargs):
        answer = generate(*args, **kwargs)
        watch.answered(model.fail_msg.strip() in str(answer), getattr(local, "error", ""))
        return answer

    model.generate_inner, model.generate = remember, counted
    return model


# Patches of upstream: each wraps a function that run.py imported, anew for each cell.


def _upstream(runner, name):
    """The function `name` as run.py came with it."""
    function = getattr(runner, name)
    return getattr(function, "upstream", function)


def _limited(build_dataset, cell, watch):
    """Take `limit` from the dataset: a fraction or a slice too, and in a checkout, whose
    run.py has no --limit, at all. 0.0.20 does the same with a count, in infer_data_job."""

    def limited(*args, **kwargs):
        dataset = build_dataset(*args, **kwargs)
        if dataset is not None:
            whole = len(dataset.data)
            dataset.data = taken(dataset.data, cell["limit"])
            if not len(dataset.data):
                raise ValueError(f"limit {cell['limit']} takes none of {whole} samples")
            watch.dataset, watch.total = dataset, len(dataset.data)
            channel.emit("progress", cell["id"], done=0, total=watch.total)
        return dataset

    limited.upstream = build_dataset
    return limited


def _observed(upsert_dataset_status, watch):
    """Learn where upstream writes, and how it ended: run_local_mode returns nothing and
    swallows what a dataset raises (0.0.20)."""

    def observed(*args, **kwargs):
        for key in ("skip_reason", "error_message"):
            if kwargs.get(key):
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


class _ErrorLog(logging.Handler):
    """Keeps the exception that upstream logged instead of raising."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.last = None

    def emit(self, record):
        if record.exc_info and record.exc_info[1] is not None:
            self.last = record.exc_info[1]
