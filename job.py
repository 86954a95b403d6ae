"""What pretraining and finetuning share: clocks, updates, reports, the log line, the checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import Agent, Pretrainer
from checkpoint import misfit, scratch_rng
from config import Config
from device_store import place
from episodes import Restored, count_rows
from feeding import Feeder
from guard import Guard
from logger import Rate
from replay import Replay
from run import CHECKPOINT, Run
from sources import FLAG, Source, bar
from sources.caching import cache_root
from timing import Stopwatch
from tools import Diverged, Every, UserError, derive_seed, expand


class Job:
    """What both loops share: clocks, reports, the log line of the learner."""

    run: Run
    learner: Agent | Pretrainer
    replay: Replay
    feeder: Feeder | None = None

    def __init__(self, run: Run):
        self.run, self.config, self.runtime = run, run.config, run.runtime
        self.clocks: dict[str, Every] = {}
        self.frame_rate, self.update_rate = Rate(), Rate()
        self.watch = Stopwatch()
        self.guard = Guard(run, self.config.max_bad_updates)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Frees what the job holds beyond memory."""
        if self.feeder is not None:
            self.feeder.close()

    @property
    def frames(self) -> int:
        """Where the run is, in the unit of its periods."""
        raise NotImplementedError

    def due(self, name: str) -> bool:
        """Whether the clock of that name has come round."""
        return self.clocks[name](self.frames)

    def is_due(self, name: str) -> bool:
        """Whether `due` would say yes; the clock stays where it is."""
        clock = self.clocks[name]
        return clock.period > 0 and self.frames // clock.period > clock.last

    def update(self) -> None:
        """One update on one sampled batch."""
        if self.feeder is None:
            c, device = self.config, self.learner.device
            sizes = c.batch_size, c.batch_length
            self.feeder = Feeder(self.replay, *sizes, device, c.prefetch, self.watch)
        batch = self.feeder.next()
        with self.watch("update"):
            metrics = self.learner.update(batch)
            self.run.logger.step = self.frames
            self.guard.watch(self.learner.updates, batch, metrics)

    def report(self, prefix: str, replay: Replay) -> None:
        """Pictures of what the model sees, drawn without moving any generator of the run."""
        if not self.config.log_videos or not replay.episodes:
            return
        c, seed = self.config, derive_seed(self.config.seed, prefix, self.frames)
        with self.watch("log"):
            batch = replay.sample(6, c.batch_length, rng=np.random.default_rng(seed))
            with scratch_rng(seed, self.learner.device):
                self.run.pictures(prefix, self.learner.report(batch))
            self.run.logger.write(self.frames)

    def log(self, last: bool = False) -> None:
        """One log line: the means of all metrics, the rates, the replay's size, the seconds.

        Without updates since the last line there is none; the run's last one then has the seconds.
        """
        with self.watch("wait"):  # for the device: here the host first needs its numbers
            self.guard.settle()
            means = self.run.meter.flush()
        with self.watch("log"):
            if means:
                self._log(means)
            elif last:
                self.log_seconds()
                self.run.logger.write(self.frames)

    def _log(self, means: dict[str, float]) -> None:
        logger = self.run.logger
        logger.scalars(means)
        logger.scalar("bad_updates", self.guard.bad)
        logger.scalar("fps", self.frame_rate(self.frames))
        logger.scalar("updates_per_second", self.update_rate(self.learner.updates))
        logger.scalar("updates", self.learner.updates)
        logger.scalar("replay_steps", self.replay.frames)
        logger.scalar("replay_episodes", self.replay.episodes)
        self.log_counts()
        self.log_seconds()
        logger.write(self.frames)

    def log_counts(self) -> None:
        """Logs what else a loop counts."""

    def log_seconds(self) -> None:
        """Where the time since the last line went, in seconds and as shares of it."""
        seconds = self.watch.flush()
        passed = sum(seconds.values())
        for name, value in sorted(seconds.items()):
            self.run.logger.scalar(f"seconds_{name}", value)
            self.run.logger.scalar(f"share_{name}", value / passed if passed > 0 else 0.0)

    def resume(self) -> None:
        """Takes up the checkpoint, generators last.

        Raises:
            UserError: it does not fit.
        """
        state = self.run.resumed
        if wrong := misfit(state["learner"]["weights"], self.learner.state_dict()["weights"]):
            raise UserError(
                f"{self.run.folder / CHECKPOINT}: {wrong}: go on with the code that began this "
                "run, or begin again in another --logdir"
            )
        self.learner.load_state_dict(state["learner"])
        for name, clock in self.clocks.items():
            clock.last = state["clocks"][name]
        if "guard" in state:  # runs of earlier versions have none
            self.guard.load_state_dict(state["guard"])
        self.restore(state)
        self.frame_rate, self.update_rate = Rate(self.frames), Rate(self.learner.updates)
        self.run.restore_rng()

    @staticmethod
    def next_step(run: Run) -> str:
        """What the user may want to type when the run has finished."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the rest of the checkpoint."""
        raise NotImplementedError

    def save(self, finished: bool = False, **more: Any) -> None:
        """Writes the checkpoint.

        Raises:
            Diverged: a weight is not finite; the checkpoint before stays.
        """
        with self.watch("checkpoint"):
            if not all(torch.isfinite(p).all() for p in self.learner.parameters()):
                raise Diverged("a weight")
            state = {
                "guard": self.guard.state_dict(),
                "learner": self.learner.state_dict(),
                "clocks": {name: clock.last for name, clock in self.clocks.items()},
            }
            self.run.save(self.frames, finished, {**state, **more})


