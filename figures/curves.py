"""Learning curves: evaluation return, or success rate, against frames; a panel for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from figures import reference, save
from figures.groups import (
    BANDS,
    BY,
    VALUES,
    Group,
    Runs,
    by_task,
    curve_of,
    describe,
    looks_of,
    random_of,
    runs_of,
)
from figures.records import RANDOM, Record
from figures.style import GREY, METHODS, RC, Look, choose, grid_of, task_name, write_legend
from tools import UserError

# The paper's figures of dm_control count 2 frames an agent step, in which 4 control steps passed.
AXES = {
    "frames": "frames (control steps)",
    "published": "frames as the paper counts them",
}
PUBLISHED = ("none", "same", "all")
MARKS = 8  # markers on a line
DASHES = (0, (3, 1.5))
UNITS = {1e6: "million ", 1e3: "thousand ", 1: ""}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is drawn of records.

    Attributes:
        value: a key of ``VALUES``.
        axis: a key of ``AXES``, what the horizontal axis counts.
        band: a key of ``BANDS``, what is shaded: over seeds; of a single seed over its episodes.
        seeds: also a thin line for each seed.
        by: one of ``BY``: what the legend tells apart.
        published: the paper's curves, dashed: those of the methods that were run, or all.
        bands: a setting of published/bands.csv, whose ranges are shaded; none by default.
        until: frames at which the axis ends; default where all lines do.
        switch: {task: frame} from which episodes look different, marked in its panel.
        tasks: panels, in this order, also of tasks that nobody has run.
        title: above all; none by default.
    """

    value: str = "return"
    axis: str = "frames"
    band: str = "ci"
    seeds: bool = False
    by: str = "arm"
    published: str = "none"
    bands: str = ""
    until: float = np.inf
    switch: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tasks: Sequence[str] = ()
    title: str = ""

    def __post_init__(self):
        for name, names in (
            ("value", VALUES), ("axis", AXES), ("band", BANDS), ("by", BY), ("published", PUBLISHED)
        ):  # fmt: skip
            choose(name, getattr(self, name), names)


def draw(records: Sequence[Record], output: Path, **settings: Any) -> list[Path]:
    """Draws learning curves to files.

    Args:
        records: evaluations; runs of one arm on one task are one line, their mean over seeds.
        output: where to; see :func:`figures.save`.
        settings: fields of :class:`Settings`.

    Raises:
        UserError: the records do not go together, or not with a setting.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in settings:
        choose("a setting of curves", name, names)
    return save(figure_of(records, Settings(**settings)), output)


@matplotlib.rc_context(RC)
def figure_of(records: Sequence[Record], settings: Settings = Settings()) -> Figure:
    """The figure that :func:`draw` writes."""
    s = settings
    panels = by_task(records, s.tasks)
    if not panels:
        raise UserError("there are no records to draw: name runs, or tasks")
    units = _units(panels, s.axis)
    runs = {task: runs_of(of_task, s.value) for task, of_task in panels.items()}
    looks = looks_of(runs.values(), s.by)
    rows, columns, size = grid_of(len(panels))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    legend: dict[str, Any] = {}  # what the panels share is there once
    for panel, task in zip(axes, panels, strict=False):
        drawn = Panel(panel, task, units[task], s)
        drawn.draw(runs[task], panels[task], looks)
        legend = {**drawn.legend, **legend}
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    _name_axes(axes[: len(panels)], columns, s)
    if s.title:
        figure.suptitle(s.title)
    # What was run, in the order of the looks, then what is beside it.
    order = [look.label for look in (*looks.values(), *METHODS.values())]
    legend = dict(sorted(legend.items(), key=lambda item: (*order, item[0]).index(item[0])))
    write_legend(figure, legend, describe(records, s.value, s.band))
    return figure


def _units(tasks: Mapping[str, Any], axis: str) -> dict[str, int]:
    """How many frames each task's axis counts as one.

    Raises:
        UserError: none of them is dm_control's, so that the paper counts their frames as they are.
    """
    if axis == "frames":
        return dict.fromkeys(tasks, 1)
    units = {task: reference.published_unit(task) for task in tasks}
    if set(units.values()) == {1}:
        one = next(iter(units))
        raise UserError(f"--axis published is for dm_control's tasks: leave it out for {one}")
    return units


def published_curves(task: str, runs: Runs, choice: str) -> list[reference.Published]:
    """The paper's curves of one task: of the methods that were run (``same``), or all."""
    if choice == "none":
        return []
    if choice == "all":
        sources = {group.source for group in runs} - {""}
        found = [one for one in reference.curves() if one.task == task]
        return [one for one in found if not sources or one.source in sources]
    given = (reference.curve(task, g.method, g.source) for g in runs if g.arm == g.method)
    return [one for one in given if one is not None]


