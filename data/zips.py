"""Zip archives of episodes: their members, read in bounded pieces.

What a directory of contents claims is compared with what the file can hold before anything is
decoded.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.errors import damage
from fileio import npz
from tools import UserError

CHUNK = 1 << 20
LARGEST_DIRECTORY = 1 << 24  # bytes: it is read in one piece, and every entry takes memory
BEGINNINGS = (b"PK\3\4", b"PK\5\6")  # with members, and empty
# Other methods are decoded in pieces of any size.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Member(NamedTuple):
    """A member of an archive: its path there, whether it is a file and not a link, its bytes."""

    name: str
    is_file: bool
    is_folder: bool
    size: int


class Bounded(io.BufferedReader):
    """A file that is not read in pieces larger than any that a zip archive needs."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes")
        return super().read(size)


class Zip:
    """A zip archive.

    Args:
        archive: the file, for messages.
        raw: its content.

    Raises:
        UserError: here and in the methods: it is damaged, or claims what cannot be.
    """

    def __init__(self, archive: Path, raw: Bounded):
        self._archive = archive
        with damage(archive):
            self._zip = zipfile.ZipFile(raw)
            self._infos = self._zip.infolist()
            packed = sum(info.compress_size for info in self._infos)
            if packed > raw.seek(0, os.SEEK_END):
                raise zipfile.BadZipFile("its members overlap")
        self._current: zipfile.ZipInfo | None = None

    @property
    def claimed(self) -> int:
        """The bytes of all episodes, as the archive says."""
        return sum(i.file_size for i in self._infos if i.filename.endswith(".npz"))

    def members(self) -> Iterator[Member]:
        """Every member, in the archive's order; `copy` writes the content of the last one."""
        for info in self._infos:
            self._current = info
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_folder = info.filename.endswith("/")
            is_file = kind in (0, stat.S_IFREG) and not is_folder
            yield Member(info.filename, is_file, is_folder, info.file_size)

    def copy(self, size: int, file: BinaryIO) -> None:
        """Writes a member into a file, and onto the disk."""
        info = self._current
        assert info is not None
        if info.flag_bits & 1 or info.compress_type not in METHODS or size > npz.LARGEST:
            reason = "is larger than an episode" if size > npz.LARGEST else "is encrypted"
            reason = reason if info.compress_type in METHODS else "is packed by an uncommon method"
            raise UserError(
                f"{self._archive} is refused: its member {info.filename!r} {reason}; unpack it "
                "elsewhere and give that folder"
            )
        with damage(self._archive):
            source = self._zip.open(info)
        with source:
            while True:
                with damage(self._archive):  # of its checksum, too
                    chunk = source.read(CHUNK)
                    if not chunk and size:
                        raise EOFError("unexpected end of data")
                if not chunk:
                    break
                file.write(chunk)
                size -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
