"""The first stage: a video predictor that learns from frames alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents import reports
from agents.adaptive_beta import make_controllers
from agents.base import Batch, Metrics
from agents.learner import GradientLearner
from agents.model_configs import check_networks, predictor_config
from agents.optimizer import Optimizer
from agents.pretrained import save_predictor
from config import Config
from fileio.atomic import atomic_write
from logger.pictures import encode_png, to_rgb
from models import FilterNoise, LossScales, Terms, VideoPredictor, WorldModel
from networks import BetaVAEEncoder
from tools import print_safe


def log_names(terms: Terms, scales: LossScales) -> Metrics:
    """Each term under the name that the log has for it, and the weights that move."""
    names = {"beta_vae": "beta_vae_kl_loss", "distill": "distillation_kl_loss"}
    metrics = {names.get(name, f"{name}_loss"): term.detach() for name, term in terms.items()}
    moving = {"kl": "kl_scale", "beta_vae": "beta", "distill": "eta"}
    metrics |= {moving[name]: scales[name] for name in moving if name in terms}
    return metrics | {name: scales[name] for name in ("kl_balance", "kl_free")}


def latent_means(model: VideoPredictor, images: np.ndarray) -> np.ndarray | None:
    """Means [N, Z] of a model's β-VAE for images uint8 [N, H, W, C]; None of a plain CNN."""
    if not isinstance(model.encoder, BetaVAEEncoder):
        return None
    mean, _ = model.encoder.statistics(torch.from_numpy(images))
    return mean.cpu().numpy()


def compile_model(model: VideoPredictor) -> None:
    """Compiles the parts of a model's loss: of the scan a few steps, which all of them share."""
    print_safe(
        "note: the first update compiles its steps, for minutes; --compile False goes without"
    )
    compile_methods(model, "encode", "image_nll", "kl_term")
    compile_methods(model.rssm, "filter_steps", "prior_of")
    if isinstance(model, WorldModel):
        compile_methods(model, "head_term")
        if model.teacher is not None:
            compile_methods(model.teacher, "encode")


class Predictor(GradientLearner):
    """Learns a video predictor from frames alone: the first stage of DisWM.

    Args:
        config: the run's configuration.
        runtime: device, dtype and what else `accel` has decided.
    """

    name = "pretrain"
    has_latent = True

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__(config, runtime)
        self.model = self.make_model().to(self.device)
        self.optimizers["model"] = Optimizer(
            "model", self.model.parameters(), config, config.model_lr, config.grad_clip
        )
        self.controllers = make_controllers(config, self.device)
        if runtime.compile:
            compile_model(self.model)

    def make_model(self) -> VideoPredictor:
        """The video predictor that is to learn."""
        sizes = predictor_config(self.config, self.runtime.image_chunk)
        return VideoPredictor(sizes, self.config.pretrain_action_num)

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks the networks, and says what a predictor without a β-VAE is."""
        check_networks(config)
        if not config.beta_vae:
            print_safe("note: without --beta_vae True the predictor has DreamerV2's CNN")

    @classmethod
    def second_stage(cls, config: Config) -> dict[str, Any]:
        """DisWM, distilled from it."""
        return {
            "method_name": "diswm",
            "distillation": True,
            "beta_vae": config.beta_vae,
            "traverse": config.beta_vae,
            "source_action_num": config.pretrain_action_num,
        }

    def draw_noise(self, batch: int, length: int) -> FilterNoise:
        return self.model.draw_noise(batch, length)

    def compute(self, batch: Batch, scales: LossScales, noise: FilterNoise) -> Metrics:
        """One update of the predictor."""
        with self.autocast():
            outputs = self.model.terms(batch, scales, noise)
            loss = self.model.loss(outputs.terms, scales)
        metrics = self.optimizers["model"].step(loss)
        return metrics | outputs.metrics | log_names(outputs.terms, scales)

    def latent(self, images: np.ndarray) -> np.ndarray | None:
        """The means of the β-VAE's latent."""
        return latent_means(self.model, images)

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag."""
        data = self.prepare(batch)
        return reports.draw(self.model, data, traverse=self.config.beta_vae)

    def export(self, folder: Path, batch: Batch) -> None:
        """encoder.pt, decoder.pt, rssm.pt and, of a β-VAE, the traversal as a PNG."""
        save_predictor(folder, self.model)
        traversal = self.report(batch).get("beta_vae_traverse")
        if traversal is not None:
            with atomic_write(folder / "traverse.png") as file:
                file.write(encode_png(to_rgb(traversal)))
