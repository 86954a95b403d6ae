"""What --pretrain_datasets_path takes, through the real command line; what it refuses."""

import tarfile

import av
import numpy as np
import pytest

import config
import sources
from logger import read_metrics
from run import Stopped
from tools import UserError

ROWS = 251  # of a published episode


def published(folder, number=3, rows=ROWS):
    """Episodes with the keys of the published ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        np.savez_compressed(
            folder / f"20240101T00000{index}-{rows}.npz",
            # Long runs of one value, so that it is packed fast.
            image=np.repeat(rng.integers(0, 256, (rows, 64, 1, 3), dtype=np.uint8), 64, axis=2),
            action=rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
            logprob=np.zeros(rows, np.float32),
            reward=rng.uniform(0, 1, rows).astype(np.float32),
            discount=np.ones(rows, np.float32),
            is_terminal=np.zeros(rows, bool),
        )
    return folder


def archive(path, folder, name):
    fast = {"compresslevel": 1} if path.suffix == ".gz" else {"preset": 0}
    with tarfile.open(path, f"w:{path.suffix[1:]}", **fast) as tar:
        tar.add(folder, name)
    return path


def video(path, count=40, height=72, width=128):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(count):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, 28 + index : 38 + index] = 220  # a bar that moves to the right
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def everything(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


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
    data = published(tmp_path / "made" / "cheetah_run")
    (tmp_path / "data").mkdir()
    path = archive(tmp_path / "data" / f"cheetah_run{suffix}", data, "cheetah_run")
    found, skipped = dataset(tiny.finish(short(path)))
    assert (found["episodes"], found["frames"], found["skipped"]) == (3, 3 * ROWS, 0)
    assert found["folder"] == str(tmp_path / "data" / "cheetah_run")
    assert (found["source"], found["ignored"]) == (str(path), 0)
    assert skipped == {}
    assert not (tmp_path / "cache").exists()


def test_archive_equals_its_folder(tmp_path, tiny, short, same):
    """The same episodes give the same predictor."""
    data = published(tmp_path / "made" / "walker_walk", rows=20)
    path = archive(tmp_path / "walker_walk.tar.xz", data, "walker_walk")
    one = tiny.finish(short(path, logdir=tmp_path / "one"))
    other = tiny.finish(short(data, logdir=tmp_path / "other"))
    rows = [
        [{k: v for k, v in row.items() if k not in ("source", "ignored")} for row in r]
        for r in (same.metrics(one), same.metrics(other))
    ]
    assert any("image_loss" in row for row in rows[0])
    same.values(rows[0], rows[1])


def test_scale_takes_a_share_of_an_archive(tmp_path, tiny, short):
    data = published(tmp_path / "made" / "a", number=8, rows=12)
    path = archive(tmp_path / "a.tar.gz", data, "a")
    found, _ = dataset(tiny.finish(short(path, pretrain_dataset_scale=0.25)))
    assert (found["episodes"], found["frames"]) == (2, 24)


def test_corrupt_episode_of_an_archive_is_named_and_left_out(tmp_path, tiny, short):
    data = published(tmp_path / "made" / "a", rows=12)
    (data / "broken.npz").write_bytes(b"no archive")
    np.savez(data / "large.npz", image=np.zeros((4, 32, 48, 3), np.uint8))
    path = archive(tmp_path / "a.tar.xz", data, ".")
    found, skipped = dataset(tiny.finish(short(path)))
    assert (found["episodes"], found["skipped"]) == (3, 2)
    assert set(skipped) == {"broken.npz", "large.npz"}
    assert "[4, 32, 48, 3]" in skipped["large.npz"]
    assert "[4, 64, 64, 3]" in skipped["large.npz"]


def test_read_only_folder_is_unpacked_in_the_cache(tmp_path, tiny, short, monkeypatch):
    data = published(tmp_path / "made" / "a", rows=12)
    path = archive(tmp_path / "a.tar.xz", data, "a")
    parsed = config.parse(short(path))
    monkeypatch.setattr(sources.os, "access", lambda place, mode: False)  # root may write anywhere
    assert sources.resolve(parsed).folder == tmp_path / "cache" / "datasets" / "a"
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
    source = sources.resolve(config.parse(argv))
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
    data = published(tmp_path / "data", rows=12)
    video(data / "clip.mp4")
    found, skipped = dataset(tiny.finish(short(data)))
    assert (found["episodes"], found["skipped"]) == (3, 1)
    assert skipped == {"clip.mp4": "a video beside .npz episodes"}


REFUSED = {
    "truncated": ["damaged or cut short"],
    "hostile": ["'../../x'", "nothing was unpacked"],
    "no_tar": ["damaged or cut short"],
    "text": ["neither an archive nor a video", "hf:<name>"],
    "text_video": ["no usable video", "text.mp4", "no video, or damaged"],
    "no_frame": ["no usable video", "less than two frames"],
    "one_episode": ["single episode", "give its folder"],
    "archives": ["no .npz", "did you mean", "a.tar.xz"],
    "other_size": ["no usable .npz", "[4, 96, 96, 3]", "[4, 64, 64, 3]", "videos"],
    "only_bad": ["no usable .npz", "broken.npz"],
}


def make(kind, home):
    """A thing that cannot be pretrained on."""
    path = home / "thing"
    if kind in ("truncated", "hostile"):
        data = published(home / "made" / "a", rows=12)
        path = archive(home / "a.tar.xz", data, "a")
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:-2000])
        else:
            with tarfile.open(path, "w:gz") as tar:
                tar.add(data, "a")
                tar.addfile(tarfile.TarInfo("../../x"))
    elif kind == "no_tar":
        path.write_bytes(b"\x1f\x8b\x08 and then nothing of the kind")
    elif kind in ("text", "text_video"):
        path = path if kind == "text" else home / "text.mp4"
        path.write_text("hello")
    elif kind == "no_frame":
        path = video(home / "one.mp4", count=1)
    elif kind == "one_episode":
        path = next(published(home / "made", number=1, rows=12).iterdir())
    elif kind == "archives":
        archive(published(home / "made", rows=12).parent / "a.tar.xz", home / "made", "a")
        path.mkdir()
        (home / "a.tar.xz").rename(path / "a.tar.xz")
    elif kind == "other_size":
        path.mkdir()
        np.savez(path / "a.npz", image=np.zeros((4, 96, 96, 3), np.uint8))
    else:
        path = home / "bad.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("broken.npz")
            tar.addfile(member)
    return path


@pytest.mark.parametrize(("kind", "words"), REFUSED.items(), ids=REFUSED)
def test_refused_in_one_line_before_a_run_begins(tmp_path, tiny, short, kind, words):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    path = make(kind, home)
    before = everything(tmp_path)
    refused(tiny, short(path), "--pretrain_datasets_path" if kind == "text" else "", *words)
    after = everything(tmp_path)
    if kind == "only_bad":  # a sound archive was unpacked before its episode turned out to be bad
        after = {k: v for k, v in after.items() if not k.startswith(str(home / "bad"))}
        before = {k: v for k, v in before.items() if not k.startswith(str(home / "bad"))}
    after.pop(str(tmp_path / "cache"), None)
    after.pop(str(tmp_path / "cache" / "videos"), None)
    assert after == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"pretrain_datasets_path": "hf:walker_wlak"}, ["did you mean 'hf:walker_walk'"]),
        ({"pretrain_datasets_path": "hf:"}, ["hf:cheetah_run"]),
        ({"pretrain_datasets_path": "walker_walk"}, ["did you mean 'hf:walker_walk'"]),
        ({"video_fps": -1}, ["--video_fps", "between 0 and 1000"]),
        ({"video_episode_length": 1}, ["--video_episode_length", "at least 2"]),
    ],
)
def test_refused_words(tmp_path, tiny, videos, short, flags, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tiny, short(videos, **flags), *words)
    assert list(tmp_path.iterdir()) == []


def test_misspelt_archive_is_named(tmp_path):
    (tmp_path / "cheetah_run.tar.xz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no such folder or file.*'cheetah_run\.tar\.xz'"):
        sources.kind_of(str(tmp_path / "cheetah_rum.tar.xz"))


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
