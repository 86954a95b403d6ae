"""The long haul: does a run that goes on for hundreds of thousands of steps hold ever more?

python -m tests.faults.soak [--steps 200000] [--constructions 1000] [--out DIR] [--json FILE]

First the real finetuning loop, with an idle agent in the place of the one that learns: worker
processes that simulate and draw, a replay that evicts, episode files, checkpoints, log lines,
pictures and evaluations. It goes through ten equal phases. In each the colours change to and fro,
and one worker process, the oldest, is killed and has to be started anew. Then environments of
several suites are made, played and closed, one after the other in one process.

At the ends of the phases descriptors, threads and processes must be as many each time; memory may
grow by no more than ``--bound``. Exits with 1 if something grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import dreamer
import finetuning
from accel.runtime import Runtime
from agent import Learner
from benchmarks.table import markdown, write
from envs import variation_for
from finetuning import Finetuning
from optimizer import Metrics, Optimizer
from tests.faults import constructions
from tests.faults.constructions import Round
from tests.faults.footprint import FRUGAL, Held, children, heap, held
from tests.faults.verdicts import HEADER, Line, constant, growth
from tools import UserError

TASK, SIDE, REPEAT, ENVS, EVAL_ENVS = "dmc2gym_point_mass_easy", 64, 2, 4, 2
PHASES = 10
WARM_UP = 3  # phases that are not looked at, and one in the life of each worker
SECONDS = 2.0  # between readings of memory
PER = 100_000  # agent steps that slopes are of
# MiB for so many: half a KiB for each of 2,000 episodes. Not one row of an image may stay, nor much
# more than an episode's name.
BOUND = 1.0


class Broken(Exception):
    """The run that was watched did not come to its end."""


class Idle(Learner):
    """In the agent's place: random actions, and an update of one number."""

    def __init__(self, config: Any, runtime: Runtime, actions: int, teacher: Any = None):
        super().__init__(config, runtime)
        self.actions = actions
        self.guess = nn.Parameter(torch.zeros(()))
        clip, lr = config.grad_clip, config.model_lr
        self.optimizers = {"model": Optimizer("model", [self.guess], config, lr, clip)}

    def act(self, obs: Mapping[str, np.ndarray], state: Any, mode: str = "train") -> Any:
        return (2 * torch.rand(len(obs["is_first"]), self.actions) - 1).numpy(), None

    def refresh(self) -> None:
        """Nothing that acts is kept back."""

    def noise(self, batch: int, length: int) -> dict[str, Tensor]:
        return {}

    def learn(self, data: Mapping[str, Tensor]) -> Metrics:
        """The mean reward, learned."""
        loss = (data["reward"].mean() - self.guess).square()
        return self.optimizers["model"].step(loss)

    def report(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"openl": np.asarray(batch["image"])[:2]}


class Reading(NamedTuple):
    """What all processes of the run hold after so many agent steps.

    ``heap`` and ``blocks`` are the main process's: MiB allocated, and how many objects of Python.
    """

    steps: int
    main: Held
    workers: list[Held]
    others: int
    zombies: int
    heap: float
    blocks: int


class Watch:
    """Reads at the end of each phase and every other second, and kills a worker in each phase.

    Args:
        phase: agent steps of one.
        path: of the file that the readings go to: to keep them here would be a growth of its own.
        tell: takes each reading at the end of a phase.
    """

    def __init__(self, phase: int, path: Path, tell: Callable[[Reading], None]):
        self.phase, self.path, self.tell = phase, path, tell
        self.phases = self.killed = 0
        self._read_at = time.monotonic()

    def __call__(self, steps: int) -> None:
        """Looks, after a step of the training environments that none is under way behind."""
        if steps % self.phase == 0:
            self.phases += 1
            self.tell(self.read(steps))
        elif steps % self.phase == self.phase // 4:
            self.kill()
        elif time.monotonic() - self._read_at > SECONDS:
            self.read(steps)

    def read(self, steps: int) -> Reading:
        """What everybody holds now, also written down."""
        kinds: dict[str, list[int]] = {"worker": [], "other": [], "zombie": []}
        for child in children():
            kinds[child.kind].append(child.pid)
        workers = [held(pid) for pid in kinds["worker"]]
        counts = len(kinds["other"]), len(kinds["zombie"])
        own = heap(), sys.getallocatedblocks()
        reading = Reading(steps, held(os.getpid()), workers, *counts, *own)
        with self.path.open("a") as file:
            file.write(json.dumps(plain(reading)) + "\n")
        self._read_at = time.monotonic()
        return reading

    def readings(self) -> list[Reading]:
        """All of them so far, in their order."""
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        for one in found:
            one["main"], one["workers"] = Held(**one["main"]), [Held(**w) for w in one["workers"]]
        return [Reading(**one) for one in found]

    def kill(self) -> None:
        """Ends the oldest worker, as a machine that is short of memory does."""
        pid = next(child.pid for child in children() if child.kind == "worker")
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # has ended, and is not reaped
        self.killed += 1


