"""Spherical coordinates and camera orientations. Cameras look along their own −z, y is up."""

from __future__ import annotations

import numpy as np

_UP = np.array([0.0, 0.0, 1.0])


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector [3] scaled to length 1."""
    return vector / np.linalg.norm(vector)


def to_spherical(point: np.ndarray) -> np.ndarray:
    """Radius, azimuth in (−π, π] and polar angle in [0, π] of a point [3]."""
    x, y, z = point
    return np.array([np.linalg.norm(point), np.arctan2(y, x), np.arctan2(np.hypot(x, y), z)])


def to_cartesian(spherical: np.ndarray) -> np.ndarray:
    """The point [3] of a radius, an azimuth and a polar angle; any real angles will do."""
    radius, azimuth, polar = spherical
    return radius * np.array(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    )


def nearest_angles(spherical: np.ndarray, azimuth: float, across_pole: bool) -> np.ndarray:
    """Names the same point by the angles closest to a known azimuth.

    Args:
        spherical: Radius, azimuth, polar angle [3].
        azimuth: The azimuth to be close to.
        across_pole: Whether a negative polar angle, seen from the azimuth's other side, may be
            used. Without it, a camera that passes the pole would jump to the far bound.

    Returns:
        Radius, azimuth, polar angle [3] of the same point.
    """
    radius, turned, polar = spherical
    names = [(turned, polar)]
    if across_pole:
        names.append((turned + np.pi, -polar))
    whole = 2 * np.pi
    names = [(a + whole * np.round((azimuth - a) / whole), p) for a, p in names]
    return np.array([radius, *min(names, key=lambda name: abs(name[0] - azimuth))])


def turn(axes: np.ndarray, forward: np.ndarray, level: bool) -> np.ndarray:
    """Turns a camera towards a new direction; its own direction gives back its own axes.

    Args:
        axes: The camera's axes as columns [3, 3].
        forward: Unit vector [3] to look along.
        level: Keep the horizon as it lies in the picture; neither direction may be vertical.
            Otherwise turn by the shortest way, which needs no horizon.

    Returns:
        The turned axes [3, 3].
    """
    if level:
        return _level(forward) @ _level(-axes[:, 2]).T @ axes
    return _shortest(-axes[:, 2], forward) @ axes


def roll(angle: float) -> np.ndarray:
    """Rotation [3, 3] by an angle in radians around the camera's own z."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _level(forward: np.ndarray) -> np.ndarray:
    """Axes of a camera that looks along a direction with its horizon level."""
    right = unit(np.cross(forward, _UP))
    return np.stack([right, np.cross(right, forward), -forward], axis=1)


def _shortest(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation of one unit vector into another (Rodrigues), not for opposite ones."""
    x, y, z = np.cross(start, end)
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + skew + skew @ skew / (1.0 + start @ end)
