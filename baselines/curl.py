"""CURL: SAC whose encoder tells two crops of one observation from those of others.

Laskin, Srinivas and Abbeel 2020 (arXiv 2004.04136), on RAD's ground.

Symbols in shapes: B batch, F feature.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.base import Batch, Metrics
from agents.optimizer import Optimizer
from baselines import rad
from baselines.rad import RAD
from baselines.sac import SACNoise
from baselines.stacking import Transition, transition
from config import key


@dataclasses.dataclass(frozen=True)
class Keys(rad.Keys):
    """RAD's, and those of the contrast."""

    encoder_lr: float = key(1e-3, "learning rate of encoder and contrast", above=0)
    curl_twice: bool = key(
        True,
        "the encoder takes each step of the contrast twice, as in the authors' code, where two "
        "optimisers hold it",
    )


class CURLNoise(NamedTuple):
    """Offsets of the crops that are to be recognised, [B, 2]."""

    positive: Tensor


class CURL(RAD):
    """RAD and a contrastive loss at each update."""

    name = "curl"
    Keys = Keys
    min_batch = 2
    compiled = (*RAD.compiled, "contrast_loss")

    def make_more(self) -> None:
        features = self.config.encoder_feature_dim
        self.contrast = nn.Parameter(torch.rand(features, features))  # W

    def make_optimizers(self) -> None:
        super().make_optimizers()
        c = self.config
        encoder = [*self.critic.convs.parameters(), *self.critic.head.parameters()]
        learned = [*encoder, self.contrast]
        self.optimizers["contrast"] = Optimizer("contrast", learned, c, c.encoder_lr)
        if c.curl_twice:
            self.optimizers["encoder"] = Optimizer("encoder", encoder, c, c.encoder_lr)

    def draw_noise(self, batch: int, length: int) -> SACNoise:
        assert self.crops is not None  # it has crop_pad
        drawn = super().draw_noise(batch, length)
        return drawn._replace(more=CURLNoise(self.crops.draw(batch, self.device)))

    def learn_more(
        self, batch: Batch, step: Transition, obs: Tensor, noise: SACNoise, skip: Tensor
    ) -> Metrics:
        """The step of encoder and W; the target has moved before."""
        positive = self.look(batch, step.obs, noise.more.positive)
        loss = self.contrast_loss(obs, positive)
        metrics = self.optimizers["contrast"].step(loss, skip)
        if "encoder" in self.optimizers:
            again = self.optimizers["encoder"].take(loss.detach(), metrics["skipped_contrast"])
            metrics["skipped_encoder"] = again["skipped_encoder"]
        return metrics

    def contrast_loss(self, obs: Tensor, positive: Tensor) -> Tensor:
        """InfoNCE: −ln of the share of exp(q W kᵀ) that each observation's own key has.

        q is the encoder's feature of one crop, k the target's of another one, without gradient.
        """
        query, keys = self.feature(self.actor_input(obs)), self.following(positive)
        logits = query @ self.contrast @ keys.T
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    def shown(self, batch: Batch, noise: SACNoise) -> dict[str, Tensor]:
        step = transition(batch, self.stack)
        return super().shown(batch, noise) | {
            "to recognise": self.look(batch, step.obs, noise.more.positive)
        }
