"""The recurrent state-space model: what happened so far, and what may happen next.

Symbols in shape comments: B batch, T time, N any leading dimensions, A action, E embedding,
S stoch, K classes, D deter, F feature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distributions import Normal, OneHot, kl_normal, kl_onehot
from networks import mlp

State = dict[str, Tensor]


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
    statistics that stoch was drawn from: ``mean`` and ``std``, or ``logit``. With ``actions=0``,
    or fed only zero actions, it is an action-free predictor.

    Args:
        embed: size of the embedding.
        actions: size of the action input.
        discrete: classes of each categorical latent; 0 for Gaussian latents.
        cell: ``gru`` or ``gru_layer_norm``.
        temp_post: whether the posterior sees deter, or the embedding alone.
        mean_act: ``none`` or ``tanh5``.
        std_act: ``softplus``, ``abs``, ``sigmoid`` or ``sigmoid2`` (2·sigmoid(x/2)).
    """

    def __init__(
        self,
        embed: int,
        actions: int,
        stoch: int = 50,
        deter: int = 200,
        hidden: int = 200,
        discrete: int = 0,
        cell: str = "gru_layer_norm",
        input_layers: int = 1,
        output_layers: int = 1,
        act: type[nn.Module] = nn.ELU,
        temp_post: bool = True,
        mean_act: str = "none",
        std_act: str = "sigmoid2",
        min_std: float = 0.1,
    ):
        super().__init__()
        self.actions, self.stoch, self.deter, self.discrete = actions, stoch, deter, discrete
        self.temp_post, self.min_std = temp_post, min_std
        self.mean_act, self.std_act = mean_act, std_act
        self.flat_stoch = stoch * discrete if discrete else stoch
        self.feat_size = self.flat_stoch + deter
        stats = self.flat_stoch if discrete else 2 * stoch
        self.inputs = mlp(self.flat_stoch + actions, input_layers, hidden, act)
        self.cell = GRUCell(hidden, deter, norm=cell == "gru_layer_norm")
        self.prior = mlp(deter, output_layers, hidden, act)
        self.prior_stats = nn.Linear(hidden, stats)
        self.posterior = mlp(embed + (deter if temp_post else 0), output_layers, hidden, act)
        self.posterior_stats = nn.Linear(hidden, stats)

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
    ) -> tuple[State, State]:
        """Filters a sequence.

        Args:
            embed: [B, T, E].
            action: [B, T, A], row t led to embedding t; None for no action at all.
            is_first: bool [B, T]; where True, the state and the action are zeroed first.
            state: the state before row 0; zeros by default.
            sample: draw the posterior, or take its mode.

        Returns:
            Posterior and prior, each with leading dimensions [B, T]. The prior's ``stoch`` is its
            mode: nothing during filtering needs a sample of it.
        """
        batch, length = embed.shape[:2]
        keep = (~is_first.bool()).to(embed.dtype)[..., None]  # [B, T, 1]
        action = embed.new_zeros(batch, length, self.actions) if action is None else action * keep
        state = self.initial(batch) if state is None else state
        stoch, deter = state["stoch"].flatten(1), state["deter"]
        # What does not depend on the recurrent state is computed for all steps at once.
        drive = self._first(self.inputs, action, skip=self.flat_stoch)  # [B, T, hidden]
        view = self._first(self.posterior, embed, skip=self.deter if self.temp_post else 0)
        noise = self._noise(batch, length, sample)
        deters, posts = [], []
        for t in range(length):
            stoch, deter = stoch * keep[:, t], deter * keep[:, t]
            deter = self._recur(stoch, drive[:, t], deter)
            post = self._posterior(deter, view[:, t], None if noise is None else noise[:, t])
            stoch = post["stoch"].flatten(1)
            deters.append(deter)
            posts.append(post)
        deter = torch.stack(deters, 1)  # [B, T, D]
        post = {k: torch.stack([p[k] for p in posts], 1) for k in posts[0]}
        return {**post, "deter": deter}, self._prior(deter, None)

    def obs_step(
        self, prev: State, action: Tensor, embed: Tensor, is_first: Tensor, sample: bool = True
    ) -> State:
        """One filtering step: [B, …] in, the posterior [B, …] out."""
        state = {k: v for k, v in prev.items() if k in ("stoch", "deter")}
        post, _ = self.observe(embed[:, None], action[:, None], is_first[:, None], state, sample)
        return {k: v[:, 0] for k, v in post.items()}

    def img_step(self, prev: State, action: Tensor, sample: bool = True) -> State:
        """One step of imagination: the prior [N, …] after ``action`` [N, A]."""
        drive = self._first(self.inputs, action, skip=self.flat_stoch)
        deter = self._recur(prev["stoch"].flatten(1), drive, prev["deter"])
        noise = self._noise(len(deter), 1, sample)
        return self._prior(deter, None if noise is None else noise[:, 0])

    def imagine(self, action: Tensor, state: State, sample: bool = True) -> State:
        """Imagines under given actions [B, T, A] from ``state`` [B, …] on: priors [B, T, …]."""
        states = []
        for t in range(action.shape[1]):
            state = self.img_step(state, action[:, t], sample)
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

    @staticmethod
    def _first(layers: nn.Sequential, x: Tensor, skip: int) -> Tensor:
        """The first Linear's answer to its last inputs alone, bias included, not yet activated."""
        return F.linear(x, layers[0].weight[:, skip:], layers[0].bias)

    def _recur(self, stoch: Tensor, drive: Tensor, deter: Tensor) -> Tensor:
        x = drive + F.linear(stoch, self.inputs[0].weight[:, : self.flat_stoch])
        return self.cell(self.inputs[1:](x), deter)

    def _posterior(self, deter: Tensor, view: Tensor, noise: Tensor | None) -> State:
        if self.temp_post:
            view = view + F.linear(deter, self.posterior[0].weight[:, : self.deter])
        stats = self._stats(self.posterior_stats(self.posterior[1:](view)))
        return {"stoch": self._draw(stats, noise), **stats}

    def _prior(self, deter: Tensor, noise: Tensor | None) -> State:
        stats = self._stats(self.prior_stats(self.prior(deter)))
        return {"stoch": self._draw(stats, noise), "deter": deter, **stats}

    def _stats(self, x: Tensor) -> State:
        x = x.float()
        if self.discrete:
            return {"logit": x.unflatten(-1, (self.stoch, self.discrete))}
        mean, std = x.chunk(2, -1)
        if self.mean_act == "tanh5":
            mean = 5.0 * torch.tanh(mean / 5.0)
        std = {
            "softplus": F.softplus,
            "abs": lambda s: (s + 1).abs(),
            "sigmoid": torch.sigmoid,
            "sigmoid2": lambda s: 2 * torch.sigmoid(s / 2),
        }[self.std_act](std)
        return {"mean": mean, "std": std + self.min_std}

    def _noise(self, batch: int, length: int, sample: bool) -> Tensor | None:
        """All the noise of a scan, drawn at once: [B, T, S] or, for classes, [B, T, S, K]."""
        if not sample:
            return None
        weight = self.prior_stats.weight
        if self.discrete:
            shape = (batch, length, self.stoch, self.discrete)
            return torch.rand(shape, device=weight.device)
        return torch.randn((batch, length, self.stoch), device=weight.device)

    def _draw(self, stats: State, noise: Tensor | None) -> Tensor:
        if self.discrete:
            dist = OneHot(stats["logit"], event_dims=1)
            return dist.mode() if noise is None else dist.rsample(noise)
        return stats["mean"] if noise is None else stats["mean"] + stats["std"] * noise
