"""Uniform actions: what plays before learning begins, and the smallest agent there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.base import Agent, Batch, Obs, Spaces, State, Update
from tools import derive_seed

if TYPE_CHECKING:
    from accel.runtime import Runtime
    from config import Config


class RandomPolicy:
    """Uniform actions in [−1, 1], or of all choices, from a generator of its own."""

    def __init__(self, spaces: Spaces, seed: int):
        self.spaces = spaces
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs: Obs, state: Any = None) -> tuple[np.ndarray, None]:
        """Actions float32 [N, A]; nothing is remembered."""
        shape = (len(obs["is_first"]), self.spaces.action_size)
        if self.spaces.discrete:
            choice = self.rng.integers(shape[1], size=shape[0])
            return np.eye(shape[1], dtype=np.float32)[choice], None
        return self.rng.uniform(-1, 1, shape).astype(np.float32), None

    def save_state(self) -> dict[str, str]:
        """The generator, as JSON: its integers have 128 bits."""
        return {"rng": json.dumps(self.rng.bit_generator.state)}

    def load_state(self, state: Mapping[str, str]) -> None:
        """Goes on from what `save_state` returned."""
        self.rng.bit_generator.state = json.loads(state["rng"])


class Random(Agent):
    """An agent that acts at random and learns nothing: the least that a method has to beat."""

    name = "random"
    sees_vectors = True

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__()
        self.policy = RandomPolicy(spaces, derive_seed(config.seed, "random agent"))

    def act(self, obs: Obs, state: State | None, mode: str) -> tuple[np.ndarray, None]:
        """Uniform actions, whatever it sees; to be evaluated moves no generator of its own."""
        if mode == "eval":
            drawn = int(torch.randint(1 << 62, ()))
            return RandomPolicy(self.policy.spaces, drawn)(obs, state)
        return self.policy(obs, state)

    def learn(self, batch: Batch, step: int) -> Update:
        """Nothing."""
        return Update({})

    def save_state(self) -> dict[str, Any]:
        """Its generator."""
        return self.policy.save_state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned."""
        self.policy.load_state(state)
