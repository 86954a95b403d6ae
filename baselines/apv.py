"""APV: action-free pretraining on videos, then an action-conditioned model stacked on top.

Seo et al. 2022, arXiv 2203.13880. The method's block in configs.yaml is APV as DisWM's authors
compare with it; ``apv_authors_dmc`` is what its own authors ran on dm_control.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from accel.compiling import compile_methods
from accel.runtime import Runtime
from agents.base import Batch, Metrics, Spaces
from agents.diswm import AgentNoise, DisWM
from agents.model_configs import world_model_config
from agents.optimizer import Optimizer
from agents.predictor import log_names
from agents.pretrained import find_predictor
from baselines.from_videos import VideoPredictorLearner, check_plain, fill_rssm, load_videos
from baselines.stacked import PLAIN_REWARD, StackedConfig, StackedPolicy, StackedWorldModel
from baselines.video_bonus import BonusConfig, VideoBonus
from config import Config, key
from models import FilterNoise, LossScales, VideoPredictor
from tools import UserError

NORM = (0.99, 1.0, 1e-8, 1.0)  # momentum, scale, eps, init


@dataclasses.dataclass(frozen=True)
class Keys:
    """APV's own keys."""

    k: int = key(16, "nearest neighbours of the intrinsic bonus", above=0)
    intr_beta: float = key(1.0, "weight of the intrinsic bonus; 0 for none", at_least=0)
    beta_type: str = key(
        "abs", "rel multiplies it by the running mean of |reward|", choices=("abs", "rel")
    )
    intr_seq_length: int = key(5, "steps whose features are averaged for it", above=0)
    intr_reward_norm: tuple[float, ...] = key(
        NORM, "momentum, scale, epsilon and start of the running mean that it is divided by"
    )
    queue_size: int = key(4096, "features that it is compared with", above=0)
    queue_dim: int = key(128, "numbers of the random projection of a feature", above=0)
    af_latents: str = key(
        "mode",
        "the latents of the action-free RSSM, pretraining included",
        choices=("mode", "sample"),
    )
    af_kl_scale: str = key(
        "1.0", "weight of the action-free RSSM's KL in finetuning", schedule=True
    )
    concat_embed: bool = key(False, "the RSSM above sees the image's embedding, too")
    clip_apart: bool = key(
        False, "the gradient of encoder and action-free RSSM is clipped apart from the others'"
    )
    decay_by_lr: bool = key(
        True, "weight_decay is times the learning rate; False takes that share in each update"
    )


class APVPredictor(VideoPredictorLearner):
    """APV's first stage; its latents are modes or samples, as in the second one."""

    Keys = Keys

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__(decayed(config, config.model_lr), runtime)

    def draw_noise(self, batch: int, length: int) -> FilterNoise:
        noise: Any = super().draw_noise(batch, length)
        return noise if self.config.af_latents == "sample" else noise._replace(latent=None)


