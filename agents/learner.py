"""Updates as most methods want them: schedules, mixed precision, compiled and recorded steps.

A method that inherits from :class:`GradientLearner` says in ``compute`` what an update computes, in
``draw_noise`` what it draws, and makes ``optimizers``; the rest is here.
"""

from __future__ import annotations

import contextlib
import platform
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import fast
from accel.runtime import Runtime
from agents.base import Batch, Learner, Metrics, Update
from agents.optimizer import SKIPPED, Optimizer
from config import Config
from fileio.checkpoints import misfit
from models import Terms
from tools import schedule

# The schedules of a run: the name inside a loss and the config key that says how it moves.
SCHEDULES = {
    "kl": "kl_scale",
    "kl_balance": "kl_balance",
    "kl_free": "kl_free",
    "beta_vae": "beta_vae_beta",
    "reward": "reward_scale",
    "discount": "discount_scale",
    "distill": "distill_scale",
    "actor_entropy": "actor_entropy",
    "actor_state_entropy": "actor_state_entropy",
    "imag_gradient_mix": "imag_gradient_mix",
}

# η falls over 45,000 agent steps; across domains it waits for 50,000 first.
DISTILL_SCHEDULES = {
    False: "linear(0.1,0.01,45000)",
    True: "delay(50000,linear(0.1,0.01,45000))",
}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products and convolutions under ``--precision``."""
    if precision == "32":
        return torch.float32
    if precision in ("16", "bf16"):
        return torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN says yes to any AVX-512 and then emulates bfloat16, at a fraction of the speed.
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = (
            torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return torch.bfloat16 if native else torch.float32


class GradientLearner(Learner):
    """A learner of schedules and optimisers.

    ``updates`` counts updates. Subclasses fill ``optimizers`` in their constructors.
    """

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__()
        self.config, self.runtime, self.device = config, runtime, runtime.device
        self.updates = 0
        eta = config.distill_scale
        self.schedules = {
            name: schedule(DISTILL_SCHEDULES[config.cross_domain])
            if name == "distill" and eta == "auto"
            else schedule(config[key])
            for name, key in SCHEDULES.items()
        }
        self.optimizers: dict[str, Optimizer] = {}
        self._compute: Callable[[Terms], Metrics] = self.compute
        if runtime.graphs:
            self._compute = fast.Graph(self.compute, self._tensors, self.device)

    def learn(self, batch: Batch, step: int) -> Update:
        """One update; the metrics stay on the device, and nothing waits for it."""
        data = self.prepare(batch)
        data |= self.draw_noise(*data["is_first"].shape)
        data["weights"] = self._schedule_values(step)
        self.before_update()
        with fast.updating():
            metrics = self._compute(data)
        self.updates += 1
        skipped = [metrics.pop(name) for name in list(metrics) if name.startswith(SKIPPED)]
        return Update(metrics, torch.stack(skipped))

    @abstractmethod
    def compute(self, data: Terms) -> Metrics:
        """An update as a function of tensors: the prepared batch, noise, and ``weights``.

        It draws nothing, looks at no value, and changes parameters and moments in their places:
        so it can be recorded.
        """

    @abstractmethod
    def draw_noise(self, batch: int, length: int) -> Terms:
        """All that an update draws with, made outside of it."""

    def before_update(self) -> None:
        """What happens once in a while; a recorded update cannot hold it."""

    def _tensors(self) -> list[Tensor]:
        moments = [t for optimizer in self.optimizers.values() for t in optimizer.tensors()]
        return [*self.parameters(), *self.buffers(), *moments]

    def _schedule_values(self, step: int) -> Tensor:
        """The schedules' values now, on the device: one transfer in all."""
        values = [schedule(step) for schedule in self.schedules.values()]
        pinned = self.device.type == "cuda"  # a copy from other memory may wait for the device
        values = torch.tensor([1.0, *values], dtype=torch.float32, pin_memory=pinned)
        return values.to(self.device, non_blocking=True)

    def _named_weights(self, values: Tensor) -> Terms:
        return dict(zip(["image", *self.schedules], values.unbind(), strict=True))

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 where the run computes in it; losses stay in float32."""
        if self.runtime.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.runtime.dtype)

    def prepare(self, batch: Batch) -> Batch:
        """A batch with rewards clipped and discounts times γ; images stay uint8."""
        data = dict(batch)
        if "reward" in data and self.config.clip_rewards != "identity":
            data["reward"] = getattr(torch, self.config.clip_rewards)(data["reward"])
        if "discount" in data:
            data["discount"] = data["discount"] * self.config.discount
        return data

    def save_state(self) -> dict[str, Any]:
        """Weights, optimisers and the count of updates."""
        return {
            "weights": self.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `save_state` returned.

        Raises:
            ValueError: a tensor is missing or of another shape.
        """
        if wrong := misfit(state["weights"], self.state_dict()):
            raise ValueError(wrong)
        self.load_state_dict(state["weights"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if isinstance(self._compute, fast.Graph):
            self._compute.reset()
        self.updates = state["updates"]
