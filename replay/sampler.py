"""Which slices of which episodes make up a batch: row counts and a generator in, slices out.

Symbols: B batch, T time (rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Slice(NamedTuple):
    """A slice of an episode and its place in a batch: rows t … t + rows of window b.

    Episodes are counted from the oldest. Row t of b is where a state has to be reset.
    """

    episode: int
    first: int
    rows: int
    b: int
    t: int


class SequenceSampler:
    """Draws windows of T rows from episodes, each start in each of them equally likely.

    An episode shorter than the window counts as one start; it is given whole, and the rest of the
    window is the beginning of further episodes drawn alike.

    Args:
        rows: of each episode, at least one.
        length: T.
        oversample_ends: draw a start over all rows of an episode and clip it to the last full
            window, so that ends are seen as often as middles.
    """

    def __init__(self, rows: Sequence[int], length: int, oversample_ends: bool):
        self.length = length
        self._rows = list(rows)
        counts = np.array(self._rows)
        weights = counts if oversample_ends else np.maximum(counts - length + 1, 1)
        self._last, self._ends = np.maximum(counts - length, 0), np.cumsum(weights)

    def plan(self, size: int, rng: np.random.Generator) -> list[Slice]:
        """The slices that make up a batch of `size` windows, in the order of its rows."""
        slices = []
        for b, (episode, first) in enumerate(zip(*self._draw(size, rng), strict=True)):
            t = 0
            while True:
                rows = min(self._rows[episode], self.length - t)
                slices.append(Slice(int(episode), int(first), rows, b, t))
                t += rows
                if t == self.length:
                    break
                episode, first = int(self._draw(1, rng)[0][0]), 0
        return slices

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws `count` starts: episodes and first rows, int64 [count] each."""
        drawn = rng.integers(self._ends[-1], size=count)
        episode = np.searchsorted(self._ends, drawn, side="right")
        first = drawn - np.where(episode > 0, self._ends[episode - 1], 0)
        return episode, np.minimum(first, self._last[episode])


class MixedSampler:
    """Draws each window from one of several sources, by their shares, and whole from that one.

    Args:
        length: T.
        sources: of each its share, the numbers of its episodes, and a sampler of these.
    """

    def __init__(
        self, length: int, sources: Sequence[tuple[float, Sequence[int], SequenceSampler]]
    ):
        self.length, self._sources = length, list(sources)
        shares = np.cumsum([share for share, _, _ in sources])
        self._ends = shares / shares[-1]

    def plan(self, size: int, rng: np.random.Generator) -> list[Slice]:
        """The slices that make up a batch of `size` windows, in the order of its rows."""
        slices = []
        for b, source in enumerate(np.searchsorted(self._ends, rng.random(size), side="right")):
            _, numbers, sampler = self._sources[source]
            drawn = sampler.plan(1, rng)
            slices += [s._replace(episode=numbers[s.episode], b=b) for s in drawn]
        return slices


def make_sampler(
    rows: Sequence[int],
    length: int,
    oversample_ends: bool,
    sources: Sequence[int],
    shares: Sequence[float],
) -> SequenceSampler | MixedSampler:
    """A sampler of episodes, mixed where sources have shares.

    Args:
        rows: of each episode.
        length: T.
        oversample_ends: as `SequenceSampler` has it.
        sources: of each episode, the number of its source.
        shares: of the sources 1, 2, …; source 0 has the rest.
    """
    if not shares:
        return SequenceSampler(rows, length, oversample_ends)
    numbers: dict[int, list[int]] = {}
    for number, source in enumerate(sources):
        numbers.setdefault(source, []).append(number)
    every = [1 - sum(shares), *shares]
    return MixedSampler(
        length,
        [
            (every[source], own, SequenceSampler([rows[n] for n in own], length, oversample_ends))
            for source, own in numbers.items()
        ],
    )


def resets(slices: Iterable[Slice], size: int, length: int) -> np.ndarray:
    """bool [B, T]: row 0 and every seam inside a window, where the model resets its state."""
    is_first = np.zeros((size, length), bool)
    for each in slices:
        is_first[each.b, each.t] = True
    return is_first
