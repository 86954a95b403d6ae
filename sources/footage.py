"""The frames of a video: upright, cropped to the middle, scaled, and at a chosen rate.

Symbols in shapes: H and W image height and width, C channels.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fileio.npz import PASSING
from sources.reading import Unreadable, reading

# What FFmpeg may open, and how: a playlist that is named like a video must not fetch anything.
OPEN = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,ogg,flv,asf",
}
SUFFIXES = (".mp4", ".avi", ".mov", ".gif", ".webm", ".mkv", ".m4v", ".mpg", ".mpeg")
MAX_GAP = 600  # seconds that one frame may last when a video is resampled
MAX_PIXELS = 1 << 26  # of a frame, 8192×8192: a few bytes can claim any number
MISSING = Fraction(1, 10)  # share of its promised length that a video may lack, at most a second
# FFmpeg says EPERM and ENOMEM of damaged videos; one that may not be opened is told before.
MACHINE = frozenset(PASSING) - {errno.EPERM, errno.ENOMEM}
# Red, green, blue and a constant: what Gymnasium's grey observations are made of.
LUMA = (0.2125, 0.7154, 0.0721, 0.0)


class Unusable(Exception):
    """A video that cannot be used. Its text is the reason, in one line, without the path."""


@dataclass(frozen=True)
class Settings:
    """How videos become episodes.

    Attributes:
        fps: frames per second to resample to; 0 takes every frame.
        length: rows of an episode, at least 2.
        size: (H, W).
        grayscale: one channel instead of three.
    """

    fps: float = 0.0
    length: int = 251
    size: tuple[int, int] = (64, 64)
    grayscale: bool = False


def is_video(path: Path) -> bool:
    """Whether a file begins as a video does, or at least is named like one."""
    with path.open("rb") as file:
        start = file.read(12)
    riff = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    known = start[4:8] in (b"ftyp", b"moov") or start.startswith((b"GIF8", b"\x1aE\xdf\xa3"))
    return known or riff or path.suffix.lower() in SUFFIXES


def frames(
    path: Path, settings: Settings, tick: Callable[[float], None] = lambda share: None
) -> Iterator[np.ndarray]:
    """The images of a video, uint8 [H, W, C]: upright, the middle of the picture, scaled.

    Args:
        path: the video.
        settings: how.
        tick: called with the share that is done, after each frame.

    Raises:
        Unusable: it is no video, damaged, or cut short.
        Unreadable: the machine failed to read it.
    """
    import av  # FFmpeg's libraries: few runs need them

    with reading(path):
        path.open("rb").close()
    try:
        # Titles in other encodings than UTF-8 are common, and of no interest.
        options = {"container_options": OPEN, "metadata_errors": "replace"}
        with av.open(str(path.absolute()), **options) as container:
            if not container.streams.video:
                raise Unusable("no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.codec_context is None:
                raise Unusable("no decoder for it")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            fps, slack = Fraction(str(settings.fps)), Fraction(0)
            if fps:  # time stamps are rounded to the stream's unit
                slack = min(Fraction(stream.time_base or 0) / 2, 1 / fps / 4)
            timed = _timed(container, stream, tick)
            last, image = None, None
            for frame in resample(timed, fps, slack):
                if frame is not last:  # a frame may be asked for again and again
                    last, image = frame, _image(frame, stream.sample_aspect_ratio, settings)
                yield image
    except (av.FFmpegError, OSError) as error:
        if error.errno in MACHINE:
            raise Unreadable(path, error) from error
        reason = " ".join((error.strerror or str(error)).split())
        raise Unusable(f"no video, or damaged: {reason}") from error


def _timed(
    container: Any, stream: Any, tick: Callable[[float], None]
) -> Iterator[tuple[Any, Fraction, Fraction]]:
    """Each frame, with the seconds from its beginning to its end.

    Raises:
        Unusable: the video ends long before it should.
    """
    unit, step = stream.time_base or Fraction(0), 1 / Fraction(stream.average_rate or 25)
    promised = (stream.duration or 0) * unit
    if not promised and container.duration and len(container.streams) == 1:
        promised = Fraction(container.duration, 1_000_000)
    first, end = None, Fraction(0)
    for frame in container.decode(stream):
        start = end if frame.pts is None else frame.pts * unit
        first = start if first is None else first
        end = start + (frame.duration * unit if frame.duration else step)
        yield frame, start, end
        tick(min(float((end - first) / promised), 1.0) if promised else 0.0)
    if first is not None and promised - (end - first) > min(MISSING * promised, 1):
        raise Unusable(f"cut short: {float(end - first):.1f} of {float(promised):.1f} seconds")


def resample(
    timed: Iterable[tuple[Any, Fraction, Fraction]], fps: Fraction, slack: Fraction = Fraction(0)
) -> Iterator[Any]:
    """The frame that is to be seen at 0, 1/fps, 2/fps, … seconds after the first.

    Args:
        timed: frame, beginning and end in seconds, in the order of their beginnings.
        fps: frames per second to yield; 0 yields each frame once.
        slack: how much too late a time stamp may be, in seconds.

    Raises:
        Unusable: one frame lasts for longer than ten minutes, as after a jump of the time stamps.
    """
    held, count, origin, end = None, 0, Fraction(0), Fraction(0)
    for frame, start, until in timed:
        if not fps:
            yield frame
            continue
        if held is None:
            origin = start
        elif start - end > MAX_GAP:
            raise Unusable(f"its time stamps jump by {float(start - end):.0f} seconds")
        while held is not None and count / fps + slack < start - origin:
            yield held
            count += 1
        held, end = frame, max(until, start)
    while held is not None and count / fps + slack < end - origin:
        yield held
        count += 1


def _image(frame: Any, aspect: Fraction | None, settings: Settings) -> np.ndarray:
    """A frame's middle, scaled with antialiasing and turned upright, uint8 [H, W, C]."""
    height, width = settings.size
    turns = round(frame.rotation / 90) % 4  # quarters, counter-clockwise
    if turns % 2:
        height, width = width, height
    aspect = Fraction(aspect) if aspect else Fraction(1)  # width of a pixel to its height
    # The largest box of the target's proportions, in pixels of the frame.
    box_height = min(Fraction(frame.height), frame.width * aspect * height / width)
    box_width = box_height * width / height / aspect
    left, top = (frame.width - box_width) / 2, (frame.height - box_height) / 2
    box = tuple(float(edge) for edge in (left, top, left + box_width, top + box_height))
    picture = frame.to_image()
    if settings.grayscale:
        picture = picture.convert("L", LUMA)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if turns:
        picture = picture.transpose(
            (
                Image.Transpose.ROTATE_90,
                Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_270,
            )[turns - 1]
        )
    image = np.asarray(picture)
    return image[:, :, None] if image.ndim == 2 else image
