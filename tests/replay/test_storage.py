"""Where episodes lie: the same batches from memory, files and a device; what is given back."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import DiskStorage, HostStorage, row_fields, storage
from replay.sampler import SequenceSampler, resets
from tests.replay.rows import FIELDS, KINDS, each_kind, episode, equal, make
from tools import UserError


def expected_batch(held, slices, size, length):
    """What slices of a list of episodes make up."""
    batch = {}
    for key, (shape, _) in FIELDS.items():
        rows = [held[s.episode][key][s.first : s.first + s.rows] for s in slices]
        batch[key] = np.concatenate(rows).reshape(size, length, *shape)
    return batch | {"is_first": resets(slices, size, length)}


@each_kind
def test_it_holds_what_a_list_of_episodes_would(tmp_path, monkeypatch, kind):
    """Pushed, evicted, emptied now and then; into many files on a disk."""
    monkeypatch.setattr(storage, "FILE_SIZE", 1000)
    rng, held, store = np.random.default_rng(0), [], KINDS[kind](tmp_path)
    for number in range(150):
        action = rng.random()
        if held and action < 0.46:
            store.pop()
            held.pop(0)
        elif action > 0.98:
            store.clear()
            held.clear()
        else:
            held.append(episode(number, int(rng.integers(1, 90))))
            store.push(held[-1])
        if held:
            slices = SequenceSampler([len(e["reward"]) for e in held], 20, True).plan(6, rng)
            equal(store.batch(slices, 6, 20), expected_batch(held, slices, 6, 20))


@settings(max_examples=25)
@each_kind
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    capacity=st.sampled_from([0, 20, 450, 1000]),
    length=st.integers(1, 30),
    ends=st.booleans(),
)
def test_batches_do_not_depend_on_it(tmp_path_factory, kind, lengths, capacity, length, ends):
    kwargs = {"capacity": capacity, "oversample_ends": ends, "seed": 7}
    store = KINDS[kind](tmp_path_factory.getbasetemp())
    replays = make(**kwargs), make(storage=store, **kwargs)
    for number, rows in enumerate(lengths):
        for one in replays:
            one._push(None, episode(number, rows))
        equal(*(one.sample(6, length) for one in replays))
    for one in replays:
        one.replace(episode(number, 5) for number in range(3))
    equal(*(one.sample(6, length) for one in replays))
    assert len({(one.episodes, one.frames, one.rng_state()) for one in replays}) == 1


@each_kind
@pytest.mark.parametrize("back", [False, True])
def test_a_checkpoint_goes_from_one_to_the_other(tmp_path, kind, back):
    def write(first, last):
        for number in range(first, last):
            np.savez(tmp_path / f"{number:03}.npz", **episode(number, 30 + number))

    write(0, 12)
    replays = make(capacity=200), make(storage=KINDS[kind](tmp_path), capacity=200)
    source, target = replays[:: -1 if back else 1]
    source.load(tmp_path)
    source.sample(5, 7)
    assert not target.load_state_dict(source.state_dict()).lost
    assert target.state_dict() == source.state_dict()
    for _ in range(2):
        equal(source.sample(6, 9), target.sample(6, 9))
        write(12, 15)  # and what comes later evicts alike
        for one in replays:
            one.load(tmp_path)


@each_kind
@pytest.mark.parametrize("shape", [(64, 64, 3), (3, 5, 1)])
def test_images_of_any_shape_without_actions(tmp_path, kind, shape):
    rng, fields = np.random.default_rng(0), row_fields(shape, 0)
    episodes = [{"image": rng.integers(0, 256, (n, *shape), dtype=np.uint8)} for n in (4, 30)]
    episodes.append({"image": np.asfortranarray(episodes[1]["image"])})
    replays = [make(storage=KINDS[name](tmp_path, fields), seed=1) for name in ("host", kind)]
    for one in replays:
        one.replace(episodes)
    batches = [one.sample(5, 7) for one in replays]
    assert batches[1]["action"].shape == (5, 7, 0)
    equal(*batches)


@each_kind
def test_what_is_pushed_is_copied(tmp_path, kind):
    store, given = KINDS[kind](tmp_path), episode(1, 4)
    replay = make(storage=store)
    replay.replace([given])
    before = {key: torch.as_tensor(value).clone() for key, value in replay.sample(1, 4).items()}
    for value in given.values():
        value[:] = 9
    equal(before, replay.sample(1, 4))


# Memory


def resident():
    """Bytes of memory that this process has to itself."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def test_memory_goes_back_as_episodes_are_evicted():
    """Of different lengths, with rows between them that stay; a heap would keep it all."""
    fields = row_fields((64, 64, 3), 2)
    replay, rng, stay = (
        make(storage=HostStorage(fields), capacity=2000),
        np.random.default_rng(0),
        [],
    )
    # Made once: how the process keeps freed memory is another matter.
    longest = {key: np.ones((400, *s), d) for key, (s, d) in fields.items()}
    before = resident()
    for _ in range(60):
        rows = int(rng.integers(50, 400))
        replay._push(None, {key: value[:rows] for key, value in longest.items()})
        stay.append(np.ones(1000, np.uint8))
    held = replay.frames * 64 * 64 * 3
    assert resident() - before < held + (12 << 20)
    replay.replace([])
    assert resident() - before < 12 << 20


def test_memory_that_does_not_suffice_names_the_other_storage(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    replay = make()
    replay.replace([episode(0, 9)])
    monkeypatch.setattr(storage.mmap, "mmap", full)
    with pytest.raises(UserError, match=r"memory \(1 episodes do\): give --replay_storage disk"):
        replay._push(None, episode(1, 9))
    assert replay.sample(2, 3)["image"].shape[:2] == (2, 3)


# Files


def open_files(folder):
    """Status of each file below a folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                found.append(os.stat(link))
        except FileNotFoundError:
            continue  # the listing's own
    return found


def test_files_have_no_name_and_go_with_their_episodes(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FILE_SIZE", 100_000)
    folder = tmp_path / "not" / "there"
    store = DiskStorage(FIELDS, folder)
    for number in range(40):  # eight of 14,000 bytes each fill a file
        store.push(episode(number, 500))
    assert list(folder.iterdir()) == []
    assert [status.st_size for status in open_files(folder)] == [8 * 14_000] * 5
    for left in range(39, 7, -1):
        store.pop()
        assert len(open_files(folder)) == -(-left // 8)
    store.clear()
    store.push(episode(0, 500))
    assert [status.st_size for status in open_files(folder)] == [14_000]
    del store
    gc.collect()
    assert open_files(folder) == []


def test_thousands_of_episodes_take_few_descriptors(tmp_path):
    store = DiskStorage(FIELDS, tmp_path)
    for number in range(3000):
        store.push(episode(number, 2))
    assert len(open_files(tmp_path)) == 1


def test_a_file_that_cannot_be_read_any_more_is_one_line(tmp_path):
    replay = make(storage=DiskStorage(FIELDS, tmp_path))
    replay.replace([episode(0, 90)])
    os.ftruncate(replay.storage._file._descriptor, 100)
    with pytest.raises(UserError, match=rf"--cache_dir {tmp_path} cannot hold the replay"):
        replay.sample(4, 20)
