"""Data is data: files that were made to hurt are refused in words, or do no harm."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image

from evalshim import config
from evalshim.adapters import custom_data, placing
from evalshim.errors import ConfigError

from .conftest import as_base64, picture

pytestmark = pytest.mark.timeout(180, method="signal")

SECONDS = 5  # of a processor
# What each format must have, and what it may have.
ROWS: dict[tuple[str, str], dict[str, Any]] = {
    ("mcq", ".tsv"): {
        "index": "1", "category": "c", "l2-category": "d", "split": "dev", "hint": "h",
        "question": "q", "A": "a", "B": "b", "answer": "A", "image_path": "ok.png",
    },
    ("vqa", ".tsv"): {
        "index": "1", "category": "c", "question": "q", "answer": "a",
        "image": as_base64(picture()),
    },
    ("general_vqa", ".jsonl"): {
        "messages": [{"role": "user", "content": "q"}], "answer": "a", "category": "c",
    },
    ("general_vqa", ".tsv"): {
        "messages": [{"role": "user", "content": "q"}], "answer": "a", "split": "dev",
    },
    ("general_vmcq", ".jsonl"): {
        "question": "<image 1> q", "options": ["a", "b"], "answer": "A", "image_1": "ok.png",
    },
    ("general_vmcq", ".tsv"): {
        "question": "<image 1> q", "options": ["a", "b"], "answer": "A", "image_1": "ok.png",
    },
    ("opencompass_mcq", ".jsonl"): {"question": "q", "A": "a", "B": "b", "answer": "A"},
    ("opencompass_mcq", ".csv"): {"question": "q", "A": "a", "B": "b", "answer": "A"},
    ("opencompass_qa", ".jsonl"): {"question": "q", "answer": "a"},
    ("opencompass_qa", ".csv"): {"question": "q", "answer": "a"},
}  # fmt: skip
CELLS = [(format, suffix, column) for (format, suffix), row in ROWS.items() for column in row]
CODE = (
    "__import__('os').system('touch ran')",
    "[__import__('pathlib').Path('ran').touch(), 'b']",
    "['a', open('ran', 'w')]",
    "!!python/object/apply:os.system ['touch ran']",
    "=cmd|' /c touch ran'!A0",
    "{0.__class__.__init__.__globals__}",
    "$(touch ran) `touch ran` ; touch ran",
)

_watched: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes each command, connection and file that is opened for writing."""
    if _watched is None:
        return
    if event in (
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "pty.spawn",
    ):
        _watched.append(f"{event} {arguments[:1]}")
    elif event.startswith("socket.") and event != "socket.__new__":
        _watched.append(event)
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link", "shutil.rmtree"):
        _watched.append(f"{event} {arguments[0]!s} {arguments[1]!s}")
    elif event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _watched.append(f"open {arguments[0]!s}")


