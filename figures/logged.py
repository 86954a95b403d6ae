"""Numbers of the log over a run: a panel for each, a line for each arm, a table of where they end.

In a study: ``figure: logged`` and ``draw: {values: {image_mse: reconstruction error}}``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import save, scores
from figures.records import Record
from figures.runs import read_log
from figures.style import RC, counted, grid_of, looks, write_legend
from figures.tables import EMPTY, Rows, over_seeds, write
from tools import UserError

LAST = 0.1  # share of a run whose mean is where it ends
DASHES = ("-", "--", ":", "-.")
DECADES = 1.0  # from so many on, an axis is logarithmic

Line = tuple[np.ndarray, np.ndarray]  # steps and values, [T] each
Arms = Mapping[str, Sequence[Path]]


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    runs: Mapping[str, Path],
    values: Mapping[str, str],
    starts: Mapping[str, Sequence[str]] | None = None,
    frames: int = 0,
    title: str = "",
) -> list[Path]:
    """Draws numbers of runs' logs to files, and writes tables beside: text, CSV and LaTeX.

    Args:
        records: not used.
        output: where to; see :func:`figures.save`.
        runs: by arm; of several seeds by ``<arm>, <the run's folder below --logdir>``.
        values: names in the log, and what to call them.
        starts: of arms, others that differ by where they start: drawn in the same colour, and
            told, in ``<output>_starts``, by the ratios of their numbers to the arm's.
        frames: that latents were measured on, which ``<output>_scores`` has beside their controls;
            0 leaves that out.
        title: above all; none by default.

    Raises:
        UserError: no run has such a number.
    """
    arms, starts = by_arm(runs), starts or {}
    found = {name: {arm: lines(folders, name) for arm, folders in arms.items()} for name in values}
    if missing := [name for name in values if not any(found[name].values())]:
        raise UserError(f"no run's log has {missing[0]}: name another number of it")
    base = output.with_suffix("") if output.suffix in (".png", ".pdf") else output
    ends = {
        name: {arm: [*map(end_of, own)] for arm, own in each.items()}
        for name, each in found.items()
    }
    rows, numbers = over_seeds(ends, values)
    paths = [*save(figure_of(found, values, title, starts), output), *write(rows, base, numbers)]
    if starts:
        ratios = ratios_of(found, values, starts)
        paths += write(ratios, base.with_name(f"{base.name}_starts"))
    if frames:
        paths += scores.draw(arms, base.with_name(f"{base.name}_scores"), frames)
    return paths


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


def ratios_of(
    found: Mapping[str, Mapping[str, Sequence[Line]]],
    values: Mapping[str, str],
    starts: Mapping[str, Sequence[str]],
) -> Rows:
    """How many times an arm's numbers are those of the one with another start, at first and last.

    A start is recovered from where a ratio ends at 1.
    """
    head = (f"{values[name]}, {when}" for name in found for when in ("first", "end"))
    rows = [["arm", "beside", *head]]
    for usual, others in starts.items():
        for arm in others:
            cells = []
            for arms in found.values():
                both = [arms.get(name, ()) for name in (arm, usual)]
                for of in (_first_of, end_of):
                    means = [np.mean([of(line) for line in own]) for own in both if own]
                    cells.append(f"{means[0] / means[1]:.3g}" if len(means) == 2 else EMPTY)
            rows.append([arm, usual, *cells])
    return rows


def _first_of(line: Line) -> float:
    return float(line[1][0])


@matplotlib.rc_context(RC)
def figure_of(
    found: Mapping[str, Mapping[str, Sequence[Line]]],
    values: Mapping[str, str],
    title: str,
    starts: Mapping[str, Sequence[str]],
) -> Figure:
    """The figure that :func:`draw` writes."""
    rows, columns, size = grid_of(len(found))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    entries = {}
    for panel, (name, arms) in zip(axes, found.items(), strict=False):
        entries |= _draw_panel(panel, arms, starts)
        panel.set_title(values[name])
        panel.set_xlabel("steps")
    for panel in axes[len(found) :]:
        panel.set_axis_off()
    seeds = counted(len(own) for arms in found.values() for own in arms.values() if own)
    write_legend(figure, entries, f"mean over seeds, a thin line for each · n = {seeds}")
    if title:
        figure.suptitle(title)
    return figure


def _draw_panel(
    panel: Axes, arms: Mapping[str, Sequence[Line]], starts: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    """One number of all arms; returns a line by each arm's name."""
    shown, styles = {}, styles_of(arms, starts)
    for arm, seeds in arms.items():
        color, dashes = styles[arm]
        for steps, values in seeds if len(seeds) > 1 else ():
            panel.plot(steps, values, dashes, color=color, lw=0.4, alpha=0.4)
        if seeds:
            common = min((steps for steps, _ in seeds), key=len)
            mean = np.mean([np.interp(common, *line) for line in seeds], axis=0)
            [shown[arm]] = panel.plot(common, mean, dashes, color=color)
    every = np.concatenate([values for seeds in arms.values() for _, values in seeds])
    if every.min() > 0 and np.log10(every.max() / every.min()) > DECADES:
        panel.set_yscale("log")
    return shown


def styles_of(
    arms: Collection[str], starts: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each arm: those that differ by their start alone share a colour."""
    places = {
        arm: (usual, DASHES[number % len(DASHES)])
        for usual, others in starts.items()
        for number, arm in enumerate((usual, *others))
    }
    # There are fewer colours than there may be arms.
    half = len(arms) if starts else len(arms) / 2
    own = {arm: places.get(arm, (arm, DASHES[n >= half])) for n, arm in enumerate(arms)}
    colors = looks([("", usual) for usual, _ in own.values()])
    return {arm: (colors["", usual].color, dashes) for arm, (usual, dashes) in own.items()}
