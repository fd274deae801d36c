"""The demo: its data, its answers and its endpoint, all asked over real HTTP."""

from __future__ import annotations

import base64
import contextlib
import csv
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evalshim.demo import make_data
from evalshim.demo.endpoint import MODEL_ID, Endpoint

SHAPES = Path("shapes.tsv")
GSM8K = Path("gsm8k", "test.jsonl")
ARC = Path("ARC-c", "ARC-Challenge-Dev.jsonl")

# What the rules get right on the committed data, of how many; the rest runs
# into the limits that `evalshim.demo.answers` lists.
RIGHT = {SHAPES: (39, 48), GSM8K: (24, 36), ARC: (27, 36)}
BANDS = {SHAPES: (0.70, 0.92), GSM8K: (0.55, 0.90), ARC: (0.55, 0.92)}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Endpoint() as endpoint:
        yield endpoint.url


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/chat/completions", body)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def complete(url: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    status, reply = post(url, json.dumps({"model": MODEL_ID, "messages": messages}).encode())
    assert status == 200, reply
    return reply


def ask(url: str, content: Any) -> str:
    content = complete(url, [{"role": "user", "content": content}])["choices"][0]["message"]
    return str(content["content"])


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / SHAPES).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def picture(row: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(row["image"])))


def picture_question(data: str, row: dict[str, str]) -> list[dict[str, Any]]:
    """The message VLMEvalKit makes of a row of a multiple-choice dataset."""
    options = "".join(f"{letter}. {row[letter]}\n" for letter in "ABCD")
    text = (
        f"Question: {row['question']}\nOptions:\n{options}"
        "Please select the correct answer from the options above. \n"
    )
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    return [image, {"type": "text", "text": text}]


def ask_shape(url: str, row: dict[str, str]) -> bool:
    buffer = io.BytesIO()
    picture(row).save(buffer, "JPEG")  # as VLMEvalKit sends it
    reply = ask(url, picture_question(base64.b64encode(buffer.getvalue()).decode(), row))
    letter = re.match(r"([A-D])\b", reply)
    return letter is not None and letter[1] == row["answer"]


def ask_story(url: str, row: dict[str, Any]) -> bool:
    ending = "\nLet's think step by step\nAnswer:"
    messages = [
        {"role": "user", "content": f"Question: Ben has 2 hats. How many hats has he?{ending}"},
        {"role": "assistant", "content": "The answer is 2\n"},
        {"role": "user", "content": f"Question: {row['question']}{ending}"},
    ]
    reply = complete(url, messages)["choices"][0]["message"]["content"]
    numbers = re.findall(r"-?\d+\.\d+|-?\d+", reply)  # OpenCompass takes the last one
    return bool(numbers) and float(numbers[-1]) == int(row["answer"].split("#### ")[1])


def ask_science(url: str, row: dict[str, Any]) -> bool:
    question = row["question"]
    options = "".join(f"{choice['label']}. {choice['text']}\n" for choice in question["choices"])
    reply = ask(url, f"Question: {question['stem']}\n{options}Answer:")
    letter = re.search(r"[A-D]", reply)  # OpenCompass' last resort, so a refusal must have none
    return letter is not None and letter[0] == row["answerKey"]


def right(url: str, directory: Path) -> dict[Path, tuple[int, int]]:
    asked = {
        SHAPES: [ask_shape(url, row) for row in table(directory)],
        GSM8K: [ask_story(url, row) for row in lines(directory / GSM8K)],
        ARC: [ask_science(url, row) for row in lines(directory / ARC)],
    }
    return {name: (sum(results), len(results)) for name, results in asked.items()}


# The data


def test_the_data_is_made_again_the_same(tmp_path: Path) -> None:
    make_data.make(tmp_path)
    for name in (GSM8K, GSM8K.with_name("train.jsonl"), ARC):
        assert (tmp_path / name).read_bytes() == (make_data.DATA / name).read_bytes()
    # A PNG's bytes depend on the zlib at hand, its pixels do not.
    made, kept = table(tmp_path), table(make_data.DATA)
    assert [picture(row).tobytes() for row in made] == [picture(row).tobytes() for row in kept]
    assert [{**row, "image": ""} for row in made] == [{**row, "image": ""} for row in kept]


