"""What a run needs, looked at before it starts: every endpoint with one tiny call, the disk.

Finds out all that is wrong at once, and only that: it decides nothing and starts nothing.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalshim import endpoints, process
from evalshim.endpoints import Limits, NoReply, Reply
from evalshim.errors import SetupError, did_you_mean, harmless
from evalshim.spec import AUTO

if TYPE_CHECKING:
    import openai

# What a run writes beside predictions: logs, results, run.json.
SPARE_BYTES = 100_000_000

# PNG, red, 1 x 1 and 64 x 64: some vision models have a least size (Qwen2-VL: 28).
DOT = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
SQUARE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgAsetfWiP4FgYr"
    "sKZeS0BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg"
    "6Ln3AAAAAElFTkSuQmCC"
)

_MOST_NAMED = 20
_NO_KEY = ("", "EMPTY")
# How OpenAI refuses to say nothing, where thinking took all the tokens.
_OUT_OF_TOKENS = "model output limit was reached"
_OF_THE_KEY = (401, 403)
_BUSY = 429
# A refusal that says nothing of what was asked.
_NOT_OF_THE_REQUEST = (*_OF_THE_KEY, 408, _BUSY)


@dataclass(frozen=True)
class Target:
    """An endpoint as a run will use it.

    Attributes:
        who: For messages: `model qwen-vl`, `judge qwen2-7b`.
        model: Its id there, or `auto` for the only one served.
        key_from: The variable that holds the key; empty where it was written down.
        pictures: Whether the run sends pictures.
        is_chat: False: the run talks to /completions.
        headers: What else each request carries.
        verify: False takes any certificate; a file has the authorities to trust.
        openai: False: another protocol; only see that something listens at its address.
    """

    who: str
    api_base: str
    key: str = field(repr=False)
    model: str
    key_from: str = ""
    pictures: bool = False
    is_chat: bool = True
    openai: bool = True
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    verify: bool | str = True

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        return (self.key, *(value for _, value in self.headers))


@dataclass(frozen=True)
class Finding:
    """What was found at one thing that a run needs.

    Attributes:
        what: `model qwen-vl at http://127.0.0.1:8000/v1`, `disk of /x/outputs`.
        detail: What is well: `serves Qwen/Qwen2.5-VL-7B, takes pictures, 0.12 s`.
        problem: Empty: all is well.
        model: Its id at the endpoint, `auto` resolved.
        notice: Not a problem but worth saying: the endpoint was busy.
    """

    what: str
    detail: str = ""
    problem: str = ""
    cure: str = ""
    model: str = ""
    notice: str = ""


def look(
    targets: Sequence[Target],
    work_dir: Path,
    needed_bytes: int = 0,
    *,
    limits: Limits = Limits(),  # noqa: B008
) -> list[Finding]:
    """Everything a run needs, at once: a finding a target, in their order, then the disk's.

    Takes as long as the slowest target, and at most as the limits of a connection, a list
    and two answers come to.

    Args:
        needed_bytes: What the run will write, beside the little that every run does.
    """
    asked = list(dict.fromkeys(map(_whoever, targets)))
    if any(target.openai for target in asked):
        endpoints.load()
    disk = partial(_disk, work_dir.absolute(), needed_bytes)
    jobs = [*(partial(_endpoint, target, limits) for target in asked), disk]
    within = limits.connect + limits.list + 2 * limits.answer
    late = Finding("", problem=f"no answer within {within:g} s", cure="look into its log")
    *found, room = [finding or late for finding in _at_once(jobs, within)]
    of = dict(zip(asked, found, strict=True))
    named = [replace(of[_whoever(target)], what=_what(target)) for target in targets]
    return [*named, replace(room, what=f"disk of {work_dir}")]


def _whoever(target: Target) -> Target:
    return replace(target, who="")


def _what(target: Target) -> str:
    return process.redact(f"{target.who} at {endpoints.shown(target.api_base)}", target.secrets)


def _at_once(jobs: Sequence[Callable[[], Finding]], within: float) -> list[Finding | None]:
    """What each job found; None for one that took longer, which is left behind."""
    found: list[Finding | None] = [None] * len(jobs)

    def do(place: int, job: Callable[[], Finding]) -> None:
        found[place] = job()

    # Daemons: an endpoint that hangs must not keep the process alive.
    threads = [threading.Thread(target=do, args=one, daemon=True) for one in enumerate(jobs)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(found)


def _endpoint(target: Target, limits: Limits) -> Finding:
    """What was found at an endpoint, with no key in any of it."""
    try:
        found = _asked(target, limits) if target.openai else _listening(target, limits)
    except SetupError as error:
        found = Finding("", problem=error.why, cure=error.cure)
    # The client raises what it meets: httpx's on an address, ssl's on a file, ...
    except Exception as error:
        found = Finding("", problem=f"{type(error).__name__}: {error}", cure="mend `api_base`")
    texts = ("detail", "problem", "cure", "notice")
    clean = {name: harmless(process.redact(getattr(found, name), target.secrets)) for name in texts}
    return replace(found, **clean)


def _listening(target: Target, limits: Limits) -> Finding:
    if proxy := endpoints.proxy_of(target.api_base):
        return Finding("", notice=f"not looked at: it is behind the proxy of ${proxy}")
    endpoints.listens(target.api_base, limits)
    return Finding("", detail="something listens there")


def _asked(target: Target, limits: Limits) -> Finding:
    key = target.key.strip(" \t")
    if not (key.isascii() and key.isprintable()):
        raise SetupError(
            "", f"{_key(target)} holds a character that no HTTP header can: a line break?",
            "set it anew, without it",
        )  # fmt: skip
    with _client(target, target.api_base, key, limits) as client:
        return _Asking(target, limits, client).finding()


def _client(target: Target, api_base: str, key: str, limits: Limits) -> openai.OpenAI:
    return endpoints.client(api_base, key, limits, headers=target.headers, verify=target.verify)


class _Asking:
    """The questions to one endpoint, and what their answers mean together."""

    def __init__(self, target: Target, limits: Limits, client: openai.OpenAI) -> None:
        self.target = target
        self.limits = limits
        self.client = client
        self.ids: list[str] | None = None  # what it serves; None: it does not say
        self.model = target.model

    def finding(self) -> Finding:
        listed = self._list()
        if self.model == AUTO:
            self.model = self._only(listed)
        reply = self._call()
        if reply.status == _BUSY:
            return self._busy(reply)
        if not _answered(reply):
            raise self._failed(reply)
        sees = "takes pictures, " if self._with_pictures else ""
        detail = f"serves {self.model}, {sees}{reply.seconds:.2f} s"
        return Finding("", detail=detail, model=self.model)

    @property
    def _with_pictures(self) -> bool:
        return self.target.pictures and self.target.is_chat

    def _list(self) -> Reply | NoReply:
        """Ask for the list of models. Many do without one, or keep it from most keys."""
        try:
            reply = endpoints.models(self.client, self.limits)
        except NoReply as error:
            if not error.late:
                raise
            return error
        self.ids = _ids(reply)
        return reply

    def _only(self, listed: Reply | NoReply) -> str:
        """The id of the only model served."""
        if isinstance(listed, NoReply):
            raise listed
        if self.ids is None:
            failed = self._failed(listed)
            cure = f"{failed.cure}; or name the model: `model: <id>`"
            raise SetupError("", f"`model: auto`, but no list of models: {failed.why}", cure)
        if len(self.ids) != 1:
            which = ", ".join(self.ids[:_MOST_NAMED])
            why = f"`model: auto`, but it serves {len(self.ids)} models"
            raise SetupError(
                "", f"{why}: {which}" if which else why, "name one of them: `model: <id>`"
            )
        return self.ids[0]

    def _call(self) -> Reply:
        """One call such as the run will make."""
        if not self._with_pictures:
            return self._complete()
        for picture in (DOT, SQUARE):
            refusal = self._complete(picture)
            if not _refused(refusal):
                return refusal
        reply = self._complete()
        if _answered(reply):
            raise SetupError(
                "",
                f"takes no pictures ({self._words(refusal)})",
                "name a vision model, or leave out the datasets with pictures",
            )
        return reply

    def _complete(self, picture: str = "") -> Reply:
        return endpoints.complete(
            self.client, self.limits, self.model, picture=picture, is_chat=self.target.is_chat
        )

    def _busy(self, reply: Reply) -> Finding:
        detail = f"lists {self.model}" if self.model in (self.ids or ()) else "is there"
        unseen = "; whether it takes pictures was not seen" if self._with_pictures else ""
        notice = f"it was busy ({self._words(reply)}){unseen}"
        return Finding("", detail=detail, model=self.model, notice=notice)

    def _failed(self, reply: Reply) -> SetupError:
        """Why a call was not answered."""
        words = self._words(reply)
        if reply.status in _OF_THE_KEY:
            return self._key_refused(words)
        if reply.status == _BUSY:
            return SetupError("", f"it is busy ({words})", "try again later")
        if self.ids is None:
            if (reply.status in (404, 405) or reply.status < 400) and self._lives_in_v1():
                base = endpoints.shown(self.target.api_base).rstrip("/")
                why = f"no API at this address ({words}), but there is one at {base}/v1"
                return SetupError("", why, f"`api_base: {base}/v1`")
        elif self.model not in self.ids:
            return self._unknown(words)
        return self._unanswered(reply, words)

    def _key_refused(self, words: str) -> SetupError:
        if self.target.key in _NO_KEY:
            cure = "`key_env: <variable that holds the key>`"
            return SetupError("", f"it wants a key, and none was given ({words})", cure)
        cure = "give a key that may use this model; is the address the one that the key is for?"
        return SetupError("", f"it refused {_key(self.target)} ({words})", cure)

    def _unknown(self, words: str) -> SetupError:
        ids = self.ids or []
        near = did_you_mean(self.model, ids)
        served = f"it serves {', '.join(ids) or 'no model'}"
        if len(ids) > _MOST_NAMED:
            served = f"it serves {len(ids)} models"
        why = f"does not serve {self.model}; {near}{served} ({words})"
        return SetupError("", why, "mend `model`, or start the endpoint with it")

    def _unanswered(self, reply: Reply, words: str) -> SetupError:
        """As the status says; of its models nothing is known, or the one asked for is there."""
        path = "/chat/completions" if self.target.is_chat else "/completions"
        if reply.status in (404, 405):
            if self.ids is None and self.model in reply.text:
                return SetupError("", f"does not serve {self.model} ({words})", "mend `model`")
            cure = "mend `api_base`: mostly it ends in /v1"
            if self.ids is not None:
                cure = f"`is_chat: {str(not self.target.is_chat).lower()}`, or another endpoint"
            return SetupError("", f"has no {path} ({words})", cure)
        if reply.status >= 500:
            return SetupError("", f"it failed ({words})", "look into the endpoint's log")
        if reply.status >= 400:
            return SetupError("", f"refused a tiny request ({words})", "mend what it names")
        what = "no JSON" if reply.document is None else "no `choices`"
        why = f"what came has {what} ({words})"
        return SetupError("", why, "mend `api_base`: is that an OpenAI-compatible endpoint?")

    def _lives_in_v1(self) -> bool:
        base, mark, query = self.target.api_base.partition("?")
        if base.rstrip("/").endswith("/v1"):
            return False
        try:
            there = f"{base}/v1{mark}{query}"
            with _client(self.target, there, self.target.key, self.limits) as client:
                return _ids(endpoints.models(client, self.limits)) is not None
        except NoReply:
            return False

    def _words(self, reply: Reply) -> str:
        """The status and what the endpoint says to it, on one line, short and without the key."""
        text, most = _message(reply), 300
        if text is None:
            text, most = reply.text, 80 if _is_html(reply.text) else 300
        # Before it is cut, which could leave half of a key.
        line = " ".join(process.redact(text, self.target.secrets).split())
        line = line if len(line) <= most else f"{line[: most - 1]}…"
        moved = f", redirected to {reply.moved}" if reply.moved else ""
        return f"{reply.status}{moved}: {line or 'an empty answer'}"


def _key(target: Target) -> str:
    return f"the key in ${target.key_from}" if target.key_from else "the key"


def _answered(reply: Reply) -> bool:
    """A completion, even an empty one: all its tokens may have gone into thinking."""
    if reply.status == 400 and _OUT_OF_TOKENS in reply.text:
        return True
    document = reply.document
    choices = document.get("choices") if isinstance(document, dict) else None
    return 200 <= reply.status < 300 and isinstance(choices, list) and bool(choices)


def _refused(reply: Reply) -> bool:
    """Refused for what was in it. llama.cpp and others say 500 to pictures, not 400."""
    return reply.status >= 400 and reply.status not in _NOT_OF_THE_REQUEST


def _ids(reply: Reply) -> list[str] | None:
    """The ids in a list of models; None where it is none."""
    document: Any = reply.document if 200 <= reply.status < 300 else None
    # Some (Together AI) send the list without `data` around it.
    entries = document.get("data") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        return None
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return list(dict.fromkeys(one for one in ids if isinstance(one, str)))


def _message(reply: Reply) -> str | None:
    """The message of an error in OpenAI's form, or in one that is near it."""
    document = reply.document
    for name in ("error", "message", "detail"):
        if isinstance(document, dict) and document.get(name):
            document = document[name]
    return document if isinstance(document, str) else None


def _is_html(text: str) -> bool:
    return text.lstrip().startswith("<")


def _disk(work_dir: Path, needed_bytes: int) -> Finding:
    """Whether a run may write, and has room for what it writes."""
    try:
        place = next(path for path in (work_dir, *work_dir.parents) if path.exists())
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("", problem=f"cannot be looked at: {error}", cure="--work-dir DIR")
    needed = needed_bytes + SPARE_BYTES
    elsewhere = "give another: --work-dir DIR"
    if not place.is_dir():
        return Finding("", problem=f"{place} is not a folder", cure=elsewhere)
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("", problem=f"{place} cannot be written to", cure=elsewhere)
    if free < needed:
        problem = f"{_size(free)} free, {_size(needed)} needed"
        return Finding("", problem=problem, cure=f"make room, or {elsewhere}")
    return Finding("", detail=f"{_size(free)} free")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
