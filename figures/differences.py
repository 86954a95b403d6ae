"""Paired differences: how much better an arm is than another one with the same seed.

python -m figures.differences RUNS [RUNS …] --against dreamerv2
python -m figures.differences records.csv --against "without distillation" --output differences

Once at the end, and once as the mean over the way there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import save
from figures.groups import (
    VALUES,
    Group,
    Runs,
    by_task,
    common_frame,
    looks_of,
    runs_of,
    too_early,
    value_of,
)
from figures.records import RANDOM, REFUSED, Record, load, parser_of, refuse
from figures.statistics import Estimate
from figures.style import GREY, RC, TEXT, Look, choose, counted, label_of, named, task_name
from figures.tables import FORMATS, Rows, write
from tools import UserError
from training.returns import interval

ENDINGS = (".png", ".pdf")  # of an output that is the picture alone
COLUMNS = (
    "task", "arm", "frames", "seed", "end", "end_low", "end_high", "way", "way_low", "way_high",
)  # fmt: skip


class Difference(NamedTuple):
    """What one arm has more than another on one task.

    Attributes:
        task: of both.
        group: the arm.
        frame: where both are compared, the last to which all runs of the task have come.
        seeds: that both have.
        end: [seeds], at that frame.
        way: [seeds], the mean from the first frame at which both were evaluated.
    """

    task: str
    group: Group
    frame: int
    seeds: list[int]
    end: np.ndarray
    way: np.ndarray


def differences(
    records: Iterable[Record], against: str, value: str = "return", at: float | None = None
) -> list[Difference]:
    """What all arms have more than one of them, seed by seed.

    Args:
        records: evaluations of one task, or of several.
        against: the arm that is taken away; of several sources of videos, its runs with the
            other arm's.
        value: ``return`` or ``success``.
        at: frames to compare at; default the last to which all runs of a task have come.

    Raises:
        UserError: there is no such arm, no task on which another one has a seed of its, or no
            evaluation of a run up to there.
    """
    panels = {task: runs_of(of_task, value) for task, of_task in by_task(records).items()}
    known = list(dict.fromkeys(group.arm for runs in panels.values() for group in runs))
    against = choose("against", against if against in known else named(against), known)
    found = []
    for task, runs in panels.items():
        if not runs:
            continue
        frame = common_frame(runs, at)
        for group in runs:
            base = _base(runs, group, against)
            if group.arm == against or base is None:
                continue
            seeds = [seed for seed in runs[group] if seed in runs[base]]
            for seed in seeds:
                first = max(runs[one][seed][0].frames for one in (group, base))
                if first > frame:
                    who = f"{task}, {group.arm}, seed {seed} or its pair"
                    raise too_early(who, first, runs, at)
            each = [_of_seed(runs[group][s], runs[base][s], frame, value) for s in seeds]
            if each:
                end, way = np.array(each).T
                found.append(Difference(task, group, frame, seeds, end, way))
    if not found:
        raise UserError(
            f"there is nothing to compare {label_of(against)} with: give runs of another arm with "
            "the same task and seeds"
        )
    return found


def _base(runs: Runs, group: Group, against: str) -> Group | None:
    """The group that another one is compared with: of the same source, or the only one."""
    bases = [base for base in runs if base.arm == against]
    same = [base for base in bases if base.source == group.source]
    return next(iter(same or bases), None) if same or len(bases) == 1 else None


def _of_seed(
    ours: Sequence[Record], theirs: Sequence[Record], frame: int, value: str
) -> tuple[float, float]:
    """The difference of two runs at a frame, and its mean up to there.

    Between evaluations a run lies on the line that joins them.
    """
    from scipy import integrate  # takes longer to import than most commands need

    lines = [
        (np.array([r.frames for r in run]), np.array([value_of(r, value) for r in run], np.float64))
        for run in (ours, theirs)
    ]
    first = max(frames[0] for frames, _ in lines)
    between = np.concatenate([frames for frames, _ in lines])
    grid = np.unique([first, *between[(between > first) & (between < frame)], frame])
    a, b = (np.interp(grid, *line) for line in lines)
    if len(grid) == 1:
        return float(a[-1] - b[-1]), float(a[-1] - b[-1])
    return float(a[-1] - b[-1]), float(integrate.trapezoid(a - b, grid) / (grid[-1] - grid[0]))


def estimate(each: np.ndarray) -> Estimate:
    """The mean over seeds with its 95% interval by Student's t; of one seed that is the number."""
    mean = each.mean()
    half = interval(each.std(ddof=1), len(each)) if len(each) > 1 else 0.0
    return Estimate(mean, mean - half, mean + half)


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    against: str,
    value: str = "return",
    at: float | None = None,
) -> list[Path]:
    """Draws differences, and writes them as a table: text, CSV and LaTeX.

    Args:
        records, against, value, at: see :func:`differences`.
        output: a name that gets each kind's endings; one that ends in ``.png`` or ``.pdf`` is that
            picture alone.

    Raises:
        UserError: see :func:`differences`.
    """
    choose("value", value, VALUES)
    return _write(records, differences(records, against, value, at), output, against, value)


