"""Every setting of an environment, flat, with the defaults of the authors' preset."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

import distracting_control
from envs.textures import TEXTURES

GEOMETRIES = ("package", "published")
TEXTURE_SETTINGS = frozenset({"train_texture", "switch_texture", "texture"})
DISTRACTION_SETTINGS = frozenset(distracting_control.defaults())
BACKGROUND_BY = ("texture", "segmentation")
# What says which pictures move behind or under the robot.
MOVING = ("background_dataset_path", "background_dataset_videos", "background_num_videos")
MOVING_SETTINGS = DISTRACTION_SETTINGS & {
    f"{prefix}{name}" for name in (*MOVING, "dynamic") for prefix in ("", "test_")
}

# One field for each configuration key of each distraction.
_Distractions = make_dataclass(
    "_Distractions",
    [(key, Any, field(default=default)) for key, default in distracting_control.defaults().items()],
    frozen=True,
)


@dataclass(frozen=True)
class EnvSettings(_Distractions):
    """Settings of an environment; a suite reads those that concern it.

    Beside the following it has every key of the distractions, which are described in the files of
    ``distracting_control``. A ``test_`` key is for the variation 'test', its namesake without for
    'train'; without a ``test_`` key the setting holds for both.

    Attributes:
        action_repeat: Control steps per agent step; their rewards are summed.
        time_limit: Length of an episode, in control steps.
        size: Height and width of the image, in pixels.
        grayscale: Whether the image has one channel instead of three.
        camera_id: The model's camera that draws; None for the suite's own: 0, or 2 of the
            quadruped, or from straight above in Pusher and DrawerWorld.
        shadow_size: Side of the shadow map, in texels; None for 1024 on software GL and the
            model's own on a GPU.
        clip_actions: Whether Gymnasium's environments see actions within [−1, 1] alone. If not,
            the simulator limits what they do, but not what their cost of control counts.
        background_by: How the control suite's backgrounds come into the picture: as the 'texture'
            of its sky, or laid behind the robot by a 'segmentation' of the picture.
        dmcgb_path: Folder of the DMControl Generalization Benchmark's colours and movies; None
            draws colours from its distribution, and computes pictures.

        sticky_actions: Whether a frame of an Atari game repeats the last action with probability
            0.25, whatever is chosen.
        noops: Most frames without action at the start of an Atari game, of which at least one is
            drawn; 0 for none.
        life_loss: Whether an Atari game ends with its first life.
        all_actions: All 18 actions in every Atari game, not only those that do something there.
        full_view: Whether MiniGrid is seen whole, from above, instead of by its agent.

        train_texture: Table top of DrawerWorld in the variation 'train'.
        switch_texture: The same in 'switch', the second half of training.
        texture: The same in 'test'.
        drawer_geometry: Goals and successes of DrawerWorld, the 'package' of Meta-World's or those
            'published' with DisWM; see :mod:`envs.drawer_geometry`.
    """

    action_repeat: int = 2
    time_limit: int = 1000
    size: tuple[int, int] = (64, 64)
    grayscale: bool = False
    camera_id: int | None = None
    shadow_size: int | None = None
    clip_actions: bool = True
    background_by: str = "texture"
    dmcgb_path: str | None = None

    sticky_actions: bool = True
    noops: int = 30
    life_loss: bool = False
    all_actions: bool = False
    full_view: bool = False

    train_texture: str = "grid"
    switch_texture: str = "wood"
    texture: str = "metal"
    drawer_geometry: str = "package"

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
        if self.noops < 0:
            raise ValueError(f"noops must be at least 0, not {self.noops}")
        if self.shadow_size is not None and self.shadow_size < 1:
            raise ValueError(f"shadow_size must be above 0, not {self.shadow_size}")
        for name in sorted(TEXTURE_SETTINGS):
            if getattr(self, name) not in TEXTURES:
                known = ", ".join(TEXTURES)
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if self.drawer_geometry not in GEOMETRIES:
            known = " or ".join(GEOMETRIES)
            raise ValueError(f"drawer_geometry must be {known}, not {self.drawer_geometry!r}")
        if self.background_by not in BACKGROUND_BY:
            known = " or ".join(BACKGROUND_BY)
            raise ValueError(f"background_by must be {known}, not {self.background_by!r}")
        for kind in distracting_control.all_settings():
            for prefix in ("", "test_"):
                kind.of(vars(self), prefix)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "EnvSettings":
        """The settings of a flat dictionary.

        Raises:
            ValueError: If a name is not known; the message gives the nearest one.
        """
        known = cls.names()
        for name in settings:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"no env setting is called {name!r}; did you mean {nearest!r}?")
        return cls(**settings)

    @classmethod
    def within(cls, settings: Mapping[str, Any]) -> "EnvSettings":
        """The settings among the keys of a whole configuration."""
        return cls(**cls.pick(settings))

    @classmethod
    def pick(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{name: value} of those keys of a configuration that are settings of environments."""
        return {name: settings[name] for name in cls.names() if name in settings}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in fields(cls))
