"""Environments as the agent sees them: ``make_env(task, …)`` and ``make_vector(task, n, …)``.

A task's name is its suite's prefix and the suite's own name, such as ``dmc2gym_walker_walk``.
A new suite is a file that defines a :class:`envs.suites.Suite`, and its name in ``SUITES``.

Importing this package imports no simulator: that waits for the first environment, because
OpenGL must be chosen before (see :mod:`envs.rendering`).
"""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import GrayscaleObservation, TransformObservation

from config import Config
from envs import dmc, drawerworld, pusher
from envs.rendering import Backend, RenderingError, choose_backend
from envs.settings import EnvSettings
from envs.suites import SPLITS, VARIATIONS, Suite
from envs.vector import StepResult, VectorEnv, episode_seed
from envs.wrappers import AgentInfo, EnvError, Pixels, Resumable, Variations
from tools import UserError, check_folder, print_safe

SUITES: dict[str, Suite] = {
    suite.prefix: suite for suite in (*dmc.SUITES, *pusher.SUITES, *drawerworld.SUITES)
}

__all__ = [
    "SPLITS",
    "SUITES",
    "VARIATIONS",
    "Backend",
    "EnvError",
    "EnvSettings",
    "RenderingError",
    "StepResult",
    "Task",
    "UnknownTask",
    "VectorEnv",
    "check",
    "choose_backend",
    "episode_seed",
    "has_switch",
    "known_tasks",
    "make_env",
    "make_vector",
    "note_unread",
    "parse_task",
    "variation_for",
]


class UnknownTask(ValueError):
    """No suite has such a task; the message gives the nearest one."""


class Task(NamedTuple):
    """A parsed task name.

    Attributes:
        suite: Prefix of the suite, a key of ``SUITES``.
        identity: What identifies the task there, such as ('walker', 'walk').
    """

    suite: str
    identity: tuple[str, ...]


def check(config: Config) -> None:
    """Checks the task and, where environments will be made, what their settings name.

    Raises:
        UnknownTask: If there is no such task.
        UserError: If colours overlap, or a folder is not there; one line with the mend.
    """
    parse_task(config.task)
    if config.beta_vae_pretrain:
        return
    for prefix in ("", "test_"):
        delta = config[f"{prefix}max_delta"]
        delta = config.max_delta if delta is None else delta
        if delta > 0.2 and config[f"{prefix}disjoint_sets"]:
            raise UserError(
                f"--{prefix}max_delta {delta} makes the train and test colours overlap: give at "
                f"most 0.2, or --{prefix}disjoint_sets null"
            )
        flag = f"{prefix}background_dataset_path"
        check_folder(config[flag], flag, "*")


def note_unread(config: Config) -> None:
    """Says which of the given flags and blocks are not for the task's suite."""
    suite = parse_task(config.task).suite
    for block in (set(config.blocks) & set(SUITES)) - {suite}:
        print_safe(
            f"note: the block {block} is for {block}_… tasks; {config.task} has the block {suite}"
        )
    settings = {field.name for field in fields(EnvSettings)}
    if unread := (config.overrides & settings) - SUITES[suite].reads:
        flags = ", ".join(f"--{name}" for name in sorted(unread))
        print_safe(f"note: {flags} changes nothing in {config.task}")


def known_tasks() -> tuple[str, ...]:
    """The full names of all tasks, sorted; a task with a short name is there under both."""
    return tuple(
        sorted(f"{suite.prefix}_{name}" for suite in SUITES.values() for name in suite.tasks)
    )


def parse_task(task: str) -> Task:
    """The suite and the task that a name means. Imports no simulator.

    Raises:
        UnknownTask: If there is none; the message gives the nearest name.
    """
    prefix, _, name = task.partition("_")
    suite = SUITES.get(prefix)
    if suite is None or name not in suite.tasks:
        # Of equally near ones the first: a task without its version means the paper's, v1.
        nearest = min(known_tasks(), key=lambda known: -_likeness(task, known))
        raise UnknownTask(f"there is no task {task!r}; did you mean {nearest!r}?")
    return Task(prefix, suite.tasks[name])


def variation_for(task: str, split: str, color_distractor: bool, second_half: bool) -> str:
    """The variation to play an episode in.

    Args:
        task: Name of the task, whose suite decides.
        split: 'train' or 'eval'.
        color_distractor: Whether the distraction is switched at the midpoint of training.
        second_half: Whether training is past its midpoint.

    Returns:
        A name for ``reset``'s ``options["variation"]``.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If ``split`` is not known.
    """
    suite = SUITES[parse_task(task).suite]
    return suite.variation_for(split, color_distractor, second_half)


def has_switch(task: str, settings: Mapping[str, Any]) -> bool:
    """Whether ``color_distractor`` changes anything: training looks different in its second half.

    Args:
        task: Name of the task.
        settings: Where :class:`EnvSettings` finds its fields; other names are left alone.
    """
    suite, identity = parse_task(task)
    own = {field.name for field in fields(EnvSettings)}
    resolved = EnvSettings.of({name: value for name, value in settings.items() if name in own})
    looks = SUITES[suite].factories(identity, resolved)
    first, second = (variation_for(task, "train", True, half) for half in (False, True))
    return looks[first] is not looks[second]


def make_env(task: str, *, variation: str = "train", index: int = 0, **settings: Any) -> gym.Env:
    """One environment.

    Observations are ``{"image": uint8 [height, width, channels]}``, actions float32 [A] in
    [−1, 1], or one-hot where the suite's are discrete. A step lasts ``action_repeat`` control
    steps and returns the sum of their rewards; ``info`` has 'discount' (0.0 once terminated)
    and 'control_steps'. ``reset(seed=…)`` determines the whole episode, whatever came before;
    its options are 'variation' and 'replay' (see :class:`envs.wrappers.Resumable`).

    Args:
        task: Name of the task.
        variation: The one to build first; ``reset`` can change it.
        index: The environment's place in its vector.
        **settings: Fields of :class:`EnvSettings`.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If a setting or the variation is not known.
        RenderingError: If nothing can draw.
    """
    parsed = parse_task(task)
    resolved = EnvSettings.of(settings)
    factories = SUITES[parsed.suite].factories(parsed.identity, resolved)
    env = Pixels(Variations(factories, variation), resolved.size)
    if resolved.grayscale:
        env = GrayscaleObservation(env, keep_dim=True)
    space = spaces.Dict({"image": env.observation_space})
    env = TransformObservation(env, _as_dict, space)
    return Resumable(AgentInfo(env), index)


def make_vector(
    task: str,
    n: int,
    *,
    workers: str = "auto",
    split: str = "train",
    variation: str | None = None,
    timeout: int = 0,
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
        **settings: Fields of :class:`EnvSettings`.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If ``n``, ``workers``, ``split``, or a setting is not known.
        EnvError: If a worker could not build its environment.
        RenderingError: If nothing can draw.
    """
    first = variation_for(task, split, color_distractor=False, second_half=False)
    EnvSettings.of(settings)
    build = functools.partial(make_env, task, variation=variation or first, **settings)
    factories = [functools.partial(build, index=index) for index in range(n)]
    return VectorEnv(factories, workers=workers, split=split, timeout=timeout)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, one).ratio()


def _as_dict(image):
    return {"image": image}
