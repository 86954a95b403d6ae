"""APV's world model: an action-free RSSM below, an action-conditioned one above.

The RSSM below sees the image's embedding, as a video predictor's does; the one above sees the
feature of the one below, and actions. Image, reward, actor and critic see the one above alone, and
imagination rolls out that one alone (Seo et al. 2022, arXiv 2203.13880, section 4.2).

Symbols in shape comments: B batch, T time, N environments, A action, E embedding, F feature.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.base import State
from agents.policy import RecurrentPolicy
from behavior import ActorCritic
from models import Batch, FilterNoise, LossScales, Outputs, WorldModel, WorldModelConfig
from networks import Encoding
from rssm import RSSM

PLAIN_REWARD = "plain_reward"  # of a batch whose ``reward`` has a bonus in it: without that, [B, T]


@dataclasses.dataclass(frozen=True)
class StackedConfig(WorldModelConfig):
    """A stacked world model.

    Attributes:
        concat_embed: the RSSM above sees the embedding, too.
        lower_sample: the latents below are samples, not modes.
    """

    concat_embed: bool = False
    lower_sample: bool = False


class Lower(NamedTuple):
    """A batch as the action-free RSSM has it, [B, T, …] each."""

    post: State
    prior: State
    feat: Tensor  # [B, T, F]
    seen: Tensor  # what the RSSM above sees of it


class StackedWorldModel(WorldModel):
    """A world model of two RSSMs; both have the sizes of ``config.predictor.rssm``.

    Args:
        config: sizes and kinds.
        action_size: A.
    """

    def __init__(self, config: StackedConfig, action_size: int):
        super().__init__(config, action_size)
        self.lower_sample, self.concat_embed = config.lower_sample, config.concat_embed
        embed, sizes = self.encoder.embed_size, config.predictor.rssm
        self.af_rssm = RSSM(embed, 0, sizes)
        seen = self.af_rssm.feat_size + (embed if self.concat_embed else 0)
        self.rssm = RSSM(seen, action_size + config.action_gap, sizes)

    def lower(self, batch: Batch, encoding: Encoding, noise: Tensor | None) -> Lower:
        """A batch as the action-free RSSM has it; its modes without ``noise`` [B, T, S, …]."""
        post, prior = self.af_rssm.observe(
            encoding.embed, None, batch["is_first"], sample=noise is not None, noise=noise
        )
        feat = self.af_rssm.get_feat(post)
        return Lower(post, prior, feat, self.see(encoding.embed, feat))

    def see(self, embed: Tensor, feat: Tensor) -> Tensor:
        """What the RSSM above sees, of embedding [N, E] and feature [N, F] below."""
        return torch.cat([embed, feat], -1) if self.concat_embed else feat

    def upper(self, batch: Batch, lower: Lower, noise: Tensor | None) -> tuple[State, State]:
        """Posterior (its mode without ``noise``) and prior of the RSSM above."""
        return super().observe(batch, Encoding(lower.seen), noise)

    def observe(
        self, batch: Batch, encoding: Encoding, noise: Tensor | None = None
    ) -> tuple[State, State]:
        """As of every predictor; where the one below is sampled, its noise is drawn here."""
        drawn = None
        if noise is not None and self.lower_sample:
            drawn = self.af_rssm.draw_noise(*batch["is_first"].shape)
        return self.upper(batch, self.lower(batch, encoding, drawn), noise)

    def draw_noise(self, *lead: int) -> FilterNoise:
        noise = super().draw_noise(*lead)
        return noise._replace(lower=self.af_rssm.draw_noise(*lead)) if self.lower_sample else noise

    def terms(self, batch: Batch, scales: LossScales, noise: FilterNoise) -> Outputs:
        """The world model's terms, and ``af_kl`` of the RSSM below; see :meth:`terms_above`."""
        lower = self.lower(batch, self.encode(batch["image"]), noise.lower)
        return self.terms_above(batch, scales, lower, noise)

    def terms_above(
        self, batch: Batch, scales: LossScales, lower: Lower, noise: FilterNoise
    ) -> Outputs:
        """The terms of a batch whose lower half is there already.

        Args:
            batch: as for every world model; ``reward`` may have fewer rows, [B, T' ≤ T], and its
                term is then over the first T'.
            scales: 0-d tensors.
            lower: what :meth:`lower` gave.
            noise: what :meth:`draw_noise` gave.
        """
        states = self.upper(batch, lower, noise.latent)
        outputs, feat = self._terms(batch, scales, Encoding(lower.seen), states, noise)
        balance, free = scales["kl_balance"], scales["kl_free"]
        outputs.terms["af_kl"], value = self.kl_term(lower.post, lower.prior, balance, free)
        outputs.metrics["af_kl"] = value.mean()
        outputs.terms.update(self._head_terms(feat, batch))
        return outputs


class StackedPolicy(RecurrentPolicy):
    """A recurrent policy that carries the state of the RSSM below beside the other's."""

    carried = (*RecurrentPolicy.carried, "af_stoch", "af_deter")

    def parts(self, world_model: Any, behavior: ActorCritic) -> tuple[nn.Module, ...]:
        self._see, self._sampled = world_model.see, world_model.lower_sample
        return (*super().parts(world_model, behavior), world_model.af_rssm)

    def initial(self, batch: int) -> State:
        lower = self._live[3].initial(batch)
        below = {f"af_{name}": lower[name] for name in ("stoch", "deter")}
        return {**super().initial(batch), **below}

    def draw_noise(self, n: int, mode: str) -> State:
        noise = super().draw_noise(n, mode)
        if self._sampled and "latent_noise" in noise:
            noise["lower_noise"] = self._live[3].draw_noise(n)
        return noise

    def see(self, parts: Any, inputs: State) -> tuple[Tensor, State]:
        """The feature below, after one step of the RSSM there, and its state."""
        embed, _ = super().see(parts, inputs)
        rssm, noise = parts[3], inputs.get("lower_noise")
        post = rssm.obs_step(
            {name: inputs[f"af_{name}"] for name in ("stoch", "deter")},
            embed.new_zeros(len(embed), 0),
            embed,
            inputs["is_first"],
            sample=noise is not None,
            noise=noise,
        )
        below = {f"af_{name}": post[name] for name in ("stoch", "deter")}
        return self._see(embed, rssm.get_feat(post)), below
