"""Pictures and videos as bytes: float arrays in 0..1 or uint8 in, PNG and GIF out."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


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
