"""Archives of episodes: the .npz files of a .tar.xz, .tar.gz or .zip, unpacked once."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data.caching import building, read_marker, write_marker
from data.errors import damage, reading
from data.zips import BEGINNINGS, Bounded, Member, Zip
from tools import UserError

CHUNK = 1 << 20
# How each kind of archive begins, and what reads it; a tar file itself has "ustar" at 257.
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
SUFFIXES = (".tar.xz", ".tar.gz", ".tar.bz2", ".txz", ".tgz", ".tbz2", ".tar", ".zip", ".xz", ".gz")
LARGEST_HEADER = 1 << 24  # bytes: a header is read in one piece, whatever size it claims
LONGEST_NAME = 255  # bytes

Progress = Callable[[str, int, int], None]


class _Raw(io.FileIO):
    """An archive's own bytes: what the system fails to read says nothing about them.

    Decompressors take an OSError for damage.
    """

    def readinto(self, buffer: Any) -> int | None:
        with reading(Path(self.name)):
            return super().readinto(buffer)


class _Tape:
    """What is in an archive: read on and on in bounded pieces, and the last piece remembered.

    Headers that lie would have tarfile go round for ever, or take all memory.
    """

    claimed = 0  # bytes in all, which no header says

    def __init__(self, archive: Path, raw: io.BufferedReader):
        self._archive, self._last = archive, b""
        start = raw.peek(6)
        found = [opened for magic, opened in COMPRESSIONS.items() if start.startswith(magic)]
        self._stream = found[0](raw) if found else raw
        self.tell = self._stream.tell  # tarfile asks

    def read(self, size: int) -> bytes:
        with damage(self._archive):
            if not 0 <= size <= LARGEST_HEADER:
                raise tarfile.ReadError(f"a header of {size} bytes")
            self._last = self._stream.read(size)
        return self._last

    def seek(self, position: int) -> None:
        with damage(self._archive):
            if position < self.tell():
                raise tarfile.ReadError("a member of a negative size")
            self._stream.seek(position)

    def members(self) -> Iterator[Member]:
        """Every member, in the archive's order; what comes next on the tape is its content.

        Raises:
            UserError: the archive is damaged.
        """
        with damage(self._archive):
            tar = tarfile.TarFile(fileobj=self)  # looks for the first member already
        member = tar.firstmember
        while member is not None:
            with damage(self._archive):
                member = tar.next()
                tar.members = []  # or the list of them grows with the archive
                if member is not None and member.size < 0:
                    raise tarfile.ReadError("a member of a negative size")
            if member is not None:
                if member.issparse():
                    raise UserError(
                        f"{self._archive} is refused: its member {member.name!r} is a sparse "
                        "file; unpack it elsewhere and give that folder"
                    )
                yield Member(member.name, member.isreg(), member.isdir(), member.size)
        with damage(self._archive):
            # tarfile ends quietly at the end of the file, and at headers that it does not know.
            if self._last != bytes(tarfile.BLOCKSIZE):
                raise EOFError("no mark of its end")
        self.read(CHUNK)  # behind that mark a compressed stream says that it is whole

    def copy(self, size: int, file: BinaryIO) -> None:
        """Writes the next so many bytes into a file, and onto the disk."""
        while size:
            chunk = self.read(min(size, CHUNK))
            with damage(self._archive):
                if not chunk:
                    raise EOFError("unexpected end of data")
            file.write(chunk)
            size -= len(chunk)
        file.flush()
        os.fsync(file.fileno())


def is_archive(path: Path) -> bool:
    """Whether a file begins as a tar archive does, compressed or not, or as a zip archive."""
    with path.open("rb") as file:
        start = file.read(262)
    return start.startswith((*COMPRESSIONS, *BEGINNINGS)) or start[257:262] == b"ustar"


def stem(path: Path) -> str:
    """The archive's name without its suffixes."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name


