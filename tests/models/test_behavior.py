"""Behaviour learning in a world simple enough to compute by hand: z' = z + a, reward z.

Returns come from brute force, gradients from finite differences of an objective in NumPy.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from agents.model_configs import behavior_config
from behavior import ActorCritic
from distributions import Normal
from tests.helpers.models import make_config
from tests.models.test_lambda_return import brute_force_return

H, N = 5, 3  # horizon, trajectories
GAMMA, LAMBDA = 0.9, 0.7
SIZES = {"imag_horizon": H, "discount": GAMMA, "discount_lambda": LAMBDA}
SCALES = {"actor_entropy": 0.0, "actor_state_entropy": 0.0, "imag_gradient_mix": 0.3}


class Answer:
    """What a head answers: its mode is the tensor itself."""

    def __init__(self, value):
        self.value = value[..., None]

    def mode(self):
        return self.value

    def log_prob(self, x):
        return -0.5 * (x - self.value).square()[..., 0]


class Head(nn.Module):
    """A head that answers with a function of z."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, feat):
        return Answer(self.function(feat[..., 0]))


class Line:
    """The RSSM of the line: its state is its feature, and an action moves it."""

    def get_feat(self, state):
        return state["z"]

    def scan_weights(self):
        return None

    def draw_noise(self, *lead):
        return torch.zeros(*lead, 1)

    def img_step(self, state, action, sample, noise, weights):
        assert sample is True
        assert noise.shape == action.shape
        assert weights is None
        return {"z": state["z"] + action}

    def get_dist(self, state):
        return Normal(state["z"], 0.2 + state["z"].square())


class World:
    """The world of the line; ``discount`` is a function of z, or None."""

    def __init__(self, discount=None):
        self.rssm = Line()
        self.reward = Head(lambda z: z)
        # The expected discount counts, not the likelier one: this head has no mode.
        self.discount = discount and (lambda feat: SimpleNamespace(mean=discount(feat)))
        self.pad_action = lambda action: action


class Script(nn.Module):
    """An actor that plays given means [H, N, 1] plus given noise, whatever it sees."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.means = torch.linspace(-0.5, 0.7, H * N).reshape(H, N, 1).requires_grad_()
        self.drawn = noise * torch.randn(H, N, 1, generator=torch.Generator().manual_seed(0))
        self.t = 0

    def draw_noise(self, *lead):
        return self.drawn.reshape(*lead, 1)

    def forward(self, feat):
        t = self.t
        self.t = (t + 1) % H

        class Play(Normal):
            def rsample(self, noise):
                return self.mean + noise

            def entropy(self):  # made up, so that its gradient shows: 3·mean
                return 3 * self.mean[..., 0]

        return Play(self.means[t], 1.0)


def make_behavior(actor=None, slope=0.0, **changes):
    """An ActorCritic whose slow critic is slope·z and whose critic is 7 + 2z."""
    torch.manual_seed(0)
    behavior = ActorCritic(behavior_config(make_config(**SIZES | changes)), 1, 1)
    behavior.value = Head(lambda z: 7 + 2 * z)
    behavior.slow_value = Head(lambda z: slope * z)
    behavior.actor = actor or behavior.actor
    return behavior


def run(behavior, world=None, first=None, **scales):
    """One imagination from z = 0.1, 0.2, … → dream, targets' answer, actor loss."""
    world, start = world or World(), {"z": torch.tensor([[0.1], [0.2], [0.3]])}
    scales = {k: torch.tensor(v) for k, v in (SCALES | scales).items()}
    dream = behavior.rollout(world, start, behavior.draw_noise(world, N))
    targets = behavior.targets(world, dream, scales, first)
    loss = behavior.actor_loss(world, dream, targets[0], targets[2], scales)
    return dream, targets, loss


def numpy_objective(actions, slope):
    """The weighted returns of the states that actions 0 … H−2 lead to, averaged."""
    start = 0.1 * np.arange(1, N + 1)
    z = np.concatenate([start[None], start + np.cumsum(actions, 0)])  # [H+1, N]
    returns = brute_force_return(z[:-1], slope * z, np.full((H, N), GAMMA), LAMBDA)
    return (GAMMA ** np.arange(H - 1)[:, None] * returns[1:]).mean()


