"""Zip archives of episodes: what is unpacked, what is left out, and what is refused."""

import stat
import struct
import zipfile

import pytest

from data import archives, zips
from tests.data.samples import episode, episodes, everything
from tests.helpers.runs import refusal


def write(path, files, method=zipfile.ZIP_DEFLATED):
    """A zip archive of (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def test_a_zip_is_unpacked_as_a_tar_is(tmp_path):
    files = episodes("data/inner") | {"data/readme.txt": b"x", "data/": b""}
    path = write(tmp_path / "walker.zip", files.items())
    assert archives.is_archive(path)
    folder, marker = archives.unpack(path, tmp_path / archives.stem(path))
    assert folder == tmp_path / "walker"
    assert (marker["episodes"], marker["ignored"]) == (3, 1)
    for number in range(3):
        assert (folder / f"{number}.npz").read_bytes() == episode(number)
    before = everything(tmp_path)
    assert archives.unpack(path, tmp_path / "walker") == (folder, marker)
    assert everything(tmp_path) == before


def test_links_hidden_files_and_paths_that_lead_outside_are_left_out(tmp_path):
    link = zipfile.ZipInfo("link.npz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    odd = ["../up.npz", "/root.npz", "a/../../up.npz", "__MACOSX/._0.npz", "a/.npz"]
    content = [(link, "/etc/passwd"), *[(name, b"x") for name in odd], ("a/0.npz", episode())]
    (home := tmp_path / "home").mkdir()
    folder, marker = archives.unpack(write(home / "a.zip", content), home / "a")
    assert (marker["episodes"], marker["ignored"]) == (1, 6)
    assert sorted(p.name for p in folder.iterdir()) == [".source.json", "0.npz"]
    assert sorted(p.name for p in home.iterdir()) == ["a", "a.zip"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


def _changed(path, places):
    """Writes other bytes at places in the directory's entry of the last member, by offset."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    for offset, piece in places.items():
        data[at + offset : at + offset + len(piece)] = piece
    path.write_bytes(data)


LIES = {  # changes of a directory's entry, and the reason
    "larger": ({24: struct.pack("<I", 1 << 20)}, "damaged or cut short"),
    "smaller": ({24: struct.pack("<I", 100)}, "damaged or cut short"),
    "huge": ({24: struct.pack("<I", 0xFFFFFFFE)}, "does not fit|damaged"),
    "overlap": ({20: struct.pack("<I", 1 << 20)}, "overlap"),
    "checksum": ({16: bytes(4)}, "damaged or cut short"),
    "encrypted": ({8: b"\1"}, "is encrypted"),
    "lzma": ({10: b"\x0e"}, "packed by an uncommon method"),
}


@pytest.mark.parametrize(("places", "reason"), LIES.values(), ids=LIES)
def test_a_directory_that_lies_is_refused_and_nothing_is_left(tmp_path, places, reason):
    path = write(tmp_path / "a.zip", episodes("a").items())
    _changed(path, places)
    before = everything(tmp_path)
    line = refusal(archives.unpack, path, tmp_path / "a")
    assert any(word in line for word in reason.split("|")), line
    assert everything(tmp_path) == before


def test_a_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: struct_usage(1 << 20))
    path = write(tmp_path / "a.zip", [(f"{n}.npz", bytes(1 << 19)) for n in range(3)])
    assert path.stat().st_size < 1 << 13
    assert "does not fit" in refusal(archives.unpack, path, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def struct_usage(free):
    return type("usage", (), {"free": free})


def test_a_directory_too_large_to_be_one_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", episodes("a").items())
    monkeypatch.setattr(zips, "LARGEST_DIRECTORY", 100)
    assert "a directory of" in refusal(archives.unpack, path, tmp_path / "a")


@pytest.mark.parametrize("content", [[], [("a/readme.txt", b"x")], [("image.npy", b"x")]])
def test_a_zip_without_episodes_is_refused(tmp_path, content):
    line = refusal(archives.unpack, write(tmp_path / "a.zip", content), tmp_path / "a")
    assert "has no .npz episode" in line


def test_a_zip_that_is_cut_short_is_refused(tmp_path):
    path = write(tmp_path / "a.zip", episodes("a").items())
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged or cut short" in refusal(archives.unpack, path, tmp_path / "a")
