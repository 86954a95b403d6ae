"""Jobs as tasks of a Ray cluster that is there already; nothing of Ray's is started here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.backend import LOST, ROOT, Backend, Ended, command_of
from study.job import Job
from study.worker import Start
from tools import UserError, print_safe, reason_of

SLOTS = 1000  # tasks that Ray has at once; its nodes say how many of them run


class RayTasks(Backend):
    """A task for each job, on nodes which share the folders of the code and of the runs.

    Args:
        address: of the cluster, ``host:port``, or ``auto`` for the one of this machine.
        jobs: how many at once.
        per_gpu: how many share one GPU.
        gpus: whether jobs need one.
        cpus: cores of each job.
        command: the words of a job's process.

    Raises:
        UserError: Ray or the cluster is not there.
    """

    def __init__(
        self,
        address: str | None,
        jobs: int | None,
        per_gpu: int,
        gpus: bool,
        cpus: int = 1,
        command: Callable[[Job, Sequence[str]], list[str]] = command_of,
    ):
        super().__init__()
        if not address:
            raise UserError(
                "--backend ray needs the --address of a cluster that is there: host:port, or auto "
                "for this machine's (ray start --head, behind a firewall: docs/security.md)"
            )
        self._ray = _import()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"env_vars": {"PYTHONPATH": path}}
        try:
            self._ray.init(address=address, log_to_driver=False, runtime_env=environment)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--address {address}: {reason_of(error)}") from None
        self.slots = jobs or SLOTS
        self._threads, self._command = cpus, command
        # A job that is lost is begun again by the runner, which looks at its folder first.
        options = {"num_cpus": cpus, "num_gpus": 1 / per_gpu if gpus else 0, "max_retries": 0}
        self._call = self._ray.remote(**options)(_call)
        self._running: dict[Any, str] = {}
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def start(self, jobs: Sequence[tuple[Job, Path]], who: str) -> list[str]:
        for job, folder in jobs:
            command = self._command(job, ["--num_threads", str(self._threads)])
            start = Start(command, folder.absolute(), who, self._threads)
            self._running[self._call.remote(start)] = job.name
        return [job.name for job, _ in jobs]

    def stop(self) -> None:
        for task in [*self._running]:
            self._ray.cancel(task)

    def close(self) -> None:
        """Leaves the cluster as it is."""
        self._closing.set()
        self._watcher.join()
        self._ray.shutdown()

    def _watch(self) -> None:
        """Waits for tasks until the runner has ended."""
        while not self._closing.wait(0.2):
            tasks = [*self._running]
            done, _ = self._ray.wait(tasks, timeout=1) if tasks else ([], [])
            for task in done:
                name = self._running.pop(task)
                self.ended.put(Ended(name, self._code(task, name)))

    def _code(self, task: Any, name: str) -> int:
        """The exit status of a task's job, `LOST` where its node or its worker is gone."""
        try:
            return self._ray.get(task)
        except self._ray.exceptions.TaskCancelledError:
            return 143
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KeyboardInterrupt):
                return 143
            print_safe(f"study: {name}: {reason_of(error.cause)}")
            return 1
        except self._ray.exceptions.RayError:
            return LOST


def _call(start: Start) -> int:
    return start()


def _import() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--backend ray needs Ray: pip install -r requirements-ray.txt") from None
    return ray
