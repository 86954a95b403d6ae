"""Parts of a scene, each with its true factors: their names, their values now, and drawing them.

A suite says of which parts its scenes are made (`Suite.parts`): joints, colours, a camera. Of each
part some numbers are factors of the picture, and a part can draw them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np


class Factor(NamedTuple):
    """A true factor of a picture.

    Attributes:
        name: Such as ``wrist`` or ``self.red``.
        group: What it belongs to: a colour's three channels are of one group.
        kind: ``number``; ``angle`` in radians, which goes round; ``choice``, a whole number that
            only names.
    """

    name: str
    group: str
    kind: str = "number"


class Part:
    """Something of a scene.

    Attributes:
        factors: Always the same.
    """

    factors: Sequence[Factor]

    def values(self) -> Sequence[float]:
        """Their values now."""
        raise NotImplementedError

    def draw(self, random: np.random.Generator) -> None:
        """Draws those that a new episode has not drawn yet, independently of all others."""

    def see(self, info: Mapping[str, Any]) -> None:
        """Takes what the environment tells of a step."""


class Told(Part):
    """What ``info['factors']`` tells: palettes and backgrounds.

    A single frame does not tell what a background's motion is, nor is the number of its frame more
    than a name for the picture, so those are none. The lighter squares of a palette are the darker
    ones' but where they reach white.
    """

    _HIDDEN = ("background_speed", "background_angle", "background_frame")
    _FOLLOW = ("grid_rgb2_",)
    _TURNS = ("background_hue", "hue_turn")  # angles that are told in turns

    def __init__(self, info: Mapping[str, Any]):
        """Takes an episode's first info, which has the names."""
        told = info.get("factors", {})
        self._names = [n for n in told if n not in self._HIDDEN and not n.startswith(self._FOLLOW)]
        self.factors = [Factor(name, self._group(name), self._kind(name)) for name in self._names]
        self.see(info)

    def _group(self, name: str) -> str:
        head, _, channel = name.rpartition("_")
        return head if channel in (*"rgb", "red", "green", "blue") else name

    def _kind(self, name: str) -> str:
        if name in self._TURNS:
            return "angle"
        return "choice" if name == "background" else "number"

    def see(self, info: Mapping[str, Any]) -> None:
        told = info.get("factors", {})
        turns = dict.fromkeys(self._TURNS, 2 * np.pi)
        self._values = [turns.get(name, 1.0) * told[name] for name in self._names]

    def values(self) -> list[float]:
        return self._values


Parts = Callable[[gym.Env], Sequence[Part]]  # of an environment as its suite builds it
