"""What pretraining and finetuning share: clocks, updates, reports, the log line, the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.generators import scratch_rng
from agents.base import Batch, Learner
from data import FLAG, Source, bar
from fileio.checkpoints import to_arrays
from logger import Pace, Rate, Status
from logger.timing import Stopwatch
from replay import Replay
from replay.batch import to_tensors
from tools import Diverged, Every, UserError, derive_seed, expand_path, print_safe
from training.disentanglement import LatentMetrics
from training.nonfinite import NonFinite
from training.run_folder import CHECKPOINT, RunFolder

MANY = 100  # episodes that take a while to read


class Trainer:
    """What both loops share: clocks, updates, pictures, the log line, the checkpoint.

    It knows a learner by its contract alone (`agents/base.py`).
    """

    learner: Learner
    replay: Replay
    unit = "frames"  # what the run's steps are called

    def __init__(self, run: RunFolder):
        self.run, self.config, self.runtime = run, run.config, run.runtime
        self.updates = 0
        self.clocks: dict[str, Every] = {}
        self.frame_rate, self.update_rate = Rate(), Rate()
        self.results: dict[str, float] = {}  # what the last episodes came to, for a terminal
        self.pace, self.watch = Pace(self.end), Stopwatch()
        self.nonfinite = NonFinite(run, self.config.max_bad_updates)
        every = self.config.metrics_every
        self.latent_metrics = LatentMetrics(self.config) if every else None

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        """Frees what the loop holds beyond memory."""

    @property
    def frames(self) -> int:
        """Where the run is, in the unit of its periods."""
        raise NotImplementedError

    @property
    def end(self) -> int:
        """Where the run ends, in the same unit."""
        raise NotImplementedError

    @property
    def schedule_step(self) -> int:
        """Where schedules are: agent steps, or updates while pretraining."""
        raise NotImplementedError

    def is_due(self, name: str) -> bool:
        """Whether the clock of that name has come round; it stays where it is."""
        return self.clocks[name].is_due(self.frames)

    def take(self, name: str) -> bool:
        """Whether the clock of that name has come round; if so it begins its next period."""
        return self.clocks[name].take(self.frames)

    def update(self) -> None:
        """One update on one sampled batch."""
        with self.watch("sample"):
            windows = self.learner.windows(self.config)
            drawn = self.replay.sample(self.config.batch_size, windows)
        with self.watch("transfer"):
            batch = to_tensors(drawn, self.runtime.device)
        with self.watch("update"):
            update = self.learner.learn(batch, self.schedule_step)
            self.updates += 1
            self.run.logger.step = self.frames
            self.nonfinite.submit(self.updates, batch, update)

    def report(self, prefix: str, replay: Replay) -> None:
        """Pictures of what the learner sees, drawn without moving any generator of the run."""
        if not self.config.log_videos or not replay.episodes:
            return
        seed = derive_seed(self.config.seed, prefix, self.frames)
        with self.watch("log"):
            pictures = self.draw(replay, self.learner.clips, seed)
            self.run.pictures(prefix, pictures)
            self.run.logger.write(self.frames)

    def draw(self, replay: Replay, clips: int, seed: int) -> dict[str, np.ndarray]:
        """The learner's report on so many sequences, drawn by the seed."""
        batch = self.sample(replay, clips, seed)
        with scratch_rng(seed, self.runtime.device):
            return self.learner.report(batch)

    def sample(self, replay: Replay, size: int, seed: int) -> Batch:
        """So many sequences, drawn by the seed and not by the replay's own generator."""
        windows = self.learner.windows(self.config)
        drawn = replay.sample(size, windows, rng=np.random.default_rng(seed))
        return to_tensors(drawn, self.runtime.device)

    def measure(self) -> None:
        """Logs what the latent tells of the task's true factors, when it is time."""
        if self.latent_metrics is None or not self.take("metrics"):
            return
        with self.watch("metrics"):
            found = self.latent_metrics.measure(self.learner)
        if found:
            self.run.logger.scalars(found)
            self.run.logger.write(self.frames)

    def log(self, last: bool = False) -> None:
        """One log line: the means of all metrics, the rates, the replay's size, the seconds.

        Without updates since the last line there is none; the run's last one then has the seconds.
        """
        with self.watch("wait"):  # for the device: here the host first needs its numbers
            self.nonfinite.flush()
            means = self.run.meter.flush()
        with self.watch("log"):
            rate = self.frame_rate(self.frames)
            if means:
                self._log(means, rate)
            elif last:
                self._log_seconds()
                self.run.logger.write(self.frames)
            self._tell(rate, means)

    def _tell(self, rate: float, means: Mapping[str, float]) -> None:
        """Where the run stands, for a terminal: its last results and the terms of its losses."""
        terms = {k.removesuffix("_loss"): v for k, v in means.items() if k.endswith("_loss")}
        terms.pop("model", None)  # the weighted sum of the others
        left = self.pace.left(self.frames)
        self.run.logger.status(Status(self.end, self.unit, rate, left, {**self.results, **terms}))

    def _log(self, means: dict[str, float], rate: float) -> None:
        logger = self.run.logger
        logger.scalars(means)
        logger.scalar("bad_updates", self.nonfinite.bad)
        logger.scalar("fps", rate)
        logger.scalar("updates_per_second", self.update_rate(self.updates))
        logger.scalar("updates", self.updates)
        logger.scalar("replay_steps", self.replay.frames)
        logger.scalar("replay_episodes", self.replay.episodes)
        self.log_counts()
        self._log_seconds()
        logger.write(self.frames)

    def log_counts(self) -> None:
        """Logs what else a loop counts."""

    def _log_seconds(self) -> None:
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
        try:
            self.learner.load_state(state["learner"])
        except ValueError as error:
            raise UserError(
                f"{self.run.folder / CHECKPOINT}: {error}: go on with the code that began this "
                "run, or begin again in another --logdir"
            ) from None
        self.updates = state["updates"]
        self._wind(state)
        self.nonfinite.load_state(state["nonfinite"])
        self.load_state(state)
        self.frame_rate, self.update_rate = Rate(self.frames), Rate(self.updates)
        self.run.restore_rng()

    def _wind(self, state: Mapping[str, Any]) -> None:
        """Sets the clocks; one of another period than before goes on from what it answered for."""
        for name, clock in self.clocks.items():
            if name not in state["clocks"]:
                continue  # of an earlier version, without such a clock
            last, period = state["clocks"][name], state["periods"][name]
            changed = clock.period > 0 and period != clock.period
            clock.last = last * period // clock.period if changed else last

    def save(self, finished: bool = False) -> None:
        """Writes the checkpoint.

        Raises:
            Diverged: a weight is not finite; the checkpoint before stays.
        """
        with self.watch("checkpoint"):
            if not all(torch.isfinite(p).all() for p in self.learner.parameters()):
                raise Diverged("a weight")
            state = {
                "updates": self.updates,
                "nonfinite": self.nonfinite.save_state(),
                "learner": self.learner.save_state(),
                "clocks": {name: clock.last for name, clock in self.clocks.items()},
                "periods": {name: clock.period for name, clock in self.clocks.items()},
            }
            self.run.save(self.frames, finished, {**state, **self.save_state()})

    def save_state(self) -> dict[str, Any]:
        """The loop's own part of the checkpoint."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up what `save_state` returned.

        Raises:
            UserError: it does not fit.
        """
        raise NotImplementedError

    def loop(self) -> None:
        """Runs to the end.

        Raises:
            Stopped: a signal came.
        """
        raise NotImplementedError

    @staticmethod
    def next_step(run: RunFolder) -> str:
        """What the user may want to type when the run has finished."""
        raise NotImplementedError


