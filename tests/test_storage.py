"""Rows on disk: the same numbers as in memory, and no file with a name."""

import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from job import new_replay
from replay import Replay, storage
from replay.storage import DiskRowStore, RowStore
from tools import UserError

SHAPE = (2, 2, 3)
FIELDS = {"image": ((5,), np.uint8), "x": ((), np.int64), "none": ((0,), np.float32)}


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    """Builds an empty store of so many rows."""
    if request.param == "memory":
        return lambda rows: RowStore(FIELDS, rows)
    return lambda rows: DiskRowStore(FIELDS, rows, tmp_path)


def numbered(first, rows):
    """An episode whose rows are numbered through."""
    x = np.arange(first, first + rows)
    image = (x[:, None] * [1, 3, 5, 7, 11]).astype(np.uint8)
    return {"image": image, "x": x, "none": np.zeros((rows, 0), np.float32)}


def window(store, episode, first, rows):
    """A slice of an episode, alone in a batch."""
    out = {key: np.zeros((1, rows, *shape), dtype) for key, (shape, dtype) in FIELDS.items()}
    store.gather([(episode, first, rows, 0, 0)], out)
    return {key: value[0] for key, value in out.items()}


def assert_holds(store, episodes):
    for number, expected in enumerate(episodes):
        found = window(store, number, 0, len(expected["x"]))
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=f"{key} of {number}")


