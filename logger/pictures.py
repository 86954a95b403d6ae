"""Pictures and videos as bytes: float arrays in 0..1 or uint8 in, PNG, GIF and MP4 out."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def to_uint8(values: np.ndarray, name: str = "picture") -> np.ndarray:
    """A copy in uint8; floats are clipped to 0..1.

    Raises:
        ValueError: another dtype; the line names the picture.
    """
    if values.dtype == np.uint8:
        return values.copy()  # it is written later: the caller may reuse its buffer
    if values.dtype.kind != "f":
        raise ValueError(f"{name!r} is {values.dtype}, not uint8 or float in 0..1")
    # A model that diverged draws NaNs; that picture is black, and no reason to stop.
    return (np.nan_to_num(values).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def to_rgb(values: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of a picture or video [..., C]; one channel becomes three equal ones."""
    values = to_uint8(values)
    return np.repeat(values, 3, -1) if values.shape[-1] == 1 else values


def encode_gif(video: np.ndarray, fps: int) -> bytes:
    """An endless GIF of a video, uint8 [T, H, W, 3]; identical neighbours become one long frame."""
    # GIF counts time in 10 ms; viewers slow down what is shorter than 20.
    duration = max(20, 10 * round(100 / fps))
    # The default, median cut, takes 50 times as long for no smaller error.
    octree = Image.Quantize.FASTOCTREE
    first, *others = (
        Image.fromarray(frame).quantize(256, octree, dither=Image.Dither.NONE) for frame in video
    )
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return file.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """A PNG of an image, uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_mp4(video: Iterable[np.ndarray], fps: int) -> bytes:
    """An H.264 video of images, uint8 [H, W, 3] with even sides, that browsers play."""
    import av  # loads a set of libraries that few commands need

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # crf 18: hardly to be told from the frames.
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(video):
            if not number:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Images [..., H, W, C], every pixel a square of ``factor`` × ``factor``."""
    return images.repeat(factor, -3).repeat(factor, -2)


def contact_sheet(
    videos: Sequence[np.ndarray], labels: Sequence[str], columns: int, factor: int = 2
) -> np.ndarray:
    """A row for each video: its label, then frames evenly spaced from the first to the last.

    Args:
        videos: uint8 [T, H, W, 3] each, of one size; T may differ.
        labels: one a video; lines are parted by line breaks.
        columns: frames of each, at least 2.
        factor: enlarges the frames.

    Returns:
        uint8 [rows · H · factor, label + columns · W · factor, 3].
    """
    font, gap = ImageFont.load_default(12), 8
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(measure.multiline_textbbox((0, 0), label, font)[2] for label in labels)
    rows = []
    for video, label in zip(videos, labels, strict=True):
        chosen = np.linspace(0, len(video) - 1, columns).round().astype(int)
        frames = np.concatenate(list(enlarge(video[chosen], factor)), axis=1)
        text = Image.new("RGB", (int(width) + 2 * gap, len(frames)), "white")
        ImageDraw.Draw(text).multiline_text((gap, gap), label, "black", font)
        rows.append(np.concatenate([np.asarray(text), frames], axis=1))
    return np.concatenate(rows)
