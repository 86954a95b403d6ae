"""Soft actor-critic from pixels: the ground of RAD, CURL, TED and SVEA, and a method of its own.

After Haarnoja et al. 2018 (arXiv 1812.05905) as CURL (arXiv 2004.04136) has it: one convolutional
encoder, which the critic's loss trains and the actor sees through.

Symbols in shapes: B batch, S frames of an observation, C channels, H and W image height and width,
A action.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents.base import Batch, Metrics, Spaces
from agents.optimizer import Optimizer
from baselines.networks import (
    Convs,
    Critic,
    GaussianActor,
    Head,
    TwinQ,
    move,
    orthogonal,
    squashed,
)
from baselines.pixels import PixelAgent, PixelKeys
from baselines.stacking import Transition, mean, transition
from behavior import frozen
from config import Config, key
from models import LossScales


@dataclasses.dataclass(frozen=True)
class Keys(PixelKeys):
    """Keys of SAC and of what grew on it; learning rates are --actor_lr and --value_lr."""

    encoder_tau: float = key(
        0.05, "how far the target's encoder moves at a time", above=0, at_most=1
    )
    actor_update_freq: int = key(2, "updates from one of the actor to the next", above=0)
    critic_target_update_freq: int = key(2, "updates from one move to the next", above=0)
    init_temperature: float = key(0.1, "weight α of the entropy at the start", above=0)
    alpha_lr: float = key(1e-4, "its learning rate", above=0)
    alpha_beta: float = key(0.5, "what Adam's mean keeps there, β₁", at_least=0, below=1)


class SACNoise(NamedTuple):
    """What an update draws with.

    Attributes:
        next_action: standard normal, [B, A]; at the next observation.
        action: the same at this one.
        crop: offsets, [B, 2]; None without crops.
        next_crop: likewise.
        more: a method's own.
    """

    next_action: Tensor
    action: Tensor
    crop: Tensor | None = None
    next_crop: Tensor | None = None
    more: Any = None


class SAC(PixelAgent):
    """SAC on whole images; the arguments are those of every agent."""

    name = "sac"
    Keys: ClassVar[type | None] = Keys
    delta_orthogonal: ClassVar[bool] = True
    exact_log_prob: ClassVar[bool] = False
    last_relu: ClassVar[bool] = True
    tanh: ClassVar[bool] = False  # behind the LayerNorm of a head
    shares_head: ClassVar[bool] = False  # actor and critic have one
    compiled: ClassVar[tuple[str, ...]] = ("target_value", "critic_loss", "actor_loss")

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__(config, runtime, spaces, source)
        c, actions = config, spaces.action_size
        layers = (c.num_layers, c.num_filters, self.last_relu)
        convs = Convs(self.channels, c.size, *layers)

        def head() -> Head:
            return Head(convs.out_size, c.encoder_feature_dim, self.tanh)

        features, units = c.encoder_feature_dim, c.hidden_dim
        self.critic = Critic(convs, head(), TwinQ(features, actions, units))
        own = None if self.shares_head else head()
        self.actor = GaussianActor(features, actions, units, own)
        orthogonal(self.critic, self.delta_orthogonal)
        orthogonal(self.actor, self.delta_orthogonal)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(c.init_temperature)))
        self.make_more()
        self.to(self.device)
        self.make_optimizers()
        if runtime.compile:
            compile_methods(self, *self.compiled)

    def make_more(self) -> None:
        """Makes a method's further networks, before all go to the device."""

    def make_optimizers(self) -> None:
        """One for the critic and its encoder, one for the actor, one for α."""
        c = self.config
        self.optimizers = {
            "critic": self.optimizer("critic", self.critic, c.value_lr, c.value_grad_clip),
            "actor": self.optimizer("actor", self.actor, c.actor_lr, c.actor_grad_clip),
            "alpha": Optimizer("alpha", [self.log_alpha], c, c.alpha_lr, beta=c.alpha_beta),
        }

    def optimizer(self, name: str, module: nn.Module, lr: float, clip: float) -> Optimizer:
        """An optimiser of a network's parameters."""
        return Optimizer(name, module.parameters(), self.config, lr, clip)

    def rhythm(self) -> dict[str, int]:
        c = self.config
        return {"actor": c.actor_update_freq, "target": c.critic_target_update_freq}

    def draw_noise(self, batch: int, length: int) -> SACNoise:
        shape = (batch, self.spaces.action_size)
        drawn = [torch.randn(shape, device=self.device) for _ in range(2)]
        if self.crops is not None:
            drawn += [self.crops.draw(batch, self.device) for _ in range(2)]
        return SACNoise(*drawn)

    # What is seen

    def actor_input(self, obs: Tensor) -> Tensor:
        """What the actor sees: the convolutions' [B, R], or a feature [B, F] if it shares that."""
        seen = self.convs(self.critic, obs)
        return self.critic.head(seen) if self.shares_head else seen

    def feature(self, seen: Tensor) -> Tensor:
        """The critic's feature, [B, F], of what `actor_input` returned."""
        return seen if self.shares_head else self.critic.head(seen)

    @torch.no_grad()
    def following(self, next_obs: Tensor) -> Tensor:
        """The target's feature of the next observation, [B, F]."""
        return self.target.head(self.convs(self.target, next_obs))

    # An update

    def compute(self, batch: Batch, scales: LossScales, noise: SACNoise) -> Metrics:
        """One update: the critic; in its rhythm actor and α, and the target."""
        step = transition(batch, self.stack)
        obs = self.look(batch, step.obs, noise.crop)
        next_obs = self.look(batch, step.next_obs, noise.next_crop)
        seen = self.following(next_obs)
        target = self.target_value(next_obs, seen, step, noise.next_action)
        metrics = self.optimizers["critic"].step(self.critic_loss(obs, step, target, noise))
        if self.due["actor"]:
            with torch.no_grad():
                seen = self.actor_input(obs)
            metrics |= self.learn_actor(seen, noise.action, metrics["skipped_critic"])
        if self.due["target"]:
            self.move_target()
        metrics |= self.learn_more(batch, step, obs, noise, metrics["skipped_critic"])
        return metrics | {"reward_mean": step.reward.mean(), "target_mean": target.mean()}

    def learn_more(
        self, batch: Batch, step: Transition, obs: Tensor, noise: SACNoise, skip: Tensor
    ) -> Metrics:
        """What a method learns beside it."""
        return {}

    @torch.no_grad()
    def target_value(
        self, next_obs: Tensor, following: Tensor, step: Transition, noise: Tensor
    ) -> Tensor:
        """r + γ (min Q'(s', a') − α ln π(a'|s')), a' from the actor, Q' the target's; [B]."""
        action, log_prob = self.sample(self.actor_input(next_obs), noise)
        value = torch.minimum(*self.target.q(following, action))
        return step.reward + step.discount * (value - self.log_alpha.exp() * log_prob)

    def sample(self, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's action [B, A] and its log density [B]."""
        average, log_std = self.actor(seen)
        return squashed(average, log_std, noise, self.exact_log_prob)

    def critic_loss(self, obs: Tensor, step: Transition, target: Tensor, noise: SACNoise) -> Tensor:
        """The squared errors of both action values."""
        values = self.critic.q(self.feature(self.actor_input(obs)), step.action)
        return sum_of_errors(values, target, step.weight)

    def learn_actor(self, seen: Tensor, noise: Tensor, skip: Tensor) -> Metrics:
        """The actor's step and α's; the encoder, whose ``seen`` it is, stays as it is."""
        with frozen(self.critic.parameters()):
            loss, log_prob = self.actor_loss(seen, noise)
        metrics = self.optimizers["actor"].step(loss, skip)
        surprise = log_prob.detach() - self.spaces.action_size  # above 0: too certain
        alpha = self.log_alpha.exp()
        metrics |= self.optimizers["alpha"].step(
            -(alpha * surprise).mean(), metrics["skipped_actor"]
        )
        return metrics | {"alpha": alpha.detach(), "actor_ent": -log_prob.detach().mean()}

    def actor_loss(self, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """α ln π − min Q, its mean; and ln π, [B]."""
        action, log_prob = self.sample(seen, noise)
        value = torch.minimum(*self.critic.q(self.feature(seen), action))
        return (self.log_alpha.exp().detach() * log_prob - value).mean(), log_prob

    def move_target(self) -> None:
        """The target's action values and its encoder move, each by its own share."""
        c = self.config
        move(self.target.q, self.critic.q, c.critic_tau)
        move(self.target.head, self.critic.head, c.encoder_tau)
        move(self.target.convs, self.critic.convs, c.encoder_tau)

    # Acting

    def act_step(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        seen = self.critic.convs(obs)
        if self.shares_head:
            seen = self.critic.head(seen)
        average, log_std = self.actor(seen)
        return torch.tanh(average if noise is None else average + noise * log_std.exp())


def sum_of_errors(values: tuple[Tensor, Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """The squared errors of two action values [B], means over the transitions that there are."""
    return sum(
        (mean(F.mse_loss(value, target, reduction="none"), weight) for value in values),
        start=target.new_zeros(()),
    )
