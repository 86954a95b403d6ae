"""Moving pictures behind the robot, by the picture's own pixels, or under it, as a texture."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from distracting_control.background import (
    COMPUTED_SIZE,
    MAX_FRAMES,
    TEXTURE_SIZE,
    BackgroundSettings,
)
from distracting_control.base import Strength
from distracting_control.procedural import is_procedural
from distracting_control.sources import Player, find_source
from envs.settings import EnvSettings

Mask = Callable[[np.ndarray], np.ndarray]  # a frame [H, W, 3] → bool [H, W], the background

SURFACE = "background"  # name of the texture that a scene's floor is given
SPAN = 2.0  # metres of the floor that it covers
_STREAM = 2  # tells the generator of the background from the physics' own, and the colours'


class Moving(gym.Wrapper):
    """Something plays while an episode lasts, and ``info['factors']`` tells what.

    Where an episode has a seed, that decides what plays and from which frame; it comes from a
    generator of its own, so that the physics of a seed stays as it is.
    """

    def __init__(
        self, env: gym.Env, player: Player, resets: bool = True, by_control_steps: bool = False
    ):
        """Wraps ``env``.

        Args:
            env: The environment.
            player: What plays; each step of ``env`` moves it on.
            resets: Whether an episode without a seed begins anew; otherwise the film goes on.
            by_control_steps: Whether a step of ``env`` is ``info['control_steps']`` of the player.
        """
        super().__init__(env)
        self.player = player
        self._resets, self._random = resets, np.random.default_rng()
        self._by_control_steps = by_control_steps
        self._begun = False

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode."""
        if seed is not None:
            sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
            self._random = np.random.default_rng(sequence)
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None or self._resets or not self._begun:
            self._begun = True
            self.player.begin(self._random)
            self.changed()
        return observation, self._telling(info)

    def step(self, action: np.ndarray):
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = self.player.index
        for _ in range(info["control_steps"] if self._by_control_steps else 1):
            self.player.advance()
        if self.player.index != before:
            self.changed()
        return observation, reward, terminated, truncated, self._telling(info)

    def changed(self) -> None:
        """Called when another frame is to be seen."""

    def _telling(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "factors": {**info.get("factors", {}), **self.player.factors}}


class Backdrop(Moving):
    """Shows frames in place of those pixels that are background."""

    def __init__(
        self, env: gym.Env, player: Player, mask: Mask, *, gray: bool = False, **how: bool
    ):
        """Wraps ``env``.

        Args:
            env: The environment.
            player: What plays, in frames no smaller than the picture.
            mask: Which pixels are background.
            gray: Whether it is shown without colours.
            **how: ``resets`` and ``by_control_steps``, as of :class:`Moving`.
        """
        super().__init__(env, player, **how)
        self._mask, self._gray = mask, gray

    def render(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3]."""
        image = self.env.render()
        height, width, _ = image.shape
        frame = self.player.frame[:height, :width]
        if self._gray:
            # ITU-R BT.601's luma, in 256ths.
            luma = (frame.astype(np.uint16) @ np.array([77, 150, 29], np.uint16)) >> 8
            frame = np.broadcast_to(luma.astype(np.uint8)[..., None], frame.shape)
        return np.where(self._mask(image)[..., None], frame, image)


class MovingTexture(Moving):
    """Shows frames on a texture of a scene of Gymnasium's MuJoCo environments."""

    def __init__(self, env: gym.Env, drawing: gym.Env, player: Player, texture: str, size: int):
        """Wraps ``env``, before its first frame.

        Args:
            env: The environment.
            drawing: The ``MujocoEnv`` within it.
            player: What plays, in frames of ``size``.
            texture: The name of one of the model's textures; one that is not there is its sky.
            size: Side of a frame in texels.

        Raises:
            ValueError: If the model has no such texture, or no room in it.
        """
        super().__init__(env, player)
        import mujoco

        self._model, self._drawing = drawing.model, drawing
        model = self._model
        self._texture = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXTURE, texture)
        self._is_sky = self._texture < 0
        if self._is_sky:
            skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
            if not len(skies):
                raise ValueError(f"the model has neither a texture {texture} nor a sky")
            self._texture = int(skies[0])
        room = int(model.tex_width[self._texture]) * int(model.tex_height[self._texture])
        if size**2 > room or model.tex_nchannel[self._texture] != 3:
            raise ValueError(f"the model's texture has no room for {size}² RGB texels")
        # One square stands for all six faces of a sky.
        model.tex_width[self._texture] = model.tex_height[self._texture] = size
        start = int(model.tex_adr[self._texture])
        self._texels = model.tex_data[start : start + 3 * size**2].reshape(size, size, 3)
        self._stale = False

    def changed(self) -> None:
        self._stale = True

    def render(self) -> np.ndarray:
        """The picture; the environment's own context has to be current, if there is one yet."""
        if self._stale:
            self._stale = False
            frame = self.player.frame
            self._texels[:] = frame[:, ::-1] if self._is_sky else frame  # seen from within
            viewer = self._drawing.mujoco_renderer.viewer
            if viewer is not None:  # the first picture makes it, and reads all textures then
                import mujoco

                mujoco.mjr_uploadTexture(self._model, viewer.con, self._texture)
        return self.env.render()


