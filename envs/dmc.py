"""The DeepMind Control Suite: plain (``dmc_``) and distracting (``dmc2gym_``).

Both are built by the package ``dmc2gym``, which imports MuJoCo only when it makes its first
environment; by then OpenGL is chosen.
"""

import functools
from dataclasses import fields
from typing import Any

import gymnasium as gym

import dmc2gym
from envs.rendering import software_shadow_size
from envs.settings import TEXTURE_SETTINGS, EnvSettings
from envs.suites import VARIATIONS, Factories, Suite

# Our settings' names → those of distracting_control.
_CAMERA = {
    "camera_horizontal_delta": "horizontal_delta",
    "camera_vertical_delta": "vertical_delta",
    "camera_roll_delta": "roll_delta",
    "camera_max_vel": "max_vel",
    "camera_vel_std": "vel_std",
    "camera_max_roll_vel": "max_roll_vel",
    "camera_roll_std": "roll_std",
    "camera_max_zoom_in_percent": "zoom_in",
    "camera_max_zoom_out_percent": "zoom_out",
    "camera_limit_to_upper_quadrant": "upper_quadrant",
}
_BACKGROUND = {
    "background_num_videos": "num_videos",
    "background_ground_plane_alpha": "floor_alpha",
}


def _table() -> dict[str, tuple[str, str]]:
    """Every name after the prefix → (domain, task), short domains included.

    dmc2gym registers its tasks with Gymnasium from a table of its own, without MuJoCo.
    """
    specs = [spec for spec in gym.registry.values() if spec.namespace == dmc2gym.__name__]
    return {spec.name: (spec.kwargs["domain_name"], spec.kwargs["task_name"]) for spec in specs}


def plain_factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task as dm_control ships it, under every variation's name.

    Args:
        identity: (domain, task).
        settings: Of which only the first group concerns it.
    """
    thunk = functools.partial(_build, identity, settings)
    return dict.fromkeys(VARIATIONS, thunk)


def distracting_factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task under the distractions for training, under those for testing, and bare.

    Args:
        identity: (domain, task).
        settings: Every group concerns it.

    Raises:
        ValueError: If the camera is to be distracted and nothing says how.
    """
    for prefix in ("", "test_"):
        _check_camera(settings, prefix)
    build = functools.partial(_build, identity, settings)
    return {
        "train": functools.partial(build, prefix=""),
        "test": functools.partial(build, prefix="test_"),
        "original": build,
    }


def _build(identity: tuple[str, ...], settings: EnvSettings, prefix: str | None = None) -> gym.Env:
    """One environment of the suite, which draws only when asked to.

    Args:
        identity: (domain, task).
        settings: The settings.
        prefix: Start of the names of the distractions' settings; None for no distractions.
    """
    shadow_size = software_shadow_size(settings.shadow_size)
    domain, task = identity
    height, width = settings.size
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
        **({} if prefix is None else _distractions(domain, settings, prefix)),
    )
    # Read when the first frame makes the context. The model asks for 640×480 with four samples a
    # pixel, all of which the floor's reflection clears and writes again for every frame.
    buffer = env.dmc_env.physics.model.vis.global_
    buffer.offheight, buffer.offwidth = height, width
    return env


def _distractions(domain: str, settings: EnvSettings, prefix: str) -> dict[str, Any]:
    """The arguments of ``dmc2gym.make`` for one variation.

    Its own ``difficulty`` would turn all distractions on; here each is turned on by itself, and
    the difficulty only completes it.

    Args:
        domain: The domain, as presets differ.
        settings: The settings.
        prefix: '' for the variation 'train', 'test_' for 'test'.
    """
    from distracting_control import DIFFICULTIES, camera_preset

    def own(name: str) -> Any:
        return getattr(settings, prefix + name)

    difficulty = _inherited(settings, prefix, "difficulty")
    scale, num_videos = DIFFICULTIES.get(difficulty, (None, None))
    kwargs: dict[str, Any] = {
        "dynamic": own("dynamic"),
        "colour_kwargs": {
            "max_delta": _inherited(settings, prefix, "max_delta"),
            "step_std": _inherited(settings, prefix, "step_std"),
            "disjoint_set": own("disjoint_sets"),
        },
    }
    if _inherited(settings, prefix, "camera"):
        preset = {} if scale is None else camera_preset(domain, scale, own("dynamic"))
        kwargs["camera_kwargs"] = {**preset, **_given(settings, _CAMERA)}
    if own("background_dataset_path") is not None:
        kwargs["background_dataset_path"] = own("background_dataset_path")
        kwargs["background_dataset_videos"] = own("background_dataset_videos")
        given = _given(settings, _BACKGROUND)
        kwargs["background_kwargs"] = {"num_videos": num_videos, **given}
    return kwargs


def _inherited(settings: EnvSettings, prefix: str, name: str) -> Any:
    """The setting of a variation, or its namesake of 'train' where that is None."""
    value = getattr(settings, prefix + name)
    return getattr(settings, name) if value is None else value


def _given(settings: EnvSettings, names: dict[str, str]) -> dict[str, Any]:
    """The settings that are not None, under their names in distracting_control."""
    values = {theirs: getattr(settings, ours) for ours, theirs in names.items()}
    return {name: value for name, value in values.items() if value is not None}


def _check_camera(settings: EnvSettings, prefix: str) -> None:
    """Refuses a camera that is distracted by nothing."""
    wanted = _inherited(settings, prefix, "camera")
    difficulty = _inherited(settings, prefix, "difficulty")
    if wanted and difficulty is None and not _given(settings, _CAMERA):
        raise ValueError(
            f"{prefix}camera is on but nothing says how far it moves: "
            "set difficulty, or camera_horizontal_delta and its like"
        )


_DISTRACTING = frozenset(field.name for field in fields(EnvSettings)) - TEXTURE_SETTINGS

SUITES = (
    Suite("dmc", _table(), plain_factories),
    Suite("dmc2gym", _table(), distracting_factories, reads=_DISTRACTING),
)