class APV(DisWM):
    """APV. The arguments are those of every agent (`agents/base.py`).

    Attributes:
        bonus: what makes the intrinsic reward; None where ``--intr_beta`` is 0.
    """

    name = "apv"
    sees_vectors = False  # its RSSM begins as one that saw images alone
    Keys = Keys
    pretrainer = APVPredictor
    policy_class = StackedPolicy
    world_model: StackedWorldModel

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__(config, runtime, spaces)
        c, model = config, self.world_model
        self.bonus: VideoBonus | None = None
        if c.intr_beta:
            self.bonus = VideoBonus(model.af_rssm.feat_size, bonus_config(c)).to(self.device)
        self.optimizers = self.make_optimizers()
        if runtime.compile:
            compile_methods(model.af_rssm, "filter_steps", "prior_of")
        if source is not None:
            given = self.load_videos(config)
            model.encoder.load_state_dict(given.encoder.state_dict())
            model.decoder.load_state_dict(given.decoder.state_dict())
            fill_rssm(model.af_rssm, given.rssm)
        self.sync()

    def below(self) -> list[nn.Parameter]:
        """The parameters that see images, of encoder and action-free RSSM."""
        model = self.world_model
        return [*model.encoder.parameters(), *model.af_rssm.parameters()]

    def make_optimizers(self) -> dict[str, Optimizer]:
        """The optimisers of model, actor and critic."""
        c, b = self.config, self.behavior
        below = self.below() if c.clip_apart else []
        settings = {
            "model": (self.world_model, c.model_lr, c.grad_clip),
            "actor": (b.actor, c.actor_lr, c.actor_grad_clip),
            "value": (b.value, c.value_lr, c.value_grad_clip),
        }
        return {
            name: Optimizer(name, part.parameters(), decayed(c, lr), lr, clip, below)
            for name, (part, lr, clip) in settings.items()
        }

    def make_world_model(self, size: int, teacher: VideoPredictor | None) -> StackedWorldModel:
        """The stacked world model; nobody teaches it."""
        c = self.config
        sizes = world_model_config(c, self.runtime.image_chunk)
        given = {field.name: getattr(sizes, field.name) for field in dataclasses.fields(sizes)}
        return StackedWorldModel(
            StackedConfig(
                **given, concat_embed=c.concat_embed, lower_sample=c.af_latents == "sample"
            ),
            size,
        )

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks the bonus, and that there is a predictor to begin as."""
        check_plain(config)
        check_bonus(config)
        if not config.decay_by_lr and config.opt != "adam":
            raise UserError(
                f"--decay_by_lr False takes --opt adam, not {config.opt}: leave one of them out"
            )
        cls.load_videos(config)

    @staticmethod
    def load_videos(config: Config) -> VideoPredictor:
        """The predictor that it begins as.

        Raises:
            UserError: there is none, or it is of another kind or of other sizes.
        """
        return load_videos(config)

    @classmethod
    def find_source(cls, config: Config) -> Path | None:
        """The predictor's folder."""
        return find_predictor(config.pretrain_checkpoint_path)

    def compute(self, batch: Batch, scales: LossScales, noise: AgentNoise) -> Metrics:
        """One update of world model, actor and critic; the reward to learn has the bonus in it."""
        model, told = self.world_model, {}
        with self.autocast():
            lower = model.lower(batch, model.encode(batch["image"]), noise.filter.lower)
            rewarded = batch
            if self.bonus is not None:
                reward, memory, told = self.bonus(lower.feat, batch["reward"], batch["is_first"])
                rewarded = {**batch, "reward": reward, PLAIN_REWARD: batch["reward"]}
            outputs = model.terms_above(rewarded, scales, lower, noise.filter)
            loss = model.loss(outputs.terms, scales)
        metrics = self.optimizers["model"].step(loss)
        skip = metrics["skipped_model"]
        if self.bonus is not None:
            self.bonus.remember(memory, skip)
        metrics |= outputs.metrics | log_names(outputs.terms, scales) | told
        discount = None if model.discount is None else batch["discount"]
        return metrics | self._learn_behavior(outputs.post, scales, noise.imagine, discount, skip)


def bonus_config(config: Config) -> BonusConfig:
    """The bonus's settings."""
    c = config
    momentum, scale, eps, init = c.intr_reward_norm
    relative = c.beta_type == "rel"
    return BonusConfig(
        c.k,
        c.intr_beta,
        relative,
        c.intr_seq_length,
        c.queue_size,
        c.queue_dim,
        momentum,
        scale,
        eps,
        init,
    )


def check_bonus(config: Config) -> None:
    """Checks that the queue holds what an update puts into it.

    Raises:
        UserError: one line that names the flag and the mend.
    """
    c = config
    if len(c.intr_reward_norm) != len(NORM) or not 0 <= c.intr_reward_norm[0] <= 1:
        raise UserError(
            "--intr_reward_norm takes four numbers, momentum (from 0 to 1), scale, epsilon and "
            f"start, such as {' '.join(map(str, NORM))}"
        )
    windows = c.batch_length - c.intr_seq_length + 1
    if windows < 1:
        raise UserError(
            f"--intr_seq_length {c.intr_seq_length} is longer than the sequences of a batch: give "
            f"at most --batch_length {c.batch_length}"
        )
    if c.queue_size < c.batch_size * windows:
        raise UserError(
            f"--queue_size {c.queue_size} is smaller than what one update puts into it, "
            f"{c.batch_size} sequences of {windows} windows: give at least "
            f"{c.batch_size * windows}, or smaller batches"
        )


def decayed(config: Config, lr: float) -> Config:
    """The configuration for an optimiser whose decay ``--decay_by_lr`` is to have.

    AdamW takes lr · decay of a weight in each step; without the rate it is to take ``decay``.
    """
    c = config
    return c if c.decay_by_lr else c.replace(weight_decay=c.weight_decay / lr)
