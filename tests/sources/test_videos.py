"""Videos as episodes: which frames, how cropped and scaled, cut, cached, and what is skipped."""

import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from replay.episodes import read_episode
from sources import footage, videos
from sources.footage import Settings, Unusable, frames, resample
from tools import UserError

ROOT = Path(videos.__file__).parents[1]
TOLERANCE = 6  # levels of 255 that a codec may be off in a plain area


def level(index):
    """The grey of a frame, far from its neighbours'."""
    return 20 + (index * 37) % 210


def encode(path, pictures, rate=30, codec="libx264", pixels="yuv420p", times=None, **options):
    """A video of RGB pictures; `times` are the frames' beginnings in milliseconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast"}
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def plain(count, height=64, width=64):
    """Pictures of one grey each, which tells which one it is."""
    return [np.full((height, width, 3), level(index), np.uint8) for index in range(count)]


def assert_shows(images, numbers):
    """Asserts that the images are the plain pictures of these numbers."""
    assert len(images) == len(numbers)
    for image, number in zip(images, numbers, strict=True):
        assert np.abs(image.astype(int) - level(number)).max() < TOLERANCE


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
    assert_shows(list(frames(path, Settings())), range(6))


CONTAINERS = [
    ("a.mp4", {}),
    ("a.mov", {}),
    ("a.mkv", {}),
    ("a.avi", {"codec": "mpeg4"}),
    ("a.webm", {"codec": "libvpx"}),
    ("a.gif", {"codec": "gif", "pixels": "gray", "rate": 25}),
]


@pytest.mark.parametrize(("name", "how"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
def test_every_frame_of_every_container_in_order(tmp_path, name, how):
    path = encode(tmp_path / name, plain(20), **how)
    assert footage.is_video(path)
    images = list(frames(path, Settings()))
    assert images[0].shape == (64, 64, 3)
    assert images[0].dtype == np.uint8
    assert_shows(images, range(20))


@pytest.mark.parametrize(("name", "how"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
@pytest.mark.parametrize("fps", [5, 60, 12.5])
def test_resampled_count_and_frames_follow_from_arithmetic(tmp_path, name, how, fps):
    rate = how.get("rate", 30)
    path = encode(tmp_path / name, plain(20), **how)
    images = list(frames(path, Settings(fps=fps)))
    count = -(-20 * Fraction(fps) // rate)  # the instants before the end
    shown = [int(k * rate / Fraction(fps)) for k in range(count)]
    assert len(images) == count
    if rate % fps == 0 or fps % rate == 0:  # else instants fall beside rounded time stamps
        assert_shows(images, shown)


def test_variable_frame_rate_goes_by_time_stamps(tmp_path):
    times = [0, 100, 150, 400, 500, 900]
    path = encode(tmp_path / "a.mkv", plain(6), rate=1000, times=times)
    images = list(frames(path, Settings(fps=10)))
    # At 0, 100, … 900 ms; the last frame lasts for a moment.
    assert_shows(images, [0, 1, 2, 2, 3, 4, 4, 4, 4, 5])
    assert_shows(list(frames(path, Settings())), range(6))


def test_resampling_by_hand():
    starts = {"a": Fraction(5), "b": Fraction(6), "c": Fraction(8)}
    timed = [(name, start, start + 1) for name, start in starts.items()]
    assert "".join(resample(timed, Fraction(0))) == "abc"
    assert "".join(resample(timed, Fraction(1))) == "abbc"
    assert "".join(resample(timed, Fraction(2))) == "aabbbbcc"
    assert "".join(resample(timed, Fraction(1, 2))) == "ab"
    late = [("a", Fraction(0), Fraction(1)), ("b", Fraction(1001, 1000), Fraction(2))]
    assert "".join(resample(late, Fraction(1))) == "aa"
    assert "".join(resample(late, Fraction(1), Fraction(1, 500))) == "ab"
    jump = [("a", Fraction(0), Fraction(1)), ("b", Fraction(10**6), Fraction(10**6 + 1))]
    with pytest.raises(Unusable, match="jump"):
        list(resample(jump, Fraction(1)))
    assert list(resample([], Fraction(1))) == []


def test_middle_of_a_wide_picture_with_area_average(tmp_path):
    """Red on the left of the middle square, blue on its right, white beside it."""
    picture = np.full((128, 256, 3), 255, np.uint8)
    picture[:, 64:128] = (200, 30, 30)
    picture[:, 128:192] = (30, 30, 200)
    path = encode(tmp_path / "a.mp4", [picture] * 3)
    for image in frames(path, Settings()):
        assert np.abs(image[:, 2:30].astype(int) - (200, 30, 30)).max() < 12
        assert np.abs(image[:, 34:62].astype(int) - (30, 30, 200)).max() < 12
    tall = encode(tmp_path / "b.mp4", [picture.transpose(1, 0, 2).copy()] * 3)
    for image in frames(tall, Settings()):
        assert np.abs(image[2:30].astype(int) - (200, 30, 30)).max() < 12
        assert np.abs(image[34:62].astype(int) - (30, 30, 200)).max() < 12


def test_fine_stripes_become_grey_and_no_pattern(tmp_path):
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[:, ::2] = 255
    path = encode(tmp_path / "a.mp4", [picture] * 2)
    for image in frames(path, Settings()):
        assert np.abs(image.astype(int) - 127).max() < 12


def test_small_frames_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mkv", [picture] * 2, codec="ffv1", pixels="bgr0")
    np.testing.assert_array_equal(next(frames(path, Settings())), picture)


def test_other_sizes_and_grey(tmp_path):
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:] = (200, 100, 50)
    path = encode(tmp_path / "a.mkv", [picture] * 2, codec="ffv1", pixels="bgr0")
    image = next(frames(path, Settings(size=(32, 48), grayscale=True)))
    assert image.shape == (32, 48, 1)
    # What Gymnasium's GrayscaleObservation makes of that colour.
    grey = 0.2125 * 200 + 0.7154 * 100 + 0.0721 * 50
    assert np.abs(image.astype(float) - grey).max() <= 1


def turn(path, matrix):
    """Writes a matrix into the track header, as a telephone held upright does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", content, at)[:5] == (1 << 16, 0, 0, 0, 1 << 16)
    struct.pack_into(">9i", content, at, *matrix)
    path.write_bytes(content)


