"""MiniGrid and BabyAI (``minigrid_<id>``), seen by the agent or from above.

The mission, a text, is not shown.
"""

import functools
import importlib
import math
import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from envs.other_parts import minigrid_parts
from envs.packages import PackageTasks
from envs.palette import READS, Colors, distract, palettes, switch_palette
from envs.pictures import fit
from envs.settings import EnvSettings
from envs.suites import COMMON, Factories, Suite
from envs.wrappers import ActionRepeat, OneHotAction

_DARKEST = 80  # walls and lines of the grid are 100 and more, floor is 0, or 76 where it is seen


class GridView(gym.Wrapper):
    """Draws what the agent sees, its view in front of it, or the whole grid.

    ``info`` has 'success': 1.0 where an episode ends with a reward.

    Attributes:
        full: Whether it is the whole grid.
    """

    def __init__(self, env: gym.Env, size: tuple[int, int], full: bool):
        """Wraps an environment of the package."""
        super().__init__(env)
        grid = env.unwrapped
        across = max(grid.width, grid.height) if full else grid.agent_view_size
        self._size, self.full = size, full
        self._tile = max(4, math.ceil(max(size) / across))

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "success": 0.0}

    def step(self, action: int):
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = float(terminated and reward > 0)
        return observation, reward, terminated, truncated, {**info, "success": success}

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        frame = self.unwrapped.get_frame(self.full, self._tile, agent_pov=not self.full)
        return fit(frame, self._size)


def is_floor(image: np.ndarray) -> np.ndarray:
    """Which pixels are floor: black, or the dark grey of floor that the agent sees.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        bool [H, W].
    """
    return (image.max(axis=-1) <= _DARKEST) & (np.ptp(image, axis=-1) == 0)


def _build(name: str, settings: EnvSettings, colors: Colors | None, prefix: str | None) -> gym.Env:
    _register()
    env = gym.make(name, render_mode="rgb_array", disable_env_checker=True)
    env = GridView(env, settings.size, settings.full_view)
    env = distract(env, settings, colors, prefix, is_floor)
    return ActionRepeat(OneHotAction(env), settings.action_repeat, settings.time_limit)


def _register() -> None:
    """Makes Gymnasium know the package's environments."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    importlib.import_module("minigrid")


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The grid in the palette and before the pictures of each variation.

    Args:
        identity: (id,).
        settings: The first group, ``full_view``, the colours and the background.
    """
    return palettes(functools.partial(_build, identity[0], settings), settings)


def _ids() -> list[str]:
    _register()
    return [name for name in gym.registry if name.startswith(("MiniGrid-", "BabyAI-"))]


SUITES = (
    Suite(
        "minigrid",
        PackageTasks("minigrid", "minigrid", _ids),
        factories,
        switch_palette,
        reads=COMMON - {"camera_id", "shadow_size"} | READS | {"full_view"},
        opengl=False,
        parts=functools.partial(minigrid_parts, view=GridView),
    ),
)
