"""Jobs as processes of this machine: cores, GPUs and memory are shared out among them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accel.threads import available_cores
from replay.room import GIB, available_memory
from study.backend import Backend, Ended, command_of, write_beginning, write_ending
from study.job import Ending, Job, output_of
from tools import print_safe


class LocalPool(Backend):
    """A pool of processes.

    Args:
        jobs: how many at once; None: a job a core or, with GPUs, `per_gpu` on each.
        per_gpu: how many share one GPU.
        gpus: how many there are.
        needed: bytes that a job takes, foreseen.
        command: the words of a job's process.
    """

    def __init__(
        self,
        jobs: int | None,
        per_gpu: int,
        gpus: int,
        needed: Callable[[Job], int],
        command: Callable[[Job, Sequence[str]], list[str]] = command_of,
    ):
        super().__init__()
        cores = available_cores()
        self.slots = jobs or (gpus * per_gpu if gpus else cores)
        self.threads = max(1, cores // self.slots)
        self._gpus, self._needed, self._command = gpus, needed, command
        self._places = [*range(self.slots)]  # that are free; each belongs to a GPU
        self._running: dict[str, tuple[Job, subprocess.Popen]] = {}
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
        place = self._places.pop(0)
        more = ["--num_threads", str(self.threads)]
        if self._gpus and "--device" not in job.words:
            more += ["--device", f"cuda:{place % self._gpus}"]
        command = self._command(job, more)
        write_beginning(folder, command, who)
        with output_of(folder).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is the runner's to hand on
            )
        self._running[job.name] = (job, process)
        waiter = threading.Thread(target=self._wait, args=(job, folder, process, place))
        waiter.daemon = True  # a second Ctrl-C ends the runner alone
        waiter.start()

    def _wait(self, job: Job, folder: Path, process: subprocess.Popen, place: int) -> None:
        """Waits for a process, in a thread of its own."""
        began = time.monotonic()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        ending = Ending(code, time.monotonic() - began, usage.ru_maxrss << 10)
        try:
            write_ending(folder, ending)
        except OSError as error:
            print_safe(f"study: {error.filename}: {error.strerror}")
        self._running.pop(job.name, None)
        self._places.append(place)
        self.ended.put(Ended(job.name, code))

    def _has_room(self, job: Job) -> bool:
        """Whether a job fits into memory beside what those at work are still to take.

        Where nothing is at work it is started anyway: it may be smaller than foreseen, and its own
        line says what helps if it is not.
        """
        free = available_memory()
        running = [*self._running.values()]
        if free is None or not running:
            return True
        for other, process in running:
            free -= max(0, self._needed(other) - resident(process.pid))
        needed = self._needed(job)
        if needed > free and self._told != job.name:
            self._told = job.name
            print_safe(
                f"study: {job.name} waits: it needs {needed / GIB:.1f} GiB, and "
                f"{max(free, 0) / GIB:.1f} are left beside those at work"
            )
        return needed <= free

    def stop(self) -> None:
        for _, process in [*self._running.values()]:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 for one that is gone."""
    with contextlib.suppress(OSError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
