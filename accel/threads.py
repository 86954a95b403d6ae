"""The cores and the memory of a process that computes on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

# glibc's mallopt: its parameters (malloc.h) and what they are set to.
_KEEP = {
    "M_MMAP_MAX": (-4, 0),  # no allocation is a mapping of its own
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),  # freed memory is kept
    "M_TOP_PAD": (-2, 64 << 20),  # and got in larger steps
}
_RETURN = {"M_MMAP_THRESHOLD": (-3, 256 << 10)}  # larger ones are mappings of their own, for good


def available_cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):  # no quota, no such file
        quota, period = map(int, (group / "cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores or 1


def default_threads(meanwhile: int = 0) -> int:
    """Threads for the maths: a core each, less those that others need meanwhile."""
    return max(1, min(torch.get_num_threads(), available_cores()) - meanwhile)


def crowded() -> str | None:
    """A line for the user whose machine is busy already, if it is.

    Threads that share an operation wait for each other, and for whoever has the core of one: an
    update on two threads beside two busy programs took ten times as long as alone, on one thread
    less than three times.
    """
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    if cores == 1 or load < cores:
        return None
    return (
        f"note: other programs keep this machine busy (load {load:.1f} on {cores} cores); while "
        "they do, --num_threads 1 may be several times faster"
    )


def keep_memory() -> bool:
    """Keeps freed memory in the process; returns whether the C library can (glibc).

    By default a large tensor is a mapping of its own that goes back when it dies, and the next one
    takes a page fault for every 4 KiB again. That was a third of an update.
    """
    return _set(_KEEP)


def return_memory() -> bool:
    """Gives large blocks back when they are freed; returns whether the C library can (glibc).

    By default it comes to put them where small ones lie, which pin them: a process that answers for
    days grows by a few of them with each small thing that it keeps.
    """
    return _set(_RETURN)


def _set(parameters: Mapping[str, tuple[int, int]]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(number, value) for number, value in parameters.values())
