"""Files that are whole or not there, and files that are moved out of the way."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from fileio import atomic
from fileio.atomic import atomic_write, move_aside, quarantine


def test_atomic_write_replaces_whole_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    with atomic_write(str(path)) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, error, exists):
    path = tmp_path / "file.bin"
    if exists:
        path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            file.flush()
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == (["file.bin"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_the_system_refuses_leaves_no_temporary_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def refuse(*args):
        raise OSError("the disk is full")

    def write():
        with atomic_write(path) as file:
            file.write(b"new")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="full"):
        write()
    assert os.listdir(tmp_path) == ["file.bin"]
    assert path.read_bytes() == b"old"


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    path, events = tmp_path / "file.bin", []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        if events[-1] == "bytes":
            assert os.fstat(descriptor).st_size == 3
        return fsync(descriptor)

    def spy_replace(source, target):
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with atomic_write(path) as file:
        file.write(b"new")
    assert events == ["bytes", "rename", "folder"]


def test_written_files_have_ordinary_rights(tmp_path, monkeypatch):
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    (tmp_path / "other").touch()
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")]
    assert rights[0] == rights[1]
    monkeypatch.setattr(atomic, "_UMASK", 0o027)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_sync_a_folder(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    real = number == errno.EIO  # an error of the disk, and not of what it offers
    told = pytest.raises(OSError, match="error") if real else contextlib.nullcontext()
    with told, atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_files_are_moved_to_another_disk(tmp_path, monkeypatch):
    rename = Path.rename

    def refuse(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(path), None, str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    for content in (b"one", b"two"):
        (tmp_path / "a.npz").write_bytes(content)
        move_aside(tmp_path / "a.npz", tmp_path / "bad")
    monkeypatch.setattr(Path, "rename", rename)
    assert {p.name: p.read_bytes() for p in (tmp_path / "bad").iterdir()} == {
        "a.npz": b"one",
        "a.1.npz": b"two",
    }
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_new_file_takes_no_others_place(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise PermissionError("this file system has no hard links")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a"
    with atomic_write(path, new=True) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), atomic_write(path, new=True) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_nlink == 1


def test_files_are_moved_aside_under_free_names(tmp_path):
    moved = []
    for content in ("first", "second", "third"):
        (tmp_path / "a.npz").write_text(content)
        moved.append(quarantine(tmp_path / "a.npz", tmp_path / "bad", f"why {content}"))
    assert [path.name for path in moved] == ["a.npz", "a.1.npz", "a.2.npz"]
    assert [path.read_text() for path in moved] == ["first", "second", "third"]
    assert (tmp_path / "bad" / "a.1.npz.txt").read_text() == "why second\n"
    (tmp_path / "b").write_text("b")
    assert move_aside(tmp_path / "b", tmp_path / "bad").name == "b"
