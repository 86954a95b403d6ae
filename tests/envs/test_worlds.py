"""Worlds of the two benchmarks and HRSSM: names, looks, repeatability, refusals."""

import functools
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from PIL import Image

import envs
from distracting_control.palette import STOCK
from envs import EnvSettings, VectorEnv, check_backgrounds, make_env, worlds
from tests.envs.crashing import crashing
from tests.envs.test_checks import Given
from tools import UserError

TASK = "dmc_cartpole_balance"
SMALL = {"size": (32, 32), "shadow_size": 64, "time_limit": 20}


def play(env, seed, variation=None, steps=5):
    """Frames [steps + 1, H, W, 3] of an episode, its rewards, and the last info."""
    options = {} if variation is None else {"variation": variation}
    observation, info = env.reset(seed=seed, options=options)
    random, seen, rewards = np.random.default_rng(0), [observation["image"]], []
    for _ in range(steps):
        action = random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, *_, info = env.step(action)
        seen.append(observation["image"])
        rewards.append(reward)
    return np.stack(seen), rewards, info


@pytest.fixture(scope="module")
def everywhere():
    """One environment, and its plain episode of seed 7."""
    env = make_env(TASK, **SMALL)
    yield env, play(env, 7)
    env.close()


@pytest.mark.parametrize(
    "world", ["color_hard", "video_easy", "video_hard", "video", "distracting_cs_0.3", "sensor_cs"]
)
def test_a_world_follows_from_its_seed_and_changes_pictures_alone(everywhere, world):
    env, (plain, rewards, _) = everywhere
    seen, same, info = play(env, 7, world)
    assert same == rewards
    assert (seen != plain).mean() > 0.1
    play(env, 8)
    again, _, told = play(env, 7)
    np.testing.assert_array_equal(again, seen)
    other, _, _ = play(env, 8)
    assert (other != seen).mean() > 0.02
    assert told.get("factors") == info.get("factors")
    assert ("factors" in info) == (world != "sensor_cs")
    if world == "video":  # HRSSM's films have no colours, and its key takes blue alone
        changed = (seen != plain).any(axis=-1)
        assert (np.ptp(seen[changed].astype(int), axis=-1) == 0).all()
        assert (plain[changed][:, 2] > plain[changed][:, 0]).all()
    # An episode that is taken up elsewhere shows the same, its background included.
    with_actions = np.random.default_rng(0).uniform(-1, 1, (3, 1)).astype(np.float32)
    entry = {"seed": 7, "variation": world, "actions": with_actions}
    taken_up, _ = env.reset(options={"replay": {0: entry}})
    np.testing.assert_array_equal(taken_up["image"], seen[3])


def test_the_robot_stays_whole_before_a_screen(everywhere):
    env, (plain, _, _) = everywhere
    seen, _, _ = play(env, 7, "video_hard")
    body = (plain[..., 0] > 160) & (plain[..., 2] < 110)
    kept = np.abs(seen.astype(int) - plain).max(axis=-1)[body] < 60
    assert body.sum() > 15
    assert kept.mean() > 0.9


def test_a_world_of_the_task_is_trained_in_and_original_is_plain():
    name = f"{TASK}_video"
    env = make_env(name, **SMALL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*different from the unwrapped version.*")
            check_env(env.unwrapped.inner, skip_render_check=True)
        _, _, train = play(env, 7, "train")
        _, _, test = play(env, 7, "test")
        assert train["factors"]["background"] < 3 <= test["factors"]["background"]
        _, _, original = play(env, 7, "original")
        assert "factors" not in original
    finally:
        env.close()
    assert envs.look_of(f"{TASK}_color_hard", "test", Given(TASK)) == "color_hard"
    assert envs.look_of(name, "test", Given(TASK)) == "test"
    assert not envs.ends_early(name)


def test_a_killed_worker_takes_its_background_up(tmp_path):
    build = functools.partial(make_env, f"{TASK}_video", **SMALL)
    assert pickle.loads(pickle.dumps(build)).args == build.args
    plan = {"moment": (5, 3), "how": "kill", "ledger": tmp_path / "ledger", "times": 1}
    actions = np.random.default_rng(1).uniform(-1, 1, (5, 1, 1)).astype(np.float32)

    def episode(factory, workers):
        with VectorEnv([factory], workers=workers) as vector:
            vector.restarts = 1
            first = vector.reset(seeds=[5], variation="test")
            images = [first, *(vector.step(action).image for action in actions)]
            return np.stack(images), vector.restarted

    undisturbed, _ = episode(build, "none")
    found, restarted = episode(functools.partial(crashing, 0, _indexed, **plan), "process")
    assert restarted == 1
    np.testing.assert_array_equal(found, undisturbed)


def _indexed(index):
    return make_env(f"{TASK}_video", index=index, **SMALL)


@pytest.fixture
def benchmark(tmp_path):
    """A folder like the benchmark's, of a film each."""
    colors = [{name: np.array(color) for name, color in STOCK.items()}]
    for world in ("video_easy", "video_hard"):
        film = tmp_path / world / "film"
        film.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (240, 20 * number, 0)).save(film / f"{number}.png")
    for strength in ("easy", "hard"):
        path = tmp_path / f"color_{strength}.pt"
        torch.save(colors, path, _use_new_zipfile_serialization=False)
    return tmp_path


