"""A bonus for what videos make one curious about: APV's intrinsic reward (arXiv 2203.13880).

Symbols in shape comments: B batch, T time, L length of a window, F feature, P size of a projection,
Q of the queue.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class BonusConfig:
    """How novelty is measured, and what it is worth.

    Attributes:
        k: nearest neighbours.
        weight: of the bonus beside the reward; ``relative`` multiplies it by the running mean of
            the reward's magnitude.
        window: L, rows whose features are averaged.
        queue_size: Q, projections that are kept.
        queue_dim: P.
        momentum: of the running mean of the bonus's magnitude; ``scale`` is what the mean becomes,
            ``eps`` is added before dividing by it, ``init`` is where it begins.
    """

    k: int = 16
    weight: float = 1.0
    relative: bool = False
    window: int = 5
    queue_size: int = 4096
    queue_dim: int = 128
    momentum: float = 0.99
    scale: float = 1.0
    eps: float = 1e-8
    init: float = 1.0


class Memory(NamedTuple):
    """What the bonus remembers of the batches so far."""

    queue: Tensor  # [Q, P], the newest first; rows from `filled` on are empty
    filled: Tensor  # 0-d int64
    magnitude: Tensor  # 0-d float64, running mean of the bonus before it is divided by that
    reward_magnitude: Tensor  # 0-d float64, of the reward


class VideoBonus(nn.Module):
    """The distance of a window of features to its nearest neighbours among the last ones.

    All that it is lies in buffers, so that it is saved, and recorded with an update. Distances are
    computed in float64: near neighbours differ in the last digits that matrix products in float32,
    or in a GPU's TensorFloat-32, would leave.

    Args:
        feat_size: F.
        config: its settings.
    """

    queue: Tensor
    filled: Tensor
    magnitude: Tensor
    reward_magnitude: Tensor
    projection: Tensor

    def __init__(self, feat_size: int, config: BonusConfig):
        super().__init__()
        c = self.config = config
        self.register_buffer("projection", torch.randn(feat_size, c.queue_dim) / c.queue_dim)
        self.register_buffer("queue", torch.zeros(c.queue_size, c.queue_dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        for name in ("magnitude", "reward_magnitude"):
            start = c.init if name == "magnitude" else 1.0
            self.register_buffer(name, torch.full((), start, dtype=torch.float64))

    @torch.no_grad()
    def forward(
        self, feat: Tensor, reward: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Memory, dict[str, Tensor]]:
        """The rewards with their bonus. It remembers nothing by itself: see :meth:`remember`.

        Args:
            feat: [B, T, F].
            reward: [B, T].
            is_first: bool [B, T].

        Returns:
            Rewards [B, T−L+1], what there is to remember, and numbers for the log.
        """
        c = self.config
        with torch.autocast(feat.device.type, enabled=False):
            windows = window_means(feat.double(), is_first, c.window)  # [B, T−L+1, F]
            new = (windows @ self.projection.double()).to(self.queue.dtype).flatten(0, 1)
            queue = torch.cat([new, self.queue[: c.queue_size - len(new)]])
            filled = (self.filled + len(new)).clamp(max=c.queue_size)
            novelty = self.novelty(new, queue, filled)
        magnitude = self._moved(self.magnitude, novelty)
        reward_magnitude = self._moved(self.reward_magnitude, reward, 0.99)
        bonus = (novelty / (magnitude + c.eps) * c.scale).reshape(windows.shape[:2])
        weight = c.weight * reward_magnitude if c.relative else c.weight
        bonus = (weight * bonus).to(reward.dtype)
        metrics = {
            "intr_mean": novelty.mean(),
            "intr_mag": magnitude,
            "intr_reward": bonus.mean(),
            "plain_reward_mean": reward.mean(),
        }
        memory = Memory(queue, filled, magnitude, reward_magnitude)
        return reward[:, : bonus.shape[1]] + bonus, memory, metrics

    def novelty(self, new: Tensor, queue: Tensor, filled: Tensor) -> Tensor:
        """Mean distance of rows [N, P] to their k nearest in the filled part of the queue: [N]."""
        distance = torch.cdist(new.double(), queue.double())  # [N, Q]
        empty = torch.arange(len(queue), device=queue.device) >= filled
        distance = distance.masked_fill(empty, torch.inf)
        near = distance.topk(min(self.config.k, len(queue)), largest=False).values
        count = filled.clamp(max=near.shape[1])  # fewer than k are there at first
        return near.masked_fill(near.isinf(), 0.0).sum(1) / count

    @torch.no_grad()
    def remember(self, memory: Memory, skip: Tensor) -> None:
        """Takes up what a batch has left, unless ``skip`` (0-d) is above 0: its update was skipped.

        Features that are not finite would stay in the queue for many batches.
        """
        for name, value in memory._asdict().items():
            own = getattr(self, name)
            own.copy_(torch.where(skip > 0, own, value))

    def _moved(self, mean: Tensor, values: Tensor, momentum: float | None = None) -> Tensor:
        """A running mean of magnitudes, moved by those of a batch."""
        momentum = self.config.momentum if momentum is None else momentum
        return momentum * mean + (1 - momentum) * values.double().abs().mean()


def window_means(feat: Tensor, is_first: Tensor, length: int) -> Tensor:
    """The mean feature of each window of ``length`` rows, [B, T, F] → [B, T−L+1, F].

    A window ends early where another episode begins within it.
    """
    rows = feat.shape[1] - length + 1
    episode = is_first.long().cumsum(1)
    total, count = torch.zeros_like(feat[:, :rows]), feat.new_zeros(feat.shape[0], rows, 1)
    for later in range(length):
        same = episode[:, later : later + rows] == episode[:, :rows]
        same = same.to(feat.dtype)[..., None]
        total = total + same * feat[:, later : later + rows]
        count = count + same
    return total / count
