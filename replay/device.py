"""Episodes on the device that trains: batches are made there, and none cross to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from replay.episodes import Fields
from replay.room import row_size
from replay.sampler import Slice, resets
from replay.storage import DiskStorage, HostStorage, Storage
from tools import UserError

SHARE = 0.4  # of the device's free memory: what a replay may take by itself
MEND = "give --replay_device cpu, or --dataset_size to keep fewer steps"


class DeviceStorage(Storage):
    """Episodes in tensors on a device; its batches hold what a `HostStorage`'s do.

    Args:
        fields: name → (shape of a row, dtype).
        device: where.

    Raises:
        UserError: in `push`: the device has no memory for the episode.
    """

    def __init__(self, fields: Fields, device: torch.device):
        super().__init__(fields)
        self._device = device

    def batch(self, slices: Sequence[Slice], size: int, length: int) -> dict[str, Tensor]:
        batch = {}
        for key, (shape, _) in self.fields.items():
            # Side by side in the order of the batch's rows, windows [B, T] are rows [B·T].
            rows = [self._episodes[s.episode][key][s.first : s.first + s.rows] for s in slices]
            batch[key] = torch.cat(rows).view(size, length, *shape)
        # All that crosses to the device is where states are reset.
        return {**batch, "is_first": self._send(resets(slices, size, length))}

    def _hold(self, episode: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        try:
            return {key: self._send(episode[key]) for key in self.fields}
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
            raise UserError(
                f"the replay does not fit on {self._device} ({reason}): {MEND}"
            ) from error

    def _send(self, array: np.ndarray) -> Tensor:
        """A copy on the device. Out of pinned memory nobody waits for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        tensor = tensor.pin_memory() if self._device.type == "cuda" else tensor.clone()
        return tensor.to(self._device, non_blocking=True)


def place(
    fields: Fields,
    choice: str,
    device: torch.device,
    rows: int,
    folder: Path | None = None,
) -> Storage:
    """The storage that ``--replay_device`` asks for; auto is the GPU where the rows fit.

    Args:
        fields: name → (shape of a row, dtype).
        choice: auto, cpu or cuda.
        device: the one that trains.
        rows: how many are expected.
        folder: where episodes are to lie on disk; None for elsewhere.

    Raises:
        UserError: the folder cannot be used, or the GPU is asked for and cannot hold the rows.
    """
    if folder is not None:
        return DiskStorage(fields, folder)
    if choice == "cpu" or device.type != "cuda":
        return HostStorage(fields)
    needed, (free, _) = rows * row_size(fields), torch.cuda.mem_get_info(device)
    if choice == "auto" and needed > SHARE * free:
        return HostStorage(fields)
    if needed > free:
        raise UserError(
            f"the replay does not fit on {device} (it comes to {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} are free): {MEND}"
        )
    return DeviceStorage(fields, device)


def check_device(choice: str, device: torch.device, storage: str) -> None:
    """Checks that ``--replay_device`` goes with the run's device and ``--replay_storage``.

    Raises:
        UserError: it does not; one line with the mend.
    """
    if choice != "cuda":
        return
    if device.type != "cuda":
        raise UserError(
            f"--replay_device cuda does not go with --device {device}: give --device cuda:0, or "
            "--replay_device auto"
        )
    if storage == "disk":
        raise UserError(
            "--replay_device cuda does not go with --replay_storage disk: give one of them"
        )
