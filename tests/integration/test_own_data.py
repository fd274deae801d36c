"""Data, scorers and code of the user's own, as both documents have them, through the real upstream.

A run holds many cells, since a start of VLMEvalKit takes longer than they do; what is
asked of each stands in a test of its own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import evalshim
from evalshim import envs
from evalshim.adapters import custom_data
from evalshim.compat import Summarizer, run_task
from evalshim.demo.endpoint import Endpoint
from evalshim.errors import ConfigError
from evalshim.results import RunResult
from tests.conftest import HEEDED, as_base64, picture
from tests.worker_package import AS_WORKER, WORKER

from . import own_data
from .conftest import of_the_run
from .own_data import audio, image, jsonl, put, tsv, user

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "bleu_rouge.json").read_text("utf-8"))
Asked = list[dict[str, Any]]
Messages = list[dict[str, Any]]

# Question -> what is right, and its letter where there are options.
RIGHT = {
    "What animal is this?": ("Dog", "A"),
    "What building is this?": ("Museum", "D"),
    "Which city's skyline is this?": ("Tokyo", "B"),
    "What is the brand of this car?": ("Tesla", "C"),
    "What is the person in the picture doing?": ("Running", "A"),
    "Which image shows a dog?": ("", "A"),
    "What are the differences?": ("The main differences are...", ""),
    "Analyze this X-ray:": ("The X-ray shows...", ""),
    "What's in this image?": ("A beautiful landscape", ""),
    "Describe the content of this audio clip.": ("A piano music performance.", ""),
    "What is being said in this audio?": ("Hello, world.", ""),
}


class Ran:
    """A run and what its endpoint was asked."""

    def __init__(self, result: RunResult, asked: Asked, folder: Path) -> None:
        self.result, self.asked, self.folder = result, asked, folder

    def rows(self, dataset: str, model: str = "m") -> list[Any]:
        return [r for r in self.result.rows if (r.dataset, r.model) == (dataset, model)]

    def values(self, dataset: str, model: str = "m") -> dict[Any, Any]:
        """By subset, and by metric too where the metric has a name of its own."""
        rows = self.rows(dataset, model)
        assert {r.status for r in rows} == {"scored"}, rows[0].error
        return {
            r.subset if r.metric in ("acc", "score") else (r.subset, r.metric): r.value
            for r in rows
        }

    def error(self, dataset: str, model: str = "m") -> str:
        [row] = self.rows(dataset, model)
        assert row.status == "failed"
        return str(row.error)

    def predictions(self, dataset: str, model: str = "m") -> dict[str, str]:
        table = self.result.samples
        own = table[(table["dataset"] == dataset) & (table["model"] == model)]
        return dict(zip(own["index"], own["prediction"], strict=True))

    def messages(self, text: str, model: str = "m") -> list[Messages]:
        """The messages of every request to `model` in which `text` stands."""
        bodies = [a["body"] for a in self.asked if a["body"]["model"] == model]
        return [b["messages"] for b in bodies if text in _shown(b["messages"])]

    def one(self, text: str, model: str = "m") -> Messages:
        [found] = self.messages(text, model)
        return found

    def files(self, pattern: str) -> list[Path]:
        return sorted((self.result.path / "upstream" / "vlmeval").glob(pattern))


def _shown(value: Any) -> str:
    """All text of a message, without what is encoded."""
    if isinstance(value, str):
        return "" if value.startswith("data:") else value
    if isinstance(value, Mapping):
        return "\n".join(_shown(v) for v in value.values())
    return "\n".join(map(_shown, value)) if isinstance(value, list) else ""


def _bytes(part: Mapping[str, Any]) -> bytes:
    """What a part of a message has encoded in it."""
    inner = part[part["type"]]
    return base64.b64decode(inner.get("url", inner.get("data")).rpartition(",")[2])


def _kinds(content: Sequence[Mapping[str, Any]]) -> list[str]:
    return [p["text"] if p["type"] == "text" else p["type"] for p in content]


def by(replies: Mapping[str, str]) -> Callable[[Messages], str]:
    """Answers with the reply whose key is in the question; right to those of the documents."""

    def answer(messages: Messages) -> str:
        text = _shown(messages[-1]["content"])
        for key, reply in replies.items():
            if key in text:
                return reply
        for question, (word, letter) in RIGHT.items():
            if question in text:
                return letter if "Options:" in text else word
        return "unknown"

    return answer


@contextlib.contextmanager
def at_home(folder: Path, **variables: str) -> Iterator[None]:
    """`folder` is the working directory and the user's home, with its LMUData."""
    with pytest.MonkeyPatch.context() as patch:
        for name in HEEDED:
            patch.delenv(name, raising=False)
        (folder / "LMUData").mkdir(parents=True, exist_ok=True)
        patch.setenv("EVALSHIM_HOME", str(envs.home()))  # it would move with HOME
        patch.setenv("HOME", str(folder))
        patch.setenv("LMUData", str(folder / "LMUData"))
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield


def evaluate(
    folder: Path,
    datasets: Sequence[Any],
    answer: Callable[[Messages], str],
    models: Sequence[Mapping[str, Any]] = ({"name": "m"},),
    **keys: Any,
) -> Ran:
    """Run models behind an endpoint of the demo's."""
    asked: Asked = []
    with (
        at_home(folder),
        Endpoint(models=None, answer=answer, on_request=of_the_run(asked.append)) as served,
    ):
        behind = [{"api_base": served.url, "retry": 1, **m} for m in models]
        result = evalshim.run({"models": behind, "datasets": [*datasets], **keys})
    return Ran(result, asked, folder)


