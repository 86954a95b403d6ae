"""ManiSkill 3 (``maniskill_<id>``), and its tasks before pictures of other places (``rms_<task>``).

The latter are HRSSM's realistic ManiSkill (Sun et al. 2024) by its names: all but the robot and the
task's things is replaced by a picture, which each reset chooses anew. Vulkan draws: see
:mod:`envs.vulkan`. SAPIEN is imported with the first environment.
"""

import functools
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from distracting_control.procedural import NAME
from envs.backgrounds import Backdrop, background_of, play
from envs.packages import Identity, PackageTasks
from envs.settings import MOVING_SETTINGS, EnvSettings
from envs.suites import COMMON, VARIATIONS, Factories, Suite
from envs.vulkan import GPU, find_driver, settle_driver
from envs.wrappers import ActionRepeat
from tools import UserError

PACKAGE = "mani_skill"
CAMERA = "base_camera"
SCENERY = ("ground", "table-workspace")  # what is no part of a task, by the package's names


class Assets(NamedTuple):
    """What a task needs beside the package, by its path below the folder of assets.

    Attributes:
        folder: Where it lies.
        download: What the package's ``download_asset`` calls it.
        listing: A file of the package whose keys are the folder's entries; '' for none.
    """

    folder: str
    download: str
    listing: str = ""


_FAUCETS = "assets/partnet_mobility/meta/info_faucet_train.json"
# The package's tasks with a table and one arm; listing them must not import it.
TASKS: Mapping[str, Assets | None] = {
    "PickCube-v1": None,
    "PushCube-v1": None,
    "PullCube-v1": None,
    "LiftPegUpright-v1": None,
    "StackCube-v1": None,
    "PegInsertionSide-v1": None,
    "PlugCharger-v1": None,
    "TurnFaucet-v1": Assets("partnet_mobility/dataset", "partnet_mobility_faucet", _FAUCETS),
    "AssemblingKits-v1": Assets("tasks/assembling_kits", "assembling_kits"),
}
# HRSSM's names and, in their manner, those of the others.
REALISTIC = {
    "pick_cube": "PickCube-v1",
    "push_cube": "PushCube-v1",
    "pull_cube": "PullCube-v1",
    "lift_peg_upright": "LiftPegUpright-v1",
    "stack_cube": "StackCube-v1",
    "peg_insertion_side": "PegInsertionSide-v1",
    "plug_charger": "PlugCharger-v1",
    "turn_faucet": "TurnFaucet-v1",
    "assembling_kits": "AssemblingKits-v1",
}
# Those of HRSSM's that ManiSkill 2 had and 3 has not, and what comes nearest.
ABSENT = {
    "lift_cube": "LiftCube; rms_pick_cube lifts a cube to a goal",
    "panda_avoid_obstacles": "PandaAvoidObstacles; rms_plug_charger is another long way of an arm",
}
# HRSSM's camera, (eye, target) in metres; its other tasks keep the package's.
_BESIDE = ((0.2, -0.4, 0.4), (0.0, 0.0, 0.3))
CAMERAS = dict.fromkeys(("pick_cube", "push_cube", "turn_faucet"), _BESIDE)


class _Unsplit(str):
    """A device's name: the package would take 'pci:0' apart at its colon."""

    __slots__ = ()

    def __contains__(self, part: object) -> bool:
        return part != ":" and super().__contains__(part)


