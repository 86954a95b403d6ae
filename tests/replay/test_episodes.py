"""Episode files: the published format, and every way in which a file can be unfit."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fileio import npz
from replay import HostStorage, row_fields
from replay.episodes import read_episode, save_episode, set_aside
from tests.replay.rows import SHAPE, make


def published(rows=5, **changes):
    fields = {
        "image": np.zeros((rows, *SHAPE), np.uint8),
        "action": np.zeros((rows, 2), np.float32),
        "reward": np.arange(rows, dtype=np.float32),
        "discount": np.full(rows, 0.5, np.float32),
        "is_terminal": np.zeros(rows, bool),
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


def test_saved_episode_reads_back_and_unknown_keys_stay_out(tmp_path):
    rng = np.random.default_rng(0)
    content = published(image=rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8))
    save_episode(tmp_path / "a-5.npz", content | {"logprob": np.zeros(5), "note": np.array(["x"])})
    back = read_episode(tmp_path / "a-5.npz")
    assert set(back) == set(content)
    for key in content:
        np.testing.assert_array_equal(back[key], content[key])
        assert back[key].dtype == content[key].dtype


def test_load_takes_published_and_image_only_files_in_order(tmp_path):
    images = [np.full((rows, *SHAPE), rows, np.uint8) for rows in (5, 4)]
    np.savez_compressed(tmp_path / "b-5.npz", **published(5, image=images[0]))
    np.savez_compressed(tmp_path / "a-4.npz", image=images[1])
    replay, calls = make(), []
    summary = replay.load(tmp_path, progress=lambda *call: calls.append(call))
    assert (summary.episodes, summary.frames, summary.skipped) == (2, 9, [])
    assert calls == [(1, 2), (2, 2)]
    assert (replay.steps, replay.frames, replay.episodes) == (7, 9, 2)
    assert replay.contents() == [["a-4.npz", 4], ["b-5.npz", 5]]
    batch = replay.sample(200, 4)
    bare = batch["image"][:, 0, 0, 0, 0] == 4
    assert bare.any()
    assert not bare.all()
    assert not batch["action"][bare].any()
    assert not batch["reward"][bare].any()
    assert (batch["discount"][bare] == 1).all()
    assert (batch["discount"][~bare] == 0.5).all()


def test_action_free_replay_ignores_actions_in_files(tmp_path):
    np.savez_compressed(tmp_path / "a-5.npz", **published(5))
    replay = make(storage=HostStorage(row_fields(SHAPE, 0)))
    assert replay.load(tmp_path).episodes == 1
    assert replay.sample(2, 3)["action"].shape == (2, 3, 0)


def test_fraction_takes_a_seeded_nested_subset(tmp_path):
    for number in range(20):
        np.savez_compressed(tmp_path / f"{number:02d}-3.npz", **published(3))

    def names(**kwargs):
        replay = make()
        replay.load(tmp_path, **kwargs)
        return [name for name, _ in replay.contents()]

    quarter, half = names(fraction=0.25, seed=1), names(fraction=0.5, seed=1)
    assert (len(quarter), len(half)) == (5, 10)
    assert quarter == sorted(quarter)
    assert set(quarter) < set(half)
    assert quarter == names(fraction=0.25, seed=1)
    assert quarter != names(fraction=0.25, seed=2)
    with pytest.raises(ValueError, match="fraction"):
        names(fraction=0.0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make().load(tmp_path / "nowhere")


BROKEN = {
    "dtype": (published(image=np.zeros((5, *SHAPE), np.float32)), r"image is float32 \[5, 2, 2, 3"),
    "shape": (published(image=np.zeros((5, 9, 8, 3), np.uint8)), r"image is uint8 \[5, 9, 8, 3\]"),
    "lengths": (published(reward=np.zeros(4)), r"reward is float64 \[4\] beside 5 images"),
    "action": (published(action=np.zeros((5, 3), np.float32)), r"action is float32 \[5, 3\]"),
    "pickle": (published(reward=np.array([None] * 5)), "Python objects"),
    "text": (published(reward=np.array(["x"] * 5)), "reward is <U1"),
    "nan": (published(reward=np.full(5, np.nan)), "not finite"),
    "imageless": (published(image=None), "no image"),
    "column": (published(reward=np.zeros((5, 1))), r"not \[T\]"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_odd_episode_is_skipped_with_its_reason(tmp_path, kind):
    content, reason = BROKEN[kind]
    np.savez_compressed(tmp_path / "bad-5.npz", **content)
    np.savez_compressed(tmp_path / "good-5.npz", **published(5))
    replay = make()
    summary = replay.load(tmp_path)
    assert replay.episodes == summary.episodes == 1
    [(name, found)] = summary.skipped
    assert name == "bad-5.npz"
    assert re.search(reason, found), found


def test_damaged_files_are_skipped_with_a_reason_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    np.savez_compressed(tmp_path / "good-5.npz", **published(5, image=image))
    whole = (tmp_path / "good-5.npz").read_bytes()
    (tmp_path / "cut-5.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty-5.npz").touch()
    (tmp_path / "text-5.npz").write_text("not\nan archive")
    (tmp_path / "folder-5.npz").mkdir()
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare-5.npz")
    summary = make().load(tmp_path)
    assert [name.split("-")[0] for name, _ in summary.skipped] == [
        "bare",
        "cut",
        "empty",
        "folder",
        "text",
    ]
    assert all(reason and "\n" not in reason for _, reason in summary.skipped)
    assert summary.episodes == 1


def test_any_flipped_byte_gives_an_episode_or_a_value_error(tmp_path):
    path, rng = tmp_path / "a-5.npz", np.random.default_rng(0)
    np.savez_compressed(path, **published(5))
    whole, refused = np.frombuffer(path.read_bytes(), np.uint8), 0
    for position in rng.choice(len(whole), 300, replace=False):
        damaged = whole.copy()
        damaged[position] ^= rng.integers(1, 256, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            read_episode(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_set_aside_moves_later_episodes_and_keeps_all_names(tmp_path):
    own = tmp_path / "train_eps"
    own.mkdir()
    for name in ("000001-s0-3", "000002-s0-3", "000003-s0-4", "20230101T000000-abc-251"):
        (own / f"{name}.npz").write_text(name)
    (tmp_path / "stale").mkdir()
    (tmp_path / "stale" / "000002-s0-3.npz").write_text("older")
    (own / "000004-s1-3.npz").write_text("another run's")
    moved = set_aside(own, 2, "s0")
    assert [path.name for path in moved] == ["000002-s0-3.1.npz", "000003-s0-4.npz"]
    assert [path.read_text() for path in moved] == ["000002-s0-3", "000003-s0-4"]
    assert (tmp_path / "stale" / "000002-s0-3.npz").read_text() == "older"
    assert sorted(path.name[:8] for path in own.iterdir()) == ["000001-s", "000004-s", "20230101"]


def test_many_threads_read_whole_episodes(tmp_path):
    """NumPy's own reader of headers fails here by chance, under CPython 3.11."""
    for number in range(40):
        save_episode(tmp_path / f"{number:06d}-s0-5.npz", published(5))
    paths = sorted(tmp_path.glob("*.npz"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: len(read_episode(path)["image"]), paths * 20))
    assert found == [5] * 800


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.float32(3),
        np.asfortranarray(np.arange(20.0).reshape(4, 5)),
        np.arange(6, dtype=">f4").reshape(3, 2),
        np.array([True, False]),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path, array):
    np.savez_compressed(tmp_path / "a.npz", image=array)
    found = npz.read(tmp_path / "a.npz", ["image", "absent"])
    assert list(found) == ["image"]
    assert found["image"].dtype == np.load(tmp_path / "a.npz")["image"].dtype
    assert found["image"].flags.writeable
    np.testing.assert_array_equal(found["image"], array)
    assert npz.length(tmp_path / "a.npz", "image") == (array.shape or (0,))[0]
