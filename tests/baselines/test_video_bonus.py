"""APV's bonus against NumPy that goes through every window, neighbour and update."""

import numpy as np
import pytest
import torch

from baselines.video_bonus import BonusConfig, VideoBonus, window_means
from tests.baselines.by_hand import Bonus
from tests.helpers.models import copied, equal

B, T, F = 3, 6, 5
SMALL = {"k": 4, "weight": 0.5, "window": 3, "queue_size": 20, "queue_dim": 7, "momentum": 0.9}


def batch(seed):
    rng = np.random.default_rng(seed)
    feat, reward = rng.normal(size=(B, T, F)), rng.normal(size=(B, T))
    first = np.zeros((B, T), bool)
    first[:, 0] = first[1, 3] = True
    return feat.astype(np.float32), reward.astype(np.float32), first


@pytest.mark.parametrize("changes", [{}, {"relative": True, "scale": 2.0}, {"k": 15}])
def test_rewards_of_batches_in_a_row_and_what_is_remembered(changes):
    """12 windows a batch: the queue of 20 is part empty, then full; at first it has under 15."""
    config = BonusConfig(**{**SMALL, **changes})
    torch.manual_seed(0)
    bonus = VideoBonus(F, config)
    by_hand = Bonus(bonus.projection.numpy(), config)
    for seed in range(4):
        arrays = batch(seed)
        reward, memory, metrics = bonus(*map(torch.from_numpy, arrays))
        bonus.remember(memory, torch.zeros(()))
        expected = by_hand(*arrays)
        np.testing.assert_allclose(reward, expected, rtol=2e-5, atol=2e-6)
        filled = min((seed + 1) * 12, 20)
        assert int(bonus.filled) == filled == len(by_hand.queue)
        np.testing.assert_allclose(bonus.queue[:filled], by_hand.queue, rtol=1e-5, atol=1e-7)
        assert not bonus.queue[filled:].any()
        assert float(bonus.magnitude) == pytest.approx(by_hand.mean, rel=1e-6)
        assert float(bonus.reward_magnitude) == pytest.approx(by_hand.reward_mean, rel=1e-6)
        assert float(metrics["intr_reward"]) == pytest.approx(
            (expected - arrays[1][:, :4]).mean(), rel=1e-5
        )


def test_distances_are_exact_where_neighbours_are_near():
    """Points far from zero and close to each other: a product in float32 would see noise."""
    torch.manual_seed(0)
    bonus = VideoBonus(F, BonusConfig(**SMALL))
    points = 100 + 1e-3 * torch.randn(20, 7)
    found = bonus.novelty(points[:5], points, torch.tensor(20))
    exact = (points[:5, None].double() - points[None].double()).square().sum(-1).sqrt()
    torch.testing.assert_close(found, exact.sort(1).values[:, :4].mean(1), rtol=1e-5, atol=1e-7)


def test_a_skipped_update_leaves_nothing_behind():
    torch.manual_seed(0)
    bonus = VideoBonus(F, BonusConfig(**SMALL))
    _, memory, _ = bonus(*map(torch.from_numpy, batch(0)))
    bonus.remember(memory, torch.zeros(()))
    before = copied(bonus)
    feat, reward, first = map(torch.from_numpy, batch(1))
    _, memory, _ = bonus(feat * torch.nan, reward, first)
    bonus.remember(memory, torch.ones(()))
    assert equal(before, copied(bonus))


def test_features_get_no_gradient():
    bonus = VideoBonus(F, BonusConfig(**SMALL))
    feat, reward, first = map(torch.from_numpy, batch(0))
    assert not bonus(feat.requires_grad_(), reward, first)[0].requires_grad


def test_a_window_in_one_episode_is_a_plain_mean():
    feat = torch.randn(2, 7, 3, dtype=torch.float64)
    first = torch.zeros(2, 7, dtype=torch.bool)
    expected = feat.unfold(1, 5, 1).mean(-1)
    torch.testing.assert_close(window_means(feat, first, 5), expected)
