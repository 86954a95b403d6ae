"""Finetuning: an agent acts, learns from what it saw, and is evaluated; the colours switch."""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

import checks
from agent import Agent
from checkpoint import load_predictor, scratch_rng, to_arrays, to_device
from collect import Collector, RandomPolicy, play
from config import Config
from envs import (
    EnvError,
    EnvSettings,
    UnknownTask,
    VectorEnv,
    episode_seed,
    has_switch,
    make_vector,
    variation_for,
)
from envs.rendering import choose_backend
from episodes import read_episode, save_episode, set_aside
from job import Job, load_episodes, new_replay
from models import VideoPredictor
from outcomes import outcome, summarize
from run import Run
from tools import Every, UserError, derive_seed


class Finetuning(Job):
    """Prefill, then act, learn, evaluate; and the colours change at the midpoint."""

    def __init__(self, run: Run):
        super().__init__(run)
        c = self.config
        self.repeat = c.action_repeat
        self.total = c.steps // self.repeat  # agent steps
        self.begun_at = -1  # agent step at which learning began; -1 while the replay fills
        self.evaluated_at = -1
        periods = {"eval": c.eval_every, "log": c.log_every, "checkpoint": c.checkpoint_every}
        self.clocks = {name: Every(period) for name, period in periods.items()}
        self.clocks["checkpoint"].last = 0  # there is nothing to save at the start
        teacher = load_predictor(c) if c.distillation else None
        backend = choose_backend()
        run.note("renderer", name=backend.name, why=backend.why)
        self.eval_envs: VectorEnv | None = None  # started by the first evaluation
        self.train_envs = make_envs(c, c.envs, "train")
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
        self.replay = new_replay(c, self.own_folder("train"), "train", envs.action_size)
        self.seen = new_replay(c, None, "eval", envs.action_size, capacity=0)  # last evaluation
        self.learner = Agent(c, envs.action_size, teacher)
        self.collector = Collector(envs, self.replay, c.seed, lambda: self.variation("train"))
        seed = derive_seed(c.seed, "random policy")
        self.random = RandomPolicy(envs.action_size, envs.discrete, seed)
        if self.run.resumed:
            self.resume()
            return
        if c.offline_traindir:
            load_episodes(self.run, self.replay, "offline_traindir")
        self._clear_the_way()

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
        if moved := set_aside(folder, 0):
            self.run.note("set_aside", episodes=len(moved), folder=str(moved[0].parent))

    def __exit__(self, *_: object) -> None:
        self.train_envs.close()
        if self.eval_envs is not None:
            self.eval_envs.close()

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
        return Path(given).expanduser() if given else self.run.folder / f"{split}_eps"

    def variation(self, split: str) -> str:
        """The distractions of an episode that begins now."""
        return variation_at(self.config, split, self.collector.steps)

    def loop(self) -> None:
        """Each turn does one thing, and where it stands is all in the counters."""
        run, c = self.run, self.config
        run.logger.bar(max(self.total, c.prefill) * self.repeat, self.frames, c.task)
        while True:
            run.check_stop()
            run.logger.step = self.frames
            if self.still_filling():
                if self.due("checkpoint"):
                    self.save()
                self.collect(self.random)
            elif self.learner.updates < self.updates_due:
                self.learner.step = self.collector.steps
                self.update()
            else:
                if self.due("log"):
                    self.log()
                    self.report("train", self.replay)
                if self.evaluation_due:
                    self.evaluate()
                if self.due("checkpoint"):
                    self.save()
                if self.collector.steps >= self.total:
                    break
                self.collect(functools.partial(self.act, mode="train"))
        self.log()
        run.logger.event("finished", folder=str(run.folder))
        self.save(finished=True)

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
    def evaluation_due(self) -> bool:
        if not self.config.eval_every or not self.total:
            return False
        last = self.collector.steps >= self.total and self.evaluated_at != self.collector.steps
        clock = self.clocks["eval"]
        return last or self.frames // clock.period > clock.last

    def act(self, obs: Any, state: Any, mode: str) -> Any:
        """The agent; before ``expl_until``, ``--expl_behavior random``."""
        c = self.config
        if mode == "train" and c.expl_behavior == "random" and self.frames < c.expl_until:
            return self.random(obs, None)
        return self.learner.act(obs, state, mode)

    def collect(self, policy: Any) -> None:
        """One step of the training environments, and a line for each episode that ended."""
        closed, logger = self.collector.step(policy), self.run.logger
        logger.step = self.frames
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
                self.run.video("train_policy", read_episode(episode.path)["image"])
        logger.progress(self.frames)

    def evaluate(self) -> None:
        """Whole episodes with the actor's mode; the first time, the random policy's as well.

        Nothing is logged and no clock moves before the last episode has ended: a run that is
        stopped within an evaluation does it again, whole.
        """
        c, steps = self.config, self.collector.steps
        if self.eval_envs is None:
            self.eval_envs = make_envs(c, min(c.eval_envs, c.eval_episodes), "eval")
        played = {}
        if self.evaluated_at < 0:
            seed = derive_seed(c.seed, "random evaluation")
            envs = self.eval_envs
            played["random"] = self._play(RandomPolicy(envs.action_size, envs.discrete, seed))
        with scratch_rng(derive_seed(c.seed, "evaluation", steps), self.learner.device):
            played["eval"] = self._play(functools.partial(self.act, mode="eval"))
        self.due("eval")
        self.evaluated_at = steps
        for kind, episodes in played.items():
            self._log_evaluation(kind, episodes)
        episodes = played["eval"]
        self.seen.replace(episodes)
        tag = f"{c.method_name}-s{c.seed}"  # --evaldir may be shared
        name = f"{self.frames:09d}-{tag}-{len(episodes[0]['reward'])}.npz"
        path = self.own_folder("eval") / name
        save_episode(path, episodes[0])
        self.run.video("eval_policy", episodes[0]["image"])
        self.report("eval", self.seen)

    def _play(self, policy: Any) -> list[dict[str, np.ndarray]]:
        c = self.config
        # Every evaluation sees episodes of its own; both policies of the first see the same.
        first = self.collector.steps * c.eval_episodes
        seeds = [episode_seed(c.seed, "eval", first + i) for i in range(c.eval_episodes)]
        return play(self.eval_envs, policy, seeds, self.variation("eval"), self.run.check_stop)

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
            moved = self.replay.load_state_dict(to_arrays(state["replay"]))
        except ValueError as error:
            raise UserError(f"{error}; put it back, or begin again in another --logdir") from None
        if moved:
            self.run.note("set_aside", episodes=len(moved), folder=str(moved[0].parent))
        collector = state["collector"]
        policy_state = to_device(collector["state"], self.learner.device)
        same = self.collector.load_state_dict({**to_arrays(collector), "state": policy_state})
        if not same:
            self.run.note("warning", message="this renderer draws a little differently")
        self.random.load_state_dict(state["random"])
        self.begun_at, self.evaluated_at = state["begun_at"], state["evaluated_at"]

    def save(self, finished: bool = False, **more: Any) -> None:
        super().save(
            finished,
            replay=self.replay.state_dict(),
            collector=self.collector.state_dict(),
            random=self.random.state_dict(),
            begun_at=self.begun_at,
            evaluated_at=self.evaluated_at,
            **more,
        )


