"""Several environments: the same numbers in one process or many."""

import functools
import os

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation

import envs
from envs import EnvError, VectorEnv, episode_seed
from envs.wrappers import AgentInfo, OneHotAction
from tests.envs.crashing import SMALL, TASK, toy

N = 2


def actions_for(k, n=N, seed=0):
    """k batches of random actions [k, n, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (k, n, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def sync():
    """Two environments in this process."""
    with envs.make_vector(TASK, N, workers="none", **SMALL) as vector:
        yield vector


@pytest.fixture(scope="module")
def processes():
    """Two environments in processes of their own."""
    with envs.make_vector(TASK, N, workers="process", **SMALL) as vector:
        yield vector


@pytest.fixture(params=["sync", "processes"])
def vector(request):
    """Either of the two."""
    return request.getfixturevalue(request.param)


def test_facts_of_the_vector(vector):
    assert vector.n == N
    assert vector.image_shape == (16, 16, 3)
    assert (vector.action_size, vector.discrete) == (1, False)
    images = vector.reset(seeds=[1, 2])
    assert (images.shape, images.dtype) == ((N, 16, 16, 3), np.uint8)
    result = vector.step(actions_for(1)[0])
    kinds = {name: (value.shape, str(value.dtype)) for name, value in result._asdict().items()}
    assert kinds == {
        "image": ((N, 16, 16, 3), "uint8"),
        "reward": ((N,), "float32"),
        "terminated": ((N,), "bool"),
        "truncated": ((N,), "bool"),
        "discount": ((N,), "float32"),
        "success": ((N,), "float32"),
        "distance": ((N,), "float32"),
        "broken": ((N,), "bool"),
        "vector": ((N, 0), "float32"),
    }


def test_both_kinds_give_the_same_numbers_as_single_envs(sync, processes):
    seeds = [11, 12]
    actions = actions_for(6)
    for variation in ("train", "test"):
        firsts = [vector.reset(None, seeds, variation) for vector in (sync, processes)]
        np.testing.assert_array_equal(*firsts)
        for batch in actions:
            for one, other in zip(sync.step(batch), processes.step(batch), strict=True):
                np.testing.assert_array_equal(one, other)
    single = envs.make_env(TASK, variation="test", **SMALL)
    single.reset(seed=seeds[1])
    for batch in actions:
        observation, *_ = single.step(batch[1])
    single.close()
    sync.reset(None, seeds, "test")
    for batch in actions:
        result = sync.step(batch)
    np.testing.assert_array_equal(result.image[1], observation["image"])


def test_masked_reset_leaves_the_others_alone(vector):
    actions = actions_for(5)
    vector.reset(seeds=[1, 2], variation="train")
    uninterrupted = [vector.step(batch).image[0] for batch in actions]

    vector.reset(seeds=[1, 2], variation="train")
    before = [vector.step(batch) for batch in actions[:2]]
    images = vector.reset([False, True], [None, 77], "test")
    np.testing.assert_array_equal(images[0], before[-1].image[0])
    assert (images[1] != before[-1].image[1]).any()
    after = [vector.step(batch) for batch in actions[2:]]
    for expected, result in zip(uninterrupted, [*before, *after], strict=True):
        np.testing.assert_array_equal(result.image[0], expected)


def test_results_are_not_overwritten_by_later_calls(vector):
    first = vector.reset(seeds=[1, 2])
    results = [first, vector.step(actions_for(1)[0]).image]
    kept = [image.copy() for image in results]
    vector.step(actions_for(2)[1])
    vector.reset(seeds=[8, 9])
    for result, copy in zip(results, kept, strict=True):
        np.testing.assert_array_equal(result, copy)


def test_restore_goes_on_bit_for_bit_with_moving_colours(vector):
    actions = actions_for(8)
    vector.reset(seeds=[5, 6], variation="train")
    expected = [vector.step(batch) for batch in actions]
    vector.reset(seeds=[1, 2], variation="test")
    episodes = [
        {"seed": 5, "variation": "train", "actions": actions[:5, 0]},
        {"seed": 6, "variation": "train", "actions": actions[:5, 1]},
    ]
    images = vector.restore(episodes)
    np.testing.assert_array_equal(images, expected[4].image)
    for batch, wanted in zip(actions[5:], expected[5:], strict=True):
        for one, other in zip(vector.step(batch), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_restore_of_some_and_of_unequal_lengths(vector):
    actions = actions_for(4)
    vector.reset(seeds=[5, 6], variation="train")
    expected = [vector.step(batch).image for batch in actions]
    first = vector.reset(seeds=[5, 6])
    images = vector.restore([None, {"seed": 6, "variation": "train", "actions": actions[:3, 1]}])
    np.testing.assert_array_equal(images[0], first[0])
    np.testing.assert_array_equal(images[1], expected[2][1])
    images = vector.restore(
        [
            {"seed": 5, "variation": "train", "actions": actions[:2, 0]},
            {"seed": 6, "variation": "train", "actions": []},
        ]
    )
    np.testing.assert_array_equal(images[0], expected[1][0])
    np.testing.assert_array_equal(images[1], first[1])


def test_ended_episodes_must_be_reset_before_the_next_step(vector):
    vector.reset(seeds=[1, 2])
    for batch in actions_for(5):
        vector.step(batch)
    vector.reset([False, True], [None, 3])
    for batch in actions_for(5):
        result = vector.step(batch)
    assert result.truncated.tolist() == [True, False]
    assert result.discount.tolist() == [1.0, 1.0]
    assert not result.terminated.any()
    with pytest.raises(RuntimeError, match="env 0: the episode has ended"):
        vector.step(actions_for(1)[0])
    vector.reset([True, False], [4, None])
    assert not vector.step(actions_for(1)[0]).truncated.any()


def test_overlapping_steps(vector):
    vector.reset(seeds=[1, 2])
    actions = actions_for(2)
    expected = [vector.step(batch).image for batch in actions]
    vector.reset(seeds=[1, 2])
    for batch, wanted in zip(actions, expected, strict=True):
        sent = batch.copy()
        vector.step_async(sent)
        sent[:] = 0  # the caller's array is its own again
        with pytest.raises(RuntimeError, match="under way"):
            vector.step_async(batch)
        with pytest.raises(RuntimeError, match="under way"):
            vector.reset(seeds=[1, 2])
        np.testing.assert_array_equal(vector.step_wait().image, wanted)
    with pytest.raises(RuntimeError, match="call step_async first"):
        vector.step_wait()


def test_bad_calls_are_refused_before_they_reach_an_env(vector):
    vector.reset(seeds=[1, 2])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 1\)"):
        vector.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="3 seeds for 2"):
        vector.reset(seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="mask must choose"):
        vector.reset([False, False])
    with pytest.raises(ValueError, match="1 episodes for 2"):
        vector.restore([None])
    vector.step(actions_for(1)[0])


def test_bad_arguments_of_make_vector():
    for arguments, message in (
        ({"n": 0}, "at least one"),
        ({"n": 1, "workers": "threads"}, "workers must be one of none, process, auto"),
        ({"n": 1, "split": "test"}, "split must be one of train, eval"),
        ({"n": 1, "step_sdt": 1}, "did you mean 'step_std'"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.make_vector(TASK, **arguments)


def test_auto_uses_processes_for_several(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="auto") as vector:
        assert vector.workers == "none"
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with VectorEnv([functools.partial(toy, 0)], workers="auto") as vector:
        assert vector.workers == "none"


def test_split_decides_the_first_variation():
    with envs.make_vector(TASK, 1, workers="none", split="eval", **SMALL) as vector:
        implicit = vector.reset(seeds=[3])
        np.testing.assert_array_equal(vector.reset(seeds=[3], variation="test"), implicit)


@pytest.mark.parametrize("workers", ["none", "process"])
def test_a_fresh_vector_can_be_taken_up_in_part(workers):
    episode = {"seed": 5, "variation": "train", "actions": actions_for(2)[:, 1]}
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers=workers) as vector:
        images = vector.restore([None, episode])
        assert not images[0].any()
        assert images[1].any()
        with pytest.raises(RuntimeError, match="env 0: the episode has ended or not begun"):
            vector.step(np.zeros((2, 1)))
        both = vector.reset([True, False], [1, None])
        np.testing.assert_array_equal(both[1], images[1])
        vector.step(np.zeros((2, 1)))


def one_hot_cartpole():
    """Gymnasium's cart-pole, in the form that the vector takes."""
    env = TransformObservation(
        gym.make("CartPole-v1", render_mode=None),
        lambda observation: {"image": observation},
        gym.spaces.Dict({"image": gym.make("CartPole-v1").observation_space}),
    )
    return OneHotAction(AgentInfo(env))


