"""Moving pictures that are computed: endless in kind, seeded, and nothing to download.

Five families, of which training sees three and testing the other two. A clip is one family with
parameters of its own, which are true factors of what is seen. It is used like a video: it has a
length and its frames are numbered, so that what plays videos plays clips.
"""

from __future__ import annotations

import colorsys
from abc import abstractmethod
from typing import ClassVar

import numpy as np

NAME = "procedural"  # what stands in the place of a folder of videos: procedural[:<family>]
LENGTH = 512  # frames of a clip


class Clip:
    """A clip of `LENGTH` frames, drawn on demand.

    All families share four parameters, drawn uniformly:

    ======  ===================================================================
    hue     of the darker colours, in [0, 1); the lighter ones lie a third on
    speed   texels a frame, in [0.5, 2)
    angle   direction of the motion, radians in [0, 2π)
    scale   size of what is seen, as a share of the frame's side, in [0.1, 0.3)
    ======  ===================================================================

    Attributes:
        factors: {parameter: value}.
    """

    family: ClassVar[str]

    def __init__(self, seed: int, size: int) -> None:
        """Draws the parameters.

        Args:
            seed: Determines every frame.
            size: Side of a frame in texels.
        """
        self._random = np.random.default_rng(seed)
        self._size = size
        hue, speed, angle, scale = self._random.uniform((0, 0.5, 0, 0.1), (1, 2, 2 * np.pi, 0.3))
        self.factors = {"hue": hue, "speed": speed, "angle": angle, "scale": scale}
        self._velocity = speed * np.array([np.sin(angle), np.cos(angle)])  # rows, columns
        self._palette = _palette(hue)
        self._prepare()

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame uint8 [size, size, 3]."""
        # Entries of four bytes are looked up much faster than three single ones.
        colors = self._palette.take(self._levels(index))
        return colors.view(np.uint8).reshape(self._size, self._size, 4)[..., :3]

    @abstractmethod
    def _prepare(self) -> None:
        """Draws what the family needs beside the parameters."""

    @abstractmethod
    def _levels(self, index: int) -> np.ndarray:
        """Frame as uint8 [size, size], 0 the darkest colour."""


class Flow(Clip):
    """Two layers of value noise that flow across each other."""

    family = "flow"

    def _prepare(self) -> None:
        cells = max(2, round(1 / self.factors["scale"]))
        self._layers = [self._tile(cells), self._tile(2 * cells)]
        self._starts = self._random.uniform(0, self._size, (2, 2))

    def _tile(self, cells: int) -> np.ndarray:
        """Noise uint8 [2·size, 2·size] of half the range, whose every window of a frame tiles."""
        nodes = self._random.uniform(0, 127, (cells, cells))
        place = np.arange(2 * self._size) * cells / self._size
        near = place.astype(int)
        weight = place - near
        weight *= weight * (3 - 2 * weight)
        low, high = near % cells, (near + 1) % cells
        rows = nodes[low] * (1 - weight)[:, None] + nodes[high] * weight[:, None]
        return (rows[:, low] * (1 - weight) + rows[:, high] * weight).astype(np.uint8)

    def _levels(self, index: int) -> np.ndarray:
        size, turned = self._size, self._velocity[::-1] * (1, -1)
        total = np.zeros((size, size), np.uint8)
        for layer, start, velocity in zip(
            self._layers, self._starts, (self._velocity, turned), strict=True
        ):
            row, column = ((start + index * velocity) % size).astype(int)
            total += layer[row : row + size, column : column + size]
        return total


class Plasma(Clip):
    """A sum of three waves, along the rows, the columns and the diagonal."""

    family = "plasma"

    def _prepare(self) -> None:
        self._phases = self._random.uniform(0, 2 * np.pi, 3)
        self._diagonal = np.zeros(2 * self._size - 1, np.uint8)
        # [i, j] is entry i + j, without a copy.
        self._sums = np.lib.stride_tricks.sliding_window_view(self._diagonal, self._size)

    def _levels(self, index: int) -> np.ndarray:
        frequency = 2 * np.pi / (self.factors["scale"] * 2 * self._size)
        moved = index * np.array([*self._velocity, self.factors["speed"] / 2])
        place = np.arange(2 * self._size - 1)
        waves = np.sin((place + moved[:, None]) * frequency + self._phases[:, None])
        row, column, diagonal = ((1 + waves) * 42).astype(np.uint8)
        self._diagonal[:] = diagonal
        return row[: self._size, None] + column[: self._size] + self._sums


class Shapes(Clip):
    """Discs and squares that bounce off the edges."""

    family = "shapes"
    count: ClassVar[int] = 6

    def _prepare(self) -> None:
        size, count = self._size, self.count
        self._sides = np.maximum(
            3, self._random.uniform(0.6, 1.4, count) * self.factors["scale"] * size
        ).astype(int)
        self._starts = self._random.uniform(0, size, (count, 2))
        angles = self.factors["angle"] + np.arange(count) * 2 * np.pi / count
        directions = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        self._steps = self.factors["speed"] * directions
        self._tones = self._random.permutation(np.linspace(100, 255, count).astype(np.uint8))
        self._ground = np.uint8(self._random.integers(40))
        self._masks = []
        for k, side in enumerate(self._sides):
            y, x = np.indices((side, side)) - (side - 1) / 2
            disc = y**2 + x**2 <= (side / 2) ** 2
            self._masks.append(disc if k % 2 else np.ones((side, side), bool))

    def _levels(self, index: int) -> np.ndarray:
        levels = np.full((self._size, self._size), self._ground)
        room = (self._size - self._sides)[:, None]
        # There and back again.
        places = np.abs((self._starts + index * self._steps) % (2 * room) - room).astype(int)
        for (row, column), side, mask, tone in zip(
            places, self._sides, self._masks, self._tones, strict=True
        ):
            levels[row : row + side, column : column + side][mask] = tone
        return levels


class Gratings(Clip):
    """Two gratings that drift across each other."""

    family = "gratings"

    def _prepare(self) -> None:
        turns = 256 / (self.factors["scale"] * self._size)  # levels a texel
        self._crossing = self._random.uniform(np.pi / 4, np.pi / 2)
        angles = self.factors["angle"] + np.array([0.0, self._crossing])
        rows, columns = np.indices((self._size, self._size))
        self._bases = [
            (turns * (rows * np.sin(a) + columns * np.cos(a))).astype(np.int64).astype(np.uint8)
            for a in angles
        ]
        self._drift = self.factors["speed"] * turns * np.array([1.0, 0.7])
        wave = (1 + np.sin(np.arange(256) * 2 * np.pi / 256)) * 63
        self._wave = wave.astype(np.uint8)

    def _levels(self, index: int) -> np.ndarray:
        moved = (-index * self._drift).astype(np.int64).astype(np.uint8)
        pairs = zip(self._bases, moved, strict=True)
        one, other = (self._wave.take(base + by) for base, by in pairs)
        return one + other


class Life(Clip):
    """Conway's game of life on a torus, whose cells fade when they die; the board drifts."""

    family = "life"
    tones: ClassVar[tuple[int, ...]] = (255, 110, 50)  # alive now, a generation ago, two

    def _prepare(self) -> None:
        self._cell = 2 if self.factors["scale"] < 0.2 else 4
        self._side = max(8, self._size * 3 // 4)  # smaller boards die out
        self._lasts = max(1, round(4 / self.factors["speed"]))  # frames of a generation
        alive = self._random.random((self._side, self._side)) < 0.35
        # All that came before, so that frames may be asked for in any order.
        self._boards = [np.zeros_like(alive), np.zeros_like(alive), alive]

    def _levels(self, index: int) -> np.ndarray:
        last = index // self._lasts + len(self.tones) - 1
        while len(self._boards) <= last:
            self._boards.append(_next_board(self._boards[-1]))
        fading = [np.uint8(tone) * self._boards[last - age] for age, tone in enumerate(self.tones)]
        board = np.maximum(fading[0], np.maximum(fading[1], fading[2]))
        shift = (index * self._velocity / (2 * self._cell)).astype(int)
        rows, columns = ((np.arange(self._size) // self._cell + by) % self._side for by in shift)
        return board.take(rows, axis=0).take(columns, axis=1)


FAMILIES: dict[str, type[Clip]] = {
    kind.family: kind for kind in (Flow, Plasma, Shapes, Gratings, Life)
}
SPLITS = {"train": ("flow", "plasma", "shapes"), "val": ("gratings", "life")}


def is_procedural(path: object) -> bool:
    """Whether a setting that takes a folder of videos asks for computed ones."""
    return str(path).partition(":")[0] == NAME


def families_of(path: str, split: str | None) -> tuple[str, ...]:
    """The families that ``procedural[:<family>]`` means.

    Args:
        path: The setting; one family that it names serves in every split.
        split: 'train' or 'val'; None for all families.

    Raises:
        ValueError: If there is no such family or split.
    """
    _, _, family = str(path).partition(":")
    if family:
        if family not in FAMILIES:
            raise ValueError(f"there is no family {family!r}: give one of {', '.join(FAMILIES)}")
        return (family,)
    if split is None:
        return tuple(FAMILIES)
    if split not in SPLITS:
        raise ValueError(f"computed backgrounds have the splits train and val, not {split!r}")
    return SPLITS[split]


def _palette(hue: float) -> np.ndarray:
    """256 colours from dark to light, uint32 whose first three bytes are red, green and blue."""
    up = 0.5 - 0.5 * np.cos(np.arange(256) * np.pi / 255)
    dark = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.25))
    light = np.array(colorsys.hsv_to_rgb((hue + 1 / 3) % 1, 0.6, 1.0))
    colors = np.zeros((256, 4), np.uint8)
    colors[:, :3] = np.round(255 * (dark + up[:, None] * (light - dark)))
    return colors.view(np.uint32)[:, 0]


def _next_board(board: np.ndarray) -> np.ndarray:
    """The next generation, bool [side, side] on a torus."""
    rows = board.astype(np.uint8)
    rows = rows + np.roll(rows, 1, 0) + np.roll(rows, -1, 0)
    near = rows + np.roll(rows, 1, 1) + np.roll(rows, -1, 1)  # with the cell itself
    return (near == 3) | (board & (near == 4))
