"""LaProp with adaptive gradient clipping: what DreamerV3 learns with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.optimizer import SKIPPED, Metrics, Optimizer


class LaProp(Optimizer):
    """LaProp over named parameters, each tensor's gradient clipped to a share of its own size.

    Of a parameter w with gradient g, at step n = 1, 2, …::

        g ← g · min(1, clip · max(floor, ‖w‖) / ‖g‖)           adaptive clip, of each tensor
        v ← β₂v + (1 − β₂)g²
        m ← β₁m + (1 − β₁) · g / (√(v / (1 − β₂ⁿ)) + eps)      the step is normalised, then averaged
        w ← w − rateₙ · m / (1 − β₁ⁿ),  rateₙ = lr · min(1, (n − 1) / warmup)

    Adam averages gradients first and divides then; here a large gradient counts no more than one
    step. (Ziyin et al. 2020, arXiv 2002.04839; Brock et al. 2021, arXiv 2102.06171; as put together
    in DreamerV3, arXiv 2301.04104.)

    As with `Optimizer`, a step whose loss or gradient is not finite is not taken, which is decided
    on the device.

    Args:
        name: as for `Optimizer`.
        parameters: all of them get a gradient at each step.
        lr: the rate after the warm-up.
        clip: largest norm of a gradient, as a share of its tensor's.
        warmup: steps in which the rate rises from 0; 0 for none.
        eps: of the root.
        betas: β₁ and β₂.
        floor: the least norm that a tensor counts as having.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        lr: float,
        clip: float,
        *,
        warmup: int = 0,
        eps: float = 1e-20,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 1e-3,
    ):
        self.name, self.lr, self.clip, self.warmup = name, lr, clip, warmup
        self.eps, self.betas, self.floor = eps, betas, floor
        self.parameters = [p for p in parameters if p.requires_grad]
        self.momentum = [torch.zeros_like(p) for p in self.parameters]
        self.variance = [torch.zeros_like(p) for p in self.parameters]
        # float64, as 1 − 0.999ⁿ has few digits otherwise; on the device, as a recorded step needs.
        device = self.parameters[0].device
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def take(self, loss: Tensor, skip: Tensor | None = None) -> Metrics:
        """One step along the gradients that are there, which are ``loss``'s; else as `step`."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))
        norm = norms.norm()
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        if skip is not None:
            bad = bad | (skip > 0)
        weights: list[Tensor] = [*self.parameters]
        limits = self.clip * torch.stack(torch._foreach_norm(weights)).clamp(min=self.floor)
        torch._foreach_mul_(grads, (1 / (norms / limits).clamp(min=1)).unbind())
        for grad in grads:
            grad.masked_fill_(bad, 0)
        self._move(grads, (~bad).to(self.count.dtype))
        return {
            f"{self.name}_loss": loss,
            f"{self.name}_grad_norm": norm,
            f"{self.name}_clipped": (norms > limits).to(norms.dtype).mean(),
            SKIPPED + self.name: bad.to(norms.dtype),
        }

    def _move(self, grads: list[Tensor], taken: Tensor) -> None:
        """The step along clipped gradients; where ``taken`` is 0, they are too, nothing moves."""
        dtype, (beta1, beta2) = grads[0].dtype, self.betas
        self.count += taken
        n = self.count.clamp(min=1)
        share = (self.count - 1) / self.warmup if self.warmup else torch.ones_like(n)
        rate = taken * self.lr * share.clamp(0, 1) / (1 - beta1**n)

        def keeping(beta: float) -> Tensor:
            return (1 - taken * (1 - beta)).to(dtype)

        torch._foreach_mul_(self.variance, keeping(beta2))
        torch._foreach_addcmul_(self.variance, grads, grads, 1 - beta2)
        roots = torch._foreach_mul(self.variance, (1 / (1 - beta2**n)).to(dtype))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.eps)
        torch._foreach_div_(grads, roots)
        torch._foreach_mul_(self.momentum, keeping(beta1))
        torch._foreach_add_(self.momentum, grads, alpha=1 - beta1)
        torch._foreach_copy_(roots, self.momentum)
        torch._foreach_mul_(roots, (-rate).to(dtype))
        steps: Any = roots  # PyTorch's types have no lists here
        torch._foreach_add_([*self.parameters], steps)

    def state_dict(self) -> dict[str, Any]:
        """The moments and the count of steps."""
        return {"momentum": self.momentum, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned; on the devices where the parameters lie."""
        for name in ("momentum", "variance"):
            for own, given in zip(getattr(self, name), state[name], strict=True):
                own.copy_(given)
        self.count.copy_(state["count"])

    def tensors(self) -> list[Tensor]:
        """The moments and the count."""
        return [*self.momentum, *self.variance, self.count]
