"""Archives of episodes: unpacked once, whole or not at all, and never outside of their folder."""

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import namedtuple
from pathlib import Path

import pytest

from data import archives, caching
from tests.data.samples import episodes, everything, write_tar
from tools import UserError

ROOT = Path(archives.__file__).parents[1]
FILES = episodes("cheetah_run")
FLAT = {name.rpartition("/")[2]: content for name, content in FILES.items()}


def member(name, kind=tarfile.REGTYPE, target=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


@pytest.fixture
def archive(tmp_path):
    return write_tar(tmp_path / "data.tar.xz", FILES)


@pytest.mark.parametrize("name", ["data.tar.xz", "data.tar.gz", "data.tgz", "data.txz", "data.tar"])
def test_unpacks_every_episode_into_one_flat_folder(tmp_path, name):
    archive = write_tar(tmp_path / name, FILES)
    assert archives.is_archive(archive)
    folder, marker = archives.unpack(archive, tmp_path / archives.stem(archive))
    assert folder == tmp_path / "data"
    assert contents(folder) == FLAT
    assert (marker["episodes"], marker["ignored"]) == (3, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", name]


def test_the_bytes_tell_how_it_is_compressed_and_not_the_name(tmp_path, archive):
    archive = archive.rename(tmp_path / "data.tar.gz")
    assert archives.is_archive(archive)
    assert contents(archives.unpack(archive, tmp_path / "data")[0]) == FLAT


def test_second_start_reuses_the_folder(tmp_path, archive):
    first, marker = archives.unpack(archive, tmp_path / "data")
    times = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    steps = []
    again = archives.unpack(archive, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert again == (first, marker)
    assert steps == []  # the archive was not even read
    assert {p: p.stat().st_mtime_ns for p in first.iterdir()} == times


def test_changed_archive_is_unpacked_beside_the_old_one(tmp_path, archive):
    first, _ = archives.unpack(archive, tmp_path / "data")
    write_tar(archive, {"a/9.npz": FILES["cheetah_run/0.npz"]})
    second, _ = archives.unpack(archive, tmp_path / "data")
    assert (second.name, sorted(contents(second))) == ("data-2", ["9.npz"])
    assert contents(first) == FLAT
    assert archives.unpack(archive, tmp_path / "data")[0] == second


def test_file_times_tell_a_change(tmp_path):
    """Equal in size, but written later."""
    archive = write_tar(tmp_path / "data.tar", {"0.npz": b"one"})
    archives.unpack(archive, tmp_path / "data")
    write_tar(archive, {"0.npz": b"two"})
    later = time.time_ns() + 1_000_000
    os.utime(archive, ns=(later, later))
    assert contents(archives.unpack(archive, tmp_path / "data")[0]) == {"0.npz": b"two"}


def test_a_folder_of_the_users_is_left_alone(tmp_path, archive):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.npz").write_bytes(b"mine")
    assert archives.unpack(archive, tmp_path / "data")[0].name == "data-2"
    assert contents(tmp_path / "data") == {"mine.npz": b"mine"}


LEFT_OUT = {
    "text": member("a/readme.txt"),
    "hidden": member("a/._0.npz"),  # such as macOS makes
    "link": member("a/last.npz", tarfile.SYMTYPE, "2.npz"),
    "hard link": member("a/last.npz", tarfile.LNKTYPE, "cheetah_run/0.npz"),
    "link out": member("a.npz", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link out": member("a.npz", tarfile.LNKTYPE, "../secret.npz"),
    "folder out": member("a", tarfile.SYMTYPE, "../.."),
    "parent": member("../../x.npz"),
    "hidden parent": member("a/../../x.npz"),
    "absolute": member("/tmp/x.npz"),
    "device": member("null.npz", tarfile.CHRTYPE),
    "pipe": member("pipe.npz", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("more", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_no_file_of_its_own_inside_is_counted_and_left_out(tmp_path, more):
    home = tmp_path / "deep" / "down"
    home.mkdir(parents=True)
    archive = write_tar(home / "data.tar", FILES, [more])
    before = everything(tmp_path)
    folder, marker = archives.unpack(archive, home / "data")
    assert contents(folder) == FLAT
    assert (marker["episodes"], marker["ignored"]) == (3, 1)
    after = everything(tmp_path)
    for path in (folder, *folder.iterdir()):
        del after[str(path)]
    assert after == before


def test_equal_names_in_several_folders_stay_apart(tmp_path):
    files = {"set/a/0.npz": b"one", "set/b/0.npz": b"two", "set/c/1.npz": b"three"}
    folder, _ = archives.unpack(write_tar(tmp_path / "data.tar", files), tmp_path / "data")
    assert contents(folder) == {"a__0.npz": b"one", "b__0.npz": b"two", "c__1.npz": b"three"}


def test_later_member_of_one_name_counts(tmp_path):
    archive = write_tar(tmp_path / "data.tar", {"0.npz": b"older", "./0.npz": b"new"})
    assert contents(archives.unpack(archive, tmp_path / "data")[0]) == {"0.npz": b"new"}


def refused(archive, words):
    """Asserts that an archive is refused in one line, which leaves nothing behind."""
    before = everything(archive.parent)
    with pytest.raises(UserError, match=words) as refusal:
        archives.unpack(archive, archive.parent / "data")
    assert len(str(refusal.value).splitlines()) == 1
    assert str(archive) in str(refusal.value)
    assert everything(archive.parent) == before


@pytest.mark.parametrize("name", ["data.tar.xz", "data.tar.gz", "data.tar"])
def test_damaged_archive_is_refused_and_leaves_nothing(tmp_path, name):
    archive = write_tar(tmp_path / name, FILES)
    whole = archive.read_bytes()
    for share in (0.0005, 0.3, 0.5 if name == "data.tar" else 0.95):  # it ends in zeros
        archive.write_bytes(whole[: int(len(whole) * share)])
        refused(archive, "is damaged or cut short")
    if name != "data.tar":  # nor has it a checksum of its content
        middle = len(whole) // 2
        archive.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
        refused(archive, "is damaged or cut short")


def test_plain_tar_that_ends_or_is_damaged_between_two_members_is_refused(tmp_path):
    """There tarfile itself sees nothing wrong."""
    archive = write_tar(tmp_path / "data.tar", {"0.npz": b"x" * 512, "1.npz": b"y" * 512})
    whole = archive.read_bytes()
    archive.write_bytes(whole[:1024])
    refused(archive, "cut short")
    archive.write_bytes(whole[:1024] + b"\1" * 512 + whole[1536:])
    refused(archive, "no mark of its end")


def test_a_header_that_an_older_tarfile_takes_for_the_end_is_refused(tmp_path, monkeypatch):
    """Python 3.11.2's ends without a word where a size leads back, for one."""
    archive = write_tar(tmp_path / "data.tar", FILES)
    following = tarfile.TarFile.next

    def ends(tar):
        return following(tar) if tar.offset == 0 else None

    monkeypatch.setattr(tarfile.TarFile, "next", ends)
    refused(archive, "no mark of its end")


def test_archive_without_episodes_is_refused(tmp_path):
    archive = write_tar(tmp_path / "data.tar.gz", {"a.txt": b"a", "b.mp4": b"b"})
    refused(archive, r"no \.npz episode in it \(2 other files\)")


def test_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch, archive):
    usage, size = namedtuple("usage", "total used free"), max(map(len, FILES.values()))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage(0, 0, size - 1))
    refused(archive, "make room")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage(0, 0, size))
    assert archives.unpack(archive, tmp_path / "data")[0].is_dir()


def test_progress_counts_the_bytes_of_the_archive(tmp_path, archive):
    steps = []
    archives.unpack(archive, tmp_path / "data", progress=lambda *step: steps.append(step))
    done, size = [step[1] for step in steps], archive.stat().st_size
    assert done == sorted(done)
    assert 0 < done[-1] <= size
    assert {(what, total) for what, _, total in steps} == {("unpacking", size)}


SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from data import archives
def slow(what, done, total):
    print(what, flush=True)
    while not Path({go!r}).exists():
        time.sleep(0.02)
print(archives.unpack(Path({archive!r}), Path({target!r}), progress=slow)[0])
"""


@contextlib.contextmanager
def started(archive, target):
    """A process that unpacks, and waits within; it ends with the context at the latest."""
    paths = {"archive": archive, "target": target, "go": f"{target}.go"}
    text = SLOW.format(root=str(ROOT), **{name: str(path) for name, path in paths.items()})
    command = [sys.executable, "-c", text]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_unpacking_does_not_look_finished_and_the_next_start_mends_it(tmp_path, archive):
    with started(archive, tmp_path / "data") as process:
        assert process.stdout.readline() == "unpacking\n"
    assert not (tmp_path / "data").exists()
    assert (tmp_path / ".data.partial").is_dir()
    (tmp_path / ".data.partial" / "stale.npz").write_bytes(b"of the killed start")
    folder, _ = archives.unpack(archive, tmp_path / "data")
    assert contents(folder) == FLAT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.tar.xz"]


def test_two_processes_unpack_once(tmp_path, archive):
    with started(archive, tmp_path / "data") as one:
        assert one.stdout.readline() == "unpacking\n"
        with started(archive, tmp_path / "data") as other:
            assert "waiting for another process" in other.stderr.readline()
            (tmp_path / "data.go").touch()
            results = [process.communicate(timeout=300) for process in (one, other)]
    assert [process.returncode for process in (one, other)] == [0, 0], results
    assert [out.splitlines()[-1] for out, _ in results] == [str(tmp_path / "data")] * 2
    assert "unpacking" not in results[1][0]
    assert contents(tmp_path / "data") == FLAT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.go", "data.tar.xz"]


def test_failed_building_leaves_nothing_and_kept_building_goes_on(tmp_path):
    target = tmp_path / "made"

    def fail(**options):
        with caching.building(target, **options) as partial:
            (partial / "a").write_text("a")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        fail(keep=True)
    assert not target.exists()
    with caching.building(target, keep=True) as partial:
        assert (partial / "a").read_text() == "a"
    assert (target / "a").read_text() == "a"
    with caching.building(target) as partial:
        assert partial is None


def test_markers_that_are_none(tmp_path):
    assert caching.read_marker(tmp_path) is None
    for text in ("{", "[1]", ""):
        (tmp_path / caching.MARKER).write_text(text)
        assert caching.read_marker(tmp_path) is None
    caching.write_marker(tmp_path, {"a": 1})
    assert json.loads((tmp_path / caching.MARKER).read_text()) == {"a": 1}
    assert caching.read_marker(tmp_path) == {"a": 1}


def test_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caching.cache_root(None) == tmp_path / "diswm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert caching.cache_root(None) == Path("/home/someone/.cache/diswm")
    assert caching.cache_root("~/mine") == Path("/home/someone/mine")
