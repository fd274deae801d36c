"""A configuration, wherever it comes from, becomes one `RunSpec`.

Everything that a user wrote is checked here, once; behind it the types are
right. Reads configuration files and nothing else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from evalshim import documents, plugin_files, readers, secret_values
from evalshim.dataset_entries import (
    NO_DATASETS,
    check_frames,
    check_scorer,
    dataset_entry,
    plain_dataset,
)
from evalshim.dialects import Words
from evalshim.errors import ConfigError, did_you_mean
from evalshim.judge_entries import (
    judge_entry,
    judge_of_environment,
    over_environment,
    plain_judge,
)
from evalshim.model_entries import NO_MODELS, model_entry, plain_model
from evalshim.reading import Reading, data_path, listed
from evalshim.spec import BackendName, JudgeSpec, Mode, RunSpec, own, slug

# Arguments of the upstreams' commands that have a name of ours.
_OURS = {
    "data": "datasets", "datasets": "datasets", "model": "models", "models": "models",
    "config": "the configuration itself", "work_dir": "work_dir", "mode": "mode",
    "limit": "limit", "reuse": "reuse", "api_nproc": "concurrency", "nproc": "concurrency",
    "judge": "judge", "judge_base_url": "judge.api_base", "judge_key": "judge.key_env",
    "judge_api_nproc": "judge.nproc", "judge_retry": "judge.retry",
    "judge_timeout": "judge.timeout", "judge_args": "judge.upstream",
    "base_url": "api_base of a model", "key": "key_env of a model", "dry_run": "--dry-run",
    "OPENAI_API_KEY": "judge", "OPENAI_API_BASE": "judge", "LOCAL_LLM": "judge",
}  # fmt: skip
# What get_config_from_arg (opencompass 0.5.4) does not look at beside a configuration.
_WITHOUT_CONFIGURATION = (
    "summarizer", "config_dir", "hf_type", "hf_path", "hf_num_gpus", "num_gpus", "model_kwargs",
    "tokenizer_path", "tokenizer_kwargs", "peft_path", "peft_kwargs", "generation_kwargs",
    "max_seq_len", "max_out_len", "min_out_len", "batch_size", "pad_token_id", "stop_words",
    "custom_dataset_path", "custom_dataset_meta_path", "custom_dataset_data_type",
    "custom_dataset_infer_method", "dataset_num_runs",
)  # fmt: skip
RUN_KEYS: dict[str, Callable[[Any, str], Any] | None] = {
    "models": None,
    "datasets": None,
    "config": None,
    "judge": judge_entry,
    "limit": readers.limit,
    "concurrency": readers.number(1, whole=True),
    "rate_limit": readers.number(1),
    "mode": readers.choice(*get_args(Mode)),
    "predictions": readers.path,
    "retries": readers.number(0, whole=True),
    "work_dir": readers.path,
    "fail_on": readers.number(0),
    "reuse": readers.reuse,
    "run_timeout": readers.number(1),
    "cell_timeout": readers.number(1),
    "stall_timeout": readers.number(1),
    "patience": readers.number(0),
    "max_requests": readers.number(1, whole=True),
    "max_tokens_total": readers.number(1, whole=True),
    "gpus": readers.number(1, whole=True),
    "verify_data": readers.verify_data,
    "plugins": readers.files,
    "python": readers.text,
    "upstream": readers.upstream,
}


# Keys of a run for which null is as good as nothing: `--set max_requests=null` lifts a limit.
_MAY_BE_NONE = {field.name for field in fields(RunSpec) if field.default is None}


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON configuration file; a `.py` file is one of OpenCompass's.

    Raises:
        ConfigError: Missing, unreadable, empty, malformed, or not a mapping.
    """
    try:
        if path.is_file() and path.stat().st_size > 4 * documents.LARGEST:
            raise ConfigError(f"{path} is too large for a configuration", "", "is it data?")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"no such configuration: {path}", "", "`shim run --help` shows how to run without one"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}", str(error)) from error
    if path.suffix == ".py":
        return {"config": str(path.absolute())}
    json = path.suffix == ".json"
    raw = documents.parse_json(text, str(path)) if json else documents.parse(text, str(path))
    if raw is None:
        raise ConfigError(f"empty configuration: {path}", "", "it needs `models` and `datasets`")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"not a configuration: {path}",
            f"the file holds a {type(raw).__name__}, not keys with values",
            "it needs `models: [...]` and `datasets: [...]`",
        )
    return raw


