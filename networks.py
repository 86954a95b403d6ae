"""What the agent is made of beside the RSSM: encoders, decoders, heads. No losses.

Symbols in shape comments: N any leading dimensions, A action, Z β-VAE latent, F feature.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

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
from tools import UserError


def activation(name: str) -> type[nn.Module]:
    """The class in torch.nn of that name, e.g. ``'ELU'``.

    Raises:
        ValueError: there is none.
    """
    found = getattr(nn, name, None)
    try:
        same_shape = found()(torch.zeros(2)).shape == (2,)
    except (TypeError, AttributeError, RuntimeError):
        same_shape = False
    if not same_shape:
        raise ValueError(f"'{name}' is no activation of torch.nn: try ELU, ReLU or SiLU")
    return found


def check(
    act: str,
    size: tuple[int, ...],
    encoder_kernels: tuple[int, ...],
    decoder_kernels: tuple[int, ...],
    decoder_thin: bool,
) -> None:
    """Checks that there is such an activation, and that the plain CNN reads and draws 64×64 images.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    try:
        activation(act)
    except ValueError as error:
        raise UserError(f"--act: {error}") from None
    if size != (64, 64):
        raise UserError(f"--size {_words(size)}: the encoders and decoders are made for 64 64")
    side = 64
    for kernel in encoder_kernels:
        side = (side - kernel) // 2 + 1
    if side < 1:
        raise UserError(f"--encoder_kernels {_words(encoder_kernels)}: too much for 64×64")
    side = 1 if decoder_thin else 2
    for kernel in decoder_kernels:
        side = 2 * (side - 1) + kernel
    if side != 64:
        fitting = "5 5 6 6" if decoder_thin else "5 3 4 2"
        raise UserError(
            f"--decoder_kernels {_words(decoder_kernels)} with --decoder_thin {decoder_thin} draw "
            f"{side}×{side}, not 64×64: give others, such as {fitting}"
        )


def _words(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))


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


def pieces(x: Tensor, rows: int) -> tuple[Tensor, ...]:
    """x [N, …] in even parts of at most ``rows``; 0 leaves it whole."""
    return x.tensor_split(math.ceil(len(x) / rows)) if rows and len(x) > rows else (x,)


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """``function`` of x [N, …], over ``rows`` of it at a time (0: all at once), as one tensor.

    What passes between the layers of a piece stays in a CPU's cache, and its memory is used again
    by the next one.
    """
    parts = pieces(x, rows)
    return function(x) if len(parts) == 1 else torch.cat([function(part) for part in parts])


def _kaiming(module: nn.Module) -> None:
    # Transposed convolutions keep PyTorch's own start, as in the authors' modules.
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


def float_image(image: Tensor) -> Tensor:
    """uint8 pixels → float in ±0.5. Floats are taken to be that already."""
    return image.float().div_(255.0).sub_(0.5) if image.dtype == torch.uint8 else image


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast, if it is on, makes of a matrix product's inputs."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _channels_last(image: Tensor) -> Tensor:
    """[N, H, W, C] → float [N, C, H, W]. The strides stay: that is channels_last, the fast one."""
    return float_image(image).permute(0, 3, 1, 2)