def test_shapes_has_balanced_rows_of_four_categories() -> None:
    rows = table(make_data.DATA)
    header = ["index", "image", "question", "A", "B", "C", "D", "answer", "category"]
    assert list(rows[0]) == header
    assert [row["index"] for row in rows] == [str(number) for number in range(48)]
    expected = dict.fromkeys(("colour", "shape", "count", "position"), 12)
    assert Counter(row["category"] for row in rows) == expected
    assert Counter(row["answer"] for row in rows) == dict.fromkeys("ABCD", 12)
    for row in rows:
        assert len({row[letter] for letter in "ABCD"}) == 4
        assert not {row[letter] for letter in "ABCD"} & {"", "NA", "N/A", "None", "nan", "null"}
        assert min(picture(row).size) >= 100
    assert b"\r" not in (make_data.DATA / SHAPES).read_bytes()


def test_gsm8k_answers_end_in_a_whole_number() -> None:
    test, train = lines(make_data.DATA / GSM8K), lines(make_data.DATA / "gsm8k" / "train.jsonl")
    assert (len(test), len(train)) == (36, 8)
    for row in test + train:
        assert list(row) == ["question", "answer"]
        assert re.search(r"\n#### [1-9]\d*$", row["answer"])
    assert len({row["question"] for row in test + train}) == 44


def test_arc_has_four_choices_and_its_own_ids() -> None:
    rows = lines(make_data.DATA / ARC)
    assert [row["id"] for row in rows] == [f"demo_{number}" for number in range(1, 37)]
    for row in rows:
        assert [choice["label"] for choice in row["question"]["choices"]] == list("ABCD")
        assert len({choice["text"] for choice in row["question"]["choices"]}) == 4
    assert Counter(row["answerKey"] for row in rows) == dict.fromkeys("ABCD", 9)


def test_the_data_is_small() -> None:
    files = [path for path in make_data.DATA.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == sorted(
        ["shapes.tsv", "test.jsonl", "train.jsonl", "ARC-Challenge-Dev.jsonl"]
    )
    assert sum(path.stat().st_size for path in files) < 200_000


# The answers


def test_scores_are_the_known_ones(url: str) -> None:
    assert right(url, make_data.DATA) == RIGHT
    scores = {name: hits / rows for name, (hits, rows) in RIGHT.items()}
    for name, (low, high) in BANDS.items():
        assert low <= scores[name] <= high
    ordered = sorted(scores.values())
    assert min(b - a for a, b in pairwise(ordered)) >= 0.04


def test_the_answers_are_computed_not_remembered(url: str, tmp_path: Path) -> None:
    make_data.make(tmp_path, seed=7)  # other pictures, numbers, names and options
    for name, (hits, rows) in right(url, tmp_path).items():
        low, high = BANDS[name]
        assert low <= hits / rows <= high


def test_a_picture_that_is_garbage_is_said_to_be(url: str) -> None:
    row = table(make_data.DATA)[0]
    for garbage in ("@@@@", base64.b64encode(b"no picture at all").decode()):
        reply = ask(url, picture_question(garbage, row))
        assert "could not be decoded" in reply


def test_a_truncated_picture_is_said_to_be_one(url: str) -> None:
    row = table(make_data.DATA)[0]
    cut = base64.b64encode(base64.b64decode(row["image"])[:200]).decode()
    assert "could not be decoded" in ask(url, picture_question(cut, row))


def test_addresses_of_pictures_are_not_opened(url: str) -> None:
    row = table(make_data.DATA)[0]
    content = picture_question("", row)
    content[0]["image_url"]["url"] = f"{url}/picture.png"
    assert "cannot see the picture" in ask(url, content)


@pytest.mark.parametrize("content", ["Who wrote Faust?", "", None, [], [{"type": "text"}], [3]])
def test_what_no_rule_covers_gets_an_honest_reply(url: str, content: Any) -> None:
    reply = ask(url, content)
    assert "rule-based demo" in reply
    # Nothing in it that upstream would take for an option or a number.
    assert not re.search(r"[A-D0-9]", reply)


# The endpoint


def test_models_lists_the_one_served(url: str) -> None:
    with urllib.request.urlopen(f"{url}/models", timeout=5) as response:
        assert [model["id"] for model in json.load(response)["data"]] == [MODEL_ID]


def test_a_completion_has_openai_form(url: str) -> None:
    content = "Question: Ann has 3 hats and buys 4 more. How many hats does Ann have?\nAnswer:"
    reply = complete(url, [{"role": "user", "content": content}])
    assert reply["object"] == "chat.completion"
    assert reply["model"] == MODEL_ID
    assert reply["id"].startswith("chatcmpl-")
    assert isinstance(reply["created"], int)
    (choice,) = reply["choices"]
    text = "3 + 4 = 7. The answer is 7"
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == "stop"
    usage = {"prompt_tokens": 16, "completion_tokens": 9, "total_tokens": 25}
    assert reply["usage"] == usage


def test_an_unknown_model_is_404_and_the_served_one_is_named(url: str) -> None:
    status, reply = post(url, b'{"model": "gpt-x", "messages": [{"role": "user"}]}')
    assert status == 404
    assert reply["error"]["code"] == "model_not_found"
    assert MODEL_ID in reply["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b"\xff\xfe",
        b"",
        b"[]",
        b'{"messages": [{}]}',
        f'{{"model": "{MODEL_ID}"}}'.encode(),
        f'{{"model": "{MODEL_ID}", "messages": ["hi"]}}'.encode(),
        f'{{"model": "{MODEL_ID}", "messages": [{{}}], "stream": true}}'.encode(),
    ],
)
def test_a_malformed_request_is_400(url: str, body: bytes) -> None:
    status, reply = post(url, body)
    assert status == 400
    assert set(reply["error"]) == {"message", "type", "code"}
    assert reply["error"]["type"] == "invalid_request_error"


