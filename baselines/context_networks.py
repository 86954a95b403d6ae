"""ContextWM's networks: residual ones read images, and draw them beside a frame of their video.

Wu et al. 2023, arXiv 2305.18499. What a decoder draws with (which frame, which of its pixels are
seen, dropout) is made outside of it, see :class:`ContextNoise`.

Symbols in shape comments: B batch, T time, N images (B·T), C channels, Q pixels that ask, K pixels
of the context, S of those that are seen, F feature, D of `ContextImages.depth`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distributions import UnitNormal
from networks import Encoding, ImageConfig, float_image

HEADS = 4  # of each attention
STAGES = 3  # of residual layers: at 32×32, 16×16 and 8×8 pixels
BOTTOM = 4  # side of the smallest picture, 64 / 2^(STAGES + 1)
LARGEST_ASKING = 16  # side of the largest picture that looks at the context
ERASE_SHARE, ERASE_RATIO, ERASE_CHANCE = (0.02, 0.33), (0.3, 3.3), 0.5  # kornia's RandomErasing


@dataclasses.dataclass(frozen=True)
class ContextImages(ImageConfig):
    """What reads and draws images; ``depth`` is the width of the first residual stage.

    Attributes:
        layers: residual layers of a stage.
        mask: share of the context's pixels that a frame does not see.
        dropout: share that is dropped of attention's weights and of its outputs.
        frame: the context, ``random``, ``first`` or ``last`` of a sequence.
        augment: ``none``, or ``erasing``: a rectangle of the context may be grey.
    """

    layers: int = 2
    mask: float = 0.75
    dropout: float = 0.1
    frame: str = "random"
    augment: str = "none"

    def seen(self, pixels: int) -> int:
        """S: how many pixels of the context a frame sees."""
        return max(1, int(pixels * (1 - self.mask)))


class AttentionNoise(NamedTuple):
    """What one attention draws with."""

    kept: Tensor  # int64 [N, S], numbers of the context's pixels
    weights: Tensor | None = None  # bool [N, HEADS, Q, S], what dropout leaves; None for all
    outputs: Tensor | None = None  # bool [N, Q, C]


class ContextNoise(NamedTuple):
    """What images [B, T] are drawn with."""

    frame: Tensor  # int64 [B], the row whose image is the context
    attention: dict[str, AttentionNoise]  # by the names of `ContextDecoder.attentions`
    erased: Tensor | None = None  # int64 [B, 4]: top, bottom, left, right of what is grey


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the picture's side; a norm follows it, so it has no bias."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


class CrossAttention(nn.Module):
    """Pixels [N, C, h, w] that look at some of a context's: relu(x + norm(attention)).

    Args:
        channels: C, of both.
        side: h and w, of both.
        dropout: share that is dropped, twice.
    """

    def __init__(self, channels: int, side: int, dropout: float):
        super().__init__()
        self.channels, self.pixels, self.dropout = channels, side**2, dropout
        self.asking_position = nn.Parameter(torch.zeros(self.pixels, channels))
        self.context_position = nn.Parameter(torch.zeros(self.pixels, channels))
        self.inputs = nn.Linear(channels, 3 * channels)  # query, key, value
        self.outputs = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.xavier_uniform_(self.inputs.weight)
        nn.init.zeros_(self.inputs.bias)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, x: Tensor, context: Tensor, noise: AttentionNoise) -> Tensor:
        """x [N, C, h, w] beside contexts [B, C, h, w]; the first N / B images have the first."""
        c, (weight, bias) = self.channels, (self.inputs.weight, self.inputs.bias)
        query = F.linear(_rows(x) + self.asking_position, weight[:c], bias[:c])  # [N, Q, C]
        # Keys and values once for each context, not for each image that sees some of them.
        known = F.linear(_rows(context) + self.context_position, weight[c:], bias[c:])
        first = torch.arange(0, len(known) * self.pixels, self.pixels, device=x.device)
        index = (noise.kept.unflatten(0, (len(known), -1)) + first[:, None, None]).flatten(0, 1)
        key, value = F.embedding(index, known.flatten(0, 1)).chunk(2, -1)  # [N, S, C] each
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (query, key, value)
        )
        weights = (query / math.sqrt(c / HEADS) @ key.transpose(-1, -2)).softmax(-1)
        weights = self._drop(weights, noise.weights)  # [N, HEADS, Q, S]
        mixed = self.outputs((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))
        mixed = self._drop(mixed, noise.outputs).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return F.relu(x + self.norm(mixed))

    def _drop(self, x: Tensor, left: Tensor | None) -> Tensor:
        return x if left is None else x * left / (1 - self.dropout)

    def draw_noise(self, rows: int, seen: int, drop: bool) -> AttentionNoise:
        """What attention of ``rows`` images draws with; without dropout unless ``drop``."""
        device, pixels = self.norm.weight.device, self.pixels
        kept = torch.rand(rows, pixels, device=device).argsort(1)[:, :seen]
        if not (drop and self.dropout):
            return AttentionNoise(kept)

        def left(*shape: int) -> Tensor:
            empty = torch.empty(shape, dtype=torch.bool, device=device)
            return empty.bernoulli_(1 - self.dropout)

        weights = left(rows, HEADS, pixels, seen)
        return AttentionNoise(kept, weights, left(rows, pixels, self.channels))


def _rows(x: Tensor) -> Tensor:
    """[N, C, h, w] → [N, h·w, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class ResidualLayer(nn.Module):
    """Two convolutions with norms beside a way around them: [N, inputs, h, w] → [N, outputs, …].

    Where it looks at a context, the convolutions see what comes of that, and the way around does
    not.
    """

    def __init__(self, inputs: int, outputs: int, attention: CrossAttention | None = None):
        super().__init__()
        self.attention = attention
        self.skip = nn.Sequential()
        if inputs != outputs:
            self.skip = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.block = nn.Sequential(
            conv(inputs, outputs, 3),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )

    def forward(
        self, x: Tensor, context: Tensor | None = None, noise: AttentionNoise | None = None
    ) -> Tensor:
        z = x
        if self.attention is not None and context is not None and noise is not None:
            z = self.attention(x, context, noise)
        return F.relu(self.skip(x) + self.block(z))


class ResNet(nn.Module):
    """Images [N, 64, 64, C] → what its stages see, [N, D·2^i, 32 / 2^i, 32 / 2^i]."""

    def __init__(self, config: ContextImages):
        super().__init__()
        width = config.depth
        self.first = nn.Conv2d(config.channels, width, 3, 2, 1)
        self.stages = nn.ModuleList()
        for i in range(STAGES):
            outputs = config.depth * 2**i
            widths = [width] + [outputs] * config.layers
            layers = [ResidualLayer(a, b) for a, b in itertools.pairwise(widths)]
            self.stages.append(nn.Sequential(*layers))
            width = outputs
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.elu(self.first(float_image(image).permute(0, 3, 1, 2)))
        found = []
        for i, stage in enumerate(self.stages):
            found.append(stage(F.avg_pool2d(x, 2) if i else x))
            x = found[-1]
        return found


class ResNetEncoder(nn.Module):
    """Images [N, 64, 64, C], uint8 or float in ±0.5 → embedding [N, 64·D]: 3,072 at depth 48."""

    def __init__(self, config: ContextImages):
        super().__init__()
        self.layers = ResNet(config)
        self.embed_size = config.depth * 2 ** (STAGES - 1) * BOTTOM**2

    def draw_noise(self, *lead: int) -> None:
        """It draws nothing."""
        return None

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        """All images at once: while it learns, their norms are taken over all of them."""
        x = self.layers(image.reshape(-1, *image.shape[-3:]))[-1]
        x = F.avg_pool2d(x, 2).reshape(*image.shape[:-3], self.embed_size)
        return Encoding(x.float())


class ContextDecoder(nn.Module):
    """Features [B, T, F] and a context image for each sequence → Normal over [B, T, 64, 64, C].

    Attributes:
        attentions: the layers that look at the context, by name.
    """

    def __init__(self, feat_size: int, config: ContextImages):
        super().__init__()
        self.config = config
        self.context = ResNet(config)
        width, side = config.depth * 2 ** (STAGES - 1), BOTTOM
        self.first = nn.Linear(feat_size, width * side**2)
        self.stages = nn.ModuleList()
        self.attentions: dict[str, CrossAttention] = {}
        for i in range(STAGES):
            side, outputs, layers = 2 * side, width // 2, nn.ModuleList()
            for j in range(config.layers):
                attention = None
                if side <= LARGEST_ASKING and j % 2 == 0:
                    attention = CrossAttention(width, side, config.dropout)
                    self.attentions[f"{i}_{j}"] = attention
                last = j == config.layers - 1
                layers.append(ResidualLayer(width, outputs if last else width, attention))
            self.stages.append(layers)
            width = outputs
        self.last = nn.ConvTranspose2d(width, config.channels, 3, 2, 1, output_padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def draw_noise(self, batch: int, length: int, learning: bool = True) -> ContextNoise:
        """What images [B, T] are drawn with.

        Where nothing is learned, the context is the first frame as it is, and nothing is dropped
        but what is not seen of it.
        """
        c, device = self.config, self.first.weight.device
        kind = c.frame if learning else "first"
        frame = torch.full((batch,), length - 1 if kind == "last" else 0, device=device)
        if kind == "random":
            frame = torch.randint(length, (batch,), device=device)
        attention = {
            name: layer.draw_noise(batch * length, c.seen(layer.pixels), learning)
            for name, layer in self.attentions.items()
        }
        erased = draw_rectangles(batch, device) if learning and c.augment == "erasing" else None
        return ContextNoise(frame, attention, erased)

    def forward(self, feat: Tensor, image: Tensor, noise: ContextNoise) -> UnitNormal:
        """What is drawn.

        Args:
            feat: [B, T, F].
            image: the sequences' own, [B, T', 64, 64, C], uint8 or float in ±0.5.
            noise: of B and T.
        """
        batch = torch.arange(len(image), device=image.device)
        chosen = float_image(image[batch, noise.frame])
        if noise.erased is not None:
            chosen = erase(chosen, noise.erased)
        contexts = self.context(chosen)[::-1]
        x = self.first(feat.flatten(0, 1)).unflatten(1, (-1, BOTTOM, BOTTOM))
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (context, stage) in enumerate(zip(contexts, self.stages, strict=True)):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            for j, layer in enumerate(cast(nn.ModuleList, stage)):
                x = layer(x, context, noise.attention.get(f"{i}_{j}"))
        x = self.last(x).permute(0, 2, 3, 1).unflatten(0, feat.shape[:2])
        return UnitNormal(x, event_dims=3)


def draw_rectangles(batch: int, device: torch.device) -> Tensor:
    """Rectangles as kornia's RandomErasing draws them, int64 [B, 4]: top, bottom, left, right.

    A share of the area and a ratio of the sides, either below or above 1 with equal chances; half
    of them are empty.
    """
    area, below, above, which, x, y, erased = torch.rand(7, batch, device=device)
    (smallest, largest), (least, most) = ERASE_SHARE, ERASE_RATIO
    area = 64**2 * (smallest + (largest - smallest) * area)
    ratio = torch.where(which < 0.5, least + (1 - least) * below, 1 + (most - 1) * above)
    height = (area * ratio).sqrt().round().clamp(1, 64)
    width = (area / ratio).sqrt().round().clamp(1, 64)
    top, left = (y * (65 - height)).floor(), (x * (65 - width)).floor()
    height = height * (erased < ERASE_CHANCE)
    return torch.stack([top, top + height, left, left + width], 1).long()


def erase(image: Tensor, rectangle: Tensor) -> Tensor:
    """Images [B, H, W, C] in ±0.5, grey within rectangles [B, 4]."""
    top, bottom, left, right = rectangle[:, :, None].unbind(1)  # [B, 1] each
    y, x = (torch.arange(side, device=image.device) for side in image.shape[1:3])
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return image * ~(rows[:, :, None] & columns[:, None, :])[..., None]
