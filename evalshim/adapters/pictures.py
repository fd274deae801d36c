"""Whether a picture can be read, without reading more of it than that needs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from pathlib import Path
from warnings import catch_warnings, simplefilter

# Those of photographs and drawings; for EPS, say, Pillow starts another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO")


# What was found of pictures in base64, by their digest: several questions are often about one.
_known: dict[bytes, str] = {}
_MOST_KNOWN = 10_000


def problem(source: Path | str) -> str:
    """Why a picture, given as its file or as its base64 text, is none; empty where it is one."""
    if isinstance(source, Path):
        return _looked_at(source)
    digest = hashlib.blake2b(source.encode(errors="replace"), digest_size=16).digest()
    if digest not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[digest] = _looked_at(source)
    return _known[digest]


def _looked_at(source: Path | str) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            return "no file"  # a pipe or a device would be read for ever
        with catch_warnings():
            # Pillow warns of a picture above 89 million pixels, and refuses one above 179.
            simplefilter("ignore", Image.DecompressionBombWarning)
            opened = source if isinstance(source, Path) else decoded(source)
            with Image.open(opened, formats=FORMATS) as image:
                # An eighth of the pixels of a JPEG: all of its data is still read.
                image.draft(None, (image.width // 8, image.height // 8))
                image.load()
    except binascii.Error as error:
        return f"not base64: {error}"
    except FileNotFoundError:
        return f"no such file: {source}"
    except Image.DecompressionBombError as error:
        return f"too large: {error}"
    except UnidentifiedImageError:
        return f"it is none of {', '.join(FORMATS)}"
    except Exception as error:  # Pillow raises whatever its decoders raise
        return str(error) or type(error).__name__
    return ""


def decoded(text: str) -> io.BytesIO:
    """The bytes of base64 text, in which there may be white space.

    Raises:
        binascii.Error: It is none.
    """
    try:
        return io.BytesIO(base64.b64decode("".join(text.split()), validate=True))
    except ValueError as error:  # letters beyond ASCII
        raise binascii.Error(str(error)) from error
