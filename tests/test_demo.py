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
from evalshim.errors import ConfigError

SHAPES = Path("shapes.tsv")
GSM8K = Path("gsm8k", "test.jsonl")
TRAIN = Path("gsm8k", "train.jsonl")
ARC = Path("ARC-c", "ARC-Challenge-Dev.jsonl")

# What the rules get right, of how many; the rest runs into the limits that
# `evalshim.demo.answers` lists.
RIGHT = {SHAPES: (39, 48), GSM8K: (24, 36), ARC: (24, 32)}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Endpoint() as endpoint:
        yield endpoint.url


def post(url: str, body: bytes, path: str = "chat/completions") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def chat(*contents: Any) -> bytes:
    """A request whose messages are the user's and the assistant's in turn."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return json.dumps({"model": MODEL_ID, "messages": messages}).encode()


def prompted(prompt: Any, model: str = MODEL_ID) -> bytes:
    """A request of the legacy completions."""
    return json.dumps({"model": model, "prompt": prompt}).encode()


def models_of(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models", timeout=5) as response:
        return [model["id"] for model in json.load(response)["data"]]


def ask(url: str, *contents: Any) -> str:
    status, reply = post(url, chat(*contents))
    assert status == 200, reply
    return str(reply["choices"][0]["message"]["content"])


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / SHAPES).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def picture(row: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(row["image"])))


def picture_question(row: dict[str, str], image_url: str) -> list[dict[str, Any]]:
    """The message VLMEvalKit makes of a row of a multiple-choice dataset."""
    options = "".join(f"{letter}. {row[letter]}\n" for letter in "ABCD")
    ending = "Please select the correct answer from the options above. \n"
    text = f"Question: {row['question']}\nOptions:\n{options}{ending}"
    image = {"type": "image_url", "image_url": {"url": image_url}}
    return [image, {"type": "text", "text": text}]


def is_shape_right(url: str, row: dict[str, str]) -> bool:
    buffer = io.BytesIO()
    picture(row).save(buffer, "JPEG")  # as VLMEvalKit sends it
    image = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    reply = ask(url, picture_question(row, image))
    return re.findall(r"\b[A-D]\b", reply) == [row["answer"]]


def is_story_right(url: str, row: dict[str, Any]) -> bool:
    prompt = "Question: {}\nLet's think step by step\nAnswer:".format
    example = prompt("Ben has 2 hats. How many hats has he?")
    reply = ask(url, example, "The answer is 2\n", prompt(row["question"]))
    numbers = re.findall(r"-?\d+\.\d+|-?\d+", reply)  # OpenCompass takes the last one
    return bool(numbers) and float(numbers[-1]) == int(row["answer"].split("#### ")[1])


def is_science_right(url: str, row: dict[str, Any]) -> bool:
    question = row["question"]
    options = "".join(f"{choice['label']}. {choice['text']}\n" for choice in question["choices"])
    reply = ask(url, f"Question: {question['stem']}\n{options}Answer:")
    letter = re.search(r"[A-D]", reply)  # OpenCompass' last resort, so a refusal must have none
    return letter is not None and letter[0] == row["answerKey"]


def right(url: str, directory: Path) -> dict[Path, tuple[int, int]]:
    asked = {
        SHAPES: [is_shape_right(url, row) for row in table(directory)],
        GSM8K: [is_story_right(url, row) for row in lines(directory / GSM8K)],
        ARC: [is_science_right(url, row) for row in lines(directory / ARC)],
    }
    return {name: (sum(results), len(results)) for name, results in asked.items()}


# The data


def test_the_data_is_made_again_the_same(tmp_path: Path) -> None:
    make_data.make(tmp_path)
    for name in (GSM8K, TRAIN, ARC):
        assert (tmp_path / name).read_bytes() == (make_data.DATA / name).read_bytes()
    # A PNG's bytes depend on the zlib at hand, its pixels do not.
    made, kept = table(tmp_path), table(make_data.DATA)
    assert [picture(row).tobytes() for row in made] == [picture(row).tobytes() for row in kept]
    assert [{**row, "image": ""} for row in made] == [{**row, "image": ""} for row in kept]


def test_shapes_has_balanced_rows_of_four_categories() -> None:
    rows = table(make_data.DATA)
    assert " ".join(rows[0]) == "index image question A B C D answer category"
    assert [row["index"] for row in rows] == [str(number) for number in range(48)]
    categories = dict.fromkeys(("colour", "shape", "count", "position"), 12)
    assert Counter(row["category"] for row in rows) == categories
    assert Counter(row["answer"] for row in rows) == dict.fromkeys("ABCD", 12)
    for row in rows:
        assert len({row[letter] for letter in "ABCD"} - {"", "None"}) == 4
        assert min(picture(row).size) >= 100
    assert b"\r" not in (make_data.DATA / SHAPES).read_bytes()


def test_gsm8k_answers_end_in_a_whole_number() -> None:
    rows = lines(make_data.DATA / GSM8K) + lines(make_data.DATA / TRAIN)
    assert len({row["question"] for row in rows}) == 36 + 8
    for row in rows:
        assert list(row) == ["question", "answer"]
        assert re.search(r"\n#### [1-9]\d*$", row["answer"])


def test_arc_has_four_choices_and_its_own_ids() -> None:
    rows = lines(make_data.DATA / ARC)
    assert [row["id"] for row in rows] == [f"demo_{number}" for number in range(1, 33)]
    assert Counter(row["answerKey"] for row in rows) == dict.fromkeys("ABCD", 8)
    for row in rows:
        assert [choice["label"] for choice in row["question"]["choices"]] == list("ABCD")
        assert len({choice["text"] for choice in row["question"]["choices"]}) == 4


def test_the_data_is_four_small_files() -> None:
    files = [path for path in make_data.DATA.rglob("*") if path.is_file()]
    assert {path.relative_to(make_data.DATA) for path in files} == {SHAPES, GSM8K, TRAIN, ARC}
    assert sum(path.stat().st_size for path in files) < 200_000


# The answers


def test_scores_are_the_known_ones(url: str) -> None:
    assert right(url, make_data.DATA) == RIGHT
    scores = sorted(hits / rows for hits, rows in RIGHT.values())
    assert all(0.55 <= score <= 0.92 for score in scores)
    assert all(b - a >= 0.04 for a, b in pairwise(scores))


def test_the_answers_are_computed_not_remembered(url: str, tmp_path: Path) -> None:
    make_data.make(tmp_path, seed=7)  # other pictures, numbers, names and options
    assert right(url, tmp_path) == RIGHT


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (
            "Ann has 1,003 hats and buys 4. How many are there?",
            "1003 + 4 = 1007. The answer is 1007",
        ),
        ("Ann reads 5 pages a day for 6 days. How many is that?", "5 x 6 = 30. The answer is 30"),
        ("Ann has 24 eggs. She eats half. How many are left?", "24 / 2 = 12. The answer is 12"),
        ("Ann has 24 eggs, put into boxes of 6. How many boxes?", "24 / 6 = 4. The answer is 4"),
        ("Ann has 9 hats. Ben has 4. How many more has Ann?", "9 - 4 = 5. The answer is 5"),
        ("A car drives at 60 km per hour. How far in 3 hours?\nA. 63\nB. 180", "B. 180"),
        ("A brick has 80 g and 20 mL. What is its density?\nA. 4 g per mL\nB. 5 g per mL", "A"),
        ("The rain is 3 mm, 4 mm and 5 mm. What is the total?\nA. 12 mm\nB. 7 mm", "A. 12 mm"),
        ("Ann ran 9 km and Ben 7 km. Who ran least?\nA. Ann\nB. Ben", "B. Ben"),
        ("What is 2 + 3? Only the number.", "5"),
    ],
)
def test_rules_that_the_data_does_not_need(url: str, question: str, reply: str) -> None:
    assert ask(url, question) == reply


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_a_colour_is_seen_without_options(url: str, colour: str) -> None:
    out = io.BytesIO()
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste(Image.new("RGB", (20, 20), colour), (20, 20))
    picture.save(out, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    question = {"type": "text", "text": "What colour is the shape? One word."}

    assert ask(url, [{"type": "image_url", "image_url": {"url": image}}, question]) == colour


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("data:image/png;base64,@@@@", "could not be decoded"),
        ("data:image/png;base64,bm8gcGljdHVyZQ==", "could not be decoded"),
        ("cut", "could not be decoded"),
        ("http://127.0.0.1:9/picture.png", "it opens no addresses"),
    ],
)
def test_a_picture_that_cannot_be_seen_is_said_to_be_one(url: str, image: str, reason: str) -> None:
    row = table(make_data.DATA)[0]
    image = image.replace("cut", f"data:image/png;base64,{row['image'][:200]}")
    assert reason in ask(url, picture_question(row, image))


@pytest.mark.parametrize("content", ["Who wrote Faust?", "", None, [], [{"type": "text"}], [3]])
def test_what_no_rule_covers_gets_an_honest_reply(url: str, content: Any) -> None:
    reply = ask(url, content)
    assert "rule-based demo" in reply
    # Nothing in it that upstream would take for an option or a number.
    assert not re.search(r"[A-D0-9]", reply)


def test_the_last_user_message_is_the_one_answered(url: str) -> None:
    row = table(make_data.DATA)[0]
    first = picture_question(row, f"data:image/png;base64,{row['image']}")
    sums = ("Ann has 3 hats and buys 4. How many are there?", "And if she buys 5? I mean: 3 + 5.")
    last = "Ben has 20 eggs and buys 1. How many are there?"
    reply = "20 + 1 = 21. The answer is 21"
    assert ask(url, first, "A", sums[0], "The answer is 7", sums[1], "It is 8", last) == reply
    # Neither a system message nor an assistant's turn at the end is taken for it.
    messages = json.loads(chat(*sums, last, "20 +"))["messages"]
    system = {"role": "system", "content": "Ann has 1 hat and buys 1. How many are there?"}
    body = json.dumps({"model": MODEL_ID, "messages": [system, *messages]}).encode()
    assert post(url, body)[1]["choices"][0]["message"]["content"] == reply


# The endpoint


def test_models_lists_the_one_served(url: str) -> None:
    assert models_of(url) == [MODEL_ID]


def test_several_models_can_be_served() -> None:
    with Endpoint(models=("org/a", "b")) as endpoint:
        assert models_of(endpoint.url) == ["org/a", "b"]
        for model in ("org/a", "b"):
            status, reply = post(endpoint.url, prompted("hi", model), "completions")
            assert (status, reply["model"]) == (200, model)
        status, reply = post(endpoint.url, chat("hi"))
    assert status == 404
    assert "serves `org/a`, `b`" in reply["error"]["message"]


def test_any_model_can_be_served() -> None:
    with Endpoint(models=None) as endpoint:
        assert models_of(endpoint.url) == [MODEL_ID]
        body = b'{"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}'
        status, reply = post(endpoint.url, body)
        assert (status, reply["model"]) == (200, "gpt-x")
        assert post(endpoint.url, b'{"messages": [{"role": "user"}]}')[0] == 400


def test_a_completion_has_openai_form(url: str) -> None:
    _, reply = post(url, chat("Question: Ann has 3 hats. How many hats has Ann?\nAnswer:"))
    assert reply.pop("id").startswith("chatcmpl-")
    assert isinstance(reply.pop("created"), int)
    message = {"role": "assistant", "content": "The answer is 3"}
    assert reply == {
        "object": "chat.completion",
        "model": MODEL_ID,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
    }


def test_a_legacy_completion_has_openai_form(url: str) -> None:
    body = prompted("Question: Ann has 3 hats. How many hats has Ann?\nAnswer:")
    status, reply = post(url, body, "completions")
    assert status == 200
    assert reply.pop("id").startswith("cmpl-")
    assert isinstance(reply.pop("created"), int)
    assert reply == {
        "object": "text_completion",
        "model": MODEL_ID,
        "choices": [{"index": 0, "text": "The answer is 3", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
    }


def test_each_of_several_prompts_gets_a_choice() -> None:
    def echo(messages: list[dict[str, Any]]) -> str:
        assert [message["role"] for message in messages] == ["user"]
        return f"you said {messages[0]['content']}"

    with Endpoint(answer=echo) as endpoint:
        status, reply = post(endpoint.url, prompted(["one", "two three"]), "completions")
    assert status == 200
    choices = [(choice["index"], choice["text"]) for choice in reply["choices"]]
    assert choices == [(0, "you said one"), (1, "you said two three")]
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_an_unknown_model_is_404_and_the_served_one_is_named(url: str, path: str) -> None:
    body = b'{"model": "gpt-x", "messages": [{"role": "user"}], "prompt": "hi"}'
    status, reply = post(url, body, path)
    assert status == 404
    assert reply["error"]["code"] == "model_not_found"
    assert MODEL_ID in reply["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        "{not json",
        "",
        "[]",
        '{"messages": [{}]}',
        f'{{"model": "{MODEL_ID}"}}',
        f'{{"model": "{MODEL_ID}", "messages": ["hi"]}}',
        f'{{"model": "{MODEL_ID}", "messages": [{{}}], "stream": true}}',
    ],
)
def test_a_malformed_request_is_400(url: str, body: str) -> None:
    status, reply = post(url, body.encode())
    assert status == 400
    assert set(reply["error"]) == {"message", "type", "code"}
    assert reply["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b'{"prompt": "hi"}',
        chat("hi"),
        *map(prompted, (None, [], 3, {}, [1, 2], ["hi", None])),
        f'{{"model": "{MODEL_ID}", "prompt": "hi", "stream": true}}'.encode(),
    ],
)
def test_a_malformed_legacy_request_is_400(url: str, body: bytes) -> None:
    status, reply = post(url, body, "completions")
    assert status == 400
    assert set(reply["error"]) == {"message", "type", "code"}
    assert reply["error"]["type"] == "invalid_request_error"


def test_another_path_is_404(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/embeddings", timeout=5)
    assert caught.value.code == 404
    message = json.load(caught.value)["error"]["message"]
    assert message.endswith("GET /v1/models, POST /v1/chat/completions and POST /v1/completions")


def test_a_failing_answer_is_500_with_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(messages: list[dict[str, Any]]) -> str:
        raise OSError("out of order")

    with Endpoint(answer=broken) as endpoint:
        status, reply = post(endpoint.url, chat("hi"))
    assert status == 500
    assert "out of order" in reply["error"]["message"]
    assert capfd.readouterr().err == ""


def test_on_request_sees_every_post() -> None:
    seen: list[dict[str, Any]] = []
    with Endpoint(on_request=seen.append, answer=lambda messages: "hello") as endpoint:
        assert ask(endpoint.url, "hi") == "hello"
        post(endpoint.url, b"{not json")
    assert [request["path"] for request in seen] == ["/v1/chat/completions"] * 2
    assert seen[0]["body"] == json.loads(chat("hi"))
    assert seen[0]["headers"]["Host"].startswith("127.0.0.1:")
    assert seen[1]["body"] is None


def test_requests_overlap() -> None:
    with Endpoint(latency=0.5) as endpoint, ThreadPoolExecutor(32) as pool:
        started = time.monotonic()
        replies = list(pool.map(lambda _: ask(endpoint.url, "hi"), range(32)))
        took = time.monotonic() - started
    assert len(replies) == 32
    assert 0.5 <= took < 12  # one after the other it is 16 seconds


def test_the_largest_parallel_is_counted_from_each_start() -> None:
    together = threading.Barrier(5, timeout=10)

    def meet(messages: list[dict[str, Any]]) -> str:
        together.wait()
        return "hello"

    endpoint = Endpoint(answer=meet)
    assert endpoint.largest_parallel == 0
    with endpoint, ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: ask(endpoint.url, "hi"), range(25)))
    assert endpoint.largest_parallel == 5

    def broken(messages: list[dict[str, Any]]) -> str:
        raise OSError("out of order")

    endpoint.answer = broken
    with endpoint:
        assert endpoint.largest_parallel == 0
        for _ in range(25):  # one after the other, on a connection each
            assert post(endpoint.url, chat("hi"))[0] == 500
    assert endpoint.largest_parallel == 1


def port_of(url: str) -> int:
    return int(url.split(":")[2].removesuffix("/v1"))


def test_a_connection_is_kept_alive(url: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=5)
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
    port = port_of(endpoint.url)
    idle, waiting = (http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(2))
    with contextlib.closing(idle), contextlib.closing(waiting):
        idle.request("GET", "/v1/models")
        idle.getresponse().read()
        waiting.request("POST", "/v1/chat/completions", chat("hi"))
        time.sleep(0.1)
        started = time.monotonic()
        endpoint.stop()
        assert time.monotonic() - started < 20
        while not set(threading.enumerate()) <= before:
            assert time.monotonic() - started < 20
            time.sleep(0.01)
    with Endpoint(port) as again:
        assert port_of(again.url) == port
    assert capfd.readouterr().err == ""


def test_a_client_that_went_away_is_not_reported(capfd: pytest.CaptureFixture[str]) -> None:
    body = chat("hi")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with Endpoint(latency=0.2) as endpoint:
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port_of(endpoint.url))) as client:
                # A reset instead of a polite end.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(head.encode() + body)
        time.sleep(0.5)
        assert ask(endpoint.url, "hi")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", ["in use", 70_000])
def test_a_port_that_cannot_be_had_is_named(url: str, number: int | str) -> None:
    port = port_of(url) if isinstance(number, str) else number
    with pytest.raises(ConfigError, match=f"cannot listen on port {port}"):
        Endpoint(port).start()


def test_importing_the_endpoint_loads_only_the_standard_library() -> None:
    code = "import sys, evalshim.demo.endpoint; print({'PIL', 'pandas', 'yaml'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_what_it_is_and_ends_on_a_signal(number: signal.Signals) -> None:
    code = "from evalshim.demo.endpoint import serve; serve(0)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(number)
        assert process.stderr.read() == ""
        assert process.wait(10) == 0
    assert re.match(rf"http://127\.0\.0\.1:\d+/v1 serves {MODEL_ID}: a rule-based program", line)
