"""dm_control's manipulation tasks: theirs are all there, and an episode is its seed's."""

import numpy as np
import pytest

import envs
from envs.manipulation import NAMES

TASK = "dmc_manipulation_reach_site"
SETTINGS = {"action_repeat": 2, "time_limit": 8, "shadow_size": 64}


def play(env, actions, seed):
    shown = [env.reset(seed=seed)[0]["image"]]
    for action in actions:
        observation, reward, *ends, info = env.step(action)
        shown += [observation["image"], reward, ends, info["control_steps"]]
    return shown


@pytest.mark.slow
def test_a_seed_determines_an_episode_of_the_arm(make):
    from dm_control import manipulation

    assert set(NAMES) == {
        name.removesuffix("_features") for name in manipulation.get_environments_by_tag("features")
    }
    env = make(TASK, **SETTINGS)
    assert not envs.ends_early(TASK)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, *env.action_space.shape))
    first = play(env, actions.astype(np.float32), 3)
    assert first[0].std() > 10  # something is drawn
    assert first[-2:] == [[False, True], 2]
    other = play(env, actions[:1].astype(np.float32), 4)
    assert (other[0] != first[0]).any()
    for one, again in zip(first, play(env, actions.astype(np.float32), 3), strict=True):
        np.testing.assert_array_equal(one, again)
