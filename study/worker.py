"""One start of a job, wherever it runs: a process whose output is kept beside its run."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.job import Ending, beginning, output_of


class Start:
    """A job's process.

    Args:
        command: its words.
        folder: of its run.
        who: starts it, for the first line of its output.
        threads: that it may compute with.

    Attributes:
        pid: of the process; 0 before it is there.
    """

    def __init__(self, command: Sequence[str], folder: Path, who: str, threads: int = 1):
        self._command, self._folder, self._who = [*command], folder, who
        self._threads, self.pid, self._began = threads, 0, 0.0
        self._cwd = os.getcwd()  # that paths of the command line begin from, on any node

    def begin(self) -> None:
        """Starts the process.

        Raises:
            OSError: its output cannot be written.
        """
        path = output_of(self._folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(self._threads), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # signals are for whoever started it to hand on
            )
        self.pid, self._began = process.pid, time.monotonic()
        process.returncode = 0  # it is waited for below, where its memory is told as well
        self._write(beginning(shlex.join(self._command), self._who, self.pid))

    def wait(self) -> Ending:
        """Waits for its end, which its output tells."""
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        ending = Ending(code, time.monotonic() - self._began, usage.ru_maxrss << 10)
        self.pid = 0
        self._write(str(ending))
        return ending

    def ask(self) -> None:
        """Asks it to write a checkpoint and to end."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def __call__(self) -> int:
        """From begin to end in the main thread of a process of its own; returns the exit status.

        Signals that are meant for this process must not end the job; SIGTERM is handed on. Whatever
        else interrupts it lets the job write its checkpoint first.
        """
        numbers = (signal.SIGUSR1, signal.SIGUSR2)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            self.begin()  # what is ignored stays so in the new process
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        signal.signal(signal.SIGTERM, lambda *_: self.ask())
        try:
            return self.wait().code
        except BaseException:
            if self.pid:
                self.ask()
                self.wait()
            raise

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again when the time is up: the same command."""
        from submitit.helpers import DelayedSubmission

        if self.pid:
            self.ask()
            self.wait()
        return DelayedSubmission(self)

    def _write(self, line: str) -> None:
        with output_of(self._folder).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
