"""Evaluation: whole episodes of a policy, and what they came to.

One `Evaluator` serves a run while it trains and ``--evaluate`` afterwards. It lets a policy play
the episodes that follow from the run's seed and from where its training stands, so that evaluating
the last checkpoint of a finished run gives what the run logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from accel.generators import scratch_rng
from accel.runtime import Runtime
from agents.base import Policy
from config import Config
from envs import EnvError, VectorEnv, episode_seed, worlds_of
from logger import Logger
from tools import derive_seed
from training.collector import check_finite, first_row, observed, step_rows
from training.factory import make_more_envs, variation_at
from training.returns import Outcome, Summary, outcome, summarize

Episodes = list[dict[str, np.ndarray]]


class Evaluation(NamedTuple):
    """Episodes that were played.

    Attributes:
        variation: their distractions.
        seeds: theirs; those whose environment broke are not among them.
        episodes: as `play_episodes` returns them.
        outcomes: what they came to.
        summary: statistics of these.
    """

    variation: str
    seeds: list[int]
    episodes: Episodes
    outcomes: list[Outcome]
    summary: Summary

    @property
    def pictured(self) -> Episodes:
        """The episodes whose images were kept."""
        return [episode for episode in self.episodes if "image" in episode]


class Evaluator:
    """Plays whole episodes in environments of its own, which the first evaluation makes.

    Args:
        config: the run's; ``eval_episodes`` episodes, ``eval_envs`` at once.
        runtime: its device.
        tick: called at every step; raises if the run is to stop.
        of_run: the run's own configuration where ``config`` is another one: its switch and its
            episodes are meant.
        make_envs: makes the environments, of ``config``, ``runtime``, their number and a split.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        tick: Callable[[], Any] = lambda: None,
        of_run: Config | None = None,
        make_envs: Callable[[Config, Runtime, int, str], VectorEnv] = make_more_envs,
    ):
        self._config, self._runtime, self._tick = config, runtime, tick
        self._of_run, self._make = of_run or config, make_envs
        self._envs: VectorEnv | None = None

    @property
    def envs(self) -> VectorEnv:
        """Its environments."""
        if self._envs is None:
            c = self._config
            self._envs = self._make(c, self._runtime, min(c.eval_envs, c.eval_episodes), "eval")
        return self._envs

    def play(
        self,
        policy: Policy,
        steps: int,
        variation: str | None = None,
        images: int | None = None,
    ) -> Evaluation:
        """Plays the episodes that belong to a point of training.

        Every evaluation of a run sees episodes of its own, all of its policies the same. No
        generator of the run moves.

        Args:
            policy: acts; its state starts as None.
            steps: agent steps of training so far.
            variation: the distractions; None for the run's own.
            images: keep those of so many episodes, the first ones; None keeps all.

        Raises:
            EnvError: no episode is left.
        """
        c, lost = self._config, set[int]()
        first = steps * self._of_run.eval_episodes
        seeds = [episode_seed(c.seed, "eval", first + i) for i in range(c.eval_episodes)]
        variation = variation or own_variation(c, self._of_run, steps)
        with scratch_rng(derive_seed(c.seed, "evaluation", steps), self._runtime.device):
            episodes = play_episodes(
                self.envs, policy, seeds, variation, images, tick=self._tick, lost=lost.add
            )
        outcomes = [outcome(episode) for episode in episodes]
        played = [seed for i, seed in enumerate(seeds) if i not in lost]
        return Evaluation(variation, played, episodes, outcomes, summarize(outcomes))

    def play_worlds(self, policy: Policy, steps: int) -> dict[str, Evaluation]:
        """The same episodes in each of ``--eval_worlds``; no images are kept.

        Args:
            policy: acts; its state starts as None.
            steps: agent steps of training so far.

        Returns:
            ``{eval_<world>: its evaluation}``.

        Raises:
            EnvError: no episode of a world is left.
        """
        names = worlds_of(self._config.eval_worlds)
        return {f"eval_{name}": self.play(policy, steps, name, images=0) for name in names}

    def take_notes(self) -> list[dict[str, Any]]:
        """What has happened to the environments since the last call."""
        return [] if self._envs is None else self._envs.take_notes()

    def close(self) -> None:
        """Closes the environments."""
        if self._envs is not None:
            self._envs.close()


def own_variation(config: Config, of_run: Config, steps: int) -> str:
    """The distractions of an evaluation after so many agent steps of the run ``of_run``.

    Its midpoint is the run's, however often ``config`` repeats actions.
    """
    return variation_at(config.replace(action_repeat=of_run.action_repeat), "eval", steps)


