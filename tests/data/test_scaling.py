"""Images of other sizes fit as the frames of a video do."""

import numpy as np
import pytest

from data.frames import LUMA, Settings, read_frames
from data.scaling import fit
from replay import HostStorage, Replay, row_fields
from tests.data.samples import encode

RNG = np.random.default_rng(0)


def test_images_that_fit_stay_the_same_object():
    images = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert fit(images, (64, 64, 3)) is images
    strange = images[..., :2]
    assert fit(strange, (64, 64, 3)) is strange


@pytest.mark.parametrize("size", [(84, 84), (48, 96), (20, 20), (1, 1)])
@pytest.mark.parametrize("shape", [(64, 64, 3), (64, 64, 1), (32, 48, 3)])
def test_images_are_scaled_as_a_lossless_video_is(tmp_path, size, shape):
    images = RNG.integers(0, 256, (3, *size, 3), dtype=np.uint8)
    path = encode(tmp_path / "a.mkv", [*images], codec="ffv1", pixels="bgr0")
    settings = Settings(size=shape[:2], grayscale=shape[2] == 1)
    np.testing.assert_array_equal(fit(images, shape), [*read_frames(path, settings)])


@pytest.mark.parametrize("size", [(64, 64), (84, 84)])
def test_grey_becomes_three_equal_colours_and_stays_as_bright(size):
    images = np.full((2, *size, 1), 100, np.uint8)
    for channels in (1, 3):
        found = fit(images, (64, 64, channels))
        assert found.shape == (2, 64, 64, channels)
        assert (found == 100).all()


def test_colours_become_grey_as_gymnasium_has_it():
    images = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(images, (64, 64, 1))[..., 0], (images @ LUMA).astype("u1"))


def test_a_replay_takes_episodes_of_other_sizes_and_restores_them(tmp_path):
    images = RNG.integers(0, 256, (5, 84, 84, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", image=images)
    replay, again = (
        Replay(HostStorage(row_fields((64, 64, 3), 0)), tmp_path / "own", fit=fit) for _ in "ab"
    )
    assert replay.load(tmp_path / "data").skipped == []
    np.testing.assert_array_equal(replay.sample(1, 5)["image"][0], fit(images, (64, 64, 3)))
    assert again.load_state_dict(replay.state_dict()).lost == []
    assert again.frames == 5
