"""Work done in chunks: the numbers of the whole, with the memory of one chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def chunks(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """x [N, …] in even parts of at most ``size``; 0 leaves it whole."""
    return x.tensor_split(math.ceil(len(x) / size)) if size and len(x) > size else (x,)


def by_chunks(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """``function`` of x [N, …], over ``size`` of it at a time (0: all at once), as one tensor.

    What passes between the layers of a chunk stays in a CPU's cache, and its memory is used again
    by the next one.
    """
    parts = chunks(x, size)
    return function(x) if len(parts) == 1 else torch.cat([function(part) for part in parts])


class _SumByChunks(torch.autograd.Function):
    """See :func:`sum_by_chunks`."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable, size: int, x: Tensor, target: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.has_x = x.requires_grad
        total, of_x = x.new_zeros(()), []
        of_parameters: list[Tensor] | None = None
        for part, goal in zip(chunks(x, size), chunks(target, size), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(ctx.has_x)
                value = function(leaf, goal).sum()
            wanted = [leaf, *parameters] if ctx.has_x else parameters
            grads = list(torch.autograd.grad(value, wanted))
            total += value.detach()
            if ctx.has_x:
                of_x.append(grads.pop(0))
            if of_parameters is None:
                of_parameters = grads
            elif grads:
                torch._foreach_add_(of_parameters, grads)
        ctx.save_for_backward(*([torch.cat(of_x)] if of_x else []), *(of_parameters or []))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [value * grad for value in ctx.saved_tensors]
        return None, None, grads.pop(0) if ctx.has_x else None, None, *grads


def sum_by_chunks(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    size: int,
) -> Tensor:
    """The sum of ``function(x, target)`` over all rows, ``size`` at a time (0: all at once).

    A chunk's gradient is taken right after its value, while it lies in the CPU's cache, and what
    the chunk has saved for it is freed: memory holds one chunk, however large the batch.

    Args:
        function: x [n, …], target [n, …] → one number per row, [n].
        x: [N, …]; gradients reach it.
        target: [N, …]; they do not reach this.
        parameters: what else the function depends on; gradients reach those that ask for them.
        size: of a chunk.

    Returns:
        0-d.
    """
    parameters = [p for p in parameters if p.requires_grad]
    tracked = torch.is_grad_enabled() and (x.requires_grad or parameters)
    if not size or len(x) <= size or not tracked:
        return function(x, target).sum()
    return _SumByChunks.apply(function, size, x, target, *parameters)
