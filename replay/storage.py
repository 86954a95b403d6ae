"""Where closed episodes lie: in memory (`HostStorage`) or on disk (`DiskStorage`).

On a GPU they lie in `device.py`. Symbols in shapes: B batch, T time (rows).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay.episodes import Fields
from replay.sampler import Slice, resets
from tools import UserError

FILE_SIZE = 256 << 20  # bytes from which on a file of a DiskStorage takes no further episode


class Storage(ABC):
    """A queue of closed episodes, which batches are gathered from.

    Args:
        fields: name → (shape of a row, dtype).

    Attributes:
        fields: as given.
    """

    def __init__(self, fields: Fields):
        self.fields = dict(fields)
        self._episodes: deque[Any] = deque()  # what `_hold` returned, oldest first

    def push(self, episode: Mapping[str, np.ndarray]) -> None:
        """Hold a copy of an episode as the newest.

        Raises:
            UserError: there is no room for it.
        """
        self._episodes.append(self._hold(episode))

    def pop(self) -> None:
        """Give up the oldest episode."""
        self._episodes.popleft()

    def clear(self) -> None:
        """Give up all episodes."""
        self._episodes.clear()

    @abstractmethod
    def batch(self, slices: Sequence[Slice], size: int, length: int) -> dict[str, Any]:
        """The batch that slices make up: [B, T, …] of each field, and ``is_first`` [B, T].

        Args:
            slices: fill it, in the order of its rows.
            size: B.
            length: T.
        """

    @abstractmethod
    def _hold(self, episode: Mapping[str, np.ndarray]) -> Any:
        """Copy an episode to where it is to lie."""


class HostStorage(Storage):
    """Episodes in memory, as NumPy arrays."""

    def batch(self, slices: Sequence[Slice], size: int, length: int) -> dict[str, np.ndarray]:
        batch: dict[str, np.ndarray] = {
            key: np.empty((size, length, *shape), dtype)
            for key, (shape, dtype) in self.fields.items()
        }
        for episode, first, rows, b, t in slices:
            held = self._episodes[episode]
            for key in self.fields:
                self._read(held, key, first, batch[key][b, t : t + rows])
        return {**batch, "is_first": resets(slices, size, length)}

    def _hold(self, episode: Mapping[str, np.ndarray]) -> Any:
        try:
            return {key: _mapped(episode[key]) for key in self.fields}
        except (MemoryError, OSError) as error:
            raise UserError(
                f"the replay does not fit into memory ({len(self._episodes)} episodes do): give "
                "--replay_storage disk, or --dataset_size to keep fewer steps"
            ) from error

    def _read(self, held: Any, key: str, first: int, target: np.ndarray) -> None:
        """Copy a field's rows, from `first` on, into an array."""
        target[:] = held[key][first : first + len(target)]


class DiskStorage(HostStorage):
    """Episodes in files without a name, for more of them than memory holds.

    Each episode is appended to the newest file. A file goes with the last of its episodes, and all
    of them with the process, however it ends: `df` shows the space they take, `ls` shows nothing.

    Rows are read and written by calls, not through a mapping: a disk that is full or fails is then
    an error that names itself, and not a SIGBUS; what has been read stays in the kernel's page
    cache as long as memory lasts, and is not the process's.

    Args:
        fields: name → (shape of a row, dtype).
        folder: where the files lie; made if it is not there. On a tmpfs rows would be in memory.

    Attributes:
        folder: as given.

    Raises:
        UserError: here, in `push` and `batch`: the folder cannot be used, or its disk is full.
    """

    def __init__(self, fields: Fields, folder: Path):
        super().__init__(fields)
        self.folder = Path(folder)
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = _File(self.folder)

    def _hold(self, episode: Mapping[str, np.ndarray]) -> tuple[_File, dict[str, int]]:
        with self._explained():
            if self._file.size >= FILE_SIZE or not self._episodes:
                self._file = _File(self.folder)
            return self._file, {key: self._file.append(episode[key]) for key in self.fields}

    def _read(self, held: Any, key: str, first: int, target: np.ndarray) -> None:
        file, starts = held
        with self._explained():
            file.read(starts[key] + first * target[:1].nbytes, target)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--cache_dir {self.folder} cannot hold the replay ({error.strerror or error}): "
                "give another folder, on a disk with room, or --replay_storage memory"
            ) from error


class _File:
    """A file without a name, which arrays are appended to. It is closed when nobody refers to it.

    Attributes:
        size: bytes of the arrays so far.
    """

    def __init__(self, folder: Path):
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, file.close)
        self._descriptor, self.size = file.fileno(), 0

    def append(self, array: np.ndarray) -> int:
        """Write an array behind the others; returns where it begins."""
        bytes_of: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start, left = self.size, memoryview(bytes_of)
        while left:  # a disk that is about to be full takes a part first
            written = os.pwrite(self._descriptor, left, self.size)
            left, self.size = left[written:], self.size + written
        return start

    def read(self, start: int, target: np.ndarray) -> None:
        """Fill a contiguous array with what begins there."""
        into: Any = target
        if os.preadv(self._descriptor, [into], start) != target.nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _mapped(array: np.ndarray) -> np.ndarray:
    """A copy in pages of its own, which go back to the system with it. A heap's need not."""
    if not array.size:
        return array.copy()
    pages = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy = np.frombuffer(pages, array.dtype).reshape(array.shape)
    copy[:] = array
    return copy
