"""Finetuning: an agent acts, learns from what it saw, and is evaluated; the colours switch."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

import checks
from agent import Agent
from checkpoint import load_predictor, scratch_rng, to_arrays, to_device
from collect import Collector, RandomPolicy, play
from config import Config
from envs import EnvSettings, VectorEnv, episode_seed, make_vector, variation_for
from envs.rendering import choose_backend
from episodes import read_episode, save_episode, set_aside
from job import Job, new_replay
from run import Run
from tools import Every, UserError, derive_seed


class Finetuning(Job):
    """Prefill, then act, learn, evaluate; and the colours change at the midpoint."""

    def __init__(self, run: Run):
        super().__init__(run)
        c = self.config
        self.repeat = c.action_repeat
        self.total = c.steps // self.repeat  # agent steps
        backend = choose_backend()
        run.logger.event("renderer", name=backend.name, why=backend.why)
        self.train_envs = make_envs(c, c.envs, "train")
        self.eval_envs: VectorEnv | None = None  # started by the first evaluation
        shapes = {"action_size": self.train_envs.action_size}
        self.replay = new_replay(c, self.own_episodes("train"), "train", **shapes)
        self.seen = new_replay(c, None, "eval", capacity=0, **shapes)  # the newest evaluation
        teacher = load_predictor(c) if c.distillation else None
        checks.check_actor(c, self.train_envs.discrete)
        self.learner = Agent(c, self.train_envs.action_size, teacher)
        self.collector = Collector(
            self.train_envs, self.replay, c.seed, lambda: self.variation("train")
        )
        self.random = RandomPolicy(
            self.train_envs.action_size,
            self.train_envs.discrete,
            derive_seed(c.seed, "random policy"),
        )
        periods = {"eval": c.eval_every, "log": c.log_every, "checkpoint": c.checkpoint_every}
        self.clocks = {name: Every(period) for name, period in periods.items()}
        self.begun_at = -1  # agent step at which learning began; -1 while the replay fills
        self.evaluated_at = -1
        if run.resumed:
            self.resume()
        elif c.offline_traindir:
            self.replay.load(Path(c.offline_traindir).expanduser())

    def __exit__(self, *_: object) -> None:
        self.train_envs.close()
        if self.eval_envs is not None:
            self.eval_envs.close()

    @property
    def frames(self) -> int:
        return self.collector.steps * self.repeat

    def own_episodes(self, split: str) -> Path:
        """The folder of this run's episodes; what an earlier start left there is set aside."""
        given = self.config.traindir if split == "train" else self.config.evaldir
        folder = Path(given).expanduser() if given else self.run.folder / f"{split}_eps"
        if not self.run.resumed and split == "train" and any(folder.glob("*.npz")):
            if given:
                raise UserError(
                    f"--traindir {folder} holds episodes already: give an empty folder, "
                    "and --offline_traindir to learn from these"
                )
            set_aside(folder, 0)
        return folder

    def variation(self, split: str) -> str:
        """The distractions of an episode that begins now."""
        second_half = self.collector.steps * 2 >= self.total
        c = self.config
        return variation_for(c.task, split, c.color_distractor, second_half)

    def loop(self) -> None:
        """Each turn does one thing, and where it stands is all in the counters."""
        run, c = self.run, self.config
        run.logger.bar(max(self.total, c.prefill) * self.repeat, self.frames, c.task)
        while True:
            run.check_stop()
            run.logger.step = self.frames
            if self.filling:
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
        if self.total:
            self.log()
        self.save()
        run.logger.event("finished", folder=str(run.folder))

    @property
    def filling(self) -> bool:
        """Whether the random policy still plays: prefill steps, and at least one whole episode."""
        if self.begun_at >= 0:
            return False
        if self.collector.steps < self.config.prefill or (self.total and not self.replay.episodes):
            return True
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
        for episode in self.collector.step(policy):
            logger, step = self.run.logger, self.frames
            logger.scalar("train_return", episode.ret)
            logger.scalar("train_length", episode.length)
            logger.scalar("train_episodes", self.replay.episodes)
            logger.write(step)
            kind = "random" if self.begun_at < 0 else "train"
            variation = self.collector.playing[0]["variation"]
            logger.event(kind, episode=episode.index, ret=round(episode.ret, 1), colors=variation)
            if self.config.expl_gifs and episode.path:
                self.run.video("train_policy", read_episode(episode.path)["image"])
        self.run.logger.progress(self.frames)

    def evaluate(self) -> None:
        """Whole episodes with the actor's mode; the first time, the random policy's before them."""
        c, steps = self.config, self.collector.steps
        if self.eval_envs is None:
            self.eval_envs = make_envs(c, min(c.eval_envs, c.eval_episodes), "eval")
        if self.evaluated_at < 0:
            seed = derive_seed(c.seed, "random evaluation")
            envs = self.eval_envs
            self._play("random", RandomPolicy(envs.action_size, envs.discrete, seed))
        with scratch_rng(derive_seed(c.seed, "evaluation", steps), self.learner.device):
            episodes = self._play("eval", functools.partial(self.act, mode="eval"))
        # Only now: a run that is stopped within an evaluation does it again, whole.
        self.due("eval")
        self.evaluated_at = steps
        self.seen.replace(episodes)
        path = self.own_episodes("eval") / f"{self.frames:09d}-{len(episodes[0]['reward'])}.npz"
        save_episode(path, episodes[0])
        self.run.video("eval_policy", episodes[0]["image"])
        self.report("eval", self.seen)

    def _play(self, kind: str, policy: Any) -> list[dict[str, np.ndarray]]:
        c, logger = self.config, self.run.logger
        first = self.collector.steps // max(c.eval_every // self.repeat, 1) * c.eval_episodes
        seeds = [episode_seed(c.seed, "eval", first + i) for i in range(c.eval_episodes)]
        variation = self.variation("eval")
        episodes = play(self.eval_envs, policy, seeds, variation, self.run.check_stop)
        returns = np.array([episode["reward"].sum(dtype=np.float64) for episode in episodes])
        logger.scalar(f"{kind}_return", returns.mean())
        logger.scalar(f"{kind}_return_std", returns.std(ddof=1) if len(returns) > 1 else 0.0)
        logger.scalar(f"{kind}_length", np.mean([len(e["reward"]) - 1 for e in episodes]))
        logger.scalar(f"{kind}_episodes", len(episodes))
        logger.write(self.frames)
        each = [round(float(value), 1) for value in returns]
        mean = round(float(returns.mean()), 1)
        logger.event("evaluation", policy=kind, ret=mean, colors=variation, each=each)
        return episodes

    def restore(self, state: dict[str, Any]) -> None:
        moved = self.replay.load_state_dict(to_arrays(state["replay"]))
        if moved:
            self.run.logger.event("set_aside", episodes=len(moved), folder=str(moved[0].parent))
        collector = state["collector"]
        policy_state = to_device(collector["state"], self.learner.device)
        same = self.collector.load_state_dict({**to_arrays(collector), "state": policy_state})
        if not same:
            self.run.logger.event("warning", message="this renderer draws a little differently")
        self.random.load_state_dict(state["random"])
        self.begun_at, self.evaluated_at = state["begun_at"], state["evaluated_at"]

    def save(self, **more: Any) -> None:
        super().save(
            replay=self.replay.state_dict(),
            collector=self.collector.state_dict(),
            random=self.random.state_dict(),
            begun_at=self.begun_at,
            evaluated_at=self.evaluated_at,
            **more,
        )


def make_envs(config: Config, n: int, split: str) -> VectorEnv:
    """``n`` environments as the configuration describes them."""
    settings = {field.name: config[field.name] for field in dataclasses.fields(EnvSettings)}
    return make_vector(config.task, n, workers=config.async_env, split=split, **settings)
