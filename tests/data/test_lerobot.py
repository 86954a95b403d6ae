"""LeRobot's layout: rows and images of episodes belong together, in both versions."""

import json
import os

import huggingface_hub
import numpy as np
import pyarrow
import pytest

import config
import data
from data import converting, lerobot
from data.frames import Settings
from replay.episodes import read_episode
from tests.data.layouts import CAMERA, info, lay, packed, table
from tests.data.layouts import lerobot as dataset
from tests.data.samples import level
from tests.helpers.runs import refusal

SETTINGS = Settings(size=(16, 16))
LENGTHS = [5, 1, 7]


def read(folder, settings=SETTINGS):
    """Episodes, and (name, reason) of those that cannot be used."""
    found = [e for piece in lerobot.pieces(folder, str(folder), settings) for e in piece.episodes()]
    skipped = [tuple(each) for each in found if isinstance(each, converting.Skipped)]
    return [each for each in found if not isinstance(each, converting.Skipped)], skipped


def greys(episode):
    return episode["image"][:, 8, 8, 0].astype(int)


@pytest.mark.parametrize("version", [2, 3])
def test_rows_have_the_images_of_their_time(tmp_path, version):
    episodes, skipped = read(lay(tmp_path / "set", dataset(version, LENGTHS, tmp_path)))
    assert skipped == []
    assert [len(episode["image"]) for episode in episodes] == LENGTHS
    start = 0
    for number, (episode, rows) in enumerate(zip(episodes, LENGTHS, strict=True)):
        first = start if version == 3 else 0
        expected = [level(first + t) for t in range(rows)]
        np.testing.assert_allclose(greys(episode), expected, atol=4)
        # What was done at t stands in the row of the image that it led to.
        action = [[0, 0], *([first + t, number] for t in range(rows - 1))]
        np.testing.assert_array_equal(episode["action"], action)
        np.testing.assert_array_equal(episode["reward"], [0, *np.arange(rows - 1) + 0.5])
        np.testing.assert_array_equal(episode["discount"], [*[1] * (rows - 1), 0])
        start += rows


def test_version_3_reads_rows_of_several_files_from_one_video(tmp_path):
    files = dataset(3, [4, 4, 4], tmp_path)
    one, two = (
        pyarrow.concat_tables(tables)
        for tables in ([table(0, 4), table(1, 4, 4)], [table(2, 4, 8)])
    )
    files["data/chunk-000/file-000.parquet"] = packed(one)
    files["data/chunk-000/file-001.parquet"] = packed(two)
    episodes, skipped = read(lay(tmp_path / "set", files))
    assert skipped == []
    found = np.concatenate([greys(episode) for episode in episodes])
    np.testing.assert_allclose(found, [level(t) for t in range(12)], atol=4)


def test_rows_may_leave_images_out(tmp_path):
    """Their time stamps say which ones are theirs."""
    files = dataset(2, [8], tmp_path)
    rows = table(0, 8).take([0, 2, 3, 7])
    files["data/chunk-000/episode_000000.parquet"] = packed(rows)
    [episode], _ = read(lay(tmp_path / "set", files))
    np.testing.assert_allclose(greys(episode), [level(t) for t in (0, 2, 3, 7)], atol=4)


def test_images_alone_will_do(tmp_path):
    files = dataset(2, [4], tmp_path)
    rows = table(0, 4).select(["episode_index"])
    files["data/chunk-000/episode_000000.parquet"] = packed(rows)
    [episode], _ = read(lay(tmp_path / "set", files))
    assert list(episode) == ["image"]
    np.testing.assert_allclose(greys(episode), [level(t) for t in range(4)], atol=4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": table(0, 9)}, "its video ends before image 5"),
        ({"video": None}, "there is no videos/chunk-000"),
        ({"video": b"nothing"}, "no video, or damaged"),
        ({"rows": table(0, 3).set_column(1, "timestamp", [[2.0, 1.0, 3.0]])}, "go back"),
        ({"rows": table(0, 3).set_column(1, "timestamp", [[0, np.nan, 3.0]])}, "stamps are none"),
        ({"video_path": "../{video_key}.mp4"}, "leads out of the dataset"),
        ({"video_path": "/etc/{video_key}"}, "leads out of the dataset"),
        ({"video_path": "{episode_index.__class__}.mp4"}, "there is no {episode_index"),
        ({"video_path": "{x}.mp4"}, "unknown {x}"),
    ],
)
def test_an_odd_episode_is_left_out_and_named(tmp_path, change, reason):
    files = dataset(2, [5, 5], tmp_path)
    if "rows" in change:
        files["data/chunk-000/episode_000000.parquet"] = packed(change["rows"])
    name = f"videos/chunk-000/{CAMERA}/episode_000000.mp4"
    if "video" in change:
        files[name] = change["video"]
        files = {key: value for key, value in files.items() if value is not None}
    if "video_path" in change:
        files["meta/info.json"] = json.dumps(info(2, **change)).encode()
    episodes, skipped = read(lay(tmp_path / "set", files))
    assert len(episodes) == (0 if "video_path" in change else 1)
    assert skipped[0][0] == "episode 0"
    assert reason in skipped[0][1]


