"""A run that goes on and on holds no more and no more: descriptors, threads, children, memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import pytest

import dreamer
from training.online import OnlineTrainer

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked for in /proc"
)

STEPS, PHASES, ENVS = 640, 8, 2
# Two workers simulate and draw, the replay evicts, episodes, checkpoints, pictures are written.
RUN = {"task": "gymnasium_InvertedPendulum-v5", "method_name": "random", "device": "cpu"}
RUN |= {"num_threads": 1, "shadow_size": 16, "action_repeat": 1, "steps": STEPS, "prefill": 20}
RUN |= {"envs": ENVS, "async_env": "process", "eval_envs": 1, "eval_episodes": 1, "time_limit": 20}
RUN |= {"eval_every": 20, "log_every": 80, "checkpoint_every": 40, "dataset_size": 60}
RUN |= {"batch_size": 2, "batch_length": 6, "env_restarts": 20, "train_every": 10}
# MiB from the third phase to the last: one kept image in 20 would be 0.3.
ALLOWED = 0.25


class Held(NamedTuple):
    """What the run's process holds: counts, and MiB that are allocated and not freed."""

    descriptors: int
    threads: int
    children: int
    heap: float


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2`` (malloc.h)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _names.split()]


def children() -> list[int]:
    """The worker processes of this one, oldest first."""
    found = (Path("/proc/self/task") / str(os.getpid()) / "children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def held() -> Held:
    """What this process holds now; resident memory has holes, the heap has none."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    info = mallinfo()
    counts = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    return Held(*counts, len(children()), (info.uordblks + info.hblkhd) / 2**20)


def watched_run(folder: Path, leaks: bool) -> list[Held]:
    """What a run holds at the end of each phase, in each of which a worker is killed."""
    found, kept = [], []

    class Watched(OnlineTrainer):
        def receive(self) -> None:
            super().receive()
            at = self.collector.steps % (STEPS // PHASES)
            if at == 0:
                found.append(held())
            elif at == 40:
                pid = children()[0]
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            if leaks and at % 20 == 0:
                kept.append((self.collector.obs["image"].copy(), os.dup(0)))

    words = [word for name, value in RUN.items() for word in (f"--{name}", str(value))]
    with mock.patch.object(dreamer, "OnlineTrainer", Watched):
        code = dreamer.main(["--configs", "defaults", "gymnasium", *words, "--logdir", str(folder)])
    assert code == 0
    return found


def alone(*args: Any) -> list[Held]:
    """The same in a new process, where no other test leaves or ends anything."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(watched_run, *args).result()


@pytest.mark.faults
def test_a_run_holds_no_more_at_its_end_than_early_on(tmp_path):
    late = alone(tmp_path, False)[2:]
    assert len(late) == PHASES - 2
    assert len({one[:3] for one in late}) == 1, late
    assert late[0].children == ENVS + 1  # and the one of the evaluations
    assert late[-1].heap - late[0].heap < ALLOWED, late


@pytest.mark.faults
def test_what_a_run_leaves_behind_is_seen(tmp_path):
    late = alone(tmp_path, True)[2:]
    assert late[-1].descriptors > late[0].descriptors
    assert late[-1].heap - late[0].heap > ALLOWED
