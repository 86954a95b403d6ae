"""t-SNE of what both stages' encoders make of clips: those pretrained on, and those met online.

python -m figures.tsne RUN --offline EPISODES --output tsne

RUN is a finetuning with a teacher. Each point is one clip: the mean of the β-VAE's latent, averaged
over the clip's frames. Both encoders see both sets of clips (the paper's Figure J).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from figures import save
from figures.records import REFUSED, Record, refuse
from figures.runs import runs_in
from figures.stages import features_of, load_stages, read_clips, videos_of
from figures.style import RC, TEXT, write_legend
from tools import UserError

SETS = {"offline": ("#0072B2", "o"), "online": ("#D55E00", "^")}


class Embedding(NamedTuple):
    """One encoder's features of all clips.

    Attributes:
        title: whose they are.
        points: [N, 2], by t-SNE.
        apart: silhouette coefficient of the two sets among the features themselves, −1 to 1: 0
            where they are mixed.
    """

    title: str
    points: np.ndarray
    apart: float


def draw(
    records: Sequence[Record],
    output: Path,
    *,
    runs: Sequence[Path] | Mapping[str, Path],
    offline: Path | None = None,
    clips: int = 200,
    length: int = 50,
    seed: int = 0,
    title: str = "",
) -> list[Path]:
    """Draws the t-SNE of a run's encoders to files.

    Args:
        records: not used.
        output: where to; see :func:`figures.save`.
        runs: one finetuning's folder, or one above it.
        offline: the episodes that its teacher was pretrained on; default what the pretraining's
            configuration names.
        clips: how many in all, half of them online: from the run's own episodes.
        length: frames of each.
        seed: of which clips, and of t-SNE.
        title: above all; none by default.

    Raises:
        UserError: there is no such run, it has no teacher, or episodes or scikit-learn are missing.
    """
    found = runs_in(runs)
    if len(found) != 1:
        raise UserError(f"t-SNE is of one run's encoders: name one of {len(found)} runs")
    if clips < 8 or length < 1:
        raise UserError("t-SNE takes 8 clips or more, of a frame or more")
    embeddings, half = embed(found[0], offline, clips, length, seed), clips // 2
    return save(figure_of(embeddings, half, length, title), output)


def embed(run: Path, offline: Path | None, clips: int, length: int, seed: int) -> list[Embedding]:
    """Both encoders' features of the same clips, the first half of them offline."""
    _check_library()
    stages = load_stages(run)
    if len(stages.named) < 2:
        raise UserError(f"{run} has no teacher: name a finetuning with --distillation True")
    folder = Path(offline) if offline else videos_of(stages)
    if folder is None:
        raise UserError(
            f"the videos that {run} was pretrained on are not to be found: name their folder, "
            "--offline"
        )
    half = clips // 2
    images = [
        read_clips(f, stages.image_shape, half, length, seed) for f in (folder, run / "train_eps")
    ]
    result = []
    for stage, model in stages.named.items():
        features = np.concatenate([features_of(model, each) for each in images])
        points, apart = _embed(features, np.repeat([0, 1], half), seed)
        result.append(Embedding(f"{stage} encoder", points, apart))
    return result


def _check_library() -> None:
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError:
        raise UserError(
            "t-SNE needs scikit-learn: pip install -r requirements-figures.txt -c constraints.txt"
        ) from None


def _embed(features: np.ndarray, sets: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    # Latents differ in scale by orders of magnitude; each counts alike.
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    perplexity = min(30.0, (len(scaled) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(scaled), float(silhouette_score(scaled, sets))


@matplotlib.rc_context(RC)
def figure_of(embeddings: Sequence[Embedding], half: int, length: int, title: str) -> Figure:
    """The figure that :func:`draw` writes."""
    figure = Figure((TEXT * 0.75, TEXT * 0.36), layout="constrained")
    entries = {}
    panels = figure.subplots(1, len(embeddings), squeeze=False).flatten()
    for panel, embedding in zip(panels, embeddings, strict=True):
        for (name, (color, marker)), points in zip(
            SETS.items(), (embedding.points[:half], embedding.points[half:]), strict=True
        ):
            [entries[f"{name}, {half} clips"]] = panel.plot(
                *points.T, marker, color=color, ms=3, mfc=color if marker == "o" else "none",
                mew=0.7, alpha=0.8, ls="",
            )  # fmt: skip
        panel.set_title(f"{embedding.title}, silhouette {embedding.apart:.2f}")
        panel.set_xticks([])
        panel.set_yticks([])
    caption = f"a point: a clip's latent mean μ(o), averaged over its {length} frames; one seed"
    write_legend(figure, entries, caption)
    if title:
        figure.suptitle(title)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.tsne",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a finetuning's folder")
    parser.add_argument("--offline", type=Path, help="episodes that its teacher was pretrained on")
    parser.add_argument("--clips", type=int, default=200, help="in all, half of them online")
    parser.add_argument("--length", type=int, default=50, help="frames of a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title", default="")
    parser.add_argument("--output", type=Path, default=Path("tsne"))
    args = parser.parse_args(argv)
    chosen = {n: getattr(args, n) for n in ("offline", "clips", "length", "seed", "title")}
    try:
        print(*draw([], args.output, runs=[args.run], **chosen), sep="\n")
    except REFUSED as error:
        return refuse("tsne", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
