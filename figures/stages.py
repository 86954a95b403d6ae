"""The video models of a run's both stages, and clips to show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.model_configs import predictor_config
from agents.pretrained import PREDICTOR_FILES, load_predictor
from agents.registry import METHODS
from config import Config, load_saved
from data.scaling import fit
from figures.runs import read_config
from fileio.checkpoints import misfit
from models import VideoPredictor
from replay.episodes import read_episode
from replay.files import episode_files
from tools import UserError
from training.saved_run import load_state

MODEL, TEACHER = "world_model.", "world_model.teacher."


class Stages(NamedTuple):
    """What a run's stages have learned to see.

    Attributes:
        config: the run's.
        pretrained: the first stage's model, of a finetuning its teacher; None without one.
        finetuned: the second stage's; None of a pretraining.
    """

    config: Config
    pretrained: VideoPredictor | None
    finetuned: VideoPredictor | None

    @property
    def named(self) -> dict[str, VideoPredictor]:
        """Those that are there, by their stage."""
        both = {"pretrained": self.pretrained, "finetuned": self.finetuned}
        return {name: model for name, model in both.items() if model is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the models see."""
        return next(iter(self.named.values())).config.image.shape


def load_stages(run: Path) -> Stages:
    """The models of a run: of a pretraining its predictor, of a finetuning its teacher and its own.

    Raises:
        UserError: it is no run, has no β-VAE, or its files cannot be used.
    """
    read_config(run)
    config = load_saved(run / "config.yaml", METHODS)
    if not config.beta_vae:
        raise UserError(f"{run} has no β-VAE, whose latents are drawn: name a run that has one")
    if config.beta_vae_pretrain:
        own = config.replace(pretrain_checkpoint_path=str(run))
        return Stages(config, load_predictor(own).eval(), None)
    learner = load_state("run", run)["learner"]
    weights = learner.get("weights", {}) if isinstance(learner, Mapping) else {}
    finetuned = model_of(weights, MODEL, config, run)
    teacher = None
    if any(name.startswith(TEACHER) for name in weights):
        teacher = model_of(weights, TEACHER, config, run)
    return Stages(config, teacher, finetuned)


def model_of(weights: Mapping[str, Any], prefix: str, config: Config, run: Path) -> VideoPredictor:
    """The video model among an agent's weights, whose names begin with a prefix."""
    parts = tuple(f"{prefix}{part}." for part in PREDICTOR_FILES)
    state = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(parts)}
    first = state.get("rssm.inputs.0.weight")
    if first is None:
        raise UserError(f"{run} has no world model in its checkpoint: name a run of DisWM")
    normed = any(name.startswith("rssm.cell.norm.") for name in state)
    config = config.replace(dyn_cell="gru_layer_norm" if normed else "gru")
    width = first.shape[1] - config.dyn_stoch * max(1, config.dyn_discrete)
    model = VideoPredictor(predictor_config(config), max(0, width))
    if wrong := misfit(state, model.state_dict()):
        raise UserError(f"{run}: {wrong}: draw with the code that made the run")
    model.load_state_dict(state)
    return model.eval()


def videos_of(stages: Stages) -> Path | None:
    """The folder that a run's first stage was pretrained on, where it is known and still there."""
    config = stages.config
    if not config.beta_vae_pretrain:
        path = Path(config.pretrain_checkpoint_path or "") / "config.yaml"
        if not path.is_file():
            return None
        config = load_saved(path, METHODS)
    given = config.pretrain_datasets_path
    return Path(given) if given and Path(given).is_dir() else None


def find_episodes(folder: Path) -> list[Path]:
    """The episode files in a folder.

    Raises:
        UserError: there are none.
    """
    found = episode_files(folder) if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder} holds no episodes (*.npz): name a folder that does")
    return found


def read_clips(
    folder: Path, shape: tuple[int, int, int], count: int, length: int, seed: int = 0
) -> np.ndarray:
    """Clips of episodes, drawn at random: uint8 [count, length, H, W, C].

    Episodes are drawn without replacement as long as there are some, starts uniformly. Images of
    another size have their middle scaled, as training has them.

    Args:
        folder: with the episodes.
        shape: (H, W, C) of what is to see them.
        count: how many clips.
        length: frames of each.
        seed: of which ones.

    Raises:
        UserError: there are no episodes so long, or one cannot be read, or made to fit.
    """
    rng, files, clips = np.random.default_rng(seed), find_episodes(folder), []
    order: list[Path] = []
    short = 0
    while len(clips) < count:
        if not order:
            if short == len(files):
                raise UserError(f"{folder} holds no episode of {length} frames: take shorter clips")
            order, short = [files[i] for i in rng.permutation(len(files))], 0
        path = order.pop()
        image = _images(path)
        if len(image) < length:
            short += 1
            continue
        start = rng.integers(len(image) - length + 1)
        clips.append(_fitted(image[start : start + length], shape, path))
    return np.stack(clips)


def _images(path: Path) -> np.ndarray:
    try:
        return read_episode(path)["image"]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _fitted(images: np.ndarray, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """Images of a file as what is to see them asks for."""
    try:
        fitted = fit(images, shape)
    except ValueError as error:
        raise UserError(f"{path} cannot be shown: {error}") from None
    if fitted.shape[1:] != shape:
        raise UserError(
            f"{path} has images of {images.shape[3]} channels, and the run sees {shape[2]}: name "
            "other episodes"
        )
    return fitted


@torch.no_grad()
def features_of(model: VideoPredictor, clips: np.ndarray) -> np.ndarray:
    """What an encoder makes of clips: the mean of its β-VAE's latent, averaged over time, [N, Z].

    Args:
        model: whose encoder it is.
        clips: uint8 [N, T, H, W, C].
    """
    means = []
    for clip in clips:
        encoding = model.encode(torch.from_numpy(clip)[None])
        assert encoding.mean is not None  # a β-VAE's
        means.append(encoding.mean[0].mean(0).numpy())
    return np.stack(means)
