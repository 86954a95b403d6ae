"""Finetuning: an agent acts, learns from what it saw, and is evaluated; the colours switch."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checks
from agent import Agent
from arenas import make_envs, make_more_envs, variation_at
from checkpoint import misfit, scratch_rng, to_arrays, to_device
from collect import Collector, RandomPolicy, play
from envs import VectorEnv, episode_seed, has_switch
from envs.rendering import choose_backend
from episodes import Episode, clear_halves, read_episode, save_episode, set_aside
from job import Job, expected_rows, load_episodes, new_replay, note_restored, note_stale
from models import VideoPredictor
from outcomes import outcome, summarize
from predictors import load_predictor
from run import Run
from tools import Every, UserError, derive_seed, expand

SEEN = 16  # episodes of an evaluation that pictures are drawn from, the first ones


class Finetuning(Job):
    """Prefill, then act, learn, evaluate; and the colours change at the midpoint.

    With ``--overlap`` the environments step while the device trains: the updates that are due come
    between the sending of the next step's actions and its result::

        environments      | step 4 |        | step 5        | step 6 | …
        agent         act 4   receive   act 5   update   receive   act 6

    Updates that something else waits for (a log line, an evaluation, a checkpoint, the first step
    of training) come before it, as they do without. Episodes are then written beside it all, too.
    """

    def __init__(self, run: Run):
        super().__init__(run)
        c = self.config
        self.repeat = c.action_repeat
        self.total = c.steps // self.repeat  # agent steps
        self.overlap = self.runtime.overlap
        self.begun_at = -1  # agent step at which learning began; -1 while the replay fills
        self.evaluated_at = -1
        periods = {"eval": c.eval_every, "log": c.log_every, "checkpoint": c.checkpoint_every}
        self.clocks = {name: Every(period) for name, period in periods.items()}
        self.clocks["checkpoint"].last = 0  # there is nothing to save at the start
        teacher = load_predictor(c) if c.distillation else None
        backend = choose_backend()
        run.note("renderer", name=backend.name, why=backend.why)
        self.eval_envs: VectorEnv | None = None  # started by the first evaluation
        self.train_envs = make_envs(c, c.envs, "train", self.overlap)
        try:
            self._build(teacher)
        except BaseException:
            self.train_envs.close()
            raise

    def _build(self, teacher: VideoPredictor | None) -> None:
        c, envs = self.config, self.train_envs
        checks.check_actor(c, envs.discrete)
        if c.color_distractor and not has_switch(c.task, c):
            print(f"note: {c.task} looks the same in both halves of training", file=sys.stderr)
        rows, beside = functools.partial(expected_rows, c), self.overlap
        folder, size = self.own_folder("train"), envs.action_size
        self.replay = new_replay(c, folder, "train", size, rows=rows, background=beside)
        self.seen = new_replay(c, None, "eval", envs.action_size, capacity=0)  # last evaluation
        self.learner = Agent(c, self.runtime, envs.action_size, teacher)
        self.collector = Collector(envs, self.replay, c.seed, lambda: self.variation("train"))
        seed = derive_seed(c.seed, "random policy")
        self.random = RandomPolicy(envs.action_size, envs.discrete, seed)
        if self.run.resumed:
            self._check_teacher(teacher)
            self.resume()
            return
        if c.offline_traindir:
            load_episodes(self.run, self.replay, "offline_traindir")
        self._clear_the_way()

    def _check_teacher(self, teacher: VideoPredictor | None) -> None:
        """The run's own teacher is in its checkpoint; what was given has to be as large.

        Raises:
            UserError: it is not.
        """
        given = self.config.pretrain_checkpoint_path
        weights, prefix = self.run.resumed["learner"]["weights"], "world_model.teacher."
        saved = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        own = {} if teacher is None else teacher.state_dict()
        if misfit(saved, own):
            raise UserError(
                f"--pretrain_checkpoint_path {given} holds another predictor than the one that "
                "this run learns from: give that, or begin again in another --logdir"
            )
        learned = [name for name in own if name.startswith("encoder.")]
        if not all(torch.equal(own[name].cpu(), saved[name]) for name in learned):
            what = f"{given} holds another predictor by now: the run goes on with its own"
            self.run.note("warning", message=what)

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
        if self.run.locked:  # otherwise there was nothing here, and this is another process's
            note_stale(self.run, set_aside(folder, 0, self.replay.tag))

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # each of them, even if one raises
            stack.callback(super().__exit__)
            stack.callback(self.train_envs.close)
            if self.eval_envs is not None:
                stack.callback(self.eval_envs.close)

    @staticmethod
    def next_step(run: Run) -> str:
        if run.config.steps:
            folder = shlex.quote(str(run.folder))
            return (
                f"\nIts learning curve:\n\n  python -m figures.learning_curve {folder}\n"
                "\nMore episodes of its policy, on these or other --eval_colors:\n\n"
                f"  python dreamer.py --evaluate {folder} --eval_episodes 20\n"
            )
        episodes = run.config.traindir or run.folder / "train_eps"
        return f"\nIts episodes, for --pretrain_datasets_path:\n\n  {episodes}\n"

    @property
    def frames(self) -> int:
        return self.collector.steps * self.repeat

    def own_folder(self, split: str) -> Path:
        """The folder of this run's episodes."""
        given = self.config.traindir if split == "train" else self.config.evaldir
        return expand(given, f"{split}dir") if given else self.run.folder / f"{split}_eps"

    @property
    def eval_tag(self) -> str:
        """The middle of the names of evaluated episodes; ``--evaldir`` may be shared."""
        c = self.config
        tag = f"{c.method_name}-s{c.seed}"
        return f"{c.task}-{tag}" if c.evaldir else tag

    def variation(self, split: str) -> str:
        """The distractions of an episode that begins now."""
        return variation_at(self.config, split, self.collector.steps)

    def loop(self) -> None:
        """Each turn does one thing, and where it stands is all in the counters."""
        run, c = self.run, self.config
        self._clear_away()
        run.logger.bar(max(self.total, c.prefill) * self.repeat, self.frames, c.task)
        self.watch.flush()
        while True:
            run.check_stop()
            run.logger.step = self.frames
            if self.still_filling():
                if self.due("checkpoint"):
                    self.save()
                self.send(self.random)
                self.receive()
            elif self.update_comes_next:
                self.learner.step = self.collector.steps
                self.update()
                if self.collector.sent is None:
                    self.learner.refresh()  # nothing overlapped: actions may know of it at once
            elif self.collector.sent is not None:
                self.receive()
            else:
                if self.due("log"):
                    if self.collector.steps < self.total:  # the last line comes at the very end
                        self.log()
                    self.report("train", self.replay)
                if self.evaluation_due:
                    self.evaluate()
                due = self.due("checkpoint")
                if self.collector.steps >= self.total:
                    break  # the last line of the log comes first, or a kill would have it twice
                if due:
                    self.save()
                if self.learner.updates < self.updates_due:
                    self.learner.refresh()  # the newest weights before those updates
                self.send(self.explore)
                if not self.overlap:
                    self.receive()
        self.log(last=True)
        run.logger.event("finished", folder=str(run.folder))
        self.save(finished=True)

    def _clear_away(self) -> None:
        """Episodes that a kill left half-written in a folder outside the run's own."""
        for split, tag in (("train", self.replay.tag), ("eval", self.eval_tag)):
            if self.config[f"{split}dir"]:
                clear_halves(self.own_folder(split), tag)

    def still_filling(self) -> bool:
        """Whether the random policy still plays: prefill steps, and at least one whole episode.

        The first time that it does not, learning has begun.
        """
        if self.begun_at >= 0:
            return False
        if self.collector.steps < self.config.prefill or not self.replay.episodes:
            return True
        if not self.total and not self.collector.whole_since(self.config.prefill):
            return True  # a dataset's last episodes are whole ones, too
        self.begun_at = self.collector.steps
        self.clocks["log"].last = self.frames // max(self.config.log_every, 1)
        return False

    @property
    def updates_due(self) -> int:
        """How many updates the steps so far ask for."""
        c = self.config
        if not self.total:
            return 0
        rounds = (min(self.collector.steps, self.total) - self.begun_at) // c.train_every
        return c.pretrain + max(rounds, 0) * c.train_steps

    @property
    def update_comes_next(self) -> bool:
        """Whether an update is due and nothing comes before it; a step to overlap with does."""
        if self.learner.updates >= self.updates_due:
            return False
        if not self.overlap or self.collector.sent is not None:
            return True
        first = self.learner.updates < self.config.pretrain
        awaited = any(self.is_due(name) for name in self.clocks)
        return first or awaited or self.collector.steps >= self.total

    @property
    def evaluation_due(self) -> bool:
        if not self.config.eval_every or not self.total:
            return False
        last = self.collector.steps >= self.total and self.evaluated_at != self.collector.steps
        return last or self.is_due("eval")

    def act(self, obs: Any, state: Any, mode: str) -> Any:
        """The agent; before ``expl_until``, ``--expl_behavior random``."""
        c = self.config
        if mode == "train" and c.expl_behavior == "random" and self.frames < c.expl_until:
            return self.random(obs, None)
        return self.learner.act(obs, state, mode)

    def explore(self, obs: Any, state: Any) -> Any:
        """The agent while it trains."""
        with self.watch("act"):
            return self.act(obs, state, "train")

    def send(self, policy: Any) -> None:
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
            self._log_restarts(self.train_envs)

    def _log_closed(self, closed: list[Episode]) -> None:
        logger = self.run.logger
        for episode in closed:
            logger.scalar("train_return", episode.ret)
            logger.scalar("train_length", episode.length)
            logger.scalar("train_episodes", self.replay.episodes)
            if episode.success is not None:
                logger.scalar("train_success", episode.success)
            logger.write()
            kind = "random" if self.begun_at < 0 else "train"
            fields = {"ret": round(episode.ret, 1), "colors": episode.variation}
            logger.event(kind, episode=episode.index, **fields)
            if self.config.expl_gifs and episode.path:
                self.replay.written()
                self.run.video("train_policy", read_episode(episode.path)["image"])
        logger.progress(self.frames)

    def _log_restarts(self, envs: VectorEnv) -> None:
        """A line for each environment that crashed and was started anew."""
        for note in envs.take_notes():
            self.run.logger.event("env_restart", split=envs.split, **note)

    def evaluate(self) -> None:
        """Whole episodes with the actor's mode; the first time, the random policy's as well.

        Nothing is logged and no clock moves before the last episode has ended: a run that is
        stopped within an evaluation does it again, whole.
        """
        with self.watch("evaluate"):
            self._evaluate()

    def _evaluate(self) -> None:
        c, steps = self.config, self.collector.steps
        if self.eval_envs is None:
            self.eval_envs = make_more_envs(c, min(c.eval_envs, c.eval_episodes), "eval")
        played = {}
        if self.evaluated_at < 0:
            seed = derive_seed(c.seed, "random evaluation")
            envs = self.eval_envs
            policy = RandomPolicy(envs.action_size, envs.discrete, seed)
            played["random"] = self._play(policy, images=0)
        with scratch_rng(derive_seed(c.seed, "evaluation", steps), self.learner.device):
            policy = functools.partial(self.act, mode="eval")
            played["eval"] = self._play(policy, images=SEEN if c.log_videos else 1)
        self.due("eval")
        self.evaluated_at = steps
        for kind, episodes in played.items():
            self._log_evaluation(kind, episodes)
        episodes = [episode for episode in played["eval"] if "image" in episode]
        self.seen.replace(episodes)
        if episodes:  # otherwise those to look at were lost with their environment
            name = f"{self.frames:09d}-{self.eval_tag}-{len(episodes[0]['reward'])}.npz"
            save_episode(self.own_folder("eval") / name, episodes[0])
            self.run.video("eval_policy", episodes[0]["image"])
        self.report("eval", self.seen)

    def _play(self, policy: Any, images: int) -> list[dict[str, np.ndarray]]:
        c = self.config
        # Every evaluation sees episodes of its own; both policies of the first see the same.
        first = self.collector.steps * c.eval_episodes
        seeds = [episode_seed(c.seed, "eval", first + i) for i in range(c.eval_episodes)]
        colors = self.variation("eval")
        try:
            return play(self.eval_envs, policy, seeds, colors, self.run.check_stop, images)
        finally:
            self._log_restarts(self.eval_envs)

    def _log_evaluation(self, kind: str, episodes: list[dict[str, np.ndarray]]) -> None:
        logger, outcomes = self.run.logger, [outcome(episode) for episode in episodes]
        came_to = summarize(outcomes)
        logger.scalar(f"{kind}_return", came_to.mean)
        logger.scalar(f"{kind}_return_std", came_to.std)
        logger.scalar(f"{kind}_length", came_to.length)
        logger.scalar(f"{kind}_episodes", len(episodes))
        told = {"success": came_to.success, "distance": came_to.distance}
        told = {name: value for name, value in told.items() if value is not None}
        for name, value in told.items():
            logger.scalar(f"{kind}_{name}", value)
        logger.write()
        fields = {"ret": round(came_to.mean, 1), "colors": self.variation("eval")}
        fields |= {name: round(value, 3) for name, value in told.items()}
        each = [round(one.ret, 1) for one in outcomes]
        logger.event("evaluation", policy=kind, **fields, each=each)

    def restore(self, state: dict[str, Any]) -> None:
        try:
            found = self.replay.load_state_dict(to_arrays(state["replay"]))
        except ValueError as error:
            raise UserError(f"{error}; put it back, or begin again in another --logdir") from None
        note_restored(self.run, found)
        collector = state["collector"]
        policy_state = to_device(collector["state"], self.learner.device)
        same = self.collector.load_state_dict({**to_arrays(collector), "state": policy_state})
        if not same:
            self.run.note("warning", message="this renderer draws a little differently")
        self.random.load_state_dict(state["random"])
        self.begun_at, self.evaluated_at = state["begun_at"], state["evaluated_at"]

    def save(self, finished: bool = False, **more: Any) -> None:
        with self.watch("checkpoint"):
            super().save(
                finished,
                replay=self.replay.state_dict(),
                collector=self.collector.state_dict(),
                random=self.random.state_dict(),
                begun_at=self.begun_at,
                evaluated_at=self.evaluated_at,
                **more,
            )
