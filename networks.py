"""What the agent is made of beside the RSSM and the heads: encoders, decoders. No losses.

Symbols in shape comments: N any leading dimensions, A action, Z β-VAE latent, F feature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.chunks import by_chunks
from distributions import UnitNormal, symlog

# Sides of images, and what the β-VAE's convolutions, each of which halves them, leave of them.
SIDES = {64: 4, 96: 3, 128: 4}


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """What reads and draws images.

    Attributes:
        side: of the images, one of ``SIDES``.
        beta_vae: a β-VAE's encoder and decoder, instead of DreamerV2's CNNs.
        z_dim: Z, of a β-VAE.
        channels: C.
        act: activation of the CNNs, a class of torch.nn.
        depth: channels of the CNN's first layer.
        encoder_kernels: of the CNN; ``decoder_kernels`` of its way back, which starts from 1×1
            where ``decoder_thin``, else from 2×2.
        chunk_size: images that pass through the convolutions at once; 0 for all.
    """

    side: int = 64
    beta_vae: bool = True
    z_dim: int = 20
    channels: int = 3
    act: str = "ELU"
    depth: int = 32
    encoder_kernels: tuple[int, ...] = (4, 4, 4, 4)
    decoder_kernels: tuple[int, ...] = (5, 5, 6, 6)
    decoder_thin: bool = True
    chunk_size: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.side, self.side, self.channels


class Encoding(NamedTuple):
    """What an encoder makes of images.

    Attributes:
        embed: what the RSSM sees, [N, E]; a β-VAE's is its latent, a sample or the mean.
        mean: of a β-VAE's latent, [N, Z]; None of other encoders.
        logvar: likewise.
    """

    embed: Tensor
    mean: Tensor | None = None
    logvar: Tensor | None = None


def activation(name: str) -> type[nn.Module]:
    """The class in torch.nn of that name, e.g. ``'ELU'``.

    Raises:
        ValueError: there is none.
    """
    found: Any = getattr(nn, name, None)
    try:
        same_shape = found()(torch.zeros(2)).shape == (2,)
    except (TypeError, AttributeError, RuntimeError):
        same_shape = False
    if not same_shape:
        raise ValueError(f"'{name}' is no activation of torch.nn: try ELU, ReLU or SiLU")
    return found


STATISTICS_CHUNK = 64  # images; an episode of 501 rows takes eight of them
# Activations whose gradient follows from what came out, so that they can overwrite what went in.
_IN_PLACE = (nn.ELU, nn.ReLU, nn.LeakyReLU)


def _overwriting(act: type[nn.Module]) -> nn.Module:
    """The activation, in the place of its input where it can: half the memory of a layer."""
    return act(inplace=True) if act in _IN_PLACE else act()


def mlp(inputs: int, layers: int, units: int, act: type[nn.Module]) -> nn.Sequential:
    """``layers`` times Linear and activation; its output has ``units`` numbers."""
    sizes = [inputs] + [units] * layers
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), _overwriting(act))))


def _kaiming(module: nn.Module) -> None:
    # Transposed convolutions keep PyTorch's own start, as in the authors' modules.
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def float_image(image: Tensor) -> Tensor:
    """uint8 pixels → float in ±0.5. Floats are taken to be that already."""
    return image.float().div_(255.0).sub_(0.5) if image.dtype == torch.uint8 else image


def draw_latent(mean: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """mean + ε·exp(logvar / 2) (Kingma and Welling 2013, section 2.4); without ε, the mean."""
    return mean if noise is None else mean + noise * (0.5 * logvar).exp()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast, if it is on, makes of a matrix product's inputs."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _channels_last(image: Tensor) -> Tensor:
    """[N, H, W, C] → float [N, C, H, W]. The strides stay: that is channels_last, the fast one."""
    return float_image(image).permute(0, 3, 1, 2)


class WholeConv(nn.Conv2d):
    """A convolution whose kernel is as large as its input: [N, C, k, k] → [N, O], one product.

    oneDNN takes three to four times as long where it is told of a convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        # In channels_last, all of these are views.
        return F.linear(_rows(x), _rows(self.weight), self.bias)


def _rows(x: Tensor) -> Tensor:
    """[N, C, H, W] → [N, H·W·C]."""
    return x.permute(0, 2, 3, 1).flatten(1)


