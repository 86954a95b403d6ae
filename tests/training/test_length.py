"""A run that is made longer goes on as one that had been that long from the start."""

import shutil

import pytest

import config
from accel.runtime import Runtime
from logger import read_metrics
from tests.helpers.runs import events, refusal, saved
from tools import Every
from training.factory import note_switch, variation_at
from training.length import check_length, length_of, settle_switch, switch_frame, updates_of
from training.run_folder import RunFolder
from training.trainer import Trainer


def parsed(*flags):
    return config.parse(["--configs", "defaults", "dmc2gym", *map(str, flags)])


UPDATES = [
    # 100 at the beginning, then one each 5 agent steps of 2 frames after 2,500 agent steps
    ([], 1_000_000, 100 + (500_000 - 2_500) // 5),
    (["--train_steps", 3, "--pretrain", 7], 10_000, 7 + 3 * 500),
    ([], 4_000, 0),  # ends before it learns
    (["--beta_vae_pretrain", True, "--pretrain_steps", 1_000_049], 1_000_000, 20_000),
]


@pytest.mark.parametrize(("flags", "steps", "updates"), UPDATES)
def test_a_run_makes_so_many_updates(flags, steps, updates):
    assert updates_of(parsed("--steps", steps, *flags)) == updates


@pytest.mark.slow
def test_a_finished_run_made_longer_equals_one_that_was_that_long(tmp_path, tiny, same, whole):
    """It ended in the middle of an episode, where the longer one neither logs nor evaluates."""
    folder = tiny.finish(tiny.finetune(tmp_path, steps=70, switch_at=60))
    told = [row["ret"] for row in events(folder, "evaluation") if row["step"] == 70]
    assert len(told) == 1
    tiny.finish(tiny.finetune(tmp_path))
    same.values(*(saved(f / "checkpoint.pt") for f in (folder, whole)))
    mine, theirs = same.episodes(folder), same.episodes(whole)
    [more] = mine.keys() - theirs.keys()
    assert "000000070" in more
    same.values({name: mine[name] for name in theirs}, theirs)
    assert config.load_saved(folder / "config.yaml").steps == 120


@pytest.mark.slow
def test_a_finished_pretraining_made_longer_equals_one_that_was_that_long(
    tmp_path, tiny, videos, same
):
    runs = {name: tiny.pretrain(tmp_path / name, videos) for name in ("whole", "longer")}
    tiny.finish([*runs["longer"], "--pretrain_steps", "250"])
    whole, longer = tiny.finish(runs["whole"]), tiny.finish(runs["longer"])
    for name in ("checkpoint.pt", "encoder.pt", "rssm.pt"):
        same.values(*(saved(folder / name) for folder in (whole, longer)))


@pytest.mark.parametrize(
    ("flags", "at"),
    [
        ((), 500_000),
        (("--steps", 110, "--action_repeat", 4), 56),  # 14 of 27 agent steps
        (("--steps", 110, "--switch_at", 30), 30),
        (("--steps", 0), None),
    ],
)
def test_the_switch_is_half_of_the_first_length_unless_it_is_given(flags, at):
    given = parsed(*flags)
    settled = settle_switch(given, None)
    assert (switch_frame(given), settled.switch_at) == (at, at)
    longer = given.replace(steps=10**7, switch_at=None)
    assert settle_switch(longer, settled).switch_at == at or at is None
    older = given.replace(switch_at=None)  # from before there was such a key
    assert settle_switch(longer, older).switch_at == switch_frame(older)


def test_episodes_of_the_second_half_begin_at_the_switch():
    given = parsed("--steps", 110, "--action_repeat", 4, "--color_distractor", True)
    seen = [variation_at(given, "train", step) for step in range(28)]
    assert seen == ["train"] * 14 + ["test"] * 14
    early = given.replace(switch_at=9)
    assert [variation_at(early, "eval", step) for step in (2, 3)] == ["train", "test"]
    assert variation_at(given.replace(steps=0), "train", 99) == "train"
    clean = parsed("--distractors", "none")
    assert {variation_at(clean, split, 10**7) for split in ("train", "eval")} == {"original"}


@pytest.mark.parametrize(
    ("before", "now", "frames", "wanted"),
    [
        ({"steps": 120}, {"steps": 60}, 80, "--steps 60: this run has done 80 already"),
        ({"steps": 0}, {"steps": 60}, 40, "began with --steps 0"),
        ({}, {"switch_at": 90}, 80, "has done 80 frames under --switch_at 60: leave it out"),
        ({"switch_at": 90}, {"switch_at": 40}, 80, "under --switch_at 90"),
        (
            {"pretrain_steps": 500},
            {"pretrain_steps": 200},
            250,
            "--pretrain_steps 200: this run has done 250 already",
        ),
    ],
)
def test_what_is_done_cannot_be_undone(before, now, frames, wanted):
    given = parsed("--steps", 120, "--beta_vae_pretrain", "pretrain_steps" in before)
    before, now = (given.replace(**changes) for changes in (before, now))
    line = refusal(check_length, settle_switch(now, before), before, frames)
    assert wanted in line
    assert "--logdir" in line


@pytest.mark.parametrize(
    ("before", "now", "frames"),
    [
        ({"steps": 120}, {"steps": 240}, 120),
        ({"steps": 120}, {"steps": 100}, 80),
        ({"steps": 80}, {"steps": 80}, 84),  # several environments pass it together
        ({"steps": 0}, {"steps": 0}, 84),
        ({}, {"switch_at": 90}, 50),
    ],
)
def test_what_is_to_come_may_change(before, now, frames):
    given = parsed("--steps", 120)
    before, now = (given.replace(**changes) for changes in (before, now))
    settled = settle_switch(now, before)
    check_length(settled, before, frames)
    assert settled.switch_at == (now.switch_at or switch_frame(before))


def test_only_whole_steps_count():
    assert length_of(parsed("--steps", 110, "--action_repeat", 4)) == 108
    flags = ("--beta_vae_pretrain", True, "--pretrain_steps")
    assert length_of(parsed(*flags, 520)) == 500


def test_a_finished_run_is_refused_a_shorter_life_and_changes_nothing(tmp_path, tiny, whole):
    shutil.copytree(whole.parents[2], tmp_path / "runs", symlinks=True)
    log = (whole / "metrics.jsonl").read_bytes()
    result = tiny.run(tiny.finetune(tmp_path / "runs", steps=80))
    assert result.code == 2
    assert result.err.startswith("dreamer.py: --steps 80: this run has done 120 already")
    again = tiny.run(tiny.finetune(tmp_path / "runs"))
    assert ("has finished" in again.out, again.err) == (True, "")
    changed = tiny.run(tiny.finetune(tmp_path / "runs", log_every=7, eval_every=8))
    assert "has finished" in changed.out
    assert changed.err == (
        "note: --eval_every, --log_every changes nothing in a finished run: larger --steps go on "
        "with it\n"
    )
    assert (tiny.folder(tiny.finetune(tmp_path / "runs")) / "metrics.jsonl").read_bytes() == log


def test_config_yaml_has_what_the_last_start_was_given(tmp_path, tiny):
    seen = []
    for more in ({}, {}, {"steps": 240, "log_every": 7}):
        given = config.parse(tiny.finetune(tmp_path, **more))
        run = RunFolder(given, Runtime.resolve(given))
        with run:
            pass
        run.close()
        found = config.load_saved(run.folder / "config.yaml")
        assert (found.steps, found.log_every) == (given.steps, given.log_every)
        assert found.switch_at == given.steps // 2  # no checkpoint yet that it would be kept from
        with (run.folder / "config.yaml").open("r+") as file:
            seen.append(file.read().count("# a remark"))
            file.write("# a remark\n")
    assert seen == [0, 1, 0]  # what is the same is left as it is
    assert [row["event"] for row in read_metrics(run.folder / "metrics.jsonl")] == [
        "start",
        "provenance",
    ]


class Clocks(Trainer):
    """A trainer of clocks alone."""

    def __init__(self, **periods):
        self.clocks = {name: Every(period) for name, period in periods.items()}


@pytest.mark.parametrize(
    ("before", "now", "due"),
    [
        (10, 10, [50, 60, 70]),  # after 49 frames
        (10, 20, [60]),
        (20, 10, [50, 60, 70]),
        (40, 15, [49, 60, 75]),  # it had answered for 40; 45 lies behind it
        (0, 30, [49, 60]),
        (30, 0, []),
    ],
)
def test_a_clock_of_another_period_goes_on(before, now, due):
    first, then = Clocks(log=before), Clocks(log=now)
    for frame in range(49):
        first.clocks["log"].take(frame)
    state = {"clocks": {"log": first.clocks["log"].last}, "periods": {"log": before}}
    then._wind(state)
    assert [frame for frame in range(49, 80) if then.clocks["log"].take(frame)] == due


def test_a_start_without_a_checkpoint_settles_no_switch(tmp_path):
    """The run begins anew, with half of the length that is given then."""
    begun = parsed("--logdir", tmp_path, "--steps", 1000)
    run = RunFolder(begun, Runtime.resolve(begun))
    with run:
        assert run.config.switch_at == 500
    run.close()
    again = parsed("--logdir", tmp_path, "--steps", 400)
    run = RunFolder(again, Runtime.resolve(again))
    assert run.config.switch_at == 200
    run.close()


def test_a_switch_that_never_comes_is_told(capsys):
    for at, told in ((99, False), (100, True)):
        flags = ("--color_distractor", True, "--steps", 100, "--switch_at", at)
        note_switch(parsed(*flags))
        assert (
            "--switch_at 100 does not come within --steps 100" in capsys.readouterr().err
        ) == told
