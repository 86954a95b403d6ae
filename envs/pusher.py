"""Gymnasium's environments (``gymnasium_<id>``), Pusher in changing colours.

Only Pusher's parts are recoloured; the other environments are drawn as they are. MuJoCo is
imported with the first environment; by then OpenGL is chosen. What is not MuJoCo's is in
:mod:`envs.registered`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RescaleAction, TransformAction

from distracting_control.color import ColorSettings, color_boxes
from distracting_control.rendering import software_shadow_size
from envs import registered
from envs.settings import EnvSettings
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

    def __init__(self, env: gym.Env, max_delta: float | None, disjoint_set: str | None):
        """Wraps ``env``, which must be Pusher.

        Args:
            env: The environment.
            max_delta: Half the side of a box, per channel in [0, 1]; None, and 0 without a set,
                leaves table and arm in their own colours.
            disjoint_set: Centre of the boxes: that of 'train', that of 'test', or None for
                each part's own colour.

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
            for part, rgb in zip(self._parts, colors, strict=True):
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
    """The environment in the colours of each variation; one that is not Pusher has one alone.

    Args:
        identity: (id,).
        settings: Of which the first group and the colours concern it; ``step_std`` does not, as
            colours last an episode.
    """
    if identity not in _MUJOCO.values():
        return registered.factories(identity, settings)
    build = functools.partial(_build, identity[0], settings)
    if identity[0] != PUSHER:
        return dict.fromkeys(VARIATIONS, build)
    factories = dict.fromkeys(VARIATIONS, functools.partial(build, (None, None)))
    for name, prefix in (("train", ""), ("test", "test_")):
        colors = ColorSettings.of(vars(settings), prefix)
        if not colors.leaves_all:
            factories[name] = functools.partial(build, (colors.max_delta, colors.disjoint_sets))
    return factories


def _build(name: str, settings: EnvSettings, colors: tuple | None = None) -> gym.Env:
    """One environment, drawn at the size that is wanted.

    Args:
        name: Gymnasium's id.
        settings: The settings.
        colors: ``(max_delta, disjoint_set)`` of :class:`PusherColors`; None leaves all as it is.
    """
    shadow_size = software_shadow_size(settings.shadow_size)
    height, width = settings.size
    kwargs: dict[str, Any] = {"camera_id": settings.camera_id}
    if name == PUSHER and settings.camera_id is None:
        kwargs = {"default_camera_config": TOP_CAMERA}
    env = gym.make(
        name,
        render_mode="rgb_array",
        width=width,
        height=height,
        max_episode_steps=-1,  # ActionRepeat counts
        disable_env_checker=True,
        **kwargs,
    )
    env = OwnContext(env, env.unwrapped, settings.camera_id, shadow_size)
    if colors is not None:
        env = PusherColors(env, *colors)
    env = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    if settings.clip_actions:
        env = TransformAction(env, _clip, env.action_space)
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def _clip(action: np.ndarray) -> np.ndarray:
    return np.clip(action, -1.0, 1.0)


_COLORS = frozenset({"max_delta", "disjoint_sets", "test_max_delta", "test_disjoint_sets"})

_MUJOCO = _tasks()

SUITES = (
    Suite(
        "gymnasium",
        registered.Tasks(_MUJOCO),
        factories,
        reads=COMMON | _COLORS | {"clip_actions"},
        endless=frozenset({(PUSHER,)}),
        limits="Of Gymnasium's MuJoCo environments only the newest, v5, are taken",
    ),
)
