"""Replay: what an episode file holds, what a batch holds, and that a restored replay goes on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import Replay
from replay.episodes import Restored, read_episode
from replay.storage import RowStore

SHAPE = (2, 2, 3)


def make(directory=None, **kwargs):
    kwargs = {"image_shape": SHAPE, "action_shape": (2,)} | kwargs
    return Replay(directory, **kwargs)


def row(number, t, last, **extra):
    """Row t of an episode: every field tells the episode's number and the row."""
    image = np.zeros(SHAPE, np.uint8)
    image[0, 0] = number % 256, t % 256, t // 256
    action = np.array([number, t], np.float32) if t else np.zeros(2, np.float32)
    fields = {"image": image, "action": action, "reward": number + t / 1024}
    fields |= {"discount": 1.0 - 0.5 * (t == last), "is_terminal": t == last}
    return fields | {"is_first": t == 0, "is_last": t == last} | extra


def feed(replay, number, rows, worker=0):
    """Add a whole episode and return its summary."""
    closed = [replay.add(worker, row(number, t, rows - 1)) for t in range(rows)]
    assert closed[:-1] == [None] * (rows - 1)
    return closed[-1]


def decode(batch):
    """Episode number and row, int [B, T] each, from the images; asserts that all fields agree."""
    pixel = batch["image"][:, :, 0, 0].astype(int)
    number, t = pixel[..., 0], pixel[..., 1] + 256 * pixel[..., 2]
    action = np.stack([number * (t > 0), t], -1)
    np.testing.assert_array_equal(batch["action"], action)
    np.testing.assert_array_equal(batch["reward"], (number + t / 1024).astype(np.float32))
    return number, t


def assert_windows(batch, lengths):
    """Rows follow each other inside an episode; is_first exactly at starts and seams."""
    number, t = decode(batch)
    first = batch["is_first"]
    assert first.dtype == bool
    assert first[:, 0].all()
    for b in range(len(first)):
        cuts = [*np.flatnonzero(first[b]), first.shape[1]]
        for begin, end in itertools.pairwise(cuts):
            assert len(set(number[b, begin:end])) == 1
            np.testing.assert_array_equal(np.diff(t[b, begin:end]), 1)
            if begin > 0:  # a seam: the last piece was complete, the next begins at its row 0
                assert t[b, begin] == 0
                assert t[b, begin - 1] == lengths[number[b, begin - 1]] - 1


def equal(first, second):
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_episode_file_has_one_row_per_step_after_the_reset(tmp_path):
    closed = feed(make(tmp_path / "train_eps"), 7, 4)
    assert (closed.index, closed.name, closed.length) == (0, "000000-s0-4.npz", 3)
    assert closed.ret == sum(np.float64(np.float32(7 + t / 1024)) for t in range(4))
    with np.load(closed.path) as file:
        content = dict(file)
    assert set(content) == {"image", "action", "reward", "discount", "is_terminal"}
    dtypes = {key: value.dtype.name for key, value in content.items()}
    assert dtypes["image"] == "uint8"
    assert dtypes["is_terminal"] == "bool"
    assert {dtypes[key] for key in ("action", "reward", "discount")} == {"float32"}
    np.testing.assert_array_equal(content["image"][:, 0, 0, 1], [0, 1, 2, 3])
    np.testing.assert_array_equal(content["action"], [[0, 0], [7, 1], [7, 2], [7, 3]])
    np.testing.assert_array_equal(content["is_terminal"], [False, False, False, True])
    np.testing.assert_array_equal(content["discount"], [1, 1, 1, 0.5])


def test_logprob_is_written_when_rows_have_it(tmp_path):
    replay = make(tmp_path)
    replay.add(0, row(1, 0, 2))
    replay.add(0, row(1, 1, 2, logprob=-0.5))
    closed = replay.add(0, row(1, 2, 2, logprob=-1.5))
    np.testing.assert_array_equal(read_episode(closed.path)["logprob"], [0, -0.5, -1.5])


