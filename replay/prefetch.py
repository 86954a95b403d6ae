"""The way of the batches from the replay to the device.

While an update runs, the next batch is drawn in a thread, ahead of its time:

    update      | 0        | 1        | 2        …
    thread        draw 1     draw 2     draw 3

Nothing about the run shows that. The thread draws with a copy of the replay's generator; what it
drew counts only if, when the batch is asked for, the replay holds the same episodes and its
generator stands where the copy was taken. The replay's own generator then goes where the copy has
come to. Otherwise the batch is drawn anew. So every batch is the one that would have been drawn
without the thread, and a checkpoint never sees a draw ahead.

On a CUDA device a batch is drawn into pinned memory and copied from there on a stream of its own,
so that it crosses while the update before still runs. There are two sets of buffers:

    host    pinned 0  pinned 1      filled again once their last copy has ended
    copy    0 → device 0            begins once the updates that read device 0 have ended
    train   … waits for the copy, reads device 0

Symbols in shapes: B batch, T time (rows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from replay.buffer import Replay
from replay.storage import buffers
from timing import Stopwatch
from tools import is_on

Batch = dict[str, Tensor]


class _Draw(NamedTuple):
    """A batch drawn ahead: it may count if the generator stood at `before`."""

    before: str
    rng: np.random.Generator
    drawn: Future  # the arrays, and the version of the replay's contents


class Feeder:
    """Batches of a replay, one after the other, as tensors on a device.

    Args:
        replay: where to sample.
        size: B.
        length: T.
        device: where the tensors are to be.
        prefetch: auto, True or False: draw ahead in a thread. Auto does on a CUDA device; on a
            CPU a draw takes thousandths of an update, and the update has use for every core.
        watch: takes the seconds of ``sample`` (drawing, or waiting for the thread) and
            ``transfer`` (handing copies to the device).

    A replay that holds its rows on a device already makes its batches there: they are passed on.
    """

    def __init__(
        self,
        replay: Replay,
        size: int,
        length: int,
        device: torch.device,
        prefetch: str = "auto",
        watch: Stopwatch | None = None,
    ):
        self._replay, self._size, self._length = replay, size, length
        self._watch = watch or Stopwatch()
        cuda = device.type == "cuda"
        self.prefetch = not replay.on_device and is_on(prefetch, cuda)
        self._slots: list[_HostSlot] | list[_CudaSlot] = []
        if not replay.on_device:
            arrays = [buffers(replay.fields, size, length) for _ in range(1 + self.prefetch)]
            self._slots = [_HostSlot(each) for each in arrays]
        if self._slots and cuda:
            copies = torch.cuda.Stream(device)
            self._slots = [_CudaSlot(arrays[0], device, copies) for _ in range(2)]
        self._count = 0  # batches given
        self._ahead: _Draw | None = None
        self._thread = ThreadPoolExecutor(1, "feeder") if self.prefetch else None

    def next(self) -> Batch:
        """The next batch, good until the next one is asked for.

        On a CUDA device that means until the current stream has done what it was given by then.

        Returns:
            image uint8 [B, T, H, W, C], action float32 [B, T, A], reward and discount float32
            [B, T], is_first bool [B, T].

        Raises:
            ValueError: the replay has no closed episode yet.
        """
        if not self._slots:
            with self._watch("sample"):
                return self._replay.sample(self._size, self._length)
        self._slot(-1).release()
        slot = self._slot(0)
        with self._watch("sample"):
            if not self._drawn_ahead():
                slot.wait()
                self._replay.sample(self._size, self._length, out=slot.arrays)
        with self._watch("transfer"):
            batch = slot.send()
        if self._thread is not None:
            self._draw_ahead()
        self._count += 1
        return batch

    def close(self) -> None:
        """Ends the thread, after the draw that it may be at."""
        if self._thread is not None:
            self._thread.shutdown()

    def _slot(self, offset: int) -> _HostSlot | _CudaSlot:
        """The buffers of the batch that is due, or of one so many before or after it."""
        return self._slots[(self._count + offset) % len(self._slots)]

    def _draw_ahead(self) -> None:
        slot, before = self._slot(1), self._replay.rng_state()
        slot.wait()
        rng = np.random.Generator(np.random.PCG64())
        rng.bit_generator.state = json.loads(before)
        draw = self._replay.draw
        drawn = self._thread.submit(draw, self._size, self._length, rng, slot.arrays)
        self._ahead = _Draw(before, rng, drawn)

    def _drawn_ahead(self) -> bool:
        """Whether the slot holds the batch that drawing now would give; it then counts as drawn."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return False
        _, version = ahead.drawn.result()  # in any case: until then the thread writes to the slot
        replay = self._replay
        if version != replay.version or ahead.before != replay.rng_state():
            return False
        replay.load_rng(json.dumps(ahead.rng.bit_generator.state))
        return True


class _HostSlot:
    """Buffers of a batch that is used where it is drawn: whoever asks for one is done with it."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self._batch = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def wait(self) -> None:
        """Until the arrays may be written to."""

    def send(self) -> Batch:
        """What the arrays hold, on the device."""
        return dict(self._batch)

    def release(self) -> None:
        """What `send` gave is not asked for any more."""


class _CudaSlot(_HostSlot):
    """Buffers of a batch in pinned memory and on a CUDA device.

    Args:
        like: a batch, for its shapes and dtypes.
        device: a CUDA device.
        copies: the stream to copy on.
    """

    def __init__(
        self, like: Mapping[str, np.ndarray], device: torch.device, copies: torch.cuda.Stream
    ):
        kinds = {name: torch.from_numpy(array) for name, array in like.items()}
        self._pinned = {
            name: torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for name, x in kinds.items()
        }
        self.arrays = {name: tensor.numpy() for name, tensor in self._pinned.items()}
        self._batch = {name: torch.empty_like(x, device=device) for name, x in kinds.items()}
        self._device, self._copies = device, copies
        self._copied, self._released = torch.cuda.Event(), torch.cuda.Event()
        self.release()  # the allocator may have given memory that work under way still reads

    def wait(self) -> None:
        self._copied.synchronize()  # that copy belongs to the batch before the last: long over

    def send(self) -> Batch:
        self._copies.wait_event(self._released)
        with torch.cuda.stream(self._copies):
            for name, tensor in self._batch.items():
                tensor.copy_(self._pinned[name], non_blocking=True)
            self._copied.record(self._copies)
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return dict(self._batch)

    def release(self) -> None:
        self._released.record(torch.cuda.current_stream(self._device))
