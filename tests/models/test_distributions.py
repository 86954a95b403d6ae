"""The distributions against scipy, torch.distributions and finite differences."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as td
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from distributions import (
    Bernoulli,
    Huber,
    Normal,
    OneHot,
    TanhNormal,
    TruncatedNormal,
    UnitNormal,
    kl_normal,
    kl_onehot,
    kl_standard,
)

LOCS = (-1.0, -0.6, 0.0, 0.35, 1.0)
STDS = (0.1, 0.5, 1.1, 2.1)
GRID = [(loc, std) for loc in LOCS for std in STDS]

reals = st.floats(-4, 4, allow_subnormal=False)
positives = st.floats(0.05, 5)


def truncated(loc, std):
    return stats.truncnorm((-1 - loc) / std, (1 - loc) / std, loc, std)


def uniform_p(samples, cdf):
    """The p-value of the samples' cumulative probabilities being uniform."""
    return stats.kstest(cdf(np.asarray(samples, np.float64)), "uniform").pvalue


@given(st.lists(st.tuples(reals, positives), min_size=1, max_size=5))
@settings(max_examples=40)
def test_kl_standard_is_the_kl_to_a_standard_normal(pairs):
    mean, std = torch.tensor(pairs).unbind(-1)
    expected = td.kl_divergence(td.Normal(mean, std), td.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_standard(mean, 2 * std.log()), expected, rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(reals, positives, reals, positives), min_size=1, max_size=5))
@settings(max_examples=40)
def test_kl_normal_is_the_kl_of_the_left_to_the_right(rows):
    mean, std, other_mean, other_std = torch.tensor(rows).double().unbind(-1)
    expected = td.kl_divergence(td.Normal(mean, std), td.Normal(other_mean, other_std)).sum()
    torch.testing.assert_close(kl_normal(mean, std, other_mean, other_std), expected)


def test_kl_onehot_sums_the_variables():
    left, right = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    p, q = td.Categorical(logits=left), td.Categorical(logits=right)
    torch.testing.assert_close(kl_onehot(left, right), td.kl_divergence(p, q).sum(-1))
    assert (kl_onehot(left, right) - kl_onehot(right, left)).abs().max() > 0.1


def test_kls_keep_the_leading_dimensions_and_vanish_on_equals():
    mean, std = torch.randn(3, 2, 4), torch.rand(3, 2, 4) + 0.1
    assert kl_standard(mean, std).shape == (3, 2)
    torch.testing.assert_close(kl_normal(mean, std, mean, std), torch.zeros(3, 2))
    torch.testing.assert_close(kl_onehot(mean, mean + 3), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(kl_standard(torch.zeros(3, 4), torch.zeros(3, 4)), torch.zeros(3))


@pytest.mark.parametrize("dims", [0, 1, 3])
@pytest.mark.parametrize("unit", [False, True])
def test_normals_against_torch(dims, unit):
    mean, x = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).unbind()
    std = torch.ones_like(mean) if unit else mean.exp()
    ours = UnitNormal(mean, dims) if unit else Normal(mean, std, dims)
    theirs = td.Independent(td.Normal(mean, std), dims)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.mode(), mean)


@pytest.mark.parametrize("make", [lambda m: Normal(m, 0.3), UnitNormal])
def test_normals_sample_their_law_with_gradient(make):
    torch.manual_seed(2)
    mean = torch.full((4000, 1), 0.7, requires_grad=True)
    dist = make(mean)
    samples = dist.rsample()
    std = 0.3 if isinstance(dist, Normal) and not isinstance(dist, UnitNormal) else 1.0
    assert uniform_p(samples.detach()[:, 0], stats.norm(0.7, std).cdf) > 1e-3
    samples.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))


def test_a_samples_gradient_reaches_the_std():
    torch.manual_seed(3)
    mean, std = torch.zeros(6), torch.full((6,), 0.5, requires_grad=True)
    samples = Normal(mean, std).rsample()
    (grad,) = torch.autograd.grad(samples.sum(), std)
    torch.testing.assert_close(grad, samples.detach() / 0.5)


def test_huber_is_quadratic_near_and_linear_far():
    mean, x = np.random.default_rng(0).normal(size=(2, 6, 3)) * 5
    expected = [sum(1 - math.sqrt(1 + error**2) for error in row) for row in x - mean]
    dist = Huber(torch.tensor(mean))
    np.testing.assert_allclose(dist.log_prob(torch.tensor(x)), expected, rtol=1e-5)
    dist = Huber(torch.zeros(1))
    assert float(dist.log_prob(torch.tensor([0.01]))) == pytest.approx(-0.5e-4, rel=0.01)
    slope = dist.log_prob(torch.tensor([1001.0])) - dist.log_prob(torch.tensor([1000.0]))
    assert float(slope) == pytest.approx(-1, rel=1e-3)


