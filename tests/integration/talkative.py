"""An endpoint that tells what it was sent: the key, in every spelling, in answers and errors.

`/<kind>/v1` is a model or a judge; over TLS where it is given a context.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, quote_plus

from .faulty import verdict

KINDS = ("good", "echo", "401", "500", "judge", "grader", "redirect")


def spellings(secret: str) -> list[str]:
    """A text in the encodings in which one may come to light."""
    data = secret.encode()
    encoded = [base64.b64encode(b"#" * n + data).decode() for n in range(3)]
    # Without what holds bits of a neighbour's.
    cores = [text[(0, 2, 3)[n] : (n + len(data)) * 8 // 6] for n, text in enumerate(encoded)]
    once = json.dumps(secret)[1:-1]
    found = [
        secret, once, json.dumps(once)[1:-1], repr(secret)[1:-1], quote(secret),
        quote(secret, safe=""), quote_plus(secret), "".join(f"\\u{ord(c):04x}" for c in secret),
        *cores, *(c.replace("+", "-").replace("/", "_") for c in cores),
    ]  # fmt: skip
    return list(dict.fromkeys(found))


class Talkative:
    """The endpoint on 127.0.0.1, served from background threads while the context lasts.

    Args:
        tls: With which it speaks https.
        leads_to: API base to which the model `redirect` sends who asks it.

    Attributes:
        asked: Kind, headers and body of every request, in order of arrival.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, leads_to: str = "") -> None:
        self.tls = tls
        self.leads_to = leads_to
        self.asked: list[tuple[str, Mapping[str, str], str]] = []

    def url(self, kind: str) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/{kind}/v1"

    def headers(self, kind: str) -> list[Mapping[str, str]]:
        return [headers for of, headers, _ in self.asked if of == kind]

    def __enter__(self) -> Talkative:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.talkative = self
        if self.tls:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    talkative: Talkative

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses the certificate hangs up; that is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._note("")
        self._send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        kind = self.path.split("/")[1]
        self._note(body)
        if kind == "redirect":
            self.send_response(307)
            self.send_header("Location", f"{self.server.talkative.leads_to}/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        told = self._told()
        if kind.isdecimal():
            error = {"message": f"no entry with {told}", "type": "error", "code": kind}
            self._send(int(kind), {"error": error})
            return
        text = "\n".join(_texts(json.loads(body)["messages"]))
        judges = kind in ("judge", "grader")
        answer = verdict(text) if judges else r"It is surely the first of them: \boxed{1}"
        tells = kind in ("echo", "judge")
        self._send(200, _completion(f"{answer} {told}" if tells else answer))

    def _told(self) -> str:
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        return " ".join([*spellings(key), basic, json.dumps(dict(self.headers.items()))])

    def _note(self, body: str) -> None:
        kind = self.path.split("/")[1]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.talkative.asked.append((kind, headers, body))

    def _send(self, status: int, document: Any) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status, f"as asked with {self.headers.get('Authorization', '')}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _completion(answer: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _texts(messages: list[dict[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [part["text"] for part in parts if part["type"] == "text"]
    return found
