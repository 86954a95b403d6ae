"""What a study costs on this machine, from a short real run of one job of each kind."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import config as configuration
from accel.threads import available_cores
from agents.base import PRETRAIN_UNIT
from agents.registry import METHODS
from config import Config
from logger import read_metrics
from logger.terminal import duration
from replay.room import GIB
from study.backend import command_of
from study.job import Job, last_line, output_of
from study.worker import Start
from tools import UserError, print_safe
from training.factory import expected_rows
from training.length import updates_of

UPDATES = 4  # that are measured, behind as many that are not: the first ones warm up
STEPS = 40  # agent steps of an episode here, and of a collection
# Nothing but stepping and learning; what else a run does is reckoned from those.
BARE = {"log_videos": False, "checkpoint_every": 0, "eval_every": 0, "keep_checkpoints": 1}
QUIET = {"log_videos": False, "checkpoint_every": 0, "pretrain_save_every": 0}


class Rates(NamedTuple):
    """What a short run came to.

    Attributes:
        start: seconds before its first step.
        step: seconds of an agent step in the environment.
        update: seconds of an update.
        memory: bytes, at most.
        checkpoint: bytes of a checkpoint, without the replay's own.
        row: bytes of a row of an episode on the disk.
    """

    start: float
    step: float
    update: float
    memory: int
    checkpoint: int
    row: float


class Cost(NamedTuple):
    """Seconds, bytes of memory and bytes of disk that a job takes."""

    seconds: float
    memory: float
    disk: float


def tell_costs(jobs: Sequence[Job], logdir: str, threads: int, at_once: int) -> int:
    """Measures, and prints a line for each kind of job; returns the exit status.

    Args:
        jobs: of the study.
        logdir: as it stands in their command lines.
        threads: of each job.
        at_once: how many of them.

    Raises:
        UserError: a short run failed; its last line is told.
    """
    kinds: dict[tuple[str, str, str], list[Job]] = {}
    for job in jobs:
        kinds.setdefault(job.kind, []).append(job)
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory(prefix="study-") as scratch:
        bench = _Bench(jobs, logdir, Path(scratch), threads)
        rows: list[tuple[str, ...]] = [("kind", "jobs", "each", "memory", "disk")]
        for number, (kind, alike) in enumerate(kinds.items(), 1):
            print_safe(f"measuring {number} of {len(kinds)}: {' '.join(kind)}")
            rates = bench.rates(alike[0])
            found = {job.name: reckon(_parse(job.words), rates) for job in alike}
            costs |= found
            most = [max(column) for column in zip(*found.values(), strict=True)]
            sizes = [f"{value / GIB:.2f} GiB" for value in most[1:]]
            rows.append((" ".join(kind), str(len(alike)), duration(most[0]), *sizes))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print_safe("  ".join([first.strip().ljust(widths[0]), *others]), sys.stdout)
    seconds, disk = sum(c.seconds for c in costs.values()), sum(c.disk for c in costs.values())
    print_safe(
        f"{len(jobs)} jobs: {duration(seconds / at_once)} with {at_once} at once, "
        f"{disk / GIB:.1f} GiB of disk (measured alone, threads each: {threads})",
        sys.stdout,
    )
    load, cores = os.getloadavg()[0], available_cores()
    if load > cores + 1:
        print_safe(f"note: other programs slowed this down (load {load:.1f} on {cores} cores)")
    return 0


def reckon(config: Config, rates: Rates) -> Cost:
    """What a whole run costs at these rates.

    Steps, updates and evaluations are counted as the loops do, and a checkpoint is written at the
    disk's speed, which is left out.
    """
    updates = updates_of(config)
    height, width = config.size
    rows = 0 if config.replay_storage == "disk" else expected_rows(config)
    memory = rates.memory + rows * height * width * (1 if config.grayscale else 3)
    disk = float(rates.checkpoint * config.keep_checkpoints)
    if config.beta_vae_pretrain:
        return Cost(rates.start + updates * rates.update, memory, disk)
    steps = max(config.steps // config.action_repeat, config.prefill)
    played = 0
    if config.steps and config.eval_every:
        evaluations = 2 + config.steps // config.eval_every  # the random policy's, and the last
        played = evaluations * config.eval_episodes * config.time_limit // config.action_repeat
    seconds = rates.start + (steps + played) * rates.step + updates * rates.update
    return Cost(seconds, memory, disk + steps * rates.row)


class _Bench:
    """Short runs in a scratch folder; a job's needs are run before it.

    Args:
        jobs, logdir, threads: as for `tell_costs`.
        scratch: where the runs lie.
    """

    def __init__(self, jobs: Sequence[Job], logdir: str, scratch: Path, threads: int):
        self._jobs = {job.name: job for job in jobs}
        self._logdir, self._scratch, self._threads = logdir.rstrip("/"), scratch, threads
        self._done: dict[str, Rates] = {}

    def rates(self, job: Job) -> Rates:
        """What a short run of a job came to."""
        for name in job.needs:
            self.rates(self._jobs[name])
        if job.name not in self._done:
            self._done[job.name] = self._run(job)
        return self._done[job.name]

    def _run(self, job: Job) -> Rates:
        words = [self._moved(word) for word in job.words]
        config = _parse(words)
        for flag, value in shorten(config).items():
            words += [f"--{flag}", str(value)]
        folder = self._scratch / job.name
        words += ["--num_threads", str(self._threads)]
        command = command_of(dataclasses.replace(job, words=tuple(words)))
        start = Start(command, folder, f"dry, runner {os.getpid()}", self._threads)
        start.begin()
        try:
            ending = start.wait()
        except BaseException:
            start.ask()
            if start.pid:
                start.wait()  # it still writes below a folder that is about to go
            raise
        if ending.code:
            raise UserError(f"--dry: {job.name}: {last_line(output_of(folder).read_text())}")
        return _read(folder, config, ending.seconds, ending.peak)

    def _moved(self, word: str) -> str:
        """A path below the study's --logdir as one below the scratch folder."""
        if word.rstrip("/") == self._logdir or word.startswith(f"{self._logdir}/"):
            return str(self._scratch) + word[len(self._logdir) :]
        return word


