"""An agent begins as another run's has become: its weights, and nothing else of that run."""

import shutil

import pytest

import config
from agents.base import Taken
from agents.registry import METHODS
from fileio import checkpoints
from tests.helpers.runs import events, refusal
from training.init_from import Source, begin_from, read_source
from training.pretrain import PretrainTrainer
from training.stop import Stopped

BRIEF = {"steps": 0, "prefill": 4, "time_limit": 6}
TEACHER = "world_model.teacher."


def stop():
    raise Stopped


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another_and_needs_it_no_more(
    tmp_path, tiny, whole, calling, same
):
    shutil.copytree(whole, tmp_path / "source", symlinks=True)
    source = checkpoints.load(whole / "checkpoint.pt")["learner"]
    argv = tiny.finetune(tmp_path / "runs", init_from=tmp_path / "source", seed=3, **BRIEF)
    with calling({("prefill", 3): stop}):
        assert tiny.run(argv).code == 128
    (tmp_path / "source").rename(tmp_path / "gone")
    folder = tiny.finish(argv)
    state = checkpoints.load(folder / "checkpoint.pt")["learner"]
    same.values(state["weights"], source["weights"])
    assert (state["updates"], source["updates"]) == (0, 12)
    [note] = events(folder, "init_from")
    assert (note["frames"], note["fresh"], note["left_over"]) == (120, "none", "none")
    own = [name for name in source["weights"] if not name.startswith(TEACHER)]
    assert note["tensors"] == len(own)
    assert len(list((folder / "train_eps").iterdir())) == 2  # its own


class Agent:
    """An agent that takes so many tensors of any other."""

    def __init__(self, *taken):
        self.taken, self.synced = Taken(*taken), False

    def init_from(self, state):
        return self.taken

    def sync(self):
        self.synced = True


class Run:
    """A run that keeps its notes."""

    def note(self, event, **fields):
        self.noted = (event, fields)


def test_what_did_not_fit_is_named(tmp_path):
    run, agent = Run(), Agent(7, [f"a.{i}" for i in range(14)], ["b"])
    begin_from(run, agent, Source(tmp_path, 40, {}))
    assert agent.synced
    event, fields = run.noted
    assert (event, fields["tensors"], fields["left_over"]) == ("init_from", 7, "b")
    assert fields["fresh"].startswith("a.0, a.1, ")
    assert fields["fresh"].endswith("a.11 and 2 more")
    line = refusal(begin_from, run, Agent(0, ["a"], ["b"]), Source(tmp_path, 40, {}))
    assert line.startswith(f"--init_from {tmp_path}: this agent has no tensor")


def test_a_source_that_will_not_do_is_refused_before_anything_is_made(tmp_path, tiny, whole):
    def given(source, **flags):
        return config.parse(tiny.finetune(tmp_path, init_from=source, **flags), methods=METHODS)

    assert read_source(config.parse([])) is None
    assert read_source(given(whole)).frames == 120
    line = refusal(read_source, given(whole, method_name="dreamerv2"))
    assert "is a run of diswm, and the method is dreamerv2 here: give --method_name diswm" in line
    near = refusal(read_source, given(whole.parent / "sede_0"))
    assert "there is no such folder (did you mean 'seed_0'?)" in near
    assert "has no config.yaml: did you mean" in refusal(read_source, given(whole.parent))
    copy = shutil.copytree(whole, tmp_path / "copy", symlinks=True)
    for path in checkpoints.find(copy):
        path.write_bytes(path.read_bytes()[:500])
    assert refusal(read_source, given(copy)).startswith(f"--init_from: {copy}/checkpoint_")
    for path in checkpoints.find(copy):
        path.unlink()
    assert "has no checkpoint.pt yet" in refusal(read_source, given(copy))
    result = tiny.run(tiny.finetune(tmp_path / "runs", init_from=copy))
    assert (result.code, (tmp_path / "runs").exists()) == (2, False)


def test_a_pretraining_takes_no_agent(tmp_path, tiny, videos, whole):
    line = refusal(
        PretrainTrainer.check, config.parse(tiny.pretrain(tmp_path, videos, init_from=whole))
    )
    assert line.startswith("--init_from is for an agent")
