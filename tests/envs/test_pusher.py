"""Pusher and Gymnasium's other MuJoCo environments, against Gymnasium itself."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.pusher import PusherColors

PUSHER = "gymnasium_Pusher-v5"
# What the paper's authors recolour; everything else but the object keeps its own colour.
TABLE = ["table"]
ARM = ["e1", "e2", "sp", "sl", "uar", "ua", "ef", "fa"]
# Centres of the two sets ± 0.2, worked out by hand.
BOXES = {
    "train": ([0.5, 0.1, 0.3], [0.9, 0.5, 0.7]),
    "test": ([0.3, 0.5, 0.1], [0.7, 0.9, 0.5]),
}
OTHERS = ["HalfCheetah-v5", "Hopper-v5", "InvertedPendulum-v5", "Humanoid-v5"]


def actions_for(env, k, seed=0):
    """k random actions [k, A]."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (k, *env.action_space.shape)).astype(np.float32)


def simulator(env):
    """Gymnasium's own environment within ours."""
    return env.unwrapped.inner.unwrapped


def unseen(env):
    """A context in which nothing is drawn."""
    return env.get_wrapper_attr("unseen")()


def state(sim):
    """Positions and velocities [nq + nv]."""
    return np.concatenate([sim.data.qpos, sim.data.qvel])


def rgba(env, names):
    """Colours of the named geoms now [n, 4]."""
    model = simulator(env).model
    return np.array([model.geom(name).rgba for name in names])


def drawn_colors(env):
    """Table's and arm's colour [2, 3]; each part must have one colour only."""
    table, arm = rgba(env, TABLE), rgba(env, ARM)
    assert (arm == arm[0]).all()
    assert (np.concatenate([table, arm])[:, 3] == 1).all()
    return np.stack([table[0, :3], arm[0, :3]])


def reset(env, seed=None, **options):
    """Starts an episode without drawing."""
    with unseen(env):
        env.reset(seed=seed, options=options)


@pytest.fixture(scope="module")
def plain():
    """Gymnasium's Pusher with its own time limit of 100 steps."""
    env = gym.make("Pusher-v5")
    yield env
    env.close()


@pytest.fixture(scope="module")
def pusher():
    """Ours, in 64×64, which many tests reset as they need it."""
    env = envs.make_env(PUSHER, time_limit=100)
    yield env
    env.close()


