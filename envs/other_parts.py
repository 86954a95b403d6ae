"""Parts of the scenes of Gymnasium's MuJoCo environments, of Meta-World's and of MiniGrid's."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from envs.mujoco_parts import Joints, Moved
from envs.parts import Factor, Part

# Gymnasium's bodies that stand, or lie, on the ground.
_LANDS = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "Walker2d")
# Where Pusher's episodes begin with its object; its goal stays where it is.
_PUSHER = {"obj_slidex": (-0.3, 0.0), "obj_slidey": (-0.2, 0.2)}
_GOAL = ("goal_slidex", "goal_slidey")
_HAND_STEPS = 50  # that Meta-World itself gives a hand to arrive
_ROBOT = ("right_j", "r_close", "l_close")  # beginnings of the names of Sawyer's joints

E = TypeVar("E", bound=gym.Env)


def find(env: gym.Env, kind: type[E]) -> E | None:
    """The first wrapper of that kind around an environment, from the outside in."""
    while not isinstance(env, kind):
        if not isinstance(env, gym.Wrapper):
            return None
        env = env.env
    return env


class PartColors(Part):
    """The colours of Pusher's table and arm."""

    def __init__(self, env: Any):
        """Takes a ``PusherColors``."""
        self._env = env
        self.factors = [
            Factor(f"{name}.{channel}", name)
            for name in ("table", "arm")
            for channel in ("red", "green", "blue")
        ]

    def values(self) -> np.ndarray:
        return self._env.rgb.ravel()


class Hand(Part):
    """Where Sawyer's hand is, in metres; its arm follows it."""

    def __init__(self, sawyer: Any):
        """Takes an environment of Meta-World's."""
        self._sawyer = sawyer
        self.factors = [Factor(f"hand.{axis}", f"hand.{axis}") for axis in ("x", "y", "z")]

    def draw(self, random: np.random.Generator) -> None:
        sawyer = self._sawyer
        place = random.uniform(sawyer.mocap_low, sawyer.mocap_high)
        for _ in range(_HAND_STEPS):
            sawyer.data.mocap_pos[:] = place
            sawyer.do_simulation([-1, 1], sawyer.frame_skip)

    def values(self) -> np.ndarray:
        return np.array(self._sawyer.tcp_center)


class GridAgent(Part):
    """Where an agent stands in its grid, in cells, and which of four ways it looks."""

    def __init__(self, grid: Any):
        """Takes an environment of MiniGrid's."""
        self._grid = grid
        way = Factor("agent.direction", "agent.direction", "choice")
        self.factors = [*(Factor(f"agent.{axis}", f"agent.{axis}") for axis in ("x", "y")), way]

    def draw(self, random: np.random.Generator) -> None:
        self._grid.place_agent()  # by its own generator, which the episode's seed began

    def values(self) -> list[float]:
        return [*map(float, self._grid.agent_pos), float(self._grid.agent_dir)]


def gymnasium_parts(env: gym.Env, colors: type[gym.Wrapper]) -> list[Part]:
    """The parts of one of Gymnasium's environments; of those without MuJoCo there are none.

    Args:
        env: The environment.
        colors: The class that changes Pusher's.
    """
    inner: Any = env.unwrapped
    model, data = (getattr(inner, name, None) for name in ("model", "data"))
    if model is None or not hasattr(model, "jnt_type"):
        return []
    name = type(inner).__name__.removesuffix("Env")
    joints = Joints(model, data, _forward(model, data), _PUSHER, name in _LANDS, _GOAL)
    found: list[Part] = [joints, Moved(model)]
    if (wrapper := find(env, colors)) is not None:
        found.append(PartColors(wrapper))
    return found


def metaworld_parts(env: gym.Env) -> list[Part]:
    """Hand, objects on joints, and what episodes move."""
    sawyer: Any = env.unwrapped
    sawyer = sawyer.sawyer
    model, data = sawyer.model, sawyer.data
    names = [model.joint(j).name for j in range(model.njnt)]
    robot = [name for name in names if name.startswith(_ROBOT)]
    things = Joints(model, data, _forward(model, data), leaves=robot)
    return [Hand(sawyer), things, Moved(model, ("body", "site"))]


def minigrid_parts(env: gym.Env, view: type[gym.Wrapper]) -> list[Part]:
    """The agent, where the grid is seen whole: otherwise the picture is what lies before it.

    Args:
        env: The environment.
        view: The class that draws the grid.
    """
    found: Any = find(env, view)
    return [GridAgent(found.unwrapped)] if found is not None and found.full else []


def _forward(model: Any, data: Any) -> Any:
    import mujoco

    return functools.partial(mujoco.mj_forward, model, data)
