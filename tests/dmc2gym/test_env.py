"""The Gymnasium environment, against plain dm_control."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from dm_control import suite
from dm_control.mujoco import Camera
from gymnasium.utils.env_checker import check_env
from PIL import Image

import dmc2gym

COLORS = {"max_delta": 0.2, "step_std": 0.2, "disjoint_set": "train"}
PIXELS = {"from_pixels": True, "shadow_size": 256}


@pytest.fixture
def make():
    """`dmc2gym.make` whose envs are closed at the end of the test."""
    envs = []

    def made(*args, **kwargs):
        envs.append(dmc2gym.make(*args, **kwargs))
        return envs[-1]

    yield made
    for env in envs:
        env.close()


def actions(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def plain_steps(env, action, count):
    """As many control steps of plain dm_control, and the sum of their rewards."""
    total = 0.0
    for _ in range(count):
        time_step = env.step(action.astype(np.float64))
        total += time_step.reward
        if time_step.last():
            break
    return time_step, total


@pytest.mark.parametrize(
    ("frame_skip", "from_pixels"), [(1, False), (2, False), (4, False), (2, True)]
)
def test_rewards_are_summed_over_control_steps(make, frame_skip, from_pixels):
    steps = 6 if from_pixels else 60
    env = make("cheetah", "run", seed=5, frame_skip=frame_skip, from_pixels=from_pixels)
    plain = suite.load("cheetah", "run", task_kwargs={"random": 5})
    env.reset()
    plain.reset()
    for action in actions(env, steps):
        obs, reward, _, _, info = env.step(action)
        time_step, expected = plain_steps(plain, action, frame_skip)
        assert reward == expected
        assert info["control_steps"] == frame_skip
        assert info["discount"] == time_step.discount
        np.testing.assert_array_equal(info["internal_state"], plain.physics.get_state())
        if not from_pixels:
            state = np.concatenate([np.ravel(value) for value in time_step.observation.values()])
            np.testing.assert_array_equal(obs, state.astype(np.float32))
    assert info["internal_state"].base is None
    if from_pixels:
        frame = plain.physics.render(64, 64, camera_id=0)
        np.testing.assert_array_equal(obs, frame.transpose(2, 0, 1))
        plain.physics.free()


@pytest.mark.parametrize(("frame_skip", "taken"), [(1, [1] * 10), (2, [2] * 5), (4, [4, 4, 2])])
@pytest.mark.parametrize("limit", ["episode_length", "time_limit"])
def test_truncated_at_the_time_limit(make, frame_skip, taken, limit):
    # The walker takes 40 control steps a second.
    kwargs = {"episode_length": 10} if limit == "episode_length" else {"time_limit": 0.25}
    env = make("walker", "walk", seed=2, frame_skip=frame_skip, **kwargs)
    plain = suite.load("walker", "walk", task_kwargs={"random": 2})
    for _ in range(2):
        env.reset()
        plain.reset()
        total, expected, seen = 0.0, 0.0, []
        for action in actions(env, len(taken)):
            _, reward, terminated, truncated, info = env.step(action)
            total += reward
            expected += plain_steps(plain, action, info["control_steps"])[1]
            seen.append(info["control_steps"])
            assert not terminated
            assert truncated == (sum(seen) == 10)
            assert info["discount"] == 1.0
        assert seen == taken
        assert total == expected
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())


@pytest.mark.parametrize(("length", "expected"), [({}, 250), ({"episode_length": 1100}, 275)])
def test_episodes_last_1000_control_steps_or_as_long_as_asked(make, length, expected):
    env = make("cartpole", "balance", frame_skip=4, **length)
    env.reset()
    steps = 1
    while not env.step(np.zeros(1, np.float32))[3]:
        steps += 1
    assert steps == expected


def test_terminated_where_dm_control_ends_with_discount_zero(make):
    env = make("lqr", "lqr_2_1", frame_skip=4)
    env.reset()
    *_, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert not terminated
    env.reset()
    with env.dmc_env.physics.reset_context():
        env.dmc_env.physics.data.qpos[:] = 0  # at rest at the goal: solved
    *_, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert terminated
    assert not truncated
    assert info["discount"] == 0.0
    assert info["control_steps"] == 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("domain", "kwargs"),
    [
        (("walker", "walk"), {}),
        (("walker", "walk"), PIXELS | {"channels_first": False}),
        (("reacher", "easy"), PIXELS),
    ],
)
def test_environment_checker(make, kwargs, domain):
    env = make(*domain, frame_skip=2, **kwargs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
    # States have no bounds, and an env that is not made by an id has no spec to try others with.
    expected = ("infinity", "not having a spec")
    assert not [
        str(w.message)
        for w in caught
        if issubclass(w.category, UserWarning) and not any(x in str(w.message) for x in expected)
    ]


def test_observation_layouts(make):
    size = {"height": 48, "width": 80}
    first = make("walker", "walk", **PIXELS, **size)
    last = make("walker", "walk", **PIXELS, **size, channels_first=False)
    a, b = first.reset(seed=1)[0], last.reset(seed=1)[0]
    assert (a.shape, b.shape) == ((3, 48, 80), (48, 80, 3))
    assert a.flags.c_contiguous
    assert b.flags.c_contiguous
    np.testing.assert_array_equal(a.transpose(1, 2, 0), b)
    np.testing.assert_array_equal(last.render(), b)
    kept = b.copy()
    last.step(np.ones(6, np.float32))
    np.testing.assert_array_equal(b, kept)  # not a view of what is drawn next
    states = make("walker", "walk", render_mode=None)
    assert states.reset()[0].dtype == np.float32
    assert states.render() is None
    large = make("walker", "walk", from_pixels=True, height=500, width=700)
    assert large.reset()[0].shape == (3, 500, 700)


def test_one_rendering_per_step(make, monkeypatch):
    env = make("walker", "walk", frame_skip=4, **PIXELS)
    count = []
    render = Camera.render
    monkeypatch.setattr(Camera, "render", lambda *a, **k: count.append(1) or render(*a, **k))
    env.reset()
    for action in actions(env, 5):
        env.step(action)
    assert len(count) == 6


def test_cameras(make):
    assert make("quadruped", "walk")._camera_id == 2
    default, other = (make("walker", "walk", camera_id=i, **PIXELS) for i in (None, 1))
    assert default._camera_id == 0
    assert (default.reset()[0] != other.reset()[0]).any()
    free = make("walker", "walk", camera_id=-1, **PIXELS)
    assert (default.reset()[0] != free.reset()[0]).any()
    moved = make("walker", "walk", camera_id=1, camera_kwargs={"roll_delta": 1.0}, **PIXELS)
    assert (moved.reset()[0] != other.reset()[0]).any()


def test_actions_are_scaled_to_the_true_bounds(make):
    env = make("quadruped", "walk")
    spec = env.dmc_env.action_spec()
    assert (spec.maximum != 1).any()  # else this test shows nothing
    env.reset()
    for value, bound in ((-1, spec.minimum), (1, spec.maximum), (7, spec.maximum)):
        env.step(np.full(12, value, np.float32))
        np.testing.assert_array_equal(env.dmc_env.physics.control(), bound)
    env.step(np.zeros(12, np.float32))
    middle = (spec.minimum + spec.maximum) / 2
    np.testing.assert_allclose(env.dmc_env.physics.control(), middle)


def test_clipping_is_what_the_simulator_does_with_actions_beyond_its_bounds(make):
    env, plain = (
        make("cartpole", "swingup", seed=4),
        suite.load("cartpole", "swingup", {"random": 4}),
    )
    env.reset(seed=4)
    plain.reset()
    plain.physics.set_state(env.dmc_env.physics.get_state())
    for wanted in (3.0, -1.5, 0.5):
        _, reward, *_ = env.step(np.full(1, wanted, np.float32))
        time_step = plain.step([wanted])
        assert reward == time_step.reward
        np.testing.assert_array_equal(env.dmc_env.physics.get_state(), plain.physics.get_state())


def test_actuators_without_limits_take_the_action_as_it_is(make):
    env = make("lqr", "lqr_6_2")
    env.reset()
    env.step(np.array([0.5, -0.25], np.float32))
    np.testing.assert_array_equal(env.dmc_env.physics.control(), [0.5, -0.25])


def rollout(env, seed, steps=2):
    obs, info = env.reset(seed=seed)
    seen = [np.ravel(obs).astype(np.float64), info["internal_state"]]
    for action in actions(env, steps):
        obs, reward, terminated, truncated, info = env.step(action)
        seen += [np.ravel(obs).astype(np.float64), info["internal_state"]]
        seen.append([reward, terminated, truncated])
    return np.concatenate(seen)


@pytest.mark.parametrize(
    "task",
    [
        ("walker", "walk"),
        ("reacher", "easy"),
        ("finger", "turn_hard"),
        ("cup", "catch"),
        ("quadruped", "escape"),
        ("manipulator", "bring_ball"),
        ("fish", "swim"),
        ("point_mass", "hard"),
    ],
)
def test_a_seed_determines_pixels_whatever_was_before(make, task, tmp_path):
    for index, color in enumerate(((250, 0, 0), (0, 250, 0), (0, 0, 250))):
        (tmp_path / str(index)).mkdir()
        Image.new("RGB", (8, 8), color).save(tmp_path / str(index) / "0.png")
    kwargs = PIXELS | {"height": 32, "width": 32, "frame_skip": 2}
    distractions = {
        "difficulty": "hard",
        "dynamic": True,
        "background_dataset_path": tmp_path,
        "colour_kwargs": COLORS,
    }
    fresh = make(*task, seed=1, **kwargs, **distractions)
    dirty = make(*task, seed=9, **kwargs, **distractions)
    rollout(dirty, 11)
    rollout(dirty, None)
    expected = rollout(fresh, 7)
    np.testing.assert_array_equal(rollout(dirty, 7), expected)
    assert (rollout(dirty, None) != expected).any()
    assert (rollout(dirty, 8) != expected).any()


def test_construction_seed_is_the_first_reset_seed(make):
    one, other = make("walker", "walk", seed=4), make("walker", "walk", seed=5)
    np.testing.assert_array_equal(rollout(one, None), rollout(other, 4))
    np.testing.assert_array_equal(rollout(one, None), rollout(other, None))
    samples = [make("walker", "walk", seed=s).action_space.sample() for s in (4, 4, 5)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).any()


def test_closing(make):
    env = make("walker", "walk", **PIXELS)
    env.reset()
    env.close()
    env.close()
    for use in (env.reset, env.render):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError):
            use()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"frame_skip": 0}, "frame_skip"),
        ({"episode_length": 0}, "episode_length"),
        ({"render_mode": "human"}, "human"),
        ({"camera_id": 2}, "between -1 and 1"),
        ({"from_pixels": True, "visualize_reward": True}, "visualize_reward"),
        ({"colour_kwargs": COLORS, "color_kwargs": COLORS}, "give one of them"),
        ({"colour_kwargs": COLORS | {"max_delta": 0.3}}, "lower it to 0.2"),
        ({"difficulty": "easy"}, "background_dataset_path"),
        ({"seed": -1}, "non-negative"),
    ],
)
def test_refusals(kwargs, words):
    with pytest.raises(ValueError, match=words):
        dmc2gym.make("walker", "walk", **kwargs)


def test_refused_actions(make):
    env = make("walker", "walk")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(6, np.float32))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full(6, np.nan, np.float32))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused_at_once(make, copied):
    env = make("point_mass", "easy", from_pixels=True)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="neither pickled nor copied: make one where"):
        copied(env)
    assert env.step(env.action_space.sample())[0].shape == (3, 64, 64)
