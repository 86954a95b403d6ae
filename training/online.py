"""Online training: an agent acts, learns from what it saw, and is evaluated; the colours switch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.base import Agent, Obs, Policy, State
from agents.random import RandomPolicy
from agents.registry import agent_class
from config import Config
from envs import choose_renderer
from fileio.checkpoints import to_arrays, to_device
from replay.episodes import Episode, clear_halves, read_episode, save_episode, set_aside
from replay.files import check_episodes
from tools import Every, UserError, derive_seed, expand_path
from training import commands, disentanglement
from training.collector import Collector
from training.evaluation_report import draw_episode
from training.evaluator import Evaluator, log_evaluation
from training.factory import (
    check_spaces,
    check_variations,
    expected_rows,
    make_envs,
    make_replay,
    note_flags,
    note_switch,
    spaces_of,
    variation_at,
)
from training.init_from import Source, begin_from, read_source
from training.run_folder import RunFolder, check_writable
from training.run_names import task_name, variant
from training.trainer import Trainer, load_episodes, note_stale, restore_replay

PICTURED = 16  # episodes of an evaluation that pictures are drawn from, the first ones


class OnlineTrainer(Trainer):
    """Prefill, then act, learn, evaluate; and the colours change at ``--switch_at``.

    With ``--overlap`` the environments step while the device trains: the updates that are due come
    between the sending of the next step's actions and its result::

        environments      | step 4 |        | step 5        | step 6 | …
        agent         act 4   receive   act 5   update   receive   act 6

    Updates that something else waits for (a log line, an evaluation, a checkpoint, the first step
    of training) come before it, as they do without. Episodes are then written beside it all, too.
    """

    learner: Agent

    def __init__(self, run: RunFolder):
        super().__init__(run)
        c, runtime = self.config, self.runtime
        self.repeat = c.action_repeat
        self.total = c.steps // self.repeat  # agent steps
        self.begun_at = -1  # agent step at which learning began; -1 while the replay fills
        self.evaluated_at = -1
        periods = {"eval": c.eval_every, "log": c.log_every, "checkpoint": c.checkpoint_every}
        self.clocks = {name: Every(period) for name, period in periods.items()}
        self.clocks["metrics"] = Every(c.metrics_every)
        self.clocks["checkpoint"].last = 0  # there is nothing to save at the start
        self.clocks |= {name: Every(c.video_every) for name in ("pictures", "eval_pictures")}
        source = None if run.resumed else read_source(c)  # at once, as it may not be there
        if backend := choose_renderer(c.task, c.device):
            run.note("renderer", name=backend.name, why=backend.why)
            run.renderer = backend.name
        check_variations(c)
        self.evaluator = Evaluator(c, runtime, run.stop.check)
        self.train_envs = make_envs(c, runtime, c.envs, "train")
        try:
            self._build(agent_class(c.method_name), source)
        except BaseException:
            self.train_envs.close()
            raise

    def _build(self, method: type[Agent], source: Source | None) -> None:
        c, envs, spaces = self.config, self.train_envs, spaces_of(self.train_envs)
        note_switch(c)
        check_spaces(c, spaces)
        self.learner = method(c, self.runtime, spaces, method.find_source(c))
        make = functools.partial(make_replay, c, self.runtime, vector_size=spaces.vector_size)
        self.replay = make(
            "train",
            spaces.action_size,
            folder=self.own_folder("train"),
            rows=expected_rows(c),
            background=self.runtime.overlap,
            columns=self.learner.columns(),
        )
        # The last evaluation's episodes, to draw from.
        self.seen = make("eval", spaces.action_size, capacity=0)
        self.collector = Collector(envs, self.replay, c.seed, lambda: self.variation("train"))
        self.random = RandomPolicy(spaces, derive_seed(c.seed, "random policy"))
        if self.run.resumed:
            return self.resume()
        if source is not None:
            begin_from(self.run, self.learner, source)
        if c.offline_traindir:
            load_episodes(self.run, self.replay, "offline_traindir")
        self._clear_the_way()

    @staticmethod
    def check(config: Config) -> None:
        """Checks what the loop itself needs of a configuration.

        Raises:
            UserError: one line that names the flag and the mend.
        """
        if 0 < config.steps < config.action_repeat:
            raise UserError(
                f"--steps {config.steps} is less than one agent step of {config.action_repeat} "
                "frames"
            )
        disentanglement.check(config, agent_class(config.method_name))
        check_episodes(config.offline_traindir, "offline_traindir")
        note_flags(config)
        for flag in ("traindir", "evaldir"):
            if config[flag]:
                check_writable(
                    expand_path(config[flag], flag).absolute(), f"--{flag}", "choose another"
                )

    def _clear_the_way(self) -> None:
        """Sets aside what an earlier start left that never came to a checkpoint."""
        folder = self.own_folder("train")
        if not any(folder.glob("*.npz")):
            return
        if self.config.traindir and not self.run.known:
            raise UserError(
                f"--traindir {folder} holds episodes already: give an empty folder, "
                "and --offline_traindir to learn from these"
            )
        if self.run.lock.held:  # otherwise there was nothing here, and this is another process's
            note_stale(self.run, set_aside(folder, 0, self.replay.tag))

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # each of them, even if one raises
            stack.callback(super().__exit__)
            stack.callback(self.train_envs.close)
            stack.callback(self.evaluator.close)

    @staticmethod
    def next_step(run: RunFolder) -> str:
        if run.config.steps:
            folder = str(run.folder)
            return (
                f"\nIts learning curve:\n\n  {commands.module('figures.learning_curve', folder)}\n"
                "\nMore episodes of its policy, on these or other --eval_colors:\n\n"
                f"  {commands.evaluate(run.config.task, folder, '--eval_episodes', '20')}\n"
            )
        episodes = run.config.traindir or run.folder / "train_eps"
        return f"\nIts episodes, for --pretrain_datasets_path:\n\n  {episodes}\n"

    @property
    def frames(self) -> int:
        return self.collector.steps * self.repeat

    @property
    def end(self) -> int:
        c = self.config
        return max(c.steps // c.action_repeat, c.prefill) * c.action_repeat

    @property
    def schedule_step(self) -> int:
        return self.collector.steps

    def own_folder(self, split: str) -> Path:
        """The folder of this run's episodes."""
        given = self.config.traindir if split == "train" else self.config.evaldir
        return expand_path(given, f"{split}dir") if given else self.run.folder / f"{split}_eps"

    @property
    def eval_tag(self) -> str:
        """The middle of the names of evaluated episodes; ``--evaldir`` may be shared."""
        tag = f"{variant((c := self.config).method_name, c.label)}-s{c.seed}"
        where = f"{derive_seed(c.seed, str(self.run.folder.absolute())):x}"[:6]
        return f"{task_name(c.task)}-{tag}-{where}" if c.evaldir else tag

    def variation(self, split: str) -> str:
        """The distractions of an episode that begins now."""
        return variation_at(self.config, split, self.collector.steps)

    def loop(self) -> None:
        """Each turn does one thing, and where it stands is all in the counters."""
        run = self.run
        self._clear_away()
        run.logger.bar(self.end, self.frames, self.config.task)
        self.watch.flush()
        while True:
            run.stop.check()
            run.logger.step = self.frames
            if self.is_prefilling:
                if self.take("checkpoint"):
                    self.save()
                self.send(self.random)
                self.receive()
                continue
            if self.begun_at < 0:
                self._begin()
            if self.should_update:
                self.update()
                if self.collector.sent is None:
                    self.learner.sync()  # nothing overlapped: actions may know of it at once
            elif self.collector.sent is not None:
                self.receive()
            else:
                self.pace.start(self.frames)  # the updates before the first step lie behind
                # The last line and pictures come at the very end.
                if self.take("log") and self.collector.steps < self.total:
                    self.log()
                    if self.take("pictures"):
                        self.report("train", self.replay)
                self.measure()
                if self.evaluation_due:
                    self.evaluate()
                due = self.take("checkpoint")
                if self.collector.steps >= self.total:
                    break  # the last line of the log comes first, or a kill would have it twice
                if due:
                    self.save()
                if self.updates < self.updates_due:
                    self.learner.sync()  # the newest weights before those updates
                self.send(self.explore)
                if not self.runtime.overlap:
                    self.receive()
        self.log(last=True)
        if self.total:
            self.report("train", self.replay)
        run.logger.event("finished", folder=str(run.folder))
        self.save(finished=True)

    def _clear_away(self) -> None:
        """Episodes that a kill left half-written in a folder outside the run's own."""
        for split, tag in (("train", self.replay.tag), ("eval", self.eval_tag)):
            if self.config[f"{split}dir"]:
                clear_halves(self.own_folder(split), tag)

    @property
    def is_prefilling(self) -> bool:
        """Whether the random policy still plays: prefill steps, and at least one whole episode."""
        if self.begun_at >= 0:
            return False
        if self.collector.steps < self.config.prefill or not self.replay.episodes:
            return True
        # A dataset's last episodes are whole ones, too.
        return not self.total and not self.collector.whole_since(self.config.prefill)

    def _begin(self) -> None:
        """Learning begins here."""
        self.begun_at = self.collector.steps
        self.clocks["log"].last = self.frames // max(self.config.log_every, 1)

    @property
    def updates_due(self) -> int:
        """How many updates the steps so far ask for."""
        c = self.config
        if not self.total:
            return 0
        rounds = (min(self.collector.steps, self.total) - self.begun_at) // c.train_every
        return c.pretrain + max(rounds, 0) * c.train_steps

    @property
    def should_update(self) -> bool:
        """Whether an update is due and nothing comes before it; a step to overlap with does."""
        if self.updates >= self.updates_due:
            return False
        if not self.runtime.overlap or self.collector.sent is not None:
            return True
        first = self.updates < self.config.pretrain
        # Pictures come with the first two and wait for no updates of their own.
        awaited = any(self.is_due(name) for name in ("eval", "log", "checkpoint"))
        return first or awaited or self.collector.steps >= self.total

    @property
    def evaluation_due(self) -> bool:
        """Whether an evaluation comes now: by its clock, and at the very end."""
        if not self.config.eval_every or not self.total:
            return False
        last = self.collector.steps >= self.total and self.evaluated_at != self.collector.steps
        return last or self.is_due("eval")

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, State | None]:
        """The agent; before ``expl_until``, ``--expl_behavior random``."""
        c = self.config
        if mode == "train" and c.expl_behavior == "random" and self.frames < c.expl_until:
            return self.random(obs)
        return self.learner.act(obs, state, mode)

    def explore(self, obs: Obs, state: State | None) -> tuple[np.ndarray, State | None]:
        """The agent while it trains."""
        with self.watch("act"):
            return self.act(obs, state, "train")

    def send(self, policy: Policy) -> None:
        """Begins a step of the training environments."""
        with self.watch("env"):
            self.collector.send(policy)

    def log_counts(self) -> None:
        self.run.logger.scalar("env_restarts", self.train_envs.restarted)
        self.run.logger.scalar("dropped_episodes", self.collector.dropped)

    def receive(self) -> None:
        """Ends a step of the training environments; a line for each episode that ended."""
        with self.watch("env"):
            closed = self.collector.receive()
        self.run.logger.step = self.frames
        with self.watch("log"):
            self._log_closed(closed)
            self._log_restarts("train", self.train_envs.take_notes())

    def _log_closed(self, closed: list[Episode]) -> None:
        logger = self.run.logger
        for episode in closed:
            logger.scalar("train_return", episode.ret)
            self.results["return"] = episode.ret
            logger.scalar("train_length", episode.length)
            logger.scalar("train_episodes", self.replay.episodes)
            if episode.success is not None:
                logger.scalar("train_success", episode.success)
            logger.write()
            kind = "random" if self.begun_at < 0 else "train"
            ret, colors = round(episode.ret, 1), episode.variation
            logger.event(kind, episode=episode.index, ret=ret, colors=colors)
            if self.config.expl_gifs and episode.path:
                self.replay.written()
                self.run.video("train_policy", read_episode(episode.path)["image"])
        logger.progress(self.frames)

    def _log_restarts(self, split: str, notes: list[dict[str, Any]]) -> None:
        """A line for each environment that crashed and was started anew."""
        for note in notes:
            self.run.logger.event("env_restart", split=split, **note)

    def evaluate(self) -> None:
        """Whole episodes with the agent at its best; the first time, at random as well.

        Nothing is logged and no clock moves before the last episode has ended: a run that is
        stopped within an evaluation does it again, whole.
        """
        with self.watch("evaluate"):
            self._evaluate()

    def _evaluate(self) -> None:
        c, steps, played = self.config, self.collector.steps, {}
        try:
            if self.evaluated_at < 0:
                seed = derive_seed(c.seed, "random evaluation")
                random = RandomPolicy(spaces_of(self.evaluator.envs), seed)
                played["random"] = self.evaluator.play(random, steps, images=0)
            pictured = self.is_due("eval_pictures") or steps >= self.total
            images = PICTURED if pictured and c.log_videos else 1
            policy = functools.partial(self.act, mode="eval")
            played["eval"] = self.evaluator.play(policy, steps, images=images)
            played |= self.evaluator.play_worlds(policy, steps)
        finally:
            self._log_restarts("eval", self.evaluator.take_notes())
        self.take("eval")
        self.evaluated_at = steps
        self.results["eval"] = played["eval"].summary.mean
        for kind, evaluation in played.items():
            log_evaluation(self.run.logger, kind, evaluation, steps)
        episodes = played["eval"].pictured
        self.seen.replace(episodes)
        if episodes:  # otherwise those to look at were lost with their environment
            name = f"{self.frames:09d}-{self.eval_tag}-{len(episodes[0]['reward'])}.npz"
            save_episode(self.own_folder("eval") / name, episodes[0])
        if pictured:
            self.take("eval_pictures")
            if episodes and c.log_videos:
                self.run.video("eval_policy", draw_episode(episodes[0], played["eval"].variation))
            self.report("eval", self.seen)

    def load_state(self, state: Mapping[str, Any]) -> None:
        restore_replay(self.run, self.replay, state["replay"])
        collector = state["collector"]
        policy_state = to_device(collector["state"], self.runtime.device)
        same = self.collector.load_state({**to_arrays(collector), "state": policy_state})
        if not same:
            self.run.note("warning", message="this renderer draws a little differently")
        self.random.load_state(state["random"])
        self.begun_at, self.evaluated_at = state["begun_at"], state["evaluated_at"]

    def save_state(self) -> dict[str, Any]:
        return {
            "replay": self.replay.state_dict(),
            "collector": self.collector.save_state(),
            "random": self.random.save_state(),
            "begun_at": self.begun_at,
            "evaluated_at": self.evaluated_at,
        }