def background_of(
    settings: EnvSettings, prefix: str, default: str | None = None
) -> tuple[BackgroundSettings, bool] | None:
    """The background of a variation and whether it moves; None if there is none.

    Args:
        settings: The settings.
        prefix: '' for the variation 'train', 'test_' for 'test'.
        default: What is shown where no folder is given; None for nothing.
    """
    background = BackgroundSettings.of(vars(settings), prefix)
    if background.background_dataset_path is None:
        if default is None:
            return None
        background = dataclasses.replace(background, background_dataset_path=default)
    return background, Strength.of(vars(settings), prefix).dynamic


def texture_size(background: BackgroundSettings) -> int:
    """Side of the texture for a background, in texels."""
    computed = is_procedural(background.background_dataset_path)
    return COMPUTED_SIZE if computed else TEXTURE_SIZE


def play(
    background: BackgroundSettings, size: int, max_frames: int = MAX_FRAMES, **how: Any
) -> Player:
    """What plays a background.

    Args:
        background: Which films or clips.
        size: Side of a frame in pixels.
        max_frames: Later frames of films are not shown.
        **how: Arguments of :class:`distracting_control.sources.Player`.
    """
    b = background
    source = find_source(
        b.background_dataset_path or "",
        b.background_dataset_videos,
        b.background_num_videos,
        size,
        max_frames,
    )
    return Player(source, **how)


def add_surface(spec: Any, size: int) -> None:
    """Gives the floor or table of a scene a texture of its own; one without keeps its sky for that.

    Args:
        spec: An ``MjSpec``.
        size: Side of the texture in texels.

    Raises:
        ValueError: If there is neither a plane nor a sky.
    """
    import mujoco

    planes = [geom for geom in spec.geoms if geom.type == mujoco.mjtGeom.mjGEOM_PLANE]
    if not planes:
        if all(texture.type != mujoco.mjtTexture.mjTEXTURE_SKYBOX for texture in spec.textures):
            raise ValueError("the scene has neither a floor nor a sky to show a background on")
        return
    texture = spec.add_texture()
    texture.name, texture.type = SURFACE, mujoco.mjtTexture.mjTEXTURE_2D
    texture.height = texture.width = size
    texture.nchannel = 3
    texture.data = bytes(3 * size**2)
    material = spec.add_material()
    material.name = SURFACE
    textures = list(material.textures)
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = SURFACE
    material.textures = textures
    material.texuniform, material.texrepeat = True, [1 / SPAN, 1 / SPAN]
    planes[0].material, planes[0].rgba = SURFACE, (1.0, 1.0, 1.0, 1.0)


def is_green(image: np.ndarray) -> np.ndarray:
    """The DMControl Generalization Benchmark's key: hue 100° to 185°, S ≥ 80 and V ≥ 70 of 255.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        bool [H, W].
    """
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    # 60° · (2 + (blue − red) / spread) where green is largest, 60° · (4 + (red − green) / spread)
    # where blue is; where red is, the hue lies outside.
    of_green = (green == value) & (3 * (blue - red) >= -spread)
    of_blue = (green < value) & (12 * (red - green) <= -11 * spread)
    vivid = (value >= 70) & (255 * spread >= 80 * value)
    return (red < value) & vivid & (of_green | of_blue)


def is_blue(image: np.ndarray) -> np.ndarray:
    """HRSSM's key: blue above red and green, as floor and sky are in the suite's own colours.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        bool [H, W].
    """
    return (image[..., 2] > image[..., 0]) & (image[..., 2] > image[..., 1])
