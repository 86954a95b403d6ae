"""Jobs as processes of this machine: cores, GPUs and memory are shared out among them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from accel.threads import available_cores
from replay.room import GIB, available_memory
from study.backend import Backend, Ended, command_of
from study.job import Job
from study.worker import Start
from tools import print_safe


class LocalPool(Backend):
    """A pool of processes.

    Args:
        jobs: how many at once; None: one on each core or, with GPUs, `per_gpu` on each of them.
        per_gpu: how many share one GPU.
        gpus: how many there are.
        needed: bytes that a job takes, foreseen.
        command: the words of a job's process.
        available: bytes of memory that are left.
    """

    def __init__(
        self,
        jobs: int | None,
        per_gpu: int,
        gpus: int,
        needed: Callable[[Job], int],
        command: Callable[[Job, Sequence[str]], list[str]] = command_of,
        available: Callable[[], int | None] = available_memory,
    ):
        super().__init__()
        cores = available_cores()
        self.slots = jobs or (gpus * per_gpu if gpus else cores)
        self.threads = max(1, cores // self.slots)
        self._gpus, self._needed = gpus, needed
        self._command, self._available = command, available
        self._places = [*range(self.slots)]  # that are free; each belongs to a GPU
        self._running: dict[str, tuple[Job, Start]] = {}
        self._told = ""

    def start(self, jobs: Sequence[tuple[Job, Path]], who: str) -> list[str]:
        started = []
        for job, folder in jobs:
            if not self._places or not self._has_room(job):
                break
            self._start(job, folder, who)
            started.append(job.name)
        return started

    def _start(self, job: Job, folder: Path, who: str) -> None:
        more, place = ["--num_threads", str(self.threads)], self._places[0]
        if self._gpus and job.device == "auto":
            more += ["--device", f"cuda:{place % self._gpus}"]
        start = Start(self._command(job, more), folder, who, self.threads)
        start.begin()
        self._places.remove(place)
        self._running[job.name] = (job, start)
        # A second Ctrl-C ends the runner alone, so these threads must not keep it.
        threading.Thread(target=self._wait, args=(job, start, place), daemon=True).start()

    def _wait(self, job: Job, start: Start, place: int) -> None:
        code = 0
        try:
            code = start.wait().code
        except OSError as error:  # of its output; what the job has come to, its folder tells
            print_safe(f"study: {error.filename or job.name}: {error.strerror}")
        del self._running[job.name]
        self._places.append(place)
        self.ended.put(Ended(job.name, code))

    def _has_room(self, job: Job) -> bool:
        """Whether a job fits into memory beside what those at work are still to take.

        Where nothing is at work it is started anyway: it may be smaller than foreseen, and its own
        line says what helps if it is not.
        """
        free, running = self._available(), [*self._running.values()]
        if free is None or not running:
            return True
        for other, start in running:
            free -= max(0, self._needed(other) - resident(start.pid))
        needed = self._needed(job)
        if needed > free and self._told != job.name:
            self._told = job.name
            print_safe(
                f"study: {job.name} waits: it needs {needed / GIB:.1f} GiB, and "
                f"{max(free, 0) / GIB:.1f} are left beside those at work"
            )
        return needed <= free

    def stop(self) -> None:
        for _, start in [*self._running.values()]:
            start.ask()

    def close(self) -> None:
        """Nothing is held beyond the jobs."""


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 for one that is gone."""
    with contextlib.suppress(OSError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
