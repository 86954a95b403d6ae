"""What a run computes on and how, decided once."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import fast


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a run computes."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    graphs: bool
    overlap: bool
    image_chunk: int

    @classmethod
    def resolve(cls, config: Any) -> Runtime:
        """What a configuration comes to on this machine."""
        from agents.learner import compute_dtype

        device = torch.device(config.device)
        dtype = compute_dtype(config.precision, device)
        chunk = config.image_chunk or (250 if device.type == "cpu" else 0)
        flags = fast.compiles(config), fast.graphs(config), fast.overlaps(config)
        return cls(device, dtype, *flags, chunk)
