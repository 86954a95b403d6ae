"""The recurrent state-space model: what happened so far, and what may happen next.

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, cast

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


class FirstWeights(NamedTuple):
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
    """A gated recurrent unit, optionally with LayerNorm over its three gates.

    It resets the candidate inside the tanh, tanh(reset · candidate), and subtracts 1 before the
    update gate's sigmoid, so that memory is kept at first (Hafner et al. 2021, arXiv 2010.02193).
    """

    def __init__(self, inputs: int, size: int, norm: bool = False, update_bias: float = -1.0):
        super().__init__()
        self.layer = nn.Linear(inputs + size, 3 * size)
        self.norm = nn.LayerNorm(3 * size) if norm else nn.Identity()
        self.update_bias = update_bias

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        gates = self.norm(self.layer(torch.cat([x, state], -1)).float())
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update + self.update_bias)
        return torch.lerp(state, candidate, update)


class RSSM(nn.Module):
    """Recurrent state-space model (Hafner et al. 2019, arXiv 1811.04551).

    A state is a dict: ``deter`` [N, D], ``stoch`` [N, S] (or [N, S, K] with K classes), and the
    statistics that stoch was drawn from: ``mean`` and ``std``, or ``logit``. With an
    ``action_size`` of 0, or fed only zero actions, it is an action-free predictor.

    Args:
        embed_size: E.
        action_size: A.
        config: sizes and kinds.
    """

    def __init__(self, embed_size: int, action_size: int, config: RSSMConfig):
        super().__init__()
        c, act = config, activation(config.act)
        self.config, self.action_size = config, action_size
        self.stoch, self.deter, self.discrete = c.stoch, c.deter, c.discrete
        self.flat_stoch = c.stoch * c.discrete if c.discrete else c.stoch
        self.feat_size = self.flat_stoch + c.deter
        stats = self.flat_stoch if c.discrete else 2 * c.stoch
        self.inputs = mlp(self.flat_stoch + action_size, c.input_layers, c.hidden, act)
        self.cell = GRUCell(c.hidden, c.deter, norm=c.cell == "gru_layer_norm")
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
            is_first: bool [B, T]; where True, the state is zeroed first, and the action unless the
                configuration keeps it.
            state: the state before row 0; zeros by default.
            sample: draw the posterior, or take its mode.
            noise: what to draw it with, as `draw_noise` makes it; drawn here by default.

        Returns:
            Posterior and prior, each with leading dimensions [B, T]. The prior's ``stoch`` is its
            mode: nothing during filtering needs a sample of it.
        """
        # In float32 whatever autocast says: the gradients of T steps add up in the weights' dtype,
        # and bfloat16 would round each sum. It is a small part of an update.
        with torch.autocast(embed.device.type, enabled=False):
            return self._observe(embed.float(), action, is_first, state, sample, noise)

    def _observe(
        self,
        embed: Tensor,
        action: Tensor | None,
        is_first: Tensor,
        state: State | None,
        sample: bool,
        noise: Tensor | None,
    ) -> tuple[State, State]:
        batch, length = embed.shape[:2]
        keep = (~is_first.bool()).to(embed.dtype)[..., None]  # [B, T, 1]
        if action is None:
            action = embed.new_zeros(batch, length, self.action_size)
        elif not self.config.keep_first_action:
            action = action * keep
        state = self.initial(batch) if state is None else state
        stoch, deter = state["stoch"].flatten(1), state["deter"]
        # What does not depend on the recurrent state is computed for all steps at once.
        first = self.first_weights()
        action_proj = F.linear(action, first.action, _first(self.inputs).bias)  # [B, T, hidden]
        embed_proj = F.linear(embed, first.embed, _first(self.posterior).bias)
        noise = self.draw_noise(batch, length) if noise is None and sample else noise
        scanned = [x.transpose(0, 1).contiguous() for x in (action_proj, embed_proj, keep)]
        drawn = noise.transpose(0, 1).contiguous() if noise is not None and sample else None
        posts: list[State] = []
        for t in range(0, length, STRIDE):
            now = slice(t, t + STRIDE)
            a, e, k = (x[now] for x in scanned)  # [s, B, …] each
            eps = None if drawn is None else drawn[now]
            posts += self.filter_steps(first, stoch, deter, a, e, k, eps)
            stoch, deter = posts[-1]["stoch"].flatten(1), posts[-1]["deter"]
        post = {k: torch.stack([p[k] for p in posts], 1) for k in posts[0]}  # [B, T, …]
        return post, self.prior_of(post["deter"], None)

    def filter_steps(
        self,
        first: FirstWeights,
        stoch: Tensor,
        deter: Tensor,
        action_proj: Tensor,
        embed_proj: Tensor,
        keep: Tensor,
        noise: Tensor | None,
    ) -> list[State]:
        """The posteriors of some steps in a row: :meth:`filter_step`, all but the state [s, …]."""
        posts = []
        for t in range(len(action_proj)):
            drawn = None if noise is None else noise[t]
            post = self.filter_step(
                first, stoch, deter, action_proj[t], embed_proj[t], keep[t], drawn
            )
            stoch, deter = post["stoch"].flatten(1), post["deter"]
            posts.append(post)
        return posts

    def filter_step(
        self,
        first: FirstWeights,
        stoch: Tensor,
        deter: Tensor,
        action_proj: Tensor,
        embed_proj: Tensor,
        keep: Tensor,
        noise: Tensor | None,
    ) -> State:
        """The posterior [B, …] of one step, from what the scan has prepared for it.

        Args:
            first: the first layers' weights.
            stoch: [B, S] (flat) and ``deter`` [B, D], the state before.
            action_proj: [B, hidden], the action's share of the input layer.
            embed_proj: [B, hidden], the embedding's share of the posterior's.
            keep: [B, 1], 0 where an episode begins.
            noise: [B, S, …], or None for the mode.
        """
        deter = self._recur(first, stoch * keep, action_proj, deter * keep)
        if first.deter is not None:
            embed_proj = embed_proj + F.linear(deter, first.deter)
        else:
            embed_proj = embed_proj.clone()  # the activation overwrites its input
        stats = self._stats(self.posterior_stats(self.posterior[1:](embed_proj)))
        return {"stoch": self._draw(stats, noise), **stats, "deter": deter}

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
        state = {k: v for k, v in prev.items() if k in ("stoch", "deter")}
        action = action * (~is_first.bool())[..., None]  # who acts has taken none yet
        embed, action, is_first = (x[:, None] for x in (embed, action, is_first))
        noise = None if noise is None else noise[:, None]
        post, _ = self.observe(embed, action, is_first, state, sample, noise)
        return {k: v[:, 0] for k, v in post.items()}

    def img_step(
        self,
        prev: State,
        action: Tensor,
        sample: bool = True,
        noise: Tensor | None = None,
        first: FirstWeights | None = None,
    ) -> State:
        """One step of imagination: the prior [N, …] after ``action`` [N, A].

        A scan draws ``noise`` [N, S, …] and parts the weights once for all its steps.
        """
        first = self.first_weights() if first is None else first
        action_proj = F.linear(action, first.action, _first(self.inputs).bias)
        deter = self._recur(first, prev["stoch"].flatten(1), action_proj, prev["deter"])
        if sample and noise is None:
            noise = self.draw_noise(len(deter))
        return self.prior_of(deter, noise if sample else None)

    def imagine(self, action: Tensor, state: State, sample: bool = True) -> State:
        """Imagines under given actions [B, T, A] from ``state`` [B, …] on: priors [B, T, …]."""
        states, first = [], self.first_weights()
        for t in range(action.shape[1]):
            state = self.img_step(state, action[:, t], sample, first=first)
            states.append(state)
        return {k: torch.stack([s[k] for s in states], 1) for k in state}

    def get_feat(self, state: State) -> Tensor:
        """concat(stoch, deter): [N, F]."""
        stoch = state["stoch"].flatten(-2) if self.discrete else state["stoch"]
        return torch.cat([stoch, state["deter"]], -1)

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

    def first_weights(self) -> FirstWeights:
        """The first layers' weights as a scan uses them."""
        weight, posterior = _first(self.inputs).weight, _first(self.posterior).weight
        dtype, seen = autocast_dtype(weight), posterior.to(autocast_dtype(posterior))
        stoch, action = weight.to(dtype).split([self.flat_stoch, self.action_size], 1)
        if not self.config.temp_post:
            return FirstWeights(stoch, action, None, seen)
        deter, embed = seen.split([self.deter, seen.shape[1] - self.deter], 1)
        return FirstWeights(stoch, action, deter, embed)

    def _recur(
        self, first: FirstWeights, stoch: Tensor, action_proj: Tensor, deter: Tensor
    ) -> Tensor:
        x = action_proj + F.linear(stoch, first.stoch)
        return self.cell(self.inputs[1:](x), deter)

    def prior_of(self, deter: Tensor, noise: Tensor | None) -> State:
        """The prior [N, …] that a recurrent state predicts; its mode where noise is None."""
        stats = self._stats(self.prior_stats(self.prior(deter)))
        return {"stoch": self._draw(stats, noise), "deter": deter, **stats}

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