def test_bernoulli_against_torch():
    logits = torch.linspace(-6, 6, 12).reshape(4, 3)
    x = (torch.arange(12).reshape(4, 3) % 2).float()
    ours, theirs = Bernoulli(logits), td.Independent(td.Bernoulli(logits=logits), 1)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert torch.equal(ours.mode(), (theirs.mean > 0.5).float())


def test_bernoulli_takes_fractions_and_stays_finite():
    p, x = 0.3, 0.99
    dist = Bernoulli(torch.tensor([math.log(p / (1 - p))]))
    expected = x * math.log(p) + (1 - x) * math.log(1 - p)
    assert float(dist.log_prob(torch.tensor([x]))) == pytest.approx(expected, rel=1e-5)
    logits = torch.tensor([-500.0, 500.0], requires_grad=True)
    Bernoulli(logits, 0).log_prob(torch.tensor([1.0, 0.0])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize(("loc", "std"), GRID)
def test_truncated_normal_against_scipy(loc, std):
    x = np.linspace(-0.999, 0.999, 9)
    ours = TruncatedNormal(torch.full((9, 1), loc), torch.full((9, 1), std))
    theirs = truncated(loc, std)
    log_prob = ours.log_prob(torch.tensor(x, dtype=torch.float32)[:, None])
    np.testing.assert_allclose(log_prob, theirs.logpdf(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.entropy(), np.full(9, theirs.entropy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("loc", "std"), [(-1.0, 0.1), (0.9, 0.3), (0.2, 2.1)])
def test_truncated_normal_samples_follow_scipys_law(loc, std):
    torch.manual_seed(4)
    samples = TruncatedNormal(torch.full((5000, 2), loc), torch.full((5000, 2), std)).rsample()
    assert samples.abs().max() < 1
    assert uniform_p(samples.flatten(), truncated(loc, std).cdf) > 1e-3
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("loc", "std"), [(-0.9, 0.2), (0.0, 0.7), (0.5, 1.6)])
def test_truncated_normal_samples_have_the_implicit_gradient(loc, std):
    """At a fixed cumulative probability, dx/dθ = −(∂F/∂θ) / f(x)."""
    torch.manual_seed(5)
    locs = torch.full((40, 1), loc, requires_grad=True)
    stds = torch.full((40, 1), std, requires_grad=True)
    samples = TruncatedNormal(locs, stds).rsample()
    by_loc, by_std = torch.autograd.grad(samples.sum(), (locs, stds))
    x, h = samples.detach().double().numpy(), 1e-5
    pdf = truncated(loc, std).pdf(x)
    slope = (truncated(loc + h, std).cdf(x) - truncated(loc - h, std).cdf(x)) / (2 * h)
    np.testing.assert_allclose(by_loc, -slope / pdf, rtol=5e-3, atol=5e-4)
    slope = (truncated(loc, std + h).cdf(x) - truncated(loc, std - h).cdf(x)) / (2 * h)
    np.testing.assert_allclose(by_std, -slope / pdf, rtol=5e-3, atol=5e-4)


def test_truncated_normal_sums_the_last_dimension_and_its_mode_is_its_peak():
    loc, std = torch.tensor([[0.2, -0.8]]), torch.tensor([[0.3, 1.2]])
    dist, x = TruncatedNormal(loc, std), torch.tensor([[0.1, 0.9]])
    parts = [TruncatedNormal(a, b) for a, b in zip(loc.split(1, 1), std.split(1, 1), strict=True)]
    each = [d.log_prob(v) for d, v in zip(parts, x.split(1, 1), strict=True)]
    torch.testing.assert_close(dist.log_prob(x), sum(each))
    torch.testing.assert_close(dist.entropy(), sum(d.entropy() for d in parts))
    assert torch.equal(dist.mode(), loc)
    assert (dist.log_prob(loc) > dist.log_prob(torch.tensor([[0.25, -0.8]]))).all()


def test_truncated_normals_gradients_are_finite_at_the_bounds():
    loc = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    std = torch.full((1, 2), 0.1, requires_grad=True)
    torch.manual_seed(6)
    for _ in range(200):
        dist = TruncatedNormal(loc, std)
        x = dist.rsample()
        value = (x.sum() + dist.entropy() + dist.log_prob(x)).sum()
        for grad in torch.autograd.grad(value, (loc, std)):
            assert torch.isfinite(grad).all()


def test_tanh_normal_against_torch():
    mean, std = torch.tensor([[0.4, -1.5]]), torch.tensor([[0.5, 1.3]])
    ours = TanhNormal(mean, std)
    theirs = td.TransformedDistribution(td.Normal(mean, std), [td.TanhTransform()])
    x = torch.tensor([[-0.9, 0.7]])
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).sum(-1))
    torch.testing.assert_close(ours.mode(), mean.tanh())
    # Far from 0 the naive log(1 − tanh²) is −∞.
    assert torch.isfinite(ours.log_prob(torch.tensor([[1.0, -1.0]]))).all()


