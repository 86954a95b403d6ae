"""What is done to observations before an encoder sees them. All draws come from outside.

Symbols in shapes: B batch, T time (rows), S frames of an observation, H and W image height and
width, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Crops(NamedTuple):
    """Crops of images, all places in them equally likely.

    Attributes:
        image: height and width of the images.
        size: of the crops.
        pad: pixels by which an image's rim is repeated outwards before.
    """

    image: tuple[int, int]
    size: tuple[int, int]
    pad: int = 0

    def draw(self, batch: int, device: torch.device) -> Tensor:
        """Offsets of crops, int64 [B, 2]: one for all frames of an observation."""
        sides = zip(self.image, self.size, strict=True)
        most = [side - size + 2 * self.pad + 1 for side, size in sides]
        drawn = [torch.randint(n, (batch,), device=device) for n in most]
        return torch.stack(drawn, 1)

    def center(self, images: Tensor) -> Tensor:
        """The middle of images [..., H, W, C]."""
        (top, left), (height, width) = self.middle, self.size
        return images[..., top : top + height, left : left + width, :]

    @property
    def middle(self) -> tuple[int, int]:
        """Where the crop in the middle of an image that is not padded begins."""
        (h, w), (height, width) = self.image, self.size
        return (h - height) // 2, (w - width) // 2

    def take(self, images: Tensor, frames: Tensor, offset: Tensor) -> Tensor:
        """Stacks of cropped frames.

        Rows are padded, columns are not: beyond the rim, indices stay at it. What is copied are
        runs, the lines of a crop, and not its pixels one by one.

        Args:
            images: uint8 [B, T, H, W, C].
            frames: which rows make up each stack, int64 [B, S].
            offset: what `draw` returned.

        Returns:
            uint8 [B, S·C, H, W], the oldest frame first.
        """
        (side, _), (height, width) = self.image, self.size
        if self.pad:
            sides = (images[..., :1, :], images[..., -1:, :])
            left, right = (x.expand(-1, -1, -1, self.pad, -1) for x in sides)
            images = torch.cat([left, images, right], -2)
        batch, rows, _, line, channels = images.shape
        along = torch.arange(height, device=images.device)
        y = (offset[:, :1] - self.pad + along).clamp(0, side - 1)  # [B, H]
        number = torch.arange(batch, device=images.device)[:, None] * rows + frames  # [B, S]
        start = (number[:, None] * side + y[:, :, None]) * line + offset[:, 1, None, None]
        runs = images.flatten().unfold(0, width * channels, 1)  # one from each byte on
        found = runs[start * channels].unflatten(3, (width, channels))  # [B, H, S, W, C]
        return found.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def stacked(images: Tensor, frames: Tensor) -> Tensor:
    """Stacks of whole frames, as `Crops.take` returns them."""
    b = torch.arange(len(images), device=images.device)[:, None]
    return join(images[b, frames])


def join(frames: Tensor) -> Tensor:
    """Frames [B, S, H, W, C] as an observation [B, S·C, H, W]."""
    return frames.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def random_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Each observation through a 3×3 convolution of its own, which keeps shapes and not colours.

    After Lee et al. 2020 (arXiv 1910.05396), with a sigmoid, as SVEA's released code has it.

    Args:
        x: [B, S·C, H, W] in 0..1.
        kernel: [B, C, C, 3, 3], standard normal: one for all frames of an observation.

    Returns:
        As ``x``.
    """
    batch, channels = kernel.shape[:2]
    frames = x.unflatten(1, (-1, channels)).transpose(0, 1).flatten(1, 2)  # [S, B·C, H, W]
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    found = F.conv2d(padded, kernel.flatten(0, 1).to(x.dtype), groups=batch)
    return torch.sigmoid(found).unflatten(1, (batch, channels)).transpose(0, 1).flatten(1, 2)


def overlay(x: Tensor, image: Tensor, share: float = 0.5) -> Tensor:
    """Observations with a picture laid over all their frames (arXiv 2011.13389).

    Args:
        x: [B, S·C, H, W] in 0..1.
        image: [B, C, H, W] in 0..1.
        share: of the picture in what is seen.
    """
    over = image.to(x.dtype).repeat(1, x.shape[1] // image.shape[1], 1, 1)
    return (1 - share) * x + share * over
