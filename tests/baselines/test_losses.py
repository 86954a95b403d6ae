"""Every loss of the agents from pixels, and its gradient, against NumPy and finite differences."""

import numpy as np
import pytest
import torch

import config
from accel.runtime import Runtime
from agents.base import Spaces
from agents.registry import METHODS, agent_class
from tests.baselines import reference
from tests.helpers.models import make_batch

A, B, SIZE = 2, 4, (9, 11)
SMALL = {"frame_stack": 2, "encoder_feature_dim": 5, "hidden_dim": 6, "num_layers": 2}
SMALL |= {"num_filters": 3, "crop_pad": 1, "device": "cpu", "precision": "32"}
NEAR = 1e-6  # step of a finite difference
KINDS = {
    "sac": {},
    "rad": {},
    "curl": {},
    "ted": {"ted_coef": "3.0"},
    "ted faithful": {"ted_faithful": True},
    "svea": {"svea_alpha": 0.3, "svea_beta": 0.6},
    "svea overlay": {"svea_augment": "overlay"},
    "drqv2": {"nstep": 2, "stddev_schedule": "linear(1.0,0.0,10)"},
}


def make(kind, **flags):
    """A tiny agent of a kind in float64, its weights no longer as they began."""
    name = kind.split()[0]
    given = {**SMALL, **KINDS[kind], **flags}
    if name == "sac":
        given.pop("crop_pad", None)
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    words += ["--method_name", name, "--size", *map(str, SIZE)]
    parsed, method = config.parse(words, methods=METHODS), agent_class(name)
    method.check(parsed)
    torch.manual_seed(0)
    agent = method(parsed, Runtime.resolve(parsed), Spaces((*SIZE, 3), A, False)).double()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shift = 0.5 if name == "drqv2" else 0.0
    agent.to_input = lambda obs: obs.double() / 255 - shift
    agent.convs = lambda net, obs: net.convs(obs)
    values = agent.schedules.values()
    agent._scales_at = lambda step: torch.tensor([v(step) for v in values], dtype=torch.float64)
    return agent


def make_case(agent):
    """A batch and its noise. One window has a seam, one a terminal state, one begins anew."""
    c, length = agent.config, agent.windows(agent.config).length
    batch = make_batch(0, B, length, Spaces((*SIZE, 3), A, False))
    start = c.frame_stack - 1
    batch["is_first"][:, 1:] = False
    batch["is_first"][0, start + 1] = True  # no transition
    batch["discount"][1, start + 1] = 0  # terminal, and what is behind it does not count
    batch["is_first"][1, start + 2 :] = True
    batch["is_first"][2, start] = True  # an episode's first row: its frame is all there is
    if agent.name == "ted":
        batch["is_first"][:, start + 2] = True
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    torch.manual_seed(1)
    return batch, exact(agent.draw_noise(B, length))


def exact(value):
    """Noise in float64: nested named tuples of tensors."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return value if value is None else type(value)(*map(exact, value))


def numbers(value):
    """Named tuples of tensors as ones of arrays."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value.double().numpy() if value.is_floating_point() else value.numpy()
    return type(value)(*map(numbers, value))


def weights(agent):
    return {k: v.detach().numpy().astype(np.float64) for k, v in agent.state_dict().items()}


