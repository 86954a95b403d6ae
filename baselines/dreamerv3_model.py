"""What DreamerV3 learns of the world and of acting: every loss term (arXiv 2301.04104).

Symbols in shape comments: B batch, T time, H horizon, N imagined trajectories, A action, S stoch,
K classes, F feature.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from accel.chunks import sum_by_chunks
from baselines.dreamerv3_networks import (
    ActorHead,
    BinsHead,
    Decoder,
    DiscountHead,
    Encoder,
    NetworkConfig,
)
from baselines.dreamerv3_rssm import RSSM, CategoricalModel
from baselines.networks import move
from baselines.twohot import TwoHot
from models import Batch, LossScales, Metrics, Terms
from networks import Encoding, float_image
from rssm import STRIDE, State


class FilterNoise(NamedTuple):
    """What the latents of a batch [B, T] are drawn with; named as `reports` reads it."""

    latent: Tensor  # [B, T, S, K]
    embed: None = None


class ImagineNoise(NamedTuple):
    """What H imagined steps from N starts draw with."""

    action: Tensor  # [H, N, A]
    latent: Tensor  # [H, N, S, K]


class Imagination(NamedTuple):
    """H steps imagined from N starts. Row 0 is the start itself."""

    feat: Tensor  # [H+1, N, F]
    action: Tensor  # [H, N, A]; action t is taken in state t


class Kind(NamedTuple):
    """What `agents.reports` asks of a model: whether latents are samples."""

    sample: bool = True


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, and the heads of reward and discount.

    Args:
        image: (H, W, C).
        action_size: A.
        config: sizes.
    """

    def __init__(self, image: tuple[int, int, int], action_size: int, config: NetworkConfig):
        super().__init__()
        self.config = Kind()
        self.encoder = Encoder(image, config)
        self.rssm = RSSM(self.encoder.embed_size, action_size, config)
        self.decoder = Decoder(image, config)
        self.reward = BinsHead(config.layers[0], config)
        self.discount = DiscountHead(config.layers[1], config)

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        """Images [B, T, H, W, C], uint8 or float in ±0.5 → embeddings."""
        return self.encoder(image)

    def actions(self, batch: Batch) -> Tensor:
        """The actions [B, T, A] that the RSSM is fed."""
        return batch["action"]

    @staticmethod
    def pad_action(action: Tensor) -> Tensor:
        """Actions as they are."""
        return action

    def draw_noise(self, *lead: int) -> FilterNoise:
        """What the latents of a batch [*lead] = [B, T] are drawn with."""
        return FilterNoise(self.rssm.draw_noise(*lead))

    def observe(
        self, batch: Batch, encoding: Encoding, noise: Tensor | None = None
    ) -> tuple[State, State]:
        """Posterior (its mode without ``noise``) and prior over a batch, each [B, T, …].

        Where the batch has them, ``deter`` [B, D] and ``stoch`` [B, S, K] are the states before its
        first rows.
        """
        names: tuple[str, ...] = ("deter", "stoch")
        state = {name: batch[name] for name in names if name in batch} or None
        embed, action, is_first = encoding.embed, batch["action"], batch["is_first"]
        return self.rssm.observe(embed, action, is_first, state, noise is not None, noise)

    def terms(
        self, batch: Batch, scales: LossScales, noise: FilterNoise
    ) -> tuple[Terms, State, Metrics]:
        """The terms ``image``, ``reward``, ``discount``, ``dyn`` and ``rep``; posterior; metrics.

        Each is a mean over batch and time: the squared error of the image, summed over pixels in
        0..1; the cross-entropies of reward and discount; and those of `kl_terms`.
        """
        post, prior = self.observe(batch, self.encode(batch["image"]), noise.latent)
        feat = self.rssm.get_feat(post)
        terms = {"image": self.image_term(feat, batch["image"])}
        terms["reward"] = -self.reward(feat).log_prob(batch["reward"]).mean()
        terms["discount"] = -self.discount(feat).log_prob(batch["discount"]).mean()
        more, metrics = kl_terms(self.rssm, post, prior, scales["kl_free"])
        return terms | more, post, metrics

    def image_term(self, feat: Tensor, image: Tensor) -> Tensor:
        """The squared error of images [B, T, H, W, C], summed over pixels, its mean: 0-d."""
        flat, goal = feat.flatten(0, 1), image.flatten(0, 1)
        parameters = list(self.decoder.parameters())
        total = sum_by_chunks(self.image_error, flat, goal, parameters, self.encoder.chunk_size)
        return total / len(flat)

    def decode(self, feat: Tensor, image: Tensor) -> Tensor:
        """As `models.VideoPredictor.decode`."""
        return self.decoder(feat).mode()

    def image_error(self, feat: Tensor, image: Tensor) -> Tensor:
        """[N, F] and images [N, H, W, C] → [N]."""
        return (self.decoder.pixels(feat) - float_image(image)).square().flatten(1).sum(1)


