"""Environments that were replaced or failed are closed, and leave nothing behind."""

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from envs import EnvError, VectorEnv
from tests.envs.crashing import crashing, lingering, processes, toy, unclosable
from tests.helpers.processes import runs

STILL = np.zeros((2, 1), np.float32)
RESTARTS = 3


class Closing(gym.Wrapper):
    """Says when it is closed, and may fail in that."""

    def __init__(self, env, name, closed, fails=False):
        super().__init__(env)
        self.facts = name, closed, fails

    def close(self):
        """Says so."""
        name, closed, fails = self.facts
        closed.append(name)
        if fails:
            raise OSError("closing failed")


def test_one_that_is_replaced_is_closed(tmp_path):
    closed = []
    plan = {"moment": (12, 2), "how": "raise", "ledger": tmp_path / "ledger", "times": 9}
    factories = [
        lambda: Closing(toy(0), 0, closed),
        lambda: Closing(crashing(1, toy, **plan), 1, closed, fails=True),
    ]
    vector = VectorEnv(factories, workers="none")
    vector.restarts = 2
    vector.reset(seeds=[11, 12])
    vector.step(STILL)
    assert closed == []
    assert vector.step(STILL).broken.tolist() == [False, True]
    assert closed == [1, 1]
    with pytest.warns(RuntimeWarning, match="env 1 did not close: OSError: closing failed"):
        vector.close()  # the third, which had not failed
    assert sorted(closed) == [0, 1, 1, 1]


def test_closing_closes_all_and_tells_of_one_that_had_not_failed(tmp_path):
    closed = []
    plan = {"moment": (12, 1), "how": "raise", "ledger": tmp_path / "ledger", "times": 9}
    factories = [
        lambda: Closing(toy(0), 0, closed),
        lambda: Closing(crashing(1, toy, **plan), 1, closed, fails=True),
        lambda: Closing(toy(2), 2, closed, fails=True),
    ]
    vector = VectorEnv(factories, workers="none")
    vector.reset(seeds=[0, 12, 2])
    with pytest.raises(EnvError, match="gave up"):
        vector.step(np.zeros((3, 1)))
    with pytest.warns(RuntimeWarning, match="env 2 did not close"):
        vector.close()
    assert sorted(closed) == [0, 1, 2]
    vector.close()
    assert len(closed) == 3


@pytest.mark.parametrize("failed", [True, False])
def test_a_worker_whose_environment_does_not_close_ends_without_a_traceback(
    tmp_path, capfd, failed
):
    vector = VectorEnv([functools.partial(toy, 0), unclosable], workers="process")
    vector.restarts = 2
    vector.reset(seeds=[11, 12])
    vector.step(np.array([[0], [np.nan if failed else 0]]))
    assert vector.restarted == 2 * failed  # it fails again when it is made anew
    vector.close()
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "did not close: OSError: closing failed" in told


def test_closing_says_nothing_of_one_that_failed(tmp_path):
    closed = []
    plan = {"moment": (12, 1), "how": "raise", "ledger": tmp_path / "ledger", "times": 9}
    factories = [lambda: Closing(crashing(0, toy, **plan), 0, closed, fails=True)]
    vector = VectorEnv(factories, workers="none")
    vector.reset(seeds=[12])
    with pytest.raises(EnvError, match="gave up"):
        vector.step(np.zeros((1, 1)))
    vector.close()
    assert closed == [0]


def facts():
    """What of this process's must not grow: descriptors, mappings of shared memory, children."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("/pym-")
    children = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            children += path.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    return len(os.listdir("/proc/self/fd")), maps, children


def test_many_restarts_leave_nothing_behind():
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process") as vector:
        vector.restarts = 100
        vector.reset(seeds=[11, 12])
        before = facts()
        assert before[2] >= 2
        for _ in range(RESTARTS):
            os.kill(processes(vector)[1].pid, signal.SIGKILL)
            assert not vector.step(STILL).broken.any()
        assert vector.restarted == RESTARTS
        # Descriptors of other tests may be collected meanwhile.
        descriptors, *others = facts()
        assert others == list(before[1:])
        assert descriptors <= before[0]
    assert facts()[2] == before[2] - 2


def test_a_worker_that_does_not_end_is_killed():
    factories = [functools.partial(toy, 0), functools.partial(lingering, 1)]
    with VectorEnv(factories, workers="process") as vector:
        vector.restarts = 2
        vector.reset(seeds=[11, 12])
        pids = [process.pid for process in processes(vector)]
        vector.step(np.array([[0], [np.nan]]))
        assert vector.restarted == 2
        assert [Path(f"/proc/{pid}").exists() for pid in pids] == [True, False]
        pids += [process.pid for process in processes(vector)]
        start = time.monotonic()
    assert time.monotonic() - start < 15
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_signals_to_all_processes_are_the_parents_business():
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process") as vector:
        vector.reset(seeds=[11, 12])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for process in processes(vector):
                os.kill(process.pid, number)
            vector.step(STILL)  # with no restart to spend
        assert vector.restarted == 0


ENDS = """
import functools
from envs import VectorEnv
from tests.envs.crashing import processes, toy

if __name__ == "__main__":
    vector = VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process")
    print(*[process.pid for process in processes(vector)], flush=True)
    raise SystemExit(3)
"""


def test_a_process_that_closes_nothing_ends_with_its_workers(tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(tmp_path / "ends.py")]
    environment = {**os.environ, "PYTHONPATH": root}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 3, ended.stderr
    for pid in ended.stdout.split():
        assert not Path(f"/proc/{pid}").exists()


HANGS = """
import atexit, functools, os, signal, sys, threading, time
from pathlib import Path
from envs import VectorEnv, parallel, worker
from tests.envs.crashing import crashing, processes, toy

if __name__ == "__main__":
    parallel.PATIENCE = worker.PATIENCE = 0.2
    plan = {{"moment": (12, 1), "how": "hang", "ledger": Path(sys.argv[1]), "times": 1}}
    vector = VectorEnv([functools.partial(crashing, 0, toy, **plan)], workers="process")
    vector.reset(seeds=[12])
    vector.step_async([[0.0]])
    print(processes(vector)[0].pid, flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    {then}
"""
# As one that is stuck in the system, which no signal ends.
STUCK = "processes(vector)[0].kill = lambda: None; vector.close()"


@pytest.mark.parametrize("then", ["os.kill(os.getpid(), signal.SIGKILL)", STUCK])
def test_no_worker_that_hangs_outlives_the_run_or_holds_up_its_end(tmp_path, then):
    (tmp_path / "hangs.py").write_text(HANGS.format(then=then))
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "hangs.py"), str(tmp_path / "ledger")],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == (0 if then == STUCK else -signal.SIGKILL), ended.stderr
    deadline = time.monotonic() + 60
    while runs(ended.stdout.strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(ended.stdout.strip())
