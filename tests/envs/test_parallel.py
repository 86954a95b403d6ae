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
from tests.envs.crashing import processes

MAIN, OWN = sys.modules["__main__"], os.environ.get("LP_NUM_THREADS")

TASK = "dmc2gym_cartpole_swingup"
N = 2
STILL = np.zeros((N, 1), np.float32)  # a batch of actions


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


@pytest.fixture
def breakable():
    """A vector of processes for one test, which may leave it in any state."""
    with envs.make_vector(TASK, N, workers="process") as vector:
        yield vector


def test_close_reaps_the_workers(breakable):
    pids = [process.pid for process in processes(breakable)]
    assert all(alive(pid) for pid in pids)
    breakable.reset(seeds=[1, 2])
    breakable.step_async(STILL)  # and in the middle of a step
    start = time.monotonic()
    breakable.close()
    assert time.monotonic() - start < 30
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # not even as zombies
    assert not set(pids) & {process.pid for process in multiprocessing.active_children()}
    breakable.close()


def test_workers_have_one_thread_pool_thread_and_leave_the_parents_environment(breakable):
    for process in processes(breakable):
        environment = Path(f"/proc/{process.pid}/environ").read_text()
        for setting in ("OMP_NUM_THREADS=1", "LP_NUM_THREADS=1", "MUJOCO_GL="):
            assert setting in environment
    assert os.environ.get("LP_NUM_THREADS") == OWN
    assert sys.modules["__main__"] is MAIN  # hidden only while workers start


def test_an_error_in_a_worker_names_the_env_and_shows_its_traceback(breakable):
    breakable.reset(seeds=[1, 2])
    actions = STILL.copy()
    actions[1] = np.nan
    with pytest.raises(EnvError, match=r"(?s)env 1 failed in step:\n.*Traceback.*not finite"):
        breakable.step(actions)
    with pytest.raises(EnvError, match="env 1 is gone"):
        breakable.reset(seeds=[1, 2])


def test_ctrl_c_does_not_reach_the_workers(breakable):
    breakable.reset(seeds=[1, 2])
    expected = breakable.step(STILL).image
    breakable.reset(seeds=[1, 2])
    for process in processes(breakable):
        os.kill(process.pid, signal.SIGINT)
    np.testing.assert_array_equal(breakable.step(STILL).image, expected)


def test_a_worker_that_dies_is_named_and_close_still_works(breakable):
    breakable.reset(seeds=[1, 2])
    doomed = processes(breakable)[1]
    os.kill(doomed.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="env 1 is gone: its worker ended with signal SIGKILL"):
        breakable.step(STILL)
    start = time.monotonic()
    breakable.close()
    assert time.monotonic() - start < 30
    assert not any(process.is_alive() for process in processes(breakable))


def test_a_worker_that_cannot_build_its_env_says_why_and_none_is_left():
    good = functools.partial(envs.make_env, TASK)
    bad = functools.partial(envs.make_env, TASK, max_delta=0.3)
    before = set(multiprocessing.active_children())
    with pytest.raises(EnvError, match=r"(?s)env 1 could not be built:\n.*max_delta 0.3"):
        VectorEnv([good, bad], workers="process")
    assert set(multiprocessing.active_children()) <= before


SCRIPT = """
import sys
import numpy as np
import envs
from tests.envs.crashing import processes

vector = envs.make_vector("{task}", 2, workers="process")
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
    script.write_text(SCRIPT.format(task=TASK))
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
