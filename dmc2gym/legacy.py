"""The environments for the old `gym` 0.26, which has the same interface but its own classes."""

from __future__ import annotations

from typing import Any

import gym
import numpy as np

from dmc2gym import registration


class GymEnv(gym.Env):
    """A `DMCEnv` with gym's base class and spaces."""

    def __init__(self, domain_name: str, task_name: str, **kwargs: Any) -> None:
        """Builds the env; arguments as in `dmc2gym.make`."""
        self._inner = registration.make(domain_name, task_name, **kwargs)
        self.metadata = self._inner.metadata
        self.render_mode = self._inner.render_mode
        self.observation_space = _box(self._inner.observation_space)
        self.action_space = _box(self._inner.action_space)
        self.action_space.seed(kwargs.get("seed", 1))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """See `DMCEnv.reset`."""
        super().reset(seed=seed)
        return self._inner.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See `DMCEnv.step`."""
        return self._inner.step(action)

    def render(self) -> np.ndarray | None:
        """See `DMCEnv.render`."""
        return self._inner.render()

    def close(self) -> None:
        """See `DMCEnv.close`."""
        self._inner.close()


def make(domain_name: str, task_name: str, **kwargs: Any) -> gym.Env:
    """Makes an environment for gym; arguments as in `dmc2gym.make`."""
    return GymEnv(domain_name, task_name, **kwargs)


def _box(space: Any) -> gym.spaces.Box:
    """gym's twin of a Gymnasium box."""
    return gym.spaces.Box(space.low, space.high, shape=space.shape, dtype=space.dtype)
