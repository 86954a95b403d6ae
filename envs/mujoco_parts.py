"""Parts of MuJoCo's scenes: joints, what an episode moves in the model, materials in view.

They take the bare ``MjModel`` and ``MjData``, whichever package they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from envs.parts import Factor, Part

# MuJoCo's mjtJoint, which must not be imported for its numbers' sake.
_FREE, _BALL, _SLIDE, _HINGE = range(4)
_PLANE = 0  # likewise of mjtGeom
_DRAWN_GROUPS = 3  # of geoms and sites the first ones are drawn
_OWN_COLOR = (0.5, 0.5, 0.5, 1.0)  # of what is drawn in its material's
_AXES, _TURNS = ("x", "y", "z"), ("yaw", "pitch", "roll")

Ranges = Mapping[str, tuple[float, float]]


class Joints(Part):
    """Positions of all joints.

    Hinges are drawn within their limits, or from the whole circle; slides within their limits; of
    balls and free bodies the orientation, uniformly. What has no limits otherwise stays as the
    episode's beginning has it.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        forward: Callable[[], None],
        ranges: Ranges | None = None,
        lands: bool = False,
        leaves: Collection[str] = (),
    ):
        """Takes a model.

        Args:
            model: The ``MjModel``.
            data: Its ``MjData``.
            forward: Brings what follows from positions up to date.
            ranges: Of joints without limits, or in their place, by the joint's name.
            lands: Whether the body is set on the ground; where its root is, is no factor then.
            leaves: Joints that are neither drawn nor factors.
        """
        self._model, self._data, self._forward = model, data, forward
        self._lands = lands
        self._joints = [j for j in range(model.njnt) if model.joint(j).name not in leaves]
        if lands:
            self._height = self._find_height()
            self._joints = [j for j in self._joints if not self._is_root_slide(j)]
        self._ranges = {j: self._range(j, ranges or {}) for j in self._joints}
        self.factors = [factor for j in self._joints for factor in self._factors(j)]

    def _is_root_slide(self, joint: int) -> bool:
        is_slide = self._model.jnt_type[joint] == _SLIDE
        return bool(is_slide and not self._model.jnt_limited[joint])

    def _find_height(self) -> int:
        """The number of the position that is the body's height: a free joint or a slide along z."""
        model = self._model
        for joint in range(model.njnt):
            if model.jnt_type[joint] == _FREE:
                return int(model.jnt_qposadr[joint]) + 2
            if self._is_root_slide(joint) and model.jnt_axis[joint][2] == 1:
                return int(model.jnt_qposadr[joint])
        raise ValueError("no joint of the model lifts its body")

    def _range(self, joint: int, ranges: Ranges) -> tuple[float, float] | None:
        """What it is drawn from uniformly; None if it is not."""
        model, name = self._model, self._model.joint(joint).name
        if name in ranges:
            return ranges[name]
        if model.jnt_type[joint] in (_SLIDE, _HINGE) and model.jnt_limited[joint]:
            low, high = model.jnt_range[joint]
            return float(low), float(high)
        return (-np.pi, np.pi) if model.jnt_type[joint] == _HINGE else None

    def _factors(self, joint: int) -> list[Factor]:
        name, kind = self._model.joint(joint).name or f"joint {joint}", self._model.jnt_type[joint]
        if kind in (_FREE, _BALL):
            angles = [Factor(f"{name}.{turn}", f"{name}.{turn}", "angle") for turn in _TURNS]
            is_placed = kind == _FREE and not self._lands
            places = [Factor(f"{name}.{axis}", f"{name}.{axis}") for axis in _AXES if is_placed]
            return [*angles, *places]
        return [Factor(name, name, "angle" if kind == _HINGE else "number")]

    def draw(self, random: np.random.Generator) -> None:
        model, qpos = self._model, self._data.qpos
        for joint in self._joints:
            start, drawn = int(model.jnt_qposadr[joint]), self._ranges[joint]
            if model.jnt_type[joint] in (_FREE, _BALL):
                start += 3 if model.jnt_type[joint] == _FREE else 0
                quaternion = random.normal(size=4)
                qpos[start : start + 4] = quaternion / np.linalg.norm(quaternion)
            elif drawn is not None:
                qpos[start] = random.uniform(*drawn)
        if self._lands:
            qpos[self._height] -= model.stat.extent  # surely below the ground
            self._forward()
            qpos[self._height] += self._depth()
        self._forward()

    def _depth(self) -> float:
        """How far the model lies below its ground, in metres."""
        contact, kind = self._data.contact, self._model.geom_type
        on_plane = (kind[contact.geom] == _PLANE).any(axis=1)
        return max(0.0, -float(contact.dist[on_plane].min())) if on_plane.any() else 0.0

    def values(self) -> list[float]:
        model, qpos, values = self._model, self._data.qpos, []
        for joint in self._joints:
            start, kind = int(model.jnt_qposadr[joint]), model.jnt_type[joint]
            if kind not in (_FREE, _BALL):
                values.append(float(qpos[start]))
                continue
            turn = start + (3 if kind == _FREE else 0)
            values += euler_angles(qpos[turn : turn + 4])
            if kind == _FREE and not self._lands:
                values += qpos[start : start + 3].tolist()
        return values


def euler_angles(quaternion: np.ndarray) -> list[float]:
    """Yaw, pitch and roll of a unit quaternion (w, x, y, z), in radians, intrinsic z-y-x.

    Of a uniform rotation they are independent.
    """
    w, x, y, z = quaternion
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return [float(yaw), float(pitch), float(roll)]


class Moved(Part):
    """Places and sizes that an episode draws in the model itself, such as a target's."""

    _FIELDS: ClassVar = {"geom": ("pos", "size"), "site": ("pos",), "body": ("pos",)}

    def __init__(self, model: Any, kinds: Sequence[str] = ("geom", "site", "body")):
        """Takes an ``MjModel``, and of which kinds of things places are told, in which order."""
        self._fields = [(kind, field) for kind in kinds for field in self._FIELDS[kind]]
        self._model = model
        counts = {"geom": model.ngeom, "site": model.nsite, "body": model.nbody}
        self.factors = []
        for kind, field in self._fields:
            for i in range(counts[kind]):
                name = getattr(model, kind)(i).name or f"{kind} {i}"
                tail = "." if field == "pos" else ".size_"
                self.factors += [
                    Factor(f"{name}{tail}{axis}", f"{name}{tail}{axis}") for axis in _AXES
                ]

    def values(self) -> np.ndarray:
        fields = [getattr(self._model, f"{kind}_{field}").ravel() for kind, field in self._fields]
        return np.concatenate(fields)


def materials_in_view(model: Any) -> list[int]:
    """Numbers of the materials whose colours something that is drawn has, in their order.

    A geom or site has its material's colour unless it has one of its own.
    """
    found = set()
    for kind in ("geom", "site"):
        rgba, material, group = (getattr(model, f"{kind}_{f}") for f in ("rgba", "matid", "group"))
        drawn = (material >= 0) & (group < _DRAWN_GROUPS) & (rgba == _OWN_COLOR).all(axis=1)
        found |= {int(m) for m in material[drawn] if model.mat_rgba[m, 3] > 0}
    return sorted(found)
