"""A camera that starts off its usual pose and drifts, but keeps looking at the same thing."""

from __future__ import annotations

import dataclasses
from typing import Any

import dm_env
import numpy as np

from distracting_control import geometry
from distracting_control.base import (
    AS_TRAIN,
    DIFFICULTIES,
    Distraction,
    RandomLike,
    Settings,
    Strength,
    setting,
)

# MuJoCo's mjtCamLight, which must not be imported for its numbers' sake.
_FIXED, _TRACK, _TRACK_COM, _TARGET_BODY, _TARGET_BODY_COM = range(5)
_TRACKING = (_TRACK, _TRACK_COM)
_TARGETING = (_TARGET_BODY, _TARGET_BODY_COM)
# Velocities are meant for a camera at this distance and shrink or grow with the real one.
_REFERENCE_RADIUS = 4.0
# With the horizon kept level the heading is undefined at the pole, so the camera stays off it.
_POLE_MARGIN = 0.01
# A camera that looks this steeply down or up has no horizon to keep level.
_STEEP = np.cos(np.deg2rad(15.0))


def camera_preset(domain: str, scale: float, dynamic: bool) -> dict[str, Any]:
    """Arguments of `DistractingCamera` at a scale in [0, 1] (Stone et al. 2021, section 3)."""
    kwargs = {
        "horizontal_delta": np.pi / 2 * scale,
        "vertical_delta": np.pi / 2 * scale,
        "roll_delta": np.pi / 2 * scale,
        "zoom_in": 0.5 * scale,
        "zoom_out": 1.5 * scale,
        # The reacher is seen from straight above, where there are no sides to keep to.
        "upper_quadrant": domain != "reacher",
    }
    if dynamic:
        kwargs |= {
            "vel_std": 0.1 * scale,
            "max_vel": 0.4 * scale,
            "roll_std": np.pi / 300 * scale,
            "max_roll_vel": np.pi / 50 * scale,
        }
    return kwargs


