"""Pretraining: video episodes → an action-free predictor."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agent import Pretrainer
from checkpoint import save_predictor, scratch_rng
from config import load_keys
from job import Job, new_replay
from replay import Replay
from run import Run, png
from tools import Every, UserError, atomic_write, derive_seed

PRETRAIN_UNIT = 50  # one update counts so many pretrain steps, as in the authors' code


class Pretraining(Job):
    """Episodes → a video predictor, in snapshots, and at the end in the run's folder."""

    def __init__(self, run: Run):
        super().__init__(run)
        c = self.config
        self.total = c.pretrain_steps // PRETRAIN_UNIT  # updates
        self.replay = load_dataset(run)
        self.learner = Pretrainer(c)
        periods = {
            "snapshot": c.pretrain_save_every,
            "log": c.log_every,
            "checkpoint": c.checkpoint_every,
        }
        self.clocks = {name: Every(period, last=0) for name, period in periods.items()}
        self.held_out = None
        if c.offline_evaldir:
            self.held_out = new_replay(c, None, "held_out", capacity=0, action_size=None)
            self.held_out.load(Path(c.offline_evaldir).expanduser())
        if run.resumed:
            self.resume()

    @property
    def frames(self) -> int:
        return self.learner.updates * PRETRAIN_UNIT

    def restore(self, state: dict[str, Any]) -> None:
        self.replay.load_rng(state["replay_rng"])

    def save(self, **more: Any) -> None:
        super().save(replay_rng=self.replay.rng_state(), **more)

    def loop(self) -> None:
        """Updates until the end; everything else happens once in a while."""
        run, learner = self.run, self.learner
        run.logger.bar(self.total, learner.updates, "pretraining")
        while learner.updates < self.total:
            run.check_stop()
            learner.step = learner.updates
            self.update()
            run.logger.step = self.frames
            run.logger.progress(learner.updates)
            if self.due("log"):
                self.log()
                self.report("train", self.replay)
                if self.held_out is not None:
                    self.report("eval", self.held_out)
            if self.due("snapshot"):
                self.snapshot(run.folder / "snapshots" / str(self.frames))
            if self.due("checkpoint"):
                self.save()
        self.log()
        self.report("train", self.replay)
        self.snapshot(run.folder)
        self.save()
        run.logger.event("pretrained", folder=str(run.folder))
        print(f"\nNext, finetune on the task of your choice:\n\n  {self.next_command()}\n")

    def snapshot(self, folder: Path) -> None:
        """encoder.pt, decoder.pt, rssm.pt and the traversal as a PNG."""
        save_predictor(folder, self.learner.model)
        if self.config.beta_vae:
            seed = derive_seed(self.config.seed, "traverse")
            batch = self.replay.sample(1, self.config.batch_length, rng=np.random.default_rng(seed))
            with scratch_rng(seed, self.learner.device):
                picture = self.learner.report(batch)["beta_vae_traverse"]
            with atomic_write(folder / "traverse.png") as file:
                file.write(png(picture))
        self.run.logger.event("snapshot", folder=str(folder))

    def next_command(self) -> str:
        """The finetuning that this pretraining is for."""
        c = self.config
        blocks = " ".join(arguments_of("--configs") or ["defaults", "dmc2gym"])
        words = [
            f"python dreamer.py --configs {blocks} --device {shlex.quote(c.device)}",
            "--task dmc2gym_walker_walk --method_name diswm",
            f"--beta_vae {c.beta_vae} --distillation True --color_distractor True --traverse True",
            f"--source_action_num {c.pretrain_action_num}",
            f"--pretrain_checkpoint_path {shlex.quote(str(self.run.folder))} --seed {c.seed}",
        ]
        if c.z_dim != load_keys()["z_dim"].default:
            words.append(f"--z_dim {c.z_dim}")
        if c.logdir:
            words.append(f"--logdir {shlex.quote(c.logdir)}")
        return " \\\n    ".join(words)


def arguments_of(flag: str) -> list[str]:
    """The words behind a flag of the command line."""
    words = sys.argv[1:]
    if flag not in words:
        return []
    rest = words[words.index(flag) + 1 :]
    count = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:count]


def load_dataset(run: Run) -> Replay:
    """The episodes to pretrain on, with a line that says what was found."""
    c = run.config
    folder = Path(c.pretrain_datasets_path or c.offline_traindir).expanduser()
    replay = new_replay(c, None, "pretrain", action_size=None)
    found = replay.load(folder, fraction=c.pretrain_dataset_scale, seed=c.seed)
    for name, reason in found.skipped[:10]:
        run.logger.event("skipped", file=name, reason=reason)
    if not replay.episodes:
        reason = f" ({found.skipped[0][0]}: {found.skipped[0][1]})" if found.skipped else ""
        raise UserError(f"--pretrain_datasets_path {folder} has no usable .npz episode{reason}")
    run.logger.event(
        "dataset",
        folder=str(folder),
        episodes=found.episodes,
        frames=found.frames,
        skipped=len(found.skipped),
    )
    return replay
