"""Evaluates cells with VLMEvalKit, through upstream's own `run.py`.

Job, beside what `__main__` says:
    gpus:        processes of data-parallel inference (`ranks`)
    verify_data: "off" takes data files that are not the published ones
    count:       true: only say what each cell would ask (`counted`)
    plugins:     files of the user's to load
    cells: [{"id", "dataset": upstream's name of it, "dataset_config": its class and arguments
             or null, "label": upstream's name of the model, "class": of the model or null,
             "model": {keyword arguments of that class}, "key_env", "transport" (transport.py),
             "namespace": {attribute: value over what run.py's parser gives},
             "limit", "lmudata": folder with data of the user's or null, "format" and "scorer"
             of it, "answered": whether it has any answer,
             "judge": what grades it (adapters/judge_env.py), or null,
             "retries": how often what got no answer is asked again,
             "strip": whether upstream splits what a model thinks from what it says,
             "predictions": file of predictions made elsewhere, or null,
             "reuse": folder with upstream's files of the model of an earlier run, or null}]
`finished` has status "failed" where the answers are there and upstream could not grade them.
It adds: made (files of the grading), dataset_type, dataset_class, own_scale, img_root (where it
unpacks pictures), judge_model (upstream's name for it), judge_built, judge_fallback (upstream
graded without), judge_failed (of how many answers it gave no verdict), unread (indices of those of
which upstream could not read what it said), unjudged (it died, or there was none), reported (ids
of model and judge as their endpoints say), sent (parameters of a request), answered (of the
cell), last_error (why the last answer that never came did not), errors and finish (of samples:
[[text, [index, ...]], ...]).
Written for ms-vlmeval 0.0.20 and open-compass/VLMEvalKit of August 2026.
"""

import functools
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path

from . import (
    api_imports,
    channel,
    custom_data,
    environment,
    eval_files,
    fan_out,
    forks,
    health,
    judging,
    literals,
    models,
    pace,
    phases,
    pickles,
    plugins,
    predictions,
    ranks,
    shared_data,
    torchvision_ops,
    transport,
    turns,
    unpacking,
    whole_files,
)
from .grading import JudgeError

# Cells whose models are behind endpoints: the next ones ask while one of them is scored, or has
# only a few answers to wait for.
_AT_ONCE = min(4, max(2, os.cpu_count() or 1))


def run(job):
    begun = time.monotonic()
    ranks.start(job)
    judging.keep_from_models(job["cells"])
    served = all(cell["model"].get("api_base") for cell in job["cells"]) and not job["plugins"]
    runner = import_upstream(served)
    if job.get("verify_data") == "off":
        _accept_local_files()
    together = job.get("gpus", 1) > 1 and not job.get("count")
    if together:
        ranks.join()
    transport.install()
    pickles.install({cell["namespace"]["work_dir"] for cell in job["cells"]})
    judging.notice()
    speed_up()
    literals.read_cells_as_literals()
    custom_data.keep_pictures_in_their_folder()
    shared_data.write_whole()
    health.announce("vlmeval", begun)
    if not plugins.load(job):
        return
    known = dict(runner.supported_VLM)
    if job.get("count"):
        for cell in job["cells"]:
            try:
                _count(runner, cell)
            except Exception as error:
                channel.emit_failed(cell["id"], error)
        return
    turns.begin(job)
    cells = list(enumerate(job["cells"]))
    if not together and all(cell["model"].get("api_base") for cell in job["cells"]):

        def died(item, _, how):
            if how:
                channel.emit("failed", item[1]["id"], type="Died", message=how, traceback="")

        def attempt(item):
            _attempt(runner, *item, known)

        forks.each(cells, attempt, died, _AT_ONCE, lambda item: item[1]["id"])
        return
    for rank, cell in cells:
        channel.section(cell["id"])
        error = _attempt(runner, rank, cell, known)
        if together and error:  # where the other ranks are now nobody knows
            raise error
        if together:
            ranks.wait()
        channel.section()


@functools.lru_cache(maxsize=1)
def import_upstream(served):
    """Upstream's run.py, with what no endpoint needs put off where all models are `served`."""
    torchvision_ops.install()
    with judging.without_stray_env(), transport.certificates_checked():
        return api_imports.load("vlmeval", load_runner) if served else load_runner()


