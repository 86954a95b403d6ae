"""What stands between a vector and each of its environments: failures with a name, and closing."""

import contextlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np


class EnvError(RuntimeError):
    """An environment failed; the message says which one and holds its traceback."""


class Reported(gym.Wrapper):
    """Turns whatever an environment raises into one :class:`EnvError` that names it.

    The original may not survive the way between processes; its traceback, as text, does.
    """

    def __init__(self, env: gym.Env, index: int):
        """Wraps ``env``, the ``index``-th of its vector."""
        super().__init__(env)
        self.index = index

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        with reporting(self.index, "reset"):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray):
        """One step."""
        with reporting(self.index, "step"):
            return self.env.step(action)


@contextlib.contextmanager
def reporting(index: int, doing: str) -> Iterator[None]:
    """Raises :class:`EnvError` for any exception inside, with the traceback in its text."""
    try:
        yield
    except Exception as error:
        raise EnvError(f"env {index} failed in {doing}:\n{traceback.format_exc()}") from error


def close(env: gym.Env, index: int, told: bool) -> None:
    """Closes an environment as well as it can: what it is for has been done.

    Args:
        env: The environment.
        index: Its place in its vector.
        told: Whether it has failed before, which has been told; otherwise failing to close is a
            warning.
    """
    try:
        env.close()
    except Exception as error:
        if not told:
            message = f"env {index} did not close: {type(error).__name__}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def seen(space: gym.spaces.Dict, n: int) -> dict[str, np.ndarray]:
    """Room for what n environments show, each part black or zero, by its name."""
    return {name: np.zeros((n, *part.shape), part.dtype) for name, part in space.items()}


def perform(env: gym.Env, shown: Mapping[str, np.ndarray], command: str, data: Any) -> tuple:
    """Does what a vector asks of one environment; what it shows is written into ``shown``.

    Args:
        env: The environment, :class:`Reported`.
        shown: A part of each name that its observations have, of its shape and type.
        command: 'step' or 'reset'.
        data: The action, or the arguments of ``reset``.

    Returns:
        (reward, terminated, truncated, info) of a step, () of a reset.
    """
    if command == "reset":
        observation, _ = env.reset(**data)
        answer = []
    else:
        observation, *answer = env.step(data)
    with reporting(env.index, command):
        for name, part in shown.items():
            part[...] = observation[name]
    return tuple(answer)