class ManiSkill(gym.Env):
    """A task of the package, one environment on the CPU; a step is a control step.

    An episode does not end with its success, as in HRSSM; ``info`` has 'success'. Rewards are the
    package's dense ones over their largest, so at most 1 a step, or successes where it has no
    others. A goal is seen, which the package hides from cameras and tells in numbers.

    Attributes:
        scenery: bool [H, W], where the newest picture shows neither robot nor things.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space = spaces.Dict()

    def __init__(self, name: str, size: tuple[int, int], camera: tuple | None = None):
        """Builds a task, whose first picture takes half a minute on a CPU.

        Args:
            name: One of ``TASKS``.
            size: Height and width of the picture.
            camera: (eye, target) [3] each, metres; None for the task's own.
        """
        device = settle_driver()
        import mani_skill.envs  # noqa: F401  # which registers them
        from mani_skill import logger
        from mani_skill.utils.registration import REGISTERED_ENVS
        from mani_skill.utils.sapien_utils import look_at

        # It warns of its own tasks' habits whenever a scene is built, so at each reset.
        logger.setLevel("ERROR")
        kind = REGISTERED_ENVS[name].cls
        seen: dict[str, Any] = {"height": size[0], "width": size[1]}
        if device != GPU:  # SwiftShader draws the package's usual shaders without its lamps
            seen["shader_pack"] = "default"
        if camera is not None:
            seen[CAMERA] = {"pose": look_at(*camera)}
        # Not by Gymnasium: the package would ask at the terminal whether to download assets.
        self._env = kind(
            obs_mode="none",  # else each step draws
            reward_mode=next(
                mode
                for mode in ("normalized_dense", "sparse")
                if mode in kind.SUPPORTED_REWARD_MODES
            ),
            control_mode="pd_ee_delta_pose",
            sensor_configs=seen,
            sim_backend="physx_cpu",
            render_backend=_Unsplit(device),
        )
        box = self._env.single_action_space
        self.action_space = spaces.Box(-1.0, 1.0, box.shape, np.float32)
        self.scenery = np.zeros(size, bool)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Starts an episode in a new scene: an old one's contacts would show in what follows."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31 - 1))
        self._env.reset(seed=seed, options={"reconfigure": True})
        return {}, {"success": 0.0}

    def step(self, action: np.ndarray):
        """One control step of the arm's hand: [−1, 1] are 0.1 m or rad of its pose, and a grip."""
        _, reward, _, _, info = self._env.step(np.asarray(action, np.float32))
        return {}, float(reward), False, False, {"success": float(info["success"])}

    def render(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        scene = self._env.scene
        scene.update_render(update_sensors=True, update_human_render_cameras=False)
        camera = scene.sensors[CAMERA]
        camera.capture()
        pictures = camera.get_obs(rgb=True, depth=False, position=False, segmentation=True)
        image, numbers = (pictures[key][0].cpu().numpy() for key in ("rgb", "segmentation"))
        named = {thing.name: number for number, thing in self._env.segmentation_id_map.items()}
        unnamed = 0  # where there is nothing at all
        behind = [unnamed, *(named[name] for name in SCENERY if name in named)]
        self.scenery = np.isin(numbers[..., 0], behind)
        return image

    def close(self) -> None:
        """Frees the simulation and its renderer."""
        self._env.close()


def _build(name: str, settings: EnvSettings) -> gym.Env:
    env = ManiSkill(name, settings.size)
    return ActionRepeat(env, settings.action_repeat, settings.time_limit)


def _build_before(task: str, settings: EnvSettings, prefix: str) -> gym.Env:
    """A task before pictures.

    Args:
        task: A key of ``REALISTIC``.
        settings: The settings.
        prefix: Of the settings of the background.
    """
    background, dynamic = background_of(settings, prefix, NAME)
    player = play(background, max(settings.size), dynamic=dynamic)
    env = ManiSkill(REALISTIC[task], settings.size, CAMERAS.get(task))
    screened = Backdrop(env, player, lambda _: env.scenery)
    return ActionRepeat(screened, settings.action_repeat, settings.time_limit)


def plain_factories(identity: Identity, settings: EnvSettings) -> Factories:
    """The task, under every variation's name.

    Args:
        identity: (id,).
        settings: Of which repetition, length and size concern it.

    Raises:
        UserError: If what the task needs is not there.
        RenderingError: If nothing can draw.
    """
    _check(identity[0])
    return dict.fromkeys(VARIATIONS, functools.partial(_build, identity[0], settings))


def realistic_factories(identity: Identity, settings: EnvSettings) -> Factories:
    """The task before pictures of set 1 in 'train', of set 2 in 'test', its own in 'original'.

    Args:
        identity: (a key of ``REALISTIC``,).
        settings: Of which repetition, length, size and the background concern it.

    Raises:
        UserError: If what the task needs is not there.
        RenderingError: If nothing can draw.
    """
    _check(REALISTIC[identity[0]])
    before = functools.partial(_build_before, identity[0], settings)
    return {
        "train": functools.partial(before, ""),
        "test": functools.partial(before, "test_"),
        "original": functools.partial(_build, REALISTIC[identity[0]], settings),
    }


def _check(name: str) -> None:
    """Checks that a task can be built and drawn here.

    Raises:
        UserError: What it needs beside the package is not there; one line says where to put it.
        RenderingError: Nothing can draw.
    """
    assets = TASKS[name]
    if assets is not None:
        root = os.environ.get("MS_ASSET_DIR") or Path("~/.maniskill").expanduser()
        folder, entries = Path(root, "data", assets.folder), [""]
        spec = importlib.util.find_spec(PACKAGE)
        if assets.listing and spec is not None and spec.origin is not None:
            entries = list(json.loads((Path(spec.origin).parent / assets.listing).read_text()))
        missing = [folder / entry for entry in entries if not (folder / entry).exists()]
        if missing:
            raise UserError(
                f"{name} needs files that are not in the package: put them into {folder} "
                f"(MS_ASSET_DIR moves it), by python -m mani_skill.utils.download_asset "
                f"{assets.download}; {missing[0]} is not there"
            )
    find_driver()


class _Realistic(PackageTasks):
    """The tasks before pictures; of HRSSM's those that ManiSkill 3 lacks are refused by name."""

    def __getitem__(self, name: str) -> Identity:
        if name in ABSENT:
            raise UserError(f"rms_{name}: ManiSkill 3 has no {ABSENT[name]}")
        return super().__getitem__(name)


_READS = COMMON - {"camera_id", "shadow_size"}

SUITES = (
    Suite(
        "maniskill",
        PackageTasks("maniskill", PACKAGE, lambda: list(TASKS)),
        plain_factories,
        reads=_READS,
        endless=frozenset((name,) for name in TASKS),
        limits=f"Of ManiSkill 3 these are taken: {', '.join(TASKS)}",
        has_distractors=False,
        opengl=False,
    ),
    Suite(
        "rms",
        _Realistic("rms", PACKAGE, lambda: list(REALISTIC), extra="maniskill"),
        realistic_factories,
        reads=_READS | MOVING_SETTINGS,
        endless=frozenset((name,) for name in REALISTIC),
        limits=f"Realistic ManiSkill has: {', '.join(REALISTIC)}",
        block="realistic_maniskill",
        opengl=False,
        has_backdrop=True,
    ),
)
