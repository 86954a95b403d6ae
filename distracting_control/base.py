"""What the distractions share: settings, forwarding, one generator each, re-seeding of a stack."""

from __future__ import annotations

import dataclasses
import operator
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import dm_env
import numpy as np

if TYPE_CHECKING:  # it would choose OpenGL
    from dm_control.mujoco import Physics

RandomLike = int | np.random.SeedSequence | np.random.Generator | None

# Scale of the changes, per difficulty (Stone et al. 2021, section 3).
DIFFICULTIES = {"easy": 0.1, "medium": 0.2, "hard": 0.3}

AS_TRAIN = object()  # the default of a set-2 setting that follows its namesake until it is given
_FOR_BOTH = object()

S = TypeVar("S", bound="Settings")


def setting(default: Any, test: Any = _FOR_BOTH) -> Any:
    """A field of `Settings`.

    Args:
        default: Its value where nothing is given.
        test: Default of its namesake `test_<name>`, which holds in set 2: a value of its own, or
            `AS_TRAIN`, with which None there means as in set 1. Without it there is no such
            namesake, and the setting holds in both sets.
    """
    return dataclasses.field(default=default, metadata={"test": test})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A distraction's settings in one of the two sets; each field is a flat key of that name.

    A subclass lists the keys with `setting`, and refuses in `__post_init__` what is out of range.

    Attributes:
        prefix: `''` in set 1, `'test_'` in set 2: the start of the keys' names in messages.
    """

    prefix: str = ""

    @classmethod
    def key_fields(cls) -> tuple[dataclasses.Field, ...]:
        """The fields that are keys."""
        return tuple(field for field in dataclasses.fields(cls) if "test" in field.metadata)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key, those of set 2 included, and its default."""
        defaults = {field.name: field.default for field in cls.key_fields()}
        for field in cls.key_fields():
            if (test := field.metadata["test"]) is not _FOR_BOTH:
                defaults[f"test_{field.name}"] = None if test is AS_TRAIN else test
        return defaults

    @classmethod
    def of(cls: type[S], settings: Mapping[str, Any], prefix: str = "") -> S:
        """What flat settings say for one set; other keys are left alone.

        Args:
            settings: {key: value}; one that is missing has its default.
            prefix: `''` for set 1, `'test_'` for set 2.

        Raises:
            ValueError: If a value is out of range; the message begins with its key.
        """
        given = {**cls.defaults(), **settings}
        values = {}
        for field in cls.key_fields():
            test, value = field.metadata["test"], given[field.name]
            if prefix and test is not _FOR_BOTH:
                own = given[prefix + field.name]
                value = value if own is None and test is AS_TRAIN else own
            values[field.name] = value
        return cls(prefix=prefix, **values)

    def kwargs(self, domain: str, strength: Strength) -> dict[str, Any] | None:
        """Arguments of the distraction's constructor; None where it is off.

        Args:
            domain: Domain of the suite.
            strength: What the distractions of this set share.

        Raises:
            ValueError: If the distraction is on and nothing says what it does.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strength(Settings):
    """What distractions share.

    Attributes:
        difficulty: 'easy', 'medium', 'hard' or None: what their own settings leave open. It turns
            none of them on.
        dynamic: Whether what the difficulty presets, and the background, move within an episode.
    """

    difficulty: str | None = setting(None, test=AS_TRAIN)
    dynamic: bool = setting(False, test=False)

    def __post_init__(self) -> None:
        """Checks the name."""
        if self.difficulty not in (None, *DIFFICULTIES):
            raise ValueError(
                f"{self.prefix}difficulty must be easy, medium, hard or None, "
                f"not {self.difficulty!r}"
            )


class Distraction(dm_env.Environment):
    """A dm_env wrapper that changes how an episode looks and never what happens in it.

    A subclass in a file of this package is found by itself, see `registry`. It says what is drawn
    at the start of an episode (`_begin`) and, if it moves, how with each control step (`_advance`).
    Attributes that are not found here are those of the wrapped env.

    Attributes:
        name: What it is called: `load` takes its arguments as `<name>_kwargs`.
        tag: Number of this kind of distraction in the tree of seeds. It is fixed, so that
            switching one distraction on leaves the draws of the others alone. Of several, a
            larger one lies further out.
        settings: Its configuration keys.
    """

    name: ClassVar[str]
    tag: ClassVar[int]
    settings: ClassVar[type[Settings]]

    def __init__(self, env: dm_env.Environment, random: RandomLike = None) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment, or another distraction around one.
            random: Seed of this distraction (`None`: from the operating system), or a generator.
        """
        self._env = env
        # Held directly: `env.physics` may have side effects, see DistractingBackground.physics.
        self._physics: Physics = env.physics
        self.seed(random)

    @classmethod
    def preset(cls, domain: str, difficulty: str | None, dynamic: bool) -> dict[str, Any] | None:
        """Arguments at a difficulty, or what they are without one.

        Returns:
            Arguments of the constructor; None if no difficulty turns this distraction on.
        """
        return None

    @abstractmethod
    def _begin(self) -> None:
        """Draws this episode's distraction and applies it to the physics."""

    def _advance(self) -> None:
        """Moves the distraction on by one control step and applies it to the physics."""

    def refresh(self) -> None:
        """Applies what is drawn now again, after the simulation was set by hand."""

    def factors(self) -> dict[str, float]:
        """{name: value} of what is drawn now, told as the true factors of what is seen."""
        return {}

    def seed(self, random: RandomLike) -> None:
        """Starts this distraction's generator anew; the wrapped env keeps its own.

        Args:
            random: As in the constructor.
        """
        if isinstance(random, np.random.Generator):
            self._random = random
            return
        if not isinstance(random, np.random.SeedSequence):
            entropy = None if random is None else operator.index(random)
            random = np.random.SeedSequence(entropy, spawn_key=(self.tag,))
        self._random = np.random.default_rng(random)

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode with a distraction drawn afresh."""
        time_step = self._env.reset()
        self._begin()
        return time_step

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one control step, or starts an episode if the last one had ended."""
        time_step = self._env.step(action)
        if time_step.first():
            self._begin()
        else:
            self._advance()
        return time_step

    @property
    def physics(self) -> Physics:
        """The simulation with every distraction in place, ready to be rendered."""
        return self._env.physics

    def action_spec(self) -> Any:
        """The wrapped env's action spec."""
        return self._env.action_spec()

    def observation_spec(self) -> Any:
        """The wrapped env's observation spec."""
        return self._env.observation_spec()

    def reward_spec(self) -> Any:
        """The wrapped env's reward spec."""
        return self._env.reward_spec()

    def discount_spec(self) -> Any:
        """The wrapped env's discount spec."""
        return self._env.discount_spec()

    def close(self) -> None:
        """Closes the wrapped env."""
        self._env.close()

    def __getattr__(self, name: str) -> Any:
        if name == "_env":  # not there yet: while unpickling, or after a failed constructor
            raise AttributeError(name)
        return getattr(self._env, name)