sys.addaudithook(_audit)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the data is, with a picture; afterwards nothing ran, and nothing else was written."""
    global _watched
    data = tmp_path / "data"
    data.mkdir()
    (data / "ok.png").write_bytes(picture())
    monkeypatch.chdir(data)
    _watched = []
    begun = time.process_time()
    try:
        yield data
    finally:
        took, events, _watched = time.process_time() - begun, _watched, None
    assert took < SECONDS
    outside = [e for e in events if str(tmp_path) not in e and "/dev/null" not in e]
    assert outside == []
    assert not [path for path in tmp_path.rglob("*") if path.name == "ran"]


def _write(folder: Path, suffix: str, *rows: Mapping[str, Any], name: str = "x") -> Path:
    path = folder / f"{name}{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            cells = [v if isinstance(v, str) else json.dumps(v) for v in row.values()]
            writer.writerow(cells)
    return path


def _told(path: Path, format: str | None = None) -> str:
    """All that is said of a file; what is accepted is placed and converted in a folder beside."""
    try:
        report = custom_data.inspect(path, format)
    except ConfigError as error:
        return _harmless(str(error))
    text = "\n".join(f"{d} {d.cure}" for d in report.defects[:100])
    run = Path(tempfile.mkdtemp(prefix="run", dir=path.parent.parent))
    try:
        custom_data.check(path, report.format)
    except ConfigError as error:
        return _harmless(f"{error}\n{text}")
    if not report.format.startswith("opencompass_"):
        placing.place(path, report.format, run / "LMUData" / "x.tsv")
    try:
        placing.convert(path, run / "out.tsv")
    except ConfigError as error:
        _harmless(str(error))
    return _harmless(text)


def _two(format: str, suffix: str, column: str, value: Any) -> tuple[dict[str, Any], ...]:
    """A good row, and one with `value`."""
    good = ROWS[format, suffix]
    other = {**good, "index": "2"} if "index" in good else good
    return good, {**other, column: value}


def _harmless(text: str) -> str:
    """Text that may go to a terminal: of bearable length, without a control character."""
    assert len(text) < 60_000
    assert max(map(len, text.splitlines()), default=0) < 2_000
    assert not {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs")} - {"\n", "\t"}
    return text


class TestCode:
    @pytest.mark.parametrize(("format", "suffix", "column"), CELLS)
    def test_in_any_column_does_not_run(
        self, folder: Path, format: str, suffix: str, column: str
    ) -> None:
        for code in CODE:
            _told(_write(folder, suffix, *_two(format, suffix, column, code)), format)

    @pytest.mark.parametrize(("format", "suffix"), ROWS)
    def test_as_the_name_of_a_column_does_not_run(
        self, folder: Path, format: str, suffix: str
    ) -> None:
        for code in CODE:
            _told(_write(folder, suffix, {**ROWS[format, suffix], code: code}), format)

    @pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
    def test_deep_within_a_message_does_not_run(self, folder: Path, code: str) -> None:
        message = {
            "role": "user", "name": code, code: code,
            "content": [{"type": "text", "text": code, code: [code]}],
        }  # fmt: skip

        assert _told(_write(folder, ".jsonl", {"messages": [message], "answer": [code]})) == ""

    @pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url"])
    @pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
    def test_as_a_file_does_not_run(self, folder: Path, kind: str, code: str) -> None:
        part = {"type": kind, kind: {"url": code, "data": code, "format": "wav"}}
        row = {"messages": [{"role": "user", "content": [part]}]}

        assert "line 1" in _told(_write(folder, ".jsonl", row))

    @pytest.mark.parametrize(
        "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\nshowpage"]
    )
    def test_as_a_picture_starts_no_interpreter(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
    ) -> None:
        """Pillow has Ghostscript draw an EPS, whatever the name of its file."""
        tools = folder.parent / "bin"
        tools.mkdir()
        (tools / "gs").write_text(f"#!/bin/sh\ntouch {folder}/ran\n")
        (tools / "gs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
        (folder / "drawn.png").write_bytes(data)

        row = {**ROWS["mcq", ".tsv"], "image_path": "drawn.png"}

        assert "line 2, column image_path: not a picture" in _told(_write(folder, ".tsv", row))


NAMES = (
    "../x", "/x", "a/../../x", "..", "../../../../../../../../tmp/x", "a/..", "./..", "//x",
    "..\\..\\x", "~/x", "~root/x", "file:///x", "C:\\x", "a\n../x", "%2e%2e/x", "..%2fx",
    "\u2025/x", "x/../../x\n", "-rf", "*", "CON", "x" * 5000,
)  # fmt: skip


class TestNames:
    @pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
    @pytest.mark.parametrize("format", ["mcq", "vqa"])
    def test_an_index_stays_in_its_folder(self, folder: Path, format: str, name: str) -> None:
        good = {**ROWS[format, ".tsv"], "image": as_base64(picture())}
        good.pop("image_path", None)
        path = _write(folder, ".tsv", good, {**good, "index": name})

        text = _told(path, format)

        try:
            custom_data.check(path, format)
        except ConfigError:
            assert "line 3, column index" in text
        else:
            inside = os.path.normpath(f"/folder/of/it/{name}.jpg")
            assert inside.startswith("/folder/of/it/")
            assert len(Path(inside).name.encode()) < 256

    @pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
    def test_a_path_beside_a_picture_is_not_written_to(self, folder: Path, name: str) -> None:
        row = {**ROWS["mcq", ".tsv"], "image": as_base64(picture()), "image_path": name}

        placing.place(_write(folder, ".tsv", row), "mcq", folder.parent / "run" / "x.tsv")

        header = (folder.parent / "run" / "x.tsv").read_text().splitlines()[0]
        assert "image_path" not in header.split("\t")

    @pytest.mark.parametrize(
        "name",
        [
            *NAMES[:10],
            "a\0b",
            "\x1b[31mred",
            "con\n",
            "\u202egnp",
            "",
            ".",
            "x" * 300,
            "a b",
            "a\tb",
        ],
        ids=lambda name: repr(name[:20]),
    )
    @pytest.mark.parametrize("shape", ["file", "plain", "dataset", "class"])
    def test_a_dataset_stays_in_its_folder(
        self, folder: Path, served: dict[str, Any], name: str, shape: str
    ) -> None:
        path = str(_write(folder, ".tsv", ROWS["mcq", ".tsv"]))
        entry: Any = {
            "file": {"name": name, "path": path},
            "plain": name,
            "dataset": {"name": "x", "dataset": name},
            "class": {"name": name, "path": path, "class": "ImageMCQDataset"},
        }[shape]

        with pytest.raises(ConfigError) as caught:
            config.parse({"models": [served], "datasets": [entry]})
        _harmless(str(caught.value))

    @pytest.mark.parametrize(("format", "suffix", "column"), CELLS)
    def test_a_control_character_is_not_told(
        self, folder: Path, format: str, suffix: str, column: str
    ) -> None:
        """Twice, for what is said of duplicates."""
        for name in (
            "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\rb", "\x08\x08", "\u202egnp.exe",
            "\u2066x", "\x9b31m", "\x7f", "\u200b", "x" * 100_000,
        ):  # fmt: skip
            row = {**ROWS[format, suffix], column: name}
            _told(_write(folder, suffix, row, row), format)

    @pytest.mark.parametrize("name", ["\x1b[31mindex", "index\x07", "\u202exedni", "x" * 100_000])
    @pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
    def test_nor_is_one_in_the_name_of_a_column(self, folder: Path, suffix: str, name: str) -> None:
        path = _write(folder, suffix, {name: "1", "question": "q", "A": "a", "answer": "A"})

        for format in custom_data.FORMATS:
            _told(path, format)
        if suffix != ".jsonl":
            text = path.read_text().replace("question", name)  # one column twice
            path.write_text(text)
            _told(path, "vqa" if suffix == ".tsv" else "opencompass_qa")
        else:
            path.write_text(path.read_text() + '{"other": 1}\n')
            _told(path, "opencompass_qa")

    @pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m.png", "\u202egnp.png", "a\nb.png"])
    def test_nor_is_one_in_the_name_of_a_picture(self, folder: Path, name: str) -> None:
        (folder / name).write_text("no picture")
        part = {"type": "image_url", "image_url": {"url": name}}

        assert "line 2" in _told(
            _write(folder, ".tsv", {**ROWS["mcq", ".tsv"], "image_path": name})
        )
        row = {"messages": [{"role": "user", "content": [part]}]}
        assert "line 1" in _told(_write(folder, ".jsonl", row))

    @pytest.mark.parametrize("index", ["1\n2", "1\r2", "1\r\n2", "\n", "a\n\n\nb"])
    def test_a_line_break_in_an_index(self, folder: Path, index: str) -> None:
        good = ROWS["mcq", ".tsv"]

        _told(_write(folder, ".tsv", good, {**good, "index": index}))

    def test_a_file_with_a_hostile_name(self, folder: Path) -> None:
        path = _write(folder, ".tsv", {"index": "1"}, name="\x1b[31m\u202e")

        _told(path)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    """A PNG of one bit a pixel, as its header says."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", head), *extra, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _zeros(count: int) -> bytes:
    """So many zeros, deflated."""
    deflate, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [deflate.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, deflate.compress(bytes(count % (1 << 20))), deflate.flush()])


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(50_000_000))
    return out.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "png-of-1.6-billion": lambda: _png(40_000, 40_000, data=_zeros(40_000 * 5_001)),
    "png-of-4-billion-squared": lambda: _png(2**31 - 1, 2**31 - 1, data=_zeros(1 << 20)),
    "png-of-no-width": lambda: _png(0, 2**31 - 1, data=_zeros(1 << 20)),
    "png-without-data": lambda: _png(13_000, 13_000),
    "png-with-a-gigabyte-of-profile": lambda: _png(
        8, 8, _chunk(b"iCCP", b"x\0\0" + _zeros(1 << 30)), data=_zeros(16)
    ),
    "png-with-a-gigabyte-of-text": lambda: _png(
        8, 8, _chunk(b"zTXt", b"x\0\0" + _zeros(1 << 30)), data=_zeros(16)
    )[:-30],
    "png-with-a-chunk-beyond-its-end": lambda: (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR"
    ),
    "zip": _zip,
    "gif-of-4-billion": lambda: (
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"
    ),
    "bmp-of-4-billion": lambda: b"BM" + struct.pack(
        "<IHHIIIIHHIIIIII", 54, 0, 0, 54, 40, 65_535, 65_535, 1, 24, 0, 0, 0, 0, 0, 0
    ),
    "tiff-of-4-billion": lambda: b"II*\0\x08\0\0\0\x02\0" + struct.pack(
        "<HHIIHHIII", 256, 4, 1, 65_535, 257, 4, 1, 65_535, 0
    ),
    "ppm-of-a-trillion": lambda: b"P6 1000000 1000000 255\n",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html": lambda: b"<!DOCTYPE html><title>404</title>",
    "pdf": lambda: b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(touch ran)>>>>endobj",
    "mvg": lambda: b"push graphic-context\nfill 'url(https://h/\"|touch ran\")'\npop",
    "wmf": lambda: b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x09\0\x09\0\x48" + bytes(64),
    "pickle": lambda: b"cos\nsystem\n(S'touch ran'\ntR.",
    "nothing": lambda: b"",
    "one-byte": lambda: b"\x89",
    "nuls": lambda: bytes(100_000),
}  # fmt: skip

