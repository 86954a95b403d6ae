"""Model predictive path integral control, beside a policy's own plans.

Williams et al. 2015 (arXiv 1509.01149), as TD-MPC2 has it (Hansen et al. 2024, arXiv 2310.16828,
section 3.2): plans are drawn from a Gaussian, which moves towards those of the highest value.

Symbols in shapes: N environments, I iterations, H horizon, P plans of the policy's, S plans in all,
E elites, L latent, A action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tools import UserError

EPS = 1e-9  # beside the sum of the weights


class Model(Protocol):
    """What plans are weighed with. Leading sizes of 1 are broadcast."""

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """The latent that an action leads to, [..., L]."""

    def earn(self, z: Tensor, action: Tensor) -> Tensor:
        """What an action earns, [...]."""

    def act(self, z: Tensor, noise: Tensor) -> Tensor:
        """The policy's action, [..., A]; ``noise`` is standard normal, of that shape."""

    def value(self, z: Tensor, action: Tensor, pair: Tensor) -> Tensor:
        """What comes after an action, [...], by the two estimates ``pair``, int64 [2]."""


class PlanNoise(NamedTuple):
    """All that a plan is drawn with.

    Attributes:
        policy: standard normal, [N, H, P, A].
        plans: the same, [N, I, H, S−P, A].
        last: the same, of the actions at the horizon, [N, I, S, A].
        pair: which two action values count, int64 [I, 2].
        elite: exponentially distributed, [N, E].
        action: standard normal, [N, A]; None where the action gets no noise.
    """

    policy: Tensor
    plans: Tensor
    last: Tensor
    pair: Tensor
    elite: Tensor
    action: Tensor | None = None


class Rollout(NamedTuple):
    """Plans, what they earn up to the horizon, and where they end.

    Attributes:
        actions: [N, H, S, A].
        earned: Σ γᵗ rₜ, [N, S].
        end: [N, S, L].
    """

    actions: Tensor
    earned: Tensor
    end: Tensor


class Elites(NamedTuple):
    """The best plans, [N, H, E, A], and their weights, [N, E], which sum to 1."""

    actions: Tensor
    weight: Tensor