def task_random(seed: int) -> np.random.RandomState:
    """Generator of a dm_control task for a seed of any size.

    Args:
        seed: A non-negative integer. Below 2^32 the generator is the one dm_control itself would
            make of it.

    Raises:
        ValueError: If the seed is negative.
    """
    seed = operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed}")
    if seed < 2**32:
        return np.random.RandomState(seed)
    return np.random.RandomState(np.random.SeedSequence(seed).generate_state(8))


def reseed(env: dm_env.Environment, seed: int) -> None:
    """Seeds a stack of distractions and the task below them.

    The next `reset()` then depends on the seed alone, whatever was run on the env before: the same
    seed and the same actions give the same observations, rewards and pixels. What was drawn when
    the env was built stays as it is; in the suite that is the model of the `lqr` tasks.

    Args:
        env: A dm_control environment, with or without wrappers.
        seed: A non-negative integer.

    Raises:
        TypeError: If there is no dm_control task at the bottom.
        ValueError: If the seed is negative.
    """
    random = task_random(seed)
    stack = list(layers(env))
    task = getattr(stack[-1], "task", None)
    if not hasattr(task, "_random"):
        raise TypeError(f"cannot seed {type(stack[-1]).__name__}: it has no dm_control suite task")
    for layer in stack:
        if isinstance(layer, Distraction):
            layer.seed(seed)
    task._random = random


def factors(env: dm_env.Environment) -> dict[str, float]:
    """What all distractions of a stack tell of what they draw now."""
    told: dict[str, float] = {}
    for layer in layers(env):
        if isinstance(layer, Distraction):
            told |= layer.factors()
    return told


def refresh(env: dm_env.Environment) -> None:
    """Applies all distractions of a stack again, after the simulation was set by hand."""
    for layer in layers(env):
        if isinstance(layer, Distraction):
            layer.refresh()


def layers(env: dm_env.Environment) -> Iterator[dm_env.Environment]:
    """The env and everything it wraps, from the outside in (`_env` is dm_control's own habit)."""
    while env is not None:
        yield env
        env = vars(env).get("_env")
