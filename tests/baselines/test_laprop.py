"""LaProp and its clip, against the formulas in NumPy."""

import numpy as np
import pytest
import torch

from baselines.laprop import LaProp

SHAPES = ((3, 4), (5,), (2,))
LR, CLIP, FLOOR, EPS, WARMUP = 0.1, 0.3, 1e-3, 1e-20, 4


def make(dtype=torch.float64, **more):
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in SHAPES]
    starts[2] *= 1e-6  # smaller than the floor
    weights = [torch.nn.Parameter(torch.tensor(start, dtype=dtype)) for start in starts]
    return starts, weights, LaProp("model", weights, LR, CLIP, warmup=WARMUP, **more)


def gradients(step):
    rng = np.random.default_rng(100 + step)
    sizes = (5.0, 0.01, 1.0)  # beyond the clip, below it, beyond the floor's
    return [size * rng.normal(size=shape) for size, shape in zip(sizes, SHAPES, strict=True)]


def take(optimizer, weights, grads, loss=0.0, skip=None):
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = torch.tensor(grad, dtype=weight.dtype)
    return optimizer.take(torch.tensor(loss, dtype=weights[0].dtype), skip)


def by_hand(starts, steps):
    """The weights after so many steps."""
    b1, b2 = 0.9, 0.999
    weights = [start.copy() for start in starts]
    m, v = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    for n in range(1, steps + 1):
        for i, grad in enumerate(gradients(n)):
            most = CLIP * max(FLOOR, np.sqrt((weights[i] ** 2).sum()))
            norm = np.sqrt((grad**2).sum())
            grad = grad if norm <= most else grad * most / norm
            v[i] = b2 * v[i] + (1 - b2) * grad**2
            m[i] = b1 * m[i] + (1 - b1) * grad / (np.sqrt(v[i] / (1 - b2**n)) + EPS)
            weights[i] = weights[i] - LR * min(1, (n - 1) / WARMUP) * m[i] / (1 - b1**n)
    return weights


def test_steps_are_those_of_the_formula():
    starts, weights, optimizer = make()
    for n in range(1, 8):
        metrics = take(optimizer, weights, gradients(n))
        if n == 1:  # the rate rises from 0
            np.testing.assert_array_equal(weights[0].detach(), starts[0])
        assert metrics["skipped_model"] == 0
        assert 0 < metrics["model_clipped"] < 1
        norm = np.sqrt(sum((grad**2).sum() for grad in gradients(n)))
        assert metrics["model_grad_norm"].item() == pytest.approx(norm)
        for weight, expected in zip(weights, by_hand(starts, n), strict=True):
            np.testing.assert_allclose(weight.detach(), expected, rtol=1e-12, atol=1e-15)


def test_the_first_full_step_is_as_long_as_the_rate():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = LaProp("model", [weight], 0.1, 1e9)
    take(optimizer, [weight], [np.array([3e-9, -7e5])])
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9]))


@pytest.mark.parametrize("how", ["gradient", "loss", "earlier"])
def test_a_step_that_is_not_finite_changes_nothing(how, same):
    _, weights, optimizer = make()
    for n in range(1, 4):
        take(optimizer, weights, gradients(n))
    before = [tensor.detach().clone() for tensor in [*weights, *optimizer.tensors()]]
    grads = gradients(4)
    if how == "gradient":
        grads[1][2] = np.inf
    skip = torch.ones(()) if how == "earlier" else None
    metrics = take(optimizer, weights, grads, np.nan if how == "loss" else 0.0, skip)
    assert metrics["skipped_model"] == 1
    same.values([*map(torch.Tensor.detach, weights), *optimizer.tensors()], before)


def test_a_first_step_that_is_skipped_leaves_numbers(same):
    starts, weights, optimizer = make()
    take(optimizer, weights, gradients(1), np.nan)
    for n in range(1, 4):
        take(optimizer, weights, gradients(n))
    for weight, expected in zip(weights, by_hand(starts, 3), strict=True):
        np.testing.assert_allclose(weight.detach(), expected, rtol=1e-12)


def test_a_state_goes_on_where_it_was(same):
    _, weights, optimizer = make(torch.float32)
    for n in range(1, 4):
        take(optimizer, weights, gradients(n))
    _, others, other = make(torch.float32)
    with torch.no_grad():
        for mine, theirs in zip(others, weights, strict=True):
            mine.copy_(theirs)
    other.load_state_dict(optimizer.state_dict())
    for n in range(4, 6):
        for each in ((optimizer, weights), (other, others)):
            take(*each, gradients(n))
    same.values([w.detach() for w in others], [w.detach() for w in weights])
    assert all(
        one.data_ptr() != two.data_ptr()
        for one, two in zip(optimizer.tensors(), other.tensors(), strict=True)
    )
