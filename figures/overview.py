"""A run at a glance: an open-loop prediction over time, and the latents that moved pictures most.

python -m figures.overview RUN --traversal PRETRAINED/traverse.png --output overview.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from agents.reports import CONTEXT, OFFSETS, ROWS
from figures import save
from figures.records import REFUSED, refuse
from logger.pictures import cut_grid
from tools import UserError

SIDE = 64  # pixels of one frame


def read_picture(path: Path) -> np.ndarray:
    """A picture [H, W, 3] or a GIF [T, H, W, 3], uint8.

    Raises:
        UserError: there is no such picture.
    """
    try:
        return np.asarray(iio.imread(path))[..., :3]
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}: it is drawn at a run's log lines") from None


def strip(video: np.ndarray, clip: int, frames: Sequence[int]) -> np.ndarray:
    """Some frames of one clip of an open-loop video side by side: [3·64, N·64, 3].

    Args:
        video: [T, H, W, 3], as `agents.reports.named_open_loop` draws it.
        clip: which clip.
        frames: which frames.
    """
    return _join(cut_grid(video, (SIDE, SIDE))[list(frames), :, clip].swapaxes(0, 1))


def liveliest(traversal: np.ndarray, count: int) -> list[int]:
    """The rows of a traversal [Z, 7, 64, 64, 3] whose pictures change most, the first one first."""
    change = traversal.astype(np.float64).std(axis=1).mean(axis=(1, 2, 3))
    return [int(i) for i in np.argsort(-change)[:count]]


def _join(tiles: np.ndarray) -> np.ndarray:
    """Tiles [R, C, H, W, 3] without gaps: [R·H, C·W, 3]."""
    return np.concatenate(list(np.concatenate(list(tiles.swapaxes(0, 1)), 2)))


def draw(video: np.ndarray, traversal: np.ndarray, clip: int = 0, rows: int = 3) -> plt.Figure:
    """The figure: prediction on the left, traversal on the right."""
    frames = [0, CONTEXT - 1, *np.linspace(CONTEXT, len(video) - 1, 5).round().astype(int)]
    left = strip(video, clip, frames)
    tiles = cut_grid(traversal, (SIDE, SIDE))
    chosen = sorted(liveliest(tiles, rows))
    right = _join(tiles[chosen])
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.9), layout="constrained")
    panels = (
        (left, "predicting unseen frames", ROWS, frames, "frame"),
        (right, "moving one latent", [""] * len(chosen), OFFSETS, "offset"),
    )
    for axis, (picture, title, names, columns, unit) in zip(axes, panels, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_yticks([SIDE * (i + 0.5) for i in range(len(names))], names, fontsize=9)
        axis.set_xticks([SIDE * (i + 0.5) for i in range(len(columns))], columns, fontsize=8)
        axis.set_xlabel(unit, fontsize=9)
        axis.tick_params(length=0)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.overview", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--traversal", type=Path, help="default: the run's own")
    parser.add_argument("--clip", type=int, default=0, help="clip of the video, from 0")
    parser.add_argument("--output", type=Path, default=Path("overview.png"))
    args = parser.parse_args(argv)
    pictures = args.run / "pictures"
    try:
        video = read_picture(pictures / "eval_openl.gif")
        traversal = read_picture(args.traversal or pictures / "beta_vae_traverse.png")
        figure = draw(video, traversal, args.clip)
        print(*save(figure, args.output, dpi=110), sep="\n")
    except REFUSED as error:
        return refuse("overview", error)
    plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
