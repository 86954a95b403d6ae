"""Statistics against sums by hand, plain loops, and the numbers of another library."""

import itertools

import numpy as np
import pytest

from figures.statistics import (
    bootstrap,
    improvement,
    iqm,
    mean_of_tasks,
    mean_over_seeds,
    normalize,
    profile,
)

# Three tasks, four runs each, of two systems.
ONE = [[0.91, 0.83, 0.78, 0.95], [0.42, 0.57, 0.61, 0.38], [0.70, 0.66, 0.05, 0.73]]
OTHER = [[0.88, 0.79, 0.81, 0.60], [0.45, 0.31, 0.61, 0.52], [0.33, 0.58, 0.49, 0.20]]
ONE, OTHER = ([np.array(row) for row in rows] for rows in (ONE, OTHER))
THRESHOLDS = np.array([0.3, 0.5, 0.61, 0.8])


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    scores = [np.array([9.0, 1.0, 2.0]), np.array([3.0, 100.0, 4.0, 5.0, -50.0])]
    assert iqm(*scores) == (2 + 3 + 4 + 5) / 4  # of −50 1 | 2 3 4 5 | 9 100
    assert iqm(np.array([1.0, 2.0, 6.0])) == 3.0  # too few to leave any out


def test_tasks_count_alike_in_the_mean_whatever_their_runs():
    assert mean_of_tasks(np.array([1.0]), np.array([2.0, 4.0, 6.0])) == 2.5


def test_the_bootstrap_of_a_mean_is_that_of_all_possible_draws():
    seeds = np.array([1.0, 4.0, 10.0, 11.0])
    means = sorted(sum(draw) / 4 for draw in itertools.product(seeds, repeat=4))
    low, high = np.percentile(means, [2.5, 97.5])
    found = bootstrap([seeds], lambda drawn: drawn.mean(-1))
    assert found.value == 6.5
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.51)


def test_runs_are_drawn_within_their_task():
    first, second = np.array([0.0, 1.0]), np.array([100.0, 101.0, 102.0])
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = [rng.choice(task, len(task)) for task in (first, second)]
        means.append(np.concatenate(drawn).mean())
    found = bootstrap([first, second], lambda *tasks: np.concatenate(tasks, -1).mean(-1))
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.21)
    # Drawn from all runs at once, it would reach from about 20 to about 101.
    assert found.high - found.low < 2


def test_a_task_with_a_single_run_stays_as_it_is():
    found = bootstrap([np.array([5.0]), np.array([0.0, 1.0])], lambda a, b: a[..., 0] + b.mean(-1))
    assert (found.low, found.value, found.high) == (5.0, 5.5, 6.0)
    alone = bootstrap([np.array([5.0])], lambda a: a.mean(-1))
    assert alone == (5.0, 5.0, 5.0)


def test_curves_have_an_interval_or_a_deviation_at_every_point():
    values = np.array([[1.0, 10.0, 5.0], [3.0, 10.0, 6.0], [5.0, 10.0, 10.0]])
    found = mean_over_seeds(values)
    np.testing.assert_allclose(found.value, [3, 10, 7])
    assert found.low.shape == found.high.shape == (3,)
    assert found.low[1] == found.high[1] == 10  # where all seeds agree
    means = sorted(sum(draw) / 3 for draw in itertools.product([1.0, 3.0, 5.0], repeat=3))
    np.testing.assert_allclose(
        [found.low[0], found.high[0]], np.percentile(means, [2.5, 97.5]), atol=0.68
    )
    std = mean_over_seeds(values, "std")
    np.testing.assert_allclose(std.high - std.value, [2, 0, 7**0.5])
    np.testing.assert_allclose(std.value - std.low, [2, 0, 7**0.5])
    assert mean_over_seeds(values[:1], "std").low.tolist() == [1, 10, 5]


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    found = profile(ONE, THRESHOLDS)
    expected = [sum(s > t for task in ONE for s in task) / 12 for t in THRESHOLDS]
    np.testing.assert_allclose(found.value, expected)
    assert (found.low <= found.value).all()
    assert (found.high >= found.value).all()


def test_improvement_is_the_share_of_pairs_that_are_won():
    shares = []
    for ours, theirs in zip(ONE, OTHER, strict=True):
        won = [(x > y) + 0.5 * (x == y) for x, y in itertools.product(ours, theirs)]
        shares.append(sum(won) / len(won))
    assert improvement(ONE, OTHER).value == pytest.approx(sum(shares) / 3)
    assert improvement(ONE, ONE).value == 0.5
    assert improvement([np.array([2.0])], [np.array([1.0])]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="3 tasks against 2"):
        improvement(ONE, OTHER[:2])


def test_aggregates_are_those_of_rliable():
    """Of rliable 1.2.0 (arch 7.2.0, NumPy 2.3.5) on these two tables.

    Intervals of its aggregates are of 20,000 resamples, the others of 1,000.
    """
    theirs = {
        "one": (ONE, 0.675, (0.56833333, 0.713375), 0.6325, (0.52416667, 0.715)),
        "other": (OTHER, 0.54166667, (0.44833333, 0.61333333), 0.5475, (0.47666667, 0.61583333)),
    }
    for scores, middle, middle_ends, mean, mean_ends in theirs.values():
        for statistic, value, ends in (
            (iqm, middle, middle_ends),
            (mean_of_tasks, mean, mean_ends),
        ):
            found = bootstrap(scores, statistic)
            assert found.value == pytest.approx(value, abs=1e-8)
            np.testing.assert_allclose([found.low, found.high], ends, atol=0.015)
    better = improvement(ONE, OTHER)
    assert better.value == pytest.approx(0.6770833333333334)
    np.testing.assert_allclose([better.low, better.high], [0.4375, 0.91666667], atol=0.04)
    share = profile(ONE, THRESHOLDS)
    np.testing.assert_allclose(share.value, [0.91666667, 0.75, 0.58333333, 0.25], atol=1e-8)
    np.testing.assert_allclose(share.low, [0.75, 0.5, 0.41666667, 0.08333333], atol=1e-8)
    np.testing.assert_allclose(share.high, [1.0, 0.91666667, 0.66666667, 0.33333333], atol=1e-8)


def test_a_range_becomes_zero_to_one():
    np.testing.assert_allclose(normalize(np.array([-150.0, -97.5, -45.0]), -150, -45), [0, 0.5, 1])
