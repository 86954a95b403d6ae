"""The optimisers: their steps by hand, and the bad steps that they do not take."""

import io

import numpy as np
import pytest
import torch

import config
from agents.optimizer import Optimizer

OPTIMISERS = ["adam", "adamax", "sgd", "momentum"]


def options(**changes):
    return config.parse([]).replace(**changes)


def make_optimizer(name):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(4))]
    given = options(opt=name, weight_decay=0.01)
    return parameters, Optimizer("x", parameters, given, 0.1, 1.0)


def loss_of(parameters, scale=1.0):
    return scale * sum((p**2).sum() for p in parameters)


def copies(parameters, optimizer):
    return [t.detach().clone() for t in [*parameters, *optimizer.tensors()]]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_by_hand(decay):
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Optimizer("x", [p], options(weight_decay=decay, opt_eps=0.01), 0.1, 100.0)
    value, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t in range(1, 5):
        optimizer.step((p**2).sum() * 0.01)
        grad = 0.02 * value
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        value = value * (1 - 0.1 * decay)
        value = value - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 0.01)
        np.testing.assert_allclose(p.detach(), value, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamax", "sgd", "momentum"])
def test_other_optimisers_go_down(name):
    p = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = Optimizer("x", [p], options(opt=name), 0.1, 100.0)
    for _ in range(5):
        assert set(optimizer.step((p**2).sum())) == {"x_loss", "x_grad_norm", "skipped_x"}
    assert p.detach().abs() < 0.7


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_bad_step_is_not_taken_and_the_next_one_is_as_if_it_had_not_been(name, bad, first):
    parameters, optimizer = make_optimizer(name)
    others, reference = make_optimizer(name)
    if not first:
        for one, own in ((optimizer, parameters), (reference, others)):
            assert one.step(loss_of(own))["skipped_x"] == 0
    before = copies(parameters, optimizer)
    metrics = optimizer.step(loss_of(parameters, bad))
    assert metrics["skipped_x"] == 1
    assert not torch.isfinite(metrics["x_loss"])
    for now, then in zip(copies(parameters, optimizer), before, strict=False):
        assert torch.equal(now, then)
    for own, one in ((parameters, optimizer), (others, reference)):
        one.step(loss_of(own))
    for mine, theirs in zip(copies(parameters, optimizer), copies(others, reference), strict=True):
        assert torch.equal(mine, theirs)
    assert not any(torch.equal(now, then) for now, then in zip(parameters, before, strict=False))


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_a_bad_step():
    parameters, optimizer = make_optimizer("adam")
    before = copies(parameters, optimizer)
    flat = torch.zeros((), requires_grad=True)
    loss = loss_of(parameters) + torch.sqrt(flat * 0 + (parameters[0] * 0).sum())  # ∂√x at 0
    assert torch.isfinite(loss)
    metrics = optimizer.step(loss)
    assert (metrics["skipped_x"], torch.isfinite(metrics["x_grad_norm"])) == (1, False)
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=False))


def test_what_skips_a_step_is_no_part_of_the_optimisers_state():
    parameters, optimizer = make_optimizer("adam")
    optimizer.step(loss_of(parameters))
    torch.save(optimizer.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    _, other = make_optimizer("adam")
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert "found_inf" not in str(optimizer.state_dict())
    assert len(other.tensors()) == len(optimizer.tensors()) == 6
