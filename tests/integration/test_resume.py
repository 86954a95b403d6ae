"""A run that was stopped or killed and started again ends as one that never was, bit for bit.

The references are runs that nothing interrupts. Others stop where a signal could have stopped
them, or are copies of the reference's folder, taken in the middle: what a power cut leaves.
"""

import contextlib
import functools
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
from tests.tiny import saved
from training.run_folder import RunFolder
from training.stop import Stopped

ROOT = Path(dreamer.__file__).parent

STOPS = {
    "filling, inside an episode": ("prefill", 8),
    "filling, between episodes": ("prefill", 11),
    "updates before the first step": ("update", 2),
    "first evaluation": ("evaluation", 27),
    "evaluation at the midpoint": ("evaluation", 45),
    "inside an episode": ("acting", 9),
    "second half": ("acting", 33),
}
KILLS = {
    "before the first checkpoint": ("prefill", 12),
    "right after a checkpoint": ("acting", 16),
    "many steps after a checkpoint": ("acting", 36),
    "last evaluation": ("evaluation", 75),
}
# Environments that step while updates run: where it stops, and whether a step is then under way.
OVERLAP = {"overlap": True, "train_steps": 2}
OVERLAPPED = {
    "filling": (("prefill", 8), False),
    "updates before the first step": (("update", 2), False),
    "a step to be sent before the updates": (("update", 5), False),
    "a step under way, no update yet": (("update", 6), True),
    "a step under way, some updates": (("update", 7), True),
    "a step under way, all updates": (("acting", 21), True),
    "updates that an evaluation awaits": (("update", 9), False),
    "the second evaluation": (("evaluation", 45), False),
}


def stop():
    raise Stopped


def copying(source, target):
    return lambda: shutil.copytree(source, target, symlinks=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, calling):
    """The uninterrupted run; beside it what a kill would have left of it, by the kill's name."""
    root = tmp_path_factory.mktemp("whole")
    argv = tiny.finetune(root / "runs")
    copies = {place: copying(root / "runs", root / name) for name, place in KILLS.items()}
    with calling(copies):
        return tiny.finish(argv)


@pytest.fixture(scope="module")
def whole_two(tmp_path_factory, tiny):
    """The same with two environments, one after the other in this process."""
    return tiny.finish(tiny.finetune(tmp_path_factory.mktemp("two"), envs=2, async_env="none"))


@pytest.fixture(scope="module")
def whole_overlapped(tmp_path_factory, tiny):
    """The same where the environment steps while updates run, in this process."""
    argv = tiny.finetune(tmp_path_factory.mktemp("overlap"), async_env="none", **OVERLAP)
    return tiny.finish(argv)


@pytest.fixture(scope="session")
def whole_predictor(tmp_path_factory, tiny, videos, calling):
    """An uninterrupted pretraining; beside it what a kill would have left of it."""
    root = tmp_path_factory.mktemp("predictor")
    with calling({("update", 6): copying(root / "runs", root / "killed")}):
        return tiny.finish(tiny.pretrain(root / "runs", videos))


def stopped(tiny, calling, argv, place):
    """Runs a command until it is told to stop there."""
    with calling({place: stop}):
        result = tiny.run(argv)
    assert result.code == 128, result.err
    assert "stopped" in result.err
    return torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def after_stop(tmp_path_factory, tiny, calling):
    """The folder of a run that was stopped at a place by that name, and then finished."""

    @functools.cache
    def folder(name):
        argv = tiny.finetune(tmp_path_factory.mktemp("stopped"))
        stopped(tiny, calling, argv, STOPS[name])
        return tiny.finish(argv)

    return folder


