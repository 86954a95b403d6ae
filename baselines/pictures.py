"""Pictures of what agents of stacked frames see.

Symbols in shapes: B batch, T time (rows), N windows that are drawn, S frames of an observation, H
and W image height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from logger.pictures import grid, to_rgb

CLIPS = 6  # observations that are drawn
SHARE = 0.25  # of an image's brightness that stays where nothing is looked at


def observations(shown: Mapping[str, Tensor], channels: int, saliency: Tensor) -> np.ndarray:
    """A row for each observation, uint8 [H', W', 3]: its frames, what was made of it, what counts.

    Args:
        shown: [B, S·C, H, W] in 0..1 each; of the first all frames are drawn, of the others the
            last one.
        channels: C.
        saliency: [B, H, W], from 0 on; where it is large, the first one's last frame stays bright.
    """
    names, tiles = [], []
    for number, (name, stack) in enumerate(shown.items()):
        frames = stack.unflatten(1, (-1, channels)).permute(1, 0, 3, 4, 2)  # [S, B, H, W, C]
        for age, frame in zip(range(len(frames) - 1, -1, -1), frames, strict=True):
            if number == 0 or age == 0:
                names.append(f"{name}\nt-{age}" if age else f"{name}\nt")
                tiles.append(frame)
    first = next(iter(shown.values()))
    last = first.unflatten(1, (-1, channels))[:, -1].permute(0, 2, 3, 1)
    names.append("what moves\nits value")
    tiles.append(last * (SHARE + (1 - SHARE) * _scaled(saliency)[..., None]))
    rows = torch.stack(tiles, 1).float().cpu().numpy()  # [B, columns, H, W, C]
    title = "what the encoder is shown, a transition in each row"
    return grid(to_rgb(rows), columns=names, title=title)


def imagined(frames: Tensor, few: Tensor, nearest: Tensor) -> np.ndarray:
    """What was seen, and above it what was imagined, as the frames that are like it the most.

    Args:
        frames: uint8 [T, B, H, W, C], all that were compared.
        few: which windows are drawn, int64 [N].
        nearest: of their rows 1 … T−1, the numbers of the nearest frames, int64 [T−1, N].

    Returns:
        uint8 [H', W', 3]; two rows for each window, and a rim around a frame that is the true one.
    """
    steps, windows = frames.shape[:2]
    true = frames[:, few]  # [T, N, H, W, C]
    found = torch.cat([true[:1], frames.flatten(0, 1)[nearest]])
    tiles = torch.stack([found, true], 2).permute(1, 2, 0, 3, 4, 5)  # [N, 2, T, H, W, C]
    hits = nearest == torch.arange(1, steps, device=few.device)[:, None] * windows + few
    rims = np.zeros(tiles.shape[:3], bool)
    rims[:, 0, 1:] = hits.T.cpu().numpy()
    return grid(
        to_rgb(tiles.flatten(0, 1).cpu().numpy()),
        ["imagined", "true"] * len(few),
        ["t", *(f"t+{step}" for step in range(1, steps))],
        f"imagined latents as the nearest of {steps * windows} frames;\nwith a rim: the true one",
        rims=rims.reshape(-1, steps),
    )


def _scaled(saliency: Tensor) -> Tensor:
    """In 0..1, the brightest hundredth of each image at 1."""
    flat = saliency.flatten(1)
    most = flat.quantile(0.99, dim=1).clamp(min=torch.finfo(flat.dtype).tiny)
    return (saliency / most[:, None, None]).clamp(0, 1)


def gradient(value: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
    """|∂ value / ∂ pixel|, the largest over an observation's channels, smoothed, [B, H, W].

    Args:
        value: [B, S·C, H, W] → [B].
        obs: [B, S·C, H, W].
    """
    with torch.enable_grad():
        obs = obs.detach().requires_grad_(True)
        found = torch.autograd.grad(value(obs).sum(), obs)[0]
    # Strides let every other pixel count for nothing: means of a few show where, not how.
    return F.avg_pool2d(found.abs().amax(1), 5, stride=1, padding=2)
