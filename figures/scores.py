"""How disentangled the latents of a study's arms are, beside controls: dots, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import save
from figures.style import GREY, RC, TEXT, counted, task_name
from figures.tables import over_seeds, write
from measure.metrics import SCORES
from measure.results import SHORT, read
from tools import print_safe

PER_ROW = 4  # panels
COLOR = "#0072B2"
CONTROLS = {
    "untrained": "untrained encoder",
    "pca": "PCA of pixels",
    "permuted_factors": "true factors",
    "shuffled_frames": "shuffled frames",
}
Found = Mapping[str, Mapping[str, Sequence[float]]]  # scores of each seed by their name, by arm


def draw(arms: Mapping[str, Sequence[Path]], output: Path, frames: int) -> list[Path]:
    """Draws what was measured of runs, and writes it as a table: text, CSV and LaTeX.

    Args:
        arms: run folders by arm; those that have not been measured are left out.
        output: a name that gets each kind's endings; nothing is drawn while no run is measured.
        frames: that they were measured on.
    """
    contents = {arm: _measured(folders, frames) for arm, folders in arms.items()}
    first = next((content for own in contents.values() for content in own), None)
    if first is None:
        print_safe(f"note: without {output.name}: no run has come to its end and been measured yet")
        return []
    controls = {label: [{"scores": first["controls"][name]}] for name, label in CONTROLS.items()}
    found = {
        name: {arm: [c["scores"][name] for c in own] for arm, own in (contents | controls).items()}
        for name in SCORES
    }
    rows, numbers = over_seeds(found, SHORT)
    figure = figure_of(found, f"{frames:,} frames of {task_name(first['task'])}")
    return [*save(figure, output), *write(rows, output, numbers)]


def _measured(folders: Sequence[Path], frames: int) -> list[dict[str, Any]]:
    contents = [read(folder) for folder in folders]
    return [content for content in contents if content and content["frames"] == frames]


@matplotlib.rc_context(RC)
def figure_of(found: Found, measured_on: str) -> Figure:
    """A panel for each score, a line in it for each arm and, below them, for each control."""
    names = list(next(iter(found.values())))
    columns = min(PER_ROW, len(found))
    rows = -(-len(found) // columns)
    height = rows * (0.13 * len(names) + 0.42) + 0.3
    figure = Figure((TEXT, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, (score, arms) in zip(axes, found.items(), strict=False):
        _draw_panel(panel, arms)
        panel.set_title(SHORT[score])
        if score != "active":
            panel.set_xlim(-0.03, 1.03)
    for panel in axes[len(found) :]:
        panel.set_axis_off()
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    controls = CONTROLS.values()
    own = [values for arms in found.values() for arm, values in arms.items() if arm not in controls]
    seeds = counted(len(values) for values in own if values)
    dots = "a diamond: mean over seeds, a dot: one of them · grey: controls"
    figure.supxlabel(f"{dots} · n = {seeds} · {measured_on}", fontsize=6.5)
    return figure


def _draw_panel(panel: Axes, arms: Mapping[str, Sequence[float]]) -> None:
    for place, (arm, values) in enumerate(arms.items()):
        color = GREY if arm in CONTROLS.values() else COLOR
        if len(values) > 1:
            panel.plot(values, [place] * len(values), ".", color=color, ms=3, alpha=0.5, mew=0)
        if len(values):
            panel.plot(np.mean(values), place, "D", color=color, ms=3, clip_on=False)
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(left=0)
