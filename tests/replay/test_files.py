"""Folders of episode files: walked, of several episodes each, with ends marked otherwise."""

import numpy as np
import pytest

from replay import Restored
from replay.files import check_episodes, count_rows, episode_files, read_episodes
from tests.helpers.runs import refusal
from tests.replay.rows import SHAPE, episode, make
from tests.replay.rows import decode as decoded


def write(path, *numbers, rows=5, **more):
    """A file of several episodes, one after the other, which is_first tells apart."""
    parts = [episode(number, rows) for number in numbers]
    content = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    content["is_first"] = np.arange(rows * len(numbers)) % rows == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content | more)
    return path


@pytest.mark.parametrize("dtype", [bool, np.float32, np.uint8])
def test_without_a_discount_terminal_rows_say_it(tmp_path, dtype):
    terminal = np.zeros(5, dtype)
    terminal[-1] = 1
    np.savez(tmp_path / "a.npz", image=np.zeros((5, *SHAPE), np.uint8), is_terminal=terminal)
    np.savez(tmp_path / "b.npz", image=np.ones((5, *SHAPE), np.uint8))
    discount = np.full(5, 0.5, np.float32)
    two = {"is_terminal": terminal, "discount": discount}
    np.savez(tmp_path / "c.npz", image=np.full((5, *SHAPE), 2, np.uint8), **two)
    replay = make()
    assert replay.load(tmp_path).episodes == 3
    batch = replay.sample(60, 5)
    expected = np.array([[1, 1, 1, 1, 0], [1] * 5, [0.5] * 5], np.float32)
    kind = batch["image"][:, 0, 0, 0, 0]
    assert set(kind) == {0, 1, 2}
    np.testing.assert_array_equal(batch["discount"], expected[kind])


def test_a_file_of_several_episodes_is_split_in_memory_alone(tmp_path):
    path = write(tmp_path / "a.npz", 1, 2, 3)
    before = path.read_bytes()
    replay = make()
    summary = replay.load(tmp_path)
    assert (summary.episodes, summary.frames, summary.skipped) == (3, 15, [])
    assert (replay.episodes, replay.frames, replay.steps) == (3, 15, 12)
    assert replay.contents() == [["a.npz", 5]] * 3
    assert count_rows(tmp_path) == 15
    assert path.read_bytes() == before
    number, t = decoded(replay.sample(300, 4))
    assert (number == number[:, :1]).all()  # no window has two episodes, but for seams
    assert (np.diff(t) == 1).all()
    assert set(number[:, 0]) == {1, 2, 3}
    batch = replay.sample(300, 7)  # longer than an episode: its seam is a reset
    np.testing.assert_array_equal(batch["is_first"][:, 5], True)


@pytest.mark.parametrize(
    "first", [np.zeros(4, bool), np.zeros((15, 1), bool), np.array(["x"] * 15)]
)
def test_an_odd_is_first_is_refused(tmp_path, first):
    write(tmp_path / "a.npz", 1, 2, 3, is_first=first)
    with pytest.raises(ValueError, match="is_first is"):
        read_episodes(tmp_path / "a.npz")


@pytest.mark.parametrize("capacity", [0, 12])
def test_a_file_of_several_episodes_is_restored(tmp_path, capacity):
    """Those that had left the storage stay out."""
    write(tmp_path / "data" / "a.npz", 1, 2, 3)
    replay = make(tmp_path / "own", capacity=capacity)
    replay.load(tmp_path / "data")
    state, expected = replay.state_dict(), replay.sample(20, 4)
    assert replay.episodes == len(state["files"]) == (2 if capacity else 3)
    again = make(tmp_path / "own", capacity=capacity)
    assert again.load_state_dict(state) == Restored()
    np.testing.assert_array_equal(again.sample(20, 4)["image"], expected["image"])
    write(tmp_path / "data" / "a.npz", 1)
    with pytest.raises(ValueError, match="it has 1 episodes, and had"):
        make(tmp_path / "own", capacity=capacity).load_state_dict(state)


def test_folders_below_are_walked_in_order(tmp_path):
    for name in ("b.npz", "a/z.npz", "x y/inner/1.npz", "x y/inner/2.npz", ".hidden/3.npz"):
        write(tmp_path / "data" / name, len(name))
    (tmp_path / "else").mkdir()
    write(tmp_path / "else" / "4.npz", 4)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "else")
    (tmp_path / "data" / "a" / "round").symlink_to(tmp_path / "data")
    found = [str(path.relative_to(tmp_path / "data")) for path in episode_files(tmp_path / "data")]
    assert found == ["a/z.npz", "b.npz", "link/4.npz", "x y/inner/1.npz", "x y/inner/2.npz"]
    replay = make()
    assert replay.load(tmp_path / "data").episodes == 5
    assert [name for name, _ in replay.contents()] == found


def test_a_folder_without_episodes_is_refused(tmp_path):
    check_episodes("", "offline_traindir")
    assert "--flag" in (line := refusal(check_episodes, str(tmp_path / "no"), "flag"))
    assert "there is no such folder" in line
    assert "has no .npz file" in refusal(check_episodes, str(tmp_path), "flag")
    write(tmp_path / "train_eps" / "a.npz", 1)
    write(tmp_path / "eval_eps" / "a.npz", 1)
    line = refusal(check_episodes, str(tmp_path), "flag")
    assert f"did you mean {tmp_path / 'train_eps'}?" in line
    check_episodes(str(tmp_path / "train_eps"), "flag")
