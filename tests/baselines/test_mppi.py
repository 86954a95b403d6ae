"""The planner against loops over environments, iterations, plans and steps."""

import numpy as np
import pytest
import torch

from baselines.mppi import MPPI

A, L, N, Q = 2, 3, 2, 4
PLANNER = MPPI(
    horizon=3,
    iterations=3,
    num_samples=7,
    num_elites=4,
    num_pi_trajs=2,
    min_std=0.05,
    max_std=2.0,
    temperature=0.5,
    discount=0.9,
)
rng = np.random.default_rng(0)
M = {name: rng.normal(size=shape) for name, shape in {
    "zz": (L, L), "az": (A, L), "zr": L, "ar": A, "za": (L, A), "q": (Q, L), "qa": (Q, A),
}.items()}  # fmt: skip


class Toy:
    """A model of a few products, of tensors."""

    def __init__(self):
        self.m = {name: torch.from_numpy(value) for name, value in M.items()}

    def next(self, z, action):
        return torch.tanh(z @ self.m["zz"] + action @ self.m["az"])

    def earn(self, z, action):
        return torch.sin(z @ self.m["zr"] + action @ self.m["ar"])

    def act(self, z, noise):
        return torch.tanh(z @ self.m["za"] + 0.5 * noise)

    def value(self, z, action, pair):
        each = z @ self.m["q"][pair].T + action @ self.m["qa"][pair].T
        return each.mean(-1)


def brute(z0, mean, noise, env):
    """The action and the last mean of one environment."""
    p, h, s = PLANNER, PLANNER.horizon, PLANNER.num_samples
    noise = type(noise)(*(None if x is None else x.numpy() for x in noise))
    std = np.full_like(mean, p.max_std)
    own = np.zeros((p.num_pi_trajs, h, A))
    for plan in range(p.num_pi_trajs):
        z = z0
        for t in range(h):
            own[plan, t] = np.tanh(z @ M["za"] + 0.5 * noise.policy[env, t, plan])
            z = np.tanh(z @ M["zz"] + own[plan, t] @ M["az"])
    for i in range(p.iterations):
        plans, values = np.zeros((s, h, A)), np.zeros(s)
        for plan in range(s):
            z, total = z0, 0.0
            for t in range(h):
                if plan < p.num_pi_trajs:
                    action = own[plan, t]
                else:
                    drawn = noise.plans[env, i, t, plan - p.num_pi_trajs]
                    action = np.clip(mean[t] + std[t] * drawn, -1, 1)
                total += p.discount**t * np.sin(z @ M["zr"] + action @ M["ar"])
                z = np.tanh(z @ M["zz"] + action @ M["az"])
                plans[plan, t] = action
            last = np.tanh(z @ M["za"] + 0.5 * noise.last[env, i, plan])
            two = [z @ M["q"][q] + last @ M["qa"][q] for q in noise.pair[i]]
            values[plan] = total + p.discount**h * np.mean(two)
        elites = np.argsort(-values)[: p.num_elites]
        weights = np.exp(p.temperature * (values[elites] - values.max()))
        weights /= weights.sum()
        mean = np.einsum("e,eta->ta", weights, plans[elites])
        std = np.sqrt(np.einsum("e,eta->ta", weights, (plans[elites] - mean) ** 2))
        std = np.clip(std, p.min_std, p.max_std)
    chosen = elites[np.argmax(weights / noise.elite[env])]
    action = plans[chosen, 0]
    if noise.action is not None:
        action = action + std[0] * noise.action[env]
    return np.clip(action, -1, 1), mean


@pytest.mark.parametrize("explore", [True, False])
def test_a_plan_is_what_loops_find(explore):
    torch.manual_seed(0)
    z, mean = torch.randn(N, L).double(), 0.3 * torch.randn(N, 3, A).double()
    noise = PLANNER.draw(N, A, Q, explore, torch.device("cpu"))
    noise = type(noise)(
        *(x.double() if x is not None and x.dtype.is_floating_point else x for x in noise)
    )
    action, after = PLANNER.plan(Toy(), z, mean, noise)
    for env in range(N):
        wanted = brute(z[env].numpy(), mean[env].numpy(), noise, env)
        np.testing.assert_allclose(action[env], wanted[0], atol=1e-8)
        np.testing.assert_allclose(after[env], wanted[1], atol=1e-8)
    assert (noise.action is not None) == explore
    assert all(len(set(pair)) == 2 for pair in noise.pair.tolist())


def test_one_of_the_elites_acts_by_its_weight():
    n = 3000
    torch.manual_seed(0)
    noise = PLANNER.draw(n, A, Q, False, torch.device("cpu"))
    shared = [x[:1].expand(n, *x.shape[1:]).double() for x in noise[:3]]
    noise = type(noise)(*shared, noise.pair, noise.elite.double(), None)
    found = []
    planner = PLANNER
    weigh = planner.weigh
    object.__setattr__(planner, "weigh", lambda value: found.append(weigh(value)) or found[-1])
    try:
        actions, _ = planner.plan(
            Toy(), torch.ones(n, L).double(), torch.zeros(n, 3, A).double(), noise
        )
    finally:
        object.__delattr__(planner, "weigh")
    weights = found[-1][0].sort().values.numpy()
    _, counts = np.unique(actions.numpy().round(9), axis=0, return_counts=True)
    assert len(counts) == PLANNER.num_elites
    expected = n * weights
    assert ((np.sort(counts) - expected) ** 2 / expected).sum() < 16.3  # χ², 3 degrees, p = 0.001


def test_the_next_plan_begins_with_what_is_left_of_the_last_one():
    mean = torch.arange(12.0).view(2, 3, 2)
    found = PLANNER.first_mean(mean, torch.tensor([False, True]))
    assert found[0].tolist() == [[2, 3], [4, 5], [0, 0]]
    assert not found[1].any()


def test_values_that_are_no_numbers_do_not_spoil_a_plan():
    torch.manual_seed(0)
    model = Toy()
    earn = model.earn
    model.earn = lambda z, action: torch.where(action[..., 0] > 0.5, torch.nan, earn(z, action))
    noise = PLANNER.draw(N, A, Q, True, torch.device("cpu"))
    noise = type(noise)(*(x.double() if x.dtype.is_floating_point else x for x in noise))
    action, mean = PLANNER.plan(
        model, torch.zeros(N, L).double(), torch.zeros(N, 3, A).double(), noise
    )
    assert torch.isfinite(action).all()
    assert torch.isfinite(mean).all()
