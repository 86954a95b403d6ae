"""The cost of growth: update time and memory against batch size, sequence length and horizon.

python -m benchmarks.growth [--setting default] [--json OUT] [--plot OUT.png] [--device cuda:0]

Each quantity is doubled over a range while the others stay at their base (``--batch_size``,
``--batch_length``, ``--horizon``). Every point is a process of its own. ``own GB`` is the peak of
the resident memory above what lay there before the first update; on CUDA it is what the allocator
reserved. The slope is that of a straight line through the logarithms: 1 is proportional. ``last``
is the slope of the last doubling alone, where what does not grow weighs least. No cost should grow
faster than ``work``, the arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import ScalarFormatter

from benchmarks.settings import ACTIONS, PAPER, SETTINGS, check, look, parser
from benchmarks.table import markdown, write
from benchmarks.turns import ROOT, Failed, Worker, count_flops
from figures import save
from tools import UserError, nearest

RANGES = {
    "batch_size": [8, 16, 32, 64],
    "batch_length": [16, 32, 64, 128],
    "imag_horizon": [4, 8, 16, 32],
}
COSTS = {"ms": "ms/update", "own_gb": "own GB", "tflop": "work, TFLOP"}
_NAMES = {"batch_size": "batch size", "batch_length": "sequence length", "imag_horizon": "horizon"}


def measure(spec: Mapping[str, Any], warmup: int, rounds: int, updates: int) -> dict[str, Any]:
    """One point: median, least and largest milliseconds, and gigabytes.

    Raises:
        Failed: the process gave up.
    """
    worker = Worker(spec)
    try:
        for _ in range(warmup):
            worker.update()
        turns = [worker.update(updates) for _ in range(rounds)]
    finally:
        worker.close()
    ms = [1e3 * turn["seconds"] for turn in turns]
    before, after = worker.built["memory"], turns[-1]["memory"]
    own = after.get("cuda_reserved_peak", after["resident_peak"] - before["resident"])
    return {
        "sizes": spec["sizes"],
        "ms": statistics.median(ms),
        "ms_all": ms,
        "own_gb": own / 1e9,
        "gb": after["resident_peak"] / 1e9,
    }


def slopes(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """The exponent of growth through all points, and through the last two."""
    x, y = np.log(np.asarray(values, float)), np.log(np.asarray(costs, float))
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return float(np.polyfit(x, y, 1)[0]), float(last)


def growth(points: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By quantity and cost: ``slope`` and ``last``."""
    found: dict[str, dict[str, Any]] = {}
    for size, row in points.items():
        values = [point["sizes"][size] for point in row]
        fits = {cost: slopes(values, [point[cost] for point in row]) for cost in COSTS}
        found[size] = {c: {"slope": all_, "last": last} for c, (all_, last) in fits.items()}
    return found


def show(points: Mapping[str, Sequence[Mapping[str, Any]]], fits: Mapping[str, Any]) -> str:
    """The points, one a row, and behind each quantity its slopes."""
    body = []
    for size, row in points.items():
        for point in row:
            costs = [f"{point['ms']:.4g}", f"{point['own_gb']:.3g}", f"{point['tflop']:.3g}"]
            per = f"{point['ms'] / point['tflop']:.4g}"
            body.append([f"{_NAMES[size]} {point['sizes'][size]}", *costs, per])
        for kind in ("slope", "last"):
            cells = [f"{fits[size][cost][kind]:.2f}" for cost in COSTS]
            body.append([f"{_NAMES[size]}: {kind}", *cells, ""])
    return markdown(["", *COSTS.values(), "ms/TFLOP"], body)


