"""A task whose true factors are known: what they are now, and drawing them independently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import GrayscaleObservation

from envs.parts import Factor, Part, Parts, Told
from envs.settings import EnvSettings
from envs.tasks import SUITES, factories_of, parse_task
from envs.wrappers import Pixels
from tools import UserError, nearest

_STREAM = 5  # tells the generator of the joints from the physics' own, and the colours'
PROBES = 12  # beginnings that tell what an episode draws


class Scene:
    """A task whose factors are known.

    Attributes:
        env: The environment, which observes pixels.
        factors: Those that vary, in the order of `values`.
    """

    def __init__(self, env: gym.Env, settings: EnvSettings, parts: Parts | None):
        """Takes an environment as its suite builds it.

        Args:
            env: It belongs to the scene from here on.
            settings: Of the environment.
            parts: The suite's; None of one that tells nothing but ``info['factors']``.
        """
        self.env = Pixels(env, settings.size)
        self._gray = GrayscaleObservation(self.env, keep_dim=True) if settings.grayscale else None
        self._parts: list[Part] = []
        self._parts = [Told(self._begin(0)), *(parts(env) if parts else ())]
        self._keep = np.ones(len(self._all), bool)
        self._keep = self._varying()
        self.factors = tuple(f for f, kept in zip(self._all, self._keep, strict=True) if kept)

    @property
    def _all(self) -> list[Factor]:
        return [factor for part in self._parts for factor in part.factors]

    def _varying(self) -> np.ndarray:
        """Which of all values vary, and do not follow from one before them, bool [K]."""
        rows = []
        for seed in range(PROBES):
            self.draw(seed)
            rows.append(self.values())
        seen = np.reshape(rows, (PROBES, -1))
        varies = np.ptp(seen, axis=0) > 1e-9
        centred = seen - seen.mean(axis=0)
        unit = centred / np.where(varies, np.linalg.norm(centred, axis=0), 1.0)
        follows = np.triu(np.abs(unit.T @ unit) > 1 - 1e-9, 1)[varies].any(axis=0)
        return varies & ~follows

    def _begin(self, seed: int | None) -> Mapping[str, Any]:
        with self.env.unseen():
            _, info = self.env.reset(seed=seed)
        for part in self._parts:
            part.see(info)
        return info

    def draw(self, seed: int) -> None:
        """Draws every factor by itself: an episode's beginning, with its joints drawn anew."""
        self._begin(seed)
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
        for part in self._parts:
            part.draw(random)

    def begin(self, seed: int) -> None:
        """Starts an episode as it is played."""
        self._begin(seed)
        self.env.action_space.seed(seed)

    def step(self) -> bool:
        """One random action, unseen; returns whether the episode has ended."""
        with self.env.unseen():
            *_, terminated, truncated, info = self.env.step(self.env.action_space.sample())
        for part in self._parts:
            part.see(info)
        return bool(terminated or truncated)

    def values(self) -> np.ndarray:
        """The factors now, float64 [K]."""
        return np.array([v for part in self._parts for v in part.values()], np.float64)[self._keep]

    def image(self) -> np.ndarray:
        """The picture now, uint8 [H, W, C]."""
        frame = self.env.frame()
        return frame if self._gray is None else self._gray.observation(frame)

    def close(self) -> None:
        """Frees the environment."""
        self.env.close()


def make_scene(task: str, variation: str = "train", **settings: Any) -> Scene:
    """A task's scene.

    Args:
        task: Name of the task.
        variation: Whose distractions are drawn.
        **settings: Fields of :class:`EnvSettings`.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If a setting is not known.
        UserError: If it has no such variation, or tells no factors.
    """
    resolved = EnvSettings.of(settings)
    factories = factories_of(task, resolved)
    if variation not in factories:
        known = ", ".join(factories)
        raise UserError(
            f"{task} has no variation '{variation}'{nearest(variation, factories)}: {known}"
        )
    scene = Scene(factories[variation](), resolved, SUITES[parse_task(task).suite].parts)
    if not scene.factors:
        scene.close()
        raise UserError(
            f"--task {task}: nothing is told of what its pictures show: name a task of dmc, "
            "dmc2gym, metaworld or Gymnasium's MuJoCo, or one whose colours change"
        )
    return scene
