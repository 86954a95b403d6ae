"""What TD-MPC2 is made of: an encoder, latent dynamics, reward, action values and a policy.

Hansen et al. 2024 (arXiv 2310.16828). Latents are groups of numbers that sum to 1; rewards and
action values are distributions over bins of their symmetric logarithm.

Symbols in shapes: N any leading sizes, Q action-value networks, L latent, A action, K bins,
U units, C channels of an observation, H and W image height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distributions import symexp, symlog

KERNELS, STRIDES = (7, 5, 3, 3), (2, 2, 2, 1)  # of the encoder's convolutions
BOUNDS = (-10.0, 2.0)  # of the policy's log standard deviation
INIT_STD = 0.02  # of linear weights at the start


class TwoHot(NamedTuple):
    """Numbers as distributions over K bins that are evenly spaced in their symmetric logarithm.

    Attributes:
        low: the first bin.
        high: the last one.
        bins: K.
    """

    low: float
    high: float
    bins: int

    def decode(self, logits: Tensor) -> Tensor:
        """The number of each distribution: symexp of the mean bin, [N, K] → [N]."""
        # Made on the device: a recorded update cannot take constants from elsewhere.
        points = torch.linspace(
            self.low, self.high, self.bins, dtype=logits.dtype, device=logits.device
        )
        return symexp((logits.softmax(-1) * points).sum(-1))

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross entropy with numbers, each shared between the two bins that it lies between.

        Args:
            logits: [..., N, K].
            value: [N]; beyond the outer bins it counts as one of them.

        Returns:
            [..., N].
        """
        place = (symlog(value).clamp(self.low, self.high) - self.low) / self.step
        below = place.floor()
        # Of what is no number the share is none either, and with it the loss.
        share, index = place - below, below.nan_to_num(0.0).long()
        both = torch.stack([index, (index + 1).clamp(max=self.bins - 1)], -1)  # [N, 2]
        log_probs = F.log_softmax(logits, -1)
        lower, upper = log_probs.gather(-1, both.expand(*logits.shape[:-1], 2)).unbind(-1)
        return -((1 - share) * lower + share * upper)

    @property
    def step(self) -> float:
        """From one bin to the next."""
        return (self.high - self.low) / (self.bins - 1)


class SimNorm(nn.Module):
    """A softmax in each group of so many numbers (arXiv 2204.00616)."""

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """[N, L] → [N, L]."""
        # Softmax over a short last dimension takes ten times as long.
        groups = x.unflatten(-1, (-1, self.group)).transpose(-1, -2).contiguous()
        return groups.softmax(-2).transpose(-1, -2).flatten(-2)


def sides(side: int) -> list[int]:
    """What each of the convolutions leaves of a side; not above 0 where that is too small."""
    found = []
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        side = (side - kernel) // stride + 1
        found.append(side)
    return found


def least_side() -> int:
    """The smallest side that the convolutions leave something of."""
    side = 1
    for kernel, stride in zip(reversed(KERNELS), reversed(STRIDES), strict=True):
        side = (side - 1) * stride + kernel
    return side


class Encoder(nn.Module):
    """Four convolutions without padding, ReLU between them, whose output is the latent.

    Args:
        channels: C, of all frames of an observation.
        size: (H, W).
        filters: channels of each convolution.
    """

    def __init__(self, channels: int, size: Sequence[int], filters: int):
        super().__init__()
        inputs = [channels] + [filters] * (len(KERNELS) - 1)
        shapes = zip(inputs, KERNELS, STRIDES, strict=True)
        self.layers = nn.ModuleList(
            nn.Conv2d(n, filters, kernel, stride) for n, kernel, stride in shapes
        )
        self.out_size = latent_size(size, filters)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, L]."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).flatten(1)


def latent_size(size: Sequence[int], filters: int) -> int:
    """L: channels times what the convolutions leave of the sides."""
    return filters * math.prod(sides(side)[-1] for side in size)


def hidden(inputs: int, units: int) -> nn.Sequential:
    """A hidden layer."""
    return nn.Sequential(nn.Linear(inputs, units), nn.LayerNorm(units), nn.Mish())


class LatentActionNet(nn.Module):
    """Two hidden layers on latent and action, and a linear one.

    Args:
        latent: L.
        actions: A.
        units: U.
        outputs: of the last layer.
    """

    def __init__(self, latent: int, actions: int, units: int, outputs: int):
        super().__init__()
        self.latent = latent
        self.first, self.norm = nn.Linear(latent + actions, units), nn.LayerNorm(units)
        self.rest = nn.Sequential(hidden(units, units), nn.Linear(units, outputs))

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """[N, L] and [N, A] → [N, outputs].

        Leading sizes of 1 are broadcast: what all plans share is computed once.
        """
        of_latent, of_action = self.first.weight.tensor_split((self.latent,), 1)
        x = F.linear(z, of_latent, self.first.bias) + F.linear(action, of_action)
        return self.rest(F.mish(self.norm(x)))


