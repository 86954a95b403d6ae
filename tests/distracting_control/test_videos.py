"""Frames of backgrounds: upright, and what stands in for damaged ones."""

import multiprocessing
import os

import numpy as np
import pytest
from dm_control import suite
from PIL import Image

from distracting_control import DistractingBackground, videos
from distracting_control.videos import Video, check_video, find_videos
from tests.data.samples import TURNS, encode, level, moving, plain, turned

SIZE = 16


def sequence(folder, count=6, damaged=()):
    """Images of one grey each; those damaged are empty, half, or no image."""
    folder.mkdir(parents=True)
    for index, picture in enumerate(plain(count)):
        path = folder / f"{index:05d}.jpg"
        Image.fromarray(picture).save(path)
        if index in damaged:
            content = path.read_bytes()
            path.write_bytes([b"", content[: len(content) // 2], b"a text"][index % 3])
    return folder


def shown(video, indices):
    """Which pictures the frames are, by their greys."""
    greys = [int(video[index].mean()) for index in indices]
    return [min(range(10), key=lambda number: abs(level(number) - grey)) for grey in greys]


@pytest.mark.parametrize(("matrix", "same"), TURNS.values(), ids=TURNS)
def test_turned_and_mirrored_movies_are_seen_upright(tmp_path, matrix, same):
    picture, path = turned(tmp_path / "a.mp4", matrix)
    frame = Video(path, SIZE, 512)[1].astype(int)
    assert np.abs(frame[2::11, 2::11] - same(picture)[12::66, 12::66]).max() < 12


@pytest.mark.parametrize("suffix", ["ts", "flv", "wmv", "webp", "apng"])
def test_films_of_every_kind_are_found_and_shown(tmp_path, suffix):
    codecs = {"ts": "mpeg2video", "flv": "flv", "wmv": "wmv2"}
    path = tmp_path / "below" / f"a.{suffix}"
    path.parent.mkdir()
    if suffix in codecs:
        encode(path, plain(8), 25, codecs[suffix])
    else:
        moving(path, plain(8), [40] * 8)
    assert find_videos(tmp_path, None) == [path]
    assert find_videos(tmp_path, ["a"]) == find_videos(tmp_path, [f"below/a.{suffix}"]) == [path]
    check_video(path, SIZE, 512)
    video = Video(path, SIZE, 512)
    assert shown(video, range(len(video))) == [*range(8)]


def test_the_nearest_whole_frame_stands_in_whatever_was_drawn_before(tmp_path, capfd):
    path = sequence(tmp_path / "bear", 8, damaged=(0, 3, 4, 7))
    (path / "._00001.jpg").write_bytes(b"")
    wanted = [1, 1, 2, 2, 5, 5, 6, 6]
    forwards, backwards = Video(path, SIZE, 512), Video(path, SIZE, 512)
    assert shown(forwards, range(8)) == wanted
    assert shown(backwards, reversed(range(8))) == wanted[::-1]
    assert shown(forwards, range(8)) == wanted
    [line] = capfd.readouterr().err.splitlines()  # however many there are
    assert line == f"note: background video {path}: 00000.jpg is left out: damaged: no image"


def test_the_environment_plays_on_and_says_once_what_is_damaged(tmp_path, capfd):
    path = sequence(tmp_path / "bear", 3, damaged=(0, 1))
    for _ in range(2):
        task = suite.load("cartpole", "balance", task_kwargs={"random": 0})
        env = DistractingBackground(task, tmp_path, dynamic=True, texture_size=SIZE, random=0)
        env.reset()
        for _ in range(4):
            env.step(np.zeros(1))
            env.physics  # noqa: B018  writes the frame
            np.testing.assert_array_equal(env._texels, Video(path, SIZE, 512)[2][:, ::-1])
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"note: background video {path}: 2 of its 3 images are left out (00000.")


def test_a_worker_leaves_it_to_the_first_process_to_say_so(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "somebody")
    path = sequence(tmp_path / "bear", 3, damaged=(0,))
    check_video(path, SIZE, 512)
    assert shown(Video(path, SIZE, 512), range(3)) == [1, 1, 2]
    assert capfd.readouterr().err == ""


def text(path):
    path.write_text("no video")


def half(path):
    encode(path, plain(20))
    path.write_bytes(path.read_bytes()[:500])


BROKEN = {
    "images": ("bear", lambda path: sequence(path, 3, damaged=(0, 1, 2)), "00000.jpg: damaged"),
    "text": ("a.mp4", text, "no video, or damaged"),
    "half": ("a.mp4", half, "no video, or damaged"),
    "list": ("a.ts", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nb.ts\n"), "no video"),
}


@pytest.mark.parametrize(("name", "make", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_video_without_a_whole_frame_is_left_out_and_refused_alone(
    tmp_path, capfd, name, make, reason
):
    make(tmp_path / name)
    task = suite.load("cartpole", "balance", task_kwargs={"random": 0})
    with pytest.raises(ValueError, match=f"background video .*{reason}") as error:
        DistractingBackground(task, tmp_path, texture_size=SIZE, random=0)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    good = [sequence(tmp_path / f"good{number}", 1) for number in range(3)]
    for number in (None, 2):  # of those that can be shown
        env = DistractingBackground(task, tmp_path, None, number, texture_size=SIZE, random=0)
        assert env.videos == good[:number]
    [line] = [x for x in capfd.readouterr().err.splitlines() if x.startswith("note")]
    assert line.startswith(f"note: background video {tmp_path / name}: left out, it cannot be show")
    assert reason in line


def test_a_movie_is_shown_up_to_where_it_is_damaged(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mp4", list(noise), movflags="faststart")
    whole = Video(path, SIZE, 512)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    check_video(path, SIZE, 512)
    cut = Video(path, SIZE, 512)
    assert 20 < len(cut) < 50
    np.testing.assert_array_equal(cut[10], whole[10])
    [line] = [x for x in capfd.readouterr().err.splitlines() if x.startswith("note")]
    assert line.startswith(f"note: background video {path}: only its first {len(cut)} frames")


def test_looking_at_a_video_decodes_little_of_it(tmp_path, monkeypatch):
    path = sequence(tmp_path / "bear", 8)
    read = []
    monkeypatch.setattr(videos, "read_image", lambda path, size: read.append(path.name))
    check_video(path, SIZE, 512)
    assert read == ["00000.jpg"]


def test_names_are_those_of_files_with_and_without_folder_and_ending(tmp_path):
    for name in ("b/x.mp4", "a/x.mp4", "a/y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("whatever")
    sequence(tmp_path / "x", 1)

    def found(*names):
        return [path.relative_to(tmp_path).as_posix() for path in find_videos(tmp_path, names)]

    assert found("b/x.mp4", "y", "x", "x.mp4") == ["b/x.mp4", "a/y.mp4", "x", "a/x.mp4"]


def test_a_split_is_never_made_of_the_other_one(tmp_path):
    sequence(tmp_path / "train" / "one", 1)
    sequence(tmp_path / "two", 1)
    assert [path.name for path in find_videos(tmp_path, "val")] == ["two"]
    assert [path.name for path in find_videos(tmp_path, "train")] == ["one"]
    assert [path.name for path in find_videos(tmp_path, None)] == ["one", "two"]


def test_what_the_system_fails_to_read_is_no_damage(tmp_path, monkeypatch):
    path = sequence(tmp_path / "bear", 2)
    video = Video(path, SIZE, 512)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *args, **options: os.stat(tmp_path / "gone"))
        with pytest.raises(FileNotFoundError):
            video[0]
    assert shown(video, [0, 1]) == [0, 1]
