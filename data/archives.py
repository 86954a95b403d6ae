"""Archives of episodes: a .tar.xz or .tar.gz is looked through, then unpacked once."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from data.caching import building, read_marker, write_marker
from data.errors import reading
from tools import UserError

CHUNK = 1 << 20
# How each kind of archive begins; a tar file itself has "ustar" at 257.
MAGIC = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh")
SUFFIXES = (".tar.xz", ".tar.gz", ".tar.bz2", ".txz", ".tgz", ".tbz2", ".tar", ".xz", ".gz")
# Whatever reading raises on an archive that is cut short or damaged.
DAMAGED = (tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)
DAMAGED += (LookupError, OverflowError, RecursionError, MemoryError)
LARGEST_HEADER = 1 << 24  # bytes: a header is read in one piece, whatever size it claims
LONGEST_NAME = 255  # bytes

Progress = Callable[[str, int, int], None]


class _Raw(io.FileIO):
    """An archive's own bytes: what the system fails to read says nothing about them.

    tarfile and gzip take an OSError for damage.
    """

    def readinto(self, buffer: Any) -> int | None:
        with reading(Path(self.name)):
            return super().readinto(buffer)


class _Forward:
    """A stream that is read on and on: whoever goes back may go round for ever."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.tell, self.close = stream.tell, stream.close

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position < self._stream.tell():
            raise tarfile.ReadError("a member of a negative size")
        return self._stream.seek(position)


class _Tar(tarfile.TarFile):
    """Reads what is unpacked as far as it is asked for, and only forward."""

    def __init__(self, name: str | None, mode: str, fileobj: Any, **options: Any):
        super().__init__(name, mode, _Forward(fileobj), **options)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a tar archive does, compressed or not."""
    with path.open("rb") as file:
        start = file.read(262)
    return start.startswith(MAGIC) or start[257:262] == b"ustar"


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

    The whole archive is looked through before anything is written. Only regular .npz files are
    unpacked, as ``<name>.npz``, or ``<folder>__<name>.npz`` where they lie in several folders.

    Args:
        archive: the file.
        target: the folder to make. Where that name is taken by something else, by an older state
            of the archive for example, it becomes ``<name>-2`` and so on: nothing is replaced.
        identity: what tells this state of the archive; by default its size and time.
        progress: called with what is being done, bytes read, and bytes in all.

    Returns:
        The folder, and its marker: ``episodes`` and ``ignored`` count files.

    Raises:
        UserError: the archive is damaged, unsafe, has no episode, or does not fit on the disk.
        Unreadable: the machine failed to read it.
        OSError: the folder cannot be written.
    """
    identity = identity or _identity(archive)
    number, folder = 1, target
    while True:
        found = read_marker(folder)
        if found is not None and found.get("identity") == identity:
            return folder, found
        if not folder.exists() and not folder.is_symlink():
            break
        number += 1
        folder = target.with_name(f"{target.name}-{number}")
    plan, marker = _plan(archive, progress)
    marker |= {"identity": identity}
    _check_space(archive, folder.parent, sum(size for _, size in plan.values()))
    with building(folder) as partial:
        if partial is not None:
            _extract(archive, plan, partial, progress)
            write_marker(partial, marker)
    if partial is None:  # another process has just made it
        return unpack(archive, target, identity, progress)
    return folder, marker


