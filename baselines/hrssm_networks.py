"""HRSSM's layers, encoder, heads and recurrent model (Sun et al. 2024, ICML). No losses.

They are those of DreamerV3's first version: LayerNorm behind layers without a bias, a GRU, and an
initial state that is learned.

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature, H W C image.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.dreamerv3_networks import TRUNCATED, ConvEncoder, NetworkConfig
from baselines.dreamerv3_rssm import CategoricalModel
from baselines.twohot import LARGEST, SymlogTwoHot
from distributions import Bernoulli, Normal
from heads import in_float32
from networks import activation, autocast_dtype
from rssm import GRUCell, State

EPS = 1e-3  # of the norms
HALVINGS = 4  # of an image's sides, by as many convolutions


def spread(weight: Tensor) -> float:
    """The standard deviation of a weight's start, before it is cut off: of Glorot's variance."""
    field = math.prod(weight.shape[2:])
    return TRUNCATED * math.sqrt(2 / (field * (weight.shape[0] + weight.shape[1])))


def begin(weight: Tensor) -> None:
    """A normal of variance 2 / (inputs + outputs), cut off at two of its standard deviations."""
    std = spread(weight)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer as HRSSM begins it."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    begin(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def last(inputs: int, outputs: int, scale: float) -> nn.Linear:
    """A head's last layer: uniform, of variance 2 · scale / (inputs + outputs)."""
    layer = nn.Linear(inputs, outputs)
    limit = math.sqrt(6 * scale / (inputs + outputs))
    nn.init.uniform_(layer.weight, -limit, limit)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(inputs: int, layers: int, units: int, act: str) -> nn.Sequential:
    """So many times a linear layer without bias, LayerNorm and activation."""
    made: list[nn.Module] = []
    for a, b in itertools.pairwise([inputs] + [units] * layers):
        made += [linear(a, b, bias=False), nn.LayerNorm(b, eps=EPS), activation(act)()]
    return nn.Sequential(*made)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Encoder(ConvEncoder):
    """Convolutions of stride 2.

    Args:
        image: (H, W, C), H and W multiples of 16.
        config: sizes; the layers have 1, 2, 4 and 8 times ``depth`` channels.
    """

    def __init__(self, image: tuple[int, int, int], config: NetworkConfig):
        height, width, channels = image
        layers: list[nn.Module] = []
        for i in range(HALVINGS):
            outputs = config.depth * 2**i
            conv = nn.Conv2d(channels, outputs, 4, 2, 1, bias=False)
            nn.init.normal_(conv.weight, std=spread(conv.weight))
            layers += [conv, ChannelNorm(outputs, eps=EPS), activation(config.act)()]
            channels = outputs
        embed_size = channels * (height >> HALVINGS) * (width >> HALVINGS)
        super().__init__(layers, embed_size, config.chunk_size)


class ScanWeights(NamedTuple):
    """Weights parted by what they multiply, and the initial state: once for all steps of a scan."""

    stoch: Tensor  # [hidden, S·K]
    action: Tensor  # [hidden, A]
    deter: Tensor  # [hidden, D]
    embed: Tensor  # [hidden, E]
    first_stoch: Tensor  # [1, S·K]
    first_deter: Tensor  # [1, D]