def kl_terms(
    rssm: CategoricalModel, post: State, prior: State, free: Tensor
) -> tuple[Terms, Metrics]:
    """The terms ``dyn`` and ``rep`` of posterior and prior [B, T, …], and metrics.

    KL(sg(q) ‖ p) trains the prior p, KL(q ‖ sg(p)) the posterior q; ``free`` nats of each row's
    cost nothing.
    """
    stopped = [{"logit": state["logit"].detach()} for state in (post, prior)]
    dyn, rep = rssm.kl(stopped[0], prior), rssm.kl(post, stopped[1])  # [B, T]
    terms = {"dyn": torch.maximum(dyn, free).mean(), "rep": torch.maximum(rep, free).mean()}
    with torch.no_grad():
        entropies = [rssm.get_dist(state).entropy().mean() for state in (prior, post)]
    return terms, {
        "kl": dyn.detach().mean(),
        "prior_ent": entropies[0],
        "post_ent": entropies[1],
    }


@dataclasses.dataclass(frozen=True)
class BehaviorConfig:
    """How actor and critic learn.

    Attributes:
        horizon: H, imagined steps.
        discount_lambda: λ of the λ-returns.
        slow_fraction: how far the slow critic moves at a time.
        return_rate: of the moving averages of the returns' percentiles.
    """

    horizon: int = 15
    discount_lambda: float = 0.95
    slow_fraction: float = 0.02
    return_rate: float = 0.01


def lambda_returns(
    reward: Tensor, discount: Tensor, value: Tensor, lambda_: Tensor | float
) -> Tensor:
    """R_t = r_{t+1} + d_{t+1}·((1 − λ)·v_{t+1} + λ·R_{t+1}), and R = v of the last state.

    Args:
        reward: of the state that each step leads to, [H, …].
        discount: likewise.
        value: likewise.
        lambda_: likewise, or one number.

    Returns:
        [H, …].
    """
    inputs, shares = reward + discount * (1 - lambda_) * value, discount * lambda_
    returns = [value[-1]]
    for t in reversed(range(len(reward))):
        returns.append(inputs[t] + shares[t] * returns[-1])
    return torch.stack(returns[:0:-1])


class ReturnScale(nn.Module):
    """The spread of returns: from the 5th to the 95th percentile, as moving averages; at least 1.

    Args:
        rate: of the averages, which begin at 0.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Takes in returns, of any shape, and gives the spread, 0-d.

        Where one is not finite, the averages stay as they are.
        """
        shares = torch.stack([torch.full_like(self.low, share) for share in (0.05, 0.95)])
        found = torch.quantile(returns.flatten().to(self.low.dtype), shares)
        good = torch.isfinite(found).all()
        for average, new in zip((self.low, self.high), found.unbind(), strict=True):
            average.copy_(torch.where(good, torch.lerp(average, new, self.rate), average))
        return (self.high - self.low).clamp(min=1)


class ImaginedBehavior(nn.Module):
    """An actor and a critic that learn in imagination, the critic beside a slow copy of itself.

    Args:
        actor: a head over actions.
        value: the critic's head.
        config: how they learn.
    """

    def __init__(self, actor: Any, value: Any, config: BehaviorConfig):
        super().__init__()
        self.config, self.actor, self.value = config, actor, value
        self.slow_value = copy.deepcopy(value).requires_grad_(False)
        self.scale = ReturnScale(config.return_rate)

    @torch.no_grad()
    def update_slow_target(self) -> None:
        """Moves the slow critic towards the critic."""
        move(self.slow_value, self.value, self.config.slow_fraction)

    def draw_noise(self, rssm: CategoricalModel, starts: int) -> ImagineNoise:
        """What rollouts from so many starts draw with, all steps at once."""
        lead = self.config.horizon, starts
        return ImagineNoise(self.actor.draw_noise(*lead), rssm.draw_noise(*lead))

    def follow(self, rssm: CategoricalModel, start: State, noise: ImagineNoise) -> Imagination:
        """Follows the actor for H steps from every state of ``start`` [N, …].

        Where gradients are asked for, an action's reaches the states that it leads to; what the
        actor looks at passes none on.
        """
        weights = rssm.scan_weights()
        state, feats, actions = start, [rssm.get_feat(start)], []
        for drawn in zip(*(each.split(STRIDE) for each in noise), strict=True):
            state, feat, action = self.imagine_steps(rssm, weights, state, feats[-1], *drawn)
            feats += feat
            actions += action
        return Imagination(torch.stack(feats), torch.stack(actions))

    def imagine_steps(
        self,
        rssm: CategoricalModel,
        weights: Any,
        state: State,
        feat: Tensor,
        actions: Tensor,
        latents: Tensor,
    ) -> tuple[State, list[Tensor], list[Tensor]]:
        """Some steps in a row, with noise [s, N, …].

        Returns:
            The last state, the features that each step leads to, and the actions.
        """
        feats, taken = [], []
        for action, latent in zip(actions, latents, strict=True):
            taken.append(self.actor(feat.detach()).rsample(action))
            state = rssm.img_step(state, taken[-1], noise=latent, weights=weights)
            feat = rssm.get_feat(state)
            feats.append(feat)
        return state, feats, taken


