"""The runner: stages in order, what is done is skipped, failures, stops, kills, disks, memory."""

import json
import shutil
from collections import namedtuple

import pytest

from study import job as jobs
from study.job import output_of, read_state
from study.worker import Start
from tests.study import fakes
from tools import UserError


def lines(capsys):
    """What the runner said, without the time."""
    return [line[9:] for line in capsys.readouterr().err.splitlines()]


def starts(logdir, name):
    """How often a job was begun."""
    return output_of(logdir / name).read_text().count("study: fakes, runner")


def status(job, logdir):
    return read_state(job, logdir / job.name).status


def test_stages_run_in_order_and_once(tmp_path, capsys):
    collect = fakes.job(tmp_path, "a")
    pretrain = fakes.job(tmp_path, "b", "a")
    train = [fakes.job(tmp_path, f"c{seed}", "b") for seed in range(3)]
    plan = [collect, pretrain, *train]
    assert fakes.run(tmp_path, plan, at_once=3)[0] == 0
    said = lines(capsys)
    assert said[0] == "fakes: 5 jobs (5 waiting), 3 at once"
    assert said[1:5] == [
        "start a", "done  a at 40, return 40.0", "start b", "done  b at 40, return 40.0",
    ]  # fmt: skip
    assert said[5:8] == ["start c0", "start c1", "start c2"]
    assert said[-1] == "fakes: all 5 jobs are done"
    # The same command again: nothing is begun.
    assert fakes.run(tmp_path, plan)[0] == 0
    assert lines(capsys) == ["fakes: 5 jobs (5 done), 2 at once", "fakes: all 5 jobs are done"]
    assert starts(tmp_path, "a") == 1


def test_a_failure_tells_its_last_line_and_is_tried_twice_more(tmp_path, capsys):
    plan = [
        fakes.job(tmp_path, "bad", fails=9),
        fakes.job(tmp_path, "behind", "bad"),
        fakes.job(tmp_path, "lucky", fails=2),
    ]
    code, _ = fakes.run(tmp_path, plan)
    said = lines(capsys)
    assert code == 1
    assert starts(tmp_path, "bad") == starts(tmp_path, "lucky") == 3
    assert status(plan[2], tmp_path) == jobs.DONE
    line = "the simulator has gone fishing"
    assert f"fail  bad: fake.py: {line} (tried 2 times more)" in said
    assert said[-2:] == [f"failed bad: fake.py: {line}", "1 jobs wait for those"]
    assert not (tmp_path / "behind").exists()
    # Another start tells it, and tries again.
    plan[0] = fakes.job(tmp_path, "bad")
    assert fakes.run(tmp_path, plan)[0] == 0
    assert f"again bad, which failed: fake.py: {line}" in lines(capsys)


def test_a_stop_lets_jobs_write_their_checkpoints_and_the_same_command_goes_on(tmp_path, capsys):
    go = tmp_path / "go"
    plan = [fakes.job(tmp_path, name, wait_for=go) for name in "abc"]

    def both_are_at_work():
        logs = [tmp_path / name / "metrics.jsonl" for name in "ab"]
        return all(log.exists() and "eval_return" in log.read_text() for log in logs)

    code, _ = fakes.run(tmp_path, plan, stop=fakes.Stop(both_are_at_work))
    assert code == 143
    assert lines(capsys)[-1] == "stopped; the same command goes on"
    assert [status(job, tmp_path) for job in plan] == [jobs.STOPPED, jobs.STOPPED, jobs.WAITING]
    assert (tmp_path / "a" / "checkpoint_000000001.pt").exists()
    go.touch()
    assert fakes.run(tmp_path, plan)[0] == 0
    log = (tmp_path / "a" / "metrics.jsonl").read_text()
    assert [json.loads(line).get("event") for line in log.splitlines()].count("resume") == 1


