"""Names: every task of the suite by its id, and what is said of those that do not exist."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from dm_control import suite

import dmc2gym
from dmc2gym.registration import _named_tasks


def test_every_task_has_an_id():
    assert dmc2gym.tasks() == suite.ALL_TASKS
    assert set(_named_tasks()) == {*suite.ALL_TASKS, ("cup", "catch")}
    for task in _named_tasks():
        assert dmc2gym.env_id(*task) in gymnasium.registry


@pytest.mark.parametrize("task", suite.ALL_TASKS, ids="-".join)
def test_every_task_is_made_and_repeats_under_a_seed(task):
    env = gymnasium.make(dmc2gym.env_id(*task), frame_skip=2, disable_env_checker=True)
    action = np.full(env.action_space.shape, 0.3, np.float32)
    runs = []
    for _ in range(2):
        obs, _ = env.reset(seed=3)
        run = [obs]
        for _ in range(2):
            obs, reward, terminated, truncated, info = env.step(action)
            assert env.observation_space.contains(obs)
            assert np.isfinite(obs).all()
            assert np.isfinite(reward)
            assert not terminated
            assert not truncated
            run += [obs, info["internal_state"], [reward]]
        runs.append(np.concatenate(run))
    env.close()
    np.testing.assert_array_equal(runs[0], runs[1])


def test_ids_take_the_arguments_of_make():
    env = gymnasium.make(
        "dmc2gym/cup_catch-v1", from_pixels=True, height=24, width=32, shadow_size=256
    )
    assert env.reset(seed=1)[0].shape == (3, 24, 32)
    assert env.step(env.action_space.sample())[0].shape == (3, 24, 32)
    assert env.render().shape == (24, 32, 3)
    env.close()


def test_old_gym():
    gym = pytest.importorskip("gym")
    dmc2gym.register_gym()
    dmc2gym.register_gym()  # twice is fine
    env = gym.make("dmc2gym/walker_walk-v1", disable_env_checker=True, frame_skip=2)
    twin = dmc2gym.make("walker", "walk", frame_skip=2)
    assert isinstance(env, gym.Env)
    assert isinstance(env.action_space, gym.spaces.Box)
    assert isinstance(env.observation_space, gym.spaces.Box)
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, twin.reset(seed=3)[0])
    action = env.action_space.sample()
    for got, expected in zip(env.step(action)[:4], twin.step(action)[:4], strict=True):
        np.testing.assert_array_equal(got, expected)
    assert env.observation_space.contains(obs)
    env.close()
    twin.close()
    for task in _named_tasks():
        assert dmc2gym.env_id(*task) in gym.envs.registry


@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        (("walkr", "walk"), "walker walk"),
        (("walker", "wlk"), "walker walk"),
        (("walker", "spin"), "walker"),
        (("ball_in_a_cup", "catch"), "ball_in_cup catch"),
        (("cup", "throw"), "ball_in_cup catch"),
        (("chetah", "run"), "cheetah run"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(task, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}"):
        dmc2gym.make(*task)


def test_import_is_cheap_and_a_closed_env_leaves_quietly():
    code = """
import sys, dmc2gym
assert not {"mujoco", "dm_control", "OpenGL"} & set(sys.modules)
env = dmc2gym.make("walker", "walk", from_pixels=True, shadow_size=256)
env.reset()
env.close()
dropped = dmc2gym.make("walker", "walk", from_pixels=True, shadow_size=256)
dropped.reset()
del dropped
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
