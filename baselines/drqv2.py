"""DrQ-v2: a deterministic actor and n-step action values, on shifted images.

Yarats et al. 2021 (arXiv 2107.09645).

Symbols in shapes: B batch, R what the convolutions make of an observation, F feature, A action.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents.base import Batch, Metrics, Spaces
from agents.optimizer import Optimizer
from baselines.networks import Convs, Critic, Head, TwinQ, mlp, move, orthogonal
from baselines.pixels import CropKeys, PixelAgent, PixelKeys
from baselines.sac import sum_of_errors
from baselines.stacking import Transition, transition
from behavior import frozen
from config import Config, key
from models import LossScales

EDGE = 1e-6  # how far from ±1 actions stay


@dataclasses.dataclass(frozen=True)
class Keys(PixelKeys, CropKeys):
    """DrQ-v2's keys; learning rates are --actor_lr and --value_lr."""

    nstep: int = key(3, "steps of a transition", at_least=1)
    stddev_schedule: str = key(
        "linear(1.0,0.1,500000)",
        "standard deviation of the noise on actions, by the agent step",
        schedule=True,
    )
    stddev_clip: float = key(0.3, "how far that noise goes at most, in updates", above=0)


class DrQNoise(NamedTuple):
    """What an update draws with: standard normal [B, A], and offsets of crops, [B, 2]."""

    next_action: Tensor
    action: Tensor
    crop: Tensor
    next_crop: Tensor


class Actor(nn.Module):
    """A head of its own, and the action before its noise."""

    def __init__(self, head: Head, features: int, actions: int, units: int):
        super().__init__()
        self.head, self.policy = head, mlp(features, units, actions)

    def forward(self, seen: Tensor) -> Tensor:
        """[B, R] → [B, A] in (−1, 1)."""
        return torch.tanh(self.policy(self.head(seen)))


class DrQV2(PixelAgent):
    """DrQ-v2; the arguments are those of every agent.

    Actor and critic have a head each on the convolutions, which the critic's loss trains. The
    target has the critic's head and action values, and sees through the newest convolutions.
    """

    name = "drqv2"
    Keys = Keys

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__(config, runtime, spaces, source)
        c, actions = config, spaces.action_size
        convs = Convs(self.channels, c.size, c.num_layers, c.num_filters)
        features, units = c.encoder_feature_dim, c.hidden_dim

        def head() -> Head:
            return Head(convs.out_size, features, tanh=True)

        self.critic = Critic(convs, head(), TwinQ(features, actions, units))
        self.actor = Actor(head(), features, actions, units)
        orthogonal(self.critic, delta=False)
        orthogonal(self.actor, delta=False)
        values = {"head": self.critic.head, "q": self.critic.q}
        self.target = nn.ModuleDict(copy.deepcopy(values)).requires_grad_(False)
        self.stddev: Tensor  # what actions are explored with
        first = self.schedules["stddev_schedule"](0)
        self.register_buffer("stddev", torch.tensor(first, dtype=torch.float32))
        self.to(self.device)
        critic, actor = self.critic.parameters(), self.actor.parameters()
        self.optimizers = {
            "critic": Optimizer("critic", critic, c, c.value_lr, c.value_grad_clip),
            "actor": Optimizer("actor", actor, c, c.actor_lr, c.actor_grad_clip),
        }
        if runtime.compile:
            compile_methods(self, "convs", "target_value", "critic_loss", "actor_loss")

    @classmethod
    def steps(cls, config: Config) -> int:
        return config.nstep

    def to_input(self, obs: Tensor) -> Tensor:
        return obs.float() / 255 - 0.5

    def to_picture(self, obs: Tensor) -> Tensor:
        return obs + 0.5

    def draw_noise(self, batch: int, length: int) -> DrQNoise:
        assert self.crops is not None  # it has crop_pad
        shape, device = (batch, self.spaces.action_size), self.device
        normal = [torch.randn(shape, device=device) for _ in range(2)]
        return DrQNoise(*normal, *(self.crops.draw(batch, device) for _ in range(2)))

    def compute(self, batch: Batch, scales: LossScales, noise: DrQNoise) -> Metrics:
        """One update of critic with encoder, actor and target."""
        step = transition(batch, self.stack, self.config.nstep)
        stddev = scales["stddev_schedule"]
        self.stddev.copy_(stddev)
        seen = self.convs(self.critic, self.look(batch, step.obs, noise.crop))
        with torch.no_grad():
            next_seen = self.convs(self.critic, self.look(batch, step.next_obs, noise.next_crop))
        target = self.target_value(next_seen, step, stddev * noise.next_action)
        metrics = self.optimizers["critic"].step(self.critic_loss(seen, step, target))
        with frozen(self.critic.parameters()):
            loss = self.actor_loss(seen.detach(), stddev * noise.action)
        metrics |= self.optimizers["actor"].step(loss, metrics["skipped_critic"])
        move(self.target["head"], self.critic.head, self.config.critic_tau)
        move(self.target["q"], self.critic.q, self.config.critic_tau)
        metrics |= {"stddev": stddev, "target_mean": target.mean()}
        return metrics | {"reward_mean": step.reward.mean()}

    @torch.no_grad()
    def target_value(self, next_seen: Tensor, step: Transition, noise: Tensor) -> Tensor:
        """Σ γⁱ rᵢ + γⁿ min Q'(sₙ, a), a the actor's with clipped noise; [B]."""
        action = self.noisy(self.actor(next_seen), noise, self.config.stddev_clip)
        value = torch.minimum(*self.target["q"](self.target["head"](next_seen), action))
        return step.reward + step.discount * value

    def critic_loss(self, seen: Tensor, step: Transition, target: Tensor) -> Tensor:
        """The squared errors of both action values."""
        values = self.critic.q(self.critic.head(seen), step.action)
        return sum_of_errors(values, target, step.weight)

    def actor_loss(self, seen: Tensor, noise: Tensor) -> Tensor:
        """−min Q(s, a), its mean."""
        action = self.noisy(self.actor(seen), noise, self.config.stddev_clip)
        return -torch.minimum(*self.critic.q(self.critic.head(seen), action)).mean()

    @staticmethod
    def noisy(action: Tensor, noise: Tensor, clip: float | None = None) -> Tensor:
        """An action with noise, within ±1; its gradient passes as if there were no bound."""
        found = action + (noise if clip is None else noise.clamp(-clip, clip))
        return found + (found.clamp(EDGE - 1, 1 - EDGE) - found).detach()

    def act_step(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        action = self.actor(self.critic.convs(obs))
        return action if noise is None else self.noisy(action, self.stddev * noise)
