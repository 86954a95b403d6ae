"""Videos or computed pictures in place of the sky, optionally seen through the floor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dm_env
import numpy as np

from distracting_control.base import AS_TRAIN, Distraction, RandomLike, Settings, Strength, setting
from distracting_control.palette import upload
from distracting_control.procedural import is_procedural
from distracting_control.sources import Films, Player, find_source

if TYPE_CHECKING:
    from dm_control.mujoco import Physics

NUM_VIDEOS = {"easy": 4, "medium": 8, "hard": None}  # per difficulty; None for all
# Defaults. Of a sky of six such faces a picture of 64×64 shows at most one texel a pixel; computed
# pictures have nothing finer to show.
TEXTURE_SIZE, COMPUTED_SIZE, MAX_FRAMES = 128, 64, 512
_FLOOR_ALPHA = {"reacher": 0.0, "walker": 1.0, "cheetah": 1.0}


def background_preset(
    domain: str, num_videos: int | None = None, dynamic: bool = False
) -> dict[str, Any]:
    """Arguments of `DistractingBackground` for a domain (Stone et al. 2021, section 3)."""
    return {
        "num_videos": num_videos,
        "dynamic": dynamic,
        "floor_alpha": _FLOOR_ALPHA.get(domain, 0.3),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackgroundSettings(Settings):
    """Settings of the background.

    Attributes:
        background_dataset_path: Folder of the background's videos, or procedural[:<family>] for
            computed ones; None for no background.
        background_dataset_videos: 'train', 'val', or a tuple of video names.
        background_ground_plane_alpha: Opacity of the floor, in [0, 1]; None for the domain's own.
        background_num_videos: Use only the first so many; None leaves it to the difficulty.
    """

    background_dataset_path: str | None = setting(None, test=AS_TRAIN)
    background_dataset_videos: str | tuple[str, ...] = setting("train", test="val")
    background_ground_plane_alpha: float | None = setting(None)
    background_num_videos: int | None = setting(None)

    def kwargs(self, domain: str, strength: Strength) -> dict[str, Any] | None:
        """Arguments of `DistractingBackground`: the preset's, under those that are given."""
        if self.background_dataset_path is None:
            return None
        given = {
            "num_videos": self.background_num_videos,
            "floor_alpha": self.background_ground_plane_alpha,
        }
        return {
            **DistractingBackground.preset(domain, strength.difficulty, strength.dynamic),
            "dataset_path": self.background_dataset_path,
            "dataset_videos": self.background_dataset_videos,
            **{name: value for name, value in given.items() if value is not None},
        }


