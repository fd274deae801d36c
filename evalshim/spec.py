"""The frozen types that cross our borders. Plain data: no I/O, no upstream, nothing of ours.

`RunSpec` is what was asked, `Cell` a unit of it, `Event` what a worker reports,
`Row` and `Sample` what is known afterwards.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

SCHEMA_VERSION = 1

BackendName = Literal["vlmeval", "opencompass"]
Mode = Literal["all", "infer", "eval"]
Fallback = Literal["error", "allow"]
Think = Literal["keep", "strip"]
CellStatus = Literal["pending", "running", "scored", "infer_only", "skipped", "failed"]
Unit = Literal["fraction", "percent", "raw"]

EXACT_MATCHING = "exact_matching"
AUTO = "auto"  # the id of the only model that an endpoint serves


@dataclass(frozen=True)
class ModelSpec:
    """A model behind an OpenAI-compatible endpoint, or one that an upstream runs itself.

    Parameters that are None are left to upstream's own default.

    Attributes:
        name: Label in results; unique in a run.
        model: Id at the endpoint, or `auto` for the only one served; without an endpoint
            the name that upstream knows the model by.
        api_base: Root of the API, ending in `/v1` or the like, without `/chat/completions`, and
            its query if it needs one; None for a model that upstream runs itself.
        cls: Upstream's class, or the name of one of its configured models, to build it with.
        model_path: Weights of a local model, instead of those upstream would take.
        module: OpenCompass's configuration module of a model that it runs itself.
        key_env: Environment variable that holds the key; None where the key is `key`.
        key: The key itself, for those who wrote it down; never stored. Empty: none given.
        timeout: Seconds for one request.
        img_size: Longest side in pixels to which upstream shrinks a picture; -1 keeps it.
        extra_body: Further JSON members of each request.
        concurrency: Calls in flight, where that is not the run's.
        rate_limit: Calls a minute.
        headers: Further headers of each request.
        verify: False takes whatever certificate the endpoint shows.
        ca_bundle: File with the certificates of the authorities that the endpoint's is held
            against, in place of the system's; absolute.
        think: `strip` has upstream score what follows `</think>` alone.
        is_chat: False talks to `/completions` with the plain prompt (OpenCompass).
        meta_template: OpenCompass's template of roles: `chat`, `none` (everything becomes
            one user message), or a mapping of upstream's.
        upstream: Further arguments of upstream's class; under a backend's name, for it alone.
        secrets: What each `${VARIABLE}` in `extra_body`, `headers` and `upstream` stands for.
    """

    name: str
    model: str
    api_base: str | None = None
    cls: str | None = None
    model_path: str | None = None
    module: str | None = None
    key_env: str | None = None
    key: str = field(default="", repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    seed: int | None = None
    retry: int | None = None
    timeout: float | None = None
    img_size: int | None = None
    img_detail: str | None = None
    system_prompt: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    verify: bool = True
    ca_bundle: str | None = None
    concurrency: int | None = None
    rate_limit: float | None = None
    think: Think = "keep"
    is_chat: bool = True
    meta_template: Mapping[str, Any] | str = field(default="chat", hash=False)
    upstream: Mapping[str, Any] = field(default_factory=dict, hash=False)
    secrets: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    @property
    def trusted(self) -> bool | str:
        """What its certificate is held against, as requests and httpx take it."""
        return (self.ca_bundle or True) if self.verify else False

    @property
    def key_variable(self) -> str:
        """The variable in which a worker finds the key."""
        return f"EVALSHIM_KEY_{_digest(self.name)}"


@dataclass(frozen=True)
class JudgeSpec:
    """What grades answers: `exact_matching`, or a model.

    Parameters that are None are left to upstream's own default.

    Attributes:
        model: Its id at the endpoint, or `auto`; upstream's name for one where there is no
            `api_base`.
        api_base: As of a model.
        nproc: Calls in flight.
        retry: Tries of a call that fails.
        timeout: Seconds for one request.
        verify: As of a model.
        ca_bundle: As of a model.
        fallback: What becomes of a cell whose judge does not answer: `error` fails it, `allow`
            lets upstream grade without, where it can, and says so in every row.
        upstream: Further arguments of upstream's class; under a backend's name, for it alone.
        secrets: What each `${VARIABLE}` in `upstream` stands for.
    """

    model: str = EXACT_MATCHING
    api_base: str | None = None
    key_env: str | None = None
    key: str = field(default="", repr=False)
    nproc: int | None = None
    retry: int | None = None
    timeout: float | None = None
    verify: bool = True
    ca_bundle: str | None = None
    fallback: Fallback = "error"
    upstream: Mapping[str, Any] = field(default_factory=dict, hash=False)
    secrets: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    @property
    def is_model(self) -> bool:
        return self.model != EXACT_MATCHING

    @property
    def trusted(self) -> bool | str:
        """What its certificate is held against, as requests and httpx take it."""
        return (self.ca_bundle or True) if self.verify else False

    @property
    def key_variable(self) -> str:
        """The variable in which a worker finds the key."""
        # Python salts the hash of a text: nothing is told of the key.
        told = (self.api_base, self.model, self.key_env, hash(self.key))
        return f"EVALSHIM_JUDGE_KEY_{_digest(repr(told))}"


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of a run, resolved to what its upstream knows.

    Attributes:
        name: As in results; unique in a run.
        backend: Which upstream evaluates it.
        target: Upstream's dataset name (VLMEvalKit), or its configurations as
            `module:variable`, blanks between several (OpenCompass).
        cls: Upstream's class that reads it; empty where only upstream knows.
        type: Upstream's word for the kind of question (`MCQ`, `VQA`, `gen`, ...).
        modality: `image`, `video` or `text`; empty where only upstream knows.
        answers: `private` where upstream can infer but not score.
        path: The user's own data file or folder, absolute; None for upstream's own data.
        format: Format of `path`; None for upstream's own data.
        scorer: What scores a set of questions of the user's own (`adapters.scorers`); empty
            where upstream or a plug-in says.
        summary_groups: Modules of OpenCompass that define averages over its subsets.
        origin: The name that it was resolved from; empty for a file of the user's own.
        judge: What grades it, where that is not the judge of the run.
        upstream: Further arguments of upstream's dataset class or configuration.
    """

    name: str
    backend: BackendName
    target: str
    cls: str = ""
    type: str = ""
    modality: str = ""
    answers: str = "public"
    path: Path | None = None
    format: str | None = None
    scorer: str = ""
    summary_groups: tuple[str, ...] = ()
    origin: str = field(default="", compare=False)
    judge: JudgeSpec | None = None
    upstream: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class UpstreamModel:
    """A model that an upstream knows by name.

    Attributes:
        target: Its class (VLMEvalKit) or configuration module (OpenCompass).
        type: Its class.
    """

    name: str
    backend: BackendName
    target: str
    type: str = ""