class Listener:
    """A port at which connections are counted and nothing is said."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.connections += 1
                connection.close()


# The General formats


SOUND = own_data.sound()
MP3 = b"ID3" + bytes(range(256)) * 3
RGBA = picture("teal", "PNG", (140, 60))
# An endpoint's answer is stripped by upstream (OpenAIWrapper.generate_inner, 0.0.20), and an empty
# one is no answer to it: pairs 17, 19, 20, 22 and 23 (empty or blank), 54, 56, 57 and 74 (blanks
# before or after) cannot come from an endpoint.
PAIRS = {
    number: pair
    for number, pair in enumerate(GOLDEN["pairs"])
    if pair["prediction"] and pair["prediction"] == pair["prediction"].strip()
}
METRICS = list(GOLDEN["mean"])


def _wire(folder: Path, port: int) -> list[dict[str, Any]]:
    """What the endpoint is to get as it is; `[w3]` is the mark of a record."""
    system = {"role": "system", "content": "Talk like a pirate."}
    dog, tesla = (f"custom_eval/multimodal/images/{n}.jpg" for n in ("dog", "tesla"))
    turns = [
        user(image(dog), "[w2] What is it?")["messages"][0],
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "And [w2] its colour?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Brown."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}, image(tesla)]},
    ]
    return [
        {"messages": [system, *user("[w0] Who are you?")["messages"]], "answer": "x"},
        user("[w1] Who are you now?", answer="x"),
        {"messages": turns, "answer": "x"},
        user("[w3]", image(f"http://127.0.0.1:{port}/far.jpg", detail="low"), answer="x"),
        {
            "messages": [{"role": "user", "content": "[w4] <image 1> beside <image_2> now"}],
            "image_1": dog,
            "image_2": tesla,
            "answer": "x",
        },
        user("[w5]", audio("sounds/a.mp3", "mp3"), answer="x"),
        user("[w6]", audio(f"data:audio/wav;base64,{as_base64(SOUND)}", "wav"), answer="x"),
        user(
            {"type": "video_url", "video_url": {"url": f"http://127.0.0.1:{port}/far.mp4"}},
            "[w7]",
            answer="x",
        ),
        {"messages": [{"role": "user", "content": "[w8] plain text"}], "answer": "x"},
        user(image(str(folder / "rgba.png"), detail="high"), "[w9]", answer="x"),
        user("[w10] nobody knows"),
    ]


def _vmcq(port: int) -> list[dict[str, Any]]:
    dog, tesla = (f"custom_eval/multimodal/images/{n}.jpg" for n in ("dog", "tesla"))
    return [
        {
            "question": "[v0] Which is a car?",
            "options": "['<image 1>', \"that's <image_2> there\"]",
            "image_1": dog,
            "image_2": tesla,
            "answer": "B",
        },
        {"question": "[v1] 1 + 1?", "options": ["1", "2"], "answer": "B"},
        {
            "question": "[v2] <image 1> and <image 7> and <image 2>",
            "options": ["x", "y", "None"],
            "image_1": dog,
            "image_2": tesla,
            "answer": "A",
        },
        {
            "question": "[v3] <image 1> or <image 2>",
            "options": '["first", "second"]',
            "image_1": f"http://127.0.0.1:{port}/far.jpg",
            "image_2": f"data:image/jpeg;base64,{as_base64(picture('pink', 'JPEG', (60, 50)))}",
            "answer": "A",
        },
        {"question": "[v4] 6 * 5?", "options": ["10", "20", "30", "40"], "answer": "C"},
    ]


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Every file of the General formats; `small` shrinks pictures to 32 pixels."""
    folder = tmp_path_factory.mktemp("general")
    own_data.media(folder)
    put(folder / "rgba.png", RGBA)
    put(folder / "sounds" / "a.mp3", MP3)
    vqa, mcq = (folder / "custom_eval" / "multimodal" / n for n in ("vqa", "mcq"))
    listener = Listener()
    files = {
        "example_openai": put(vqa / "example_openai.jsonl", own_data.GENERAL_VQA_JSONL),
        "example_openai_tsv": put(vqa / "example_openai.tsv", own_data.GENERAL_VQA_TSV),
        "blocks": jsonl(
            vqa / "blocks.jsonl", own_data.blocks(picture("pink", "JPEG", (64, 48)), SOUND)
        ),
        "wire": jsonl(vqa / "wire.jsonl", _wire(folder, listener.port)),
        "golden": jsonl(
            vqa / "golden.jsonl",
            (user(f"[pair {n}]", answer=p["answer"]) for n, p in PAIRS.items()),
        ),
        "numbers": jsonl(
            vqa / "numbers.jsonl",
            [
                user("[n0] agent", answer="007"),
                user("[n1] price", answer="1.50"),
                user("[n2] who?"),
                user("[n3] nothing", answer="None"),
            ],
        ),
        "grouped": jsonl(
            vqa / "grouped.jsonl",
            [
                user("[g0]", answer="cat", category="pets"),
                user("[g1]", answer="dog", category="pets"),
                user("[g2]", answer=["a red bus", "bus"], category="cars"),
            ],
        ),
        "example": put(mcq / "example.jsonl", own_data.GENERAL_VMCQ_JSONL),
        "example_tsv": put(mcq / "example.tsv", own_data.GENERAL_VMCQ_TSV),
        "more": jsonl(mcq / "more.jsonl", _vmcq(listener.port)),
    }
    replies = {f"[pair {n}]": p["prediction"] for n, p in PAIRS.items()}
    replies |= {"[n0]": "007", "[n1]": "1.50", "[n2]": "nobody", "[n3]": "None"}
    replies |= {"[g0]": "cat", "[g1]": "cat", "[g2]": "bus"}
    replies |= {"[v0]": "B", "[v1]": "B", "[v2]": "A", "[v3]": "A", "[v4]": "C"}
    ran = evaluate(
        folder,
        [{"name": name, "path": str(path)} for name, path in files.items()],
        by(replies),
        ({"name": "m"}, {"name": "small", "img_size": 32}),
    )
    ran.listener = listener  # type: ignore[attr-defined]
    yield ran
    listener.socket.close()


def test_every_general_file_is_scored(general: Ran) -> None:
    assert [r.error for r in general.result.rows if r.status != "scored"] == []
    assert general.result.exit_code == 0


@pytest.mark.parametrize("dataset", ["example_openai", "example_openai_tsv"])
def test_general_vqa_examples_have_the_scores_of_right_answers(general: Ran, dataset: str) -> None:
    values = general.values(dataset)

    # `Dog` is one word: it has no two in a row.
    assert values["overall", "bleu-1"] == pytest.approx(1)
    assert [values["overall", f"bleu-{n}"] for n in (2, 3, 4)] == pytest.approx([0, 0, 0])
    for part in "RPF":
        assert values["overall", f"Rouge-1-{part}"] == pytest.approx(1)
        assert values["overall", f"Rouge-2-{part}"] == 0
        assert values["overall", f"Rouge-L-{part}"] == pytest.approx(1)
    assert {m for _, m in values} == set(METRICS)
    assert {r.n for r in general.rows(dataset)} == {2}
    assert general.predictions(dataset) == {"1": "Dog", "2": "Museum"}


def test_general_vqa_scores_have_their_unit_and_their_main_one(general: Ran) -> None:
    rows = general.rows("example_openai")

    assert {r.unit for r in rows} == {"fraction"}
    assert [(r.subset, r.metric) for r in rows if r.is_primary] == [("overall", "Rouge-L-R")]


def test_the_single_examples_have_the_scores_of_right_answers(general: Ran) -> None:
    values = general.values("blocks")

    for metric in METRICS:
        if metric != "bleu-4":  # `Hello, world.` has four tokens; all have three
            assert values["overall", metric] == pytest.approx(1, abs=1e-6), metric


@pytest.mark.parametrize("dataset", ["example", "example_tsv"])
def test_general_vmcq_examples_are_right(general: Ran, dataset: str) -> None:
    assert general.values(dataset) == {"overall": 1.0}
    [row] = general.rows(dataset)
    assert (row.metric, row.unit, row.n, row.n_failed) == ("acc", "fraction", 2, 0)


def test_tsv_and_jsonl_ask_the_same(general: Ran) -> None:
    # The building is asked for in a General-VQA and in a General-VMCQ file, each in two forms.
    for question, forms in (("animal is", 1), ("image shows a dog", 1), ("building is", 2)):
        found = [json.dumps(m, sort_keys=True) for m in general.messages(question)]
        assert len(found) == 2 * forms
        assert len(set(found)) == forms


def test_a_question_and_its_picture_are_sent_as_written(general: Ran) -> None:
    dog = (general.folder / "custom_eval/multimodal/images/dog.jpg").read_bytes()

    for messages in general.messages("What animal is this?"):
        [message] = messages
        assert message["role"] == "user"
        text, shown = message["content"]
        assert text == {"type": "text", "text": "What animal is this?"}
        assert shown["image_url"]["url"].startswith("data:image/jpeg;base64,")
        assert _bytes(shown) == dog
        assert set(shown) == {"type", "image_url"}


def test_several_images_stand_between_their_texts(general: Ran) -> None:
    [message] = general.one("Compare these two images:")

    assert _kinds(message["content"]) == [
        "Compare these two images:", "image_url", "and", "image_url", "What are the differences?",
    ]  # fmt: skip
    sent = [_bytes(p) for p in message["content"] if p["type"] == "image_url"]
    assert sent == [(general.folder / f"image{n}.jpg").read_bytes() for n in (1, 2)]


def test_a_system_prompt_and_the_detail_are_sent(general: Ran) -> None:
    messages = general.one("Analyze this X-ray:")

    assert messages[0] == {"role": "system", "content": "You are a medical AI assistant."}
    assert [m["role"] for m in messages] == ["system", "user"]
    shown = messages[1]["content"][1]
    assert shown["image_url"]["detail"] == "high"
    assert _bytes(shown) == (general.folder / "xray.jpg").read_bytes()


def test_a_system_prompt_is_that_of_its_sample_alone(general: Ran) -> None:
    found = [
        _shown(a["body"]["messages"])
        for a in general.asked
        if any(m["role"] == "system" for m in a["body"]["messages"])
    ]

    assert len(found) == 4  # two records, two models
    assert [m["role"] for m in general.one("[w1]")] == ["user"]
    assert sum("pirate" in text for text in found) == 2
    assert not [t for t in found if "pirate" in t and "medical" in t]


def test_an_encoded_picture_is_sent_as_it_is(general: Ran) -> None:
    [message] = general.one("What's in this image?")

    assert _bytes(message["content"][1]) == picture("pink", "JPEG", (64, 48))


@pytest.mark.parametrize(
    ("text", "format", "data"),
    [
        ("Describe the content of this audio clip.", "wav", SOUND),
        ("What is being said in this audio?", "wav", SOUND),
        ("[w5]", "mp3", MP3),
        ("[w6]", "wav", SOUND),
    ],
)
def test_sounds_are_sent_byte_by_byte(general: Ran, text: str, format: str, data: bytes) -> None:
    [message] = general.one(text)
    sent = message["content"][1]["input_audio"]

    assert sent["format"] == format
    assert base64.b64decode(sent["data"], validate=True) == data  # OpenAI's form: no data URL


