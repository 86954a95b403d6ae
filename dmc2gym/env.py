"""One task of the dm_control suite behind Gymnasium's interface."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_control.mujoco import Camera

import distracting_control
from dmc2gym.contexts import free, own_context
from dmc2gym.spaces import ActionScale, flat_state, state_space

Kwargs = Mapping[str, Any]

_CAMERA_IDS = {"quadruped": 2}  # its camera 0 is too far away to tell the legs apart


class DMCEnv(gymnasium.Env):
    """A task of the suite, with `frame_skip` control steps per step.

    Observations are pixels, uint8 [3, H, W] or [H, W, 3], or all of dm_control's observations in
    one vector, float32 [S]. Actions are float32 [A] in [-1, 1]. Rewards are sums over the control
    steps. An episode is terminated if dm_control ends it with discount 0, and truncated at a time
    limit or after `episode_length` control steps.

    After `reset(seed=s)` all that follows depends on s and the actions alone, pixels included, and
    not on what was run before. (The one exception is `lqr`, whose model is drawn with the seed
    given at construction.)

    Close the env when done with it: dm_control's renderer cannot be freed any more once the
    interpreter is shutting down, and says so.

    Attributes:
        domain_name: Domain of the suite.

    Args:
        domain_name: Likewise.
        task_name: Task of the domain.
        seed: Seed of the episodes until `reset` is given another; `None`: from the operating
            system.
        visualize_reward: Let dm_control colour the body by the reward; not with pixels.
        from_pixels: Observe pixels instead of states.
        height: Height of observed and rendered images in pixels.
        width: Their width.
        camera_id: Camera of the model, -1 for MuJoCo's free camera. `None`: 0, or 2 for the
            quadruped.
        frame_skip: Control steps per step, all with the same action.
        episode_length: Control steps after which an episode is truncated, the suite's own 1000
            by default.
        environment_kwargs: Arguments of dm_control's `Environment`.
        time_limit: The task's own limit in seconds, which may come first; `None` for none.
        channels_first: Observe [3, H, W] rather than [H, W, 3].
        colour_kwargs: `color_kwargs` of the distractions under its other spelling.
        render_mode: `'rgb_array'` or `None`.
        **distractions: `difficulty`, `dynamic`, `background_dataset_path`,
            `background_dataset_videos`, `shadow_size` and `<name>_kwargs` for each distraction,
            see `distracting_control.load`.

    Raises:
        FileNotFoundError: If the background's folder is missing or empty.
        TypeError: If there is no such argument.
        ValueError: If the task does not exist, or settings are out of range or contradictory.
    """

    def __init__(
        self,
        domain_name: str,
        task_name: str,
        *,
        seed: int | None = 1,
        visualize_reward: bool = False,
        from_pixels: bool = False,
        height: int = 64,
        width: int = 64,
        camera_id: int | None = None,
        frame_skip: int = 1,
        episode_length: int = 1000,
        environment_kwargs: Kwargs | None = None,
        time_limit: float | None = None,
        channels_first: bool = True,
        colour_kwargs: Kwargs | None = None,
        render_mode: str | None = "rgb_array",
        **distractions: Any,
    ) -> None:
        """Builds the env; for the arguments see the class."""
        _check(frame_skip, episode_length, render_mode)
        if from_pixels and visualize_reward:
            raise ValueError("visualize_reward would show the agent its reward: not with pixels")
        if colour_kwargs is not None:
            if distractions.get("color_kwargs") is not None:
                raise ValueError("colour_kwargs and color_kwargs are the same: give one of them")
            distractions["color_kwargs"] = colour_kwargs
        if camera_id is None:
            camera_id = _CAMERA_IDS.get(domain_name, 0)
        self.domain_name = domain_name
        self._env = distracting_control.load(
            domain_name,
            task_name,
            seed=seed,
            camera_id=camera_id,
            task_kwargs={"time_limit": float("inf") if time_limit is None else time_limit},
            environment_kwargs=environment_kwargs,
            visualize_reward=visualize_reward,
            **distractions,
        )
        self._frame_skip, self._episode_length = frame_skip, episode_length
        self._over, self._control_steps = True, 0
        self.render_mode = render_mode
        fps = 1.0 / (self._env.control_timestep() * frame_skip)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        self._make_spaces(from_pixels, height, width, channels_first, seed)
        self._make_renderer(height, width, camera_id)

    def _make_spaces(
        self, from_pixels: bool, height: int, width: int, channels_first: bool, seed: int | None
    ) -> None:
        self._from_pixels, self._channels_first = from_pixels, channels_first
        self._scale = ActionScale(self._env.action_spec())
        self.action_space = self._scale.space
        self.action_space.seed(seed)
        if from_pixels:
            shape = (3, height, width) if channels_first else (height, width, 3)
            self.observation_space = gymnasium.spaces.Box(0, 255, shape=shape, dtype=np.uint8)
        else:
            self.observation_space = state_space(self._env.observation_spec().values())

    def _make_renderer(self, height: int, width: int, camera_id: int) -> None:
        self._physics = physics = self._env.physics
        if not -1 <= camera_id < physics.model.ncam:
            raise ValueError(
                f"camera_id must be between -1 and {physics.model.ncam - 1}, not {camera_id}"
            )
        buffer = physics.model.vis.global_
        buffer.offheight = max(buffer.offheight, height)
        buffer.offwidth = max(buffer.offwidth, width)
        self._image_shape, self._camera_id = (height, width), camera_id
        self._camera: Camera | None = None
        # Runs once, on close() or when the env is collected; at exit it would come too late.
        self._free = weakref.finalize(self, free, physics)
        self._free.atexit = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: A non-negative integer that determines this and the following episodes; `None`
                goes on with the generators.
            options: Not used.

        Returns:
            Observation and info, as `step` does.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: If the seed is negative.
        """
        self._check_open()
        super().reset(seed=seed)
        if seed is not None:
            distracting_control.reseed(self._env, seed)
        time_step = self._env.reset()
        self._over, self._control_steps = False, 0
        return self._observe(time_step), self._info(1.0, 0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes up to `frame_skip` control steps with one action, fewer if the episode ends.

        Args:
            action: [A], clipped to [-1, 1].

        Returns:
            Observation; summed reward; terminated; truncated; and info: `discount` of the last
            control step, `internal_state` of the physics (float64, a copy), and `control_steps`,
            how many were taken; where a background plays or a palette is drawn also `factors`,
            {name: value} of them.

        Raises:
            gymnasium.error.ResetNeeded: If no episode is under way.
            ValueError: If the action has another shape or is not finite.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() first")
        action = self._scale(action)
        reward = 0.0
        before = self._control_steps
        for _ in range(min(self._frame_skip, self._episode_length - before)):
            time_step = self._env.step(action)
            self._control_steps += 1
            reward += time_step.reward
            if time_step.last():
                break
        terminated = bool(time_step.last() and time_step.discount == 0)
        out_of_time = time_step.last() or self._control_steps >= self._episode_length
        self._over = out_of_time
        info = self._info(time_step.discount, self._control_steps - before)
        truncated = out_of_time and not terminated
        return self._observe(time_step), float(reward), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Draws the scene now, uint8 [H, W, 3]; nothing if `render_mode` is `None`."""
        self._check_open()
        return None if self.render_mode is None else self._draw().copy()

    def segment(self) -> np.ndarray:
        """What is seen where: number and type of the object, int32 [H, W, 2], −1 for the sky.

        A copy. It costs a second drawing.
        """
        self._check_open()
        with own_context(self._physics):
            if self._camera is None:
                physics = self._env.physics
                self._camera = Camera(physics, *self._image_shape, camera_id=self._camera_id)
            return self._camera.render(segmentation=True).copy()

    def close(self) -> None:
        """Frees the simulation and its renderer; the env is of no use afterwards."""
        self._over = True
        self._camera = None
        self._free()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses to be pickled or copied.

        Raises:
            TypeError: Always: a copy's scene would not be the one that MuJoCo draws.
        """
        raise TypeError(
            "an env draws with a context of its own and can be neither pickled nor copied: make "
            "one where it is needed; after reset(seed=…) both play alike"
        )

    @property
    def dmc_env(self) -> dm_env.Environment:
        """The dm_env environment inside, with its distractions around it."""
        return self._env

    def _check_open(self) -> None:
        if not self._free.alive:
            raise gymnasium.error.ClosedEnvironmentError("the env is closed: make another")

    def _observe(self, time_step: dm_env.TimeStep) -> np.ndarray:
        if not self._from_pixels:
            return flat_state(time_step.observation)
        image = self._draw()
        if self._channels_first:
            image = image.transpose(2, 0, 1)
        return np.array(image, order="C")  # a copy: the camera draws into the same buffer again

    def _draw(self) -> np.ndarray:
        """A view of the renderer's own buffer, uint8 [H, W, 3], valid until the next drawing."""
        with own_context(self._physics):
            # Asked for each time: this brings the distractions up to date.
            physics = self._env.physics
            if self._camera is None:
                # Kept, because dm_control's `physics.render` builds a new scene for every image.
                self._camera = Camera(physics, *self._image_shape, camera_id=self._camera_id)
            return self._camera.render()

    def _info(self, discount: float, control_steps: int) -> dict[str, Any]:
        told = {
            "discount": float(discount),
            "internal_state": self._physics.get_state(),
            "control_steps": control_steps,
        }
        if factors := distracting_control.factors(self._env):
            told["factors"] = factors
        return told


def _check(frame_skip: int, episode_length: int, render_mode: str | None) -> None:
    for name, value in (("frame_skip", frame_skip), ("episode_length", episode_length)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}")