def test_a_killed_runners_job_keeps_its_place_until_it_ends(tmp_path, capsys):
    """The next runner of the study waits for it, and does not start it a second time."""
    go = tmp_path / "go"
    plan = [fakes.job(tmp_path, "a", wait_for=go), fakes.job(tmp_path, "b", wait_for=go)]
    process = fakes.begin(plan[0])
    try:
        while not (tmp_path / "a" / "metrics.jsonl").exists():
            assert process.poll() is None

        class Freed(fakes.Stop):
            """Lets the job end once the runner has looked at it."""

            @property
            def is_asked(self):
                go.touch()
                return False

        assert fakes.run(tmp_path, plan, at_once=1, stop=Freed())[0] == 0
    finally:
        process.kill()
        process.wait()
    said = lines(capsys)
    assert said[1] == "wait  a: a process is at work there"
    assert said.index("done  a at 40, return 40.0") < said.index("start b")
    assert not output_of(tmp_path / "a").exists()


@pytest.mark.parametrize(("who", "stopped"), [("fakes", True), ("others", False)])
def test_a_stop_reaches_jobs_of_a_killed_runner_but_not_of_another_study(
    tmp_path, capsys, who, stopped
):
    plan = [fakes.job(tmp_path, "a", wait_for=tmp_path / "never")]
    start = Start(fakes.command(plan[0], ()), tmp_path / "a", f"{who}, runner 1")
    start.begin()
    try:
        log = tmp_path / "a" / "metrics.jsonl"
        while not (log.exists() and "eval_return" in log.read_text()):
            assert start.pid
        assert fakes.run(tmp_path, plan, stop=fakes.Stop(lambda: True))[0] == 143
        # A process that has ended is one that nobody has waited for yet.
        assert (status(plan[0], tmp_path) == jobs.STOPPED) == stopped
        assert any(line.startswith("leave a") for line in lines(capsys)) != stopped
    finally:
        start.ask()
        assert start.wait().code == 143


def test_a_disk_without_room_is_one_line_and_nothing_is_begun(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(UserError, match=r"has 0\.00 GiB left.*1 jobs are not done: free some"):
        fakes.run(tmp_path, [fakes.job(tmp_path, "a")])
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    assert fakes.run(tmp_path, [fakes.job(tmp_path, "a")])[0] == 0


def test_jobs_wait_until_their_memory_is_there(tmp_path, capsys):
    """Two of 60 do not fit into 100 beside each other; one that does not fit at all runs alone."""
    plan = [fakes.job(tmp_path, name) for name in "ab"]
    memory = {"needed": lambda job: 60 << 30, "available": lambda: 100 << 30}
    assert fakes.run(tmp_path, plan, **memory)[0] == 0
    said = capsys.readouterr().err
    assert "study: b waits: it needs 60.0 GiB, and 40.0 are left beside those at work" in said
    said = [line[9:] for line in said.splitlines()]
    assert said.index("done  a at 40, return 40.0") < said.index("start b")
    large = [fakes.job(tmp_path, "large")]
    assert fakes.run(tmp_path, large, needed=lambda job: 1 << 50, available=lambda: 1)[0] == 0


def test_threads_and_gpus_are_shared_out(tmp_path):
    seen = {}

    def command(job, more):
        seen[job.name] = more
        return fakes.command(job, more)

    go = tmp_path / "go"
    names = "abcd"
    plan = [fakes.job(tmp_path, name, device="auto", wait_for=go) for name in names]
    from study.local import LocalPool

    pool = LocalPool(None, 2, 2, lambda job: 1, command)
    assert pool.slots == 4
    started = pool.start([(job, tmp_path / job.name) for job in plan], "fakes, runner 1")
    assert started == [*names]
    go.touch()
    ended = set()
    while ended != set(names):
        ended |= {one.name for one in pool.take(5.0)}
    assert [seen[name][-1] for name in names] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert all(more[:2] == ["--num_threads", str(pool.threads)] for more in seen.values())
