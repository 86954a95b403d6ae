"""Videos as episodes: which frames, how cropped and scaled, cut, cached, and what is skipped."""

import json
import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data import videos
from data.frames import Settings, read_frames
from media.files import is_video
from media.images import Unusable
from replay.episodes import read_episode
from tests.data.samples import TOLERANCE, assert_shows, encode, plain
from tools import UserError

ROOT = Path(videos.__file__).parents[1]


def test_a_title_that_is_not_utf8_is_no_reason_to_leave_a_video_out(tmp_path):
    path = encode(tmp_path / "a.avi", plain(6), codec="mpeg4")
    content = path.read_bytes()
    with av.open(str(path), "r") as source, av.open(str(tmp_path / "b.avi"), "w") as copy:
        copy.metadata["title"] = "Kafer"
        stream = source.streams.video[0]
        target = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = target
                copy.mux(packet)
    named = (tmp_path / "b.avi").read_bytes()
    assert named.count(b"Kafer") == 1
    path.write_bytes(named.replace(b"Kafer", "Käfer".encode("latin-1")))
    assert path.read_bytes() != content
    assert_shows(list(read_frames(path, Settings())), range(6))


CONTAINERS = [
    ("a.mp4", {}),
    ("a.mov", {}),
    ("a.mkv", {}),
    ("a.avi", {"codec": "mpeg4"}),
    ("a.webm", {"codec": "libvpx"}),
    ("a.gif", {"codec": "gif", "pixels": "gray", "rate": 25}),
    ("a.ts", {"codec": "mpeg2video"}),
    ("a.flv", {"codec": "flv"}),
    ("a.wmv", {"codec": "wmv2"}),
    ("a.ogv", {"codec": "libvpx"}),
]


