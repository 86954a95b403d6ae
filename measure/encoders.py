"""Encoders to measure: a β-VAE's means, and the controls that every table has beside it."""

from __future__ import annotations

import numpy as np
import torch

from measure.factors import Factors, Sample
from measure.metrics import Encoder
from measure.regression import sklearn
from networks import BetaVAEEncoder, ImageConfig

PCA_SIZE = 20
PCA_FRAMES = 3000  # that its directions are found in
CONTROLS = ("untrained", "pca", "permuted_factors", "shuffled_frames")


def encoder_of(network: BetaVAEEncoder) -> Encoder:
    """Means and log variances of a β-VAE, each frame by itself."""

    def encode(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, logvar = network.statistics(torch.from_numpy(images))
        return mean.cpu().numpy(), logvar.cpu().numpy()

    return encode


def untrained(config: ImageConfig, seed: int) -> BetaVAEEncoder:
    """A β-VAE's encoder with the weights that a new one begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BetaVAEEncoder(config)


def pca(images: np.ndarray, size: int = PCA_SIZE, seed: int = 0) -> np.ndarray:
    """The largest principal components of pixels: [N, size], fewer where there are fewer.

    Args:
        images: uint8 [N, H, W, C].
        size: how many.
        seed: of the frames that directions are found in.
    """
    flat = images.reshape(len(images), -1)
    few = min(PCA_FRAMES, len(flat))
    chosen = np.random.default_rng(seed).choice(len(flat), few, replace=False)
    count = min(size, few, flat.shape[1])
    decomposition = sklearn("sklearn.decomposition")
    model = decomposition.PCA(count, svd_solver="randomized", random_state=seed)
    model.fit(flat[np.sort(chosen)].astype(np.float32))
    parts = np.array_split(flat, -(-len(flat) // 1000))  # as floats they take four times the room
    return np.concatenate([model.transform(part.astype(np.float32)) for part in parts])


def permuted(factors: Factors, seed: int) -> np.ndarray:
    """The factors themselves in another order, [N, K].

    Nothing is better, but for what is told of an angle linearly, which its sine and cosine are.
    """
    order = np.random.default_rng(seed).permutation(len(factors.factors))
    values = factors.values[:, order]
    return (values - values.mean(axis=0)) / values.std(axis=0)


def control_codes(
    drawn: Sample, config: ImageConfig, code: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """The codes that an encoder is to be seen beside, by the names of `CONTROLS`.

    Args:
        drawn: the frames.
        config: the encoder's.
        code: what that makes of them, [N, Z].
        seed: of all chance.

    Returns:
        Of an encoder without training; of a PCA of pixels; the factors themselves, see `permuted`;
        and the encoder's own of other frames, which is chance.
    """
    mean, _ = encoder_of(untrained(config, seed))(drawn.images)
    return {
        "untrained": mean,
        "pca": pca(drawn.images, seed=seed),
        "permuted_factors": permuted(drawn.factors, seed),
        "shuffled_frames": np.random.default_rng(seed).permutation(code),
    }
