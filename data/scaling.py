"""Images of any size, made to fit as the frames of videos are."""

from __future__ import annotations

import numpy as np

from data.frames import LUMA, Settings, scaled


def fit(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images as (H, W, C) asks for: the middle of each, scaled; in grey, or in three equal colours.

    Args:
        images: uint8 [T, H, W, C].
        shape: (H, W, C) of the result.

    Returns:
        uint8 [T, H, W, C]; the images themselves where they fit, or have other numbers of channels
        than one and three.

    Raises:
        ValueError: they cannot be scaled.
    """
    import av

    channels = images.shape[3]
    if images.shape[1:] == tuple(shape) or not {channels, shape[2]} <= {1, 3}:
        return images
    if images.shape[1:3] != tuple(shape[:2]):
        settings = Settings(size=(shape[0], shape[1]))
        try:
            pictures = scaled((image.repeat(3 // channels, -1) for image in images), settings)
            images = np.stack([*pictures])[..., :channels]
        except av.FFmpegError as error:
            raise ValueError(f"its images cannot be scaled: {error.strerror}") from error
    if channels < shape[2]:
        return images.repeat(3, -1)
    return (images @ LUMA).astype(np.uint8)[..., None] if channels > shape[2] else images
