"""Rows on a device: the batches of a replay in memory, byte for byte.

The device is the CPU here, which the store takes like any other; what only a GPU shows is below.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from job import expected_rows
from replay import Replay
from replay import device as device_store
from replay.device import DeviceRowStore, check_device, fits, place
from replay.episodes import count_rows
from replay.prefetch import Feeder
from replay.storage import DiskRowStore, RowStore
from tools import UserError

SHAPE = (2, 2, 3)
FIELDS = {"image": ((4, 4), np.uint8), "x": ((), np.int64), "none": ((0,), np.float32)}
FLAGS = ["--configs", "defaults", "dmc2gym", "--device"]


def episode(number, rows):
    """An episode whose every row is its own."""
    t = np.arange(rows)
    image = np.zeros((rows, *SHAPE), np.uint8)
    image[:, 0, 0] = np.stack([0 * t + number, t % 256, t // 256], -1)
    fields = {"image": image, "action": np.stack([0 * t + number, t], -1).astype(np.float32)}
    fields |= {"reward": (number + t / 64).astype(np.float32)}
    return fields | {"discount": (t % 3 > 0).astype(np.float32)}


def on(device, rows=1):
    return lambda fields, capacity: DeviceRowStore(fields, rows, torch.device(device))


def pair(device="cpu", **kwargs):
    """Two replays alike but for where rows lie."""
    kwargs = {"image_shape": SHAPE, "action_shape": (2,), "seed": 7} | kwargs
    return Replay(None, **kwargs), Replay(None, store=on(device), **kwargs)


def assert_same_batches(one, other, length=9, count=3):
    assert (one.episodes, one.frames) == (other.episodes, other.frames)
    for _ in range(count):
        expected, found = one.sample(6, length), other.sample(6, length)
        assert list(expected) == list(found)
        for key, value in expected.items():
            tensor = found[key].cpu().numpy()
            assert (tensor.dtype, tensor.shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(tensor, value, err_msg=key)
    assert one.rng_state() == other.rng_state()


def assert_alike(device, lengths, capacity, length, **kwargs):
    replays = pair(device, capacity=capacity, **kwargs)
    for number, rows in enumerate(lengths):
        for one in replays:
            one._push(None, episode(number, rows))
        assert_same_batches(*replays, length, count=1)
    for one in replays:
        one.replace(episode(number, 5) for number in range(3))
    assert_same_batches(*replays, length)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=14),
    capacity=st.sampled_from([0, 20, 450, 1000]),
    length=st.integers(1, 30),
    ends=st.booleans(),
)
def test_batches_do_not_depend_on_the_device(lengths, capacity, length, ends):
    """Growing from one row on, wrapping, evicting, emptied."""
    assert_alike("cpu", lengths, capacity, length, oversample_ends=ends)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", [(64, 64, 3), (3, 5, 1)])
def test_rows_of_any_width_and_without_actions(shape, device):
    """Whether a row is a whole number of words, or not."""
    make = {"image_shape": shape, "action_shape": None, "seed": 1}
    replays = Replay(None, **make), Replay(None, store=on(device), **make)
    rng = np.random.default_rng(0)
    episodes = [{"image": rng.integers(0, 256, (n, *shape), dtype=np.uint8)} for n in (4, 30)]
    for one in replays:
        one.replace(episodes)
    assert replays[1].sample(2, 3)["action"].shape == (2, 3, 0)
    replays[0].sample(2, 3)
    assert_same_batches(*replays)


def test_it_grows_by_a_quarter_and_from_what_is_expected():
    rows = DeviceRowStore(FIELDS, 100, torch.device("cpu"))
    image = np.zeros((60, 4, 4), np.uint8)
    episode = {"image": image, "x": np.arange(60), "none": np.zeros((60, 0), np.float32)}
    sizes = []
    for _ in range(5):
        rows.push(episode)
        sizes.append(len(rows._arrays["image"]))
    assert sizes == [100, 125, 180, 240, 300]


def test_arrays_cannot_be_filled():
    _, replay = pair()
    replay.replace([episode(0, 9)])
    out = {name: value.numpy() for name, value in replay.sample(2, 3).items()}
    with pytest.raises(ValueError, match="cannot be drawn into arrays"):
        replay.sample(2, 3, out=out)


def test_a_feeder_passes_its_batches_on():
    plain, replay = pair()
    for one in (plain, replay):
        one.replace([episode(0, 9), episode(1, 12)])
    feeder = Feeder(replay, 4, 5, torch.device("cpu"), "True")
    assert not feeder.prefetch
    for _ in range(3):
        expected, found = plain.sample(4, 5), feeder.next()
        assert all((found[key].numpy() == value).all() for key, value in expected.items())
    feeder.close()


def test_a_checkpoint_goes_from_one_to_the_other(tmp_path):
    for number in range(12):
        np.savez(tmp_path / f"{number:03}.npz", **episode(number, 30 + number))
    for source, target in (pair(capacity=200), pair(capacity=200)[::-1]):
        source.load(tmp_path)
        source.sample(5, 7)
        assert not target.load_state_dict(source.state_dict()).lost
        assert target.state_dict() == source.state_dict()
        assert_same_batches(*sorted((source, target), key=lambda one: one.on_device))


def test_memory_that_does_not_suffice_names_the_cpu(monkeypatch):
    rows = DeviceRowStore(FIELDS, 10, torch.device("cpu"))
    empty = torch.empty

    def full(shape, **kwargs):
        if shape[0] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 …")
        return empty(shape, **kwargs)

    monkeypatch.setattr(torch, "empty", full)
    episode = {"image": np.ones((8, 4, 4), np.uint8), "x": np.arange(8)}
    episode["none"] = np.zeros((8, 0), np.float32)
    rows.push(episode)
    with pytest.raises(UserError, match=r"does not fit on cpu \(CUDA out of memory\)") as raised:
        rows.push(episode)
    assert "--replay_device cpu" in str(raised.value)
    assert "\n" not in str(raised.value)


# Where they go


def parsed(*flags):
    return config.parse([*FLAGS, *map(str, flags)])


@pytest.mark.parametrize(
    ("flags", "free", "kind"),
    [
        (["cpu"], 1 << 40, RowStore),
        (["cuda:0"], 1 << 40, DeviceRowStore),
        (["cuda:0"], 1 << 20, RowStore),
        (["cuda:0", "--replay_device", "cuda"], 1 << 20, DeviceRowStore),
        (["cuda:0", "--replay_device", "cpu"], 1 << 40, RowStore),
        (["cuda:0", "--replay_storage", "disk"], 1 << 40, DiskRowStore),
    ],
)
def test_rows_go_where_they_are_asked_to_and_fit(monkeypatch, tmp_path, flags, free, kind):
    """On a machine whose GPU has so many bytes free, which here lie in memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    init = DeviceRowStore.__init__
    monkeypatch.setattr(
        DeviceRowStore, "__init__", lambda self, fields, rows, _: init(self, fields, rows, "cpu")
    )
    c = parsed(*flags)
    folder = tmp_path if c.replay_storage == "disk" else None
    rows = place(FIELDS, 0, c, folder, lambda: 40_000)
    assert type(rows) is kind
    if kind is DeviceRowStore:
        assert len(rows._arrays["image"]) == 40_000