class RSSM(CategoricalModel):
    """A recurrent state-space model that begins an episode with a state that it has learned.

    Args:
        embed_size: E.
        action_size: A.
        config: sizes.
    """

    def __init__(self, embed_size: int, action_size: int, config: NetworkConfig):
        super().__init__()
        c = config
        self.config, self.action_size, self.feat_size = c, action_size, c.feat_size
        self.inputs = mlp(c.flat_stoch + action_size, 1, c.hidden, c.act)
        self.cell = GRUCell(c.hidden, c.deter, EPS, bias=False)
        begin(self.cell.layer.weight)
        self.prior = mlp(c.deter, 1, c.hidden, c.act)
        self.prior_logits = linear(c.hidden, c.flat_stoch)
        self.posterior = mlp(c.deter + embed_size, 1, c.hidden, c.act)
        self.posterior_logits = linear(c.hidden, c.flat_stoch)
        self.first_deter = nn.Parameter(torch.zeros(1, c.deter))

    def initial(self, batch: int) -> State:
        """The learned state before the first step, ``batch`` of it.

        stoch is the prior's mode, whose gradient is that of the logarithms of the probabilities.
        """
        deter = torch.tanh(self.first_deter)
        logit = self._mixed(self.prior_logits(self.prior(deter))).log_softmax(-1)
        hard = F.one_hot(logit.argmax(-1), logit.shape[-1]).to(logit.dtype)
        state = {"stoch": hard + (logit - logit.detach()), "logit": logit, "deter": deter}
        return {name: value.expand(batch, *value.shape[1:]) for name, value in state.items()}

    def reset(
        self, weights: ScanWeights, stoch: Tensor, deter: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        gone = 1 - keep
        stoch = stoch * keep + weights.first_stoch * gone
        return stoch, deter * keep + weights.first_deter * gone

    def scan_weights(self) -> ScanWeights:
        """The weights as a scan uses them."""
        c, weight = self.config, cast(nn.Linear, self.inputs[0]).weight
        dtype, first = autocast_dtype(weight), self.initial(1)
        stoch, action = weight.to(dtype).split([c.flat_stoch, self.action_size], 1)
        seen = self._first().weight.to(dtype)
        deter, embed = seen.split([c.deter, seen.shape[1] - c.deter], 1)
        return ScanWeights(stoch, action, deter, embed, first["stoch"].flatten(1), first["deter"])

    def project_action(self, weights: ScanWeights, action: Tensor) -> Tensor:
        """What the cell sees of actions [N, A], which are no larger than 1: [N, hidden]."""
        return F.linear(action / action.detach().abs().clamp(min=1), weights.action)

    def recur(
        self, weights: ScanWeights, stoch: Tensor, action_proj: Tensor, deter: Tensor
    ) -> Tensor:
        x = action_proj + F.linear(stoch, weights.stoch)
        return self.cell(self.inputs[1:](x), deter)


class BinsHead(nn.Module):
    """Feature [N, F] → `SymlogTwoHot` over one number, [N]; at first 0."""

    bins: Tensor

    def __init__(self, layers: int, config: NetworkConfig):
        super().__init__()
        self.layers = mlp(config.feat_size, layers, config.units, config.act)
        self.out = last(config.units, config.bins, 0.0)
        bins = torch.linspace(-LARGEST, LARGEST, config.bins)
        self.register_buffer("bins", bins, persistent=False)

    def forward(self, feat: Tensor) -> SymlogTwoHot:
        return SymlogTwoHot(in_float32(self.out, self.layers(feat)), self.bins)


class DiscountHead(nn.Module):
    """Feature [N, F] → the probability that an episode goes on, [N]."""

    def __init__(self, layers: int, config: NetworkConfig):
        super().__init__()
        self.layers = mlp(config.feat_size, layers, config.units, config.act)
        self.out = last(config.units, 1, 1.0)

    def forward(self, feat: Tensor) -> Bernoulli:
        return Bernoulli(in_float32(self.out, self.layers(feat))[..., 0], event_dims=0)


class ActorHead(nn.Module):
    """Feature [N, F] → a Gaussian over actions [N, A], its mean within ±1, its samples not."""

    dist = "normal"  # what a policy asks before it adds noise

    def __init__(self, actions: int, layers: int, config: NetworkConfig):
        super().__init__()
        self.actions, self.min_std = actions, config.min_std
        self.layers = mlp(config.feat_size, layers, config.units, config.act)
        self.out = last(config.units, 2 * actions, 1.0)

    def draw_noise(self, *lead: int) -> Tensor:
        """What actions [*lead, A] are drawn with: standard normal numbers."""
        return torch.randn((*lead, self.actions), device=self.out.weight.device)

    def forward(self, feat: Tensor) -> Normal:
        mean, std = in_float32(self.out, self.layers(feat)).chunk(2, -1)
        low = self.min_std
        return Normal(torch.tanh(mean), (1 - low) * torch.sigmoid(std + 2) + low)
