"""Archives of episodes, with members of every kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable

from hypothesis import strategies as st

from data import archives
from data.caching import MARKER
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tests.fuzz.test_episodes import SEEDS as EPISODES
from tools import UserError

NAMES = (
    *("a/1.npz", "a/2.npz", "b/1.npz", "1.npz", "./1.npz", "a/./1.npz", "a//1.npz", "A/1.NPZ"),
    *("../1.npz", "/tmp/1.npz", "a/../../1.npz", "..", "a/..", "/", ".", "", " .npz", ".npz"),
    *("a/.1.npz", "x" * 99 + "/" + "y" * 99 + ".npz", "z" * 300 + ".npz", "é/ü.npz", "\udcff.npz"),
    *("a\nb.npz", "a\\..\\1.npz", "a\0b.npz", "readme.txt", "a/1.npz/", "a__1.npz", ".source.json"),
    *("q/" * 300 + "1.npz", "-rf.npz", "~/1.npz", "a/b__1.npz", "a__b/1.npz"),
)
_LINKS = ("1.npz", "a/1.npz", "../1.npz", "/etc/passwd", "../../x", "a", "", ".", "a\0b", "x" * 300)
_TYPES = (
    *(tarfile.REGTYPE,) * 16,
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
    *(bytes,) * 8,
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
    kind = draw(st.sampled_from((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    contents = st.sampled_from((EPISODES[0], EPISODES[2], b"", b"x" * 700, b"1\n0\n5\n" * 90))
    with tarfile.open(fileobj=file, mode="w", format=kind, errors="surrogateescape") as tar:
        for _ in range(draw(st.integers(1, 4))):
            content, member = draw(contents), tarfile.TarInfo(draw(st.sampled_from(NAMES)))
            member.type, member.size = draw(st.sampled_from(_TYPES)), len(content)
            member.linkname = draw(st.sampled_from(("", "", *_LINKS)))
            member.pax_headers = draw(st.sampled_from(_PAX)) if kind == tarfile.PAX_FORMAT else {}
            try:
                tar.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError):  # such a name has no place in such a header
                tar.addfile(tarfile.TarInfo("a/3.npz"))
    return file.getvalue()


def _summed(data: bytes, at: int) -> bytes:
    """The archive with the checksum that the header there should have."""
    header = data[at : at + 512]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return data[: at + 148] + b"%06o\0 " % total + data[at + 156 :]


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """A tar file with its headers changed, checksums kept right, compressed, and damaged."""
    data = draw(members())
    places = [found.start() - 257 for found in re.finditer(b"ustar", data) if found.start() >= 257]
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2, 3))) if places else 0):
        at, field, piece = draw(st.sampled_from(places)), 124, draw(st.sampled_from(_SIZES))
        if draw(st.booleans()):
            field, piece = draw(st.integers(0, 507)), draw(st.binary(min_size=1, max_size=4))
        data = data[: at + field] + piece + data[at + field + len(piece) :]
        data = _summed(data, at)
    data = draw(st.sampled_from(_COMPRESSIONS))(data)
    return draw(damaged([data, EPISODES[0]])) if draw(st.integers(0, 3)) == 0 else data


def check_unpacking(name: str, content: bytes) -> None:
    """An archive becomes a flat folder of files of its own, or is refused and leaves nothing."""
    with laid({name: content}) as (there, made):
        archive, target = there / name, made / "data"
        archives.is_archive(archive)
        try:
            folder, marker = archives.unpack(archive, target)
        except UserError as error:
            assert list(made.iterdir()) == []
            return check_refusal(error, str(archive))
        assert list(made.iterdir()) == [target]
        files = {path.name for path in folder.iterdir()} - {MARKER}
        assert len(files) == marker["episodes"] > 0
        for path in folder.iterdir():
            assert path.is_file()
            assert not path.is_symlink()
            assert path.stat().st_nlink == 1
        assert archives.unpack(archive, target) == (folder, marker)


@fuzz(60, tars())
def test_an_archive_becomes_a_flat_folder_of_files_or_is_refused(content):
    check_unpacking("data.tar", content)
