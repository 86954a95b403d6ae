"""Arrays out of .npz archives, whoever wrote them: bounded, and nothing in them is executed.

What an archive claims to hold is compared with what it can hold before anything is decoded.
"""

from __future__ import annotations

import errno
import lzma
import math
import re
import struct
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
UNREADABLE += (OverflowError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error)
UNREADABLE += (lzma.LZMAError, struct.error)

# The system's errors that say nothing about a file: it may be read well the next time.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.ESTALE)
PASSING += (errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR)

LONGEST_HEADER = 4096
# A key and its value in the header of an array; structured dtypes are no episode's.
_PAIR = re.compile(r"\s*'(\w{1,20})'\s*:\s*('[^']{1,20}'|True|False|\([\d, ]{0,500}\))\s*,?")
_HEADER = re.compile(r"\s*\{(?:" + _PAIR.pattern + r"){3}\s*\}\s*")


def read(path: Path, keys: Iterable[str], largest: int = LARGEST) -> dict[str, np.ndarray]:
    """The arrays of an archive that have these names; others stay undecoded.

    Args:
        path: the archive.
        keys: the names.
        largest: bytes that the arrays may have once they are decoded.

    Raises:
        ValueError: the file is no such archive; the message is the reason in one line, without the
            path.
        OSError, MemoryError: the machine failed (`PASSING`), which says nothing about the file.
    """
    try:
        with _opened(path) as archive:
            members = {key: archive.NameToInfo.get(f"{key}.npy") for key in keys}
            members = {key: member for key, member in members.items() if member is not None}
            total = sum(member.file_size for member in members.values())
            if total > largest:
                most = f"{largest / 1e9:.1f} at most are read"
                raise ValueError(f"its arrays have {total / 1e9:.1f} GB, and {most}")
            return {key: _array(archive, key, member) for key, member in members.items()}
    except UNREADABLE as error:
        raise _judged(error) from error


def length(path: Path, key: str) -> int:
    """The first number in the shape of an array, of which only the header is read.

    Raises:
        ValueError: as :func:`read`.
    """
    try:
        with _opened(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            with archive.open(member) as file:
                shape, _, _ = _header(file, key, member)
            return shape[0] if shape else 0
    except UNREADABLE as error:
        raise _judged(error) from error


def _judged(error: Exception) -> Exception:
    """What to raise: it is the file's fault, unless the machine failed to read it."""
    machine = isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING
    return error if machine else ValueError(reason(error))


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
    with archive.open(member) as file:
        shape, dtype, order = _header(file, key, member)
        content = bytearray(file.read())  # to the end, where its checksum is compared
    return np.ndarray(shape, dtype, content, order=order)


def _header(
    file: BinaryIO, key: str, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype, str]:
    """The shape, dtype and order of an array.

    Raises:
        ValueError: it would have other bytes than there are, or hold objects.
    """
    shape, dtype, order = _parse(file)
    there = member.file_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects, which are not read")
    if there > LARGEST or len(shape) > 32 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{key} has {there} bytes, which is not {dtype} {list(shape)}")
    return shape, dtype, order


def _parse(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, str]:
    """What the header of an .npy file says (its format: numpy.lib.format's documentation).

    NumPy has Python's own parser read it, which fails by chance where several threads parse at
    once (CPython 3.11), and a healthy episode would seem damaged.
    """
    start = file.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX:
        raise ValueError("its magic string is not NumPy's")
    size = struct.calcsize("<H" if start[6:7] == b"\x01" else "<I")
    [length] = struct.unpack("<H" if size == 2 else "<I", file.read(size))
    header = file.read(length).decode("latin1") if length <= LONGEST_HEADER else ""
    said = dict(_PAIR.findall(header))
    if not _HEADER.fullmatch(header) or said.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"its header is not that of an array: {header[:60]!r}")
    shape = tuple(int(number) for number in re.findall(r"\d+", said["shape"]))
    return shape, np.dtype(said["descr"].strip("'")), "FC"[said["fortran_order"] == "False"]
