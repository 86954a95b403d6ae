"""Tiny learners, and what they learn from and see."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import config
from accel.runtime import Runtime
from agents.diswm import Agent, Learner, Pretrainer
from models import VideoPredictor

B, T, A = 2, 4, 2
FLAGS = "--configs defaults dmc2gym --device cpu --precision 32 --beta_vae True --z_dim 3 "
FLAGS += "--distillation True --dyn_stoch 4 --dyn_deter 6 --dyn_hidden 7 --units 8 --cnn_depth 2 "
FLAGS += "--actor_layers 1 --value_layers 1 --reward_layers 1 --imag_horizon 3 --kl_free 0.1 "
FLAGS += "--slow_target_update 2"
DREAMERV2 = {"beta_vae": False, "distillation": False}


def make_learner(
    kind: type[Learner] = Agent,
    seed: int = 0,
    runtime: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Learner:
    """An agent, with its teacher where it has one, or a pretrainer.

    Args:
        kind: which.
        seed: of its weights.
        runtime: attributes of its `Runtime` that are to be others.
        **changes: configuration keys.
    """
    given = config.parse(FLAGS.split()).replace(**changes)
    own = dataclasses.replace(Runtime.resolve(given), **(runtime or {}))
    torch.manual_seed(seed)
    if kind is Pretrainer:
        return Pretrainer(given, own)
    return kind(given, own, A, VideoPredictor(given, 0) if given.distillation else None)


def make_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise in which one sequence holds two episodes."""
    rng = np.random.default_rng(seed)
    first = np.zeros((B, T), bool)
    first[:, 0] = first[1, 2] = True
    return {
        "image": rng.integers(0, 256, (B, T, 64, 64, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (B, T, A)).astype(np.float32),
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "discount": np.ones((B, T), np.float32),
        "is_first": first,
    }


def make_obs(seed: int = 0, envs: int = 2) -> dict[str, np.ndarray]:
    """What so many environments show; episodes begin with seed 0."""
    image = np.random.default_rng(seed).integers(0, 256, (envs, 64, 64, 3), dtype=np.uint8)
    return {"image": image, "is_first": np.full(envs, seed == 0)}