def test_turns_keep_their_roles_and_order(general: Ran) -> None:
    messages = general.one("[w2]")

    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert _kinds(messages[0]["content"]) == ["image_url", "[w2] What is it?"]
    assert messages[1]["content"] == "A dog."
    assert messages[2]["content"] == "And [w2] its colour?"
    assert messages[3]["content"] == [{"type": "text", "text": "Brown."}]
    assert _kinds(messages[4]["content"]) == ["Sure?", "image_url"]


def test_urls_are_passed_on_and_never_fetched(general: Ran) -> None:
    listener = general.listener  # type: ignore[attr-defined]
    far = f"http://127.0.0.1:{listener.port}/far"

    for model in ("m", "small"):
        [shown] = general.one("[w3]", model)
        assert shown["content"][1]["image_url"] == {"url": f"{far}.jpg", "detail": "low"}
        [video] = general.one("[w7]", model)
        assert video["content"][0] == {"type": "video_url", "video_url": {"url": f"{far}.mp4"}}
        [option] = general.one("[v3]", model)
        urls = [p["image_url"]["url"] for p in option["content"] if p["type"] == "image_url"]
        assert urls[0] == f"{far}.jpg"
    assert listener.connections == 0


def test_placeholders_become_their_pictures(general: Ran) -> None:
    [message] = general.one("[w4]")

    assert [k.strip() for k in _kinds(message["content"])] == [
        "[w4]", "image_url", "beside", "image_url", "now",
    ]  # fmt: skip
    sent = [_bytes(p) for p in message["content"] if p["type"] == "image_url"]
    folder = general.folder / "custom_eval/multimodal/images"
    assert sent == [(folder / f"{n}.jpg").read_bytes() for n in ("dog", "tesla")]


def test_a_plain_text_stays_one(general: Ran) -> None:
    assert general.one("[w8]") == [{"role": "user", "content": "[w8] plain text"}]


def test_a_png_stays_one(general: Ran) -> None:
    [message] = general.one("[w9]")
    shown = message["content"][0]["image_url"]

    assert shown["url"].startswith("data:image/png;base64,")
    assert shown["detail"] == "high"
    assert _bytes(message["content"][0]) == RGBA


def test_img_size_shrinks_pictures_of_files_and_of_data_urls(general: Ran) -> None:
    for text, part, size in (
        ("[w9]", 0, (140, 60)), ("What's in this image?", 1, (64, 48)),
    ):  # fmt: skip
        [message] = general.one(text, "small")
        sent = message["content"][part]
        assert sent["image_url"]["url"].startswith("data:image/jpeg;base64,")
        shown = Image.open(io.BytesIO(_bytes(sent)))
        assert shown.format == "JPEG"
        # Upstream (encode_image_to_base64, 0.0.20) shrinks to 32, and enlarges to 100 what is
        # then smaller on its shorter side.
        assert min(shown.size) in (100, min(size) * 32 // max(size))
        assert shown.size[0] / shown.size[1] == pytest.approx(size[0] / size[1], rel=0.15)
    [message] = general.one("[w9]", "small")
    assert message["content"][0]["image_url"]["detail"] == "high"


def test_a_record_without_an_answer_is_asked(general: Ran) -> None:
    assert general.one("[w10]")[0]["content"] == [{"type": "text", "text": "[w10] nobody knows"}]
    assert len(general.predictions("wire")) == 11


def test_pictures_stand_in_the_options_that_name_them(general: Ran) -> None:
    folder = general.folder / "custom_eval/multimodal/images"

    for messages in general.messages("Which image shows a dog?"):
        [message] = messages
        shown = "".join("#" if k == "image_url" else k for k in _kinds(message["content"]))
        assert [line.strip() for line in shown.splitlines() if re.match("[A-Z]\\.", line)] == [
            "A. #", "B. #", "C. #", "D. #",
        ]  # fmt: skip
        sent = [_bytes(p) for p in message["content"] if p["type"] == "image_url"]
        assert sent == [
            (folder / f"{n}.jpg").read_bytes() for n in ("dog", "AMNH", "tesla", "tokyo")
        ]
    [message] = general.one("[v0]")
    shown = "".join("#" if k == "image_url" else k for k in _kinds(message["content"]))
    assert "A. #\n" in shown
    assert "B. that's # there\n" in shown


def test_at_a_placeholder_without_an_image_the_text_goes_on_as_text(general: Ran) -> None:
    [message] = general.one("[v2]")

    assert [k for k in _kinds(message["content"]) if k == "image_url"] == ["image_url"]
    before, _, after = _kinds(message["content"])
    assert before.endswith("[v2] ")
    assert after.startswith(" and <image 7> and <image 2>\n")


def test_a_question_without_pictures_is_text(general: Ran) -> None:
    [message] = general.one("[v1]")

    assert isinstance(message["content"], str)
    assert general.values("more") == {"overall": 1.0}


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("[v1]", ["A. 1", "B. 2"]),
        ("[v2]", ["A. x", "B. y", "C. None"]),
        ("[v4]", ["A. 10", "B. 20", "C. 30", "D. 40"]),
    ],
)
def test_options_are_shown_as_written(general: Ran, mark: str, options: list[str]) -> None:
    text = _shown(general.one(mark))

    assert [line for line in text.splitlines() if re.match("[A-Z]\\. ", line)] == options


def test_answers_are_compared_as_written(general: Ran) -> None:
    """`007` is no 7, `1.50` no 1.5, and `None` a word."""
    [table] = general.files("*/m/m_numbers_results.*")
    found = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)

    assert list(found["answer"]) == ["007", "1.50", "", "None"]
    assert [float(v) for v in found["bleu-1"]] == pytest.approx([1, 1, 0, 1])
    assert general.values("numbers")["overall", "bleu-1"] == pytest.approx(3 / 4)


def test_bleu_and_rouge_by_category(general: Ran) -> None:
    values = general.values("grouped")

    assert {s for s, _ in values} == {"overall", "pets", "cars"}
    assert values["pets", "Rouge-1-F"] == pytest.approx(1 / 2)  # cat for cat, cat for dog
    # Several answers are one text, a line each: `bus` is 1 of 3 distinct words of `a red bus bus`.
    assert values["cars", "Rouge-1-P"] == pytest.approx(1)
    assert values["cars", "Rouge-1-R"] == pytest.approx(1 / 3)
    assert values["overall", "Rouge-1-P"] == pytest.approx(2 / 3)
    counts = {r.subset: r.n for r in general.rows("grouped") if r.metric == "bleu-1"}
    assert counts == {"overall": 3, "pets": 2, "cars": 1}


def test_bleu_and_rouge_are_evalscopes(general: Ran) -> None:
    assert len(PAIRS) >= 50
    values = general.values("golden")

    for metric in METRICS:
        mean = sum(p["scores"][metric] for p in PAIRS.values()) / len(PAIRS)
        assert values["overall", metric] == pytest.approx(mean, abs=5e-5), metric


def test_bleu_and_rouge_of_each_sample_are_evalscopes(general: Ran) -> None:
    [table] = general.files("*/m/m_golden_results.*")
    found = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)

    assert len(found) == len(PAIRS)
    wrong = [
        (number, metric, row[metric], pair["scores"][metric])
        for (number, pair), row in zip(PAIRS.items(), found.to_dict("records"), strict=True)
        for metric in METRICS
        if abs(float(row[metric]) - pair["scores"][metric]) > 5e-5
    ]
    assert wrong == []
    assert general.predictions("golden") == {
        str(i): p["prediction"] for i, p in enumerate(PAIRS.values(), 1)
    }


# The legacy formats: by name from $LMUData, EvalScope's configuration


def _legacy(folder: Path, name: str, text: str, url: str) -> None:
    """The document's files, with the home of this test in the place of /root."""
    for source, (colour, size) in own_data.IMAGES.items():
        put(folder / "LMUData/images/custom_mcq" / Path(source).name, picture(colour, "JPEG", size))
    put(folder / "LMUData" / f"{name}.tsv", text.replace("HOME/", f"{folder}/"))
    config = own_data.LEGACY_YAML.replace("custom_mcq", name)
    config = config.replace("http://localhost:8000/v1/chat/completions", url)
    put(folder / "config.yaml", config)