APART = """
import json, resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from evalshim.adapters import custom_data, placing, pictures, tables
from evalshim.errors import ConfigError
import PIL.Image, PIL.PngImagePlugin
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    found = custom_data.inspect(Path(sys.argv[1]), sys.argv[2] or None).defects
    text = "\\n".join(f"{d} {d.cure}"[:3000] for d in found[:20])
except ConfigError as error:
    text = str(error)[:3000]
took = time.process_time() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"text": text, "seconds": took, "megabytes": peak / 1024}))
"""


def _apart(
    path: Path, format: str = "", *, seconds: float = SECONDS, megabytes: float = 400
) -> str:
    """All that is said of a file, by a process whose time and memory are measured."""
    ended = subprocess.run(
        [sys.executable, "-c", APART, str(path), format],
        capture_output=True, text=True, timeout=120, cwd=path.parent, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert found["seconds"] < seconds
    assert found["megabytes"] < megabytes
    return _harmless(str(found["text"]))


class TestPictures:
    @pytest.mark.parametrize("name", PICTURES)
    def test_one_in_a_file_is_none(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "x.png").write_bytes(PICTURES[name]())
        row = {**ROWS["mcq", ".tsv"], "image_path": "x.png"}

        text = _apart(_write(tmp_path, ".tsv", row), "mcq")

        assert "line 2, column image_path: not a picture" in text
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", sorted(set(PICTURES) - {"nothing", "one-byte"}))
    def test_one_in_a_cell_is_none(self, tmp_path: Path, name: str) -> None:
        data = PICTURES[name]()
        row = {**ROWS["vqa", ".tsv"], "image": as_base64(data if len(data) > 48 else data * 48)}

        text = _apart(_write(tmp_path, ".tsv", row), "vqa")

        assert "line 2, column image: not a picture" in text

    @pytest.mark.parametrize("name", ["png-of-1.6-billion", "zip", "svg", "nothing"])
    def test_one_in_a_data_url_is_none(self, tmp_path: Path, name: str) -> None:
        url = f"data:image/png;base64,{as_base64(PICTURES[name]())}"
        part = {"type": "image_url", "image_url": {"url": url}}
        row = {"messages": [{"role": "user", "content": [part]}]}

        text = _apart(_write(tmp_path, ".jsonl", row), "general_vqa")

        assert "line 1" in text
        assert "not a picture" in text

    def test_one_just_small_enough_is_held_once(self, tmp_path: Path) -> None:
        Image.new("L", (13_000, 13_000)).save(tmp_path / "x.png")
        row = {**ROWS["mcq", ".tsv"], "image_path": "x.png"}

        assert _apart(_write(tmp_path, ".tsv", row), "mcq") == ""


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("p"))
    path.symlink_to("p")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "passwd": lambda path: path.symlink_to("/etc/passwd"),
    "environ": lambda path: path.symlink_to("/proc/self/environ"),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "pipe": _fifo,
    "link-to-a-pipe": _link_to_a_fifo,
    "folder": lambda path: path.mkdir(),
    "root": lambda path: path.symlink_to("/"),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "empty": lambda path: path.touch(),
}


