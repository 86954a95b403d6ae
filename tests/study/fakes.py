"""Jobs that tests/study/fake.py runs, and a runner for them."""

import subprocess
import sys
from pathlib import Path

from study.job import Job
from study.local import LocalPool
from study.runner import Runner

FAKE = Path(__file__).with_name("fake.py")
END = 40


def job(logdir, name, *needs, wait_for="", fails=0, **more):
    """A job that waits for a file, if one is named, and fails so many times."""
    words = (str(logdir / name), str(END), str(wait_for), str(fails))
    usual = {
        "arms": ("arm",), "stage": "train", "method": "diswm", "task": "fake_task", "source": "",
        "seed": 0, "is_goal": True, "end": END, "device": "cpu", "memory": 1,
    }  # fmt: skip
    return Job(name=name, words=words, needs=needs, **usual | more)


def command(job, more):
    return [sys.executable, str(FAKE), *job.words]


class Stop:
    """A stop that is asked for once a condition holds."""

    exit_code = 143

    def __init__(self, condition=lambda: False):
        self._condition = condition

    @property
    def is_asked(self):
        return self._condition()


def run(logdir, jobs, at_once=2, stop=None, **pool):
    """Runs jobs to their end; the exit status and the runner."""
    backend = LocalPool(at_once, 1, 0, **{"needed": lambda job: 1, "command": command, **pool})
    runner = Runner("fakes", jobs, logdir, backend, stop or Stop())
    return runner.run(), runner


def begin(job):
    """Starts a job's process as somebody else would."""
    return subprocess.Popen(command(job, ()), stdout=subprocess.DEVNULL)
