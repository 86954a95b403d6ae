"""Colours of the DMControl Generalization Benchmark: of floor, body and sky, for an episode each.

After Hansen and Wang (2021, arXiv 2011.13389). Their hundred sets of a strength, as published, lie
around the suite's own colours: each channel of the floor's darker squares, of the body and of the
sky is normal around it, with a standard deviation of 0.1 (easy) or 0.2 (hard) before it is cut to
[0, 1]; the lighter squares are 0.1 above the darker ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dm_env
import numpy as np

from distracting_control.base import Distraction, RandomLike, Settings, Strength
from distracting_control.pickles import read_arrays

Colors = Mapping[str, np.ndarray]  # each [3] in [0, 1]

# The suite's own, by the benchmark's names.
STOCK: dict[str, tuple[float, float, float]] = {
    "grid_rgb1": (0.1, 0.2, 0.3),
    "grid_rgb2": (0.2, 0.3, 0.4),
    "self_rgb": (0.7, 0.5, 0.3),
    "skybox_rgb": (0.4, 0.6, 0.8),
}
STRENGTHS = {"easy": 0.1, "hard": 0.2}  # standard deviations
GREEN = (0.2, 0.8, 0.2)  # what the benchmark's videos take the place of
# What is painted green, and kept so.
SCREENS = {"sky": ("skybox_rgb",), "all": ("skybox_rgb", "grid_rgb1", "grid_rgb2")}


def draw_colors(random: np.random.Generator, strength: str) -> Colors:
    """A set of colours from the benchmark's distribution.

    Args:
        random: What draws.
        strength: 'easy' or 'hard'.
    """
    drawn = {
        name: np.clip(random.normal(STOCK[name], STRENGTHS[strength]), 0, 1)
        for name in ("grid_rgb1", "self_rgb", "skybox_rgb")
    }
    return {**drawn, "grid_rgb2": np.minimum(drawn["grid_rgb1"] + 0.1, 1)}


def read_colors(folder: str | os.PathLike, strength: str) -> list[Colors]:
    """The benchmark's own sets of colours.

    Args:
        folder: Where its ``color_<strength>.pt`` lies.
        strength: 'easy' or 'hard'.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no such sets; nothing in it is executed.
    """
    path = Path(os.path.expandvars(folder)).expanduser() / f"color_{strength}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the benchmark's folder src/env/data")
    try:
        sets = read_arrays(path)
        colors = [{name: _color(one[name]) for name in STOCK} for one in sets]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no sets of {', '.join(STOCK)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not colors:
        raise ValueError(f"{path} holds no colours")
    return colors


def _color(value: Any) -> np.ndarray:
    color = np.asarray(value, np.float64)
    if color.shape != (3,) or not ((color >= 0) & (color <= 1)).all():
        raise ValueError("a colour is no three numbers in [0, 1]")
    return color


class PaletteSettings(Settings):
    """No key turns a palette on; worlds do, see `envs.worlds`."""

    def kwargs(self, domain: str, strength: Strength) -> dict[str, Any] | None:
        """None: it is off."""
        return None


class DistractingPalette(Distraction):
    """New colours of floor, body and sky in each episode, or a green screen for good.

    What a model lacks of the three is left out. The sky is a gradient from its colour to black, in
    which stars stay as they are. A line around the floor's texture keeps its own colour.

    Attributes:
        colors: The colours now; set by `reset`.
    """

    name, tag, settings = "palette", 5, PaletteSettings

    def __init__(
        self,
        env: dm_env.Environment,
        strength: str | None = None,
        folder: str | os.PathLike | None = None,
        screen: str | None = None,
        random: RandomLike = None,
    ) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment.
            strength: 'easy' or 'hard': how far colours lie from the suite's own.
            folder: Of the benchmark's files, to take one of its sets in each episode; None draws
                from their distribution.
            screen: In place of colours, paint the 'sky', or 'all' but the body, green.
            random: Seed or generator.

        Raises:
            FileNotFoundError: If the folder lacks the file.
            ValueError: If the file holds no colours, or not one of strength and screen is given.
        """
        super().__init__(env, random)
        if (strength in STRENGTHS) == (screen in SCREENS):
            raise ValueError(
                f"a palette has a strength of {', '.join(STRENGTHS)}, or a screen of "
                f"{', '.join(SCREENS)}; not {strength!r} and {screen!r}"
            )
        self._strength, self._screen = strength, screen
        self._sets: Sequence[Colors] = [] if folder is None else read_colors(folder, str(strength))
        self._find()
        self._stale: list[int] = []
        if screen is not None:
            self._paint(dict.fromkeys(SCREENS[screen], np.array(GREEN)), flat=True)

    def factors(self) -> dict[str, float]:
        """Each channel of each colour; none of a screen."""
        if self._screen is not None:
            return {}
        return {
            f"{name}_{channel}": float(value)
            for name, color in self.colors.items()
            for channel, value in zip("rgb", color, strict=True)
        }

    @property
    def physics(self) -> Any:
        """The simulation, with the present colours in its textures."""
        physics = self._env.physics
        while self._stale:
            upload(self._physics, self._stale.pop())
        return physics

    def _begin(self) -> None:
        if self._screen is not None:
            return
        if self._sets:
            self.colors = self._sets[self._random.integers(len(self._sets))]
        else:
            self.colors = draw_colors(self._random, str(self._strength))
        self._paint(self.colors)

    def _find(self) -> None:
        """Textures and materials, by the names of `STOCK`."""
        model = self._physics.model
        named = {model.id2name(i, "texture"): i for i in range(model.ntex)}
        self._grid, self._sky = named.get("grid"), named.get("skybox")
        materials = {model.id2name(i, "material"): i for i in range(model.nmat)}
        self._body = materials.get("self")
        if self._grid is not None:
            texels = _texels(model, self._grid)
            dark = np.floor(np.array(STOCK["grid_rgb1"]) * 255).astype(np.uint8)
            self._dark = (texels == dark).all(axis=-1)
            self._line = np.zeros_like(self._dark)
            self._line[[0, -1]] = self._line[:, [0, -1]] = True
        if self._sky is not None and self._screen is None:
            # Of its three channels blue is the finest; white ones are stars.
            self._blue = _texels(model, self._sky)[..., 2].copy()

    def _paint(self, colors: Colors, flat: bool = False) -> None:
        """Brings colours into the model.

        Args:
            colors: By some of the names of `STOCK`.
            flat: Without the floor's line, the sky's gradient, and its stars.
        """
        model = self._physics.model
        if "self_rgb" in colors and self._body is not None:
            model.mat_rgba[self._body, :3] = colors["self_rgb"]
        if "grid_rgb1" in colors and self._grid is not None:
            texels = _texels(model, self._grid)
            squares = np.array([colors["grid_rgb2"], colors["grid_rgb1"]])
            painted = _bytes(squares)[self._dark.astype(np.intp)]
            if not flat:
                painted[self._line] = _bytes(np.array(STOCK["grid_rgb2"]))
            texels[:] = painted
            self._stale.append(self._grid)
        if "skybox_rgb" in colors and self._sky is not None:
            texels = _texels(model, self._sky)
            if flat:
                texels[:] = _bytes(colors["skybox_rgb"])
            else:
                shades = (np.arange(256) + 0.5) / (255 * STOCK["skybox_rgb"][2])
                table = np.clip(255 * shades[:, None] * colors["skybox_rgb"], 0, 255)
                table[0], table[255] = 0, 255
                for channel, row in enumerate(table.astype(np.uint8).T):
                    texels[..., channel] = row.take(self._blue)
            self._stale.append(self._sky)


def upload(physics: Any, texture: int) -> None:
    """Brings a texture from a model to where it is drawn from.

    Asking for `physics.contexts` would make one. The first rendering does, and reads all textures
    from the model then; without rendering none is needed.
    """
    contexts = physics._contexts
    if contexts is None:
        return
    import mujoco

    with contexts.gl.make_current() as thread:
        thread.call(mujoco.mjr_uploadTexture, physics.model.ptr, contexts.mujoco.ptr, texture)


def _texels(model: Any, texture: int) -> np.ndarray:
    """A view of a texture, uint8 [height, width, 3]."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    start = int(model.tex_adr[texture])
    return model.tex_data[start : start + 3 * height * width].reshape(height, width, 3)


def _bytes(color: np.ndarray) -> np.ndarray:
    """A colour in [0, 1] as MuJoCo's compiler writes it into a texture."""
    return np.floor(255 * np.asarray(color)).astype(np.uint8)