class Policy(nn.Module):
    """A Gaussian whose log standard deviation is bounded, squashed by tanh.

    Args:
        latent: L.
        actions: A.
        units: U.
    """

    def __init__(self, latent: int, actions: int, units: int):
        super().__init__()
        self.layers = nn.Sequential(
            hidden(latent, units), hidden(units, units), nn.Linear(units, 2 * actions)
        )

    def forward(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] and standard normal [N, A] → actions in (−1, 1) and log std, [N, A] each."""
        mean, log_std = self.layers(z).chunk(2, -1)
        low, high = BOUNDS
        log_std = low + 0.5 * (high - low) * (log_std.tanh() + 1)
        return torch.tanh(mean + log_std.exp() * noise), log_std


class ActionValues(nn.Module):
    """Q networks of latent and action, their weights stacked; dropout in the first layer.

    Args:
        count: Q.
        latent: L.
        actions: A.
        units: U.
        bins: K.
        dropout: the share that is dropped, where a mask is given.
    """

    def __init__(
        self, count: int, latent: int, actions: int, units: int, bins: int, dropout: float
    ):
        super().__init__()
        self.units, self.dropout = units, dropout
        inputs, outputs = (latent + actions, units, units), (units, units, bins)
        layers = zip(inputs, outputs, strict=True)
        self.weights = nn.ParameterList(torch.zeros(count, n, m) for n, m in layers)
        self.biases = nn.ParameterList(torch.zeros(count, 1, m) for m in outputs)
        self.scales = nn.ParameterList(torch.ones(count, 1, units) for _ in range(2))
        self.offsets = nn.ParameterList(torch.zeros(count, 1, units) for _ in range(2))

    def forward(
        self, z: Tensor, action: Tensor, mask: Tensor | None = None, which: Tensor | None = None
    ) -> Tensor:
        """Logits of the action values.

        Args:
            z: [N, L].
            action: [N, A].
            mask: bool [Q, N, U], what dropout keeps; None keeps all.
            which: int64, the networks that are asked; None asks all.

        Returns:
            [Q, N, K].
        """
        lead, x = z.shape[:-1], torch.cat([z, action], -1).flatten(0, -2)
        weights, biases, scales, offsets = (
            [tensor if which is None else tensor[which] for tensor in tensors]
            for tensors in (self.weights, self.biases, self.scales, self.offsets)
        )
        count = len(weights[0])
        # All see the same: one product for them, not one for each.
        x = (x @ weights[0].transpose(0, 1).flatten(1)).unflatten(1, (count, self.units))
        x = x.transpose(0, 1) + biases[0]
        if mask is not None:
            x = x * mask.flatten(1, -2) / (1 - self.dropout)
        for i in range(2):
            x = F.layer_norm(x, (self.units,)) * scales[i] + offsets[i]
            x = torch.baddbmm(biases[i + 1], F.mish(x), weights[i + 1])
        return x.unflatten(1, lead)


class World(nn.Module):
    """All that TD-MPC2 knows of a task: what latents become, what they earn, how to act.

    Args:
        encoder: whose output, normalised, is the latent.
        actions: A.
        units: U.
        two_hot: the bins of reward and action values.
        group: numbers of a latent that sum to 1.
        count: Q.
        dropout: of the action values.
    """

    def __init__(
        self,
        encoder: Encoder,
        actions: int,
        units: int,
        two_hot: TwoHot,
        group: int,
        count: int,
        dropout: float,
    ):
        super().__init__()
        latent, bins = encoder.out_size, two_hot.bins
        self.two_hot, self.simnorm = two_hot, SimNorm(group)
        self.encoder = encoder
        self.dynamics = LatentActionNet(latent, actions, units, latent)
        self.norm = nn.LayerNorm(latent)  # of what the dynamics predict
        self.reward = LatentActionNet(latent, actions, units, bins)
        self.q = ActionValues(count, latent, actions, units, bins, dropout)
        self.policy = Policy(latent, actions, units)
        self.apply(_init)

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """The latent that an action leads to, [N, L]."""
        return self.simnorm(self.norm(self.dynamics(z, action)))

    def earn(self, z: Tensor, action: Tensor) -> Tensor:
        """What an action earns, [N]."""
        return self.two_hot.decode(self.reward(z, action))

    def act(self, z: Tensor, noise: Tensor) -> Tensor:
        """The policy's actions, [N, A]."""
        return self.policy(z, noise)[0]

    def value(self, z: Tensor, action: Tensor, pair: Tensor) -> Tensor:
        """The mean of two of the action values, [N]; ``pair`` says which, int64 [2]."""
        return self.two_hot.decode(self.q(z, action, which=pair)).mean(0)


@torch.no_grad()
def _init(module: nn.Module) -> None:
    """Small linear weights; action values and reward begin as 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ActionValues):
        for weight in list(module.weights)[:-1]:
            nn.init.normal_(weight, std=INIT_STD)
    elif isinstance(module, World):
        last: Any = module.reward.rest[-1]
        nn.init.zeros_(last.weight)
