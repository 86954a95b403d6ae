"""Where the rows of a replay lie: one contiguous array per field, used as a ring of episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np


class RowStore:
    """Rows of whole episodes in contiguous arrays: a queue of episodes laid out as a ring.

    Everything that knows where rows lie is in here, so that a memory-mapped or a GPU-resident store
    can take its place: it needs `push`, `pop`, `clear` and `gather`.

    Args:
        fields: name → (shape of a row, dtype).
        rows: rows to allocate at once. It doubles when an episode finds no room.
    """

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], type]], rows: int = 1024):
        self._fields = dict(fields)
        self._arrays = self._allocate(rows)
        self._spans: deque[tuple[int, int]] = deque()  # (first row, rows), oldest episode first

    def push(self, episode: Mapping[str, np.ndarray]) -> None:
        """Copy an episode in as the newest."""
        rows = len(episode["image"])
        start = self._room(rows)
        if start is None:
            start = self._grow(rows)
        for key, array in self._arrays.items():
            array[start : start + rows] = episode[key]
        self._spans.append((start, rows))

    def pop(self) -> None:
        """Give up the rows of the oldest episode."""
        self._spans.popleft()

    def clear(self) -> None:
        """Give up all rows and keep the allocation."""
        self._spans.clear()

    def gather(
        self, pieces: Sequence[tuple[int, int, int, int, int]], out: Mapping[str, np.ndarray]
    ) -> None:
        """Copy slices of episodes into a batch.

        Args:
            pieces: (episode counted from the oldest, first row, rows, b, t) per slice.
            out: arrays [B, T, …]; each slice goes to [b, t : t + rows].
        """
        spans = list(self._spans)
        for key, array in self._arrays.items():
            target = out[key]
            for episode, first, rows, b, t in pieces:
                start = spans[episode][0] + first
                target[b, t : t + rows] = array[start : start + rows]

    def _allocate(self, rows: int) -> dict[str, np.ndarray]:
        # np.empty only reserves addresses: memory is committed as rows are written.
        return {k: np.empty((rows, *shape), dtype) for k, (shape, dtype) in self._fields.items()}

    def _room(self, rows: int) -> int | None:
        """The start of `rows` free rows in one piece, or None."""
        size = len(self._arrays["image"])
        if not self._spans:
            return 0 if rows <= size else None
        head, tail = self._spans[0][0], sum(self._spans[-1])
        if tail <= head:  # wrapped: free rows lie between the newest and the oldest
            return tail if head - tail >= rows else None
        if size - tail >= rows:
            return tail
        return 0 if head >= rows else None

    def _grow(self, rows: int) -> int:
        """Move everything to larger arrays, in order, and return the first free row."""
        used = sum(count for _, count in self._spans)
        size = max(2 * len(self._arrays["image"]), used + rows)
        for key, (shape, dtype) in self._fields.items():  # one by one: the old one is freed first
            new, tail = np.empty((size, *shape), dtype), 0
            for start, count in self._spans:
                new[tail : tail + count] = self._arrays[key][start : start + count]
                tail += count
            self._arrays[key] = new
        starts = np.cumsum([0, *(count for _, count in self._spans)]).tolist()
        counts = [count for _, count in self._spans]
        self._spans = deque(zip(starts[:-1], counts, strict=True))
        return used
