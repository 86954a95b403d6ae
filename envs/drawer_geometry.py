"""The goals and successes of the drawers that were published with DisWM, on Meta-World's drawer.

The published environments measure goals from the middle of the chest: 0.35 m in front of it to
open, 0.2 m to close. The handle of their closed drawer is 0.2 m in front of it, that of the
package's is elsewhere. What makes the task is the handle's way, so it is the handle's place from
which goals are measured here:

======  ===================  ======================  ==================  =======
task    the drawer begins    goal of the handle      success within      M
======  ===================  ======================  ==================  =======
open    closed               0.15 m from closed      0.08 m              0.2 m
close   open by 0.2 m        closed                  0.06 m              0.2 m
======  ===================  ======================  ==================  =======

M is that of the reward (v1's) −reach + [reach < 0.05]·max(0, 1000·(M − d) + …); d is the handle's
distance from its goal along y. The package's rail ends at 0.16 m, the published one at 0.2 m.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

RAIL = 0.2  # metres that the published drawer opens
JOINT = "goal_slidey"
_QPOS = 9  # where the package's environments have the drawer's


class Geometry(NamedTuple):
    """One task's.

    Attributes:
        start: how far the drawer is open at the beginning, metres.
        goal: how far it is to be.
        success: the largest distance that succeeds.
        margin: M of the reward.
    """

    start: float
    goal: float
    success: float
    margin: float


PUBLISHED = {
    "drawer-open": Geometry(start=0.0, goal=0.15, success=0.08, margin=0.2),
    "drawer-close": Geometry(start=0.2, goal=0.0, success=0.06, margin=0.2),
}


def check(identity: tuple[str, ...]) -> None:
    """Checks that a task has a published geometry.

    Raises:
        ValueError: it is no drawer, or its reward is not v1's.
    """
    name, version = identity
    if name not in PUBLISHED or version != "v1":
        tasks = " and ".join(f"metaworld_{drawer}-v1" for drawer in PUBLISHED)
        raise ValueError(
            f"drawer_geometry published is for {tasks}: leave it out for metaworld_{name}-{version}"
        )


def published(package_class: Any, name: str) -> type:
    """The package's class with the published goals, successes and rail.

    Args:
        package_class: of a drawer's environment, whatever its table looks like.
        name: a key of ``PUBLISHED``.
    """
    geometry = PUBLISHED[name]

    def reset_model(self: Any) -> np.ndarray:
        self.maxDist = geometry.margin
        self.model.joint(JOINT).range[0] = -RAIL
        package_class.reset_model(self)
        qpos, qvel = self.data.qpos.flat.copy(), self.data.qvel.flat.copy()
        qpos[_QPOS], qvel[_QPOS] = -geometry.start, 0.0
        self.set_state(qpos, qvel)  # and the places of bodies with it
        handle = self._get_pos_objects()
        self._target_pos = handle + np.array([0.0, geometry.start - geometry.goal, 0.0])
        self.model.site("goal").pos = self._target_pos
        return self._get_obs()

    def evaluate_state(
        self: Any, obs: np.ndarray, action: np.ndarray
    ) -> tuple[float, dict[str, Any]]:
        reward, info = package_class.evaluate_state(self, obs, action)
        return reward, {**info, "success": float(info["obj_to_target"] <= geometry.success)}

    methods = {"reset_model": reset_model, "evaluate_state": evaluate_state}
    return type(package_class.__name__, (package_class,), methods)
