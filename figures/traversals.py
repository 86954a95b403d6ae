"""What each number of the latent draws: traversal sheets with names, of one run or of several.

python -m figures.traversals RUN [RUN …] --output traversals
python -m figures.traversals RUN --name "z7=colour of the table" --latents z7 z3 z0

Of a pretraining its predictor (the paper's Figure 5), of a finetuning the teacher and the student
beside each other (Figure 6). The latents that move the picture most come first.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.reports import OFFSETS, latent_kl, traversal
from figures import save
from figures.records import REFUSED, Record, refuse
from figures.runs import find_runs, read_config
from figures.stages import load_stages, read_clips, videos_of
from figures.style import RC, TEXT, task_name
from fileio import checkpoints
from logger.pictures import cut_grid, to_uint8
from models import VideoPredictor
from tools import UserError

PICTURES = ("traverse.png", "pictures/beta_vae_traverse.png")


class Sheet(NamedTuple):
    """One model's traversal.

    Attributes:
        title: which model it is.
        tiles: uint8 [Z, 7, H, W, 3].
        names: of the latents, [Z]: ``z3``, or the place in a picture that does not tell.
        moved: how much each moves the picture, [Z]: mean standard deviation, in grey levels.
    """

    title: str
    tiles: np.ndarray
    names: list[str]
    moved: np.ndarray


def movement(tiles: np.ndarray) -> np.ndarray:
    """How much the pictures of each row [Z, 7, H, W, 3] change: [Z], in grey levels of 255."""
    return tiles.astype(np.float64).std(axis=1).mean(axis=(1, 2, 3))


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    runs: Sequence[Path] | Mapping[str, Path],
    episodes: Path | None = None,
    latents: Sequence[str] = (),
    rows: int = 6,
    names: Mapping[str, str] | None = None,
    title: str = "",
) -> list[Path]:
    """Draws traversal sheets to files.

    Args:
        records: not used.
        output: where to; see :func:`figures.save`.
        runs: run folders, or folders above them. One without a checkpoint is drawn from its
            pictures.
        episodes: a folder of them, around one of whose frames latents are moved; default the run's
            own and, of its first stage, what that was pretrained on.
        latents: which, as ``z3``, in their order, the same in all sheets; default those that move
            the picture most, in each sheet its own.
        rows: how many of those.
        names: what to call latents.
        title: above all; none by default.

    Raises:
        UserError: a run has no latents to draw, or there is no such latent.
    """
    given = runs.values() if isinstance(runs, Mapping) else runs
    folders = [run for folder in given for run in _find(Path(folder))]
    sheets = [sheet for run in folders for sheet in sheets_of(run, episodes)]
    return save(figure_of(sheets, latents, rows, names or {}, title), output)


def _find(folder: Path) -> list[Path]:
    """A run, one without a configuration but with pictures, or the runs below a folder."""
    if any((folder / name).is_file() for name in PICTURES):
        return [folder]
    return find_runs(folder)


def sheets_of(run: Path, episodes: Path | None = None) -> list[Sheet]:
    """The traversals of a run's models, from its checkpoint or, without one, from its pictures."""
    is_predictor = (run / "encoder.pt").is_file()
    if not is_predictor and not checkpoints.find(run):
        return [_from_picture(run)]
    stages = load_stages(run)
    task = task_name(stages.config.task)
    own, shape = Path(episodes or run / "train_eps"), stages.image_shape
    if stages.finetuned is None:
        frame = _frame(Path(episodes) if episodes else videos_of(stages), run, shape)
        return [_sheet(f"pretrained, {task}", stages.pretrained, frame)]
    sheets = [_sheet(f"student, {task}", stages.finetuned, _frame(own, run, shape))]
    if stages.pretrained is not None:
        videos = None if episodes else videos_of(stages)
        what = "teacher, its own videos" if videos else f"teacher, {task}"
        sheets.insert(0, _sheet(what, stages.pretrained, _frame(videos or own, run, shape)))
    return sheets


