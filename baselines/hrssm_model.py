"""What HRSSM learns of the world and of acting: every loss term (Sun et al. 2024, ICML).

Symbols in shape comments: B batch, T time, H horizon, N imagined trajectories or pairs of rows,
S stoch, K classes, D deter, F feature, G T in blocks of frames.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.dreamerv3_model import (
    ImaginedBehavior,
    ImagineNoise,
    critic_error,
    kl_terms,
    lambda_returns,
)
from baselines.dreamerv3_networks import NetworkConfig
from baselines.hrssm_networks import RSSM, BinsHead, DiscountHead, Encoder, linear
from baselines.networks import move
from behavior import frozen
from models import Batch, LossScales, Metrics, Terms
from networks import float_image
from rssm import State


class FilterNoise(NamedTuple):
    """What the terms of a batch [B, T] draw with."""

    mask: Tensor  # uniform [G, rows, columns]
    latent: Tensor  # of the online posterior, uniform [B, T, S, K]
    prior: Tensor  # of its prior, likewise
    true_latent: Tensor  # of the target's posterior, likewise
    true_prior: Tensor  # of its prior, likewise


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """What the online encoder is not shown.

    Attributes:
        patch: pixels of a cell's side: as many cells as fit whole share an image's sides evenly.
        block: frames in a row with the same mask.
        share: of the cells.
    """

    patch: int = 10
    block: int = 4
    share: float = 0.5

    def shape(self, length: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """Blocks, rows and columns of a batch of so many rows and images of that size."""
        return math.ceil(length / self.block), size[0] // self.patch, size[1] // self.patch


@dataclasses.dataclass(frozen=True)
class BisimulationConfig:
    """What the distance of two states is to come to.

    Attributes:
        discount: γ, of the distance between what follows.
        reward: by how much rewards are multiplied.
        published: as in the authors' code, whose slips `bisimulation_term` names.
    """

    discount: float = 0.99
    reward: float = 1.0
    published: bool = False


def cube_mask(noise: Tensor, length: int, size: tuple[int, int], config: MaskConfig) -> Tensor:
    """1 where the images of a batch are seen, 0 where not: [T, H, W, 1].

    In each block of frames the same share of the cells is hidden, drawn anew for each block, the
    same for all sequences.

    Args:
        noise: uniform [G, rows, columns]; the smallest are hidden.
        length: T.
        size: (H, W).
        config: of the mask.
    """
    blocks, rows, columns = noise.shape
    hidden = int(config.share * rows * columns)
    order = noise.flatten(1).argsort(-1).argsort(-1)
    seen = (order >= hidden).to(noise.dtype).view(blocks, rows, columns)
    where = [
        torch.arange(side, device=noise.device) * cells // side
        for side, cells in zip(size, (rows, columns), strict=True)
    ]
    pixels = seen[:, where[0]][:, :, where[1]]  # [G, H, W]
    return pixels.repeat_interleave(config.block, 0)[:length, ..., None]


def reconstruction_term(projected: Tensor, target: Tensor) -> Tensor:
    """The squared distance of projections [B, T, P] to their targets', both of length 1: 0-d."""
    own, true = (F.normalize(x.float(), dim=-1, eps=1e-3) for x in (projected, target.detach()))
    return (own - true).square().sum(-1).mean()


def bisimulation_term(
    feat: Tensor,
    true_feat: Tensor,
    following: tuple[Tensor, Tensor],
    batch: Batch,
    config: BisimulationConfig,
) -> Tensor:
    """Huber's loss of each distance from what a bisimulation metric makes of it: 0-d.

    d(i, j) = 1 − cos(feat_i, true_feat_j) is to be (1 − γ)·|r_i − r_j| + γ·(1 − cos) of what is
    predicted to follow (Zhang et al. 2021, arXiv 2006.10742, theorem 1, with the distance of Zang
    et al. 2022, arXiv 2112.15303). r_i is what the transition from row i on earns; the last rows of
    episodes and windows have none.

    The authors' code pairs a transition with the reward of the one before it; leaves out (1 − γ),
    so that targets reach 2 / (1 − γ) where distances end at 2; and takes an episode's last row
    and the next episode's first one for a transition. So does ``config.published``.

    Args:
        feat: online, [B, T, F]; the gradient goes here alone.
        true_feat: of the target, likewise.
        following: what online model and target predicted of each row from the row before it,
            [B, T, F] each.
        batch: ``reward`` [B, T] and ``is_first`` bool [B, T].
        config: γ, and how rewards count.
    """
    with torch.no_grad():
        reward = config.reward * batch["reward"]
        if config.published:
            reward, share = reward[:, :-1], 1.0
            weight = torch.ones_like(reward)
        else:
            reward, share = reward[:, 1:], 1 - config.discount
            weight = (~batch["is_first"][:, 1:]).to(reward.dtype)
        reward, weight = reward.flatten(), weight.flatten()  # [N], N = B·(T − 1)
        after = distances(*(x[:, 1:].flatten(0, 1) for x in following))
        target = share * (reward[:, None] - reward).abs() + config.discount * after
    found = distances(feat[:, :-1].flatten(0, 1), true_feat[:, :-1].flatten(0, 1).detach())
    error = F.huber_loss(found, target, reduction="none")
    return weight @ error @ weight / weight.sum().square().clamp(min=1)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """1 − cos of each [N, F] with each [M, F]: [N, M]; in float32, whose digits near 1 it needs."""
    with torch.autocast(one.device.type, enabled=False):
        one, other = (F.normalize(x.float(), dim=-1) for x in (one, other))
        return 1 - one @ other.T


