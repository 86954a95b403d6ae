"""Names of tasks, settings and variations: everything that needs no simulator."""

import subprocess
import sys

import pytest

import distracting_control
import envs
from distracting_control import rendering
from envs import EnvSettings, RenderingError, UnknownTask
from envs.packages import PackageTasks
from tools import UserError


def test_importing_envs_loads_neither_torch_nor_a_simulator():
    code = (
        "import sys, envs; envs.known_tasks();"
        "tasks = 'dmc2gym_walker_walk', 'gymnasium_Pusher-v5', 'metaworld_drawer-open-v1';"
        "[envs.SUITES[envs.parse_task(t).suite].factories(envs.parse_task(t).identity,"
        " envs.EnvSettings()) for t in tasks if not t.startswith('dmc')];"
        "print([envs.variation_for(t, 'train', True, True) for t in tasks]);"
        "names = 'torch', 'mujoco', 'dm_control', 'OpenGL', 'metaworld';"
        "print([m for m in names if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines() == ["['test', 'test', 'switch']", "[]"]


@pytest.mark.parametrize("prefix", ["dmc", "dmc2gym"])
def test_every_task_of_the_suite_is_known_and_no_other(prefix):
    from dm_control import suite

    found = {
        envs.parse_task(name).identity
        for name in envs.known_tasks()
        if name.startswith(f"{prefix}_") and "_manipulation_" not in name
    }
    worlds = {identity for identity in found if len(identity) > 2}
    assert found - worlds == {*suite.ALL_TASKS, ("cup", "catch")}
    everywhere = {(*identity, world) for identity in found - worlds for world in envs.WORLDS}
    assert worlds == (everywhere if prefix == "dmc" else set())


@pytest.mark.parametrize(
    ("task", "early"),
    [
        ("dmc_walker_walk", False),
        ("dmc2gym_cup_catch", False),
        ("gymnasium_Pusher-v5", False),
        ("gymnasium_Hopper-v5", True),
        ("gymnasium_CartPole-v1", True),
        ("atari_pong", True),
        ("gymnasium_InvertedPendulum-v5", True),
        ("metaworld_drawer-open-v1", False),
        ("metaworld_reach-v3", False),
    ],
)
def test_whose_episodes_can_end_before_their_time(task, early):
    assert envs.ends_early(task) == early


@pytest.mark.parametrize(
    ("name", "suite", "identity"),
    [
        ("dmc2gym_walker_walk", "dmc2gym", ("walker", "walk")),
        ("dmc_ball_in_cup_catch", "dmc", ("ball_in_cup", "catch")),
        ("dmc2gym_cup_catch", "dmc2gym", ("cup", "catch")),
        ("dmc2gym_humanoid_CMU_run", "dmc2gym", ("humanoid_CMU", "run")),
        ("dmc_humanoid_run_pure_state", "dmc", ("humanoid", "run_pure_state")),
        ("dmc2gym_point_mass_easy", "dmc2gym", ("point_mass", "easy")),
        ("dmc_lqr_lqr_2_1", "dmc", ("lqr", "lqr_2_1")),
        ("dmc_walker_stand_video", "dmc", ("walker", "stand", "video")),
        ("dmc_point_mass_easy_video_easy", "dmc", ("point_mass", "easy", "video_easy")),
        (
            "dmc_walker_stand_distracting_cs_0.025",
            "dmc",
            ("walker", "stand", "distracting_cs_0.025"),
        ),
        ("dmc2gym_cartpole_swingup_sparse", "dmc2gym", ("cartpole", "swingup_sparse")),
        ("gymnasium_Pusher-v5", "gymnasium", ("Pusher-v5",)),
        ("metaworld_drawer-open-v1", "metaworld", ("drawer-open", "v1")),
        ("metaworld_pick-place-wall-v2", "metaworld", ("pick-place-wall", "v2")),
    ],
)
def test_names_with_underscores_are_split_where_the_suite_splits_them(name, suite, identity):
    assert envs.parse_task(name) == (suite, identity)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("dmc2gym_walker_wlak", "dmc2gym_walker_walk"),
        ("dmc_cheetah_jump", "dmc_cheetah_run"),
        ("dm2gym_hopper_stand", "dmc2gym_hopper_stand"),
        ("dmc2gym_ball_in_cup", "dmc2gym_ball_in_cup_catch"),
        ("metaworld_drawer-opn-v1", "metaworld_drawer-open-v1"),
        ("metaworld_drawer-open", "metaworld_drawer-open-v1"),
        ("metaworld_drawer-close-v0", "metaworld_drawer-close-v1"),
        ("gymnasium_Pusher-v4", "gymnasium_Pusher-v5"),
        ("gymnasium_pusher-v5", "gymnasium_Pusher-v5"),
        ("DMC2GYM_Walker_Walk", "dmc2gym_walker_walk"),
    ],
)
def test_unknown_task_names_the_nearest(wrong, nearest):
    with pytest.raises(UnknownTask, match=rf"'{wrong}'; did you mean '{nearest}'"):
        envs.parse_task(wrong)


