"""What is learned of acting: DreamerV2's actor and critic, in the world model's imagination.

Symbols in shape comments: H horizon, N imagined trajectories, A action, F feature.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from heads import ActionHead, ActorConfig, DenseHead, HeadConfig
from models import LossScales, WorldModel
from rssm import STRIDE, ScanWeights, State


@dataclasses.dataclass(frozen=True)
class BehaviorConfig:
    """An actor and a critic, and how they learn.

    Attributes:
        actor: the actor's head; ``value`` the critic's.
        horizon: H, imagined steps.
        discount: γ, where the world model has no head for it.
        discount_lambda: λ of the λ-return.
        lambda_return: ``ordered``, or ``published``: target t is the return of the state that lies
            as far from the last one as state t from the first.
        actor_target: which target goes with action t: that of the ``next`` state, or
            (``published``) that of its own.
        gradient: ``dynamics``, ``reinforce`` or ``both``: how the actor learns.
        sample: imagined states are samples, not modes.
        stop_grad: no gradient through the states into which the actor looks.
        future_entropy: entropies count as reward.
        state_entropy: the imagined states' entropy is rewarded, too.
        value_decay: weight of the critic's predictions as a loss: pushes them down.
        slow_value_target: the critic learns from its slow copy; ``slow_actor_target`` the actor.
        slow_fraction: how far a move of the slow copy goes; 1 copies.
    """

    actor: ActorConfig
    value: HeadConfig
    horizon: int = 15
    discount: float = 0.99
    discount_lambda: float = 0.95
    lambda_return: str = "ordered"
    actor_target: str = "next"
    gradient: str = "dynamics"
    sample: bool = True
    stop_grad: bool = True
    future_entropy: bool = False
    state_entropy: bool = False
    value_decay: float = 0.0
    slow_value_target: bool = True
    slow_actor_target: bool = True
    slow_fraction: float = 1.0


class ImagineNoise(NamedTuple):
    """What H imagined steps from N starts draw with.

    Attributes:
        action: as `ActionHead.draw_noise` makes it, [H, N, A].
        latent: as `RSSM.draw_noise` makes it, [H, N, S, …].
    """

    action: Tensor
    latent: Tensor


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


# Action, log-probability, entropy, rewarded entropy, as in `Imagination`, of one step.
Step = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


class Imagination(NamedTuple):
    """H steps imagined from N starts. Row 0 is the start itself."""

    feat: Tensor  # [H+1, N, F]
    state: State  # [H+1, N, …]
    action: Tensor  # [H, N, A]; action t is taken in state t
    log_prob: Tensor | None  # [H, N], where the gradient needs it
    entropy: Tensor  # [H, N]
    # The same where it is a reward: its gradient goes on to the actions that led there.
    rewarded_entropy: Tensor | None = None  # [H, N]


def _stacked(steps: Sequence[Tensor | None]) -> Tensor | None:
    """What is there in each of the steps, along a new first axis, or in none."""
    there = [step for step in steps if step is not None]
    return torch.stack(there) if there else None


class ActorCritic(nn.Module):
    """DreamerV2's behaviour: an actor and a critic that learn in imagination."""

    def __init__(self, config: BehaviorConfig, feat_size: int, action_size: int):
        super().__init__()
        self.config = config
        self.actor = ActionHead(feat_size, action_size, config.actor)
        self.value = DenseHead(feat_size, config.value)
        self.slow_value = DenseHead(feat_size, config.value).requires_grad_(False)
        self.slow_value.load_state_dict(self.value.state_dict())

    @torch.no_grad()
    def update_slow_target(self) -> None:
        """Moves the slow critic towards the critic by ``slow_fraction`` (1 copies it)."""
        for slow, fast in zip(self.slow_value.parameters(), self.value.parameters(), strict=True):
            slow.lerp_(fast, self.config.slow_fraction)

    def draw_noise(self, world_model: WorldModel, starts: int) -> ImagineNoise:
        """What rollouts from so many starts draw with, all steps at once."""
        lead = self.config.horizon, starts
        return ImagineNoise(self.actor.draw_noise(*lead), world_model.rssm.draw_noise(*lead))

    def rollout(self, world_model: WorldModel, start: State, noise: ImagineNoise) -> Imagination:
        """Follows the actor for H steps from every state of ``start`` [N, …]."""
        rssm = world_model.rssm
        weights = rssm.scan_weights()
        drawn = (each.split(STRIDE) for each in noise)
        states, steps = [start], []
        for actions, latents in zip(*drawn, strict=True):
            more = self.imagine_steps(world_model, weights, states[-1], actions, latents)
            states += more[0]
            steps += more[1]
        state = {k: torch.stack([s[k] for s in states]) for k in states[-1]}
        actions, log_probs, entropies, rewarded = zip(*steps, strict=True)
        return Imagination(
            rssm.get_feat(state),
            state,
            torch.stack(actions),
            _stacked(log_probs),
            torch.stack(entropies),
            _stacked(rewarded),
        )

    def imagine_steps(
        self,
        world_model: WorldModel,
        weights: ScanWeights,
        state: State,
        actions: Tensor,
        latents: Tensor,
    ) -> tuple[list[State], list[Step]]:
        """Some steps in a row: :meth:`imagine_step` for each row of the noise [s, N, …]."""
        states, steps = [], []
        for action, latent in zip(actions, latents, strict=True):
            state, step = self.imagine_step(world_model, weights, state, action, latent)
            states.append(state)
            steps.append(step)
        return states, steps

    def imagine_step(
        self,
        world_model: WorldModel,
        weights: ScanWeights,
        state: State,
        noise: Tensor,
        latent: Tensor,
    ) -> tuple[State, Step]:
        """One imagined step from ``state`` [N, …], with the noise of its action and its latent.

        Returns:
            The next state; the action [N, A], its log-probability [N] where the gradient needs
            it, the policy's entropy [N], and the same as a reward, where it is one.
        """
        c, rssm = self.config, world_model.rssm
        feat = rssm.get_feat(state)
        policy = self.actor(feat.detach() if c.stop_grad else feat)
        action = policy.rsample(noise)
        entropy = policy.entropy()
        rewarded = None
        if c.future_entropy and c.gradient != "reinforce":
            rewarded = self.actor(feat).entropy() if c.stop_grad else entropy
        log_prob = None
        if c.gradient != "dynamics":
            log_prob = policy.log_prob(action.detach())
        padded = world_model.pad_action(action)
        following = rssm.img_step(state, padded, c.sample, latent, weights)
        return following, (action, log_prob, entropy, rewarded)

    def targets(
        self,
        world_model: WorldModel,
        imagined: Imagination,
        scales: LossScales,
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """λ-returns [H, N] for actor and for critic, discount weights [H+1, N], rewards [H+1, N].

        The reward of state t was received on arriving there, so target t counts it: it is what
        the critic of state t predicts.

        Args:
            world_model: what the states were imagined with.
            imagined: the states.
            scales: 0-d tensors.
            first: the starts' own discounts [N], γ·(1 − terminal), where the data tells them and
                the model predicts the others. Of a terminal start, after which nothing comes, the
                critic learns its own reward; what is imagined from there weighs nothing.
        """
        c = self.config
        reward = world_model.reward(imagined.feat).mode()[..., 0]  # [H+1, N]
        if world_model.discount is None:
            discount = torch.full_like(reward, c.discount)
        else:
            # The head was trained on γ·(1 − terminal): its mean already holds γ.
            discount = world_model.discount(imagined.feat).mean[..., 0]
        ones = torch.ones_like(discount[:1])
        if first is not None:
            discount = torch.cat([first[None], discount[1:]])
        total = reward[:-1]
        if c.future_entropy:
            entropy = imagined.rewarded_entropy
            entropy = imagined.entropy if entropy is None else entropy
            total = total + scales["actor_entropy"] * entropy
            if c.state_entropy:
                state_entropy = self._state_entropy(world_model, imagined)
                total = total + scales["actor_state_entropy"] * state_entropy
        by_critic = {
            slow: (self.slow_value if slow else self.value)(imagined.feat).mode()[..., 0]
            for slow in {c.slow_actor_target, c.slow_value_target}
        }
        returns = {
            slow: lambda_return(total, v[:-1], discount[:-1], v[-1], c.discount_lambda)
            for slow, v in by_critic.items()
        }
        if c.lambda_return == "published":
            # Collected while walking backwards, and never turned round.
            returns = {slow: each.flip(0) for slow, each in returns.items()}
        cumulative = torch.cumprod(torch.cat([ones, discount[:-1]]), 0).detach()
        return returns[c.slow_actor_target], returns[c.slow_value_target], cumulative, reward

    @staticmethod
    def _state_entropy(world_model: WorldModel, imagined: Imagination) -> Tensor:
        before = {k: v[:-1] for k, v in imagined.state.items()}
        return world_model.rssm.get_dist(before).entropy()

    def actor_loss(
        self,
        world_model: WorldModel,
        imagined: Imagination,
        target: Tensor,
        cumulative: Tensor,
        scales: LossScales,
    ) -> Tensor:
        """The actor's loss: 0-d.

        Which state goes with which action, target and weight (H = 3)::

            states     z0 ──a0──▶ z1 ──a1──▶ z2 ──a2──▶ z3
            targets    t0         t1         t2         (bootstrap)
            weights    w0         w1         w2
            loss       a0: w0·t1  a1: w1·t2

        The action a_t first shows in the target of the state that it leads to. The last action
        has no target of its own: its state is the bootstrap.

        With ``actor_target`` published, the loss of a_t is w_t·t_t, for all three. No action is
        taken in a terminal start: there w0 is 0.
        """
        c = self.config
        lag = 1 if c.actor_target == "next" else 0
        outcome = target[lag:]
        steps = len(outcome)
        objective = outcome
        if imagined.log_prob is not None:
            with torch.no_grad():
                critic = self.slow_value if c.slow_actor_target else self.value
                advantage = outcome - critic(imagined.feat[:steps]).mode()[..., 0]
            objective = imagined.log_prob[:steps] * advantage
            if c.gradient == "both":
                mix = scales["imag_gradient_mix"]
                objective = mix * outcome + (1 - mix) * objective
        objective = objective + self._entropy_bonus(world_model, imagined, steps, scales)
        weights = cumulative[:steps]
        if world_model.discount is not None:
            weights = weights * (cumulative[1] > 0)
        return -(weights * objective).mean()

    def _entropy_bonus(
        self, world_model: WorldModel, imagined: Imagination, steps: int, scales: LossScales
    ) -> Tensor:
        """What entropies add to the objective of each of the first ``steps`` actions: [steps, N].

        As a reward, the actor's entropy is in the targets already, but for what they leave out:
        where action t goes with the target of the next state, the starts' entropy is in none; and
        a gradient by log-probabilities does not pass through targets.
        """
        c = self.config
        own = scales["actor_entropy"] * imagined.entropy[:steps]
        if not c.future_entropy:
            if c.state_entropy:
                state_entropy = self._state_entropy(world_model, imagined)[:steps]
                own = own + scales["actor_state_entropy"] * state_entropy
            return own
        if c.actor_target == "published":
            return torch.zeros_like(own)
        starts = torch.cat([own[:1], torch.zeros_like(own[1:])])
        if c.gradient == "both":
            mix = scales["imag_gradient_mix"]
            return mix * starts + (1 - mix) * own
        return starts if c.gradient == "dynamics" else own

    def value_loss(self, feat: Tensor, target: Tensor, cumulative: Tensor) -> Tensor:
        """The critic's loss, 0-d: −log-likelihood of the targets [H, N], discount-weighted."""
        value = self.value(feat[:-1].detach())
        loss = -value.log_prob(target.detach()[..., None])
        if self.config.value_decay:
            loss = loss + self.config.value_decay * value.mode()[..., 0]
        return (cumulative[:-1] * loss).mean()
