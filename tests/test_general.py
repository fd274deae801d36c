"""EvalScope's General records: what is asked, and what is said of those that ask nothing."""

from __future__ import annotations

import base64
import json
import socket
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from evalshim.adapters import custom_rows, general

from .conftest import as_base64, picture

WHITE = f"data:image/png;base64,{as_base64(picture('white'))}"
URL = "https://example.com/image.jpg"


class _Asked:
    """Reads records beside the files of a folder, and keeps what is said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.noted: list[str] = []
        self.find = custom_rows.finder(folder / "data.jsonl")

    def say(
        self, what: str, why: str = "", cure: str = "", column: str = "", fatal: bool = True
    ) -> None:
        assert what
        assert len(what) < 400
        (self.said if fatal else self.noted).append(what)

    def messages(self, *messages: Any, **members: Any) -> list[Any]:
        return general.messages({"messages": list(messages), **members}, self.find, self.say)

    def user(self, *parts: Any) -> Any:
        """The parts of the only message, as they are asked."""
        [message] = self.messages({"role": "user", "content": list(parts)})
        return message["content"]

    def interleaved(self, text: str, **members: Any) -> Any:
        media = general.media(members, text, self.find, self.say)
        return general.interleaved(text, media, self.say)

    def options(self, value: Any) -> list[str]:
        return general.options({"options": value}, self.say)

    def file(self, name: str) -> str:
        return f"file://{self.folder / name}"


@pytest.fixture
def asked(tmp_path: Path) -> _Asked:
    """Beside pictures 1.png to 3.png, custom_eval/dog.jpg, and a sound in tone.wav and tone.mp3."""
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "custom_eval").mkdir()
    (tmp_path / "custom_eval" / "dog.jpg").write_bytes(picture(form="JPEG"))
    with wave.open(str(tmp_path / "tone.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 80)
    (tmp_path / "tone.mp3").write_bytes(b"\xff\xfb\x90\x00" + bytes(413))
    (tmp_path / "text.txt").write_text("no picture, no sound")
    return _Asked(tmp_path)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may open a connection."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(url: Any, **members: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **members}}


def _sound(data: Any, form: Any = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def _video(url: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


class TestExamplesOfTheDocument:
    def test_text_and_a_local_picture(self, asked: _Asked) -> None:
        found = asked.user(_text("What animal is this?"), _picture("custom_eval/dog.jpg"))

        assert found == [
            _text("What animal is this?"), _picture(asked.file("custom_eval/dog.jpg")),
        ]  # fmt: skip
        assert not asked.said

    def test_several_pictures_keep_their_places(self, asked: _Asked) -> None:
        found = asked.user(
            _text("Compare these two images:"), _picture("1.png"), _text("and"), _picture("2.png"),
            _text("What are the differences?"),
        )  # fmt: skip

        assert found == [
            _text("Compare these two images:"), _picture(asked.file("1.png")), _text("and"),
            _picture(asked.file("2.png")), _text("What are the differences?"),
        ]  # fmt: skip

    def test_a_system_prompt_and_detail(self, asked: _Asked) -> None:
        system = {"role": "system", "content": "You are a medical AI assistant."}
        user = {"role": "user", "content": [_text("Analyze"), _picture("1.png", detail="high")]}

        found = asked.messages(system, user)

        assert found[0] == system
        assert found[1]["content"][1] == _picture(asked.file("1.png"), detail="high")
        assert not asked.said

    @pytest.mark.parametrize("url", [URL, "http://127.0.0.1:9/a.png", WHITE])
    def test_urls_and_data_urls_stay_as_they_are(self, asked: _Asked, url: str) -> None:
        assert asked.user(_text("q"), _picture(url)) == [_text("q"), _picture(url)]
        assert not asked.said

    @pytest.mark.parametrize(("name", "form"), [("tone.wav", "wav"), ("tone.mp3", "mp3")])
    def test_a_sound_in_a_file(self, asked: _Asked, name: str, form: str) -> None:
        assert asked.user(_sound(name, form)) == [_sound(asked.file(name), form)]
        assert not asked.said

    def test_a_sound_as_base64(self, asked: _Asked) -> None:
        data = as_base64((asked.folder / "tone.wav").read_bytes())

        assert asked.user(_sound(data)) == [_sound(data)]
        assert asked.user(_sound(f"data:audio/wav;base64,{data}")) == [
            _sound(f"data:audio/wav;base64,{data}")
        ]
        assert not asked.said

    def test_options_that_are_pictures(self, asked: _Asked) -> None:
        record = {
            "question": "Which image shows a dog?",
            "options": ["<image 1>", "<image 2>", "<image 3>"],
            **{f"image_{k}": f"{k}.png" for k in (1, 2, 3)},
        }
        options = general.options(record, asked.say)
        media = general.media(record, "\n".join(options), asked.find, asked.say)

        assert media == {f"image {k}": _picture(asked.file(f"{k}.png")) for k in (1, 2, 3)}
        assert not asked.said

    def test_a_picture_before_the_question(self, asked: _Asked) -> None:
        found = asked.interleaved("<image 1> What building is this?", image_1="1.png")

        assert found == [_picture(asked.file("1.png")), _text(" What building is this?")]


class TestPlaceholders:
    def test_in_any_order(self, asked: _Asked) -> None:
        found = asked.interleaved("a <image 2> b <image 1> c", image_1="1.png", image_2="2.png")

        assert found == [
            _text("a "), _picture(asked.file("2.png")), _text(" b "), _picture(asked.file("1.png")),
            _text(" c"),
        ]  # fmt: skip

    def test_the_same_twice(self, asked: _Asked) -> None:
        found = asked.interleaved("<image 1><image 1> q", image_1="1.png")

        assert found == [_picture(asked.file("1.png"))] * 2 + [_text(" q")]

    def test_with_an_underscore(self, asked: _Asked) -> None:
        assert asked.interleaved("<image_1> q", image_1="1.png") == [
            _picture(asked.file("1.png")), _text(" q"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "text", ["<image>", "<img 1>", "<image  1>", "<Image 1>", "< image 1>", "<image-1>"]
    )
    def test_in_another_spelling_are_text(self, asked: _Asked, text: str) -> None:
        assert asked.interleaved(text, image_1="1.png") == text
        assert not asked.said
        assert not asked.noted

    def test_without_a_picture_the_rest_is_text(self, asked: _Asked) -> None:
        found = asked.interleaved("a <image 1> b <image 2> c <image 1>", image_1="1.png")

        assert found == [
            _text("a "), _picture(asked.file("1.png")), _text(" b <image 2> c <image 1>"),
        ]  # fmt: skip
        assert asked.noted == ["no image for <image 2>"]
        assert not asked.said

    def test_without_any_picture_all_is_text(self, asked: _Asked) -> None:
        text = "a <image 1> b"

        assert asked.interleaved(text) == text
        assert asked.noted == ["no image for <image 1>"]

    @pytest.mark.parametrize("empty", [None, ""])
    def test_an_empty_picture_is_none(self, asked: _Asked, empty: Any) -> None:
        assert asked.interleaved("a <image 1>", image_1=empty) == "a <image 1>"
        assert asked.noted == ["no image for <image 1>"]

    def test_the_hundredth_is_the_last(self, asked: _Asked) -> None:
        found = asked.interleaved("<image 100><image 101>", image_100="1.png", image_101="2.png")

        assert found == [_picture(asked.file("1.png")), _text("<image 101>")]
        assert asked.noted == ["no image for <image 101>"]

    @pytest.mark.parametrize("number", ["0", "00", "9" * 30, "9" * 5000])
    def test_no_other_number_has_a_picture(self, asked: _Asked, number: str) -> None:
        text = f"<image {number}>"

        assert asked.interleaved(text, image_9="1.png", images=["1.png"]) == text
        assert len(asked.noted) == 1

    def test_pictures_in_a_list(self, asked: _Asked) -> None:
        found = asked.interleaved("<image 2><image 1>", images=["1.png", "2.png"])

        assert found == [_picture(asked.file("2.png")), _picture(asked.file("1.png"))]

    def test_one_of_its_own_wins_over_the_list(self, asked: _Asked) -> None:
        assert asked.interleaved("<image 1>", images=["1.png"], image_1="3.png") == [
            _picture(asked.file("3.png"))
        ]

    @pytest.mark.parametrize("key", ["url", "path", "data"])
    def test_a_picture_as_a_mapping(self, asked: _Asked, key: str) -> None:
        assert asked.interleaved("<image 1>", image_1={key: "1.png"}) == [
            _picture(asked.file("1.png"))
        ]

    @pytest.mark.parametrize(
        ("head", "is_one"),
        [
            (b"\0\0\0\x18ftypmp42", True),
            (b"\x1aE\xdf\xa3", True),
            ((b"G" + b"\0" * 187) * 3, True),
            # A text, whose first letter is that of a transport stream.
            (b"GITHUB_TOKEN=x" * 40, False),
            (b"G", False),
            (b"", False),
        ],
    )
    def test_a_file_is_a_video_by_its_beginning(
        self, asked: _Asked, head: bytes, is_one: bool
    ) -> None:
        (asked.folder / "v.mp4").write_bytes(head)

        asked.messages({"role": "user", "content": [_video("v.mp4")]})

        assert (asked.said == []) is is_one
        assert is_one or "not a video: v.mp4" in asked.said[0]

    def test_sounds_and_videos(self, asked: _Asked) -> None:
        found = asked.interleaved(
            "<audio 1> and <audio_2> and <video 1>",
            audio_1="tone.wav", audio_2="tone.mp3", video_1="http://h/v.mp4",
        )  # fmt: skip

        assert found == [
            _sound(asked.file("tone.wav")), _text(" and "), _sound(asked.file("tone.mp3"), "mp3"),
            _text(" and "), _video("http://h/v.mp4"),
        ]  # fmt: skip

    def test_the_format_of_a_sound_may_be_said(self, asked: _Asked) -> None:
        (asked.folder / "tone").write_bytes((asked.folder / "tone.mp3").read_bytes())

        found = asked.interleaved("<audio 1>", audio_1="tone", audio_1_format="mp3")

        assert found == [_sound(asked.file("tone"), "mp3")]

    def test_in_the_text_of_a_user(self, asked: _Asked) -> None:
        [message] = asked.messages({"role": "user", "content": "<image 1> q"}, image_1="1.png")

        assert message["content"] == [_picture(asked.file("1.png")), _text(" q")]

    @pytest.mark.parametrize("role", ["system", "assistant", "tool"])
    def test_of_another_role_are_text(self, asked: _Asked, role: str) -> None:
        found = asked.messages(
            {"role": role, "content": "<image 1> q"}, {"role": "user", "content": "q"},
            image_1="1.png",
        )  # fmt: skip

        assert found[0]["content"] == "<image 1> q"

    @pytest.mark.parametrize("value", [5, True, ["1.png"], {}, {"url": 5}, {"other": "1.png"}])
    def test_what_is_no_picture_is_told(self, asked: _Asked, value: Any) -> None:
        asked.interleaved("<image 1>", image_1=value)

        assert asked.said == ["image_1 is no path, URL or data URL"]


class TestMessages:
    def test_several_turns_keep_order_and_roles(self, asked: _Asked) -> None:
        given = [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": [_text("r")]},
        ]

        assert asked.messages(*given) == given
        assert not asked.said

    def test_tools_are_passed_on(self, asked: _Asked) -> None:
        given = [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]

        assert asked.messages(*given) == given
        assert not asked.said

    def test_other_members_are_kept(self, asked: _Asked) -> None:
        given = {"role": "user", "name": "Ann", "content": [{**_text("q"), "cache": True}]}

        assert asked.messages(given) == [given]

    def test_the_record_is_not_changed(self, asked: _Asked) -> None:
        record = {"messages": [{"role": "user", "content": [_picture("1.png")]}]}
        before = json.dumps(record)

        general.messages(record, asked.find, asked.say)

        assert json.dumps(record) == before

    @pytest.mark.parametrize("short", ["1.png", URL])
    def test_a_picture_may_be_a_text_alone(self, asked: _Asked, short: str) -> None:
        found = asked.user({"type": "image_url", "image_url": short})

        assert found == [_picture(asked.file(short) if short == "1.png" else short)]

    @pytest.mark.parametrize("video", ["http://h/v.mp4", {"url": "http://h/v.mp4", "fps": 2}])
    def test_a_video_is_a_text_or_a_mapping(self, asked: _Asked, video: Any) -> None:
        [part] = asked.user({"type": "video_url", "video_url": video})

        assert part["video_url"]["url"] == "http://h/v.mp4"
        assert not asked.said

    def test_the_cell_of_a_tsv(self, asked: _Asked) -> None:
        given = [{"role": "user", "content": [_text("q"), _picture("1.png")]}]

        found = general.messages({"messages": json.dumps(given)}, asked.find, asked.say)

        assert found[0]["content"] == [_text("q"), _picture(asked.file("1.png"))]

    @pytest.mark.parametrize("path", ["1.png", "./1.png", "custom_eval/../1.png"])
    def test_a_file_url(self, asked: _Asked, path: str) -> None:
        [part] = asked.user(_picture(f"file://{asked.folder}/{path}"))

        assert Path(part["image_url"]["url"].removeprefix("file://")).samefile(
            asked.folder / "1.png"
        )
        assert not asked.said

    def test_a_file_url_with_a_space(self, asked: _Asked) -> None:
        (asked.folder / "a b.png").write_bytes(picture())

        [part] = asked.user(_picture(f"file://{asked.folder}/a%20b.png"))

        assert part == _picture(asked.file("a b.png"))

    def test_files_of_the_working_directory(
        self, asked: _Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = asked.folder / "custom_eval"
        monkeypatch.chdir(folder)

        assert asked.user(_picture("dog.jpg")) == [_picture(f"file://{folder}/dog.jpg")]

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            {},
            {"role": "user", "content": "q"},
            "",
            "[]",
            "q",
            5,
            None,
            [5],
            ["q"],
            [None],
            [[]],
            [{}],
            [{"role": "user"}],
            [{"role": "user", "content": None}],
            [{"role": "user", "content": 5}],
            [{"role": "user", "content": {}}],
            [{"role": "user", "content": _text("q")}],
            [{"role": None, "content": "q"}],
            [{"role": [], "content": "q"}],
            [{"role": {}, "content": "q"}],
            [{"role": "User", "content": "q"}],
            [{"role": "system", "content": "q"}],
            [{"role": "user", "content": []}],
            [{"role": "user", "content": ""}],
            [{"role": "user", "content": [5]}],
            [{"role": "user", "content": ["q"]}],
            [{"role": "user", "content": [None]}],
            [{"role": "user", "content": [{}]}],
            [{"role": "user", "content": [{"type": "text"}]}],
            [{"role": "user", "content": [{"type": "text", "text": 5}]}],
            [{"role": "user", "content": [{"type": [], "text": "q"}]}],
            [{"role": "user", "content": [{"type": "image_url"}]}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": None}]}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": []}]}],
            [{"role": "user", "content": [_picture(None)]}],
            [{"role": "user", "content": [_picture({})]}],
            [{"role": "user", "content": [_picture("")]}],
            [{"role": "user", "content": [_picture("no.png")]}],
            [{"role": "user", "content": [_picture("text.txt")]}],
            [{"role": "user", "content": [_picture("custom_eval")]}],
            [{"role": "user", "content": [_picture("data:image/png;base64,")]}],
            [{"role": "user", "content": [_picture("data:image/png;base64,AAAA")]}],
            [{"role": "user", "content": [_picture("data:,hello")]}],
            [{"role": "user", "content": [_picture("ftp://h/a.png")]}],
            [{"role": "user", "content": [_picture("file://elsewhere/a.png")]}],
            [{"role": "user", "content": [_sound(None)]}],
            [{"role": "user", "content": [_sound("no.wav")]}],
            [{"role": "user", "content": [_sound("no base64 at all " * 9)]}],
            [{"role": "user", "content": [_sound("data:audio/wav;base64,")]}],
            [{"role": "user", "content": [_sound("data:audio/wav;base64,?")]}],
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": "tone.wav"}]}],
            [{"role": "user", "content": [_video("no.mp4")]}],
            [{"role": "user", "content": [_video(None)]}],
        ],
    )
    def test_of_a_wrong_shape_are_told(self, asked: _Asked, messages: Any) -> None:
        general.messages({"messages": messages}, asked.find, asked.say)

        assert asked.said

    @pytest.mark.parametrize("form", ["ogg", "flac", "WAV", "", None, 5, ["wav"], {"a": 1}])
    def test_a_sound_of_another_format_is_told(self, asked: _Asked, form: Any) -> None:
        asked.user(_sound("tone.wav", form))

        assert asked.said == [f"message 1: audio of the format {form!r}"]

    def test_malformed_json_names_the_place(self, asked: _Asked) -> None:
        general.messages({"messages": '[{"role": "user" "content"'}, asked.find, asked.say)

        assert asked.said == ["malformed JSON, character 18"]

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[" * 900 + "]" * 900])
    def test_deep_json_is_told(self, asked: _Asked, text: str) -> None:
        general.messages({"messages": text}, asked.find, asked.say)

        assert asked.said

    def test_all_that_is_wrong_is_told(self, asked: _Asked) -> None:
        asked.messages(
            {"role": "usr"}, {"role": "user", "content": [_picture("no.png"), _sound("no.wav")]}
        )

        assert len(asked.said) == 3

    def test_a_message_is_named_by_its_number(self, asked: _Asked) -> None:
        asked.messages({"role": "user", "content": "q"}, {"role": "user", "content": 5})

        assert asked.said == ["message 2 has no content"]


class TestOptions:
    @pytest.mark.parametrize(
        "value",
        [
            ["School", "Park"],
            '["School", "Park"]',
            "['School', 'Park']",
            "('School', 'Park')",
            ' ["School", "Park"] ',
            "[\n'School',\n'Park'\n]",
        ],
    )
    def test_are_a_list_or_one_in_a_text(self, asked: _Asked, value: Any) -> None:
        assert asked.options(value) == ["School", "Park"]
        assert not asked.said

    def test_become_texts(self, asked: _Asked) -> None:
        assert asked.options([1, 2.5, True]) == ["1", "2.5", "True"]

    @pytest.mark.parametrize("value", ['["it\'s", "a"]', "[\"it's\", 'a']"])
    def test_keep_their_quotes(self, asked: _Asked, value: str) -> None:
        assert asked.options(value) == ["it's", "a"]

    @pytest.mark.parametrize("count", [2, 26])
    def test_are_2_to_26(self, asked: _Asked, count: int) -> None:
        assert len(asked.options(list("abcdefghijklmnopqrstuvwxyz")[:count])) == count

    @pytest.mark.parametrize(
        "value",
        [
            ["one"], '["one"]', [], "[]", ["x"] * 27, str(["x"] * 27), None, "", "School, Park", 5,
            {"A": "a", "B": "b"}, "{'a', 'b'}", '["a", "b"', "['a', b]", "[a, b]",
            "['a'] * 10**9", "[x for x in 'ab']", "__import__('os').listdir()", "['a', f'{1}']",
            "[" * 10_000, "-" * 10_000 + "1", "[0x" + "f" * 5000 + ", 1]",
            "[" + "9" * 5000 + ", 1]", "['a', '\0']",
        ],
        ids=lambda value: str(value)[:30],
    )  # fmt: skip
    def test_are_nothing_else(self, asked: _Asked, value: Any) -> None:
        assert asked.options(value) == []
        assert len(asked.said) == 1


class TestAsked:
    def test_is_what_users_say(self, asked: _Asked) -> None:
        found = asked.messages(
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": [_text("r"), _picture("1.png"), _text("s")]},
        )

        assert general.asked(found) == "q\nr\n<image>\ns"

    def test_names_sounds_and_videos(self, asked: _Asked) -> None:
        found = asked.messages(
            {"role": "user", "content": [_sound("tone.wav"), _video("http://h/v"), _text("q")]}
        )

        assert general.asked(found) == "<audio>\n<video>\nq"


class TestTakes:
    @pytest.mark.parametrize(
        ("messages", "what"),
        [
            ([{"role": "user", "content": "q"}], []),
            ([{"role": "user", "content": [_text("q"), _picture(URL)]}], ["pictures by URL"]),
            ([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], []),
            (
                [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}],
                ["several turns"],
            ),
            (
                [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                ["several turns"],
            ),
            ([{"role": "user", "content": [_sound("x")]}], ["audio"]),
            ([{"role": "user", "content": [_video("x"), _sound("x")]}], ["video", "audio"]),
            ([{"role": "assistant", "content": None, "tool_calls": []}], ["several turns"]),
        ],
    )
    def test_what_few_models_can_take(self, messages: list[Any], what: list[str]) -> None:
        assert list(general.takes(messages)) == what


class TestFiles:
    @pytest.mark.parametrize("make", [_picture, _sound, _video])
    @pytest.mark.parametrize("name", ["no.png", "../no.png", "~nobody/x", "x!" * 2500, "a\0b"])
    def test_one_that_is_not_there_is_told(
        self, asked: _Asked, make: Callable[..., dict[str, Any]], name: str
    ) -> None:
        asked.user(make(name))

        assert len(asked.said) == 1

    def test_base64_in_lines_is_a_sound(self, asked: _Asked) -> None:
        text = base64.encodebytes((asked.folder / "tone.wav").read_bytes()).decode()

        assert asked.user(_sound(text)) == [_sound(text)]
        assert not asked.said

    @pytest.mark.parametrize("form", ["wav", "mp3"])
    def test_text_is_no_sound(self, asked: _Asked, form: str) -> None:
        """Or any file that its reader can open would go to an endpoint under that name."""
        asked.user(_sound("text.txt", form))

        assert len(asked.said) == 1
