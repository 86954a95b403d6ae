"""What settings come to on a machine, and what a process is then set to."""

import dataclasses

import pytest
import torch

import config
from accel import runtime, threads
from accel.runtime import Runtime, compute_dtype, find_device
from tools import UserError

GPU = torch.device("cuda", 0)


def resolve(**changes):
    blocks = ["--configs", "defaults", "dmc2gym", "--device", "cpu", "--precision", "32"]
    return Runtime.resolve(config.parse(blocks).replace(**changes))


@pytest.fixture
def machine(monkeypatch):
    """A machine with two GPUs, six cores and all that compiling takes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(threads, "available_cores", lambda: 6)
    monkeypatch.setattr(runtime, "missing_compiler", lambda _: None)


@pytest.fixture
def settings(monkeypatch):
    """What `Runtime.prepare` does to this process, noted and put back: name → value."""
    told, matmul, cudnn = {}, torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    anomaly = torch.is_anomaly_enabled()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: told.update(threads=n))
    monkeypatch.setattr(threads, "keep_memory", lambda: told.update(kept=True))
    monkeypatch.setattr(threads, "crowded", lambda: told.get("crowded"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(gpu=device))
    yield told
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
    torch.autograd.set_detect_anomaly(anomaly)


CASES = [
    # settings, and what they come to
    ({}, {"compile": False, "graphs": False, "overlap": False, "threads": 6, "image_chunk": 250}),
    ({"num_threads": 9, "image_chunk": 5}, {"threads": 9, "image_chunk": 5}),
    ({"overlap": "True", "envs": 2}, {"overlap": True, "threads": 4}),  # they step meanwhile
    ({"overlap": "True", "envs": 50}, {"threads": 1}),
    ({"overlap": "True", "envs": 2, "num_threads": 5}, {"threads": 5}),
    ({"overlap": "auto", "envs": 2}, {"overlap": False, "threads": 6}),
    ({"compile": "True"}, {"compile": True, "insist_compile": True}),
    ({"cuda_graphs": "True"}, {"graphs": False}),  # there is nothing to record on a CPU
    ({"device": "cuda:0", "envs": 2}, {"device": GPU, "threads": 6, "image_chunk": 0}),
    ({"device": "cuda:0"}, {"compile": True, "graphs": True, "overlap": True}),
    ({"device": "cuda:0"}, {"insist_compile": False, "insist_graphs": False}),
    ({"device": "cuda:0", "compile": "False"}, {"compile": False, "graphs": True}),
    ({"device": "cuda:0", "cuda_graphs": "False"}, {"compile": True, "graphs": False}),
    ({"device": "cuda:0", "cuda_graphs": "True"}, {"graphs": True, "insist_graphs": True}),
    ({"device": "cuda:0", "overlap": "False"}, {"overlap": False}),
    ({"device": "cuda:0", "debug": True}, {"compile": False, "graphs": False, "debug": True}),
    ({"compile": "True", "debug": True}, {"compile": False}),
    ({"precision": "bf16"}, {"dtype": torch.bfloat16, "tf32": True}),
    ({"precision": "32"}, {"dtype": torch.float32, "tf32": False}),
    ({"keep_memory": False}, {"keep_memory": False}),
]


@pytest.mark.parametrize(("changes", "expected"), CASES, ids=str)
def test_settings_come_to(machine, changes, expected):
    found = dataclasses.asdict(resolve(**changes))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("updates", "compiles"), [(2000, False), (2001, True), (2001 * 250, True)]
)  # of 50 × 50 rows: 5,000,000 and more
def test_on_a_cpu_a_long_run_compiles(machine, updates, compiles):
    parsed = config.parse(["--configs", "defaults", "dmc2gym", "--device", "cpu"])
    assert Runtime.resolve(parsed, updates).compile is compiles
    assert Runtime.resolve(parsed.replace(batch_size=1), updates).compile is (updates > 2001)
    assert not Runtime.resolve(parsed.replace(compile="False"), updates).compile


def test_what_lacks_a_compiler_compiles_only_where_it_is_insisted_on(machine, monkeypatch):
    monkeypatch.setattr(runtime, "missing_compiler", lambda _: "Triton")
    assert not resolve(device="cuda:0").compile
    with pytest.raises(UserError, match=r"--compile True needs Triton: .* --compile False"):
        resolve(device="cuda:0", compile="True")


def test_devices(machine, monkeypatch):
    assert find_device("auto") == find_device("cuda") == GPU
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="--device cuda:2: there are 2 GPUs"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    for given in ("cuda", "gpu", "tpu:0", "meta"):
        with pytest.raises(UserError, match=rf"--device '?{given}.*--device cpu|give cpu"):
            find_device(given)


def test_precision_auto_is_what_the_device_computes_in():
    cpu = torch.device("cpu")
    assert compute_dtype("32", cpu) is torch.float32
    assert compute_dtype("16", cpu) is compute_dtype("bf16", cpu) is torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_process_is_set_up(settings, device):
    own = Runtime(torch.device(device), threads=3, keep_memory=True, tf32=True, debug=True)
    for now in (own, dataclasses.replace(own, tf32=False, debug=False)):
        now.prepare()
        assert settings["threads"] == 3
        assert torch.backends.cuda.matmul.allow_tf32 is now.tf32
        assert torch.backends.cudnn.allow_tf32 is now.tf32
        assert torch.is_anomaly_enabled() is now.debug
        if device == "cuda":
            assert torch.backends.cudnn.benchmark is now.tf32
    assert settings.get("gpu") == (own.device if device == "cuda" else None)
    assert settings.get("kept", False) is (device == "cpu")
    settings.pop("kept", None)
    dataclasses.replace(own, keep_memory=False).prepare()
    assert "kept" not in settings


@pytest.mark.parametrize(
    ("device", "count", "told"), [("cpu", 2, 1), ("cpu", 1, 0), ("cuda", 2, 0)]
)
def test_a_busy_machine_is_told_of_where_fewer_threads_would_help(
    settings, capsys, device, count, told
):
    settings["crowded"] = "note: busy"
    Runtime(torch.device(device), threads=count).prepare()
    assert capsys.readouterr().err == "note: busy\n" * told