def draw(
    points: Mapping[str, Sequence[Mapping[str, Any]]], fits: Mapping[str, Any], title: str
) -> plt.Figure:
    """Time and memory on logarithmic axes, a line for each quantity and one of slope 1."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axes, cost, label in zip(panels, ("ms", "own_gb"), ("ms/update", "GB"), strict=True):
        for index, (size, row) in enumerate(points.items()):
            x, y = [p["sizes"][size] for p in row], [p[cost] for p in row]
            name = f"{_NAMES[size]}: slope {fits[size][cost]['slope']:.2f}"
            name += f" (work {fits[size]['tflop']['slope']:.2f})"
            axes.loglog(x, y, "o-", ms=4, color=f"C{index}", label=name)
        x = sorted(p["sizes"][size] for size, row in points.items() for p in row)
        bottom = min(p[cost] for row in points.values() for p in row)
        guide = [bottom, bottom * x[-1] / x[0]]
        axes.loglog([x[0], x[-1]], guide, "--", color="0.6", lw=1, label="slope 1")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlabel="size", ylabel=label)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.suptitle(title)
    return figure


def _parser() -> argparse.ArgumentParser:
    made = parser("growth", __doc__)
    made.set_defaults(batch_size=16)
    made.add_argument("--setting", default="default", help=f"one of {' '.join(SETTINGS)}")
    made.add_argument("--reference", type=Path, help="your checkout of qiwang067/DisWM")
    made.add_argument("--kind", choices=("update", "pretrain"), default="update")
    made.add_argument("--rounds", type=int, default=3, help="measured turns of each point")
    made.add_argument("--updates", type=int, help="updates of one turn; CUDA 10, CPU 1")
    made.add_argument("--plot", type=Path, help="draw the curves there, a PNG")
    for size, values in RANGES.items():
        text = f"sizes to measure; default {' '.join(map(str, values))}"
        name = f"--{size}s".replace("imag_", "")
        made.add_argument(name, dest=f"{size}s", type=int, nargs="+", default=values, help=text)
    return made


def _check(args: argparse.Namespace) -> None:
    check(args)
    if args.setting not in SETTINGS:
        raise UserError(f"no setting is called '{args.setting}'{nearest(args.setting, SETTINGS)}")
    if SETTINGS[args.setting]["source"] == "reference" and args.reference is None:
        raise UserError(f"the setting '{args.setting}' needs --reference, a checkout")
    for size in RANGES:
        values = getattr(args, f"{size}s")
        if len(set(values)) < 2 or min(values) < 1:
            raise UserError(f"--{size}s takes two or more different sizes from 1, not {values}")


def _quantities(kind: str) -> list[str]:
    """What an update's cost may depend on: pretraining imagines nothing."""
    return [size for size in RANGES if kind == "update" or size != "imag_horizon"]


def run(args: argparse.Namespace) -> int:
    """Measures every point, prints the table, writes and draws; returns the exit status."""
    _check(args)
    here = look(args)
    cuda = here["device"].startswith("cuda")
    spec = {**SETTINGS[args.setting], "kind": args.kind, "device": here["device"]}
    spec |= {"threads": args.threads, "actions": ACTIONS}
    spec |= {"checkout": str((args.reference or ROOT).resolve())}
    base = {size: getattr(args, size) for size in PAPER}
    counts = (args.warmup or (5 if cuda else 1), args.rounds, args.updates or (10 if cuda else 1))
    points: dict[str, list[dict[str, Any]]] = {}
    for size in _quantities(args.kind):
        sizes = [{**base, size: value} for value in sorted(set(getattr(args, f"{size}s")))]
        points[size] = []
        for each, flops in zip(sizes, count_flops(spec, sizes), strict=True):
            print(f"{_NAMES[size]} {each[size]}", file=sys.stderr, flush=True)
            point = measure({**spec, "sizes": each}, *counts)
            points[size].append({**point, "tflop": flops / 1e12})
    fits = growth(points)
    print(f"{args.kind}, {args.setting}, at {base} but for what grows; {here['device']}")
    print(show(points, fits))
    if args.json:
        report = {"benchmark": "growth", "kind": args.kind, "setting": args.setting, "base": base}
        write(args.json, {**report, **here, "points": points, "slopes": fits})
    if args.plot:
        title = f"{args.kind} on {here['machine'].get('gpu', here['machine']['cpu'])}"
        figure = draw(points, fits, title)
        save(figure, args.plot, dpi=150)
        plt.close(figure)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit status."""
    try:
        return run(_parser().parse_args(argv))
    except (UserError, Failed) as error:
        print(f"growth: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
