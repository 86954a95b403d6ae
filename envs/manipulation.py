"""dm_control's manipulation tasks (``dmc_manipulation_<task>``): an arm, a hand, and what it moves.

These are the package's tasks with features; the picture is drawn here, from its close camera in
front. An episode lasts 250 control steps. MuJoCo is imported with the first environment; by then
OpenGL is chosen.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction

from distracting_control.rendering import software_shadow_size
from envs.settings import EnvSettings
from envs.wrappers import ActionRepeat

DOMAIN = "manipulation"
# The package's tasks, here because listing them must not import MuJoCo.
_LISTED = """
    lift_brick lift_large_box place_brick place_cradle reach_duplo reach_site
    reassemble_3_bricks_fixed_order reassemble_5_bricks_random_order stack_2_bricks
    stack_2_bricks_moveable_base stack_2_of_3_bricks_random_order stack_3_bricks
    stack_3_bricks_random_order
"""
NAMES = tuple(_LISTED.split())
CAMERA = "front_close"


class Manipulation(gym.Env):
    """One of the package's environments; a step is a control step. Observations are empty."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space = spaces.Dict()

    def __init__(self, name: str, settings: EnvSettings):
        """Builds a task, by its name without ``_features``.

        Raises:
            ValueError: If the model has no such camera.
        """
        shadow_size = software_shadow_size(settings.shadow_size)
        from dm_control import manipulation

        self._env = manipulation.load(f"{name}_features", seed=0)
        model = self._env.task.root_entity.mjcf_model
        if shadow_size is not None:
            model.visual.quality.shadowsize = shadow_size
        buffer = getattr(model.visual, "global")  # a keyword of Python
        buffer.offheight, buffer.offwidth = settings.size
        count, own = self._env.physics.model.ncam, settings.camera_id
        if own is not None and not -1 <= own < count:
            raise ValueError(f"camera_id must be between -1 and {count - 1}, not {own}")
        self._camera, self._size = CAMERA if own is None else own, settings.size
        spec = self._env.action_spec()
        self.action_space = spaces.Box(
            spec.minimum.astype(np.float32), spec.maximum.astype(np.float32)
        )

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.random_state.seed(seed)
        self._env.reset()
        return {}, {}

    def step(self, action: np.ndarray):
        """One control step."""
        step = self._env.step(action)
        terminated = bool(step.last() and step.discount == 0)
        truncated = bool(step.last() and not terminated)
        return {}, float(step.reward), terminated, truncated, {"discount": float(step.discount)}

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return self._env.physics.render(*self._size, camera_id=self._camera)

    def close(self) -> None:
        """Frees the simulation and its renderer."""
        self._env.close()


def build(name: str, settings: EnvSettings) -> gym.Env:
    """One environment of control steps that are repeated and counted, actions in [−1, 1]."""
    env = RescaleAction(Manipulation(name, settings), np.float32(-1.0), np.float32(1.0))
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)
