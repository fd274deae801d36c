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
from typing import Any, Literal

SCHEMA_VERSION = 1

BackendName = Literal["vlmeval", "opencompass"]
Mode = Literal["all", "infer"]
CellStatus = Literal["pending", "running", "scored", "infer_only", "skipped", "failed"]
Unit = Literal["fraction", "percent", "raw"]

EXACT_MATCHING = "exact_matching"


@dataclass(frozen=True)
class ModelSpec:
    """A model behind an OpenAI-compatible endpoint.

    Sampling parameters that are None are left to upstream's own default.

    Attributes:
        name: Label in results; unique in a run.
        api_base: Root of the API, ending in `/v1` or the like, without `/chat/completions`.
        model: Id at the endpoint, or `auto` for the only one served.
        key_env: Environment variable that holds the key; None where the key is `key`.
        key: The key itself, for those who wrote it down; never stored.
        timeout: Seconds for one request.
        img_size: Longest side in pixels to which upstream shrinks a picture; -1 keeps it.
        extra_body: Further JSON members of each request.
    """

    name: str
    api_base: str
    model: str
    key_env: str | None = None
    key: str = field(default="EMPTY", repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    seed: int | None = None
    retry: int | None = None
    timeout: float | None = None
    img_size: int | None = None
    img_detail: str | None = None
    system_prompt: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int | None = None

    @property
    def key_variable(self) -> str:
        """The variable in which a worker finds the key."""
        if self.key_env:
            return self.key_env
        return f"EVALSHIM_KEY_{sha256(self.name.encode(errors='replace')).hexdigest()[:8].upper()}"


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of a run, resolved to what its upstream knows.

    Attributes:
        name: As in results; unique in a run.
        backend: Which upstream evaluates it.
        target: Upstream's dataset name (VLMEvalKit) or `module:variable` of its
            configuration (OpenCompass).
        path: The user's own data file or folder, absolute; None for upstream's own data.
        format: Format of `path`; None for upstream's own data.
        summary_groups: Modules of OpenCompass that define averages over its subsets.
    """

    name: str
    backend: BackendName
    target: str
    path: Path | None = None
    format: str | None = None
    summary_groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunSpec:
    """One `shim run`, resolved: every default filled in, every path absolute.

    Attributes:
        limit: What to take of each dataset: a count, a fraction below 1, or a slice `[10:20]`.
        concurrency: Calls in flight per endpoint.
        fail_on: Samples without an answer that a cell may have before it fails the
            run: a count, or a fraction of the cell when below 1.
        python: Interpreter that has the upstreams, instead of the managed environments.
    """

    models: tuple[ModelSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    judge: str = EXACT_MATCHING
    limit: int | float | str | None = None
    concurrency: int = 32
    mode: Mode = "all"
    work_dir: Path = Path("outputs")
    fail_on: float = 0
    python: str | None = None


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

    `correct` is None where upstream gives no verdict on a single sample.
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
    correct: bool | None = None
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

    `upstream` names the distribution and version that computed it.
    """

    status: CellStatus
    error: str = ""
    metrics: tuple[Metric, ...] = ()
    samples: tuple[Sample, ...] = ()
    n: int | None = None
    n_failed: int | None = None
    scorer: str = ""


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