def load_episodes(
    run: RunFolder, replay: Replay, flag: str, fraction: float = 1.0, source: Source | None = None
) -> None:
    """Loads the folder that a flag names, or the source that it came to; notes what was found.

    Raises:
        UserError: it has no episode that can be used.
    """
    source = source or Source(expand_path(run.config[flag], flag))
    with bar(unit=1) as progress:
        found = replay.load(
            source.folder,
            fraction=fraction,
            seed=run.config.seed,
            progress=lambda done, total: progress("loading", done, total),
            share=source.share,
        )
    if not found.episodes:
        reason = f" ({found.skipped[0][0]}: {found.skipped[0][1]})" if found.skipped else ""
        more = ", or videos" if flag == FLAG else ""
        raise UserError(
            f"--{flag} {source.folder} has no usable .npz episode{reason}: give a folder of "
            f"episodes such as a run's train_eps{more}"
        )
    skipped = [*source.skipped, *found.skipped]
    for name, reason in skipped[:10]:
        run.note("skipped", file=name, reason=reason)
    counts = {"episodes": found.episodes, "frames": found.frames, "skipped": len(skipped)}
    run.note("dataset", folder=str(source.folder), **counts, **source.fields)


def note_stale(run: RunFolder, moved: list[Path]) -> None:
    """Tells of episodes that closed after the checkpoint that a run goes on from."""
    if moved:
        run.note("set_aside", episodes=len(moved), folder=str(moved[0].parent))


def restore_replay(run: RunFolder, replay: Replay, state: Mapping[str, Any]) -> None:
    """Reads the episodes of a checkpoint again; tells of those that a run goes on without.

    Raises:
        UserError: there is none left, or the machine cannot read one now.
    """
    if (count := len(state["files"])) >= MANY:
        print_safe(f"note: reads {count} episodes again")
    try:
        with bar(unit=1) as progress:
            found = replay.load_state_dict(
                to_arrays(state), lambda done, total: progress("loading", done, total)
            )
    except ValueError as error:
        raise UserError(f"{error}; put it back, or begin again in another --logdir") from None
    note_stale(run, found.stale)
    for path, reason in found.lost[:10]:
        run.note("warning", message=f"goes on without {path}: {reason}")
    if found.bad:
        run.note("set_aside", episodes=len(found.bad), folder=str(found.bad[0].parent))
    if more := len(found.lost[10:]):
        run.note("warning", message=f"goes on without {more} episodes more")
