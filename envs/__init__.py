"""Environments as the agent sees them: ``make_env(task, …)`` and ``make_vector(task, n, …)``.

A task's name is its suite's prefix and the suite's own name, such as ``dmc2gym_walker_walk``.
A new suite is a file that defines a :class:`envs.suites.Suite`, and its name in
``envs.tasks.SUITES``. A new distraction is a file of ``distracting_control`` and its keys.

Importing this package imports no simulator: that waits for the first environment, because
OpenGL must be chosen before (see :mod:`distracting_control.rendering`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import GrayscaleObservation

from distracting_control.rendering import Backend, RenderingError, choose_backend
from envs.checks import as_flags, check
from envs.corruptions import CORRUPTIONS, corrupt
from envs.errors import EnvError
from envs.parts import Factor
from envs.recovery import in_a_line, used_up
from envs.registered import module_of
from envs.scenes import Scene, make_scene
from envs.settings import EnvSettings
from envs.suites import SPLITS, VARIATIONS
from envs.tasks import (
    SUITES,
    Task,
    UnknownTask,
    choose_renderer,
    ends_early,
    factories_of,
    has_switch,
    known_tasks,
    look_of,
    parse_task,
    variation_for,
)
from envs.trial import check_backgrounds, try_variations
from envs.vector import StepResult, VectorEnv, episode_seed
from envs.worlds import WORLDS, worlds_of
from envs.wrappers import AgentInfo, Named, Pixels, Resumable, Variations

__all__ = [
    "CORRUPTIONS",
    "SPLITS",
    "SUITES",
    "VARIATIONS",
    "WORLDS",
    "Backend",
    "EnvError",
    "EnvSettings",
    "Factor",
    "RenderingError",
    "Scene",
    "StepResult",
    "Task",
    "UnknownTask",
    "VectorEnv",
    "as_flags",
    "check",
    "check_backgrounds",
    "choose_backend",
    "choose_renderer",
    "ends_early",
    "episode_seed",
    "factories_of",
    "has_switch",
    "in_a_line",
    "known_tasks",
    "look_of",
    "make_env",
    "make_scene",
    "make_vector",
    "module_of",
    "parse_task",
    "try_variations",
    "used_up",
    "variation_for",
    "worlds_of",
]


def make_env(
    task: str,
    *,
    variation: str = "train",
    index: int = 0,
    corruption: Sequence | None = None,
    **settings: Any,
) -> gym.Env:
    """One environment.

    Observations are ``{"image": uint8 [height, width, channels]}``, with ``"vector"`` float32 [V]
    beside it where the environment observes numbers, too; actions are float32 [A] in
    [−1, 1], or one-hot where the suite's are discrete. A step lasts ``action_repeat`` control
    steps and returns the sum of their rewards; ``info`` has 'discount' (0.0 once terminated)
    and 'control_steps'. ``reset(seed=…)`` determines the whole episode, whatever came before;
    its options are 'variation' and 'replay' (see :class:`envs.wrappers.Resumable`).

    Args:
        task: Name of the task.
        variation: The one to build first; ``reset`` can change it.
        index: The environment's place in its vector.
        corruption: (name, strength, seed) of :func:`envs.corruptions.corrupt`; None for clear
            sight.
        **settings: Fields of :class:`EnvSettings`.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If a setting or the variation is not known.
        RenderingError: If nothing can draw.
    """
    resolved = EnvSettings.of(settings)
    env = Pixels(Variations(factories_of(task, resolved), variation), resolved.size)
    if resolved.grayscale:
        env = GrayscaleObservation(env, keep_dim=True)
    env = AgentInfo(Named(env))
    if corruption is not None:
        env = corrupt(env, *corruption)
    return Resumable(env, index)


def make_vector(
    task: str,
    n: int,
    *,
    workers: str = "auto",
    split: str = "train",
    variation: str | None = None,
    timeout: int = 0,
    corruption: Sequence | None = None,
    **settings: Any,
) -> VectorEnv:
    """``n`` environments of one task, stepped together.

    Args:
        task: Name of the task.
        n: How many.
        workers: 'none' steps them one after the other in this process, 'process' each in its
            own, 'auto' decides by ``n`` and the number of cores. The numbers are the same.
        split: 'train' or 'eval': which stream of seeds and which variation are theirs.
        variation: The one to build first, so that the first reset need not change it; None for
            the split's, without a switch.
        timeout: Seconds after which a worker that does not answer has failed; 0 for never.
        corruption: As for :func:`make_env`.
        **settings: Fields of :class:`EnvSettings`.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If ``n``, ``workers``, ``split``, or a setting is not known.
        EnvError: If a worker could not build its environment.
        RenderingError: If nothing can draw.
    """
    first = variation_for(task, split, color_distractor=False, second_half=False)
    EnvSettings.of(settings)
    settings["corruption"] = corruption
    build = functools.partial(make_env, task, variation=variation or first, **settings)
    factories = [functools.partial(build, index=index) for index in range(n)]
    return VectorEnv(factories, workers=workers, split=split, timeout=timeout)
