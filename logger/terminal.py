"""Events, and how far a run is, on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from logger.sink import Sink, Status

EPISODES = 10  # lines about them for each log line


class TerminalSink(Sink):
    """A line per event; one live progress bar on a terminal, elsewhere a line per log line.

    Where there is no bar, episodes that are many have one line for several, with their mean.

    Args:
        stream: where to; default stderr.
        bar: show the progress bar.
        log_every: steps between log lines, for which about ten lines about episodes are printed; 0
            prints all.
    """

    name = "terminal"

    def __init__(self, stream: TextIO | None = None, bar: bool = True, log_every: int = 0):
        self._stream = sys.stderr if stream is None else stream
        self._live = bar and self._stream.isatty()
        self._bar = None
        self._log_every = 0 if self._live else log_every
        self._room, self._since = float(EPISODES), 0  # lines that may be printed now, or at a step
        self._episodes: list[tuple[int, str, Mapping[str, Any]]] = []  # not printed yet

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Print a line, above the bar if there is one; several episodes may wait for one."""
        is_one = self._log_every and {"episode", "ret"} <= fields.keys()
        _, kind, last = self._episodes[-1] if self._episodes else (0, event, fields)
        if not is_one or kind != event or last.get("colors") != fields.get("colors"):
            self._print_episodes()  # what came before stands before
        if not is_one:
            self._line(step, event, fields)
            return
        self._episodes.append((step, event, fields))
        gained = (step - self._since) * EPISODES / self._log_every
        self._room, self._since = min(self._room + gained, EPISODES), step
        if self._room >= 1:
            self._room -= 1
            self._print_episodes()

    def _print_episodes(self) -> None:
        if not self._episodes:
            return
        step, event, fields = self._episodes[-1]
        if (count := len(self._episodes)) > 1:
            mean = sum(one["ret"] for *_, one in self._episodes) / count
            fields = {**fields, "ret": mean, "mean_of": count}
        self._episodes = []
        self._line(step, event, fields)

    def _line(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        words = [f"[{step:>9,}] {event}", *(f"{k} {_short(v)}" for k, v in fields.items())]
        line = "  ".join(words)
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def bar(self, total: int, initial: int = 0, desc: str = "") -> None:
        """Begin a bar in place of the last one."""
        if not self._live:
            return
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(
            total=total, initial=initial, desc=desc, file=self._stream, dynamic_ncols=True
        )

    def progress(self, step: int, total: int | None = None, **postfix: Any) -> None:
        """Move the bar to `step`; begins one if there is none."""
        if not self._live:
            return
        if self._bar is None:
            self.bar(total, initial=step)
        if total is not None:
            self._bar.total = total
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(step - self._bar.n)

    def status(self, step: int, status: Status) -> None:
        """Print a line where there is no bar: the log of a cluster, say."""
        if not self._live:
            print(status_line(step, status), file=self._stream, flush=True)

    def close(self) -> None:
        """Print what waits, and leave the bar as it stands."""
        self._print_episodes()
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def status_line(step: int, status: Status) -> str:
    """Step, share and total, speed, the time that is left, and the numbers."""
    total, unit, rate, left, numbers = status
    words = [f"[{step:>9,}] {step / max(total, 1):.0%} of {total:,}", f"{rate:.3g} {unit}/s"]
    words += [] if left is None or step >= total else [f"{duration(left)} left"]
    return "  ".join([*words, *(f"{k} {_short(v)}" for k, v in numbers.items())])


def duration(seconds: float) -> str:
    """Seconds in words, two units at most: ``3 h 05 min``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
