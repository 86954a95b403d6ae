"""Worlds that agents of the control suite are tested in, by their published names.

``color_…`` and ``video_…`` are those of the DMControl Generalization Benchmark (Hansen and Wang
2021), ``distracting_cs`` and ``sensor_cs`` the Distracting Control Suite (Stone et al. 2021) and
its camera alone, at an intensity of 0.1 or the one behind the name; ``video`` is HRSSM's (Sun et
al. 2024). A world's name is the end of a task's, ``dmc_walker_stand_color_hard``, and a variation
of every task of the control suite, whose agents are evaluated there by ``--eval_worlds``.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import distracting_control
from distracting_control.background import BackgroundSettings
from distracting_control.procedural import NAME
from distracting_control.sources import Player, find_source
from envs.backgrounds import Backdrop, is_blue, is_green, play
from envs.corruptions import CORRUPTIONS, corrupt
from envs.settings import EnvSettings
from envs.suites import Factories

# Intensities that were published, and how many films the suite shows at each; None for all.
INTENSITIES = {0.025: 2, 0.05: 2, 0.1: 4, 0.15: 6, 0.2: 8, 0.3: None, 0.4: None, 0.5: None}
INTENSITY = 0.1  # of a name without one
_EVERY = 2  # control steps that a frame of distracting_cs stays
_LONGEST = 1000  # frames of a film that are kept, at the size of the picture

_SUFFIXES = {"": INTENSITY} | {f"_{number:g}": number for number in INTENSITIES}
_DISTRACTING = {
    f"{name}{suffix}": (name, number)
    for name in ("distracting_cs", "sensor_cs")
    for suffix, number in _SUFFIXES.items()
}
COLORS = {"color_easy": "easy", "color_hard": "hard"}
_SCREENS = {"video_easy": "sky", "video_hard": "all"}
WORLDS = (*COLORS, *_SCREENS, "video", *_DISTRACTING)

_STRENGTHS = {"": 0.5} | {f"_{tenths / 10:g}": tenths / 10 for tenths in range(1, 11)}


def moves(world: str) -> bool:
    """Whether films or computed pictures are shown in a world."""
    return world in _SCREENS or world == "video" or world.startswith("distracting_cs")


def film_settings(world: str, settings: EnvSettings, prefix: str) -> BackgroundSettings:
    """Which films are shown in a world: the benchmark's, those of a folder, or computed ones.

    Args:
        world: One that moves.
        settings: The settings.
        prefix: '' for the variation 'train', 'test_' for 'test'.
    """
    given = BackgroundSettings.of(vars(settings), prefix)
    if world in _SCREENS and settings.dmcgb_path is not None:
        folder = str(Path(settings.dmcgb_path, world))
        return replace(given, background_dataset_path=folder, background_dataset_videos=None)
    if given.background_dataset_path is None:
        return replace(given, background_dataset_path=NAME)
    return given


def film_count(world: str, films: BackgroundSettings) -> int | None:
    """How many films a world that moves shows, the first ones of its folder; None for all."""
    if films.background_num_videos is not None or world not in _DISTRACTING:
        return films.background_num_videos
    return INTENSITIES[_DISTRACTING[world][1]]


def has_no_films(world: str, settings: EnvSettings, prefix: str) -> bool:
    """Whether pictures are computed in a world that moves because nothing was given for it."""
    given = BackgroundSettings.of(vars(settings), prefix)
    is_given = world in _SCREENS and settings.dmcgb_path is not None
    return given.background_dataset_path is None and not is_given


def distractions(world: str, domain: str, settings: EnvSettings, prefix: str) -> dict[str, Any]:
    """The arguments of ``dmc2gym.make`` for a world.

    Args:
        world: One of ``WORLDS``.
        domain: The domain, as presets differ.
        settings: The settings.
        prefix: '' for the variation 'train', 'test_' for 'test'.
    """
    if world in COLORS:
        return {"palette_kwargs": {"strength": COLORS[world], "folder": settings.dmcgb_path}}
    if world in _SCREENS:
        return {"palette_kwargs": {"screen": _SCREENS[world]}}
    if world == "video":
        return {}
    name, intensity = _DISTRACTING[world]
    camera = distracting_control.camera_preset(domain, intensity, dynamic=True)
    if name == "sensor_cs":
        return {"camera_kwargs": camera}
    films = film_settings(world, settings, prefix)
    count = film_count(world, films)
    alpha = films.background_ground_plane_alpha
    background = {
        **distracting_control.background_preset(domain, count, dynamic=True),
        "dataset_path": films.background_dataset_path,
        "dataset_videos": films.background_dataset_videos,
        "every": _EVERY,
    }
    return {
        "camera_kwargs": camera,
        "color_kwargs": distracting_control.color_preset(intensity, dynamic=True),
        "background_kwargs": background | ({} if alpha is None else {"floor_alpha": alpha}),
    }


def backdrop(env: gym.Env, world: str, settings: EnvSettings, prefix: str) -> gym.Env:
    """The environment in front of the films of a world that keys them in; others as they are."""
    if world not in _SCREENS and world != "video":
        return env
    films, size = film_settings(world, settings, prefix), max(settings.size)
    if world == "video":
        player = play(films, size, loops=True, max_frames=_LONGEST)
        return Backdrop(env, player, is_blue, gray=True, resets=False)
    player = play(films, size, loops=True, from_start=True, max_frames=_LONGEST)
    return Backdrop(env, player, is_green)


def segmented(env: gym.Env, settings: EnvSettings, arguments: dict[str, Any]) -> gym.Env:
    """The environment with films behind all but its robot and things, as a second drawing says.

    Args:
        env: A ``DMCEnv``.
        settings: The settings.
        arguments: Those of ``DistractingBackground`` that say what plays.
    """
    import mujoco

    planes = env.dmc_env.physics.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    is_plane = np.append(planes, True)  # and the sky, which is number −1

    def behind(image: np.ndarray) -> np.ndarray:
        number, kind = np.moveaxis(env.segment(), -1, 0)
        is_geom = (kind == mujoco.mjtObj.mjOBJ_GEOM) | (number < 0)
        return is_geom & is_plane[np.where(is_geom, number, -1)]

    source = find_source(
        arguments["dataset_path"],
        arguments["dataset_videos"],
        arguments["num_videos"],
        max(settings.size),
        _LONGEST,
    )
    player = Player(source, dynamic=arguments["dynamic"], every=arguments.get("every", 1))
    return Backdrop(env, player, behind, by_control_steps=True)


def corrupted(clear: Callable[[], gym.Env]) -> Factories:
    """{corruption, or corruption_strength: thunk} of an environment.

    Args:
        clear: Builds the environment.
    """
    return {
        f"{name}{suffix}": functools.partial(_corrupt, clear, name, strength)
        for name in CORRUPTIONS
        for suffix, strength in _STRENGTHS.items()
    }


def _corrupt(clear: Callable[[], gym.Env], name: str, strength: float) -> gym.Env:
    return corrupt(clear(), name, strength)


def worlds_of(eval_worlds: Iterable[str]) -> tuple[str, ...]:
    """The variations that ``--eval_worlds`` names, each once; 'none' is none."""
    return tuple(dict.fromkeys(name for name in eval_worlds if name != "none"))