class Expected:
    """The losses of an update, from weights and what the update was given."""

    def __init__(self, agent, batch, noise):
        c, self.agent, self.c = agent.config, agent, agent.config
        self.noise, b = numbers(noise), {k: v.numpy() for k, v in batch.items()}
        stack, n = c.frame_stack, agent.steps(c)
        start = stack - 1
        pad = 0 if agent.crops is None else agent.crops.pad
        none = np.zeros((B, 2), int)
        crop, next_crop = (
            none if agent.crops is None else getattr(self.noise, name)
            for name in ("crop", "next_crop")
        )

        def look(row, offset):
            rows = np.array(
                [
                    [self.frame(b["is_first"][i], t, row) for t in range(row - start, row + 1)]
                    for i in range(B)
                ]
            )
            return reference.observation(b["image"], rows, offset, SIZE, pad)

        self.look = look
        shift = 0.5 if agent.name == "drqv2" else 0
        self.obs = look(start, crop) - shift
        self.next_obs = look(start + n, next_crop) - shift
        self.action = b["action"][:, stack]
        self.reward, self.discount, self.weight = np.zeros(B), np.ones(B), np.ones(B)
        for i in range(B):
            for t in range(stack, stack + n):
                if b["is_first"][i, t] and self.discount[i]:
                    self.weight[i] = 0
                self.reward[i] += self.discount[i] * b["reward"][i, t]
                self.discount[i] *= b["discount"][i, t] * c.discount

    @staticmethod
    def frame(is_first, t, row):
        """The row whose frame stands at t of a stack that ends at row."""
        return max([t, *(s for s in range(row + 1) if is_first[s])])

    def nets(self, w):
        a = self.agent
        kind = (
            {"tanh": True}
            if a.name == "drqv2"
            else {"last_relu": a.last_relu, "tanh": a.tanh, "shares_head": a.shares_head}
        )
        return reference.Nets(w, self.c.num_layers, **kind)

    def target(self, w):
        nets = self.nets(w)
        if self.agent.name == "drqv2":
            seen = nets.convs("critic", self.next_obs)
            action = self.noisy(nets.mean_action(self.next_obs), self.noise.next_action)
            value = np.minimum(*nets.q("target", nets.head("target", seen), action))
            return self.reward + self.discount * value
        action, density = nets.sample(
            self.next_obs, self.noise.next_action, self.agent.exact_log_prob
        )
        value = np.minimum(*nets.q("target", nets.feature("target", self.next_obs), action))
        return self.reward + self.discount * (value - np.exp(w["log_alpha"]) * density)

    def noisy(self, action, noise):
        stddev = 1 - STEP / 10
        return np.clip(action + np.clip(stddev * noise, -0.3, 0.3), 1e-6 - 1, 1 - 1e-6)

    def critic(self, w, w0):
        nets, target = self.nets(w), self.target(w0)
        errors = reference.squares(
            nets.q("critic", nets.feature("critic", self.obs), self.action), target, self.weight
        )
        if self.agent.name != "svea":
            return errors
        more = self.noise.more
        if more.kernel is not None:
            changed = reference.random_conv(self.obs, more.kernel)
        else:
            changed = 0.5 * self.obs + 0.5 * np.tile(more.picture / 255, (1, 2, 1, 1))
        other = nets.q("critic", nets.feature("critic", changed), self.action)
        changed = reference.squares(other, target, self.weight)
        return self.c.svea_alpha * errors + self.c.svea_beta * changed

    def actor(self, w, w0):
        nets, still = (
            self.nets({**w0, **{k: w[k] for k in w if k.startswith("actor")}}),
            self.nets(w0),
        )
        feature = still.feature("critic", self.obs)
        if self.agent.name == "drqv2":
            # The bound lets gradients pass: the difference at the weights themselves stays.
            mean, mean0 = nets.mean_action(self.obs), still.mean_action(self.obs)
            action = mean - mean0 + self.noisy(mean0, self.noise.action)
            return -np.minimum(*still.q("critic", feature, action)).mean()
        action, density = nets.sample(self.obs, self.noise.action, self.agent.exact_log_prob)
        value = np.minimum(*still.q("critic", feature, action))
        return (np.exp(w0["log_alpha"]) * density - value).mean()

    def alpha(self, w, w0):
        _, density = self.nets(w0).sample(self.obs, self.noise.action, self.agent.exact_log_prob)
        return (np.exp(w["log_alpha"]) * (-density + A)).mean()

    def contrast(self, w, w0):
        positive = self.look(self.c.frame_stack - 1, self.noise.more.positive)
        keys = self.nets(w0).feature("target", positive)
        return reference.contrast(self.nets(w).feature("critic", self.obs), keys, w["contrast"])

    def encoder(self, w, w0):
        """TED's: the critic's errors and the classifier's."""
        nets, still, stack = self.nets(w), self.nets(w0), self.c.frame_stack
        other = self.look(2 * stack, self.noise.more.elsewhere)
        pairs = [still.feature("target", obs) for obs in (self.next_obs, other)]
        found = reference.temporal(w, nets.feature("critic", self.obs), *pairs, self.weight)
        found *= float(self.c.ted_coef)
        return found if self.c.ted_faithful else found + self.critic(w, w0)


STEP = 4  # where schedules are