class Branch(nn.Module):
    """Encoder, RSSM, and a projection of features: what there is online and as a target.

    Args:
        image: (H, W, C).
        action_size: A.
        projected: numbers of a projected feature.
        config: sizes.
    """

    def __init__(
        self, image: tuple[int, int, int], action_size: int, projected: int, config: NetworkConfig
    ):
        super().__init__()
        self.encoder = Encoder(image, config)
        self.rssm = RSSM(self.encoder.embed_size, action_size, config)
        self.projection = linear(config.feat_size, projected, bias=False)


class WorldModel(nn.Module):
    """An online branch that sees masked images, a target that sees whole ones, and two heads.

    Args:
        branch: the online one.
        image: (H, W).
        networks: sizes.
        mask: what the online branch is not shown.
        bisimulation: what distances are to come to.

    Attributes:
        target: a branch that follows the online one; see :meth:`move_target`.
    """

    def __init__(
        self,
        branch: Branch,
        image: tuple[int, int],
        networks: NetworkConfig,
        mask: MaskConfig,
        bisimulation: BisimulationConfig,
    ):
        super().__init__()
        self.image, self.mask, self.bisimulation = image, mask, bisimulation
        self.encoder, self.rssm, self.projection = branch.encoder, branch.rssm, branch.projection
        self.target = copy.deepcopy(branch).requires_grad_(False)
        self.reward = BinsHead(networks.layers[0], networks)
        self.discount = DiscountHead(networks.layers[1], networks)

    @staticmethod
    def pad_action(action: Tensor) -> Tensor:
        """Actions as they are."""
        return action

    def draw_noise(self, batch: int, length: int) -> FilterNoise:
        """What the terms of a batch [B, T] draw with."""
        cells = self.mask.shape(length, self.image)
        mask = torch.rand(cells, device=self.rssm.first_deter.device)
        return FilterNoise(mask, *(self.rssm.draw_noise(batch, length) for _ in range(4)))

    @torch.no_grad()
    def move_target(self, encoder_share: float, dynamics_share: float) -> None:
        """The target goes these shares of the way towards the online branch."""
        move(self.target.encoder, self.encoder, encoder_share)
        move(self.target.rssm, self.rssm, dynamics_share)
        move(self.target.projection, self.projection, dynamics_share)

    def terms(
        self, batch: Batch, scales: LossScales, noise: FilterNoise
    ) -> tuple[Terms, State, Metrics]:
        """The terms of a batch, the target's posterior [B, T, …], and metrics.

        ``reward`` and ``discount``: cross-entropies; ``dyn`` and ``rep``: see
        `dreamerv3_model.kl_terms`; ``mbr`` and ``simsr``: `reconstruction_term` and
        `bisimulation_term`. The online branch filters masked images. The target's posterior is of
        its recurrent states and the whole images; its prior, of that posterior one row before.
        """
        with torch.no_grad():
            whole = self.target.encoder(batch["image"]).embed
            length = batch["is_first"].shape[1]
            masked = float_image(batch["image"]) * cube_mask(
                noise.mask, length, self.image, self.mask
            )
        post, prior = self.rssm.observe(
            self.encoder(masked).embed, batch["action"], batch["is_first"], noise=noise.latent
        )
        true_post, true_prior = self.see_whole(batch, whole, post["deter"].detach(), noise)
        feat, true_feat = self.rssm.get_feat(post), self.rssm.get_feat(true_post)
        terms = {
            "reward": -self.reward(feat).log_prob(batch["reward"]).mean(),
            "discount": -self.discount(feat).log_prob(batch["discount"]).mean(),
            "mbr": reconstruction_term(self.projection(feat), self.target.projection(true_feat)),
        }
        with torch.no_grad():
            prior["stoch"] = self.rssm.draw(prior["logit"], noise.prior)
            following = self.rssm.get_feat(prior), self.rssm.get_feat(true_prior)
        terms["simsr"] = bisimulation_term(feat, true_feat, following, batch, self.bisimulation)
        more, metrics = kl_terms(self.rssm, post, prior, scales["kl_free"])
        return terms | more, true_post, metrics

    @torch.no_grad()
    def see_whole(
        self, batch: Batch, embed: Tensor, deter: Tensor, noise: FilterNoise
    ) -> tuple[State, State]:
        """The target's posterior and prior, [B, T, …] each.

        Args:
            batch: ``action`` [B, T, A] and ``is_first`` [B, T].
            embed: the target's embeddings of whole images, [B, T, E].
            deter: the online recurrent states, [B, T, D].
            noise: of the update.
        """
        rssm, keep = self.target.rssm, (~batch["is_first"].bool()).to(deter.dtype)[..., None]
        with torch.autocast(deter.device.type, enabled=False):
            weights = rssm.scan_weights()
            embed_proj = rssm.project_embed(weights, embed.float())
            post = rssm.posterior_of(weights, deter, embed_proj, noise.true_latent)
            first = rssm.initial(len(deter))
            stoch, deter = (
                torch.cat([first[name][:, None], post[name][:, :-1]], 1).flatten(2)
                for name in ("stoch", "deter")
            )
            stoch, deter = rssm.reset(weights, stoch, deter, keep)
            action_proj = rssm.project_action(weights, batch["action"] * keep)
            deter = rssm.recur(weights, stoch, action_proj, deter)
            return post, rssm.prior_of(deter, noise.true_prior)

    def direction(self, state: State) -> Tensor:
        """The projection of states [N, …], of length 1: what is reconstructed of them, [N, P]."""
        return F.normalize(self.projection(self.rssm.get_feat(state)).float(), dim=-1)