class TestSpecialFiles:
    @pytest.mark.timeout(120, method="signal")
    @pytest.mark.parametrize("name", SPECIAL)
    @pytest.mark.parametrize("cell", ["{}", "['ok.png', '{}']"])
    def test_as_a_picture(self, folder: Path, name: str, cell: str) -> None:
        SPECIAL[name](folder / "x.png")
        row = {**ROWS["mcq", ".tsv"], "image_path": cell.format("x.png")}

        text = _told(_write(folder, ".tsv", row), "mcq")

        assert "line 2, column image_path: not a picture" in text
        assert "root:" not in text
        assert "PATH=" not in text

    @pytest.mark.timeout(120, method="signal")
    @pytest.mark.parametrize(
        "path", ["/dev/zero", "/dev/stdin", "/dev/tty", "/dev/null", "/etc/passwd", "/"]
    )
    def test_as_a_path_to_one(self, folder: Path, path: str) -> None:
        row = {**ROWS["mcq", ".tsv"], "image_path": path}

        assert "column image_path: not a picture" in _told(_write(folder, ".tsv", row), "mcq")

    @pytest.mark.timeout(120, method="signal")
    @pytest.mark.parametrize("name", sorted(set(SPECIAL) - {"empty"}))
    @pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url"])
    def test_in_a_message(self, folder: Path, name: str, kind: str) -> None:
        """A sound or video that is none would send any file that its owner can read."""
        SPECIAL[name](folder / "x.png")
        part = {"type": kind, kind: {"url": "x.png", "data": "x.png", "format": "wav"}}
        row = {"messages": [{"role": "user", "content": [part]}]}

        assert "line 1" in _told(_write(folder, ".jsonl", row), "general_vqa")

    @pytest.mark.timeout(120, method="signal")
    @pytest.mark.parametrize(
        "name", sorted(set(SPECIAL) - {"zeros", "random", "memory", "passwd", "environ"})
    )
    @pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
    def test_as_the_data(
        self, folder: Path, served: dict[str, Any], name: str, suffix: str
    ) -> None:
        path = folder / f"x{suffix}"
        SPECIAL[name](path)

        assert _told(path)
        with pytest.raises(ConfigError) as caught:
            config.parse(
                {
                    "models": [served],
                    "datasets": [{"name": "x", "path": str(path)}],
                    "mode": "infer",
                }
            )
            custom_data.check(path, custom_data.recognise(path))
        _harmless(str(caught.value))

    @pytest.mark.parametrize("name", ["zeros", "random"])
    def test_without_end_as_the_data(self, tmp_path: Path, name: str) -> None:
        SPECIAL[name](tmp_path / "x.tsv")

        assert _apart(tmp_path / "x.tsv")


