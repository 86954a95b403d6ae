"""Learning curves from run folders: evaluation return, or success rate, against frames.

python -m figures.learning_curve RUN [RUN …] --output curve.png [--csv curve.csv]
python -m figures.learning_curve RUN [RUN …] --value success
python -m figures.learning_curve RUN [RUN …] --axis published
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from envs import UnknownTask, has_switch, parse_task
from figures import save
from fileio import yaml_files
from fileio.atomic import atomic_write
from logger import read_metrics
from tools import UserError
from training.returns import interval
from training.run_names import variant

# What a curve needs to know of its run's configuration.
KEYS = frozenset({"task", "method_name", "seed", "steps", "color_distractor"})

# The paper's figures of dm_control count 2 frames an agent step, in which 4 control steps passed.
AXES = {
    "frames": "environment frames (control steps)",
    "published": "frames as the paper counts them on dm_control (2 control steps each)",
}
DMC = ("dmc", "dmc2gym")

VALUES = {"return": "evaluation return", "success": "success rate in evaluation"}


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log that count.

    Raises:
        UserError: the folder holds no log, or a damaged one.
    """
    try:
        return read_metrics(folder / "metrics.jsonl")
    except FileNotFoundError:
        raise UserError(f"{folder} is no run's folder: it has no metrics.jsonl") from None
    except ValueError as error:
        raise UserError(f"{error}; take it out, or name another run") from None


