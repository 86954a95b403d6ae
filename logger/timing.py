"""Where the seconds of a run go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

OTHER = "other"  # what no name was given to


class Stopwatch:
    """Seconds by name: each second belongs to one name, the innermost that was running.

    ::

        with watch("update"):      # update
            with watch("sample"):  # sample
                ...
        # other

    It reads a clock and nothing else: work that a device has been given and not yet done shows
    where the host waits for it.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._running = clock, [OTHER]
        self._seconds: dict[str, float] = {}
        self._since = clock()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The seconds inside are this name's."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def flush(self) -> dict[str, float]:
        """Seconds by name since the last call; together they are the time that has passed."""
        self._settle()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _settle(self) -> None:
        now, name = self._clock(), self._running[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now
