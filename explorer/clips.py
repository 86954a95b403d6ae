"""Sequences of frames that are looked at: episodes, what was uploaded, what was played live."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.scaling import fit
from explorer.subject import Subject
from models import VECTOR, Batch, VideoPredictor
from networks import BetaVAEEncoder
from replay.episodes import read_episode
from tools import UserError

KEPT, MOST = 96 << 20, 64  # bytes of frames, and clips: what was looked at longest ago goes
ROWS = 3000  # of a sequence; each is encoded, and its latents are sent to the page


class Latents(NamedTuple):
    """What an encoder says of T frames.

    Attributes:
        mean: of the latent, float32 [T, Z].
        kl: of each number from its prior, in nats, float32 [T, Z].
    """

    mean: np.ndarray
    kl: np.ndarray


class Clip:
    """A sequence of frames, with what led to them where that is known.

    Args:
        name: what to call it.
        columns: ``image`` uint8 [T, H, W, C]; ``action`` [T, A], ``reward`` [T] and ``vector``
            [T, V] where there are any.

    Attributes:
        latents: by the model's name, as far as they were asked for.
    """

    def __init__(self, name: str, columns: Mapping[str, np.ndarray]):
        self.name, self.columns = name, dict(columns)
        self.latents: dict[str, Latents] = {}

    @property
    def image(self) -> np.ndarray:
        """Its frames, uint8 [T, H, W, C]."""
        return self.columns["image"]

    def __len__(self) -> int:
        return len(self.image)

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """One more row of every column; latents are computed for it when they are asked for."""
        self.columns = {
            key: np.concatenate([value, np.asarray(row[key], value.dtype)[None]])
            for key, value in self.columns.items()
        }

    def latents_of(self, name: str, model: VideoPredictor) -> Latents:
        """What a model's encoder says of each frame; what was computed before is kept."""
        known, image = self.latents.get(name), self.image  # which may grow meanwhile
        done = 0 if known is None else len(known.mean)
        if known is not None and done == len(image):
            return known
        new = encode(model, image[done:])
        if known is not None:
            new = Latents(*(np.concatenate(pair) for pair in zip(known, new, strict=True)))
        self.latents[name] = new
        return new

    def batch(self, first: int, last: int) -> Batch:
        """Rows ``first`` to ``last``, as a model's batch [1, T, …] that begins there."""
        rows = slice(first, last + 1)
        batch = {
            key: torch.from_numpy(np.ascontiguousarray(self.columns[key][rows]))[None]
            for key in ("image", "action", VECTOR)
            if key in self.columns
        }
        is_first = torch.zeros(1, last + 1 - first, dtype=torch.bool)
        is_first[:, 0] = True
        return {**batch, "is_first": is_first}


@torch.no_grad()
def encode(model: VideoPredictor, image: np.ndarray) -> Latents:
    """The latent's statistics of frames uint8 [T, H, W, C]."""
    encoder = model.encoder
    assert isinstance(encoder, BetaVAEEncoder)  # `open_subject` takes no other
    mean, logvar = encoder.statistics(torch.from_numpy(np.ascontiguousarray(image)))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)  # of N(mean, exp(logvar)) from N(0, 1)
    return Latents(mean.numpy(), kl.numpy())


class Clips:
    """The clips of a subject: its episodes by name, and what came from elsewhere by a drawn one.

    Several threads may ask.

    Args:
        subject: whose episodes they are, and whose models see them.
    """

    def __init__(self, subject: Subject):
        self._subject, self._lock = subject, threading.Lock()
        self._kept: OrderedDict[str, Clip] = OrderedDict()

    def add(self, kind: str, clip: Clip) -> str:
        """Keeps a clip that no file of the run has; returns its name."""
        name = f"{kind}/{secrets.token_hex(8)}"
        self._keep(name, clip)
        return name

    def get(self, name: str) -> Clip:
        """The clip of that name.

        Raises:
            UserError: there is none, or none any more, or its file cannot be read.
        """
        clip = self._kept.get(name)
        if clip is None:
            path = self._subject.episodes().get(name)
            if path is None:
                raise UserError("that sequence is not kept any more: choose it again")
            clip = read_clip(path, self._subject)
        self._keep(name, clip)
        return clip

    def _keep(self, name: str, clip: Clip) -> None:
        with self._lock:
            self._kept[name] = clip
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and (len(self._kept) > MOST or self._bytes() > KEPT):
                self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(clip.image.nbytes for clip in self._kept.values())


def read_clip(path: Path, subject: Subject) -> Clip:
    """An episode's file as a clip.

    Raises:
        UserError: it cannot be read, or is not for these models.
    """
    try:
        return make_clip(path.name, read_episode(path), subject)
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {error}") from None


def make_clip(name: str, columns: Mapping[str, np.ndarray], subject: Subject) -> Clip:
    """Frames and what is beside them, as the subject's models see them.

    Frames of another size are cropped and scaled; actions of another size are left out.

    Raises:
        UserError: there are too many, or the models see numbers that are not here.
        ValueError: they cannot be scaled.
    """
    if len(columns["image"]) > ROWS:
        raise UserError(f"{name} has {len(columns['image'])} frames, and {ROWS} at most are taken")
    images = fit(columns["image"], subject.image_shape)
    if images.shape[1:] != subject.image_shape:
        raise UserError(f"{name} has images of {images.shape[3]} channels: give grey or RGB ones")
    kept = {"image": images}
    agent = subject.agent
    for key, size in (("action", agent and agent.policy.actions), (VECTOR, subject.vector_size)):
        if size and key in columns and columns[key].shape[1:] == (size,):
            kept[key] = columns[key]
    if subject.vector_size and VECTOR not in kept:
        raise UserError(
            f"{name} lacks the {subject.vector_size} numbers that the student sees beside an image"
        )
    if "reward" in columns:
        kept["reward"] = columns["reward"]
    return Clip(name, kept)
