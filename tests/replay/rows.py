"""Rows and episodes whose every field tells the episode's number and the row."""

import numpy as np
import pytest
import torch

from replay import DiskStorage, HostStorage, Replay, row_fields
from replay.device import DeviceStorage

SHAPE = (2, 2, 3)
FIELDS = row_fields(SHAPE, 2)
KINDS = {
    "host": lambda folder, fields=FIELDS: HostStorage(fields),
    "disk": lambda folder, fields=FIELDS: DiskStorage(fields, folder / "cache"),
    "device": lambda folder, fields=FIELDS: DeviceStorage(fields, torch.device("cpu")),
    "cuda": lambda folder, fields=FIELDS: DeviceStorage(fields, torch.device("cuda:0")),
}
each_kind = pytest.mark.parametrize(
    "kind", ["host", "disk", "device", pytest.param("cuda", marks=pytest.mark.gpu)]
)


def make(directory=None, storage=None, **kwargs):
    return Replay(HostStorage(FIELDS) if storage is None else storage, directory, **kwargs)


def episode(number, rows):
    t = np.arange(rows)
    image = np.zeros((rows, *SHAPE), np.uint8)
    image[:, 0, 0] = np.stack([0 * t + number % 256, t % 256, t // 256], -1)
    action = np.stack([number * (t > 0), t], -1).astype(np.float32)
    reward = (number + t / 1024).astype(np.float32)
    discount = (1 - 0.5 * (t == rows - 1)).astype(np.float32)
    return {"image": image, "action": action, "reward": reward, "discount": discount}


def row(number, t, last, **changes):
    """Row t of that episode, as it comes from an environment."""
    fields = {key: value[t] for key, value in episode(number, last + 1).items()}
    flags = {"is_first": t == 0, "is_last": t == last, "is_terminal": t == last}
    return fields | flags | changes


def feed(replay, number, rows, worker=0):
    """Add a whole episode; its summary."""
    closed = [replay.add(worker, row(number, t, rows - 1)) for t in range(rows)]
    assert closed[:-1] == [None] * (rows - 1)
    return closed[-1]


def decode(batch):
    """Episode number and row, int [B, T] each, from the images; asserts that all fields agree."""
    pixel = batch["image"][:, :, 0, 0].astype(int)
    number, t = pixel[..., 0], pixel[..., 1] + 256 * pixel[..., 2]
    np.testing.assert_array_equal(batch["action"], np.stack([number * (t > 0), t], -1))
    np.testing.assert_array_equal(batch["reward"], (number + t / 1024).astype(np.float32))
    return number, t


def equal(one, other):
    """Asserts that two batches or episodes hold the same, in arrays or in tensors."""
    assert list(one) == list(other)
    for key in one:
        first, second = (torch.as_tensor(each[key]).cpu() for each in (one, other))
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first.numpy(), second.numpy(), err_msg=str(key))
