"""The state of a job is read off its run's folder, whatever was done to it."""

import json
import sys
from pathlib import Path

import pytest

from study import job as jobs
from study.job import Ending, Job, beginning, output_of, read_state
from study.worker import Start
from tests.study import fakes
from tests.study.fakes import END


@pytest.fixture
def one(tmp_path):
    return fakes.job(tmp_path, "task/diswm/seed_0")


def folder_of(job):
    return Path(job.words[0])


def finish(job):
    assert fakes.begin(job).wait() == 0
    return folder_of(job)


def status(job):
    return read_state(job, folder_of(job)).status


def test_a_run_waits_and_then_is_done(one):
    assert status(one) == jobs.WAITING
    folder = finish(one)
    state = read_state(one, folder)
    assert (state.status, state.frames, state.ret) == (jobs.DONE, END, END)
    assert state.seconds == pytest.approx(END / 10)
    assert state.rate == pytest.approx(10)


def test_a_line_that_a_kill_cut_short_is_no_end(one):
    folder = finish(one)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 41, "ti')
    assert read_state(one, folder).frames == END


def test_an_end_in_the_log_without_its_checkpoint_is_none(one):
    folder = finish(one)
    (folder / f"checkpoint_{END:09d}.pt").rename(folder / "checkpoint_000000039.pt")
    assert status(one) == jobs.STOPPED


def test_a_run_that_is_to_be_longer_goes_on(one):
    finish(one)
    longer = Job(**one.to_dict() | {"end": END + 1})
    assert status(longer) == jobs.STOPPED


def test_a_run_is_running_while_a_process_holds_its_lock(one, tmp_path):
    waits = fakes.job(tmp_path, one.name, wait_for=tmp_path / "go")
    process = fakes.begin(waits)
    try:
        while not (folder_of(one) / "metrics.jsonl").exists():
            assert process.poll() is None
        assert status(one) == jobs.RUNNING
        assert jobs.owner_of(folder_of(one)) == process.pid
        # Another host's lock is tried.
        lock = folder_of(one) / "lock"
        there = lock.read_text()
        lock.write_text("pid 1 on elsewhere\n")
        assert status(one) == jobs.RUNNING
        assert jobs.owner_of(folder_of(one)) is None
        lock.write_text(there)
    finally:
        process.kill()
        process.wait()
    assert status(one) == jobs.STOPPED
    assert jobs.owner_of(folder_of(one)) is None


def test_a_process_that_is_about_to_begin_is_at_work(one, tmp_path):
    """It has no lock yet: until then it is known by where its output goes."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = Start(sleeps, folder_of(one), "fakes, runner 7")
    start.begin()
    try:
        assert status(one) == jobs.RUNNING
        assert jobs.owner_of(folder_of(one)) == start.pid
    finally:
        start.ask()
        assert start.wait().code == -15
    assert status(one) == jobs.WAITING
    assert jobs.owner_of(folder_of(one)) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1, jobs.FAILED),
        (2, jobs.FAILED),
        (-9, jobs.FAILED),
        (143, jobs.STOPPED),
        (-15, jobs.STOPPED),
    ],
)
def test_a_start_that_failed_tells_its_last_line(one, code, expected):
    folder = folder_of(one)
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    lines = [beginning("python dreamer.py", "fakes, runner 7", 1), "so far", "", "it broke\033[1m"]
    output_of(folder).write_text("\n".join([*lines, str(Ending(code, 1.5, 3 << 20)), ""]))
    state = read_state(one, folder)
    assert (state.status, state.peak) == (expected, 3 << 20)
    assert state.line == (r"it broke\x1b[1m" if expected == jobs.FAILED else "")
    assert jobs.started_by(folder) == "fakes"
    # A start that is killed with its runner leaves no line of its end.
    with output_of(folder).open("a") as file:
        file.write(f"{beginning('python dreamer.py', 'others, runner 8', 1)}\n")
    assert status(one) == jobs.STOPPED
    assert jobs.started_by(folder) == "others"


def test_a_job_survives_json(one):
    assert Job.from_dict(json.loads(json.dumps(one.to_dict()))) == one
