"""Loading with presets, and what one seed determines."""

import numpy as np
import pytest
from dm_control import suite
from PIL import Image

import distracting_control as dc

TRAIN = {"max_delta": 0.2, "step_std": 0.2, "disjoint_set": "train"}


@pytest.fixture
def videos(tmp_path):
    rng = np.random.default_rng(0)
    for video in range(9):
        (tmp_path / f"v{video}").mkdir()
        for frame in range(4):
            image = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            image.resize((32, 32), 0).save(tmp_path / f"v{video}" / f"{frame}.png")
    return tmp_path


def layers(env):
    found = {}
    while isinstance(env, dc.Distraction):
        found[type(env)] = env
        env = env._env
    return found


@pytest.mark.parametrize(
    ("difficulty", "scale", "num_videos"), [("easy", 0.1, 4), ("medium", 0.2, 8), ("hard", 0.3, 9)]
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_difficulties(videos, difficulty, scale, num_videos, dynamic):
    env = dc.load(
        "cartpole",
        "swingup",
        difficulty=difficulty,
        dynamic=dynamic,
        seed=1,
        background_dataset_path=videos,
    )
    env.reset()
    found = layers(env)
    color, camera = found[dc.DistractingColor], found[dc.DistractingCamera]
    background = found[dc.DistractingBackground]
    assert len(background.videos) == num_videos
    assert env.physics.named.model.mat_rgba["grid", "a"] == pytest.approx(0.3)
    assert (color.high - color.low).max() == pytest.approx(2 * scale)
    radius = 17**0.5  # the camera stands at (0, -4, 1)
    low, high = camera.low, camera.high
    assert low[0] == pytest.approx(radius * (1 - 0.5 * scale))
    assert high[0] == pytest.approx(radius * (1 + 1.5 * scale))
    assert (high - low)[[1, 3]] == pytest.approx(np.pi * scale)
    assert high[2] == pytest.approx(min(np.arctan2(4, 1) + np.pi / 2 * scale, np.pi / 2))

    def state():
        return [*color.rgb.ravel(), *camera.pose, background.frame[1]]

    before = np.array(state())
    env.step(np.zeros(1))
    moved = np.array(state()) != before
    assert moved[-1] == dynamic
    assert moved[-5:-1].all() == dynamic
    assert moved[:-5].any() == dynamic


def test_kwargs_override_the_preset(videos):
    env = dc.load(
        "walker",
        "walk",
        difficulty="easy",
        background_dataset_path=videos,
        color_kwargs={"max_delta": 0.05},
        camera_kwargs={"zoom_out": 0.5},
        background_kwargs={"num_videos": 2, "floor_alpha": 0.5},
    )
    env.reset()
    found = layers(env)
    color = found[dc.DistractingColor]
    assert (color.high - color.low).max() == pytest.approx(0.1)
    camera = found[dc.DistractingCamera]
    assert camera.high[0] / camera.low[0] == pytest.approx(1.5 / 0.95)
    assert len(found[dc.DistractingBackground].videos) == 2
    assert env.physics.named.model.mat_rgba["grid", "a"] == pytest.approx(0.5)


def test_without_difficulty_only_what_is_asked_for(videos):
    assert not layers(dc.load("walker", "walk"))
    assert list(layers(dc.load("walker", "walk", color_kwargs=TRAIN))) == [dc.DistractingColor]
    only = dc.load("walker", "walk", camera_kwargs={"roll_delta": 0.1})
    assert list(layers(only)) == [dc.DistractingCamera]
    only = dc.load("walker", "walk", background_dataset_path=videos)
    assert list(layers(only)) == [dc.DistractingBackground]


def test_refusals(videos):
    with pytest.raises(ValueError, match="a background needs videos"):
        dc.load("walker", "walk", difficulty="easy")
    with pytest.raises(ValueError, match="easy, medium, hard"):
        dc.load("walker", "walk", difficulty="extreme", background_dataset_path=videos)
    with pytest.raises(ValueError, match="visualize_reward"):
        dc.load("walker", "walk", color_kwargs=TRAIN, visualize_reward=True)
    with pytest.raises(ValueError, match="non-negative"):
        dc.load("walker", "walk", seed=-1)
    with pytest.raises(ValueError, match="shadow_size"):
        dc.load("walker", "walk", shadow_size=0)
    with pytest.raises(ValueError, match="non-negative"):
        dc.reseed(dc.load("walker", "walk"), -1)

    class NoTask:
        pass

    with pytest.raises(TypeError, match="NoTask"):
        dc.reseed(NoTask(), 1)


def test_shadow_size_is_set_before_the_first_rendering():
    frames = []
    for size in (16, 1024, 1024):
        env = dc.load("walker", "walk", seed=0, shadow_size=size)
        env.reset()
        frames.append(env.physics.render(64, 64, camera_id=0).astype(int))
        assert env.physics.model.vis.quality.shadowsize == size
        env.physics.free()
    np.testing.assert_array_equal(frames[1], frames[2])
    assert np.abs(frames[0] - frames[1]).max() > 10  # a coarse map, a coarse shadow


def distracted(videos, seed, domain="walker", task="walk"):
    return dc.load(
        domain,
        task,
        difficulty="hard",
        dynamic=True,
        seed=seed,
        background_dataset_path=videos,
        shadow_size=256,
    )


def rollout(env, steps):
    """Everything there is to see of an episode's first steps."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_spec().shape))
    seen = []
    for step in range(steps + 1):
        time_step = env.step(actions[step - 1]) if step else env.reset()
        seen += [np.ravel(value) for value in time_step.observation.values()]
        seen.append([time_step.reward or 0.0])
        if step % 4 == 0:
            seen.append(env.physics.render(32, 32, camera_id=0).ravel())
    return np.concatenate(seen)


@pytest.mark.parametrize("task", [("walker", "walk"), ("reacher", "easy"), ("cheetah", "run")])
def test_seed_determines_an_episode_whatever_was_before(videos, task):
    fresh = distracted(videos, 7, *task)
    dirty = distracted(videos, 1, *task)
    rollout(dirty, 5)
    dirty.reset()
    dirty.step(np.ones(dirty.action_spec().shape))
    dc.reseed(dirty, 7)
    expected = rollout(fresh, 4)
    np.testing.assert_array_equal(rollout(dirty, 4), expected)
    assert (rollout(dirty, 4) != expected).any()  # the next episode is another one
    dc.reseed(dirty, 8)
    assert (rollout(dirty, 4) != expected).any()
    fresh.physics.free()
    dirty.physics.free()


def test_generators_do_not_touch_each_other(videos):
    every = distracted(videos, 3)
    alone = dc.load("walker", "walk", seed=3, color_kwargs=dc.color_preset(0.3, dynamic=True))
    plain = suite.load("walker", "walk", task_kwargs={"random": 3})
    for env in (every, alone, plain):
        env.reset()
        for _ in range(5):
            env.step(np.ones(6))
    assert (layers(every)[dc.DistractingColor].rgb == alone.rgb).all()
    np.testing.assert_array_equal(every.physics.get_state(), plain.physics.get_state())
    dc.reseed(every, 3)
    draws = {layer._random.random() for layer in layers(every).values()}
    assert len(draws) == 3  # one seed, three streams


def test_seeds_of_any_size():
    small, large = (dc.load("walker", "walk", seed=seed) for seed in (2**32 - 1, 2**80))
    first = [env.reset().observation["orientations"] for env in (small, large)]
    assert (first[0] != first[1]).any()
    dc.reseed(small, 2**80)
    np.testing.assert_array_equal(small.reset().observation["orientations"], first[1])
