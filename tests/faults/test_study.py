"""Studies of real runs whose runner is killed or stopped, or whose disk is full, and its cost."""

import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fileio import yaml_files
from study import job as jobs
from study.job import output_of, read_state
from study.records import Plan
from study.status import table
from tests.helpers.runs import EPISODES, NETWORKS, TASK, assert_same_run
from tests.study import fakes

ROOT = Path(__file__).parents[2]
PATIENCE = 1800
TINY = {**NETWORKS, **EPISODES, "log_videos": False, "keep_checkpoints": 1, "debug": False}

pytestmark = pytest.mark.faults


def study_file(folder, **flags):
    """One arm of a tiny DreamerV2 on a task without distractors of its own."""
    head = {"transfers": [{"target": TASK}], "arms": {"a": {"method": "dreamerv2"}}}
    chosen = "".join(f"  {name}: {value}\n" for name, value in (TINY | flags).items())
    path = folder / "tiny.yaml"
    path.write_text(f"{yaml_files.dump(head)}train:\n{chosen}")
    return str(path)


def command(path, logdir, *more):
    words = ["-m", "study", "run", path, "--scale", "debug", "--logdir", str(logdir), *more]
    return [sys.executable, *words]


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.02)
    return found


def test_a_study_outlives_its_runner_and_a_stop(tmp_path):
    """Killed, started again, stopped by Ctrl-C, started again: all as if nothing had been."""
    path = study_file(tmp_path, steps=600, checkpoint_every=40)
    logdir = tmp_path / "runs"
    words = command(path, logdir, "--seeds", "3", "--jobs", "2")
    folders = [logdir / TASK / "dreamerv2" / f"seed_{seed}" for seed in range(3)]

    def checkpointed(count):
        return sum(any(one.glob("checkpoint_*.pt")) for one in folders) >= count

    killed = subprocess.Popen(words, cwd=ROOT)
    wait_for(lambda: checkpointed(1), "a checkpoint")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stopped = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpointed(2), "a second run's checkpoint")
    refused = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=PATIENCE)[1]
    assert stopped.returncode == 130, said
    assert refused.returncode == 2
    assert "another runner is at work on tiny" in refused.stderr
    assert not [one for one in folders if jobs.owner_of(one)]
    assert subprocess.run(words, cwd=ROOT).returncode == 0
    alone = tmp_path / "alone"
    # With as many threads for each: sums round by their number.
    subprocess.run(command(path, alone, "--seeds", "3", "--jobs", "2"), check=True, cwd=ROOT)
    for folder in folders:
        assert_same_run(alone / folder.relative_to(logdir), folder)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 300 MiB; the runner begins no job with less than 256 free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"only root can mount disks: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, small_disk):
    words = command(study_file(tmp_path), small_disk / "runs", "--jobs", "1")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(299 << 20))
    full = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1 or full.returncode == 2
    assert re.search(r"free (some space there|some)", full.stderr.splitlines()[-1])
    assert "Traceback" not in full.stderr
    ballast.write_bytes(bytes(100 << 20))
    low = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert low.returncode == 2
    assert "1 jobs are not done: free some space there" in low.stderr.splitlines()[-1]
    ballast.unlink()
    assert subprocess.run(words, cwd=ROOT).returncode == 0


def test_a_runner_costs_next_to_nothing(tmp_path, capsys):
    """Sixty jobs of two seconds, four at once: the time that is not theirs, and the memory."""

    def sleeping(job, more):
        words = fakes.command(job, more)
        return ["sh", "-c", 'sleep 2; exec "$@"', "job", *words]

    plan = [fakes.job(tmp_path, f"task/m/seed_{n}") for n in range(60)]
    before, used = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    began = time.monotonic()
    code, _ = fakes.run(tmp_path, plan, at_once=4, command=sleeping)
    wall, used = time.monotonic() - began, time.process_time() - used
    after = resource.getrusage(resource.RUSAGE_SELF)
    endings = [output_of(tmp_path / job.name).read_text() for job in plan]
    theirs = sum(float(re.search(r"after ([\d.]+) s", text)[1]) for text in endings)
    with capsys.disabled():
        print(
            f"\n60 jobs, 4 at once: {wall:.1f} s, of which theirs {theirs / 4:.1f}; the runner's "
            f"own {used:.2f} s of a core; memory {after.ru_maxrss - before.ru_maxrss} KiB more"
        )
    assert code == 0
    assert used < 0.02 * theirs
    assert after.ru_maxrss - before.ru_maxrss < 4 << 10


def test_the_status_of_two_hundred_runs_is_told_at_once(tmp_path, capsys):
    """Each with the log of a run of the paper's length."""
    plan = [fakes.job(tmp_path, f"task/m/seed_{n}") for n in range(200)]
    rows = '{"step": %d, "time": %d, "train_return": 1.0, "train_length": 500.0}\n'
    rows += '{"step": %d, "time": %d, "event": "train", "episode": 1, "ret": 1.0}\n'
    log = "".join(rows % (n, n, n, n) for n in range(1500))
    log += '{"step": 2000, "time": 2000, "eval_return": 3.0}\n'
    for one in plan:
        (tmp_path / one.name).mkdir(parents=True)
        (tmp_path / one.name / "config.yaml").touch()
        (tmp_path / one.name / "metrics.jsonl").write_text(log)
    began, used = time.monotonic(), time.process_time()
    text = table(Plan("fakes", "cpu", "curves", {}, tuple(plan)), tmp_path)
    with capsys.disabled():
        told = f"{time.monotonic() - began:.2f} s, {time.process_time() - used:.2f} of a core"
        print(f"\nstatus of 200 runs: {told}")
    assert text.count("stopped") == 201
    assert time.process_time() - used < 2
    assert read_state(plan[0], tmp_path / plan[0].name).ret == 3.0
