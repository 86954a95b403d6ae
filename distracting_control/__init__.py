"""Visual distractions for dm_control: colours, camera and background.

The package is the suite of Stone et al. (2021, arXiv 2101.02722) with the split colour sets of
DisWM. Each distraction is a `dm_env` wrapper of its own around any dm_control suite task; `load`
stacks them. They must lie under whatever renders pixels.

    env = distracting_control.load(
        "walker", "walk", seed=1,
        color_kwargs={"max_delta": 0.2, "step_std": 0.2, "disjoint_set": "train"},
    )
    distracting_control.reseed(env, 7)  # the next reset() depends on 7 alone

A new distraction is one file here: a subclass of `Distraction` and its `Settings`, a frozen
dataclass whose fields are configuration keys. `load` then takes `<name>_kwargs` for it.

Importing this package does not load MuJoCo; the first `load` does, and chooses OpenGL before it
unless `MUJOCO_GL` (`egl`, `osmesa` or `glfw`) says which, see `rendering`.
"""

from distracting_control.background import DistractingBackground, background_preset
from distracting_control.base import (
    AS_TRAIN,
    DIFFICULTIES,
    Distraction,
    Settings,
    Strength,
    factors,
    layers,
    refresh,
    reseed,
    setting,
    task_random,
)
from distracting_control.camera import DistractingCamera, camera_preset
from distracting_control.color import DistractingColor, color_preset
from distracting_control.registry import all_settings, defaults, distractions
from distracting_control.suite import load

__all__ = [
    "AS_TRAIN",
    "DIFFICULTIES",
    "DistractingBackground",
    "DistractingCamera",
    "DistractingColor",
    "Distraction",
    "Settings",
    "Strength",
    "all_settings",
    "background_preset",
    "camera_preset",
    "color_preset",
    "defaults",
    "distractions",
    "factors",
    "layers",
    "load",
    "refresh",
    "reseed",
    "setting",
    "task_random",
]
