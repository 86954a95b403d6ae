"""Pictures of what a model sees: open-loop predictions, reconstructions, latent traversals.

All of them take the model as it is and leave its gradients and weights alone. Pictures are float
arrays in 0..1; N clips of a video lie along its first axis.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models import Batch, VideoPredictor
from networks import float_image

CLIPS = 6  # sequences of a batch that are drawn
CONTEXT = 5  # frames that an open-loop prediction sees
OFFSETS = (-9, -6, -3, 0, 3, 6, 9)  # columns of a traversal, added to the latent


def _to_numpy(image: Tensor) -> np.ndarray:
    return (image.float() + 0.5).clamp(0, 1).cpu().numpy()


def _first(batch: Batch) -> Batch:
    """The clips that are drawn, as floats."""
    first = {name: value[:CLIPS] for name, value in batch.items()}
    return {**first, "image": float_image(first["image"])}


@torch.no_grad()
def open_loop(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """Truth, model and error above each other: a video [N, T, 3·H, W, C].

    The first frames are filtered, the rest is imagined from there under the true actions (a
    predictor without actions imagines without).

    Args:
        batch: ``image`` [B, T, H, W, C], uint8 or float in ±0.5, ``is_first``, and ``action`` if it
            has any.
    """
    batch = _first(batch)
    image = batch["image"]
    context = min(CONTEXT, image.shape[1] - 1)
    seen = {name: value[:, :context] for name, value in batch.items()}
    noise = model.draw_noise(*seen["is_first"].shape)
    post, _ = model.observe(seen, model.encode(seen["image"], noise.embed), noise.latent)
    last = {name: value[:, -1] for name, value in post.items()}
    future = {name: value[:, context:] for name, value in batch.items()}
    action = model.actions(future)
    if action is None:
        action = image.new_zeros(*future["is_first"].shape, model.rssm.action_size)
    prior = model.rssm.imagine(action, last)
    feats = [model.rssm.get_feat(states) for states in (post, prior)]
    predicted = model.decoder(torch.cat(feats, 1)).mode()
    error = (predicted - image) / 2
    return _to_numpy(torch.cat([image, predicted, error], 2))


@torch.no_grad()
def reconstruction(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """Truth above reconstruction, one column a sequence's last frame: an image [2·H, N·W, C]."""
    batch = _first(batch)
    post, _ = model.observe(batch, model.encode(batch["image"]))
    last = {name: value[:, -1:] for name, value in post.items()}
    predicted = model.decoder(model.rssm.get_feat(last)).mode()[:, 0]
    rows = [torch.cat(list(frames), 1) for frames in (batch["image"][:, -1], predicted)]
    return _to_numpy(torch.cat(rows, 0))


@torch.no_grad()
def traversal(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """What each number of the β-VAE's latent draws: an image [Z·H, 7·W, C].

    Row i moves latent i by −9 … 9 around its mean for the batch's last frame; each picture is
    decoded through one step of the RSSM from its initial state (DisWM, arXiv 2503.08751, Fig. 5).
    """
    mean = model.encode(batch["image"][:1, -1:]).embed[0, 0]  # [Z]
    offsets = torch.tensor(OFFSETS, dtype=mean.dtype, device=mean.device)
    moves = torch.eye(len(mean), device=mean.device)[:, None] * offsets[:, None]  # [Z, 7, Z]
    latents = (mean + moves).flatten(0, 1)[:, None]  # [Z·7, 1, Z]
    first = torch.ones(latents.shape[:2], dtype=torch.bool, device=mean.device)
    post, _ = model.rssm.observe(latents, None, first, sample=False)
    images = model.decoder(model.rssm.get_feat(post)).mode()[:, 0]  # [Z·7, H, W, C]
    rows = images.unflatten(0, (len(mean), len(OFFSETS)))
    return _to_numpy(torch.cat([torch.cat(list(row), 1) for row in rows], 0))


def draw(model: VideoPredictor, batch: Batch, traverse: bool) -> dict[str, np.ndarray]:
    """All pictures of a model by their tags; ``traverse`` draws the β-VAE's latents, too."""
    pictures = {"openl": open_loop(model, batch), "reconstruction": reconstruction(model, batch)}
    if traverse:
        pictures["beta_vae_traverse"] = traversal(model, batch)
    return pictures
