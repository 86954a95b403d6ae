"""Corrupted sight: what an agent sees is blurred, noisy, covered, or shaken, and nothing else is.

An environment that has been trained in clear sight is shown so at test time. Each corruption has a
strength between 0, which leaves every picture as it is, and 1; what it draws follows from a seed
and the episode's own, and ``info["factors"]`` tells it. A new one is a class here and its name in
``CORRUPTIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

_STREAM = 3  # tells their generators from those of distractors


class Corruption(gym.Wrapper):
    """Corrupts what an environment draws, and the images that it observes, alone or as ``image``.

    A subclass says in ``change`` what becomes of a picture, in ``begin`` what it draws for an
    episode, and in ``advance`` what it draws for a step; places and ways are shares of the picture,
    whatever its size. Nothing is drawn in ``change``: a step that nobody looks at is a step.

    Attributes:
        name: What it is called.
        strength: In [0, 1].
        random: Draws; what it draws follows from ``seed`` and the episode's seed.
        factors: What was drawn, and holds for the picture that is shown now.
    """

    name: ClassVar[str]

    def __init__(self, env: gym.Env, strength: float, seed: int = 0):
        """Wraps an environment.

        Raises:
            ValueError: If the strength is not in [0, 1].
        """
        super().__init__(env)
        if not 0 <= strength <= 1:
            raise ValueError(f"the strength of {self.name} must be in 0..1, not {strength}")
        self.strength, self.seed = strength, seed
        self.random = np.random.default_rng((seed, _STREAM))
        self.factors: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode, whose corruption its seed determines."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.random = np.random.default_rng((self.seed, _STREAM, seed))
        self.begin()
        self.advance()
        return self._corrupt(observation), self._tell(info)

    def step(self, action: Any):
        """One step."""
        observation, *result, info = self.env.step(action)
        self.advance()
        return self._corrupt(observation), *result, self._tell(info)

    def render(self) -> np.ndarray:
        """What the environment draws, corrupted."""
        return self._seen(self.env.render())

    def begin(self) -> None:
        """Draws what lasts an episode."""

    def advance(self) -> None:
        """Draws what lasts a step; the first step's is drawn at the reset."""

    def change(self, image: np.ndarray) -> np.ndarray:
        """A picture uint8 [H, W, C], corrupted; the one that was given stays as it is."""
        raise NotImplementedError

    def _seen(self, image: np.ndarray) -> np.ndarray:
        return self.change(image) if self.strength else image

    def _corrupt(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            if "image" not in observation:
                return observation
            return {**observation, "image": self._seen(observation["image"])}
        is_image = isinstance(observation, np.ndarray) and observation.ndim == 3
        return self._seen(observation) if is_image else observation

    def _tell(self, info: dict[str, Any]) -> dict[str, Any]:
        own = {f"{self.name}_strength": self.strength, **self.factors}
        return {**info, "factors": {**info.get("factors", {}), **own}}


class Blur(Corruption):
    """A Gaussian blur, whose standard deviation is up to an eighth of the picture's side."""

    name = "blur"

    def change(self, image: np.ndarray) -> np.ndarray:
        """Blurred along rows, then along columns; edges are continued."""
        sigma = self.strength * min(image.shape[:2]) / 8
        reach = max(1, round(3 * sigma))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).astype(np.float32)
        blurred = image.astype(np.float32)
        for axis in (0, 1):
            edges = [(reach, reach) if side == axis else (0, 0) for side in range(3)]
            padded = np.pad(blurred, edges, mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis)
            blurred = windows @ kernel
        return _to_uint8(blurred)


class Noise(Corruption):
    """Gaussian noise on every number of a picture, with a standard deviation of up to 128."""

    name = "noise"

    def advance(self) -> None:
        """A seed, of numbers for any picture."""
        self._step_seed = int(self.random.integers(2**63))

    def change(self, image: np.ndarray) -> np.ndarray:
        """With the step's noise."""
        drawn = np.random.default_rng(self._step_seed).standard_normal(image.shape, np.float32)
        return _to_uint8(image + np.float32(128 * self.strength) * drawn)


class Occlusion(Corruption):
    """A grey square that covers up to three quarters of the side, in one place for the episode.

    Its factors are shares of the way that it could lie from the upper edge, and from the left one.
    """

    name = "occlusion"
    share = 0.75  # of the side, at full strength

    def begin(self) -> None:
        """Where it lies."""
        self.shade = np.uint8(128)
        self.move_to(self.random.uniform(size=2))

    def change(self, image: np.ndarray) -> np.ndarray:
        """Covered."""
        side = round(self.share * self.strength * min(image.shape[:2]))
        top, left = (round(p * (n - side)) for p, n in zip(self.place, image.shape, strict=False))
        covered = image.copy()
        covered[top : top + side, left : left + side] = self.shade
        return covered

    def move_to(self, place: np.ndarray) -> None:
        """Puts it there, (row, column) in [0, 1]."""
        self.place = place
        row, column = place.tolist()
        self.factors = {f"{self.name}_row": row, f"{self.name}_column": column}


class MovingPatch(Occlusion):
    """A square of half that size, of one shade for the episode, that crosses the picture.

    It moves in a straight line and is thrown back at the edges.
    """

    name = "moving_patch"
    share = 0.375
    speed = 0.1  # of its way, at most, per step

    def begin(self) -> None:
        """Where it begins, which way it goes, and its shade."""
        self.move_to(self.random.uniform(size=2))
        self._velocity = self.random.uniform(-self.speed, self.speed, 2)
        self.shade = self.random.integers(0, 256, dtype=np.uint8)

    def advance(self) -> None:
        """A step on its way."""
        place = self.place + self._velocity
        outside = (place < 0) | (place > 1)
        self._velocity = np.where(outside, -self._velocity, self._velocity)
        self.move_to(np.clip(place, 0, 1))


class Jitter(Corruption):
    """The picture shakes: it is shifted by up to a quarter of its side, anew in each step.

    Its factors are shares of the side.
    """

    name = "jitter"

    def advance(self) -> None:
        """How far, and which way."""
        down, right = self.random.uniform(-self.strength / 4, self.strength / 4, 2).tolist()
        self.factors = {"jitter_down": down, "jitter_right": right}

    def change(self, image: np.ndarray) -> np.ndarray:
        """Shifted; what comes in at an edge is that edge, continued."""
        for axis, share in enumerate(self.factors.values()):
            side = image.shape[axis]
            places = np.arange(side) - round(share * side)
            image = np.take(image, np.clip(places, 0, side - 1), axis)
        return image


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, type[Corruption]] = {
    kind.name: kind for kind in (Blur, Noise, Occlusion, MovingPatch, Jitter)
}


def corrupt(env: gym.Env, name: str, strength: float, seed: int = 0) -> gym.Env:
    """An environment that is seen so.

    A suite's own environment can be wrapped, which draws, and what :func:`envs.make_env` makes of
    it, which observes. :func:`envs.make_env` and :func:`envs.make_vector` do the latter for
    ``corruption=(name, strength, seed)``, below :class:`envs.wrappers.Resumable`, so that an
    episode that is taken up is seen as it was.

    Args:
        env: An environment that draws or observes images; actions, rewards and ends stay as they
            are.
        name: A key of ``CORRUPTIONS``.
        strength: From 0, clear sight, to 1.
        seed: What is drawn follows from it and the episode's.

    Raises:
        ValueError: If there is none of that name, or the strength is out of range.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}: use one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name](env, strength, seed)