class ActorCritic(ImaginedBehavior):
    """HRSSM's behaviour: the actor learns through the imagined states that it leads to."""

    def terms(
        self,
        model: WorldModel,
        start: State,
        noise: ImagineNoise,
        discount: float,
        scales: LossScales,
    ) -> tuple[Terms, Metrics]:
        """The losses of ``actor`` and ``value``, means over H and N, and metrics.

        ::

            states     z0 ──a0──▶ z1 ──a1──▶ z2 ──a2──▶ z3
            returns    R0         R1         R2         (v3)
            weights    1          d0         d0·d1

        actor: −w_t·((R_t − v_t) / S + actor_entropy·entropy), S the `ReturnScale`, whose gradient
        goes through R and v to the actions that led there; value: w_t times the cross-entropies
        with R_t and with what the slow critic says.

        Args:
            model: what imagines.
            start: states [N, …].
            noise: of the rollout.
            discount: γ.
            scales: 0-d tensors.
        """
        with frozen([*model.parameters(), *self.value.parameters()]):
            feat, _ = self.follow(model.rssm, start, noise)  # [H+1, N, F]
            reward = model.reward(feat[1:]).mode()
            discounts = discount * model.discount(feat).mean
            value = self.value(feat).mode()
        returns = lambda_returns(reward, discounts[1:], value[1:], self.config.discount_lambda)
        weight = torch.cat([torch.ones_like(discounts[:1]), discounts[:-2]]).detach().cumprod(0)
        advantage = (returns - value[:-1]) / self.scale.update(returns.detach())
        seen, target = feat[:-1].detach(), returns.detach()
        entropy = self.actor(seen).entropy()
        with torch.no_grad():
            slow = self.slow_value(seen).mode()
        terms = {
            "actor": -(weight * (advantage + scales["actor_entropy"] * entropy)).mean(),
            "value": (weight * critic_error(self.value(seen), target, slow)).mean(),
        }
        return terms, {
            "reward_mean": reward.detach().mean(),
            "reward_std": reward.detach().std(),
            "actor_ent": entropy.detach().mean(),
            "target_mean": target.mean(),
            "return_low": self.scale.low.clone(),
            "return_high": self.scale.high.clone(),
            "advantage_std": advantage.detach().std(),
        }
