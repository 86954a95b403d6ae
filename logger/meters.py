"""Means of metrics over many updates, and rates of counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


class MeanMeter:
    """Means of named values over many updates; only `flush` looks at a value.

    Values may be tensors on a device: `add` computes sums there and waits for nothing. Sums are in
    double precision, so that the mean of a constant is that constant.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Add one value per name; names may differ from call to call."""
        for name, value in values.items():
            total = self._sums.get(name, 0.0)
            if isinstance(total, float) and hasattr(value, "double"):
                value = value.double()  # from here on, the sum is
            # 0 + value is a new tensor even the first time: a captured CUDA graph reuses its own.
            self._sums[name] = total + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def flush(self) -> dict[str, float]:
        """The means since the last flush, {} if nothing was added."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Sums and counts so far, so that a resumed run logs the same means."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on from what `state_dict` returned."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class Rate:
    """How fast a counter moves.

    Args:
        count: where the counter stands now (a resumed run does not start at 0).
        clock: seconds, monotonic.
    """

    def __init__(self, count: float = 0, clock: Callable[[], float] = time.monotonic):
        self._count, self._clock = count, clock
        self._time = clock()

    def __call__(self, count: float) -> float:
        """Counts per second since the last call (at first: since construction); 0 for no time."""
        now = self._clock()
        passed, moved = now - self._time, count - self._count
        self._time, self._count = now, count
        return moved / passed if passed > 0 else 0.0


class Pace:
    """How long the rest of a count takes, by how long it has taken since `start`.

    Args:
        total: where the count ends.
        clock: seconds, monotonic.
    """

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic):
        self._total, self._clock = total, clock
        self._begun: tuple[float, float] | None = None  # count, seconds

    def start(self, count: float) -> None:
        """Measure from here on; only the first call does anything."""
        if self._begun is None:
            self._begun = count, self._clock()

    def left(self, count: float) -> float | None:
        """Seconds until the end, None while the count has not moved."""
        if self._begun is None or count <= self._begun[0]:
            return None
        passed = self._clock() - self._begun[1]
        return max(self._total - count, 0) * passed / (count - self._begun[0])
