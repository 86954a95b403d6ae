"""Jobs as arrays of SLURM's, by submitit: what is preempted or out of time goes on in the queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fileio import yaml_files
from fileio.atomic import atomic_write
from study.backend import LOST, Backend, Ended, command_of
from study.job import Job
from study.worker import Start
from tools import UserError, reason_of

SLOTS = 1000  # jobs in the queue at once; SLURM says how many of them run
REQUEUES = 1000  # of a job whose time is up; submitit's own limit is 3
GONE = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED", "REVOKED")  # no fault of the job's
JOBS = "jobs.json"


class SlurmArrays(Backend):
    """A job array for each wave of jobs that can be started.

    Args:
        folder: for what submitit writes, on a disk that all nodes share.
        given: ``KEY=VALUE`` of its parameters: ``timeout_min=720``, ``slurm_partition=gpu``, …
        jobs: how many at once.
        gpus: of each job.
        cluster: ``local`` runs them here, in processes of submitit's.
        every: seconds between looks at the queue.
        command: the words of a job's process.

    Raises:
        UserError: submitit or SLURM is not here, or a parameter is none.
    """

    def __init__(
        self,
        folder: Path,
        given: Sequence[str],
        jobs: int | None,
        gpus: int,
        cluster: str = "slurm",
        every: float = 5.0,
        command: Callable[[Job, Sequence[str]], list[str]] = command_of,
    ):
        super().__init__()
        submitit = _import()
        self.slots, self._folder = jobs or SLOTS, folder.absolute()
        usual = {"timeout_min": 1440, "cpus_per_task": 4, "gpus_per_node": gpus}
        parameters = {**usual, "name": "diswm", **_parse(given)}
        self.threads = int(parameters["cpus_per_task"])
        try:
            options = {f"{cluster}_max_num_timeout": REQUEUES}
            self._executor = submitit.AutoExecutor(self._folder, cluster=cluster, **options)
            parameters["slurm_array_parallelism"] = self.slots
            self._executor.update_parameters(**parameters)
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
            raise UserError(f"--backend slurm: {reason_of(error)}") from None
        self._running: dict[str, Any] = {}
        self._command = command
        self._every, self._closing = every, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def adopt(self, names: Iterable[str]) -> list[str]:
        """Those that an earlier runner has put into the queue, where SLURM still has them."""
        path = self._folder / JOBS
        known = json.loads(path.read_bytes()) if path.exists() else {}
        submitit = _import()
        for name in names:
            if name in known:
                job = submitit.SlurmJob(self._folder, known[name])
                if not job.done(force_check=True):
                    self._running[name] = job
        self._begin_watching()
        return [*self._running]

    def start(self, jobs: Sequence[tuple[Job, Path]], who: str) -> list[str]:
        more = ["--num_threads", str(self.threads)]
        starts = [
            Start(self._command(job, more), folder.absolute(), who, self.threads)
            for job, folder in jobs
        ]
        try:
            submitted = self._executor.map_array(_call, starts)
        except RuntimeError as error:  # what sbatch refuses
            raise UserError(f"--backend slurm: {reason_of(error)}") from None
        for (job, _), there in zip(jobs, submitted, strict=True):
            self._running[job.name] = there
        known = {name: job.job_id for name, job in [*self._running.items()]}
        with atomic_write(self._folder / JOBS) as file:
            file.write(json.dumps(known, indent=1).encode())
        self._begin_watching()
        return [job.name for job, _ in jobs]

    def stop(self) -> None:
        """Cancels them: SLURM sends SIGTERM, and each writes its checkpoint."""
        for job in [*self._running.values()]:
            job.cancel(check=False)

    def close(self) -> None:
        """Looks at the queue no more."""
        self._closing.set()

    def _begin_watching(self) -> None:
        if not self._watcher.is_alive() and not self._closing.is_set():
            self._watcher.start()

    def _watch(self) -> None:
        """Looks at the queue until the runner has ended."""
        while not self._closing.wait(self._every):
            for name, job in [*self._running.items()]:
                if job.done():
                    del self._running[name]
                    self.ended.put(Ended(name, _code(job)))


def _call(start: Start) -> int:
    return start()


def _code(job: Any) -> int:
    """The exit status of a job that SLURM is done with."""
    if job.paths.result_pickle.exists():
        outcome, result = _result(job)
        return result if outcome == "success" else 1
    state = job.state.split()[0] if job.state else ""
    return LOST if state in GONE else 1


def _result(job: Any) -> tuple[str, Any]:
    return _import().core.utils.pickle_load(job.paths.result_pickle)


def _import() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--backend slurm needs submitit: pip install -r requirements-slurm.txt"
        ) from None
    return submitit


def _parse(given: Sequence[str]) -> dict[str, Any]:
    """Parameters, each a number, a text, or true and false."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--slurm takes KEY=VALUE such as timeout_min=720, not '{text}'")
        found[name] = yaml_files.parse(value)
    return found
