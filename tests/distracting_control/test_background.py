"""The background: videos that the tests draw, found, decoded and seen in the sky."""

import imageio.v3 as iio
import numpy as np
import pytest
from dm_control import suite
from PIL import Image

from distracting_control import DistractingBackground
from distracting_control.videos import DAVIS, Video, find_videos

COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]


def sequence(folder, frames=5, suffix="jpg"):
    folder.mkdir(parents=True)
    for index in range(frames):
        image = Image.new("RGB", (60, 40), COLORS[index % len(COLORS)])
        image.save(folder / f"{index:05d}.{suffix}")


def movie(path, frames=5):
    images = np.stack([np.full((64, 96, 3), COLORS[i], np.uint8) for i in range(frames)])
    if path.suffix == ".gif":
        first, *rest = (Image.fromarray(image) for image in images)
        first.save(path, save_all=True, append_images=rest, duration=50)
    else:
        iio.imwrite(path, images, plugin="pyav", codec="libx264", fps=10)


def walker(**kwargs):
    env = suite.load("walker", "walk", task_kwargs={"random": 0})
    return DistractingBackground(env, **kwargs)


def sky(env):
    """Colour of the sky in the upper left corner, [3]."""
    return env.physics.render(32, 32, camera_id=0)[0, 0].astype(int)


@pytest.mark.parametrize("kind", ["jpg", "mp4", "gif"])
def test_every_frame_of_a_dynamic_background_is_seen(tmp_path, kind):
    if kind == "jpg":
        sequence(tmp_path / "video")
    else:
        movie(tmp_path / f"video.{kind}")
    env = walker(dataset_path=tmp_path, dynamic=True, random=0)
    env.reset()
    indices = []
    for _ in range(12):
        _, index = env.frame
        indices.append(index)
        np.testing.assert_allclose(sky(env), COLORS[index], atol=25)
        env.step(np.zeros(6))
    env.physics.free()
    steps = np.diff(indices)
    assert (np.abs(steps) == 1).all()
    assert set(indices) == set(range(5))
    turns = [indices[i] for i in range(1, 11) if steps[i] != steps[i - 1]]
    assert set(turns) == {0, 4}


def test_static_background_keeps_one_frame_an_episode(tmp_path):
    sequence(tmp_path / "a")
    sequence(tmp_path / "b")
    env = walker(dataset_path=tmp_path, random=0)
    shown = set()
    for _ in range(8):
        env.reset()
        frame = env.frame
        before = sky(env)
        for _ in range(3):
            env.step(np.ones(6))
        assert env.frame == frame
        np.testing.assert_array_equal(sky(env), before)
        shown.add(frame)
    env.physics.free()
    assert {name for name, _ in shown} == {"a", "b"}
    assert len({index for _, index in shown}) > 2


def test_frame_is_not_mirrored(tmp_path):
    (tmp_path / "video").mkdir()
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, :20] = (255, 0, 0)
    halves[:, 20:] = (0, 0, 255)
    Image.fromarray(halves).save(tmp_path / "video" / "0.png")
    env = suite.load("cheetah", "run", task_kwargs={"random": 0})
    env = DistractingBackground(env, tmp_path, random=0)
    env.reset()
    top = env.physics.render(32, 32, camera_id=0)[0]
    env.physics.free()
    assert top[2, 0] > 200
    assert top[-3, 2] > 200


def test_upload_before_and_after_the_first_rendering(tmp_path):
    sequence(tmp_path / "video", frames=3)
    env = walker(dataset_path=tmp_path, dynamic=True, random=1)
    env.reset()
    env.step(np.zeros(6))
    raw = env._env.physics
    assert raw._contexts is None  # without rendering, no context is made
    for _ in range(3):
        np.testing.assert_allclose(sky(env), COLORS[env.frame[1]], atol=25)
        for _ in range(5):
            env.step(np.zeros(6))
    raw.free()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_floor_alpha(tmp_path, alpha):
    sequence(tmp_path / "video", frames=1)
    env = suite.load("reacher", "easy", task_kwargs={"random": 0})
    env = DistractingBackground(env, tmp_path, floor_alpha=alpha, random=0)
    env.reset()
    assert env.physics.named.model.mat_rgba["grid", "a"] == pytest.approx(alpha)
    red, green, _ = env.physics.render(32, 32, camera_id=0)[10, 5].astype(int)
    env.physics.free()
    if alpha == 0:
        assert red - green > 150
    elif alpha == 1:
        assert red < 100
    else:
        assert 20 < red - green < 150


def test_split_folders(tmp_path):
    sequence(tmp_path / "train" / "one")
    sequence(tmp_path / "val" / "two")
    movie(tmp_path / "val" / "three.mp4")
    assert [path.name for path in find_videos(tmp_path, "train")] == ["one"]
    assert [path.name for path in find_videos(tmp_path, "val")] == ["three.mp4", "two"]


def test_davis_names(tmp_path):
    frames = tmp_path / "JPEGImages" / "480p"
    for name in ("train", "bear", "camel", "dog"):
        sequence(frames / name, frames=1)
    for root in (tmp_path, frames):  # `train` is one of the videos here
        assert [path.name for path in find_videos(root, "train")] == ["bear", "train"]
        assert [path.name for path in find_videos(root, "val")] == ["camel", "dog"]
    assert len(find_videos(tmp_path, None)) == 4
    assert [path.name for path in find_videos(tmp_path, ["dog", "bear"])] == ["dog", "bear"]
    assert (len(DAVIS["train"]), len(DAVIS["val"])) == (60, 30)
    assert not set(DAVIS["train"]) & set(DAVIS["val"])


def test_any_other_folder_is_used_whole_for_either_split(tmp_path):
    sequence(tmp_path / "one")
    movie(tmp_path / "two.gif")
    for name in ("train", "val"):
        assert len(find_videos(tmp_path, name)) == 2


def test_only_the_first_frames_are_read(tmp_path):
    movie(tmp_path / "a.mp4")
    sequence(tmp_path / "b")
    assert len(Video(tmp_path / "a.mp4", 16, 3)) == 3
    assert len(Video(tmp_path / "b", 16, 3)) == 3
    assert Video(tmp_path / "b", 16, 3)[2].shape == (16, 16, 3)


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of background videos"):
        walker(dataset_path=tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="neither image sequences nor movie files"):
        walker(dataset_path=tmp_path)
    sequence(tmp_path / "bear", frames=1)
    with pytest.raises(FileNotFoundError, match="neither"):  # DAVIS, but none of that split
        walker(dataset_path=tmp_path, dataset_videos="val")
    with pytest.raises(FileNotFoundError, match="'lion'"):
        walker(dataset_path=tmp_path, dataset_videos=["lion"])
    with pytest.raises(ValueError, match="'training'"):
        walker(dataset_path=tmp_path, dataset_videos="training")
    with pytest.raises(ValueError, match="4 background videos asked for, 1 found"):
        walker(dataset_path=tmp_path, num_videos=4)
    with pytest.raises(ValueError, match="floor_alpha"):
        walker(dataset_path=tmp_path, floor_alpha=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        walker(dataset_path=tmp_path, texture_size=0)
    with pytest.raises(ValueError, match="no room"):
        walker(dataset_path=tmp_path, texture_size=2000)
