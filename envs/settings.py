"""Every setting of an environment, flat, with the defaults of the authors' preset."""

import difflib
from dataclasses import dataclass, fields
from typing import Any

from envs.textures import TEXTURES

TEXTURE_SETTINGS = frozenset({"train_texture", "switch_texture", "texture"})


@dataclass(frozen=True)
class EnvSettings:
    """Settings of an environment; a suite reads those that concern it.

    A ``test_`` setting is for the variation 'test', its namesake without for 'train'. Where it
    is None its namesake holds, except that ``test_disjoint_sets`` None means each material's own
    colour and ``test_background_dataset_path`` None no background. The details of the camera and
    of the background hold for both.

    Attributes:
        action_repeat: Control steps per agent step; their rewards are summed.
        time_limit: Length of an episode, in control steps.
        size: Height and width of the image, in pixels.
        grayscale: Whether the image has one channel instead of three.
        camera_id: The model's camera that draws; None for the suite's own: 0, or 2 of the
            quadruped, or from straight above in Pusher and DrawerWorld.
        shadow_size: Side of the shadow map, in texels; None for 1024 on software GL and the
            model's own on a GPU.

        train_texture: Table top of DrawerWorld in the variation 'train'.
        switch_texture: The same in 'switch', the second half of training.
        texture: The same in 'test'.

        max_delta: Half the side of the box of colours around its centre, per channel in [0, 1].
        step_std: Standard deviation of a colour's change per control step.
        disjoint_sets: The centre of the colours: 'train', 'test', or None for each material's own.
        difficulty: 'easy', 'medium' or 'hard': what of the camera and the background is left
            open below. It turns neither on.
        dynamic: Whether the camera of ``difficulty`` and the background move within an episode.

        camera: Whether the camera is distracted; needs ``difficulty`` or the details below.
        camera_horizontal_delta: Largest turn around the vertical, either way, in radians.
        camera_vertical_delta: Largest turn up or down, in radians.
        camera_roll_delta: Largest roll, either way, in radians.
        camera_max_vel: Largest speed, in metres per control step at 4 m distance.
        camera_vel_std: Standard deviation of the change of velocity per control step.
        camera_max_roll_vel: Largest roll velocity, in radians per control step.
        camera_roll_std: Standard deviation of the change of roll velocity per control step.
        camera_max_zoom_in_percent: Largest approach, as a part of the usual distance, in [0, 1).
        camera_max_zoom_out_percent: Largest retreat, as a part of the usual distance.
        camera_limit_to_upper_quadrant: Whether the camera stays above the ground, on its side.

        background_dataset_path: Folder of the background's videos; None for no background.
        background_dataset_videos: 'train', 'val', or a tuple of video names.
        background_ground_plane_alpha: Opacity of the floor, in [0, 1]; None for the domain's own.
        background_num_videos: Use only the first so many; None leaves it to ``difficulty``.
    """

    action_repeat: int = 2
    time_limit: int = 1000
    size: tuple[int, int] = (64, 64)
    grayscale: bool = False
    camera_id: int | None = None
    shadow_size: int | None = None

    train_texture: str = "grid"
    switch_texture: str = "wood"
    texture: str = "metal"

    max_delta: float = 0.2
    step_std: float = 0.2
    disjoint_sets: str | None = "train"
    difficulty: str | None = None
    dynamic: bool = False
    test_max_delta: float | None = None
    test_step_std: float | None = None
    test_disjoint_sets: str | None = "test"
    test_difficulty: str | None = None
    test_dynamic: bool = False

    camera: bool = False
    test_camera: bool | None = None
    camera_horizontal_delta: float | None = None
    camera_vertical_delta: float | None = None
    camera_roll_delta: float | None = None
    camera_max_vel: float | None = None
    camera_vel_std: float | None = None
    camera_max_roll_vel: float | None = None
    camera_roll_std: float | None = None
    camera_max_zoom_in_percent: float | None = None
    camera_max_zoom_out_percent: float | None = None
    camera_limit_to_upper_quadrant: bool | None = None

    background_dataset_path: str | None = None
    background_dataset_videos: str | tuple[str, ...] = "train"
    background_ground_plane_alpha: float | None = None
    background_num_videos: int | None = None
    test_background_dataset_path: str | None = None
    test_background_dataset_videos: str | tuple[str, ...] = "val"

    def __post_init__(self):
        """Checks what no suite could mend.

        Raises:
            ValueError: If a number is out of its range or a name is not known.
        """
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be a height and a width in pixels, not {self.size}")
        for name in ("action_repeat", "time_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("difficulty", "test_difficulty"):
            if getattr(self, name) not in (None, "easy", "medium", "hard"):
                raise ValueError(
                    f"{name} must be easy, medium, hard or None, not {getattr(self, name)!r}"
                )
        for name in sorted(TEXTURE_SETTINGS):
            if getattr(self, name) not in TEXTURES:
                known = ", ".join(TEXTURES)
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        for name in ("disjoint_sets", "test_disjoint_sets"):
            if getattr(self, name) not in (None, "train", "test"):
                raise ValueError(f"{name} must be train, test or None, not {getattr(self, name)!r}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "EnvSettings":
        """The settings of a flat dictionary.

        Raises:
            ValueError: If a name is not known; the message gives the nearest one.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"no env setting is called {name!r}; did you mean {nearest!r}?")
        return cls(**settings)
