"""Azure's addresses: the key in a header of its own, and `api-version` behind every path.

The host is Azure's by name; a proxy on this machine, which every client asks for an address with
`http:`, is what answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import as_base64, picture

from .conftest import rows, shim, without_heeded
from .own_data import tsv

HOST = "evalshim-test.openai.azure.com"
BASE = f"http://{HOST}/openai/deployments"
QUERY = "?api-version=2024-06-01"
KEY, JUDGE_KEY = "sk-azure-of-the-model", "sk-azure-of-the-judge"


class Proxy(BaseHTTPRequestHandler):
    """Says the same to every chat, and what it was asked to `server.asked`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": n, "object": "model"} for n in "mj"]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append({"url": self.path, "headers": headers, "body": body})
        # A model's answer that no rule understands, and the judge's.
        text = "A" if body["model"] == "j" else "The first of them, surely"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._answer({"id": "x", "object": "chat.completion", "created": 0,
                      "model": body["model"], "choices": [choice]})  # fmt: skip

    def _answer(self, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def proxy() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_models_judges_and_the_preflight(
    tmp_path: Path, environments: dict[str, Path], proxy: Any
) -> None:
    options = {"A": "red", "B": "green", "C": "blue", "D": "white", "answer": "A"}
    table = [[0, as_base64(picture()), "What is it?", *options.values()]]
    mcq = tsv(tmp_path / "mcq.tsv", ["index", "image", "question", *options], table)
    sums = tmp_path / "cache" / "data" / "aime.jsonl"
    sums.parent.mkdir(parents=True)
    sums.write_text(json.dumps({"origin_prompt": "What is 1 + 1?", "gold_answer": "2"}))
    config = {
        "models": [{"name": "m", "api_base": f"{BASE}/m{QUERY}", "key_env": "MODEL_KEY"}],
        "datasets": [
            {"name": "mcq", "path": str(mcq), "format": "mcq"},
            {"name": "oc", "dataset": "opencompass:aime2024_llmjudge_gen_5e9f4f"},
        ],
        "judge": {"model": "j", "api_base": f"{BASE}/j{QUERY}", "key_env": "JUDGE_KEY"},
    }
    (tmp_path / "eval.json").write_text(json.dumps(config))
    address = f"http://127.0.0.1:{proxy.server_address[1]}"
    with without_heeded(), pytest.MonkeyPatch.context() as patch:
        for variable in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
            patch.delenv(variable, raising=False)
        done = shim(
            "run", "eval.json", "--json", cwd=tmp_path, http_proxy=address, MODEL_KEY=KEY,
            JUDGE_KEY=JUDGE_KEY, COMPASS_DATA_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = {r["dataset"]: r for r in rows(done) if r["is_primary"]}
    assert {(r["score"], r["scorer"]) for r in found.values()} == {(1.0, "j")}
    for name, key in (("m", KEY), ("j", JUDGE_KEY)):
        asked = [a for a in proxy.asked if a["body"]["model"] == name]
        who = {a["headers"]["user-agent"].partition("/")[0] for a in asked}
        # The preflight, and the clients of both toolkits.
        assert len(who) == 3, who
        for call in asked:
            url = urlsplit(call["url"])
            assert (url.hostname, url.path) == (
                HOST, f"/openai/deployments/{name}/chat/completions",
            )  # fmt: skip
            assert parse_qs(url.query) == {"api-version": ["2024-06-01"]}
            assert call["headers"]["api-key"] == key
    kept = [p for p in (tmp_path / "outputs").rglob("*") if p.is_file()]
    assert not [p for p in kept if KEY.encode() in p.read_bytes()]
