"""The tasks of all suites: their names, and the variations that they are played in."""

import difflib
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from distracting_control.rendering import Backend, RenderingError, choose_backend
from envs import atari, crafter, dmc, drawerworld, maniskill, minigrid, pusher
from envs.settings import EnvSettings
from envs.suites import SPLITS, Factories, Suite
from envs.worlds import corrupted

SUITES: dict[str, Suite] = {
    suite.prefix: suite
    for module in (dmc, pusher, drawerworld, atari, minigrid, crafter, maniskill)
    for suite in module.SUITES
}


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


def known_tasks() -> tuple[str, ...]:
    """The full names of all tasks, sorted; a task with a short name is there under both."""
    return tuple(
        sorted(f"{suite.prefix}_{name}" for suite in SUITES.values() for name in suite.tasks)
    )


def parse_task(task: str, beside: str = "") -> Task:
    """The suite and the task that a name means. Imports no simulator but those of small packages.

    Args:
        task: The name.
        beside: Prefix of the suite that a name without one is looked for in, to say what was meant.

    Raises:
        UnknownTask: If there is none; the message gives the nearest name.
        UserError: If the suite's package is not installed.
    """
    prefix, _, name = task.partition("_")
    suite = SUITES.get(prefix)
    if suite is None or name not in suite.tasks:
        # Of equally near ones the first: a task without its version means the paper's, v1.
        spellings = [task, *[f"{beside}_{task}"] * (beside in SUITES)]
        nearest = min(known_tasks(), key=lambda known: -max(_likeness(s, known) for s in spellings))
        limits = f" {suite.limits}" if suite and suite.limits else ""
        raise UnknownTask(f"there is no task {task!r}; did you mean {nearest!r}?{limits}")
    return Task(prefix, suite.tasks[name])


def factories_of(task: str, settings: EnvSettings) -> Factories:
    """{variation: thunk that builds the task's environment in it}; those that look alike share one.

    Among them are all corruptions of what 'test' shows.

    Raises:
        UnknownTask: If there is no such task.
        ValueError: If the settings do not fit together.
    """
    suite, identity = parse_task(task)
    factories = SUITES[suite].factories(identity, settings)
    return {**factories, **corrupted(factories["test"])}


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
    factories = factories_of(task, EnvSettings.within(settings))
    first, second = (variation_for(task, "train", True, half) for half in (False, True))
    return factories[first] is not factories[second]


def look_of(task: str, variation: str, settings: Mapping[str, Any]) -> str:
    """What to call a variation: where a run cannot look otherwise, by the name of that one look.

    Args:
        task: Name of the task.
        variation: As `variation_for` has it.
        settings: As for `has_switch`.
    """
    return _look_of(task, variation, tuple(EnvSettings.pick(settings).items()))


@functools.lru_cache  # asked for at the beginning of every episode, which may be ten steps long
def _look_of(task: str, variation: str, settings: tuple[tuple[str, Any], ...]) -> str:
    factories = factories_of(task, EnvSettings(**dict(settings)))
    played = {
        variation_for(task, split, switches, half)
        for split in SPLITS
        for switches in (False, True)
        for half in (False, True)
    }
    if any(factories[name] is not factories[variation] for name in played):
        return variation
    # Behind the roles stand names of looks: 'original', a texture's.
    return [name for name, thunk in factories.items() if thunk is factories[variation]][-1]


def choose_renderer(task: str, device: str = "auto") -> Backend | None:
    """Settles OpenGL for this process and its children, where the task may need it.

    Args:
        task: Name of the task.
        device: Where networks live, as in :func:`distracting_control.rendering.choose_backend`.

    Returns:
        The backend; None where the task draws without OpenGL, or perhaps does and there is none.

    Raises:
        UnknownTask: If there is no such task.
        RenderingError: If the task cannot be drawn here.
    """
    opengl = SUITES[parse_task(task).suite].opengl
    if opengl is False:
        return None
    try:
        return choose_backend(device=device)
    except RenderingError:
        if opengl:
            raise
        return None  # what does need it says so as it is built


def ends_early(task: str) -> bool:
    """Whether episodes of a task can end before their time limit.

    Raises:
        UnknownTask: If there is no such task.
    """
    suite, identity = parse_task(task)
    return identity not in SUITES[suite].endless


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other.lower(), one.lower()).ratio()
