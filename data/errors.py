"""What the machine fails to read now, which says nothing about a file, and what damage is."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import UserError, reason_of

# Whatever reading raises on an archive that is cut short or damaged.
DAMAGED = (tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)
DAMAGED += (LookupError, OverflowError, RuntimeError, MemoryError, zipfile.BadZipFile)


class Unreadable(Exception):
    """A file that cannot be read now, whatever is in it. Its text is one line with the mend."""

    def __init__(self, path: Path, error: Exception):
        reason = getattr(error, "strerror", None) or reason_of(error)
        super().__init__(
            f"{path} cannot be read ({reason}): mend that, or leave it out, then the same command "
            "goes on"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system fails to do inside is not the fault of the file that is read.

    Raises:
        Unreadable: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise Unreadable(error.filename or path, error) from error


def readable(name: str) -> str:
    """A file's name as a text that can be written anywhere; names on disk are any bytes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def shortened(name: str, most: int) -> str:
    """The beginning of a name, of so many bytes at most, in whole characters."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


@contextmanager
def damage(archive: Path) -> Iterator[None]:
    """What reading raises inside is the archive's fault.

    Raises:
        UserError: in its place.
    """
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"{archive} is damaged or cut short ({reason_of(error)}): fetch it again, or give the "
            "unpacked folder"
        ) from error
