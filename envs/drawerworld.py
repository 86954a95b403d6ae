"""DrawerWorld and the rest of Meta-World: ``metaworld_<name>-v1``, ``-v2`` or ``-v3``.

The version is that of the reward function, v3 being the package's default, which is v2's; the
simulator is always its newest.
Only the texture of the table top differs between variations, and there a picture may move. MuJoCo
is imported with the first environment; by then OpenGL is chosen.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from distracting_control.rendering import software_shadow_size
from envs import drawer_geometry
from envs.backgrounds import MovingTexture, background_of, play, texture_size
from envs.other_parts import metaworld_parts
from envs.settings import MOVING_SETTINGS, TEXTURE_SETTINGS, EnvSettings
from envs.suites import COMMON, SPLITS, Factories, Suite
from envs.textures import FILES, TEXTURES, TILE, draw
from envs.wrappers import ActionRepeat, OwnContext

# The package's tasks, here because listing them must not import MuJoCo.
_LISTED = """
    assembly basketball bin-picking box-close button-press button-press-topdown
    button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push dial-turn
    disassemble door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close
    faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
    lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close
    window-open
"""
NAMES = tuple(_LISTED.split())
VERSIONS = ("v1", "v2", "v3")

GOALS = 50  # as many as Meta-World draws for a task

# Straight above the table, as the paper's DrawerWorld is seen.
TOP_CAMERA = {
    "azimuth": 180.0,
    "elevation": -90.0,
    "distance": 0.96,
    "lookat": np.array([0.0, 0.6, 0.0]),
}
TABLE_TEXTURE, TABLE_MATERIAL = "T_table", "table_wood"
SEEN = 0.8  # metres of the table that are seen from there
# From there the table fills the picture, so these are not seen, and no shadow of theirs either.
UNSEEN_BODIES = ("controller_box", "pedestal_feet", "torso", "pedestal", "right_arm_base_link")
UNSEEN_MESH = "tablebody"  # what carries the table top
_UNDRAWN_GROUP = 5  # of the groups of geoms, 0 to 2 are drawn


class MetaWorld(gym.Env):
    """One of Meta-World's environments with one of 50 goals in each episode.

    Goal k is the one that the environment itself draws with seed k; an episode's seed chooses k.
    Training and evaluation see the same 50. Rewards and success are those of the environment.

    Attributes:
        sawyer: The package's environment.
        goal: Number of the episode's goal.
        state: The package's state now, [39]: what its scripted policies act on.
    """

    def __init__(self, sawyer: gym.Env, max_path_length: int):
        """Wraps an environment of the package.

        Args:
            sawyer: The environment.
            max_path_length: Control steps after which it refuses to go on.
        """
        self.sawyer = sawyer
        self.metadata, self.render_mode = {"render_modes": ["rgb_array"]}, "rgb_array"
        self.action_space = sawyer.action_space
        sawyer.max_path_length = max_path_length
        # What its `set_task` does, with goals from its own generator rather than from a list.
        sawyer._set_task_called, sawyer._partially_observable = True, False
        vars(sawyer).pop("sawyer_observation_space", None)  # of before, without the goal
        self.observation_space = sawyer.sawyer_observation_space
        sawyer._freeze_rand_vec, sawyer.seeded_rand_vec = False, True
        self.goal = -1
        self.state = np.zeros(self.observation_space.shape)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode with one of the goals; returns the package's state [39]."""
        import mujoco

        super().reset(seed=seed)
        self.goal = int(self.np_random.integers(GOALS))
        self.sawyer.seed(self.goal)
        self.sawyer.reset()
        # It has moved its object in the model alone; frame and state would show the old place.
        mujoco.mj_forward(self.sawyer.model, self.sawyer.data)
        self.state = self.sawyer._get_obs()
        self.state[18:36] = self.state[:18]  # the step before, which there was none of
        return self.state, {"success": 0.0}

    def step(self, action: np.ndarray):
        """One control step.

        ``info`` has 'success', 1.0 where the package says so, and 'distance', the package's
        distance of the object from its goal in metres where it measures one; with the reward v1
        of the drawers that is along y.
        """
        self.state, reward, terminated, truncated, info = self.sawyer.step(action)
        told = {"success": float(info["success"])}
        if info["obj_to_target"] != 0:  # five tasks write this constant, and measure nothing
            told["distance"] = float(info["obj_to_target"])
        return self.state, float(reward), terminated, truncated, told

    def render(self) -> np.ndarray:
        """The scene now, uint8 [height, width, 3]."""
        return self.sawyer.render()

    def close(self) -> None:
        """Frees the renderer."""
        self.sawyer.close()


def factories(identity: tuple[str, ...], settings: EnvSettings) -> Factories:
    """The task under the texture of each variation, and under each texture's own name.

    'train' is for the first half of training, 'switch' for the second, 'test' for evaluation,
    'original' is the package's own table. A background takes the texture's place: that of set 1 in
    'train' and 'switch', that of set 2 in 'test'.

    Args:
        identity: (name, reward version).
        settings: Of which the first group, the textures, the background and the drawer's geometry
            concern it.

    Raises:
        ValueError: If the task has no such geometry.
    """
    if settings.drawer_geometry == "published":
        drawer_geometry.check(identity)
    of_texture = {
        texture: functools.partial(_build, identity, settings, texture) for texture in TEXTURES
    }
    first, second = (
        functools.partial(_build, identity, settings, None, prefix)
        if background_of(settings, prefix)
        else None
        for prefix in ("", "test_")
    )
    return {
        "train": first or of_texture[settings.train_texture],
        "switch": first or of_texture[settings.switch_texture],
        "test": second or of_texture[settings.texture],
        "original": functools.partial(_build, identity, settings, None),
        **of_texture,
    }


