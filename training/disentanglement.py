"""Disentanglement while training: what a latent tells of the task's true factors, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from accel.threads import available_cores
from agents.base import Learner
from config import Config
from envs import EnvSettings, choose_renderer
from measure import Sample, measure, sample
from tools import UserError, derive_seed, print_safe

FRAMES = 2000  # that it is measured on, always the same ones
SHARE = 0.03  # of a run's time, at most
PREFIX = "latent_"  # of the names in the log


def check(config: Config, learner: type[Learner]) -> None:
    """Checks what ``--metrics_every`` needs.

    Raises:
        UserError: there is no latent to measure, or no task whose factors are known.
    """
    if not config.metrics_every:
        return
    if not (config.beta_vae and learner.has_latent):
        raise UserError(
            "--metrics_every measures a β-VAE's latent, and there is none: add --beta_vae True "
            "(methods diswm and its like), or leave it out"
        )
    if config.beta_vae_pretrain and "task" not in config.overrides:
        raise UserError(
            "--metrics_every measures by a task's true factors: give the --task that the videos "
            "are of, or leave it out"
        )


class Budget:
    """Keeps something that is done now and then within a share of the time.

    Args:
        share: of all seconds since its making, at most.
        clock: seconds, monotonic.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic):
        self._share, self._clock = share, clock
        self._begun, self._spent, self._last = clock(), 0.0, 0.0

    def allows(self) -> bool:
        """Whether once more, as long as the last time, stays within the share."""
        return self._spent + self._last <= self._share * (self._clock() - self._begun)

    def spend(self, seconds: float) -> None:
        """So long it took."""
        self._spent, self._last = self._spent + seconds, seconds


class LatentMetrics:
    """The cheap metrics of a learner's latent, on frames that are drawn once in each start.

    Args:
        config: the run's, which has a latent and a task.

    Raises:
        UserError: the task tells no factors.
        RenderingError: nothing can draw.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic):
        choose_renderer(config.task, config.device)
        print_safe(f"note: --metrics_every draws {FRAMES} frames of {config.task}")
        self._drawn: Sample = sample(
            config.task,
            FRAMES,
            derive_seed(config.seed, "metrics"),
            workers=min(2, available_cores()),
            **EnvSettings.pick(config),
        )
        self._clock, self._budget = clock, Budget(SHARE, clock)

    def measure(self, learner: Learner) -> dict[str, float]:
        """The scores by their names in the log; nothing where that would take too much time."""
        if not self._budget.allows():
            return {}
        begun = self._clock()
        found = measure(lambda images: _means(learner, images), *self._drawn, cheap=True)
        self._budget.spend(self._clock() - begun)
        return {f"{PREFIX}{name}": value for name, value in found.scores.items()}


def _means(learner: Learner, images: np.ndarray) -> np.ndarray:
    means = learner.latent(images)
    assert means is not None  # `check` refuses learners without one
    return means
