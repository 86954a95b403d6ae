"""Which slices of which episodes make up a batch: row counts and a generator in, slices out.

Symbols: B batch, T time (rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


class Windows(NamedTuple):
    """Which windows make up a batch.

    Attributes:
        length: T, the rows of each.
        stack: 0 for a `SequenceSampler`'s windows. Else they lie around a transition, for agents
            that see the last so many frames at once: see `TransitionSampler`.
        elsewhere: of those T rows, how many at the end come from elsewhere in the same episode.
        numbered: batches tell which rows they hold: `row` int64 [B, T]. Rows that follow each other
            in an episode have numbers that do; the number before an episode's first is no row's.
    """

    length: int
    stack: int = 0
    elsewhere: int = 0
    numbered: bool = False


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


class TransitionSampler:
    """Draws windows around transitions, each transition of each episode equally likely.

    Row ``stack`` − 1 of a window is any row that has a next one in its episode, which follows it.
    Before an episode's first row that one is repeated, each repetition a slice of its own; behind
    the last one stands the beginning of another episode. So every row has ``stack`` frames that end
    with it, the first rows of an episode too, and seams are where ``is_first`` tells of them.

    The last ``elsewhere`` rows of a window, if any, end with another row of the same episode, at
    least two away from the one that follows the transition; of another episode where there is none.

    Args:
        rows: of each episode, at least one. An episode of a single row counts as one transition,
            behind which a seam comes at once.
        windows: what `Windows` says, its ``stack`` above 0.
    """

    def __init__(self, rows: Sequence[int], windows: Windows):
        self.windows, self._rows = windows, list(rows)
        self._ends = np.cumsum(np.maximum(np.array(self._rows) - 1, 1))

    @property
    def length(self) -> int:
        """T."""
        return self.windows.length

    def plan(self, size: int, rng: np.random.Generator) -> list[Slice]:
        """The slices that make up a batch of `size` windows, in the order of its rows."""
        slices: list[Slice] = []
        length = self.length - self.windows.elsewhere
        for b, (episode, row) in enumerate(zip(*self._draw(size, rng), strict=True)):
            slices += self._stacked(int(episode), int(row), length, b, 0, rng)
            if self.windows.elsewhere:
                place = self._elsewhere(int(episode), int(row), rng)
                slices += self._stacked(*place, self.windows.elsewhere, b, length, rng)
        return slices

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws `count` transitions: episodes and the rows before them, int64 [count] each."""
        drawn = rng.integers(self._ends[-1], size=count)
        episode = np.searchsorted(self._ends, drawn, side="right")
        return episode, drawn - np.where(episode > 0, self._ends[episode - 1], 0)

    def _stacked(
        self, episode: int, row: int, length: int, b: int, t: int, rng: np.random.Generator
    ) -> Iterator[Slice]:
        """`length` rows of window b from its row t on, whose row ``stack`` − 1 is that row."""
        first, end = row - self.windows.stack + 1, t + length
        while first < 0:
            yield Slice(episode, 0, 1, b, t)
            first, t = first + 1, t + 1
        while t < end:
            rows = min(self._rows[episode] - first, end - t)
            yield Slice(episode, first, rows, b, t)
            episode, first, t = int(self._draw(1, rng)[0][0]), 0, t + rows

    def _elsewhere(self, episode: int, row: int, rng: np.random.Generator) -> tuple[int, int]:
        """An episode and a row of it, neither its first nor next to the one behind `row`."""
        rows = self._rows[episode]
        before, behind = max(row - 1, 0), max(rows - row - 3, 0)  # rows 1 … row − 1, row + 3 …
        if before + behind == 0:
            episode, row = (int(drawn[0]) for drawn in self._draw(1, rng))
            return episode, min(row + 1, self._rows[episode] - 1)
        drawn = int(rng.integers(before + behind))
        return episode, 1 + drawn if drawn < before else row + 3 + drawn - before


Plain = SequenceSampler | TransitionSampler


class MixedSampler:
    """Draws each window from one of several sources, by their shares, and whole from that one.

    Args:
        length: T.
        sources: of each its share, the numbers of its episodes, and a sampler of these.
    """

    def __init__(self, length: int, sources: Sequence[tuple[float, Sequence[int], Plain]]):
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


Sampler = SequenceSampler | TransitionSampler | MixedSampler


def make_sampler(
    rows: Sequence[int],
    windows: int | Windows,
    oversample_ends: bool,
    sources: Sequence[int],
    shares: Sequence[float],
) -> Sampler:
    """A sampler of episodes, mixed where sources have shares.

    Args:
        rows: of each episode.
        windows: which there are to be; a number alone is T.
        oversample_ends: as `SequenceSampler` has it; around transitions ends are seen as often as
            middles anyway.
        sources: of each episode, the number of its source.
        shares: of the sources 1, 2, …; source 0 has the rest.
    """
    wanted = Windows(windows) if isinstance(windows, int) else windows

    def plain(rows: Sequence[int]) -> Plain:
        if wanted.stack:
            return TransitionSampler(rows, wanted)
        return SequenceSampler(rows, wanted.length, oversample_ends)

    if not shares:
        return plain(rows)
    numbers: dict[int, list[int]] = {}
    for number, source in enumerate(sources):
        numbers.setdefault(source, []).append(number)
    every = [1 - sum(shares), *shares]
    return MixedSampler(
        wanted.length,
        [(every[source], own, plain([rows[n] for n in own])) for source, own in numbers.items()],
    )


def row_numbers(
    slices: Iterable[Slice], firsts: Sequence[int], size: int, length: int
) -> np.ndarray:
    """int64 [B, T]: the number of each row, from that of each episode's first."""
    numbers = np.empty((size, length), np.int64)
    for episode, first, rows, b, t in slices:
        start = firsts[episode] + first
        numbers[b, t : t + rows] = np.arange(start, start + rows)
    return numbers


def resets(slices: Iterable[Slice], size: int, length: int) -> np.ndarray:
    """bool [B, T]: row 0 and every seam inside a window, where the model resets its state."""
    is_first = np.zeros((size, length), bool)
    for each in slices:
        is_first[each.b, each.t] = True
    return is_first