def variation_at(config: Config, split: str, steps: int) -> str:
    """The distractions of an episode that begins after so many agent steps of training."""
    total = config.steps // config.action_repeat
    second_half = total > 0 and steps * 2 >= total
    return variation_for(config.task, split, config.color_distractor, second_half)


def make_envs(config: Config, n: int, split: str) -> VectorEnv:
    """``n`` environments as the configuration describes them.

    Raises:
        UserError: a setting does not fit the task, or what it names is not there.
    """
    settings = {field.name: config[field.name] for field in dataclasses.fields(EnvSettings)}
    envs = None
    try:
        envs = make_vector(config.task, n, workers=config.async_env, split=split, **settings)
        # The first frame shows what building does not, a camera that is not there for one. No
        # number of the run depends on it: episodes follow from their own seeds.
        envs.reset(seeds=[0] * n)
        return envs
    except (ValueError, OSError, ImportError, EnvError) as error:
        if envs is not None:
            envs.close()
        if isinstance(error, UnknownTask):
            raise
        # A worker's error ends with its own line; above it stands its traceback.
        reason = str(error).strip().splitlines()[-1]
        if "No module named" in reason:
            reason += ": pip install -r requirements.txt"
        flags = re.sub(rf"(?<![\w-])({'|'.join(settings)})\b", r"--\1", reason)
        raise UserError(f"{config.task} cannot be made: {flags}") from error