def unpack(
    archive: Path,
    target: Path,
    identity: dict[str, Any] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """Unpacks the .npz files of an archive into one flat folder; reuses a folder made before.

    Only regular files are unpacked, as ``<name>.npz``, or ``<folder>__<name>.npz`` where they lie
    in several folders. Links, devices and paths that lead outside are left out.

    Args:
        archive: the file.
        target: the folder to make. Where that name is taken by something else, by an older state
            of the archive for example, it becomes ``<name>-2`` and so on: nothing is replaced.
        identity: what tells this state of the archive; by default its size and time.
        progress: called with what is being done, bytes read, and bytes in all.

    Returns:
        The folder, and its marker: ``episodes`` and ``ignored`` count files.

    Raises:
        UserError: the archive is damaged, has no episode, or does not fit on the disk.
        Unreadable: the machine failed to read it.
        OSError: the folder cannot be written.
    """
    identity = identity or _identity(archive)
    number, folder = 1, target
    while folder.exists() or folder.is_symlink():
        found = read_marker(folder)
        if found is not None and found.get("identity") == identity:
            return folder, found
        number += 1
        folder = target.with_name(f"{target.name}-{number}")
    with building(folder) as partial:
        if partial is not None:
            marker = {"identity": identity} | _extract(archive, partial, progress)
            write_marker(partial, marker)
    if partial is None:  # another process has just made it
        return unpack(archive, target, identity, progress)
    return folder, marker


def _identity(archive: Path) -> dict[str, Any]:
    with reading(archive):
        found = archive.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _extract(archive: Path, folder: Path, progress: Progress) -> dict[str, Any]:
    """Writes the episodes into a flat folder; counts them and the other files."""
    files: dict[str, Path] = {}
    ignored = 0
    with reading(archive):
        total, raw = archive.stat().st_size, Bounded(_Raw(archive))
    with raw:
        is_zip = raw.peek(4).startswith(BEGINNINGS)
        source = Zip(archive, raw) if is_zip else _Tape(archive, raw)
        _check_space(archive, folder, source.claimed)
        for member in source.members():
            if name := _episode_name(member):  # of equal names the last one counts
                path = files.setdefault(name, folder / f".{len(files)}")
                _check_space(archive, folder, member.size)
                with path.open("wb") as file:
                    source.copy(member.size, file)
            elif not member.is_folder:
                ignored += 1
            progress("unpacking", raw.tell(), total)
    if not files:
        raise UserError(f"{archive} has no .npz episode in it ({ignored} other files)")
    for name, flat in _flat_names(archive, list(files)).items():
        files[name].rename(folder / flat)
    return {"archive": archive.name, "episodes": len(files), "ignored": ignored}


def _episode_name(member: Member) -> str | None:
    """The path of an episode in the archive; None for what is left out."""
    name = posixpath.normpath(member.name)
    outside = name.startswith(("/", "../")) or "\0" in name
    hidden = posixpath.basename(name).startswith(".")  # such as macOS puts beside each file
    return name if member.is_file and name.endswith(".npz") and not outside | hidden else None


def _flat_names(archive: Path, names: list[str]) -> dict[str, str]:
    """A file name for each path: its last part where these differ, else all parts below the top."""
    flat = {name: posixpath.basename(name) for name in names}
    if len(set(flat.values())) < len(names):
        top = posixpath.commonpath([posixpath.dirname(name) for name in names])
        flat = {name: posixpath.relpath(name, top or ".").replace("/", "__") for name in names}
        if len(set(flat.values())) < len(names):
            raise UserError(f"{archive}: two of its episodes have one name; give the folders apart")
    return {name: _shortened(given) for name, given in flat.items()}


def _shortened(name: str) -> str:
    """A name that a file can have, the same for the same one."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME:
        return name
    return f"{hashlib.sha256(encoded).hexdigest()[:32]}.npz"


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive} does not fit into {folder.parent}, which has {free / 1e9:,.1f} GB left: "
            "make room, or unpack it elsewhere and give that folder"
        )
