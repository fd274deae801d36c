"""An endpoint that costs little, so that a benchmark measures who asks and not who answers.

    python bench/endpoint.py [--latency 0.1] [--answer A] [--port 0]

Serves OpenAI's chat and completions on 127.0.0.1: every POST gets the same answer after a fixed
latency, and bodies are skipped unread. Prints its port, serves until its standard input ends, and
then prints its figures as one line of JSON. Standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import selectors
import sys
import time
from dataclasses import asdict, dataclass

HOST = "127.0.0.1"
MODEL = "bench"
NOT_COUNTED = b"evalshim-preflight"  # what evalshim asks before a run


@dataclass
class Figures:
    """What was asked so far; times are seconds since the epoch."""

    requests: int = 0
    connections: int = 0
    largest_parallel: int = 0
    first: float | None = None
    last: float | None = None

    @property
    def span(self) -> float:
        """Seconds from the first request's arrival to the last answer."""
        return (self.last or 0.0) - (self.first or 0.0)


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1, kept alive; a request at a time, as clients do."""

    in_flight = 0

    def __init__(self, figures: Figures, replies: dict[bytes, bytes], latency: float) -> None:
        self.figures, self.replies, self.latency = figures, replies, latency
        self.used = False
        self.received = bytearray()
        self.to_skip = 0
        self.chunked = False
        self.read_on = self._head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self.read_on():
            pass

    def _head(self) -> bool:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        request, *lines = bytes(self.received[:end]).split(b"\r\n")
        del self.received[: end + 4]
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        self.method, self.path = request.split(b" ")[:2]
        self.counted = self.method == b"POST" and headers.get(b"user-agent") != NOT_COUNTED
        self.begun = time.time()
        self.chunked = headers.get(b"transfer-encoding") == b"chunked"
        self.to_skip = int(headers.get(b"content-length", 0))
        self.read_on = self._chunk if self.chunked else self._body
        return True

    def _body(self) -> bool:
        skipped = min(self.to_skip, len(self.received))
        del self.received[:skipped]
        self.to_skip -= skipped
        if self.to_skip:
            return False
        if self.chunked:
            self.read_on = self._chunk
            return True
        return self._asked()

    def _chunk(self) -> bool:
        end = self.received.find(b"\r\n")
        if end < 0:
            return False
        size = int(bytes(self.received[:end]).partition(b";")[0], 16)
        del self.received[: end + 2]
        self.chunked = size > 0
        self.to_skip = size + 2  # with the line's end, after the last chunk too
        self.read_on = self._body
        return True

    def _asked(self) -> bool:
        """A request is here: answer it, at once where it does not count."""
        self.read_on = self._head
        if not self.counted:
            self._answer()
            return True
        figures = self.figures
        figures.requests += 1
        figures.connections += not self.used
        figures.first = figures.first or self.begun
        self.used = True
        Connection.in_flight += 1
        figures.largest_parallel = max(figures.largest_parallel, Connection.in_flight)
        asyncio.get_running_loop().call_later(self.latency, self._answer_counted)
        return True

    def _answer_counted(self) -> None:
        Connection.in_flight -= 1
        self.figures.last = time.time()
        self._answer()

    def _answer(self) -> None:
        kind = b"models" if self.method == b"GET" else self.path.rsplit(b"/", 1)[-1]
        self.transport.write(self.replies[b"chat" if b"/chat/" in self.path else kind])


def replies(answer: str) -> dict[bytes, bytes]:
    """The replies to `/models`, `/chat/completions` and `/completions`, ready to be sent."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    stop = {"index": 0, "finish_reason": "stop"}
    said = {"message": {"role": "assistant", "content": answer}}
    made = {"id": "bench", "created": 0, "model": MODEL, "usage": usage}
    documents = {
        b"models": {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]},
        b"chat": {**made, "object": "chat.completion", "choices": [{**stop, **said}]},
        b"completions": {
            **made,
            "object": "text_completion",
            "choices": [{**stop, "text": answer}],
        },
    }
    return {kind: _reply(document) for kind, document in documents.items()}


def _reply(document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def serve(port: int, latency: float, answer: str) -> Figures:
    """Serve until standard input ends."""
    figures, ready = Figures(), replies(answer)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(figures, ready, latency), HOST, port, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds")
    parser.add_argument("--answer", default="A")
    asked = parser.parse_args()
    # epoll waits in whole milliseconds: half of one too long on average.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(loop):
        figures = loop.run_until_complete(serve(asked.port, asked.latency, asked.answer))
        print(json.dumps({**asdict(figures), "span": figures.span}), flush=True)


if __name__ == "__main__":
    main()
