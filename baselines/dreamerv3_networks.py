"""DreamerV3's layers, encoder, decoder and heads (arXiv 2301.04104). No losses.

Symbols in shape comments: N any leading dimensions, A action, E embedding, S stoch, K classes,
D deter, F feature, G blocks, H W C image.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.chunks import by_chunks
from baselines.twohot import TwoHot, make_bins
from distributions import Bernoulli, Normal, OneHot, UnitNormal
from heads import in_float32
from networks import Encoding, activation, float_image

EPS = 1e-4  # of the norms
MULTIPLES = (2, 3, 4, 4)  # channels of the CNNs' layers, times the depth
TRUNCATED = 1.1368  # a normal's standard deviation over that of what is left of it within ±2


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of DreamerV3.

    Attributes:
        deter: D.
        hidden: units of the RSSM's layers.
        stoch: S.
        classes: K.
        blocks: G, of the recurrent cell and of the decoder's first layer.
        depth: of the CNNs, whose layers have 2, 3, 4 and 4 times as many channels.
        units: of the heads' layers.
        layers: of the heads ``reward``, ``discount``, ``actor`` and ``value``.
        bins: of rewards and values.
        unimix: share of a uniform distribution in each categorical one.
        min_std: of the actor's Gaussian.
        act: activation, a class of torch.nn.
        chunk_size: images that pass through the convolutions at once; 0 for all.
    """

    deter: int = 2048
    hidden: int = 256
    stoch: int = 32
    classes: int = 16
    blocks: int = 8
    depth: int = 16
    units: int = 256
    layers: tuple[int, int, int, int] = (1, 1, 3, 3)
    bins: int = 255
    unimix: float = 0.01
    min_std: float = 0.1
    act: str = "SiLU"
    chunk_size: int = 0

    @property
    def flat_stoch(self) -> int:
        """S·K."""
        return self.stoch * self.classes

    @property
    def feat_size(self) -> int:
        """F."""
        return self.flat_stoch + self.deter


def initialise(weight: Tensor, inputs: int, scale: float = 1.0) -> None:
    """A normal of variance 1 / inputs, cut off at two of its own standard deviations."""
    std = TRUNCATED / math.sqrt(inputs)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    with torch.no_grad():
        weight.mul_(scale)


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """A linear layer as DreamerV3 begins it."""
    layer = nn.Linear(inputs, outputs)
    initialise(layer.weight, inputs, scale)
    nn.init.zeros_(layer.bias)
    return layer


class _RMSNorm(torch.autograd.Function):
    """`RMSNorm` with few passes over memory: what a CPU waits for; 1.4 to 2 times as fast there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square()
        inverse = (square / x.shape[-1] + EPS).rsqrt()
        ctx.save_for_backward(x, scale, inverse)
        return (wide * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, inverse = ctx.saved_tensors
        normal, grad = x.float() * inverse, grad.float()
        of_scale = (grad * normal).flatten(0, -2).sum(0)
        grad = grad * scale
        along = torch.linalg.vecdot(grad, normal)[..., None] / x.shape[-1]
        return grad.addcmul_(normal, along, value=-1).mul_(inverse).to(x.dtype), of_scale


class RMSNorm(nn.Module):
    """x / √(mean of x² + eps) · scale, over the last dimension; computed in float32."""

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and not torch.compiler.is_compiling():
            return _RMSNorm.apply(x, self.scale)
        return F.rms_norm(x.float(), self.scale.shape, self.scale, EPS).to(x.dtype)


def dense(inputs: int, outputs: int, act: str) -> nn.Sequential:
    """Linear, norm, activation."""
    return nn.Sequential(linear(inputs, outputs), RMSNorm(outputs), activation(act)())


def mlp(inputs: int, layers: int, units: int, act: str) -> nn.Sequential:
    """So many `dense` layers."""
    sizes = [inputs] + [units] * layers
    return nn.Sequential(*(dense(a, b, act) for a, b in itertools.pairwise(sizes)))


class BlockLinear(nn.Module):
    """A linear layer in blocks: each block of the outputs sees its block of the inputs alone.

    Args:
        inputs: of all blocks.
        outputs: likewise.
        blocks: G, which divides both.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialise(self.weight, inputs)  # of all blocks, as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] → [N, outputs]."""
        return block_product(x, self.weight) + self.bias