def test_a_share_of_the_free_memory_is_the_limit():
    row = 16 + 8
    assert fits(FIELDS, 100, int(row * 100 / device_store.SHARE) + 1)
    assert not fits(FIELDS, 100, int(row * 100 / device_store.SHARE) - 1)


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        (["cpu"], "--replay_device cuda does not go with --device cpu: give --device cuda:0"),
        (["cuda:0", "--replay_storage", "disk"], "does not go with --replay_storage disk"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, mend):
    with pytest.raises(UserError, match=mend) as raised:
        check_device(parsed(*flags, "--replay_device", "cuda"))
    assert "\n" not in str(raised.value)


def test_a_run_that_cannot_have_it_ends_with_one_line(tmp_path, tiny, videos):
    for argv in (
        tiny.pretrain(tmp_path, videos, replay_device="cuda"),
        tiny.finetune(tmp_path, replay_device="cuda"),
    ):
        result = tiny.run(argv)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        assert "--replay_device cuda does not go with --device cpu" in result.err


def test_rows_of_a_folder_are_counted_without_reading_it(tmp_path):
    for number in range(4):
        save = np.savez if number % 2 else np.savez_compressed
        save(tmp_path / f"{number}.npz", **episode(number, 30 + number))
    assert count_rows(tmp_path) == 4 * 30 + 6
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    np.savez(tmp_path / "other.npz", x=np.zeros(4))
    assert count_rows(tmp_path) == 4 * 30 + 6


def test_rows_of_a_run_are_known_before_it(tmp_path):
    flags = ["cpu", "--steps", 1000, "--action_repeat", 2, "--time_limit", 100, "--prefill", 50]
    assert expected_rows(parsed(*flags)) == 500 + 10 + 51
    assert expected_rows(parsed(*flags, "--prefill", 700, "--envs", 2)) == 700 + 14 + 2 * 51
    assert expected_rows(parsed(*flags, "--dataset_size", 80)) == 90
    np.savez(tmp_path / "0.npz", **episode(0, 30))
    assert expected_rows(parsed(*flags, "--offline_traindir", tmp_path)) == 561 + 30


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("capacity", [0, 300])
def test_batches_from_the_gpu_are_the_same(capacity):
    lengths = np.random.default_rng(0).integers(1, 200, 30).tolist()
    assert_alike("cuda:0", lengths, capacity, 20)


@pytest.mark.gpu
def test_neither_drawing_nor_a_new_episode_waits_for_the_gpu():
    make = {"image_shape": SHAPE, "action_shape": (2,)}
    replay = Replay(None, store=on("cuda:0", rows=1000), **make)
    replay.replace([episode(0, 90)])
    replay.sample(50, 20)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [replay.sample(50, 20) for _ in range(5)]
        replay._push(None, episode(1, 90))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.device.type == "cuda" for batch in batches for value in batch.values())


@pytest.mark.gpu
def test_more_than_the_gpu_holds_is_one_line():
    with pytest.raises(UserError, match="--replay_device cpu"):
        DeviceRowStore({"image": ((1 << 30,), np.uint8)}, 1 << 12, torch.device("cuda:0"))
