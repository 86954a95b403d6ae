"""Mutual information between latents and factors, and the scores that are made of it.

All of it by equal-count bins: the entropy of a factor is then at most ln B, while a differential
one could be 0 or less and must not be divided by.
"""

from __future__ import annotations

import numpy as np

from measure.factors import Factors

CELL = 5  # frames that a cell is to have for χ² to hold, by the usual rule
SURE = 4.0  # standard deviations above chance
BINS = 20  # as in disentanglement_lib (Locatello et al. 2019, arXiv 1811.12359)


def bin_numbers(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The number of the bin that each value falls into, int64 [N]; bins hold equally many.

    Values of no more kinds than bins are told apart one by one. Equal values share the bin of their
    middle, so that there are two bins at least, and an entropy, where nearly all are equal.
    """
    kinds, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(kinds) <= bins:
        return which.reshape(values.shape)
    middle = np.cumsum(counts) - counts / 2
    return (bins * middle / len(values)).astype(np.int64)[which.reshape(values.shape)]


def entropy(numbers: np.ndarray) -> float:
    """Of bins, in nats."""
    share = np.bincount(numbers) / len(numbers)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def bins_for(frames: int) -> int:
    """How many bins so many frames fill: `CELL` in each pair of bins, and no more than `BINS`."""
    return max(2, min(BINS, int(np.sqrt(frames / CELL))))


def mutual_information(
    code: np.ndarray, factors: Factors, bins: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Between each latent and each factor, and each factor's entropy, in nats.

    Of N independent pairs 2N times its estimate is nearly χ² with f = (B − 1)(B' − 1) degrees of
    freedom (Miller 1955). So f / 2N is taken off, and what is not `SURE` standard deviations of
    that, √(2f) / 2N, above it is 0.

    Args:
        code: [N, Z].
        factors: of the same N pictures.
        bins: of latents, and of factors; None for as many as `bins_for` says.

    Returns:
        [Z, K] and [K].
    """
    bins = bins or bins_for(len(code))
    rows = [bin_numbers(column, bins) for column in code.T]
    columns = [bin_numbers(column, bins) for column in factors.values.T]
    found = [[_pair(row, column) for column in columns] for row in rows]
    return np.array(found).reshape(len(rows), -1), np.array([entropy(c) for c in columns])


def _pair(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two lists of bins, in nats."""
    width, n = int(other.max()) + 1, len(one)
    joint = np.bincount(one * width + other, minlength=(int(one.max()) + 1) * width)
    share = joint.reshape(-1, width) / n
    apart = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    seen = share > 0
    value = float((share[seen] * np.log(share[seen] / apart[seen])).sum())
    rows, columns = (int((share.sum(axis=axis) > 0).sum()) for axis in (1, 0))
    freedom = (rows - 1) * (columns - 1)
    above = value - freedom / (2 * n)
    return above if above > SURE * np.sqrt(2 * freedom) / (2 * n) else 0.0


def mig(information: np.ndarray, entropies: np.ndarray) -> float:
    """Mutual information gap (Chen et al. 2018, arXiv 1802.04942).

    The mean over factors of the lead of the latent that tells most of it, as a share of its
    entropy.

    Args:
        information: [Z, K] in nats.
        entropies: [K] in nats.
    """
    return float((lead(information) / entropies).mean())


def lead(matrix: np.ndarray) -> np.ndarray:
    """By how much the largest number of each column [Z, K] is ahead of the second: [K]."""
    if len(matrix) == 1:
        return matrix[0]
    second, first = np.sort(matrix, axis=0)[-2:]
    return first - second


def modularity(information: np.ndarray) -> float:
    """Modularity (Ridgeway and Mozer 2018, arXiv 1802.05312): 1 where a latent tells one factor.

    The mean over latents of 1 − Σ_{k ≠ best} I² / (I²_best (K − 1)); one that tells nothing is 0.

    Args:
        information: [Z, K], of active latents.
    """
    squares = information**2
    best = squares.max(axis=1)
    others = max(1, information.shape[1] - 1) * best
    rest = np.divide(squares.sum(axis=1) - best, others, out=np.ones_like(best), where=best > 0)
    return float((1 - rest).mean())


def infom_infoc(information: np.ndarray, entropies: np.ndarray) -> tuple[float, float]:
    """InfoMEC's modularity and compactness (Hsu et al. 2023, arXiv 2305.18378).

    Of the information as a share of each factor's entropy: the mean over latents of the largest
    share in what a latent tells of all factors, and the mean over factors of the largest share in
    what all latents tell of it; each rescaled so that an even spread is 0. What tells nothing is 0.

    Args:
        information: [Z, K] in nats, of active latents.
        entropies: [K] in nats.
    """
    shares = information / entropies
    return _concentration(shares), _concentration(shares.T)


def _concentration(shares: np.ndarray) -> float:
    """The mean over rows [M, L] of the largest share, from 0 for an even spread to 1."""
    total, length = shares.sum(axis=1), shares.shape[1]
    even = 1 / length
    largest = np.divide(shares.max(axis=1), total, out=np.full(len(total), even), where=total > 0)
    if length == 1:
        return float((total > 0).mean())
    return float(((largest - even) / (1 - even)).mean())
