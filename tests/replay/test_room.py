"""Memory and disk that will not do are told of before they are full."""

import shutil
from types import SimpleNamespace

import pytest
import torch

import config
from accel.runtime import Runtime
from replay import DiskStorage, HostStorage, row_fields
from replay.device import DeviceStorage
from replay.room import available_memory, check_room, row_size
from tests.helpers.runs import refusal
from tools import UserError
from training import factory

GIB = 2**30
FIELDS = row_fields((64, 64, 3), 6)
MEMINFO = (
    "MemTotal:       24117248 kB\nMemFree:   1048576 kB\nMemAvailable:   {} kB\nBuffers: 1 kB\n"
)


def system(folder, available=23 * GIB, groups="", **files):
    """A machine of that much available memory; files of its control groups by their paths."""
    files = {"proc/meminfo": MEMINFO.format(available // 1024), "proc/self/cgroup": groups} | files
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return folder


def group(path, limit, used, inactive=0, version=2):
    """The files of a control group."""
    limits = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        limits = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    base = "sys/fs/cgroup" + ("/memory" if version == 1 else "")
    stat = f"anon 5\n{limits[2]} {inactive}\nactive_file 9\n"
    where = f"{base}/{path}" if path else base
    return {
        f"{where}/{limits[0]}": limit,
        f"{where}/{limits[1]}": f"{used}\n",
        f"{where}/memory.stat": stat,
    }


@pytest.mark.parametrize(
    ("groups", "files", "available"),
    [
        ("", {}, 23 * GIB),
        ("0::/job\n", group("job", 8 * GIB, 3 * GIB, GIB), 6 * GIB),
        ("0::/job\n", group("job", "max\n", 3 * GIB), 23 * GIB),
        ("0::/job\n", group("job", 64 * GIB, 3 * GIB), 23 * GIB),
        ("0::/job\n", group("job", GIB, 2 * GIB), 0),
        ("0::/a/b\n", {**group("a/b", "max", 0), **group("a", 4 * GIB, GIB)}, 3 * GIB),
        ("0::/host/path\n", group("", 4 * GIB, GIB), 3 * GIB),
        ("5:cpu:/a\n4:memory:/a\n0::/\n", group("a", 5 * GIB, GIB, GIB, version=1), 5 * GIB),
        ("3:cpu,memory:/host/path\n", group("", 5 * GIB, GIB, version=1), 4 * GIB),
        ("4:memory:/a\n", group("a", 9223372036854771712, GIB, version=1), 23 * GIB),
    ],
)
def test_available_is_what_machine_and_control_groups_leave(tmp_path, groups, files, available):
    assert available_memory(system(tmp_path, groups=groups, **files)) == available


def test_a_system_that_does_not_tell_is_not_guessed_at(tmp_path):
    assert available_memory(tmp_path) is None
    assert check_room(HostStorage(FIELDS), 10**12, tmp_path) is None
    assert (available_memory() or 1) > 0


def test_rows_that_memory_will_not_hold_are_told_of_with_both_figures(tmp_path):
    machine = system(tmp_path, 23 * GIB)
    most = 23 * GIB // row_size(FIELDS)
    assert check_room(HostStorage(FIELDS), most, machine) is None
    line = check_room(HostStorage(FIELDS), 2_500_000, machine)
    assert line.startswith("the replay comes to 28.7 GiB, and 23.0 of memory are available: give ")
    assert "--replay_storage disk" in line
    assert "--dataset_size" in line
    assert check_room(DeviceStorage(FIELDS, torch.device("cpu")), 10**12, machine) is None


def test_rows_that_a_disk_will_not_hold_are_refused(tmp_path, monkeypatch):
    storage = DiskStorage(FIELDS, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * GIB))
    assert check_room(storage, 3 * GIB // row_size(FIELDS)) is None
    line = refusal(check_room, storage, 2_500_000)
    assert f"--cache_dir {tmp_path / 'cache'} cannot hold the replay" in line
    assert "it comes to 28.7 GiB, 3.0 are free" in line
    assert "--dataset_size" in line


def test_a_run_says_so_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("replay.room.available_memory", lambda system: 23 * GIB)
    words = ["--configs", "defaults", "dmc2gym", "cpu", "--steps", "1e7"]
    for flags, told in (([], True), (["--dataset_size", "1000"], False)):
        given = config.parse([*words, *flags])
        rows = factory.expected_rows(given)
        factory.make_replay(given, Runtime.resolve(given), "x", 6, rows=rows)
        printed = capsys.readouterr().err
        assert printed.startswith("warning: the replay comes to 28.8 GiB, and 23.0 of") == told
        assert printed.count("\n") == told
    given = config.parse([*words, "--replay_storage", "disk", "--cache_dir", str(tmp_path)])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    make = factory.make_replay
    with pytest.raises(UserError, match="cannot hold the replay"):
        make(given, Runtime.resolve(given), "x", 6, rows=factory.expected_rows(given))
