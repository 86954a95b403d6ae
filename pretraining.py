"""Pretraining: video episodes → an action-free predictor."""

from __future__ import annotations

import functools
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

import sources
from agent import Pretrainer
from checkpoint import scratch_rng
from config import Config, load_keys
from episodes import count_rows
from job import Job, load_episodes, new_replay, rows_kept
from pictures import encode_png, to_rgb
from predictors import save_predictor
from run import Run
from tools import Every, UserError, atomic_write, derive_seed, expand

PRETRAIN_UNIT = 50  # one update counts so many pretrain steps, as in the authors' code


class Pretraining(Job):
    """Episodes → a video predictor, in snapshots, and at the end in the run's folder."""

    def __init__(self, run: Run):
        super().__init__(run)
        c = self.config
        self.total = c.pretrain_steps // PRETRAIN_UNIT  # updates
        if c.pretrain_datasets_path:
            given, source = "pretrain_datasets_path", sources.resolve(c)
        else:
            given = "offline_traindir"
            source = sources.Source(expand(c.offline_traindir, "offline_traindir"))
        rows = functools.partial(_expected_rows, c, source.folder)
        self.replay = new_replay(c, None, "pretrain", action_size=None, rows=rows)
        load_episodes(run, self.replay, given, c.pretrain_dataset_scale, source)
        self.learner = Pretrainer(c, self.runtime)
        periods = {
            "snapshot": c.pretrain_save_every,
            "log": c.log_every,
            "checkpoint": c.checkpoint_every,
        }
        self.clocks = {name: Every(period, last=0) for name, period in periods.items()}
        self.held_out = None
        if c.offline_evaldir:
            self.held_out = new_replay(c, None, "held_out", capacity=0, action_size=None)
            load_episodes(run, self.held_out, "offline_evaldir")
        if run.resumed:
            self.resume()

    @property
    def frames(self) -> int:
        return self.learner.updates * PRETRAIN_UNIT

    def restore(self, state: dict[str, Any]) -> None:
        if state["dataset"] != self.replay.contents():
            raise UserError(
                "--pretrain_datasets_path holds other episodes than when this run began: put them "
                "back, or begin again in another --logdir"
            )
        self.replay.load_rng(state["replay_rng"])

    def save(self, finished: bool = False, **more: Any) -> None:
        super().save(
            finished,
            replay_rng=self.replay.rng_state(),
            dataset=self.replay.contents(),
            **more,
        )

    def loop(self) -> None:
        """Updates until the end; everything else happens once in a while."""
        run, learner = self.run, self.learner
        run.logger.bar(self.total, learner.updates, "pretraining")
        self.watch.flush()
        while learner.updates < self.total:
            run.check_stop()
            learner.step = learner.updates
            self.update()
            run.logger.progress(learner.updates)
            if self.due("log"):
                if learner.updates < self.total:  # the last line comes at the very end
                    self.log()
                self.report("train", self.replay)
                if self.held_out is not None:
                    self.report("eval", self.held_out)
            if self.due("snapshot"):
                self.snapshot(run.folder / "snapshots" / str(self.frames))
            # At the end the last line of the log comes first, or a kill would have it twice.
            if self.due("checkpoint") and learner.updates < self.total:
                self.save()
        self.log(last=True)
        self.report("train", self.replay)
        self.snapshot(run.folder)
        run.logger.event("pretrained", folder=str(run.folder))
        self.save(finished=True)

    def snapshot(self, folder: Path) -> None:
        """encoder.pt, decoder.pt, rssm.pt and the traversal as a PNG."""
        with self.watch("checkpoint"):
            self._snapshot(folder)

    def _snapshot(self, folder: Path) -> None:
        save_predictor(folder, self.learner.model)
        if self.config.beta_vae:
            seed = derive_seed(self.config.seed, "traverse")
            batch = self.replay.sample(1, self.config.batch_length, rng=np.random.default_rng(seed))
            with scratch_rng(seed, self.learner.device):
                picture = self.learner.report(batch)["beta_vae_traverse"]
            with atomic_write(folder / "traverse.png") as file:
                file.write(encode_png(to_rgb(picture)))
        self.run.logger.event("snapshot", folder=str(folder))

    @staticmethod
    def next_step(run: Run) -> str:
        """The finetuning that this pretraining is for."""
        c, defaults = run.config, load_keys()
        words = [
            f"python dreamer.py --configs {' '.join(c.blocks)} --device {shlex.quote(c.device)}",
            "--task dmc2gym_walker_walk --method_name diswm --distillation True",
            f"--beta_vae {c.beta_vae} --color_distractor True --traverse {c.beta_vae}",
            f"--source_action_num {c.pretrain_action_num} --seed {c.seed}",
            f"--pretrain_checkpoint_path {shlex.quote(str(run.folder))}",
        ]
        if c.logdir:
            words.append(f"--logdir {shlex.quote(c.logdir)}")
        # Sizes given as flags must be given again, or the weights do not fit.
        sizes = [name for name in defaults if name in SIZES and c[name] != c.of_blocks(name)]
        words += [f"--{name} {' '.join(map(str, as_list(c[name])))}" for name in sizes]
        command = " \\\n    ".join(words)
        return f"\nNext, finetune on the task of your choice:\n\n  {command}\n"


def _expected_rows(config: Config, folder: Path) -> int:
    """How many rows a dataset has, about; a share of its episodes is not that share of its rows."""
    share = math.ceil(config.pretrain_dataset_scale * count_rows(folder))
    return rows_kept(config, share)


# The keys that shape a predictor.
SIZES = frozenset(
    {
        "z_dim",
        "grayscale",
        "act",
        "cnn_depth",
        "encoder_kernels",
        "decoder_kernels",
        "decoder_thin",
        "dyn_cell",
        "dyn_hidden",
        "dyn_deter",
        "dyn_stoch",
        "dyn_discrete",
        "dyn_input_layers",
        "dyn_output_layers",
        "dyn_temp_post",
    }
)


def as_list(value: Any) -> list[Any]:
    """The items of a tuple, or the value alone."""
    return list(value) if isinstance(value, tuple) else [value]