def finite_differences(function, x, h=1e-5):
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        grad[index] = (function(x + step) - function(x - step)) / (2 * h)
    return grad


def grad_of(loss, leaf):
    return torch.autograd.grad(loss, leaf)[0].numpy()[..., 0]


@pytest.mark.parametrize("slope", [0.0, 4.0])
def test_the_actors_gradient_follows_the_timeline(slope):
    """Each action's gradient is that of the targets of the states after it, and of none before."""
    script = Script()
    _, _, loss = run(make_behavior(script, slope))
    actions = script.means.detach().double().numpy()[..., 0]
    assert float(loss.detach()) == pytest.approx(-numpy_objective(actions, slope), rel=1e-5)
    expected = finite_differences(lambda a: -numpy_objective(a, slope), actions)
    np.testing.assert_allclose(grad_of(loss, script.means), expected, atol=1e-6)
    # The last action shows in the bootstrap alone.
    assert (expected[-1] != 0).all() == (slope != 0)


def test_an_action_reaches_no_target_before_the_state_that_it_leads_to():
    """Without a future (λ = 0, no critic) target t is the reward of state t."""
    script = Script()
    dream, (target, *_), _ = run(make_behavior(script, discount_lambda=0.0))
    start = torch.tensor([[0.1], [0.2], [0.3]])
    torch.testing.assert_close(dream.action, script.means)
    torch.testing.assert_close(dream.feat, torch.cat([start[None], start + script.means.cumsum(0)]))
    torch.testing.assert_close(target, dream.feat[:-1, :, 0])
    assert dream.log_prob is None
    for t in range(1, H):
        grad = torch.autograd.grad(target[t].sum(), script.means, retain_graph=True)[0]
        assert (grad[:, 0, 0] != 0).tolist() == [k < t for k in range(H)]


def test_discount_weights_are_cumulative_and_constant():
    """With a discount that depends on z, the weights enter the gradient as numbers."""
    script = Script()

    def discount(z):
        return 0.5 + 0.1 * z

    _, (target, _, cumulative, _), loss = run(make_behavior(script, 1.5), World(discount))
    actions = script.means.detach().double().numpy()[..., 0]
    start = 0.1 * np.arange(1, N + 1)

    def parts(actions):
        z = np.concatenate([start[None], start + np.cumsum(actions, 0)])
        d = discount(z)
        returns = brute_force_return(z[:-1], 1.5 * z, d[:-1], LAMBDA)
        weights = np.stack([np.prod(d[:t], 0) for t in range(H + 1)])
        return returns, weights

    returns, weights = parts(actions)
    np.testing.assert_allclose(target.detach(), returns, rtol=1e-5)
    np.testing.assert_allclose(cumulative, weights, rtol=1e-5)
    assert not cumulative.requires_grad
    expected = finite_differences(lambda a: -(weights[: H - 1] * parts(a)[0][1:]).mean(), actions)
    np.testing.assert_allclose(grad_of(loss, script.means), expected, atol=1e-6)


def test_the_first_discount_is_the_datas_and_nothing_follows_a_terminal_start():
    script, first = Script(), torch.tensor([GAMMA, 0.0, GAMMA])
    behavior = make_behavior(script, 1.5)
    world = World(lambda z: 0.5 + 0.1 * z)
    dream, (target, _, cumulative, _), loss = run(behavior, world, first)
    z = dream.feat[..., 0].detach().double().numpy()
    d = np.concatenate([first.double().numpy()[None], 0.5 + 0.1 * z[1:]])
    expected = brute_force_return(z[:-1], 1.5 * z, d[:-1], LAMBDA)
    np.testing.assert_allclose(target.detach(), expected, rtol=1e-5)
    assert target[0, 1] == dream.feat[0, 1, 0]  # the terminal state's own reward
    weights = np.stack([np.prod(d[:t], 0) for t in range(H + 1)])
    assert weights[:, 1].tolist() == [1] + H * [0]
    np.testing.assert_allclose(cumulative, weights, rtol=1e-5)
    value_loss = behavior.value_loss(dream.feat, target, cumulative)
    other = target.detach().clone()
    other[1:, 1] += 5
    torch.testing.assert_close(behavior.value_loss(dream.feat, other, cumulative), value_loss)
    other[0, 1] += 5  # the critic learns what the end itself earned
    assert abs(behavior.value_loss(dream.feat, other, cumulative) - value_loss) > 0.1
    grad = grad_of(loss, script.means).reshape(H, N)
    assert (grad[:-1, [0, 2]] != 0).all()
    assert (grad[:, 1] == 0).all()