def test_another_path_is_404(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/embeddings", timeout=5)
    assert caught.value.code == 404
    assert "/v1/chat/completions" in json.load(caught.value)["error"]["message"]


def test_a_failing_answer_is_500_with_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(messages: list[dict[str, Any]]) -> str:
        raise OSError("out of order")

    body = json.dumps({"model": MODEL_ID, "messages": [{"role": "user"}]}).encode()
    with Endpoint(answer=broken) as endpoint:
        status, reply = post(endpoint.url, body)
    assert status == 500
    assert "out of order" in reply["error"]["message"]
    assert capfd.readouterr().err == ""


def test_on_request_sees_every_post() -> None:
    seen: list[dict[str, Any]] = []
    with Endpoint(on_request=seen.append, answer=lambda messages: "hello") as endpoint:
        assert ask(endpoint.url, "hi") == "hello"
        post(endpoint.url, b"{not json")
    assert [request["path"] for request in seen] == ["/v1/chat/completions"] * 2
    assert seen[0]["body"]["messages"][0]["content"] == "hi"
    assert seen[0]["headers"]["Host"].startswith("127.0.0.1:")
    assert seen[1]["body"] is None


def test_requests_overlap() -> None:
    with Endpoint(latency=0.5) as endpoint, ThreadPoolExecutor(32) as pool:
        started = time.monotonic()
        replies = list(pool.map(lambda _: ask(endpoint.url, "hi"), range(32)))
        took = time.monotonic() - started
    assert len(replies) == 32
    assert 0.5 <= took < 4  # one after the other it is 16 seconds


def test_a_connection_is_kept_alive(url: str) -> None:
    host = url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models")
        connection.getresponse().read()
        before = connection.sock
        connection.request("POST", "/v1/chat/completions", b"{}")
        assert connection.getresponse().status == 400
        assert connection.sock is before


def test_stop_frees_the_port_and_leaves_no_thread(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    endpoint = Endpoint(latency=60)
    endpoint.start()
    port = int(endpoint.url.split(":")[2].removesuffix("/v1"))
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    idle.request("GET", "/v1/models")
    idle.getresponse().read()
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    body = json.dumps({"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}]})
    waiting.request("POST", "/v1/chat/completions", body)
    time.sleep(0.1)

    started = time.monotonic()
    endpoint.stop()
    assert time.monotonic() - started < 1
    assert set(threading.enumerate()) <= before
    idle.close()
    waiting.close()
    with Endpoint(port) as again:
        assert f":{port}/" in again.url
    assert capfd.readouterr().err == ""


def test_a_client_that_went_away_is_not_reported(capfd: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with Endpoint(latency=0.2) as endpoint:
        port = int(endpoint.url.split(":")[2].removesuffix("/v1"))
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port)) as client:
                # A reset instead of a polite end.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall((head + body).encode())
        time.sleep(0.5)
        assert ask(endpoint.url, "hi")
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_an_oserror(url: str) -> None:
    with pytest.raises(OSError):
        Endpoint(int(url.split(":")[2].removesuffix("/v1"))).start()


def test_importing_the_endpoint_loads_only_the_standard_library() -> None:
    code = (
        "import sys, evalshim.demo.endpoint\n"
        "print([name for name in ('PIL', 'numpy', 'pandas', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_what_it_is_and_ends_on_a_signal(number: signal.Signals) -> None:
    code = "from evalshim.demo.endpoint import serve; serve(0)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(10) == 0
    assert re.match(rf"http://127\.0\.0\.1:\d+/v1 serves {MODEL_ID}: a rule-based program", line)
    assert rest == ""