def _write(
    records: Sequence[Record], found: Sequence[Difference], output: Path, against: str, value: str
) -> list[Path]:
    paths = save(figure_of(records, found, against, value), output)
    if Path(output).suffix not in ENDINGS:
        paths += write(rows_of(found, value), output, numbers_of(found))
    return paths


def rows_of(found: Iterable[Difference], value: str) -> Rows:
    """A row for each arm and task, to be read; the first one is the head."""
    rows = [["task", "arm", "frames", "n", "at the end", "mean up to there"]]
    for one in found:
        row = [task_name(one.task), label_of(one.group.arm), f"{one.frame:,}", str(len(one.seeds))]
        rows.append([*row, *(_told(each, value) for each in (one.end, one.way))])
    return rows


def _told(each: np.ndarray, value: str) -> str:
    """A mean with its sign and interval, as texts have them."""
    digits = 2 if value == "success" else 0
    mean, low, high = (
        f"{float(number):+.{digits}f}".replace("-", "−") for number in estimate(each)
    )
    return f"{mean} ({low} to {high})" if len(each) > 1 else mean


def numbers_of(found: Iterable[Difference]) -> Rows:
    """The same for a program: a row for each seed, and one for their mean."""
    rows = [list(COLUMNS)]
    for one in found:
        row = [one.task, one.group.arm, str(one.frame)]
        for seed, end, way in zip(one.seeds, one.end, one.way, strict=True):
            rows.append([*row, str(seed), f"{end:.6g}", "", "", f"{way:.6g}", "", ""])
        if len(one.seeds) > 1:
            means = (*estimate(one.end), *estimate(one.way))
            rows.append([*row, "mean", *(f"{float(number):.6g}" for number in means)])
    return rows


@matplotlib.rc_context(RC)
def figure_of(
    records: Sequence[Record], found: Sequence[Difference], against: str, value: str
) -> Figure:
    """A row of two panels for each task, a line in them for each arm."""
    tasks = list(dict.fromkeys(one.task for one in found))
    looks = looks_of([runs_of(of_task, value) for of_task in by_task(records).values()])
    most = max(sum(one.task == task for one in found) for task in tasks)
    figure = Figure((TEXT, 0.55 + len(tasks) * (0.5 + 0.17 * most)), layout="constrained")
    grid = figure.subplots(len(tasks), 2, squeeze=False)
    for (end, way), task in zip(grid, tasks, strict=True):
        own = [one for one in found if one.task == task]
        _draw_panel(end, [(looks[one.group], one.end) for one in own])
        _draw_panel(way, [(looks[one.group], one.way) for one in own])
        way.set_yticklabels([])
        end.set_title(f"{task_name(task)}, at {own[0].frame:,} frames")
        way.set_title("mean up to there")
    name = looks[next(group for group in looks if group.arm in (against, named(against)))].label
    for axes in grid[-1]:
        axes.set_xlabel(f"{value} minus that of “{name}”")
    scales = " and ".join(
        dict.fromkeys(r.scale or "not named" for r in records if r.method != RANDOM)
    )
    n = counted(len(one.seeds) for one in found)
    figure.supxlabel(
        f"scale: {scales} · n = {n} pairs of one seed (dots) · a line is the 95% interval of their "
        "mean by Student's t",
        fontsize=6.5,
    )
    return figure


def _draw_panel(axes: Axes, arms: Sequence[tuple[Look, np.ndarray]]) -> None:
    for place, (look, each) in enumerate(arms):
        found = estimate(each)
        if len(each) > 1:
            axes.plot([found.low, found.high], [place] * 2, color=look.color, lw=4, alpha=0.35,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot(each, [place] * len(each), ".", color=look.color, ms=4, mew=0)
        axes.plot(found.value, place, look.marker, color=look.color, mec="black", mew=0.4)
    axes.axvline(0, ls=":", lw=0.9, color=GREY)
    axes.set_yticks(range(len(arms)), [look.label for look, _ in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = parser_of("differences", __doc__, VALUES)
    parser.add_argument("--against", required=True, help="the arm that is taken away")
    parser.add_argument("--at", type=float, help="frames; default the last that all have come to")
    parser.add_argument(
        "--output", type=Path, default=Path("differences"),
        help="a .png or .pdf; another name gets both, and a table",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        records, _ = load(args.runs, args.scale)
        found = differences(records, args.against, args.value, args.at)
        print(*_write(records, found, args.output, args.against, args.value), sep="\n")
        rows = rows_of(found, args.value)
        print(f"{args.value} minus that of “{args.against}”:\n{FORMATS['txt'](rows)}", end="")
    except REFUSED as error:
        return refuse("differences", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
