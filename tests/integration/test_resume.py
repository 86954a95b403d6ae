"""A run that was stopped or killed and started again ends as one that never was, bit for bit.

The references are runs that nothing interrupts. Others stop where a signal could have stopped
them, at one place after the other, or are copies of the reference's folder, taken in the middle:
what a power cut leaves.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import dreamer
from tests.helpers.runs import KILLS, saved
from training.run_folder import RunFolder
from training.stop import Stopped

ROOT = Path(dreamer.__file__).parent

# Where a run stops, one start after the other; the places count from each start on.
STOPS = {
    "filling, inside an episode": ("prefill", 8),
    "filling, between episodes": ("prefill", 4),
    "updates before the first step": ("update", 2),
    "first evaluation": ("evaluation", 27),
    "inside an episode": ("acting", 9),
    "evaluation at the midpoint": ("evaluation", 5),
    "second half": ("acting", 18),
}
# Environments that step while updates run: where it stops, and whether a step is then under way.
OVERLAP = {"overlap": True, "train_steps": 2}
OVERLAPPED = {
    "filling": (("prefill", 8), False),
    "updates before the first step": (("update", 2), False),
    "a step to be sent before the updates": (("update", 4), False),
    "a step under way, no update yet": (("update", 2), True),
    "a step under way, some updates": (("update", 2), True),
    "a step under way, all updates": (("acting", 1), True),
    "updates that an evaluation awaits": (("update", 2), False),
    "the second evaluation": (("evaluation", 5), False),
}
TWO = {"envs": 2, "async_env": "none", "eval_every": 0}


def stop():
    raise Stopped


def kill():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole_two(tmp_path_factory, tiny):
    """The uninterrupted run of two environments, one after the other in this process."""
    return tiny.finish(tiny.finetune(tmp_path_factory.mktemp("two"), **TWO))


@pytest.fixture(scope="module")
def whole_overlapped(tmp_path_factory, tiny):
    """The one whose environment steps while updates run, in this process."""
    argv = tiny.finetune(tmp_path_factory.mktemp("overlap"), async_env="none", **OVERLAP)
    return tiny.finish(argv)


@pytest.fixture(scope="module")
def whole_predictor(tmp_path_factory, tiny, videos, calling):
    """An uninterrupted pretraining; beside it what a kill would have left of it."""
    root = tmp_path_factory.mktemp("predictor")

    def copy():
        shutil.copytree(root / "runs", root / "killed", symlinks=True)

    with calling({("update", 6): copy}):
        return tiny.finish(tiny.pretrain(root / "runs", videos))


def stopped(tiny, calling, argv, place):
    """Runs a command until it is told to stop there; the checkpoint that it leaves."""
    with calling({place: stop}):
        result = tiny.run(argv)
    assert result.code == 128, (place, result.err)
    assert "stopped" in result.err
    return torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)


def check(same, whole, folder):
    """A run ended as the one that nothing interrupted, and logged every row once."""
    same.run(whole, folder)
    same.values(same.metrics(whole), same.metrics(folder))


# Stopped


@pytest.mark.slow
def test_stopped_run_goes_on_as_if_nothing_had_been(tmp_path, tiny, calling, same, whole):
    argv = tiny.finetune(tmp_path)
    for place in STOPS.values():
        stopped(tiny, calling, argv, place)
    check(same, whole, tiny.finish(argv))
    assert not (tiny.folder(argv) / "stale").exists()


@pytest.mark.slow
def test_run_of_two_environments_goes_on(tmp_path, tiny, calling, same, whole_two):
    argv = tiny.finetune(tmp_path, **TWO)
    for place in [("prefill", 4), ("update", 2), ("acting", 4), ("acting", 9)]:
        stopped(tiny, calling, argv, place)
    same.run(whole_two, tiny.finish(argv))


@pytest.mark.slow
def test_a_step_under_way_goes_on(tmp_path, tiny, calling, same, whole_overlapped):
    argv = tiny.finetune(tmp_path, async_env="none", **OVERLAP)
    for name, (place, under_way) in OVERLAPPED.items():
        state = stopped(tiny, calling, argv, place)
        assert (state["collector"]["sent"] is not None) == under_way, name
    check(same, whole_overlapped, tiny.finish(argv))


@pytest.mark.slow
def test_a_step_under_way_in_a_process_goes_on(tmp_path, tiny, calling, same, whole_overlapped):
    argv = tiny.finetune(tmp_path, **OVERLAP)
    state = stopped(tiny, calling, argv, ("update", 6))
    assert state["collector"]["sent"] is not None
    same.run(whole_overlapped, tiny.finish(argv))


@pytest.mark.slow
def test_the_same_command_with_pictures_gives_the_same_run(same, whole, shown):
    """Videos and traversals are drawn beside the run, and move none of its generators."""
    check(same, whole, shown)


@pytest.mark.slow
def test_stopped_pretraining_goes_on(tmp_path, tiny, videos, calling, same, whole_predictor):
    argv = tiny.pretrain(tmp_path, videos)
    for place in [("update", 1), ("update", 3), ("update", 5)]:
        stopped(tiny, calling, argv, place)
    folder = tiny.finish(argv)
    check(same, whole_predictor, folder)
    for path in sorted(whole_predictor.rglob("*.pt")):
        same.values(saved(path), saved(folder / path.relative_to(whole_predictor)))


# Killed


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_run_goes_on_from_its_last_checkpoint(tiny, killed, same, whole, name):
    argv = tiny.finetune(killed(name))
    folder = tiny.folder(argv)
    checkpoint = folder / "checkpoint.pt"
    frames = torch.load(checkpoint, weights_only=True)["frames"] if checkpoint.exists() else -1
    written = {path.name: path.read_bytes() for path in folder.glob("train_eps/*.npz")}
    later = {n: content for n, content in written.items() if (int(n[:6]) + 1) * 20 > frames}
    check(same, whole, tiny.finish(argv))
    assert later
    assert {path.name: path.read_bytes() for path in (folder / "stale").iterdir()} == later


def test_killed_run_with_its_episodes_elsewhere_goes_on(tmp_path, tiny, calling):
    flags = {"traindir": tmp_path / "eps", "time_limit": 6, "steps": 0, "prefill": 5}
    argv = tiny.finetune(tmp_path / "runs", distillation=False, **flags)
    with calling({("prefill", 5): kill}):
        assert tiny.run(argv).code == 130  # stopped without a checkpoint
    assert len(list((tmp_path / "eps").iterdir())) == 1
    tiny.finish(argv)


@pytest.mark.slow
def test_killed_pretraining_goes_on(tiny, videos, same, whole_predictor):
    logdir = whole_predictor.parents[3] / "killed"
    argv = tiny.pretrain(logdir, videos)
    state = torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)
    assert 0 < state["frames"] < 250
    same.run(whole_predictor, tiny.finish(argv))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_killed_right_before_its_end_logs_every_row_once(
    tmp_path, tiny, videos, killed, same, whole, whole_predictor, kind
):
    """When a checkpoint would be due there, too."""
    if kind == "pretrain":
        argv = tiny.pretrain(tmp_path, videos, checkpoint_every=250)
    else:  # its checkpoint is of frame 116
        argv = tiny.finetune(killed("last evaluation"), checkpoint_every=40)
    save, lost = RunFolder.save, []

    def saving(run, frames, finished, state):
        if finished:
            lost.append(frames)
            raise KeyboardInterrupt
        save(run, frames, finished, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", saving)
        assert tiny.run(argv).code == 130
    assert lost == [500 if kind == "pretrain" else 120]
    folder, through = tiny.finish(argv), whole_predictor if kind == "pretrain" else whole
    same.values(same.metrics(through), same.metrics(folder))
    same.values(same.episodes(through), same.episodes(folder))
    weights = [saved(f / "checkpoint.pt")["learner"] for f in (through, folder)]
    same.values(*weights)


@pytest.mark.slow
def test_finished_run_started_again_does_nothing(tmp_path, tiny, same, whole):
    shutil.copytree(whole.parents[2], tmp_path / "runs", symlinks=True)
    check(same, whole, tiny.finish(tiny.finetune(tmp_path / "runs")))


@pytest.mark.slow
def test_finished_pretraining_started_again_does_nothing(
    tmp_path, tiny, videos, same, whole_predictor
):
    shutil.copytree(whole_predictor.parents[2], tmp_path / "runs", symlinks=True)
    check(same, whole_predictor, tiny.finish(tiny.pretrain(tmp_path / "runs", videos)))


# Alike, and not


def test_another_seed_gives_another_run(tmp_path, tiny, same, whole):
    flags = {"seed": 1, "steps": 0, "prefill": 10, "distillation": False}
    mine, theirs = (
        same.episodes(whole),
        same.episodes(tiny.finish(tiny.finetune(tmp_path, **flags))),
    )
    name = "train_eps/000000-s{}-11.npz"
    for key in ("image", "action"):
        assert (mine[name.format(0)][key] != theirs[name.format(1)][key]).any()


@pytest.mark.slow
def test_same_pretraining_twice_and_another_seed(tmp_path, tiny, videos, same, whole_predictor):
    again = tiny.finish(tiny.pretrain(tmp_path / "again", videos))
    same.run(whole_predictor, again)
    other = tiny.finish(tiny.pretrain(tmp_path / "other", videos, seed=1))
    encoders = [torch.load(f / "encoder.pt", weights_only=True) for f in (again, other)]
    assert (encoders[0]["stats.weight"] != encoders[1]["stats.weight"]).any()


@pytest.mark.slow
def test_what_watches_a_run_may_change_when_it_resumes(tiny, killed, same, whole):
    """Folder moved, checkpoints rarer: still the same run."""
    folder = tiny.finish(tiny.finetune(killed("many steps after a checkpoint"), checkpoint_every=0))
    assert same.episodes(folder).keys() == same.episodes(whole).keys()
    assert same.metrics(folder) == same.metrics(whole)


# Real signals


def signalled(argv, number, cwd, wait_for):
    """Starts a process and signals it once its log says so; its status and stderr."""
    command = [sys.executable, str(ROOT / "dreamer.py"), *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=cwd, start_new_session=True, **pipes)
    watchdog = threading.Timer(300, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if wait_for in line:
                break
        # As a terminal's Ctrl-C does: to all processes of the command.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        _, rest = process.communicate(timeout=120)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, "".join(lines) + rest


@pytest.mark.slow
def test_sigterm_stops_with_a_checkpoint_that_goes_on(tmp_path, tiny, same, whole):
    argv = tiny.finetune(tmp_path / "runs")
    code, err = signalled(argv, signal.SIGTERM, tmp_path, "policy random")
    assert code == 143, err
    assert "SIGTERM" in err
    assert "Traceback" not in err
    assert "finished" not in err
    assert (tiny.folder(argv) / "checkpoint.pt").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    same.run(whole, tiny.finish(argv))


@pytest.mark.slow
def test_ctrl_c_stops_worker_processes_too(tmp_path, tiny, same, whole_two):
    argv = tiny.finetune(tmp_path / "runs", **TWO | {"async_env": "process"})
    code, err = signalled(argv, signal.SIGINT, tmp_path, "random  episode")
    assert code == 130, err
    assert "SIGINT" in err
    assert "Traceback" not in err
    assert (tiny.folder(argv) / "checkpoint.pt").exists()
    # It goes on without worker processes, and equals the run that never had any.
    same.run(whole_two, tiny.finish(tiny.finetune(tmp_path / "runs", **TWO)))


@pytest.mark.slow
def test_ctrl_c_stops_pretraining(tmp_path, tiny, videos):
    argv = tiny.pretrain(tmp_path / "runs", videos, pretrain_steps=500_000)
    code, err = signalled(argv, signal.SIGINT, tmp_path, "dataset")
    assert code == 130, err
    state = torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)
    assert state["frames"] == state["learner"]["updates"] * 50 < 500_000
