"""Keeps dm_control's quadruped walking on new versions of NumPy."""

from __future__ import annotations

import numpy as np
from dm_control.suite import quadruped


def _sensor_names(physics: quadruped.Physics, *sensor_types: int) -> list[str]:
    """Names of the model's sensors of some types, remembered until the model is reloaded."""
    known = physics._sensor_types_to_names
    if sensor_types not in known:
        types = [int(sensor_type) for sensor_type in sensor_types]
        indices = np.flatnonzero(np.isin(physics.model.sensor_type, types))
        known[sensor_types] = [physics.model.id2name(index, "sensor") for index in indices]
    return known[sensor_types]


def mend_quadruped() -> None:
    """Replaces the one method that calls `np.in1d`, which NumPy 2.4 removed.

    dm_control 1.0.28 is the newest version that goes with MuJoCo 3.3, and calls it still. Where
    NumPy has the function, nothing is changed.
    """
    if not hasattr(np, "in1d"):
        quadruped.Physics._get_sensor_names = _sensor_names
