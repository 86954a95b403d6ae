"""Arrays out of .npz archives, whoever wrote them: bounded, and nothing in them is executed.

What an archive claims to hold is compared with what it can hold before anything is decoded.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

LARGEST = 4 << 30  # bytes that an archive's arrays may have once they are decoded
LONGEST = 200  # characters of a reason

# Whatever reading raises on a file that is cut short, damaged, or not what it says.
UNREADABLE = (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError)
UNREADABLE += (OverflowError, TypeError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error)
UNREADABLE += (lzma.LZMAError, struct.error, tokenize.TokenError)


def read(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of an archive that have these names; others stay undecoded.

    Raises:
        ValueError: the file is no such archive; the message is the reason in one line, without the
            path.
    """
    try:
        with _opened(path) as archive:
            members = {key: archive.NameToInfo.get(f"{key}.npy") for key in keys}
            members = {key: member for key, member in members.items() if member is not None}
            total = sum(member.file_size for member in members.values())
            if total > LARGEST:
                raise ValueError(f"its arrays have {total / 1e9:.1f} GB, and 4 at most are read")
            return {key: _array(archive, key, member) for key, member in members.items()}
    except UNREADABLE as error:
        raise ValueError(reason(error)) from error


def length(path: Path, key: str) -> int:
    """The first number in the shape of an array, of which only the header is read.

    Raises:
        ValueError: as :func:`read`.
    """
    try:
        with _opened(path) as archive:
            shape, _ = _header(archive, key, archive.getinfo(f"{key}.npy"))
            return shape[0] if shape else 0
    except UNREADABLE as error:
        raise ValueError(reason(error)) from error


def reason(error: Exception) -> str:
    """What went wrong, in one line that is not too long."""
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text[:LONGEST] + "…" if len(text) > LONGEST else text


def _opened(path: Path) -> zipfile.ZipFile:
    if path.exists() and not path.is_file():  # to open a pipe is to wait for its other end
        raise ValueError("no file")
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise ValueError("one bare array, not an .npz archive")
    return zipfile.ZipFile(path)


def _array(archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo) -> np.ndarray:
    _header(archive, key, member)
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # to the end, where its checksum is compared
            raise ValueError(f"{key} goes on behind its end")
    return array


def _header(
    archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of an array.

    Raises:
        ValueError: it would have other bytes than there are, or hold objects.
    """
    with archive.open(member) as file:
        shape, dtype = _parse(file)
        there = member.file_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects, and allow_pickle is off")
    if there > LARGEST or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{key} has {there} bytes, which is not {dtype} {list(shape)}")
    return shape, dtype


def _parse(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version > (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
