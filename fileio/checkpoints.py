"""Checkpoints: everything that a run is, in one file, and the files of the ones before.

Files are written whole or not at all, and read with ``weights_only=True``: they hold tensors,
numbers, strings, lists and dicts, and nothing in them is ever executed. Each ends in a seal, the
SHA-256 of what is before it, by which a damaged one is known.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from fileio.atomic import atomic_write
from tools import UserError, sha256

NEWEST = "checkpoint.pt"  # and checkpoint.1.pt, checkpoint.2.pt, …, the ones before it

# PyTorch reads its files from their end on and skips what follows it.
_MARK = b"\nDisWM, sha256 "
_SEAL = re.compile(_MARK + rb"([0-9a-f]{64})\n\Z")
_SEAL_LENGTH = len(_MARK) + 64 + 1


_DATA = (torch.Tensor, str, bytes, int, float, complex, type(None), torch.dtype, torch.device)


class Damaged(UserError):
    """A file that cannot be what was written."""


class _Sealing:
    """A file to write to that knows the digest of what was written."""

    def __init__(self, file: BinaryIO):
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        count = self._file.write(data)
        self._digest.update(data)
        return count

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        self._file.write(_MARK + self._digest.hexdigest().encode() + b"\n")


def save(path: Path, state: Mapping[str, Any], keep: int | None = None) -> None:
    """Writes nested dicts and lists of tensors, arrays, numbers, strings, whole or not at all.

    Args:
        path: the file.
        state: its content.
        keep: how many of the last ones stay: `path`, and those before under `path_before`; the
            older ones are deleted. None: `path` alone is touched.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    shift = None if keep is None else functools.partial(_shift, path, keep)
    with atomic_write(path, before=shift) as file:
        sealing = _Sealing(file)
        try:
            torch.save(_to_tensors(state), sealing)
        except RuntimeError as error:
            if cause := _cause(error):
                raise cause from None
            raise
        sealing.seal()


def _cause(error: BaseException) -> BaseException | None:
    """What stopped a write: PyTorch reports a full disk, and Ctrl-C, as an error of its own."""
    while (error := error.__context__) is not None:
        if isinstance(error, OSError) or not isinstance(error, Exception):
            return error
    return None


def path_before(path: Path, age: int) -> Path:
    """Where the file is that was at `path` so many saves ago."""
    return path.with_name(f"{path.stem}.{age}{path.suffix}") if age else path


def _shift(path: Path, keep: int) -> None:
    """Makes way for a new file: each earlier one becomes one save older.

    `path` itself keeps its name until the new one takes it, so that there always is one.
    """
    more = keep
    while path_before(path, more).exists():
        more += 1
    for age in range(more - 1, keep - 1, -1):  # fewer are kept than before
        path_before(path, age).unlink()
    for age in range(keep - 1, 1, -1):
        if (earlier := path_before(path, age - 1)).exists():
            os.replace(earlier, path_before(path, age))
    if keep > 1 and path.exists():
        first = path_before(path, 1)
        try:
            copy = first.with_name(f".{first.name}.previous.tmp")
            copy.unlink(missing_ok=True)
            os.link(path, copy)
            os.replace(copy, first)
        except OSError:  # a file system without hard links
            os.replace(path, first)


def _ages(path: Path) -> list[int]:
    """How old the files before `path` are, in saves, newest first.

    A kill may have left one out. What comes after a larger gap is no work of `save`.
    """
    ages, age = [], 0
    while age - max(ages, default=0) < 2:
        age += 1
        if path_before(path, age).exists():
            ages.append(age)
    return ages


