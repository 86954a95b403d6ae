"""The colour distraction: boxes, motion, and what reaches the picture."""

import numpy as np
import pytest
from dm_control import suite

from distracting_control import DistractingColor
from distracting_control.color import CENTERS, MAX_DISJOINT_DELTA

STEPS = 260


def walker(seed=0):
    return suite.load("walker", "walk", task_kwargs={"random": seed})


def materials(env):
    return np.array(env.physics.model.mat_rgba, dtype=np.float64)


@pytest.mark.parametrize("disjoint_set", ["train", "test", None])
@pytest.mark.parametrize("domain", [("walker", "walk"), ("finger", "spin")])
def test_colors_stay_in_their_boxes_for_whole_episodes(domain, disjoint_set):
    env = suite.load(*domain, task_kwargs={"random": 0})
    own = materials(env)
    center = own[:, :3] if disjoint_set is None else np.array(CENTERS[disjoint_set])
    low, high = np.clip(center - 0.2, 0, 1), np.clip(center + 0.2, 0, 1)
    env = DistractingColor(env, 0.2, 0.2, disjoint_set, random=1)
    seen = []
    for _ in range(2):
        env.reset()
        seen.append(materials(env))
        for _ in range(STEPS):
            env.step(np.zeros(env.action_spec().shape))
            seen.append(materials(env))
    seen = np.array(seen)
    assert (seen[..., :3] >= low - 1e-6).all()
    assert (seen[..., :3] <= high + 1e-6).all()
    np.testing.assert_array_equal(seen[..., 3], np.broadcast_to(own[:, 3], seen.shape[:2]))
    # Steps as large as the box visit all of it, so a box drawn too small would show as well.
    spread = seen[..., :3].max(axis=0) - seen[..., :3].min(axis=0)
    np.testing.assert_allclose(spread, np.broadcast_to(high - low, spread.shape), atol=0.02)


def test_train_and_test_boxes_are_disjoint():
    train, test = (np.array(CENTERS[name]) for name in ("train", "test"))
    apart = np.abs(train - test) >= 2 * MAX_DISJOINT_DELTA - 1e-9
    assert apart.any()
    boxes = [DistractingColor(walker(), 0.1, 0.2, name) for name in ("train", "test")]
    assert (boxes[0].high[:, 1] <= boxes[1].low[:, 1] + 1e-9).all()


def test_static_colors_change_with_the_episode_only():
    env = DistractingColor(walker(), 0.0, 0.2, random=1)
    env.reset()
    first = materials(env)
    for _ in range(20):
        env.step(np.zeros(6))
        np.testing.assert_array_equal(materials(env), first)
    env.reset()
    assert np.abs(materials(env) - first)[:, :3].max() > 0.01


def test_dynamic_colors_move_by_the_given_amount():
    env = DistractingColor(walker(), 0.01, 1.0, random=1)
    env.reset()
    steps = []
    for _ in range(100):
        before = env.rgb
        env.step(np.zeros(6))
        inside = (env.rgb > env.low) & (env.rgb < env.high)
        steps.append((env.rgb - before)[inside])
    assert np.std(np.concatenate(steps)) == pytest.approx(0.01, rel=0.05)


def test_colors_after_reset_are_in_the_first_frame():
    env = DistractingColor(walker(), 0.1, 0.2, "train", random=3)
    env.reset()
    frame = env.physics.render(48, 48, camera_id=0)
    plain = walker()
    plain.reset()
    undistracted = plain.physics.render(48, 48, camera_id=0)
    plain.physics.model.mat_rgba[:, :3] = env.rgb
    expected = plain.physics.render(48, 48, camera_id=0)
    env.physics.free()
    plain.physics.free()
    np.testing.assert_array_equal(frame, expected)
    assert np.abs(frame.astype(int) - undistracted).mean() > 5


def test_distraction_leaves_the_task_alone():
    plain, env = walker(seed=4), DistractingColor(walker(seed=4), 0.2, 0.2, random=9)
    for a, b in ((plain.reset(), env.reset()), (plain.step(np.ones(6)), env.step(np.ones(6)))):
        assert a.reward == b.reward
        for key in a.observation:
            np.testing.assert_array_equal(a.observation[key], b.observation[key])
    assert env.action_spec() == plain.action_spec()
    assert env.control_timestep() == plain.control_timestep()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((-0.1, 0.1), "negative"),
        ((0.1, -0.1), "negative"),
        ((0.1, 0.1, "validation"), "validation"),
        ((0.1, 0.25, "train"), "lower it to 0.2"),
        ((0.1, 0.25, "test"), "lower it to 0.2"),
    ],
)
def test_refusals(args, words):
    with pytest.raises(ValueError, match=words):
        DistractingColor(walker(), *args)


def test_large_boxes_are_fine_without_disjoint_sets():
    env = DistractingColor(walker(), 0.1, 0.9)
    assert env.low.min() == 0
    assert env.high.max() == 1