def open_files(folder):
    """Status of each file below a folder that this process has open."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                status = os.stat(link)
                found[status.st_ino] = status
        except FileNotFoundError:
            continue  # the listing's own
    return list(found.values())


# The store


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [7, 700])
def test_store_holds_what_a_list_of_episodes_would(store, seed, most):
    """Growing, wrapping, evicting, emptied now and then; rows cross pages of memory, or do not."""
    rng = np.random.default_rng(seed)
    rows, held, written = store(most + 1), [], 0
    for _ in range(120):
        action = rng.random()
        if held and action < 0.46:
            rows.pop()
            held.pop(0)
        elif action > 0.99:
            rows.clear()
            held.clear()
        else:
            held.append(numbered(written, rng.integers(1, most)))
            written += len(held[-1]["x"])
            rows.push(held[-1])
        assert_holds(rows, held)


@pytest.mark.parametrize("popped", [1, 2, 3])
def test_wrapped_ring_grows_in_order(store, popped):
    rows = store(10)
    held = [numbered(10 * n, 3) for n in range(3)]
    for episode in held:
        rows.push(episode)
    for _ in range(popped):
        rows.pop()
        held.pop(0)
    # The first goes where the oldest were; the second finds no room.
    for episode in (numbered(100, 3), numbered(200, 25), numbered(300, 40)):
        rows.push(episode)
        held.append(episode)
        assert_holds(rows, held)


def test_gather_reads_slices_to_their_places(store):
    rows = store(4)
    for n in range(3):
        rows.push(numbered(100 * n, 50))
    out = {key: np.zeros((2, 9, *shape), dtype) for key, (shape, dtype) in FIELDS.items()}
    rows.gather([(2, 41, 9, 0, 0), (0, 7, 4, 1, 0), (1, 0, 5, 1, 4)], out)
    expected = [[*range(241, 250)], [7, 8, 9, 10, 100, 101, 102, 103, 104]]
    np.testing.assert_array_equal(out["x"], expected)
    np.testing.assert_array_equal(out["image"][..., 2], (np.array(expected) * 5).astype(np.uint8))


def test_episode_larger_than_what_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WRITTEN_AT_ONCE", 100)
    rows = DiskRowStore(FIELDS, 10, tmp_path)
    held = [numbered(0, 90), numbered(1000, 41)]
    rows.push(held[0])
    rows.push(held[1])
    assert_holds(rows, held)
    rows.pop()
    rows.push(numbered(2000, 80))  # where the first was
    rows.push(numbered(3000, 300))  # and all that moves
    assert_holds(rows, [held[1], numbered(2000, 80), numbered(3000, 300)])


def test_file_has_no_name_and_goes_with_its_store(tmp_path):
    folder = tmp_path / "not" / "there"
    rows = DiskRowStore(FIELDS, 10, folder)
    for n in range(20):
        rows.push(numbered(n, 500))
    assert list(folder.iterdir()) == []
    assert len(open_files(folder)) == 1
    del rows
    gc.collect()
    assert open_files(folder) == []


def test_file_takes_room_for_written_rows_alone(tmp_path):
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        pytest.skip("the size of files is limited")
    fields = {"image": ((4096,), np.uint8)}
    rows = DiskRowStore(fields, 1 << 20, tmp_path)
    for _ in range(40):
        rows.push({"image": np.ones((25, 4096), np.uint8)})
    (status,) = open_files(tmp_path)
    assert status.st_size == 4096 << 20
    assert status.st_blocks * 512 < 64 << 20  # of which 4 are written


def test_memory_that_does_not_suffice_names_the_other_storage():
    with pytest.raises(
        UserError, match=r"memory \(\d{9}\.\d GiB of images\).*--replay_storage disk"
    ) as raised:
        Replay(None, capacity=10**13, action_shape=None)
    assert "\n" not in str(raised.value)


# The replay


def episode(number, rows):
    """An episode whose every row is its own."""
    t = np.arange(rows)
    image = np.zeros((rows, *SHAPE), np.uint8)
    image[:, 0, 0] = np.stack([0 * t + number, t % 256, t // 256], -1)
    fields = {"image": image, "action": np.stack([0 * t + number, t], -1).astype(np.float32)}
    fields |= {"reward": (number + t / 64).astype(np.float32)}
    return fields | {"discount": (t % 3 > 0).astype(np.float32)}


def pair(folder, **kwargs):
    """Two replays alike but for where rows lie: in memory, on disk."""
    kwargs = {"image_shape": SHAPE, "action_shape": (2,), "seed": 7} | kwargs
    return Replay(None, **kwargs), Replay(None, storage=folder, **kwargs)


def assert_same_batches(one, other, length=9, count=3):
    assert (one.episodes, one.frames) == (other.episodes, other.frames)
    for _ in range(count):
        batches = one.sample(6, length), other.sample(6, length)
        assert list(batches[0]) == list(batches[1])
        for key, value in batches[0].items():
            np.testing.assert_array_equal(value, batches[1][key], err_msg=key)
    assert one.rng_state() == other.rng_state()


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=14),
    capacity=st.sampled_from([0, 20, 450, 1000]),
    length=st.integers(1, 30),
    ends=st.booleans(),
)
def test_batches_do_not_depend_on_the_storage(tmp_path_factory, lengths, capacity, length, ends):
    folder = tmp_path_factory.getbasetemp() / "rows"
    replays = pair(folder, capacity=capacity, oversample_ends=ends)
    for number, rows in enumerate(lengths):
        for one in replays:
            one._push(None, episode(number, rows))
        assert_same_batches(*replays, length, count=1)
    for one in replays:
        one.replace(episode(number, 5) for number in range(3))
    assert_same_batches(*replays, length)


def write(folder, episodes, start=0):
    for number in range(start, start + episodes):
        np.savez(folder / f"{number:03}.npz", **episode(number, 30 + number))


@pytest.mark.parametrize("capacity", [0, 200])
@pytest.mark.parametrize("back", [False, True])
def test_state_goes_from_one_storage_to_the_other(tmp_path, capacity, back):
    write(tmp_path, 12)
    source, target = pair(tmp_path / "rows", capacity=capacity)[:: -1 if back else 1]
    source.load(tmp_path)
    source.sample(5, 7)
    assert not target.load_state_dict(source.state_dict()).lost
    assert target.state_dict() == source.state_dict()
    assert_same_batches(source, target)
    write(tmp_path, 3, start=12)  # and what comes later evicts alike
    for one in (source, target):
        one.load(tmp_path)
    assert_same_batches(source, target)


def test_config_says_where_rows_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    flags = ["--configs", "defaults", "dmc2gym", "--replay_storage"]
    memory = new_replay(config.parse([*flags, "memory"]), None, "x", 2)
    assert not any(tmp_path.iterdir())
    disk = new_replay(config.parse([*flags, "disk"]), None, "x", 2)
    assert len(open_files(tmp_path / ".cache/diswm")) == 1
    given = config.parse([*flags, "disk", "--cache_dir", str(tmp_path / "given")])
    there = new_replay(given, None, "x", 2)
    assert len(open_files(tmp_path / "given")) == 1
    assert len({one.rng_state() for one in (memory, disk, there)}) == 1
