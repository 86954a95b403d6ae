"""The DeepMind Control Suite: plain (``dmc_``), distracting (``dmc2gym_``), and in other worlds.

All are built by the package ``dmc2gym``, which imports MuJoCo only when it makes its first
environment; by then OpenGL is chosen. The manipulation tasks are in :mod:`envs.manipulation`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

import distracting_control
import dmc2gym
from distracting_control.rendering import software_shadow_size
from envs import manipulation, worlds
from envs.dmc_parts import parts
from envs.settings import DISTRACTION_SETTINGS, MOVING_SETTINGS, EnvSettings
from envs.suites import COMMON, VARIATIONS, Factories, Suite


def _table() -> dict[str, tuple[str, str]]:
    """Every name after the prefix → (domain, task), short domains included.

    dmc2gym registers its tasks with Gymnasium from a table of its own, without MuJoCo.
    """
    specs = [spec for spec in gym.registry.values() if spec.namespace == dmc2gym.__name__]
    return {spec.name: (spec.kwargs["domain_name"], spec.kwargs["task_name"]) for spec in specs}


def plain_factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task as dm_control ships it, or in the world that its name ends with, and in all worlds.

    'original' is the task as it ships in any case.

    Args:
        identity: (domain, task), or (domain, task, world).
        settings: Of which the first group concerns it, and a world's films.
    """
    if identity[0] == manipulation.DOMAIN:
        build = functools.partial(manipulation.build, identity[1], settings)
        return dict.fromkeys(VARIATIONS, build)
    thunk = functools.partial(_build, identity[:2], settings)
    there = _world_factories(identity[:2], settings)
    factories = {**dict.fromkeys(VARIATIONS, thunk), **there}
    if len(identity) > 2:
        world = identity[2]
        factories["train"] = factories["test"] = there[world]
        if worlds.moves(world):
            factories["train"] = functools.partial(_in_world, identity[:2], settings, world, "")
    return factories


def _world_factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task in every world, as it is tested there."""
    return {
        world: functools.partial(_in_world, identity, settings, world, "test_")
        for world in worlds.WORLDS
    }


def _in_world(identity: tuple[str, ...], settings: EnvSettings, world: str, prefix: str) -> gym.Env:
    arguments = worlds.distractions(world, identity[0], settings, prefix)
    return worlds.backdrop(_build(identity, settings, arguments), world, settings, prefix)


def distracting_factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task under the distractions for training, under those for testing, bare, and in worlds.

    Args:
        identity: (domain, task).
        settings: Every group concerns it.

    Raises:
        ValueError: If the camera is to be distracted and nothing says how.
    """
    build = functools.partial(_build, identity, settings)
    domain, _ = identity
    factories = {"train": build, "test": build, "original": build}
    for name, prefix in (("train", ""), ("test", "test_")):
        if distractions := _distractions(domain, settings, prefix):
            factories[name] = functools.partial(build, distractions=distractions)
    return {**factories, **_world_factories(identity, settings)}


def _build(
    identity: tuple[str, ...], settings: EnvSettings, distractions: Mapping[str, Any] | None = None
) -> gym.Env:
    """One environment of the suite, which draws only when asked to.

    Args:
        identity: (domain, task).
        settings: The settings.
        distractions: Arguments of ``dmc2gym.make`` that turn them on; None for none.
    """
    shadow_size = software_shadow_size(settings.shadow_size)
    domain, task = identity
    height, width = settings.size
    given = dict(distractions or {})
    behind = given.pop("background_kwargs", None) if settings.background_by != "texture" else None
    env = dmc2gym.make(
        domain,
        task,
        from_pixels=False,
        height=height,
        width=width,
        camera_id=settings.camera_id,
        frame_skip=settings.action_repeat,
        episode_length=settings.time_limit,
        channels_first=False,
        shadow_size=shadow_size,
        **given,
    )
    # Read when the first frame makes the context. The model asks for 640×480 with four samples a
    # pixel, all of which the floor's reflection clears and writes again for every frame.
    buffer = env.dmc_env.physics.model.vis.global_
    buffer.offheight, buffer.offwidth = height, width
    return env if behind is None else worlds.segmented(env, settings, behind)


def _distractions(domain: str, settings: EnvSettings, prefix: str) -> dict[str, Any]:
    """The arguments of ``dmc2gym.make`` for one variation.

    Its own ``difficulty`` would turn all distractions on; here each is turned on by its settings,
    and the difficulty only completes it.

    Args:
        domain: The domain, as presets differ.
        settings: The settings.
        prefix: '' for the variation 'train', 'test_' for 'test'.

    Raises:
        ValueError: If a distraction is on and nothing says what it does.
    """
    values = vars(settings)
    strength = distracting_control.Strength.of(values, prefix)
    kwargs = {
        f"{name}_kwargs": kind.settings.of(values, prefix).kwargs(domain, strength)
        for name, kind in distracting_control.distractions().items()
    }
    return {name: given for name, given in kwargs.items() if given is not None}


_TASKS = _table()
_IN_WORLDS = {
    f"{name}_{world}": (*identity, world)
    for name, identity in _TASKS.items()
    for world in worlds.WORLDS
}
_ENDLESS = frozenset(_TASKS.values())
_ARM = {f"{manipulation.DOMAIN}_{name}": (manipulation.DOMAIN, name) for name in manipulation.NAMES}
_WORLD_SETTINGS = MOVING_SETTINGS | {
    "background_by",
    "background_ground_plane_alpha",
    "dmcgb_path",
}

SUITES = (
    Suite(
        "dmc",
        _TASKS | _IN_WORLDS | _ARM,
        plain_factories,
        reads=COMMON | _WORLD_SETTINGS,
        endless=_ENDLESS | frozenset([*_IN_WORLDS.values(), *_ARM.values()]),
        parts=parts,
    ),
    Suite(
        "dmc2gym",
        _TASKS,
        distracting_factories,
        reads=COMMON | DISTRACTION_SETTINGS | _WORLD_SETTINGS,
        endless=_ENDLESS,
        parts=parts,
    ),
)
