"""The control suite as the agent sees it, against dm_control itself."""

import numpy as np
import pytest
from dm_control import suite
from gymnasium import spaces
from PIL import Image

import envs
from envs import choose_backend

SEED = 7
SMALL = {"size": (32, 32), "shadow_size": 64}


def actions_for(env, k, seed=0):
    """k random actions [k, A]."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (k, *env.action_space.shape)).astype(np.float32)


def play(env, actions, **reset):
    """Frames [k + 1, H, W, C] and rewards [k] of an episode."""
    observation, _ = env.reset(**reset)
    frames, rewards = [observation["image"]], []
    for action in actions:
        observation, reward, *_ = env.step(action)
        frames.append(observation["image"])
        rewards.append(reward)
    return np.stack(frames), np.array(rewards)


@pytest.mark.parametrize(
    ("task", "action_size"),
    [
        ("dmc_walker_walk", 6),
        ("dmc_cup_catch", 2),
        ("dmc2gym_ball_in_cup_catch", 2),
        ("dmc2gym_cartpole_swingup", 1),
        ("dmc2gym_humanoid_CMU_run", 56),
        ("dmc2gym_point_mass_easy", 2),
        ("dmc2gym_quadruped_walk", 12),
    ],
)
def test_contract(make, task, action_size):
    env = make(task)
    assert env.observation_space == spaces.Dict(
        {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
    )
    assert env.action_space == spaces.Box(-1, 1, (action_size,), np.float32)
    observation, info = env.reset(seed=SEED)
    assert observation in env.observation_space
    assert observation["image"].std() > 3  # something is drawn
    assert (info["discount"], info["control_steps"]) == (1.0, 0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert isinstance(reward, float)
    assert (terminated, truncated) == (False, False)
    assert (info["discount"], info["control_steps"]) == (1.0, 2)


def test_observations_are_the_callers(make):
    env = make("dmc2gym_cartpole_swingup", **SMALL)
    first = env.reset(seed=SEED)[0]["image"]
    kept = first.copy()
    env.step(np.ones(1, np.float32))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("repeat", [1, 2, 4])
def test_action_repeat_sums_what_dm_control_gives(make, repeat):
    env = make("dmc_walker_walk", action_repeat=repeat, shadow_size=1024)
    plain = suite.load("walker", "walk", task_kwargs={"random": SEED})
    plain.physics.model.vis.quality.shadowsize = 1024
    plain.reset()
    actions = actions_for(env, 5)
    frames, rewards = play(env, actions, seed=SEED)
    for action, frame, reward in zip(actions, frames[1:], rewards, strict=True):
        expected = sum(plain.step(action).reward for _ in range(repeat))
        assert reward == pytest.approx(expected, rel=1e-9)
        own = plain.physics.render(64, 64, camera_id=0)
        np.testing.assert_array_equal(frame, own)
    plain.physics.free()


def test_the_renderer_has_no_room_beyond_the_frame(make):
    env = make("dmc2gym_cartpole_swingup", size=(32, 48))
    assert env.reset(seed=SEED)[0]["image"].shape == (32, 48, 3)
    context = env.unwrapped.inner.dmc_env.physics.contexts.mujoco.ptr
    assert (context.offHeight, context.offWidth) == (32, 48)


@pytest.mark.parametrize(("repeat", "steps", "last"), [(1, 10, 1), (2, 5, 2), (4, 3, 2)])
def test_time_limit_counts_control_steps_and_truncates(make, repeat, steps, last):
    env = make("dmc2gym_cartpole_swingup", action_repeat=repeat, time_limit=10, **SMALL)
    env.reset(seed=SEED)
    counts = []
    truncated = False
    while not truncated:
        _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        counts.append(info["control_steps"])
        assert not terminated
        assert info["discount"] == 1.0
    assert len(counts) == steps
    assert counts[-1] == last
    assert sum(counts) == 10


def test_variations_differ_in_colour_alone(make):
    env = make("dmc2gym_cartpole_swingup", **SMALL)
    actions = actions_for(env, 3)
    frames, rewards, materials = {}, {}, {}
    for name in envs.VARIATIONS:
        frames[name], rewards[name] = play(env, actions, seed=SEED, options={"variation": name})
        materials[name] = env.unwrapped.inner.dmc_env.physics.model.mat_rgba[:, :3].copy()
    # The sets' green boxes, 0.3 ± 0.2 and 0.7 ± 0.2, only touch.
    assert (abs(materials["train"] - (0.7, 0.3, 0.5)) <= 0.2 + 1e-6).all()
    assert (abs(materials["test"] - (0.5, 0.7, 0.3)) <= 0.2 + 1e-6).all()
    assert frames["test"][..., 1].mean() > frames["train"][..., 1].mean() + 5
    for name in ("test", "original"):
        assert (frames[name] != frames["train"]).any()
        np.testing.assert_array_equal(rewards[name], rewards["train"])


def test_original_is_the_plain_task(make):
    distracting, plain = make("dmc2gym_finger_spin", **SMALL), make("dmc_finger_spin", **SMALL)
    actions = actions_for(plain, 3)
    frames, rewards = play(distracting, actions, seed=SEED, options={"variation": "original"})
    plain_frames, plain_rewards = play(plain, actions, seed=SEED)
    np.testing.assert_array_equal(frames, plain_frames)
    np.testing.assert_array_equal(rewards, plain_rewards)


def test_only_another_variation_rebuilds_the_simulator(make):
    env = make("dmc2gym_cartpole_swingup", **SMALL)
    variations = env.unwrapped
    first = variations.inner
    env.reset(seed=1, options={"variation": "train"})
    env.reset(seed=2)
    assert variations.inner is first
    env.reset(seed=3, options={"variation": "test"})
    second = variations.inner
    assert second is not first
    env.reset(seed=4)  # stays where it is
    assert variations.inner is second
    assert variations.variation == "test"


def test_plain_tasks_have_one_variation_under_all_names(make):
    env = make("dmc_cartpole_swingup", variation="test", **SMALL)
    first = env.unwrapped.inner
    frames = [env.reset(seed=SEED, options={"variation": v})[0]["image"] for v in envs.VARIATIONS]
    assert env.unwrapped.inner is first
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])


def test_unknown_variation_is_refused_and_does_no_harm(make):
    env = make("dmc2gym_cartpole_swingup", **SMALL)
    with pytest.raises(ValueError, match="no variation 'val': use one of train, test, original"):
        env.reset(seed=SEED, options={"variation": "val"})
    env.reset(seed=SEED)


def test_an_episode_is_its_seed_whatever_came_before(make):
    used, fresh = (
        make("dmc2gym_walker_walk", **SMALL),
        make("dmc2gym_walker_walk", variation="test", **SMALL),
    )
    actions = actions_for(used, 4)
    play(used, actions_for(used, 6, seed=1), seed=99)
    play(used, actions, seed=SEED, options={"variation": "original"})
    history = play(used, actions, seed=SEED, options={"variation": "test"})
    alone = play(fresh, actions, seed=SEED)
    other = play(fresh, actions, seed=SEED + 1)
    for one, same in zip(history, alone, strict=True):
        np.testing.assert_array_equal(one, same)
    assert (other[0] != alone[0]).any()


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        {**SMALL, "camera": True, "difficulty": "hard", "dynamic": True},
        {"grayscale": True, "size": (32, 48), "shadow_size": 64},
    ],
)
def test_resuming_an_episode_is_bit_identical(make, settings):
    one = make("dmc2gym_cheetah_run", **settings)
    other = make("dmc2gym_cheetah_run", variation="test", index=3, **settings)
    actions = actions_for(one, 7)
    frames, rewards = play(one, actions, seed=SEED)
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    play(other, actions[:2], seed=1)
    for k in (1, 0, 5):
        episode = {"seed": SEED, "variation": "train", "actions": actions[:k]}
        observation, info = other.reset(options={"replay": {3: episode}})
        np.testing.assert_array_equal(observation["image"], frames[k])
        assert info["control_steps"] == (2 if k else 0)
        for t in range(k, 7):
            observation, reward, *_ = other.step(actions[t])
            np.testing.assert_array_equal(observation["image"], frames[t + 1])
            assert reward == rewards[t]


def test_resuming_draws_no_frames_between(make, monkeypatch):
    env = make("dmc2gym_cartpole_swingup", **SMALL)
    actions = actions_for(env, 20)
    drawn = []
    inner = env.unwrapped.inner
    draw = inner.render
    monkeypatch.setattr(inner, "render", lambda: drawn.append(1) or draw())
    env.reset(options={"replay": {0: {"seed": 1, "variation": "train", "actions": actions}}})
    assert len(drawn) == 1


def test_resuming_an_episode_that_is_over_is_an_error(make):
    env = make("dmc2gym_cartpole_swingup", time_limit=6, **SMALL)
    episode = {"seed": 1, "variation": "train", "actions": actions_for(env, 3)}
    with pytest.raises(ValueError, match="ends at action 3 of the 3 recorded"):
        env.reset(options={"replay": {0: episode}})
    assert env.reset(seed=1)[0]["image"].any()  # and it draws again


def test_sizes_and_grayscale(make):
    env = make("dmc2gym_cartpole_swingup", size=(48, 32), grayscale=True)
    assert env.observation_space["image"].shape == (48, 32, 1)
    observation, _ = env.reset(seed=SEED)
    assert observation in env.observation_space
    assert observation["image"].std() > 3


def test_camera_settings_reach_the_camera(make):
    still = make("dmc2gym_cheetah_run", **SMALL)
    expected = still.reset(seed=SEED)[0]["image"]
    none = make("dmc2gym_cheetah_run", camera=True, camera_horizontal_delta=0.0, **SMALL)
    np.testing.assert_array_equal(none.reset(seed=SEED)[0]["image"], expected)
    turned = make("dmc2gym_cheetah_run", camera=True, camera_roll_delta=1.5, **SMALL)
    assert (turned.reset(seed=SEED)[0]["image"] != expected).any()
    hard = make("dmc2gym_cheetah_run", test_camera=True, test_difficulty="hard", **SMALL)
    np.testing.assert_array_equal(hard.reset(seed=SEED)[0]["image"], expected)
    test = make("dmc2gym_cheetah_run", variation="test", **SMALL).reset(seed=SEED)[0]["image"]
    assert (hard.reset(seed=SEED, options={"variation": "test"})[0]["image"] != test).any()


def test_background_settings_reach_the_background(make, tmp_path):
    for split, level in (("train", 250), ("val", 5)):
        video = tmp_path / split / "a"
        video.mkdir(parents=True)
        for frame in range(2):
            Image.new("RGB", (16, 16), (level, level, level)).save(video / f"{frame:05}.png")
    settings = {
        "background_dataset_path": str(tmp_path / "train"),
        "background_dataset_videos": ("a",),
        "test_background_dataset_path": str(tmp_path / "val"),
        "test_background_dataset_videos": ("a",),
        "max_delta": 0.0,
        "step_std": 0.0,
        "disjoint_sets": None,
        "test_disjoint_sets": None,
    }
    env = make("dmc2gym_cheetah_run", **settings)
    sky = {
        name: env.reset(seed=SEED, options={"variation": name})[0]["image"][:10].mean()
        for name in ("train", "test")
    }
    assert sky["train"] > 150 > 50 > sky["test"]


def test_shadow_map_is_small_on_software_gl_unless_set(make):
    def size(env):
        return env.unwrapped.inner.dmc_env.physics.model.vis.quality.shadowsize

    own = suite.load("cartpole", "swingup").physics.model.vis.quality.shadowsize
    expected = 1024 if choose_backend().software else own
    assert size(make("dmc_cartpole_swingup")) == expected
    assert size(make("dmc_cartpole_swingup", shadow_size=512)) == 512
