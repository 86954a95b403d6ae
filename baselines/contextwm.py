"""ContextWM: pretrained on videos as they are found, by a decoder that may look how they look.

Wu et al. 2023, arXiv 2305.18499. APV (`baselines/apv.py`) with residual networks, a decoder that
sees a frame of the sequence, so that the latents need not hold what stays the same in a video, and
two heads for the reward, with the intrinsic bonus and without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from accel.runtime import Runtime
from agents import reports
from agents.base import Batch, Metrics, Spaces
from agents.diswm import AgentNoise
from agents.optimizer import Optimizer
from agents.pretrained import PREDICTOR_FILES, check_tensor, find_predictor
from baselines import apv
from baselines.apv import APV, APVPredictor, decayed
from baselines.context_model import (
    BatchStatistics,
    ContextPredictor,
    Contextual,
    ContextWorldModel,
    context_config,
    initialize,
    make_world_model,
)
from baselines.context_networks import HEADS
from config import Config, key
from fileio.checkpoints import load, misfit
from logger.pictures import grid, to_rgb
from models import FilterNoise, LossScales, VideoPredictor
from networks import float_image
from replay.sampler import Windows
from tools import UserError

WIDTHS = HEADS // 2  # the narrowest layer that attends has 2 · --cnn_depth channels


@dataclasses.dataclass(frozen=True)
class Keys(apv.Keys):
    """ContextWM's own keys, beside APV's."""

    res_layers: int = key(
        2, "residual layers of each stage, at 32, 16 and 8 pixels", above=0, marks=["predictor"]
    )
    context_frame: str = key(
        "random",
        "which frame of a sequence its decoder sees",
        choices=("random", "first", "last"),
    )
    context_mask: float = key(
        0.75, "share of that frame's pixels that an image does not see", at_least=0, below=1
    )
    context_augment: str = key(
        "none",
        "erasing: while finetuning, half of these frames have a grey rectangle",
        choices=("none", "erasing"),
    )
    attention_dropout: float = key(
        0.1, "share that is dropped of attention's weights and outputs", at_least=0, below=1
    )
    aux_reward_scale: str = key(
        "1.0", "weight of the head for the reward without the bonus; 0 for none", schedule=True
    )
    hold_below: int = key(
        0, "updates in which encoders and action-free RSSM stand still", at_least=0
    )
    video_length: int = key(25, "steps of a sequence while pretraining", at_least=2)
    video_kl_free: str = key(
        "0.0", "nats of the KL that cost nothing while pretraining", schedule=True
    )


class ContextPredictorLearner(APVPredictor):
    """ContextWM's first stage: an action-free video predictor that sees a context frame."""

    Keys = Keys
    model: ContextPredictor

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__(
            config.replace(kl_free=config.video_kl_free, context_augment="none"), runtime
        )

    def make_model(self) -> VideoPredictor:
        """A predictor with residual networks."""
        return ContextPredictor(context_config(self.config))

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks the sizes, and refuses what makes another predictor of it."""
        super().check(config)
        check_widths(config)

    @classmethod
    def windows(cls, config: Config) -> Windows:
        """``--video_length`` rows."""
        return Windows(config.video_length)

    def compute(self, batch: Batch, scales: LossScales, noise: FilterNoise) -> Metrics:
        """One update of the predictor, norms over the batch."""
        with BatchStatistics(self.model) as statistics:
            metrics = super().compute(batch, scales, noise)
        statistics.undo_if(metrics["skipped_model"])
        return metrics

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag; see :func:`exchange`."""
        data = self.prepare(batch)
        return {**reports.draw(self.model, data, False), "contexts": exchange(self.model, data)}


