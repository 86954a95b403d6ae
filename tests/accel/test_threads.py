"""The cores and the memory of a process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from accel import threads

ROOT = Path(threads.__file__).parents[1]


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
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert threads.available_cores(tmp_path) == cores
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {3})
    assert threads.available_cores(tmp_path) == 1


def test_one_core_is_not_crowded(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (9.0, 9.0, 9.0))
    assert threads.crowded() is None


FAULTS = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from accel import threads

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(64 << 18).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
kept = threads.keep_memory()
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


SPLIT = """
import ctypes, os, sys
sys.path.insert(0, {root!r})
from accel import threads

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]

def block(size):
    made = c.malloc(size)
    ctypes.memset(made, 1, size)
    return made

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

returned = threads.return_memory() if {call} else None
c.free(block(20 << 20))  # what is freed once moves glibc's own threshold
before = resident()
for _ in range(40):
    large = [block(1 << 20) for _ in range(4)]
    block(12_000)  # kept, between them
    for made in large:
        c.free(made)
print(returned, (resident() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_small_things_that_are_kept_pin_no_large_ones():
    script = SPLIT.format(root=str(ROOT), call=True)
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    returned, grown = told.stdout.split()
    assert returned == "True"
    assert int(grown) < 3
