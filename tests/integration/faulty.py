"""An endpoint that is broken as its path says, and judges that are.

`/<kind>/<share>/v1` is a model, `/judge-<state>/<name>/v1` a judge. What fails is a matter of the
question, never of chance: a call about a sample that fails always fails, so that no retry helps.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS = {"401": 401, "404": 404, "429": 429, "500": 500}
FAULTS = (*STATUS, "timeout", "cut", "empty_choices", "null_content", "html")
KINDS = ("ok", "wordy", "once429", *FAULTS)
SHARES = (0, 10, 100)
STATES = ("good", "dead", "halfway", "errors30", "nonsense", "slow", "once500")

LATE = 10.0  # seconds before `timeout` answers
SLOW = 0.3
ALIVE = 8  # calls that a judge which dies halfway answers
NONSENSE = "I would rather talk about the weather."
DOUBTFUL = 5  # the sample of which a wordy model cannot tell yes from no

_HOST = "127.0.0.1"
_PLACE = re.compile(r"/([^/]+)/([^/]+)/v1(/models|/chat/completions)")
_SAMPLE = re.compile(r"\bnumber (\d+)")
_LARGEST = 32 * 2**20  # bytes of a request
_MESSAGES = {
    401: "Incorrect API key provided",
    404: "The model does not exist",
    413: "too large",
    429: "Rate limit reached",
    500: "The server had an error",
    503: "The server is overloaded",
}


class Faulty:
    """The endpoint on 127.0.0.1, served from background threads while the context lasts.

    Attributes:
        asked: Of every chat request, in order of arrival: `kind`, `share` (of a judge its name),
            `status` of the reply, `body`, `sample` (its number, or None), `key` and `time`.
        refused: API base at a port that is taken and on which nothing listens.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.seen: set[tuple[str, str, int | None]] = set()

    def url(self, kind: str, share: int = 0) -> str:
        """API base of a model that fails as `kind` says for `share` percent of its samples."""
        if kind not in KINDS or share not in SHARES:
            raise ValueError(f"no model {kind}/{share}")
        return f"{self._root}/{kind}/{share}/v1"

    def judge(self, state: str, name: str = "0") -> str:
        """API base of a judge; each `name` is one of its own, with its own count of calls."""
        if state not in STATES:
            raise ValueError(f"no judge {state}")
        return f"{self._root}/judge-{state}/{name}/v1"

    def of(self, kind: str, share: int | str | None = None) -> list[dict[str, Any]]:
        """What a model or judge was asked."""
        with self.lock:
            found = list(self.asked)
        return [a for a in found if a["kind"] == kind and share in (None, a["share"])]

    def __enter__(self) -> Faulty:
        self._server = _Server(self)
        self._root = f"http://{_HOST}:{self._server.server_address[1]}"
        self._closed = socket.socket()
        self._closed.bind((_HOST, 0))
        self.refused = f"http://{_HOST}:{self._closed.getsockname()[1]}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop()
        self._thread.join()
        self._closed.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, faulty: Faulty) -> None:
        self.faulty = faulty
        self.open: set[socket.socket] = set()
        super().__init__((_HOST, 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.faulty.lock:
            self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.faulty.lock:
            self.open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        """End the connections that clients keep alive."""
        with self.faulty.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business; most here do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        place = _PLACE.fullmatch(self.path)
        if place and place[3] == "/models":
            served = [{"id": name, "object": "model"} for name in ("m", "j")]
            self._send(200, {"object": "list", "data": served})
        else:
            self._fail(404)

    def do_POST(self) -> None:
        place = _PLACE.fullmatch(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST:
            self.close_connection = True
            self._fail(413)
            return
        body = json.loads(self.rfile.read(length))
        if not place or place[3] == "/models":
            self._fail(404)
            return
        text = _text(body["messages"])
        found = _SAMPLE.findall(text)
        sample = int(found[-1]) if found else None
        fault, reply = self._decide(place[1], place[2], text, sample)
        self._note(place, fault, body, sample)
        self._answer(fault, reply)

    def _decide(self, kind: str, share: str, text: str, sample: int | None) -> tuple[str, str]:
        """What goes wrong, or "" and what is said."""
        with self.server.faulty.lock:
            first = (kind, share, sample) not in self.server.faulty.seen
            self.server.faulty.seen.add((kind, share, sample))
        if kind.endswith(("once429", "once500")) and first and sample is not None:
            return kind[-3:], ""
        if not kind.startswith("judge-"):
            fails = share == "100" or (share == "10" and sample is not None and sample % 10 == 3)
            if kind in FAULTS and fails:
                return kind, right(text, sample)
            return "", wordy(text, sample) if kind == "wordy" else right(text, sample)
        state = kind.removeprefix("judge-")
        with self.server.faulty.lock:
            self.server.faulty.calls[kind, share] += 1
            calls = self.server.faulty.calls[kind, share]
        if state == "dead":
            return "cut", verdict(text)
        if state == "halfway" and calls > ALIVE:
            return "503", ""
        if state == "errors30" and sample is not None and sample % 10 in (1, 4, 7):
            return "500", ""
        if state == "slow":
            self.server.faulty.stopping.wait(SLOW)
        if state == "nonsense" and text.strip() != "hello":
            return "", NONSENSE
        return "", verdict(text)

    def _note(self, place: re.Match[str], fault: str, body: Any, sample: int | None) -> None:
        entry = {
            "kind": place[1],
            "share": int(place[2]) if place[2].isdecimal() else place[2],
            "status": int(fault) if fault.isdecimal() else 200,
            "body": body,
            "sample": sample,
            "key": self.headers.get("Authorization", "").removeprefix("Bearer "),
            "time": time.time(),
        }
        with self.server.faulty.lock:
            self.server.faulty.asked.append(entry)

    def _answer(self, fault: str, reply: str) -> None:
        if fault.isdecimal():
            self._fail(int(fault))
            return
        if fault == "html":
            self._send_bytes(200, b"<html><body>Welcome to the proxy</body></html>", "text/html")
            return
        choices: list[dict[str, Any]] = [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None if fault == "null_content" else reply,
                },
                "finish_reason": "stop",
            }
        ]
        document = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [] if fault == "empty_choices" else choices,
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        if fault == "timeout":
            self.server.faulty.stopping.wait(LATE)
        self._send(200, document, cut=fault == "cut")

    def _fail(self, status: int) -> None:
        code = "model_not_found" if status == 404 else f"error_{status}"
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": _MESSAGES[status], "type": kind, "param": None, "code": code}
        self._send(status, {"error": error})

    def _send(self, status: int, document: Any, cut: bool = False) -> None:
        self._send_bytes(status, json.dumps(document).encode(), "application/json", cut)

    def _send_bytes(self, status: int, payload: bytes, kind: str, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(payload[: len(payload) // 2] if cut else payload)
        if cut:
            self.close_connection = True


# What models and judges say. A question is of the kind that its prompt shows.


def right(text: str, sample: int | None) -> str:
    """The answer that a rule of upstream's finds: of a multiple choice always the first option."""
    if _has_options(text):
        return "A"
    if "yes or no" in text:
        return "Yes"
    return rf"\boxed{{{amount(sample)}}}" if r"\boxed" in text else word(sample)


def wordy(text: str, sample: int | None) -> str:
    """The same answer in words that no rule understands: a judge must."""
    if _has_options(text):
        return f"It is surely the first of them, number {sample}"
    if "yes or no" in text:
        if sample == DOUBTFUL:
            return f"That I cannot tell, number {sample}"
        return f"That is indeed so, number {sample}"
    if r"\boxed" in text:
        return rf"It comes to \boxed{{{amount(sample)}}}, for number {sample}"
    return f"It says {word(sample)} there, on number {sample}"


def amount(sample: int | None) -> str:
    """What a model makes of a sum."""
    return str(1000 + (sample or 0))


def word(sample: int | None) -> str:
    """What a model reads in a picture."""
    return f"word{sample}"


def verdict(prompt: str) -> str:
    """What a good judge says to a prompt of upstream's (VLMEvalKit 0.0.20, OpenCompass 0.5.4)."""
    if prompt.strip() == "hello":  # BaseAPI.working
        return "hi"
    said = prompt.rpartition("\nAnswer: ")[2]
    if "match an answer with two options" in prompt:  # YOrN_match_prompt
        return "Yes" if "indeed so" in said else "Unknown"
    if "match an answer with several options" in prompt:  # multiple_choice.build_prompt
        return "A" if "the first of them" in said else "Z"
    if "[Begin Ground-Truth]" in prompt:  # ShortQA_prompt, behind its examples
        truth = _last(prompt, "[Begin Ground-Truth]", "[End Ground-Truth]")
        correct = "yes" if truth in _last(prompt, "[Begin Response]", "[End Response]") else "no"
        reason = "[Begin Reason] r [End Reason]"
        return f"[Begin Correctness] {correct} [End Correctness] {reason}"
    if "<Gold Target Begin>" in prompt:  # what GenericLLMEvaluator asks
        gold = _last(prompt, "<Gold Target Begin>:", "<Gold Target End>").strip()
        return "A" if gold in _last(prompt, "<Predicted Answer Begin>:", "<Predicted End>") else "B"
    return "Unknown"


def _last(text: str, begin: str, end: str) -> str:
    return text.rpartition(begin)[2].partition(end)[0]


def _has_options(text: str) -> bool:
    return re.search(r"^A\. ", text, re.MULTILINE) is not None


def _text(messages: list[dict[str, Any]]) -> str:
    """All text of a chat, without its pictures."""
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(found)
