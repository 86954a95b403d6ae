"""Colours of all materials, drawn per episode and wandering with every control step."""

from __future__ import annotations

import dataclasses
from typing import Any

import dm_env
import numpy as np

from distracting_control.base import (
    AS_TRAIN,
    DIFFICULTIES,
    Distraction,
    RandomLike,
    Settings,
    Strength,
    setting,
)

# Centres of the two disjoint sets. Their green boxes, 0.3 ± δ and 0.7 ± δ, stay apart up to
# δ = MAX_DISJOINT_DELTA, where they touch.
CENTERS = {"train": (0.7, 0.3, 0.5), "test": (0.5, 0.7, 0.3)}
MAX_DISJOINT_DELTA = 0.2


def color_preset(scale: float, dynamic: bool) -> dict[str, Any]:
    """Arguments of `DistractingColor` at a scale in [0, 1] (Stone et al. 2021, section 3)."""
    return {"max_delta": scale, "step_std": 0.03 * scale if dynamic else 0.0}


def color_boxes(
    own: np.ndarray, max_delta: float, disjoint_set: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners of the boxes that colours are drawn from.

    Args:
        own: Colours of the things themselves, [M, 3] in [0, 1].
        max_delta: Half the side of a box, in units of a channel's range [0, 1].
        disjoint_set: Centre of all boxes: that of `'train'`, that of `'test'`, or with `None` each
            one's own colour.

    Returns:
        Two arrays [M, 3] in [0, 1].

    Raises:
        ValueError: If `max_delta` is negative, the set unknown, or the boxes of the two sets would
            overlap in every channel.
    """
    if max_delta < 0:
        raise ValueError(f"max_delta must not be negative, got {max_delta}")
    if disjoint_set is not None and disjoint_set not in CENTERS:
        raise ValueError(f"disjoint_set must be 'train', 'test' or None, not {disjoint_set!r}")
    if disjoint_set is not None and max_delta > MAX_DISJOINT_DELTA:
        raise ValueError(
            f"max_delta {max_delta} makes the train and test colours overlap: "
            f"lower it to {MAX_DISJOINT_DELTA} or less, or leave disjoint_set unset"
        )
    center = own if disjoint_set is None else np.broadcast_to(CENTERS[disjoint_set], own.shape)
    return np.clip(center - max_delta, 0.0, 1.0), np.clip(center + max_delta, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorSettings(Settings):
    """Settings of the colours, which are on wherever one could change.

    Attributes:
        max_delta: Half the side of the box of colours around its centre, per channel in [0, 1].
        step_std: Standard deviation of a colour's change per control step.
        disjoint_sets: The centre of the colours: 'train', 'test', or None for each material's own.
    """

    max_delta: float = setting(0.2, test=AS_TRAIN)
    step_std: float = setting(0.2, test=AS_TRAIN)
    disjoint_sets: str | None = setting("train", test="test")

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.disjoint_sets not in (None, *CENTERS):
            raise ValueError(
                f"{self.prefix}disjoint_sets must be train, test or None, "
                f"not {self.disjoint_sets!r}"
            )
        if not 0 <= self.max_delta <= 1:
            raise ValueError(
                f"{self.prefix}max_delta must be between 0 and 1, not {self.max_delta}"
            )
        if self.max_delta > MAX_DISJOINT_DELTA and self.disjoint_sets:
            raise ValueError(
                f"{self.prefix}max_delta {self.max_delta} makes the train and test colours "
                f"overlap: give at most {MAX_DISJOINT_DELTA}, or {self.prefix}disjoint_sets null"
            )

    @property
    def leaves_all(self) -> bool:
        """Whether everything keeps its own colour."""
        return self.max_delta == 0 and self.disjoint_sets is None

    def kwargs(self, domain: str, strength: Strength) -> dict[str, Any] | None:
        """Arguments of `DistractingColor`; the difficulty plays no part."""
        if self.leaves_all:
            return None
        return {
            "max_delta": self.max_delta,
            "step_std": self.step_std,
            "disjoint_set": self.disjoint_sets,
        }


class DistractingColor(Distraction):
    """Keeps the RGB of every material in a box around a centre.

    At reset each colour is drawn uniformly from its box. Each control step adds N(0, step_std) to
    every channel and clips to the box.

    Attributes:
        low: Lower corners of the boxes, [M, 3] in [0, 1] for M materials.
        high: Upper corners, likewise.
    """

    name, tag, settings = "color", 1, ColorSettings

    def __init__(
        self,
        env: dm_env.Environment,
        step_std: float,
        max_delta: float,
        disjoint_set: str | None = None,
        random: RandomLike = None,
    ) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment.
            step_std: Standard deviation of a channel's change per control step; 0 is static.
            max_delta: Half the side of a box, in units of a channel's range [0, 1].
            disjoint_set: Centre of all boxes: that of `'train'`, that of `'test'`, or with `None`
                each material's own colour.
            random: Seed or generator.

        Raises:
            ValueError: If a number is negative, the set unknown, or the boxes of the two sets
                would overlap in every channel.
        """
        if step_std < 0:
            raise ValueError(f"step_std must not be negative, got {step_std}")
        super().__init__(env, random)
        self._step_std = step_std
        own = np.array(self._physics.model.mat_rgba[:, :3], dtype=np.float64)
        self.low, self.high = color_boxes(own, max_delta, disjoint_set)
        self._rgb = own

    @classmethod
    def preset(cls, domain: str, difficulty: str | None, dynamic: bool) -> dict[str, Any]:
        """Arguments at a difficulty; none without one."""
        return {} if difficulty is None else color_preset(DIFFICULTIES[difficulty], dynamic)

    @property
    def rgb(self) -> np.ndarray:
        """A copy of the colours now, [M, 3] in [0, 1]."""
        return self._rgb.copy()

    def _begin(self) -> None:
        self._rgb = self._random.uniform(self.low, self.high)
        self._apply()

    def _advance(self) -> None:
        if self._step_std == 0:
            return
        noise = self._random.normal(scale=self._step_std, size=self._rgb.shape)
        self._rgb = np.clip(self._rgb + noise, self.low, self.high)
        self._apply()

    def _apply(self) -> None:
        self._physics.model.mat_rgba[:, :3] = self._rgb
