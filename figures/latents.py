"""Which number of a latent is which true factor: a heat map of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import save
from figures.style import RC, TEXT, task_name

SHOWN = 0.1  # R² from which on a cell has its number in it


def draw(content: Mapping[str, Any], output: Path) -> list[Path]:
    """Draws the heat map of one encoder to files.

    Args:
        content: as `measure.results` has it.
        output: where to; see :func:`figures.save`.
    """
    return save(figure_of(content), output)


@matplotlib.rc_context(RC)
def figure_of(content: Mapping[str, Any]) -> Figure:
    """Latents, the largest KL first, by factors: how well each alone predicts each, and all do."""
    matrix = np.array(content["r2"], np.float64)
    latents, factors = content["latents"], content["factors"]
    by = "std" if latents[0]["kl"] is None else "kl"  # all have one, or none
    order = sorted(range(len(latents)), key=lambda i: -latents[i][by])
    rows = [_name(latents[i]) for i in order]
    together = np.array(content["r2_all"]["forest"], np.float64)
    height = 0.16 * (len(rows) + 2) + 1.5
    figure = Figure((max(TEXT * 0.6, 0.27 * len(factors) + 1.9), height), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[len(rows), 1], sharex=True)
    image = _cells(upper, matrix[order], rows)
    _cells(lower, together[None], ["all, by a forest"])
    edges = [
        k - 0.5 for k in range(1, len(factors)) if _group(factors, k) != _group(factors, k - 1)
    ]
    for axes in (upper, lower):
        for edge in edges:
            axes.axvline(edge, color="white", linewidth=1.5)
    names = [factor["name"].replace("_", " ") for factor in factors]
    upper.tick_params(labelbottom=False)
    lower.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    title = f"{task_name(content['task'])}: which latent tells which factor"
    figure.suptitle(f"{title} ({content['encoder']}, {content['frames']} frames)")
    bar = figure.colorbar(image, ax=[upper, lower], shrink=0.7, pad=0.01, aspect=30)
    bar.set_label("R² on held-out frames, from one latent alone by a tree")
    bar.outline.set_visible(False)
    return figure


def _group(factors: Sequence[Mapping[str, Any]], k: int) -> str:
    return factors[k]["group"]


def _name(latent: Mapping[str, Any]) -> str:
    told = f"z{latent['index']}"
    if latent["kl"] is not None:
        told += f"  KL {latent['kl']:.2f}"
    return told if latent["active"] else f"{told}, dead"


def _cells(axes: Axes, matrix: np.ndarray, rows: Sequence[str]) -> Any:
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, k), value in np.ndenumerate(matrix):
        if value >= SHOWN:
            dark = "black" if value > 0.6 else "white"
            text = f"{value:.2f}".lstrip("0") if value < 0.995 else "1"
            axes.text(k, i, text, ha="center", va="center", color=dark, fontsize=5)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return image