def _identity(archive: Path) -> dict[str, Any]:
    with reading(archive):
        found = archive.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _members(
    archive: Path, what: str, progress: Progress
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member, in the archive's order.

    Raises:
        UserError: the archive is damaged.
        Unreadable: the machine failed to read it.
    """
    with reading(archive):
        total, file = archive.stat().st_size, _Raw(archive)
    with io.BufferedReader(file) as raw:
        try:
            with _Tar.open(fileobj=raw, mode="r:*") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # or the list of them grows with the archive
                    yield tar, member
                    progress(what, raw.tell(), total)
                # tarfile takes the end of the file for the end of the archive, which is a block.
                if tar.fileobj.tell() != tar.offset + tarfile.BLOCKSIZE:
                    raise EOFError("no mark of its end")
                # Behind that block a compressed stream says that it is whole.
                tar.fileobj.read(CHUNK)
        except DAMAGED as error:
            raise damaged(archive, error) from error


def damaged(archive: Path, error: BaseException) -> UserError:
    """The refusal of an archive that cannot be read to its end."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if reason.startswith("file could not be opened successfully"):  # a line for each compression
        reason = "no tar archive in it"
    return UserError(
        f"{archive} is damaged or cut short ({reason}): fetch it again, or give the unpacked folder"
    )


def _plan(archive: Path, progress: Progress) -> tuple[dict[int, tuple[str, int]], dict[str, Any]]:
    """Where in the archive the episodes are: offset → (name, bytes), and how many files there are.

    Raises:
        UserError: a member is unsafe, or there is no episode.
    """
    files: dict[str, tuple[int, int]] = {}
    ignored = 0
    for _, member in _members(archive, "checking", progress):
        _check_member(archive, member)
        name = posixpath.normpath(member.name)
        hidden = posixpath.basename(name).startswith(".")  # such as macOS puts beside each file
        if member.isreg() and name.endswith(".npz") and not hidden:
            files[name] = member.offset_data, member.size  # of equal names the last one counts
        elif not member.isdir():
            ignored += 1
    if not files:
        raise UserError(f"{archive} has no .npz episode in it ({ignored} other files)")
    plan: dict[int, tuple[str, int]] = {}
    for name, flat in _flat_names(archive, list(files)).items():
        offset, size = files[name]
        plan[offset] = flat, size
    return plan, {"archive": archive.name, "episodes": len(plan), "ignored": ignored}


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    """Refuses what points outside of the folder, and what is neither file, folder nor link."""
    if "\0" in member.name + member.linkname:
        raise damaged(archive, ValueError(f"a name with a zero in it: {member.name!r}"))
    if member.issparse():
        raise UserError(
            f"{archive} is refused: its member {member.name!r} is a sparse file; unpack it "
            "elsewhere and give that folder"
        )
    inside = _inside(member.name)
    if inside and (member.issym() or member.islnk()):
        # A hard link names a member; a symbolic link goes from where it lies.
        base = posixpath.dirname(member.name) if member.issym() else ""
        whole = posixpath.normpath(posixpath.join(base, member.linkname))
        inside = not posixpath.isabs(member.linkname) and not whole.startswith("..")
    if inside and not member.isdev() and hasattr(tarfile, "data_filter"):
        try:
            # Python's own judgement as well; the folder is never made.
            tarfile.data_filter(member, str(archive.parent.absolute() / "any-folder"))
        except tarfile.FilterError:
            inside = False
    if not inside:
        raise UserError(
            f"{archive} is refused: its member {member.name!r} points outside of the folder; "
            "nothing was unpacked"
        )
    if member.isdev():
        raise UserError(
            f"{archive} is refused: its member {member.name!r} is a device; nothing was unpacked"
        )


def _inside(name: str) -> bool:
    return not name.startswith(("/", "\\")) and ".." not in PurePosixPath(name).parts


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
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{archive} holds {needed / 1e9:,.1f} GB of episodes, but {existing} has "
            f"{free / 1e9:,.1f} GB left: make room, or unpack it elsewhere and give that folder"
        )


def _extract(
    archive: Path, plan: dict[int, tuple[str, int]], folder: Path, progress: Progress
) -> None:
    """Writes the planned files into a flat folder; an archive's own paths are not used."""
    left = dict(plan)
    for tar, member in _members(archive, "unpacking", progress):
        name, size = left.pop(member.offset_data, ("", 0))
        if not name:
            continue
        if member.size != size or not member.isreg():
            break
        with tar.extractfile(member) as source, (folder / name).open("xb") as file:
            _copy(archive, source, file, size)
    if left:
        raise UserError(f"{archive} changed while it was read: start again once it stays as it is")


def _copy(archive: Path, source: Any, file: BinaryIO, size: int) -> None:
    while size:
        try:
            chunk = source.read(min(size, CHUNK))
            if not chunk:
                raise EOFError("unexpected end of data")
        except DAMAGED as error:
            raise damaged(archive, error) from error
        file.write(chunk)
        size -= len(chunk)
    file.flush()
    os.fsync(file.fileno())
