"""What pretraining and finetuning share: clocks, updates, reports, the log line, the checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import Agent, Pretrainer
from checkpoint import scratch_rng
from config import Config
from logger import Rate
from replay import Replay
from run import Run
from sources import FLAG, Source, bar
from sources.caching import cache_root
from tools import Diverged, Every, UserError, derive_seed


class Job:
    """What both loops share: clocks, reports, the log line of the learner."""

    run: Run
    learner: Agent | Pretrainer
    replay: Replay

    def __init__(self, run: Run):
        self.run, self.config = run, run.config
        self.clocks: dict[str, Every] = {}
        self.frame_rate, self.update_rate = Rate(), Rate()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Frees what the job holds beyond memory; a job without environments holds nothing."""

    @property
    def frames(self) -> int:
        """Where the run is, in the unit of its periods."""
        raise NotImplementedError

    def due(self, name: str) -> bool:
        """Whether the clock of that name has come round."""
        return self.clocks[name](self.frames)

    def update(self) -> None:
        """One update on one sampled batch."""
        c = self.config
        self.run.meter.add(self.learner.update(self.replay.sample(c.batch_size, c.batch_length)))

    def report(self, prefix: str, replay: Replay) -> None:
        """Pictures of what the model sees, drawn without moving any generator of the run."""
        if not self.config.log_videos or not replay.episodes:
            return
        c, seed = self.config, derive_seed(self.config.seed, prefix, self.frames)
        batch = replay.sample(6, c.batch_length, rng=np.random.default_rng(seed))
        with scratch_rng(seed, self.learner.device):
            self.run.pictures(prefix, self.learner.report(batch))
        self.run.logger.write(self.frames)

    def log(self) -> None:
        """One log line: the means of all metrics, the rates, the replay's size."""
        logger, means = self.run.logger, self.run.meter.flush()
        if not means:
            return  # nothing since the last line
        if not math.isfinite(means["model_loss"]):
            raise Diverged("the world model's loss")
        logger.scalars(means)
        logger.scalar("fps", self.frame_rate(self.frames))
        logger.scalar("updates_per_second", self.update_rate(self.learner.updates))
        logger.scalar("updates", self.learner.updates)
        logger.scalar("replay_steps", self.replay.frames)
        logger.scalar("replay_episodes", self.replay.episodes)
        logger.write(self.frames)

    def resume(self) -> None:
        """Takes up the checkpoint, generators last."""
        state = self.run.resumed
        self.learner.load_state_dict(state["learner"])
        for name, clock in self.clocks.items():
            clock.last = state["clocks"][name]
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
        if not all(torch.isfinite(p).all() for p in self.learner.parameters()):
            raise Diverged("a weight")
        state = {
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
    source = source or Source(Path(run.config[flag]).expanduser())
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


def new_replay(
    config: Config, folder: Path | None, name: str, action_size: int | None, capacity: int = -1
) -> Replay:
    """An empty replay; ``capacity`` −1 is ``--dataset_size``.

    Raises:
        UserError: its rows are to lie on disk, and ``--cache_dir`` cannot be used.
    """
    return Replay(
        folder,
        capacity=config.dataset_size if capacity < 0 else capacity,
        seed=derive_seed(config.seed, "replay", name),
        oversample_ends=config.oversample_ends,
        image_shape=(*config.size, 1 if config.grayscale else 3),
        action_shape=None if action_size is None else (action_size,),
        tag=f"s{config.seed}",
        storage=cache_root(config.cache_dir) if config.replay_storage == "disk" else None,
    )