@dataclass(frozen=True)
class RunSpec:
    """One `shim run`, resolved: every default filled in, every path absolute.

    Attributes:
        limit: What to take of each dataset: a count, a fraction below 1, or a slice `[10:20]`.
        concurrency: Calls in flight per endpoint, shared by all cells that call it.
        rate_limit: Calls a minute per endpoint; None for as many as it answers.
        mode: `eval` scores what the newest run of the same work predicted, or `predictions`.
        predictions: A file of predictions made elsewhere, or a folder of such files.
        retries: How often the samples of a cell that got no answer are asked again at its end.
        fail_on: Samples without an answer, or without a grade, that a cell may have before it
            fails the run: a count, or a fraction of the cell when below 1.
        reuse: Go on from the newest run of the same work in `work_dir`, or from the run named.
        run_timeout: Seconds after which a run ends, to be gone on with.
        cell_timeout: Seconds after which a cell fails.
        stall_timeout: Seconds without a word of a cell after which it fails.
        patience: Seconds for which an endpoint that answered is waited for when it does not.
        max_requests: Calls of all endpoints after which a run ends, to be gone on with.
        max_tokens_total: The same of tokens, in and out, as the endpoints report them.
        gpus: Processes of upstream's data-parallel inference, one a local GPU.
        verify_data: Whether a published data file must have its published hash.
        plugins: Python files of the user's, loaded inside the worker.
        python: Interpreter that has the upstreams, instead of the managed environments.
        config: A configuration of OpenCompass, run as it is; then no models and datasets.
        upstream: Further arguments of the upstreams' commands.
    """

    models: tuple[ModelSpec, ...] = ()
    datasets: tuple[DatasetSpec, ...] = ()
    judge: JudgeSpec = field(default_factory=JudgeSpec)
    limit: int | float | str | None = None
    concurrency: int = 32
    rate_limit: float | None = None
    mode: Mode = "all"
    predictions: Path | None = None
    retries: int = 1
    work_dir: Path = Path("outputs")
    fail_on: float = 0
    reuse: bool | str = False
    run_timeout: float | None = None
    cell_timeout: float | None = None
    stall_timeout: float = 3600
    patience: float = 60
    max_requests: int | None = None
    max_tokens_total: int | None = None
    gpus: int = 1
    verify_data: str = "strict"
    plugins: tuple[Path, ...] = ()
    python: str | None = None
    config: Path | None = None
    upstream: Mapping[str, Any] = field(default_factory=dict)

    def judge_of(self, dataset: DatasetSpec) -> JudgeSpec:
        """What grades a dataset of this run."""
        return dataset.judge or self.judge