ONE = 1 << 16
TURNS = {  # a matrix of the file, and where the first row's left corner is to be seen
    "clockwise": ((0, ONE, 0, -ONE, 0, 0, 64 * ONE, 0, 1 << 30), (slice(0, 28), slice(36, 64))),
    "half": (
        (-ONE, 0, 0, 0, -ONE, 0, 64 * ONE, 64 * ONE, 1 << 30),
        (slice(36, 64), slice(36, 64)),
    ),
    "counter": ((0, -ONE, 0, ONE, 0, 0, 0, 64 * ONE, 1 << 30), (slice(36, 64), slice(0, 28))),
}


@pytest.mark.parametrize(("matrix", "corner"), TURNS.values(), ids=TURNS)
def test_rotation_of_the_file_is_honoured(tmp_path, matrix, corner):
    picture = np.full((64, 64, 3), 30, np.uint8)
    picture[:32, :32] = 220
    path = encode(tmp_path / "a.mp4", [picture] * 2)
    assert next(frames(path, Settings()))[:28, :28].min() > 200
    turn(path, matrix)
    image = next(frames(path, Settings()))
    assert image[corner].min() > 200
    assert np.median(image) < 40


def test_pieces():
    images = [np.full((2, 2, 3), n, np.uint8) for n in range(8)]

    def lengths(count, length):
        cut = list(videos.pieces(images[:count], length))
        np.testing.assert_array_equal(np.concatenate(cut)[:, 0, 0, 0], range(sum(map(len, cut))))
        return [len(piece) for piece in cut]

    assert lengths(8, 4) == [4, 4]
    assert lengths(7, 4) == [4, 3]
    assert lengths(6, 4) == [4, 2]
    assert lengths(5, 4) == [4]  # one image is no episode
    assert lengths(3, 4) == [3]
    assert list(videos.pieces(images[:1], 4)) == []
    assert list(videos.pieces([], 4)) == []


BAD = {
    "text.mp4": lambda good: b"this is a text\n" * 100,
    "cut.mp4": lambda good: good[: len(good) // 2],  # its index was at the end
    "empty.avi": lambda good: b"",
    "list.mp4": lambda good: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize(("name", "make"), BAD.items(), ids=BAD)
def test_what_is_no_video_says_why(tmp_path, name, make):
    good = encode(tmp_path / "good.mp4", plain(8))
    (tmp_path / name).write_bytes(make(good.read_bytes()))
    with pytest.raises(Unusable, match="no video") as error:
        list(frames(tmp_path / name, Settings()))
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_video_cut_short_is_not_taken_for_a_shorter_one(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    how = {"codec": "mpeg4"} if suffix == "avi" else {}
    how |= {"movflags": "faststart"} if suffix == "mp4" else {}
    path = encode(tmp_path / f"a.{suffix}", list(noise), **how)
    assert len(list(frames(path, Settings()))) == 60
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(Unusable, match=r"cut short|damaged"):
        list(frames(path, Settings()))


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
    return videos.decode(list(folder.iterdir()), folder.name, cache, given)


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
    assert len(places) == 7
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


def test_long_names_are_cut(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for end in "xy":
        encode(folder / f"{'long' * 60}{end}.mp4", plain(3))
    place, _ = decode(folder, tmp_path / "cache")
    assert len(list(place.glob("*.npz"))) == 2


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from sources import videos
videos.WORKERS = 1
save_episode = videos.save_episode
def save(path, episode):
    if path.name.startswith("b.mp4-00003"):
        os.kill(os.getpid(), 9)
    save_episode(path, episode)
videos.save_episode = save
paths = list(Path({folder!r}).iterdir())
videos.decode(paths, "clips", Path({cache!r}), videos.Settings(length=4))
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
