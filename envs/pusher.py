"""Gymnasium's environments (``gymnasium_<id>``), Pusher in changing colours.

Only Pusher's parts are recoloured; the other environments are drawn as they are. Backgrounds move
on the floor of any, which is Pusher's table, or where there is none in the sky. MuJoCo is imported
with the first environment; by then OpenGL is chosen. What is not MuJoCo's is in
:mod:`envs.registered`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import RescaleAction, TransformAction

from distracting_control.color import ColorSettings, color_boxes
from distracting_control.rendering import software_shadow_size
from envs import registered
from envs.backgrounds import (
    SURFACE,
    MovingTexture,
    add_surface,
    background_of,
    play,
    texture_size,
)
from envs.other_parts import gymnasium_parts
from envs.settings import MOVING_SETTINGS, EnvSettings
from envs.suites import COMMON, VARIATIONS, Factories, Suite
from envs.wrappers import ActionRepeat, OwnContext

PUSHER = "Pusher-v5"

# Straight above the table, as the paper's Pusher is seen.
TOP_CAMERA = {
    "trackbodyid": -1,
    "distance": 2.0,
    "elevation": -90.0,
    "lookat": np.array([0.0, -0.5, 0.2]),
}
TABLE = ("table",)
# The links that the authors recolour; roll joint, wrist and fingers keep their grey, as there.
ARM = ("e1", "e2", "sp", "sl", "uar", "ua", "ef", "fa")
OBJECT = "object"  # a body, whose only geom has no name

_COLOR_STREAM = 1  # tells the generator of the colours from the physics' own


class PusherColors(gym.Wrapper):
    """Pusher with a black object, and new colours of table and arm at each reset.

    The table gets one colour and the arm another, each uniform in its box; they stay for the
    episode. They come from a generator of their own, so that the physics of a seed is
    Gymnasium's.

    Attributes:
        low: Lower corners of the boxes of table and arm, [2, 3] in [0, 1]; None without boxes.
        high: Upper corners, likewise.
    """

    def __init__(
        self,
        env: gym.Env,
        max_delta: float | None,
        disjoint_set: str | None,
        has_background: bool = False,
    ):
        """Wraps ``env``, which must be Pusher.

        Args:
            env: The environment.
            max_delta: Half the side of a box, per channel in [0, 1]; None, and 0 without a set,
                leaves table and arm in their own colours.
            disjoint_set: Centre of the boxes: that of 'train', that of 'test', or None for
                each part's own colour.
            has_background: Whether a picture moves over the table, which then has no colour.

        Raises:
            ValueError: If the boxes of the two sets would overlap in every channel.
        """
        super().__init__(env)
        model = env.unwrapped.model
        self._parts = [[model.geom(name).id for name in names] for names in (TABLE, ARM)]
        model.geom_rgba[model.body(OBJECT).geomadr] = (0.0, 0.0, 0.0, 1.0)
        self.low = self.high = None
        if max_delta is not None and (max_delta > 0 or disjoint_set is not None):
            own = np.array([model.geom_rgba[part[0], :3] for part in self._parts], np.float64)
            self.low, self.high = color_boxes(own, max_delta, disjoint_set)
        self._colors = np.random.default_rng()
        self._colored = self._parts[1:] if has_background else self._parts

    @property
    def rgb(self) -> np.ndarray:
        """The colours of table and arm now, [2, 3] in [0, 1]."""
        rgba = self.unwrapped.model.geom_rgba
        return np.array([rgba[part[0], :3] for part in self._parts])

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode in new colours, which the seed determines."""
        if seed is not None:
            sequence = np.random.SeedSequence(seed, spawn_key=(_COLOR_STREAM,))
            self._colors = np.random.default_rng(sequence)
        if self.low is not None:
            colors = self._colors.uniform(self.low, self.high)
            for part, rgb in zip(self._colored, colors[-len(self._colored) :], strict=True):
                self.unwrapped.model.geom_rgba[part, :3] = rgb
        return self.env.reset(seed=seed, options=options)


