"""TED: SAC on crops whose encoder tells what follows in time from what does not.

Dunion et al. 2023 (arXiv 2207.05480): the classifier can only tell by features that each vary by
themselves, which disentangles them.

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
from baselines.augment import Crops
from baselines.rad import RAD
from baselines.sac import SACNoise, sum_of_errors
from baselines.stacking import frames_at, mean, transition
from config import Config, key
from models import LossScales
from replay.sampler import Windows


@dataclasses.dataclass(frozen=True)
class Keys(rad.Keys):
    """RAD's, and those of the classifier."""

    ted_coef: str = key(
        "1.0", "weight of the classifier's loss, by the agent step", schedule=True, weighs="ted"
    )
    ted_lr: float = key(1e-3, "learning rate of encoder and classifier", above=0)
    ted_faithful: bool = key(
        False,
        "forget the critic's gradient of the encoder wherever the actor is updated, as the "
        "authors' code does",
    )


class TEDNoise(NamedTuple):
    """Offsets of the crops from elsewhere in the episode, [B, 2]."""

    elsewhere: Tensor


class TemporalClassifier(nn.Module):
    """Whether one feature follows another: Σ |w₁ x + w₂ x' + b| − (v x + e)², and c.

    Args:
        features: F.
    """

    def __init__(self, features: int):
        super().__init__()
        self.pair = nn.Parameter(torch.empty(2, features))  # w₁, w₂
        self.bias, self.scale, self.shift = (
            nn.Parameter(torch.empty(1, features)) for _ in range(3)
        )  # b, v, e
        self.offset = nn.Parameter(torch.empty(1, 1))  # c
        for parameter in self.parameters():
            nn.init.orthogonal_(parameter)

    def forward(self, feature: Tensor, other: Tensor) -> Tensor:
        """Logits [B] that the other one [B, F] is what follows on the first [B, F]."""
        linear = (self.pair[0] * feature + self.pair[1] * other + self.bias).abs()
        alone = (self.scale * feature + self.shift).square()
        return (linear - alone).sum(-1) + self.offset[0, 0]


class TED(RAD):
    """RAD with one encoder for actor and critic, and a classifier of time.

    Critic and classifier train the encoder together, in one step.
    """

    name = "ted"
    Keys = Keys
    min_batch = 2
    delta_orthogonal = False
    exact_log_prob = True
    tanh = True
    shares_head = True
    compiled = ("target_value", "ted_loss", "actor_loss")

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """A transition, and an observation from elsewhere in its episode."""
        stack = config.frame_stack
        return Windows(2 * stack + 1, stack, elsewhere=stack)

    def make_more(self) -> None:
        self.classifier = TemporalClassifier(self.config.encoder_feature_dim)

    def make_optimizers(self) -> None:
        super().make_optimizers()
        c, critic = self.config, self.critic
        encoder = [*critic.convs.parameters(), *critic.head.parameters()]
        learned = [*self.classifier.parameters(), *encoder]
        values = self.optimizer("critic", critic.q, c.value_lr, c.value_grad_clip)
        self.optimizers["critic"] = values
        self.optimizers["encoder"] = Optimizer("encoder", learned, c, c.ted_lr)

    def draw_noise(self, batch: int, length: int) -> SACNoise:
        assert isinstance(self.crops, Crops)  # it has crop_pad
        drawn = super().draw_noise(batch, length)
        return drawn._replace(more=TEDNoise(self.crops.draw(batch, self.device)))

    def compute(self, batch: Batch, scales: LossScales, noise: SACNoise) -> Metrics:
        """One update: action values; in its rhythm actor and α; the encoder; the target."""
        step = transition(batch, self.stack)
        obs = self.look(batch, step.obs, noise.crop)
        next_obs = self.look(batch, step.next_obs, noise.next_crop)
        frames = frames_at(batch["is_first"], batch["is_first"].shape[1] - 1, self.stack)
        other = self.look(batch, frames, noise.more.elsewhere)
        following = self.following(next_obs)
        target = self.target_value(next_obs, following, step, noise.next_action)
        feature = self.actor_input(obs)
        values, encoder = self.optimizers["critic"], self.optimizers["encoder"]
        values.zero_grad()
        encoder.zero_grad()
        forgotten = self.config.ted_faithful and self.due["actor"]
        seen = feature.detach() if forgotten else feature
        critic_loss = sum_of_errors(self.critic.q(seen, step.action), target, step.weight)
        ted_loss = self.ted_loss(feature, following, self.following(other), step.weight)
        loss = critic_loss + scales["ted"] * ted_loss
        loss.backward()
        metrics = values.take(critic_loss.detach())
        if self.due["actor"]:
            # The encoder's own step comes behind it, so the features are still the same.
            metrics |= self.learn_actor(feature.detach(), noise.action, metrics["skipped_critic"])
        metrics |= encoder.take(loss.detach(), metrics["skipped_critic"])
        if self.due["target"]:
            self.move_target()
        metrics |= {"ted_loss": ted_loss.detach(), "ted_coef": scales["ted"]}
        return metrics | {"reward_mean": step.reward.mean(), "target_mean": target.mean()}

    def ted_loss(
        self, feature: Tensor, following: Tensor, elsewhere: Tensor, weight: Tensor
    ) -> Tensor:
        """How badly the classifier tells what follows from two kinds of others.

        These are what follows on the batch's next transition (shifted by one, so that none meets
        its own) and an observation from elsewhere in the episode.

        Args:
            feature: of the observations, with a gradient, [B, F].
            following: the target's, of the next observations, [B, F].
            elsewhere: the target's, [B, F].
            weight: of the transitions, [B].
        """
        logits = [self.classifier(feature, x) for x in (following, following.roll(1, 0), elsewhere)]
        truths, every = (1.0, 0.0, 0.0), torch.ones_like(weight)
        errors = [
            F.binary_cross_entropy_with_logits(x, torch.full_like(x, truth), reduction="none")
            for x, truth in zip(logits, truths, strict=True)
        ]
        return mean(torch.cat(errors), torch.cat([weight, every, every]))

    def shown(self, batch: Batch, noise: SACNoise) -> dict[str, Tensor]:
        frames = frames_at(batch["is_first"], batch["is_first"].shape[1] - 1, self.stack)
        other = self.look(batch, frames, noise.more.elsewhere)
        return super().shown(batch, noise) | {"elsewhere": other}