def test_rows_are_copied_so_that_environments_may_reuse_buffers():
    replay, buffer = make(), np.zeros(SHAPE, np.uint8)
    for t in range(3):
        buffer[:] = t
        replay.add(0, row(0, t, 2) | {"image": buffer})
    assert replay.sample(1, 3)["image"][0, :, 0, 0, 0].tolist() == [0, 1, 2]


def test_failed_write_leaves_no_file_and_nothing_sampleable(tmp_path, monkeypatch):
    def fail(file, **fields):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    replay = make(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        feed(replay, 0, 3)
    assert list(tmp_path.iterdir()) == []
    assert len(replay) == 0


def test_existing_file_is_never_overwritten(tmp_path):
    closed = feed(make(tmp_path), 0, 3)
    before = closed.path.read_bytes()
    with pytest.raises(FileExistsError, match="000000-s0-3"):
        feed(make(tmp_path), 9, 3)
    assert closed.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros(SHAPE, np.float32)}, "image is float32"),
        ({"image": np.zeros((3, 2, 3), np.uint8)}, r"image is uint8 \[3, 2, 3\]"),
        ({"action": np.zeros(3)}, r"action is float32 \[3\]"),
        ({"reward": np.nan}, "not finite"),
        ({"is_first": True, "action": np.zeros(2)}, "worker 0 starts an episode"),
        ({"is_first": True, "action": np.ones(2)}, "must be zero"),
    ],
)
def test_unfit_row_is_refused_and_the_episode_goes_on(change, message):
    replay = make()
    replay.add(0, row(3, 0, 2))
    with pytest.raises(ValueError, match=message):
        replay.add(0, row(3, 1, 2) | change)
    replay.add(0, row(3, 1, 2))
    assert replay.add(0, row(3, 2, 2)).length == 2
    assert replay.steps == 2


def test_row_without_key_or_open_episode_is_refused():
    replay, whole = make(), row(0, 1, 5)
    with pytest.raises(ValueError, match="first row needs is_first"):
        replay.add(4, whole)
    with pytest.raises(ValueError, match="without discount"):
        replay.add(4, {key: value for key, value in whole.items() if key != "discount"})
    with pytest.raises(ValueError, match="without action"):
        replay.add(4, {key: value for key, value in whole.items() if key != "action"})


def test_workers_fill_their_own_episodes():
    replay = make()
    for t in range(4):
        for worker in (0, 1):
            closed = replay.add(worker, row(worker, t, 3))
    assert (closed.index, replay.episodes, replay.steps) == (1, 2, 6)
    number, _ = decode(replay.sample(50, 4))
    assert set(number.ravel()) == {0, 1}


def test_nothing_to_sample_names_prefill():
    replay = make()
    replay.add(0, row(0, 0, 9))
    with pytest.raises(ValueError, match="prefill"):
        replay.sample(1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        replay.sample(0, 1)


def test_batch_has_the_promised_shapes_and_fills_given_buffers():
    first, second = make(seed=3), make(seed=3)
    for replay in (first, second):
        feed(replay, 1, 9)
    batch = first.sample(4, 5)
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "image": ((4, 5, *SHAPE), "uint8"),
        "action": ((4, 5, 2), "float32"),
        "reward": ((4, 5), "float32"),
        "discount": ((4, 5), "float32"),
        "is_first": ((4, 5), "bool"),
    }
    out = {key: np.full_like(value, 1) for key, value in batch.items()}
    filled = second.sample(4, 5, out=out)
    assert all(filled[key] is out[key] for key in batch)
    equal(batch, filled)
    with pytest.raises(ValueError, match=r"out\['image'\]"):
        second.sample(4, 6, out=out)


