"""Disentanglement, measured: true factors of pictures, and what an encoder's latent tells of them.

drawn = measure.sample("dmc2gym_reacher_easy", 15000, seed=0)
found = measure.measure(encoder, drawn.images, drawn.factors)
found.scores["dci_disentanglement"], found.latents[3].best_factor
"""

from measure.factors import Factors, Sample, play, sample
from measure.metrics import Latent, Metrics, measure, score

__all__ = [
    "Factors",
    "Latent",
    "Metrics",
    "Sample",
    "measure",
    "play",
    "sample",
    "score",
]
