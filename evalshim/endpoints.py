"""How to ask an OpenAI-compatible endpoint: its models, one completion, whether it is there.

Knows the wire and its failures in plain words, not what an answer means for a run.
`openai` is imported on first use; both its httpx and its httpx2 are fine.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies, proxy_bypass

from evalshim.errors import SetupError
from evalshim.spec import JudgeSpec, ModelSpec

if TYPE_CHECKING:
    import openai

USER_AGENT = "evalshim-preflight"
PROMPT = "Say OK."
MAX_TOKENS = 16

RETRY_SECONDS = 0.5

# Which ids take `max_completion_tokens` (VLMEvalKit 0.0.20, api/gpt.py).
_COMPLETION_TOKENS = ("o1", "o3", "o4", "gpt-5")
_DROPPED = {"RemoteProtocolError", "ReadError", "WriteError"}


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds: for a connection, and then for an answer."""

    connect: float = 10.0
    answer: float = 60.0

    @property
    def list(self) -> float:
        """A list costs an endpoint nothing; one that lets it wait may still answer a call."""
        return min(self.answer, 10.0)


@dataclass(frozen=True)
class Reply:
    """What an endpoint sent, whatever the status.

    Attributes:
        moved: Where a redirect led to; empty without one.
    """

    status: int
    text: str
    seconds: float
    moved: str = ""

    @property
    def document(self) -> Any:
        """The JSON of it; None where it is none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


class NoReply(SetupError):
    """Nothing came back. `late`: there was a connection, but no answer in time."""

    def __init__(self, why: str, cure: str, *, late: bool = False) -> None:
        super().__init__("no answer", why, cure)
        self.late = late


def key_of(asked: ModelSpec | JudgeSpec) -> str:
    """The key that the endpoint of a model or judge is to get; empty for none."""
    if asked.key_env:
        return os.environ[asked.key_env]
    if isinstance(asked, JudgeSpec) and asked.is_model and not asked.api_base and not asked.key:
        return os.environ.get("OPENAI_API_KEY", "")  # which the upstreams take, and log
    return asked.key


def variables_of(asked: ModelSpec | JudgeSpec) -> dict[str, str]:
    """The secrets of a model or judge, by the variables in which a worker finds them."""
    return {asked.key_variable: key_of(asked), **asked.secrets}


def shown(url: str) -> str:
    """`url` for a person: without a name and password, or a query that may hold a key."""
    return re.sub(r"//[^/?#]*@", "//", url).partition("?")[0]


def load() -> None:
    """Import now all that the calls need: imports that race on threads can deadlock."""
    import openai.resources.chat.completions
    import openai.resources.completions
    import openai.resources.models  # noqa: F401


def client(
    api_base: str,
    key: str,
    limits: Limits,
    *,
    headers: Sequence[tuple[str, str]] = (),
    verify: bool | str = True,
) -> openai.OpenAI:
    """A client that says who asks, retries nothing by itself and sends only what a run would.

    Args:
        headers: What else it sends along, by name.
        verify: False takes any certificate; a file has the authorities to trust.
    """
    import openai

    base, _, query = api_base.partition("?")
    # Azure takes a key of its own by this header alone, as VLMEvalKit and openai send it.
    host = urlsplit(base).hostname or ""
    azure = {"api-key": key} if host.endswith(".azure.com") else {}
    further = {**azure, **dict(headers)}

    def stay_at_home(request: Any) -> None:
        # httpx takes this one from a request that is redirected to another host.
        if "authorization" not in request.headers:
            for name in further:
                request.headers.pop(name, None)

    # Redirects are followed as a run's own client does: never with the key to another host.
    http_client = openai.DefaultHttpxClient(
        verify=_authorities(verify), event_hooks={"request": [stay_at_home]}
    )
    made = openai.OpenAI(
        base_url=base,
        api_key=key or "EMPTY",
        timeout=openai.Timeout(limits.answer, connect=limits.connect),
        max_retries=0,
        default_headers={"User-Agent": USER_AGENT, **further},
        default_query=dict(parse_qsl(query)),
        http_client=http_client,
    )
    # The client takes these from the environment; the upstreams do not.
    made.organization = made.project = None
    return made


def models(asked: openai.OpenAI, limits: Limits) -> Reply:
    """GET /models.

    Raises:
        NoReply: Nothing came back.
    """
    import openai

    limits = Limits(limits.connect, limits.list)
    timeout = openai.Timeout(limits.answer, connect=limits.connect)
    return _reply(asked, limits, lambda: asked.models.with_raw_response.list(timeout=timeout))


def complete(
    asked: openai.OpenAI, limits: Limits, model: str, *, picture: str = "", is_chat: bool = True
) -> Reply:
    """One tiny completion, of a chat or of a plain prompt.

    Args:
        picture: URL of one to send along; empty for none.

    Raises:
        NoReply: Nothing came back.
    """
    if not is_chat:
        plain = asked.completions.with_raw_response
        return _reply(
            asked,
            limits,
            lambda: plain.create(model=model, prompt=PROMPT, max_tokens=MAX_TOKENS),
        )
    content: Any = PROMPT
    if picture:
        image = {"type": "image_url", "image_url": {"url": picture}}
        content = [{"type": "text", "text": PROMPT}, image]
    thinks = any(part in model for part in _COMPLETION_TOKENS)
    limit = {"max_completion_tokens" if thinks else "max_tokens": MAX_TOKENS}
    chat = asked.chat.completions.with_raw_response
    messages: Any = [{"role": "user", "content": content}]
    # As extra_body: clients before 1.45 have no argument `max_completion_tokens`.
    return _reply(
        asked, limits, lambda: chat.create(model=model, messages=messages, extra_body=limit)
    )


def listens(api_base: str, limits: Limits) -> None:
    """See that something takes connections at an address.

    Raises:
        NoReply: Nothing does.
    """
    url = urlsplit(api_base)
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), limits.connect).close()
    except OSError as error:
        raise _no_reply(error, api_base, limits) from error


def proxy_of(api_base: str) -> str:
    """The variable that names the proxy by which an address is reached; empty without one."""
    url = urlsplit(api_base)
    proxies = getproxies()
    scheme = next((s for s in (url.scheme, "all") if proxies.get(s)), "")
    if not scheme or proxy_bypass(url.netloc.rpartition("@")[2]):
        return ""
    # What this system has in its settings instead goes by the same name.
    name = f"{scheme}_proxy"
    return name.upper() if name.upper() in os.environ and name not in os.environ else name


def _reply(
    asked: openai.OpenAI, limits: Limits, send: Callable[[], Any], *, again: bool = True
) -> Reply:
    """What comes back; a server that failed or hung up gets a second chance."""
    import openai

    begun = time.monotonic()
    try:
        response = send().http_response
    except openai.APIStatusError as error:
        response = error.response
    except openai.APIConnectionError as error:
        if again and _DROPPED & {type(e).__name__ for e in _causes(error)}:
            return _reply(asked, limits, send, again=False)
        raise _no_reply(error, str(asked.base_url), limits) from error
    if response.status_code >= 500 and again:
        time.sleep(RETRY_SECONDS)
        return _reply(asked, limits, send, again=False)
    moved = shown(str(response.url)) if response.history else ""
    return Reply(response.status_code, response.text, time.monotonic() - begun, moved)


def _authorities(verify: bool | str) -> ssl.SSLContext | bool:
    """The certificate authorities that VLMEvalKit's client (requests) goes by, where said."""
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    if not verify:
        return False
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if place := os.environ.get(name):
            try:
                if Path(place).is_dir():
                    return ssl.create_default_context(capath=place)
                return ssl.create_default_context(cafile=place)
            except OSError as error:
                why = f"${name} is {place}: {error.strerror or error}"
                raise NoReply(why, f"mend ${name}, or unset it") from error
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_reply(error: Exception, api_base: str, limits: Limits) -> NoReply:
    """What the failure of a connection means, and how to mend it."""
    causes = list(_causes(error))
    late = _late(causes, limits)
    if late:
        return late
    why, cure = _failure(causes, urlsplit(api_base).hostname or "")
    if proxy := proxy_of(api_base):
        host = urlsplit(api_base).hostname
        why = f"by the proxy of ${proxy}: {why}"
        cure = f"mend ${proxy}, or put {host} into $NO_PROXY; or {cure}"
    return NoReply(why, cure)


