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
    ranks,
    run_py,
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
        run_py.accept_local_files()
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
        return api_imports.load("vlmeval", run_py.load) if served else run_py.load()


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


def _count(runner, cell):
    """Report what a cell would ask, with the dataset built as for a run."""
    with environment.variables({"LMUData": cell["lmudata"]} if cell["lmudata"] else {}):
        dataset = run_py.dataset_of(
            runner.build_dataset, runner, cell, models.Watch(cell), (cell["dataset"],),
            dict(cell["namespace"]),
        )  # fmt: skip
    dataset.data = run_py.taken(dataset.data, cell["limit"])
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
    run_py.wrap(runner, cell, watch)
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


class _ErrorLog(logging.Handler):
    """Keeps the exception that upstream logged instead of raising."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.last = None

    def emit(self, record):
        if record.exc_info and record.exc_info[1] is not None:
            self.last = record.exc_info[1]
