"""The distractors of games and grids: colours of a whole picture shifted, pictures behind it.

A picture without materials has no parts to recolour, so all its colours move together: hues turn
by an angle, and everything is mixed with a tint. What is told apart by its colour stays so. What is
behind is known by its colour, before colours move.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from distracting_control.color import ColorSettings, color_boxes
from envs.backgrounds import Backdrop, Mask, background_of, play
from envs.settings import MOVING_SETTINGS, EnvSettings
from envs.suites import VARIATIONS, Factories, switch_at_midpoint

READS = MOVING_SETTINGS | {"max_delta", "disjoint_sets", "test_max_delta", "test_disjoint_sets"}

# Turns of the hue about which the sets lie; with boxes of at most ±0.1 they are far apart.
TURNS = {"train": 1 / 3, "test": 2 / 3, None: 0.0}
TINT = 0.25  # the tint's share of each pixel
_STREAM = 4  # tells its generator from the environment's own, and those of other distractors

# Brightness and two axes of colour (YIQ of NTSC), in which hues turn.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)

Colors = tuple[float, str | None]  # max_delta, disjoint_set


class PaletteShift(gym.Wrapper):
    """New colours of the whole picture at each reset, which stay for the episode.

    They come from a generator of their own: the game of a seed is that without them.

    Attributes:
        turn: How far hues are turned, in turns.
        tint: RGB in [0, 1] that is mixed in.
    """

    def __init__(self, env: gym.Env, colors: Colors):
        """Wraps an environment.

        Args:
            env: The environment, whose ``render()`` gives uint8 [H, W, 3].
            colors: (max_delta, disjoint_set) as in :class:`ColorSettings`. Hues turn by that of the
                set ± max_delta / 2; the tint is from the set's box of colours. Without a set it is
                about grey, and about the picture's own hues.

        Raises:
            ValueError: If the sets would overlap.
        """
        super().__init__(env)
        self._delta, self._set = colors
        self._low, self._high = color_boxes(np.full((1, 3), 0.5), self._delta, self._set)
        self._random = np.random.default_rng()
        self.turn, self.tint = 0.0, np.full(3, 0.5)

    @property
    def factors(self) -> dict[str, float]:
        """What was drawn for this episode."""
        tint = dict(zip(("tint_red", "tint_green", "tint_blue"), self.tint.tolist(), strict=True))
        return {"hue_turn": self.turn, **tint}

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode in new colours, which the seed determines."""
        if seed is not None:
            sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
            self._random = np.random.default_rng(sequence)
        reach = self._delta / 2
        self.turn = TURNS[self._set] + float(self._random.uniform(-reach, reach))
        self.tint = self._random.uniform(self._low, self._high)[0]
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._tell(info)

    def step(self, action: Any):
        """One step."""
        *result, info = self.env.step(action)
        return *result, self._tell(info)

    def render(self) -> np.ndarray:
        """The picture in the episode's colours."""
        cos, sin = np.cos(2 * np.pi * self.turn), np.sin(2 * np.pi * self.turn)
        turned = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        matrix = (1 - TINT) * _FROM_YIQ @ turned @ _TO_YIQ
        shifted = self.env.render() @ matrix.T.astype(np.float32)
        shifted += np.float32(255 * TINT) * self.tint.astype(np.float32)
        return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)

    def _tell(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "factors": {**info.get("factors", {}), **self.factors}}


def switch_palette(split: str, color_distractor: bool, second_half: bool) -> str:
    """The variation that an episode is played in: a game's own colours, if nothing is said.

    Args:
        split: 'train' or 'eval', which see the same.
        color_distractor: Whether palettes shift, in one set and then, in the second half of
            training, in the other.
        second_half: Whether training is past its midpoint.

    Raises:
        ValueError: If ``split`` is neither of the two.
    """
    shifted = switch_at_midpoint(split, True, second_half)
    return shifted if color_distractor else "original"


def palettes(
    build: Callable[[Colors | None, str | None], gym.Env], settings: EnvSettings
) -> Factories:
    """The environment in the palette and before the pictures of each variation.

    Args:
        build: Makes one in these colours (None leaves its own), before the background of the
            settings with this prefix (None for none).
        settings: Of which the colours and the background concern it.
    """
    factories = dict.fromkeys(VARIATIONS, functools.partial(build, None, None))
    for name, prefix in (("train", ""), ("test", "test_")):
        colors = ColorSettings.of(vars(settings), prefix)
        shifted = None if colors.leaves_all else (colors.max_delta, colors.disjoint_sets)
        behind = None if background_of(settings, prefix) is None else prefix
        if shifted is not None or behind is not None:
            factories[name] = functools.partial(build, shifted, behind)
    return factories


def distract(
    env: gym.Env, settings: EnvSettings, colors: Colors | None, prefix: str | None, mask: Mask
) -> gym.Env:
    """The environment in other colours, and before pictures whose colours move with it.

    Args:
        env: The environment.
        settings: The settings.
        colors: As of :class:`PaletteShift`; None leaves its own.
        prefix: Of the settings of the background; None for none.
        mask: Which pixels are background, by the environment's own colours.
    """
    background = None if prefix is None else background_of(settings, prefix)
    if background is not None:
        films, dynamic = background
        env = Backdrop(env, play(films, max(settings.size), dynamic=dynamic), mask)
    return env if colors is None else PaletteShift(env, colors)
