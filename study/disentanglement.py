"""What encoders have disentangled: measured, and written into their folders."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import config as configuration
from accel.threads import available_cores
from agents.pretrained import PREDICTOR_FILES, as_pretrained, load_predictor
from agents.registry import METHODS
from config import Config
from envs import EnvSettings, RenderingError, UnknownTask, choose_renderer
from figures import latents as heat_map
from figures.stages import load_stages
from measure import Factors, Metrics, Sample, measure, play, sample, score
from measure.encoders import control_codes, encoder_of
from measure.results import FOLDER, JSON, read, to_dict, write
from models import VideoPredictor
from networks import BetaVAEEncoder
from study.job import DONE, Job, read_state
from tools import UserError, expand_path, print_safe

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


class Measured(NamedTuple):
    """The scores of encoders that see the same pictures.

    Attributes:
        sees: the settings of environments that those come from.
        encoders: by their labels.
        controls: by their names.
        teachers: labels of those that taught another one here.
    """

    sees: dict[str, Any]
    encoders: dict[str, Scores]
    controls: dict[str, Scores]
    teachers: frozenset[str] = frozenset()


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


def measure_all(frames: Frames, encoders: Iterable[Encoder]) -> list[Measured]:
    """Measures encoders and writes their files; those that see the same stand one after another.

    Raises:
        UserError: the task is not known, tells no factors, or cannot be drawn.
        OSError: a file cannot be written.
    """
    try:
        choose_renderer(frames.task, "cpu")
        alike = itertools.groupby(encoders, key=lambda encoder: encoder.sees)
        return [_measure_alike(frames, sees, group) for sees, group in alike]
    except (UnknownTask, RenderingError) as error:
        raise UserError(f"--task {frames.task}: {error}") from None


def _measure_alike(frames: Frames, sees: dict[str, Any], encoders: Iterable[Encoder]) -> Measured:
    """Measures encoders on the same frames, which may be large and are let go of then."""
    drawn, played = draw(frames, sees)
    rows: dict[str, Scores] = {}
    controls: dict[str, Scores] = {}
    teachers = []
    for encoder in encoders:
        metrics, controls = measure_one(frames, encoder, drawn, played, controls)
        rows[encoder.label] = metrics.scores
        teachers += [encoder.label] if encoder.stage else []
    return Measured(sees, rows, controls, frozenset(teachers))


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