def shorten(config: Config) -> dict[str, Any]:
    """Flags that make a run a short one: an episode, then `UPDATES` updates twice."""
    if config.beta_vae_pretrain:
        unit = UPDATES * PRETRAIN_UNIT
        return {**QUIET, "pretrain_steps": 2 * unit, "log_every": unit}
    if not config.steps:
        return {**BARE, "prefill": STEPS, "time_limit": STEPS * config.action_repeat}
    every = -(-UPDATES // max(config.train_steps, 1)) * config.train_every
    length = -(-(STEPS + 2 * every) // every) * every * config.action_repeat
    return {
        **BARE,
        "prefill": STEPS,
        "pretrain": 1,
        "time_limit": STEPS * config.action_repeat,
        "steps": length,
        "log_every": every * config.action_repeat,
        "eval_episodes": 1,
    }


def _read(folder: Path, config: Config, wall: float, peak: int) -> Rates:
    """The rates of a short run, from the last line of its log that tells seconds."""
    rows = read_metrics(folder / "metrics.jsonl")
    told = [row for row in rows if "seconds_other" in row]
    last, before = told[-1], told[-2] if len(told) > 1 else {"step": 0, "updates": 0}
    updates = last.get("updates", 0) - before.get("updates", 0)
    learning = sum(last.get(f"seconds_{name}", 0.0) for name in ("update", "sample", "transfer"))
    learning += last.get("seconds_wait", 0.0)
    acting = last.get("seconds_env", 0.0) + last.get("seconds_act", 0.0)
    steps = (last["step"] - before["step"]) / config.action_repeat
    episodes = [*(folder / "train_eps").glob("*.npz")]
    size = sum(path.stat().st_size for path in episodes)
    rows_there = sum(int(path.stem.rpartition("-")[2]) for path in episodes)
    found = max(folder.glob("checkpoint_*.pt"), key=lambda path: path.stat().st_size)
    return Rates(
        start=max(wall - rows[-1]["time"], 0.0),
        step=0.0 if config.beta_vae_pretrain or not steps else acting / steps,
        update=learning / updates if updates else 0.0,
        memory=peak,
        checkpoint=found.stat().st_size,
        row=size / rows_there if rows_there else 0.0,
    )


def _parse(words: Sequence[str]) -> Config:
    return configuration.parse(words, methods=METHODS)
