"""What played episodes came to: returns, success, distance, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Outcome(NamedTuple):
    """What one episode came to.

    Attributes:
        ret: sum of its rewards.
        length: agent steps.
        success: whether it succeeded at any step; None where the environment does not tell.
        distance: from the goal, at the end, in the environment's unit; None likewise.
    """

    ret: float
    length: int
    success: bool | None = None
    distance: float | None = None


class Summary(NamedTuple):
    """Statistics of several episodes.

    Attributes:
        mean: of the returns.
        std: of the returns, with n − 1 in the denominator; 0 for a single episode.
        length: mean.
        success: share of the episodes; None where the environment does not tell.
        distance: mean, at the end; None likewise.
    """

    mean: float
    std: float
    length: float
    success: float | None
    distance: float | None


def outcome(episode: Mapping[str, np.ndarray]) -> Outcome:
    """What an episode of :func:`training.evaluator.play_episodes`, arrays [T], came to."""
    success = distance = None
    if "success" in episode:
        success = bool((episode["success"] > 0).any())  # row 0 is NaN: nothing was done yet
    if "distance" in episode and math.isfinite(episode["distance"][-1]):
        distance = float(episode["distance"][-1])
    ret = float(episode["reward"].sum(dtype=np.float64))
    return Outcome(ret, len(episode["reward"]) - 1, success, distance)


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Statistics of at least one episode."""
    returns = np.array([one.ret for one in outcomes])
    told = {
        name: [value for one in outcomes if (value := getattr(one, name)) is not None]
        for name in ("success", "distance")
    }
    return Summary(
        float(returns.mean()),
        float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        float(np.mean([one.length for one in outcomes])),
        *(float(np.mean(values)) if values else None for values in told.values()),
    )


def interval(std: np.ndarray | float, episodes: np.ndarray | int) -> np.ndarray:
    """Half the width of the mean's 95% interval, by Student's t: [evaluations], or one number.

    Args:
        std: standard deviation of one episode's return (n − 1 in the denominator).
        episodes: n; the interval of a single episode is empty.
    """
    from scipy import stats  # takes longer to import than most commands need

    n = np.maximum(episodes, 1)
    return np.where(n > 1, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * std / np.sqrt(n), 0.0)
