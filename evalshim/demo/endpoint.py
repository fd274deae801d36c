"""The demo endpoint: OpenAI's chat and legacy completions over HTTP, answered by `answers`.

It must stay honest and light: standard library only at import, nothing written
to stderr while it serves, no authentication, no streaming, no state between
two requests.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from evalshim.demo import answers
from evalshim.errors import ConfigError

MODEL_ID = "evalshim-demo"

_HOST = "127.0.0.1"
_CHAT = "/v1/chat/completions"
_LEGACY = "/v1/completions"


class _BadRequest(Exception):
    """A request that gets an error in OpenAI's form instead of a completion."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Endpoint:
    """The demo endpoint on 127.0.0.1, served from a background thread.

    Args:
        port: the port to listen on; 0 takes a free one.
        models: the ids it serves, all by the same program; None serves any id.
        latency: seconds slept before each request is answered.
        on_request: called for every POST, before it is answered, with `path`,
            `headers` (a plain dict) and `body` (the parsed JSON, or None);
            it runs in the request's thread, so several calls may overlap.
        answer: what turns the messages of a chat into the reply; a legacy
            prompt comes as the only message, the user's.

    Attributes:
        largest_parallel: the largest number of POSTs that were in flight, read but
            not answered yet, at once since the last start.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        models: tuple[str, ...] | None = (MODEL_ID,),
        latency: float = 0.0,
        on_request: Callable[[dict[str, Any]], None] | None = None,
        answer: Callable[[list[dict[str, Any]]], str] = answers.answer,
    ) -> None:
        self.models = models
        self.latency = latency
        self.on_request = on_request
        self.answer = answer
        self.stopping = threading.Event()
        self.largest_parallel = 0
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The API base, such as `http://127.0.0.1:8000/v1`; the port is known once started."""
        return f"http://{_HOST}:{self._port}/v1"

    def start(self) -> None:
        """Listen and serve.

        Raises:
            ConfigError: The port is in use, or nobody's to take.
        """
        if self._server is not None:
            return
        self.stopping.clear()
        self.largest_parallel = 0
        try:
            self._server = _Server(self, self._port)
        except (OSError, OverflowError) as error:
            what = f"cannot listen on port {self._port}"
            raise ConfigError(what, str(error), "give another port, or 0 for a free one") from error
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            # A short poll, since stop() waits for one of them.
            target=self._server.serve_forever,
            args=(0.05,),
            name="demo-endpoint",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, drop the open connections and free the port, within a second."""
        if self._server is None or self._thread is None:
            return
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections(timeout=0.8)
        self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Endpoint:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def serve(port: int) -> None:
    """Serve on `port` in the foreground until Ctrl-C or SIGTERM."""
    done = threading.Event()

    def on_sigterm(signum: int, frame: FrameType | None) -> None:
        done.set()

    with Endpoint(port) as endpoint:
        before = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                honest = f"{endpoint.url} serves {MODEL_ID}: a rule-based program, not a model"
                sys.stderr.write(f"{honest}\n")
                sys.stderr.flush()
                done.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


class _Server(ThreadingHTTPServer):
    """An HTTP server that knows its connections, so that it can end them."""

    daemon_threads = True
    # Evaluations open hundreds of connections at once; the default backlog is 5.
    request_queue_size = 1024
    # A port in use must be an error, not a second listener.
    allow_reuse_port = False

    def __init__(self, endpoint: Endpoint, port: int) -> None:
        self.endpoint = endpoint
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._in_flight = 0
        super().__init__((_HOST, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host name up, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request in for as long as the context lasts."""
        with self._lock:
            self._in_flight += 1
            self.endpoint.largest_parallel = max(self.endpoint.largest_parallel, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def drop_connections(self, timeout: float) -> None:
        """Close what clients keep alive and wait, `timeout` seconds in all, for its threads."""
        with self._lock:
            connections = list(self._open.items())
        for connection, _ in connections:
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + timeout
        for _, thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is its own business.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = MODEL_ID
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    server: _Server

    def do_GET(self) -> None:
        if self._path() == "/v1/models":
            served = self.server.endpoint.models
            model = {"object": "model", "created": 0, "owned_by": "evalshim"}
            data = [{"id": name, **model} for name in ((MODEL_ID,) if served is None else served)]
            self._reply(200, {"object": "list", "data": data})
        else:
            self._reply_error(self._no_such_path())

    def do_POST(self) -> None:
        try:
            raw = self._read()
            # Ends before the reply leaves: the client's next request must not overlap this one.
            with self.server.in_flight():
                completion = self._complete(raw)
            self._reply(200, completion)
        except _BadRequest as error:
            self._reply_error(error)

    def _complete(self, raw: bytes) -> dict[str, Any]:
        endpoint = self.server.endpoint
        body = _parse(raw)
        try:
            if endpoint.on_request is not None:
                headers = dict(self.headers.items())
                endpoint.on_request({"path": self.path, "headers": headers, "body": body})
            path = self._path()
            if path not in (_CHAT, _LEGACY):
                raise self._no_such_path()
            model = _model(body, endpoint.models)
            chats = [_messages(body)] if path == _CHAT else _prompts(body)
            if endpoint.latency:
                endpoint.stopping.wait(endpoint.latency)
            replies = [endpoint.answer(messages) for messages in chats]
            return _completion(path, model, chats, replies)
        except _BadRequest:
            raise
        except Exception as error:
            message = f"the demo failed to answer: {type(error).__name__}: {error}"
            raise _BadRequest(500, message, "internal_error") from error

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: stderr belongs to the command that started the endpoint."""

    def _path(self) -> str:
        return self.path.partition("?")[0].rstrip("/")

    def _no_such_path(self) -> _BadRequest:
        known = f"GET /v1/models, POST {_CHAT} and POST {_LEGACY}"
        message = f"no such path: {self.command} {self.path}; this endpoint has {known}"
        return _BadRequest(404, message, "not_found")

    def _read(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True  # where the body ends is unknown
            raise _BadRequest(411, "the request needs a Content-Length", "length_required")
        return self.rfile.read(int(length))

    def _reply_error(self, error: _BadRequest) -> None:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        detail = {"message": str(error), "type": kind, "code": error.code}
        self._reply(error.status, {"error": detail})

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _parse(raw: bytes) -> Any:
    """The JSON of a body, or None where it is not JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _model(body: Any, served: tuple[str, ...] | None) -> str:
    """The model a request body asks for, once it is served and the reply need not stream."""
    if not isinstance(body, dict):
        raise _BadRequest(400, "the body is not a JSON object", "invalid_json")
    model = body.get("model")
    if not isinstance(model, str):
        raise _BadRequest(400, "`model` is missing or not a string", "invalid_model")
    if served is not None and model not in served:
        names = ", ".join(f"`{name}`" for name in served)
        message = f"the model `{model}` does not exist; this endpoint serves {names}"
        raise _BadRequest(404, message, "model_not_found")
    if body.get("stream"):
        raise _BadRequest(400, "this endpoint does not stream", "unsupported_value")
    return model


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a chat request, once they are known to be ones that can be answered."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _BadRequest(400, "`messages` is missing, empty or not a list", "invalid_messages")
    if not all(isinstance(message, dict) for message in messages):
        raise _BadRequest(400, "a message is not an object", "invalid_messages")
    return messages


def _prompts(body: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The prompts of a legacy request, each as a chat of one message."""
    prompts = body.get("prompt")
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, list) or not prompts:
        raise _BadRequest(400, "`prompt` is missing, empty or not a string", "invalid_prompt")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise _BadRequest(400, "a prompt is not a string", "invalid_prompt")
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def _completion(
    path: str, model: str, chats: list[list[dict[str, Any]]], replies: list[str]
) -> dict[str, Any]:
    """The completion in the form of `path`; a token is a word between white space."""
    asked = sum(len(answers.text_of(message).split()) for chat in chats for message in chat)
    said = sum(len(reply.split()) for reply in replies)
    prefix, kind = "cmpl", "text_completion"
    contents: list[dict[str, Any]] = [{"text": reply} for reply in replies]
    if path == _CHAT:
        prefix, kind = "chatcmpl", "chat.completion"
        contents = [{"message": {"role": "assistant", "content": reply}} for reply in replies]
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": index, **content, "finish_reason": "stop"}
            for index, content in enumerate(contents)
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
        },
    }
