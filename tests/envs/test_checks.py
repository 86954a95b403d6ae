"""What a configuration says of environments, before one is made."""

import pytest

import config
import envs
from envs import UnknownTask
from tools import UserError

WALKER = "dmc2gym_walker_walk"


class Given(dict):
    """A configuration: the defaults under some values, its blocks and the keys that were flags."""

    def __init__(self, task=WALKER, blocks=(), **flags):
        super().__init__({**config.parse([]), "task": task, **flags})
        self.blocks, self.overrides = ("defaults", *blocks), frozenset(flags)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"camera_max_zoom_in_percent": 1.0},
            "--camera_max_zoom_in_percent is a share below 1, not 1.0",
        ),
        ({"shadow_size": 0}, "--shadow_size must be above 0, not 0"),
        ({"max_delta": 1.5}, "--max_delta must be between 0 and 1, not 1.5"),
        ({"test_max_delta": -0.1}, "--test_max_delta must be between 0 and 1, not -0.1"),
        (
            {"max_delta": 0.3},
            "--max_delta 0.3 makes the train and test colours overlap: give at most 0.2, or "
            "--disjoint_sets null",
        ),
        (
            {"max_delta": 0.3, "disjoint_sets": None},  # which set 2 follows
            "--test_max_delta 0.3 makes the train and test colours overlap: give at most 0.2, or "
            "--test_disjoint_sets null",
        ),
    ],
)
def test_settings_out_of_range_are_refused_in_a_line(flags, line):
    for task in (WALKER, "metaworld_drawer-open-v1"):
        with pytest.raises(UserError) as caught:
            envs.check(Given(task, **flags))
        assert str(caught.value) == line


def test_settings_that_do_not_fit_together_are_refused_in_a_line():
    with pytest.raises(UserError, match=r"^--test_camera is on but nothing says how far it moves"):
        envs.check(Given(test_camera=True))
    envs.check(Given(test_camera=True, test_difficulty="easy"))
    envs.check(Given("dmc_walker_walk", test_camera=True))  # which has no distractions
    said = "^--drawer_geometry published is for metaworld_drawer-open-v1 and metaworld_drawer-close"
    for task in ("metaworld_drawer-open-v3", "metaworld_reach-v1"):
        with pytest.raises(UserError, match=f"{said}-v1: leave it out for {task}$"):
            envs.check(Given(task, drawer_geometry="published"))
    envs.check(Given("metaworld_drawer-close-v1", drawer_geometry="published"))
    envs.check(Given(test_camera=True, beta_vae_pretrain=True))  # which plays nothing


def test_a_modules_code_is_run_for_the_command_line_alone():
    task = "gymnasium_mine.envs:Mine-v0"
    with pytest.raises(UserError, match=r"imports the module mine\.envs, .* --task gymnasium_mine"):
        envs.check(Given(task))  # of a file, or of a run's folder
    with pytest.raises(UserError, match="say so with --task"):
        envs.check(Given(task, evaluate="run"))
    named = Given(task)
    named.overrides = frozenset({"task"})
    envs.check(named)  # it is not even looked for before it is built


def test_crafter_has_no_distractors():
    with pytest.raises(UserError, match="--color_distractor True: crafter_reward has no distract"):
        envs.check(Given("crafter_reward", color_distractor=True))
    envs.check(Given("crafter_reward"))


def test_a_task_that_is_not_there_is_refused():
    with pytest.raises(UnknownTask, match="did you mean 'dmc2gym_walker_walk'"):
        envs.check(Given("dmc2gym_walker_wlak"))


@pytest.mark.parametrize(
    ("task", "blocks", "meant"),
    [
        ("walker_walk", [], "dmc_walker_walk"),
        ("walker_walk", ["dmc2gym", "cpu"], "dmc2gym_walker_walk"),
        ("walker_wlak", ["dmc2gym"], "dmc2gym_walker_walk"),
        ("HalfCheetah-v5", ["gymnasium"], "gymnasium_HalfCheetah-v5"),
        ("metawolrd_drawer-open-v1", ["dmc2gym"], "metaworld_drawer-open-v1"),
    ],
)
def test_a_task_without_its_prefix_is_looked_for_in_the_suite_of_the_block(task, blocks, meant):
    with pytest.raises(UnknownTask, match=f"did you mean '{meant}'"):
        envs.check(Given(task, blocks))