class ContextWM(APV):
    """ContextWM. The arguments are those of every agent (`agents/base.py`)."""

    name = "contextwm"
    Keys = Keys
    pretrainer = ContextPredictorLearner
    world_model: ContextWorldModel

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        check_widths(config)
        super().__init__(config, runtime, spaces, source)
        initialize(self.behavior)
        self.behavior.actor.scale_out()
        self.behavior.slow_value.load_state_dict(self.behavior.value.state_dict())
        self.sync()

    def make_world_model(self, size: int, teacher: VideoPredictor | None) -> ContextWorldModel:
        """The stacked world model; nobody teaches it."""
        return make_world_model(self.config, size)

    def below(self) -> list[nn.Parameter]:
        """The parameters that see images: of both encoders and the action-free RSSM."""
        return [*super().below(), *self.world_model.decoder.context.parameters()]

    def make_optimizers(self) -> dict[str, Optimizer]:
        """As APV's; where what is below stands still at first, it has a rate of its own."""
        found, c = super().make_optimizers(), self.config
        self.below_lr = torch.tensor(c.model_lr, device=self.device)
        if c.hold_below:
            below = self.below()
            own = {id(p) for p in below}
            above = [p for p in self.world_model.parameters() if id(p) not in own]
            found["model"] = Optimizer(
                "model",
                [{"params": below, "lr": self.below_lr}, {"params": above}],
                decayed(c, c.model_lr),
                c.model_lr,
                c.grad_clip,
                below if c.clip_apart else [],
            )
        return found

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks sizes and bonus, and that there is a predictor to begin as."""
        check_widths(config)
        super().check(config)

    @staticmethod
    def load_videos(config: Config) -> ContextPredictor:
        """The predictor in ``--pretrain_checkpoint_path``, of the configuration's sizes.

        Raises:
            UserError: there is none, or it is of another kind or of other sizes.
        """
        folder, model = find_predictor(config.pretrain_checkpoint_path), None
        mend = "pretrain with --method_name contextwm --beta_vae_pretrain True, at the same sizes"
        model = ContextPredictor(context_config(config))
        for part, file in PREDICTOR_FILES.items():
            path, own = folder / file, getattr(model, part)
            if not path.is_file():
                raise UserError(
                    f"--pretrain_checkpoint_path {folder} has no {file}, and contextwm begins as "
                    f"the whole predictor: {mend}"
                )
            state = load(path)
            if not isinstance(state, Mapping):
                raise UserError(f"--pretrain_checkpoint_path: {path} holds no state dict: {mend}")
            for name, value in state.items():
                if not (isinstance(value, torch.Tensor) and value.dtype == torch.int64):
                    check_tensor(name, value, path)  # the others are a norm's count of batches
            if wrong := misfit(state, own.state_dict()):
                raise UserError(f"--pretrain_checkpoint_path: {path}: {wrong}: {mend}")
            own.load_state_dict(state)
        return model

    def before_update(self) -> None:
        """Moves the slow critic when it is time, and lets loose what stands still at first."""
        super().before_update()
        held = self.updates < self.config.hold_below
        self.below_lr.fill_(0.0 if held else self.config.model_lr)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned; the rate that moves is this agent's own."""
        super().load_state(state)
        if self.config.hold_below:
            self.optimizers["model"].optimizer.param_groups[0]["lr"] = self.below_lr

    def compute(self, batch: Batch, scales: LossScales, noise: AgentNoise) -> Metrics:
        """One update of world model, actor and critic, norms over the batch."""
        with BatchStatistics(self.world_model) as statistics:
            metrics = super().compute(batch, scales, noise)
        statistics.undo_if(metrics["skipped_model"])
        return metrics

    def report(self, batch: Batch) -> dict[str, np.ndarray]:
        """Videos and pictures by their tag; see :func:`exchange`."""
        model, data = self.world_model, self.prepare(batch)
        return {**super().report(batch), "contexts": exchange(model, data)}


def check_widths(config: Config) -> None:
    """Checks that attention's heads share the channels evenly.

    Raises:
        UserError: they do not.
    """
    if config.cnn_depth % WIDTHS:
        raise UserError(
            f"--cnn_depth {config.cnn_depth}: attention has {HEADS} heads, and twice the depth is "
            f"their channels: give a multiple of {WIDTHS}"
        )


@torch.no_grad()
def exchange(model: Contextual, batch: Batch) -> np.ndarray:
    """What each clip's last latents draw beside each clip's first frame: uint8 [H', W', 3].

    A row has the latents of a clip, a column the context of one; above and on the left are the
    true frames. What follows the row is in the latents, what follows the column is looked up.
    """
    clips = min(reports.VIDEO_CLIPS, len(batch["image"]))
    some = {name: value[:clips] for name, value in batch.items()}
    image = float_image(some["image"])
    post, _ = model.observe(some, model.encode(image))
    feat = model.rssm.get_feat(post)[:, -1:]  # [N, 1, F]
    feats = feat.repeat_interleave(clips, 0)
    contexts = image[:, :1].repeat(clips, 1, 1, 1, 1)
    drawn = model.decode(feats, contexts)[:, 0].unflatten(0, (clips, clips))
    rows = torch.cat([image[:, -1:], drawn], 1)  # [N, 1 + N, H, W, C]
    above = torch.cat([torch.full_like(image[:1, 0], 0.5), image[:, 0]])[None]
    tiles = (torch.cat([above, rows]) + 0.5).clamp(0, 1).cpu().numpy()
    names = ["context", *(f"clip {i}" for i in range(clips))]
    columns = ["truth", *(f"context {i}" for i in range(clips))]
    return grid(to_rgb(tiles), names, columns, "a clip's latents beside the context of another")