def test_discrete_tasks_and_termination():
    with VectorEnv([one_hot_cartpole] * 2, workers="none") as vector:
        assert (vector.action_size, vector.discrete) == (2, True)
        vector.reset(seeds=[0, 0])
        for _ in range(20):
            result = vector.step(np.eye(2)[[1, 1]])
            if result.terminated.any():
                break
    assert result.terminated.tolist() == [True, True]
    assert result.discount.tolist() == [0.0, 0.0]
    assert not result.truncated.any()


def test_the_same_error_without_workers():
    with envs.make_vector(TASK, 1, workers="none", **SMALL) as vector:
        vector.reset(seeds=[1])
        with pytest.raises(EnvError, match=r"(?s)env 0 failed in step:\n.*not finite"):
            vector.step(np.array([[np.nan]]))
        with pytest.raises(EnvError, match=r"(?s)env 0 failed in reset:\n.*no variation 'val'"):
            vector.reset(seeds=[1], variation="val")


def test_episode_seeds_are_fixed_for_good():
    # Written down, so that a change of platform or of NumPy that changed them would be seen.
    assert [episode_seed(0, "train", 0), episode_seed(0, "eval", 0)] == [2044266242, 1976665982]


def test_episode_seeds_are_spread_and_31_bit():
    seeds = [
        episode_seed(seed, split, index)
        for seed in (0, 1)
        for split in envs.SPLITS
        for index in range(500)
    ]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) < 2**24
    assert 2**30 < max(seeds) < 2**31
    assert all(type(seed) is int for seed in seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "test", 0), "split must be"),
        ((-1, "train", 0), "must not be negative"),
        ((0, "train", -1), "must not be negative"),
    ],
)
def test_episode_seed_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        episode_seed(*arguments)
