"""Tiny configurations, models, agents and batches; `tiny.teacher` is a teacher of their sizes."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import config
from accel.runtime import Runtime
from agents.base import Batch, Spaces
from agents.diswm import DisWM
from agents.learner import GradientLearner, flatten
from agents.model_configs import predictor_config, world_model_config
from agents.predictor import Predictor
from agents.registry import METHODS
from config import Config
from models import VideoPredictor, WorldModel
from tests.helpers.runs import NETWORKS

A = 2  # width of actions
SPACES = Spaces((64, 64, 3), A, False)
SMALL = {**NETWORKS, "device": "cpu", "precision": "32", "actor_layers": 2, "kl_free": "0.1"}
SCALES = {"kl_balance": torch.tensor(0.8), "kl_free": torch.tensor(0.0)}


@functools.cache
def parse(*words: str) -> Config:
    """A tiny configuration with a β-VAE, and more words of a command line."""
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    blocks = ["--configs", "defaults", "dmc2gym", "--beta_vae", "True"]
    return config.parse([*blocks, *small, *words], methods=METHODS)


def make_config(*words: Any, **changes: Any) -> Config:
    """As :func:`parse`, with keys that are changed after it."""
    return parse(*map(str, words)).replace(**changes)


def make_predictor(actions: int = 0, seed: int = 0, **changes: Any) -> VideoPredictor:
    torch.manual_seed(seed)
    return VideoPredictor(predictor_config(make_config(**changes)), actions)


def make_model(teacher: VideoPredictor | None = None, **changes: Any) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(world_model_config(make_config(**changes)), A, teacher)


def make_agent(
    seed: int = 0,
    teacher: Path | None = None,
    runtime: Mapping[str, Any] = {},
    words: Sequence[str] = (),
    **changes: Any,
) -> DisWM:
    """An agent; with a teacher's folder, it is distilled; ``runtime`` changes its `Runtime`.

    ``words`` are those of a command line.
    """
    c = make_config(*words, **changes)
    if teacher is not None:
        c = c.replace(distillation=True, pretrain_checkpoint_path=str(teacher))
    torch.manual_seed(seed)
    spaces = SPACES._replace(discrete=c.actor_dist.startswith("onehot"))
    return DisWM(c, dataclasses.replace(Runtime.resolve(c), **runtime), spaces, teacher)


def make_pretrainer(seed: int = 0, runtime: Mapping[str, Any] = {}, **changes: Any) -> Predictor:
    """A learner of the first stage."""
    c = make_config(**changes)
    torch.manual_seed(seed)
    return Predictor(c, dataclasses.replace(Runtime.resolve(c), **runtime))


def make_batch(seed: int = 0, size: int = 2, length: int = 4, spaces: Spaces = SPACES) -> Batch:
    """Random rows; in the last sequence an episode begins in the middle."""
    rng, lead = np.random.default_rng(seed), (size, length)
    action = rng.uniform(-1, 1, (*lead, spaces.action_size)).astype(np.float32)
    if spaces.discrete:
        action = np.eye(spaces.action_size, dtype=np.float32)[action.argmax(-1)]
    arrays = {
        "image": rng.integers(0, 256, (*lead, *spaces.image), np.uint8),
        "action": action,
        "reward": rng.normal(size=lead).astype(np.float32),
        "discount": np.ones(lead, np.float32),
        "is_first": np.zeros(lead, bool),
    }
    if spaces.vector_size:
        arrays["vector"] = rng.normal(size=(*lead, spaces.vector_size)).astype(np.float32)
    arrays["is_first"][:, 0] = arrays["is_first"][-1, length // 2] = True
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def make_obs(
    seed: int = 0, envs: int = 3, first: bool = True, spaces: Spaces = SPACES
) -> dict[str, np.ndarray]:
    """What environments show."""
    rng = np.random.default_rng(seed)
    obs = {
        "image": rng.integers(0, 256, (envs, *spaces.image), np.uint8),
        "is_first": np.full(envs, first),
    }
    if spaces.vector_size:
        obs["vector"] = rng.normal(size=(envs, spaces.vector_size)).astype(np.float32)
    return obs


def stored(state: Any) -> Any:
    """A state after its way through a file that holds nothing but data."""
    torch.save(state, buffer := io.BytesIO())
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors as they are now."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether dicts hold the same tensors, to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def make_inputs(learner: GradientLearner, batch: Batch, step: int = 0) -> dict[str, Tensor]:
    """What a learner's recorded update is given: all of it drawn already."""
    data = learner.prepare(batch)
    inputs = {"batch": data, "noise": learner.draw_noise(*data["is_first"].shape)}
    inputs["scales"] = learner._scales_at(step)
    learner._like = inputs
    return flatten(inputs)
