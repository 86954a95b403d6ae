"""What `python -m study metrics` does: measures what encoders have disentangled."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
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
from measure.results import CSV, FOLDER, table, to_dict, write, write_csv
from models import VideoPredictor
from networks import BetaVAEEncoder
from tools import UserError, expand_path, print_safe
from training.run_folder import check_writable

LEAST = 3 * BINS  # frames, of which a third is tested on
Scores = dict[str, float]


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
    try:
        choose_backend(device="cpu")
        pools: dict[str, tuple[Sample, Sample | None]] = {}
        rows: dict[str, Scores] = {}
        controls: dict[str, Scores] = {}
        for encoder in encoders:
            key = repr(sorted(encoder.sees.items()))
            if key not in pools:
                pools = {key: draw(args, encoder.sees)}  # the one before may be large
                controls = {}
            metrics, controls = measure_one(args, encoder, *pools[key], controls)
            rows[encoder.label] = metrics.scores
    except (UnknownTask, RenderingError) as error:
        raise UserError(f"--task {args.task}: {error}") from None
    print_safe(table({**rows, **_summary(rows), **controls}), sys.stdout)
    if args.output:
        path = expand_path(args.output, "output") / CSV
        write_csv(path, {**rows, **_summary(rows), **controls})
    return 0


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


def draw(args: argparse.Namespace, sees: dict[str, Any]) -> tuple[Sample, Sample | None]:
    """The frames to measure on: independent factors, and those that a random policy meets."""
    workers = args.workers or available_cores()
    how: dict[str, Any] = {"variation": args.variation, "workers": workers, **sees}
    begun = time.monotonic()
    drawn = sample(args.task, args.frames, args.seed, **how)
    played = None
    if args.onpolicy_frames:
        played = play(args.task, args.onpolicy_frames, args.seed, **how)
    print_safe(
        f"drew {args.frames} frames of {args.task} with {len(drawn.factors.factors)} factors, and "
        f"{args.onpolicy_frames} of a random policy, in {time.monotonic() - begun:.0f} s"
    )
    return drawn, played


def measure_one(
    args: argparse.Namespace,
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
        codes = control_codes(drawn, encoder.model.config.image, code, args.seed)
        controls = {n: score(c, drawn.factors, jobs=cores).scores for n, c in codes.items()}
    onpolicy = None if played is None else _on_policy(encode, played, cores)
    content = to_dict(
        metrics,
        encoder=encoder.stage or "encoder",
        task=args.task,
        variation=args.variation,
        seed=args.seed,
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