def test_what_is_not_taken_of_gymnasium_is_said():
    limits = "Of Gymnasium's MuJoCo environments only the newest, v5, are taken"
    with pytest.raises(UnknownTask, match=f"no task 'gymnasium_Ant-v4'; .*{limits}$"):
        envs.parse_task("gymnasium_Ant-v4")
    with pytest.raises(UnknownTask, match=r"did you mean 'dmc_cartpole_swingup'\?$"):
        envs.parse_task("dmc_cartpole_swngup")


@pytest.mark.parametrize(
    ("task", "settings", "switches"),
    [
        ("dmc2gym_walker_walk", {}, True),
        ("dmc_walker_walk", {}, False),
        ("gymnasium_Pusher-v5", {"units": 400}, True),
        ("gymnasium_Hopper-v5", {}, False),
        ("atari_pong", {}, True),
        ("minigrid_MiniGrid-Empty-5x5-v0", {}, True),
        ("crafter_reward", {}, False),
        ("metaworld_drawer-open-v1", {}, True),
        ("metaworld_drawer-open-v1", {"switch_texture": "grid"}, False),
    ],
)
def test_what_a_switch_changes_is_known_without_a_simulator(task, settings, switches):
    assert envs.has_switch(task, settings) is switches


CLEAN = {"max_delta": 0, "disjoint_sets": None, "test_disjoint_sets": None}


@pytest.mark.parametrize(
    ("task", "settings", "look"),
    [
        ("dmc2gym_walker_walk", {"units": 400}, "test"),
        ("dmc2gym_walker_walk", CLEAN, "original"),
        ("dmc2gym_walker_walk", CLEAN | {"camera": True, "difficulty": "easy"}, "test"),
        ("dmc2gym_walker_walk", CLEAN | {"test_disjoint_sets": "test"}, "test"),
        ("dmc_walker_walk", {}, "original"),
        ("gymnasium_Pusher-v5", {}, "test"),
        ("gymnasium_Pusher-v5", CLEAN, "original"),
        ("gymnasium_Hopper-v5", {}, "original"),
        ("metaworld_drawer-open-v1", {}, "test"),
        ("metaworld_drawer-open-v1", {"switch_texture": "grid", "texture": "grid"}, "grid"),
    ],
)
def test_where_there_is_one_look_alone_it_has_its_own_name(task, settings, look):
    assert envs.look_of(task, "test", settings) == look


@pytest.mark.parametrize("wrong", ["", "_", "walker", "dmc2gym", "dmc2gym_"])
def test_degenerate_names_are_refused(wrong):
    with pytest.raises(UnknownTask):
        envs.make_env(wrong)


@pytest.mark.parametrize(
    ("split", "color_distractor", "second_half", "expected"),
    [
        ("train", True, False, "train"),
        ("eval", True, False, "train"),
        ("train", True, True, "test"),
        ("eval", True, True, "test"),
        ("train", False, False, "train"),
        ("eval", False, False, "test"),
        ("train", False, True, "train"),
        ("eval", False, True, "test"),
    ],
)
def test_variation_for_follows_the_papers_switch(split, color_distractor, second_half, expected):
    for task in ("dmc2gym_finger_spin", "dmc_finger_spin", "gymnasium_Pusher-v5"):
        assert envs.variation_for(task, split, color_distractor, second_half) == expected


@pytest.mark.parametrize("task", ["atari_pong", "minigrid_MiniGrid-Empty-5x5-v0"])
def test_games_keep_their_colours_unless_a_distractor_is_asked_for(task):
    for split in ("train", "eval"):
        looks = [
            envs.variation_for(task, split, distracts, half)
            for distracts in (False, True)
            for half in (False, True)
        ]
        assert looks == ["original", "original", "train", "test"]


@pytest.mark.parametrize("color_distractor", [False, True])
@pytest.mark.parametrize("second_half", [False, True])
def test_drawerworld_switches_its_table_while_training_and_never_in_evaluation(
    color_distractor, second_half
):
    for task in ("metaworld_drawer-open-v1", "metaworld_drawer-close-v1", "metaworld_reach-v3"):
        training = envs.variation_for(task, "train", color_distractor, second_half)
        assert training == ("switch" if color_distractor and second_half else "train")
        assert envs.variation_for(task, "eval", color_distractor, second_half) == "test"


@pytest.mark.parametrize(
    "task", ["dmc_finger_spin", "gymnasium_Pusher-v5", "metaworld_drawer-open-v1"]
)
def test_variation_for_refuses_other_splits(task):
    with pytest.raises(ValueError, match="train, eval"):
        envs.variation_for(task, "test", False, False)
    with pytest.raises(UnknownTask):
        envs.variation_for(task[:-1], "train", False, False)


