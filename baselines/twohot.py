"""Numbers as distributions over bins: rewards and values since DreamerV3 (arXiv 2301.04104)."""

from __future__ import annotations

import torch
from torch import Tensor

from distributions import symexp, symlog

LARGEST = 20.0  # of the bins, in symlog


def make_bins(count: int) -> Tensor:
    """An odd number of bins, symexp of evenly spaced ones within ±20: [K], exactly symmetric."""
    half = symexp(torch.linspace(-LARGEST, 0, count // 2 + 1))
    return torch.cat([half, -half[:-1].flip(0)])


class TwoHot:
    """A distribution over bins, which stands for one number.

    Args:
        logits: [N, K].
        bins: [K], rising, K odd.
    """

    def __init__(self, logits: Tensor, bins: Tensor):
        self.logits, self.bins = logits.float().log_softmax(-1), bins

    def __getitem__(self, rows: slice) -> TwoHot:
        """The distributions of some rows."""
        part = type(self).__new__(type(self))
        part.logits, part.bins = self.logits[rows], self.bins
        return part

    def mode(self) -> Tensor:
        """The expected bin, [N].

        Summed from both sides at once: equal probabilities come to exactly 0, where bins of up to
        5e8 would leave much of their rounding.
        """
        parts, half = self.logits.exp() * self.bins, len(self.bins) // 2
        return parts[..., half] + (parts[..., :half].flip(-1) + parts[..., half + 1 :]).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """−cross-entropy [N] with a target that lies on the two bins around each x [N].

        Its weights are linear in x, so that its expectation is x (within the bins).
        """
        x = x.float().contiguous()
        above = torch.bucketize(x, self.bins, right=True)  # how many bins are no larger
        below, above = (above - 1).clamp(min=0), above.clamp(max=len(self.bins) - 1)
        low, high = self.bins[below], self.bins[above]
        outside = (above == below) & ~x.isnan()  # of what is no number the share is none either
        share = torch.where(outside, 0.0, (x - low).abs() / (high - low).clamp(min=1e-30))
        each = [self.logits.gather(-1, index[..., None])[..., 0] for index in (below, above)]
        return torch.lerp(each[0], each[1], share)


class SymlogTwoHot(TwoHot):
    """The same over bins of a number's symmetric logarithm: they rise evenly, its mean is squashed.

    So DreamerV3's first version had it (arXiv 2301.04104v1, equation 10).
    """

    def mode(self) -> Tensor:
        """symexp of the expected bin, [N]."""
        return symexp(super().mode())

    def log_prob(self, x: Tensor) -> Tensor:
        """As of `TwoHot`; the weights are linear in symlog(x)."""
        return super().log_prob(symlog(x))
