"""Parts of the control suite's scenes: joints, targets, colours of the materials, the camera."""

from __future__ import annotations

from typing import Any

import dm_env
import gymnasium as gym
import numpy as np

import distracting_control
from distracting_control import DistractingCamera, DistractingColor
from envs.mujoco_parts import Joints, Moved, Ranges, materials_in_view
from envs.parts import Factor, Part

# Bodies that stand, or lie, on the ground.
LANDS = frozenset({"cheetah", "dog", "hopper", "humanoid", "humanoid_CMU", "quadruped", "walker"})
# Of joints that have no limits in the model, or none that they ever reach.
RANGES: dict[str, Ranges] = {
    "ball_in_cup": {
        "cup_x": (-0.1, 0.1),
        "cup_z": (-0.1, 0.1),
        "ball_x": (-0.2, 0.2),
        "ball_z": (0.2, 0.5),  # as in an episode's beginning
    },
    "fish": dict.fromkeys(
        ("tail1", "tail_twist", "tail2", "finright_roll", "finright_pitch", "finleft_roll",
         "finleft_pitch"),
        (-0.5, 0.5),
    ),
}  # fmt: skip
POSE = ("radius", "azimuth", "polar", "roll")


class Colors(Part):
    """The colours of the materials in view, while they change."""

    def __init__(self, layer: DistractingColor, physics: Any):
        """Takes the distraction; which materials are seen says the model."""
        self._layer = layer
        self._rows = materials_in_view(physics.model.ptr)
        names = [physics.model.id2name(i, "material") or f"material {i}" for i in self._rows]
        self.factors = [
            Factor(f"{name}.{channel}", name)
            for name in names
            for channel in ("red", "green", "blue")
        ]

    def values(self) -> np.ndarray:
        return self._layer.rgb[self._rows].ravel()


class CameraPose(Part):
    """Where the camera is, while it moves."""

    def __init__(self, layer: DistractingCamera):
        """Takes the distraction."""
        self._layer = layer
        kinds = {"azimuth": "angle", "polar": "angle", "roll": "angle"}
        self.factors = [
            Factor(f"camera.{name}", f"camera.{name}", kinds.get(name, "number")) for name in POSE
        ]

    def values(self) -> np.ndarray:
        return self._layer.pose


class Body(Joints):
    """The joints of a task, with everything that hangs on them brought up to date."""

    def __init__(self, env: dm_env.Environment, domain: str):
        """Takes an environment with its distractions."""
        self._env, physics = env, _bare_physics(env)
        super().__init__(
            physics.model.ptr,
            physics.data.ptr,
            physics.forward,
            RANGES.get(domain),
            lands=domain in LANDS,
        )

    def draw(self, random: np.random.Generator) -> None:
        super().draw(random)
        distracting_control.refresh(self._env)


def parts(env: gym.Env) -> list[Part]:
    """The parts of an environment of the suite, in whichever world."""
    built = env.unwrapped
    inner = getattr(built, "dmc_env", None)
    if inner is None:  # the arm with its hand
        return []
    physics = _bare_physics(inner)
    found: list[Part] = [Body(inner, built.domain_name), Moved(physics.model.ptr)]
    for layer in distracting_control.layers(inner):
        if isinstance(layer, DistractingColor):
            found.append(Colors(layer, physics))
        elif isinstance(layer, DistractingCamera):
            found.append(CameraPose(layer))
    return found


def _bare_physics(env: dm_env.Environment) -> Any:
    """The simulation, without bringing a background into it."""
    return list(distracting_control.layers(env))[-1].physics