def switch_texture(split: str, color_distractor: bool, second_half: bool) -> str:
    """The variation that an episode is played in: evaluation is always on 'test'.

    Args:
        split: 'train' or 'eval'.
        color_distractor: Whether the texture is switched during training.
        second_half: Whether training is past its midpoint.

    Raises:
        ValueError: If ``split`` is neither of the two.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if split == "eval":
        return "test"
    return "switch" if color_distractor and second_half else "train"


def _build(
    identity: tuple[str, ...],
    settings: EnvSettings,
    texture: str | None,
    prefix: str | None = None,
) -> gym.Env:
    """One environment whose table has the texture; None keeps the package's.

    Args:
        identity: (name, reward version).
        settings: The settings.
        texture: One of ``TEXTURES``.
        prefix: Of the settings of the background; None for none.
    """
    shadow_size = software_shadow_size(settings.shadow_size)
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    name, version = identity
    height, width = settings.size
    background, dynamic = (None if prefix is None else background_of(settings, prefix)) or (None, 0)
    table: str | int | None = texture if background is None else texture_size(background)
    package_class = _textured(ALL_V3_ENVIRONMENTS[f"{name}-v3"], table)
    if settings.drawer_geometry == "published":
        package_class = drawer_geometry.published(package_class, name)
    sawyer = package_class(
        render_mode="rgb_array",
        width=width,
        height=height,
        camera_id=settings.camera_id,
        **({} if version == "v3" else {"reward_function_version": version}),
    )
    if settings.camera_id is None:
        sawyer.mujoco_renderer.default_cam_config = TOP_CAMERA
        if width <= height:  # a wider picture shows what lies beside the table
            leave_out_unseen(sawyer.model)
    # Beyond this many it would refuse, and ActionRepeat ends the episode.
    env: gym.Env = MetaWorld(sawyer, max_path_length=settings.time_limit + 1)
    if background is not None:
        size = texture_size(background)
        player = play(background, size, dynamic=bool(dynamic))
        env = MovingTexture(env, sawyer, player, TABLE_TEXTURE, size)
    env = OwnContext(env, sawyer, settings.camera_id, shadow_size)
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def leave_out_unseen(model: Any) -> None:
    """Draws nothing that cannot be seen from straight above: the image stays, bit for bit.

    That is the floor under the table with its reflection, for which MuJoCo draws the scene twice,
    and the stand of the robot. No other geom mirrors: MuJoCo takes the model's first mirror alone,
    which is the floor. The physics knows nothing of groups and mirrors.

    Args:
        model: The ``MjModel`` of a scene of the package, before its first frame.
    """
    import mujoco

    unseen = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    for name in UNSEEN_BODIES:
        unseen |= (model.geom_bodyid == model.body(name).id) & (model.geom_group < 3)
    is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    unseen |= is_mesh & (model.geom_dataid == model.mesh(UNSEEN_MESH).id) & (model.geom_group < 3)
    model.geom_group[unseen] = _UNDRAWN_GROUP
    model.mat_reflectance[:] = 0.0


def _textured(package_class: type, texture: str | int | None) -> type:
    """The package's class with another table top in its model; nothing else is changed.

    Args:
        package_class: The class.
        texture: One of ``TEXTURES``, a number of texels a side for one that is to be painted over,
            or None for its own.
    """
    if texture is None:
        return package_class

    def _initialize_simulation(self):
        import mujoco

        spec = mujoco.MjSpec.from_file(self.fullpath)
        _set_table(spec, texture)
        model = spec.compile()
        # As Gymnasium's own does: room to draw at the size that is wanted.
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    methods = {"_initialize_simulation": _initialize_simulation}
    return type(package_class.__name__, (package_class,), methods)


def _set_table(spec: Any, texture: str | int) -> None:
    """Puts a texture on the table of a scene.

    Raises:
        ValueError: If the scene has no such table.
    """
    import mujoco

    table, material = spec.texture(TABLE_TEXTURE), spec.material(TABLE_MATERIAL)
    if table is None or material is None:
        raise ValueError(f"Meta-World's scene has no {TABLE_TEXTURE}: no texture can be set")
    # Seen from above the box is a rectangle of 1.4 × 0.8 m; a cube's face would be stretched.
    table.type = mujoco.mjtTexture.mjTEXTURE_2D
    material.texuniform = True
    tile = TILE if isinstance(texture, str) else SEEN
    material.texrepeat = [1 / tile, 1 / tile]
    if isinstance(texture, str) and texture in FILES:
        table.file = str(Path(table.file).with_name(FILES[texture]))
        return
    image = draw(texture) if isinstance(texture, str) else np.zeros((texture, texture, 3), np.uint8)
    table.file = ""
    table.height, table.width, table.nchannel = image.shape
    table.data = image.tobytes()


_TASKS = {f"{name}-{version}": (name, version) for name in NAMES for version in VERSIONS}

SUITES = (
    Suite(
        "metaworld",
        _TASKS,
        factories,
        switch_texture,
        reads=COMMON | TEXTURE_SETTINGS | MOVING_SETTINGS | {"drawer_geometry"},
        endless=frozenset(_TASKS.values()),
        parts=metaworld_parts,
    ),
)
