"""Runs a study to its end: the done is skipped, failures are tried again, stages wait in order."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay.room import GIB
from study import job as jobs
from study.backend import LOST, Backend, Ended
from study.job import Job, State, read_state
from tools import UserError, print_safe
from training.stop import StopSignal

RETRIES = 2  # of a job that fails, in one start of the runner
LOOK = 1.0  # seconds between looks at runs that other processes have begun
FREE = 1 << 28  # bytes of disk that have to be free for another job to start


class Runner:
    """Hands jobs to a backend until there is nothing left to do.

    Args:
        name: the study's.
        plan: its jobs, each behind those that it needs.
        logdir: of all runs.
        backend: who runs them.
        stop: tells of a signal.
    """

    def __init__(
        self, name: str, plan: Sequence[Job], logdir: Path, backend: Backend, stop: StopSignal
    ):
        self._name, self._logdir, self._backend, self._stop = name, logdir, backend, stop
        self.jobs = {job.name: job for job in plan}
        self.states = {job.name: self._read(job) for job in plan}
        self._failures: Counter[str] = Counter()
        undone = [name for name, state in self.states.items() if state.status != jobs.DONE]
        self._ours = {*backend.adopt(undone)}  # that the backend has
        for name in self._ours:
            self._set(name, status=jobs.RUNNING)
        self._full = False

    def _read(self, job: Job) -> State:
        return read_state(job, self._logdir / job.name)

    def _set(self, name: str, **changes: Any) -> None:
        self.states[name] = self.states[name]._replace(**changes)

    def run(self) -> int:
        """Runs to the end; returns the exit status."""
        self._tell_beginning()
        asked = False
        while True:
            if not asked and self._stop.is_asked:
                asked = True
                self._ask_to_stop()
            if not asked:
                self._start()
            if not self._running():
                break
            for ended in self._backend.take(LOOK):
                self._settle(ended)
            self._look_at_others()
        if asked:
            self._say("stopped; the same command goes on")
            return self._stop.exit_code
        return self._tell_end()

    def _running(self) -> list[str]:
        return [name for name, state in self.states.items() if state.status == jobs.RUNNING]

    def _start(self) -> None:
        """Starts what can be started."""
        room = self._backend.slots - len(self._running())
        ready = [job for job in self.jobs.values() if self._is_ready(job)][: max(room, 0)]
        if not ready:
            return
        free = shutil.disk_usage(self._logdir).free
        self._full = free < FREE
        if self._full:
            return
        who = f"{self._name}, runner {os.getpid()}"
        for name in self._backend.start([(job, self._logdir / job.name) for job in ready], who):
            self._set(name, status=jobs.RUNNING)
            self._ours.add(name)
            self._say(f"start {name}")

    def _is_ready(self, job: Job) -> bool:
        if self.states[job.name].status not in (jobs.WAITING, jobs.STOPPED, jobs.FAILED):
            return False
        if self._failures[job.name] > RETRIES:
            return False
        return all(self.states[name].status == jobs.DONE for name in job.needs)

    def _settle(self, ended: Ended) -> None:
        """Takes note of a job that has ended."""
        job = self.jobs[ended.name]
        self._ours.discard(job.name)
        state = self.states[job.name] = self._read(job)
        if state.status == jobs.DONE:
            self._say(f"done  {job.name}{_told(state)}")
        elif state.status == jobs.RUNNING:
            self._say(f"wait  {job.name}: another process is at work there")
        elif self._stop.is_asked:
            self._say(f"stop  {job.name} at {state.frames:,}")
        elif ended.code == LOST:
            self._say(f"lost  {job.name} at {state.frames:,}: whatever ran it is gone")
        else:
            self._failures[job.name] += 1
            left = RETRIES + 1 - self._failures[job.name]
            line = state.line or f"it ended with exit status {ended.code}"
            again = {0: "no more", 1: "once more"}.get(left, f"{left} times more")
            self._say(f"fail  {job.name}: {line} (tried {again})")
            self.states[job.name] = state._replace(status=jobs.FAILED, line=line)

    def _look_at_others(self) -> None:
        """Reads runs that others are at work in: jobs of a killed runner, or of another study."""
        for name in self._running():
            if name not in self._ours:
                state = self.states[name] = self._read(self.jobs[name])
                if state.status != jobs.RUNNING:
                    self._say(f"{state.status:5} {name}{_told(state)}")

    def _ask_to_stop(self) -> None:
        """Asks all jobs to stop, those of an earlier, killed runner of this study included."""
        self._say(f"stopping {len(self._running())} jobs, each with a checkpoint")
        self._backend.stop()
        for name in self._running():
            if name in self._ours:
                continue
            folder = self._logdir / name
            pid = jobs.owner_of(folder)
            if pid is not None and jobs.started_by(folder) == self._name:
                os.kill(pid, signal.SIGTERM)
            else:  # whoever has begun it may want it to go on
                self._say(f"leave {name}: no job of this study has it")
                self._set(name, status=jobs.STOPPED)

    def _tell_beginning(self) -> None:
        count = Counter(state.status for state in self.states.values())
        told = ", ".join(f"{n} {status}" for status, n in sorted(count.items()))
        self._say(f"{self._name}: {len(self.jobs)} jobs ({told}), {self._backend.slots} at once")
        for name, state in self.states.items():
            if state.status == jobs.FAILED:
                self._say(f"again {name}, which failed: {state.line}")
            if state.status == jobs.RUNNING:
                self._say(f"wait  {name}: a process is at work there")

    def _tell_end(self) -> int:
        """Says what has come of it; returns the exit status."""
        failed = [name for name, state in self.states.items() if state.status == jobs.FAILED]
        undone = [name for name, state in self.states.items() if state.status != jobs.DONE]
        if not undone:
            self._say(f"{self._name}: all {len(self.jobs)} jobs are done")
            return 0
        if self._full:
            free = shutil.disk_usage(self._logdir).free
            raise UserError(
                f"{self._logdir} has {free / GIB:.2f} GiB left on its disk, and "
                f"{len(undone)} jobs are not done: free some space there; the same command goes on"
            )
        for name in failed:
            self._say(f"failed {name}: {self.states[name].line}")
        if behind := len(undone) - len(failed):
            self._say(f"{behind} jobs wait for those")
        return 1

    def _say(self, text: str) -> None:
        print_safe(f"{datetime.datetime.now():%H:%M:%S} {text}")


def _told(state: State) -> str:
    """How far a run is, behind its name."""
    return f" at {state.frames:,}" + ("" if state.ret is None else f", return {state.ret:.1f}")
