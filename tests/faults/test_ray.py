"""A cluster of two Ray nodes loses one of them; its run is resumed on the other, and ends the same.

Ray's daemons listen on all interfaces, so each node lives in a network namespace of its own, which
nothing but the other one can reach.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fileio import yaml_files
from study import job as jobs
from study.records import read_plan
from tests.helpers.runs import EPISODES, NETWORKS, TASK, assert_same_run

ROOT = Path(__file__).parents[2]
HEAD, NODE = ("diswm-head", "10.98.7.1"), ("diswm-node", "10.98.7.2")
PATIENCE = 1800  # seconds: a busy machine starts Ray slowly
PATIENT = os.environ | {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_raylet_start_wait_time_s": "600",
}

LACKING = (
    "Ray is not installed: requirements-ray.txt" * (importlib.util.find_spec("ray") is None)
    or "network namespaces need root" * (os.geteuid() != 0)
    or "network namespaces need ip (iproute2)" * (shutil.which("ip") is None)
)
pytestmark = [pytest.mark.faults, pytest.mark.skipif(bool(LACKING), reason=LACKING)]


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def inside(namespace, *words):
    """The words of Python in a namespace."""
    return ["ip", "netns", "exec", namespace, sys.executable, *words]


def pids(namespace):
    return [int(pid) for pid in ip("netns", "pids", namespace).split()]


def kill(namespace):
    """What a power cut does to a node."""
    while found := pids(namespace):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # its parent took it along
                continue
        time.sleep(0.1)


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.05)
    return found


@pytest.fixture
def cluster():
    """Two nodes with a core each; yields the head's address."""
    for name, _ in (HEAD, NODE):
        try:
            ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        ip("link", "add", "diswm0", "netns", HEAD[0], "type", "veth", "peer", "diswm1",
           "netns", NODE[0])  # fmt: skip
        for (name, address), link in ((HEAD, "diswm0"), (NODE, "diswm1")):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        usual = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
        # A raylet waits 15 s for the ports that its agents choose; a busy machine needs longer.
        ports = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc")
        usual += [f"--{n}-port={p}" for p, n in enumerate((*ports, "runtime-env-agent"), 52365)]
        head = ["--head", f"--node-ip-address={HEAD[1]}", "--port=6379"]
        for name, words in (
            (HEAD[0], [*head, "--include-dashboard=false"]),
            (NODE[0], [f"--address={HEAD[1]}:6379", f"--node-ip-address={NODE[1]}"]),
        ):
            command = inside(name, "-m", "ray.scripts.scripts", "start", *words, *usual)
            subprocess.run(command, check=True, cwd=ROOT, timeout=PATIENCE, env=PATIENT)
        yield f"{HEAD[1]}:6379"
    finally:
        for name, _ in (HEAD, NODE):
            kill(name)
            ip("netns", "delete", name)


def study_file(folder):
    """Two runs of a tiny DreamerV2, long enough to be killed in."""
    flags = {**NETWORKS, **EPISODES, "steps": 1200, "checkpoint_every": 40, "eval_every": 600}
    flags |= {"log_videos": False, "keep_checkpoints": 1, "debug": False}
    text = yaml_files.dump(
        {"transfers": [{"target": TASK}], "arms": {"a": {"method": "dreamerv2"}}}
    )
    text += "train:\n" + "".join(f"  {name}: {value}\n" for name, value in flags.items())
    path = folder / "two.yaml"
    path.write_text(text)
    return str(path)


def command(path, logdir):
    return ["-m", "study", "run", path, "--scale", "debug", "--seeds", "2", "--logdir", str(logdir)]


def test_a_nodes_death_loses_nothing(tmp_path, cluster):
    path, logdir = study_file(tmp_path), tmp_path / "runs"
    words = [*command(path, logdir), "--backend", "ray", "--address", cluster]
    with (tmp_path / "out").open("w") as out:
        runner = subprocess.Popen(inside(HEAD[0], *words), cwd=ROOT, stdout=out, stderr=out)
    try:
        folders = [logdir / TASK / "dreamerv2" / f"seed_{seed}" for seed in range(2)]

        def at_work():
            """The run on the second node, once it has a checkpoint to go on from."""
            assert runner.poll() is None, (tmp_path / "out").read_text()
            there = pids(NODE[0])
            found = [one for one in folders if jobs.owner_of(one) in there]
            return [one for one in found if len([*one.glob("checkpoint_*.pt")]) > 0]

        (lost,) = wait_for(at_work, "a run on the second node")
        kill(NODE[0])
        frames = max(int(one.stem[11:]) for one in lost.glob("checkpoint_*.pt"))
        assert frames < 1200
        assert runner.wait(PATIENCE) == 0, (tmp_path / "out").read_text()
    finally:
        runner.kill()
        runner.wait()
    said = (tmp_path / "out").read_text()
    print(said)
    assert f"lost  {lost.relative_to(logdir)}" in said
    resumed = [row for row in (lost / "metrics.jsonl").read_text().splitlines() if "resume" in row]
    assert len(resumed) == 1
    alone = tmp_path / "alone"
    # With as many threads for each: sums round by their number.
    subprocess.run([sys.executable, *command(path, alone), "--jobs", "2"], check=True, cwd=ROOT)
    for folder in folders:
        assert_same_run(alone / folder.relative_to(logdir), folder)
    assert len(read_plan(logdir, "two").jobs) == 2
