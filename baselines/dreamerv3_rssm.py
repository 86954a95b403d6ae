"""DreamerV3's recurrent state-space model, whose cell is in blocks (arXiv 2301.04104).

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature, G blocks.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.dreamerv3_networks import (
    BlockLinear,
    NetworkConfig,
    RMSNorm,
    block_product,
    dense,
    linear,
    mixed,
    mlp,
)
from distributions import OneHot, kl_onehot
from networks import activation, autocast_dtype
from rssm import STRIDE, State


class ScanWeights(NamedTuple):
    """Weights parted by what they multiply, in the dtype that they run in: once for all steps.

    Attributes:
        own: of the cell's hidden layer, a block's own part of deter: [G, D/G, D/G].
        shared: what all blocks see of deter and stoch: [2·hidden, D].
        action: what they see of the action: [hidden, D].
        gates: [G, D/G, 3·D/G].
        deter: of the posterior's first layer: [hidden, D]; ``embed`` [hidden, E].
    """

    own: Tensor
    shared: Tensor
    action: Tensor
    gates: Tensor
    deter: Tensor
    embed: Tensor


class RSSM(nn.Module):
    """DreamerV3's recurrent state-space model.

    A state is a dict: ``deter`` [N, D], ``stoch`` [N, S, K], one-hot, and ``logit`` [N, S, K], the
    logarithms of the probabilities that it was drawn with, the uniform share among them.

    Args:
        embed_size: E.
        action_size: A.
        config: sizes.
    """

    def __init__(self, embed_size: int, action_size: int, config: NetworkConfig):
        super().__init__()
        c = config
        self.config, self.action_size, self.feat_size = c, action_size, c.feat_size
        self.deter_in = dense(c.deter, c.hidden, c.act)
        self.stoch_in = dense(c.flat_stoch, c.hidden, c.act)
        self.action_in = dense(action_size, c.hidden, c.act)
        # A block sees its own part of deter, and all of what was made of deter, stoch and action.
        self.cell_hidden = BlockLinear(c.deter + 3 * c.blocks * c.hidden, c.deter, c.blocks)
        self.cell_norm = RMSNorm(c.deter)
        self.cell_gates = BlockLinear(c.deter, 3 * c.deter, c.blocks)
        self.prior = mlp(c.deter, 2, c.hidden, c.act)
        self.prior_logits = linear(c.hidden, c.flat_stoch)
        self.posterior = dense(c.deter + embed_size, c.hidden, c.act)
        self.posterior_logits = linear(c.hidden, c.flat_stoch)
        self.act = activation(c.act)()

    def initial(self, batch: int) -> State:
        """The state before the first step: all zeros, ``batch`` of them."""
        c, weight = self.config, self.prior_logits.weight
        classes = weight.new_zeros(batch, c.stoch, c.classes)
        return {"stoch": classes, "logit": classes, "deter": weight.new_zeros(batch, c.deter)}

    def observe(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        sample: bool = True,
        noise: Tensor | None = None,
    ) -> tuple[State, State]:
        """Filters a sequence; arguments and results as of `rssm.RSSM.observe`."""
        # In float32 whatever autocast says: the gradients of T steps add up in the weights' dtype,
        # and bfloat16 would round each sum.
        with torch.autocast(embed.device.type, enabled=False):
            return self._observe(embed.float(), action, is_first, state, sample, noise)

    def _observe(
        self,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        state: State | None,
        sample: bool,
        noise: Tensor | None,
    ) -> tuple[State, State]:
        batch, length = embed.shape[:2]
        keep = (~is_first.bool()).to(embed.dtype)[..., None]  # [B, T, 1]
        state = self.initial(batch) if state is None else state
        stoch, deter = state["stoch"].flatten(1), state["deter"]
        noise = self.draw_noise(batch, length) if noise is None and sample else noise
        # What does not depend on the recurrent state is computed for all steps at once.
        weights = self.scan_weights()
        action_proj = self.project_action(weights, action * keep)  # [B, T, D]
        embed_proj = F.linear(embed, weights.embed, self._first().bias)  # [B, T, hidden]
        scanned = [x.transpose(0, 1).contiguous() for x in (action_proj, embed_proj, keep)]
        drawn = noise.transpose(0, 1).contiguous() if noise is not None and sample else None
        posts: list[State] = []
        for t in range(0, length, STRIDE):
            now = slice(t, t + STRIDE)
            a, e, k = (x[now] for x in scanned)  # [s, B, …] each
            eps = None if drawn is None else drawn[now]
            posts += self.filter_steps(weights, stoch, deter, a, e, k, eps)
            stoch, deter = posts[-1]["stoch"].flatten(1), posts[-1]["deter"]
        post = {k: torch.stack([p[k] for p in posts], 1) for k in posts[0]}  # [B, T, …]
        return post, self.prior_of(post["deter"], None)

    def filter_steps(
        self,
        weights: ScanWeights,
        stoch: Tensor,
        deter: Tensor,
        action_proj: Tensor,
        embed_proj: Tensor,
        keep: Tensor,
        noise: Tensor | None,
    ) -> list[State]:
        """The posteriors of some steps in a row.

        Args:
            weights: as `scan_weights` makes them.
            stoch: [B, S·K] and ``deter`` [B, D], the state before.
            action_proj: [s, B, D], what the cell sees of the actions.
            embed_proj: [s, B, hidden], what the posterior sees of the embeddings.
            keep: [s, B, 1], 0 where an episode begins.
            noise: [s, B, S, K], or None for modes.
        """
        posts = []
        for t in range(len(action_proj)):
            deter = self.recur(weights, stoch * keep[t], action_proj[t], deter * keep[t])
            hidden = self.posterior[1:](embed_proj[t] + F.linear(deter, weights.deter))
            logit = self._mixed(self.posterior_logits(hidden))
            drawn = self._draw(logit, None if noise is None else noise[t])
            posts.append({"stoch": drawn, "logit": logit, "deter": deter})
            stoch = drawn.flatten(1)
        return posts

    def obs_step(
        self,
        prev: State,
        action: Tensor,
        embed: Tensor,
        is_first: Tensor,
        sample: bool = True,
        noise: Tensor | None = None,
    ) -> State:
        """One filtering step: [B, …] in, the posterior [B, …] out; ``noise`` [B, S, K]."""
        embed, action, is_first = (x[:, None] for x in (embed, action, is_first))
        noise = None if noise is None else noise[:, None]
        post, _ = self.observe(embed, action, is_first, prev, sample, noise)
        return {k: v[:, 0] for k, v in post.items()}

    def img_step(
        self,
        prev: State,
        action: Tensor,
        sample: bool = True,
        noise: Tensor | None = None,
        weights: ScanWeights | None = None,
    ) -> State:
        """One step of imagination: the prior [N, …] after ``action`` [N, A].

        A scan draws ``noise`` [N, S, K] and parts the weights once for all its steps.
        """
        weights = self.scan_weights() if weights is None else weights
        projected = self.project_action(weights, action)
        deter = self.recur(weights, prev["stoch"].flatten(1), projected, prev["deter"])
        if sample and noise is None:
            noise = self.draw_noise(len(deter))
        return self.prior_of(deter, noise if sample else None)

    def imagine(self, action: Tensor, state: State, sample: bool = True) -> State:
        """Imagines under given actions [B, T, A] from ``state`` [B, …] on: priors [B, T, …]."""
        states, weights = [], self.scan_weights()
        for t in range(action.shape[1]):
            state = self.img_step(state, action[:, t], sample, weights=weights)
            states.append(state)
        return {k: torch.stack([s[k] for s in states], 1) for k in state}

    def scan_weights(self) -> ScanWeights:
        """The weights as a scan uses them."""
        c, dtype = self.config, autocast_dtype(self.prior_logits.weight)
        hidden, gates = self.cell_hidden.weight.to(dtype), self.cell_gates.weight.to(dtype)
        own, seen = hidden.split([c.deter // c.blocks, 3 * c.hidden], 1)
        seen = seen.transpose(0, 1).flatten(1)  # [3·hidden, D]: one product for all blocks
        shared, action = seen.split([2 * c.hidden, c.hidden])
        first = self._first().weight.to(dtype)
        deter, embed = first.split([c.deter, first.shape[1] - c.deter], 1)
        return ScanWeights(own, shared, action, gates, deter, embed)

    def project_action(self, weights: ScanWeights, action: Tensor) -> Tensor:
        """What the cell sees of actions [N, A], which are no larger than 1: [N, D]."""
        small = action / action.detach().abs().clamp(min=1)
        seen = self.action_in(small).to(weights.action.dtype)
        return seen @ weights.action + self.cell_hidden.bias

    def recur(
        self, weights: ScanWeights, stoch: Tensor, action_proj: Tensor, deter: Tensor
    ) -> Tensor:
        """The next deter [N, D], from stoch [N, S·K], actions' part [N, D] and deter [N, D].

        In each block: reset r, candidate c, update u; tanh(σ(r)·c) takes the share σ(u − 1).
        """
        dtype = weights.own.dtype
        seen = torch.cat([self.deter_in(deter), self.stoch_in(stoch)], -1).to(dtype)
        hidden = block_product(deter.to(dtype), weights.own) + seen @ weights.shared + action_proj
        hidden = self.act(self.cell_norm(hidden)).to(dtype)
        gates = block_product(hidden, weights.gates) + self.cell_gates.bias
        reset, candidate, update = (
            gates.float().unflatten(-1, (self.config.blocks, 3, -1)).unbind(-2)
        )
        candidate = torch.tanh(torch.sigmoid(reset) * candidate).flatten(-2)
        return torch.lerp(deter, candidate, torch.sigmoid(update - 1).flatten(-2))

    def prior_of(self, deter: Tensor, noise: Tensor | None) -> State:
        """The prior [N, …] that a recurrent state predicts; its mode where noise is None."""
        logit = self._mixed(self.prior_logits(self.prior(deter)))
        return {"stoch": self._draw(logit, noise), "deter": deter, "logit": logit}

    def get_feat(self, state: State) -> Tensor:
        """concat(stoch, deter): [N, F]."""
        return torch.cat([state["stoch"].flatten(-2), state["deter"]], -1)

    def get_dist(self, state: State) -> OneHot:
        """The distribution that ``stoch`` was drawn from."""
        return OneHot(state["logit"], event_dims=1)

    def kl(self, left: State, right: State) -> Tensor:
        """KL(left ‖ right) of the latents, in nats: [N]."""
        return kl_onehot(left["logit"], right["logit"])

    def draw_noise(self, *lead: int) -> Tensor:
        """What samples [*lead, …] are drawn with: uniform [*lead, S, K]."""
        c, device = self.config, self.prior_logits.weight.device
        return torch.rand((*lead, c.stoch, c.classes), device=device)

    def _first(self) -> nn.Linear:
        """The posterior's first layer, which is applied in parts."""
        return cast(nn.Linear, self.posterior[0])

    def _mixed(self, logits: Tensor) -> Tensor:
        c = self.config
        return mixed(logits.unflatten(-1, (c.stoch, c.classes)), c.unimix)

    @staticmethod
    def _draw(logit: Tensor, noise: Tensor | None) -> Tensor:
        dist = OneHot(logit, event_dims=1)
        return dist.mode() if noise is None else dist.rsample(noise)
