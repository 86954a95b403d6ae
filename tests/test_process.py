"""What a process is set to before it computes; and that the exact settings give the same bits."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import config
from accel import graphs as fast

ROOT = Path(fast.__file__).parents[1]


def make_config(**changes):
    blocks = ["--configs", "defaults", "dmc2gym", "--device", "cpu", "--precision", "32"]
    return config.parse(blocks).replace(**changes)


@pytest.fixture
def settings(monkeypatch):
    """What `prepare_process` does to this process, noted and put back: name → value."""
    told, matmul, cudnn = {}, torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    monkeypatch.setattr(torch, "set_num_threads", lambda n: told.update(threads=n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(fast, "available_cores", lambda: 6)
    monkeypatch.setattr(fast, "keep_memory", lambda: told.update(kept=True) or True)
    index = torch.cuda._utils._get_device_index
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(gpu=index(device)))
    yield told
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(
    ("changes", "threads"),
    [
        ({}, 6),  # as many as there are cores
        ({"num_threads": 3}, 3),
        ({"num_threads": 9}, 9),  # what is asked for is not doubted
        ({"overlap": "True", "envs": 2}, 4),  # those environments step meanwhile
        ({"overlap": "True", "envs": 50}, 1),
        ({"overlap": "True", "envs": 2, "num_threads": 5}, 5),
        ({"overlap": "auto", "envs": 2}, 6),
        ({"device": "cuda:0", "envs": 2}, 6),
    ],
    ids=str,
)
def test_threads(settings, changes, threads):
    fast.prepare_process(make_config(**changes))
    assert settings["threads"] == threads


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_cores_are_those_of_the_affinity_and_the_quota(tmp_path, monkeypatch, text, cores):
    monkeypatch.setattr(fast.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert fast.available_cores(tmp_path) == cores
    monkeypatch.setattr(fast.os, "sched_getaffinity", lambda _: {3})
    assert fast.available_cores(tmp_path) == 1


@pytest.mark.parametrize(("precision", "on"), [("32", False), ("auto", True), ("bf16", True)])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_tensor_cores_follow_the_precision(settings, precision, on, device):
    for _ in range(2):  # the second time from the other side
        fast.prepare_process(make_config(precision=precision, device=device))
        assert torch.backends.cuda.matmul.allow_tf32 is on
        assert torch.backends.cudnn.allow_tf32 is on
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not on


@pytest.mark.parametrize(
    ("device", "gpu"), [("cpu", None), ("cuda:0", 0), ("cuda:1", 1), ("cuda", 0)]
)
def test_a_gpu_is_made_the_current_one_and_a_cpu_keeps_its_memory(settings, device, gpu):
    fast.prepare_process(make_config(device=device, precision="bf16"))
    assert settings.get("gpu") == gpu
    assert settings.get("kept", False) is (device == "cpu")


def test_memory_need_not_be_kept(settings):
    fast.prepare_process(make_config(keep_memory=False))
    assert "kept" not in settings


@pytest.mark.parametrize(
    ("load", "changes", "told"),
    [
        (6.5, {}, True),
        (2.0, {}, False),
        (6.5, {"num_threads": 1}, False),  # the user has seen to it
        (6.5, {"device": "cuda:0"}, False),
    ],
    ids=str,
)
def test_a_busy_machine_is_told_of_once(settings, monkeypatch, capsys, load, changes, told):
    monkeypatch.setattr(fast.os, "getloadavg", lambda: (load, 99.0, 99.0))
    monkeypatch.setattr(fast.os, "cpu_count", lambda: 6)  # the load is the whole machine's
    fast.prepare_process(make_config(**changes))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == told
    assert all("load 6.5 on 6 cores" in line and "--num_threads 1" in line for line in lines)


def test_one_core_is_not_crowded(monkeypatch):
    monkeypatch.setattr(fast.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(fast.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    assert fast.crowded() is None


FAULTS = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from accel import graphs as fast

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(64 << 18).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
kept = fast.keep_memory()
faults()
print(kept, before, min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_faulted_in_again():
    script = FAULTS.format(root=str(ROOT))
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    kept, before, after = told.stdout.split()
    assert kept == "True"
    assert int(before) >= 10 * 32  # huge pages hold 2 MiB
    assert int(after) * 4 < int(before)


# The exact path


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"image_chunk": 5, "beta_vae": True}], ids=str)
def test_the_exact_settings_give_the_same_bits_again(tmp_path, tiny, same, changes):
    flags = {"compile": False, "precision": 32, "steps": 80, "eval_every": 40, **changes}
    one, other = (tiny.finish(tiny.finetune(tmp_path / name, **flags)) for name in "ab")
    same.run(one, other)
    rows = [row for row in same.metrics(one) if "model_loss" in row]
    assert rows
    assert rows == [row for row in same.metrics(other) if "model_loss" in row]
    third = tiny.finish(tiny.finetune(tmp_path / "c", **flags | {"seed": 1}))
    assert rows != [row for row in same.metrics(third) if "model_loss" in row]
