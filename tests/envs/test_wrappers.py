"""The wrappers on Gymnasium's own environments, and where suites to come will need them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import dmc2gym
from envs.errors import EnvError, Reported
from envs.wrappers import (
    ActionRepeat,
    AgentInfo,
    OneHot,
    OneHotAction,
    Pixels,
    Resumable,
    Variations,
)


def cartpole():
    """Gymnasium's cart-pole, which ends when the pole falls; not dm_control's."""
    return gym.make("CartPole-v1", disable_env_checker=True)


def test_action_repeat_is_dmc2gyms_frame_skip():
    skipping = dmc2gym.make("walker", "walk", frame_skip=4, episode_length=10)
    repeating = ActionRepeat(dmc2gym.make("walker", "walk"), repeat=4, time_limit=10)
    observations = [env.reset(seed=5)[0] for env in (skipping, repeating)]
    np.testing.assert_array_equal(*observations)
    for t in range(3):
        action = np.random.default_rng(t).uniform(-1, 1, 6).astype(np.float32)
        one, other = skipping.step(action), repeating.step(action)
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]
        assert one[4]["control_steps"] == other[4]["control_steps"] == (2 if t == 2 else 4)
    assert other[3]
    for env in (skipping, repeating):
        env.close()


def test_action_repeat_stops_where_the_episode_terminates():
    env = AgentInfo(ActionRepeat(cartpole(), repeat=100, time_limit=1000))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(1)
    assert (terminated, truncated) == (True, False)
    assert reward == info["control_steps"] < 20  # one reward per control step
    assert info["discount"] == 0.0
    env.reset(seed=0)
    assert env.step(1)[4]["control_steps"] == info["control_steps"]


class Successes(gym.Env):
    """Succeeds in the steps it is told to, getting ever nearer."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, *successes):
        self.successes, self.t = successes, 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1), {"success": 0.0}

    def step(self, action):
        self.t += 1
        info = {"success": self.successes[self.t - 1], "distance": 1 / self.t}
        return np.zeros(1), 1.0, False, False, info


def test_success_in_any_control_step_counts_and_is_forgotten_by_the_next():
    env = AgentInfo(ActionRepeat(Successes(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 3, 9))
    for _ in range(2):
        _, info = env.reset()
        assert info["success"] == 0.0
        assert np.isnan(info["distance"])
        infos = [env.step(0)[4] for _ in range(3)]
        assert [info["success"] for info in infos] == [1.0, 0.0, 1.0]
        assert [info["distance"] for info in infos] == [1 / 3, 1 / 6, 1 / 9]


def test_action_repeat_invents_no_success():
    env = ActionRepeat(cartpole(), repeat=2, time_limit=10)
    env.reset(seed=0)
    assert "success" not in env.step(0)[4]


def test_agent_info_types_do_not_depend_on_the_env():
    env = AgentInfo(cartpole())
    _, info = env.reset(seed=0)
    assert (info["discount"], info["control_steps"]) == (1.0, 0)
    _, reward, terminated, truncated, info = env.step(0)
    types = [type(x) for x in (reward, terminated, truncated)]
    assert types == [float, bool, bool]
    assert type(info["discount"]) is float
    assert info["control_steps"] == 1
    assert set(info) == {"discount", "control_steps", "success", "distance"}
    for name in ("success", "distance"):  # cart-pole tells of neither
        assert type(info[name]) is float
        assert np.isnan(info[name])


def test_one_hot_actions_choose():
    env = OneHotAction(cartpole())
    assert isinstance(env.action_space, OneHot)
    assert env.action_space.shape == (2,)
    env.action_space.seed(0)
    samples = np.stack([env.action_space.sample() for _ in range(20)])
    assert set(map(tuple, samples)) == {(1.0, 0.0), (0.0, 1.0)}
    plain = cartpole()
    for choice in (0, 1):
        plain.reset(seed=3)
        env.reset(seed=3)
        np.testing.assert_array_equal(env.step(np.eye(2)[choice])[0], plain.step(choice)[0])


def test_one_hot_respects_the_first_choice():
    env = cartpole()
    env.action_space = spaces.Discrete(3, start=-1)
    assert OneHotAction(env).action(np.array([0.1, 0.2, 0.9])) == 1
    assert OneHotAction(env).action(np.array([0.9, 0.2, 0.1])) == -1


def test_one_hot_needs_discrete_actions():
    with pytest.raises(TypeError, match="Discrete"):
        OneHotAction(gym.make("Pendulum-v1"))


def test_variations_of_different_spaces_are_refused_and_the_old_one_stays():
    env = Variations({"a": cartpole, "b": lambda: gym.make("Pendulum-v1")}, "a")
    inner = env.inner
    with pytest.raises(ValueError, match="'b' has another action space"):
        env.reset(options={"variation": "b"})
    assert env.inner is inner
    assert env.variation == "a"


def test_pixels_refuse_frames_of_another_size():
    env = Pixels(dmc2gym.make("cartpole", "swingup", height=32, width=32), (64, 64))
    with pytest.raises(ValueError, match=r"\(32, 32, 3\), expected uint8\(64, 64, 3\)"):
        env.reset(seed=0)
    env.close()


def test_unseen_frames_are_black_and_the_next_is_not():
    env = Pixels(dmc2gym.make("cartpole", "swingup"), (64, 64))
    with env.unseen():
        assert not env.reset(seed=0)[0].any()
    assert env.step(np.zeros(1))[0].any()
    env.close()


def test_resumable_reads_its_own_entry_only():
    env = Resumable(Pixels(dmc2gym.make("cartpole", "swingup"), (64, 64)), index=1)
    start, _ = env.reset(seed=4)
    again, _ = env.reset(seed=4, options={"replay": {0: {"seed": 9, "actions": []}}})
    np.testing.assert_array_equal(start, again)
    other, _ = env.reset(seed=4, options={"replay": {1: {"seed": 9, "actions": []}}})
    assert (start != other).any()
    env.close()


def test_reported_errors_name_the_env_and_keep_the_traceback():
    env = Reported(dmc2gym.make("cartpole", "swingup"), index=5)
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"(?s)env 5 failed in step:\n.*Traceback.*not finite"):
        env.step(np.array([np.nan]))
    env.close()
