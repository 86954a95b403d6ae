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

from data.errors import Unreadable, reading
from fileio.npz import PASSING

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
LUMA = np.array([0.2125, 0.7154, 0.0721])  # of Gymnasium's grey observations
# Antialiased, and the same on every machine.
SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
MICROSECOND = Fraction(1, 1_000_000)


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


def read_frames(
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
            frames = _timed(container, stream, Fraction(settings.fps), tick)
            frames = _resampled(frames, settings.fps) if settings.fps else frames
            yield from _images(frames, stream.sample_aspect_ratio, settings)
    except (av.FFmpegError, OSError) as error:
        if error.errno in MACHINE:
            raise Unreadable(path, error) from error
        reason = " ".join((error.strerror or str(error)).split())
        raise Unusable(f"no video, or damaged: {reason}") from error


def scaled(pictures: Iterable[np.ndarray], settings: Settings) -> Iterator[np.ndarray]:
    """Pictures, uint8 [H, W, 3], cropped and scaled as the frames of a video are."""
    import av

    frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(p), "rgb24") for p in pictures)
    yield from _images(frames, None, settings)


def _timed(
    container: Any, stream: Any, fps: Fraction, tick: Callable[[float], None]
) -> Iterator[Any]:
    """Each frame, timed in microseconds from the first one.

    Raises:
        Unusable: the video ends long before it should, or a frame lasts for ever.
    """
    unit, step = stream.time_base or Fraction(0), 1 / Fraction(stream.average_rate or 25)
    slack = min(unit / 2, 1 / fps / 4) if fps else 0  # time stamps are rounded to the unit
    promised = (stream.duration or 0) * unit
    if not promised and container.duration and len(container.streams) == 1:
        promised = container.duration * MICROSECOND
    first, end = None, Fraction(0)
    for frame in container.decode(stream):
        start = end if frame.pts is None else frame.pts * unit
        first, before = (start, start) if first is None else (first, end)
        end = start + (frame.duration * unit if frame.duration else step)
        if fps and end - before > MAX_GAP:
            raise Unusable(f"its time stamps jump by {float(end - before):.0f} seconds")
        begin, until = (max(0, (t - first - slack) // MICROSECOND) for t in (start, end))
        frame.time_base, frame.pts, frame.duration = MICROSECOND, begin, max(0, until - begin)
        yield frame
        tick(min(float((end - first) / promised), 1.0) if promised else 0.0)
    if first is not None and promised - (end - first) > min(MISSING * promised, 1):
        raise Unusable(f"cut short: {float(end - first):.1f} of {float(promised):.1f} seconds")


def _resampled(frames: Iterable[Any], fps: float) -> Iterator[Any]:
    """The frame that is to be seen at 0, 1/fps, 2/fps, … seconds."""
    graph = None
    for frame in frames:
        graph = graph or _graph(_buffer(frame), ("fps", f"{fps}:round=up"))
        yield from _through(graph, frame)
    if graph is not None:
        yield from _through(graph, None)


def _images(
    frames: Iterable[Any], aspect: Fraction | None, settings: Settings
) -> Iterator[np.ndarray]:
    """The middle of each frame, scaled and turned upright, uint8 [H, W, C]."""
    graph = form = None
    for frame in frames:
        turn = _turn(frame)
        if (found := [_buffer(frame, aspect), *turn]) != form:
            form = found
            lies = any(name == "transpose" for name, _ in turn)  # on its side, until it is turned
            height, width = settings.size[::-1] if lies else settings.size
            box = f"min(iw,ih/sar*{width}/{height}):min(ih,iw*sar*{height}/{width}):exact=1"
            scale = f"{width}:{height}:flags={SCALING}"
            graph = _graph(form[0], ("crop", box), ("scale", scale), ("format", "rgb24"), *turn)
        for scaled in _through(graph, frame):
            image = scaled.to_ndarray()
            yield (image @ LUMA).astype(np.uint8)[:, :, None] if settings.grayscale else image


def _turn(frame: Any) -> list[tuple[str, str]]:
    """The filters that turn a frame upright, and mirror it, as its display matrix says."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return []
    a, b, _, c, d, *_ = np.frombuffer(found, np.int32).tolist()  # of x' = ax + cy, y' = bx + dy
    if abs(b) > abs(a):
        return [("transpose", str(2 * (b < 0) + (c < 0)))]
    return [(name, "") for name, mirrored in (("hflip", a < 0), ("vflip", d < 0)) if mirrored]


def _buffer(frame: Any, aspect: Fraction | None = None) -> tuple[str, str]:
    """What FFmpeg's filters have to know of the frames that come in."""
    return "buffer", (
        f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:"
        f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}:"
        f"time_base={MICROSECOND}:pixel_aspect={aspect or 1}"
    )


def _graph(*filters: tuple[str, str]) -> Any:
    """A chain of FFmpeg's filters, of which the first is a buffer."""
    import av.filter

    graph = av.filter.Graph()
    nodes = [graph.add(name, options) for name, options in (*filters, ("buffersink", ""))]
    graph.link_nodes(*nodes).configure()
    return graph


def _through(graph: Any, frame: Any) -> Iterator[Any]:
    """The frames that filters give for another one, or once there are no more (None)."""
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return
