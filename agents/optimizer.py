"""The optimiser that agent and pretrainer share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from config import Config

Metrics = dict[str, Tensor]

SKIPPED = "skipped_"  # and the optimiser's name: the metric that says whether it took no step


class Optimizer:
    """Adam (or another) over named parameters, with the gradient's norm clipped.

    Those of ``apart`` are clipped by their own norm and the others by theirs, as two optimisers
    with the same settings would.
    Parameters may come in groups, as `torch.optim` has them: dicts with ``params``, and a group's
    own ``lr`` or ``eps``.
    ``beta`` is what Adam's and Adamax's mean of the gradient keeps of itself at each step.

    A step whose loss or gradient is not finite is not taken: parameters and moments stay as they
    are. That is decided on the device, and nothing waits for it.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter | dict[str, Any]],
        config: Config,
        lr: float,
        clip: float = math.inf,
        apart: Iterable[nn.Parameter] = (),
        beta: float = 0.9,
    ):
        self.name, self.clip = name, clip
        given = list(parameters)
        groups = [dict(g) for g in given if isinstance(g, dict)] or [{"params": given}]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        own = {id(p) for p in apart}
        parts = [[p for p in self.parameters if (id(p) in own) == which] for which in (True, False)]
        self._parts = [part for part in parts if part]
        eps, decay = config.opt_eps, config.weight_decay
        # A CUDA graph records what lies on the device, so the count of steps has to.
        self.where = {"capturable": self.parameters[0].is_cuda}
        # AdamW without decay is Adam; with it, the decay does not pass through the moments, as it
        # does in Adam.
        more = {"eps": eps, "weight_decay": decay, "betas": (beta, 0.999), **self.where}
        make = {
            "adam": lambda p: torch.optim.AdamW(p, lr, fused=True, **more),
            "adam_l2": lambda p: torch.optim.Adam(p, lr, fused=True, **more),
            "adamax": lambda p: torch.optim.Adamax(p, lr, **more),
            "sgd": lambda p: torch.optim.SGD(p, lr, weight_decay=decay),
            "momentum": lambda p: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=decay),
        }[config.opt]
        self.optimizer = make(groups)
        # PyTorch would warn of every capturable step that no graph records, warming up included.
        self.optimizer._warned_capturable_if_run_uncaptured = True

    def step(self, loss: Tensor, skip: Tensor | None = None) -> Metrics:
        """One step down the gradient of ``loss``.

        Args:
            loss: 0-d.
            skip: 0-d, above 0 if an earlier step of the same update was skipped: so is this one.

        Returns:
            The loss, the norm of the whole gradient before the clip, and whether the step was
            skipped (1 or 0).
        """
        self.zero_grad()
        loss.backward()
        return self.take(loss.detach(), skip)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def take(self, loss: Tensor, skip: Tensor | None = None) -> Metrics:
        """One step along the gradients that are there, which are ``loss``'s; else as `step`."""
        norms = [nn.utils.clip_grad_norm_(part, self.clip) for part in self._parts]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        skipped = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
        if skip is not None:
            skipped = torch.maximum(skipped, skip)
        if isinstance(self.optimizer, torch.optim.Adam):  # AdamW is one, too
            # How PyTorch's gradient scaler tells a fused optimiser, which then does nothing.
            fused: Any = self.optimizer
            fused.grad_scale, fused.found_inf = None, skipped
            fused.step()
        else:
            self._step_unless(skipped)
        return {
            f"{self.name}_loss": loss,
            f"{self.name}_grad_norm": norm,
            SKIPPED + self.name: skipped,
        }

    @torch.no_grad()
    def _step_unless(self, skipped: Tensor) -> None:
        """A step that is taken back where it was to be skipped."""
        moved = [*self.parameters, *self.tensors()]
        before = {id(tensor): tensor.clone() for tensor in moved}
        self.optimizer.step()
        for tensor in [*self.parameters, *self.tensors()]:
            # Moments that came to be in this step began as zeros.
            old = before.get(id(tensor), torch.zeros_like(tensor))
            tensor.copy_(torch.where(skipped.to(tensor.device) > 0, old, tensor))

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state))
        for group in self.optimizer.param_groups:  # the checkpoint may be another device's
            group.update({k: v for k, v in self.where.items() if k in group})
        if self.where["capturable"]:
            for parameter, values in self.optimizer.state.items():
                values.update({k: v.to(parameter.device) for k, v in values.items() if k == "step"})

    def tensors(self) -> list[Tensor]:
        """The moments, as far as they have come to be."""
        state = self.optimizer.state.values()
        return [v for values in state for v in values.values() if isinstance(v, Tensor)]