def speed_up():
    """Take upstream's own waits from it, and what keeps cells from running side by side. Where
    it is not as these patches know it, it runs without them, slower."""
    from . import connections  # `requests` comes with upstream

    patches = (
        fan_out.install, fan_out.build_prompts_when_due, pace.install, connections.keep,
        whole_files.write_whole, whole_files.keep_circular_apart, unpacking.install,
    )  # fmt: skip
    for patch in patches:
        try:
            patch()
        except (ImportError, AttributeError, AssertionError) as error:
            name = f"{patch.__module__.rpartition('.')[2]}.{patch.__name__}"
            text = f"this VLMEvalKit is not what {name} was written for: {channel.said(error)}"
            sys.stderr.write(f"{text}\n")


def _attempt(runner, rank, cell, known):
    """Run a cell, whose end is reported however it comes; the exception that ended it."""
    turns.rank(rank)
    phases.begin()
    channel.emit("started", cell["id"], pid=os.getpid())
    try:
        _run_cell(runner, cell, known)
    except (Exception, SystemExit, turns.Stopped) as error:
        channel.emit_failed(cell["id"], error)
        return None if isinstance(error, turns.Stopped) else error
    return None


def load_runner():
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


def _count(runner, cell):
    """Report what a cell would ask, with the dataset built as for a run."""
    with environment.variables({"LMUData": cell["lmudata"]} if cell["lmudata"] else {}):
        dataset = _build_dataset(
            runner.build_dataset, runner, cell, models.Watch(cell), (cell["dataset"],),
            dict(cell["namespace"]),
        )  # fmt: skip
    dataset.data = taken(dataset.data, cell["limit"])
    requests = len(dataset)
    if getattr(dataset, "TYPE", "") == "MT":
        prompts = [dataset.build_prompt(line) for _, line in dataset.data.iterrows()]
        requests = sum(len(prompt) // 2 for prompt in prompts)
    kind = f"{type(dataset).__name__}.evaluate ({getattr(dataset, 'TYPE', '')})"
    channel.emit("counted", cell["id"], samples=len(dataset), requests=requests, scorer=kind)


def _run_cell(runner, cell, known):
    if cell["lmudata"] and cell["dataset"] in _known_datasets():
        # Upstream would look for its own data under that name, and download over the user's.
        raise ValueError(
            f"{cell['dataset']} is a dataset of VLMEvalKit's own; name yours otherwise"
        )
    watch = models.Watch(cell)
    runner.supported_VLM[cell["label"]] = functools.partial(models.build, cell, known, watch)
    runner.build_dataset = _prepared(_upstream(runner, "build_dataset"), runner, cell, watch)
    for name in ("infer_data_job", "infer_data_job_mt", "infer_data_job_video"):
        setattr(runner, name, _timed(_upstream(runner, name)))
    runner.upsert_dataset_status = _observed(_upstream(runner, "upsert_dataset_status"), watch)
    errors = _ErrorLog()
    logging.getLogger("vlmeval").addHandler(errors)
    sys.argv = ["run.py"]
    args = runner.parse_args()
    vars(args).update(cell["namespace"])
    if further := cell["namespace"].get("judge_args"):
        args.judge_args = json.dumps(transport.filled(json.loads(further)))
    if cell["reuse"]:
        _copy_earlier(cell, Path(args.work_dir))
    for path in Path(args.work_dir).rglob("*.journal"):
        fan_out.resolve(path.with_suffix(""))  # of a run that was cut short, be it this one
    for path in Path(args.work_dir).rglob("status.json.lock"):
        # Of one that was killed: upstream (SoftFileLock, 0.0.20) would wait for it for ever.
        path.unlink(missing_ok=True)
    watch.go_on(args.work_dir)
    given = {"LMUData": cell["lmudata"]} if cell["lmudata"] else {}
    try:
        with environment.variables(given | ({"SPLIT_THINK": "True"} if cell["strip"] else {})):
            if getattr(args, "api_mode", False):
                # Grading in this process: what watches it cannot be pickled for another.
                args.debug = True
                runner.run_api_mode(args)
            else:
                runner.run_local_mode(args)
    finally:
        logging.getLogger("vlmeval").removeHandler(errors)
        runner.supported_VLM.clear()
        runner.supported_VLM.update(known)
    _report(cell, watch, errors)


def _copy_earlier(cell, work_dir):
    """Put what an earlier run predicted where upstream looks for it: its files of this cell.

    A checkout keeps them below a folder a run, with the status file that leads there.
    """
    source, label = Path(cell["reuse"]), cell["label"]
    # Predictions, or those of a run that was cut short: of an API, of video, of a local model.
    # Grades stay behind: upstream would keep those of another judge.
    cut_short = r"(_[\d.]+(frame|fps)_(no)?pack)?_(checkpoint|PREV)\.pkl(\.journal)?"
    stem, dataset = re.escape(f"{label}_{cell['dataset']}"), re.escape(cell["dataset"])
    mine = re.compile(rf"{stem}(\.\w+|{cut_short})|\d+_{dataset}\.pkl|status\.json")
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        if not path.resolve().is_relative_to(source.resolve()):
            continue  # a link out of the run; upstream's own stay within
        place = work_dir / label / path.relative_to(source)
        if mine.fullmatch(path.name) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _known_datasets():
    from vlmeval.dataset import SUPPORTED_DATASETS
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    return {*SUPPORTED_DATASETS, *supported_video_datasets} - plugins.datasets


def _report(cell, watch, errors):
    skipped = watch.status.get("skip_reason")
    failed = "error_message" in watch.status
    raised = watch.raised or (errors.last if failed else None)
    predicted = os.path.exists(watch.files.get("prediction", ""))
    if raised is not None and (watch.dataset is None or not predicted):
        channel.emit_failed(cell["id"], raised)
        return
    if raised is None and (failed or watch.dataset is None):
        reason = watch.status.get("error_message") or skipped or "upstream built no dataset"
        raise RuntimeError(reason)
    status, error = "done", skipped or ""
    if raised is not None:
        status, error = "failed", channel.message_of(raised)
    elif skipped and skipped != "mode_infer":
        status = "skipped"
    grading = watch.grading or judging.Grading(None)
    channel.emit(
        "finished",
        cell["id"],
        status=status,
        error=error,
        files=watch.files,
        made=watch.made,
        dataset_type=str(getattr(watch.dataset, "TYPE", "")),
        dataset_class=type(watch.dataset).__name__,
        own_scale=type(watch.dataset).evaluate.__module__.startswith("evalshim_plugin_"),
        img_root=getattr(watch.dataset, "img_root", None),
        judge_model=watch.judge_model,
        judge_built=grading.built,
        judge_fallback=grading.fallback,
        judge_failed=len(grading.ungraded),
        unread=sorted(watch.unread),
        unjudged=isinstance(raised, JudgeError),
        reported={"model": watch.reported, "judge": grading.reported},
        sent=watch.sent,
        last_error=channel.redact(watch.last_error),
        errors=channel.by_text(watch.errors),
        finish=channel.by_text(watch.finish),
        answered=cell["answered"],
        spans=phases.spans(),
    )


# Patches of upstream: each wraps a function that run.py imported, anew for each cell.


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
            dataset = _build_dataset(build_dataset, runner, cell, watch, args, kwargs)
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


def _build_dataset(build_dataset, runner, cell, watch, args, kwargs):
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


class _Same(str):
    """An MD5 that equals any other."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


def _accept_local_files():
    """Take a dataset's file as it is: upstream (0.0.20) downloads over one with another MD5.

    Each module of upstream's holds the function under its own name."""
    same = _Same("local")
    for name, module in list(sys.modules.items()):
        if name.startswith("vlmeval.dataset") and "md5" in vars(module):
            module.md5 = lambda path: same


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


class _ErrorLog(logging.Handler):
    """Keeps the exception that upstream logged instead of raising."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.last = None

    def emit(self, record):
        if record.exc_info and record.exc_info[1] is not None:
            self.last = record.exc_info[1]