@pytest.mark.parametrize("actor_slow", [True, False])
@pytest.mark.parametrize("value_slow", [True, False])
def test_which_critic_makes_the_targets(actor_slow, value_slow):
    flags = {"slow_actor_target": actor_slow, "slow_value_target": value_slow}
    behavior = make_behavior(Script(), 4.0, **flags)
    dream, (for_actor, for_value, _, reward), _ = run(behavior)
    z = dream.feat[..., 0].detach().double().numpy()
    values = {True: 4 * z, False: 7 + 2 * z}
    for target, slow in ((for_actor, actor_slow), (for_value, value_slow)):
        expected = brute_force_return(z[:-1], values[slow], np.full((H, N), GAMMA), LAMBDA)
        np.testing.assert_allclose(target.detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(reward.detach(), z, rtol=1e-6)


def test_entropy_bonuses_belong_to_the_actors_own_state():
    script, share = Script(), 1 / ((H - 1) * N)
    dream, _, plain = run(make_behavior(script))
    grad, weight = grad_of(plain, script.means), GAMMA ** np.arange(H - 1)[:, None]
    plain = float(plain.detach())
    _, _, loss = run(make_behavior(script), actor_entropy=0.25)
    bonus = 0.25 * 3 * script.means.detach()[:-1, :, 0].numpy()  # what the script calls entropy
    assert float(loss.detach()) == pytest.approx(plain - (weight * bonus).mean(), rel=1e-5)
    expected = np.zeros((H, N))
    expected[:-1] = 0.25 * 3 * weight * share
    np.testing.assert_allclose(grad - grad_of(loss, script.means), expected, atol=1e-6)
    flags = {"actor_state_entropy": "0.5"}
    _, _, loss = run(make_behavior(script, **flags), actor_state_entropy=0.5)
    std = 0.2 + dream.feat[:-2, :, 0].detach().square()
    bonus = 0.5 * torch.distributions.Normal(0, std).entropy().numpy()
    assert float(loss.detach()) == pytest.approx(plain - (weight * bonus).mean(), rel=1e-5)


def test_future_entropy_is_reward():
    script = Script()
    flags = {"future_entropy": True, "actor_state_entropy": "0.5"}
    flags["behavior_stop_grad"] = False  # so that the script is asked once a step
    behavior = make_behavior(script, 1.0, **flags)
    dream, (target, *_), loss = run(behavior, actor_entropy=0.25, actor_state_entropy=0.5)
    z = dream.feat[..., 0].detach().double()
    entropy = 3 * script.means.detach()[..., 0]
    state = torch.distributions.Normal(0.0, 0.2 + z[:-1].square()).entropy()
    reward = (z[:-1] + 0.25 * entropy + 0.5 * state).numpy()
    expected = brute_force_return(reward, z.numpy(), np.full((H, N), GAMMA), LAMBDA)
    np.testing.assert_allclose(target.detach(), expected, rtol=1e-5)
    weight = GAMMA ** np.arange(H - 1)[:, None]
    objective = weight * expected[1:]
    objective[0] += 0.25 * entropy[0].numpy()  # the starts' own, which is in no target but theirs
    assert float(loss.detach()) == pytest.approx(-objective.mean(), rel=1e-5)


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("kind", ["reinforce", "both"])
def test_reinforce_gradient(kind, slow):
    """−w·(a − mean)·(target − baseline) per action, where the log-density has unit variance."""
    script = Script(noise=1.0)
    flags = {"imag_gradient": kind, "slow_actor_target": slow}
    behavior = make_behavior(script, 1.0, **flags)
    if not slow:
        behavior.value, behavior.slow_value = behavior.slow_value, behavior.value
    dream, (target, *_), loss = run(behavior)
    # The baseline is the critic that makes the targets: 1·z here.
    advantage = (target[1:] - dream.feat[:-2, :, 0]).detach().numpy()
    noise = script.drawn[: H - 1, :, 0].numpy()
    weight = GAMMA ** np.arange(H - 1)[:, None]
    expected = np.zeros((H, N))
    expected[: H - 1] = -weight * noise * advantage / ((H - 1) * N)
    log_prob = -0.5 * noise**2 - 0.5 * np.log(2 * np.pi)
    value = -(weight * log_prob * advantage).mean()
    if kind == "both":
        actions = (script.means.detach() + script.drawn).double().numpy()[..., 0]
        through = finite_differences(lambda a: -numpy_objective(a, 1.0), actions)
        expected = 0.3 * through + 0.7 * expected
        value = 0.3 * -numpy_objective(actions, 1.0) + 0.7 * value
    assert float(loss.detach()) == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(grad_of(loss, script.means), expected, atol=1e-5)


class Gain(nn.Module):
    """An actor a = k·z."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.3]))

    def draw_noise(self, *lead):
        return torch.randn(*lead, 1)

    def forward(self, feat):
        return Normal(self.k * feat, 1e-9)


@pytest.mark.parametrize("stop", [True, False])
def test_behavior_stop_grad_cuts_the_path_through_what_the_actor_sees(stop):
    actor = Gain()
    loss = run(make_behavior(actor, behavior_stop_grad=stop))[2]
    z, slope, rewards = 0.1 * np.arange(1, N + 1), np.zeros(N), []
    for _ in range(H):
        rewards.append(slope)
        slope = slope + z + (0 if stop else 0.3 * slope)  # d(z + k·z)/dk
        z = 1.3 * z
    returns = brute_force_return(
        np.stack(rewards), np.zeros((H + 1, N)), np.full((H, N), GAMMA), LAMBDA
    )
    expected = -(GAMMA ** np.arange(H - 1)[:, None] * returns[1:]).mean()
    assert float(torch.autograd.grad(loss, actor.k)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_value_loss(decay):
    behavior = make_behavior(value_decay=decay)
    critic = nn.Linear(1, 1)
    behavior.value = Head(lambda z: critic(z[..., None])[..., 0])
    generator = torch.Generator().manual_seed(1)
    feat = torch.randn(H + 1, N, 1, generator=generator).requires_grad_()
    target = torch.randn(H, N, generator=generator).requires_grad_()
    cumulative = torch.rand(H + 1, N, generator=generator)
    loss = behavior.value_loss(feat, target, cumulative)
    guess = critic(feat)[:-1, :, 0].detach().double().numpy()
    each = 0.5 * (guess - target.detach().double().numpy()) ** 2 + decay * guess
    expected = (cumulative[:-1].double().numpy() * each).mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert feat.grad is target.grad is None
    assert critic.weight.grad.abs() > 0


def test_slow_critic_starts_equal_and_moves_by_its_fraction():
    for fraction in (1.0, 0.25):
        sizes = behavior_config(make_config(slow_target_fraction=fraction))
        behavior = ActorCritic(sizes, 4, 1)
        parts = behavior.slow_value, behavior.value
        pairs = list(zip(*(part.parameters() for part in parts), strict=True))
        assert all(torch.equal(slow, fast) for slow, fast in pairs)
        assert not any(slow.requires_grad for slow, _ in pairs)
        before = [slow.clone() for slow, _ in pairs]
        with torch.no_grad():
            for _, fast in pairs:
                fast.add_(1.0)
        behavior.update_slow_target()
        for (slow, fast), old in zip(pairs, before, strict=True):
            torch.testing.assert_close(slow.data, (1 - fraction) * old + fraction * fast.data)
            assert torch.equal(slow, fast) == (fraction == 1)
