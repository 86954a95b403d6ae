"""Numbers of the log over a run: a panel for each, a line for each arm, a CSV of where they end.

In a study: ``figure: logged`` and ``draw: {values: {image_mse: reconstruction error}}``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import paths_of, save
from figures.records import Record
from figures.runs import read_log
from figures.style import RC, grid_of, looks, write_legend
from fileio.atomic import atomic_write
from tools import UserError

LAST = 0.1  # share of a run whose mean is where it ends
DECADES = 1.0  # from so many on, an axis is logarithmic

Line = tuple[np.ndarray, np.ndarray]  # steps and values, [T] each
Arms = Mapping[str, Sequence[Path]]


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    runs: Mapping[str, Path],
    values: Mapping[str, str],
    title: str = "",
) -> list[Path]:
    """Draws numbers of runs' logs to files, and writes where they end to a CSV beside.

    Args:
        records: not used.
        output: where to; see :func:`figures.save`.
        runs: by arm; of several seeds by ``<arm>, <the run's folder below --logdir>``.
        values: names in the log, and what to call them.
        title: above all; none by default.

    Raises:
        UserError: no run has such a number.
    """
    arms = by_arm(runs)
    found = {name: {arm: lines(folders, name) for arm, folders in arms.items()} for name in values}
    if missing := [name for name in values if not any(found[name].values())]:
        raise UserError(f"no run's log has {missing[0]}: name another number of it")
    [path] = paths_of(output.with_suffix("") if output.suffix else output, ("csv",))
    with atomic_write(path) as file:
        file.write(ends_of(found).encode())
    return [*save(figure_of(found, values, title), output), path]


def by_arm(runs: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The runs of each arm."""
    arms: dict[str, list[Path]] = {}
    for name, folder in runs.items():
        arm, _, run = name.rpartition(", ")
        own = arm if arm and str(folder).endswith(run) else name
        arms.setdefault(own, []).append(folder)
    return arms


def lines(folders: Sequence[Path], name: str) -> list[Line]:
    """A number of the log of each run that has it."""
    found = []
    for folder in folders:
        rows = [row for row in read_log(folder) if name in row]
        if rows:
            steps, values = zip(*((row["step"], row[name]) for row in rows), strict=True)
            found.append((np.array(steps, float), np.array(values, float)))
    return found


def end_of(line: Line) -> float:
    """The mean over the last share of a run."""
    steps, values = line
    return float(values[steps > (1 - LAST) * steps[-1]].mean())


def ends_of(found: Mapping[str, Mapping[str, Sequence[Line]]]) -> str:
    """A row for each arm: of each number mean and deviation over seeds, where runs end."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [column for name in found for column in (name, f"{name}_std")]
    writer.writerow(["arm", "seeds", *columns])
    for arm in next(iter(found.values())):
        row = []
        for name in found:
            ends = [end_of(line) for line in found[name][arm]]
            row.append(f"{np.mean(ends):.6g}" if ends else "")
            row.append(f"{np.std(ends, ddof=1):.3g}" if len(ends) > 1 else "")
        writer.writerow([arm, max(len(found[name][arm]) for name in found), *row])
    return file.getvalue()


@matplotlib.rc_context(RC)
def figure_of(
    found: Mapping[str, Mapping[str, Sequence[Line]]], values: Mapping[str, str], title: str
) -> Figure:
    """The figure that :func:`draw` writes."""
    rows, columns, size = grid_of(len(found))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    entries = {}
    for panel, (name, arms) in zip(axes, found.items(), strict=False):
        entries |= _draw_panel(panel, arms)
        panel.set_title(values[name])
        panel.set_xlabel("steps")
    for panel in axes[len(found) :]:
        panel.set_axis_off()
    seeds = max(len(own) for arms in found.values() for own in arms.values())
    write_legend(figure, entries, f"mean over seeds, a thin line for each · n = {seeds}")
    if title:
        figure.suptitle(title)
    return figure


def _draw_panel(panel: Axes, arms: Mapping[str, Sequence[Line]]) -> dict[str, object]:
    """One number of all arms; returns a line by each arm's name."""
    own, shown = looks([("", arm) for arm in arms]), {}
    for number, (arm, seeds) in enumerate(arms.items()):
        look, dashes = own["", arm], "--" if number >= len(arms) / 2 else "-"
        for steps, values in seeds if len(seeds) > 1 else ():
            panel.plot(steps, values, color=look.color, lw=0.4, alpha=0.4)
        if seeds:
            common = min((steps for steps, _ in seeds), key=len)
            mean = np.mean([np.interp(common, *line) for line in seeds], axis=0)
            [shown[arm]] = panel.plot(common, mean, dashes, color=look.color)
    every = np.concatenate([values for seeds in arms.values() for _, values in seeds])
    if every.min() > 0 and np.log10(every.max() / every.min()) > DECADES:
        panel.set_yscale("log")
    return shown
