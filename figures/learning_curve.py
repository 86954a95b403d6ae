"""Learning curves from run folders: evaluation return, or success rate, against frames.

python -m figures.learning_curve RUN [RUN …] --output curve.png [--csv curve.csv]
python -m figures.learning_curve RUNS --published same --axis published
python -m figures.learning_curve mine=RUNS theirs=records.csv --band std --seeds

Runs are named by their folders, by folders above them, or by CSV files of records. Runs of one
method and label are one line, their mean over seeds; NAME=… names a line. There is a panel for each
task.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import reference, save
from figures.curves import AXES, PUBLISHED, Settings, figure_of
from figures.groups import (
    BANDS,
    BY,
    VALUES,
    by_task,
    common_frame,
    curve_of,
    over_episodes,
    random_of,
    runs_of,
)
from figures.records import REFUSED, Record, load, parser_of, refuse, write_csv
from figures.runs import switches


def summary(records: Sequence[Record], value: str) -> list[str]:
    """What runs have come to: a line for each, beside the random policy, and one for several seeds.

    Args:
        records: of any tasks.
        value: a key of ``VALUES``.
    """
    digits, lines = 2 if value == "success" else 1, []

    def words(mean: float, low: float, high: float) -> str:
        return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"

    for task, of_task in by_task(records).items():
        for group, seeds in runs_of(of_task, value).items():
            for seed, run in seeds.items():
                last = words(*(float(part[0]) for part in over_episodes(run[-1:], value)))
                own = random_of((r for r in of_task if r.seed == seed), value)
                beside = f"; a random policy {words(*map(float, own))}" if own else ""
                lines.append(
                    f"{task}, {group.arm}, seed {seed}: {VALUES[value]} {last} after "
                    f"{run[-1].frames:,} frames{beside} (95% of {run[-1].episodes} episodes)"
                )
            if len(seeds) > 1:
                curve = curve_of(seeds, value)
                numbers = (curve.mean[-1], curve.low[-1], curve.high[-1])
                mean, low, high = (f"{number:.{digits}f}" for number in numbers)
                lines.append(
                    f"{task}, {group.arm}, {len(seeds)} seeds: {VALUES[value]} {mean} after "
                    f"{common_frame({group: seeds}):,} frames (95% bootstrap interval {low} to "
                    f"{high})"
                )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("learning_curve", __doc__, VALUES)
    parser.add_argument("--axis", choices=AXES, default="frames", help="published: as the paper's")
    parser.add_argument("--band", choices=BANDS, default="ci", help="what is shaded")
    parser.add_argument("--seeds", action="store_true", help="a thin line for each seed, too")
    parser.add_argument("--by", choices=BY, default="arm", help="source: lines by their videos")
    parser.add_argument(
        "--published", choices=PUBLISHED, default="none", help="the paper's curves, dashed"
    )
    parser.add_argument(
        "--bands", default="", metavar="SETTING",
        help=f"others' published returns: {', '.join(reference.settings())}",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=float, default=float("inf"), metavar="FRAMES", help="where the axis ends"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("learning_curve.png"),
        help="a .png or .pdf; another name gets both",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, help="write the numbers, too")
    parser.add_argument("--title", default="")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the runs named on the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    drawn = ("value", "axis", "band", "seeds", "by", "published", "bands", "until", "title")
    try:
        records, runs = load(args.runs, args.scale)
        chosen = {name: getattr(args, name) for name in drawn}
        figure = figure_of(records, Settings(switch=switches(runs), **chosen))
        print(*save(figure, args.output), sep="\n")
        if args.csv:
            write_csv(records, args.csv)
    except REFUSED as error:
        return refuse("learning_curve", error)
    print(*summary(records, args.value), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
