"""Do some runs learn as others do? Their curves over the spread of the others.

python -m figures.spread RUN [RUN …] --within RUN RUN [RUN …] --output spread.png

For each number a panel: grey is the mean of the runs behind --within and two standard deviations
between their seeds on both sides, the lines are the runs in front. What is within is printed: of
runs that learn alike and three seeds about 90% of the points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from figures import save
from figures.learning_curve import read_log
from tools import UserError

_KEYS = (
    "model_loss image_loss reward_loss kl beta_vae_kl_loss distillation_kl_loss actor_loss "
    "value_loss actor_ent train_return eval_return"
)
KEYS = _KEYS.split()
WINDOW = 5  # neighbouring points that share an estimate of the spread


class Curve(NamedTuple):
    """A number's values of several runs at the same steps."""

    steps: np.ndarray  # [T]
    values: np.ndarray  # [runs, T]


class Band(NamedTuple):
    """What runs of the same kind spread over."""

    mean: np.ndarray  # [T]
    half: np.ndarray  # [T], two standard deviations between runs

    def share(self, values: np.ndarray) -> float:
        """The share of values [runs, T] that lie within."""
        return float((np.abs(values - self.mean) <= self.half).mean())


def read(folders: Sequence[Path], key: str) -> Curve | None:
    """A number's curve in each run, at the steps that all of them have.

    Returns:
        None if a run has no such number.

    Raises:
        UserError: a folder holds no log, or a damaged one.
    """
    curves = []
    for folder in folders:
        curves.append({row["step"]: row[key] for row in read_log(folder) if key in row})
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        return None
    values = [[curve[step] for step in steps] for curve in curves]
    return Curve(np.array(steps), np.array(values))


def band(curve: Curve) -> Band:
    """The mean over runs and twice their standard deviation, pooled over neighbouring points."""
    variance = curve.values.var(0, ddof=1)
    window = min(WINDOW, len(variance))
    padded = np.pad(variance, (window // 2, window - 1 - window // 2), mode="edge")
    pooled = np.convolve(padded, np.ones(window) / window, mode="valid")
    return Band(curve.values.mean(0), 2 * np.sqrt(pooled))


def draw(
    runs: dict[str, Curve], within: dict[str, Curve], labels: tuple[str, str]
) -> tuple[plt.Figure, dict[str, float]]:
    """The figure, and for each number the share of the runs' points within the others' band."""
    columns = min(4, len(runs))
    lines = -(-len(runs) // columns)
    size = (3.1 * columns, 2.4 * lines + 0.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    shares = {}
    for axis, (key, curve) in zip(axes.flat, runs.items(), strict=False):
        other = within[key]
        steps, mine, theirs = np.intersect1d(curve.steps, other.steps, return_indices=True)
        spread = band(Curve(steps, other.values[:, theirs]))
        axis.fill_between(
            steps, spread.mean - spread.half, spread.mean + spread.half, color="0.8", lw=0
        )
        axis.plot(steps, spread.mean, color="0.45", label=labels[1])
        for index, values in enumerate(curve.values[:, mine]):
            axis.plot(steps, values, color="C0", lw=1, label=labels[0] if index == 0 else None)
        shares[key] = spread.share(curve.values[:, mine])
        axis.set_title(f"{key}: {shares[key]:.0%} within", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(runs) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("environment frames", fontsize=9)
    return figure, shares


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the runs named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.spread", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of the runs to look at")
    parser.add_argument("--within", nargs="+", type=Path, required=True, help="of the others")
    parser.add_argument("--output", type=Path, default=Path("spread.png"))
    parser.add_argument("--labels", nargs=2, default=("runs", "others"), metavar=("RUNS", "OTHERS"))
    args = parser.parse_args(argv)
    try:
        if len(args.within) < 2:
            raise UserError("one run has no spread: name at least two behind --within")
        found = {key: (read(args.runs, key), read(args.within, key)) for key in KEYS}
        found = {key: pair for key, pair in found.items() if None not in pair}
        if not found:
            raise UserError("these runs have no number in common that both logged at one step")
    except UserError as error:
        print(f"spread: {error}", file=sys.stderr)
        return 2
    runs, within = ({key: pair[i] for key, pair in found.items()} for i in (0, 1))
    figure, shares = draw(runs, within, tuple(args.labels))
    save(figure, args.output, dpi=110)
    plt.close(figure)
    for key, share in shares.items():
        print(f"{key:22} {share:4.0%} of {runs[key].values.size} points within")
    return 0


if __name__ == "__main__":
    sys.exit(main())
