"""Frames of any size as the agent is to see them."""

import numpy as np
from PIL import Image


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of another size, in RGB: each pixel is the mean of those that it covers.

    Args:
        image: uint8 [H, W, 3], [H, W, 1] or [H, W].
        size: Height and width that are wanted.

    Returns:
        uint8 [height, width, 3].
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, -1)
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))
