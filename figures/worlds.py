"""Every world in one picture: training and test look, the first, a middle and the last frame.

python -m figures.worlds --output worlds.png [--dmcgb_path FOLDER] [--only WORDS …]

A random policy acts, alike in both looks. Without the benchmark's folder its colours are drawn and
its movies are computed pictures, as the backgrounds of the other worlds are in any case. Worlds
whose package is not installed are left out, which a line says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from envs import EnvSettings, RenderingError, factories_of, make_env
from figures import save
from figures.records import REFUSED, refuse
from tools import UserError

STEPS = 40  # agent steps of an episode
MOVES = {"background_dataset_path": "procedural", "dynamic": True, "test_dynamic": True}
BEHIND = {**MOVES, "background_by": "segmentation"}
ARM = {"action_repeat": 1, "time_limit": STEPS}


class Row(NamedTuple):
    """A world: what to call it, its task, and settings of its environment."""

    name: str
    task: str
    settings: Mapping[str, Any] = {}


ROWS = (
    *(
        Row(world, f"dmc_walker_stand_{world}")
        for world in (
            "color_easy",
            "color_hard",
            "video_easy",
            "video_hard",
            "video",
            "distracting_cs",
            "distracting_cs_0.3",
            "sensor_cs",
        )
    ),
    Row("video_hard", "dmc_cheetah_run_video_hard"),
    Row("color_hard", "dmc_reacher_easy_color_hard"),
    Row("moving sky", "dmc2gym_walker_walk", MOVES),
    Row("under the floor", "dmc2gym_reacher_easy", MOVES),
    Row("by segmentation", "dmc2gym_walker_walk", BEHIND),
    Row("moving table", "gymnasium_Pusher-v5", MOVES),
    Row("moving floor", "gymnasium_HalfCheetah-v5", MOVES),
    Row("moving table", "metaworld_drawer-open-v1", MOVES),
    Row("ManiSkill 3", "maniskill_PickCube-v1", ARM),
    *(
        Row("before pictures", f"rms_{name}", ARM)
        for name in ("push_cube", "stack_cube", "peg_insertion_side")
    ),
    Row("moving pictures", "rms_plug_charger", {**ARM, "dynamic": True, "test_dynamic": True}),
)


def can_play(row: Row) -> bool:
    """Whether a world can be played here; a line says why not."""
    try:
        factories_of(row.task, EnvSettings())
    except (UserError, RenderingError) as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def episode(row: Row, variation: str, extra: Mapping[str, Any], seed: int) -> list[np.ndarray]:
    """The first, a middle and the last frame, uint8 [H, W, 3] each, of an episode."""
    settings = {"time_limit": 2 * STEPS, **extra, **row.settings}
    env = make_env(row.task, variation=variation, **settings)
    try:
        observation, _ = env.reset(seed=seed, options={"variation": variation})
        frames, rng = [observation["image"]], np.random.default_rng(seed)
        for _ in range(STEPS):
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            frames.append(env.step(action)[0]["image"])
    finally:
        env.close()
    return [frames[0], frames[STEPS // 2], frames[-1]]


def draw(rows: Sequence[Row], extra: Mapping[str, Any], seed: int = 0) -> plt.Figure:
    """The figure: a row for each world, three frames of training, three of the test."""
    figure, axes = plt.subplots(
        len(rows), 2, figsize=(7.6, 0.98 * len(rows) + 0.4), squeeze=False, layout="compressed"
    )
    for row, line in zip(rows, axes, strict=True):
        print(f"{row.name}: {row.task}", file=sys.stderr, flush=True)
        for axis, variation in zip(line, ("train", "test"), strict=True):
            frames = episode(row, variation, extra, seed)
            axis.imshow(np.concatenate(frames, axis=1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(
            f"{row.name}\n{row.task}", fontsize=5.5, rotation=0, ha="right", va="center"
        )
    for axis, variation in zip(axes[0], ("training", "test"), strict=True):
        axis.set_title(f"{variation}: first frame, step {STEPS // 2}, step {STEPS}", fontsize=7)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.worlds", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("worlds.png"))
    parser.add_argument("--dmcgb_path", help="the benchmark's folder of colours and movies")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose task has such a word")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    args = parser.parse_args(argv)
    rows = [row for row in ROWS if any(word in row.task for word in args.only)]
    if not rows:
        print(f"worlds: no row has any of {' '.join(args.only)} in its task", file=sys.stderr)
        return 2
    rows = [row for row in rows if can_play(row)]
    if not rows:
        return 2
    try:
        figure = draw(rows, {"dmcgb_path": args.dmcgb_path}, args.seed)
        save(figure, args.output, dpi=130)
    except (*REFUSED, ValueError) as error:
        return refuse("worlds", error)
    plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
