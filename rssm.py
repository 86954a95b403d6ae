"""The recurrent state-space model: what happened so far, and what may happen next.

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distributions import Normal, OneHot, kl_normal, kl_onehot
from networks import activation, autocast_dtype, mlp

State = dict[str, Tensor]

STRIDE = 5  # steps of a scan that are compiled as one


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
    """Sizes and kinds of an RSSM.

    Attributes:
        stoch: S.
        deter: D.
        hidden: units of the hidden layers.
        discrete: K, classes of each stochastic variable; 0 for Gaussian ones.
        cell: ``gru`` or ``gru_layer_norm``.
        input_layers: hidden layers before the cell; ``output_layers`` behind it.
        act: activation, a class of torch.nn.
        temp_post: whether the posterior sees deter, or the embedding alone.
        mean_act: ``none`` or ``tanh5``, a bound on the Gaussian's mean.
        std_act: ``softplus``, ``abs``, ``sigmoid`` or ``sigmoid2`` (2·sigmoid(x/2)).
        min_std: added to the standard deviation.
        keep_first_action: while filtering, the action that led to a sequence's first row is fed;
            otherwise it is zeroed with the state.
    """

    stoch: int = 50
    deter: int = 200
    hidden: int = 200
    discrete: int = 0
    cell: str = "gru_layer_norm"
    input_layers: int = 1
    output_layers: int = 1
    act: str = "ELU"
    temp_post: bool = True
    mean_act: str = "none"
    std_act: str = "sigmoid2"
    min_std: float = 0.1
    keep_first_action: bool = False


class ScanWeights(NamedTuple):
    """The first layers' weights, parted by what they multiply, in the dtype that they run in.

    Parted and cast once for all steps of a scan, not in each of them.
    """

    stoch: Tensor  # [hidden, S]
    action: Tensor  # [hidden, A]
    deter: Tensor | None  # [hidden, D]; None where the posterior sees the embedding alone
    embed: Tensor  # [hidden, E]


def _first(layers: nn.Sequential) -> nn.Linear:
    return cast(nn.Linear, layers[0])


class GRUCell(nn.Module):
    """A gated recurrent unit, with LayerNorm over its three gates if that has an epsilon.

    It resets the candidate inside the tanh, tanh(reset · candidate), and subtracts 1 before the
    update gate's sigmoid, so that memory is kept at first (Hafner et al. 2021, arXiv 2010.02193).
    """

    def __init__(self, inputs: int, size: int, norm_eps: float = 0.0, bias: bool = True):
        super().__init__()
        self.layer = nn.Linear(inputs + size, 3 * size, bias=bias)
        self.norm = nn.LayerNorm(3 * size, eps=norm_eps) if norm_eps else nn.Identity()

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        gates = self.norm(self.layer(torch.cat([x, state], -1)).float())
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return torch.lerp(state, candidate, update)


class StateSpaceModel(nn.Module, ABC):
    """What recurrent state-space models have in common: scans over time, in imagination or not.

    A state is a dict: ``deter`` [N, D], ``stoch`` [N, S] (or [N, S, K] with K classes), and the
    statistics that stoch was drawn from. A subclass says what a step computes. What does not depend
    on the recurrent state is computed for all steps at once; weights are parted and cast once.

    Attributes:
        action_size: A.
        keep_first_action: while filtering, the action that led to a sequence's first row is fed;
            otherwise it is zeroed with the state.
    """

    action_size: int
    keep_first_action = False

    @abstractmethod
    def initial(self, batch: int) -> State:
        """The state before the first step, ``batch`` of them."""

    @abstractmethod
    def scan_weights(self) -> Any:
        """The weights as a scan uses them, in the dtype that they run in."""

    @abstractmethod
    def project_action(self, weights: Any, action: Tensor) -> Tensor:
        """What the cell sees of actions [N, A]."""

    @abstractmethod
    def project_embed(self, weights: Any, embed: Tensor) -> Tensor:
        """What the posterior sees of embeddings [N, E]: [N, hidden]."""

    @abstractmethod
    def recur(self, weights: Any, stoch: Tensor, action_proj: Tensor, deter: Tensor) -> Tensor:
        """The next deter [N, D], from flat stoch, the actions' part and deter [N, D]."""

    @abstractmethod
    def posterior_of(
        self, weights: Any, deter: Tensor, embed_proj: Tensor, noise: Tensor | None
    ) -> State:
        """The posterior [N, …] of a recurrent state and an embedding; its mode without noise."""

    @abstractmethod
    def prior_of(self, deter: Tensor, noise: Tensor | None) -> State:
        """The prior [N, …] that a recurrent state predicts; its mode where noise is None."""

    @abstractmethod
    def draw_noise(self, *lead: int) -> Tensor:
        """What samples [*lead, …] are drawn with."""

    def reset(
        self, weights: Any, stoch: Tensor, deter: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flat stoch and deter [N, …], as `initial` has them where ``keep`` [N, 1] is 0."""
        return stoch * keep, deter * keep

    def observe(
        self,
        embed: Tensor,
        action: Tensor | None,
        is_first: Tensor,
        state: State | None = None,
        sample: bool = True,
        noise: Tensor | None = None,
    ) -> tuple[State, State]:
        """Filters a sequence.

        Args:
            embed: [B, T, E].
            action: [B, T, A], row t led to embedding t; None for no action at all.
            is_first: bool [B, T]; where True, the state is reset first, and the action zeroed
                unless the configuration keeps it.
            state: the state before row 0; the initial one by default.
            sample: draw the posterior, or take its mode.
            noise: what to draw it with, as `draw_noise` makes it; drawn here by default.

        Returns:
            Posterior and prior, each with leading dimensions [B, T]. The prior's ``stoch`` is its
            mode: nothing during filtering needs a sample of it.
        """
        # In float32 whatever autocast says: the gradients of T steps add up in the weights' dtype,
        # and bfloat16 would round each sum. It is a small part of an update.
        with torch.autocast(embed.device.type, enabled=False):
            embed, (batch, length) = embed.float(), embed.shape[:2]
            keep = (~is_first.bool()).to(embed.dtype)[..., None]  # [B, T, 1]
            if action is None:
                action = embed.new_zeros(batch, length, self.action_size)
            elif not self.keep_first_action:
                action = action * keep
            state = self.initial(batch) if state is None else state
            stoch, deter = state["stoch"].flatten(1), state["deter"]
            weights = self.scan_weights()
            action_proj = self.project_action(weights, action)  # [B, T, …]
            embed_proj = self.project_embed(weights, embed)  # [B, T, hidden]
            noise = self.draw_noise(batch, length) if noise is None and sample else noise
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
        weights: Any,
        stoch: Tensor,
        deter: Tensor,
        action_proj: Tensor,
        embed_proj: Tensor,
        keep: Tensor,
        noise: Tensor | None,
    ) -> list[State]:
        """The posteriors of some steps in a row, [B, …] each.

        Args:
            weights: as `scan_weights` makes them.
            stoch: flat, and ``deter``, the state before, [B, …].
            action_proj: [s, B, …], what the cell sees of the actions.
            embed_proj: [s, B, hidden], what the posterior sees of the embeddings.
            keep: [s, B, 1], 0 where an episode begins.
            noise: [s, B, S, …], or None for modes.
        """
        posts = []
        for t in range(len(action_proj)):
            stoch, deter = self.reset(weights, stoch, deter, keep[t])
            deter = self.recur(weights, stoch, action_proj[t], deter)
            drawn = None if noise is None else noise[t]
            posts.append(self.posterior_of(weights, deter, embed_proj[t], drawn))
            stoch = posts[-1]["stoch"].flatten(1)
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
        """One filtering step: [B, …] in, the posterior [B, …] out; ``noise`` [B, S, …]."""
        action = action * (~is_first.bool())[..., None]  # who acts has taken none yet
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
        weights: Any = None,
    ) -> State:
        """One step of imagination: the prior [N, …] after ``action`` [N, A].

        A scan draws ``noise`` [N, S, …] and parts the weights once for all its steps.
        """
        weights = self.scan_weights() if weights is None else weights
        action_proj = self.project_action(weights, action)
        deter = self.recur(weights, prev["stoch"].flatten(1), action_proj, prev["deter"])
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

    def get_feat(self, state: State) -> Tensor:
        """concat(stoch, deter): [N, F]."""
        return torch.cat([state["stoch"].flatten(state["deter"].ndim - 1), state["deter"]], -1)


class RSSM(StateSpaceModel):
    """Recurrent state-space model (Hafner et al. 2019, arXiv 1811.04551).

    Its states hold ``mean`` and ``std``, or ``logit``. With an ``action_size`` of 0, or fed only
    zero actions, it is an action-free predictor.

    Args:
        embed_size: E.
        action_size: A.
        config: sizes and kinds.
    """

    def __init__(self, embed_size: int, action_size: int, config: RSSMConfig):
        super().__init__()
        c, act = config, activation(config.act)
        self.config, self.action_size = config, action_size
        self.keep_first_action = c.keep_first_action
        self.stoch, self.deter, self.discrete = c.stoch, c.deter, c.discrete
        self.flat_stoch = c.stoch * c.discrete if c.discrete else c.stoch
        self.feat_size = self.flat_stoch + c.deter
        stats = self.flat_stoch if c.discrete else 2 * c.stoch
        self.inputs = mlp(self.flat_stoch + action_size, c.input_layers, c.hidden, act)
        self.cell = GRUCell(c.hidden, c.deter, 1e-5 if c.cell == "gru_layer_norm" else 0.0)
        self.prior = mlp(c.deter, c.output_layers, c.hidden, act)
        self.prior_stats = nn.Linear(c.hidden, stats)
        seen = embed_size + (c.deter if c.temp_post else 0)
        self.posterior = mlp(seen, c.output_layers, c.hidden, act)
        self.posterior_stats = nn.Linear(c.hidden, stats)

    def initial(self, batch: int) -> State:
        """The state before the first step: all zeros, ``batch`` of them."""
        weight = self.prior_stats.weight
        shape = (self.stoch, self.discrete) if self.discrete else (self.stoch,)
        names = ("stoch", "logit") if self.discrete else ("stoch", "mean", "std")
        state = {name: weight.new_zeros((batch, *shape)) for name in names}
        return {**state, "deter": weight.new_zeros((batch, self.deter))}

    def scan_weights(self) -> ScanWeights:
        """The first layers' weights as a scan uses them."""
        weight, posterior = _first(self.inputs).weight, _first(self.posterior).weight
        dtype, seen = autocast_dtype(weight), posterior.to(autocast_dtype(posterior))
        stoch, action = weight.to(dtype).split([self.flat_stoch, self.action_size], 1)
        if not self.config.temp_post:
            return ScanWeights(stoch, action, None, seen)
        deter, embed = seen.split([self.deter, seen.shape[1] - self.deter], 1)
        return ScanWeights(stoch, action, deter, embed)

    def project_action(self, weights: ScanWeights, action: Tensor) -> Tensor:
        """The actions' share of the input layer, [N, hidden]."""
        return F.linear(action, weights.action, _first(self.inputs).bias)

    def project_embed(self, weights: ScanWeights, embed: Tensor) -> Tensor:
        return F.linear(embed, weights.embed, _first(self.posterior).bias)

    def recur(
        self, weights: ScanWeights, stoch: Tensor, action_proj: Tensor, deter: Tensor
    ) -> Tensor:
        x = action_proj + F.linear(stoch, weights.stoch)
        return self.cell(self.inputs[1:](x), deter)

    def posterior_of(
        self, weights: ScanWeights, deter: Tensor, embed_proj: Tensor, noise: Tensor | None
    ) -> State:
        if weights.deter is not None:
            embed_proj = embed_proj + F.linear(deter, weights.deter)
        else:
            embed_proj = embed_proj.clone()  # the activation overwrites its input
        stats = self._stats(self.posterior_stats(self.posterior[1:](embed_proj)))
        return {"stoch": self._draw(stats, noise), **stats, "deter": deter}

    def prior_of(self, deter: Tensor, noise: Tensor | None) -> State:
        stats = self._stats(self.prior_stats(self.prior(deter)))
        return {"stoch": self._draw(stats, noise), "deter": deter, **stats}

    def get_dist(self, state: State) -> Normal | OneHot:
        """The distribution that ``stoch`` was drawn from."""
        if self.discrete:
            return OneHot(state["logit"], event_dims=1)
        return Normal(state["mean"], state["std"])

    def kl(self, left: State, right: State) -> Tensor:
        """KL(left ‖ right) of the latents, in nats: [N]."""
        if self.discrete:
            return kl_onehot(left["logit"], right["logit"])
        return kl_normal(left["mean"], left["std"], right["mean"], right["std"])

    def _stats(self, x: Tensor) -> State:
        x = x.float()
        if self.discrete:
            return {"logit": x.unflatten(-1, (self.stoch, self.discrete))}
        mean, std = x.chunk(2, -1)
        if self.config.mean_act == "tanh5":
            mean = 5.0 * torch.tanh(mean / 5.0)
        std = {
            "softplus": F.softplus,
            "abs": lambda s: (s + 1).abs(),
            "sigmoid": torch.sigmoid,
            "sigmoid2": lambda s: 2 * torch.sigmoid(s / 2),
        }[self.config.std_act](std)
        return {"mean": mean, "std": std + self.config.min_std}

    def draw_noise(self, *lead: int) -> Tensor:
        """What samples [*lead, …] are drawn with: normal [*lead, S], or uniform [*lead, S, K]."""
        device = self.prior_stats.weight.device
        if self.discrete:
            return torch.rand((*lead, self.stoch, self.discrete), device=device)
        return torch.randn((*lead, self.stoch), device=device)

    def _draw(self, stats: State, noise: Tensor | None) -> Tensor:
        if self.discrete:
            dist = OneHot(stats["logit"], event_dims=1)
            return dist.mode() if noise is None else dist.rsample(noise)
        return stats["mean"] if noise is None else stats["mean"] + stats["std"] * noise