# Settings that are not `camera_` and the argument's own name.
_ARGUMENTS = {
    "camera_max_zoom_in_percent": "zoom_in",
    "camera_max_zoom_out_percent": "zoom_out",
    "camera_limit_to_upper_quadrant": "upper_quadrant",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraSettings(Settings):
    """Settings of the camera; those that are None are left to the difficulty.

    Attributes:
        camera: Whether the camera is distracted; needs a difficulty or the details below.
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
    """

    camera: bool = setting(False, test=AS_TRAIN)
    camera_horizontal_delta: float | None = setting(None)
    camera_vertical_delta: float | None = setting(None)
    camera_roll_delta: float | None = setting(None)
    camera_max_vel: float | None = setting(None)
    camera_vel_std: float | None = setting(None)
    camera_max_roll_vel: float | None = setting(None)
    camera_roll_std: float | None = setting(None)
    camera_max_zoom_in_percent: float | None = setting(None)
    camera_max_zoom_out_percent: float | None = setting(None)
    camera_limit_to_upper_quadrant: bool | None = setting(None)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        zoom = self.camera_max_zoom_in_percent
        if zoom is not None and not 0 <= zoom < 1:
            raise ValueError(f"camera_max_zoom_in_percent is a share below 1, not {zoom}")

    def kwargs(self, domain: str, strength: Strength) -> dict[str, Any] | None:
        """Arguments of `DistractingCamera`: the difficulty's, under those that are given."""
        if not self.camera:
            return None
        values = {field.name: getattr(self, field.name) for field in self.key_fields()}
        given = {
            _ARGUMENTS.get(name, name.removeprefix("camera_")): value
            for name, value in values.items()
            if name != "camera" and value is not None
        }
        if strength.difficulty is None and not given:
            raise ValueError(
                f"{self.prefix}camera is on but nothing says how far it moves: "
                "set difficulty, or camera_horizontal_delta and its like"
            )
        return DistractingCamera.preset(domain, strength.difficulty, strength.dynamic) | given


class DistractingCamera(Distraction):
    """Moves one camera on a bounded piece of a sphere, with bounded roll and zoom.

    The sphere's centre travels with what a tracking camera tracks; for a camera that stands still
    it is the world's origin. The pose is (radius, azimuth, polar angle, roll): metres and radians,
    the polar angle counted from straight above. After Stone et al. (2021), section 3.

    Attributes:
        low: Lower bounds of the pose in this episode, [4]; set by `reset`.
        high: Upper bounds, likewise.
        pose: The pose now, [4]; set by `reset`.
    """

    name, tag, settings = "camera", 2, CameraSettings

    def __init__(
        self,
        env: dm_env.Environment,
        camera_id: int = 0,
        *,
        horizontal_delta: float = 0.0,
        vertical_delta: float = 0.0,
        roll_delta: float = 0.0,
        zoom_in: float = 0.0,
        zoom_out: float = 0.0,
        vel_std: float = 0.0,
        max_vel: float = 0.0,
        roll_std: float = 0.0,
        max_roll_vel: float = 0.0,
        upper_quadrant: bool = True,
        random: RandomLike = None,
    ) -> None:
        """Wraps an environment.

        Args:
            env: A dm_control environment.
            camera_id: Index of a camera of the model.
            horizontal_delta: Largest turn around the vertical, either way, radians.
            vertical_delta: Largest turn up or down, radians.
            roll_delta: Largest roll, either way, radians.
            zoom_in: Largest approach as a part of the usual distance, in [0, 1).
            zoom_out: Largest retreat as a part of the usual distance.
            vel_std: Standard deviation of the change of velocity per control step, metres per
                control step at 4 m distance (as all velocities here).
            max_vel: Largest speed; also the largest initial speed.
            roll_std: Standard deviation of the change of roll velocity per control step, radians.
            max_roll_vel: Largest roll velocity; also the largest initial one.
            upper_quadrant: Keep the camera no lower than what it turns around, and on its side.
            random: Seed or generator.

        Raises:
            ValueError: If a number is negative, the zoom reaches the centre, or there is no such
                camera, or it rides on a moving body.
        """
        super().__init__(env, random)
        self._deltas = np.array([horizontal_delta, vertical_delta, roll_delta])
        self._zoom_in, self._zoom_out = zoom_in, zoom_out
        self._vel_std, self._max_vel = vel_std, max_vel
        self._roll_std, self._max_roll_vel = roll_std, max_roll_vel
        self._upper_quadrant = upper_quadrant
        motion = (vel_std, max_vel, roll_std, max_roll_vel)
        if min(*self._deltas, zoom_in, zoom_out, *motion) < 0:
            raise ValueError("the camera's deltas, zooms and velocities must not be negative")
        if zoom_in >= 1:
            raise ValueError(f"zoom_in must be below 1, not {zoom_in}")
        self._dynamic = max_vel > 0 or max_roll_vel > 0
        self._camera_id = self._checked(camera_id)

    @classmethod
    def preset(cls, domain: str, difficulty: str | None, dynamic: bool) -> dict[str, Any]:
        """Arguments at a difficulty; none without one."""
        if difficulty is None:
            return {}
        return camera_preset(domain, DIFFICULTIES[difficulty], dynamic)

    def _checked(self, camera_id: int) -> int:
        """The camera's index, if the camera can be moved around something it watches."""
        model = self._physics.model
        if not 0 <= camera_id < model.ncam:
            raise ValueError(f"the model has cameras 0 to {model.ncam - 1}, not {camera_id}")
        self._mode = int(model.cam_mode[camera_id])
        body = int(model.cam_bodyid[camera_id])
        if self._mode not in _TRACKING and body != 0:
            name = model.id2name(camera_id, "camera")
            raise ValueError(
                f"camera {camera_id} ({name}) rides on a moving body: "
                "choose one that watches from outside"
            )
        if self._mode in _TARGETING:
            self._watched = int(model.cam_targetbodyid[camera_id])
        else:
            self._watched = body if self._mode in _TRACKING else 1
        return camera_id

    def _watched_position(self) -> np.ndarray:
        """Where the body that the camera watches is, [3] metres."""
        data = self._physics.data
        by_mass = self._mode in (_TRACK_COM, _TARGET_BODY_COM, _FIXED)
        return (data.subtree_com if by_mass else data.xpos)[self._watched].copy()

    def _center(self) -> np.ndarray:
        """Centre of the sphere now, [3] metres."""
        return self._watched_position() if self._mode in _TRACKING else np.zeros(3)

    def _usual(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The undistracted view, which MuJoCo computes anew in every step.

        Returns:
            Position of the camera [3], its axes as columns [3, 3], the point it looks at [3].
        """
        data = self._physics.data
        eye = data.cam_xpos[self._camera_id].copy()
        axes = data.cam_xmat[self._camera_id].reshape(3, 3).copy()
        distance = np.linalg.norm(eye - self._watched_position())
        return eye, axes, eye - distance * axes[:, 2]

    def _begin(self) -> None:
        eye, axes, target = self._usual()
        # A camera that stands still looks at one point for the whole episode.
        self._target = target if self._mode == _FIXED else None
        self._steep = abs(axes[2, 2]) > _STEEP
        radius, azimuth, polar = geometry.to_spherical(eye - self._center())
        self._speed_scale = radius / _REFERENCE_RADIUS
        horizontal, vertical, roll = self._deltas
        low = [radius * (1 - self._zoom_in), azimuth - horizontal, polar - vertical, -roll]
        high = [radius * (1 + self._zoom_out), azimuth + horizontal, polar + vertical, roll]
        if self._upper_quadrant:
            # The usual pose is always allowed, even where it lies outside the quadrant.
            low[1] = max(low[1], azimuth - np.pi / 2)
            high[1] = min(high[1], azimuth + np.pi / 2)
            low[2] = max(low[2], min(polar, _POLE_MARGIN))
            high[2] = min(high[2], max(polar, np.pi / 2))
        self.low, self.high = np.array(low), np.array(high)
        self.pose = self._random.uniform(self.low, self.high)
        direction = self._random.normal(size=3)
        speed = self._random.uniform(0.0, self._max_vel) * self._speed_scale
        self._velocity = speed * direction / np.linalg.norm(direction)
        self._roll_velocity = self._random.uniform(-self._max_roll_vel, self._max_roll_vel)
        self._apply()

    def _advance(self) -> None:
        if self._dynamic:
            self._drift()
        # Also when static: each physics step puts the camera back where the model has it.
        self._apply()

    def _drift(self) -> None:
        """One step of a random walk in velocity, stopped by the bounds."""
        self._velocity += self._random.normal(scale=self._vel_std, size=3) * self._speed_scale
        speed, limit = np.linalg.norm(self._velocity), self._max_vel * self._speed_scale
        if speed > limit:
            self._velocity *= limit / speed
        self._roll_velocity = np.clip(
            self._roll_velocity + self._random.normal(scale=self._roll_std),
            -self._max_roll_vel,
            self._max_roll_vel,
        )
        before = geometry.to_cartesian(self.pose[:3])
        moved = geometry.to_spherical(before + self._velocity)
        moved = geometry.nearest_angles(moved, self.pose[1], across_pole=self.low[2] < 0)
        pose = np.clip([*moved, self.pose[3] + self._roll_velocity], self.low, self.high)
        # What the bounds swallowed is lost, so the camera does not go on pushing against them.
        self._velocity = geometry.to_cartesian(pose[:3]) - before
        self._roll_velocity = pose[3] - self.pose[3]
        self.pose = pose

    def refresh(self) -> None:
        self._apply()

    def _apply(self) -> None:
        _, usual_axes, target = self._usual()
        if self._target is not None:
            target = self._target
        eye = self._center() + geometry.to_cartesian(self.pose[:3])
        forward = geometry.unit(target - eye)
        axes = geometry.turn(usual_axes, forward, level=not self._steep)
        data = self._physics.data
        data.cam_xpos[self._camera_id] = eye
        data.cam_xmat[self._camera_id] = (axes @ geometry.roll(self.pose[3])).ravel()
