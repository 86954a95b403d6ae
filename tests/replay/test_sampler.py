"""Which slices make up a batch: every start alike, short episodes joined at seams."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.sampler import SequenceSampler, Slice, Windows, make_sampler, resets


def plan(rows, length, count, ends=False, seed=0):
    return SequenceSampler(rows, length, ends).plan(count, np.random.default_rng(seed))


@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    length=st.integers(1, 9),
    ends=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_slices_fill_windows_and_only_whole_episodes_are_followed(rows, length, ends, seed):
    slices = plan(rows, length, 8, ends, seed)
    assert [s.b for s in slices if s.t == 0] == list(range(8))
    for s, after in itertools.pairwise([*slices, Slice(0, 0, 0, 8, 0)]):
        assert s.rows > 0
        assert 0 <= s.first <= s.first + s.rows <= rows[s.episode]
        if after.b == s.b:  # a seam: this episode was complete, the next begins at its row 0
            assert after.t == s.t + s.rows
            assert s.first + s.rows == rows[s.episode]
            assert after.first == 0
        else:
            assert s.t + s.rows == length
    is_first = resets(slices, 8, length)
    assert is_first.sum() == len(slices)
    assert all(is_first[s.b, s.t] for s in slices)


def test_every_start_is_equally_likely():
    rows = [10, 25, 5, 3]  # the last is short: it counts as one start
    found = np.zeros((4, 25), int)
    for s in plan(rows, 5, 45_000):
        found[s.episode, s.first] += s.t == 0
    counts = np.concatenate([found[n, :count] for n, count in enumerate([6, 21, 1, 1])])
    assert counts.sum() == 45_000
    expected = 45_000 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 56.9  # χ², 28 degrees, p = 0.001


@pytest.mark.parametrize("others", [[], [20, 20]])
def test_oversampled_ends_are_windows_clipped_to_the_last(others):
    firsts = [s.first for s in plan([20, *others], 5, 20_000, ends=True)]
    counts = np.bincount(firsts)
    assert len(counts) == 16
    np.testing.assert_allclose(counts[:15], 1000, rtol=0.15)
    np.testing.assert_allclose(counts[15], 5000, rtol=0.05)


def test_sources_have_their_shares_of_the_windows_and_each_window_is_of_one():
    rows, sources = [30, 3, 30, 3, 40], [0, 1, 0, 1, 2]
    sampler = make_sampler(rows, 8, False, sources, [0.3, 0.2])
    slices = sampler.plan(4000, np.random.default_rng(0))
    assert [s.b for s in slices] == sorted(s.b for s in slices)
    found = np.full(4000, -1)
    length = np.zeros(4000, int)
    for s in slices:
        assert found[s.b] in (-1, sources[s.episode])
        assert s.t == length[s.b]
        assert s.first + s.rows <= rows[s.episode]
        found[s.b] = sources[s.episode]
        length[s.b] += s.rows
    assert (length == 8).all()
    np.testing.assert_allclose(np.bincount(found) / 4000, [0.5, 0.3, 0.2], atol=0.03)
    assert {s.episode for s in slices} == set(range(5))


def test_without_shares_all_sources_are_one():
    plain = SequenceSampler([9, 5, 7], 4, False).plan(50, np.random.default_rng(0))
    assert (
        make_sampler([9, 5, 7], 4, False, [0, 0, 0], []).plan(50, np.random.default_rng(0)) == plain
    )


def transitions(rows, windows, count, seed=0):
    sampler = make_sampler(rows, windows, False, [], [])
    return sampler.plan(count, np.random.default_rng(seed))


def rows_of(slices, count, length):
    """(episode, row) of each row of each window, [count, length, 2]."""
    found = np.full((count, length, 2), -1)
    for s in slices:
        for i in range(s.rows):
            assert (found[s.b, s.t + i] == -1).all()
            found[s.b, s.t + i] = s.episode, s.first + i
    return found


@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    stack=st.integers(1, 4),
    steps=st.integers(1, 3),
    elsewhere=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_window_has_the_frames_of_its_transition(rows, stack, steps, elsewhere, seed):
    length = stack + steps + stack * elsewhere
    slices = transitions(rows, Windows(length, stack, stack * elsewhere), 6, seed)
    found, is_first = rows_of(slices, 6, length), resets(slices, 6, length)
    for window, first in zip(found, is_first, strict=True):
        ends = [stack - 1] + [length - 1] * elsewhere
        for end in ends:
            episode, row = window[end]
            for age in range(stack):  # before an episode's first row stands that row
                assert tuple(window[end - age]) == (episode, max(row - age, 0))
        for t in range(1, length):
            follows = tuple(window[t]) == (window[t - 1][0], window[t - 1][1] + 1)
            assert follows or first[t]
        (episode, row), other = window[stack - 1], tuple(window[-1])
        seam = first[stack]
        assert seam == (rows[episode] == 1)
        if elsewhere and other[0] == episode and rows[episode] > 5:
            assert abs(other[1] - (row + 1)) >= 2


def test_every_transition_is_equally_likely_the_first_ones_too():
    rows, windows = [6, 12, 2], Windows(4, 3)
    found = rows_of(transitions(rows, windows, 5100), 5100, 4)[:, 2]
    counts = np.concatenate(
        [
            np.bincount(found[found[:, 0] == n, 1], minlength=count - 1)
            for n, count in enumerate(rows)
        ]
    )
    assert len(counts) == 17
    assert ((counts - 300) ** 2 / 300).sum() < 39.3  # χ², 16 degrees, p = 0.001


def test_another_row_of_the_episode_is_any_that_is_not_near():
    found = rows_of(transitions([8], Windows(3, 1, 1), 5000), 5000, 3)
    chosen = found[(found[:, 0] == (0, 3)).all(1)][:, 2]
    counts = np.bincount(chosen[:, 1], minlength=8)
    assert set(np.flatnonzero(counts)) == {1, 2, 6, 7}  # not 3, 4 and 5, nor the first
    np.testing.assert_allclose(counts[counts > 0], counts.sum() / 4, rtol=0.2)