def load_episodes(
    run: Run, replay: Replay, flag: str, fraction: float = 1.0, source: Source | None = None
) -> None:
    """Loads the folder that a flag names, or the source that it came to; notes what was found.

    Raises:
        UserError: it has no episode that can be used.
    """
    source = source or Source(expand(run.config[flag], flag))
    before = replay.episodes
    with bar(unit=1) as progress:
        found = replay.load(
            source.folder,
            fraction=fraction,
            seed=run.config.seed,
            progress=lambda done, total: progress("loading", done, total),
        )
    if replay.episodes == before:
        reason = f" ({found.skipped[0][0]}: {found.skipped[0][1]})" if found.skipped else ""
        more = ", or videos, which are scaled" if flag == FLAG else ""
        raise UserError(
            f"--{flag} {source.folder} has no usable .npz episode{reason}: give a folder of "
            f"episodes such as a run's train_eps{more}"
        )
    skipped = [*source.skipped, *found.skipped]
    for name, reason in skipped[:10]:
        run.note("skipped", file=name, reason=reason)
    counts = {"episodes": found.episodes, "frames": found.frames, "skipped": len(skipped)}
    run.note("dataset", folder=str(source.folder), **counts, **source.fields)


def note_stale(run: Run, moved: list[Path]) -> None:
    """Tells of episodes that closed after the checkpoint that a run goes on from."""
    if moved:
        run.note("set_aside", episodes=len(moved), folder=str(moved[0].parent))


def note_restored(run: Run, found: Restored) -> None:
    """Tells of the episodes that a run goes on without, and why."""
    note_stale(run, found.stale)
    for path, reason in found.lost[:10]:
        run.note("warning", message=f"goes on without {path}: {reason}")
    if found.bad:
        run.note("set_aside", episodes=len(found.bad), folder=str(found.bad[0].parent))
    if more := len(found.lost[10:]):
        run.note("warning", message=f"goes on without {more} episodes more")


def new_replay(
    config: Config,
    folder: Path | None,
    name: str,
    action_size: int | None,
    capacity: int = -1,
    rows: Callable[[], int] | None = None,
    background: bool = False,
) -> Replay:
    """An empty replay.

    Args:
        config: the run's.
        folder: where closed episodes are written; None writes nothing.
        name: what it is for; its generator follows from it.
        action_size: A; None for action-free data.
        capacity: rows to keep, 0 for all; −1 is ``--dataset_size``.
        rows: says how many rows will come; then ``--replay_device`` holds. None keeps them off it.
        background: write episodes beside what comes next.

    Raises:
        UserError: its rows are to lie on disk, and ``--cache_dir`` cannot be used; or on a device
            that cannot hold them.
    """
    storage = cache_root(config.cache_dir) if config.replay_storage == "disk" else None
    store = None
    if rows is not None:
        store = functools.partial(place, config=config, folder=storage, rows=rows)
    return Replay(
        folder,
        capacity=config.dataset_size if capacity < 0 else capacity,
        seed=derive_seed(config.seed, "replay", name),
        oversample_ends=config.oversample_ends,
        image_shape=(*config.size, 1 if config.grayscale else 3),
        action_shape=None if action_size is None else (action_size,),
        tag=f"s{config.seed}",
        storage=storage,
        store=store,
        background=background,
    )


def expected_rows(config: Config) -> int:
    """About how many rows the replay of a run comes to hold.

    Episodes that end before their time have more of them: each has a row before its first step.
    """
    steps = max(config.steps // config.action_repeat, config.prefill)
    length = -(-config.time_limit // config.action_repeat)
    rows = steps + steps // length + config.envs * (length + 1)
    if config.offline_traindir:
        rows += count_rows(expand(config.offline_traindir, "offline_traindir"))
    return rows_kept(config, rows)


def rows_kept(config: Config, rows: int) -> int:
    """How many of the rows that come a replay holds at a time, with the gap where it wraps."""
    capacity = config.dataset_size
    return min(rows, capacity + capacity // 8) if capacity else rows
