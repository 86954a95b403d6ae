"""Visual distractions for dm_control: colours, camera and background.

The package is the suite of Stone et al. (2021, arXiv 2101.02722) with the split colour sets of
DisWM. Each distraction is a `dm_env` wrapper of its own around any dm_control suite task; `load`
stacks them. They must lie under whatever renders pixels.

    env = distracting_control.load(
        "walker", "walk", seed=1,
        color_kwargs={"max_delta": 0.2, "step_std": 0.2, "disjoint_set": "train"},
    )
    distracting_control.reseed(env, 7)  # the next reset() depends on 7 alone

Set `MUJOCO_GL` (`egl`, `osmesa` or `glfw`) before importing this package: dm_control chooses its
renderer at import.
"""

from distracting_control.background import DistractingBackground
from distracting_control.base import Distraction, reseed, task_random
from distracting_control.camera import DistractingCamera
from distracting_control.color import DistractingColor
from distracting_control.suite import (
    DIFFICULTIES,
    background_preset,
    camera_preset,
    color_preset,
    load,
)

__all__ = [
    "DIFFICULTIES",
    "DistractingBackground",
    "DistractingCamera",
    "DistractingColor",
    "Distraction",
    "background_preset",
    "camera_preset",
    "color_preset",
    "load",
    "reseed",
    "task_random",
]