@pytest.fixture(scope="module")
def after_kill(tmp_path_factory, tiny, whole):
    """The same of a run that was killed; and the episodes that its last checkpoint lacked."""

    @functools.cache
    def folder(name):
        root = tmp_path_factory.mktemp("killed")
        shutil.copytree(whole.parents[3] / name, root / "runs", symlinks=True)
        argv = tiny.finetune(root / "runs")
        checkpoint = tiny.folder(argv) / "checkpoint.pt"
        frames = torch.load(checkpoint, weights_only=True)["frames"] if checkpoint.exists() else -1
        written = {p.name: p.read_bytes() for p in tiny.folder(argv).glob("train_eps/*.npz")}
        later = {n: content for n, content in written.items() if (int(n[:6]) + 1) * 20 > frames}
        return tiny.finish(argv), later

    return folder


# Stopped


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_stopped_run_goes_on_as_if_nothing_had_been(after_stop, same, whole, name):
    folder = after_stop(name)
    same.run(whole, folder)
    assert not (folder / "stale").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_stopped_run_logs_every_row_once(after_stop, same, whole, name):
    same.values(same.metrics(whole), same.metrics(after_stop(name)))


@pytest.mark.slow
def test_run_stopped_again_and_again_goes_on(tmp_path, tiny, calling, same, whole_two):
    argv = tiny.finetune(tmp_path, envs=2, async_env="none")
    for place in [("prefill", 4), ("update", 2), ("acting", 4), ("acting", 9)]:
        stopped(tiny, calling, argv, place)
    same.run(whole_two, tiny.finish(argv))


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERLAPPED)
def test_a_step_under_way_goes_on(tmp_path, tiny, calling, same, whole_overlapped, name):
    place, under_way = OVERLAPPED[name]
    argv = tiny.finetune(tmp_path, async_env="none", **OVERLAP)
    state = stopped(tiny, calling, argv, place)
    assert (state["collector"]["sent"] is not None) == under_way
    folder = tiny.finish(argv)
    same.run(whole_overlapped, folder)
    same.values(same.metrics(whole_overlapped), same.metrics(folder))


@pytest.mark.slow
def test_steps_under_way_in_a_process_go_on_again_and_again(
    tmp_path, tiny, calling, same, whole_overlapped
):
    argv = tiny.finetune(tmp_path, **OVERLAP)
    for place in [("update", 6), ("update", 1), ("acting", 3)]:
        state = stopped(tiny, calling, argv, place)
        assert state["collector"]["sent"] is not None
    same.run(whole_overlapped, tiny.finish(argv))


@pytest.mark.slow
def test_pictures_move_no_generator(tmp_path, tiny, same, whole):
    """Videos and traversals are drawn beside the run."""
    folder = tiny.finish(tiny.finetune(tmp_path, log_videos=True, traverse=True))
    same.values(*(saved(f / "checkpoint.pt") for f in (whole, folder)))
    same.values(same.metrics(whole), same.metrics(folder))


@pytest.mark.slow
def test_stopped_pretraining_goes_on(tmp_path, tiny, videos, calling, same, whole_predictor):
    argv = tiny.pretrain(tmp_path, videos)
    for place in [("update", 1), ("update", 3), ("update", 5)]:
        stopped(tiny, calling, argv, place)
    folder = tiny.finish(argv)
    same.run(whole_predictor, folder)
    same.values(same.metrics(whole_predictor), same.metrics(folder))
    for path in sorted(whole_predictor.rglob("*.pt")):
        same.values(saved(path), saved(folder / path.relative_to(whole_predictor)))


# Killed


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_run_goes_on_from_its_last_checkpoint(after_kill, same, whole, name):
    folder, later = after_kill(name)
    same.run(whole, folder)
    assert later
    assert {p.name: p.read_bytes() for p in (folder / "stale").iterdir()} == later


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_run_logs_every_row_once(after_kill, same, whole, name):
    folder, _ = after_kill(name)
    same.values(same.metrics(whole), same.metrics(folder))


def test_killed_run_with_its_episodes_elsewhere_goes_on(tmp_path, tiny, calling):
    def kill():
        raise KeyboardInterrupt

    argv = tiny.finetune(tmp_path / "runs", traindir=tmp_path / "eps", steps=0, prefill=20)
    with calling({("prefill", 12): kill}):
        assert tiny.run(argv).code == 130  # stopped without a checkpoint
    assert len(list((tmp_path / "eps").iterdir())) == 1
    result = tiny.run(argv)
    assert result.code == 0, result.err