def block_product(x: Tensor, weight: Tensor) -> Tensor:
    """[N, G·I] by blocks [G, I, O] → [N, G·O]."""
    blocks = x.unflatten(-1, (len(weight), -1)).transpose(0, 1)  # [G, N, I]
    return torch.bmm(blocks, weight).transpose(0, 1).flatten(1)


class Conv(nn.Conv2d):
    """A 5×5 convolution; the image stays as large as it was."""

    bias: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, padding=2)
        initialise(self.weight, 25 * inputs)
        nn.init.zeros_(self.bias)


class UpConv(Conv):
    """The image twice as large, pixels repeated, and a 5×5 convolution on it.

    A row of 5 on repeated pixels sees three of those before: the kernel is taken apart into four of
    3×3, one for each pixel of a 2×2 block, which needs 9 of 25 multiplications and a quarter of the
    memory.
    """

    taps: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        # [which of the two rows of a block, pixel before, row of the kernel]
        first = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
        second = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
        taps = torch.tensor([first, second], dtype=torch.float32)
        self.register_buffer("taps", taps, persistent=False)

    def kernel(self) -> Tensor:
        """The four kernels, [4·O, I, 3, 3], as `pixel_shuffle` wants them."""
        outs, ins = self.weight.shape[:2]
        rows = torch.einsum("pak,oikl->opial", self.taps, self.weight)
        kernel = torch.einsum("qbl,opial->opqiab", self.taps, rows)
        kernel = kernel.reshape(4 * outs, ins, 3, 3)
        return kernel.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, self.kernel(), bias, padding=1), 2)


