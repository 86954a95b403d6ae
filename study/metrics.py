"""Measures what encoders have disentangled: `python -m study metrics`, and runs of a study."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import config as configuration
from accel.threads import available_cores
from agents.pretrained import PREDICTOR_FILES, as_pretrained, load_predictor
from agents.registry import METHODS
from config import Config
from envs import EnvSettings, RenderingError, UnknownTask, choose_backend
from figures import latents as heat_map
from figures.stages import load_stages
from figures.statistics import bootstrap
from measure import Factors, Metrics, Sample, measure, play, sample, score
from measure.encoders import control_codes, encoder_of
from measure.information import BINS
from measure.results import CSV, FOLDER, JSON, read, table, to_dict, write, write_csv
from models import VideoPredictor
from networks import BetaVAEEncoder
from study.job import DONE, Job, read_state
from tools import UserError, expand_path, print_safe
from training.run_folder import check_writable

LEAST = 3 * BINS  # frames, of which a third is tested on
Scores = dict[str, float]


class Frames(NamedTuple):
    """The frames to measure on.

    Attributes:
        task: whose true factors it is measured by.
        number: how many, of independent factors.
        onpolicy: how many of a random policy.
        variation: whose distractions are drawn.
        seed: determines them.
        workers: processes that draw; 0 for one a core.
    """

    task: str
    number: int
    onpolicy: int = 0
    variation: str = "train"
    seed: int = 0
    workers: int = 0


class Encoder(NamedTuple):
    """A β-VAE to measure.

    Attributes:
        label: of its row.
        stage: ``teacher`` of a finetuning's teacher; else ''.
        folder: where its files go.
        config: of its run.
        model: what it is part of.
    """

    label: str
    stage: str
    folder: Path
    config: Config
    model: VideoPredictor

    @property
    def sees(self) -> dict[str, Any]:
        """The settings of environments that its pictures come from."""
        return EnvSettings.pick(self.config)


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the files; returns the exit status.

    Raises:
        UserError: one line, before anything is drawn.
        OSError: a file cannot be written.
    """
    encoders = [e for given in args.given for e in load(given, args.output)]
    check(args, encoders)
    drawn = args.task, args.frames, args.onpolicy_frames, args.variation, args.seed, args.workers
    rows, controls = measure_all(Frames(*drawn), encoders)
    print_safe(table({**rows, **_summary(rows), **controls}), sys.stdout)
    if args.output:
        path = expand_path(args.output, "output") / CSV
        write_csv(path, {**rows, **_summary(rows), **controls})
    return 0


def measure_finished(jobs: Iterable[Job], logdir: Path, count: int) -> None:
    """Measures the latents of those finished runs that have not been, each by its task's factors.

    What is measured lies in a run's own folder and is kept: whoever was stopped goes on from there.

    Args:
        jobs: of a study.
        logdir: of their runs.
        count: of frames.

    Raises:
        UserError: a run has no β-VAE, or its task tells no factors.
        OSError: a file cannot be written.
    """
    waiting: dict[str, list[Path]] = {}
    for job in dict.fromkeys(jobs):
        folder = logdir / job.name
        done = read_state(job, folder).status == DONE
        if done and not is_measured(folder, Frames(job.task, count)):
            waiting.setdefault(job.task, []).append(folder)
    for task, folders in waiting.items():
        print_safe(f"measuring {len(folders)} runs, once; if stopped, the same command goes on")
        # One at a time: a study's models together may be more than memory holds.
        measure_all(Frames(task, count), (load(str(folder))[0] for folder in folders))


def is_measured(folder: Path, frames: Frames) -> bool:
    """Whether a run has been measured on these frames since it was last trained.

    Raises:
        UserError: what was measured is damaged.
    """
    content = read(folder)
    if content is None:
        return False
    asked = {"task": frames.task, "frames": frames.number}
    asked |= {"variation": frames.variation, "seed": frames.seed}
    trained = max(path.stat().st_mtime for path in folder.glob("*.pt"))
    same = asked.items() <= content.items()
    return same and (folder / FOLDER / JSON).stat().st_mtime >= trained


