"""Updates as most methods want them: schedules, mixed precision, compiled and recorded steps.

A method that inherits from :class:`GradientLearner` says in ``compute`` what an update computes, in
``draw_noise`` what it draws, and makes ``optimizers``; the rest is here.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from accel.fallback import Accelerated
from accel.runtime import Runtime
from agents.adaptive_beta import Controller
from agents.base import Batch, Learner, Metrics, Taken, Update
from agents.optimizer import SKIPPED, Optimizer
from config import Config
from fileio.checkpoints import misfit
from models import LossScales
from tools import Schedule, schedule

# By --eta_schedule and --cross_domain. The paper's η falls over 45,000 agent steps; across domains
# it waits for 50,000 first. The published code's looks at the 2,500 steps of the prefill for ever.
DISTILL_SCHEDULES = {
    ("paper", False): "linear(0.1,0.01,45000)",
    ("paper", True): "delay(50000,linear(0.1,0.01,45000))",
    ("published", False): "0.095",
    ("published", True): "0.0",
}


def loss_scales(config: Config) -> dict[str, Schedule]:
    """The schedules of a run: of each loss term's weight by the term's name, and the others."""
    texts = {name: config[key] for name, key in config.schedules().items()}
    if texts.get("distill") == "auto":
        texts["distill"] = DISTILL_SCHEDULES[config.eta_schedule, config.cross_domain]
    return {name: schedule(text) for name, text in texts.items()}


def flatten(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of nested dicts and named tuples, by their dotted names; None is left out."""
    if value is None or isinstance(value, Tensor):
        return {} if value is None else {name: value}
    items = value.items() if isinstance(value, Mapping) else value._asdict().items()
    found = [flatten(item, f"{name}.{key}" if name else key) for key, item in items]
    return {key: tensor for part in found for key, tensor in part.items()}


def unflatten(like: Any, tensors: Mapping[str, Tensor], name: str = "") -> Any:
    """What :func:`flatten` took apart, in the shape of ``like``."""
    if like is None or isinstance(like, Tensor):
        return tensors.get(name)
    items = like.items() if isinstance(like, Mapping) else like._asdict().items()
    parts = {key: unflatten(item, tensors, f"{name}.{key}" if name else key) for key, item in items}
    return parts if isinstance(like, Mapping) else type(like)(**parts)


class GradientLearner(Learner):
    """A learner of schedules and optimisers.

    ``updates`` counts updates. Subclasses fill ``optimizers`` in their constructors and, where the
    weight of a term follows from what it comes to, ``controllers``, by the terms.
    """

    def __init__(self, config: Config, runtime: Runtime):
        super().__init__()
        self.config, self.runtime, self.device = config, runtime, runtime.device
        self.updates = 0
        self.schedules = loss_scales(config)
        self.optimizers: dict[str, Optimizer] = {}
        self.controllers: dict[str, Controller] = {}
        self._compute = Accelerated(self._compute_flat, runtime, "an update", self._tensors)
        self._like: Any = None  # the shape of what an update takes

    def learn(self, batch: Batch, step: int) -> Update:
        """One update; the metrics stay on the device, and nothing waits for it."""
        data = self.prepare(batch)
        inputs = {"batch": data, "noise": self.draw_noise(*data["is_first"].shape)}
        inputs["scales"] = self._scales_at(step)
        self.before_update()
        self._like = inputs
        metrics = self._compute(flatten(inputs))
        self.updates += 1
        skipped = [metrics.pop(name) for name in list(metrics) if name.startswith(SKIPPED)]
        return Update(metrics, torch.stack(skipped))

    def _compute_flat(self, tensors: dict[str, Tensor]) -> Metrics:
        """:meth:`compute` as it can be recorded: tensors by name in, tensors by name out."""
        given = unflatten(self._like, tensors)
        count, values = len(self.schedules), given["scales"].unbind()
        scales = dict(zip(self.schedules, values[:count], strict=True))
        scales |= {name: controller.beta for name, controller in self.controllers.items()}
        metrics = self.compute(given["batch"], scales, given["noise"])
        for controller, goal in zip(self.controllers.values(), values[count:], strict=True):
            metrics |= controller.step(metrics, goal)
        return metrics

    @abstractmethod
    def compute(self, batch: Batch, scales: LossScales, noise: Any) -> Metrics:
        """An update as a function of tensors.

        It draws nothing, looks at no value, and changes parameters and moments in their places:
        so it can be recorded.

        Args:
            batch: as :meth:`prepare` gives it.
            scales: the schedules' values, by the names of :func:`loss_scales`.
            noise: what :meth:`draw_noise` gave.
        """

    @abstractmethod
    def draw_noise(self, batch: int, length: int) -> Any:
        """All that an update draws with, made outside of it: nested named tuples of tensors."""

    def before_update(self) -> None:
        """What happens once in a while; a recorded update cannot hold it."""

    def _tensors(self) -> list[Tensor]:
        moments = [t for optimizer in self.optimizers.values() for t in optimizer.tensors()]
        states = [t for controller in self.controllers.values() for t in controller.state.values()]
        return [*self.parameters(), *self.buffers(), *moments, *states]

    def _scales_at(self, step: int) -> Tensor:
        """The schedules' values now, then the controllers' goals, on the device: one transfer."""
        values = [schedule(step) for schedule in self.schedules.values()]
        values += [controller.goal_at(self.updates) for controller in self.controllers.values()]
        pinned = self.device.type == "cuda"  # a copy from other memory may wait for the device
        tensor = torch.tensor(values, dtype=torch.float32, pin_memory=pinned)
        return tensor.to(self.device, non_blocking=True)

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
        """Weights, optimisers, controllers and the count of updates."""
        return {
            "weights": self.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "controllers": {name: c.save_state() for name, c in self.controllers.items()},
            "updates": self.updates,
        }

    def init_from(self, state: Mapping[str, Any]) -> Taken:
        """Takes the weights; optimisers, controllers and the count of updates begin anew."""
        return super().init_from(state["weights"])

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
        for name, controller in self.controllers.items():
            controller.load_state(state["controllers"][name])
        self._compute.reset()
        self.updates = state["updates"]
