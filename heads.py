"""Heads: from a feature to a distribution over a number or over actions. No losses.

Symbols in shape comments: N any leading dimensions, A action, F feature.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distributions import (
    Bernoulli,
    Huber,
    Normal,
    OneHot,
    TanhNormal,
    TruncatedNormal,
    UnitNormal,
)
from networks import activation, mlp


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A head: ``layers`` hidden layers of ``units``, and the distribution ``dist`` on top."""

    layers: int
    units: int
    act: str = "ELU"
    dist: str = "normal"


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """A head over actions.

    Attributes:
        dist: ``trunc_normal``, ``tanh_normal``, ``tanh_normal_5``, ``normal``, ``normal_1``,
            ``normal_published`` (the Gaussian of ``trunc_normal``, neither cut off nor clipped) for
            continuous actions, ``onehot`` or ``onehot_gumble`` (relaxed) for discrete ones.
        init_std: added before the softplus of ``tanh_normal`` and ``normal``.
        min_std: least standard deviation.
        temperature: of ``onehot_gumble``.
        outscale: scale of the last layer's weights at the start; 0 keeps PyTorch's own.
    """

    layers: int
    units: int
    act: str = "ELU"
    dist: str = "trunc_normal"
    init_std: float = 1.0
    min_std: float = 0.1
    temperature: float = 0.1
    outscale: float = 0.0


def in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer of x [N, units], whatever autocast says: float32, as the last one of a head.

    Between 128 and 256 numbers of bfloat16 are 1 apart: returns would be made of rounded rewards
    and values.
    """
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


class DenseHead(nn.Module):
    """Feature [N, F] → ``normal``, ``huber`` or ``binary`` over one number, [N, 1]."""

    def __init__(self, inputs: int, config: HeadConfig):
        super().__init__()
        self.layers = mlp(inputs, config.layers, config.units, activation(config.act))
        self.mean = nn.Linear(config.units, 1)
        dists: dict[str, type[UnitNormal | Huber | Bernoulli]]
        dists = {"normal": UnitNormal, "huber": Huber, "binary": Bernoulli}
        self.dist = dists[config.dist]

    def forward(self, feat: Tensor) -> UnitNormal | Huber | Bernoulli:
        # Flat, because a Linear over more dimensions returns a view, and overwriting one is slow.
        mean = in_float32(self.mean, self.layers(feat.reshape(-1, feat.shape[-1])))
        return self.dist(mean.reshape(*feat.shape[:-1], 1))


class ActionHead(nn.Module):
    """Feature [N, F] → a distribution over actions [N, A]."""

    GAUSSIANS = ("trunc_normal", "tanh_normal", "tanh_normal_5", "normal", "normal_published")
    CONTINUOUS = (*GAUSSIANS, "normal_1")
    DISCRETE = ("onehot", "onehot_gumble")

    def __init__(self, inputs: int, actions: int, config: ActorConfig):
        super().__init__()
        self.config, self.actions, self.dist = config, actions, config.dist
        self.layers = mlp(inputs, config.layers, config.units, activation(config.act))
        outputs = 2 * actions if self.dist in self.GAUSSIANS else actions
        self.out = nn.Linear(config.units, outputs)
        self.scale_out()

    @torch.no_grad()
    def scale_out(self) -> None:
        """Scales the last layer's weights, which were just drawn, by ``outscale``."""
        if self.config.outscale:
            self.out.weight.mul_(self.config.outscale)

    def draw_noise(self, *lead: int) -> Tensor:
        """What ``rsample`` of actions [*lead, A] needs: standard normal or uniform numbers."""
        uniform = self.dist in ("trunc_normal", *self.DISCRETE)
        draw = torch.rand if uniform else torch.randn
        return draw((*lead, self.actions), device=self.out.weight.device)

    def forward(self, feat: Tensor) -> Normal | TruncatedNormal | TanhNormal | OneHot:
        x = in_float32(self.out, self.layers(feat))
        if self.dist == "onehot":
            return OneHot(x)
        if self.dist == "onehot_gumble":
            return OneHot(x, temperature=self.config.temperature)
        if self.dist == "normal_1":
            return Normal(x, 1.0)
        mean, std = x.chunk(2, -1)
        if self.dist in ("trunc_normal", "normal_published"):
            std = 2 * torch.sigmoid(std / 2) + self.config.min_std
            kind = TruncatedNormal if self.dist == "trunc_normal" else Normal
            return kind(torch.tanh(mean), std)
        if self.dist == "tanh_normal_5":
            return TanhNormal(5 * torch.tanh(mean / 5), F.softplus(std + 5) + 5)
        std = F.softplus(std + self.config.init_std) + self.config.min_std
        if self.dist == "tanh_normal":
            return TanhNormal(torch.tanh(mean), std)
        return Normal(mean, std)
