"""What is learned of the world: the video predictor and the world model.

Every loss is a sum of named terms, each with a weight of the same name. Weights follow schedules
that are evaluated outside the update, and enter it as 0-d tensors.

Symbols in shape comments: B batch, T time, A action, E embedding, F feature.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.chunks import sum_by_chunks
from distributions import kl_standard
from heads import DenseHead, HeadConfig
from networks import (
    Encoding,
    ImageConfig,
    VectorEncoder,
    draw_latent,
    float_image,
    make_decoder,
    make_encoder,
)
from rssm import RSSM, RSSMConfig, State
from tools import UserError

TEACHER_MEAN, TEACHER_LOGVAR = "teacher_mean", "teacher_logvar"  # of a batch, [B, T, Z]
VECTOR = "vector"  # of a batch: the numbers beside its images

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]  # of a loss, by name, 0-d each
LossScales = dict[str, Tensor]  # their weights and what else follows a schedule, 0-d each
Metrics = dict[str, Tensor]  # 0-d each, detached


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """A video predictor.

    Attributes:
        image: its encoder and decoder.
        rssm: its recurrent model.
        grad_heads: heads whose gradient reaches the RSSM.
        kl_forward: KL(prior ‖ posterior) instead of KL(posterior ‖ prior).
        sample: latents are samples; otherwise modes.
    """

    image: ImageConfig
    rssm: RSSMConfig
    grad_heads: tuple[str, ...] = ("image", "reward")
    kl_forward: bool = False
    sample: bool = True


@dataclasses.dataclass(frozen=True)
class VectorConfig:
    """An encoder of ``size`` numbers: ``layers`` hidden layers of ``units``."""

    size: int
    layers: int
    units: int
    act: str = "ELU"


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """A world model.

    Attributes:
        predictor: what it is beside its heads.
        reward: the reward's head.
        discount: the discount's head; None for none.
        action_gap: zeros that are appended to actions.
        train_teacher: the teacher's encoder learns with the student's, from the distillation.
        vector: the encoder of the numbers beside an image; None for none.
    """

    predictor: PredictorConfig
    reward: HeadConfig
    discount: HeadConfig | None = None
    action_gap: int = 0
    train_teacher: bool = False
    vector: VectorConfig | None = None


class FilterNoise(NamedTuple):
    """What the terms of a batch [B, T] draw with.

    Attributes:
        latent: of the posterior, as `RSSM.draw_noise` makes it, [B, T, S, …]; None for its mode.
        embed: of the encoder, [B, T, Z]; None where it draws nothing.
        teacher: of the teacher's encoder likewise.
        lower: of the posterior of an RSSM below, as `latent`; None where there is none, or its
            mode is taken.
        decoder: of a decoder that draws with something, as it makes it; None of others.
    """

    latent: Tensor | None
    embed: Tensor | None = None
    teacher: Tensor | None = None
    lower: Tensor | None = None
    decoder: Any = None


class Outputs(NamedTuple):
    """What one pass over a batch leaves behind."""

    terms: Terms  # unweighted
    post: State  # [B, T, …]
    metrics: Metrics


class VideoPredictor(nn.Module):
    """An action-free video model: encoder, RSSM, decoder.

    Args:
        config: sizes and kinds.
        action_size: width of the RSSM's action input. Fed nothing, it is an action-free predictor.
        beside: numbers that the RSSM sees beside the embedding of an image.

    Attributes:
        complete: False for a teacher that came without its RSSM or decoder.
    """

    def __init__(self, config: PredictorConfig, action_size: int, beside: int = 0):
        super().__init__()
        self.config, self.complete = config, True
        self.encoder = self.make_encoder(config.image)
        self.rssm = RSSM(self.encoder.embed_size + beside, action_size, config.rssm)
        self.decoder = self.make_decoder(config.image)

    def make_encoder(self, config: ImageConfig) -> Any:
        """What reads images."""
        return make_encoder(config)

    def make_decoder(self, config: ImageConfig) -> Any:
        """What draws them from the RSSM's feature."""
        return make_decoder(self.rssm.feat_size, config)

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Encoding:
        """Images [B, T, H, W, C], uint8 or float in ±0.5 → embeddings; without noise their mean."""
        return self.encoder(image, noise)

    def decode(self, feat: Tensor, image: Tensor) -> Tensor:
        """Features [B, T, F] → images in ±0.5; ``image`` [B, T', H, W, C] has the true ones."""
        return self.decoder(feat).mode()

    def actions(self, batch: Batch) -> Tensor | None:
        """The actions [B, T, A] that the RSSM is fed: none here."""
        return None

    def join(self, embed: Tensor, batch: Batch) -> Tensor:
        """What the RSSM sees of rows [B, T], beside their images' embedding [B, T, E]: that."""
        return embed

    def observe(
        self, batch: Batch, encoding: Encoding, noise: Tensor | None = None
    ) -> tuple[State, State]:
        """Posterior (its mode without ``noise``) and prior over a batch, each [B, T, …]."""
        action, is_first, sample = self.actions(batch), batch["is_first"], noise is not None
        embed = self.join(encoding.embed, batch)
        return self.rssm.observe(embed, action, is_first, sample=sample, noise=noise)

    def draw_noise(self, *lead: int) -> FilterNoise:
        """What the terms of a batch [*lead] = [B, T] draw with."""
        latent = self.rssm.draw_noise(*lead) if self.config.sample else None
        return FilterNoise(latent, self.encoder.draw_noise(*lead))

    def terms(self, batch: Batch, scales: LossScales, noise: FilterNoise) -> Outputs:
        """The loss terms of a batch.

        Args:
            batch: ``image`` [B, T, H, W, C], uint8 or float in ±0.5; ``is_first`` bool [B, T].
            scales: 0-d tensors; ``kl_balance`` and ``kl_free`` are read here.
            noise: what :meth:`draw_noise` gives.

        Returns:
            The terms ``image`` (negative log-likelihood, summed over pixels), ``kl`` and, with a
            β-VAE, ``beta_vae``: means over batch and time, in nats.
        """
        encoding = self.encode(batch["image"], noise.embed)
        states = self.observe(batch, encoding, noise.latent)
        return self._terms(batch, scales, encoding, states, noise)[0]

    def _terms(
        self,
        batch: Batch,
        scales: LossScales,
        encoding: Encoding,
        states: tuple[State, State],
        noise: FilterNoise,
    ) -> tuple[Outputs, Tensor]:
        post, prior = states
        feat = self.rssm.get_feat(post)  # [B, T, F]
        image_feat = feat if "image" in self.config.grad_heads else feat.detach()
        terms = {"image": self.image_term(image_feat, batch["image"], noise)}
        terms["kl"], value = self.kl_term(post, prior, scales["kl_balance"], scales["kl_free"])
        if encoding.mean is not None and encoding.logvar is not None:
            terms["beta_vae"] = kl_standard(encoding.mean, encoding.logvar).mean()
        with torch.no_grad():
            metrics = {
                "kl": value.mean(),
                "image_mse": squared_error(terms["image"], batch["image"][0, 0].numel()),
                "prior_ent": self.rssm.get_dist(prior).entropy().mean(),
                "post_ent": self.rssm.get_dist(post).entropy().mean(),
            }
        return Outputs(terms, post, metrics), feat

    def image_term(self, feat: Tensor, image: Tensor, noise: FilterNoise | None = None) -> Tensor:
        """−log p(image | feat), summed over pixels, the mean over [B, T]: 0-d."""
        count = image.shape[0] * image.shape[1]
        flat = feat.flatten(0, 1), image.flatten(0, 1)
        parameters = list(self.decoder.parameters())
        total = sum_by_chunks(self.image_nll, *flat, parameters, self.encoder.chunk_size)
        return total / count

    def image_nll(self, feat: Tensor, image: Tensor) -> Tensor:
        """−log p(image [N, H, W, C] | feat [N, F]): [N]."""
        return -self.decoder(feat).log_prob(float_image(image))

    def kl_term(
        self, post: State, prior: State, balance: Tensor | float, free: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """The balanced KL between posterior and prior (Hafner et al. 2021, arXiv 2010.02193).

        ``balance`` is the share of the side that trains the prior. ``free`` nats are free on each
        side's mean. ``kl_forward`` swaps the two distributions.

        Returns:
            The term, 0-d, and the KL itself, [B, T], detached.
        """

        def stop(state: State) -> State:
            return {k: v.detach() for k, v in state.items()}

        def floor(value: Tensor) -> Tensor:
            return value.mean().clamp(min=free)

        kl = self.rssm.kl
        if self.config.kl_forward:
            to_post, to_prior = kl(stop(prior), post), kl(prior, stop(post))
        else:
            to_post, to_prior = kl(post, stop(prior)), kl(stop(post), prior)
        term = (1 - balance) * floor(to_post) + balance * floor(to_prior)
        return term, to_post.detach()

    @staticmethod
    def loss(terms: Terms, scales: LossScales) -> Tensor:
        """The weighted sum of the terms: 0-d.

        Raises:
            UserError: a term has no weight.
        """
        if missing := sorted(terms.keys() - scales.keys()):
            raise UserError(
                f"the loss term '{missing[0]}' has no weight: add {missing[0]}_scale: '1.0' to the "
                "defaults in configs.yaml"
            )
        return torch.stack([scales[name] * term for name, term in terms.items()]).sum()


class WorldModel(VideoPredictor):
    """The video predictor with actions, reward and discount, and a teacher to learn from.

    Args:
        config: sizes and kinds.
        action_size: of the task's actions; ``action_gap`` zeros are appended to them.
        teacher: a pretrained predictor whose encoder is distilled; it is frozen here, but for the
            encoder where the configuration trains it.
    """

    def __init__(
        self, config: WorldModelConfig, action_size: int, teacher: VideoPredictor | None = None
    ):
        vector = config.vector
        beside = 0 if vector is None else vector.units
        super().__init__(config.predictor, action_size + config.action_gap, beside)
        self.vector: VectorEncoder | None = None
        if vector is not None:
            self.vector = VectorEncoder(vector.size, vector.layers, vector.units, vector.act)
        self.action_gap, feat_size = config.action_gap, self.rssm.feat_size
        self.reward = DenseHead(feat_size, config.reward)
        self.discount: DenseHead | None = None
        if config.discount is not None:
            self.discount = DenseHead(feat_size, config.discount)
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False)
            teacher.encoder.requires_grad_(config.train_teacher)
        self.train_teacher = config.train_teacher

    def actions(self, batch: Batch) -> Tensor:
        return self.pad_action(batch["action"])

    def join(self, embed: Tensor, batch: Batch) -> Tensor:
        """The embedding [B, T, E]; behind it that of ``vector`` [B, T, V], where there is one."""
        return embed if self.vector is None else torch.cat([embed, self.vector(batch[VECTOR])], -1)

    def pad_action(self, action: Tensor) -> Tensor:
        """[…, A] → […, A + action_gap], zeros appended."""
        return F.pad(action, (0, self.action_gap))

    def terms(self, batch: Batch, scales: LossScales, noise: FilterNoise) -> Outputs:
        """The predictor's terms, and ``reward``, ``discount``, ``distill`` where they apply.

        Args:
            batch: as for the predictor, and ``action`` [B, T, A], ``reward`` and ``discount``
                [B, T]; of a frozen teacher also `TEACHER_MEAN` and `TEACHER_LOGVAR`
                (`BetaVAEEncoder.statistics`), without which it encodes the images here.
            scales: as for the predictor.
            noise: likewise.
        """
        encoding = self.encode(batch["image"], noise.embed)
        states = self.observe(batch, encoding, noise.latent)
        outputs, feat = self._terms(batch, scales, encoding, states, noise)
        outputs.terms.update(self._head_terms(feat, batch))
        if self.teacher is not None:
            if TEACHER_MEAN in batch:
                mean, logvar = batch[TEACHER_MEAN], batch[TEACHER_LOGVAR]
                target = draw_latent(mean, logvar, noise.teacher)
            else:
                with torch.set_grad_enabled(self.train_teacher and torch.is_grad_enabled()):
                    target = self.teacher.encode(batch["image"], noise.teacher).embed
            outputs.terms["distill"] = distillation(target, encoding.embed)
        return outputs

    def _head_terms(self, feat: Tensor, batch: Batch) -> Terms:
        """The terms of the heads, each over as many rows as its target has."""
        terms = {}
        for name in ("reward", "discount"):
            if getattr(self, name) is not None:
                head_feat = feat if name in self.config.grad_heads else feat.detach()
                rows = batch[name].shape[1]
                terms[name] = self.head_term(name, head_feat[:, :rows], batch[name])
        return terms

    def draw_noise(self, *lead: int) -> FilterNoise:
        noise = super().draw_noise(*lead)
        if self.teacher is None:
            return noise
        return noise._replace(teacher=self.teacher.encoder.draw_noise(*lead))

    def head_term(self, name: str, feat: Tensor, target: Tensor) -> Tensor:
        """−log p(target [B, T] | feat [B, T, F]) of the head of that name, their mean: 0-d."""
        return -getattr(self, name)(feat).log_prob(target[..., None]).mean()


def squared_error(image_term: Tensor, size: int) -> Tensor:
    """The squared error of a number of the image, their mean: 0-d.

    Args:
        image_term: −log p of a Normal whose deviation is 1, summed over an image.
        size: numbers of an image.
    """
    return 2 / size * image_term.detach() - math.log(2 * math.pi)


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) over the latent's dimensions.

    Summed over time and dimensions, averaged over the batch (DisWM, arXiv 2503.08751, L_distill).

    Args:
        teacher: latents [B, T, E]; the gradient goes here, too, if they ask for one.
        student: latents [B, T, E].
    """
    target, prediction = F.softmax(teacher, -1), F.log_softmax(student, -1)
    return F.kl_div(prediction, target, reduction="batchmean")