class ActorCritic(ImaginedBehavior):
    """DreamerV3's behaviour: the actor learns by the log-probabilities of what it did.

    Args:
        action_size: A.
        discrete: whether actions are.
        networks: sizes.
        config: how they learn.
    """

    def __init__(
        self, action_size: int, discrete: bool, networks: NetworkConfig, config: BehaviorConfig
    ):
        actor = ActorHead(action_size, discrete, networks)
        super().__init__(actor, BinsHead(networks.layers[3], networks), config)

    @torch.no_grad()
    def rollout(self, world_model: WorldModel, start: State, noise: ImagineNoise) -> Imagination:
        """H steps from every state of ``start`` [N, …]."""
        return self.follow(world_model.rssm, start, noise)

    def terms(
        self, world_model: WorldModel, imagined: Imagination, scales: LossScales
    ) -> tuple[Terms, Tensor, Metrics]:
        """The terms ``policy`` and ``value``, means over H and N; the starts' returns [N]; metrics.

        ::

            states     z0 ──a0──▶ z1 ──a1──▶ z2 ──a2──▶ z3
            returns    R0         R1         R2         (v3)
            weights    c0         c0·c1      c0·c1·c2

        policy: −w_t·(log π(a_t)·sg((R_t − v_t) / S) + actor_entropy·entropy), S the `ReturnScale`;
        value: w_t times the cross-entropies with R_t and with what the slow critic says.
        """
        feat = imagined.feat
        with torch.no_grad():
            reward, discount = world_model.reward(feat).mode(), world_model.discount(feat).mean
            slow = self.slow_value(feat[:-1]).mode()
        critic = self.value(feat)  # [H+1, N]
        value = critic.mode().detach()
        returns = lambda_returns(reward[1:], discount[1:], value[1:], self.config.discount_lambda)
        weight = torch.cumprod(discount, 0)[:-1]
        advantage = (returns - value[:-1]) / self.scale.update(returns)
        policy = self.actor(feat[:-1])
        entropy = policy.entropy()
        gain = policy.log_prob(imagined.action) * advantage + scales["actor_entropy"] * entropy
        terms = {
            "policy": -(weight * gain).mean(),
            "value": (weight * critic_error(critic[:-1], returns, slow)).mean(),
        }
        metrics = {
            "reward_mean": reward.mean(),
            "reward_std": reward.std(),
            "actor_ent": entropy.detach().mean(),
            "target_mean": returns.mean(),
            "return_low": self.scale.low.clone(),
            "return_high": self.scale.high.clone(),
            "advantage_std": advantage.std(),
        }
        return terms, returns[0], metrics

    def replay_term(self, feat: Tensor, batch: Batch, returns: Tensor) -> Tensor:
        """The critic's loss on the replay's own rows, whose gradient reaches the world model: 0-d.

        Its λ-returns are of the rewards that were earned. Each state's value in them is the return
        that was imagined from it. An episode's last row has none, and ends the trace.

        Args:
            feat: [B, T, F], with gradient.
            batch: ``reward``, ``discount`` and ``is_first`` [B, T].
            returns: imagined from each row, [B, T].
        """
        critic = self.value(feat[:, :-1])
        with torch.no_grad():
            slow = self.slow_value(feat[:, :-1].detach()).mode()
        more = (~batch["is_first"][:, 1:]).to(returns.dtype)  # [B, T−1]: row t is not the last one
        goes_on = torch.cat([more, torch.ones_like(more[:, :1])], 1)
        lambda_ = self.config.discount_lambda * goes_on[:, 1:]
        after = batch["reward"][:, 1:], batch["discount"][:, 1:], returns[:, 1:], lambda_
        target = lambda_returns(*(x.transpose(0, 1) for x in after)).transpose(0, 1)
        return (more * critic_error(critic, target, slow)).mean()


def critic_error(critic: TwoHot, target: Tensor, slow: Tensor) -> Tensor:
    """The cross-entropies with the targets, and with what the slow critic says: [N]."""
    return -critic.log_prob(target) - critic.log_prob(slow)
