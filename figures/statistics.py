"""Numbers of figures: means over seeds and their intervals, IQM, profiles, improvement.

The aggregates are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264). Scores are given as one array of runs for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
TRIM = 0.25  # of each end that an interquartile mean leaves out

Statistic = Callable[..., np.ndarray]
Scores = Sequence[np.ndarray]  # one array [runs] for each task


class Estimate(NamedTuple):
    """A number and its 95% interval, each of any shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(samples: Scores, statistic: Statistic, seed: int = 0) -> Estimate:
    """A statistic with its percentile interval, each sample drawn anew by itself.

    With one sample for each task this is the stratified bootstrap of Agarwal et al.: runs are
    drawn with replacement within their task.

    Args:
        samples: arrays [..., n_i]; each has at least one number along its last axis.
        statistic: takes as many arrays [..., n_i] and gives [...] or, of K numbers, [K, ...].
        seed: of the drawing.

    Returns:
        The statistic and its interval; where no sample has two numbers, that is the number itself.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    value = np.asarray(statistic(*arrays))
    drawn = [index for index, array in enumerate(arrays) if array.shape[-1] > 1]
    if not drawn:
        return Estimate(value, value, value)
    from scipy import stats  # takes longer to import than most commands need

    def of_drawn(*given: np.ndarray, axis: int = -1) -> np.ndarray:
        # SciPy draws from two numbers at least; a single one stays what it is.
        lead = given[0].shape[:-1]
        all_ = [np.broadcast_to(array, (*lead, array.shape[-1])) for array in fixed.values()]
        full = dict(zip(fixed, all_, strict=True)) | dict(zip(drawn, given, strict=True))
        return statistic(*(full[index] for index in range(len(arrays))))

    fixed = {i: array for i, array in enumerate(arrays) if i not in drawn}
    found = stats.bootstrap(
        [arrays[index] for index in drawn],
        of_drawn,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, np.asarray(found.low), np.asarray(found.high))


def mean_over_seeds(values: np.ndarray, band: str = "ci") -> Estimate:
    """Mean over seeds, and what is around it: its bootstrap interval, or a standard deviation.

    Args:
        values: [seeds, T].
        band: ``ci``, or ``std`` for one standard deviation (n − 1 in the denominator) either way.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean(0)
    if band == "std":
        std = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
        return Estimate(mean, mean - std, mean + std)
    found = bootstrap([values.T], lambda drawn: drawn.mean(-1))
    return found._replace(value=mean)


def iqm(*scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all runs of all tasks; arrays [..., n_i] give [...]."""
    from scipy import stats

    return stats.trim_mean(np.concatenate(scores, -1), TRIM, axis=-1)


def mean_of_tasks(*scores: np.ndarray) -> np.ndarray:
    """The mean over tasks of the means over their runs; arrays [..., n_i] give [...]."""
    return np.stack([score.mean(-1) for score in scores], -1).mean(-1)


def profile(scores: Scores, thresholds: np.ndarray) -> Estimate:
    """The share of all runs whose score is above each threshold: a performance profile [K]."""

    def above(*given: np.ndarray) -> np.ndarray:
        pooled = np.concatenate(given, -1)
        return np.stack([(pooled > threshold).mean(-1) for threshold in thresholds])

    return bootstrap(scores, above)


def improvement(ours: Scores, theirs: Scores) -> Estimate:
    """The probability that a run of ours is better than one of theirs, a mean over tasks.

    A tie counts half (Mann-Whitney's U over the number of pairs).
    """
    tasks = len(ours)
    if tasks != len(theirs):
        raise ValueError(f"{tasks} tasks against {len(theirs)}")

    def share(*given: np.ndarray) -> np.ndarray:
        each = []
        for x, y in zip(given[:tasks], given[tasks:], strict=True):
            difference = x[..., :, None] - y[..., None, :]
            each.append(((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1)))
        return np.mean(each, 0)

    return bootstrap([*ours, *theirs], share)


def normalize(score: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scores so that ``low`` is 0 and ``high`` is 1."""
    return (np.asarray(score, np.float64) - low) / (high - low)
