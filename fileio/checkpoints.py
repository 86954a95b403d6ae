"""Checkpoints: everything that a run is, in one file, and the files of the ones before.

Files are written whole or not at all, and read with ``weights_only=True``: they hold tensors,
numbers, strings, lists and dicts, and nothing in them is ever executed. They are zip archives, and
a damaged one is known by their checksums.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fileio import FORMAT
from fileio.atomic import atomic_symlink, atomic_write
from tools import UserError, reason_of

NEWEST = "checkpoint.pt"  # a link to the newest checkpoint_<frames>.pt
_NUMBERED = re.compile(r"checkpoint_(\d{9,})\.pt")


class CorruptFile(UserError):
    """A file that cannot be what was written."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes nested dicts and lists of tensors, arrays, numbers, strings, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    with atomic_write(path) as file:
        try:
            torch.save(_to_tensors(state), file)
        except RuntimeError as error:
            if cause := _cause(error):
                raise cause from None
            raise


def _cause(error: BaseException) -> BaseException | None:
    """What stopped a write: PyTorch reports a full disk, and Ctrl-C, as an error of its own."""
    while (error := error.__context__) is not None:
        if isinstance(error, OSError) or not isinstance(error, Exception):
            return error
    return None


def save_newest(folder: Path, frames: int, state: Mapping[str, Any], keep: int) -> None:
    """Writes a run's newest checkpoint; of those before it, the last ``keep`` − 1 stay.

    A kill at any moment leaves the newest one, or the one before it as the newest.

    Args:
        folder: the run's.
        frames: where the run is; never less than before. One of the same frame is replaced.
        state: the checkpoint's content, to which its format is added.
        keep: how many stay, at least 1.

    Raises:
        OSError: it cannot be written; those before it are still there.
    """
    save(folder / f"checkpoint_{frames:09d}.pt", {"format": FORMAT, **state})
    link_newest(folder)
    for path in _numbered(folder)[keep:]:
        path.unlink()


def link_newest(folder: Path) -> None:
    """Makes ``checkpoint.pt`` a link to the newest checkpoint, where the file system has links."""
    if numbered := _numbered(folder):
        atomic_symlink(folder / NEWEST, numbered[0].name)


def _numbered(folder: Path) -> list[Path]:
    """The files of :func:`save_newest` in a folder, newest first."""
    found = [path for path in folder.glob("checkpoint_*.pt") if _NUMBERED.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(_NUMBERED.fullmatch(path.name)[1]), reverse=True)


def find(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, newest first; none where there is no such folder.

    ``checkpoint.pt`` is among them where it is no link but a file, as in a copy of a run.
    """
    newest = folder / NEWEST
    return [*_numbered(folder), *[newest] * (newest.exists() and not newest.is_symlink())]


def load_newest(folder: Path) -> tuple[Any, list[tuple[Path, str]]]:
    """The newest checkpoint in a run's folder that is not damaged, None without any.

    Returns:
        Its content, and (path, reason) of each newer one, which is damaged.

    Raises:
        UserError: all are damaged, or one cannot be read, or is of another format.
    """
    damaged: list[tuple[Path, str]] = []
    for path in find(folder):
        try:
            return _load_run(path), damaged
        except CorruptFile as error:
            damaged.append((path, str(error)))
        except UserError:
            if os.path.lexists(path):
                raise
            return load_newest(folder)  # its run has written newer ones meanwhile
    if damaged:
        others = [path.name for path, _ in damaged[1:]]
        more = f", as are {' and '.join(others)}" if others else ""
        raise UserError(f"{damaged[0][1]}{more}")
    return None, []


def _load_run(path: Path) -> Mapping[str, Any]:
    state = load(path)
    if not isinstance(state, Mapping):
        raise CorruptFile(f"{path} is not the checkpoint of a run")
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path} was written by another version of this code: go on, or evaluate, with that"
        )
    return state


def load(path: Path) -> Any:
    """What :func:`save` wrote, on the CPU; arrays come back as tensors.

    PyTorch lets a few functions of its own stand for values. Nothing here calls what was loaded.

    Raises:
        CorruptFile: it is damaged, or no file of PyTorch's.
        UserError: it is missing, cannot be read, or holds more than data.
    """
    whole = False
    try:
        if path.exists() and not path.is_file():  # to open a pipe is to wait for its other end
            raise UserError(f"{path} cannot be read: it is no file")
        whole = _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        if error.errno in (None, errno.EIO, errno.EINVAL):
            raise _damaged(path, error) from None
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    except MemoryError:
        raise UserError(f"{path} cannot be read: there is too little memory for it") from None
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            named = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
            kind = f" ({named[1]})" if named else ""
            raise UserError(
                f"{path} cannot be read as a checkpoint: it holds objects{kind} where only tensors "
                "are read (a whole module? save its state_dict() instead)"
            ) from None
        reason = reason_of(error)
        if "TorchScript" in reason:
            raise UserError(
                f"{path} holds a program (TorchScript), which is not run: save its state_dict()"
            ) from None
        # PyTorch's own reader of archives finds damage where there are no checksums.
        whole = whole and "PytorchStreamReader" not in reason
        if whole or "can't allocate memory" in reason:
            raise UserError(
                f"{path} is as it was written, but cannot be loaded ({reason}): there is too "
                "little memory, or another PyTorch wrote it"
            ) from None
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CorruptFile:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return CorruptFile(
        f"{path} cannot be read as a checkpoint: it is damaged, or no file of PyTorch's "
        f"({reason}): copy it again"
    )


def _check_archive(path: Path) -> bool:
    """Compares an archive's members with their checksums.

    Returns:
        False for a file that is no archive: PyTorch's older format has no checksums.

    Raises:
        CorruptFile: it is damaged; zipfile's own errors tell of damage, too.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return False
        with zipfile.ZipFile(file) as archive:
            # PyTorch stores its tensors as they are: what is larger decoded is no file of its own.
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > path.stat().st_size:
                raise CorruptFile(f"{path} claims to hold more than it has: copy it again")
            if archive.testzip() is not None:
                raise CorruptFile(
                    f"{path} is damaged: its content does not have the checksum that it was "
                    "written with: copy it again"
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