class UpConv(nn.ConvTranspose2d):
    """A transposed convolution, in the order of operations that is fast.

    The bias is added by itself: oneDNN's gradient for it takes longer than that of the weights.
    Few outputs (images) waste the units that multiply matrices, so there the kernel of 4 with
    stride 2 is taken apart into four kernels of 2, one for each pixel of a 2×2 block.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.out_channels < 8 and self.stride == (2, 2) and self.kernel_size == (4, 4):
            return self._by_blocks(x)
        bias = self.bias.to(autocast_dtype(self.bias))[:, None, None]
        return F.conv_transpose2d(x, self.weight, None, self.stride, self.padding).add_(bias)

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


class PlainEncoder(nn.Module):
    """DreamerV2's CNN: images [N, 64, 64, C] in ±0.5 → embedding [N, 1024] at depth 32."""

    def __init__(
        self,
        channels: int = 3,
        depth: int = 32,
        act: type[nn.Module] = nn.ELU,
        kernels: tuple[int, ...] = (4, 4, 4, 4),
        size: tuple[int, int] = (64, 64),
    ):
        super().__init__()
        self.rows = 0  # images at once, as `in_pieces` takes it
        layers, sides = [], list(size)
        for i, kernel in enumerate(kernels):
            layers += [nn.Conv2d(channels, depth * 2**i, kernel, 2), _overwriting(act)]
            channels = depth * 2**i
            sides = [(side - kernel) // 2 + 1 for side in sides]
        if min(sides) < 1:
            raise ValueError(
                f"{size[0]}×{size[1]} images are too small for encoder kernels {kernels}"
            )
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.embed_size = channels * math.prod(sides)

    def forward(self, image: Tensor) -> Tensor:
        flat = image.reshape(-1, *image.shape[-3:])
        x = in_pieces(lambda part: self.layers(_channels_last(part)), flat, self.rows)
        return x.reshape(*image.shape[:-3], self.embed_size).float()


class BetaVAEEncoder(nn.Module):
    """The β-VAE's encoder: images [N, 64, 64, C] in ±0.5 → mean and log variance, each [N, Z]."""

    def __init__(self, z_dim: int = 20, channels: int = 3):
        super().__init__()
        self.embed_size, self.rows = z_dim, 0
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 4, 2, 1),  # 32×32
            nn.ELU(inplace=True),
            nn.Conv2d(32, 32, 4, 2, 1),  # 16×16
            nn.ELU(inplace=True),
            nn.Conv2d(32, 64, 4, 2, 1),  # 8×8
            nn.ELU(inplace=True),
            nn.Conv2d(64, 64, 4, 2, 1),  # 4×4
            nn.ELU(inplace=True),
            nn.Conv2d(64, 256, 4),  # 1×1
            nn.ELU(inplace=True),
        )
        self.stats = nn.Linear(256, 2 * z_dim)
        self.apply(_kaiming)
        self.layers.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        flat = image.reshape(-1, *image.shape[-3:])
        x = in_pieces(lambda part: self.layers(_channels_last(part)).flatten(1), flat, self.rows)
        stats = self.stats(x).float().reshape(*image.shape[:-3], -1)
        mean, logvar = stats.chunk(2, -1)
        return mean, logvar

    @staticmethod
    def sample(mean: Tensor, logvar: Tensor, noise: Tensor | None = None) -> Tensor:
        """z = mean + ε·exp(logvar / 2) (Kingma and Welling 2013, section 2.4); ε may be given."""
        noise = torch.randn_like(mean) if noise is None else noise
        return mean + noise * (0.5 * logvar).exp()


class BetaVAEDecoder(nn.Module):
    """Feature [N, F] → Normal over images [N, 64, 64, C], through a bottleneck of Z numbers."""

    def __init__(self, feat_size: int, z_dim: int = 20, channels: int = 3):
        super().__init__()
        self.bottleneck = nn.Linear(feat_size, z_dim)
        self.inflate = nn.Linear(z_dim, 256)
        self.layers = nn.Sequential(
            UpConv(256, 64, 4),  # 4×4
            nn.ELU(inplace=True),
            UpConv(64, 64, 4, 2, 1),  # 8×8
            nn.ELU(inplace=True),
            UpConv(64, 32, 4, 2, 1),  # 16×16
            nn.ELU(inplace=True),
            UpConv(32, 32, 4, 2, 1),  # 32×32
            nn.ELU(inplace=True),
            UpConv(32, channels, 4, 2, 1),  # 64×64
        )
        self.apply(_kaiming)
        self.layers.to(memory_format=torch.channels_last)

    def forward(self, feat: Tensor) -> UnitNormal:
        x = F.elu(self.inflate(F.elu(self.bottleneck(feat))))
        x = x.reshape(-1, 256, 1, 1).contiguous(memory_format=torch.channels_last)
        x = self.layers(x).permute(0, 2, 3, 1)
        return UnitNormal(x.reshape(*feat.shape[:-1], *x.shape[1:]), event_dims=3)


