"""Crafter (``crafter_reward``), a small open world with 22 achievements (arXiv 2109.06780).

Its look is part of the world: there are no distractors.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.packages import PackageTasks
from envs.settings import EnvSettings
from envs.suites import COMMON, VARIATIONS, Factories, Suite
from envs.wrappers import ActionRepeat, OneHotAction

AREA = (64, 64)  # of a world; to make one of the package's own size takes a second
LENGTH = 10_000  # control steps after which the package itself ends an episode


@contextlib.contextmanager
def _without_gym() -> Iterator[None]:
    """Hides the old Gym, which the package would take its spaces from: its import prints a page."""
    if "gym" in sys.modules:
        yield
        return
    sys.modules["gym"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["gym"]


class Crafter(gym.Env):
    """The package's environment under today's interface.

    A step draws the picture once, as the package does: the night's noise is drawn from the same
    generator as what happens. ``info`` has 'achievements', how often each was reached.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, size: tuple[int, int]):
        """Makes a world whose pictures are of ``size`` (height, width)."""
        with _without_gym():
            import crafter

        class Ordered(crafter.Env):
            """Which creature vanishes follows from the seed, not from where objects lie."""

            def _balance_object(self, chunk: Any, objs: Any, *rest: Any) -> None:
                objs = sorted(objs, key=lambda each: tuple(each.pos))
                super()._balance_object(chunk, objs, *rest)

        self._world = Ordered(AREA, size=size[::-1], length=LENGTH, seed=0)
        self.action_space = spaces.Discrete(len(self._world.action_names))
        self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)
        self._frame = np.zeros((*size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode in a new world."""
        super().reset(seed=seed)
        # The package's own worlds follow from a seed and the number of the episode.
        self._world._seed, self._world._episode = int(self.np_random.integers(2**31 - 1)), 0
        self._frame = self._world.reset()
        return self._frame, {}

    def step(self, action: int):
        """One step; ``terminated`` where the player has died."""
        self._frame, reward, ended, info = self._world.step(int(action))
        dead = info["discount"] == 0.0
        told = {"achievements": info["achievements"]}
        return self._frame, float(reward), dead, ended and not dead, told

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return self._frame


def _build(settings: EnvSettings) -> gym.Env:
    env = OneHotAction(Crafter(settings.size))
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The world, under every variation's name.

    Args:
        identity: ('reward',).
        settings: Of which the first group concerns it.
    """
    return dict.fromkeys(VARIATIONS, functools.partial(_build, settings))


def _names() -> list[str]:
    return ["reward"]


SUITES = (
    Suite(
        "crafter",
        PackageTasks("crafter", "crafter", _names),
        factories,
        reads=COMMON - {"camera_id", "shadow_size"},
        has_distractors=False,
        opengl=False,
    ),
)
