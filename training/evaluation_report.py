"""An evaluation on the terminal and on the disk: table, JSON, video, contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accel.runtime import find_device
from config import Config
from envs import choose_renderer
from fileio.atomic import atomic_write
from logger.pictures import (
    caption,
    contact_sheet,
    encode_mp4,
    encode_png,
    enlarge,
    to_rgb,
    write_text,
)
from tools import expand_path
from training.evaluator import Evaluation
from training.provenance import versions
from training.returns import Summary, interval
from training.run_folder import FPS
from training.run_names import variant

ABREAST, ROWS, COLUMNS = 4, 20, 8  # episodes in the video; episodes and frames on the sheet
HEAD = 36  # pixels above the video for two lines; even, as its format asks


class Played(NamedTuple):
    """What was played.

    Attributes:
        config: the run's configuration under the given flags.
        frames, decisions, updates, finished: where the run's checkpoint stands.
        evaluation: the episodes and what they came to; as many as are shown have images.
        seconds: how long it took to play them.
    """

    config: Config
    frames: int
    decisions: int
    updates: int
    finished: bool
    evaluation: Evaluation
    seconds: float

    @property
    def videos(self) -> list[np.ndarray]:
        """Frames of the first episodes, uint8 [T, H, W, 3] each."""
        return [to_rgb(episode["image"]) for episode in self.evaluation.pictured]


def table(played: Played) -> str:
    """What the episodes came to, as aligned text: a line for each, and their statistics."""
    c, whole = played.config, played.evaluation.summary
    state = "finished" if played.finished else "not finished"
    method = variant(c.method_name, c.label)
    title = f"{c.task}, {method}: frame {played.frames}, {played.updates} updates, {state}"
    names = ["episode", "seed", "return", "length"]
    rows = [
        [str(number), str(seed), f"{one.ret:.2f}", str(one.length)]
        for number, (seed, one) in enumerate(
            zip(played.evaluation.seeds, played.evaluation.outcomes, strict=True), 1
        )
    ]
    if whole.success is not None:
        names.append("success")
        for row, one in zip(rows, played.evaluation.outcomes, strict=True):
            row.append("yes" if one.success else "no")
    if whole.distance is not None:
        names.append("distance")
        for row, one in zip(rows, played.evaluation.outcomes, strict=True):
            row.append("" if one.distance is None else f"{one.distance:.4f}")
    lines = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    return "\n".join(
        [
            title,
            f"colours: {played.evaluation.variation}",
            "",
            *text,
            "",
            *_statistics(whole, played),
        ]
    )


def worlds_table(looks: Sequence[Played]) -> str:
    """What one agent came to in several worlds, as aligned text: a line for each.

    Its episodes began alike in all of them. Lengths are in decisions, which are agent steps, and
    in frames.
    """
    c = looks[0].config
    lines = [["world", "return", "±", "95%", "decisions", "frames", "success"]]
    for played in looks:
        whole, n = played.evaluation.summary, len(played.evaluation.outcomes)
        half = f"{float(interval(whole.std, n)):.2f}" if n > 1 else ""
        frames = f"{whole.length * c.action_repeat:.0f}"
        success = "" if whole.success is None else f"{whole.success:.0%}"
        numbers = [f"{whole.mean:.2f}", f"{whole.std:.2f}", half, f"{whole.length:.0f}"]
        lines.append([played.evaluation.variation, *numbers, frames, success])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    title = f"{c.task}, {variant(c.method_name, c.label)}: frame {looks[0].frames}, decision "
    return "\n".join([f"{title}{looks[0].decisions}", "", *text])


def _statistics(whole: Summary, played: Played) -> list[str]:
    """The table's last lines."""
    n = len(played.evaluation.outcomes)
    line = f"return {whole.mean:.2f}, standard deviation {whole.std:.2f}"
    if n > 1:
        half = float(interval(whole.std, n))
        line += f", 95% interval {whole.mean - half:.2f} to {whole.mean + half:.2f}"
    lines = [line, f"length {whole.length:.1f}"]
    if whole.success is not None:
        lines.append(f"success {whole.success:.0%}, {round(whole.success * n)} of {n}")
    if whole.distance is not None:
        lines.append(f"distance at the end {whole.distance:.4f}")
    return lines