@pytest.mark.parametrize("prefix", ["", "test_"])
def test_folders_of_backgrounds(tmp_path, prefix):
    flag = f"{prefix}background_dataset_path"
    with pytest.raises(UserError, match=f"^--{flag} {tmp_path}/no: there is no such folder"):
        envs.check(Given(**{flag: f"{tmp_path}/no"}))
    with pytest.raises(UserError, match=f"^--{flag} {tmp_path}/no: there is no such folder"):
        envs.check(Given(**{flag: f"{tmp_path}/no"}, evaluate="run"))
    envs.check(Given(**{flag: f"{tmp_path}/no"}, beta_vae_pretrain=True))
    with pytest.raises(UserError, match=f"^--{flag} {tmp_path} has no file"):
        envs.check(Given(**{flag: str(tmp_path)}))
    (tmp_path / "video").mkdir()
    envs.check(Given(**{flag: str(tmp_path)}))


@pytest.mark.parametrize(
    ("task", "blocks", "flags", "notes"),
    [
        (WALKER, ["dmc2gym"], {"max_delta": 0.1, "seed": 1}, []),
        (WALKER, [], {}, []),
        (
            WALKER,
            ["cpu"],
            {},
            ["the settings of dmc2gym_… tasks are in the block dmc2gym, which is not stacked"],
        ),
        (
            "dmc_walker_walk",
            ["dmc2gym"],
            {"max_delta": 0.1, "camera": True, "units": 8},
            [
                "the block dmc2gym is for dmc2gym_… tasks; dmc_walker_walk has the block dmc",
                "--camera, --max_delta changes nothing in dmc_walker_walk",
            ],
        ),
        (
            "gymnasium_Pusher-v5",
            ["gymnasium", "cpu"],
            {"max_delta": 0.1, "step_std": 0.1, "texture": "wood"},
            ["--step_std, --texture changes nothing in gymnasium_Pusher-v5"],
        ),
        (
            "gymnasium_HalfCheetah-v5",  # whose parts keep their colours
            ["gymnasium"],
            {"max_delta": 0.1, "dynamic": True, "clip_actions": True},
            ["--max_delta changes nothing in gymnasium_HalfCheetah-v5"],
        ),
        (
            "gymnasium_CartPole-v1",  # which is not MuJoCo's
            ["gymnasium"],
            {"max_delta": 0.1, "dynamic": True, "action_repeat": 2},
            ["--dynamic, --max_delta changes nothing in gymnasium_CartPole-v1"],
        ),
    ],
)
def test_what_will_change_nothing_is_noted(capsys, task, blocks, flags, notes):
    envs.check(Given(task, blocks, **flags))
    assert capsys.readouterr().err.splitlines() == [f"note: {note}" for note in notes]
    envs.check(Given(task, blocks, **flags, beta_vae_pretrain=True))
    envs.check(Given(task, blocks, **flags, evaluate="run"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("prefix", ["", "test_"])
def test_a_background_that_a_task_never_shows_is_refused(prefix):
    flags = {f"{prefix}background_dataset_path": "procedural"}
    for task in ("gymnasium_CartPole-v1", "dmc_manipulation_lift_brick"):
        with pytest.raises(UserError) as caught:
            envs.check(Given(task, **flags))
        assert str(caught.value) == (
            f"--{prefix}background_dataset_path procedural: {task} shows no background: leave it "
            "out"
        )
    for task in ("gymnasium_HalfCheetah-v5", "metaworld_drawer-open-v1", "dmc_walker_walk_video"):
        envs.check(Given(task, **flags))
    envs.check(Given("dmc_walker_walk", **flags))  # its worlds do


def test_every_setting_is_a_key_with_the_same_default():
    defaults = config.parse([])
    for name, value in vars(envs.EnvSettings()).items():
        assert defaults[name] == value, name
