"""The images that a predictor sees of a film: the middle, scaled, and at a chosen rate.

Symbols in shapes: H and W image height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import reading
from media.decoding import MICROSECOND, lies, opened, upright

LUMA = np.array([0.2125, 0.7154, 0.0721])  # of Gymnasium's grey observations
# Antialiased, and the same on every machine.
SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


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


def read_frames(
    path: Path, settings: Settings, tick: Callable[[float], None] = lambda share: None
) -> Iterator[np.ndarray]:
    """The images of a film, uint8 [H, W, C]: upright, the middle of the picture, scaled.

    Args:
        path: a video file, an animated picture, or a folder of images.
        settings: how.
        tick: called with the share that is done, after each frame.

    Raises:
        Unusable: it is no video, damaged, or cut short.
        Unreadable: the machine failed to read it.
    """
    with reading(path), opened(path, settings.fps, tick) as film:
        frames = _resampled(film.frames, settings.fps) if settings.fps else film.frames
        yield from _images(frames, film.aspect, settings)


def scaled(pictures: Iterable[np.ndarray], settings: Settings) -> Iterator[np.ndarray]:
    """Pictures, uint8 [H, W, 3], cropped and scaled as the frames of a video are."""
    import av

    frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(p), "rgb24") for p in pictures)
    yield from _images(frames, Fraction(1), settings)


def _resampled(frames: Iterable[Any], fps: float) -> Iterator[Any]:
    """The frame that is to be seen at 0, 1/fps, 2/fps, … seconds."""
    graph = None
    for frame in frames:
        graph = graph or _graph(_buffer(frame), ("fps", f"{fps}:round=up"))
        yield from _through(graph, frame)
    if graph is not None:
        yield from _through(graph, None)


def _images(frames: Iterable[Any], aspect: Fraction, settings: Settings) -> Iterator[np.ndarray]:
    """The middle of each frame, scaled and turned upright, uint8 [H, W, C]."""
    graph = form = None
    for frame in frames:
        if (found := (_buffer(frame, aspect), lies(frame))) != form:
            form = found
            height, width = settings.size[::-1] if lies(frame) else settings.size
            box = f"min(iw,ih/sar*{width}/{height}):min(ih,iw*sar*{height}/{width}):exact=1"
            scale = f"{width}:{height}:flags={SCALING}"
            graph = _graph(form[0], ("crop", box), ("scale", scale), ("format", "rgb24"))
        for scaled in _through(graph, frame):
            image = np.ascontiguousarray(upright(scaled.to_ndarray(), frame))
            yield (image @ LUMA).astype(np.uint8)[:, :, None] if settings.grayscale else image


def _buffer(frame: Any, aspect: Fraction = Fraction(1)) -> tuple[str, str]:
    """What FFmpeg's filters have to know of the frames that come in."""
    return "buffer", (
        f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:"
        f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}:"
        f"time_base={MICROSECOND}:pixel_aspect={aspect}"
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