def record(played: Played) -> dict[str, Any]:
    """What is written as JSON; what the environment does not tell is null."""
    c, whole = played.config, played.evaluation.summary
    half = float(interval(whole.std, len(played.evaluation.outcomes)))
    spread = [whole.mean - half, whole.mean + half] if len(played.evaluation.outcomes) > 1 else None
    backend = choose_renderer(c.task)
    return {
        "run": str(expand_path(c.evaluate, "evaluate").absolute()),
        "task": c.task,
        "method": c.method_name,
        "label": c.label,
        "frames": played.frames,
        "decisions": played.decisions,
        "updates": played.updates,
        "finished": played.finished,
        "colors": played.evaluation.variation,
        "seed": c.seed,
        "flags": {name: c[name] for name in sorted(c.overrides - {"evaluate"})},
        "return_mean": whole.mean,
        "return_std": whole.std,
        "return_interval95": spread,
        "length_mean": whole.length,
        "success_rate": whole.success,
        "distance_mean": whole.distance,
        "episodes": [
            {
                "seed": seed,
                "return": one.ret,
                "length": one.length,
                "success": one.success,
                "distance": one.distance,
            }
            for seed, one in zip(played.evaluation.seeds, played.evaluation.outcomes, strict=True)
        ],
        "eval_envs": c.eval_envs,
        "device": str(find_device(c.device)),
        "precision": c.precision,
        "renderer": backend and backend.name,
        "versions": versions(),
        "seconds": round(played.seconds, 3),
    }


def write(played: Played, folder: Path) -> list[Path]:
    """Writes ``<frames>-<colours>-<episodes>.json``, ``.mp4`` and ``.png``.

    Nothing is overwritten: where another evaluation has that name, a number is appended. One that
    came to the same is left as it is, and takes whatever of its files is missing.

    Returns:
        Their paths.
    """
    content = json.loads(json.dumps(record(played)))
    path = _claim(
        content,
        folder
        / f"{played.frames:09d}-{played.evaluation.variation}-{len(played.evaluation.seeds)}",
    )
    # An episode to look at may have been lost with its environment.
    pictures = {".mp4": _video, ".png": _sheet} if played.videos else {}
    for suffix, draw in pictures.items():
        if not path.with_suffix(suffix).exists():
            with atomic_write(path.with_suffix(suffix)) as file:
                file.write(draw(played))
    return [path, *(path.with_suffix(suffix) for suffix in pictures)]


def _claim(content: Mapping[str, Any], stem: Path) -> Path:
    """Writes the JSON under the first name that is free, or finds it under one that is not."""
    path, number = stem.with_name(stem.name + ".json"), 1
    while True:
        try:
            with atomic_write(path, new=True) as file:
                file.write((json.dumps(content, indent=2) + "\n").encode())
            return path
        except FileExistsError:
            if _timeless(_read(path)) == _timeless(content):
                return path
        number += 1
        path = stem.with_name(f"{stem.name}-{number}.json")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None  # whatever it is, it is not this evaluation


def _timeless(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    return {name: value for name, value in content.items() if name != "seconds"}


def draw_episode(episode: Mapping[str, np.ndarray], variation: str) -> np.ndarray:
    """The video of an episode, uint8 [T, H', W', 3], and above it how it goes."""
    so_far = np.cumsum(episode["reward"], dtype=np.float64)
    captions = [
        f"colours {variation}, step {step}\nreturn {ret:.1f} of {so_far[-1]:.1f}"
        for step, ret in enumerate(so_far)
    ]
    return caption(to_rgb(episode["image"]), captions, factor=3)


def _video(played: Played) -> bytes:
    """The first episodes side by side; one that has ended shows its last frame."""
    shown = played.videos[:ABREAST]
    longest, width = max(map(len, shown)), 4 * shown[0].shape[2]
    texts = [
        f"episode {number}, colours {played.evaluation.variation}\nreturn {one.ret:.1f}"
        for number, one in enumerate(played.evaluation.outcomes[: len(shown)], 1)
    ]
    above = np.concatenate([write_text(text, width, HEAD)[:HEAD, :width] for text in texts], 1)
    abreast = (
        np.concatenate([video[min(t, len(video) - 1)] for video in shown], axis=1)
        for t in range(longest)
    )
    return encode_mp4((np.concatenate([above, enlarge(image, 4)]) for image in abreast), FPS)


def _sheet(played: Played) -> bytes:
    """A row of frames for each of the first episodes, what it came to beside it."""
    c = played.config
    method = variant(c.method_name, c.label)
    title = f"{c.task}, colours {played.evaluation.variation}: {method} at {played.frames:,} frames"
    changed = sorted(c.overrides - c.marked("resume") - {"eval_colors", "seed"})
    if changed:  # what the environment was made by, other than the run's own
        title += ", " + " ".join(f"--{name} {c[name]}" for name in changed)
    labels = []
    for number, one in enumerate(played.evaluation.outcomes[: min(ROWS, len(played.videos))], 1):
        lines = [f"episode {number}", f"return {one.ret:.1f}", f"{one.length} steps"]
        if one.success is not None:
            lines.append("success" if one.success else "no success")
        if one.distance is not None:
            lines.append(f"distance {one.distance:.3f}")
        labels.append("\n".join(lines))
    return encode_png(contact_sheet(played.videos[:ROWS], labels, COLUMNS, title=title))
