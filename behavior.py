"""What is learned of acting: DreamerV2's actor and critic, in the world model's imagination.

Symbols in shape comments: H horizon, N imagined trajectories, A action, F feature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

import networks
from config import Config
from models import Terms, WorldModel
from rssm import STRIDE, FirstWeights, State
from tools import is_zero


@contextlib.contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients flow through these parameters' modules but are not collected for them."""
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def lambda_return(
    reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor, lambda_: float
) -> Tensor:
    """R_t = r_t + d_t·((1 − λ)·v_{t+1} + λ·R_{t+1}), with R_H = v_H (Sutton and Barto, ch. 12).

    Args:
        reward: [H, …].
        value: [H, …], of the states that the rewards belong to.
        discount: [H, …].
        bootstrap: […], the value of the state after the last one.
        lambda_: 0 gives one-step targets, 1 gives Monte-Carlo returns.

    Returns:
        [H, …].
    """
    following = torch.cat([value[1:], bootstrap[None]])
    inputs = reward + discount * following * (1 - lambda_)
    returns, last = [], bootstrap
    for t in reversed(range(len(reward))):
        last = inputs[t] + discount[t] * lambda_ * last
        returns.append(last)
    return torch.stack(returns[::-1])


class Imagination(NamedTuple):
    """H steps imagined from N starts. Row 0 is the start itself."""

    feat: Tensor  # [H+1, N, F]
    state: State  # [H+1, N, …]
    action: Tensor  # [H, N, A]; action t is taken in state t
    log_prob: Tensor | None  # [H, N], where the gradient needs it
    entropy: Tensor  # [H, N]