def read_config(folder: Path) -> dict:
    """A run's configuration, as it was saved.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    path = folder / "config.yaml"
    if not path.exists():
        below = sorted(found.parent for found in folder.glob("*/**/config.yaml"))
        hint = f": did you mean {' '.join(map(str, below[:4]))}?" if below else ""
        raise UserError(f"{folder} is no run's folder: it has no config.yaml{hint}")
    config = yaml_files.load(path)
    if not isinstance(config, dict) or not config.keys() >= KEYS:
        raise UserError(f"{path} is not a run's configuration; name another run")
    return config


def read_run(folder: Path, value: str = "return") -> dict:
    """What a curve shows of a run.

    Args:
        folder: a run's folder, with config.yaml and metrics.jsonl.
        value: a key of ``VALUES``.

    Returns:
        ``config``; ``frames``, ``mean``, ``std`` (of one episode's value), ``episodes`` of each
        evaluation; ``random``: the random policy's ``{"mean", "std", "episodes"}`` or None.

    Raises:
        UserError: the folder holds no evaluated run, or its environment does not tell the value.
    """
    config, rows = read_config(folder), read_log(folder)
    evals = [row for row in rows if "eval_return" in row]
    if not evals:
        raise UserError(f"{folder} has not been evaluated yet")
    if f"eval_{value}" not in evals[0]:
        raise UserError(f"{folder} logs no {value}: its environment does not tell it")
    points = [_point(row, "eval", value) for row in evals]
    curve = {name: np.array([point[name] for point in points]) for name in points[0]}
    curve["frames"] = np.array([row["step"] for row in evals])
    random = next((row for row in rows if "random_return" in row), None)
    random = random and _point(random, "random", value)
    return {**curve, "config": config, "random": random, "value": value}


def _point(row: dict, policy: str, value: str) -> dict:
    """Mean, standard deviation and number of the episodes of one evaluation."""
    mean, episodes = row[f"{policy}_{value}"], int(row[f"{policy}_episodes"])
    if value == "return":
        return {"mean": mean, "std": row[f"{policy}_return_std"], "episodes": episodes}
    # Of zeros and ones the mean tells it, with n − 1 in the denominator as for returns.
    std = (mean * (1 - mean) * episodes / max(episodes - 1, 1)) ** 0.5
    return {"mean": mean, "std": std, "episodes": episodes}


def draw(runs: Sequence[dict], title: str | None = None, axis: str = "frames") -> plt.Figure:
    """One line a run, its mean's 95% interval shaded, the random policy dashed.

    Args:
        runs: what :func:`read_run` returned, of each.
        title: above the picture; default the tasks.
        axis: a key of ``AXES``: what the horizontal axis counts.

    Raises:
        UserError: a task is none of dm_control's, so that the paper counts its frames as they are.
    """
    unit = 1
    if axis == "published":
        unit = 2
        for task in (run["config"]["task"] for run in runs):
            if parse_task(task).suite not in DMC:
                raise UserError(
                    f"--axis published is for dm_control's tasks: leave it out for {task}"
                )
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    tasks = list(dict.fromkeys(run["config"]["task"] for run in runs))
    for index, run in enumerate(runs):
        config, colour = run["config"], f"C{index}"
        label = f"{variant(config['method_name'], config.get('label', ''))}, seed {config['seed']}"
        if len(tasks) > 1:
            label = f"{config['task']}, {label}"
        half = interval(run["std"], run["episodes"])
        frames = run["frames"] / unit
        axes.plot(frames, run["mean"], "o-", ms=3, color=colour, label=label)
        axes.fill_between(
            frames, run["mean"] - half, run["mean"] + half, color=colour, alpha=0.2, lw=0
        )
    config, random = runs[0]["config"], runs[0]["random"]
    if random is not None and len(tasks) == 1:
        half = float(interval(random["std"], random["episodes"]))
        axes.axhline(random["mean"], ls="--", color="0.4", label="random policy")
        axes.axhspan(random["mean"] - half, random["mean"] + half, color="0.4", alpha=0.15, lw=0)
    if config["color_distractor"] and has_switch(config["task"], config):
        switch = config.get("switch_at", config["steps"] / 2) / unit
        axes.axvline(switch, ls=":", color="0.4")
        axes.annotate(
            "new look", (switch, 0.97), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set(xlabel=AXES[axis], ylabel=VALUES[runs[0]["value"]])
    if runs[0]["value"] == "success":
        axes.set_ylim(-0.03, 1.03)
    elif all((run["mean"] >= 0).all() for run in runs):
        axes.set_ylim(bottom=0)  # where zero is the least, it belongs into the picture
    axes.set_title(title or ", ".join(tasks))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def summary(run: dict) -> str:
    """What a run has come to, in one line: its last evaluation beside the random policy's."""

    def words(point: dict) -> str:
        half = float(interval(point["std"], point["episodes"]))
        return f"{point['mean']:.{digits}f} ± {half:.{digits}f}"

    digits = 2 if run["value"] == "success" else 1
    config, random = run["config"], run["random"]
    method = variant(config["method_name"], config.get("label", ""))
    last = {name: run[name][-1] for name in ("mean", "std", "episodes", "frames")}
    beside = f"; a random policy {words(random)}" if random else ""
    return (
        f"{config['task']}, {method}, seed {config['seed']}: {VALUES[run['value']]} {words(last)} "
        f"after {int(last['frames']):,} frames{beside} (95% of {int(last['episodes'])} episodes)"
    )


def write_csv(runs: Sequence[dict], path: Path) -> None:
    """The curves' numbers, one row an evaluation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "method", "seed", "frames", "mean", "std", "episodes"])
    for run in runs:
        c, random = run["config"], run["random"]
        method = variant(c["method_name"], c.get("label", ""))
        if random is not None:
            numbers = [round(random["mean"], 2), round(random["std"], 2), random["episodes"]]
            writer.writerow([c["task"], "random", c["seed"], 0, *numbers])
        rows = zip(run["frames"], run["mean"], run["std"], run["episodes"], strict=True)
        for frames, mean, std, episodes in rows:
            numbers = [int(frames), round(mean, 2), round(std, 2), int(episodes)]
            writer.writerow([c["task"], method, c["seed"], *numbers])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the runs named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.learning_curve", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--value", choices=VALUES, default="return")
    parser.add_argument(
        "--axis",
        choices=AXES,
        default="frames",
        help="published: as the paper's dm_control figures",
    )
    parser.add_argument("--output", type=Path, default=Path("learning_curve.png"))
    parser.add_argument("--csv", type=Path, help="write the numbers, too")
    parser.add_argument("--title")
    args = parser.parse_args(argv)
    try:
        runs = [read_run(folder, args.value) for folder in args.runs]
        figure = draw(runs, args.title, args.axis)
    except (UserError, UnknownTask) as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        return 2
    save(figure, args.output, dpi=150)
    plt.close(figure)
    if args.csv:
        write_csv(runs, args.csv)
    for run in runs:
        print(summary(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
