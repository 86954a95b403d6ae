"""Archives of episodes: unpacked once, whole or not at all, and never outside of their folder."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from data import archives, caching
from tools import UserError

ROOT = Path(archives.__file__).parents[1]


def episode(seed, rows=6):
    """The bytes of an episode as the published ones are."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        image=rng.integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
        logprob=np.zeros(rows, np.float32),
        reward=rng.uniform(0, 1, rows).astype(np.float32),
        discount=np.ones(rows, np.float32),
        is_terminal=np.zeros(rows, bool),
    )
    return file.getvalue()


def write(path, files, mode="w:xz", more=()):
    """An archive of {name: bytes}, and of members made by hand."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return path


def link(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def device(name):
    member = tarfile.TarInfo(name)
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


def everything(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


FILES = {f"cheetah_run/{n}.npz": episode(n) for n in range(3)}
FLAT = {name.rpartition("/")[2]: content for name, content in FILES.items()}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("data.tar.xz", "w:xz"),
        ("data.tar.gz", "w:gz"),
        ("data.tgz", "w:gz"),
        ("data.txz", "w:xz"),
        ("data.tar", "w:"),
        ("data.tar.gz", "w:xz"),  # the bytes tell, not the name
    ],
)
def test_unpacks_every_episode_into_one_flat_folder(tmp_path, name, mode):
    archive = write(tmp_path / name, FILES, mode)
    assert archives.is_archive(archive)
    folder, marker = archives.unpack(archive, tmp_path / archives.stem(archive))
    assert folder == tmp_path / "data"
    assert contents(folder) == FLAT
    assert (marker["episodes"], marker["ignored"]) == (3, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", name]


def test_second_start_reuses_the_folder(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    first, marker = archives.unpack(archive, tmp_path / "data")
    times = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    steps = []
    again = archives.unpack(archive, tmp_path / "data", progress=lambda *step: steps.append(step))
    assert again == (first, marker)
    assert steps == []  # the archive was not even read
    assert {p: p.stat().st_mtime_ns for p in first.iterdir()} == times


def test_changed_archive_is_unpacked_beside_the_old_one(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    first, _ = archives.unpack(archive, tmp_path / "data")
    write(archive, {"a/9.npz": FILES["cheetah_run/0.npz"]})
    second, _ = archives.unpack(archive, tmp_path / "data")
    assert (second.name, sorted(contents(second))) == ("data-2", ["9.npz"])
    assert contents(first) == FLAT
    assert archives.unpack(archive, tmp_path / "data")[0] == second


def test_a_folder_of_the_users_is_left_alone(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.npz").write_bytes(b"mine")
    folder, _ = archives.unpack(archive, tmp_path / "data")
    assert folder.name == "data-2"
    assert contents(tmp_path / "data") == {"mine.npz": b"mine"}


def test_other_files_and_links_are_counted_and_left_out(tmp_path):
    others = {"cheetah_run/readme.txt": b"hello", "cheetah_run/._0.npz": b"of macOS"}
    more = [link("cheetah_run/last.npz", "2.npz", tarfile.SYMTYPE)]
    archive = write(tmp_path / "data.tar.xz", FILES | others, more=more)
    folder, marker = archives.unpack(archive, tmp_path / "data")
    assert contents(folder) == FLAT
    assert (marker["episodes"], marker["ignored"]) == (3, 3)


def test_equal_names_in_several_folders_stay_apart(tmp_path):
    files = {"set/a/0.npz": b"one", "set/b/0.npz": b"two", "set/c/1.npz": b"three"}
    folder, _ = archives.unpack(write(tmp_path / "data.tar.xz", files), tmp_path / "data")
    assert contents(folder) == {"a__0.npz": b"one", "b__0.npz": b"two", "c__1.npz": b"three"}


def test_later_member_of_one_name_counts(tmp_path):
    archive = write(tmp_path / "data.tar", {"0.npz": b"old"}, "w:")
    with tarfile.open(archive, "a") as tar:
        member = tarfile.TarInfo("./0.npz")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    folder, _ = archives.unpack(archive, tmp_path / "data")
    assert contents(folder) == {"0.npz": b"new"}


HOSTILE = {
    "parent": [tarfile.TarInfo("../../x")],
    "hidden parent": [tarfile.TarInfo("a/../../x.npz")],
    "back and forth": [tarfile.TarInfo("a/../x.npz")],
    "absolute": [tarfile.TarInfo("/tmp/x.npz")],
    "symlink out": [link("a", "../..", tarfile.SYMTYPE)],
    "symlink absolute": [link("a.npz", "/etc/passwd", tarfile.SYMTYPE)],
    "hard link out": [link("a.npz", "../secret.npz", tarfile.LNKTYPE)],
    "device": [device("null.npz")],
}


@pytest.mark.parametrize("filtered", [True, False], ids=["filter", "no filter"])
@pytest.mark.parametrize("more", HOSTILE.values(), ids=HOSTILE)
def test_hostile_member_refuses_the_whole_archive(tmp_path, monkeypatch, more, filtered):
    if not filtered:  # an old Python
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    home = tmp_path / "deep" / "down"
    home.mkdir(parents=True)
    archive = write(home / "data.tar.xz", FILES, more=more)
    before = everything(tmp_path)
    with pytest.raises(UserError) as refusal:
        archives.unpack(archive, home / "data")
    line = str(refusal.value)
    assert repr(more[0].name) in line
    assert str(archive) in line
    assert "\n" not in line
    assert everything(tmp_path) == before


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:"])
@pytest.mark.parametrize("share", [0.0005, 0.3, 0.95])
def test_truncated_archive_is_refused_and_leaves_nothing(tmp_path, mode, share):
    archive = write(tmp_path / "data.tar.xz", FILES, mode)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    before = everything(tmp_path)
    with pytest.raises(UserError, match=r"data\.tar\.xz is damaged or cut short"):
        archives.unpack(archive, tmp_path / "data")
    assert everything(tmp_path) == before


def test_plain_tar_cut_between_two_members_is_refused(tmp_path):
    """There tarfile itself sees nothing wrong."""
    archive = write(tmp_path / "data.tar", {"0.npz": b"x" * 512, "1.npz": b"y" * 512}, "w:")
    archive.write_bytes(archive.read_bytes()[:1024])
    with pytest.raises(UserError, match="cut short"):
        archives.unpack(archive, tmp_path / "data")


def test_flipped_byte_is_refused(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        archives.unpack(archive, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data.tar.xz"]


def test_archive_without_episodes_is_refused(tmp_path):
    archive = write(tmp_path / "data.tar.gz", {"a.txt": b"a", "b.mp4": b"b"}, "w:gz")
    with pytest.raises(UserError, match=r"no \.npz episode in it \(2 other files\)"):
        archives.unpack(archive, tmp_path / "data")


def test_archive_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    archive = write(tmp_path / "data.tar.xz", FILES)
    usage = namedtuple("usage", "total used free")
    size = sum(map(len, FILES.values()))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage(0, 0, size - 1))
    with pytest.raises(UserError, match="make room"):
        archives.unpack(archive, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data.tar.xz"]
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage(0, 0, size))
    assert archives.unpack(archive, tmp_path / "data")[0].is_dir()


def test_progress_counts_the_bytes_of_the_archive(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    steps = []
    archives.unpack(archive, tmp_path / "data", progress=lambda *step: steps.append(step))
    size = archive.stat().st_size
    for what in ("checking", "unpacking"):
        done = [step[1] for step in steps if step[0] == what]
        assert done == sorted(done)
        assert 0 < done[-1] <= size
    assert {step[2] for step in steps} == {size}


SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from data import archives
def slow(what, done, total):
    print(what, flush=True)
    while what == "unpacking" and not Path({go!r}).exists():
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


def test_killed_unpacking_does_not_look_finished_and_the_next_start_mends_it(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    with started(archive, tmp_path / "data") as process:
        assert "unpacking\n" in iter(process.stdout.readline, "")
    assert not (tmp_path / "data").exists()
    assert (tmp_path / ".data.partial").is_dir()
    (tmp_path / ".data.partial" / "stale.npz").write_bytes(b"of the killed start")
    folder, _ = archives.unpack(archive, tmp_path / "data")
    assert contents(folder) == FLAT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.tar.xz"]


def test_two_processes_unpack_once(tmp_path):
    archive = write(tmp_path / "data.tar.xz", FILES)
    with started(archive, tmp_path / "data") as one:
        assert "unpacking\n" in iter(one.stdout.readline, "")
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


def test_file_times_tell_a_change(tmp_path):
    """Equal in size, but written later."""
    archive = write(tmp_path / "data.tar", {"0.npz": b"one"}, "w:")
    archives.unpack(archive, tmp_path / "data")
    write(archive, {"0.npz": b"two"}, "w:")
    later = time.time_ns() + 1_000_000
    os.utime(archive, ns=(later, later))
    folder, _ = archives.unpack(archive, tmp_path / "data")
    assert contents(folder) == {"0.npz": b"two"}