def check_plans(config: Mapping[str, Any]) -> None:
    """Checks that parts of plans are no more than all, and the least deviation below the largest.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    for low, high in (
        ("num_elites", "num_samples"),
        ("num_pi_trajs", "num_samples"),
        ("min_std", "max_std"),
    ):
        least, most = config[low], config[high]
        if least > most:
            raise UserError(f"--{low} {least} is above --{high} {most}: give less of it")


@dataclasses.dataclass(frozen=True)
class MPPI:
    """A planner.

    Attributes:
        horizon: H.
        iterations: I.
        num_samples: S.
        num_elites: E.
        num_pi_trajs: P.
        min_std: least standard deviation of an action.
        max_std: largest one, and that of the beginning.
        temperature: how much more a plan of a higher value counts.
        discount: γ of an agent step.
    """

    horizon: int
    iterations: int
    num_samples: int
    num_elites: int
    num_pi_trajs: int
    min_std: float
    max_std: float
    temperature: float
    discount: float

    def draw(
        self, envs: int, actions: int, networks: int, explore: bool, device: torch.device
    ) -> PlanNoise:
        """Noise for a plan of each environment; two of so many action values in each iteration."""
        n, h, i, p = envs, self.horizon, self.iterations, self.num_pi_trajs

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, actions, device=device)

        return PlanNoise(
            normal(n, h, p),
            normal(n, i, h, self.num_samples - p),
            normal(n, i, self.num_samples),
            torch.rand(i, networks, device=device).argsort(-1)[:, :2],
            torch.empty(n, self.num_elites, device=device).exponential_(),
            normal(n) if explore else None,
        )

    def first_mean(self, before: Tensor, is_first: Tensor) -> Tensor:
        """Where a plan begins: what is left of the last one, and nothing in a new episode.

        Args:
            before: the mean of the last plan, [N, H, A].
            is_first: bool [N].

        Returns:
            [N, H, A].
        """
        left = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)
        return left.masked_fill(is_first[:, None, None], 0)

    def plan(
        self, model: Model, z: Tensor, mean: Tensor, noise: PlanNoise
    ) -> tuple[Tensor, Tensor]:
        """The next action, and the mean of the plan that it is of.

        Args:
            model: what plans are weighed with.
            z: latents now, [N, L].
            mean: where the plan begins, [N, H, A].
            noise: what `draw` gave.

        Returns:
            [N, A] in [−1, 1], and [N, H, A].
        """
        z, std = z[:, None], torch.full_like(mean, self.max_std)
        own = self.follow(model, z, lambda t, at: model.act(at, noise.policy[:, t]))
        for i in range(self.iterations):
            plans, last, pair = noise.plans[:, i], noise.last[:, i], noise.pair[i]
            mean, std, elites = self.improve(model, z, own, mean, std, plans, last, pair)
        # The largest of log weights and Gumbel noise is drawn by the weights.
        drawn = (elites.weight.log() - noise.elite.log()).argmax(-1)
        action = elites.actions[:, 0].gather(1, drawn[:, None, None].expand_as(mean[:, :1]))[:, 0]
        if noise.action is not None:
            action = action + std[:, 0] * noise.action
        return action.clamp(-1, 1), mean

    def improve(
        self,
        model: Model,
        z: Tensor,
        own: Rollout,
        mean: Tensor,
        std: Tensor,
        plans: Tensor,
        last: Tensor,
        pair: Tensor,
    ) -> tuple[Tensor, Tensor, Elites]:
        """One iteration: mean and standard deviation [N, H, A] of the elites, and these.

        Args:
            model: what plans are weighed with.
            z: [N, 1, L].
            own: the policy's plans, the same in each iteration but for their last actions.
            mean: [N, H, A].
            std: [N, H, A].
            plans: standard normal, [N, H, S−P, A].
            last: standard normal, [N, S, A].
            pair: int64 [2].
        """
        drawn = (mean[:, :, None] + std[:, :, None] * plans).clamp(-1, 1)
        found = self.follow(model, z, lambda t, _: drawn[:, t])
        actions = torch.cat([own.actions, drawn], 2)
        end = torch.cat([own.end, found.end], 1)
        after = model.value(end, model.act(end, last), pair)
        value = torch.cat([own.earned, found.earned], 1) + self.discount**self.horizon * after
        best, index = value.nan_to_num(0).topk(self.num_elites, 1)
        index = index[:, None, :, None].expand(-1, *actions.shape[1:2], -1, actions.shape[-1])
        elites = Elites(actions.gather(2, index), self.weigh(best))
        return *self.moments(elites), elites

    def weigh(self, value: Tensor) -> Tensor:
        """Weights of plans by their values, [N, E]."""
        weight = torch.exp(self.temperature * (value - value.amax(1, keepdim=True)))
        return weight / weight.sum(1, keepdim=True)

    def moments(self, elites: Elites) -> tuple[Tensor, Tensor]:
        """Their weighted mean and standard deviation, [N, H, A] each."""
        weight = elites.weight[:, None, :, None]
        total = weight.sum(2) + EPS
        mean = (weight * elites.actions).sum(2) / total
        spread = (elites.actions - mean[:, :, None]).square()
        std = ((weight * spread).sum(2) / total).sqrt()
        return mean, std.clamp(self.min_std, self.max_std)

    def follow(self, model: Model, z: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Rollout:
        """Plans from latents [N, 1, L] on; ``choose`` says the actions [N, S, A] of each step."""
        actions, earned = [], torch.zeros((), dtype=z.dtype, device=z.device)
        for t in range(self.horizon):
            action = choose(t, z)
            earned = earned + self.discount**t * model.earn(z, action)
            z = model.next(z, action)
            actions.append(action)
        return Rollout(torch.stack(actions, 1), earned, z)