@dataclass(frozen=True)
class Cell:
    """One model x dataset of a run. `id` is safe as a file name."""

    id: str
    model: ModelSpec
    dataset: DatasetSpec


@dataclass(frozen=True)
class Event:
    """What a worker reported: see the wire contract in `worker/__main__.py`."""

    kind: str
    cell: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One metric of one cell (and subset): a line of results.csv, in its column order.

    `value` is what upstream wrote, `score` is 0..1 where `unit` allows it.
    """

    run_id: str
    backend: str
    backend_version: str
    model: str
    dataset: str
    subset: str = ""
    metric: str = ""
    value: float | int | str | None = None
    unit: Unit | None = None
    score: float | None = None
    is_primary: bool = False
    n: int | None = None
    n_failed: int | None = None
    n_judge_failed: int | None = None
    scorer: str = ""
    judge_fallback: bool = False
    status: CellStatus = "failed"
    error: str = ""
    source_file: str = ""


ROW_COLUMNS = tuple(f.name for f in fields(Row))


@dataclass(frozen=True)
class Sample:
    """One model x dataset x sample: a line of samples.jsonl.

    `correct` and `score` are None where upstream gives no verdict on a single sample.
    `error` says why there is no prediction: the last HTTP status, or what happened, and the
    message. `finish` is why the model stopped, as the endpoint says (`length`: it was cut).
    `images` are paths, relative to the run directory where they lie in it.
    """

    run_id: str
    backend: str
    model: str
    dataset: str
    subset: str
    index: str
    question: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    prediction: str | None = None
    error: str = ""
    finish: str = ""
    correct: bool | None = None
    score: float | None = None
    category: str = ""
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A number as an adapter read it from upstream's files, before it becomes a `Row`.

    `n` and `n_failed` are those of its subset; None where upstream does not say which
    samples that has.
    """

    subset: str
    name: str
    value: float | int | str
    unit: Unit
    is_primary: bool
    source_file: Path
    n: int | None = None
    n_failed: int | None = None


@dataclass(frozen=True)
class CellOutcome:
    """What is known of a cell when its worker is done with it.

    Attributes:
        n_judge_failed: Samples that the judge did not grade; None where no one was to be graded.
        notes: What a reader of the score should know, e.g. that answers were cut.
        sent: Parameters of a request as the model's endpoint got them.
        reported: By `model` and `judge`, the id of the model as its endpoint reported it.
    """

    status: CellStatus
    error: str = ""
    metrics: tuple[Metric, ...] = ()
    samples: tuple[Sample, ...] = ()
    n: int | None = None
    n_failed: int | None = None
    n_judge_failed: int | None = None
    scorer: str = ""
    judge_fallback: bool = False
    notes: tuple[str, ...] = ()
    sent: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Needed:
    """A data file or folder that a dataset needs.

    Attributes:
        path: Where it is looked for first.
        present: It is there, and upstream will take it.
        source: Where upstream fetches it from when it is not there; empty where it cannot.
        looked_for: Every place, where there are several.
        problem: Why what is there cannot be used.
        cure: How to mend that.
        md5: Of the file that upstream publishes; empty where it does not say.
    """

    path: str
    present: bool
    source: str = ""
    looked_for: tuple[str, ...] = ()
    problem: str = ""
    cure: str = ""
    md5: str = ""

    @property
    def missing(self) -> bool:
        return bool(self.problem) or not (self.present or self.source)


def chat_url(api_base: str) -> str:
    """Where chats of an API go: the query of an address (Azure's `api-version`) stays behind."""
    base, mark, query = api_base.partition("?")
    return f"{base}/chat/completions{mark}{query}"


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:8].upper()


def own(arguments: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """What of some `upstream:` arguments is meant for `backend`: all, or what stands under it."""
    backends: tuple[str, ...] = get_args(BackendName)
    shared = {key: value for key, value in arguments.items() if key not in backends}
    return {**shared, **arguments.get(backend, {})}


def slug(name: str) -> str:
    """`name` as part of a file name: what is not a letter, digit, `.`, `_` or `-` becomes `-`.

    Never empty, never begins with a dot, at most 80 bytes long.
    """
    composed = unicodedata.normalize("NFC", name)
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in composed).strip(".-") or "x"
    if len(safe.encode()) <= 80:
        return safe
    digest = sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{safe.encode()[:70].decode(errors='ignore')}-{digest}"