@pytest.mark.parametrize(("name", "how"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
def test_every_frame_of_every_container_in_order_and_resampled_as_arithmetic_says(
    tmp_path, name, how
):
    path = encode(tmp_path / name, plain(20), **how)
    assert is_video(path)
    images = list(read_frames(path, Settings()))
    assert images[0].shape == (64, 64, 3)
    assert images[0].dtype == np.uint8
    assert_shows(images, range(20))
    rate = how.get("rate", 30)
    for fps in (5, 60, 12.5):
        images = list(read_frames(path, Settings(fps=fps)))
        count = -(-20 * Fraction(fps) // rate)  # the instants before the end
        assert len(images) == count
        if rate % fps == 0 or fps % rate == 0:  # else instants fall beside rounded time stamps
            assert_shows(images, [int(k * rate / Fraction(fps)) for k in range(count)])


def test_variable_frame_rate_goes_by_time_stamps(tmp_path):
    times = [0, 100, 150, 400, 500, 900]
    path = encode(tmp_path / "a.mkv", plain(6), rate=1000, times=times)
    images = list(read_frames(path, Settings(fps=10)))
    # At 0, 100, … 900 ms; the last frame lasts for a moment.
    assert_shows(images, [0, 1, 2, 2, 3, 4, 4, 4, 4, 5])
    assert_shows(list(read_frames(path, Settings())), range(6))


def test_time_stamps_that_jump_fill_no_disk(tmp_path):
    path = encode(tmp_path / "a.mkv", plain(3), rate=1000, times=[0, 100, 700_000])
    assert_shows(list(read_frames(path, Settings())), range(3))
    with pytest.raises(Unusable, match="its time stamps jump by 7"):
        list(read_frames(path, Settings(fps=1)))


def test_pictures_that_change_their_size_within_a_video(tmp_path):
    """Two films in one stream, as a broadcast has them."""
    parts = [encode(tmp_path / f"{n}.ts", plain(4, n, n), rate=25) for n in (32, 96)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    images = list(read_frames(path, Settings()))
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert_shows(images, [0, 1, 2, 3, 0, 1, 2, 3])


def test_middle_of_a_wide_and_of_a_tall_picture(tmp_path):
    """Red on the left of the middle square, blue on its right, white beside it."""
    picture = np.full((128, 256, 3), 255, np.uint8)
    picture[:, 64:128] = (200, 30, 30)
    picture[:, 128:192] = (30, 30, 200)
    wide = encode(tmp_path / "a.mp4", [picture] * 3)
    tall = encode(tmp_path / "b.mp4", [picture.transpose(1, 0, 2).copy()] * 3)
    for images in (
        list(read_frames(wide, Settings())),
        [image.transpose(1, 0, 2) for image in read_frames(tall, Settings())],
    ):
        assert len(images) == 3
        for image in images:
            assert np.abs(image[:, 2:30].astype(int) - (200, 30, 30)).max() < 12
            assert np.abs(image[:, 34:62].astype(int) - (30, 30, 200)).max() < 12


def test_pixels_that_are_no_squares(tmp_path):
    """128 columns of half a width are a square of 64."""
    picture = np.full((64, 128, 3), 30, np.uint8)
    picture[:, 64:] = 200
    path = encode(tmp_path / "a.mp4", [picture] * 2, aspect=Fraction(1, 2))
    image = next(read_frames(path, Settings()))
    assert np.abs(image[:, :30].astype(int) - 30).max() < TOLERANCE
    assert np.abs(image[:, 34:].astype(int) - 200).max() < TOLERANCE


def test_fine_stripes_become_grey_and_no_pattern(tmp_path):
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[:, ::2] = 255
    path = encode(tmp_path / "a.mp4", [picture] * 2)
    for image in read_frames(path, Settings()):
        assert np.abs(image.astype(int) - 127).max() < 16


def test_small_frames_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mkv", [picture] * 2, codec="ffv1", pixels="bgr0")
    np.testing.assert_array_equal(next(read_frames(path, Settings())), picture)


def test_other_sizes_and_grey(tmp_path):
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:] = (200, 100, 50)
    path = encode(tmp_path / "a.mkv", [picture] * 2, codec="ffv1", pixels="bgr0")
    image = next(read_frames(path, Settings(size=(32, 48), grayscale=True)))
    assert image.shape == (32, 48, 1)
    # What Gymnasium's GrayscaleObservation makes of that colour.
    grey = 0.2125 * 200 + 0.7154 * 100 + 0.0721 * 50
    assert np.abs(image.astype(float) - grey).max() <= 1


def test_pieces():
    images = [np.full((2, 2, 3), n, np.uint8) for n in range(8)]
    wanted = {(8, 4): [4, 4], (7, 4): [4, 3], (6, 4): [4, 2], (3, 4): [3], (0, 4): []}
    wanted |= {(5, 4): [4], (1, 4): []}  # one image is no episode
    for (count, length), lengths in wanted.items():
        cut = list(videos.pieces(images[:count], length))
        assert [len(piece) for piece in cut] == lengths
        shown = [image[0, 0, 0] for piece in cut for image in piece]
        assert shown == list(range(sum(lengths)))


BAD = {
    "text.mp4": lambda good: b"this is a text\n" * 100,
    "cut.mp4": lambda good: good[: len(good) // 2],  # its index was at the end
    "empty.avi": lambda good: b"",
}


@pytest.mark.parametrize(("name", "make"), BAD.items(), ids=BAD)
def test_what_is_no_video_says_why(tmp_path, name, make):
    good = encode(tmp_path / "good.mp4", plain(8))
    (tmp_path / name).write_bytes(make(good.read_bytes()))
    with pytest.raises(Unusable, match="no video") as error:
        list(read_frames(tmp_path / name, Settings()))
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


LISTS = {
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
    "list.avi": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "list.mkv": "ffconcat version 1.0\nfile other.ts\n",
    "list.webm": "v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "list.mov": "<?xml version='1.0'?><MPD><BaseURL>{url}</BaseURL></MPD>",
}


@pytest.mark.parametrize(("name", "text"), LISTS.items(), ids=LISTS)
def test_lists_that_are_named_like_videos_open_no_other_file_and_no_address(tmp_path, name, text):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        encode(tmp_path / "other.ts", plain(4))
        places = {"path": tmp_path / "other.ts", "url": f"http://127.0.0.1:{port}/a.ts"}
        (tmp_path / name).write_text(text.format(port=port, **places))
        with pytest.raises(Unusable, match="no video"):
            list(read_frames(tmp_path / name, Settings()))
        with pytest.raises(BlockingIOError):  # nobody asked
            server.accept()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_video_cut_short_is_not_taken_for_a_shorter_one(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    how = {"codec": "mpeg4"} if suffix == "avi" else {}
    how |= {"movflags": "faststart"} if suffix == "mp4" else {}
    path = encode(tmp_path / f"a.{suffix}", list(noise), **how)
    assert len(list(read_frames(path, Settings()))) == 60
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(Unusable, match=r"cut short|damaged"):
        list(read_frames(path, Settings()))


@pytest.fixture
def folder(tmp_path):
    """Two good videos and a text."""
    place = tmp_path / "clips"
    place.mkdir()
    encode(place / "a.mp4", plain(10))
    encode(place / "b.avi", plain(5), codec="mpeg4")
    (place / "c.mp4").write_text("no video")
    return place


def decode(folder, cache, **settings):
    given = Settings(**{"length": 4} | settings)
    return videos.decode(folder, list(folder.iterdir()), cache, given)


def test_folder_of_videos_becomes_named_episodes(tmp_path, folder):
    place, skipped = decode(folder, tmp_path / "cache")
    names = sorted(path.name for path in place.glob("*.npz"))
    assert names == [
        "a.mp4-00000-4.npz",
        "a.mp4-00001-4.npz",
        "a.mp4-00002-2.npz",
        "b.avi-00000-4.npz",
    ]
    [(name, reason)] = skipped
    assert name == "c.mp4"
    assert reason.startswith("no video, or damaged")
    episode = read_episode(place / "a.mp4-00001-4.npz")
    assert set(episode) == {"image"}
    assert_shows(episode["image"], range(4, 8))


def test_decoded_once_and_anew_after_any_change(tmp_path, folder):
    cache = tmp_path / "cache"
    first, skipped = decode(folder, cache)
    times = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert decode(folder, cache) == (first, skipped)
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == times
    places = {first}
    for changed in ({"fps": 5.0}, {"length": 5}, {"size": (32, 32)}, {"grayscale": True}):
        places.add(decode(folder, cache, **changed)[0])
    os.utime(folder / "a.mp4", ns=(1, 1))
    places.add(decode(folder, cache)[0])
    (folder / "c.mp4").unlink()
    places.add(decode(folder, cache)[0])
    (folder / "images").mkdir()
    for index, picture in enumerate(plain(3)):
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        places.add(decode(folder, cache)[0])
    assert len(places) == 10
    assert sorted(cache.iterdir()) == sorted(places)


def test_nothing_usable_is_refused_and_leaves_nothing(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "c.mp4").write_text("no video")
    encode(folder / "d.mp4", plain(1))
    with pytest.raises(UserError, match=r"no usable video \(c\.mp4: no video"):
        decode(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (folder / "c.mp4").unlink()
    with pytest.raises(UserError, match=r"d\.mp4: less than two frames"):
        decode(folder, tmp_path / "cache")


def test_pieces_of_a_video_that_turns_out_bad_are_removed(tmp_path, folder):
    path = encode(folder / "c.mp4", plain(60), movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    place, [(name, reason)] = decode(folder, tmp_path / "cache")
    assert name == "c.mp4"
    # What FFmpeg says of the packet that is cut differs between its versions.
    assert reason.startswith(("cut short", "no video, or damaged"))
    assert {p.name.partition("-")[0] for p in place.glob("*.npz")} == {"a.mp4", "b.avi"}


def test_order_of_threads_does_not_matter(tmp_path, folder, monkeypatch):
    one, _ = decode(folder, tmp_path / "one")
    monkeypatch.setattr(videos, "WORKERS", 1)
    other, _ = decode(folder, tmp_path / "other")
    assert one.name == other.name
    names = [sorted(path.name for path in place.glob("*.npz")) for place in (one, other)]
    assert names[0] == names[1]
    assert len(names[0]) == 4
    for name in names[0]:
        a, b = (read_episode(place / name)["image"] for place in (one, other))
        np.testing.assert_array_equal(a, b)
    assert (one / ".source.json").read_text() == (other / ".source.json").read_text()


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from data import videos
videos.WORKERS = 1
save_episode = videos.save_episode
def save(path, episode):
    if path.name.startswith("b.mp4-00003"):
        os.kill(os.getpid(), 9)
    save_episode(path, episode)
videos.save_episode = save
folder = Path({folder!r})
videos.decode(folder, list(folder.iterdir()), Path({cache!r}), videos.Settings(length=4))
"""


def test_killed_decoding_never_looks_finished_and_goes_on(tmp_path, folder):
    (folder / "b.avi").unlink()
    encode(folder / "b.mp4", plain(40))
    cache = tmp_path / "cache"
    text = KILLED.format(root=str(ROOT), folder=str(folder), cache=str(cache))
    done = subprocess.run([sys.executable, "-c", text], timeout=300, check=False)
    assert done.returncode == -9
    [partial] = cache.iterdir()
    assert partial.name.startswith(".clips-")
    record = json.loads((partial / ".a.mp4.json").read_text())
    assert (record["name"], record["episodes"], record["frames"]) == ("a.mp4", 3, 10)
    assert not (partial / ".b.mp4.json").exists()
    kept = (partial / "a.mp4-00000-4.npz").stat().st_mtime_ns
    unfinished = partial / ".b.mp4-00003-4.npz.a1b2c3d4.tmp"  # it was killed while it wrote
    unfinished.write_bytes(b"half an episode")
    place, _ = decode(folder, cache)
    assert list(cache.iterdir()) == [place]
    assert (place / "a.mp4-00000-4.npz").stat().st_mtime_ns == kept
    assert len(list(place.glob("b.mp4-*.npz"))) == 10
    assert not (place / unfinished.name).exists()