def test_gymnasiums_tasks_are_all_but_the_older_ones_of_mujoco():
    names = "Ant HalfCheetah Hopper Humanoid HumanoidStandup InvertedDoublePendulum "
    names += "InvertedPendulum Pusher Reacher Swimmer Walker2d"
    known = {name for name in envs.known_tasks() if name.startswith("gymnasium_")}
    newest = {f"gymnasium_{name}-v5" for name in names.split()}
    assert newest | {"gymnasium_CartPole-v1", "gymnasium_LunarLander-v3"} <= known
    assert not {name for name in known - newest if name.split("_")[1][:-3] in names.split()}


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("atari_pong", ("pong",)),
        ("atari_Pong", ("pong",)),
        ("atari_ms_pacman", ("ms_pacman",)),
        ("atari_MsPacman", ("ms_pacman",)),
        ("atari_james_bond", ("jamesbond",)),
        ("minigrid_MiniGrid-Empty-5x5-v0", ("MiniGrid-Empty-5x5-v0",)),
        ("minigrid_minigrid-empty-5x5-v0", ("MiniGrid-Empty-5x5-v0",)),
        ("minigrid_BabyAI-GoToObj-v0", ("BabyAI-GoToObj-v0",)),
        ("crafter_reward", ("reward",)),
        ("gymnasium_CartPole-v1", ("CartPole-v1",)),
        ("gymnasium_a.b:Mine-v0", ("a.b:Mine-v0",)),
    ],
)
def test_games_are_called_as_their_packages_call_them_in_any_case(name, identity):
    assert envs.parse_task(name).identity == identity


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("atari_breakuot", "atari_breakout"),
        ("minigrid_Empty-5x5-v0", "minigrid_MiniGrid-Empty-5x5-v0"),
        ("crafter_rewards", "crafter_reward"),
        ("gymnasium_CartPol-v1", "gymnasium_CartPole-v1"),
        ("gymnasium_:Mine-v0", "gymnasium_"),
    ],
)
def test_an_unknown_game_names_the_nearest(wrong, nearest):
    with pytest.raises(UnknownTask, match=rf"'{wrong}'; did you mean '{nearest}"):
        envs.parse_task(wrong)


def test_a_package_that_is_not_installed_is_named_with_the_mend(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tasks = PackageTasks("atari", "ale_py", list)
    said = r"^atari_… tasks need the package ale_py: pip install -e '\.\[atari\]' -c constraints"
    with pytest.raises(UserError, match=said):
        tasks.get("pong")
    assert list(tasks) == []  # and other tasks are still looked for


def test_defaults_are_the_authors_preset():
    settings = EnvSettings()
    assert (settings.max_delta, settings.step_std) == (0.2, 0.2)
    assert (settings.disjoint_sets, settings.test_disjoint_sets) == ("train", "test")
    assert (settings.action_repeat, settings.time_limit, settings.size) == (2, 1000, (64, 64))
    tables = (settings.train_texture, settings.switch_texture, settings.texture)
    assert tables == ("grid", "wood", "metal")
    assert not settings.camera
    assert not settings.dynamic
    assert settings.background_dataset_path is None


def test_every_setting_is_documented():
    kinds = [EnvSettings, *distracting_control.all_settings()]
    for name in EnvSettings.names():
        documented = f"    {name.removeprefix('test_')}: "
        assert any(documented in kind.__doc__ for kind in kinds), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_sdt": 0.1}, "'step_sdt'; did you mean 'step_std'"),
        ({"noops": -1}, "noops must be at least 0"),
        ({"action_repeat": 0}, "action_repeat must be at least 1"),
        ({"time_limit": 0}, "time_limit must be at least 1"),
        ({"size": (64,)}, "size must be"),
        ({"difficulty": "extreme"}, "difficulty must be"),
        ({"texture": "stone"}, "texture must be one of grid, black, .* not 'stone'"),
        ({"train_texture": None}, "train_texture must be one of"),
        ({"test_disjoint_sets": "val"}, "test_disjoint_sets must be"),
        ({"camera": True}, "set difficulty"),
        ({"test_camera": True}, "test_camera is on but .* set difficulty"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        envs.make_env("dmc2gym_walker_walk", **settings)


@pytest.mark.parametrize("task", ["gymnasium_CartPole-v1", "minigrid_MiniGrid-Empty-5x5-v0"])
def test_a_game_needs_no_opengl(monkeypatch, task):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_loads", lambda name: False)
    assert envs.choose_renderer(task) is None
    with pytest.raises(RenderingError, match="no OpenGL library loads"):
        envs.choose_renderer("dmc2gym_walker_walk")


def test_what_opengl_draws_has_it_chosen(monkeypatch):
    monkeypatch.setattr(rendering, "_check_imported", lambda name: None)
    monkeypatch.setattr(rendering, "_loads", lambda name: name == "osmesa")
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "osmesa")
    for task in ("dmc2gym_walker_walk", "gymnasium_CartPole-v1"):
        backend = envs.choose_renderer(task)
        assert backend is not None
        assert backend.name == "osmesa"
    assert envs.choose_renderer("minigrid_MiniGrid-Empty-5x5-v0") is None