def test_contract(pusher):
    assert pusher.observation_space == spaces.Dict(
        {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
    )
    assert pusher.action_space == spaces.Box(-1, 1, (7,), np.float32)
    observation, info = pusher.reset(seed=7)
    assert observation in pusher.observation_space
    assert observation["image"].std() > 3  # something is drawn
    assert (info["discount"], info["control_steps"]) == (1.0, 0)
    observation, reward, terminated, truncated, info = pusher.step(pusher.action_space.sample())
    assert observation in pusher.observation_space
    assert isinstance(reward, float)
    assert (terminated, truncated) == (False, False)
    assert (info["discount"], info["control_steps"]) == (1.0, 2)
    assert np.isnan([info["success"], info["distance"]]).all()  # Gymnasium does not tell


@pytest.mark.parametrize("repeat", [1, 2, 3, 4])
def test_an_episode_is_gymnasiums(make, plain, repeat):
    env = make(PUSHER, action_repeat=repeat, time_limit=100)
    lasted = [repeat] * (100 // repeat) + ([100 % repeat] if 100 % repeat else [])
    for seed in (11, 12):
        plain.reset(seed=seed)
        reset(env, seed)
        np.testing.assert_array_equal(state(simulator(env)), state(plain.unwrapped))
        for t, count in enumerate(lasted):
            action = actions_for(env, 100, seed)[t]
            with unseen(env):
                _, reward, terminated, truncated, info = env.step(action)
            expected = 0.0
            for _ in range(count):
                # Gymnasium's motors take ±2.
                _, one, ended, cut, _ = plain.step(2 * action)
                expected += float(one)
            assert reward == expected
            assert (terminated, truncated) == (ended, cut) == (False, t == len(lasted) - 1)
            assert (info["control_steps"], info["discount"]) == (count, 1.0)
            np.testing.assert_array_equal(state(simulator(env)), state(plain.unwrapped))


def test_actions_beyond_the_box_are_clipped(pusher):
    ends = []
    for scale in (1.0, 5.0):
        reset(pusher, 3)
        with unseen(pusher):
            reward = pusher.step(scale * np.array([1, -1, 1, 1, -1, 1, 1], np.float32))[1]
        ends.append([reward, *state(simulator(pusher))])
    np.testing.assert_array_equal(*ends)


def test_actions_beyond_the_box_are_limited_by_the_simulator_alone_if_asked(make, plain):
    """The motors do what they can; the cost of control counts what was wanted of them."""
    env = make(PUSHER, action_repeat=1, clip_actions=False)
    assert env.action_space == spaces.Box(-1, 1, (7,), np.float32)
    wanted = 5.0 * np.array([1, -1, 1, 1, -1, 1, 1], np.float32)
    reset(env, 3)
    with unseen(env):
        reward = env.step(wanted)[1]
    rewards = []
    for action in (2 * wanted, np.clip(2 * wanted, -2, 2)):
        plain.reset(seed=3)
        rewards.append(float(plain.step(action)[1]))
        np.testing.assert_array_equal(state(simulator(env)), state(plain.unwrapped))
    assert reward == rewards[0]
    assert reward == pytest.approx(rewards[1] - 0.1 * 7 * (10**2 - 2**2))


def test_colors_are_drawn_from_their_boxes(pusher, plain):
    original = plain.unwrapped.model.geom_rgba
    model = simulator(pusher).model
    ours = [model.geom(name).id for name in (*TABLE, *ARM)]
    ours += list(model.body("object").geomadr)
    for variation, (low, high) in BOXES.items():
        drawn = []
        for seed in range(60):
            reset(pusher, seed, variation=variation)
            drawn.append(drawn_colors(pusher))
            now = simulator(pusher).model
            black = now.geom_rgba[now.body("object").geomadr[0]]
            np.testing.assert_array_equal(black, [0, 0, 0, 1])
            others = np.setdiff1d(np.arange(now.ngeom), ours)
            np.testing.assert_array_equal(now.geom_rgba[others], original[others])
        drawn = np.array(drawn)  # [60, 2, 3]
        assert (drawn >= np.array(low) - 1e-6).all()
        assert (drawn <= np.array(high) + 1e-6).all()
        # The whole box is used, by either part; and table and arm have nothing to do with each
        # other.
        np.testing.assert_allclose(drawn.min(axis=0), [low] * 2, atol=0.05)
        np.testing.assert_allclose(drawn.max(axis=0), [high] * 2, atol=0.05)
        channels = drawn.transpose(1, 2, 0).reshape(6, 60)
        assert np.abs(np.corrcoef(channels) - np.eye(6)).max() < 0.5
    assert len(others) == 10  # elbows' ends, the forearm's axis, wrist, fingers, goal


@pytest.mark.parametrize("variation", ["train", "test"])
def test_a_seed_determines_colors_and_frames_whatever_came_before(make, pusher, variation):
    used, fresh = pusher, make(PUSHER, time_limit=100)
    used.reset(seed=1, options={"variation": "original"})
    reset(used, variation=variation)  # an episode without a seed
    with unseen(used):
        for action in actions_for(used, 3):
            used.step(action)
    frames = [env.reset(seed=5, options={"variation": variation})[0] for env in (used, fresh)]
    np.testing.assert_array_equal(frames[0]["image"], frames[1]["image"])
    np.testing.assert_array_equal(drawn_colors(used), drawn_colors(fresh))
    seen = [drawn_colors(used)]
    for seed in (6, None, None):
        reset(used, seed)
        seen.append(drawn_colors(used))
    assert len(np.unique(np.array(seen), axis=0)) == 4


def test_colors_last_an_episode(pusher):
    reset(pusher, 8, variation="train")
    before = drawn_colors(pusher)
    with unseen(pusher):
        for action in actions_for(pusher, 50):
            truncated = pusher.step(action)[3]
    assert truncated
    np.testing.assert_array_equal(drawn_colors(pusher), before)


def test_colors_do_not_touch_the_physics(pusher):
    ends = []
    for variation in ("train", "test", "original"):
        rewards = []
        for seed in (9, 10):
            reset(pusher, seed, variation=variation)
            with unseen(pusher):
                rewards += [pusher.step(action)[1] for action in actions_for(pusher, 10)]
        ends.append([*rewards, *state(simulator(pusher))])
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


def test_original_recolors_the_object_alone(pusher, plain):
    reset(pusher, 2, variation="original")
    model = simulator(pusher).model
    expected = plain.unwrapped.model.geom_rgba.copy()
    expected[model.body("object").geomadr] = [0, 0, 0, 1]
    np.testing.assert_array_equal(model.geom_rgba, expected)
    assert len(model.body("object").geomadr) == 1


def camera_of_the_facts():
    """The paper's camera of Pusher."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.trackbodyid, camera.distance, camera.elevation = -1, 2.0, -90.0
    camera.lookat[:] = (0.0, -0.5, 0.2)
    return camera


def geoms_seen(sim, side):
    """Which geom each pixel shows [side, side], −1 for none, by MuJoCo's own renderer."""
    import mujoco

    with mujoco.Renderer(sim.model, side, side) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(sim.data, camera_of_the_facts())
        ids, types = np.moveaxis(renderer.render(), -1, 0)
    return np.where(types == mujoco.mjtObj.mjOBJ_GEOM, ids, -1)


def test_frames_show_the_colors_where_the_paper_s_camera_sees_the_parts(make):
    env = make(PUSHER, size=(96, 96))
    for variation, seed in (("train", 11), ("test", 1), ("test", 4)):
        frame = env.reset(seed=seed, options={"variation": variation})[0]["image"].astype(float)
        sim = simulator(env)
        seen = geoms_seen(sim, 96)
        for name, rgb in zip(("table", "fa"), drawn_colors(env), strict=True):
            pixels = frame[seen == sim.model.geom(name).id]
            assert len(pixels) > 50
            # Highlights are white, so the hue is where the light is weak.
            pixels = pixels[pixels.sum(axis=1) > 60]
            dim = pixels[pixels.sum(axis=1) <= np.quantile(pixels.sum(axis=1), 0.4)]
            shares = np.median(dim / dim.sum(axis=1, keepdims=True), axis=0)
            np.testing.assert_allclose(shares, rgb / rgb.sum(), atol=0.04)
            in_bgr = np.abs(shares - rgb[::-1] / rgb.sum()).max()
            assert np.abs(shares - rgb / rgb.sum()).max() < in_bgr / 2
        assert (frame[seen == -1] == 0).mean() > 0.95  # but for the edges
        goal = sim.model.body("goal").geomadr[0]
        assert (np.median(frame[seen == goal], axis=0) > [150, 0, 0]).all()
        assert np.median(frame[seen == goal], axis=0)[1:].max() < 100  # red, so RGB not BGR


def test_settings_of_the_colors(make):
    env = make(PUSHER, max_delta=0.0, test_max_delta=0.1, step_std=0.5)
    reset(env, 0)
    np.testing.assert_allclose(drawn_colors(env), [[0.7, 0.3, 0.5]] * 2, atol=1e-6)
    drawn = []
    for seed in range(40):
        reset(env, seed, variation="test")
        drawn.append(drawn_colors(env))
    np.testing.assert_allclose(np.min(drawn, axis=(0, 1)), [0.4, 0.6, 0.2], atol=0.02)
    np.testing.assert_allclose(np.max(drawn, axis=(0, 1)), [0.6, 0.8, 0.4], atol=0.02)


def test_without_a_set_each_part_keeps_to_its_own_color(make, plain):
    env = make(PUSHER, max_delta=0.45, disjoint_sets=None, test_disjoint_sets=None)
    for variation in ("train", "test"):
        drawn = []
        for seed in range(60):
            reset(env, seed, variation=variation)
            drawn.append(drawn_colors(env))
        # The table is 0.5 grey; of the arm e1 and e2 are 0.6 grey, and 1.05 is clipped.
        np.testing.assert_allclose(np.min(drawn, axis=0), [[0.05] * 3, [0.15] * 3], atol=0.06)
        np.testing.assert_allclose(np.max(drawn, axis=0), [[0.95] * 3, [1.0] * 3], atol=0.06)
    assert (plain.unwrapped.model.geom("table").rgba[:3] == 0.5).all()
    np.testing.assert_allclose(plain.unwrapped.model.geom("e1").rgba[:3], 0.6)


def test_colors_that_would_overlap_are_refused(make):
    with pytest.raises(ValueError, match=r"max_delta 0\.25 .* overlap: give at most 0\.2"):
        envs.make_env(PUSHER, max_delta=0.25)
    with pytest.raises(ValueError, match=r"max_delta 0\.3 .* overlap"):
        envs.make_env(PUSHER, variation="test", test_max_delta=0.3)
    env = make(PUSHER, max_delta=0.2)
    env.reset(seed=0)
    look = env.unwrapped.inner
    while not isinstance(look, PusherColors):
        look = look.env
    np.testing.assert_allclose(look.low, [BOXES["train"][0]] * 2)
    np.testing.assert_allclose(look.high, [BOXES["train"][1]] * 2)
    np.testing.assert_array_equal(look.rgb, drawn_colors(env))


@pytest.mark.parametrize("task", [PUSHER, "gymnasium_HalfCheetah-v5"])
def test_unknown_variations_and_cameras_are_refused(make, task):
    with pytest.raises(ValueError, match="no variation 'wood': use one of train, test, original"):
        make(task).reset(options={"variation": "wood"})
    cameras = {PUSHER: "-1 and -1", "gymnasium_HalfCheetah-v5": "-1 and 0"}[task]
    with pytest.raises(ValueError, match=f"camera_id must be between {cameras}, not 1"):
        make(task, camera_id=1)


def test_images_have_the_size_that_is_asked_for(make):
    assert make(PUSHER, size=(32, 48)).reset(seed=0)[0]["image"].shape == (32, 48, 3)


@pytest.mark.parametrize("name", OTHERS)
def test_other_environments_are_gymnasiums(make, name):
    env, plain = make(f"gymnasium_{name}", action_repeat=3), gym.make(name)
    assert env.action_space == spaces.Box(-1, 1, plain.action_space.shape, np.float32)
    high = plain.action_space.high
    np.testing.assert_array_equal(plain.action_space.low, -high)
    assert high[0] == {"InvertedPendulum-v5": 3, "Humanoid-v5": np.float32(0.4)}.get(name, 1)
    plain.reset(seed=4)
    reset(env, 4)
    steps, ended, cut = 0, False, False
    for action in actions_for(env, 1000 // 3 + 1):
        with unseen(env):
            _, reward, terminated, truncated, info = env.step(action)
        expected = count = 0
        while count < 3 and not (ended or cut):
            _, one, ended, cut, _ = plain.step(action * high)
            expected, count = expected + float(one), count + 1
        steps += count
        # 0.4 has no exact float, so Humanoid's actions may differ in the last bit.
        tolerance = 1e-6 if name == "Humanoid-v5" else 0
        assert reward == pytest.approx(expected, rel=tolerance, abs=0)
        assert (terminated, truncated, info["control_steps"]) == (ended, cut, count)
        assert info["discount"] == (0.0 if ended else 1.0)
        if ended or cut or steps >= 60:
            break
    assert ended == (name in ("Hopper-v5", "InvertedPendulum-v5", "Humanoid-v5"))
    plain.close()


@pytest.mark.parametrize("name", OTHERS)
def test_other_environments_have_one_look(make, name):
    env = make(f"gymnasium_{name}")
    inner = env.unwrapped.inner
    frames = [
        env.reset(seed=1, options={"variation": variation})[0]["image"]
        for variation in ("train", "test", "original")
    ]
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])
    assert frames[0].std() > 3
    assert env.unwrapped.inner is inner  # nothing was built anew


def test_an_episode_is_taken_up_where_it_was_left(make, pusher):
    actions = actions_for(pusher, 6)
    pusher.reset(seed=20, options={"variation": "test"})
    with unseen(pusher):
        for action in actions[:4]:
            pusher.step(action)
    expected = [pusher.step(action) for action in actions[4:]]
    entry = {"seed": 20, "variation": "test", "actions": actions[:5]}
    resumed = make(PUSHER, time_limit=100)
    first = resumed.reset(options={"replay": {0: entry}})[0]
    np.testing.assert_array_equal(first["image"], expected[0][0]["image"])
    after = resumed.step(actions[5])
    np.testing.assert_array_equal(after[0]["image"], expected[1][0]["image"])
    assert after[1:4] == expected[1][1:4]


def test_processes_give_the_same_numbers(equal_outcomes):
    outcomes = []
    for workers in ("none", "process"):
        with envs.make_vector(PUSHER, 1, workers=workers, time_limit=6) as vector:
            first = vector.reset(seeds=[1])
            results = [
                vector.step(np.random.default_rng(t).uniform(-1, 1, (1, 7))) for t in range(3)
            ]
            second = vector.reset(seeds=[3], variation="test")
        outcomes.append((first, results, second))
    first, results, second = equal_outcomes(*outcomes)
    assert results[-1].truncated.all()
    assert np.isnan(results[0].success).all()
    assert (first != second).any()
