"""The way of a batch from the replay to the device that trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


def to_tensors(batch: Mapping[str, np.ndarray | Tensor], device: torch.device) -> Batch:
    """What `Replay.sample` returned, as tensors on a device; those that are there are passed on.

    On a CUDA device nobody waits for it: the copies come behind the work that the current stream
    has been given, so that the next batch is drawn while the device computes. They are made out of
    pinned memory, which PyTorch gives to nobody else before they have ended.
    """
    tensors = {key: torch.as_tensor(value) for key, value in batch.items()}
    if device.type == "cuda":
        tensors = {k: x if x.is_cuda else x.pin_memory() for k, x in tensors.items()}
    return {key: x.to(device, non_blocking=True) for key, x in tensors.items()}
