"""Bars: what each arm came to at the end, a panel for each task or each question.

python -m figures.bars RUNS [RUNS …] --output bars
python -m figures.bars records.csv --panel "η: eta_0.01 eta_0.1" --panel "β: beta_0.015 beta_0.15"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    describe,
    looks_of,
    over_episodes,
    random_of,
    runs_of,
    scores_at,
    too_early,
)
from figures.records import REFUSED, Record, load, parser_of, refuse
from figures.statistics import Estimate, mean_over_seeds
from figures.style import GREY, RC, TEXT, Look, choose, label_of, named, own_name, task_name
from tools import UserError, nearest

PER_ROW = 3  # panels


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    value: str = "return",
    at: float | None = None,
    panels: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
) -> list[Path]:
    """Draws bars to files: means over seeds, their 95% bootstrap intervals, and each seed's dot.

    Args:
        records: evaluations of one task, or of several.
        output: where to; see :func:`figures.save`.
        value: ``return`` or ``success``.
        at: frames to compare at; default the last that all runs of a task have come to.
        panels: arms of each panel by its title, in their order, those too that nobody has run;
            default one panel for each task with all of its arms.
        title: above all; none by default.

    Raises:
        UserError: the records do not go together.
    """
    choose("value", value, VALUES)
    return save(figure_of(records, value, at, panels or {}, title), output)


@matplotlib.rc_context(RC)
def figure_of(
    records: Sequence[Record],
    value: str,
    at: float | None,
    panels: Mapping[str, Sequence[str]],
    title: str,
) -> Figure:
    """The figure that :func:`draw` writes."""
    tasks = by_task(records)
    if not tasks:
        raise UserError("there are no records to draw: name runs, or a CSV file of them")
    runs = {task: runs_of(of_task, value) for task, of_task in tasks.items()}
    plan = _plan(runs, panels)
    looks = looks_of(runs.values())
    columns = min(PER_ROW, len(plan))
    rows = -(-len(plan) // columns)
    height = 0.5 + 0.19 * max(len(arms) for _, _, arms in plan)
    width = TEXT if columns > 1 else 0.6 * TEXT
    figure = Figure((width, rows * max(height, 1.1) + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (heading, task, arms) in zip(axes, plan, strict=False):
        own = runs[task]
        frame = _frame_of(task, own, arms, at) if own else 0
        _draw_panel(panel, own, arms, frame, value, looks)
        if (random := random_of(tasks[task], value)) is not None:
            panel.axvline(float(random.value), ls="-.", lw=0.9, color=GREY, zorder=4)
        panel.set_title(heading)
        panel.set_xlabel(f"{value} at {frame:,} frames", fontsize=6.5)
    for panel in axes[len(plan) :]:
        panel.set_axis_off()
    shown = {(task, arm) for _, task, arms in plan for arm in arms}
    caption = describe(
        [r for r in records if (r.task, own_name(r.method, r.arm)) in shown], value, "ci"
    )
    if any(random_of(of_task, value) for of_task in tasks.values()):
        caption += (" · " if columns > 1 else "\n") + "dashed: a random policy"
    figure.supxlabel(caption, fontsize=6.5)
    if title:
        figure.suptitle(title)
    return figure


def _plan(
    runs: Mapping[str, Runs], panels: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, list[str]]]:
    """Title, task and arms of each panel."""
    if not panels:
        return [
            (task_name(task), task, list(dict.fromkeys(group.arm for group in of_task)))
            for task, of_task in runs.items()
        ]
    known = {group.arm for of_task in runs.values() for group in of_task}
    plan = []
    for heading, given in panels.items():
        arms = [arm if arm in known else named(arm) for arm in given]
        for task, of_task in runs.items():
            if len(runs) == 1 or {group.arm for group in of_task} & set(arms):
                title = heading if len(runs) == 1 else f"{heading}, {task_name(task)}"
                plan.append((title, task, list(arms)))
        if not known & set(arms):
            hint = nearest(arms[0], known) if arms else ""
            raise UserError(f"panel '{heading}': nobody has run {', '.join(arms)}{hint}")
    return plan


def _frame_of(task: str, runs: Runs, arms: Sequence[str], at: float | None) -> int:
    """Where a panel's arms are compared."""
    frame = common_frame(runs, at)
    for group, seeds in runs.items():
        first = min(run[0].frames for run in seeds.values())
        if group.arm in arms and first > frame:
            raise too_early(f"{task}, {group.arm}", first, runs, at)
    return frame


def _draw_panel(
    axes: Axes,
    runs: Runs,
    arms: Sequence[str],
    frame: int,
    value: str,
    looks: Mapping[Group, Look],
) -> None:
    """A bar for each arm, the first one at the top."""
    rows = []  # arm, group
    for arm in arms:
        groups = [group for group in runs if group.arm == arm] or [None]
        rows += [(arm, group) for group in groups]
    names = []
    for place, (arm, group) in enumerate(rows):
        names.append(looks[group].label if group else label_of(arm))
        if group is None:
            axes.text(0.02, place, "not run yet", transform=axes.get_yaxis_transform(),
                      va="center", fontsize=6, color=GREY)  # fmt: skip
            continue
        scores = scores_at(runs[group], frame, value)
        found, look = _spread(runs[group], frame, value), looks[group]
        axes.barh(
            place, found.value, color=look.color, alpha=0.55, hatch=look.hatch, height=0.7,
            edgecolor=look.color, lw=0.6,
        )  # fmt: skip
        half = [[found.value - found.low], [found.high - found.value]]
        axes.errorbar(
            found.value, place, xerr=np.maximum(half, 0), color="black", lw=0.9, capsize=1.5
        )
        if len(scores) > 1:
            spots = place + np.linspace(-0.2, 0.2, len(scores))
            axes.plot(scores, spots, "o", ms=1.8, mfc="white", mec="black", mew=0.5, ls="")
        axes.annotate(
            f"{float(found.value):.{2 if value == 'success' else 0}f}".replace("-", "−"),
            (max(float(found.high), *scores), place), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=6,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.12)


def _spread(seeds: Mapping[int, Sequence[Record]], frame: int, value: str) -> Estimate:
    """Mean at a frame with its interval: over seeds; of a single one there, over its episodes."""
    scores = scores_at(seeds, frame, value)
    if len(scores) > 1:
        return Estimate(*(part[0] for part in mean_over_seeds(scores[:, None])))
    until = ([r for r in run if r.frames <= frame] for run in seeds.values())
    last = next(own for own in until if own)[-1:]
    return Estimate(*(part[0] for part in over_episodes(last, value)))


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = parser_of("bars", __doc__, VALUES)
    parser.add_argument("--at", type=float, help="frames; default the last that all have come to")
    parser.add_argument(
        "--panel", action="append", default=[], metavar="'TITLE: ARM …'", help="may be repeated"
    )
    parser.add_argument("--title", default="")
    parser.add_argument("--output", type=Path, default=Path("bars"))
    args = parser.parse_args(argv)
    try:
        panels = {}
        for given in args.panel:
            heading, found, arms = given.rpartition(":")
            if not found or not arms.split():
                raise UserError(f"--panel takes 'TITLE: ARM ARM …', not '{given}'")
            panels[heading.strip()] = arms.split()
        records, _ = load(args.runs, args.scale)
        chosen = {"value": args.value, "at": args.at, "title": args.title}
        print(*draw(records, args.output, panels=panels, **chosen), sep="\n")
    except REFUSED as error:
        return refuse("bars", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
