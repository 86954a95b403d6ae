"""Rows on a device: where `--replay_device` puts them, and what only a GPU shows.

That its batches are those of any other storage stands in `test_storage.py`.
"""

import numpy as np
import pytest
import torch

import config
from accel.runtime import Runtime
from replay import DiskStorage, HostStorage, row_fields
from replay.device import SHARE, DeviceStorage, check_device, place
from replay.files import count_rows
from tests.helpers.runs import refusal
from tests.replay.rows import FIELDS, episode, make
from training.factory import expected_rows, make_replay

ROW = sum(np.prod(shape) * np.dtype(kind).itemsize for shape, kind in FIELDS.values())
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def parsed(*flags):
    return config.parse(["--configs", "defaults", "dmc2gym", "--device", *map(str, flags)])


def replay_of(config):
    return make_replay(config, Runtime.resolve(config), "x", 2)


@pytest.mark.parametrize(
    ("choice", "device", "free", "kind"),
    [
        ("auto", CPU, 1e9, HostStorage),
        ("cpu", GPU, 1e9, HostStorage),
        ("auto", GPU, ROW * 1000 / SHARE + 1, DeviceStorage),
        ("auto", GPU, ROW * 1000 / SHARE - 1, HostStorage),
        ("cuda", GPU, ROW * 1000, DeviceStorage),
    ],
)
def test_rows_go_where_they_are_asked_to_and_fit(monkeypatch, tmp_path, choice, device, free, kind):
    """A thousand rows, on a machine whose GPU has so many bytes free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert type(place(FIELDS, choice, device, 1000)) is kind
    assert type(place(FIELDS, choice, device, 1000, tmp_path)) is DiskStorage


def test_more_rows_than_the_gpu_has_room_for_are_refused_before_they_come(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 31))
    line = refusal(place, row_fields((64, 64, 3), 2), "cuda", GPU, 10**6)
    assert "does not fit on cuda:0 (it comes to 11.5 GiB, 1.0 are free)" in line
    assert "--replay_device cpu" in line


def test_memory_that_does_not_suffice_names_the_cpu(monkeypatch):
    replay = make(storage=DeviceStorage(FIELDS, CPU))
    replay.replace([episode(0, 8)])

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 …")

    monkeypatch.setattr(DeviceStorage, "_send", full)
    line = refusal(replay._push, None, episode(1, 8))
    assert "does not fit on cpu (CUDA out of memory): give --replay_device cpu" in line
    assert replay.episodes == 1


def test_what_does_not_go_together_is_refused(tmp_path, tiny, videos):
    check_device("auto", CPU, "disk")
    check_device("cuda", GPU, "memory")
    line = "--replay_device cuda does not go with --device cpu: give --device cuda:0"
    assert line in refusal(check_device, "cuda", CPU, "memory")
    assert "with --replay_storage disk" in refusal(check_device, "cuda", GPU, "disk")
    for argv in (
        tiny.pretrain(tmp_path, videos, replay_device="cuda"),
        tiny.finetune(tmp_path, replay_device="cuda"),
    ):
        result = tiny.run(argv)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        assert line in result.err


def test_config_says_where_rows_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    memory = replay_of(parsed("cpu"))
    assert type(memory.storage) is HostStorage
    assert not any(tmp_path.iterdir())
    flags, given = ("cpu", "--replay_storage", "disk"), tmp_path / "given"
    disk = replay_of(parsed(*flags))
    there = replay_of(parsed(*flags, "--cache_dir", given))
    assert (disk.storage.folder, there.storage.folder) == (tmp_path / ".cache/diswm", given)
    assert len({one.rng_state() for one in (memory, disk, there)}) == 1


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
    assert expected_rows(parsed(*flags, "--dataset_size", 80)) == 80
    np.savez(tmp_path / "0.npz", **episode(0, 30))
    assert expected_rows(parsed(*flags, "--offline_traindir", tmp_path)) == 561 + 30


@pytest.mark.gpu
def test_neither_drawing_nor_a_new_episode_waits_for_the_gpu():
    replay = make(storage=DeviceStorage(FIELDS, GPU))
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
    replay = make(storage=DeviceStorage(row_fields((64, 64, 3), 0), GPU))
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        line = refusal(replay.replace, [{"image": np.zeros((30_000, 64, 64, 3), np.uint8)}])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "--replay_device cpu" in line
