"""Where moving backgrounds come from, films or computed clips, and how they are played."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from distracting_control.procedural import FAMILIES, families_of, is_procedural
from distracting_control.videos import find_videos, open_video, usable


class Frames(Protocol):
    """Frames uint8 [size, size, 3] by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class Films:
    """The films of a folder.

    Attributes:
        paths: Those to choose from.
    """

    def __init__(self, paths: Sequence[Path], size: int, max_frames: int) -> None:
        """Takes films that can be shown.

        Args:
            paths: Folders of images, and movies.
            size: Side of a frame in pixels.
            max_frames: Later frames are not shown.
        """
        self.paths = list(paths)
        self._size, self._max_frames = size, max_frames

    def draw(self, random: np.random.Generator) -> tuple[str, Frames, dict[str, float]]:
        """A film: its name, its frames, and its factor, its place among them all."""
        index = int(random.integers(len(self.paths)))
        film = open_video(self.paths[index], self._size, self._max_frames)
        return self.paths[index].name, film, {"background": index}


class Families:
    """Computed clips.

    Attributes:
        names: Their families.
    """

    def __init__(self, names: Sequence[str], count: int | None, size: int) -> None:
        """Chooses among families.

        Args:
            names: Keys of `procedural.FAMILIES`.
            count: How many clips there are, the same in every run; None for any number.
            size: Side of a frame in pixels.

        Raises:
            ValueError: If the number is below 1.
        """
        if count is not None and count < 1:
            raise ValueError(f"num_videos must be at least 1, not {count}")
        self.names = tuple(names)
        self._count, self._size = count, size

    def draw(self, random: np.random.Generator) -> tuple[str, Frames, dict[str, float]]:
        """A clip: its name, its frames, and its factors, the family as its place among all."""
        seed = int(random.integers(self._count or 2**32))
        family = self.names[seed % len(self.names)]
        clip = FAMILIES[family](seed, self._size)
        told = {f"background_{name}": float(value) for name, value in clip.factors.items()}
        return f"{family}-{seed}", clip, {"background": list(FAMILIES).index(family), **told}


def find_source(
    path: str | os.PathLike,
    split: str | Sequence[str] | None,
    count: int | None,
    size: int,
    max_frames: int,
) -> Films | Families:
    """What a setting of a background means.

    Args:
        path: A folder of films, or ``procedural[:<family>]``.
        split: 'train', 'val', names of films, or None for all.
        count: How many films or clips there are to choose from; None for all.
        size: Side of a frame in pixels.
        max_frames: Later frames of films are not shown.

    Raises:
        FileNotFoundError: If there is no such folder, or no films in it.
        OSError: If the system fails to read one.
        ValueError: If fewer films are there than asked for, none of them can be shown, or there is
            no such family.
    """
    if is_procedural(path):
        by_name = split if split is None or isinstance(split, str) else None
        return Families(families_of(str(path), by_name), count, size)
    found = find_videos(path, split)
    if count is not None and not 1 <= count <= len(found):
        raise ValueError(
            f"{count} background videos asked for, {len(found)} found in "
            f"{path}: set num_videos to between 1 and {len(found)}"
        )
    return Films(usable(found, count, size, max_frames), size, max_frames)


class Player:
    """Plays what a source gives: there and back again, or round and round.

    Attributes:
        source: Where the films or clips come from.
        name: Of the one that plays; set by `begin`.
        index: Number of its frame now; likewise.
    """

    def __init__(
        self,
        source: Films | Families,
        *,
        dynamic: bool = True,
        every: int = 1,
        loops: bool = False,
        from_start: bool = False,
    ) -> None:
        """Plays nothing yet.

        Args:
            source: Where the films or clips come from.
            dynamic: Whether frames move on.
            every: Steps that a frame stays.
            loops: After the last frame comes the first; otherwise they go back from there.
            from_start: Begin with the first frame; otherwise with any, in either direction.
        """
        self.source = source
        self._dynamic, self._every = dynamic, every
        self._loops, self._from_start = loops, from_start

    def begin(self, random: np.random.Generator) -> None:
        """Chooses what to play, and where to begin."""
        self.name, self._frames, self._told = self.source.draw(random)
        self.index, self._direction, self._steps = 0, 1, 0
        if not self._from_start:
            self.index = int(random.integers(len(self._frames)))
        if not self._from_start and not self._loops:
            self._direction = int(random.choice((-1, 1)))

    def advance(self) -> bool:
        """One step; returns whether the frame is another one now."""
        self._steps += 1
        if not self._dynamic or len(self._frames) == 1 or self._steps % self._every:
            return False
        if self._loops:
            self.index = (self.index + 1) % len(self._frames)
            return True
        if not 0 <= self.index + self._direction < len(self._frames):
            self._direction = -self._direction
        self.index += self._direction
        return True

    @property
    def frame(self) -> np.ndarray:
        """The frame now, uint8 [size, size, 3]; not to be written to."""
        return self._frames[self.index]

    @property
    def factors(self) -> dict[str, float]:
        """What is true of the frame now: what plays, its parameters, and the frame's number."""
        return {**self._told, "background_frame": float(self.index)}
