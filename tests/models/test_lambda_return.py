"""λ-returns, against the mixture of n-step returns by brute force."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from behavior import lambda_return


def brute_force_return(reward, value, discount, lambda_):
    """The mixture of n-step returns, for each start; ``value`` has one row more."""
    steps, returns = len(reward), np.zeros_like(reward)
    for t in range(steps):
        n_step = []
        for n in range(1, steps - t + 1):
            total, factor = 0.0, 1.0
            for i in range(t, t + n):
                total = total + factor * reward[i]
                factor = factor * discount[i]
            n_step.append(total + factor * value[t + n])
        for n, g in enumerate(n_step, 1):
            share = lambda_ ** (n - 1) * ((1 - lambda_) if n < len(n_step) else 1)
            returns[t] += share * g
    return returns


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**16))
@settings(max_examples=30)
def test_lambda_return_is_the_mixture_of_n_step_returns(steps, lambda_, seed):
    rng = np.random.default_rng(seed)
    reward, discount = rng.normal(size=(steps, 2)), rng.uniform(0, 1, (steps, 2))
    value = rng.normal(size=(steps + 1, 2))
    tensors = [torch.tensor(x) for x in (reward, value[:-1], discount, value[-1])]
    expected = brute_force_return(reward, value, discount, lambda_)
    np.testing.assert_allclose(lambda_return(*tensors, lambda_), expected, atol=1e-9)


def test_lambda_returns_ends():
    rng = np.random.default_rng(0)
    reward, value, discount = (rng.uniform(size=(rows, 2)) for rows in (4, 5, 4))
    tensors = [torch.tensor(x) for x in (reward, value[:-1], discount, value[-1])]
    np.testing.assert_allclose(lambda_return(*tensors, 0.0), reward + discount * value[1:])
    monte_carlo, last = lambda_return(*tensors, 1.0), value[4]
    for t in (3, 2, 1, 0):
        last = reward[t] + discount[t] * last
        np.testing.assert_allclose(monte_carlo[t], last)
