"""What is found out before a run: against real endpoints on this machine, whole and broken."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from evalshim import preflight
from evalshim.demo.endpoint import MODEL_ID, Endpoint
from evalshim.endpoints import Limits
from evalshim.preflight import Finding, Target, look

KEY = "sk-canary/4e8d1f+wow"
QUICK = Limits(connect=10, answer=10)
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "OK."}}]}
HTML = "<!doctype html><html><title>A portal</title>" + "x" * 200
NOT_FOUND = (404, {"detail": "Not Found"})

Reply = tuple[int, Any]


class Server:
    """An endpoint that answers as a test says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str, Any], Reply]) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                document = json.loads(body) if body else None
                self.asked.append((f"{handler.command} {handler.path}", document))
                self.headers.append({k.lower(): v for k, v in handler.headers.items()})
                status, sent = answer(self.asked[-1][0], document)
                text = sent if isinstance(sent, str) else json.dumps(sent)
                handler.send_response(status)
                if 300 <= status < 400:
                    handler.send_header("Location", text)
                handler.send_header("Content-Length", str(len(text.encode())))
                handler.end_headers()
                handler.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(handler, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.url = f"{self.root}/v1"

    @property
    def calls(self) -> list[str]:
        return [call for call, _ in self.asked]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith(("_proxy", "_ca_bundle"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a `Server`.

    `serve(["m"], a, b)` lists `m`, answers the first call with `a` and all others with `b`;
    without such replies it completes. `serve(f)` answers all by a function.
    """
    with ExitStack() as stack:

        def start(ids: list[str] | Reply | Callable[[str, Any], Reply], *calls: Reply) -> Server:
            replies = iter(calls)
            last: list[Reply] = [(200, COMPLETION)]

            def answer(call: str, body: Any) -> Reply:
                if call.startswith("GET "):
                    if not isinstance(ids, list):
                        return ids
                    listed = {"data": [{"id": name} for name in ids]}
                    return (200, listed) if call == "GET /v1/models" else NOT_FOUND
                last[0] = next(replies, last[0])
                return last[0]

            server = Server(ids if callable(ids) else answer)
            stack.callback(server.http.server_close)
            stack.callback(server.http.shutdown)
            return server

        yield start


def target(api_base: str, **keys: Any) -> Target:
    given = {"who": "model m", "key": KEY, "model": "m", "key_from": "THE_KEY", **keys}
    return Target(api_base=api_base, **given)


def one(asked: Target, tmp_path: Path, limits: Limits = QUICK) -> Finding:
    """The finding at one endpoint; none of its texts may hold the key."""
    found, disk = look([asked], tmp_path, limits=limits)
    assert not disk.problem
    assert KEY not in str(asdict(found))
    assert KEY not in repr(asked)
    return found


def refused(status: int, message: str, **keys: Any) -> Reply:
    return status, {"error": {"message": message, **keys}}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_sound_endpoint_gets_one_list_and_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "of another endpoint")
    seen: list[dict[str, Any]] = []
    with Endpoint(on_request=seen.append) as endpoint:
        found, disk = look([target(endpoint.url, model="auto", pictures=True)], tmp_path)

    assert found.what == f"model m at {endpoint.url}"
    assert re.fullmatch(rf"serves {MODEL_ID}, takes pictures, \d\.\d+ s", found.detail)
    assert (found.problem, found.cure, found.notice) == ("", "", "")
    assert found.model == MODEL_ID
    assert disk.what == f"disk of {tmp_path}"
    assert disk.detail.endswith(" free")
    assert not disk.problem
    assert [request["path"] for request in seen] == ["/v1/chat/completions"]
    headers = {name.lower(): value for name, value in seen[0]["headers"].items()}
    assert headers["user-agent"] == "evalshim-preflight"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in headers
    body = seen[0]["body"]
    assert body["max_tokens"] == 16
    assert body["messages"][0]["content"][0] == {"type": "text", "text": "Say OK."}
    assert body.keys() == {"model", "messages", "max_tokens"}


def test_the_pictures_are_pictures() -> None:
    for url, side in ((preflight.DOT, 1), (preflight.SQUARE, 64)):
        head, _, data = url.partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("PNG", (side, side))


def test_a_legacy_model_gets_a_prompt(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"], (200, {"choices": [{"text": ""}]}))

    found = one(target(server.url, is_chat=False, pictures=True), tmp_path)

    assert not found.problem
    assert "pictures" not in found.detail
    expected = {"model": "m", "prompt": "Say OK.", "max_tokens": 16}
    assert server.asked[1:] == [("POST /v1/completions", expected)]


def test_a_thinking_model_gets_its_own_limit(serve: Any, tmp_path: Path) -> None:
    spent = "Could not finish the message because max_tokens or model output limit was reached."
    server = serve(["gpt-5-nano"], refused(400, spent))

    found = one(target(server.url, model="gpt-5-nano"), tmp_path)

    assert not found.problem
    assert server.asked[1][1]["max_completion_tokens"] == 16
    assert "max_tokens" not in server.asked[1][1]


@pytest.mark.parametrize("status", [400, 500])
def test_a_model_that_takes_no_pictures(status: int, serve: Any, tmp_path: Path) -> None:
    def answer(_: str, body: Any) -> Reply:
        if body and not isinstance(body["messages"][0]["content"], str):
            return refused(status, f"image input is\nnot supported, {KEY}")
        return (200, COMPLETION) if body else (200, {"data": [{"id": "m"}]})

    found = one(target(serve(answer).url, pictures=True), tmp_path)

    assert found.problem.startswith("takes no pictures")
    assert "image input is not supported, ***" in found.problem
    assert "leave out the datasets with pictures" in found.cure


def test_a_least_size_of_pictures_is_no_refusal(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"], refused(400, "width must be larger than 28"), (200, COMPLETION))

    found = one(target(server.url, pictures=True), tmp_path)

    assert not found.problem
    assert "takes pictures" in found.detail
    urls = [body["messages"][0]["content"][1]["image_url"]["url"] for _, body in server.asked[1:]]
    assert urls == [preflight.DOT, preflight.SQUARE]


def test_an_unknown_model_with_near_ids(serve: Any, tmp_path: Path) -> None:
    server = serve(["qwen2-vl-7b", "llama"], refused(404, "no such model"))

    found = one(target(server.url, model="qwen2-vl-72b", pictures=True), tmp_path)

    assert found.problem.startswith("does not serve qwen2-vl-72b; did you mean qwen2-vl-7b? ")
    assert "it serves qwen2-vl-7b, llama (404: no such model)" in found.problem


def test_an_id_that_is_not_listed_but_answers(serve: Any, tmp_path: Path) -> None:
    found = one(target(serve(["models/m"]).url), tmp_path)

    assert not found.problem
    assert found.model == "m"


@pytest.mark.parametrize("listed", [NOT_FOUND, (403, {"error": "no"}), (200, HTML), (200, "{")])
def test_a_list_of_models_is_not_needed(listed: Reply, serve: Any, tmp_path: Path) -> None:
    server = serve(listed)

    assert not one(target(server.url), tmp_path).problem
    assert server.calls == ["GET /v1/models", "POST /v1/chat/completions"]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([], "`model: auto`, but it serves 0 models"),
        (["a", "b", "c"], "`model: auto`, but it serves 3 models: a, b, c"),
        (NOT_FOUND, "`model: auto`, but no list of models"),
    ],
)
def test_auto_needs_exactly_one_model(ids: Any, problem: str, serve: Any, tmp_path: Path) -> None:
    server = serve(ids)
    found = one(target(server.url, model="auto"), tmp_path)

    assert found.problem.startswith(problem)
    assert "`model: <id>`" in found.cure
    assert not any(call.startswith("POST") for call in server.calls)


@pytest.mark.parametrize(
    ("key", "said", "cure"),
    [
        (KEY, "it refused the key in $THE_KEY (401: bad key ***)", "give a key"),
        ("EMPTY", "it wants a key, and none was given (401: bad key EMPTY)", "`key_env: "),
    ],
)
def test_a_key_that_is_refused(key: str, said: str, cure: str, serve: Any, tmp_path: Path) -> None:
    server = serve((401, {}), refused(401, f"bad key {key}"))

    found = one(target(server.url, key=key), tmp_path)

    assert found.problem == said
    assert found.cure.startswith(cure)


def test_no_part_of_the_key_stays_where_a_message_is_cut(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"], refused(400, "x" * 290 + KEY + "y" * 50))

    found = one(target(server.url), tmp_path)

    assert "xxx***" in found.problem
    assert KEY[:5] not in found.problem
    assert len(found.problem) < 360


def test_a_key_that_no_header_can_hold(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"])

    found = look([target(server.url, key=f"{KEY}\n")], tmp_path, limits=QUICK)[0]

    assert "the key in $THE_KEY holds a character" in found.problem
    assert KEY not in str(asdict(found))
    assert server.asked == []


def test_no_other_host_gets_the_key(serve: Any, tmp_path: Path) -> None:
    other = serve(["m"], refused(401, "who are you?"))
    server = serve((404, ""), (307, f"{other.url}/chat/completions"))

    found = one(target(server.url), tmp_path)

    assert f"401, redirected to {other.url}/chat/completions: who are you?" in found.problem
    assert server.headers[1]["authorization"] == f"Bearer {KEY}"
    assert other.calls == ["POST /v1/chat/completions"]
    assert "authorization" not in other.headers[0]


@pytest.mark.parametrize("openai", [True, False])
def test_nothing_listens(openai: bool, tmp_path: Path) -> None:
    found = one(target(f"http://127.0.0.1:{free_port()}/v1", openai=openai), tmp_path)

    assert found.problem == "connection refused: nothing listens there"
    assert found.cure.startswith("start the endpoint")


def test_a_proxy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:{quote(KEY, safe='')}@127.0.0.1:{free_port()}")

    found = one(target("http://10.9.9.9:8000/v1"), tmp_path)

    assert found.problem.startswith("by the proxy of $http_proxy: connection refused")
    assert "put 10.9.9.9 into $NO_PROXY" in found.cure


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://nowhere.invalid/v1", "the name nowhere.invalid does not resolve"),
        ("https://{host}/v1", "no TLS at this address"),
        ("ftp://{host}/v1", "UnsupportedProtocol"),
    ],
)
def test_an_address_that_is_wrong(address: str, problem: str, serve: Any, tmp_path: Path) -> None:
    host = serve(["m"]).root.removeprefix("http://")

    found = one(target(address.format(host=host)), tmp_path)

    assert problem in found.problem
    assert found.cure


def test_a_hanging_endpoint_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begun = time.monotonic()
        limits = Limits(connect=2, answer=0.4)
        found = one(target(f"http://127.0.0.1:{mute.getsockname()[1]}/v1"), tmp_path, limits)

    assert found.problem == "no answer within 0.4 s"
    assert time.monotonic() - begun < 15


def test_a_trickling_endpoint_is_left_behind(tmp_path: Path) -> None:
    stop = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as drip:
        thread = threading.Thread(target=trickle, args=(drip,), daemon=True)
        thread.start()
        begun = time.monotonic()
        url = f"http://127.0.0.1:{drip.getsockname()[1]}/v1"
        found = one(target(url), tmp_path, Limits(connect=0.2, answer=0.4))
        took = time.monotonic() - begun
        stop.set()
        thread.join(2)

    assert found.problem == "no answer within 1.4 s"
    assert took < 15


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([(200, HTML)], "what came has no JSON (200: <!doctype html><html><title>A portal"),
        ([(200, {"choices": []})], 'what came has no `choices` (200: {"choices": []})'),
        ([(200, {"error": {"message": "no credit"}})], "no `choices` (200: no credit)"),
        ([(500, {"message": "out of memory"})], "it failed (500: out of memory)"),
        ([(422, {"detail": "bad `n`"})], "refused a tiny request (422: bad `n`)"),
        ([(404, "")], "has no /chat/completions (404: an empty answer)"),
    ],
)
def test_answers_that_are_none(
    replies: list[Reply], problem: str, serve: Any, tmp_path: Path
) -> None:
    found = one(target(serve(["m"], *replies).url), tmp_path)

    assert problem in found.problem
    assert "x" * 80 not in found.problem
    assert found.cure


def test_a_failure_that_passes_is_none(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"], (503, "loading"), (200, COMPLETION))

    assert not one(target(server.url), tmp_path).problem
    assert len(server.asked) == 3


@pytest.mark.parametrize("at_root", [NOT_FOUND, (200, HTML)])
def test_an_address_without_v1(at_root: Reply, serve: Any, tmp_path: Path) -> None:
    def answer(call: str, _: Any) -> Reply:
        return (200, {"data": [{"id": "m"}]}) if call == "GET /v1/models" else at_root

    server = serve(answer)
    found = one(target(f"{server.root}/"), tmp_path)

    assert f"there is one at {server.root}/v1" in found.problem
    assert found.cure == f"`api_base: {server.root}/v1`"


def test_an_address_without_any_api(serve: Any, tmp_path: Path) -> None:
    server = serve(NOT_FOUND, NOT_FOUND)

    found = one(target(server.root), tmp_path)

    assert found.problem == "has no /chat/completions (404: Not Found)"
    assert found.cure == "mend `api_base`: mostly it ends in /v1"
    assert server.calls[-1] == "GET /v1/models"


def test_a_busy_endpoint_is_no_problem(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"], refused(429, "slow down"))

    found = one(target(server.url, pictures=True), tmp_path)

    assert not found.problem
    assert "it was busy (429: slow down)" in found.notice
    assert "pictures" in found.notice
    assert len(server.asked) == 2


def test_another_protocol_is_only_connected_to(serve: Any, tmp_path: Path) -> None:
    server = serve(["m"])

    found = one(target(server.url, openai=False), tmp_path)

    assert found.detail == "something listens there"
    assert server.asked == []


def test_all_problems_at_once_and_equal_targets_asked_once(serve: Any, tmp_path: Path) -> None:
    good, bad = serve(["m"]), serve(["m"], refused(401, "no"))
    well = target(good.url)
    targets = [
        target(bad.url),
        well,
        replace(well, who="judge m"),
        target(f"http://127.0.0.1:{free_port()}/v1"),
        well,
    ]

    *found, disk = look(targets, tmp_path, needed_bytes=10**18, limits=QUICK)

    assert [f.what.partition(" at ")[0] for f in found] == [t.who for t in targets]
    assert [bool(f.problem) for f in found] == [True, False, False, True, False]
    assert good.calls == ["GET /v1/models", "POST /v1/chat/completions"]
    assert disk.problem.endswith(" free, 1000000000.1 GB needed")
    assert "--work-dir" in disk.cure


def test_endpoints_are_asked_in_parallel(tmp_path: Path) -> None:
    """None answers before all are asked."""
    together = threading.Barrier(6)

    def meet(_: dict[str, Any]) -> None:
        together.wait(30)

    with ExitStack() as stack:
        all_six = [stack.enter_context(Endpoint(models=("m",), on_request=meet)) for _ in range(6)]
        found = look([target(endpoint.url) for endpoint in all_six], tmp_path)

    assert not any(f.problem for f in found)


def test_a_work_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    (disk,) = look([], tmp_path / "file" / "outputs")

    assert disk.problem == f"{tmp_path / 'file'} is not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_work_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir(mode=0o500)

    (disk,) = look([], tmp_path / "fixed" / "outputs")

    assert disk.problem == f"{tmp_path / 'fixed'} cannot be written to"
