"""SVEA: SAC whose critic sees each observation twice, as it is and strongly changed.

Hansen, Su and Wang 2021 (arXiv 2107.00644): targets and actor see the observations as they are.

Symbols in shapes: B batch, C channels, H and W image height and width.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from agents.base import Batch
from baselines import rad
from baselines.augment import overlay, random_conv
from baselines.overlays import Overlays, check_folder
from baselines.rad import RAD
from baselines.sac import SACNoise, sum_of_errors
from baselines.stacking import Transition
from config import Config, key
from tools import UserError, derive_seed


@dataclasses.dataclass(frozen=True)
class Keys(rad.Keys):
    """RAD's, and those of the change."""

    svea_augment: str = key(
        "conv",
        "what changes the observations: a random convolution, or a picture laid over them",
        choices=("conv", "overlay"),
    )
    svea_alpha: float = key(0.5, "weight of the critic's error as they are", at_least=0)
    svea_beta: float = key(0.5, "weight of its error on the changed ones", at_least=0)
    overlay_path: str = key(
        "", "folder of images for svea_augment overlay, and those below it; '' draws textures"
    )


class SVEANoise(NamedTuple):
    """What changes the observations; one of them is there.

    Attributes:
        kernel: of convolutions, [B, C, C, 3, 3].
        picture: uint8 [B, C, H, W].
    """

    kernel: Tensor | None = None
    picture: Tensor | None = None


class SVEA(RAD):
    """RAD with a critic that learns from changed observations, too."""

    name = "svea"
    Keys = Keys
    last_relu = False
    tanh = True

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks what overlays need, too."""
        super().check(config)
        if config.svea_augment == "overlay":
            check_folder(config.overlay_path)
        elif "overlay_path" in config.overrides:
            raise UserError(
                f"--overlay_path {config.overlay_path} goes with --svea_augment overlay: give "
                "that, too, or leave it out"
            )

    def make_more(self) -> None:
        c = self.config
        seed = derive_seed(c.seed, "overlays")
        self.overlays = Overlays(c.overlay_path, c.size, self.spaces.image[2], seed)

    def draw_noise(self, batch: int, length: int) -> SACNoise:
        drawn, channels = super().draw_noise(batch, length), self.spaces.image[2]
        if self.config.svea_augment == "overlay":
            return drawn._replace(more=SVEANoise(picture=self.overlays.draw(batch, self.device)))
        kernel = torch.randn(batch, channels, channels, 3, 3, device=self.device)
        return drawn._replace(more=SVEANoise(kernel=kernel))

    def change(self, obs: Tensor, noise: SVEANoise) -> Tensor:
        """Observations [B, S·C, H, W] in 0..1, changed."""
        if noise.picture is not None:
            return overlay(obs, noise.picture.to(obs.dtype) / 255)
        assert noise.kernel is not None
        return random_conv(obs, noise.kernel)

    def critic_loss(self, obs: Tensor, step: Transition, target: Tensor, noise: SACNoise) -> Tensor:
        """The weighted squared errors of both action values, seen both ways."""
        c, both = self.config, torch.cat([obs, self.change(obs, noise.more)])
        features = self.feature(self.actor_input(both)).chunk(2)
        plain, changed = (
            sum_of_errors(self.critic.q(feature, step.action), target, step.weight)
            for feature in features
        )
        return c.svea_alpha * plain + c.svea_beta * changed

    def shown(self, batch: Batch, noise: SACNoise) -> dict[str, Tensor]:
        shown = super().shown(batch, noise)
        return shown | {"changed": self.change(shown["crop"], noise.more)}
