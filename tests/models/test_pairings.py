"""Which return goes with which state and action, and where entropies count, on the same line."""

import numpy as np
import pytest
import torch
from torch import nn

from distributions import Normal
from tests.models.test_behavior import (
    GAMMA,
    LAMBDA,
    H,
    N,
    Script,
    finite_differences,
    grad_of,
    make_behavior,
    run,
)
from tests.models.test_lambda_return import brute_force_return


@pytest.mark.parametrize("order", ["ordered", "published"])
@pytest.mark.parametrize("pairing", ["next", "published"])
def test_the_published_pairings(order, pairing):
    """Returns may stand in the reverse order of the states, and go with the actions' own ones."""
    script, slope, alpha = Script(), 1.5, 0.25
    flags = {"lambda_return": order, "actor_target": pairing}
    behavior = make_behavior(script, slope, **flags)
    dream, (target, for_value, cumulative, _), loss = run(behavior, actor_entropy=alpha)
    start = 0.1 * np.arange(1, N + 1)
    actions = script.means.detach().double().numpy()[..., 0]

    def returns(actions):
        z = np.concatenate([start[None], start + np.cumsum(actions, 0)])
        found = brute_force_return(z[:-1], slope * z, np.full((H, N), GAMMA), LAMBDA)
        return found[::-1] if order == "published" else found

    def objective(actions):
        steps = H if pairing == "published" else H - 1
        weight = GAMMA ** np.arange(steps)[:, None]
        bonus = alpha * 3 * actions[:steps]  # what the script calls entropy
        return (weight * (returns(actions)[H - steps :] + bonus)).mean()

    np.testing.assert_allclose(target.detach(), returns(actions), rtol=1e-5)
    np.testing.assert_allclose(for_value.detach(), returns(actions), rtol=1e-5)
    assert float(loss.detach()) == pytest.approx(-objective(actions), rel=1e-5)
    expected = finite_differences(lambda a: -objective(a), actions)
    np.testing.assert_allclose(grad_of(loss, script.means), expected, atol=1e-6)
    # The critic of state t learns whatever target stands at t.
    guess = 7 + 2 * dream.feat[:-1, :, 0].detach().double().numpy()
    each = 0.5 * (guess - returns(actions)) ** 2
    value_loss = behavior.value_loss(dream.feat, for_value, cumulative)
    weight = GAMMA ** np.arange(H)[:, None]
    assert float(value_loss) == pytest.approx((weight * each).mean(), rel=1e-5)


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_a_future_entropy_is_in_the_targets_of_the_published_pairing_already(gradient):
    flags = {"actor_target": "published", "future_entropy": True, "behavior_stop_grad": False}
    behavior = make_behavior(Script(noise=0.5), 1.0, imag_gradient=gradient, **flags)
    dream, (target, *_), loss = run(behavior, actor_entropy=0.25)
    outcome, weight = target.detach(), torch.tensor(GAMMA) ** torch.arange(H)[:, None]
    if gradient == "reinforce":
        outcome = (dream.log_prob * (outcome - dream.feat[:-1, :, 0])).detach()
    torch.testing.assert_close(loss.detach(), -(weight * outcome).mean())


class Loud(nn.Module):
    """An actor a = k·z + noise, the entropy of whose actions in z is 2·k·z²."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.3]))
        self.drawn = 0.1 * torch.randn(H, N, 1, generator=torch.Generator().manual_seed(2))

    def draw_noise(self, *lead):
        return self.drawn.reshape(*lead, 1)

    def forward(self, feat):
        class Play(Normal):
            def entropy(policy):
                return (2 * self.k * feat.square())[..., 0]

        return Play(self.k * feat, torch.ones(1))


@pytest.mark.parametrize("kind", ["dynamics", "reinforce", "both"])
def test_a_future_entropys_gradient_reaches_the_actions_that_led_to_it(kind):
    """By hand: what the actor sees is a number, where it lands depends on k, and so does H."""
    actor, alpha, mix = Loud(), 0.25, {"dynamics": 1.0, "reinforce": 0.0, "both": 0.3}[kind]
    noise = actor.drawn.double().numpy()[..., 0]
    k, start, weight = 0.3, 0.1 * np.arange(1, N + 1), GAMMA ** np.arange(H - 1)[:, None]

    def walk(k, seen=None):
        """States under gain k, where what the actor sees [H, N] may be held."""
        z = [start]
        for t in range(H):
            z.append(z[-1] + k * (z[-1] if seen is None else seen[t]) + noise[t])
        return np.stack(z)

    seen = walk(k)[:-1]

    def returns(k):
        z = walk(k, seen)
        reward = z[:-1] + alpha * 2 * k * z[:-1] ** 2
        return brute_force_return(reward, 1.5 * z, np.full((H, N), GAMMA), LAMBDA)

    outcome = returns(k)[1:]
    own = alpha * 2 * k * seen[: H - 1] ** 2

    def objective(k):
        through = returns(k)[1:]
        through[0] += alpha * 2 * k * start**2
        log_prob = -0.5 * (noise + (0.3 - k) * seen)[: H - 1] ** 2 - 0.5 * np.log(2 * np.pi)
        scored = log_prob * (outcome - 1.5 * seen[: H - 1]) + own * k / 0.3
        return (weight * (mix * through + (1 - mix) * scored)).mean()

    flags = {"future_entropy": True, "imag_gradient": kind}
    loss = run(make_behavior(actor, 1.5, **flags), actor_entropy=alpha)[2]
    assert float(loss.detach()) == pytest.approx(-objective(k), rel=1e-5)
    expected = -(objective(k + 1e-5) - objective(k - 1e-5)) / 2e-5
    assert float(torch.autograd.grad(loss, actor.k)[0]) == pytest.approx(expected, rel=1e-4)
