"""Events and a progress bar on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from logger.sink import Sink


class TerminalSink(Sink):
    """A line per event, and one live progress bar if the stream is a terminal.

    Args:
        stream: where to; default stderr.
        bar: show the progress bar.
    """

    name = "terminal"

    def __init__(self, stream: TextIO | None = None, bar: bool = True):
        self._stream = sys.stderr if stream is None else stream
        self._live = bar and self._stream.isatty()
        self._bar = None

    def event(self, step: int, event: str, fields: Mapping[str, Any]) -> None:
        """Print a line, above the bar if there is one."""
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

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
