"""What the distractions share: forwarding, one generator each, and re-seeding of a whole stack."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import dm_env
import numpy as np
from dm_control.mujoco import Physics

RandomLike = int | np.random.SeedSequence | np.random.Generator | None


class Distraction(dm_env.Environment):
    """A dm_env wrapper that changes how an episode looks and never what happens in it.

    Subclasses say what is drawn at the start of an episode (`_begin`) and how it moves with each
    control step (`_advance`). Attributes that are not found here are those of the wrapped env.

    Attributes:
        tag: Number of this kind of distraction in the tree of seeds. It is fixed, so that
            switching one distraction on leaves the draws of the others alone.
    """

    tag: int

    def __init__(self, env: dm_env.Environment, random: RandomLike = None) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment, or another distraction around one.
            random: Seed of this distraction (`None`: from the operating system), or a generator.
        """
        self._env = env
        # Held directly: `env.physics` may have side effects, see DistractingBackground.physics.
        self._physics: Physics = env.physics
        self.seed(random)

    @abstractmethod
    def _begin(self) -> None:
        """Draws this episode's distraction and applies it to the physics."""

    @abstractmethod
    def _advance(self) -> None:
        """Moves the distraction on by one control step and applies it to the physics."""

    def seed(self, random: RandomLike) -> None:
        """Starts this distraction's generator anew; the wrapped env keeps its own.

        Args:
            random: As in the constructor.
        """
        if isinstance(random, np.random.Generator):
            self._random = random
            return
        if not isinstance(random, np.random.SeedSequence):
            entropy = None if random is None else operator.index(random)
            random = np.random.SeedSequence(entropy, spawn_key=(self.tag,))
        self._random = np.random.default_rng(random)

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode with a distraction drawn afresh."""
        time_step = self._env.reset()
        self._begin()
        return time_step

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one control step, or starts an episode if the last one had ended."""
        time_step = self._env.step(action)
        if time_step.first():
            self._begin()
        else:
            self._advance()
        return time_step

    @property
    def physics(self) -> Physics:
        """The simulation with every distraction in place, ready to be rendered."""
        return self._env.physics

    def action_spec(self) -> Any:
        """The wrapped env's action spec."""
        return self._env.action_spec()

    def observation_spec(self) -> Any:
        """The wrapped env's observation spec."""
        return self._env.observation_spec()

    def reward_spec(self) -> Any:
        """The wrapped env's reward spec."""
        return self._env.reward_spec()

    def discount_spec(self) -> Any:
        """The wrapped env's discount spec."""
        return self._env.discount_spec()

    def close(self) -> None:
        """Closes the wrapped env."""
        self._env.close()

    def __getattr__(self, name: str) -> Any:
        if name == "_env":  # not there yet: while unpickling, or after a failed constructor
            raise AttributeError(name)
        return getattr(self._env, name)


def task_random(seed: int) -> np.random.RandomState:
    """Generator of a dm_control task for a seed of any size.

    Args:
        seed: A non-negative integer. Below 2^32 the generator is the one dm_control itself would
            make of it.

    Raises:
        ValueError: If the seed is negative.
    """
    seed = operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed}")
    if seed < 2**32:
        return np.random.RandomState(seed)
    return np.random.RandomState(np.random.SeedSequence(seed).generate_state(8))


def reseed(env: dm_env.Environment, seed: int) -> None:
    """Seeds a stack of distractions and the task below them.

    The next `reset()` then depends on the seed alone, whatever was run on the env before: the same
    seed and the same actions give the same observations, rewards and pixels. What was drawn when
    the env was built stays as it is; in the suite that is the model of the `lqr` tasks.

    Args:
        env: A dm_control environment, with or without wrappers.
        seed: A non-negative integer.

    Raises:
        TypeError: If there is no dm_control task at the bottom.
        ValueError: If the seed is negative.
    """
    random = task_random(seed)
    layers = list(_layers(env))
    task = getattr(layers[-1], "task", None)
    if not hasattr(task, "_random"):
        raise TypeError(f"cannot seed {type(layers[-1]).__name__}: it has no dm_control suite task")
    for layer in layers:
        if isinstance(layer, Distraction):
            layer.seed(seed)
    task._random = random


def _layers(env: dm_env.Environment) -> Iterator[dm_env.Environment]:
    """The env and everything it wraps, from the outside in (`_env` is dm_control's own habit)."""
    while env is not None:
        yield env
        env = vars(env).get("_env")
