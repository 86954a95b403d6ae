"""Columns that follow from images: computed once an episode, in every storage and every batch."""

import numpy as np
import pytest

from replay import Columns
from replay.episodes import STORED, read_episode
from replay.room import row_size
from tests.replay.rows import FIELDS, KINDS, each_kind, equal, feed, make

NAMES = {"number": ((), np.float32), "both": ((2,), np.float32)}


class Counting:
    """Reads episode and row from the images of `tests.replay.rows`; counts its calls."""

    def __init__(self):
        self.rows = []

    def __call__(self, image):
        self.rows.append(len(image))
        pixel = image[:, 0, 0].astype(np.float32)
        number, t = pixel[:, 0], pixel[:, 1] + 256 * pixel[:, 2]
        return {"number": number, "both": np.stack([number, t], -1)}


def made(folder, kind="host", directory=None, **kwargs):
    compute = Counting()
    storage = KINDS[kind](folder, {**FIELDS, **NAMES})
    return make(directory, storage, columns=Columns(NAMES, compute), **kwargs), compute


@each_kind
def test_every_row_of_a_batch_has_those_of_its_image(tmp_path, kind):
    """Short episodes joined to others, and an oldest one that has left, as well."""
    (replay, compute), plain = made(tmp_path, kind, capacity=60), make(capacity=60)
    for number, rows in enumerate((30, 5, 3, 28)):
        for each in (replay, plain):
            feed(each, number, rows)
    assert compute.rows == [30, 5, 3, 28]
    assert replay.frames == 36
    for _ in range(5):
        batch = {
            k: np.asarray(v.cpu() if hasattr(v, "cpu") else v)
            for k, v in replay.sample(4, 9).items()
        }
        pixel = batch["image"][:, :, 0, 0].astype(np.float32)
        np.testing.assert_array_equal(batch["number"], pixel[..., 0])
        np.testing.assert_array_equal(batch["both"], pixel[..., :2])
        assert batch["number"].dtype == batch["both"].dtype == np.float32
        # All else is drawn as without them.
        equal({k: v for k, v in batch.items() if k not in NAMES}, plain.sample(4, 9))
    assert compute.rows == [30, 5, 3, 28]


def test_files_have_none_and_a_restored_replay_computes_them_anew(tmp_path):
    own = tmp_path / "train_eps"
    replay, _ = made(tmp_path, directory=own)
    for number, rows in enumerate((12, 4)):
        feed(replay, number, rows)
    for path in own.iterdir():
        assert set(read_episode(path)) == {*STORED, "is_terminal"}
        assert set(np.load(path).files) == {*STORED, "is_terminal"}
    state = replay.state_dict()
    again, compute = made(tmp_path, directory=own)
    again.load_state_dict(state)
    assert compute.rows == [12, 4]
    equal(again.sample(5, 6), replay.sample(5, 6))
    other, compute = made(tmp_path)
    other.load(own)
    assert compute.rows == [12, 4]
    assert other.sample(2, 4)["both"].shape == (2, 4, 2)


def test_a_restoring_tells_how_far_it_is(tmp_path):
    replay, seen = make(tmp_path), []
    for number in range(3):
        feed(replay, number, 4)
    make(tmp_path).load_state_dict(replay.state_dict(), lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("kind", ["host", "disk"])
def test_they_count_as_rows_do(tmp_path, kind):
    replay, _ = made(tmp_path, kind)
    assert row_size(replay.storage.fields) == row_size(FIELDS) + 12