class PlainDecoder(nn.Module):
    """DreamerV2's CNN back: feature [N, F] → Normal over images [N, 64, 64, C]."""

    def __init__(
        self,
        feat_size: int,
        channels: int = 3,
        depth: int = 32,
        act: type[nn.Module] = nn.ELU,
        kernels: tuple[int, ...] = (5, 5, 6, 6),
        thin: bool = True,
    ):
        super().__init__()
        self.side = 1 if thin else 2
        self.first = nn.Linear(feat_size, 32 * depth * self.side**2)
        layers, inputs = [], 32 * depth
        for i, kernel in enumerate(kernels[:-1]):
            outputs = depth * 2 ** (len(kernels) - 2 - i)
            layers += [UpConv(inputs, outputs, kernel, 2), _overwriting(act)]
            inputs = outputs
        layers.append(UpConv(inputs, channels, kernels[-1], 2))
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, feat: Tensor) -> UnitNormal:
        x = self.first(feat).reshape(-1, self.side, self.side, self.layers[0].in_channels)
        x = self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return UnitNormal(x.reshape(*feat.shape[:-1], *x.shape[1:]), event_dims=3)


class DenseHead(nn.Module):
    """Feature [N, F] → a distribution over one number, [N, 1]."""

    def __init__(
        self,
        inputs: int,
        layers: int,
        units: int,
        act: type[nn.Module] = nn.ELU,
        dist: str = "normal",
    ):
        super().__init__()
        self.layers = mlp(inputs, layers, units, act)
        self.mean = nn.Linear(units, 1)
        self.dist = {"normal": UnitNormal, "huber": Huber, "binary": Bernoulli}[dist]

    def forward(self, feat: Tensor) -> UnitNormal | Huber | Bernoulli:
        # Flat, because a Linear over more dimensions returns a view, and overwriting one is slow.
        mean = self.mean(self.layers(feat.reshape(-1, feat.shape[-1])))
        return self.dist(mean.reshape(*feat.shape[:-1], 1))


class ActionHead(nn.Module):
    """Feature [N, F] → a distribution over actions [N, A].

    Args:
        dist: ``trunc_normal``, ``tanh_normal``, ``tanh_normal_5``, ``normal``, ``normal_1`` for
            continuous actions, ``onehot`` or ``onehot_gumble`` (relaxed) for discrete ones.
        outscale: scale of the last layer's weights at the start; 0 keeps PyTorch's own.
    """

    CONTINUOUS = ("trunc_normal", "tanh_normal", "tanh_normal_5", "normal", "normal_1")
    DISCRETE = ("onehot", "onehot_gumble")

    def __init__(
        self,
        inputs: int,
        actions: int,
        layers: int,
        units: int,
        act: type[nn.Module] = nn.ELU,
        dist: str = "trunc_normal",
        init_std: float = 1.0,
        min_std: float = 0.1,
        temperature: float = 0.1,
        outscale: float = 0.0,
    ):
        super().__init__()
        self.dist, self.init_std, self.min_std = dist, init_std, min_std
        self.temperature, self.actions = temperature, actions
        self.layers = mlp(inputs, layers, units, act)
        two = dist in ("trunc_normal", "tanh_normal", "tanh_normal_5", "normal")
        self.out = nn.Linear(units, 2 * actions if two else actions)
        if outscale:
            with torch.no_grad():
                self.out.weight.mul_(outscale)

    def noise(self, *lead: int) -> Tensor:
        """What ``rsample`` of actions [*lead, A] needs: standard normal or uniform numbers."""
        uniform = self.dist in ("trunc_normal", *self.DISCRETE)
        draw = torch.rand if uniform else torch.randn
        return draw((*lead, self.actions), device=self.out.weight.device)

    def forward(self, feat: Tensor) -> Normal | TruncatedNormal | TanhNormal | OneHot:
        x = self.out(self.layers(feat)).float()
        if self.dist == "onehot":
            return OneHot(x)
        if self.dist == "onehot_gumble":
            return OneHot(x, temperature=self.temperature)
        if self.dist == "normal_1":
            return Normal(x, 1.0)
        mean, std = x.chunk(2, -1)
        if self.dist == "trunc_normal":
            std = 2 * torch.sigmoid(std / 2) + self.min_std
            return TruncatedNormal(torch.tanh(mean), std)
        if self.dist == "tanh_normal_5":
            return TanhNormal(5 * torch.tanh(mean / 5), F.softplus(std + 5) + 5)
        std = F.softplus(std + self.init_std) + self.min_std
        if self.dist == "tanh_normal":
            return TanhNormal(torch.tanh(mean), std)
        return Normal(mean, std)
