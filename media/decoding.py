"""The frames of films: timed, and turned upright.

Symbols in shapes: H and W image height and width.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from media import images
from media.files import images_in, is_animation
from media.images import Unusable

# What FFmpeg may open, and how: a playlist that is named like a video must not fetch anything.
OPEN = {
    "protocol_whitelist": "file",
    "format_whitelist": (
        "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,ogg,flv,asf,"
        "mpegvideo,m4v,h264,hevc,ivf,mxf,dv,yuv4mpegpipe,nut,rm"
    ),
}
MAX_GAP = 600  # seconds that one frame may last when a film is resampled
MISSING = Fraction(1, 10)  # share of its promised length that a video may lack, at most a second
RATE = 25  # frames per second of what tells no time, such as a folder of images
# What the system says where it failed to read: nothing about the file, which may pass. EPERM and
# ENOMEM are not among it: FFmpeg says them of damaged videos.
MACHINE = {errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT}
MACHINE |= {errno.EAGAIN, errno.EINTR}
MICROSECOND = Fraction(1, 1_000_000)


@dataclass
class Film:
    """An open film.

    Attributes:
        frames: PyAV's frames, timed in microseconds from the first one, as they are stored; see
            `upright`.
        aspect: A pixel's width to its height.
    """

    frames: Iterator[Any]
    aspect: Fraction


@contextmanager
def opened(
    path: Path, fps: float = 0, tick: Callable[[float], None] = lambda share: None
) -> Iterator[Film]:
    """Opens a film. What FFmpeg and Pillow raise within the context is the film's fault.

    Args:
        path: A video file, an animated picture, or a folder of images.
        fps: The rate that it will be resampled to, 0 for none.
        tick: Called with the share that is done, after each frame.

    Raises:
        Unusable: It is no video, damaged, or cut short.
        OSError: The system failed to read it.
    """
    import av  # FFmpeg's libraries: few runs need them

    try:
        if path.is_dir():
            yield Film(_timed_images(_sequence(images_in(path)), fps, tick), Fraction(1))
        elif is_animation(path):
            yield Film(_timed_images(_animation(path), fps, tick), Fraction(1))
        else:
            # Titles in other encodings than UTF-8 are common, and of no interest.
            name = str(path.absolute())
            with av.open(name, container_options=OPEN, metadata_errors="replace") as container:
                stream = _stream(container)
                aspect = stream.sample_aspect_ratio or Fraction(1)
                yield Film(_timed(container, stream, Fraction(fps), tick), aspect)
    except av.FFmpegError as error:
        if error.errno in MACHINE:
            raise OSError(error.errno, error.strerror, str(path)) from error
        reason = " ".join((error.strerror or str(error)).split())
        raise Unusable(f"no video, or damaged: {reason}") from error


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise Unusable("no video in it")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if stream.codec_context is None:
        raise Unusable("no decoder for it")
    stream.codec_context.options = {"max_pixels": str(images.MAX_PIXELS)}
    return stream


def pictures(path: Path) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 [H, W, 3]: RGB, upright and whole.

    Raises:
        Unusable: It is no video, damaged, or cut short; perhaps after some frames.
        OSError: The system failed to read it.
    """
    with opened(path) as film:
        for frame in film.frames:
            yield upright(frame.to_ndarray(format="rgb24"), frame)


def lies(frame: Any) -> bool:
    """Whether a frame lies on its side as it is stored."""
    a, b, _, _ = _matrix(frame)
    return abs(b) > abs(a)


def upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """The image [H, W, …] of a frame, turned and mirrored as the film says; a view."""
    a, b, c, d = _matrix(frame)  # x' = ax + cy, y' = bx + dy
    if lies(frame):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(found, np.int32).tolist()
    return a, b, c, d


def _timed(
    container: Any, stream: Any, fps: Fraction, tick: Callable[[float], None]
) -> Iterator[Any]:
    """Each frame of a video file.

    Raises:
        Unusable: The video ends long before it should, or a frame lasts for ever.
    """
    unit, step = stream.time_base or Fraction(0), 1 / Fraction(stream.average_rate or RATE)
    # Time stamps are rounded to the unit.
    slack = min(unit / 2, 1 / fps / 4) if fps else Fraction(0)
    promised = (stream.duration or 0) * unit
    if not promised and container.duration and len(container.streams) == 1:
        promised = container.duration * MICROSECOND
    first: Fraction | None = None
    end = Fraction(0)
    for frame in container.decode(stream):
        start = end if frame.pts is None else frame.pts * unit
        first, before = (start, start) if first is None else (first, end)
        end = start + (frame.duration * unit if frame.duration else step)
        if fps:
            _check_gap(end - before)
        begin, until = (max(0, (t - first - slack) // MICROSECOND) for t in (start, end))
        frame.time_base, frame.pts, frame.duration = MICROSECOND, begin, max(0, until - begin)
        yield frame
        tick(min(float((end - first) / promised), 1.0) if promised else 0.0)
    if first is not None and promised - (end - first) > min(MISSING * promised, Fraction(1)):
        raise Unusable(f"cut short: {float(end - first):.1f} of {float(promised):.1f} seconds")


def _check_gap(seconds: Fraction) -> None:
    if seconds > MAX_GAP:
        raise Unusable(f"its time stamps jump by {float(seconds):.0f} seconds")


Still = tuple[Image.Image, Fraction, float]  # in RGB, its seconds, the share of the film up to it


def _sequence(paths: list[Path]) -> Iterator[Still]:
    """The images of a folder."""
    for number, path in enumerate(paths, 1):
        try:
            image = images.read_image(path)
        except Unusable as error:
            raise Unusable(f"{path.name}: {error}") from error
        yield image, Fraction(1, RATE), number / len(paths)


def _animation(path: Path) -> Iterator[Still]:
    """The pictures of an animated WebP or PNG, which FFmpeg does not read in all versions."""
    with images.damage(), Image.open(path, formats=images.FORMATS) as film:
        images.check_size(film)
        count = getattr(film, "n_frames", 1)
        for number, image in enumerate(ImageSequence.Iterator(film), 1):
            picture = images.as_rgb(image)  # decodes it; its time is not known before
            lasts = Fraction(image.info.get("duration") or 0) / 1000
            yield picture, lasts if lasts > 0 else Fraction(1, RATE), number / count


def _timed_images(
    stills: Iterable[Still], fps: float, tick: Callable[[float], None]
) -> Iterator[Any]:
    """Images as frames, one after the other."""
    import av

    start = Fraction(0)
    for image, lasts, share in stills:
        if fps:
            _check_gap(lasts)
        frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        begin, until = (t // MICROSECOND for t in (start, start + lasts))
        frame.time_base, frame.pts, frame.duration = MICROSECOND, begin, until - begin
        start += lasts
        yield frame
        tick(share)
