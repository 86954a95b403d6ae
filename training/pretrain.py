"""Pretraining: video episodes → an action-free predictor."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data
from accel.generators import scratch_rng
from agents.base import PRETRAIN_UNIT, Learner
from agents.registry import agent_class
from config import Config, labelled_keys
from replay import Replay
from replay.files import count_rows
from tools import Every, UserError, derive_seed, expand_path
from training import disentanglement
from training.commands import dreamer
from training.factory import make_replay, rows_kept
from training.length import length_of
from training.run_folder import RunFolder
from training.trainer import Trainer, load_episodes


class PretrainTrainer(Trainer):
    """Episodes → a video predictor, in snapshots, and at the end in the run's folder."""

    unit = "steps"

    def __init__(self, run: RunFolder):
        super().__init__(run)
        c, runtime = self.config, self.runtime
        self.total = self.end // PRETRAIN_UNIT  # updates
        if c.pretrain_datasets_path:
            given, sources = "pretrain_datasets_path", data.resolve_all(c)
        else:
            given = "offline_traindir"
            sources = [data.Source(expand_path(c.offline_traindir, "offline_traindir"))]
        rows = _expected_rows(c, [source.folder for source in sources])
        self.replay = make_replay(c, runtime, "pretrain", 0, rows=rows)
        for source in sources:
            load_episodes(run, self.replay, given, c.pretrain_dataset_scale, source)
        self.sources = [[str(source.folder), source.share] for source in sources]
        if not self.replay.has_all_shares:
            raise UserError(
                f"--dataset_size {c.dataset_size} is too small for all sources of "
                "--pretrain_datasets_path: give 0, which keeps all"
            )
        self.learner = pretrainer_class(c)(c, runtime)
        periods = {
            "snapshot": c.pretrain_save_every,
            "log": c.log_every,
            "checkpoint": c.checkpoint_every,
            "metrics": c.metrics_every,
        }
        self.clocks = {name: Every(period, last=0) for name, period in periods.items()}
        self.clocks["pictures"] = Every(c.video_every)
        self.held_out: Replay | None = None
        if c.offline_evaldir:
            self.held_out = make_replay(c, runtime, "held_out", 0, capacity=0)
            load_episodes(run, self.held_out, "offline_evaldir")
        if run.resumed:
            self.resume()

    @staticmethod
    def check(config: Config) -> None:
        """Checks what the first stage of the method needs.

        Raises:
            UserError: there is none, or one line that names the flag and the mend.
        """
        pretrainer_class(config).check(config)
        disentanglement.check(config, pretrainer_class(config))
        if config.init_from is not None:
            raise UserError(
                "--init_from is for an agent, and a pretraining has none: leave it out; larger "
                "--pretrain_steps make a pretraining longer"
            )

    @property
    def frames(self) -> int:
        return self.updates * PRETRAIN_UNIT

    @property
    def end(self) -> int:
        return length_of(self.config)

    @property
    def schedule_step(self) -> int:
        return self.updates

    def save_state(self) -> dict[str, Any]:
        return {
            "replay_rng": self.replay.rng_state(),
            "dataset": self.replay.contents(),
            "sources": self.sources,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        shares = [share for _, share in state["sources"]]
        if state["dataset"] != self.replay.contents() or shares != [s for _, s in self.sources]:
            raise UserError(
                "--pretrain_datasets_path holds other episodes than when this run began: put them "
                "back, or begin again in another --logdir"
            )
        self.replay.load_rng(state["replay_rng"])

    def loop(self) -> None:
        """Updates until the end; everything else happens once in a while."""
        run = self.run
        run.logger.bar(self.total, self.updates, "pretraining")
        self.watch.flush()
        while self.updates < self.total:
            run.stop.check()
            self.update()
            self.pace.start(self.frames)  # the first update may have compiled
            run.logger.progress(self.updates)
            # The last line and pictures come at the very end.
            if self.take("log") and self.updates < self.total:
                self.log()
                if self.take("pictures"):
                    self.report_all()
            self.measure()
            if self.take("snapshot"):
                self.snapshot(run.folder / "snapshots" / str(self.frames))
            # At the end the last line of the log comes first, or a kill would have it twice.
            if self.take("checkpoint") and self.updates < self.total:
                self.save()
        self.log(last=True)
        self.report_all()
        self.snapshot(run.folder)
        run.logger.event("pretrained", folder=str(run.folder))
        self.save(finished=True)

    def report_all(self) -> None:
        """Pictures of the dataset, and of what was held out of it."""
        self.report("train", self.replay)
        if self.held_out is not None:
            self.report("eval", self.held_out)

    def snapshot(self, folder: Path) -> None:
        """What a second stage starts from."""
        seed = derive_seed(self.config.seed, "traverse")
        with self.watch("checkpoint"):
            batch = self.sample(self.replay, 1, seed)
            with scratch_rng(seed, self.runtime.device):
                self.learner.export(folder, batch)
        self.run.logger.event("snapshot", folder=str(folder))

    @staticmethod
    def next_step(run: RunFolder) -> str:
        """The finetuning that this pretraining is for."""
        c = run.config
        flags = pretrainer_class(c).second_stage(c)
        flags |= {"color_distractor": c.distractors != "none", "seed": c.seed}
        settled = labelled_keys(c.blocks)
        words = [
            dreamer("--configs", *c.blocks, "--device", c.device),
            "--task dmc2gym_walker_walk",
            " ".join(f"--{name} {value}" for name, value in flags.items() if name not in settled),
            f"--pretrain_checkpoint_path {shlex.quote(str(run.folder))}",
        ]
        if "distractors" in c.overrides:
            words.append(f"--distractors {c.distractors}")
        if c.logdir:
            words.append(f"--logdir {shlex.quote(c.logdir)}")
        # Sizes given as flags must be given again, or the weights do not fit.
        shaping = c.marked("predictor")
        sizes = [name for name in c if name in shaping and c[name] != c.preset_value(name)]
        words += [f"--{name} {' '.join(map(str, as_list(c[name])))}" for name in sizes]
        command = " \\\n    ".join(words)
        return f"\nNext, finetune on the task of your choice:\n\n  {command}\n"


def pretrainer_class(config: Config) -> type[Learner]:
    """The first stage of the method.

    Raises:
        UserError: it has none.
    """
    pretrainer = agent_class(config.method_name).pretrainer
    if pretrainer is None:
        raise UserError(
            f"--beta_vae_pretrain: the method {config.method_name} has no first stage: give "
            "another --method_name"
        )
    return pretrainer


def _expected_rows(config: Config, folders: list[Path]) -> int:
    """How many rows datasets have, about; a share of the episodes is not that share of the rows."""
    share = math.ceil(config.pretrain_dataset_scale * sum(count_rows(f) for f in folders))
    return rows_kept(config, share)


def as_list(value: Any) -> list[Any]:
    """The items of a tuple, or the value alone."""
    return list(value) if isinstance(value, tuple) else [value]
