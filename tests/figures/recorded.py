"""Run folders and records that the tests of figures write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures.records import Record

TASK = "dmc2gym_walker_walk"


def config_text(**changes: Any) -> str:
    """A run's configuration as far as figures read it."""
    values = {"task": TASK, "method_name": "diswm", "seed": 3, "steps": 100}
    values |= {"color_distractor": "true", **changes}
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def evaluation(step: int, who: str, mean: float, std: float, n: int, **more: float) -> dict:
    """A line of a log."""
    values = {"return": mean, "return_std": std, "episodes": n, **more}
    return {"step": step, **{f"{who}_{name}": value for name, value in values.items()}}


ROWS = [
    evaluation(0, "random", 20.0, 10.0, 4),
    evaluation(0, "eval", 30.0, 5.0, 4),
    {"step": 10, "image_loss": 3.0},
    evaluation(50, "eval", 80.0, 8.0, 4),
]


def make_run(folder: Path, rows: Sequence[dict] = ROWS, **changes: Any) -> Path:
    """A run's folder with two evaluations and the random policy's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config_text(**changes))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_records(
    values: Sequence[Sequence[float]],
    arm: str = "diswm",
    frames: Sequence[int] = (0, 10),
    **changes,
) -> list[Record]:
    """Evaluations of several seeds: values [seeds, T]."""
    fields = {"study": "s", "scale": "cpu", "task": TASK, "source": "", "return_std": 2.0}
    fields |= {"episodes": 4, "success": None, "method": arm.partition("-")[0], **changes}
    return [
        Record(arm=arm, seed=seed, frames=frame, ret=float(ret), **fields)
        for seed, row in enumerate(values)
        for frame, ret in zip(frames, row, strict=True)
    ]
