"""What is learned of the world: the video predictor and the world model.

Every loss is a sum of named terms, each with its own weight; the weights follow schedules that are
evaluated outside the update and enter it as 0-d tensors.

Symbols in shape comments: B batch, T time, A action, E embedding, F feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import networks
from config import Config
from distributions import kl_standard
from networks import float_image, pieces
from rssm import RSSM, State

Terms = dict[str, Tensor]


class Encoding(NamedTuple):
    """What an encoder makes of images: the embedding that the RSSM sees, and its statistics."""

    embed: Tensor  # [B, T, E]; the β-VAE's is a sample
    mean: Tensor | None = None
    logvar: Tensor | None = None


class Outputs(NamedTuple):
    """What one pass over a batch leaves behind."""

    terms: Terms  # 0-d each, unweighted
    post: State  # [B, T, …]
    metrics: Terms  # 0-d each, detached


class _SumOfPieces(torch.autograd.Function):
    """See :func:`sum_in_pieces`."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable, rows: int, x: Tensor, target: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.has_x = x.requires_grad
        total, of_x, of_parameters = x.new_zeros(()), [], None
        for part, goal in zip(pieces(x, rows), pieces(target, rows), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(ctx.has_x)
                value = function(leaf, goal).sum()
            wanted = [leaf, *parameters] if ctx.has_x else parameters
            grads = list(torch.autograd.grad(value, wanted))
            total += value.detach()
            if ctx.has_x:
                of_x.append(grads.pop(0))
            if of_parameters is None:
                of_parameters = grads
            elif grads:
                torch._foreach_add_(of_parameters, grads)
        ctx.save_for_backward(*([torch.cat(of_x)] if of_x else []), *of_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [value * grad for value in ctx.saved_tensors]
        return None, None, grads.pop(0) if ctx.has_x else None, None, *grads


def sum_in_pieces(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    rows: int,
) -> Tensor:
    """The sum of ``function(x, target)`` over all rows, ``rows`` at a time (0: all at once).

    A piece's gradient is taken right after its value, while it lies in the CPU's cache, and what
    the piece has saved for it is freed: memory holds one piece, however large the batch.

    Args:
        function: x [n, …], target [n, …] → one number per row, [n].
        x: [N, …]; gradients reach it.
        target: [N, …]; they do not reach this.
        parameters: what else the function depends on; gradients reach those that ask for them.
        rows: of a piece.

    Returns:
        0-d.
    """
    parameters = [p for p in parameters if p.requires_grad]
    tracked = torch.is_grad_enabled() and (x.requires_grad or parameters)
    if not rows or len(x) <= rows or not tracked:
        return function(x, target).sum()
    return _SumOfPieces.apply(function, rows, x, target, *parameters)


class VideoPredictor(nn.Module):
    """An action-free video model: encoder, RSSM, decoder.

    Args:
        config: the run's configuration.
        actions: width of the RSSM's action input. Fed nothing, it is an action-free predictor.
    """

    def __init__(self, config: Config, actions: int):
        super().__init__()
        self.config = config
        self.complete = True  # False for a teacher that came without its RSSM or decoder
        act = networks.activation(config.act)
        channels = 1 if config.grayscale else 3
        if config.beta_vae:
            self.encoder = networks.BetaVAEEncoder(config.z_dim, channels)
        else:
            self.encoder = networks.PlainEncoder(
                channels, config.cnn_depth, act, tuple(config.encoder_kernels), tuple(config.size)
            )
        self.rssm = RSSM(
            self.encoder.embed_size,
            actions,
            stoch=config.dyn_stoch,
            deter=config.dyn_deter,
            hidden=config.dyn_hidden,
            discrete=config.dyn_discrete,
            cell=config.dyn_cell,
            input_layers=config.dyn_input_layers,
            output_layers=config.dyn_output_layers,
            act=act,
            temp_post=config.dyn_temp_post,
            mean_act=config.dyn_mean_act,
            std_act=config.dyn_std_act,
            min_std=config.dyn_min_std,
        )
        feat = self.rssm.feat_size
        if config.beta_vae:
            self.decoder = networks.BetaVAEDecoder(feat, config.z_dim, channels)
        else:
            self.decoder = networks.PlainDecoder(
                feat,
                channels,
                config.cnn_depth,
                act,
                tuple(config.decoder_kernels),
                config.decoder_thin,
            )

    def encode(self, image: Tensor, sample: bool = True, noise: Tensor | None = None) -> Encoding:
        """Images [B, T, H, W, C] → embeddings; ``sample`` draws the β-VAE's latent.

        ``image`` is uint8, or float in ±0.5; ``noise`` [B, T, Z] replaces the draw's own.
        """
        if not self.config.beta_vae:
            return Encoding(self.encoder(image))
        mean, logvar = self.encoder(image)
        embed = self.encoder.sample(mean, logvar, noise) if sample else mean
        return Encoding(embed, mean, logvar)

    def actions(self, batch: Terms) -> Tensor | None:
        """The actions [B, T, A] that the RSSM is fed: none here."""
        return None

    def observe(self, batch: Terms, encoding: Encoding, sample: bool = True) -> tuple[State, State]:
        """Posterior (sampled, or its mode) and prior over a batch, each [B, T, …]."""
        action, is_first, noise = self.actions(batch), batch["is_first"], batch.get("latent_noise")
        return self.rssm.observe(encoding.embed, action, is_first, sample=sample, noise=noise)

    def noise(self, *lead: int) -> Terms:
        """What the terms of a batch [*lead] = [B, T] draw with; see :meth:`terms`."""
        noise = {"latent_noise": self.rssm.noise(*lead)}
        if self.config.beta_vae:
            device = noise["latent_noise"].device
            noise["embed_noise"] = torch.randn(*lead, self.encoder.embed_size, device=device)
        return noise

    def terms(self, batch: Terms, weights: Terms) -> Outputs:
        """The loss terms of a batch.

        Args:
            batch: ``image`` [B, T, H, W, C], uint8 or float in ±0.5; ``is_first`` bool [B, T];
                and, where it is not to be drawn here, what :meth:`noise` gives.
            weights: 0-d tensors; ``kl_balance`` and ``kl_free`` are read here.

        Returns:
            The terms ``image`` (negative log-likelihood, summed over pixels), ``kl`` and, with a
            β-VAE, ``beta_vae``: means over batch and time, in nats.
        """
        encoding = self.encode(batch["image"], noise=batch.get("embed_noise"))
        return self._terms(batch, weights, encoding)[0]

    def _terms(self, batch: Terms, weights: Terms, encoding: Encoding) -> tuple[Outputs, Tensor]:
        post, prior = self.observe(batch, encoding)
        feat = self.rssm.get_feat(post)  # [B, T, F]
        image_feat = feat if "image" in self.config.grad_heads else feat.detach()
        terms = {"image": self.image_term(image_feat, batch["image"])}
        terms["kl"], value = self.kl_term(post, prior, weights["kl_balance"], weights["kl_free"])
        if encoding.mean is not None:
            terms["beta_vae"] = kl_standard(encoding.mean, encoding.logvar).mean()
        with torch.no_grad():
            metrics = {
                "kl": value.mean(),
                "prior_ent": self.rssm.get_dist(prior).entropy().mean(),
                "post_ent": self.rssm.get_dist(post).entropy().mean(),
            }
        return Outputs(terms, post, metrics), feat

    def image_term(self, feat: Tensor, image: Tensor) -> Tensor:
        """−log p(image | feat), summed over pixels, the mean over [B, T]: 0-d."""

        count = image.shape[0] * image.shape[1]
        flat = feat.flatten(0, 1), image.flatten(0, 1)
        parameters = list(self.decoder.parameters())
        total = sum_in_pieces(self.image_nll, *flat, parameters, self.encoder.rows)
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
    def loss(terms: Terms, weights: Terms) -> Tensor:
        """The weighted sum of the terms: 0-d."""
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


class WorldModel(VideoPredictor):
    """The video predictor with actions, reward and discount, and a frozen teacher to learn from.

    Args:
        config: the run's configuration.
        actions: size of the task's actions; ``action_num_gap`` zeros are appended to them.
        teacher: a pretrained predictor whose encoder is distilled; it is frozen here.
    """

    def __init__(self, config: Config, actions: int, teacher: VideoPredictor | None = None):
        super().__init__(config, actions + config.action_num_gap)
        act, feat = networks.activation(config.act), self.rssm.feat_size
        self.reward = networks.DenseHead(feat, config.reward_layers, config.units, act)
        self.discount = None
        if config.pred_discount:
            self.discount = networks.DenseHead(
                feat, config.discount_layers, config.units, act, "binary"
            )
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False)

    def actions(self, batch: Terms) -> Tensor:
        return self.pad_action(batch["action"])

    def pad_action(self, action: Tensor) -> Tensor:
        """[…, A] → […, A + action_num_gap], zeros appended."""
        return F.pad(action, (0, self.config.action_num_gap))

    def terms(self, batch: Terms, weights: Terms) -> Outputs:
        """The predictor's terms, and ``reward``, ``discount``, ``distill`` where they apply.

        Args:
            batch: as for the predictor, and ``action`` [B, T, A], ``reward`` and ``discount``
                [B, T].
            weights: as for the predictor.
        """
        encoding = self.encode(batch["image"], noise=batch.get("embed_noise"))
        outputs, feat = self._terms(batch, weights, encoding)
        for name in ("reward", "discount"):
            if getattr(self, name) is not None:
                head_feat = feat if name in self.config.grad_heads else feat.detach()
                outputs.terms[name] = self.head_term(name, head_feat, batch[name])
        if self.teacher is not None:
            with torch.no_grad():
                noise = batch.get("teacher_noise")
                target = self.teacher.encode(batch["image"], noise=noise).embed
            outputs.terms["distill"] = distillation(target, encoding.embed)
        return outputs

    def noise(self, *lead: int) -> Terms:
        noise = super().noise(*lead)
        if self.teacher is not None and "embed_noise" in noise:
            noise["teacher_noise"] = torch.randn_like(noise["embed_noise"])
        return noise

    def head_term(self, name: str, feat: Tensor, target: Tensor) -> Tensor:
        """−log p(target [B, T] | feat [B, T, F]) of the head of that name, their mean: 0-d."""
        return -getattr(self, name)(feat).log_prob(target[..., None]).mean()


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) over the latent's dimensions.

    Summed over time and dimensions, averaged over the batch (DisWM, arXiv 2503.08751, L_distill).

    Args:
        teacher: latents [B, T, E].
        student: latents [B, T, E]; the gradient goes here.
    """
    target, prediction = F.softmax(teacher, -1), F.log_softmax(student, -1)
    return F.kl_div(prediction, target, reduction="batchmean")
