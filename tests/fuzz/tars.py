"""Archives of episodes, with members of every kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from data import archives
from data.caching import MARKER
from tests.fuzz.guard import Wrong
from tests.fuzz.harness import Case, Target
from tests.fuzz.mutate import changed, pick
from tests.fuzz.packed import SEEDS as EPISODES
from tests.fuzz.words import refusal
from tools import UserError

_NAMES = (
    *("a/1.npz", "a/2.npz", "b/1.npz", "1.npz", "./1.npz", "a/./1.npz", "a//1.npz", "A/1.NPZ"),
    *("../1.npz", "/tmp/1.npz", "a/../../1.npz", "..", "a/..", "/", ".", "", " .npz", ".npz"),
    *("a/.1.npz", "x" * 99 + "/" + "y" * 99 + ".npz", "z" * 300 + ".npz", "é/ü.npz", "\udcff.npz"),
    *("a\nb.npz", "a\\..\\1.npz", "a\0b.npz", "readme.txt", "a/1.npz/", "a__1.npz", ".source.json"),
    *("q/" * 300 + "1.npz", "-rf.npz", "~/1.npz", "a/b__1.npz", "a__b/1.npz"),
)
_LINKS = ("1.npz", "a/1.npz", "../1.npz", "/etc/passwd", "../../x", "a", "", ".", "a\0b", "x" * 300)
_TYPES = (
    *(tarfile.REGTYPE,) * 6,
    *(tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
    *(tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"D", b"V"),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"9"),
)
_PAX = (
    {},
    {},
    {"size": "-512"},
    {"size": "99999999999999999999"},
    {"size": "x"},
    {"path": "../../1.npz"},
    {"path": "a\0b.npz"},
    {"linkpath": "/etc/passwd"},
    {"mtime": "nan"},
    {"uid": "9" * 5000},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "../x.npz"},
    {"GNU.sparse.realsize": "99999999999999", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    {"GNU.sparse.map": "0,1,99999999999999,1", "GNU.sparse.size": "99999999999999"},
    {"GNU.sparse.map": "0,x", "GNU.sparse.size": "5"},
    {"hdrcharset": "BINARY", "path": "é.npz"},
    {"comment": "x" * 70_000},
)
_SIZES = (b"00000000000\0", b"77777777777\0", b"\x80" + bytes(10) + b"\xff", b"\xff" * 12)
_SIZES += (b"-0000001000\0", b"00000000x00\0", b"\x80" + b"\x7f" * 11, b"           \0")
_SIZES += (b"\xff" * 10 + b"\xfe\0", b"00000001000\0")
_COMPRESSIONS: tuple[Callable[[bytes], bytes], ...] = (
    *(bytes, bytes, bytes),
    *(lambda data: gzip.compress(data, 1, mtime=0), lambda data: gzip.compress(data, 1, mtime=0)),
    lambda data: lzma.compress(data, preset=0),
    lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    lambda data: bz2.compress(data, 1),
    lambda data: gzip.compress(gzip.compress(data, 1, mtime=0), 1, mtime=0),
)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """A tar file of members with odd names, kinds, links and headers."""
    file = io.BytesIO()
    kind = pick(draw, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=kind, errors="surrogateescape") as tar:
        for _ in range(draw(st.integers(1, 4))):
            content = pick(draw, (EPISODES[0], EPISODES[2], b"", b"x" * 700, b"1\n0\n5\n" * 90))
            member = tarfile.TarInfo(pick(draw, _NAMES))
            member.type, member.size = pick(draw, _TYPES), len(content)
            member.linkname = pick(draw, _LINKS) if draw(st.integers(0, 2)) == 0 else ""
            member.pax_headers = pick(draw, _PAX) if kind == tarfile.PAX_FORMAT else {}
            try:
                tar.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError):  # such a name has no place in such a header
                tar.addfile(tarfile.TarInfo("a/3.npz"))
    return file.getvalue()


def _headers(data: bytes) -> list[int]:
    return [found.start() - 257 for found in re.finditer(b"ustar", data) if found.start() >= 257]


def _summed(data: bytes, at: int) -> bytes:
    """The archive with the checksum that the header there should have."""
    header = data[at : at + 512]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return data[: at + 148] + b"%06o\0 " % total + data[at + 156 :]


@st.composite
def tars(draw: st.DrawFn) -> Case:
    """A tar file with its headers changed, checksums kept right, compressed, and damaged."""
    data = draw(members())
    if draw(st.booleans()) and (places := _headers(data)):
        for _ in range(draw(st.integers(1, 3))):
            at = pick(draw, places)
            if draw(st.booleans()):
                data = data[: at + 124] + pick(draw, _SIZES) + data[at + 136 :]
            else:
                field = at + draw(st.integers(0, 511))
                data = data[:field] + draw(st.binary(min_size=1, max_size=4)) + data[field + 4 :]
            if len(data) >= at + 512:
                data = _summed(data, at)
    data = pick(draw, _COMPRESSIONS)(data)
    if draw(st.integers(0, 2)) == 0:
        data = draw(changed(data, [EPISODES[0]], 3))
    return {"data.tar": data}


def judge_archive(given: Path, made: Path) -> None:
    """An archive becomes a flat folder of files, or is refused in one line that names it."""
    archive, target = given / "data.tar", made / "data"
    archives.is_archive(archive)
    try:
        folder, marker = archives.unpack(archive, target)
    except UserError as error:
        if any(made.iterdir()):
            raise Wrong(f"refused, and left {list(made.iterdir())}") from None
        return refusal(error, str(archive))
    files = {path.name for path in folder.iterdir()} - {MARKER}
    if list(made.iterdir()) != [target] or len(files) != marker["episodes"] or not files:
        raise Wrong(f"{list(made.rglob('*'))} and {marker}")
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file() or path.stat().st_nlink != 1:
            raise Wrong(f"{path} is no file of its own")
    if archives.unpack(archive, target) != (folder, marker):
        raise Wrong("unpacked anew")


TARGETS = (Target("archives", 8, tars(), judge_archive),)