BAD = {  # changes of meta/info.json, and the reason
    "no fps": ({"fps": None}, "is not LeRobot's"),
    "fps": ({"fps": 0}, "is not LeRobot's"),
    "features": ({"features": []}, "is not LeRobot's"),
    "images": ({"features": {"a": {"dtype": "image"}}}, "it has no videos"),
    "no path": ({"video_path": None}, "it has no videos"),
    "version": ({"codebase_version": "v1.6"}, "versions 2 and 3"),
    "places": ({"codebase_version": "v3.0"}, "(episode 0: meta/episodes says nothing of it)"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD)
def test_odd_datasets_are_refused_in_one_line(tmp_path, changes, reason):
    folder = lay(tmp_path / "set", dataset(2, [3], tmp_path, **changes))
    names = {"pretrain_datasets_path": str(folder), "cache_dir": str(tmp_path / "cache")}
    line = refusal(data.resolve, config.parse([]).replace(**names))
    assert "--pretrain_datasets_path" in line
    assert reason in line


def test_a_dataset_becomes_episodes_of_the_size_that_is_asked_for(tmp_path):
    """An episode of one row is none."""
    folder = lay(tmp_path / "set", dataset(3, [6, 1, 7], tmp_path))
    names = {"pretrain_datasets_path": str(folder), "cache_dir": str(tmp_path / "cache")}
    source = data.resolve(config.parse([]).replace(**names))
    assert source.folder.parent == tmp_path / "cache" / "converted"
    paths = sorted(source.folder.glob("*.npz"))
    assert [len(read_episode(path)["image"]) for path in paths] == [6, 7]
    assert read_episode(paths[0])["image"].shape == (6, 64, 64, 3)


@pytest.mark.parametrize("version", [2, 3])
def test_a_dataset_is_converted_anew_once_its_videos_or_places_are_others(tmp_path, version):
    files = dataset(version, [4, 4], tmp_path)
    folder = lay(tmp_path / "set", files)
    names = {"pretrain_datasets_path": str(folder), "cache_dir": str(tmp_path / "cache")}

    def lengths():
        source = data.resolve(config.parse([]).replace(**names))
        paths = sorted(source.folder.glob("*.npz"))
        return [len(read_episode(path)["image"]) for path in paths], len(source.skipped)

    last = max(name for name in files if name.endswith(".mp4"))
    (folder / last).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    if version == 2:
        assert lengths() == ([4], 1)
    else:  # all are in one video
        assert "no usable episode" in refusal(lengths)
    (folder / last).write_bytes(files[last])
    assert lengths() == ([4, 4], 0)
    place = "meta/info.json" if version == 2 else "meta/episodes/chunk-000/file-000.parquet"
    before = {p.name for p in (tmp_path / "cache" / "converted").iterdir()}
    lengths()
    assert {p.name for p in (tmp_path / "cache" / "converted").iterdir()} == before
    os.utime(folder / place, (1, 1))
    assert lengths() == ([4, 4], 0)
    after = {p.name for p in (tmp_path / "cache" / "converted").iterdir()}
    assert len(after - before) == 1


def test_a_dataset_of_the_hub_is_downloaded_once(tmp_path, monkeypatch):
    asked = []

    def download(name, cache_dir, **more):
        asked.append((name, cache_dir, more["repo_type"]))
        if len(asked) == 1:
            raise RuntimeError("the connection broke")
        return str(lay(cache_dir / "snapshot", dataset(2, [4], tmp_path)))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    names = {"pretrain_datasets_path": "hf:me/made", "cache_dir": str(tmp_path / "cache")}
    settings = config.parse([]).replace(**names)
    data.check(settings)
    assert asked == []
    sources = [data.resolve(settings) for _ in range(2)]
    assert asked == [("me/made", tmp_path / "cache" / "hub", "dataset")] * 2
    assert sources[0].folder == sources[1].folder
    assert len([*sources[0].folder.glob("*.npz")]) == 1


def test_a_dataset_that_the_hub_has_not_or_of_another_layout_is_refused(tmp_path, monkeypatch):
    names = {"pretrain_datasets_path": "hf:me/made", "cache_dir": str(tmp_path / "cache")}
    settings = config.parse([]).replace(**names)
    answer = ValueError("no such dataset")

    def download(name, **more):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert "cannot be downloaded (no such dataset)" in refusal(data.resolve, settings)
    (tmp_path / "snapshot" / "meta").mkdir(parents=True)
    answer = str(tmp_path / "snapshot")
    assert "is not in LeRobot's layout" in refusal(data.resolve, settings)
    line = refusal(data.kind_of, "hf:../x/y")
    assert "hf:<owner>/<name>" in line
