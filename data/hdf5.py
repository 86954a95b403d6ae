"""HDF5 files of rows one after the other, as V-D4RL's are.

A file has ``observation`` (or ``image``), uint8 [N, C, H, W] or [N, H, W, C], and where present
``action`` [N, A], ``reward``, ``discount`` and ``step_type`` [N]: 0 is the first row of an episode,
2 its last one. A row holds what came with its image, as in our own episodes. Without ``step_type``
rows are cut as those of a video are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.converting import LONGEST, Episode, Piece, batches, needed
from data.errors import reading
from data.frames import Settings
from data.scaling import fit
from media.images import Unusable
from replay.files import files_below
from tools import reason_of

MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5")
IMAGES = ("observation", "image")
OTHERS = ("action", "reward", "discount", "step_type")
ROWS = 256  # that are read at a time, where they are small
BLOCK = 1 << 26  # bytes that are read at a time
LARGEST_CHUNK = 1 << 28  # bytes: one is decoded in one piece
DENSEST = 1100  # bytes that one byte of a file can stand for, by its compression
FIRST = 0  # step_type of an episode's first row


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as an HDF5 file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def files_of(path: Path) -> list[Path]:
    """The file itself, or those in a folder and below it, by their names."""
    return files_below(path, SUFFIXES) if path.is_dir() else [path]


def pieces(path: Path, given: str, settings: Settings) -> list[Piece]:
    """The files as pieces to convert.

    Raises:
        UserError: h5py is not installed.
    """
    needed("h5py", given)
    return [Piece(p, functools.partial(read, p, settings)) for p in files_of(path)]


def read(path: Path, settings: Settings) -> Iterator[Episode]:
    """The episodes of a file, its images scaled.

    Raises:
        Unusable: it is damaged, or has other content.
        Unreadable: the machine failed to read it.
    """
    import h5py

    with reading(path):
        path.open("rb").close()
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield from _episodes(_arrays(file, path.stat().st_size), settings)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, OverflowError) as error:
        raise Unusable(f"no HDF5 file, or damaged: {reason_of(error)}") from error


def _arrays(file: Any, size: int) -> dict[str, Any]:
    """The datasets of a file that are read, the images as ``image``.

    Raises:
        Unusable: there are no images, or something else than arrays of rows.
    """
    import h5py

    found = {}
    image = next((key for key in IMAGES if key in file), None)
    if image is None:
        raise Unusable(f"it has no {' or '.join(IMAGES)}")
    for key in (image, *(key for key in OTHERS if key in file)):
        data = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
        if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
            raise Unusable(f"{key} is no array of its own")
        if data.dtype.kind not in "biuf" or data.ndim < 1:
            raise Unusable(f"{key} is {data.dtype} {list(data.shape)}, not rows of numbers")
        if data.size * data.dtype.itemsize > DENSEST * size:
            raise Unusable(f"{key} claims {data.dtype} {list(data.shape)}, more than can be there")
        parts = (data.chunks or (1,), (1, *data.shape[1:]))
        if max(np.prod(p, dtype=float) for p in parts) * data.dtype.itemsize > LARGEST_CHUNK:
            raise Unusable(f"{key} is stored in pieces that are too large")
        found["image" if key == image else key] = data
    images = found["image"]
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise Unusable(f"{image} is {images.dtype} {list(images.shape)}, not uint8 images")
    for key, data in found.items():
        flat = key in ("image", "action") or data.size == len(data)
        if len(data) != len(images) or not flat or not data.size:
            raise Unusable(f"{key} is {list(data.shape)} beside {len(images)} images")
    return found


def _episodes(arrays: dict[str, Any], settings: Settings) -> Iterator[Episode]:
    """Rows until the next first one; in pieces of the videos' length where none is marked."""
    marked = "step_type" in arrays
    most = LONGEST if marked else settings.length
    parts: list[Episode] = []
    held = 0
    widest = max(data.size // len(data) * data.dtype.itemsize for data in arrays.values())
    for rows in batches(len(arrays["image"]), max(1, min(ROWS, BLOCK // widest))):
        block = _block(arrays, rows, settings)
        first = block.pop("step_type") == FIRST if marked else np.zeros(len(block["image"]), bool)
        for t in range(len(first)):
            if held and (first[t] or (not marked and held == most)):
                yield _joined(parts)
                parts, held = [], 0
            if held == most:
                raise Unusable(f"an episode of more than {most} rows")
            parts.append({key: value[t : t + 1] for key, value in block.items()})
            held += 1
    if held:
        yield _joined(parts)


def _block(arrays: dict[str, Any], rows: slice, settings: Settings) -> Episode:
    block = {key: data[rows] for key, data in arrays.items()}
    images = block["image"]
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[3] not in (1, 3):
        raise Unusable(f"its images have {images.shape[3]} channels, not 1 or 3")
    block["image"] = fit(images, (*settings.size, 1 if settings.grayscale else 3))
    for key in block.keys() - {"image"}:
        block[key] = block[key].reshape(len(images), *([-1] if key == "action" else []))
    return block


def _joined(parts: list[Episode]) -> Episode:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
