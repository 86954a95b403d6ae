"""Between dm_env's specs and Gymnasium's spaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from dm_env import specs
from gymnasium import spaces

# dm_control gives actuators without limits bounds of mjMAXVAL = 1e10.
_UNLIMITED = 1e10


class ActionScale:
    """The map from [-1, 1] to an env's own bounds.

    An actuator without limits (those of `lqr`) takes the number as it is.
    """

    def __init__(self, spec: specs.BoundedArray) -> None:
        """Reads the bounds.

        Args:
            spec: The env's action spec, [A].
        """
        low = np.broadcast_to(spec.minimum, spec.shape).astype(np.float64)
        high = np.broadcast_to(spec.maximum, spec.shape).astype(np.float64)
        unlimited = (low <= -_UNLIMITED) | (high >= _UNLIMITED)
        self.low = np.where(unlimited, -1.0, low)
        self.high = np.where(unlimited, 1.0, high)
        # Middle and half width, not low and width: for [-1, 1] an action is then kept exactly.
        self._middle = (self.high + self.low) / 2
        self._half = (self.high - self.low) / 2
        self.space = spaces.Box(-1.0, 1.0, shape=spec.shape, dtype=np.float32)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The env's own action, float64 [A].

        Args:
            action: [A], clipped to [-1, 1].

        Raises:
            ValueError: If the shape is another or a number is not finite.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self._middle.shape:
            raise ValueError(f"action of shape {action.shape}, expected {self._middle.shape}")
        if not np.isfinite(action).all():
            raise ValueError(f"action holds a number that is not finite: {action}")
        own = self._middle + self._half * np.clip(action, -1.0, 1.0)
        return np.clip(own, self.low, self.high)  # rounding may overstep by a bit


def state_space(observation_specs: Iterable[specs.Array]) -> spaces.Box:
    """The space of `flat_state` for an env's observation specs, float32 [S]."""
    observation_specs = list(observation_specs)
    size = sum(int(np.prod(spec.shape)) for spec in observation_specs)
    return spaces.Box(-np.inf, np.inf, shape=(size,), dtype=np.float32)


def flat_state(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    """All entries of an observation one after another, float32 [S]."""
    return np.concatenate([np.ravel(value) for value in observation.values()], dtype=np.float32)
