"""Worker processes: their surroundings, their failures and their orderly end."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import EnvError, VectorEnv
from tests.envs.crashing import crashing, processes, toy

MAIN, OWN = sys.modules["__main__"], os.environ.get("LP_NUM_THREADS")

TASK = "dmc2gym_cartpole_swingup"
STILL = np.zeros((2, 1), np.float32)  # a batch of actions


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pids, seconds):
    """Whether all processes end within the time."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


TOYS = [functools.partial(toy, i) for i in range(2)]


def vector_of(second=TOYS[1]):
    """Two toys in processes, or one and something else."""
    return VectorEnv([TOYS[0], second], workers="process")


def test_workers_have_one_thread_and_leave_the_parents_environment_and_close_reaps_them():
    with vector_of() as vector:
        pids = [process.pid for process in processes(vector)]
        for pid in pids:
            environment = Path(f"/proc/{pid}/environ").read_text()
            for setting in ("OMP_NUM_THREADS=1", "LP_NUM_THREADS=1", "MUJOCO_GL="):
                assert setting in environment
        assert os.environ.get("LP_NUM_THREADS") == OWN
        assert sys.modules["__main__"] is MAIN  # hidden only while workers start
        assert all(alive(pid) for pid in pids)
        vector.reset(seeds=[1, 2])
        vector.step_async(STILL)  # and in the middle of a step
        start = time.monotonic()
        vector.close()
        assert time.monotonic() - start < 30
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # not even as zombies
        assert not set(pids) & {process.pid for process in multiprocessing.active_children()}
        vector.close()


def test_an_error_in_a_worker_names_the_env_and_shows_its_traceback(tmp_path):
    plan = {"moment": (2, 1), "how": "raise", "ledger": tmp_path / "ledger", "times": 9}
    with vector_of(functools.partial(crashing, 1, toy, **plan)) as vector:
        vector.reset(seeds=[1, 2])
        with pytest.raises(EnvError, match=r"(?s)env 1 failed in step:\n.*Traceback.*gave up"):
            vector.step(STILL)
        with pytest.raises(EnvError, match="env 1 is gone"):
            vector.reset(seeds=[1, 2])


def test_a_worker_that_dies_is_named_and_close_still_works():
    with vector_of() as vector:
        vector.reset(seeds=[1, 2])
        left = processes(vector)
        os.kill(left[1].pid, signal.SIGKILL)
        with pytest.raises(EnvError, match="env 1 is gone: its worker ended with signal SIGKILL"):
            vector.step(STILL)
        pids = [process.pid for process in left]
        start = time.monotonic()
        vector.close()
        assert time.monotonic() - start < 30
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_cannot_build_its_env_says_why_and_none_is_left():
    bad = functools.partial(envs.make_env, TASK, max_delta=0.3)
    before = set(multiprocessing.active_children())
    with pytest.raises(EnvError, match=r"(?s)env 1 could not be built:\n.*max_delta 0.3"):
        vector_of(bad)
    assert set(multiprocessing.active_children()) <= before


SCRIPT = """
import functools, sys
import numpy as np
from envs import VectorEnv
from tests.envs.crashing import processes, toy

vector = VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process")
vector.reset(seeds=[1, 2])
try:
    print(*[process.pid for process in processes(vector)], flush=True)
    while True:
        vector.reset(seeds=[1, 2])
        vector.step(np.zeros((2, 1)))
except KeyboardInterrupt:
    sys.exit(7)
finally:
    vector.close()
"""


@pytest.fixture
def running(tmp_path):
    """A script that steps a vector for ever, and the ids of its workers."""
    script = tmp_path / "steps.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(envs.__file__).parents[1])},
        start_new_session=True,
        # Where the tests run in the background Ctrl-C is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    yield process, pids
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_ctrl_c_is_the_parents_business(running):
    process, pids = running
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 7
    assert errors == ""
    assert gone(pids, seconds=60)


def test_workers_end_when_the_parent_is_killed(running):
    process, pids = running
    process.kill()
    assert gone(pids, seconds=60)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