def test_the_benchmarks_films_play_from_their_first_frame(make, benchmark):
    env = make(TASK, variation="video_easy", dmcgb_path=str(benchmark), **SMALL)
    seen, _, info = play(env, 3, steps=4)
    assert seen[:, 1, 1].tolist() == [[240, 20 * (number % 3), 0] for number in range(5)]
    assert info["factors"] == {"background": 0, "background_frame": 1}


def test_which_worlds_show_computed_pictures_is_said_in_a_line(capsys, benchmark):
    names = ["train", "video", "video_hard", "color_hard"]
    check_backgrounds(TASK, names, EnvSettings())
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: video, video_hard: computed pictures move there, as no folder of")
    check_backgrounds(TASK, names, EnvSettings(background_dataset_path="procedural:life"))
    check_backgrounds(TASK, ["video_hard", "color_easy"], EnvSettings(dmcgb_path=str(benchmark)))
    check_backgrounds(f"{TASK}_color_easy", ["train", "test"], EnvSettings())
    assert capsys.readouterr().err == ""
    check_backgrounds(f"{TASK}_video_easy", ["train", "test"], EnvSettings())
    assert "note: video_easy: computed" in capsys.readouterr().err


def test_a_folder_without_anything_usable_is_refused(tmp_path, benchmark):
    (tmp_path / "empty").mkdir()
    settings = EnvSettings(background_dataset_path=str(tmp_path / "empty"))
    for task, names in ((TASK, ["video"]), (f"{TASK}_distracting_cs", ["train"])):
        with pytest.raises(
            UserError, match=r"cannot be shown: .*neither image sequences nor movie"
        ):
            check_backgrounds(task, names, settings)
    (benchmark / "color_hard.pt").unlink()
    with pytest.raises(UserError, match=r"the world color_hard cannot be shown: .*is not there"):
        check_backgrounds(TASK, ["color_hard"], EnvSettings(dmcgb_path=str(benchmark)))


def test_too_few_films_are_refused_before_anything_is_played(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    path = str(tmp_path)
    said = rf"^the world {{}} cannot be shown: 3 videos are in {path} and {{}} are to be shown"
    for world, count, asked in (
        ("distracting_cs", 4, {}),
        ("distracting_cs_0.2", 8, {}),
        ("distracting_cs", 0, {"background_num_videos": 0}),
        ("video", 5, {"background_num_videos": 5}),
    ):
        settings = EnvSettings(background_dataset_path=path, **asked)
        for task, names in ((TASK, ["train", world]), (f"{TASK}_{world}", ["train"])):
            with pytest.raises(UserError, match=said.format(world, count)) as caught:
                check_backgrounds(task, names, settings)
            assert str(caught.value).endswith("give --background_num_videos 3, or another folder")
    enough = EnvSettings(background_dataset_path=path, background_num_videos=3)
    check_backgrounds(TASK, ["train", "distracting_cs", "video"], enough)
    check_backgrounds(TASK, ["distracting_cs_0.3"], EnvSettings(background_dataset_path=path))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"eval_worlds": ("color_hrad",)},
            r"no world 'color_hrad' \(did you mean 'color_hard'\?\)",
        ),
        ({"background_dataset_path": "procedural:fire"}, "there is no family 'fire'"),
        ({"dmcgb_path": "/nowhere"}, "--dmcgb_path /nowhere: there is no such folder"),
    ],
)
def test_bad_input_is_refused_in_a_line(flags, said):
    with pytest.raises(UserError, match=said) as caught:
        envs.check(Given(TASK, **flags))
    assert "\n" not in str(caught.value)


def test_flags_of_worlds_that_nobody_visits_are_noted(capsys):
    envs.check(Given(TASK, dmcgb_path="."))
    assert "note: --dmcgb_path changes nothing in" in capsys.readouterr().err
    envs.check(Given(TASK, dmcgb_path=".", eval_worlds=("color_easy",)))
    envs.check(Given(f"{TASK}_color_easy", dmcgb_path="."))
    assert "changes nothing" not in capsys.readouterr().err


def test_corruptions_are_worlds_of_every_suite():
    there = envs.factories_of("gymnasium_Pusher-v5", EnvSettings())
    named = {f"{name}{end}" for name in envs.CORRUPTIONS for end in ("", "_0.1", "_1")}
    assert named <= there.keys()
    built = worlds.corrupted(gym.Env)
    for world, strength in (("blur", 0.5), ("noise_0.3", 0.3)):
        env = built[world]()
        assert isinstance(env, envs.CORRUPTIONS[world.partition("_")[0]])
        assert env.strength == strength