def _frame(folder: Path | None, run: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The frame that latents are moved around: uint8 [1, 1, H, W, C]."""
    if folder is None or not folder.is_dir():
        where = "" if folder is None else f" at {folder}"
        raise UserError(
            f"the videos of {run} are not to be found{where}: name a folder of episodes, --episodes"
        )
    return read_clips(folder, shape, 1, 1)


def _sheet(title: str, model: VideoPredictor, frame: np.ndarray) -> Sheet:
    batch = {"image": torch.from_numpy(frame), "is_first": torch.ones(1, 1, dtype=torch.bool)}
    kl = latent_kl(model, batch)
    picture = to_uint8(traversal(model, batch))
    z, columns = len(kl), len(OFFSETS)
    height, width = (n // parts for n, parts in zip(picture.shape[:2], (z, columns), strict=True))
    tiles = picture.reshape(z, height, columns, width, -1).swapaxes(1, 2)
    if tiles.shape[-1] == 1:
        tiles = tiles.repeat(3, -1)
    return Sheet(title, tiles, [f"z{i}" for i in range(z)], movement(tiles))


def _from_picture(run: Path) -> Sheet:
    """The traversal that a run has drawn: rows sorted by KL, which are called by their place."""
    path = next((run / name for name in PICTURES if (run / name).is_file()), None)
    if path is None:
        raise UserError(f"{run} has neither a checkpoint nor a traversal ({', '.join(PICTURES)})")
    picture = np.asarray(iio.imread(path))[..., :3]
    config = read_config(run) if (run / "config.yaml").is_file() else {}
    side = config.get("size", [64])[0]  # pixels of a tile
    bare = picture.shape[1] == side * len(OFFSETS) and picture.shape[0] % side == 0
    if bare:
        tiles = picture.reshape(-1, side, len(OFFSETS), side, 3).swapaxes(1, 2)
    else:
        tiles = cut_grid(picture, (side, side))
    if tiles.shape[1] != len(OFFSETS):
        raise UserError(f"{path} is no traversal of {len(OFFSETS)} columns")
    title = task_name(config["task"]) if config else run.name
    names = [f"row {i + 1}" for i in range(len(tiles))]
    return Sheet(f"{title}, as drawn by the run", tiles, names, movement(tiles))


@matplotlib.rc_context(RC)
def figure_of(
    sheets: Sequence[Sheet],
    latents: Sequence[str],
    rows: int,
    names: Mapping[str, str],
    title: str,
) -> Figure:
    """The figure that :func:`draw` writes."""
    chosen = [_choose(sheet, latents, rows) for sheet in sheets]
    columns = min(2, len(sheets))
    lines = -(-len(sheets) // columns)
    width = TEXT if columns == 2 else 0.62 * TEXT
    tile = (width / columns - 0.75) / len(OFFSETS)
    height = lines * (tile * max(map(len, chosen)) + 0.55) + 0.1
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, sheet, order in zip(axes, sheets, chosen, strict=False):
        _draw_sheet(panel, sheet, order, names)
    for panel in axes[len(sheets) :]:
        panel.set_axis_off()
    caption = "added to one number of the latent · ±: how far pixels move, of 255"
    figure.supxlabel(caption, fontsize=6.5)
    if title:
        figure.suptitle(title)
    return figure


def _choose(sheet: Sheet, latents: Sequence[str], rows: int) -> list[int]:
    """Which rows of a sheet, in which order."""
    if not latents:
        return [int(i) for i in np.argsort(-sheet.moved, kind="stable")[:rows]]
    if unknown := [name for name in latents if name not in sheet.names]:
        last = sheet.names[-1]
        raise UserError(f"there is no latent {unknown[0]} in {sheet.title}: the last is {last}")
    return [sheet.names.index(name) for name in latents]


def _draw_sheet(axes: Axes, sheet: Sheet, order: Sequence[int], names: Mapping[str, str]) -> None:
    tiles = sheet.tiles[list(order)]
    r, c, h, w, _ = tiles.shape
    gap = max(1, h // 32)
    canvas = np.full((r * (h + gap) - gap, c * (w + gap) - gap, 3), 255, np.uint8)
    for i in range(r):
        for j in range(c):
            y, x = i * (h + gap), j * (w + gap)
            canvas[y : y + h, x : x + w] = tiles[i, j]
    axes.imshow(canvas, interpolation="nearest")
    axes.set_title(sheet.title)
    labels = [f"{names.get(sheet.names[i], sheet.names[i])}\n±{sheet.moved[i]:.1f}" for i in order]
    axes.set_yticks([i * (h + gap) + h / 2 for i in range(r)], labels)
    heads = [f"{offset:+d}".replace("-", "−") if offset else "mean" for offset in OFFSETS]
    axes.set_xticks([j * (w + gap) + w / 2 for j in range(c)], heads)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.traversals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--episodes", type=Path, help="a folder of them; default the run's own")
    parser.add_argument("--latents", nargs="+", default=[], metavar="zN")
    parser.add_argument("--rows", type=int, default=6, help="how many, if not named")
    parser.add_argument("--name", action="append", default=[], metavar="zN=TEXT")
    parser.add_argument("--title", default="")
    parser.add_argument("--output", type=Path, default=Path("traversals"))
    args = parser.parse_args(argv)
    try:
        if args.rows < 1:
            raise UserError("--rows takes a number from 1 on")
        names = {}
        for given in args.name:
            if not (found := re.fullmatch(r"(z\d+|row \d+)=(.+)", given)):
                raise UserError(f"--name takes zN=TEXT, not '{given}'")
            names[found[1]] = found[2]
        chosen = {"episodes": args.episodes, "latents": args.latents, "rows": args.rows}
        paths = draw([], args.output, runs=args.runs, names=names, title=args.title, **chosen)
    except REFUSED as error:
        return refuse("traversals", error)
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
