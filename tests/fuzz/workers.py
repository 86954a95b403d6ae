"""The processes that judge: one that hangs or breaks is a finding, and another takes its place."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.fuzz.guard import SECONDS
from tests.fuzz.harness import Finding, Harness, examine, memory, scratch
from tests.fuzz.targets import TARGETS

BATCH = 250  # inputs that one task judges
PATIENCE = 6 * SECONDS  # until a process without a sign of life is ended
MOST = 20  # findings of one target, after which it is left alone


@dataclass
class Task:
    """Inputs of one target from one seed, to be judged by one process."""

    target: str
    inputs: int
    seed: int


@dataclass
class Worker:
    """A process that judges, and what it has before it."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    folder: Path
    task: Task | None = None


@dataclass
class Tally:
    """What came of a target."""

    inputs: int = 0
    seconds: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)


def work(pipe: Connection, folder: Path, kept: Path, until: float) -> None:
    """A process's life: takes tasks and answers with (inputs, seconds, findings)."""
    sys.dont_write_bytecode = True
    alive = folder / "alive"
    with scratch(folder) as inside:
        while (task := pipe.recv()) is not None:
            harness = Harness(inside / "desk", kept, beat=alive.touch)
            begun = time.monotonic()
            examine(harness, TARGETS[task.target], task.inputs, task.seed, until)
            pipe.send((harness.count, time.monotonic() - begun, harness.findings))


def start(root: Path, kept: Path, until: float, number: int) -> Worker:
    """A new process with a folder of its own."""
    folder = root / str(number)
    folder.mkdir()
    (folder / "alive").touch()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, folder, kept, until), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours, folder)


def lost(worker: Worker, kept: Path, reason: str) -> Finding:
    """The finding of a process that ended, or never would have: its last input."""
    target = worker.task.target
    folder = kept / f"{target}-lost-{worker.folder.name}"
    shutil.rmtree(folder, ignore_errors=True)
    given = next(worker.folder.glob("*/desk/given"), None)
    if given is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(given, folder)
    return Finding(target, reason, folder)


def fuzz(tasks: deque[Task], processes: int, kept: Path, until: float) -> dict[str, Tally]:
    """Has all tasks done, in several processes; ends and replaces one that hangs or breaks."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        workers = [start(root, kept, until, next(numbers)) for _ in range(processes)]
        while tasks or any(worker.task for worker in workers):
            for at, worker in enumerate(workers):
                if worker.task is None and (task := _next(tasks, tallies, until)):
                    worker.task = task
                    worker.pipe.send(task)
                if worker.task and (reason := _trouble(worker)):
                    worker.process.kill()
                    worker.process.join()
                    finding = lost(worker, kept, reason)
                    tallies[finding.target].findings[finding.folder.name] = finding
                    workers[at] = start(root, kept, until, next(numbers))
            busy = [worker for worker in workers if worker.task]
            for pipe in wait([worker.pipe for worker in busy], timeout=1.0):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                _take(worker, tallies)
        for worker in workers:
            worker.pipe.send(None)
            worker.process.join()
    return tallies


def _next(tasks: deque[Task], tallies: dict[str, Tally], until: float) -> Task | None:
    while tasks:
        task = tasks.popleft()
        if len(tallies[task.target].findings) < MOST and time.monotonic() < until:
            return task
    return None


def _trouble(worker: Worker) -> str | None:
    """Why a process is of no use any more."""
    if not worker.process.is_alive() and not worker.pipe.poll():
        return f"the process ended with status {worker.process.exitcode}"
    if time.time() - (worker.folder / "alive").stat().st_mtime > PATIENCE:
        return "the process gave no sign of life"
    return None


def _take(worker: Worker, tallies: dict[str, Tally]) -> None:
    try:
        inputs, seconds, findings = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return  # it ended: see _trouble
    tally = tallies[worker.task.target]
    tally.inputs += inputs
    tally.seconds += seconds
    tally.findings |= findings
    worker.task = None
