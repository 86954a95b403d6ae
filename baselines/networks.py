"""What agents from pixels are made of: convolutions, heads, actors, critics.

Symbols in shapes: B batch, S frames of an observation, C channels, H and W image height and width,
R what the convolutions make of an observation, F feature, A action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3  # of every convolution; the first has stride 2


class Convs(nn.Module):
    """Convolutions 3×3, the first of stride 2, without padding; ReLU after each.

    Args:
        channels: S·C.
        size: (H, W).
        layers: how many.
        filters: channels of each.
        last_relu: whether the last one has a ReLU, too.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        layers: int,
        filters: int,
        last_relu: bool = True,
    ):
        super().__init__()
        inputs = [channels] + [filters] * (layers - 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(n, filters, KERNEL, stride=1 if i else 2) for i, n in enumerate(inputs)
        )
        self.last_relu = last_relu
        height, width = (sides(side, layers)[-1] for side in size)
        self.out_size = filters * height * width

    def forward(self, x: Tensor) -> Tensor:
        """[B, S·C, H, W] → [B, R]."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last_relu or i < len(self.layers) - 1:
                x = torch.relu_(x)
        return x.flatten(1)


def sides(side: int, layers: int) -> list[int]:
    """What each of the convolutions leaves of a side; not above 0 where that is too small."""
    found = [(side - KERNEL) // 2 + 1]
    for _ in range(layers - 1):
        found.append(found[-1] - KERNEL + 1)
    return found


class Head(nn.Sequential):
    """What the convolutions see, as a feature: linear, LayerNorm and, if wanted, tanh."""

    def __init__(self, inputs: int, features: int, tanh: bool = False):
        super().__init__(nn.Linear(inputs, features), nn.LayerNorm(features))
        if tanh:
            self.append(nn.Tanh())


def mlp(inputs: int, units: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, units),
        nn.ReLU(inplace=True),
        nn.Linear(units, units),
        nn.ReLU(inplace=True),
        nn.Linear(units, outputs),
    )


class TwinQ(nn.Module):
    """Two action values of a feature."""

    def __init__(self, features: int, actions: int, units: int):
        super().__init__()
        self.q1 = mlp(features + actions, units, 1)
        self.q2 = mlp(features + actions, units, 1)

    def forward(self, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F] and [B, A] → [B] twice."""
        both = torch.cat([feature, action], -1)
        return self.q1(both)[:, 0], self.q2(both)[:, 0]


class Critic(nn.Module):
    """Convolutions, a head, and two action values."""

    def __init__(self, convs: Convs, head: Head, q: TwinQ):
        super().__init__()
        self.convs, self.head, self.q = convs, head, q


class GaussianActor(nn.Module):
    """A Gaussian, squashed by tanh, whose log standard deviation lies between two bounds.

    Args:
        features: F.
        actions: A.
        units: of the hidden layers.
        head: makes features of what the convolutions see, if they are not made elsewhere.
        bounds: of the log standard deviation.
    """

    def __init__(
        self,
        features: int,
        actions: int,
        units: int,
        head: Head | None = None,
        bounds: tuple[float, float] = (-10.0, 2.0),
    ):
        super().__init__()
        self.head, self.bounds = head, bounds
        self.trunk = mlp(features, units, 2 * actions)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """[B, R], or [B, F] without a head → mean before the tanh, log std, [B, A] each."""
        feature = seen if self.head is None else self.head(seen)
        mean, log_std = self.trunk(feature).chunk(2, -1)
        low, high = self.bounds
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)


def squashed(
    mean: Tensor, log_std: Tensor, noise: Tensor, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """A sample of a squashed Gaussian and its log density (SAC, arXiv 1812.05905, appendix C).

    Args:
        mean: before the tanh, [B, A].
        log_std: likewise.
        noise: standard normal, [B, A].
        exact: ln(1 − a²) from what came before the tanh; else ln(max(1 − a², 0) + 1e-6), as CURL,
            RAD and SVEA have it, which is bounded.

    Returns:
        Actions [B, A] in (−1, 1), and ln π [B].
    """
    raw = mean + noise * log_std.exp()
    action = torch.tanh(raw)
    normal = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    if exact:
        slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    else:
        slope = torch.log(torch.relu(1 - action**2) + 1e-6)
    return action, normal - slope.sum(-1)


@torch.no_grad()
def orthogonal(module: nn.Module, delta: bool) -> None:
    """Orthogonal weights, of gain 1 in linear layers and √2 in convolutions; biases of 0.

    Args:
        module: all its layers are drawn anew.
        delta: convolutions begin as their centre tap alone (arXiv 1806.05393).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            weight = layer.weight
            if delta:
                nn.init.zeros_(weight)
                weight = weight[:, :, KERNEL // 2, KERNEL // 2]
            nn.init.orthogonal_(weight, math.sqrt(2))


@torch.no_grad()
def move(target: nn.Module, source: nn.Module, share: float) -> None:
    """Moves a target network's parameters by that share of the way towards its source's."""
    torch._foreach_lerp_([*target.parameters()], [*source.parameters()], share)
