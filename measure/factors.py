"""True factors of many pictures: drawn independently of each other, or as a policy meets them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from envs import Factor, Scene, make_scene
from envs.worker import guardian, tie
from tools import UserError, derive_seed

CHUNK = 250  # frames that a process draws at a time: what they are does not depend on how many do
STRIDE = 5  # agent steps between two frames of a policy
STILL = 1e-9  # standard deviation of what does not change


@dataclasses.dataclass(frozen=True)
class Factors:
    """The true factors of N pictures.

    Attributes:
        factors: K of them.
        values: float64 [N, K]; angles in radians, choices as whole numbers.
    """

    factors: tuple[Factor, ...]
    values: np.ndarray

    @property
    def names(self) -> list[str]:
        """Of the factors."""
        return [factor.name for factor in self.factors]

    @property
    def groups(self) -> dict[str, list[int]]:
        """The numbers of the factors in each group, in the order of the first ones."""
        found: dict[str, list[int]] = {}
        for k, factor in enumerate(self.factors):
            found.setdefault(factor.group, []).append(k)
        return found

    def check(self) -> None:
        """Checks that each factor can be told from another.

        Raises:
            UserError: there is none, or one is the same in all pictures.
        """
        if not self.factors:
            raise UserError("there are no factors to measure by: name a task that tells some")
        for factor, spread in zip(self.factors, self.values.std(axis=0), strict=True):
            if spread < STILL:
                raise UserError(
                    f"the factor {factor.name} is the same in all {len(self.values)} frames: "
                    "leave it out, or draw more frames"
                )

    def without(self, *names: str) -> Factors:
        """Those of other names."""
        kept = [k for k, factor in enumerate(self.factors) if factor.name not in names]
        return Factors(tuple(self.factors[k] for k in kept), self.values[:, kept])

    @property
    def constant(self) -> list[str]:
        """The names of those that are the same in all pictures."""
        return [
            n for n, std in zip(self.names, self.values.std(axis=0), strict=True) if std < STILL
        ]

    @functools.cached_property
    def targets(self) -> list[np.ndarray]:
        """What a regression is to say of each factor, [N, 1], or [N, C] of several numbers.

        An angle is its sine and cosine, a choice one number for each possibility.
        """
        return [_target(f, v) for f, v in zip(self.factors, self.values.T, strict=True)]

    def correlations(self) -> np.ndarray:
        """How strongly factors go together, [K, K] in [0, 1].

        The largest absolute correlation between any number of the one and any of the other, as
        `targets` has them.
        """
        starts = np.cumsum([0, *(target.shape[1] for target in self.targets)])
        all_ = np.concatenate(self.targets, axis=1)
        all_ = all_ - all_.mean(axis=0)
        scale = np.linalg.norm(all_, axis=0)
        all_ /= np.where(scale > 0, scale, 1.0)
        each = np.abs(all_.T @ all_)
        rows = np.maximum.reduceat(each, starts[:-1], axis=0)
        found = np.maximum.reduceat(rows, starts[:-1], axis=1)
        np.fill_diagonal(found, 1.0)
        return np.minimum(found, 1.0)


def _target(factor: Factor, values: np.ndarray) -> np.ndarray:
    if factor.kind == "angle":
        return np.stack([np.sin(values), np.cos(values)], axis=1)
    if factor.kind == "choice":
        return (values[:, None] == np.unique(values)).astype(np.float64)
    return values[:, None]


class Sample(NamedTuple):
    """Pictures uint8 [N, H, W, C] and their factors."""

    images: np.ndarray
    factors: Factors


Drawn = tuple[np.ndarray, np.ndarray]  # images and values
Make = Callable[[], Scene]


def sample(
    task: str, n: int, seed: int = 0, *, variation: str = "train", workers: int = 1, **settings: Any
) -> Sample:
    """Draws pictures whose factors are independent: joints within their limits, colours, camera.

    Each frame follows from its number and the seed alone, however many processes draw.

    Args:
        task: Name of the task.
        n: How many frames.
        seed: Determines them.
        variation: Whose distractions are drawn.
        workers: Processes that draw; 1 draws in this one.
        **settings: Fields of :class:`envs.EnvSettings`.

    Raises:
        UnknownTask: There is no such task.
        ValueError: A setting or the variation is not known.
        UserError: The task tells no factors.
    """
    make = functools.partial(make_scene, task, variation, **settings)
    return _gather(_draw, make, n, seed, workers)


def play(
    task: str, n: int, seed: int = 0, *, variation: str = "train", workers: int = 1, **settings: Any
) -> Sample:
    """Frames that a random policy meets, `STRIDE` agent steps apart; arguments as of `sample`."""
    make = functools.partial(make_scene, task, variation, **settings)
    return _gather(_play, make, n, seed, workers)


def _gather(
    draw: Callable[[Scene, Sequence[int]], Drawn], make: Make, n: int, seed: int, workers: int
) -> Sample:
    """All frames, by so many processes."""
    if n < 1:
        raise ValueError(f"at least one frame is to be drawn, not {n}")
    seeds = [derive_seed(seed, "factors", i) for i in range(n)]
    chunks = [seeds[i : i + CHUNK] for i in range(0, n, CHUNK)]
    scene = make()  # also where others draw: what is wrong shows here
    try:
        parts = _gather_parts(draw, make, scene, chunks, min(workers, len(chunks)))
    finally:
        scene.close()
    images, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sample(images, Factors(scene.factors, values))


def _gather_parts(
    draw: Callable[[Scene, Sequence[int]], Drawn],
    make: Make,
    scene: Scene,
    chunks: Sequence[Sequence[int]],
    workers: int,
) -> list[Drawn]:
    if workers == 1:
        return [draw(scene, chunk) for chunk in chunks]
    given = make, guardian()
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, given) as pool:
        return list(pool.map(functools.partial(_elsewhere, draw), chunks))


_scene: Scene | None = None  # of a process that draws


def _prepare(make: Make, parent: int | None) -> None:
    global _scene
    if parent is not None:
        tie(parent)
    _scene = make()


def _elsewhere(draw: Callable[[Scene, Sequence[int]], Drawn], seeds: Sequence[int]) -> Drawn:
    assert _scene is not None
    return draw(_scene, seeds)


def _draw(scene: Scene, seeds: Sequence[int]) -> Drawn:
    images, values = [], []
    for seed in seeds:
        scene.draw(seed)
        images.append(scene.image().copy())
        values.append(scene.values())
    return np.stack(images), np.stack(values)


def _play(scene: Scene, seeds: Sequence[int]) -> Drawn:
    """Whole chunks are played by themselves, from an episode's beginning on."""
    images, values = [], []
    scene.begin(seeds[0])
    for seed in seeds:
        for _ in range(STRIDE):
            if scene.step():
                scene.begin(seed)
        images.append(scene.image().copy())
        values.append(scene.values())
    return np.stack(images), np.stack(values)
