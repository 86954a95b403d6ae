"""HDF5 files: episodes as step_type has them, images scaled, and what is refused."""

import h5py
import numpy as np
import pytest
from PIL import Image

import config
import data
from data import converting, hdf5
from data.errors import Unreadable
from data.frames import Settings
from media.images import Unusable
from replay.episodes import read_episode
from tests.data.layouts import hdf5 as bytes_of
from tests.data.layouts import shard
from tests.data.samples import everything
from tests.helpers.runs import refusal

SETTINGS = Settings(size=(16, 16), length=4)


def read(path, content, settings=SETTINGS, **options):
    path.write_bytes(content if isinstance(content, bytes) else bytes_of(content, **options))
    return [*hdf5.read(path, settings)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": True}])
def test_episodes_follow_step_type(tmp_path, monkeypatch, first, options):
    monkeypatch.setattr(hdf5, "ROWS", 3)  # an episode lies across several of them
    options = {"compression": "gzip"} if "chunks" in options else options
    found = read(tmp_path / "a.hdf5", shard([5, 1, 7], channels_first=first), **options)
    assert [len(episode["image"]) for episode in found] == [5, 1, 7]
    rows = np.arange(13)
    for key, scale in (("action", 1), ("reward", 2)):
        joined = np.concatenate([episode[key] for episode in found]) * scale
        np.testing.assert_array_equal(joined if key == "reward" else joined[:, 1], rows)
    images = np.concatenate([episode["image"] for episode in found])
    assert images.shape == (13, 16, 16, 3)
    assert (images == rows[:, None, None, None]).all()


def test_rows_without_step_type_are_cut_as_videos_are(tmp_path):
    content = shard([10], step_type=None, action=None)
    content["image"] = content.pop("observation")
    found = read(tmp_path / "a.h5", content)
    assert [len(episode["image"]) for episode in found] == [4, 4, 2]
    assert "action" not in found[0]


def test_grey_images(tmp_path):
    images = np.full((4, 20, 20, 1), 100, np.uint8)
    content = shard([4], observation=images)
    [episode] = read(tmp_path / "a.h5", content)
    assert (episode["image"] == 100).all()
    settings = Settings(size=(16, 16), grayscale=True)
    [episode] = read(tmp_path / "a.h5", shard([4]), settings)
    assert episode["image"].shape == (4, 16, 16, 1)


ODD = {  # another content, and the reason
    "no images": (shard([4], observation=None), "it has no observation or image"),
    "states": (shard([4], observation=np.zeros((4, 3))), "not uint8 images"),
    "floats": (shard([4], observation=np.zeros((4, 3, 8, 8))), "not uint8 images"),
    "channels": (shard([4], observation=np.zeros((4, 9, 8, 8), np.uint8)), "channels, not 1 or 3"),
    "short": (shard([4], reward=np.zeros(3)), r"reward is \[3\] beside 4 images"),
    "wide": (shard([4], discount=np.zeros((4, 2))), r"discount is \[4, 2\]"),
    "texts": (shard([4], action=np.array([b"x"] * 4)), "not rows of numbers"),
    "one": (shard([4], action=np.float32(1)), "not rows of numbers"),
    "bytes": (b"\x89HDF\r\n\x1a\n and then nothing", "no HDF5 file, or damaged"),
    "cut": (bytes_of(shard([4]))[:3000], "no HDF5 file, or damaged"),
}


@pytest.mark.parametrize(("content", "reason"), ODD.values(), ids=ODD)
def test_odd_files_are_unusable(tmp_path, content, reason):
    with pytest.raises(Unusable, match=reason):
        read(tmp_path / "a.h5", content)


def test_what_claims_more_than_a_file_can_hold_is_not_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (10**9, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
    with pytest.raises(Unusable, match="more than can be there"):
        [*hdf5.read(tmp_path / "a.h5", SETTINGS)]


def test_nothing_of_other_files_is_read(tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(bytes_of(shard([4])))
    (tmp_path / "raw").write_bytes(bytes(4 * 192))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["observation"] = h5py.ExternalLink(str(other), "observation")
    layout = h5py.VirtualLayout((4, 3, 84, 84), np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "observation", (4, 3, 84, 84))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("observation", layout)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        external = [(str(tmp_path / "raw"), 0, 4 * 192)]
        file.create_dataset("observation", (4, 8, 8, 3), np.uint8, external=external)
    for name in "abc":
        with pytest.raises(Unusable, match="no array of its own"):
            [*hdf5.read(tmp_path / f"{name}.h5", SETTINGS)]


def test_a_file_that_cannot_be_read_now_says_so(tmp_path):
    with pytest.raises(Unreadable):
        [*hdf5.read(tmp_path / "nowhere.h5", SETTINGS)]


def resolved(folder, given, *flags):
    names = {"pretrain_datasets_path": str(given), "cache_dir": str(folder / "cache")}
    settings = config.parse([*flags]).replace(**names)
    data.check(settings)
    return data.resolve(settings)


def test_a_folder_of_files_becomes_episodes_once(tmp_path):
    home = tmp_path / "walker" / "84px"
    home.mkdir(parents=True)
    for name in "ab":
        (home / f"{name}.hdf5").write_bytes(bytes_of(shard([5, 6]), compression="gzip"))
    (home / "c.hdf5").write_bytes(b"nothing of this kind")
    for given in (tmp_path / "walker", home / "a.hdf5"):
        source = resolved(tmp_path, given)
        paths = sorted(source.folder.glob("*.npz"))
        assert [len(read_episode(path)["image"]) for path in paths[:2]] == [5, 6]
        assert read_episode(paths[0])["image"].shape == (5, 64, 64, 3)
        before = everything(tmp_path)
        assert resolved(tmp_path, given).folder == source.folder
        assert everything(tmp_path) == before
    assert len(paths) == 2
    assert resolved(tmp_path, tmp_path / "walker").skipped[0][0] == "c.hdf5"
    assert resolved(tmp_path, home / "a.hdf5", "--grayscale", "True").folder != source.folder


def test_what_was_interrupted_goes_on_after_the_last_whole_file(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.hdf5").write_bytes(bytes_of(shard([5, 6])))
    read = hdf5.read

    def stopped(path, settings):
        yield from read(path, settings)
        if path.name == "b.hdf5":
            raise KeyboardInterrupt

    monkeypatch.setattr(hdf5, "read", stopped)
    with pytest.raises(KeyboardInterrupt):
        resolved(tmp_path, tmp_path)
    opened = []
    monkeypatch.setattr(hdf5, "read", lambda p, s: opened.append(p.name) or read(p, s))
    source = resolved(tmp_path, tmp_path)
    assert opened == ["b.hdf5"]
    assert len([*source.folder.glob("*.npz")]) == 4


def test_nothing_usable_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.hdf5"
    path.write_bytes(bytes_of(shard([4], observation=None)))
    assert "it has no observation" in refusal(resolved, tmp_path, path)

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(converting.importlib, "import_module", missing)
    line = refusal(resolved, tmp_path, path)
    assert "needs h5py" in line
    assert "pip install -e '.[formats]'" in line


def test_a_preview_beside_hdf5_files_is_no_dataset(tmp_path):
    (tmp_path / "a.hdf5").write_bytes(bytes_of(shard([5])))
    Image.new("RGB", (8, 8)).save(tmp_path / "preview.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "preview.gif")
    assert data.kind_of(str(tmp_path)) == "hdf5"