@pytest.mark.parametrize(
    ("mean", "std", "within"), [(0.0, 0.1, 1e-4), (0.9, 1.4, 1e-4), (4.0, 10.0, 0.2)]
)
def test_tanh_normal_entropy_is_the_integral_and_draws_nothing(mean, std, within):
    """H[tanh Y] = H[Y] + E[log(1 − tanh²Y)], and its derivatives."""
    given = [torch.tensor([x], requires_grad=True) for x in (mean, std)]
    before = torch.get_rng_state()
    entropy = TanhNormal(*given).entropy()
    assert torch.equal(torch.get_rng_state(), before)

    def exact(mean, std):
        def integrand(x):
            return stats.norm.pdf(x) * -2 * (np.logaddexp(mean + std * x, -mean - std * x))

        slope, _ = integrate.quad(integrand, -9, 9, points=[-mean / std], epsabs=1e-10)
        return stats.norm(mean, std).entropy() + slope + 2 * np.log(2)

    assert entropy.item() == pytest.approx(exact(mean, std), abs=within)
    h = 1e-4
    by_mean = (exact(mean + h, std) - exact(mean - h, std)) / (2 * h)
    by_std = (exact(mean, std + h) - exact(mean, std - h)) / (2 * h)
    grads = [float(grad) for grad in torch.autograd.grad(entropy, given)]
    assert grads == pytest.approx([by_mean, by_std], abs=within)


def test_tanh_normal_samples():
    torch.manual_seed(7)
    mean, std = 0.4, 0.6
    dist = TanhNormal(torch.full((4000, 1), mean), torch.full((4000, 1), std))
    assert dist.entropy().shape == (4000,)
    samples = np.arctanh(dist.rsample()[:, 0].double())
    assert uniform_p(samples, stats.norm(mean, std).cdf) > 1e-3


def test_onehot_against_torch():
    logits = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(8))
    x = td.OneHotCategorical(logits=logits).sample()
    for dims in (0, 1):
        ours = OneHot(logits, event_dims=dims)
        theirs = td.Independent(td.OneHotCategorical(logits=logits), dims)
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(ours.entropy(), theirs.entropy())
    peak = torch.nn.functional.one_hot(logits.argmax(-1), 4).float()
    torch.testing.assert_close(OneHot(logits).mode(), peak)


@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0])
def test_onehot_samples_are_hard_and_as_frequent_as_their_probability(temperature):
    torch.manual_seed(9)
    probs = torch.tensor([0.05, 0.5, 0.15, 0.3])
    samples = OneHot(probs.log().expand(6000, 4) + 2.0, temperature=temperature).rsample()
    assert ((samples > 0.999).sum(-1) == 1).all()
    torch.testing.assert_close(samples.sum(-1), torch.ones(6000))
    expected = probs.double().numpy() / probs.double().sum().item() * 6000
    counts = samples.round().double().sum(0).numpy()
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("which", ["rsample", "mode"])
def test_onehot_gradient_is_that_of_the_probabilities(which):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(10)).requires_grad_()
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(11))
    (grad,) = torch.autograd.grad((getattr(OneHot(logits), which)() * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(grad, expected)
    assert grad.abs().max() > 0.01


def test_onehot_with_a_temperature_has_the_relaxed_gradient():
    """∂ softmax(g/τ) / ∂ logits = (diag(y) − y yᵀ) / τ, for normalised logits."""
    logits = torch.log_softmax(torch.tensor([0.3, -0.2, 0.9]), -1).requires_grad_()
    noise, weight, tau = torch.tensor([0.2, 0.7, 0.6]), torch.tensor([1.0, -2.0, 0.5]), 0.4
    sample = OneHot(logits, temperature=tau).rsample(noise)
    (grad,) = torch.autograd.grad((sample * weight).sum(), logits)
    g = logits.detach().double().numpy() - np.log(-np.log(noise.double().numpy()))
    y = np.exp(g / tau) / np.exp(g / tau).sum()
    jacobian = (np.diag(y) - np.outer(y, y)) / tau
    np.testing.assert_allclose(sample.detach(), np.eye(3)[g.argmax()], atol=1e-6)
    np.testing.assert_allclose(grad, jacobian @ weight.double().numpy(), rtol=1e-4)


def test_onehot_noise_may_be_0_or_1():
    noise = torch.tensor([0.0, 1.0, 0.5])
    sample = OneHot(torch.zeros(3)).rsample(noise)
    assert torch.equal(sample.round(), torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Normal(x, x.exp()),
        UnitNormal,
        Huber,
        Bernoulli,
        OneHot,
        lambda x: TruncatedNormal(x.tanh(), x.exp()),
        lambda x: TanhNormal(x, x.exp()),
    ],
)
def test_everything_computes_in_float32(make):
    dist = make(torch.randn(4, 3, dtype=torch.bfloat16))
    outputs = [dist.mode(), dist.log_prob(dist.mode().bfloat16()), dist.entropy()]
    assert [x.dtype for x in outputs] == [torch.float32] * 3