class DistractingBackground(Distraction):
    """Shows a random video from a random frame on, forwards and backwards in turn.

    At reset a video, a start frame and a direction are drawn. A dynamic background moves by one
    frame per control step and turns round at either end; a static one keeps its frame.

    The frame is written to the skybox texture when `physics` is next asked of this env (or of one
    around it), not in every control step: an upload costs a good part of a rendering, and frames
    that nobody sees need none. So render with `env.physics.render(...)`, and hold no older
    reference to the physics.
    """

    name, tag, settings = "background", 3, BackgroundSettings

    def __init__(
        self,
        env: dm_env.Environment,
        dataset_path: str | os.PathLike | None,
        dataset_videos: str | Sequence[str] | None = "train",
        num_videos: int | None = None,
        *,
        dynamic: bool = False,
        every: int = 1,
        floor_alpha: float | None = None,
        texture_size: int | None = None,
        max_frames: int = MAX_FRAMES,
        random: RandomLike = None,
    ) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment whose model has a skybox.
            dataset_path: Folder of image sequences (folders of images) and movie files, or
                `'procedural'`, `'procedural:<family>'` for computed ones.
            dataset_videos: `'train'`, `'val'`, a sequence of names, or `None` for all; see
                `videos.find_videos`.
            num_videos: Use only the first so many that can be shown; `None` for all.
            dynamic: Move by one frame per control step.
            every: Control steps that a frame stays.
            floor_alpha: Opacity of the material `grid`, in [0, 1]; `None` leaves it.
            texture_size: Side of the sky's six square faces in texels, of which one fills 90
                degrees; `None` for 128, or 64 of a computed picture.
            max_frames: Read no more frames than this of a video.
            random: Seed or generator.

        Raises:
            FileNotFoundError: If there is no such folder, or no videos in it.
            OSError: If the system fails to read a video.
            ValueError: If no folder is given, fewer videos are there than asked for, none of them
                can be shown, a number is out of range, or the model has no skybox or no floor.
        """
        super().__init__(env, random)
        if dataset_path is None:
            raise ValueError(
                "a background needs videos: set background_dataset_path, "
                "or difficulty=None and kwargs for the camera and colours alone"
            )
        if texture_size is None:
            texture_size = COMPUTED_SIZE if is_procedural(dataset_path) else TEXTURE_SIZE
        if texture_size < 1 or max_frames < 1:
            raise ValueError("texture_size and max_frames must be at least 1")
        source = find_source(dataset_path, dataset_videos, num_videos, texture_size, max_frames)
        self._player = Player(source, dynamic=dynamic, every=every)
        self._size = texture_size
        self._stale = self._is_flat = False
        self._prepare_texture()
        if floor_alpha is not None:
            self._set_floor(floor_alpha)

    @classmethod
    def preset(cls, domain: str, difficulty: str | None, dynamic: bool) -> dict[str, Any]:
        """Arguments at a difficulty, all but the videos; without one, those of the domain."""
        return background_preset(domain, NUM_VIDEOS.get(difficulty), dynamic)

    def _prepare_texture(self) -> None:
        import mujoco

        model = self._physics.model
        skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        if not len(skies):
            raise ValueError("the model has no skybox texture to show a background in")
        self._sky = int(skies[0])
        room = int(model.tex_width[self._sky]) * int(model.tex_height[self._sky])
        if self._size**2 > room or model.tex_nchannel[self._sky] != 3:
            raise ValueError(f"the model's skybox has no room for {self._size}² RGB texels")
        # A square image stands for all six faces; MuJoCo's own sky has six below each other.
        model.tex_width[self._sky] = model.tex_height[self._sky] = self._size
        start = int(model.tex_adr[self._sky])
        texels = model.tex_data[start : start + 3 * self._size**2]
        self._texels = texels.reshape(self._size, self._size, 3)

    def _set_floor(self, alpha: float) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"floor_alpha must be in [0, 1], not {alpha}")
        grid = self._physics.model.name2id("grid", "material")
        self._physics.model.mat_rgba[grid, 3] = alpha

    @property
    def videos(self) -> list[Path]:
        """Paths of the videos to choose from; none of computed ones."""
        source = self._player.source
        return source.paths if isinstance(source, Films) else []

    @property
    def frame(self) -> tuple[str, int]:
        """Name of the video shown and index of its frame now; set by `reset`."""
        return self._player.name, self._player.index

    def factors(self) -> dict[str, float]:
        """What plays, its parameters if it is computed, and the number of its frame."""
        return self._player.factors

    @property
    def physics(self) -> Physics:
        """The simulation, with the present frame in the sky."""
        if self._stale:
            self._stale = False
            self._upload()
        return self._env.physics

    def _begin(self) -> None:
        self._player.begin(self._random)
        self._stale = True

    def _advance(self) -> None:
        self._stale |= self._player.advance()

    def _upload(self) -> None:
        # The sky is a cube's outside seen from within: mirrored here, it reads the right way round.
        self._texels[:] = self._player.frame[:, ::-1]
        contexts = self._physics.contexts  # made here where there was no picture yet
        if not self._is_flat:
            self._is_flat = True
            with contexts.gl.make_current() as thread:
                thread.call(_drop_levels, int(contexts.mujoco.ptr.texture[self._sky]))
        upload(self._physics, self._sky)


def _drop_levels(texture: int) -> None:
    """Leaves a cube of textures without its smaller copies, which cost most of an upload.

    They are for texels smaller than a pixel, and those of a background hardly ever are. The number
    is OpenGL's.
    """
    from OpenGL import GL

    GL.glBindTexture(GL.GL_TEXTURE_CUBE_MAP, texture)
    GL.glTexParameteri(GL.GL_TEXTURE_CUBE_MAP, GL.GL_TEXTURE_MAX_LEVEL, 0)
