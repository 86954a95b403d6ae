"""The contract between the runner and whatever runs its jobs."""

from __future__ import annotations

import queue
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from study.job import Ending, Job, beginning, output_of

ROOT = Path(__file__).parents[1]
LOST = -1000  # in the place of an exit status: whatever ran the job is gone, and the job is not to blame


class Ended(NamedTuple):
    """A job that has ended; its name is None where the backend only wants to be asked again."""

    name: str | None
    code: int = 0


class Backend(ABC):
    """Starts jobs and tells how they ended.

    Attributes:
        slots: how many jobs may be at work at once.
        ended: what has ended, and whatever else is to wake the runner up.
    """

    slots: int

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    @abstractmethod
    def start(self, jobs: Sequence[tuple[Job, Path]], who: str) -> list[str]:
        """Starts jobs, each with the folder of its run, as long as there is room.

        Args:
            jobs: at most as many as there are slots free.
            who: for the first line of their output.

        Returns:
            The names of those that it has started.
        """

    @abstractmethod
    def stop(self) -> None:
        """Asks all jobs that it has started to write a checkpoint and end; returns at once."""

    def close(self) -> None:
        """Lets go of what the backend holds, when all jobs have ended."""

    def take(self, timeout: float) -> list[Ended]:
        """What has ended since the last call; waits for the first of them."""
        found = []
        try:
            found.append(self.ended.get(timeout=timeout))
            while True:
                found.append(self.ended.get_nowait())
        except queue.Empty:
            return found


def command_of(job: Job, more: Sequence[str] = ()) -> list[str]:
    """The words of a job's process."""
    return [sys.executable, str(ROOT / "dreamer.py"), *job.words, *more]


def write_line(folder: Path, line: str) -> None:
    """Adds a line to the output of the job whose run lies in a folder.

    Raises:
        OSError: it cannot be written.
    """
    path = output_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def write_beginning(folder: Path, command: Sequence[str], who: str) -> None:
    """Adds the line with which a start begins."""
    write_line(folder, beginning(shlex.join(command), who))


def write_ending(folder: Path, ending: Ending) -> None:
    """Adds the line with which it ends."""
    write_line(folder, str(ending))
