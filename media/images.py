"""Single images: upright RGB, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 1 << 26  # of a frame, 8192×8192: a few bytes can claim any number
# What Pillow may open: others call programs, or are no pictures of a film.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_TAIL = 64  # bytes at a file's end that are looked at


class Unusable(Exception):
    """A film or an image that cannot be used. Its text is the reason, one line without the path."""


@contextmanager
def damage() -> Iterator[None]:
    """What Pillow raises inside is the image's fault, unless the system failed to read it.

    Raises:
        Unusable: in its place.
        OSError: the system failed.
    """
    try:
        yield
    except (Unusable, MemoryError):
        raise
    except Exception as error:  # of damaged images Pillow raises nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        # Pillow names the file where it knows no format.
        reason = "no image" if reason.startswith("cannot identify") else reason
        raise Unusable(f"damaged: {reason}") from error


def read_image(path: Path, size: int | None = None, pixels: int | None = None) -> Image.Image:
    """An image in RGB, turned as its EXIF says.

    Args:
        path: The file.
        size: The side that it will be shrunk to. A JPEG decoder does a part of that itself, which
            is several times faster.
        pixels: How many it may have; default `MAX_PIXELS`.

    Raises:
        Unusable: It is damaged, too large, or no image.
        OSError: The system failed to read it.
    """
    with damage(), Image.open(path, formats=FORMATS) as image:
        if size is not None:
            image.draft("RGB", (size, size))
        check_size(image, pixels)
        return as_rgb(ImageOps.exif_transpose(image))


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB of eight bits a channel."""
    if image.mode.startswith("I;16"):  # grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def check_size(image: Image.Image, pixels: int | None = None) -> None:
    """Checks that decoding fills no memory.

    Raises:
        Unusable: It would.
    """
    width, height = image.size
    most = MAX_PIXELS if pixels is None else pixels
    if width * height > most:
        raise Unusable(f"{width}×{height} pixels, and {most} at most are read")


def ends_well(path: Path) -> bool:
    """Whether a file ends as an image of its kind does; False also of kinds that tell nothing.

    Much cheaper than decoding: a file that was cut off does not.

    Raises:
        OSError: The system failed to read it.
    """
    with path.open("rb") as file:
        start = file.read(12)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        end = file.read()
    if start.startswith(b"\xff\xd8"):
        return end.endswith(b"\xff\xd9")
    if start.startswith(b"\x89PNG"):
        return b"IEND" in end
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return int.from_bytes(start[4:8], "little") + 8 <= length
    return start[:2] == b"BM" and int.from_bytes(start[2:6], "little") <= length