def in_channels_last(layers: list[nn.Module]) -> nn.Sequential:
    """The layers, their kernels in the order of memory that is fast."""
    made = nn.Sequential(*layers)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ChannelNorm(RMSNorm):
    """`RMSNorm` over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """Images [N, H, W, C] in ±0.5 → embeddings [N, E], by layers that end with 1/16 of each side.

    Args:
        layers: of [N, C, H, W].
        embed_size: E.
        chunk_size: images that pass at a time.
    """

    def __init__(self, layers: list[nn.Module], embed_size: int, chunk_size: int):
        super().__init__()
        self.layers = in_channels_last(layers)
        self.embed_size, self.chunk_size = embed_size, chunk_size

    def draw_noise(self, *lead: int) -> None:
        """It draws nothing."""
        return None

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        flat = image.reshape(-1, *image.shape[-3:])
        x = by_chunks(self.convolve, flat, self.chunk_size)
        return Encoding(x.reshape(*image.shape[:-3], self.embed_size))

    def convolve(self, image: Tensor) -> Tensor:
        """[N, H, W, C] → [N, E]."""
        x = self.layers(float_image(image).permute(0, 3, 1, 2))
        return x.permute(0, 2, 3, 1).flatten(1)


class Encoder(ConvEncoder):
    """Convolutions, each halved by its maxima.

    Args:
        image: (H, W, C), H and W multiples of 16.
        config: sizes.
    """

    def __init__(self, image: tuple[int, int, int], config: NetworkConfig):
        height, width, channels = image
        layers: list[nn.Module] = []
        for multiple in MULTIPLES:
            outputs = multiple * config.depth
            layers += [Conv(channels, outputs), nn.MaxPool2d(2), ChannelNorm(outputs)]
            layers += [activation(config.act)()]
            channels = outputs
        super().__init__(layers, channels * (height // 16) * (width // 16), config.chunk_size)


class Decoder(nn.Module):
    """Feature [N, F] → images [N, H, W, C] in ±0.5.

    deter comes into the smallest image through a layer in blocks, stoch through two dense ones.
    """

    def __init__(self, image: tuple[int, int, int], config: NetworkConfig):
        super().__init__()
        c, act = config, activation(config.act)
        height, width, channels = image
        top = MULTIPLES[-1] * c.depth
        self.small, self.blocks = (height // 16, width // 16, top), c.blocks
        self.flat_stoch, pixels = c.flat_stoch, math.prod(self.small)
        self.from_deter = BlockLinear(c.deter, pixels, c.blocks)
        self.from_stoch = dense(c.flat_stoch, 2 * c.units, c.act)
        self.from_hidden = linear(2 * c.units, pixels)
        self.first = nn.Sequential(RMSNorm(top), act())
        layers: list[nn.Module] = []
        for multiple in MULTIPLES[-2::-1]:
            outputs = multiple * c.depth
            layers += [UpConv(top, outputs), ChannelNorm(outputs), act()]
            top = outputs
        layers.append(UpConv(top, channels))
        self.layers = in_channels_last(layers)

    def pixels(self, feat: Tensor) -> Tensor:
        """[N, F] → [N, H, W, C] in ±0.5; N one dimension."""
        height, width, channels = self.small
        stoch, deter = feat.split([self.flat_stoch, feat.shape[-1] - self.flat_stoch], -1)
        each = channels // self.blocks
        x = self.from_deter(deter).view(-1, self.blocks, height, width, each)
        x = x.permute(0, 2, 3, 1, 4).flatten(3)  # a block is a group of channels
        x = x + self.from_hidden(self.from_stoch(stoch)).view(-1, height, width, channels)
        x = self.layers(self.first(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return torch.sigmoid(x.float()) - 0.5

    def forward(self, feat: Tensor) -> UnitNormal:
        x = self.pixels(feat.reshape(-1, feat.shape[-1]))
        return UnitNormal(x.reshape(*feat.shape[:-1], *x.shape[1:]), event_dims=3)


class BinsHead(nn.Module):
    """Feature [N, F] → `TwoHot` over one number, [N]; at first 0."""

    bins: Tensor

    def __init__(self, layers: int, config: NetworkConfig):
        super().__init__()
        self.layers = mlp(config.feat_size, layers, config.units, config.act)
        self.out = linear(config.units, config.bins, scale=0.0)
        self.register_buffer("bins", make_bins(config.bins), persistent=False)

    def forward(self, feat: Tensor) -> TwoHot:
        return TwoHot(in_float32(self.out, self.layers(feat)), self.bins)


class DiscountHead(nn.Module):
    """Feature [N, F] → the probability, times γ, that an episode goes on, [N]."""

    def __init__(self, layers: int, config: NetworkConfig):
        super().__init__()
        self.layers = mlp(config.feat_size, layers, config.units, config.act)
        self.out = linear(config.units, 1)

    def forward(self, feat: Tensor) -> Bernoulli:
        return Bernoulli(in_float32(self.out, self.layers(feat))[..., 0], event_dims=0)


def mixed(logits: Tensor, share: float) -> Tensor:
    """log((1 − share)·softmax(logits) + share / K), over the last dimension."""
    if not share:
        return logits.float().log_softmax(-1)  # of a probability that is 0 in float32, too
    probs = logits.float().softmax(-1)
    return torch.log((1 - share) * probs + share / logits.shape[-1])


class ActorHead(nn.Module):
    """Feature [N, F] → a distribution over actions [N, A].

    A Gaussian whose mean lies within ±1, and whose samples need not; for discrete actions one-hot.
    """

    def __init__(self, actions: int, discrete: bool, config: NetworkConfig):
        super().__init__()
        self.actions, self.discrete, self.config = actions, discrete, config
        self.dist = "onehot" if discrete else "normal"  # what a policy asks before it adds noise
        self.layers = mlp(config.feat_size, config.layers[2], config.units, config.act)
        self.out = linear(config.units, actions, scale=0.01)
        self.std = None if discrete else linear(config.units, actions, scale=0.01)

    def draw_noise(self, *lead: int) -> Tensor:
        """What actions [*lead, A] are drawn with: standard normal or uniform numbers."""
        draw = torch.rand if self.discrete else torch.randn
        return draw((*lead, self.actions), device=self.out.weight.device)

    def forward(self, feat: Tensor) -> Normal | OneHot:
        x = self.layers(feat)
        if self.std is None:
            return OneHot(mixed(in_float32(self.out, x), self.config.unimix))
        low = self.config.min_std
        std = (1 - low) * torch.sigmoid(in_float32(self.std, x) + 2) + low
        return Normal(torch.tanh(in_float32(self.out, x)), std)
