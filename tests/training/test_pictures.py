"""What a run shows while it goes: pictures once in a period, and a line where there is no bar."""

import re

import pytest

from training.trainer import Trainer


def watched(tiny, argv):
    """What a command line printed, and (prefix, frames) of each report; none of them is drawn."""
    calls = []

    def note(self, prefix, replay):
        calls.append((prefix, self.frames))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "report", note)
        result = tiny.run(argv)
    assert result.code == 0, result.err
    return result.err, calls


@pytest.fixture(scope="module")
def online(tmp_path_factory, tiny):
    """A run whose periods do not divide its length."""
    flags = {"log_videos": True, "video_every": 50, "log_every": 20, "eval_every": 20}
    flags |= {"steps": 90, "distillation": False, "eval_episodes": 1}
    return watched(tiny, tiny.finetune(tmp_path_factory.mktemp("online"), **flags))


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory, tiny, videos):
    flags = {"log_videos": True, "video_every": 200, "log_every": 50, "offline_evaldir": videos}
    return watched(tiny, tiny.pretrain(tmp_path_factory.mktemp("pretrain"), videos, **flags))


def test_a_run_draws_once_in_a_period_and_at_the_end(online):
    _, drawn = online
    assert [at for prefix, at in drawn if prefix == "train"] == [40, 60, 90]
    assert [at for prefix, at in drawn if prefix == "eval"] == [30, 60, 90]


def test_a_pretraining_draws_once_in_a_period_and_once_at_the_end(pretraining):
    _, drawn = pretraining
    assert drawn == [(prefix, at) for at in (50, 200, 400, 500) for prefix in ("train", "eval")]


def status_lines(err):
    return [line for line in err.splitlines() if re.match(r"\[ +\d+\] \d+% of ", line)]


def test_a_run_without_a_terminal_says_how_far_it_is_from_its_first_log_line_on(online):
    lines = status_lines(online[0])
    steps = [f"[{step:>9,}] {step / 90:.0%}" for step in (40, 60, 80, 90)]
    assert [line.partition(" of ")[0] for line in lines] == steps
    shown = r"frames/s  .* left  return [-\d.]+  eval [-\d.]+  image 1\.\d+e\+04  kl .*  value "
    assert all(re.search(shown, line) for line in lines[:-1])
    assert " left" not in lines[-1]


def test_a_pretraining_without_a_terminal_says_how_far_it_is(pretraining):
    lines = status_lines(pretraining[0])
    assert len(lines) == 10
    shown = r"\[      100\] 20% of 500  .* steps/s  .* left  image 1\.\d+e\+04  kl "
    assert re.match(shown, lines[1])
