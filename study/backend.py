"""The contract between the runner and whatever runs its jobs."""

from __future__ import annotations

import queue
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from study.job import Job

ROOT = Path(__file__).parents[1]
LOST = -1000  # in the place of an exit status: what ran the job is gone, and it is not to blame


class Ended(NamedTuple):
    """A job that has ended, and its exit status or `LOST`."""

    name: str
    code: int


class Backend(ABC):
    """Starts jobs and tells how they ended.

    Attributes:
        slots: how many jobs may be at work at once.
        ended: what has ended.
    """

    slots: int

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def adopt(self, names: Iterable[str]) -> list[str]:
        """Those jobs that an earlier runner has begun here and that are still to end."""
        return []

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

    @abstractmethod
    def close(self) -> None:
        """Lets go of what the backend itself holds."""

    def take(self, timeout: float) -> list[Ended]:
        """What has ended since the last call; waits so many seconds for the first of them."""
        found: list[Ended] = []
        try:
            found.append(self.ended.get(timeout=timeout))
            while True:
                found.append(self.ended.get_nowait())
        except queue.Empty:
            return found


def command_of(job: Job, more: Sequence[str] = ()) -> list[str]:
    """The words of a job's process."""
    return [sys.executable, str(ROOT / "dreamer.py"), *job.words, *more]