class ActorCritic(nn.Module):
    """DreamerV2's behaviour: an actor and a critic that learn in imagination."""

    def __init__(self, config: Config, feat_size: int, actions: int):
        super().__init__()
        self.config = config
        self.rewards_state_entropy = not is_zero(config.actor_state_entropy)
        act = networks.activation(config.act)
        self.actor = networks.ActionHead(
            feat_size,
            actions,
            config.actor_layers,
            config.units,
            act,
            config.actor_dist,
            config.actor_init_std,
            config.actor_min_std,
            config.actor_temp,
            config.actor_outscale,
        )
        self.value = self._critic(feat_size, act)
        self.slow_value = self._critic(feat_size, act).requires_grad_(False)
        self.slow_value.load_state_dict(self.value.state_dict())

    def _critic(self, feat_size: int, act: type[nn.Module]) -> networks.DenseHead:
        c = self.config
        return networks.DenseHead(feat_size, c.value_layers, c.units, act, c.value_head)

    @torch.no_grad()
    def update_slow_target(self) -> None:
        """Moves the slow critic towards the critic by ``slow_target_fraction`` (1 copies it)."""
        for slow, fast in zip(self.slow_value.parameters(), self.value.parameters(), strict=True):
            slow.lerp_(fast, self.config.slow_target_fraction)

    def noise(self, world_model: WorldModel, starts: int) -> Terms:
        """What so many dreams draw with, all steps at once: ``choice_noise``, ``dream_noise``."""
        lead = self.config.imag_horizon, starts
        return {
            "choice_noise": self.actor.noise(*lead),
            "dream_noise": world_model.rssm.noise(*lead),
        }

    def imagine(
        self, world_model: WorldModel, start: State, noise: Terms | None = None
    ) -> Imagination:
        """Follows the actor for ``imag_horizon`` steps from every state of ``start`` [N, …].

        ``noise`` is what :meth:`noise` gives; it is drawn here by default.
        """
        rssm = world_model.rssm
        if noise is None:
            noise = self.noise(world_model, len(rssm.get_feat(start)))
        first = rssm.first_weights()
        drawn = (noise[name].split(STRIDE) for name in ("choice_noise", "dream_noise"))
        states, steps = [start], []
        for choices, latents in zip(*drawn, strict=True):
            more = self.dream_steps(world_model, first, states[-1], choices, latents)
            states += more[0]
            steps += more[1]
        state = {k: torch.stack([s[k] for s in states]) for k in states[-1]}
        action, log_prob, entropy = zip(*steps, strict=True)
        log_prob = None if log_prob[0] is None else torch.stack(log_prob)
        return Imagination(
            rssm.get_feat(state), state, torch.stack(action), log_prob, torch.stack(entropy)
        )

    def dream_steps(
        self,
        world_model: WorldModel,
        first: FirstWeights,
        state: State,
        choices: Tensor,
        latents: Tensor,
    ) -> tuple[list[State], list[tuple[Tensor, Tensor | None, Tensor]]]:
        """Some steps in a row: :meth:`dream_step` for each row of the noise [s, N, …]."""
        states, steps = [], []
        for choice, latent in zip(choices, latents, strict=True):
            state, step = self.dream_step(world_model, first, state, choice, latent)
            states.append(state)
            steps.append(step)
        return states, steps

    def dream_step(
        self,
        world_model: WorldModel,
        first: FirstWeights,
        state: State,
        choice: Tensor,
        latent: Tensor,
    ) -> tuple[State, tuple[Tensor, Tensor | None, Tensor]]:
        """One imagined step from ``state`` [N, …], with the noise of its action and its latent.

        Returns:
            The next state; the action [N, A], its log-probability [N] where the gradient needs
            it, and the policy's entropy [N].
        """
        c, rssm = self.config, world_model.rssm
        feat = rssm.get_feat(state)
        policy = self.actor(feat.detach() if c.behavior_stop_grad else feat)
        action = policy.rsample(choice)
        log_prob = None
        if c.imag_gradient != "dynamics":
            log_prob = policy.log_prob(action.detach())
        padded = world_model.pad_action(action)
        following = rssm.img_step(state, padded, c.imag_sample, latent, first)
        return following, (action, log_prob, policy.entropy())

    def targets(
        self, world_model: WorldModel, dream: Imagination, weights: Terms
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """λ-returns [H, N] for actor and for critic, discount weights [H+1, N], rewards [H+1, N].

        The reward of state t was received on arriving there, so target t counts it: it is what
        the critic of state t predicts.
        """
        c = self.config
        reward = world_model.reward(dream.feat).mode()[..., 0]  # [H+1, N]
        if world_model.discount is None:
            discount = torch.full_like(reward, c.discount)
        else:
            # The head was trained on γ·(1 − terminal): its mean already holds γ.
            discount = world_model.discount(dream.feat).mean[..., 0]
        total = reward[:-1]
        if c.future_entropy:
            total = total + weights["actor_entropy"] * dream.entropy
            if self.rewards_state_entropy:
                entropy = self._state_entropy(world_model, dream)
                total = total + weights["actor_state_entropy"] * entropy
        by_critic = {
            slow: (self.slow_value if slow else self.value)(dream.feat).mode()[..., 0]
            for slow in {c.slow_actor_target, c.slow_value_target}
        }
        returns = {
            slow: lambda_return(total, v[:-1], discount[:-1], v[-1], c.discount_lambda)
            for slow, v in by_critic.items()
        }
        ones = torch.ones_like(discount[:1])
        cumulative = torch.cumprod(torch.cat([ones, discount[:-1]]), 0).detach()
        return returns[c.slow_actor_target], returns[c.slow_value_target], cumulative, reward

    @staticmethod
    def _state_entropy(world_model: WorldModel, dream: Imagination) -> Tensor:
        before = {k: v[:-1] for k, v in dream.state.items()}
        return world_model.rssm.get_dist(before).entropy()

    def actor_loss(
        self,
        world_model: WorldModel,
        dream: Imagination,
        target: Tensor,
        cumulative: Tensor,
        weights: Terms,
    ) -> Tensor:
        """The actor's loss: 0-d.

        Which state goes with which action, target and weight (H = 3)::

            states     z0 ──a0──▶ z1 ──a1──▶ z2 ──a2──▶ z3
            targets    t0         t1         t2         (bootstrap)
            weights    w0         w1         w2
            loss       a0: w0·t1  a1: w1·t2

        The action a_t first shows in the target of the state that it leads to. The last action
        has no target of its own: its state is the bootstrap.
        """
        c = self.config
        outcome, weight = target[1:], cumulative[:-2]  # [H-1, N]
        objective = outcome
        if c.imag_gradient != "dynamics":
            with torch.no_grad():
                baseline = self.value(dream.feat[:-2]).mode()[..., 0]
                advantage = outcome - baseline
            objective = dream.log_prob[:-1] * advantage
            if c.imag_gradient == "both":
                mix = weights["imag_gradient_mix"]
                objective = mix * outcome + (1 - mix) * objective
        if not c.future_entropy:
            objective = objective + weights["actor_entropy"] * dream.entropy[:-1]
            if self.rewards_state_entropy:
                state_entropy = self._state_entropy(world_model, dream)[:-1]
                objective = objective + weights["actor_state_entropy"] * state_entropy
        return -(weight * objective).mean()

    def value_loss(self, feat: Tensor, target: Tensor, cumulative: Tensor) -> Tensor:
        """The critic's loss, 0-d: −log-likelihood of the targets [H, N], discount-weighted."""
        value = self.value(feat[:-1].detach())
        loss = -value.log_prob(target.detach()[..., None])
        if self.config.value_decay:
            loss = loss + self.config.value_decay * value.mode()[..., 0]
        return (cumulative[:-1] * loss).mean()