class Panel:
    """One task's axes.

    Args:
        axes: where it is drawn.
        task: its name.
        unit: how many frames one on the axis counts.
        settings: what is drawn.

    Attributes:
        legend: what stands for what, by its label.
    """

    def __init__(self, axes: Axes, task: str, unit: int, settings: Settings):
        self.axes, self.task, self.unit, self.settings = axes, task, unit, settings
        self.legend: dict[str, Any] = {}
        self._lowest = np.inf
        self._end = 0.0  # frames

    def draw(self, runs: Runs, records: Sequence[Record], looks: Mapping[Group, Look]) -> None:
        """Everything that belongs into it."""
        s = self.settings
        for group, seeds in runs.items():
            self._draw_group(seeds, looks[group])
        self._draw_random(records)
        published = published_curves(self.task, runs, s.published if s.value == "return" else "")
        for curve in published:
            self._draw_published(curve)
        if published:
            grey = Line2D([], [], ls=DASHES, lw=0.9, color=GREY)
            self.legend["published (Figure 4)"] = grey
        if s.bands:
            self._draw_bands(s.bands)
        if self.task in s.switch and runs:
            self._mark_switch(s.switch[self.task] / self.unit)
        sources = [group.source for group in runs] + [curve.source for curve in published]
        self._finish({source for source in sources if source}, bool(runs))

    def _draw_group(self, seeds: Mapping[int, Sequence[Record]], look: Look) -> None:
        """A line, its band and, on wish, each seed's own line."""
        s, axes = self.settings, self.axes
        curve = curve_of(seeds, s.value, s.band).until(s.until)
        if not len(curve.frames):
            return
        x, every = curve.frames / self.unit, max(1, len(curve.frames) // MARKS)
        [line] = axes.plot(
            x, curve.mean, color=look.color, marker=look.marker, markevery=every, zorder=3
        )
        axes.fill_between(x, curve.low, curve.high, color=look.color, alpha=0.18, lw=0)
        if s.seeds and len(seeds) > 1:
            for frames, values in curve.seeds.values():
                axes.plot(frames / self.unit, values, color=look.color, lw=0.5, alpha=0.6)
        self.legend.setdefault(look.label, line)
        self._note(curve.mean, curve.frames)

    def _note(self, values: np.ndarray, frames: np.ndarray | Sequence[float] = (0,)) -> None:
        self._lowest = min(self._lowest, float(np.min(values)))
        self._end = max(self._end, float(np.max(frames)))

    def _draw_random(self, records: Sequence[Record]) -> None:
        random = random_of(records, self.settings.value, self.settings.band)
        if random is None:
            return
        line = self.axes.axhline(float(random.value), ls="-.", lw=0.9, color=GREY)
        self.axes.axhspan(random.low, random.high, color=GREY, alpha=0.12, lw=0)
        self.legend[METHODS[RANDOM].label] = line
        self._note(random.value)

    def _draw_published(self, curve: reference.Published) -> None:
        """One of the paper's curves; its steps are counted as this axis counts."""
        look = METHODS[curve.method]
        frames = curve.steps * reference.published_unit(self.task)
        shown = frames <= self.settings.until
        frames, returns = frames[shown], curve.returns[shown]
        if not len(frames):
            return
        [line] = self.axes.plot(
            frames / self.unit, returns, ls=DASHES, lw=0.9, color=look.color,
            marker=look.marker, mfc="white", mew=0.7, markevery=max(1, len(frames) // 5),
        )  # fmt: skip
        self.legend.setdefault(look.label, line)
        self._note(returns, frames)

    def _draw_bands(self, setting: str) -> None:
        """Published ranges of one setting, across the panel."""
        hatches = ("", "////", "....", "\\\\\\\\")
        for index, band in enumerate(reference.bands(setting, self.task, self._end or np.inf)):
            pad = max(2.0 - (band.high - band.low) / 2, 0.0)  # a bare number is a thin line
            self.legend[band.label] = self.axes.axhspan(
                band.low - pad, band.high + pad, facecolor=str(0.55 + 0.1 * (index % 4)),
                edgecolor="0.4", alpha=0.4, lw=0, hatch=hatches[index % 4],
            )  # fmt: skip

    def _mark_switch(self, frame: float) -> None:
        self.axes.axvline(frame, ls=":", color=GREY, lw=0.9)
        self.axes.annotate(
            "new look", (frame, 0.03), xycoords=("data", "axes fraction"), xytext=(3, 0),
            textcoords="offset points", va="bottom", fontsize=6, color=GREY,
        )  # fmt: skip

    def _finish(self, sources: set[str], was_run: bool) -> None:
        """Title, limits and ticks."""
        axes = self.axes
        source = f"{task_name(next(iter(sources)))} → " if len(sources) == 1 else ""
        axes.set_title(f"{source}{task_name(self.task)}")
        if self.settings.value == "success":
            axes.set_ylim(-0.03, 1.03)
        elif 0 <= self._lowest < np.inf:
            axes.set_ylim(bottom=0)  # where zero is the least, it belongs into the picture
        last = self._end / self.unit
        if last:
            axes.set_xlim(0, 1.02 * last)
        self.count = next(count for count in UNITS if last >= 0.2 * count or count == 1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / self.count:g}"))
        axes.set_xlabel(f"{UNITS[self.count]}{AXES[self.settings.axis]}")
        if not was_run:
            axes.text(0.98, 0.06, "not run yet", transform=axes.transAxes, ha="right", color=GREY)


def _name_axes(axes: Sequence[Axes], columns: int, settings: Settings) -> None:
    """Leaves the names that repeat to the lowest and the first panels."""
    names = {panel.get_xlabel() for panel in axes}
    for index, panel in enumerate(axes):
        if index + columns < len(axes) and len(names) == 1:
            panel.set_xlabel("")
        if columns > 1:
            panel.xaxis.label.set_size(6.5)
        if index % columns == 0:
            panel.set_ylabel(VALUES[settings.value])