def override(raw: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`raw` with `a.b.0.c=value` assignments carried out; values are YAML.

    Raises:
        ConfigError: An assignment is malformed or leads through something that is not there.
    """
    result: dict[str, Any] = _copy(dict(raw))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: not KEY=VALUE", "", "e.g. --set limit=20")
        shown = secret_values.shown(assignment)
        _assign(result, key.split("."), value(text, f"--set {shown}"), shown)
    return result


def value(text: str, where: str) -> Any:
    """What `text` on the command line means: YAML, and a slice as it stands.

    Raises:
        ConfigError: It is not YAML.
    """
    if re.fullmatch(r"\[\d*:\d*\]", text.strip()):
        return text
    return documents.parse(text, f"{where}: the value")


def parse(
    raw: Mapping[str, Any],
    *,
    beside: Path | None = None,
    words: Words | None = None,
    say: Callable[[str], None] | None = None,
) -> RunSpec:
    """The `RunSpec` that a mapping of our own dialect asks for.

    Args:
        raw: The configuration.
        beside: Folder in which relative data paths are looked for before the
            working directory: that of the configuration file.
        words: What our words are called where the user wrote them.
        say: Told when names must be collected from an upstream first.

    Raises:
        ConfigError: Anything is missing, unknown, or of the wrong type or range.
    """
    words = words or {}
    readers.no_unknown(raw, RUN_KEYS, "the configuration")
    given = {"work_dir": "outputs", **raw}
    if "judge" in raw:
        given["judge"] = over_environment(raw["judge"])
    known = {
        key: read(given[key], words.get(key, key))
        for key, read in RUN_KEYS.items()
        if key in given and read and not (given[key] is None and key in _MAY_BE_NONE)
    }
    known.setdefault("judge", judge_of_environment() or JudgeSpec())
    known["plugins"] = tuple(
        data_path(name, f"{words.get('plugins', 'plugins')}[{i}]", beside)
        for i, name in enumerate(known.get("plugins", ()))
    )
    _check_predictions(known, raw)
    plugins = [plugin_files.read(path) for path in known["plugins"]]
    for one, other in itertools.combinations(plugins, 2):
        if twice := {*one.classes} & {*other.classes}:
            raise ConfigError(
                f"{one.path.name} and {other.path.name} both define {', '.join(sorted(twice))}",
                "a configuration names a class by its name alone",
                "rename one",
            )
    _advise(raw, words, say)
    reading = Reading(words, beside, known.get("python"), say, plugins)
    if "config" in raw:
        return _of_upstreams_own(raw, known, reading)
    found = listed(raw, "datasets", NO_DATASETS, reading)
    datasets = tuple(dataset_entry(d, i, reading) for i, d in enumerate(found))
    _distinct("dataset", [d.name for d in datasets])
    for first, second in itertools.combinations(datasets, 2):
        # OpenCompass tells sets apart by a name of ours; a judge of its own makes no other set.
        judge = second.judge if first.backend == "vlmeval" else first.judge
        if replace(first, name=second.name, judge=judge) == second:
            raise ConfigError(
                f"{first.name} and {second.name} are one dataset",
                "upstream would write the results of one over those of the other",
                "name it once",
            )
    backends = list(dict.fromkeys(d.backend for d in datasets))
    models = tuple(
        model_entry(m, i, backends, reading)
        for i, m in enumerate(listed(raw, "models", NO_MODELS, reading))
    )
    _distinct("model", [m.name for m in models])
    spec = RunSpec(models=models, datasets=datasets, **known)
    _check_upstream(spec, backends, reading)
    for dataset in datasets:
        check_frames(dataset, spec, reading)
        check_scorer(dataset, spec)
    if spec.gpus > 1 and "vlmeval" not in backends:
        raise ConfigError(f"gpus: {spec.gpus}", "only VLMEvalKit divides samples among GPUs")
    if spec.gpus > 1 and (served := next((m.name for m in models if m.api_base), None)):
        raise ConfigError(
            f"gpus: {spec.gpus}", f"{served} is behind an endpoint", "gpus is for local models"
        )
    return spec


def _advise(raw: Mapping[str, Any], words: Words, say: Callable[[str], None] | None) -> None:
    """Say of a key that is written down where it should be instead."""
    places = [("judge", raw.get("judge"))]
    for ours, part in (("models", None), ("datasets", "judge")):
        entries = raw.get(ours)
        for i, entry in enumerate(entries if isinstance(entries, list) else ()):
            where = f"{words.get(ours, ours)}[{i}]"
            if part and isinstance(entry, Mapping):
                where, entry = f"{where}.{part}", entry.get(part)
            places.append((where, entry))
    for where, entry in places:
        key = entry.get("key") if isinstance(entry, Mapping) else None
        if say and isinstance(key, str) and secret_values.is_secret(key):
            say(
                f"{where}.{words.get('key', 'key')}: it works, and is kept out of every file; but "
                "who can read the file or the command line has it. `key_env: VARIABLE` names one"
            )


def _check_predictions(known: dict[str, Any], raw: Mapping[str, Any]) -> None:
    """Predictions made elsewhere are scored, and nothing else is done with them."""
    if "predictions" not in known:
        return
    if raw.get("mode", "eval") != "eval" or raw.get("reuse"):
        other = "reuse" if raw.get("reuse") else f"mode: {raw['mode']}"
        raise ConfigError(
            f"both `predictions` and `{other}`",
            "predictions are scored; nothing is asked",
            "mode: eval, without `reuse`",
        )
    if not known["predictions"].exists():
        raise ConfigError(
            f"predictions: no such file or folder: {known['predictions']}", "", "correct the path"
        )
    known["mode"] = "eval"


def _of_upstreams_own(raw: Mapping[str, Any], known: dict[str, Any], reading: Reading) -> RunSpec:
    """A run of a configuration of OpenCompass's, which decides everything but where and how."""
    allowed = ("config", "work_dir", "mode", "reuse", "fail_on", "python", "upstream")
    if decided := next((key for key in raw if key not in allowed), None):
        raise ConfigError(
            f"{decided}: the configuration decides that",
            f"{raw['config']} is run as it is",
            f"change it there; beside it only {', '.join(allowed[1:])} can be given",
        )
    path = data_path(readers.file(raw["config"], "config"), "config", reading.beside)
    if "work_dir" not in raw:
        del known["work_dir"]
    spec = RunSpec(**{**known, "config": path})
    _check_upstream(spec, ["opencompass"], reading)
    return spec


def _check_upstream(spec: RunSpec, backends: Sequence[BackendName], reading: Reading) -> None:
    """Hold `upstream:` against the arguments of the upstreams' commands."""
    where = reading.word("upstream")
    secret_values.refuse(spec.upstream, where)
    known: dict[str, Any] = {}
    for backend in backends:
        if (names := reading.names(backend)) is None:
            return  # it cannot run either, and says so
        known.update(names.arguments)
    for backend in backends:
        for key in own(spec.upstream, backend):
            if key in _OURS:
                raise ConfigError(f"{where}.{key}: not by {where}", "", f"say it as {_OURS[key]}")
            if backend == "opencompass" and key in _WITHOUT_CONFIGURATION:
                raise ConfigError(
                    f"{where}.{key}: of no effect",
                    "OpenCompass reads it only where no configuration says what to run",
                    "`upstream` of a model has what is a model's",
                )
            if key not in known:
                raise ConfigError(
                    f"{where}: no argument `{key}` of {' or '.join(backends)}",
                    "",
                    did_you_mean(key, known) + f"known: {', '.join(sorted({*known} - {*_OURS}))}",
                )


def plain(spec: RunSpec) -> dict[str, Any]:
    """`spec` as a mapping of our own dialect, without any key: what config.yaml holds."""
    models = [plain_model(m) for m in spec.models]
    datasets = [plain_dataset(d) for d in spec.datasets]
    rest = {key: getattr(spec, key) for key, read in RUN_KEYS.items() if read}
    rest["work_dir"] = str(spec.work_dir)
    rest["judge"] = plain_judge(spec.judge)
    rest["predictions"] = str(spec.predictions) if spec.predictions else None
    rest["plugins"] = [str(path) for path in spec.plugins]
    if spec.config:
        kept = ("work_dir", "mode", "reuse", "fail_on", "python", "upstream")
        rest = {"config": str(spec.config), **{key: rest[key] for key in kept}}
        models = datasets = []
    asked = {"models": models, "datasets": datasets, **rest}
    return {key: value for key, value in asked.items() if value not in (None, [], {})}


def _distinct(kind: str, names: Sequence[str]) -> None:
    """Refuse two names that are one, or become one where they name files."""
    for first, second in itertools.combinations(names, 2):
        if slug(first).casefold() == slug(second).casefold():
            raise ConfigError(
                f"two {kind}s are named {first}"
                + (f" and {second}, one name for a file" if first != second else ""),
                "names tell the rows of the result table and the files of a run apart",
                "give each a `name` of its own",
            )


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _assign(target: Any, keys: Sequence[str], value: Any, assignment: str) -> None:
    for step, key in enumerate(keys):
        index: Any = key
        if isinstance(target, list):
            index = int(key) if key.isdecimal() and key.isascii() else len(target)
        if isinstance(target, list) and index >= len(target):
            raise ConfigError(f"--set {assignment}: no item {key}", f"the list has {len(target)}")
        if not isinstance(target, (dict, list)):
            raise ConfigError(f"--set {assignment}: {'.'.join(keys[:step])} has no keys")
        if step == len(keys) - 1:
            target[index] = value
        else:
            target = target.setdefault(index, {}) if isinstance(target, dict) else target[index]