def _late(causes: Sequence[BaseException], limits: Limits) -> NoReply | None:
    # By name: httpx and httpx2 each have their own.
    names = {type(error).__name__ for error in causes}
    if not names & {"APITimeoutError", "TimeoutError", "timeout"}:
        return None
    if "APITimeoutError" in names and "ConnectTimeout" not in names:
        why = f"no answer within {limits.answer:g} s"
        return NoReply(why, "it hangs or has too much to do: look into its log", late=True)
    why = f"no connection within {limits.connect:g} s"
    return NoReply(why, "mend `api_base`, or what keeps this machine from it: firewall, VPN, proxy")


def _failure(causes: Sequence[BaseException], host: str) -> tuple[str, str]:
    for error in causes:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate is not trusted: {error.verify_message}",
                "`ca_bundle: FILE` with its authority's certificate; `verify: false` takes any",
            )
        if isinstance(error, ssl.SSLError):
            reason = error.reason or error
            return f"no TLS at this address: {reason}", "is it http:// instead of https://?"
        if isinstance(error, socket.gaierror):
            return f"the name {host} does not resolve", "mend `api_base`"
        if isinstance(error, ConnectionRefusedError):
            return "connection refused: nothing listens there", (
                "start the endpoint, or mend `api_base`"
            )
        if type(error).__name__ in _DROPPED:
            return f"it hung up without an answer: {error}", (
                "mend `api_base` (is it https:// instead of http://?), or look into its log"
            )
    # The first is the client's own "Connection error."
    root = causes[1] if len(causes) > 1 else causes[0]
    return f"no connection: {type(root).__name__}: {root}", "start the endpoint, or mend `api_base`"
