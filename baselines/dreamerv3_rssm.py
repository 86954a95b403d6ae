"""DreamerV3's recurrent state-space model, whose cell is in blocks (arXiv 2301.04104).

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature, G blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

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
from rssm import State, StateSpaceModel


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


class CategoricalModel(StateSpaceModel):
    """A state-space model of categorical latents, each with a uniform share; DreamerV3's kind.

    A state is a dict: ``deter`` [N, D], ``stoch`` [N, S, K], one-hot, and ``logit`` [N, S, K], the
    logarithms of the probabilities that it was drawn with, the uniform share among them.

    Attributes:
        prior: deter → hidden; ``prior_logits`` behind it.
        posterior: deter and embedding → hidden; ``posterior_logits`` behind it.
    """

    config: NetworkConfig
    prior: nn.Sequential
    prior_logits: nn.Linear
    posterior: nn.Sequential
    posterior_logits: nn.Linear

    def initial(self, batch: int) -> State:
        """The state before the first step: all zeros, ``batch`` of them."""
        c, weight = self.config, self.prior_logits.weight
        classes = weight.new_zeros(batch, c.stoch, c.classes)
        return {"stoch": classes, "logit": classes, "deter": weight.new_zeros(batch, c.deter)}

    def project_embed(self, weights: Any, embed: Tensor) -> Tensor:
        return F.linear(embed, weights.embed, self._first().bias)

    def posterior_of(
        self, weights: Any, deter: Tensor, embed_proj: Tensor, noise: Tensor | None
    ) -> State:
        hidden = self.posterior[1:](embed_proj + F.linear(deter, weights.deter))
        logit = self._mixed(self.posterior_logits(hidden))
        return {"stoch": self.draw(logit, noise), "logit": logit, "deter": deter}

    def prior_of(self, deter: Tensor, noise: Tensor | None) -> State:
        logit = self._mixed(self.prior_logits(self.prior(deter)))
        return {"stoch": self.draw(logit, noise), "deter": deter, "logit": logit}

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
    def draw(logit: Tensor, noise: Tensor | None) -> Tensor:
        """stoch [N, S, K] of the logarithms of probabilities; the mode where noise is None."""
        dist = OneHot(logit, event_dims=1)
        return dist.mode() if noise is None else dist.rsample(noise)


class RSSM(CategoricalModel):
    """DreamerV3's recurrent state-space model.

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
