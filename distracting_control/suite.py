"""Loads tasks of the dm_control suite with any of the distractions."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dm_env

from distracting_control.base import DIFFICULTIES, task_random
from distracting_control.registry import distractions
from distracting_control.rendering import settle_backend

Kwargs = Mapping[str, Any]
SKY = 128  # texels of a side of the small sky


def load(
    domain_name: str,
    task_name: str,
    *,
    difficulty: str | None = None,
    dynamic: bool = False,
    seed: int | None = None,
    camera_id: int = 0,
    background_dataset_path: str | os.PathLike | None = None,
    background_dataset_videos: str | Sequence[str] | None = "train",
    task_kwargs: Kwargs | None = None,
    environment_kwargs: Kwargs | None = None,
    visualize_reward: bool = False,
    shadow_size: int | None = None,
    **kwargs: Kwargs | None,
) -> dm_env.Environment:
    """Loads a task of the suite, distracted.

    Args:
        domain_name: Domain of the suite, e.g. `'walker'`.
        task_name: Task of the domain, e.g. `'walk'`.
        difficulty: `'easy'`, `'medium'` or `'hard'` turns on colours, camera and background, preset
            but for their kwargs; `None` only those with kwargs (or, for the background, a path).
        dynamic: Let the presets, and the background, move within an episode.
        seed: Seed of the task and of every distraction; `None`: from the operating system.
        camera_id: The camera that the camera distraction moves.
        background_dataset_path: Folder of background videos.
        background_dataset_videos: `'train'`, `'val'`, names, or `None` for all.
        task_kwargs: Arguments of the task, e.g. `time_limit` in seconds.
        environment_kwargs: Arguments of dm_control's `Environment`.
        visualize_reward: Let dm_control colour the body by the reward.
        shadow_size: Side of the shadow map in texels; `None` for the model's own, 2048 or more.
        **kwargs: `<name>_kwargs` for each distraction, arguments of its class: `color_kwargs` of
            `DistractingColor`, and `camera_kwargs` and `background_kwargs` likewise.

    Raises:
        FileNotFoundError: If the background's folder is missing or empty.
        RenderingError: If `MUJOCO_GL` cannot work here.
        TypeError: If there is no such argument.
        ValueError: If the task does not exist, or the settings contradict each other.
    """
    settle_backend()
    from dm_control import suite

    _check(difficulty, kwargs)
    if background_dataset_path is not None and kwargs.get("background_kwargs") is None:
        kwargs["background_kwargs"] = {}
    videos = {"dataset_path": background_dataset_path, "dataset_videos": background_dataset_videos}
    own = {"camera": {"camera_id": camera_id}, "background": videos}
    chosen = _chosen(domain_name, difficulty, dynamic, seed, own, kwargs)
    if visualize_reward and "color" in chosen:
        raise ValueError("visualize_reward and the colour distraction both set the body's colours")
    task_kwargs = ({} if seed is None else {"random": task_random(seed)}) | dict(task_kwargs or {})
    is_painted = "background" in chosen or "screen" in chosen.get("palette", {})
    with small_sky() if is_painted else contextlib.nullcontext():
        env = suite.load(domain_name, task_name, task_kwargs, environment_kwargs, visualize_reward)
    _set_shadow_size(env, shadow_size)
    for name, arguments in chosen.items():
        env = distractions()[name](env, **arguments)
    return env


@contextlib.contextmanager
def small_sky() -> Iterator[None]:
    """Models that are loaded within have a sky of 11 MB less, for others to paint over.

    The suite's has six faces of 800×800 texels. What paints refuses a picture that does not fit.
    """
    from dm_control.suite import common

    name = "./common/skybox.xml"
    before = common.ASSETS[name]
    common.ASSETS[name] = re.sub(rb'(width|height)="800"', rb'\1="%d"' % SKY, before)
    try:
        yield
    finally:
        common.ASSETS[name] = before


def _chosen(
    domain: str,
    difficulty: str | None,
    dynamic: bool,
    seed: int | None,
    own: Mapping[str, Kwargs],
    kwargs: Mapping[str, Kwargs | None],
) -> dict[str, dict[str, Any]]:
    """{name: arguments} of the distractions that a difficulty or their kwargs turn on."""
    chosen = {}
    for name, kind in distractions().items():
        given = kwargs.get(f"{name}_kwargs")
        preset = kind.preset(domain, difficulty, dynamic)
        if given is not None or (difficulty is not None and preset is not None):
            chosen[name] = {"random": seed, **(preset or {}), **own.get(name, {}), **(given or {})}
    return chosen


def _check(difficulty: str | None, kwargs: Kwargs) -> None:
    if difficulty not in (None, *DIFFICULTIES):
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, not {difficulty!r}")
    known = [f"{name}_kwargs" for name in distractions()]
    for name in kwargs:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise TypeError(f"there is no argument {name!r}; did you mean {nearest!r}?")


def _set_shadow_size(env: dm_env.Environment, size: int | None) -> None:
    if size is None:
        return
    if size < 1:
        raise ValueError(f"shadow_size must be at least 1, not {size}")
    # Read once, when the first rendering makes its context.
    env.physics.model.vis.quality.shadowsize = size