def watched(watch: Watch) -> type[Finetuning]:
    """The loop, with a look after each step; colours change twice in each phase."""

    class Watched(Finetuning):
        def variation(self, split: str) -> str:
            second = self.collector.steps % watch.phase * 2 >= watch.phase
            return variation_for(self.config.task, split, True, second)

        def receive(self) -> None:
            super().receive()
            self.replay.written()
            watch(self.collector.steps)

    return Watched


def command(out: Path, steps: int) -> list[str]:
    """The command line of a run of so many agent steps."""
    phase = steps // PHASES
    periods = {"eval": phase // 2, "log": phase // 4, "checkpoint": phase // 4}
    flags = {f"{name}_every": period * REPEAT for name, period in periods.items()}
    flags |= {"task": TASK, "logdir": out, "device": "cpu", "num_threads": 1, "shadow_size": 16}
    flags |= {"size": f"{SIDE} {SIDE}", "action_repeat": REPEAT, "time_limit": 100}
    flags |= {"method_name": "dreamerv2", "steps": steps * REPEAT, "prefill": min(1000, phase // 4)}
    flags |= {"envs": ENVS, "async_env": "process", "overlap": True, "prefetch": True}
    flags |= {"eval_envs": EVAL_ENVS, "eval_episodes": 4, "env_restarts": 10 * PHASES}
    flags |= {"dataset_size": max(phase // 4, 100), "pretrain": 1, "train_every": 2 * ENVS}
    flags |= {"batch_size": 4, "batch_length": 10, "color_distractor": True}
    words = [word for name, value in flags.items() for word in (f"--{name}", *str(value).split())]
    return ["--configs", "defaults", "dmc2gym", *words]


def soak(out: Path, steps: int, tell: Callable[[Reading], None]) -> dict[str, Any]:
    """A run of so many agent steps in the folder ``out``, and what its processes held.

    Raises:
        UserError: the steps do not come out even, or the disk has no room for the episodes.
        Broken: the run did not come to its end.
    """
    if steps % (PHASES * 4 * ENVS):
        raise UserError(f"--steps {steps}: give a multiple of {PHASES * 4 * ENVS}")
    if shutil.disk_usage(out).free < 2 * steps * SIDE * SIDE * 3:
        raise UserError(f"--out {out} has no room for the episodes of {steps} steps")
    watch, begun = Watch(steps // PHASES, out / "readings.jsonl", tell), time.monotonic()
    with (
        mock.patch.object(dreamer, "Finetuning", watched(watch)),
        mock.patch.object(finetuning, "Agent", Idle),
        (out / "log.txt").open("w") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        code = dreamer.main(command(out, steps))
    if code or watch.phases != PHASES:
        last = (out / "log.txt").read_text().strip().rpartition("\n")[2]
        raise Broken(f"the run ended with {code} after {watch.phases} phases: {last}")
    files = [path.stat().st_size for path in out.glob("*/*/*/train_eps/*.npz")]
    return {
        "seconds": time.monotonic() - begun,
        "killed": watch.killed,
        "files": len(files),
        "mib": sum(files) / 2**20,
        "phase": watch.phase,
        "readings": watch.readings(),
    }


def judge(found: Mapping[str, Any], bound: float) -> list[Line]:
    """What grew in a soak, and whether it may."""
    phase, readings = found["phase"], found["readings"]
    late = [reading for reading in readings if reading.steps >= WARM_UP * phase]
    ends = [reading for reading in late if reading.steps % phase == 0]
    lines = [
        constant("main: descriptors", [end.main.descriptors for end in ends]),
        constant("main: threads", [end.main.threads for end in ends]),
        constant("main: children, without workers", [end.others for end in ends]),
        constant("workers", [len(end.workers) for end in ends]),
        constant("workers that nobody reaped", [end.zombies for end in ends]),
    ]
    for name in ("descriptors", "threads"):
        each = [sorted({getattr(worker, name) for worker in end.workers}) for end in ends]
        lines.append(constant(f"each worker: {name}", [" ".join(map(str, n)) for n in each]))
    # Batches and checkpoints come and go: what stays is the least of each phase.
    at = [end.steps / PER for end in ends[1:]]
    spans = [[r for r in late if 0 <= end.steps - r.steps < phase] for end in ends[1:]]
    heaps = [min(reading.heap for reading in span) for span in spans]
    lines.append(growth("main: heap, MiB", bound, at, heaps))
    blocks = [min(reading.blocks for reading in span) / 1e3 for span in spans]
    lines.append(growth("main: Python's blocks, thousands", None, at, blocks))
    steps = [reading.steps / PER for reading in late]
    for name, most in (("rss", bound), ("anonymous", bound), ("pss", None)):
        values = [getattr(reading.main, name) for reading in late]
        lines.append(growth(f"main: {name}, MiB", most, steps, values))
    since: dict[int, int] = {}  # the first reading of each worker
    for reading in readings:
        for worker in reading.workers:
            since.setdefault(worker.pid, reading.steps)
    for name in ("rss", "anonymous"):
        points = [
            (worker.pid, reading.steps / PER, getattr(worker, name))
            for reading in late
            for worker in reading.workers
            if reading.steps >= since[worker.pid] + phase
        ]
        pids, x, y = zip(*sorted(points), strict=True)
        lines.append(growth(f"each worker: {name}, MiB", bound, x, y, pids))
        sums = [sum(getattr(worker, name) for worker in reading.workers) for reading in late]
        lines.append(growth(f"all workers: {name}, MiB", None, steps, sums))
    return lines


def plain(value: Any) -> Any:
    """Named tuples as dictionaries, for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def report(title: str, lines: Sequence[Line]) -> bool:
    """Prints a table; returns whether nothing in it grows."""
    print(f"\n{title}\n\n{markdown(HEADER, [line.cells() for line in lines])}\n", flush=True)
    return all(line.flat is not False for line in lines)


def tell_phase(reading: Reading) -> None:
    """A line at the end of a phase."""
    main, workers = reading.main, reading.workers
    print(
        f"{reading.steps:>8,} steps  main {main.rss:.1f} MiB, heap {reading.heap:.1f} MiB, "
        f"{main.descriptors} descriptors, {main.threads} threads  {len(workers)} workers "
        f"{sum(worker.rss for worker in workers):.1f} MiB",
        file=sys.__stdout__,  # the run's own output goes to its log
        flush=True,
    )


def tell_round(reading: Round) -> None:
    """A line after every tenth round of constructions."""
    if reading.number % 10 == 0:
        print(
            f"{reading.count:>8,} constructions  {reading.main.rss:.1f} MiB, "
            f"{reading.main.descriptors} descriptors, {reading.main.threads} threads, "
            f"{reading.contexts} contexts",
            flush=True,
        )


def alone(count: int, videos: Path) -> dict[str, Any]:
    """The constructions, in a process of their own that nothing has filled before.

    Raises:
        UserError: so few that no trend could be told.
    """
    rounds = constructions.plan(videos)
    if count < 6 * len(rounds):
        raise UserError(f"--constructions {count}: give at least {6 * len(rounds)}, or 0")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(constructions.construct, count, rounds, tell_round).result()


@contextlib.contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The folder to write in: an empty one that was given, or one that goes away again."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="soak-") as made:
            yield Path(made)
        return
    given.mkdir(parents=True, exist_ok=True)
    if any(given.iterdir()):
        raise UserError(f"--out {given} is not empty: give another folder")
    yield given


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=int, default=200_000, help="agent steps; 0: no run")
    parser.add_argument("--constructions", type=int, default=1000, help="0: none")
    parser.add_argument("--out", type=Path, help="empty folder for the run; default: a passing one")
    parser.add_argument("--json", type=Path, help="file for all readings")
    text = "MiB by which a process of the run may grow in 100,000 steps"
    parser.add_argument("--bound", type=float, default=BOUND, help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    args, flat = parse(argv), True
    found: dict[str, Any] = {}
    try:
        with folder(args.out) as out, mock.patch.dict(os.environ, FRUGAL):
            if args.steps:
                run = found["soak"] = soak(out, args.steps, tell_phase)
                title = (
                    f"{args.steps:,} agent steps in {run['seconds']:.0f} s, {run['files']:,} "
                    f"episodes of {run['mib']:.0f} MiB, {run['killed']} workers killed; "
                    f"slopes per {PER:,}"
                )
                flat &= report(title, judge(run, args.bound))
            if args.constructions:
                made = found["constructions"] = alone(args.constructions, out / "videos")
                title = (
                    f"{made['constructions']:,} environments in {made['seconds']:.0f} s, "
                    f"{made['contexts_made']:,} OpenGL contexts, {made['contexts_at_once']} at "
                    f"once; slopes per {constructions.PER:,}"
                )
                flat &= report(title, constructions.judge(made))
    except UserError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except Broken as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    if args.json:
        write(args.json, {"arguments": sys.argv[1:], "flat": flat, **plain(found)})
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
