"""Any environment that Gymnasium knows, or that a module of the user's registers.

``gymnasium_<id>`` is one that is registered; ``gymnasium_<module>:<id>`` imports the module first,
whose code then runs. The agent sees the image that the environment observes, or what it draws in
``render()``; the numbers beside an image, in a Dict, are its vector.
"""

import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import RescaleAction, TransformAction

from envs.pictures import fit
from envs.settings import EnvSettings
from envs.suites import VARIATIONS, Factories
from envs.wrappers import VECTOR, ActionRepeat, OneHotAction

CHANNELS = (1, 3)
# Pygame draws without a screen, and says nothing of itself.
_PYGAME = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy"}
IMAGES = ("image", "pixels")  # what an image among others in a Dict is called


def is_mujoco(spec: EnvSpec) -> bool:
    """Whether an environment is one of Gymnasium's own on MuJoCo."""
    return str(spec.entry_point).startswith("gymnasium.envs.mujoco")


def module_of(task: str) -> str:
    """The module that a task imports, if it is one of ``gymnasium_<module>:<id>``; else ''."""
    prefix, _, name = task.partition("_")
    return name.rpartition(":")[0] if prefix == "gymnasium" else ""


class Tasks(Mapping[str, tuple[str, ...]]):
    """Gymnasium's registry, and any ``<module>:<id>``, which is imported when it is built.

    Args:
        mujoco: Those of MuJoCo that are taken; others of MuJoCo's are not.
    """

    def __init__(self, mujoco: Mapping[str, tuple[str, ...]]):
        self._mujoco = mujoco

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """The id, in a tuple."""
        module, _, last = name.rpartition(":")
        if module and last:
            return (name,)
        if name in self._mujoco or name in self._others():
            return (name,)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """The ids that are registered."""
        return iter((*self._mujoco, *self._others()))

    def __len__(self) -> int:
        return len(self._mujoco) + len(self._others())

    def _others(self) -> list[str]:
        """Those without MuJoCo; of its environments Gymnasium lists older ones than it has."""
        theirs = {gym.registry[name].name for name in self._mujoco}
        return [name for name, spec in gym.registry.items() if spec.name not in theirs]


class Seen(gym.Wrapper):
    """Draws what the agent sees of any environment, and observes its vector.

    Attributes:
        key: Of the image in a Dict of observations; None where it is the observation itself, or
            where the environment draws.
        vector: Keys of the numbers beside the image.
    """

    def __init__(self, env: gym.Env, size: tuple[int, int]):
        """Wraps an environment.

        Raises:
            ValueError: If it neither draws nor observes an image; the message says what it has.
        """
        super().__init__(env)
        space = env.observation_space
        self._size, self._observed, self.key, self.vector = size, None, None, ()
        self._shows = is_image(space)
        if isinstance(space, spaces.Dict):
            self.key = _image_key(space)
            self.vector = tuple(
                key
                for key, part in space.items()
                if not is_image(part) and isinstance(_flat(part), spaces.Box)
            )
        if not self._shows and self.key is None and env.render_mode != "rgb_array":
            raise ValueError(
                f"it shows no image: its observations are {space}, and it has no render_mode "
                "rgb_array: observe uint8 [H, W, 3], or draw that in render()"
            )
        self.observation_space = spaces.Dict()
        if self.vector:
            width = sum(_flat(space[key]).shape[0] for key in self.vector)
            self.observation_space[VECTOR] = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._see(observation), info

    def step(self, action: Any):
        """One step."""
        observation, *rest = self.env.step(action)
        return self._see(observation), *rest

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if self._shows:
            frame = self._observed
        elif self.key is not None:
            frame = self._observed[self.key]
        else:
            frame = self.env.render()
        frame = np.asarray(frame)
        if frame.ndim == 3 and frame.shape[0] in CHANNELS and frame.shape[2] not in CHANNELS:
            frame = frame.transpose(1, 2, 0)
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3):
            raise ValueError(f"render() gives {frame.dtype}{frame.shape}, not uint8 [H, W, 3]")
        return fit(frame[..., :3] if frame.ndim == 3 else frame, self._size)

    def _see(self, observation: Any) -> dict[str, np.ndarray]:
        self._observed = observation
        if not self.vector:
            return {}
        space = self.env.observation_space
        parts = [spaces.flatten(space[key], observation[key]) for key in self.vector]
        return {VECTOR: np.concatenate(parts).astype(np.float32)}


def is_image(space: spaces.Space) -> bool:
    """Whether observations are images: uint8, [H, W], or with a channel or three, first or last."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS))


def _image_key(space: spaces.Dict) -> str | None:
    """The key of the image in a Dict, if there is one.

    Raises:
        ValueError: If there are several, none of which is called so.
    """
    found = [key for key, part in space.items() if is_image(part)]
    named = [key for key in IMAGES if key in found]
    if len(found) > 1 and not named:
        raise ValueError(
            f"it observes several images ({', '.join(found)}): call the one to learn from 'image'"
        )
    return (named or found or [None])[0]


def _flat(space: spaces.Space) -> spaces.Space:
    """The space of its numbers, a Box where there are always as many."""
    try:
        flat = spaces.flatten_space(space)
    except NotImplementedError:  # a space of the user's own
        return space
    return flat if isinstance(flat, spaces.Box) and not isinstance(space, spaces.Text) else space


def _acting(env: gym.Env) -> gym.Env:
    """The environment with actions as agents choose them: one-hot, or within [−1, 1].

    Raises:
        ValueError: If its actions are of another kind, or have no bounds.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return OneHotAction(env)
    floats = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not floats or len(space.shape) != 1:
        raise ValueError(
            f"its actions are {space}: Discrete, or a Box [A] of floats is taken; wrap it"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"its actions have no bounds ({space}): give its action_space a finite low and high"
        )
    one = space.dtype.type(1.0)
    box = spaces.Box(-1.0, 1.0, space.shape, np.float32)
    return TransformAction(RescaleAction(env, -one, one), _clip, box)


def _clip(action: np.ndarray) -> np.ndarray:
    return np.clip(action, -1.0, 1.0)


def _build(name: str, settings: EnvSettings) -> gym.Env:
    """One environment.

    Raises:
        ValueError: If it cannot be made, or is not to be seen or acted in; one line.
    """
    env = _make(name)
    try:
        env = _acting(Seen(env, settings.size))
    except ValueError:
        env.close()
        raise
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def _make(name: str) -> gym.Env:
    for variable, value in _PYGAME.items():
        os.environ.setdefault(variable, value)
    module, _, name = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gym.spec(name)
        entry = spec.entry_point
        kind = load_env_creator(entry) if isinstance(entry, str) else entry
        modes = getattr(kind, "metadata", {}).get("render_modes", [])
        drawing = {"render_mode": "rgb_array"} if "rgb_array" in modes else {}
        return gym.make(name, disable_env_checker=True, **drawing)
    except (ImportError, gym.error.Error) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError):
            reason = (
                f"module {error.name} is not found: install it, or set PYTHONPATH to its folder"
            )
        raise ValueError(reason) from error


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The environment, under every variation's name.

    Args:
        identity: (id,), with its module before it or not.
        settings: Of which repetition, length and size concern it.
    """
    return dict.fromkeys(VARIATIONS, functools.partial(_build, identity[0], settings))
