"""Published numbers to draw beside ours; where they are from says figures/published/README.md."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs import UnknownTask, parse_task
from figures.style import label_of
from tools import UserError, nearest

FOLDER = Path(__file__).parent / "published"
DMC = ("dmc", "dmc2gym")
READING_ERROR = {"gymnasium_Pusher-v5": 2.0}  # of Figure 4, in return; others 10
# Tasks of Figure 4 by the names in its file.
_TASKS = {"pusher": "gymnasium_Pusher-v5"}


class Published(NamedTuple):
    """A published learning curve.

    Attributes:
        source, task: of the transfer, with the suite's prefix.
        method: as ``--method_name`` has it.
        steps: [T] as the paper counts them.
        returns: [T].
    """

    source: str
    task: str
    method: str
    steps: np.ndarray
    returns: np.ndarray


class Band(NamedTuple):
    """The range of a method's published returns on one task."""

    label: str
    low: float
    high: float


def is_dm_control(task: str) -> bool:
    """Whether a task is of dm_control's suite, whose frames the paper counts by halves."""
    try:
        return parse_task(task).suite in DMC
    except UnknownTask as error:
        raise UserError(str(error)) from None


def published_unit(task: str) -> int:
    """Control steps that passed for each that the paper's figures count."""
    return 2 if is_dm_control(task) else 1


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a file in figures/published/."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.lru_cache(1)
def curves() -> list[Published]:
    """All curves of the paper's Figure 4."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows("figure4.csv"):
        key = (row["transfer"], row["method"])
        points.setdefault(key, []).append((float(row["env_steps"]), float(row["return"])))
    found = []
    for (transfer, method), of_curve in points.items():
        source, task = (_TASKS.get(t, f"dmc2gym_{t}") for t in transfer.split(">"))
        steps, returns = np.array(sorted(of_curve)).T
        found.append(Published(source, task, method, steps, returns))
    return found


def curve(task: str, method: str, source: str = "") -> Published | None:
    """A method's curve on a task, taught by a source if it is taught at all; None without one."""
    name = task.replace("dmc_", "dmc2gym_", 1) if task.startswith("dmc_") else task
    for one in curves():
        if (one.task, one.method) == (name, method) and source in ("", one.source):
            return one
    return None


def settings() -> list[str]:
    """The settings that ``bands`` knows."""
    return list(dict.fromkeys(row["setting"] for row in rows("bands.csv")))


def bands(setting: str, task: str, frames: float) -> list[Band]:
    """The published ranges on a task, at the last published frame that is not beyond ``frames``.

    Raises:
        UserError: there is no such setting.
    """
    if setting not in (known := settings()):
        raise UserError(
            f"there are no published bands of '{setting}'{nearest(setting, known)}; there are "
            f"{', '.join(known)}"
        )
    name = task.replace("dmc_", "dmc2gym_", 1) if task.startswith("dmc_") else task
    found: dict[str, dict[float, list[tuple[float, float]]]] = {}
    for row in rows("bands.csv"):
        if (row["setting"], row["task"]) != (setting, name):
            continue
        at, mean, std = float(row["frames"] or 0), float(row["mean"]), float(row["std"] or 0)
        found.setdefault(row["method"], {}).setdefault(at, []).append((mean - std, mean + std))
    result = []
    for method, by_frame in found.items():
        reached = [at for at in by_frame if at <= frames]
        if not reached:
            continue
        at = max(reached)
        ends = by_frame[at]
        when = f" at {at / 1e6:g}M" if at else ""
        label = f"{label_of(method)}, published, {setting.replace('_', ' ')}{when}"
        result.append(Band(label, min(low for low, _ in ends), max(high for _, high in ends)))
    return result
