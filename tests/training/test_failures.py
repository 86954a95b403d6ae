"""What fails in the middle of a run, and is neither its data's nor its command's fault."""

import errno
import shutil

import pytest
import torch

import config
from agents import pretrained
from agents.model_configs import predictor_config
from envs import EnvError
from fileio import checkpoints, npz
from models import VideoPredictor
from replay import HostStorage, Replay, row_fields
from tests.helpers.runs import events
from tools import UserError
from training import factory
from training.collector import Collector

# Nothing but eight steps of filling, and a checkpoint at the fourth; no evaluation, no update.
SHORT = {"steps": 20, "prefill": 8, "eval_every": 0, "checkpoint_every": 8, "time_limit": 8}
SHORT |= {"pretrain": 0, "distillation": False, "shadow_size": 16}
# The same with an evaluation at its end, of one episode.
EVALUATED = SHORT | {"eval_every": 60, "eval_episodes": 1}


def last_line(result):
    assert "Traceback" not in result.err
    return [line for line in result.err.splitlines() if line.startswith("dreamer.py:")][-1]


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (MemoryError(), "the memory is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "full"),
        (RuntimeError("can't start new thread"), "the machine failed: can't start new thread"),
        (RuntimeError("CUDA error: uncorrectable ECC error\nCUDA kernel errors"), "ECC error"),
        (EnvError("env 0 failed in step:\nTraceback\nE: fell"), "env 0 failed in step: E: fell;"),
    ],
    ids=str,
)
def test_a_machine_that_fails_is_one_line_with_the_way_on(tmp_path, tiny, monkeypatch, error, mend):
    receive = Collector.receive

    def fail(self):
        if self.steps == 5:
            raise error
        return receive(self)

    monkeypatch.setattr(Collector, "receive", fail)
    result = tiny.run(tiny.finetune(tmp_path, **SHORT))
    line = last_line(result)
    assert result.code == 1
    assert mend in line
    assert line.endswith("; the same command tries again: its last checkpoint is of frame 8")


@pytest.mark.parametrize("text", ["a mistake of ours", "CUDA error: device-side assert triggered"])
def test_this_codes_own_errors_are_told_whole(tmp_path, tiny, monkeypatch, text):
    def fail(self):
        raise RuntimeError(text)

    monkeypatch.setattr(Collector, "receive", fail)
    with pytest.raises(RuntimeError, match=text):
        tiny.run(tiny.finetune(tmp_path, **SHORT))


# Environments for evaluations


@pytest.fixture
def unbuilt(monkeypatch):
    """Environments for evaluations that cannot be built so many times."""
    make, left = factory.make_vector, []

    def failing(*args, split, **settings):
        if split == "eval" and left:
            raise EnvError(f"env 1 could not be built:\n{left.pop()}")
        return make(*args, split=split, **settings)

    monkeypatch.setattr(factory, "make_vector", failing)
    return left


def test_evaluation_environments_that_cannot_be_built_are_tried_again(tmp_path, tiny, unbuilt):
    unbuilt += ["OSError: the renderer is busy"] * 3
    folder = tiny.finish(tiny.finetune(tmp_path, **EVALUATED, env_restarts=3))
    told = events(folder, "env_restart")
    assert [(row["split"], row["dropped"]) for row in told] == [("eval", False)] * 3
    assert all("the renderer is busy" in row["reason"] for row in told)


def test_and_again_until_restarts_are_used_up(tmp_path, tiny, unbuilt):
    unbuilt += ["OSError: the renderer is busy"] * 2
    argv = tiny.finetune(tmp_path, **EVALUATED, env_restarts=1)
    result = tiny.run(argv)
    assert result.code == 1
    line = last_line(result)
    assert "the renderer is busy; 1 restart is used up (--env_restarts)" in line
    assert "its last checkpoint is of frame" in line
    tiny.finish(argv)


# A dataset that cannot be read now


def test_a_file_that_cannot_be_read_now_is_not_left_out(tmp_path, tiny, videos, monkeypatch):
    read, count = npz.read, []

    def fail(path, keys):
        count.append(path)
        if len(count) == 3:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return read(path, keys)

    argv = tiny.pretrain(tmp_path, videos)
    with monkeypatch.context() as patch:
        patch.setattr(npz, "read", fail)
        result = tiny.run(argv)
    assert result.code == 2
    assert "Too many open files" in last_line(result)
    assert "mend that, then the same command goes on" in last_line(result)
    assert events(tiny.finish(argv), "dataset")[0]["episodes"] == 6


def test_memory_that_does_not_suffice_for_a_file_is_not_the_files_fault(videos, monkeypatch):
    def fail(path, keys):
        raise MemoryError

    monkeypatch.setattr(npz, "read", fail)
    with pytest.raises(UserError, match=r"0\.npz cannot be read \(there is too little memory"):
        Replay(HostStorage(row_fields((64, 64, 3), 0))).load(videos)


# A teacher that is another, or elsewhere


@pytest.fixture
def taught(tmp_path, tiny, killed):
    """A run that was killed, with a teacher of its own; how to begin it again."""
    shutil.copytree(tiny.teacher, tmp_path / "teacher")
    runs = killed("many steps after a checkpoint")

    def argv(teacher=tmp_path / "teacher"):
        return tiny.finetune(runs, pretrain_checkpoint_path=teacher)

    assert (tiny.folder(argv()) / "checkpoint.pt").exists()
    return argv


def save_teacher(tiny, folder, **flags):
    torch.manual_seed(9)
    sizes = predictor_config(config.parse(tiny.pretrain(folder, folder, **flags)))
    pretrained.save_predictor(folder, VideoPredictor(sizes, flags.get("pretrain_action_num", 2)))


def test_a_teacher_of_another_size_is_refused(tmp_path, tiny, taught):
    save_teacher(tiny, tmp_path / "teacher", pretrain_action_num=3)
    result = tiny.run(taught())
    assert result.code == 2
    assert f"--pretrain_checkpoint_path {tmp_path / 'teacher'} holds another" in last_line(result)


def test_a_run_keeps_its_teacher_when_there_is_a_newer_one(tmp_path, tiny, taught, same, whole):
    save_teacher(tiny, tmp_path / "teacher")
    result = tiny.run(taught())
    assert result.code == 0
    assert "holds another predictor by now" in result.err
    same.run(whole, tiny.folder(taught()))


def test_a_teacher_may_move(tmp_path, tiny, taught, same, whole):
    (tmp_path / "teacher").rename(tmp_path / "moved")
    same.run(whole, tiny.finish(taught(tmp_path / "moved")))


def test_a_checkpoint_of_other_networks_is_refused(tmp_path, tiny, taught):
    path = (tiny.folder(taught()) / "checkpoint.pt").resolve()
    state = checkpoints.load(path)
    weights = state["learner"]["weights"]
    name = next(name for name in weights if name.startswith("world_model.reward."))
    shape = tuple(weights.pop(name).shape)
    checkpoints.save(path, state)
    line = last_line(tiny.run(taught()))
    assert f"{path.parent / 'checkpoint.pt'}: tensor '{name}' has shape None, not {shape}" in line
    assert "begin again in another --logdir" in line
