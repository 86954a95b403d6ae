"""Pictures of what a model sees: open-loop predictions, reconstructions, latent traversals.

All of them take the model as it is and leave its gradients and weights alone. Bare pictures are
float arrays in 0..1, N clips of a video along its first axis; those with names are uint8.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.base import CLIPS
from distributions import kl_standard
from logger.pictures import grid, to_rgb
from models import VECTOR, Batch, VideoPredictor
from networks import float_image

VIDEO_CLIPS = 3  # of the drawn sequences in a video, whose bytes grow with each
ROWS = ("truth", "model", "error")  # of an open-loop prediction
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
    prior = model.rssm.imagine(action, last, model.config.sample)
    feats = [model.rssm.get_feat(states) for states in (post, prior)]
    predicted = model.decode(torch.cat(feats, 1), image)
    error = (predicted - image) / 2
    return _to_numpy(torch.cat([image, predicted, error], 2))


@torch.no_grad()
def reconstruction(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """Truth above reconstruction, one column a sequence's last frame: an image [2·H, N·W, C]."""
    batch = _first(batch)
    post, _ = model.observe(batch, model.encode(batch["image"]))
    last = {name: value[:, -1:] for name, value in post.items()}
    predicted = model.decode(model.rssm.get_feat(last), batch["image"])[:, 0]
    rows = [torch.cat(list(frames), 1) for frames in (batch["image"][:, -1], predicted)]
    return _to_numpy(torch.cat(rows, 0))


@torch.no_grad()
def traversal(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """What each number of the β-VAE's latent draws: an image [Z·H, 7·W, C].

    Row i moves latent i by −9 … 9 around its mean for the batch's last frame; see `decode`.
    """
    mean = model.encode(batch["image"][:1, -1:]).embed[0, 0]  # [Z]
    offsets = torch.tensor(OFFSETS, dtype=mean.dtype, device=mean.device)
    moves = torch.eye(len(mean), device=mean.device)[:, None] * offsets[:, None]  # [Z, 7, Z]
    latents = (mean + moves).flatten(0, 1)  # [Z·7, Z]
    vector = batch[VECTOR][0, -1] if VECTOR in batch else None
    images = decode(model, latents, vector)  # [Z·7, H, W, C]
    rows = images.unflatten(0, (len(mean), len(OFFSETS)))
    return _to_numpy(torch.cat([torch.cat(list(row), 1) for row in rows], 0))


@torch.no_grad()
def decode(model: VideoPredictor, latents: Tensor, vector: Tensor | None = None) -> Tensor:
    """What latents [N, Z] of the β-VAE draw: images [N, H, W, C] in ±0.5.

    Each goes through one step of the RSSM from its initial state, without an action (DisWM, arXiv
    2503.08751, Fig. 5).

    Args:
        model: whose RSSM and decoder draw.
        latents: [N, Z].
        vector: the numbers [V] beside the image, where the model sees such.
    """
    first = torch.ones(len(latents), 1, dtype=torch.bool, device=latents.device)
    beside = {} if vector is None else {VECTOR: vector.expand(len(latents), 1, -1)}
    post, _ = model.rssm.observe(model.join(latents[:, None], beside), None, first, sample=False)
    return model.decoder(model.rssm.get_feat(post)).mode()[:, 0]


@torch.no_grad()
def latent_kl(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """KL[q(z_i | o) ‖ N(0, 1)] of each number of the β-VAE's latent, [Z]: nats, means over [B, T].

    What has none says nothing of the frame.
    """
    encoding = model.encode(_first(batch)["image"])
    assert encoding.mean is not None  # a β-VAE's
    assert encoding.logvar is not None
    each = kl_standard(encoding.mean[..., None], encoding.logvar[..., None])  # [B, T, Z]
    return each.mean((0, 1)).cpu().numpy()


# With names on them


def _tiles(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A picture [..., R·H, C·W, 1 or 3] as tiles, uint8 [..., R, C, H, W, 3]."""
    picture = to_rgb(picture)
    *lead, height, width, channels = picture.shape
    parts = picture.reshape(*lead, rows, height // rows, columns, width // columns, channels)
    return parts.swapaxes(-4, -3)


def named_open_loop(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """`open_loop` of a few clips side by side, a video uint8 [1, T, H', W', 3].

    The model's frames have a rim while it is given the truth.
    """
    video = open_loop(model, {name: value[:VIDEO_CLIPS] for name, value in batch.items()})
    clips, length = video.shape[:2]
    tiles = np.concatenate(list(_tiles(video, len(ROWS), 1)[:, None]), 3)  # [1, T, 3, N, H, W, 3]
    rims = np.zeros(tiles.shape[:4], bool)
    rims[:, : min(CONTEXT, length - 1), ROWS.index("model")] = True
    title = "with a rim: sees the truth; without: predicts alone"
    return grid(tiles, ROWS, [f"clip {i}" for i in range(clips)], title, rims=rims)


def named_reconstruction(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """`reconstruction` with names, an image uint8 [H', W', 3]."""
    clips = min(CLIPS, len(batch["image"]))
    tiles = _tiles(reconstruction(model, batch), 2, clips)
    return grid(tiles, ROWS[:2], [f"clip {i}" for i in range(clips)])


def named_traversal(model: VideoPredictor, batch: Batch) -> np.ndarray:
    """`traversal` with names, an image uint8 [H', W', 3]: the latents with the largest KL first."""
    kl = latent_kl(model, batch)
    order = np.argsort(-kl, kind="stable")
    tiles = _tiles(traversal(model, batch), len(kl), len(OFFSETS))[order]
    names = [f"z{i}\nKL {kl[i]:.2f}" for i in order]
    title = "one number of the latent moved, by its KL in nats"
    return grid(tiles, names, [f"{offset:+d}" if offset else "mean" for offset in OFFSETS], title)


def draw(model: VideoPredictor, batch: Batch, traverse: bool) -> dict[str, np.ndarray]:
    """All pictures of a model by their tags; ``traverse`` draws the β-VAE's latents, too."""
    pictures = {
        "openl": named_open_loop(model, batch),
        "reconstruction": named_reconstruction(model, batch),
    }
    if traverse:
        pictures["beta_vae_traverse"] = named_traversal(model, batch)
    return pictures
