"""ContextWM's models: they draw images beside a frame of their video, and may forget how it looks.

Wu et al. 2023, arXiv 2305.18499. The first stage is a video predictor, the second one APV's stacked
world model, with a second head for the reward of the task alone.

Symbols in shape comments: B batch, T time, F feature.
"""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from agents.model_configs import predictor_config, world_model_config
from baselines.context_networks import (
    ContextDecoder,
    ContextImages,
    CrossAttention,
    ResidualLayer,
    ResNetEncoder,
)
from baselines.stacked import PLAIN_REWARD, StackedConfig, StackedWorldModel
from config import Config
from heads import DenseHead
from models import Batch, FilterNoise, PredictorConfig, Terms, VideoPredictor
from networks import ImageConfig, float_image
from rssm import GRUCell
from tools import is_zero

GRU_EPS = 1e-3  # of the norm of a recurrent cell's gates


class Contextual(VideoPredictor):
    """A video model whose decoder sees a frame of the sequence."""

    def make_encoder(self, config: ImageConfig) -> ResNetEncoder:
        assert isinstance(config, ContextImages)
        return ResNetEncoder(config)

    def make_decoder(self, config: ImageConfig) -> ContextDecoder:
        assert isinstance(config, ContextImages)
        return ContextDecoder(self.rssm.feat_size, config)

    def draw_noise(self, *lead: int) -> FilterNoise:
        return super().draw_noise(*lead)._replace(decoder=self.decoder.draw_noise(*lead))

    def image_term(self, feat: Tensor, image: Tensor, noise: FilterNoise | None = None) -> Tensor:
        """−log p(image | feat, context), summed over pixels, the mean over [B, T]: 0-d."""
        assert noise is not None
        return self.image_nll(feat, image, noise.decoder).mean()

    def image_nll(self, feat: Tensor, image: Tensor, noise: Any = None) -> Tensor:
        """−log p(image [B, T, H, W, C] | feat [B, T, F], context): [B, T].

        Not piece by piece, as of other decoders: norms are taken over the whole batch.
        """
        return -self.decoder(feat, image, noise).log_prob(float_image(image))

    def decode(self, feat: Tensor, image: Tensor) -> Tensor:
        """Features [B, T, F] → images in ±0.5, beside the first ones of ``image`` [B, T', …]."""
        noise = self.decoder.draw_noise(*feat.shape[:2], learning=False)
        return self.decoder(feat, image, noise).mode()


class ContextPredictor(Contextual):
    """The first stage's model: an action-free one.

    Args:
        config: sizes and kinds; ``image`` is a `ContextImages`.
    """

    def __init__(self, config: PredictorConfig):
        super().__init__(config, 0)
        initialize(self)
        self.eval()


class ContextWorldModel(Contextual, StackedWorldModel):
    """The second stage's: APV's, and a head for the reward without the bonus.

    Args:
        config: sizes and kinds; ``predictor.image`` is a `ContextImages`.
        action_size: A.
        dual: whether there is that head.
    """

    def __init__(self, config: StackedConfig, action_size: int, dual: bool):
        super().__init__(config, action_size)
        self.aux_reward = DenseHead(self.rssm.feat_size, config.reward) if dual else None
        initialize(self)
        self.eval()

    def _head_terms(self, feat: Tensor, batch: Batch) -> Terms:
        """The other heads' terms, and that of the task's own reward, over all rows."""
        terms = super()._head_terms(feat, batch)
        if self.aux_reward is not None:
            plain = batch.get(PLAIN_REWARD, batch["reward"])
            terms["aux_reward"] = self.head_term("aux_reward", feat, plain)
        return terms


def context_config(config: Config) -> PredictorConfig:
    """A predictor's sizes and kinds."""
    c, sizes = config, predictor_config(config)
    image = ContextImages(
        **{
            field.name: getattr(sizes.image, field.name)
            for field in dataclasses.fields(ImageConfig)
        },
        layers=c.res_layers,
        mask=c.context_mask,
        dropout=c.attention_dropout,
        frame=c.context_frame,
        augment=c.context_augment,
    )
    return dataclasses.replace(sizes, image=image)


def make_world_model(config: Config, action_size: int) -> ContextWorldModel:
    """The world model of a configuration, for actions of that size."""
    c, sizes = config, world_model_config(config)
    given = {field.name: getattr(sizes, field.name) for field in dataclasses.fields(sizes)}
    given["predictor"] = dataclasses.replace(context_config(config), sample=True)
    stacked = StackedConfig(
        **given, concat_embed=c.concat_embed, lower_sample=c.af_latents == "sample"
    )
    return ContextWorldModel(stacked, action_size, dual=not is_zero(c.aux_reward_scale))


def initialize(module: nn.Module) -> None:
    """The published start: Glorot's with zero biases, where PyTorch's own is not left.

    It is left in residual layers, attention and recurrent cells, whose norm has another ε.
    """
    if isinstance(module, GRUCell) and isinstance(module.norm, nn.LayerNorm):
        module.norm.eps = GRU_EPS
    if isinstance(module, GRUCell | ResidualLayer | CrossAttention):
        return
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for child in module.children():
        initialize(child)


class BatchStatistics:
    """Within it, norms take the statistics of the batch, and move their running ones towards them.

    Everywhere else, acting and pictures included, the running ones count.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        self._running = [b for norm in norms for b in norm.buffers()]

    def __enter__(self) -> BatchStatistics:
        self._before = [buffer.clone() for buffer in self._running]
        self._model.train()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._model.eval()

    @torch.no_grad()
    def undo_if(self, skip: Tensor) -> None:
        """Puts the running statistics back where ``skip`` (0-d) is above 0.

        A batch whose update was skipped may have left numbers in them that are not finite.
        """
        for own, before in zip(self._running, self._before, strict=True):
            own.copy_(torch.where(skip > 0, before, own))
