"""EvalScope's General-VQA and General-VMCQ records (1.14, its user guide for custom data).

A record becomes what is asked: messages in OpenAI's form, or a question with options,
in which every local file is `file://` and its absolute path. URLs stay as they are.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from evalshim.adapters import pictures, tables

FILE = "file://"
# EvalScope's: `<image 1>`, and `<image_1>`.
PLACEHOLDER = re.compile(r"<(image|video|audio)[_ ](\d+)>")
MOST_MEDIA = 100
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ROLES = ("system", "developer", "user", "assistant", "tool")
_SOUNDS = ("wav", "mp3")
# Matroska and WebM, MPEG, Flash; MP4, QuickTime and AVI have theirs further on.
_VIDEOS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV")
# A transport stream is packets of so many bytes, each of which begins with `G`.
_PACKET = 188
_NAMES = {"image_url": "picture", "video_url": "video", "input_audio": "audio"}

# Notes what is wrong: what, why, how to mend it.
Say = Callable[..., None]


def messages(record: Mapping[str, Any], find: Callable[[str], Path | None], say: Say) -> list[Any]:
    """The messages of a General-VQA record.

    Args:
        find: The file that a relative or absolute path means, if there is one.
        say: Told each defect; what is returned then is of no use.
    """
    given = record.get("messages")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            say(*malformed(error))
            return []
    if not isinstance(given, list) or not given:
        what = 'e.g. [{"role": "user", "content": "What is this?"}]'
        say("no messages", "OpenAI's: a list of {role, content}", what)
        return []
    found: list[Any] = []
    for position, message in enumerate(given):
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            say(f"message {position + 1} has no role", f"one of {', '.join(_ROLES)}",
                'e.g. "role": "user"')  # fmt: skip
            continue
        content = message.get("content")
        if isinstance(content, str) and message["role"] == "user":
            content = interleaved(content, media(record, content, find, say), say)
        if isinstance(content, list):
            parts = [_part(p, f"message {position + 1}", find, say) for p in content]
            content = [p for p in parts if p is not None]
        calls = "tool_calls" in message
        if not isinstance(content, (str, list)) and not (content is None and calls):
            say(f"message {position + 1} has no content", "a text, or a list of parts",
                'e.g. "content": "What is this?"')  # fmt: skip
            continue
        if message.get("content") in ("", []) and message["role"] == "user":
            say(f"message {position + 1} asks nothing", "its content is empty", "ask something")
        found.append({**message, "content": content})
    if found and not any(m["role"] == "user" for m in found):
        say("no message of a user", "nothing is asked", 'give one the "role": "user"')
    return found


def options(record: Mapping[str, Any], say: Say) -> list[str]:
    """The options of a General-VMCQ record: a list, or one as JSON or as a Python literal."""
    given = record.get("options")
    why = f"it is {str(given)[:60]!r}"
    if isinstance(given, str):
        text = given
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            given = tables.literal(text)
            if given is None and text.lstrip().startswith("["):
                say(*malformed(error)[:2], 'e.g. ["Dog", "Cat"]')
                return []
    listed = list(given) if isinstance(given, (list, tuple)) else []
    plain = all(isinstance(option, (str, int, float)) and option != "" for option in listed)
    if plain and 2 <= len(listed) <= len(LETTERS):
        with contextlib.suppress(ValueError):  # a number too long to be written
            return [str(option) for option in listed]
    say("no list of 2 to 26 options, texts each", why, 'e.g. ["Dog", "Cat"]')
    return []


def text_of(record: Mapping[str, Any], options: Sequence[str]) -> str:
    """All of a General-VMCQ record in which a placeholder may stand, in the order of the prompt."""
    hint = record.get("hint")
    return "\n".join([*([str(hint)] if hint else []), str(record.get("question")), *options])


def malformed(error: Exception) -> tuple[str, str, str]:
    """What, why and how to mend it, of text that is no JSON."""
    at = f", character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
    why = getattr(error, "msg", None) or str(error)
    return f"malformed JSON{at}", why, "write it with a JSON library, or check quotes and commas"


def media(
    record: Mapping[str, Any], text: str, find: Callable[[str], Path | None], say: Say
) -> dict[str, Any]:
    """The pictures, sounds and videos that `text` asks for: `image 1` -> a part of a message,
    or None for one that is defective."""
    found: dict[str, Any] = {}
    for kind, number in dict.fromkeys(PLACEHOLDER.findall(text)):
        position = int(number) if len(number) <= len(str(MOST_MEDIA)) else 0
        value = record.get(f"{kind}_{number}") if 0 < position <= MOST_MEDIA else None
        several = record.get(f"{kind}s")
        if value in (None, "") and isinstance(several, list) and 0 < position <= len(several):
            value = several[position - 1]
        if value in (None, ""):
            continue
        found[f"{kind} {number}"] = None
        if isinstance(value, Mapping):
            value = value.get("url") or value.get("path") or value.get("data")
        if not isinstance(value, str):
            say(f"{kind}_{number} is no path, URL or data URL", "", "give it one of them",
                f"{kind}_{number}")  # fmt: skip
            continue
        form = record.get(f"{kind}_{number}_format")
        part: dict[str, Any] = {"type": f"{kind}_url", f"{kind}_url": {"url": value}}
        if kind == "audio":
            form = form or ("mp3" if ".mp3" in value[-5:] or "audio/mp" in value[:20] else "wav")
            part = {"type": "input_audio", "input_audio": {"data": value, "format": form}}
        found[f"{kind} {number}"] = _part(
            part, f"{kind}_{number}", find, partial(say, column=f"{kind}_{number}")
        )
    return found


def interleaved(text: str, media: Mapping[str, Any], say: Say) -> Any:
    """`text` with each placeholder replaced by its part; the text itself where it has none.

    At a placeholder without a picture EvalScope's guide stops: the rest is plain text.
    """
    parts: list[Any] = []
    begun = 0
    for match in PLACEHOLDER.finditer(text):
        name = f"{match[1]} {match[2]}"
        part = media.get(name)
        if part is None and name in media:
            break  # told already
        if part is None:
            wanted = f"{match[1]}_{match[2]}"[:40]
            say(f"no {match[1]} for {match[0][:40]}", "the text from there on is sent as it stands",
                f"give it an {wanted}", fatal=False)  # fmt: skip
            break
        if text[begun : match.start()].strip():
            parts.append({"type": "text", "text": text[begun : match.start()]})
        parts.append(part)
        begun = match.end()
    if not parts:
        return text
    if text[begun:].strip():
        parts.append({"type": "text", "text": text[begun:]})
    return parts


def asked(found: list[Any]) -> str:
    """What the user asks in `messages`, as a text: what a judge is shown, and a table."""
    texts: list[str] = []
    for message in found:
        content = message["content"]
        if message["role"] != "user" or content is None:
            continue
        parts = [content] if isinstance(content, str) else map(_shown, content)
        texts.append("\n".join(parts))
    return "\n".join(texts)


def takes(found: list[Any]) -> Iterator[str]:
    """What beside text and pictures of one turn the messages hold: what few models can take."""
    turns = [m["role"] for m in found if m["role"] not in ("system", "developer")]
    if turns != ["user"]:
        yield "several turns"
    for message in found:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "input_audio":
                yield "audio"
            elif part["type"] == "video_url":
                yield "video"
            elif part["type"] == "image_url" and part["image_url"]["url"].startswith("http"):
                yield "pictures by URL"


def _shown(part: Mapping[str, Any]) -> str:
    kind = str(part["type"])
    return str(part["text"]) if kind == "text" else f"<{_NAMES[kind].replace('picture', 'image')}>"


def _part(part: Any, where: str, find: Callable[[str], Path | None], say: Say) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return dict(part)
    name = _NAMES.get(str(kind), "")
    key = "data" if name == "audio" else "url"
    inner = part.get(kind) if name else None
    if isinstance(inner, str):
        inner = {key: inner}
    if not name or not isinstance(inner, Mapping) or not isinstance(inner.get(key), str):
        say(f"{where}: {json.dumps(part, ensure_ascii=False, default=str)[:60]} is no part",
            "parts are text, image_url, input_audio and video_url",
            'e.g. {"type": "text", "text": "..."}')  # fmt: skip
        return None
    if name == "audio" and inner.get("format") not in _SOUNDS:
        say(f"{where}: audio of the format {inner.get('format')!r}", f"one of {', '.join(_SOUNDS)}",
            'e.g. "format": "wav"')  # fmt: skip
        return None
    source = _source(inner[key], name, str(inner.get("format", "")), where, find, say)
    return {**part, kind: {**inner, key: source}} if source else None


def _source(
    text: str, name: str, form: str, where: str, find: Callable[[str], Path | None], say: Say
) -> str | None:
    """The address of something that is not text: a URL, a data URL, `file://`, or base64."""
    if text.startswith(("http://", "https://")):
        return text
    if text.startswith("data:"):
        if why := _inline(text.partition(",")[2], name, form):
            say(f"{where}: not a {name}", why, "encode the whole file as base64")
            return None
        return text
    own = text.removeprefix(FILE)
    path = find(own) or (find(unquote(own)) if own != text else None)
    if path is None:
        if name == "audio" and len(text) > 64 and not _inline(text, name, form):
            return text
        say(f"{where}: no such {name}: {text[:200]}", "looked for beside the file and in the "
            "working directory", "correct the path, or give a URL")  # fmt: skip
        return None
    if why := _file_problem(path, name, form):
        say(f"{where}: not a {name}: {path.name}", why, "replace it")
        return None
    return f"{FILE}{path}"


def _file_problem(path: Path, name: str, form: str) -> str:
    if name == "picture":
        return pictures.problem(path)
    try:
        with path.open("rb") as file:
            head = file.read(_PACKET + 1)
    except OSError as error:
        return str(error)
    if name == "audio":
        return _sound(head, form)
    known = head[4:8] == b"ftyp" or head.startswith(_VIDEOS) or head[8:12] == b"AVI "
    known = known or head[::_PACKET] == b"GG"
    return "" if known else "it does not begin as a video file does"


def _inline(data: str, name: str, form: str) -> str:
    if name == "picture":
        return pictures.problem(data)
    try:
        found = base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        return f"not base64: {error}"
    return _sound(found[:16], form) if name == "audio" else ""


def _sound(head: bytes, form: str) -> str:
    """Why a file that begins so is no sound of its format."""
    wav = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    mp3 = head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
    good = wav if form == "wav" else mp3
    return "" if good else f"it does not begin as a {form} file does"
