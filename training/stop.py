"""The signals that ask a run to stop, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

TWICE = 1.0  # seconds after the first signal from which on Ctrl-C is another wish


class Stopped(Exception):
    """The user or the system asked the run to stop."""


class StopSignal:
    """Listens to SIGTERM, SIGHUP and Ctrl-C, and lets the run stop where it can.

    A second Ctrl-C, a while after the first signal, ends the process at once.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._number: int | None = None
        self._since = 0.0

    def listen(self) -> None:
        """From here on signals are noted."""
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name)
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
                self._handlers[number] = signal.signal(number, self._note)

    def close(self) -> None:
        """Signals take their usual course again."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def check(self) -> None:
        """Raises :class:`Stopped` once a signal came."""
        if self.is_asked:
            raise Stopped

    @property
    def exit_code(self) -> int:
        """The exit status of a process that ended by the signal that came."""
        return 128 + (self._number or 0)

    def _note(self, number: int, frame: Any) -> None:
        if self._number is not None:
            # Asked twice, by somebody: the last checkpoint has to do. Shells and schedulers send
            # one signal after the other within moments, and mean one stop.
            if number == signal.SIGINT and time.monotonic() - self._since > TWICE:
                raise KeyboardInterrupt
            return
        self._number, self._since = number, time.monotonic()
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # the terminal may be gone
            # A handler may interrupt a print, and another print would then fail.
            how = "stopping with a checkpoint (another Ctrl-C, later: without)"
            os.write(2, f"\n{name}: {how}\n".encode())