def test_every_start_is_equally_likely():
    replay = make()
    lengths = {0: 10, 1: 25, 2: 5, 3: 3}  # the last is short: it counts as one start
    for number, rows in lengths.items():
        feed(replay, number, rows)
    number, t = decode(replay.sample(45_000, 5))
    found = np.zeros((4, 25), int)
    np.add.at(found, (number[:, 0], t[:, 0]), 1)
    starts = {0: 6, 1: 21, 2: 1, 3: 1}
    expected = 45_000 / sum(starts.values())
    counts = np.concatenate([found[n, :count] for n, count in starts.items()])
    assert counts.sum() == 45_000
    assert ((counts - expected) ** 2 / expected).sum() < 56.9  # χ², 28 degrees, p = 0.001


def test_oversample_ends_sees_all_rows_of_a_window_clipped_at_the_end():
    replay = make(oversample_ends=True)
    feed(replay, 0, 20)
    _, t = decode(replay.sample(20_000, 5))
    counts = np.bincount(t[:, 0], minlength=16)
    assert len(counts) == 16
    np.testing.assert_allclose(counts[:15], 1000, rtol=0.15)
    np.testing.assert_allclose(counts[15], 5000, rtol=0.05)


def test_short_episodes_are_given_whole_and_joined_at_seams():
    replay, lengths = make(), {0: 3, 1: 1, 2: 2}
    for number, rows in lengths.items():
        feed(replay, number, rows)
    batch = replay.sample(100, 7)
    assert_windows(batch, lengths)
    assert batch["is_first"].sum() >= 3 * 100


def test_capacity_evicts_whole_old_episodes_and_no_file(tmp_path):
    replay = make(tmp_path, capacity=20)
    for number in range(30):
        feed(replay, number, 6)
        assert replay.frames <= 20
    assert (replay.episodes, replay.frames, replay.steps) == (3, 18, 150)
    assert len(list(tmp_path.iterdir())) == 30
    number, _ = decode(replay.sample(300, 4))
    assert set(number.ravel()) == {27, 28, 29}


def test_episode_beyond_the_capacity_stays_until_the_next():
    replay = make(capacity=10)
    feed(replay, 0, 40)
    assert replay.frames == 40
    assert_windows(replay.sample(20, 30), {0: 40})
    feed(replay, 1, 4)
    assert replay.frames == 4


def test_store_grows_and_wraps_without_mixing_rows():
    store = RowStore({"image": ((), np.uint8), "x": ((), np.int64)}, rows=8)
    rng = np.random.default_rng(0)
    held, written = [], 0
    for _ in range(400):
        if held and rng.random() < 0.48:
            store.pop()
            held.pop(0)
        else:
            x = np.arange(written, written + rng.integers(1, 7))
            written += len(x)
            store.push({"image": x.astype(np.uint8), "x": x})
            held.append(x)
        for episode, x in enumerate(held):
            out = {"image": np.zeros((1, len(x)), np.uint8), "x": np.zeros((1, len(x)), int)}
            store.gather([(episode, 0, len(x), 0, 0)], out)
            np.testing.assert_array_equal(out["x"][0], x)
            np.testing.assert_array_equal(out["image"][0], x.astype(np.uint8))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    capacity=st.integers(0, 40),
    length=st.integers(1, 9),
    ends=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_windows_are_always_rows_of_held_episodes_in_order(lengths, capacity, length, ends, seed):
    replay = make(capacity=capacity, oversample_ends=ends, seed=seed)
    for number, rows in enumerate(lengths):
        feed(replay, number, rows)
    batch = replay.sample(8, length)
    assert_windows(batch, lengths)
    held = range(len(lengths) - replay.episodes, len(lengths))
    assert set(decode(batch)[0].ravel()) <= set(held)
    assert replay.frames == sum(lengths[number] for number in held)


def test_same_seed_same_batches_and_another_seed_others():
    def batch(seed):
        replay = make(seed=seed)
        feed(replay, 0, 50)
        return replay.sample(20, 5)

    equal(batch(1), batch(1))
    assert (batch(1)["image"] != batch(2)["image"]).any()