def _tasks() -> dict[str, tuple[str, ...]]:
    """The ids of Gymnasium's newest MuJoCo environments; older ones need older simulators."""
    return {
        name: (name,)
        for name, spec in gym.registry.items()
        if registered.is_mujoco(spec) and spec.version == 5
    }


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The environment in the colours and before the background of each variation.

    Args:
        identity: (id,).
        settings: Of which the first group, the colours and the background concern it; ``step_std``
            does not, as colours last an episode.
    """
    if identity not in _MUJOCO.values():
        return registered.factories(identity, settings)
    is_pusher = identity[0] == PUSHER
    bare = functools.partial(_build, identity[0], settings, (None, None) if is_pusher else None)
    factories = dict.fromkeys(VARIATIONS, bare)
    for name, prefix in (("train", ""), ("test", "test_")):
        colors, drawn = ColorSettings.of(vars(settings), prefix), None
        if is_pusher:
            drawn = (None, None)
            if not colors.leaves_all:
                drawn = (colors.max_delta, colors.disjoint_sets)
        moving = background_of(settings, prefix) is not None
        if moving or drawn not in (None, (None, None)):
            build = functools.partial(_build, identity[0], settings, drawn)
            factories[name] = functools.partial(build, prefix) if moving else build
    return factories


def _build(
    name: str, settings: EnvSettings, colors: tuple | None = None, prefix: str | None = None
) -> gym.Env:
    """One environment, drawn at the size that is wanted.

    Args:
        name: Gymnasium's id.
        settings: The settings.
        colors: ``(max_delta, disjoint_set)`` of :class:`PusherColors`; None leaves all as it is.
        prefix: Of the settings of the background; None for none.
    """
    shadow_size = software_shadow_size(settings.shadow_size)
    height, width = settings.size
    kwargs: dict[str, Any] = {"camera_id": settings.camera_id}
    if name == PUSHER and settings.camera_id is None:
        kwargs = {"default_camera_config": TOP_CAMERA}
    spec = gym.spec(name)
    background, dynamic = (None if prefix is None else background_of(settings, prefix)) or (None, 0)
    if background is not None:
        entry_point = _surfaced(load_env_creator(spec.entry_point), texture_size(background))
        spec = dataclasses.replace(spec, entry_point=entry_point)
    env = gym.make(
        spec,
        render_mode="rgb_array",
        width=width,
        height=height,
        max_episode_steps=-1,  # ActionRepeat counts
        disable_env_checker=True,
        **kwargs,
    )
    drawing = env.unwrapped
    if background is not None:
        size = texture_size(background)
        player = play(background, size, dynamic=bool(dynamic))
        env = MovingTexture(env, drawing, player, SURFACE, size)
    env = OwnContext(env, drawing, settings.camera_id, shadow_size)
    if colors is not None:
        env = PusherColors(env, *colors, has_background=background is not None)
    env = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    if settings.clip_actions:
        env = TransformAction(env, _clip, env.action_space)
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def _surfaced(package_class: type, size: int) -> type:
    """Gymnasium's class with a texture to show a background on in its model."""

    def _initialize_simulation(self):
        import mujoco

        spec = mujoco.MjSpec.from_file(self.fullpath)
        add_surface(spec, size)
        model = spec.compile()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        return model, mujoco.MjData(model)

    methods = {"_initialize_simulation": _initialize_simulation}
    return type(package_class.__name__, (package_class,), methods)


def _clip(action: np.ndarray) -> np.ndarray:
    return np.clip(action, -1.0, 1.0)


_COLORS = frozenset({"max_delta", "disjoint_sets", "test_max_delta", "test_disjoint_sets"})

_READS = COMMON | _COLORS | MOVING_SETTINGS | {"clip_actions"}

_MUJOCO = _tasks()


def _unread(identity: tuple[str, ...]) -> frozenset[str]:
    if identity not in _MUJOCO.values():
        return _READS - COMMON
    return frozenset() if identity[0] == PUSHER else _COLORS


SUITES = (
    Suite(
        "gymnasium",
        registered.Tasks(_MUJOCO),
        factories,
        reads=_READS,
        unread=_unread,
        endless=frozenset({(PUSHER,)}),
        limits="Of Gymnasium's MuJoCo environments only the newest, v5, are taken",
        opengl=None,
        parts=functools.partial(gymnasium_parts, colors=PusherColors),
    ),
)
