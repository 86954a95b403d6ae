"""Two-hot targets, symlog and the bins, against NumPy."""

import numpy as np
import pytest
import torch

from baselines.tdmpc2_networks import TwoHot as Places
from baselines.twohot import TwoHot, make_bins
from distributions import symexp, symlog


def test_symlog_and_symexp_are_each_others_inverse():
    x = torch.tensor([-4e8, -3.0, -1e-6, 0.0, 0.5, 20.0, 1e6], dtype=torch.float64)
    expected = np.sign(x.numpy()) * np.log(1 + np.abs(x.numpy()))
    np.testing.assert_allclose(symlog(x), expected, rtol=1e-9)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-12)


def test_bins_are_symmetric_and_hold_zero():
    bins = make_bins(255)
    assert bins.shape == (255,)
    assert (bins.diff() > 0).all()
    np.testing.assert_array_equal(bins, -bins.flip(0))
    assert bins[127] == 0
    expected = np.sinh(np.linspace(-20, 20, 255) / 2)  # sign(x)(e^|x| − 1) = 2 sinh(x/2)·e^(|x|/2)
    expected = 2 * expected * np.exp(np.abs(np.linspace(-20, 20, 255)) / 2)
    np.testing.assert_allclose(bins, expected, rtol=1e-5)


def by_hand(bins, x):
    """The target's weights [K] for one number."""
    weights = np.zeros(len(bins))
    if x <= bins[0] or x >= bins[-1]:
        weights[0 if x <= bins[0] else -1] = 1
        return weights
    above = next(i for i, edge in enumerate(bins) if edge > x)
    share = (x - bins[above - 1]) / (bins[above] - bins[above - 1])
    weights[above - 1], weights[above] = 1 - share, share
    return weights


def test_a_target_lies_on_two_bins_and_its_mean_is_the_number():
    bins = make_bins(9)
    inside = [-80.0, -1.0, 0.0, 0.3, float(bins[6]), 900.0]
    x = torch.tensor([*inside, float(bins[0]), float(bins[-1]), -6e8, 6e8])
    logits = torch.randn(len(x), 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = TwoHot(logits, bins).log_prob(x)
    weights = np.stack([by_hand(bins.double().numpy(), each) for each in x.double().numpy()])
    log = logits.detach().double().numpy()
    log = log - np.log(np.exp(log).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.detach(), (weights * log).sum(-1), rtol=1e-5)
    np.testing.assert_allclose((weights @ bins.double().numpy())[: len(inside)], inside, rtol=1e-6)
    found.sum().backward()  # of a cross-entropy: target less prediction
    np.testing.assert_allclose(logits.grad, weights - np.exp(log), atol=1e-6)


def test_the_mode_is_the_mean_and_zero_at_first():
    bins = make_bins(255)
    assert (TwoHot(torch.zeros(4, 255), bins).mode() == 0).all()
    logits = 3 * torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(1))
    few = make_bins(9)
    dist = TwoHot(logits, few)
    probs = np.exp(logits.double().numpy())
    probs /= probs.sum(-1, keepdims=True)
    np.testing.assert_allclose(dist.mode(), probs @ few.double().numpy(), rtol=1e-4)
    np.testing.assert_array_equal(dist[:1].mode(), dist.mode()[:1])


@pytest.mark.parametrize("value", [-250.0, 0.0, 0.01, 37.0])
def test_what_is_learned_is_the_number(value):
    bins, logits = make_bins(255), torch.zeros(1, 255, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(150):
        optimizer.zero_grad()
        (-TwoHot(logits, bins).log_prob(torch.tensor([value]))).backward()
        optimizer.step()
    assert TwoHot(logits, bins).mode().item() == pytest.approx(value, rel=0.05, abs=0.05)


def test_a_target_that_is_no_number_makes_none_of_the_loss():
    x = torch.tensor([1.0, torch.nan])
    logits = torch.zeros(2, 9)
    assert TwoHot(logits, make_bins(9)).log_prob(x).isnan().tolist() == [False, True]
    assert Places(-10, 10, 9).loss(logits, x).isnan().tolist() == [False, True]