def record(agent):
    """What the optimisers of an update are given: loss, gradients and the weights by then."""
    seen = {}
    names = {id(p): name for name, p in agent.named_parameters()}
    for name, optimizer in agent.optimizers.items():

        def take(loss, skip=None, name=name, own=optimizer.take, parameters=optimizer.parameters):
            grads = {names[id(p)]: p.grad.numpy().copy() for p in parameters if p.grad is not None}
            seen[name] = float(loss), grads, weights(agent)
            return own(loss, skip)

        optimizer.take = take
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_written_out(kind):
    agent = make(kind)
    batch, noise = make_case(agent)
    expected = Expected(agent, batch, noise)
    agent.draw_noise, start = (lambda *_: noise), weights(agent)
    seen = record(agent)
    metrics = agent.learn(batch, STEP).metrics
    assert expected.weight.tolist() == [0, 1, 1, 1]
    assert float(metrics["target_mean"]) == pytest.approx(expected.target(start).mean(), rel=1e-9)
    wanted = {"critic", "actor"} | ({"alpha"} if kind != "drqv2" else set())
    wanted |= {"curl": {"contrast", "encoder"}, "ted": {"encoder"}}.get(agent.name, set())
    assert set(seen) == wanted
    rng = np.random.default_rng(0)
    for name, (loss, grads, then) in seen.items():
        if agent.name == "curl" and name == "encoder":
            assert {k: v.tolist() for k, v in grads.items()}.items() <= {
                k: v.tolist() for k, v in seen["contrast"][1].items()
            }.items()
            continue
        # Critic and encoder of TED have their gradients before either moves.
        w0 = start if agent.name == "ted" and name == "encoder" else then
        if name == "alpha":  # by the densities of the actor's step, before it
            w0 = seen["actor"][2]
        if (agent.name, name) == ("drqv2", "actor"):  # it sees what the critic saw
            w0 = {**then, **{k: v for k, v in start.items() if k.startswith("critic.convs")}}
        function = getattr(expected, name)
        value = function(w0, w0)
        if kind == "ted faithful" and name == "encoder":
            value += expected.critic(w0, w0)  # whose gradient is forgotten
        assert loss == pytest.approx(value, rel=1e-9), name
        for part in {key.rsplit(".", 2)[0] for key in grads}:
            way = {k: rng.normal(size=g.shape) for k, g in grads.items() if k.startswith(part)}
            up, down = (
                function({**w0, **{k: w0[k] + sign * NEAR * way[k] for k in way}}, w0)
                for sign in (1, -1)
            )
            slope = sum((grads[k] * way[k]).sum() for k in way)
            assert slope == pytest.approx((up - down) / (2 * NEAR), rel=1e-4, abs=1e-7), (
                name,
                part,
            )


@pytest.mark.parametrize("kind", ["rad", "ted", "drqv2"])
def test_who_moves_when(kind):
    agent = make(kind)
    batch, _ = make_case(agent)
    moved = []
    for _ in range(4):
        before = weights(agent)
        agent.learn(batch, STEP)
        after = weights(agent)
        changed = {k for k in after if not np.array_equal(after[k], before[k])}
        moved.append({k.split(".")[0] for k in changed} - {"classifier", "stddev"})
        if "target" in moved[-1]:
            shares = {"q": 0.01, "head": agent.config.get("encoder_tau", 0.01)}
            for name in (k for k in before if k.startswith("target.")):
                share = shares.get(name.split(".")[1], shares["head"])
                new = before[name] + share * (
                    after[name.replace("target", "critic")] - before[name]
                )
                np.testing.assert_allclose(after[name], new, rtol=1e-12, atol=1e-15)
    whole = {"critic", "actor", "target"} | ({"log_alpha"} if kind != "drqv2" else set())
    others = whole if kind == "drqv2" else {"critic"}
    assert moved == [whole, others, whole, others]


def test_the_critics_gradient_is_only_forgotten_on_request():
    """The authors' optimiser of the actor clears it, wherever the actor is updated."""
    grads = {}
    for kind in ("ted", "ted faithful"):
        agent = make(kind, ted_coef="0.0")
        batch, noise = make_case(agent)
        agent.draw_noise = lambda *_, noise=noise: noise
        seen = record(agent)
        for due in (True, False):
            agent.learn(batch, STEP)
            found = seen["encoder"][1]["critic.convs.layers.0.weight"]
            grads[kind, due] = np.abs(found).sum()
    assert grads["ted faithful", True] == 0
    assert min(grads["ted", True], grads["ted", False], grads["ted faithful", False]) > 1e-4
