"""Where the rows of a replay lie: in memory or in a mapped file, used as a ring of episodes.

On a device they lie in `device_store.py`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay.episodes import describe
from replay.sampler import Piece, resets
from tools import UserError

WRITTEN_AT_ONCE = 8 << 20  # bytes copied on their way into a file
READ_AHEAD = 128 << 10  # bytes of one request: the kernel silently cuts longer ones

Fields = Mapping[str, tuple[tuple[int, ...], type]]  # name → shape of a row, dtype


def make_store(fields: Fields, capacity: int, folder: Path | None) -> RowStore:
    """A store for `capacity` rows (0: as many as come), in memory or in a file in `folder`.

    Raises:
        UserError: no file can be made there.
    """
    # Room beyond the capacity for the row gap that a ring leaves where it wraps.
    rows = capacity + capacity // 8 if capacity else 1024
    return RowStore(fields, rows) if folder is None else DiskRowStore(fields, rows, folder)


def buffers(
    fields: Fields,
    size: int,
    length: int,
    out: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """New arrays [B, T, …] for a batch of these fields and ``is_first``, or `out` where it fits.

    Raises:
        ValueError: an array in `out` is missing, or of another shape or dtype.
    """
    shapes = {key: ((size, length, *shape), dtype) for key, (shape, dtype) in fields.items()}
    shapes["is_first"] = (size, length), np.bool_
    if out is None:
        return {key: np.empty(shape, dtype) for key, (shape, dtype) in shapes.items()}
    for key, (shape, dtype) in shapes.items():
        if key not in out or out[key].shape != shape or out[key].dtype != dtype:
            found = describe(out[key]) if key in out else "absent"
            raise ValueError(f"out[{key!r}] is {found}, expected {np.dtype(dtype)} {shape}")
    return {key: out[key] for key in shapes}


class Ring:
    """A queue of whole episodes laid out as a ring of rows: where each lies, and who makes room.

    What the rows lie in is a subclass's: it makes the arrays (`_empty`, or `_allocate`) and reads
    a batch from them (`batch`).

    Args:
        fields: name → (shape of a row, dtype).
        rows: rows to allocate at once. It grows by `GROWTH` when an episode finds no room.

    Raises:
        UserError: here and in `push`: there is no memory for so many rows.
    """

    GROWTH = 2.0
    on_device = False  # whether batches are tensors on a device instead of arrays

    def __init__(self, fields: Fields, rows: int = 1024):
        self._fields = dict(fields)
        self._arrays = self._allocate(rows)
        self._spans: deque[tuple[int, int]] = deque()  # (first row, rows), oldest episode first

    def push(self, episode: Mapping[str, np.ndarray]) -> None:
        """Copy an episode in as the newest."""
        rows = len(episode["image"])
        start = self._room(rows)
        if start is None:
            start = self._grow(rows)
        self._write(start, episode)
        self._spans.append((start, rows))

    def pop(self) -> None:
        """Give up the rows of the oldest episode."""
        self._spans.popleft()

    def clear(self) -> None:
        """Give up all rows and keep the allocation."""
        self._spans.clear()

    def batch(
        self,
        pieces: Sequence[Piece],
        size: int,
        length: int,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """The batch that pieces make up: [B, T, …] of each field, and ``is_first`` [B, T].

        Args:
            pieces: fill it.
            size: B.
            length: T.
            out: arrays to fill instead of new ones.

        Raises:
            ValueError: arrays in `out` that do not fit.
        """
        raise NotImplementedError

    def _allocate(self, rows: int) -> dict[str, Any]:
        return {key: self._empty(rows, key) for key in self._fields}

    def _empty(self, rows: int, key: str) -> Any:
        raise NotImplementedError

    def _write(self, start: int, episode: Mapping[str, np.ndarray]) -> None:
        for key, array in self._arrays.items():
            array[start : start + len(episode["image"])] = episode[key]

    def _room(self, rows: int) -> int | None:
        """The start of `rows` free rows in one piece, or None."""
        size = len(self._arrays["image"])
        if not self._spans:
            return 0 if rows <= size else None
        head, tail = self._spans[0][0], sum(self._spans[-1])
        if tail <= head:  # wrapped: free rows lie between the newest and the oldest
            return tail if head - tail >= rows else None
        if size - tail >= rows:
            return tail
        return 0 if head >= rows else None

    def _grow(self, rows: int) -> int:
        """Move everything to larger arrays, in order, and return the first free row."""
        used = sum(count for _, count in self._spans)
        size = max(int(self.GROWTH * len(self._arrays["image"])), used + rows)
        for key in self._fields:  # one by one: the old one is freed first
            new, tail = self._empty(size, key), 0
            for start, count in self._spans:
                new[tail : tail + count] = self._arrays[key][start : start + count]
                tail += count
            self._arrays[key] = new
        starts = np.cumsum([0, *(count for _, count in self._spans)]).tolist()
        counts = [count for _, count in self._spans]
        self._spans = deque(zip(starts[:-1], counts, strict=True))
        return used


class RowStore(Ring):
    """Rows in memory, in NumPy arrays. The arguments are `Ring`'s."""

    def batch(
        self,
        pieces: Sequence[Piece],
        size: int,
        length: int,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        batch = buffers(self._fields, size, length, out)
        self.gather(pieces, batch)
        batch["is_first"][:] = resets(pieces, size, length)
        return batch

    def gather(self, pieces: Sequence[Piece], out: Mapping[str, np.ndarray]) -> None:
        """Copy slices of episodes into arrays [B, T, …]."""
        spans = list(self._spans)
        for key, array in self._arrays.items():
            target = out[key]
            for episode, first, rows, b, t in pieces:
                start = spans[episode][0] + first
                target[b, t : t + rows] = array[start : start + rows]

    def _empty(self, rows: int, key: str) -> np.ndarray:
        # A mapping only reserves addresses: memory is committed as rows are written, and goes back
        # to the system with the array, which the C library's heap need not do.
        shape, dtype = self._fields[key]
        size = rows * math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.empty((rows, *shape), dtype)
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return np.frombuffer(memory, dtype).reshape(rows, *shape)
        except (MemoryError, OSError, OverflowError) as error:
            raise UserError(
                f"the replay does not fit into memory ({size / 2**30:.1f} GiB of {key}s): give "
                "--replay_storage disk, or --dataset_size to keep fewer steps"
            ) from error


class DiskRowStore(RowStore):
    """The same ring in one file, for more rows than memory holds.

    Rows are written to the file and read through a mapping of it. A row is a record of all fields,
    so that a window of an episode is one stretch of the file. What the process keeps resident is
    one batch: the pages that a batch was read from are let go, and the kernel's page cache keeps
    them as long as memory lasts.

    Rows are not written through the mapping: a full disk then is an error that names itself, and
    not a SIGBUS; and the file takes room only for rows that were written.

    The file has no name: it takes disk space (`df` shows it, `ls` does not) until the store is
    dropped or the process ends, however it ends.

    Args:
        fields: name → (shape of a row, dtype).
        rows: rows to map at once. It doubles when an episode finds no room.
        folder: where the file lies; made if it is not there. On a tmpfs rows would be in memory.

    Raises:
        UserError: here and in `push`: the folder cannot be used, or its disk is full.
    """

    def __init__(self, fields: Fields, rows: int, folder: Path):
        self._folder = Path(folder)
        self._record = np.dtype([(key, dtype, shape) for key, (shape, dtype) in fields.items()])
        with self._explained():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        super().__init__(fields, rows)

    def gather(self, pieces: Sequence[Piece], out: Mapping[str, np.ndarray]) -> None:
        spans, size = list(self._spans), self._record.itemsize
        for episode, first, rows, *_ in pieces:  # all are on their way before the first is needed
            start = (spans[episode][0] + first) * size
            end = start + rows * size
            for at in range(start - start % mmap.PAGESIZE, end, READ_AHEAD):
                self._map.madvise(mmap.MADV_WILLNEED, at, min(READ_AHEAD, end - at))
        super().gather(pieces, out)
        self._map.madvise(mmap.MADV_DONTNEED)

    def _allocate(self, rows: int) -> dict[str, np.ndarray]:
        size = rows * self._record.itemsize
        with self._explained():
            self._file.truncate(size)  # a hole: it takes no room before rows are written
            self._map = mmap.mmap(self._file.fileno(), size, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # `gather` knows what to read ahead
        table = np.frombuffer(self._map, self._record)
        return {key: table[key] for key in self._fields}

    def _write(self, start: int, episode: Mapping[str, np.ndarray]) -> None:
        rows = len(episode["image"])
        step = max(1, WRITTEN_AT_ONCE // self._record.itemsize)
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            records = np.empty(part.stop - part.start, self._record)
            for key in self._fields:
                records[key] = episode[key][part]
            self._put(records.view(np.uint8), (start + first) * records.itemsize)

    def _put(self, data: bytes | np.ndarray, offset: int) -> None:
        left = memoryview(data)
        while left:  # a disk that is about to be full takes a part first
            with self._explained():
                written = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[written:], offset + written

    def _grow(self, rows: int) -> int:
        """Map a longer file and return the first free row; rows stay where they are.

        Only of a ring that has wrapped, the part before the oldest episode moves behind the rest.
        """
        top = max((start + count for start, count in self._spans), default=0)
        head, tail = (self._spans[0][0], sum(self._spans[-1])) if self._spans else (0, 0)
        moved = tail if tail <= head else 0
        size = len(self._arrays["image"])
        self._arrays = self._allocate(max(2 * size, top + moved + rows))
        offset, end = 0, moved * self._record.itemsize
        while offset < end:
            with self._explained():
                data = os.pread(self._file.fileno(), min(WRITTEN_AT_ONCE, end - offset), offset)
            self._put(data, top * self._record.itemsize + offset)
            offset += len(data)
        spans = ((start + top * (start < moved), count) for start, count in self._spans)
        self._spans = deque(spans)
        return top + moved

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--cache_dir {self._folder} cannot hold the replay ({error.strerror or error}): "
                "give another folder, on a disk with room, or --replay_storage memory"
            ) from error