# Checkpoints


@pytest.mark.parametrize("capacity", [0, 40])
def test_restored_replay_goes_on_as_if_never_interrupted(tmp_path, capacity):
    def run(replay, start, stop):
        """Two workers out of step; a batch now and then."""
        batches = []
        for i in range(start, stop):
            for worker, rows in ((0, 7), (1, 11)):
                number, t = divmod(i, rows)
                replay.add(worker, row(100 * worker + number, t, rows - 1))
            if i % 5 == 4 and i > 10:
                batches.append(replay.sample(6, 8))
        return batches

    def new(name):
        return make(tmp_path / name / "train_eps", capacity=capacity, seed=5, oversample_ends=True)

    expected = run(through := new("a"), 0, 120)
    run(killed := new("b"), 0, 62)
    state = killed.state_dict()
    steps, names = killed.steps, sorted(p.name for p in killed.directory.iterdir())
    assert sorted(state["ongoing"]) == [0, 1]
    assert len(state["files"]) == killed.episodes
    assert (len(names) > killed.episodes) == bool(capacity)  # evicted ones keep their files
    run(killed, 62, 90)  # after the checkpoint, and lost
    later = sorted({p.name for p in killed.directory.iterdir()} - set(names))
    assert later

    resumed = new("b")
    moved = resumed.load_state_dict(state).stale
    assert [path.name for path in moved] == later
    assert {path.parent for path in moved} == {tmp_path / "b" / "stale"}
    assert all(read_episode(path) for path in moved)
    assert sorted(p.name for p in resumed.directory.iterdir()) == names
    assert resumed.steps == steps
    found = run(resumed, 62, 120)
    for one, other in zip(expected[-len(found) :], found, strict=True):
        equal(one, other)
    assert (resumed.steps, resumed.frames) == (through.steps, through.frames)
    for path in sorted(through.directory.iterdir()):
        equal(read_episode(path), read_episode(resumed.directory / path.name))
    assert len(list(resumed.directory.iterdir())) == len(list(through.directory.iterdir()))


def test_state_is_plain_and_survives_a_moved_run_folder(tmp_path):
    old = make(tmp_path / "old" / "train_eps")
    feed(old, 0, 9)
    old.add(3, row(1, 0, 5))
    state = old.state_dict()
    assert state["files"] == ["000000-s0-9.npz"]
    assert {type(value) for value in state.values()} == {str, list, int, dict}
    assert {type(value) for value in state["ongoing"][3].values()} == {np.ndarray}
    expected = old.sample(3, 4)
    (tmp_path / "old").rename(tmp_path / "new")
    new = make(tmp_path / "new" / "train_eps", seed=99)
    assert new.load_state_dict(state) == Restored()
    equal(expected, new.sample(3, 4))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_restoring_names_the_episode_that_is_unfit(tmp_path, damage):
    replay = make(tmp_path)
    path = feed(replay, 0, 5).path
    state = replay.state_dict()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000000-s0-5\.npz: the checkpoint needs"):
        make(tmp_path).load_state_dict(state)


def test_state_of_unsaved_episodes_is_refused():
    replay = make()
    feed(replay, 0, 5)
    with pytest.raises(ValueError, match="no state to restore"):
        replay.state_dict()


def test_loaded_dataset_is_restored_and_own_folder_numbers_go_on(tmp_path):
    feed(make(tmp_path / "data", tag="source"), 1, 6)
    replay = make(tmp_path / "own")
    replay.load(tmp_path / "data")
    feed(replay, 2, 5)
    state, expected = replay.state_dict(), replay.sample(5, 3)
    restored = make(tmp_path / "own")
    restored.load_state_dict(state)
    equal(expected, restored.sample(5, 3))
    again = make(tmp_path / "own")
    again.load(tmp_path / "own")
    assert feed(again, 3, 4).name == "000001-s0-4.npz"
