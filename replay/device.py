"""Rows of a replay on the device that trains: batches are made there, and none cross to it.

Symbols in shapes: B batch, T time (rows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import Config
from replay.sampler import Piece, resets
from replay.storage import Fields, Ring, make_store
from tools import UserError

SHARE = 0.4  # of the device's free memory: what a replay may take by itself


class DeviceRowStore(Ring):
    """The same ring of rows in tensors on a device; its batches hold what a `RowStore`'s do.

    Args:
        fields: name → (shape of a row, dtype).
        rows: rows to allocate at once. Memory of a device is taken whole: give those expected.
        device: where.

    Raises:
        UserError: here and in `push`: the device has no memory for so many rows.
    """

    GROWTH = 1.25  # moving rows costs little there, and memory much
    on_device = True

    def __init__(self, fields: Fields, rows: int, device: torch.device):
        self._device = torch.device(device)
        super().__init__(fields, max(rows, 1))

    def batch(
        self,
        pieces: Sequence[Piece],
        size: int,
        length: int,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Tensor]:
        """New tensors on the device; all that crosses to it is which rows, and where states reset.

        Raises:
            ValueError: arrays in `out`, which a device cannot fill.
        """
        if out is not None:
            raise ValueError("rows on a device cannot be drawn into arrays: leave out `out`")
        # Pinned, so that nobody waits for the copy.
        host = torch.empty(
            (2, size * length), dtype=torch.int64, pin_memory=self._device.type == "cuda"
        )
        index, is_first = host.numpy()
        starts = [start for start, _ in self._spans]
        for episode, first, rows, b, t in pieces:
            start, at = starts[episode] + first, b * length + t
            index[at : at + rows] = np.arange(start, start + rows)
        is_first[:] = resets(pieces, size, length).ravel()
        index, is_first = host.to(self._device, non_blocking=True)
        batch = {key: _rows(array, index, size) for key, array in self._arrays.items()}
        return {**batch, "is_first": is_first.view(size, length).bool()}

    def _empty(self, rows: int, key: str) -> Tensor:
        shape, dtype = self._fields[key]
        dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        try:
            return torch.empty((rows, *shape), dtype=dtype, device=self._device)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
            raise UserError(
                f"the replay does not fit on {self._device} ({reason}): give --replay_device cpu, "
                "or --dataset_size to keep fewer steps"
            ) from error

    def _write(self, start: int, episode: Mapping[str, np.ndarray]) -> None:
        for key, array in self._arrays.items():
            rows = torch.from_numpy(np.ascontiguousarray(episode[key]))
            if self._device.type == "cuda":
                rows = rows.pin_memory()  # so that the copy waits for no update under way
            array[start : start + len(rows)].copy_(rows, non_blocking=True)

    def _grow(self, rows: int) -> int:
        first = super()._grow(rows)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the old rows' memory, which fits nothing else
        return first


def _rows(array: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows [B·T] of a tensor [N, …] as [B, T, …]; images go as words instead of bytes."""
    shape = array.shape[1:]
    words = array
    if array.dtype is torch.uint8 and shape.numel() and shape.numel() % 8 == 0:
        words = array.view(len(array), -1).view(torch.int64)
    drawn = words.index_select(0, index).view(array.dtype)
    return drawn.view(size, len(index) // size, *shape)


def place(
    fields: Fields, capacity: int, config: Config, folder: Path | None, rows: Callable[[], int]
) -> Ring:
    """The store that ``--replay_device`` asks for; auto is the GPU where the rows fit.

    Args:
        fields: name → (shape of a row, dtype).
        capacity: rows to keep, 0 for all.
        config: the run's.
        folder: where rows are to lie in a file; None for no file.
        rows: says how many rows the run comes to.

    Raises:
        UserError: the GPU is asked for where it cannot hold them.
    """
    device = torch.device(config.device)
    if config.replay_device == "cpu" or device.type != "cuda" or folder is not None:
        return make_store(fields, capacity, folder)
    expected = rows()
    if config.replay_device == "auto":
        free, _ = torch.cuda.mem_get_info(device)
        if not fits(fields, expected, free):
            return make_store(fields, capacity, folder)
    return DeviceRowStore(fields, expected, device)


def fits(fields: Fields, rows: int, free: int) -> bool:
    """Whether so many rows leave enough of a device's free bytes to training."""
    row = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in fields.values())
    return rows * row <= SHARE * free


def check_device(config: Config) -> None:
    """Checks that ``--replay_device`` goes with the run's device and storage.

    Raises:
        UserError: it does not; one line with the mend.
    """
    if config.replay_device != "cuda":
        return
    if torch.device(config.device).type != "cuda":
        raise UserError(
            f"--replay_device cuda does not go with --device {config.device}: give --device "
            "cuda:0, or --replay_device auto"
        )
    if config.replay_storage == "disk":
        raise UserError(
            "--replay_device cuda does not go with --replay_storage disk: give one of them"
        )
