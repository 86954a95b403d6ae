"""The distributions that heads and latents speak in.

Each is a small object over tensors with ``mode``, ``rsample`` (its gradient reaches the
parameters), ``log_prob`` and ``entropy``. Trailing event dimensions are summed over. All of them
compute in float32, whatever precision the network in front ran in. ``rsample`` may be given its
noise, shaped like the sample: uniform in [0, 1) where it goes through a cumulative distribution
(truncated normal, one-hot), standard normal elsewhere.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def symlog(x: Tensor) -> Tensor:
    """sign(x)·ln(1 + |x|) (arXiv 2301.04104, equation 1)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def _sum_event(x: Tensor, dims: int) -> Tensor:
    return x.sum(dim=tuple(range(-dims, 0))) if dims else x


def _normal(like: Tensor, noise: Tensor | None) -> Tensor:
    return torch.randn_like(like) if noise is None else noise


class Normal:
    """A diagonal Gaussian over the last ``event_dims`` dimensions."""

    def __init__(self, mean: Tensor, std: Tensor | float = 1.0, event_dims: int = 1):
        self.mean = mean.float()
        self.std = std.float() if isinstance(std, Tensor) else torch.full_like(self.mean, std)
        self.event_dims = event_dims

    def mode(self) -> Tensor:
        return self.mean

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        return self.mean + self.std * _normal(self.mean, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        scaled = (x.float() - self.mean) / self.std
        return _sum_event(-0.5 * scaled.square() - self.std.log() - _HALF_LOG_2PI, self.event_dims)

    def entropy(self) -> Tensor:
        return _sum_event(0.5 + _HALF_LOG_2PI + self.std.log(), self.event_dims)


class UnitNormal(Normal):
    """A Gaussian with standard deviation 1: squared error, without a tensor of ones to carry."""

    def __init__(self, mean: Tensor, event_dims: int = 1):
        self.mean = mean.float()
        self.event_dims = event_dims

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        return self.mean + _normal(self.mean, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        error = F.mse_loss(self.mean, x.float(), reduction="none")
        size = math.prod(self.mean.shape[self.mean.ndim - self.event_dims :])
        return -0.5 * _sum_event(error, self.event_dims) - size * _HALF_LOG_2PI

    def entropy(self) -> Tensor:
        return _sum_event(torch.full_like(self.mean, 0.5 + _HALF_LOG_2PI), self.event_dims)


class Huber(UnitNormal):
    """Not normalised: −(√(1 + (x − mean)²) − 1), quadratic near the mean and linear far away."""

    def log_prob(self, x: Tensor) -> Tensor:
        error = (x.float() - self.mean).square()
        return -_sum_event((1 + error).sqrt() - 1, self.event_dims)


class Bernoulli:
    """Independent coins. ``mean`` is the probability of 1; ``x`` may lie between 0 and 1."""

    def __init__(self, logits: Tensor, event_dims: int = 1):
        self.logits = logits.float()
        self.event_dims = event_dims

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def mode(self) -> Tensor:
        return (self.logits > 0).float()

    def log_prob(self, x: Tensor) -> Tensor:
        ones, zeros = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return _sum_event(x * ones + (1 - x) * zeros, self.event_dims)

    def entropy(self) -> Tensor:
        return -self.log_prob(self.mean)


class TruncatedNormal:
    """A Gaussian that is cut off outside [−1, 1] and normalised again, over the last dimension.

    Samples go through the inverse of the cumulative distribution, so gradients are exact. The mean
    of the Gaussian must lie in [−1, 1], where that inverse is well conditioned.
    """

    _EDGE = 1e-6

    def __init__(self, loc: Tensor, std: Tensor):
        self.loc, self.std = loc.float(), std.float()
        self._low = (-1 - self.loc) / self.std
        self._high = (1 - self.loc) / self.std
        self._cdf_low = torch.special.ndtr(self._low)
        self._mass = torch.special.ndtr(self._high) - self._cdf_low

    def mode(self) -> Tensor:
        return self.loc

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        noise = torch.rand_like(self.loc) if noise is None else noise
        p = self._cdf_low + noise * self._mass
        x = self.loc + self.std * torch.special.ndtri(p.clamp(self._EDGE, 1 - self._EDGE))
        return x.clamp(-1 + self._EDGE, 1 - self._EDGE)

    def log_prob(self, x: Tensor) -> Tensor:
        scaled = (x.float() - self.loc) / self.std
        each = -0.5 * scaled.square() - _HALF_LOG_2PI - self.std.log() - self._mass.log()
        return each.sum(-1)

    def entropy(self) -> Tensor:
        def x_pdf(x: Tensor) -> Tensor:
            return x * torch.exp(-0.5 * x.square() - _HALF_LOG_2PI)

        edges = (x_pdf(self._low) - x_pdf(self._high)) / (2 * self._mass)
        return (0.5 + _HALF_LOG_2PI + (self.std * self._mass).log() + edges).sum(-1)


class TanhNormal:
    """tanh of a Gaussian, over the last dimension.

    Its entropy has no closed form: it is the Gaussian's, and the expected log-slope of tanh, which
    quadrature finds without drawing: the trapezoidal rule over ``_NODES`` points within
    ``_REACH`` standard deviations. It errs by less than 1e-4 nats where they are up to 1.4, and by
    1 % at 10.
    """

    _NODES, _REACH = 33, 5.0

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean, self.std = mean.float(), std.float()

    def mode(self) -> Tensor:
        """tanh of the Gaussian's mean: the median, which is finite where the mode is an edge."""
        return torch.tanh(self.mean)

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        return torch.tanh(self.mean + self.std * _normal(self.mean, noise))

    def log_prob(self, x: Tensor) -> Tensor:
        y = torch.atanh(x.float().clamp(-1 + 1e-6, 1 - 1e-6))
        scaled = (y - self.mean) / self.std
        each = -0.5 * scaled.square() - self.std.log() - _HALF_LOG_2PI - self._log_slope(y)
        return each.sum(-1)

    def entropy(self) -> Tensor:
        # Made on the device: a recorded update cannot take constants from elsewhere.
        reach, device = self._REACH, self.mean.device
        points = torch.linspace(-reach, reach, self._NODES, dtype=self.mean.dtype, device=device)
        weights = torch.softmax(-0.5 * points.square(), 0)
        y = self.mean[..., None] + self.std[..., None] * points  # [N, A, nodes]
        expected = (self._log_slope(y) * weights).sum(-1)
        return (0.5 + _HALF_LOG_2PI + self.std.log() + expected).sum(-1)

    @staticmethod
    def _log_slope(y: Tensor) -> Tensor:
        """log(1 − tanh²y), written so that it does not vanish for large |y|."""
        return 2 * (math.log(2) - y - F.softplus(-2 * y))


class OneHot:
    """One-hot categories over the last dimension, with straight-through gradients.

    ``event_dims`` counts further dimensions on the left of the categories that are summed over:
    1 for a latent of several categorical variables, 0 for an action.
    """

    def __init__(self, logits: Tensor, event_dims: int = 0, temperature: float = 0.0):
        self.logits = F.log_softmax(logits.float(), -1)
        self.event_dims = event_dims
        self.temperature = temperature

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    def mode(self) -> Tensor:
        return self._through(self.logits.argmax(-1), self.probs)

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Samples by the Gumbel trick; ``noise`` is uniform in (0, 1), shaped like the logits.

        With a temperature, the gradient is that of the Gumbel-softmax relaxation; without, that
        of the probabilities (straight-through, as in DreamerV2).
        """
        noise = torch.rand_like(self.logits) if noise is None else noise
        gumbel = self.logits - torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        if self.temperature:
            return self._through(gumbel.argmax(-1), F.softmax(gumbel / self.temperature, -1))
        return self._through(gumbel.argmax(-1), self.probs)

    def log_prob(self, x: Tensor) -> Tensor:
        return _sum_event((x * self.logits).sum(-1), self.event_dims)

    def entropy(self) -> Tensor:
        return _sum_event(-(self.probs * self.logits).sum(-1), self.event_dims)

    def _through(self, index: Tensor, soft: Tensor) -> Tensor:
        hard = F.one_hot(index, self.logits.shape[-1]).to(soft.dtype)
        return hard + soft - soft.detach()


def kl_normal(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(other_mean, other_std²)), summed over the last dimension, in nats."""
    ratio = (std / other_std).square()
    distance = ((mean - other_mean) / other_std).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def kl_standard(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)), summed over the last dimension, in nats.

    Source: Kingma and Welling 2013 (arXiv 1312.6114), appendix B.
    """
    mean, logvar = mean.float(), logvar.float()
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(-1)


def kl_onehot(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL between categoricals in the last dimension, summed over the one before it, in nats."""
    log_p, log_q = F.log_softmax(logits, -1), F.log_softmax(other_logits, -1)
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))
