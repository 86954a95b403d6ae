"""The way of the batches from the replay to the device.

On a CUDA device a batch is drawn into pinned memory while the device still computes the update
before, and is copied behind it. There is one buffer: it is filled again once its last copy ended.

    host      draw 1 │ launch 1 │ draw 2      │ launch 2 │ draw 3 …
    device           │ copy 1   │ update 1    │ copy 2   │ update 2 …

Symbols in shapes: B batch, T time (rows).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from replay.buffer import Replay
from replay.storage import buffers

Batch = dict[str, Tensor]


class Prefetcher:
    """Batches of a replay, one after the other, as tensors on a device.

    A replay that holds its episodes on the device makes its batches there: they are passed on.

    Args:
        replay: where to sample.
        size: B.
        length: T.
        device: where the tensors are to be.
        watch: takes the seconds of ``sample`` (drawing) and ``transfer`` (giving the device its
            copies), as ``with watch("sample")``.
    """

    def __init__(
        self,
        replay: Replay,
        size: int,
        length: int,
        device: torch.device,
        watch: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self._replay, self._sizes, self._watch = replay, (size, length), watch
        self._device = device
        self._pinned: dict[str, np.ndarray] | None = None
        if device.type == "cuda" and not replay.storage.on_device:
            arrays = buffers(replay.storage.fields, size, length)
            self._pinned = {k: torch.from_numpy(x).pin_memory().numpy() for k, x in arrays.items()}
            self._copied = torch.cuda.Event()

    def next(self) -> Batch:
        """The next batch, in tensors of its own.

        Returns:
            image uint8 [B, T, H, W, C], action float32 [B, T, A], reward and discount float32
            [B, T], is_first bool [B, T].

        Raises:
            ValueError: the replay has no closed episode yet.
        """
        with self._watch("sample"):
            if self._pinned is not None:
                self._copied.synchronize()
            batch = self._replay.sample(*self._sizes, out=self._pinned)
        with self._watch("transfer"):
            tensors = {key: torch.as_tensor(value) for key, value in batch.items()}
            if self._pinned is not None:
                tensors = {k: x.to(self._device, non_blocking=True) for k, x in tensors.items()}
                self._copied.record(torch.cuda.current_stream(self._device))
        return tensors
