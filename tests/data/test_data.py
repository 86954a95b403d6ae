"""What --pretrain_datasets_path takes, through the real command line; what it refuses."""

from pathlib import Path

import numpy as np
import pytest

import config
import data
from logger import read_metrics
from tests.data.samples import encode, episodes, everything, write_tar
from tools import UserError
from training.stop import Stopped

ROWS = 251  # of a published episode


def published(folder, number=3, rows=12):
    """A folder of episodes as the published ones are."""
    folder.mkdir(parents=True)
    for name, content in episodes("a", number, rows).items():
        (folder / Path(name).name).write_bytes(content)
    return folder


def video(path, count=40):
    """A bar that moves to the right, 128 columns wide and 72 high."""
    pictures = np.zeros((count, 72, 128, 3), np.uint8)
    for index, picture in enumerate(pictures):
        picture[:, 28 + index : 38 + index] = 220
    return encode(path, list(pictures), rate=20)


def dataset(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    [found] = [row for row in rows if row.get("event") == "dataset"]
    skipped = {row["file"]: row["reason"] for row in rows if row.get("event") == "skipped"}
    return found, skipped


@pytest.fixture
def short(tiny, tmp_path):
    """A pretraining of two updates on a source, with a cache of its own."""

    def argv(source, **flags):
        flags = {"pretrain_steps": 100, "cache_dir": tmp_path / "cache"} | flags
        return tiny.pretrain(tmp_path / "runs", source, **flags)

    return argv


def refused(tiny, argv, *words):
    result = tiny.run(argv)
    assert result.code == 2, result.err
    [line] = result.err.splitlines()
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz"])
def test_archive_in_the_published_format(tmp_path, tiny, short, suffix):
    path = write_tar(tmp_path / f"cheetah_run{suffix}", episodes("cheetah_run", rows=ROWS))
    found, skipped = dataset(tiny.finish(short(path)))
    assert (found["episodes"], found["frames"], found["skipped"]) == (3, 3 * ROWS, 0)
    assert found["folder"] == str(tmp_path / "cheetah_run")
    assert found["source"] == str(path)
    assert "ignored" not in found
    assert skipped == {}
    assert not (tmp_path / "cache").exists()


def test_archive_equals_its_folder(tmp_path, tiny, short, same):
    """The same episodes give the same predictor."""
    path = write_tar(tmp_path / "walker_walk.tar.xz", episodes("walker_walk", rows=20))
    folder = published(tmp_path / "made", rows=20)
    one = tiny.finish(short(path, logdir=tmp_path / "one"))
    other = tiny.finish(short(folder, logdir=tmp_path / "other"))
    rows = [
        [{k: v for k, v in row.items() if k not in ("source", "ignored")} for row in r]
        for r in (same.metrics(one), same.metrics(other))
    ]
    assert any("image_loss" in row for row in rows[0])
    same.values(rows[0], rows[1])


def test_scale_takes_a_share_of_an_archive(tmp_path, tiny, short):
    path = write_tar(tmp_path / "a.tar.gz", episodes("a", number=8, rows=12))
    found, _ = dataset(tiny.finish(short(path, pretrain_dataset_scale=0.25)))
    assert (found["episodes"], found["frames"]) == (2, 24)


def test_corrupt_episode_of_an_archive_is_named_and_left_out(tmp_path, tiny, short):
    np.savez(tmp_path / "large.npz", image=np.zeros((4, 32, 48, 2), np.uint8))
    files = {"broken.npz": b"no archive", "large.npz": (tmp_path / "large.npz").read_bytes()}
    path = write_tar(tmp_path / "a.tar.xz", episodes(".", rows=12) | files)
    found, skipped = dataset(tiny.finish(short(path)))
    assert (found["episodes"], found["skipped"]) == (3, 2)
    assert set(skipped) == {"broken.npz", "large.npz"}
    assert "[4, 32, 48, 2]" in skipped["large.npz"]
    assert "[4, 64, 64, 3]" in skipped["large.npz"]


def test_what_an_archive_would_write_elsewhere_is_counted_and_left_out(tmp_path, tiny, short):
    path = write_tar(tmp_path / "a.tar.gz", episodes("a", rows=12) | {"../../x.npz": b""})
    found, _ = dataset(tiny.finish(short(path)))
    assert (found["episodes"], found["ignored"]) == (3, "1 other file (only episodes are read)")
    assert not list(tmp_path.parent.rglob("x.npz"))


def test_read_only_folder_is_unpacked_in_the_cache(tmp_path, short, monkeypatch):
    path = write_tar(tmp_path / "a.tar.xz", episodes("a", rows=12))
    monkeypatch.setattr(data.os, "access", lambda place, mode: False)  # root may write anywhere
    found = data.resolve(config.parse(short(path)))
    assert found.folder == tmp_path / "cache" / "datasets" / "a"
    assert not (tmp_path / "a").exists()


def test_video_becomes_episodes(tmp_path, tiny, short):
    path = video(tmp_path / "clip.mp4")
    argv = short(path, video_fps=10, video_episode_length=8)
    folder = tiny.finish(argv)
    found, skipped = dataset(folder)
    # 40 frames at 20 per second are 20 at 10 per second: 8 + 8 + 4.
    assert (found["episodes"], found["frames"], found["skipped"]) == (3, 20, 0)
    assert (found["source"], found["videos"]) == (str(path), 1)
    assert skipped == {}
    source = data.resolve(config.parse(argv))
    assert str(source.folder) == found["folder"]
    assert source.folder.parent == tmp_path / "cache" / "videos"
    images = np.concatenate([np.load(p)["image"] for p in sorted(source.folder.glob("*.npz"))])
    # The bar's middle is at 33 + 2k of 128 columns; the square begins at 28, and its 72 become 64.
    bars = images[:, 32, :, 0].astype(float)
    centres = (bars * np.arange(64)).sum(1) / bars.sum(1) + 0.5
    expected = (33 + 2 * np.arange(20) - 28) * 64 / 72
    np.testing.assert_allclose(centres, expected, atol=0.7)


def test_folder_of_videos_with_bad_ones(tmp_path, tiny, short):
    clips = tmp_path / "clips"
    clips.mkdir()
    whole = video(clips / "a.mp4").read_bytes()
    (clips / "b.mp4").write_text("a text")
    (clips / "c.mp4").write_bytes(whole[: len(whole) // 2])
    (clips / "readme.txt").write_text("not a video at all")
    found, skipped = dataset(tiny.finish(short(clips, video_episode_length=16)))
    assert (found["episodes"], found["frames"], found["skipped"]) == (3, 40, 2)
    assert set(skipped) == {"b.mp4", "c.mp4"}
    assert all(reason.startswith("no video") for reason in skipped.values())


def test_grey_videos_for_a_grey_predictor(tmp_path, tiny, short):
    path = video(tmp_path / "clip.mp4")
    found, _ = dataset(tiny.finish(short(path, grayscale=True)))
    assert (found["episodes"], found["frames"]) == (1, 40)


def test_resumes_on_videos(tmp_path, tiny, short, calling, same):
    """A run that was stopped goes on with the same episodes, and comes to the same end."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in "ba":
        video(clips / f"{name}.mp4")
    flags = {"pretrain_steps": 500, "video_episode_length": 7}
    whole = tiny.finish(short(clips, logdir=tmp_path / "whole", **flags))
    argv = short(clips, logdir=tmp_path / "stopped", **flags)

    def stop():
        raise Stopped

    with calling({("update", 5): stop}):
        assert tiny.run(argv).code == 128
    same.run(tiny.finish(argv), whole)


def test_episodes_win_over_videos_beside_them(tmp_path, tiny, short):
    made = published(tmp_path / "data")
    video(made / "clip.mp4")
    found, skipped = dataset(tiny.finish(short(made)))
    assert (found["episodes"], found["skipped"]) == (3, 1)
    assert skipped == {"clip.mp4": "a video beside .npz episodes"}


def test_folder_of_folders_names_what_is_left_out(tmp_path, short):
    clips = tmp_path / "clips"
    for name in ("classA", "classB"):
        (clips / name).mkdir(parents=True)
        video(clips / name / "x.mp4")
    (clips / "classA" / "cover.jpg").write_bytes(b"")
    (clips / "classB" / "x.wmv").write_text("a text")
    for name in ("notes.txt", "list.csv"):
        (clips / name).write_text("a text")
    found = data.resolve(config.parse(short(clips)))
    beside = "images beside videos (1): give them a folder of their own"
    why = dict(found.skipped)
    assert why.pop("classB/x.wmv").startswith("no video")
    assert why == {"classA": beside}
    assert found.fields["videos"] == 2
    assert found.fields["ignored"] == "2 other files (only videos and images are read)"
    assert len(list(found.folder.glob("*.npz"))) == 2


def test_a_run_is_no_folder_of_films(tmp_path):
    """It has films of its evaluations."""
    (tmp_path / "train_eps").mkdir()
    video(tmp_path / "eval_policy.mp4", count=2)
    with pytest.raises(UserError, match=r"did you mean .*train_eps\?"):
        data.kind_of(str(tmp_path))


def _episode_of_two_channels(home):
    (home / "thing").mkdir()
    np.savez(home / "thing" / "a.npz", image=np.zeros((4, 96, 96, 2), np.uint8))
    return home / "thing"


def _folder_of_archives(home):
    (home / "thing").mkdir()
    write_tar(home / "thing" / "a.tar.xz", episodes("a"))
    return home / "thing"


def _written(name, content):
    def write(home):
        (home / name).write_bytes(content)
        return home / name

    return write


def _truncated(home):
    path = write_tar(home / "a.tar.xz", episodes("a"))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


REFUSED = {  # what cannot be pretrained on, made in a folder; and words of its refusal
    "truncated": (_truncated, ["damaged or cut short"]),
    "no tar": (_written("thing", b"\x1f\x8b\x08 and then nothing"), ["damaged or cut short"]),
    "text": (
        _written("thing", b"hello"),
        ["--pretrain_datasets_path", "neither an archive nor a video", "hf:<name>"],
    ),
    "text video": (
        _written("text.mp4", b"hello"),
        ["no usable video", "text.mp4", "no video, or damaged"],
    ),
    "no frame": (
        lambda home: video(home / "one.mp4", count=1),
        ["no usable video", "less than two frames"],
    ),
    "one episode": (_written("a.npz", b""), ["single episode", "give its folder"]),
    "archives": (_folder_of_archives, ["no .npz", "did you mean", "a.tar.xz"]),
    "two channels": (
        _episode_of_two_channels,
        ["no usable .npz", "[4, 96, 96, 2]", "[4, 64, 64, 3]", "videos"],
    ),
    "only bad": (
        lambda home: write_tar(home / "bad.tar.gz", {"broken.npz": b""}),
        ["no usable .npz", "broken.npz"],
    ),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_before_a_run_begins(tmp_path, tiny, short, make, words):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    path = make(home)
    before = everything(tmp_path)
    refused(tiny, short(path), *words)
    after = everything(tmp_path)
    # A sound archive was unpacked before its episode turned out to be bad.
    extra = (home / "bad", *(home / "bad").glob("*"), tmp_path / "cache", tmp_path / "cache/videos")
    for made in extra:
        after.pop(str(made), None)
    assert after == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"pretrain_datasets_path": "hf:walker_wlak"}, ["did you mean 'hf:walker_walk'"]),
        ({"pretrain_datasets_path": "hf:"}, ["hf:cheetah_run"]),
        ({"pretrain_datasets_path": "walker_walk"}, ["did you mean 'hf:walker_walk'"]),
        ({"video_fps": 5000}, ["--video_fps", "from 0.001 to 1000"]),
        ({"video_episode_length": 1}, ["--video_episode_length", "at least 2"]),
    ],
)
def test_refused_words(tmp_path, tiny, videos, short, flags, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tiny, short(videos, **flags), *words)
    assert list(tmp_path.iterdir()) == []


def test_misspelt_archive_is_named(tmp_path):
    (tmp_path / "cheetah_run.tar.xz").write_bytes(b"\xfd7zXZ\x00")
    (tmp_path / "cheetah_rum.sh").write_text("nearer, and nothing to learn from")
    with pytest.raises(UserError, match=r"no such folder or file.*'cheetah_run\.tar\.xz'"):
        data.kind_of(str(tmp_path / "cheetah_rum.tar"))
    (tmp_path / "cheetah_run.tar.xz").unlink()
    with pytest.raises(UserError, match="there is no such folder or file; give a folder"):
        data.kind_of(str(tmp_path / "cheetah_rum.tar"))


def test_cache_that_cannot_be_made_is_refused(tmp_path, tiny, short):
    path = video(tmp_path / "clip.mp4")
    (tmp_path / "file").write_text("in the way")
    line = refused(tiny, short(path, cache_dir=tmp_path / "file"), "--cache_dir")
    assert str(tmp_path / "file") in line
    assert not (tmp_path / "runs").exists()


def test_plain_folders_stay_as_they_are(tmp_path, tiny, short, videos):
    found, _ = dataset(tiny.finish(short(videos)))
    assert (found["folder"], found["episodes"]) == (str(videos), 6)
    assert "source" not in found
    assert not (tmp_path / "cache").exists()
