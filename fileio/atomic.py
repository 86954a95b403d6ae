"""Files that are whole or not there: atomic writes, moves to another folder, leftovers of kills."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"  # how the name of a file ends that is being written

# It can only be read by setting it, which is for the whole process: once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, new: bool = False) -> Iterator[BinaryIO]:
    """Yields a binary file that takes its place at ``path`` whole, or not at all.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and are renamed
    over ``path``. After an exception the temporary file is gone and ``path`` is as it was.

    Args:
        path: where the file is to be.
        new: there must be none yet.

    Raises:
        FileExistsError: ``path`` was to be a ``new`` file, and there is one.
        OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    with naming(path):
        yield from _written(path, new)


def _written(path: Path, new: bool) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY
    )
    try:
        # mkstemp makes private files; what is written here is as readable as any other file.
        os.fchmod(descriptor, 0o666 & ~_UMASK)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        (_take if new else os.replace)(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def atomic_symlink(path: Path, target: str) -> None:
    """Makes a relative symbolic link, in the place of what is there; nothing without such links.

    Raises:
        OSError: it cannot be made.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    with naming(path):
        try:
            os.symlink(target, temporary)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP):  # has no such call
                return
            raise
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder reach the disk: a renaming is durable only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such call
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside names the file that it is about; writing alone would not."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and not str(error.filename).endswith(TEMPORARY)
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def leftovers(folder: Path) -> list[Path]:
    """The temporary files that processes killed in :func:`atomic_write` left below a folder."""
    ours = re.compile(r"\..+\.\w{8}" + re.escape(TEMPORARY))
    return sorted(path for path in folder.rglob(f".*{TEMPORARY}") if ours.fullmatch(path.name))


def move_aside(path: Path, folder: Path) -> Path:
    """Moves a file into a folder, under a number where its name is taken; returns where to."""
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with path.open("rb") as source, atomic_write(target, new=True) as file:  # another disk
            shutil.copyfileobj(source, file)
        path.unlink()
    return target


def quarantine(path: Path, folder: Path, reason: str) -> Path:
    """Moves a damaged file into a folder, with a text beside it that says why."""
    target = move_aside(path, folder)
    with atomic_write(target.with_name(f"{target.name}.txt")) as file:
        file.write(f"{reason}\n".encode())
    return target


def _take(temporary: str, path: Path) -> None:
    """Gives a file a name that no other file has; one process of several gets it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)
