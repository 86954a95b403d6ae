"""Loads tasks of the dm_control suite with any of the distractions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dm_env
import numpy as np
from dm_control import suite

from distracting_control.background import DistractingBackground
from distracting_control.base import task_random
from distracting_control.camera import DistractingCamera
from distracting_control.color import DistractingColor

# Scale of the colour and camera changes, and number of videos, per difficulty.
DIFFICULTIES: dict[str, tuple[float, int | None]] = {
    "easy": (0.1, 4),
    "medium": (0.2, 8),
    "hard": (0.3, None),
}
_FLOOR_ALPHA = {"reacher": 0.0, "walker": 1.0, "cheetah": 1.0}

Kwargs = Mapping[str, Any]


def color_preset(scale: float, dynamic: bool) -> dict[str, Any]:
    """Arguments of `DistractingColor` at a scale in [0, 1] (Stone et al. 2021, section 3)."""
    return {"max_delta": scale, "step_std": 0.03 * scale if dynamic else 0.0}


def camera_preset(domain_name: str, scale: float, dynamic: bool) -> dict[str, Any]:
    """Arguments of `DistractingCamera` at a scale in [0, 1] (Stone et al. 2021, section 3)."""
    kwargs = {
        "horizontal_delta": np.pi / 2 * scale,
        "vertical_delta": np.pi / 2 * scale,
        "roll_delta": np.pi / 2 * scale,
        "zoom_in": 0.5 * scale,
        "zoom_out": 1.5 * scale,
        # The reacher is seen from straight above, where there are no sides to keep to.
        "upper_quadrant": domain_name != "reacher",
    }
    if dynamic:
        kwargs |= {
            "vel_std": 0.1 * scale,
            "max_vel": 0.4 * scale,
            "roll_std": np.pi / 300 * scale,
            "max_roll_vel": np.pi / 50 * scale,
        }
    return kwargs


def background_preset(
    domain_name: str, num_videos: int | None = None, dynamic: bool = False
) -> dict[str, Any]:
    """Arguments of `DistractingBackground` for a domain (Stone et al. 2021, section 3)."""
    return {
        "num_videos": num_videos,
        "dynamic": dynamic,
        "floor_alpha": _FLOOR_ALPHA.get(domain_name, 0.3),
    }


def load(
    domain_name: str,
    task_name: str,
    *,
    difficulty: str | None = None,
    dynamic: bool = False,
    seed: int | None = None,
    camera_id: int = 0,
    camera_kwargs: Kwargs | None = None,
    color_kwargs: Kwargs | None = None,
    background_kwargs: Kwargs | None = None,
    background_dataset_path: str | os.PathLike | None = None,
    background_dataset_videos: str | Sequence[str] | None = "train",
    task_kwargs: Kwargs | None = None,
    environment_kwargs: Kwargs | None = None,
    visualize_reward: bool = False,
    shadow_size: int | None = None,
) -> dm_env.Environment:
    """Loads a task of the suite, distracted.

    Args:
        domain_name: Domain of the suite, e.g. `'walker'`.
        task_name: Task of the domain, e.g. `'walk'`.
        difficulty: `'easy'`, `'medium'` or `'hard'` turns on all three distractions, preset but
            for their kwargs; `None` only those with kwargs (or, for the background, a path).
        dynamic: Let the presets, and the background, move within an episode.
        seed: Seed of the task and of every distraction; `None`: from the operating system.
        camera_id: The camera that the camera distraction moves.
        camera_kwargs: Arguments of `DistractingCamera`.
        color_kwargs: Arguments of `DistractingColor`.
        background_kwargs: Arguments of `DistractingBackground`.
        background_dataset_path: Folder of background videos.
        background_dataset_videos: `'train'`, `'val'`, names, or `None` for all.
        task_kwargs: Arguments of the task, e.g. `time_limit` in seconds.
        environment_kwargs: Arguments of dm_control's `Environment`.
        visualize_reward: Let dm_control colour the body by the reward.
        shadow_size: Side of the shadow map in texels; `None` for the model's own, 2048 or more.

    Raises:
        FileNotFoundError: If the background's folder is missing or empty.
        ValueError: If the task does not exist, or the settings contradict each other.
    """
    color, camera = _color_and_camera(domain_name, difficulty, dynamic, color_kwargs, camera_kwargs)
    dataset = {"dataset_path": background_dataset_path, "dataset_videos": background_dataset_videos}
    background = _background(domain_name, difficulty, dynamic, background_kwargs, dataset)
    if color is not None and visualize_reward:
        raise ValueError("visualize_reward and the colour distraction both set the body's colours")
    task_kwargs = ({} if seed is None else {"random": task_random(seed)}) | dict(task_kwargs or {})
    env = suite.load(domain_name, task_name, task_kwargs, environment_kwargs, visualize_reward)
    if shadow_size is not None:
        _set_shadow_size(env, shadow_size)
    if color is not None:
        env = DistractingColor(env, **{"random": seed} | color)
    if camera is not None:
        env = DistractingCamera(env, **{"random": seed, "camera_id": camera_id} | camera)
    if background is not None:
        env = DistractingBackground(env, **{"random": seed} | background)
    return env


def _color_and_camera(
    domain_name: str,
    difficulty: str | None,
    dynamic: bool,
    color_kwargs: Kwargs | None,
    camera_kwargs: Kwargs | None,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Arguments of both, `None` for one that is off."""
    if difficulty is None:
        color, camera = {}, {}
    elif difficulty in DIFFICULTIES:
        scale, _ = DIFFICULTIES[difficulty]
        color, camera = color_preset(scale, dynamic), camera_preset(domain_name, scale, dynamic)
    else:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, not {difficulty!r}")
    return (
        None if difficulty is None and color_kwargs is None else color | dict(color_kwargs or {}),
        None
        if difficulty is None and camera_kwargs is None
        else camera | dict(camera_kwargs or {}),
    )


def _background(
    domain_name: str,
    difficulty: str | None,
    dynamic: bool,
    kwargs: Kwargs | None,
    dataset: dict[str, Any],
) -> dict[str, Any] | None:
    """Arguments of the background, `None` if it is off."""
    if difficulty is None and kwargs is None and dataset["dataset_path"] is None:
        return None
    _, num_videos = DIFFICULTIES.get(difficulty, (None, None))
    merged = background_preset(domain_name, num_videos, dynamic) | dataset | dict(kwargs or {})
    if merged["dataset_path"] is None:
        raise ValueError(
            "a background needs videos: set background_dataset_path, "
            "or difficulty=None and kwargs for the camera and colours alone"
        )
    return merged


def _set_shadow_size(env: dm_env.Environment, size: int) -> None:
    if size < 1:
        raise ValueError(f"shadow_size must be at least 1, not {size}")
    # Read once, when the first rendering makes its context.
    env.physics.model.vis.quality.shadowsize = size