MCQ = "index\tquestion\tA\tB\tanswer\n"
LONG = 5_000_000


class TestSize:
    def test_a_row_of_a_million_columns(self, tmp_path: Path) -> None:
        (tmp_path / "x.tsv").write_text(f"{MCQ}1\tq\ta\tb\tA\n2{chr(9) * 1_000_000}\n")

        assert "line 3: 1000001 cells, and the header has 5" in _apart(tmp_path / "x.tsv")

    def test_a_header_of_a_million_columns(self, tmp_path: Path) -> None:
        names = "\t".join(f"column_{i}" for i in range(1_000_000))
        (tmp_path / "x.tsv").write_text(f"{names}\n1\n")

        assert "1000000 columns" in _apart(tmp_path / "x.tsv", megabytes=1000)

    def test_a_column_a_million_times(self, tmp_path: Path) -> None:
        (tmp_path / "x.tsv").write_text(
            "index\tquestion\tanswer" + "\tx" * 1_000_000 + "\n1\tq\ta\n"
        )

        assert "1000003 columns" in _apart(tmp_path / "x.tsv", megabytes=1000)

    def test_an_object_of_a_million_members(self, tmp_path: Path) -> None:
        row = {"question": "q", "answer": "a", **{f"k{i}": i for i in range(1_000_000)}}
        _write(tmp_path, ".jsonl", row, {"question": "q", "answer": "a"})

        assert "line 1: 1000002 members" in _apart(tmp_path / "x.jsonl", megabytes=1000, seconds=12)

    def test_a_line_without_end_of_jsonl(self, tmp_path: Path) -> None:
        (tmp_path / "x.jsonl").write_text('{"question": "' + "x" * LONG)

        assert "line 1: malformed JSON" in _apart(tmp_path / "x.jsonl", "opencompass_qa")

    def test_a_hundred_thousand_defects(self, tmp_path: Path) -> None:
        (tmp_path / "x.tsv").write_text(MCQ + "\t\t\t\t\n" * 100_000)

        assert "line 2, column index: empty index" in _apart(tmp_path / "x.tsv", "mcq", seconds=12)

    def test_latin_1_of_2_megabytes_a_line(self, tmp_path: Path) -> None:
        row = b"1\t\xe9" + b"x" * 2_000_000 + b"\ta\tb\tA\n"
        (tmp_path / "x.tsv").write_bytes(MCQ.encode() + row * 100)

        assert "not UTF-8" in _apart(tmp_path / "x.tsv", "mcq", megabytes=100)