@pytest.mark.slow
def test_killed_pretraining_goes_on(tiny, videos, same, whole_predictor):
    logdir = whole_predictor.parents[3] / "killed"
    argv = tiny.pretrain(logdir, videos)
    state = torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)
    assert 0 < state["frames"] < 250
    same.run(whole_predictor, tiny.finish(argv))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_killed_right_before_its_end_logs_every_row_once(tmp_path, tiny, videos, same, kind):
    """When a checkpoint would be due there, too."""

    def command(runs):
        if kind == "pretrain":
            return tiny.pretrain(runs, videos, checkpoint_every=250)
        return tiny.finetune(runs, checkpoint_every=60)

    save, argv = RunFolder.save, command(tmp_path / "killed")

    def killed(run, frames, finished, state):
        if finished:
            raise KeyboardInterrupt
        save(run, frames, finished, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", killed)
        assert tiny.run(argv).code == 130
    whole = tiny.finish(command(tmp_path / "whole"))
    folder = tiny.finish(argv)
    same.run(whole, folder)
    same.values(same.metrics(whole), same.metrics(folder))


@pytest.mark.slow
def test_finished_run_started_again_does_nothing(tmp_path, tiny, same, whole):
    shutil.copytree(whole.parents[2], tmp_path / "runs", symlinks=True)
    folder = tiny.finish(tiny.finetune(tmp_path / "runs"))
    same.run(whole, folder)
    same.values(same.metrics(whole), same.metrics(folder))


@pytest.mark.slow
def test_finished_pretraining_started_again_does_nothing(
    tmp_path, tiny, videos, same, whole_predictor
):
    shutil.copytree(whole_predictor.parents[2], tmp_path / "runs", symlinks=True)
    folder = tiny.finish(tiny.pretrain(tmp_path / "runs", videos))
    same.run(whole_predictor, folder)
    same.values(same.metrics(whole_predictor), same.metrics(folder))


# Alike, and not


@pytest.mark.slow
def test_same_command_gives_the_same_run_and_another_seed_another(tmp_path, tiny, same, whole):
    again = tiny.finish(tiny.finetune(tmp_path / "again"))
    same.run(whole, again)
    same.values(same.metrics(whole), same.metrics(again))
    other = tiny.finish(tiny.finetune(tmp_path / "other", seed=1, steps=0, prefill=12))
    mine, theirs = same.episodes(whole), same.episodes(other)
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
def test_what_watches_a_run_may_change_when_it_resumes(tmp_path, tiny, calling, same, whole):
    """Folder moved, checkpoints rarer: still the same run."""
    stopped(tiny, calling, tiny.finetune(tmp_path / "old"), ("acting", 20))
    (tmp_path / "old").rename(tmp_path / "new")
    folder = tiny.finish(tiny.finetune(tmp_path / "new", checkpoint_every=0))
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
    argv = tiny.finetune(tmp_path / "runs", envs=2, async_env="process")
    code, err = signalled(argv, signal.SIGINT, tmp_path, "random  episode")
    assert code == 130, err
    assert "SIGINT" in err
    assert "Traceback" not in err
    assert (tiny.folder(argv) / "checkpoint.pt").exists()
    # It goes on with worker processes, and equals the run that never had any.
    same.run(whole_two, tiny.finish(argv))


@pytest.mark.slow
def test_ctrl_c_stops_pretraining(tmp_path, tiny, videos):
    argv = tiny.pretrain(tmp_path / "runs", videos, pretrain_steps=500_000)
    code, err = signalled(argv, signal.SIGINT, tmp_path, "dataset")
    assert code == 130, err
    state = torch.load(tiny.folder(argv) / "checkpoint.pt", weights_only=True)
    assert state["frames"] == state["learner"]["updates"] * 50 < 500_000