class UpConv(nn.ConvTranspose2d):
    """A transposed convolution, in the order of operations that is fast.

    Out of a single pixel it is one product, which oneDNN takes three times as long for otherwise.
    The bias is added by itself: oneDNN's gradient for it takes longer than that of the weights.
    Few outputs (images) waste the units that multiply matrices, so there the kernel of 4 with
    stride 2 is taken apart into four kernels of 2, one for each pixel of a 2×2 block.
    """

    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # takes no output_size
        if self.out_channels < 8 and self.stride == (2, 2) and self.kernel_size == (4, 4):
            return self._by_blocks(x)
        if x.shape[2:] == (1, 1) and self.padding == (0, 0):
            return self._of_one_pixel(x)
        bias = self.bias.to(autocast_dtype(self.bias))[:, None, None]
        return F.conv_transpose2d(x, self.weight, None, self.stride, self.padding).add_(bias)

    def _of_one_pixel(self, x: Tensor) -> Tensor:
        _, outs, height, width = self.weight.shape
        bias = self.bias.repeat(height * width)
        x = F.linear(x.flatten(1), _rows(self.weight).t(), bias)
        return x.view(-1, height, width, outs).permute(0, 3, 1, 2)

    def _by_blocks(self, x: Tensor) -> Tensor:
        # Output 2m + p − 1 is fed by inputs m and m − 1, through rows p and 2 + p of the kernel.
        ins, outs = self.weight.shape[:2]
        kernel = self.weight.view(ins, outs, 2, 2, 2, 2).flip(2, 4)  # I, O, j, p, i, q
        kernel = kernel.permute(1, 3, 5, 0, 2, 4).reshape(4 * outs, ins, 2, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        bias = self.bias.repeat_interleave(4)
        blocks = F.pixel_shuffle(F.conv2d(x, kernel, bias, padding=1), 2)
        top, left = self.padding
        return blocks[:, :, top : blocks.shape[2] - top, left : blocks.shape[3] - left]


def _in_channels_last(layers: nn.Sequential) -> nn.Sequential:
    """The layers, their kernels in the order of memory that is fast."""
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class PlainEncoder(nn.Module):
    """DreamerV2's CNN: images [N, H, W, C] in ±0.5 → embedding; [N, 1024] of 64×64 at depth 32."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.chunk_size = config.chunk_size
        act, channels, side = activation(config.act), config.channels, config.side
        layers: list[nn.Module] = []
        for i, kernel in enumerate(config.encoder_kernels):
            outputs = config.depth * 2**i
            layers += [nn.Conv2d(channels, outputs, kernel, 2), _overwriting(act)]
            channels, side = outputs, (side - kernel) // 2 + 1
        if side < 1:
            raise ValueError(f"{config.side}×{config.side}: too small for {config.encoder_kernels}")
        self.layers = _in_channels_last(nn.Sequential(*layers))
        self.embed_size = channels * side**2

    def draw_noise(self, *lead: int) -> None:
        """It draws nothing."""
        return None

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        flat = image.reshape(-1, *image.shape[-3:])
        x = by_chunks(lambda part: self.layers(_channels_last(part)), flat, self.chunk_size)
        return Encoding(x.reshape(*image.shape[:-3], self.embed_size).float())


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Convolutions and products in float32 and by algorithms that repeat, also on a GPU."""
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        products.allow_tf32 = before


class BetaVAEEncoder(nn.Module):
    """The β-VAE's encoder: images [N, H, W, C] in ±0.5 → a latent [N, Z] and its statistics."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.embed_size, self.chunk_size = config.z_dim, config.chunk_size
        last = SIDES[config.side]
        halvings = (config.side // last).bit_length() - 1
        channels = [config.channels, 32, 32, *[64] * (halvings - 2)]
        layers: list[nn.Module] = []
        for ins, outs in itertools.pairwise(channels):
            layers += [nn.Conv2d(ins, outs, 4, 2, 1), nn.ELU(inplace=True)]
        layers += [WholeConv(64, 256, last), nn.ELU(inplace=True)]  # 1×1
        self.layers = nn.Sequential(*layers)
        self.stats = nn.Linear(256, 2 * config.z_dim)
        self.apply(_kaiming)
        _in_channels_last(self.layers)

    def draw_noise(self, *lead: int) -> Tensor:
        """ε of latents [*lead, Z], standard normal."""
        return torch.randn(*lead, self.embed_size, device=self.stats.weight.device)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        """The latent as `draw_latent` has it, and its statistics.

        Args:
            image: [N, H, W, C], uint8, or float in ±0.5.
            noise: ε [N, Z]; None for the mean.
        """
        flat = image.reshape(-1, *image.shape[-3:])
        x = by_chunks(
            lambda part: self.layers(_channels_last(part)).flatten(1), flat, self.chunk_size
        )
        stats = self.stats(x).float().reshape(*image.shape[:-3], -1)
        mean, logvar = stats.chunk(2, -1)
        return Encoding(draw_latent(mean, logvar, noise), mean, logvar)

    @torch.no_grad()
    def statistics(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent, each image by itself.

        In float32, so many images at a time whatever there are, and with algorithms that repeat:
        what an image comes to depends neither on others nor on how an update computes.

        Args:
            image: uint8 [N, H, W, C], on any device.

        Returns:
            Float32 [N, Z] each, on the encoder's device.
        """
        device, parts = self.stats.weight.device, []
        with _exact():
            for part in image.split(STATISTICS_CHUNK):
                full = image.new_zeros(STATISTICS_CHUNK, *image.shape[1:], device=device)
                full[: len(part)] = part
                x = self.layers(_channels_last(full)).flatten(1)
                parts.append(self.stats(x)[: len(part)])
        mean, logvar = torch.cat(parts).chunk(2, -1)
        return mean, logvar


class BetaVAEDecoder(nn.Module):
    """Feature [N, F] → Normal over images [N, H, W, C], through a bottleneck of Z numbers."""

    def __init__(self, feat_size: int, config: ImageConfig):
        super().__init__()
        self.bottleneck = nn.Linear(feat_size, config.z_dim)
        self.inflate = nn.Linear(config.z_dim, 256)
        last = SIDES[config.side]
        doublings = (config.side // last).bit_length() - 1
        channels = [*[64] * (doublings - 2), 32, 32, config.channels]
        layers: list[nn.Module] = [UpConv(256, 64, last)]
        for ins, outs in itertools.pairwise(channels):
            layers += [nn.ELU(inplace=True), UpConv(ins, outs, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)
        self.apply(_kaiming)
        _in_channels_last(self.layers)

    def forward(self, feat: Tensor) -> UnitNormal:
        x = F.elu(self.inflate(F.elu(self.bottleneck(feat))))
        x = x.reshape(-1, 256, 1, 1).contiguous(memory_format=torch.channels_last)
        x = self.layers(x).permute(0, 2, 3, 1)
        return UnitNormal(x.reshape(*feat.shape[:-1], *x.shape[1:]), event_dims=3)


class PlainDecoder(nn.Module):
    """DreamerV2's CNN back: feature [N, F] → Normal over images [N, H, W, C]."""

    def __init__(self, feat_size: int, config: ImageConfig):
        super().__init__()
        self.side, depth = 1 if config.decoder_thin else 2, config.depth
        act, kernels = activation(config.act), config.decoder_kernels
        self.inputs = inputs = 32 * depth
        self.first = nn.Linear(feat_size, inputs * self.side**2)
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels[:-1]):
            outputs = depth * 2 ** (len(kernels) - 2 - i)
            layers += [UpConv(inputs, outputs, kernel, 2), _overwriting(act)]
            inputs = outputs
        layers.append(UpConv(inputs, config.channels, kernels[-1], 2))
        self.layers = _in_channels_last(nn.Sequential(*layers))

    def forward(self, feat: Tensor) -> UnitNormal:
        x = self.first(feat).reshape(-1, self.side, self.side, self.inputs)
        x = self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return UnitNormal(x.reshape(*feat.shape[:-1], *x.shape[1:]), event_dims=3)


class VectorEncoder(nn.Module):
    """Numbers [N, V] → [N, units], through symlog (arXiv 2301.04104)."""

    def __init__(self, size: int, layers: int, units: int, act: str):
        super().__init__()
        self.layers = mlp(size, layers, units, activation(act))
        self.embed_size = units

    def forward(self, vector: Tensor) -> Tensor:
        return self.layers(symlog(vector)).float()


Encoder = PlainEncoder | BetaVAEEncoder
Decoder = PlainDecoder | BetaVAEDecoder


def make_encoder(config: ImageConfig) -> Encoder:
    """The encoder that a configuration asks for."""
    return BetaVAEEncoder(config) if config.beta_vae else PlainEncoder(config)


def make_decoder(feat_size: int, config: ImageConfig) -> Decoder:
    """The decoder that a configuration asks for."""
    kind = BetaVAEDecoder if config.beta_vae else PlainDecoder
    return kind(feat_size, config)
