"""SLURM's backend: what sbatch is given, and jobs that are preempted, in submitit's processes."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from study import job as jobs
from study.job import output_of, read_state
from study.runner import Runner
from tests.study import fakes
from tools import UserError

pytest.importorskip("submitit", reason="submitit is not installed: requirements-slurm.txt")
from study.slurm import SlurmArrays


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A cluster that takes everything and runs nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"sbatch": "echo Submitted batch job 12", "sacct": "echo 'JobID|State'", "srun": ":"}
    scripts["scancel"] = f'echo "$@" >> {tmp_path}/cancelled'
    for name, line in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "slurm"


def test_a_wave_of_jobs_is_one_array_that_is_told_before_its_time_is_up(sbatch, tmp_path):
    given = ["timeout_min=90", "slurm_partition=gpu", "cpus_per_task=3"]
    backend = SlurmArrays(sbatch, given, 7, 1)
    plan = [fakes.job(tmp_path, name) for name in "ab"]
    try:
        started = backend.start([(job, tmp_path / job.name) for job in plan], "fakes, runner 1")
        assert started == ["a", "b"]
        (script,) = {path.read_text() for path in sbatch.glob("*submission*.sh")}
        lines = re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE)
        asked = dict(line.partition("=")[::2] for line in lines)
        assert asked["array"] == "0-1%2"
        assert asked["time"] == "90"
        assert (asked["partition"], asked["gpus-per-node"]) == ("gpu", "1")
        assert asked["cpus-per-task"] == "3"
        assert re.fullmatch(r"USR2@\d+", asked["signal"])
        assert asked["open-mode"] == "append"  # one that goes on adds to its output
        assert backend.threads == 3
        known = json.loads((sbatch / "jobs.json").read_text())
        assert known == {"a": "12_0", "b": "12_1"}
        backend.stop()
        assert sorted((tmp_path / "cancelled").read_text().split()) == ["12_0", "12_1"]
    finally:
        backend.close()
    # What an earlier runner has put into the queue is not put there again.
    later = SlurmArrays(sbatch, given, 7, 1)
    try:
        assert later.adopt(["a", "c"]) == ["a"]
    finally:
        later.close()


@pytest.mark.parametrize(
    ("given", "line"),
    [("partition", "takes KEY=VALUE"), ("timeout_mim=3", "timeout_mim")],
)
def test_parameters_that_are_none_are_one_line(sbatch, given, line):
    with pytest.raises(UserError, match=line):
        SlurmArrays(sbatch, [given], None, 0)


def test_what_sbatch_refuses_is_one_line(sbatch, tmp_path):
    script = tmp_path / "bin" / "sbatch"
    script.write_text("#!/bin/sh\necho invalid partition specified: nope >&2\nexit 1\n")
    backend = SlurmArrays(sbatch, ["slurm_partition=nope"], None, 0)
    try:
        with pytest.raises(UserError, match=r"^--backend slurm: .*invalid partition") as refused:
            backend.start([(fakes.job(tmp_path, "a"), tmp_path / "a")], "fakes, runner 1")
        assert "\n" not in str(refused.value)
    finally:
        backend.close()


def test_no_slurm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"--backend slurm: .*srun"):
        SlurmArrays(tmp_path / "slurm", [], None, 0)


@pytest.mark.slow
def test_a_job_whose_time_is_up_writes_its_checkpoint_and_goes_on_in_the_queue(tmp_path, capsys):
    go = tmp_path / "go"
    plan = [fakes.job(tmp_path, "a", wait_for=go), fakes.job(tmp_path, "b", "a")]
    backend = SlurmArrays(
        tmp_path / "slurm", [], 2, 0, cluster="local", every=0.05, command=fakes.command
    )

    class Interrupts(fakes.Stop):
        """Sends the signal that tells of the end of the time, once the job is at work."""

        sent = False

        @property
        def is_asked(self):
            log, output = tmp_path / "a" / "metrics.jsonl", output_of(tmp_path / "a")
            if not self.sent and log.exists() and "eval_return" in log.read_text():
                self.sent = True
                controller = backend._running["a"]._process.pid
                (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
                os.kill(int(task), signal.SIGUSR2)
            if output.exists() and "exit 143" in output.read_text():
                go.touch()
            return False

    try:
        assert Runner("fakes", plan, tmp_path, backend, Interrupts()).run() == 0
    finally:
        backend.close()
    state = read_state(plan[0], tmp_path / "a")
    assert (state.status, state.starts) == (jobs.DONE, 2)
    assert "resume" in (tmp_path / "a" / "metrics.jsonl").read_text()
    assert read_state(plan[1], tmp_path / "b").status == jobs.DONE