def find(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, newest first; none where there is no such folder."""
    newest = folder / NEWEST
    if not folder.is_dir():
        return []
    return [newest] * newest.exists() + [path_before(newest, age) for age in _ages(newest)]


def load_newest(folder: Path, parts: Collection[str]) -> tuple[Any, list[tuple[Path, str]]]:
    """The newest checkpoint in a run's folder that is not damaged, None without any.

    Args:
        folder: the run's.
        parts: what a checkpoint has to hold.

    Returns:
        Its content, and (path, reason) of each newer one, which is damaged.

    Raises:
        UserError: all are damaged, or one cannot be read.
    """
    damaged: list[tuple[Path, str]] = []
    for path in find(folder):
        try:
            state = load(path)
            if not isinstance(state, Mapping) or not set(parts) <= set(state):
                raise Damaged(f"{path} is not the checkpoint of such a run")
            return state, damaged
        except Damaged as error:
            damaged.append((path, str(error)))
    if damaged:
        others = [path.name for path, _ in damaged[1:]]
        more = f", as are {' and '.join(others)}" if others else ""
        raise UserError(f"{damaged[0][1]}{more}")
    return None, []


def load(path: Path) -> Any:
    """What :func:`save` wrote, on the CPU; arrays come back as tensors.

    A file without a seal is read as well: PyTorch's own, or an earlier version's.

    Raises:
        Damaged: it is damaged, or no file of PyTorch's.
        UserError: it is missing, cannot be read, or holds more than data.
    """
    sealed = False
    try:
        if path.exists() and not path.is_file():  # to open a pipe is to wait for its other end
            raise UserError(f"{path} cannot be read: it is no file")
        sealed = _check_seal(path)
        _check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        if error.errno in (None, errno.EIO):
            raise _damaged(path, error) from None
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    except MemoryError:
        raise UserError(f"{path} cannot be read: there is too little memory for it") from None
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise _holds_objects(path) from None
        if sealed or "can't allocate memory" in str(error):
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is as it was written, but cannot be loaded ({reason}): there is too "
                "little memory, or another PyTorch wrote it"
            ) from None
        raise _damaged(path, error) from None
    if not _is_data(state):
        raise _holds_objects(path)
    return state


def _holds_objects(path: Path) -> UserError:
    return UserError(
        f"{path} cannot be read as a checkpoint: it holds objects where only tensors are read (a "
        "whole module? save its state_dict() instead)"
    )


def _is_data(value: Any) -> bool:
    """Whether there is nothing but data; PyTorch also lets some functions of its own through."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue  # it may even hold itself
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif not isinstance(value, _DATA):
            return False
    return True


def _damaged(path: Path, error: Exception) -> Damaged:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return Damaged(
        f"{path} cannot be read as a checkpoint: it is damaged, or no file of PyTorch's "
        f"({reason}): copy it again"
    )


def _check_stored(path: Path) -> None:
    """Refuses what is larger once it is decoded: PyTorch stores its tensors as they are."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise Damaged(f"{path} claims to hold more than it has: copy it again")


def _check_seal(path: Path) -> bool:
    """Compares a file with the digest that it ends in, if it does; returns whether it does."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _SEAL_LENGTH))
        end = file.read()
        seal = _SEAL.search(end)
        if seal is None and _MARK in end:
            raise Damaged(f"{path} is damaged: its end is cut off")
        if seal is None:
            return False
        file.seek(0)
        digest = sha256(file, size - _SEAL_LENGTH)
    if digest.encode() != seal[1]:
        raise Damaged(
            f"{path} is damaged: its content does not have the checksum that it was written with"
        )
    return True


def misfit(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str | None:
    """The first tensor that one state dict lacks or has in another shape, in words."""
    for name in sorted(own.keys() | given.keys()):
        shapes = [tuple(there[name].shape) if name in there else None for there in (given, own)]
        if shapes[0] != shapes[1]:
            return f"tensor '{name}' has shape {shapes[0]}, not {shapes[1]}"
    return None


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def to_arrays(value: Any) -> Any:
    """Nested dicts and lists with every tensor as a NumPy array."""
    if isinstance(value, Mapping):
        return {key: to_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_arrays(item) for item in value]
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def to_device(value: Any, device: torch.device) -> Any:
    """Nested dicts with every tensor on the device."""
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def rng_state(device: torch.device) -> dict[str, Any]:
    """PyTorch's generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts PyTorch's generators where :func:`rng_state` found them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def scratch_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, PyTorch draws from the given seed; afterwards, as if nothing had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