@pytest.fixture(scope="module")
def legacy_mcq(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("mcq")
    asked: Asked = []
    with (
        Endpoint(
            models=("qwen-vl-chat",), answer=by({}), on_request=of_the_run(asked.append)
        ) as served,
        at_home(folder),
    ):
        _legacy(folder, "custom_mcq", own_data.LEGACY_MCQ, f"{served.url}/chat/completions")
        result = run_task(task_cfg="config.yaml")
        assert isinstance(result, RunResult)
        ran = Ran(result, asked, folder)
        ran.report = Summarizer.get_report_from_cfg("config.yaml")  # type: ignore[attr-defined]
    return ran


def test_the_documents_mcq_set_is_right_throughout(legacy_mcq: Ran) -> None:
    values = legacy_mcq.values("custom_mcq", "qwen-vl-chat")

    kinds = ("Activities", "Animals", "Buildings", "Cities", "Vehicles")
    assert values == {"overall": 1.0, **dict.fromkeys(kinds, 1.0)}
    rows = legacy_mcq.rows("custom_mcq", "qwen-vl-chat")
    assert {(r.unit, r.metric, r.scorer) for r in rows} == {("fraction", "acc", "exact_matching")}
    assert {r.subset: r.n for r in rows} == {"overall": 5, **dict.fromkeys(kinds, 1)}


def test_the_documents_mcq_set_has_the_table_that_it_prints(legacy_mcq: Ran) -> None:
    report = legacy_mcq.report  # type: ignore[attr-defined]

    assert report == [
        {
            "qwen-vl-chat_custom_mcq_acc": {
                "split": "none", "Overall": "1.0", "Activities": "1.0", "Animals": "1.0",
                "Buildings": "1.0", "Cities": "1.0", "Vehicles": "1.0",
            }
        }
    ]  # fmt: skip


def test_the_documents_mcq_set_is_asked_with_its_pictures(legacy_mcq: Ran) -> None:
    assert len(legacy_mcq.asked) == 5
    assert {a["body"]["temperature"] for a in legacy_mcq.asked} == {0.0}
    for question in ("What animal is this?", "Which city's skyline is this?"):
        [message] = legacy_mcq.one(question, "qwen-vl-chat")
        assert [p["type"] for p in message["content"]] == ["image_url", "text"]
    images = legacy_mcq.result.samples["images"]
    assert [len(paths) for paths in images] == [1] * 5


@pytest.fixture(scope="module")
def legacy_vqa(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The document's own script as a plug-in."""
    folder = tmp_path_factory.mktemp("vqa")
    asked: Asked = []
    with (
        Endpoint(
            models=("qwen-vl-chat",), answer=by({}), on_request=of_the_run(asked.append)
        ) as served,
        at_home(folder),
    ):
        _legacy(folder, "custom_vqa", own_data.LEGACY_VQA, f"{served.url}/chat/completions")
        put(folder / "custom_dataset.py", own_data.CUSTOM_DATASET)
        return Ran(evalshim.run("config.yaml", plugins=["custom_dataset.py"]), asked, folder)


def test_the_documents_script_scores_its_set(legacy_vqa: Ran) -> None:
    [row] = legacy_vqa.rows("custom_vqa", "qwen-vl-chat")

    assert (row.status, row.value, row.subset, row.error) == ("scored", 1.0, "overall", "")
    assert row.n == 5
    # The script's share is no percentage.
    assert row.score in (None, 1.0)


def test_the_documents_script_asks_and_writes_as_it_says(legacy_vqa: Ran) -> None:
    for question in list(RIGHT)[:5]:
        [message] = legacy_vqa.one(question, "qwen-vl-chat")
        text = message["content"][-1]["text"]
        assert text == f"{question}\nAnswer the question with one word or phrase."
        assert [p["type"] for p in message["content"]] == ["image_url", "text"]
    [table] = legacy_vqa.files("*/qwen-vl-chat/qwen-vl-chat_custom_vqa_acc.csv")
    assert pd.read_csv(table).to_dict("records") == [{"Overall": 1.0}]


def test_a_plug_in_named_in_evalscopes_configuration(legacy_vqa: Ran) -> None:
    with at_home(legacy_vqa.folder):
        config = legacy_vqa.folder / "config.yaml"
        put(legacy_vqa.folder / "named.yaml", f"{config.read_text()}plugins: [custom_dataset.py]\n")

        [record] = Summarizer.get_report_from_cfg("named.yaml")

    # As the document prints it, but for the quotes of a CSV file read as text.
    assert record == {"qwen-vl-chat_custom_vqa_acc": {"Overall": "1.0"}}


def test_the_documents_vqa_set_needs_a_scorer_or_the_script(legacy_vqa: Ran) -> None:
    with at_home(legacy_vqa.folder), pytest.raises(ConfigError, match="scorer"):
        run_task("config.yaml")


# Upstream's own formats: the requests that upstream sends


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _b64(colour: str, size: tuple[int, int] = (130, 110)) -> str:
    return as_base64(picture(colour, "PNG", size))


def _upstreams_own(folder: Path) -> dict[str, Path]:
    """Files with all that a TSV of upstream's may have; `..._more` has text-only rows besides."""
    files = [put(folder / f"img/{c}.png", picture(c, "PNG", (120, 104))) for c in
             ("red", "green", "blue")]  # fmt: skip
    letters_columns = [
        "index", "image", "question", "hint", "category", "l2-category", "split", "answer", *LETTERS
    ]  # fmt: skip
    letters = [
        [
            10 + n, _b64(colour), f"[letters {n}] Which letter?", "look" if n % 2 else "",
            f"cat{n % 2}", f"group{n // 2}", ("dev", "test")[n // 3],
            LETTERS[25 - n], *[f"option {c}{n}" for c in LETTERS[: 26 - n]], *[""] * n,
        ]
        for n, colour in enumerate(["red", "green", "blue", "white", "black", "pink"])
    ]  # fmt: skip
    plain = ["index", "image", "question", "A", "B", "answer"]
    several = repr([_b64("teal"), _b64("gold")])
    shared: list[list[Any]] = [
        [1, _b64("red"), "[shared 1]", "cat", "dog", "A"],
        [2, "1", "[shared 2]", "cat", "dog", "B"],
        [3, several, "[shared 3]", "cat", "dog", "A"],
        [4, "3", "[shared 4]", "cat", "dog", "B"],
    ]
    bare = [[5, "", "[bare 5]", "cat", "dog", "A"], [6, "", "[bare 6]", "cat", "dog", "B"]]
    by_path = ["index", "question", "A", "B", "answer", "image_path"]
    paths: list[list[Any]] = [
        [1, "[paths 1]", "cat", "dog", "A", str(files[0])],
        [2, "[paths 2]", "cat", "dog", "B", repr([str(f) for f in files])],
        [3, "[paths 3]", "cat", "dog", "A", repr([str(files[2])])],
    ]
    bare_paths = [[4, "[bare 4]", "cat", "dog", "A", ""]]
    open_ended = ["index", "image", "question", "answer"]
    questions = [[1, _b64("red"), "[open 1]", "red"], [2, "1", "[open 2]", "red"]]
    data = folder / "data"
    return {
        "letters": tsv(data / "letters.tsv", letters_columns, letters),
        "shared": tsv(data / "shared.tsv", plain, shared),
        "paths": tsv(data / "paths.tsv", by_path, paths),
        "open": tsv(data / "open.tsv", open_ended, questions),
        "shared_more": tsv(
            data / "shared_more.tsv", plain, [shared[0], bare[0], *shared[1:], bare[1]]
        ),
        "paths_more": tsv(data / "paths_more.tsv", by_path, [*bare_paths, *paths]),
        "bare": tsv(data / "bare.tsv", plain, bare),
        "bare_paths": tsv(data / "bare_paths.tsv", by_path, bare_paths),
    }


OURS_ALONE = ("shared_more", "paths_more", "bare", "bare_paths")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, environments: dict[str, Path]) -> Ran:
    """Ours, and upstream's own command on the same files, which knows no text-only rows."""
    folder = tmp_path_factory.mktemp("parity")
    files = _upstreams_own(folder)
    answer = by({"[": "A"})
    asked: Asked = []
    with Endpoint(models=None, answer=answer, on_request=of_the_run(asked.append)) as served:
        model = {
            "class": "CustomAPIModel", "model": "m", "key": "EMPTY", "temperature": 0,
            "api_base": f"{served.url}/chat/completions",
        }  # fmt: skip
        direct = [name for name in files if name not in OURS_ALONE]
        data = {
            n: {"class": "CustomVQADataset" if n == "open" else "CustomMCQDataset", "dataset": n}
            for n in direct
        }
        put(folder / "direct.json", json.dumps({"model": {"m": model}, "data": data}))
        command = [str(environments["vlmeval"]), "-m", "vlmeval", "--config", "direct.json",
                   "--judge", "exact_matching", "--work-dir", "direct"]  # fmt: skip
        variables = {**os.environ, "LMUData": str(folder / "theirs"), "PRED_FORMAT": "tsv"}
        for name in direct:
            put(folder / "theirs" / f"{name}.tsv", files[name].read_bytes())
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    datasets: list[dict[str, Any]] = [{"name": n, "path": str(p)} for n, p in files.items()]
    for entry in datasets:
        entry.update({"scorer": "accuracy"} if entry["name"] == "open" else {})
    ran = evaluate(folder, datasets, answer, ({"name": "m", "temperature": 0},))
    ran.theirs = asked  # type: ignore[attr-defined]
    return ran


def _bodies(asked: Asked, mark: str) -> list[str]:
    return sorted(
        json.dumps(a["body"], sort_keys=True)
        for a in asked
        if f"[{mark} " in _shown(a["body"]["messages"])
    )


@pytest.mark.parametrize(("mark", "count"), [("letters", 6), ("shared", 4), ("paths", 3),
                                             ("open", 2)])  # fmt: skip
def test_upstreams_formats_are_asked_as_upstream_asks(both: Ran, mark: str, count: int) -> None:
    theirs = _bodies(both.theirs, mark)  # type: ignore[attr-defined]

    assert len(theirs) == count
    # Each of `shared` and `paths` is in two of our files.
    assert sorted({*_bodies(both.asked, mark)}) == theirs


@pytest.mark.parametrize("mark", ["shared", "paths"])
def test_text_only_rows_leave_the_others_as_they_are(both: Ran, mark: str) -> None:
    theirs = _bodies(both.theirs, mark)  # type: ignore[attr-defined]

    assert _bodies(both.asked, mark) == sorted([*theirs, *theirs])
    assert len(both.predictions(f"{mark}_more")) == {"shared": 6, "paths": 4}[mark]


def test_text_only_rows_are_asked_without_pictures(both: Ran) -> None:
    for mark in ("[bare 4]", "[bare 5]", "[bare 6]"):
        found = both.messages(mark)
        assert len(found) == 2  # among others, and alone
        for [message] in found:
            assert isinstance(message["content"], str)
            assert "A. cat\nB. dog\n" in message["content"]
    assert both.values("bare") == {"overall": 0.5}
    assert both.values("bare_paths") == {"overall": 1.0}
    assert both.values("shared_more") == {"overall": 0.5}


def test_text_only_rows_stand_at_their_place(both: Ran) -> None:
    assert list(both.predictions("shared_more")) == ["1", "5", "2", "3", "4", "6"]


def test_all_options_hints_and_pictures_are_shown(both: Ran) -> None:
    [message] = both.one("[letters 0]")
    text = message["content"][-1]["text"]
    assert [line[0] for line in text.splitlines() if re.match("[A-Z]\\. ", line)] == [*LETTERS]
    [message] = both.one("[letters 1]")
    assert message["content"][-1]["text"].startswith("Hint: look\n")
    for mark, count in (("[shared 2]", 1), ("[shared 4]", 2), ("[paths 2]", 3)):
        for [message] in both.messages(mark):
            assert [p["type"] for p in message["content"]] == ["image_url"] * count + ["text"]


@pytest.mark.parametrize("dataset", ["letters", "shared", "paths"])
def test_upstreams_formats_have_upstreams_scores(both: Ran, dataset: str) -> None:
    theirs = pd.read_csv(both.folder / "direct" / "m" / f"m_{dataset}_acc.csv", dtype=str)
    expected = {
        (line["split"], name): value
        for line in theirs.to_dict("records")
        for name, value in line.items()
        if name != "split" and pd.notna(value)
    }
    ours = both.values(dataset)

    assert expected
    for (split, name), value in expected.items():
        subset = "" if name == "Overall" else name
        if split != "none":
            subset = f"{split}/{subset}".strip("/")
        assert ours[subset or "overall"] == float(value)


# Scorers


YES = "[Begin Reason]as asked[End Reason] [Begin Correctness]yes[End Correctness]"
NO = "[Begin Reason]it is not[End Reason] [Begin Correctness]no[End Correctness]"

# Of a set: scorer, and category, answer, prediction, score of each row.
Row = tuple[str, Any, str, float]
SCORED: dict[str, tuple[str, list[Row]]] = {
    "exact": (
        "accuracy",
        [
            ("a", "Dog", "dog", 1),
            ("a", ["Museum", "Hall"], "hall", 1),
            ("b", "Tokyo", "Kyoto", 0),
            ("b", "red", "RED", 1),
        ],
    ),
    "people": (
        "vqa_score",
        [
            ("a", ["dog"] * 10, "The Dog.", 1),
            # Of each ten people nine are asked: twice 1 of 3, eight times 2 of 3.
            ("a", ["cat"] * 2 + ["fox"] * 8, "cat", (2 * 1 / 3 + 8 * 2 / 3) / 10),
            ("b", ["hen"] * 10, "owl", 0),
            ("b", ["two"] * 4 + ["3"] * 6, "2", 1),
        ],
    ),
    "near": (
        "anls",
        [
            ("a", "Dog", "dog", 1),
            ("a", "Museum", "Museun", 5 / 6),
            ("b", "Tokyo", "Oslo", 0),
            ("b", ["alpha", "beta"], "betta", 4 / 5),
        ],
    ),
    "relaxed": (
        "relaxed_accuracy",
        [
            ("a", "100", "104.9", 1),
            ("a", "100", "106", 0),
            ("b", "50%", "0.51", 1),
            ("b", "Yes", "yes", 1),
            ("b", ["3", "three"], "Three", 1),
        ],
    ),
    "graded": (
        "judge",
        [
            ("a", "Dog", "a hound (good)", 1),
            ("a", ["Museum", "Hall"], "a museum (good)", 1),
            ("b", "Tokyo", "Kyoto", 0),
        ],
    ),
}


def _canary(name: str) -> str:
    return f"__import__('os').system('touch canary_{name}')"


def _hostile(folder: Path) -> list[dict[str, Any]]:
    """Datasets with code in each cell that upstream evaluates, as far as a file may have it.

    The image of `evil_paths` is a file that bears the code as its name.
    """
    data = folder / "hostile"
    options = ["index", "image", "question", "A", "B", "answer"]
    code = _canary
    absolute = f"__import__('os').system('touch {folder}/canary_absolute')"
    named = f"{code('named')}.png"
    put(data / named, picture())
    table: dict[str, tuple[Sequence[str], list[list[Any]], dict[str, str]]] = {
        "evil_index": (options, [[code("index"), _b64("red"), "q1", "x", "y", "A"]], {}),
        "evil_absolute": (options, [[absolute, _b64("red"), "q2", "x", "y", "A"]], {}),
        "evil_list": (options, [[f"[{code('list')}]", _b64("red"), "q3", "x", "y", "A"]], {}),
        "evil_share": (
            options,
            [
                [code("share"), _b64("red"), "q4", "x", "y", "A"],
                [2, code("share"), "q5", "x", "y", "A"],
            ],
            {},
        ),
        "evil_options": (
            [*options, "hint", "category"],
            [
                [1, _b64("red"), code("question"), code("a"), f"[{code('b')}]", "A", code("hint"),
                 code("category")],
            ],
            {},
        ),
        "evil_paths": (
            ["index", "question", "A", "B", "answer", "image_path"],
            [[1, "q", "x", "y", "A", named]],
            {},
        ),
        # Where only the user's class knows what is in a file nothing of it is checked.
        "evil_raw_path": (
            ["index", "question", "A", "B", "answer", "image_path"],
            [[1, "q", "x", "y", "A", f"[{code('raw_path')}]"]],
            {"class": "CustomMCQDataset"},
        ),
        "evil_raw_image": (
            options,
            [[1, f"[{code('raw_image')}, '{'A' * 64}']", "q", "x", "y", "A"]],
            {"class": "CustomMCQDataset"},
        ),
        "evil_raw_above": (
            [*options, "image_path"],
            [[1, _b64("red"), "q", "x", "y", "A", "../../../../../../above.png"]],
            {"class": "CustomMCQDataset"},
        ),
        "evil_raw_elsewhere": (
            [*options, "image_path"],
            [[1, _b64("red"), "q", "x", "y", "A", f"{folder}/elsewhere.png"]],
            {"class": "CustomMCQDataset"},
        ),
        "evil_raw_index": (
            options,
            [["../../../../../../index", _b64("red"), "q", "x", "y", "A"]],
            {"class": "CustomMCQDataset"},
        ),
    }  # fmt: skip
    for scorer in ("accuracy", "anls", "relaxed_accuracy", "vqa_score"):
        rows = [
            [1, "q", f"[{code(scorer)}]"],
            [2, f"[{code(f'{scorer}_question')}]", code(f"{scorer}_bare")],
        ]
        table[f"evil_{scorer}"] = (["index", "question", "answer"], rows, {"scorer": scorer})
    found = [
        {"name": name, "path": str(tsv(data / f"{name}.tsv", columns, rows)), **more}
        for name, (columns, rows, more) in table.items()
    ]
    text = jsonl(data / "text.jsonl", [user(code("ask"), answer=f"[{code('answer')}]")])
    choice = jsonl(
        data / "choice.jsonl",
        [{"question": "q", "options": [code("option"), f"[{code('option2')}]"], "answer": "A"}],
    )
    found.append({"name": "evil_text", "path": str(text)})
    found.append({"name": "evil_choice", "path": str(choice)})
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Sets with each scorer, TSV and JSONL; and the hostile ones, which must not disturb them."""
    folder = tmp_path_factory.mktemp("scored")
    own_data.media(folder)
    datasets: list[dict[str, Any]] = []
    replies: dict[str, str] = {}
    for name, (scorer, rows) in SCORED.items():
        table = [
            [n, f"[{name} {n}]", category, answer, "image1.jpg"]
            for n, (category, answer, _, _) in enumerate(rows)
        ]
        columns = ["index", "question", "category", "answer", "image_path"]
        records = [user(q, answer=a, category=c) for _, q, c, a, _ in table]
        paths = {
            name: tsv(folder / f"{name}.tsv", columns, table),
            f"{name}_jsonl": jsonl(folder / f"{name}.jsonl", records),
        }
        datasets += [{"name": n, "path": str(p), "scorer": scorer} for n, p in paths.items()]
        replies |= {f"[{name} {n}]": row[2] for n, row in enumerate(rows)}
    split = [[n, f"[split {n}]", "yes", s] for n, s in enumerate(["train", "train", "val"])]
    path = tsv(folder / "split.tsv", ["index", "question", "answer", "split"], split)
    datasets.append({"name": "split", "path": str(path), "scorer": "accuracy"})
    replies |= {"[split 0]": "yes", "[split 1]": "no", "[split 2]": "yes"}
    counted: list[tuple[Any, str]] = [
        ([3, "three"], "3"),
        ([3, "three"], "Three"),
        (3, "3"),
        ([4, 5], "3"),
    ]
    path = jsonl(
        folder / "counted.jsonl",
        (user(f"[counted {n}]", answer=a) for n, (a, _) in enumerate(counted)),
    )
    datasets.append({"name": "counted", "path": str(path), "scorer": "accuracy"})
    replies |= {f"[counted {n}]": said for n, (_, said) in enumerate(counted)}
    judged: Asked = []

    def judge(messages: Messages) -> str:
        return YES if "(good)" in _shown(messages) else NO

    with Endpoint(models=("j",), answer=judge, on_request=of_the_run(judged.append)) as judging:
        ran = evaluate(
            folder,
            [*datasets, *_hostile(folder)],
            by(replies),
            judge={"model": "j", "api_base": judging.url},
        )
    ran.judged = judged  # type: ignore[attr-defined]
    return ran


@pytest.mark.parametrize("form", ["", "_jsonl"])
@pytest.mark.parametrize("name", SCORED)
def test_scorers_give_what_is_reckoned_by_hand(scored: Ran, name: str, form: str) -> None:
    scorer, rows = SCORED[name]
    unit, whole = ("fraction", 1) if scorer == "judge" else ("percent", 100)
    groups = {"overall": rows, **{c: [r for r in rows if r[0] == c] for c in ("a", "b")}}

    values = scored.values(f"{name}{form}")

    assert values == pytest.approx(
        {subset: whole * sum(r[3] for r in own) / len(own) for subset, own in groups.items()}
    )
    found = scored.rows(f"{name}{form}")
    assert {r.unit for r in found} == {unit}
    assert {r.subset: r.n for r in found} == {s: len(own) for s, own in groups.items()}
    [primary] = [r for r in found if r.is_primary]
    assert primary.subset == "overall"
    assert primary.score == pytest.approx(primary.value / whole)


def test_a_scorer_by_split(scored: Ran) -> None:
    assert scored.values("split") == {"overall": pytest.approx(200 / 3), "train": 50, "val": 100}


def test_rows_say_who_scored(scored: Ran) -> None:
    assert {r.scorer for r in scored.rows("graded")} == {"j"}
    assert {r.scorer for r in scored.rows("exact")} != {"j"}
    assert {r.judge_fallback for r in scored.rows("graded")} == {False}


def test_the_judge_sees_question_answers_and_prediction(scored: Ran) -> None:
    shown = [_shown(a["body"]["messages"]) for a in scored.judged]  # type: ignore[attr-defined]

    for n, (_, answer, prediction, _) in enumerate(SCORED["graded"][1]):
        found = [text for text in shown if f"[graded {n}]" in text]
        assert len(found) == 2  # TSV and JSONL
        for text in found:
            assert prediction in text
            for one in answer if isinstance(answer, list) else [answer]:
                assert one in text


def test_answers_may_be_numbers(scored: Ran) -> None:
    assert scored.values("counted") == {"overall": 75.0}


def test_a_scored_sample_has_its_verdict(scored: Ran) -> None:
    table = scored.result.samples

    assert set(table[table["dataset"] == "graded"]["category"]) == {"a", "b"}
    assert len(table[table["dataset"] == "exact"]) == 4


# Data is data


def test_no_cell_is_executed(scored: Ran) -> None:
    """Neither while reading, nor asking, nor scoring; in no process."""
    places = [scored.folder, Path.cwd()]
    found = [p for place in places for p in place.rglob("canary_*") if p.name.isidentifier()]

    assert found == []


def test_hostile_files_are_scored_or_say_why_not(scored: Ran) -> None:
    hostile = [r for r in scored.result.rows if r.dataset.startswith("evil_")]

    assert len({r.dataset for r in hostile}) == 17
    for row in hostile:
        assert row.status in ("scored", "failed")
        assert row.status == "scored" or row.error
    done = {r.dataset for r in hostile if r.status == "scored"}
    # What is odd but no more is evaluated; where a judge was asked it found no option in it.
    assert done >= {
        "evil_text", "evil_accuracy", "evil_anls", "evil_vqa_score", "evil_relaxed_accuracy",
    }  # fmt: skip
    for name in ("evil_options", "evil_choice", "evil_paths"):
        assert "graded none" in scored.error(name)


def test_hostile_cells_are_sent_as_text(scored: Ran) -> None:
    text = _shown(scored.one("canary_question"))

    for name in ("question", "a", "b", "hint"):
        assert _canary(name) in text


def test_no_picture_is_written_outside_the_run(scored: Ran) -> None:
    inside = scored.result.path.resolve()
    found = [p for p in scored.folder.rglob("*.png") if not p.resolve().is_relative_to(inside)]

    assert [p.parent.name for p in found] == ["hostile"]  # the one that the data names
    for name in ("above", "elsewhere", "index"):
        assert not [*scored.folder.rglob(f"{name}.png")]
    assert "would lie outside" in scored.error("evil_raw_index")


def test_a_hostile_cell_that_fails_says_why(scored: Ran) -> None:
    for row in scored.result.rows:
        if row.status == "failed":
            assert "cannot read" not in row.error, row.dataset  # a file that upstream never wrote


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("index question A B answer image", [1, "q", "x", "y", "A", _canary("image" * 20)]),
        ("index question A B answer image", [1, "q", "x", "y", "A", f"[{_canary('i' * 60)}]"]),
        ("index question A B answer image_path", [1, "q", "x", "y", "A", _canary("path")]),
        ("index question A B answer image_path", [1, "q", "x", "y", "A", f"[{_canary('p')}]"]),
        ("index question A B answer", [1, "q", "x", "y", _canary("answer")]),
        ("index question A B answer", ["../../evil", "q", "x", "y", "A"]),
        ("question options answer", ["q", _canary("options"), "A"]),
        ("question options answer", ["q", f"[{_canary('options')}]", "A"]),
        ("messages answer", [_canary("messages"), "x"]),
        ("messages answer", [f"[{_canary('messages')}]", "x"]),
    ],
)
def test_code_where_no_code_can_be_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, row: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tsv(tmp_path / "evil.tsv", columns.split(), [row])

    with pytest.raises(ConfigError, match="line 2"):
        custom_data.check(path, custom_data.recognise(path))

    assert [p.name for p in tmp_path.iterdir()] == ["evil.tsv"]


def test_a_picture_of_a_name_that_upstream_takes_for_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream (parse_file, 0.0.20) knows a picture by its suffix, and fails without a word."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photo", picture())
    columns = ["index", "question", "A", "B", "answer", "image_path"]
    path = tsv(tmp_path / "pets.tsv", columns, [[1, "q", "x", "y", "A", "photo"]])

    with pytest.raises(ConfigError, match=r"line 2.*image_path"):
        custom_data.check(path, "mcq")


SPAWNED = """
import json, multiprocessing, os, runpy, sys
from functools import partial
if __name__ == "__main__":
    from vlmeval.dataset.utils.vqa_eval import process_line
    multiprocessing.set_start_method("spawn")
    # A child of the worker looks at the worker's main module.
    sys.modules["__main__"].__file__ = sys.argv[1]
    line = {"answer": "[__import__('os').system('touch canary')]", "prediction": "x"}
    with multiprocessing.Pool(1) as pool:
        found = pool.map_async(partial(process_line, method="accuracy"), [line])
        found.wait(90)
    print(json.dumps(os.listdir(".")))
"""


def test_no_cell_is_executed_in_a_process_that_is_not_forked(
    tmp_path: Path, environments: dict[str, Path]
) -> None:
    """As on macOS: upstream's VQA metrics run in a pool, whose processes begin anew."""
    done = subprocess.run(
        [str(environments["vlmeval"]), "-c", SPAWNED, str(WORKER / "__main__.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=150,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


HONEST = """
from vlmeval.smp import istype, toliststr
lists = ["['a', 'b']", '["a", 1, 2.5, None, True]', "[]", "[-1, +2, 3/4, 2**10]", "plain",
         "[[1, 2], (3,), {4: 'x'}]", "['it\\\\'s']", "[1e400, 0x1F, 1_000]", ["x", 1], "a]", "[a"]
typed = [("1", int), ("-1", int), ("01", int), ("1.5", float), ("1", float), ("x", int),
         ("'x'", str), ("[1]", list), (" [1]", list), ("(1,)", list), ("True", int), ("", int),
         (7, int), ("{'a': 1}", dict), ("1 + 1", int), ("[1", list), ("1_0", int), ("1j", int),
         (None, int), (float("nan"), int), ("None", type(None)), ("b'x'", bytes)]
def look():
    found = []
    for cell in lists:
        try:
            found.append(toliststr(cell))
        except Exception as error:
            found.append(type(error).__name__)
    return found, [istype(cell, kind) for cell, kind in typed]
before = look()
from evalshim_worker import literals
literals.read_cells_as_literals()
after = look()
code = "__import__('os').system('touch canary')"
hostile = {}
for cell in (f"[{code}]", f"[x for x in ({code},)]", f"[(lambda: {code})()]",
             "[open('canary', 'w')]", "[f'{open(chr(99), chr(119))}']",
             "[*open('canary', 'w')]", "[().__class__]", "[9**9**9**9]",
             "[" * 5000 + "]" * 5000, "['a' * 10**10]", "[1, 2][0]]"):
    try:
        hostile[cell[:40]] = repr(toliststr(cell))[:80]
    except Exception as error:
        hostile[cell[:40]] = type(error).__name__
    istype(cell, list)
print(json.dumps([before, after, hostile, eval("1 + len('ab')"), os.listdir(".")]))
"""


def test_honest_cells_are_read_as_upstream_reads_them(
    tmp_path: Path, environments: dict[str, Path]
) -> None:
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + HONEST],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    before, after, hostile, ours, files = json.loads(done.stdout.splitlines()[-1])

    assert after == before
    assert before[0][0] == ["a", "b"]
    assert before[1][0] is True
    for cell, outcome in hostile.items():
        assert outcome.endswith("Error"), (cell, outcome)
    assert ours == 3  # eval of anyone else is Python's
    assert files == []


# Plug-ins


PLUGIN = '''\
"""Classes of the user's own."""
import json
import os

import numpy as np
import pandas as pd
from vlmeval.api.base import BaseAPI
from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.dataset.image_mt import ImageMTDataset
from vlmeval.smp import load
from vlmeval.vlm.base import BaseModel


class Words(ImageBaseDataset):
    TYPE = "VQA"
    DATASET_URL = {"words_by_url": ""}

    def build_prompt(self, line):
        if isinstance(line, int):
            line = self.data.iloc[line]
        pictures = [dict(type="image", value=path) for path in self.dump_image(line)]
        return [*pictures, dict(type="text", value="Words of " + line["question"])]

    def evaluate(self, eval_file, **judge_kwargs):
        data = load(eval_file)
        counts = [len(str(p).split()) for p in data["prediction"]]
        return {"words": float(np.mean(counts)), "rows": len(data)}


class Table:
    """Says only what differs from upstream's base class."""

    def build_prompt(self, line):
        return [dict(type="text", value="Table of " + line["question"])]

    def evaluate(self, eval_file, **judge_kwargs):
        data = load(eval_file)
        assert {"index", "question", "answer", "prediction"} <= set(data)
        return pd.DataFrame({"split": ["none"], "Overall": [0.75], "left": [0.5], "right": [1.0]})


class Talk(ImageMTDataset):
    def evaluate(self, eval_file, **judge_kwargs):
        return {"turns": float(np.mean([len(eval(p)) for p in load(eval_file)["prediction"]]))}


class BadLoad(Words):
    DATASET_URL = {}

    def load_data(self, dataset):
        raise OSError("no such shelf")  # BadLoad


class BadPrompt(Words):
    DATASET_URL = {}

    def build_prompt(self, line):
        return line["no such column"]  # BadPrompt


class BadEvaluate(Words):
    DATASET_URL = {}

    def evaluate(self, eval_file, **judge_kwargs):
        return 1 / 0  # BadEvaluate


class BadAssertion(Words):
    DATASET_URL = {}

    def evaluate(self, eval_file, **judge_kwargs):
        assert "correct" in load(eval_file)  # BadAssertion


class Echo:
    def generate_inner(self, message, dataset=None):
        shown = [os.path.basename(m["value"]) if m["type"] == "image" else m["value"]
                 for m in message]
        return json.dumps([dataset, *shown])


class FirstImage(BaseModel):
    INTERLEAVE = False

    def __init__(self, prefix="first"):
        super().__init__()
        self.prefix = prefix

    def generate_inner(self, message, dataset=None):
        prompt, image = self.message_to_promptimg(message, dataset=dataset)
        return f"{self.prefix} {os.path.basename(image or 'nothing')}: {prompt}"


class Prompter:
    INTERLEAVE = True

    def use_custom_prompt(self, dataset):
        return dataset == "letters"

    def build_prompt(self, line, dataset=None):
        picture, *_ = self.dump_image(line, dataset)
        return [dict(type="image", value=picture), dict(type="text", value=f"{dataset} {line.A}?")]

    def generate_inner(self, message, dataset=None):
        return message[-1]["value"]


class Chatty:
    def generate_inner(self, message, dataset=None):
        return "one turn"

    def chat_inner(self, message, dataset=None):
        roles = "".join(m["role"][0] for m in message)
        return f"{roles}:{message[-1]['content'][-1]['value']}"


class Burnt:
    def generate_inner(self, message, dataset=None):
        raise RuntimeError("the model burnt")  # Burnt


class Mute(Echo):
    def chat_inner(self, message, dataset=None):
        raise RuntimeError("no voice")  # Mute


class BurntApi(BaseAPI):
    is_api = True

    def __init__(self):
        super().__init__(retry=1, wait=0)

    def generate_inner(self, inputs, **kwargs):
        raise RuntimeError("the line burnt")  # BurntApi
'''
MODELS = ("Echo", "FirstImage", "Prompter", "Chatty", "Mute", "Burnt", "BurntApi")


def _line(mark: str) -> int:
    [number] = [n for n, text in enumerate(PLUGIN.splitlines(), 1) if text.endswith(f"# {mark}")]
    return number


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Every class of the plug-in: models that need no endpoint, on all its datasets and others."""
    folder = tmp_path_factory.mktemp("plugged")
    put(folder / "mine.py", PLUGIN)
    red, blue = (put(folder / f"{c}.png", picture(c)) for c in ("red", "blue"))
    rows = [
        [1, "one", "1", str(red)],
        [2, "two", "2", repr([str(red), str(blue)])],
    ]
    columns = ["index", "question", "answer", "image_path"]
    words = tsv(folder / "words.tsv", columns, rows)
    put(folder / "LMUData" / "words_by_url.tsv", words.read_bytes())
    talk = tsv(
        folder / "talk.tsv", columns,
        [[1, repr(["hello <ImageHere>", "bye"]), repr(["a", "b"]), repr([str(red)])]],
    )  # fmt: skip
    letters = tsv(
        folder / "letters.tsv", ["index", "question", "A", "B", "answer", "image_path"],
        [[1, "which?", "x", "y", "A", repr([str(red), str(blue)])]],
    )  # fmt: skip
    shown: list[Any] = [image("red.png"), "between", image("blue.png"), "after"]
    asking = jsonl(folder / "asking.jsonl", [user(*shown, answer="x")])
    classes = {"words": "Words", "table": "Table", "bad_load": "BadLoad",
               "bad_prompt": "BadPrompt",
               "bad_evaluate": "BadEvaluate",
               "bad_assertion": "BadAssertion"}  # fmt: skip
    datasets: list[Any] = [
        {"name": name, "class": cls, "path": str(words)} for name, cls in classes.items()
    ]
    datasets += [
        "words_by_url",
        {"name": "talk", "class": "Talk", "path": str(talk)},
        {"name": "letters", "path": str(letters)},
        {"name": "asking", "path": str(asking), "scorer": "accuracy"},
    ]
    models: list[Any] = [{"name": name, "class": name} for name in MODELS if name != "FirstImage"]
    models.append({"name": "FirstImage", "class": "FirstImage", "upstream": {"prefix": "1st"}})
    with at_home(folder):
        result = evalshim.run(models=models, datasets=datasets, plugins="mine.py")
    return Ran(result, [], folder)


def test_a_class_of_datasets_with_a_dict(plugged: Ran) -> None:
    values = plugged.values("words", "Echo")

    assert values["words"] == (5 + 6) / 2
    assert values["rows"] == 2
    assert plugged.predictions("words", "Echo") == {
        "1": '["words", "red.png", "Words of one"]',
        "2": '["words", "red.png", "blue.png", "Words of two"]',
    }


def test_a_class_of_datasets_by_the_name_of_its_url(plugged: Ran) -> None:
    assert plugged.predictions("words_by_url", "Echo")["1"] == (
        '["words_by_url", "red.png", "Words of one"]'
    )
    assert plugged.values("words_by_url", "Echo")["rows"] == 2


def test_a_class_of_datasets_with_a_table_and_nothing_else(plugged: Ran) -> None:
    assert plugged.values("table", "Echo") == {"overall": 0.75, "left": 0.5, "right": 1.0}
    assert plugged.predictions("table", "Echo")["2"] == '["table", "Table of two"]'


def test_numbers_of_a_plug_in_are_not_taken_for_percentages(plugged: Ran) -> None:
    for row in plugged.rows("table", "Echo"):
        assert row.score in (None, row.value)


def test_a_model_with_generate_inner_alone(plugged: Ran) -> None:
    found = json.loads(plugged.predictions("letters", "Echo")["1"])

    assert found[:3] == ["letters", "red.png", "blue.png"]
    assert "Question: which?" in found[3]


def test_a_general_set_is_upstreams_interleaved_message_to_a_model(plugged: Ran) -> None:
    found = json.loads(plugged.predictions("asking", "Echo")["1"])

    assert found == ["asking", "red.png", "between", "blue.png", "after"]


def test_a_model_that_takes_one_picture(plugged: Ran) -> None:
    found = plugged.predictions("letters", "FirstImage")["1"]

    assert found.startswith("1st red.png: Question: which?")
    assert plugged.predictions("table", "FirstImage")["1"] == "1st nothing: Table of one"


def test_a_model_with_prompts_of_its_own(plugged: Ran) -> None:
    assert plugged.predictions("letters", "Prompter")["1"] == "letters x?"
    assert plugged.predictions("table", "Prompter")["1"] == "Table of one"


def test_a_model_that_chats(plugged: Ran) -> None:
    assert plugged.values("talk", "Chatty") == {"turns": 2.0}
    [turns] = plugged.predictions("talk", "Chatty").values()
    assert json.loads(turns.replace("'", '"')) == [f"u:{plugged.folder / 'red.png'}", "uau:bye"]


@pytest.mark.parametrize(
    ("dataset", "model", "mark", "what"),
    [
        ("bad_load", "Echo", "BadLoad", "no such shelf"),
        ("bad_prompt", "Echo", "BadPrompt", "no such column"),
        ("bad_evaluate", "Echo", "BadEvaluate", "ZeroDivisionError"),
        ("bad_assertion", "Echo", "BadAssertion", "AssertionError"),
        ("talk", "Mute", "Mute", "no voice"),
        ("words", "BurntApi", "BurntApi", "the line burnt"),
        ("words", "Burnt", "Burnt", "the model burnt"),
        ("letters", "Burnt", "Burnt", "the model burnt"),
    ],
)
def test_what_a_plug_in_raises_names_its_file_and_line(
    plugged: Ran, dataset: str, model: str, mark: str, what: str
) -> None:
    error = plugged.error(dataset, model)

    assert f"mine.py, line {_line(mark)}" in error
    assert what in error


def test_other_cells_go_on(plugged: Ran) -> None:
    failed = {(r.dataset, r.model) for r in plugged.result.rows if r.status == "failed"}

    datasets = {r.dataset for r in plugged.result.rows}
    assert len(datasets) == 10
    bad = [d for d in datasets if d.startswith("bad_")]
    expected = {(d, m) for d in bad for m in MODELS}
    expected |= {(d, m) for d in datasets for m in ("Burnt", "BurntApi")}
    expected |= {("talk", m) for m in ("Echo", "FirstImage", "Prompter", "Mute")}
    assert failed == expected
    assert plugged.result.exit_code != 0


def test_a_model_without_chat_says_so(plugged: Ran) -> None:
    assert "chat" in plugged.error("talk", "Echo")


def test_a_plug_in_that_does_not_load_fails_every_cell(tmp_path: Path) -> None:
    put(tmp_path / "broken.py", "import vlmeval\n\nraise LookupError('lost')\n")
    path = tsv(tmp_path / "q.tsv", ["index", "question", "A", "B", "answer"], [[1, "q", 1, 2, "A"]])

    ran = evaluate(
        tmp_path,
        [{"name": "first", "path": str(path)}],
        by({}),
        ({"name": "m"}, {"name": "n"}),
        plugins=["broken.py"],
    )

    assert ran.asked == []
    for model in ("m", "n"):
        error = ran.error("first", model)
        assert "broken.py, line 3" in error
        assert "LookupError" in error and "lost" in error


def test_a_plug_in_that_is_no_python_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "broken.py", "def (:\n")

    with pytest.raises(ConfigError, match=r"broken\.py, line 1"):
        evalshim.run(models=["Echo"], datasets=["demo_shapes"], plugins=["broken.py"])