class TestText:
    @pytest.mark.parametrize(
        "data",
        [
            b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
            b"\x80", b"\xe2\x28\xa1", b"\xfe\xff", b"\xff\xfe", b"+ADw-\x93",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("place", ["header", "cell", "end"])
    def test_broken_utf_8(self, folder: Path, data: bytes, place: str) -> None:
        head, row = MCQ.encode(), b"1\tq\ta\tb\tA\n"
        text = {
            "header": head[:-1] + data + b"\n" + row,
            "cell": head + row + b"2\t" + data + b"\ta\tb\tA\n",
            "end": head + row + b"2\tq\ta\tb\t" + data,
        }[place]
        (folder / "x.tsv").write_bytes(text)

        found = _told(folder / "x.tsv", "mcq")

        assert "not UTF-8" in found
        assert ("line 1" if place == "header" else "line 3") in found

    @pytest.mark.parametrize(
        "text",
        [
            "\0", "index\0\tquestion\n", MCQ + "1\tq\0\ta\tb\tA\n", MCQ + "\0" * 1000, '"', '"""',
            "\t", "\t\t\t\n\t\t\t\n", "\n\n\n", "\r\r\r", "   \n   ", "\ufeff",
            "\ufeff\ufeffindex\tquestion\n", "index", "index\tindex\tindex\n1\t2\t3\n", "'", ",",
            ";;;;\n", "\x1a", "\x0c\x0b", "null", "{}", "[]", "&a [*a, *a]\n",
            "---\n- !!python/object/apply:os.system ['touch ran']\n",
            "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>",
            MCQ + '1\t"q\n' * 1000, MCQ + '1\t"q"x"y\ta\tb\tA\n',
            MCQ + "1\tq\ta\tb\tA\r2\tq\ta\tb\tA\r",
        ],
        ids=lambda text: repr(text[:16]),
    )  # fmt: skip
    @pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
    def test_that_is_no_table(self, folder: Path, suffix: str, text: str) -> None:
        (folder / f"x{suffix}").write_text(text)

        _told(folder / f"x{suffix}")
        for format in custom_data.FORMATS:
            _told(folder / f"x{suffix}", format)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, [], {}, [[]], [None], [[1], {"a": 2}], {"a": {"b": []}}, "", " ", "\0",
    "\ud800", "\udcff", "a\ud83d", "NaN", ["\ud800"], {"\ud800": 1}, ["A"], {"url": None},
    10**400, float("nan"), float("inf"), -float("inf"), "\n", "\r", "a\rb", "[", "]", "[]", "['",
    "['a'", "[a]", "x" * 70, "['" + "x" * 70 + "']", "0x" + "f" * 5000, "[0x" + "f" * 5000 + "]",
    "1" * 5000, "[" + "1" * 5000 + "]", "<image " + "9" * 5000 + ">", "<image 1>" * 100,
)  # fmt: skip


SPELLINGS = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" + "0" * 400, "9" * 5000, "1e-400",
    "01", "1.", ".5", "+1", "0x10", "'a'", "undefined", "True", '"\\u0000"', '"\\ud800"',
    '"\t"', "[1,]", "{,}", '{"a":1,"a":2}', "/**/1", "[" * 100_000, '{"a":' * 100_000,
)  # fmt: skip