def play_episodes(
    envs: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    variation: str,
    images: int | None = None,
    tick: Callable[[], Any] = lambda: None,
    lost: Callable[[int], Any] = lambda index: None,
) -> Episodes:
    """Plays one whole episode for each seed, as many at once as there are environments.

    Args:
        envs: the environments to play in.
        policy: acts; its state starts as None.
        seeds: of the episodes.
        variation: the distractions of all of them.
        images: keep those of so many episodes, the first ones; None keeps all.
        tick: called at every step.
        lost: called with the place of a seed whose environment broke; its episode is left out.

    Returns:
        The episodes in the order of the seeds: ``image`` [T, H, W, C], ``action`` [T, A],
        ``reward``, ``discount``, ``is_terminal`` [T]; ``vector`` [T, V] where there is one; where
        the environment tells them, also ``success`` and ``distance`` float32 [T], NaN in row 0.

    Raises:
        EnvError: no episode is left.
    """
    rows: dict[int, list[dict[str, Any]]] = {}
    finished: set[int] = set()
    playing = [-1] * envs.n
    ended, state, begun = np.ones(envs.n, bool), None, 0
    is_first = ended
    while len(finished) < len(seeds):
        tick()
        if ended.any():
            for i in np.flatnonzero(ended):
                # Beyond the last seed an idle environment plays along, and nobody looks.
                playing[i], begun = begun, begun + 1
            image = envs.reset(ended, [seeds[p % len(seeds)] for p in playing], variation)
            vector = envs.vectors
            for i in np.flatnonzero(ended):
                rows[playing[i]] = [first_row(image[i], vector[i])]
            is_first = ended
        action, state = policy(observed(image, vector, is_first), state)
        check_finite(action)
        result = envs.step(action)
        for i, row in enumerate(step_rows(action, result)):
            rows[playing[i]].append(row)
            if images is not None and playing[i] >= images:
                del row["image"]
        for i in np.flatnonzero(result.broken):
            del rows[playing[i]]
            if playing[i] < len(seeds):
                lost(playing[i])
        image, vector = result.image, result.vector
        ended = result.terminated | result.truncated | result.broken
        is_first = np.zeros(envs.n, bool)
        finished |= {playing[i] for i in np.flatnonzero(ended) if playing[i] < len(seeds)}
    return _whole(rows, len(seeds), envs)


def _whole(rows: dict[int, list[dict]], n: int, envs: VectorEnv) -> Episodes:
    """The episodes of the first n that are there, which leave ``rows`` one by one."""
    played = [i for i in range(n) if i in rows]
    if not played:
        raise EnvError(f"no episode could be played to its end: {envs.notes[-1]['reason']}")
    return [_stack(rows.pop(i), envs.action_size) for i in played]


def _stack(rows: list[dict[str, Any]], action_size: int) -> dict[str, np.ndarray]:
    zero = np.zeros(action_size, np.float32)
    kinds = {"reward": np.float32, "discount": np.float32, "is_terminal": bool}
    episode = {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    if all("image" in row for row in rows):
        episode["image"] = np.stack([row["image"] for row in rows])
    episode["action"] = np.stack([row.get("action", zero) for row in rows])
    if len(rows[0]["vector"]):
        episode["vector"] = np.stack([row["vector"] for row in rows])
    for name in ("success", "distance"):
        told = np.array([row.get(name, np.nan) for row in rows], np.float32)
        if not np.isnan(told).all():
            episode[name] = told
    return episode


def log_evaluation(logger: Logger, kind: str, evaluation: Evaluation, steps: int) -> None:
    """A line of numbers named ``<kind>_…``, and an event.

    The line stands at frames, as all do, and has the agent's steps until then as well.
    """
    summary = evaluation.summary
    logger.scalar(f"{kind}_return", summary.mean)
    logger.scalar(f"{kind}_return_std", summary.std)
    logger.scalar(f"{kind}_length", summary.length)
    logger.scalar(f"{kind}_episodes", len(evaluation.outcomes))
    logger.scalar(f"{kind}_decisions", steps)
    both = {"success": summary.success, "distance": summary.distance}
    told = {name: value for name, value in both.items() if value is not None}
    for name, value in told.items():
        logger.scalar(f"{kind}_{name}", value)
    logger.write()
    fields = {"ret": round(summary.mean, 1), "colors": evaluation.variation}
    fields |= {name: round(value, 3) for name, value in told.items()}
    each = [round(one.ret, 1) for one in evaluation.outcomes]
    logger.event("evaluation", policy=kind, **fields, each=each)