def measure_all(
    frames: Frames, encoders: Iterable[Encoder]
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Measures encoders and writes their files; returns their scores and the controls'.

    Raises:
        UserError: the task is not known, tells no factors, or cannot be drawn.
        OSError: a file cannot be written.
    """
    rows: dict[str, Scores] = {}
    controls: dict[str, Scores] = {}
    pools: dict[str, tuple[Sample, Sample | None]] = {}
    try:
        choose_backend(device="cpu")
        for encoder in encoders:
            key = repr(sorted(encoder.sees.items()))
            if key not in pools:
                pools = {key: draw(frames, encoder.sees)}  # the one before may be large
                controls = {}
            metrics, controls = measure_one(frames, encoder, *pools[key], controls)
            rows[encoder.label] = metrics.scores
    except (UnknownTask, RenderingError) as error:
        raise UserError(f"--task {frames.task}: {error}") from None
    return rows, controls


def check(args: argparse.Namespace, encoders: Sequence[Encoder]) -> None:
    """Checks what was given, before anything is drawn.

    Raises:
        UserError: one line.
    """
    if args.frames < LEAST:
        raise UserError(
            f"--frames {args.frames} is too few for {BINS} bins: give {LEAST} or more, 15000 for "
            "numbers that can be compared"
        )
    if args.onpolicy_frames and args.onpolicy_frames < LEAST:
        raise UserError(f"--onpolicy_frames takes 0, or {LEAST} or more")
    if args.seed < 0 or args.workers < 0:
        raise UserError("--seed and --workers take 0 or more")
    labels = [encoder.label for encoder in encoders]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(
            f"RUN: two are called {twice}, by their last three folders: measure them one by one, "
            "each with its own --output"
        )
    for folder in {encoder.folder for encoder in encoders}:
        check_writable(folder.absolute(), "--output" if args.output else "RUN", "give --output")


def load(given: str, output: str | None = None) -> list[Encoder]:
    """The encoders of a run, its own before its teacher's, or of a checkpoint.

    Raises:
        UserError: there is none, or none with a β-VAE.
    """
    folder = expand_path(given, "RUN")
    own = _own_name(folder)
    base = folder / FOLDER if output is None else expand_path(output, "output") / own
    if not (folder / "config.yaml").is_file() and (folder / PREDICTOR_FILES["encoder"]).is_file():
        return [Encoder(str(own), "", base, *_checkpoint(folder))]
    stages = load_stages(folder)
    found = []
    if stages.finetuned is not None:
        found.append(Encoder(str(own), "", base, stages.config, stages.finetuned))
    if stages.pretrained is not None:
        stage = "teacher" if found else ""
        label = f"{own}, teacher" if found else str(own)
        found.append(Encoder(label, stage, base / stage, stages.config, stages.pretrained))
    return found


def _own_name(folder: Path) -> Path:
    """The last three folders of a path, or as many as there are: by these it is called."""
    return Path(*folder.absolute().parts[1:][-3:])


def _checkpoint(folder: Path) -> tuple[Config, VideoPredictor]:
    """A predictor in a folder without a run, of the default sizes if it is no run's snapshot."""
    flags = ["--beta_vae", "True", "--pretrain_checkpoint_path", str(folder)]
    given = configuration.parse(["--configs", "defaults", "dmc2gym", *flags], methods=METHODS)
    config = as_pretrained(given, folder)
    model = load_predictor(config).eval()
    return config, model


def draw(frames: Frames, sees: dict[str, Any]) -> tuple[Sample, Sample | None]:
    """The frames to measure on: independent factors, and those that a random policy meets."""
    workers = frames.workers or available_cores()
    how: dict[str, Any] = {"variation": frames.variation, "workers": workers, **sees}
    begun = time.monotonic()
    drawn = sample(frames.task, frames.number, frames.seed, **how)
    played = None
    if frames.onpolicy:
        played = play(frames.task, frames.onpolicy, frames.seed, **how)
    print_safe(
        f"drew {frames.number} frames of {frames.task} with {len(drawn.factors.factors)} factors, "
        f"and {frames.onpolicy} of a random policy, in {time.monotonic() - begun:.0f} s"
    )
    return drawn, played


def measure_one(
    frames: Frames,
    encoder: Encoder,
    drawn: Sample,
    played: Sample | None,
    controls: dict[str, Scores],
) -> tuple[Metrics, dict[str, Scores]]:
    """Measures an encoder and writes its files; the controls are measured once for all frames."""
    network, cores, begun = encoder.model.encoder, available_cores(), time.monotonic()
    assert isinstance(network, BetaVAEEncoder)  # `load` refuses others
    encode = encoder_of(network)
    metrics = measure(encode, *drawn, jobs=cores)
    if not controls:
        code = encode(drawn.images)[0]
        codes = control_codes(drawn, encoder.model.config.image, code, frames.seed)
        controls = {n: score(c, drawn.factors, jobs=cores).scores for n, c in codes.items()}
    onpolicy = None if played is None else _on_policy(encode, played, cores)
    content = to_dict(
        metrics,
        encoder=encoder.stage or "encoder",
        task=frames.task,
        variation=frames.variation,
        seed=frames.seed,
        controls=controls,
        onpolicy=onpolicy,
    )
    write(encoder.folder, content)
    heat_map.draw(content, encoder.folder / "heatmap.png")
    print_safe(f"measured {encoder.label} in {time.monotonic() - begun:.0f} s: {encoder.folder}")
    return metrics, controls


def _on_policy(encode: Any, played: Sample, jobs: int) -> tuple[Metrics, Factors] | None:
    """On what a policy meets, where some factors may never change."""
    factors = played.factors.without(*played.factors.constant)
    if not factors.factors:
        return None
    return measure(encode, played.images, factors, jobs=jobs), factors


def _summary(rows: dict[str, Scores]) -> dict[str, Scores]:
    """Means over the encoders, and the ends of their 95% bootstrap intervals."""
    if len(rows) < 2:
        return {}
    found: dict[str, Scores] = {"mean": {}, "mean, low": {}, "mean, high": {}}
    for name in next(iter(rows.values())):
        values = [row[name] for row in rows.values()]
        estimate = bootstrap([np.array(values)], lambda drawn: drawn.mean(-1))
        for label, number in zip(found, estimate, strict=True):
            found[label][name] = float(number)
    return found