class TestJson:
    @pytest.mark.parametrize(
        ("format", "suffix", "column"), [cell for cell in CELLS if cell[1] == ".jsonl"]
    )
    def test_any_value_in_any_member(
        self, folder: Path, format: str, suffix: str, column: str
    ) -> None:
        for value in VALUES:
            _told(_write(folder, suffix, *_two(format, suffix, column, value)), format)

    @pytest.mark.parametrize("member", ["category", "split", "images", "image_2", "index", "image"])
    def test_any_value_beside_what_is_needed(self, folder: Path, member: str) -> None:
        row = {**ROWS["general_vmcq", ".jsonl"], "question": "<image 1><image 2>"}
        for value in VALUES:
            _told(_write(folder, ".jsonl", {**row, member: value}), "general_vmcq")

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:16])
    def test_any_value_within_a_message(self, folder: Path, value: Any) -> None:
        for message in (
            value,
            {"role": value, "content": "q"},
            {"role": "user", "content": value},
            {"role": "user", "content": [value]},
            {"role": "user", "content": [{"type": value, "text": "q"}]},
            {"role": "user", "content": [{"type": "text", "text": value}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": value}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": value}}]},
            {"role": "user", "content": [{"type": "text", "text": "q", "more": value}]},
            {"role": "assistant", "content": None, "tool_calls": value},
        ):
            _told(_write(folder, ".jsonl", {"messages": [message]}), "general_vqa")

    @pytest.mark.parametrize(
        ("format", "suffix", "column"), [cell for cell in CELLS if cell[1] != ".jsonl"]
    )
    def test_any_text_in_any_cell(
        self, folder: Path, format: str, suffix: str, column: str
    ) -> None:
        for value in VALUES:
            if isinstance(value, str) and "?" not in value.encode(errors="replace").decode():
                _told(_write(folder, suffix, *_two(format, suffix, column, value)), format)

    @pytest.mark.parametrize(
        ("format", "suffix", "column"), [cell for cell in CELLS if cell[1] == ".jsonl"]
    )
    def test_any_spelling_of_a_value(
        self, folder: Path, format: str, suffix: str, column: str
    ) -> None:
        line = json.dumps({**ROWS[format, suffix], column: "HERE"})
        for text in SPELLINGS:
            (folder / "x.jsonl").write_text(
                json.dumps(ROWS[format, suffix]) + "\n" + line.replace('"HERE"', text) + "\n"
            )
            _told(folder / "x.jsonl", format)

    @pytest.mark.parametrize(
        "where", ["message", "part", "content", "options", "answer", "category"]
    )
    def test_any_depth(self, folder: Path, where: str) -> None:
        """What can be read at one depth of the stack cannot be written at another."""
        for depth in (*range(150, 1000, 25), *range(880, 1000)):
            nested = "[" * depth + "]" * depth
            text = {
                "message": '{"messages": [{"role": "user", "content": "q", "x": HERE}]}',
                "part": '{"messages": [{"role": "user", "content": [{"type": "text", "text": "q", '
                '"x": HERE}]}]}',
                "content": '{"messages": [{"role": "user", "content": [HERE]}]}',
                "options": '{"question": "q", "options": [HERE, "b"], "answer": "A"}',
                "answer": '{"messages": [{"role": "user", "content": "q"}], "answer": HERE}',
                "category": '{"messages": [{"role": "user", "content": "q"}], "category": HERE}',
            }[where].replace("HERE", nested)
            path = folder / "x.jsonl"
            path.write_text(text + "\n")
            try:
                _told(path, "general_vmcq" if where == "options" else "general_vqa")
            except RecursionError:
                pytest.fail(f"at a depth of {depth}")
