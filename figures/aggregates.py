"""Several tasks in one number: IQM, performance profiles, probability of improvement.

python -m figures.aggregates RUNS [RUNS …] --output aggregates
python -m figures.aggregates records.csv --range gymnasium_Pusher-v5 -150 -45

After Agarwal et al., arXiv 2108.13264; intervals are of the stratified bootstrap.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import reference, save
from figures.groups import VALUES, by_task, common_frame, random_of, runs_of, scores_at, too_early
from figures.records import RANDOM, REFUSED, Record, load, parser_of, refuse
from figures.statistics import Estimate, bootstrap, improvement, iqm, mean_of_tasks, profile
from figures.statistics import normalize as to_unit
from figures.style import RC, TEXT, Look, choose, counted, looks, named, task_name
from tools import UserError

Ranges = Mapping[str, tuple[float, float]]
WIDTH = 120  # characters of the line below the panels
THRESHOLDS = np.linspace(0, 1, 51)


class Table(NamedTuple):
    """Normalised scores.

    Attributes:
        tasks: those on which every arm has runs.
        frames: where each task's runs are compared.
        scores: {(method, arm): one array [runs] for each task}.
        left_out: tasks on which an arm has none.
    """

    tasks: list[str]
    frames: dict[str, int]
    scores: dict[tuple[str, str], list[np.ndarray]]
    left_out: list[str]


def range_of(
    task: str, records: Sequence[Record], value: str, ranges: Ranges
) -> tuple[float, float]:
    """What of a task is 0 and what is 1.

    Success is a share already; dm_control's returns are of 0 to 1000; Pusher's go from a random
    policy's to the best that Figure 4 of the paper has.

    Raises:
        UserError: it has to be given.
    """
    if task in ranges:
        low, high = map(float, ranges[task])
        if not low < high:
            raise UserError(f"the range of {task} is to go upwards, not from {low:g} to {high:g}")
        return low, high
    if value == "success":
        return 0.0, 1.0
    if reference.is_dm_control(task):
        return 0.0, 1000.0
    random = random_of(records, value)
    best = [one.returns.max() for one in reference.curves() if one.task == task]
    if random is None or not best:
        raise UserError(f"returns of {task} have no known range: give it, --range {task} LOW HIGH")
    return float(random.value), float(max(best))


def table_of(
    records: Sequence[Record],
    value: str = "return",
    at: float | None = None,
    ranges: Ranges | None = None,
) -> Table:
    """The normalised scores of every arm that are compared.

    Args:
        records: evaluations of any tasks.
        value: ``return`` or ``success``.
        at: frames to compare at; default the last that all runs of a task have come to.
        ranges: {task: (what is 0, what is 1)} where :func:`range_of` does not know it.

    Raises:
        UserError: there is no task on which all arms have runs, a range is missing, or an arm has
            no evaluation up to there.
    """
    panels = by_task(records)
    runs = {task: runs_of(of_task, value) for task, of_task in panels.items()}
    arms = list(dict.fromkeys(group[:2] for of_task in runs.values() for group in of_task))
    shared = [t for t, of_task in runs.items() if {g[:2] for g in of_task} == set(arms)]
    if not shared or not arms:
        raise UserError(
            "there is no task on which all arms have runs: give fewer arms, or run more"
        )
    scores: dict[tuple[str, str], list[np.ndarray]] = {arm: [] for arm in arms}
    frames = {}
    for task in shared:
        low, high = range_of(task, panels[task], value, ranges or {})
        frames[task] = common_frame(runs[task], at)
        for arm in arms:
            each = [
                scores_at(s, frames[task], value) for g, s in runs[task].items() if g[:2] == arm
            ]
            if not (found := np.concatenate(each)).size:
                own = (s for g, s in runs[task].items() if g[:2] == arm)
                first = min(run[0].frames for s in own for run in s.values())
                raise too_early(f"{task}, {arm[1]}", first, runs[task], at)
            scores[arm].append(to_unit(found, low, high))
    return Table(shared, frames, scores, [task for task in runs if task not in shared])


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    value: str = "return",
    at: float | None = None,
    ranges: Ranges | None = None,
    against: str = "",
    title: str = "",
) -> list[Path]:
    """Draws aggregates over tasks to files.

    Args:
        records, value, at, ranges: see :func:`table_of`.
        output: where to; see :func:`figures.save`.
        against: the arm whose probability of improvement over the others is drawn; default
            ``diswm`` where it is there, else the first.
        title: above all; none by default.

    Raises:
        UserError: see :func:`table_of`; or there is no such arm.
    """
    choose("value", value, VALUES)
    table = table_of(records, value, at, ranges)
    return save(figure_of(table, records, against, title), output)


@matplotlib.rc_context(RC)
def figure_of(table: Table, records: Sequence[Record], against: str, title: str) -> Figure:
    """The figure that :func:`draw` writes."""
    found = looks(list(table.scores))
    arms = list(found)
    names = [arm for _, arm in arms]
    given = against if against in names else named(against)
    against = choose("against", given, names) if against else _default(names)
    ours = next(arm for arm in arms if arm[1] == against)
    figure = Figure((TEXT, 0.95 + 0.2 * max(len(arms), 5)), layout="constrained")
    middle, mean, lines, better = figure.subplots(1, 4, width_ratios=[1, 1, 1.3, 1.1])
    for axes, statistic, name in ((middle, iqm, "IQM"), (mean, mean_of_tasks, "mean")):
        each = {arm: bootstrap(table.scores[arm], statistic) for arm in arms}
        _draw_points(axes, each, found)
        axes.set_title(name)
        axes.set_xlabel("normalised score")
    mean.set_yticklabels([])
    _draw_profiles(lines, {arm: table.scores[arm] for arm in arms}, found)
    others = {
        arm: improvement(table.scores[ours], table.scores[arm]) for arm in arms if arm != ours
    }
    _draw_points(better, others, found)
    better.axvline(0.5, ls=":", lw=0.9, color="0.35")
    better.set_xlim(-0.03, 1.03)
    better.set_title(f"P({found[ours].label} is better)")
    better.set_xlabel("probability")
    figure.supxlabel(_caption(table, records), fontsize=6.5)
    if title:
        figure.suptitle(title)
    return figure


def _default(names: Sequence[str]) -> str:
    return "diswm" if "diswm" in names else names[0]


def _draw_points(
    axes: Axes, each: Mapping[tuple[str, str], Estimate], found: Mapping[tuple[str, str], Look]
) -> None:
    """A point and its interval for each arm, the first one at the top."""
    for place, (arm, estimate) in enumerate(each.items()):
        look = found[arm]
        axes.plot([estimate.low, estimate.high], [place] * 2, color=look.color, lw=4, alpha=0.35,
                  solid_capstyle="butt")  # fmt: skip
        axes.plot(estimate.value, place, look.marker, color=look.color)
    axes.set_yticks(range(len(each)), [found[arm].label for arm in each])
    axes.set_ylim(len(each) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _draw_profiles(
    axes: Axes,
    scores: Mapping[tuple[str, str], Sequence[np.ndarray]],
    found: Mapping[tuple[str, str], Look],
) -> None:
    for arm, own in scores.items():
        look, share = found[arm], profile(own, THRESHOLDS)
        axes.plot(THRESHOLDS, share.value, color=look.color, marker=look.marker, markevery=10)
        axes.fill_between(THRESHOLDS, share.low, share.high, color=look.color, alpha=0.15, lw=0)
    axes.set_title("performance profile")
    axes.set_xlabel("normalised score τ")
    axes.set_ylabel("share of runs above τ")
    axes.set_ylim(-0.03, 1.03)


def _caption(table: Table, records: Sequence[Record]) -> str:
    scales = dict.fromkeys(
        r.scale or "not named" for r in records if r.task in table.tasks and r.method != RANDOM
    )
    n = counted(len(scores) for own in table.scores.values() for scores in own)
    frames = ", ".join(f"{task_name(task)} {frame:,}" for task, frame in table.frames.items())
    text = f"scale: {' and '.join(scales)} · n = {n} seeds on each of {len(table.tasks)} tasks"
    if table.left_out:
        names = ", ".join(map(task_name, table.left_out))
        text += f" · without {names}, which not all have run"
    lines = [f"{text} · bands: 95% interval of the stratified bootstrap", f"frames: {frames}"]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH))


def numbers(table: Table) -> list[str]:
    """IQM and mean of every arm, a line each."""
    lines = []
    for (_, arm), own in table.scores.items():
        each = [bootstrap(own, statistic) for statistic in (iqm, mean_of_tasks)]
        words = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in each]
        lines.append(f"{arm}: IQM {words[0]}, mean {words[1]}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = parser_of("aggregates", __doc__, VALUES)
    parser.add_argument("--at", type=float, help="frames; default the last that all have come to")
    parser.add_argument(
        "--range", nargs=3, action="append", default=[], metavar=("TASK", "LOW", "HIGH"),
        help="what of a task's value is 0 and what is 1; may be repeated",
    )  # fmt: skip
    parser.add_argument("--against", default="", help="the arm that the others are compared with")
    parser.add_argument("--output", type=Path, default=Path("aggregates"))
    args = parser.parse_args(argv)
    try:
        ranges = {task: (_number(low), _number(high)) for task, low, high in args.range}
        records, _ = load(args.runs, args.scale)
        table = table_of(records, args.value, args.at, ranges)
        print(*save(figure_of(table, records, args.against, ""), args.output), sep="\n")
        print(*numbers(table), sep="\n")
    except REFUSED as error:
        return refuse("aggregates", error)
    return 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--range takes a task and two numbers, not '{text}'") from None


if __name__ == "__main__":
    sys.exit(main())
