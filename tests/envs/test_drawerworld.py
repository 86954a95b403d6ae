"""DrawerWorld and Meta-World's other tasks, against the package itself and the paper's formula."""

import itertools
import pickle

import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.drawerworld import NAMES

OPEN, CLOSE = "metaworld_drawer-open-v1", "metaworld_drawer-close-v1"
LEFT, RIGHT = 3, 8  # seeds of two goals
# The scripted policies ask for more than an action may be.
pytestmark = pytest.mark.filterwarnings("ignore:Constant")


def unseen(env):
    """A context in which nothing is drawn."""
    return env.get_wrapper_attr("unseen")()


def world(env):
    """The suite's environment within ours, which has the package's as ``sawyer``."""
    return env.unwrapped.inner.unwrapped


def reset(env, seed, **options):
    """Starts an episode without drawing; returns the place of the drawer's chest [3]."""
    with unseen(env):
        env.reset(seed=seed, options=options)
    return world(env).sawyer.model.body("drawer").pos.copy()


def step(env, action):
    """A step without drawing."""
    with unseen(env):
        return env.step(action)


def policy_of(task):
    """The package's scripted policy."""
    from metaworld import policies

    name = "SawyerDrawerOpenV3Policy" if task == OPEN else "SawyerDrawerCloseV3Policy"
    policy = getattr(policies, name)()
    return lambda state: np.clip(policy.get_action(state), -1, 1).astype(np.float32)


def actions_for(k, seed=0):
    """k random actions [k, 4]."""
    return np.random.default_rng(seed).uniform(-1, 1, (k, 4)).astype(np.float32)


def packaged(name, place, **arguments):
    """The package's environment as its own benchmarks set it up, at the start of an episode.

    Args:
        name: Its name, without a version.
        place: Where the chest of the drawer stands [3].
        **arguments: Its arguments.
    """
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    cls = ALL_V3_ENVIRONMENTS[f"{name}-v3"]
    env = cls(**arguments)
    data = {"env_cls": cls, "rand_vec": place, "partially_observable": False}
    env.set_task(Task(env_name=f"{name}-v3", data=pickle.dumps(data)))
    env.reset()
    # As ours; the solver's warm start then agrees to the last bit.
    mujoco.mj_forward(env.model, env.data)
    return env


def name_of(task):
    """'drawer-open' of the task's full name."""
    return task.removeprefix("metaworld_").rpartition("-")[0]


@pytest.fixture(scope="module")
def drawers():
    """One environment per task, 100 agent steps of 2 control steps; tests reset them."""
    made = {task: envs.make_env(task, time_limit=200) for task in (OPEN, CLOSE)}
    yield made
    for env in made.values():
        env.close()


@pytest.fixture(scope="module")
def places(drawers):
    """The drawers' places of 50 goals, each with the seed it was first seen with."""
    found = {}
    for index in range(700):
        seed = envs.episode_seed(0, "train", index)
        found.setdefault(tuple(reset(drawers[OPEN], seed)), seed)
        if len(found) == 50:
            break
    return found


@pytest.mark.parametrize("task", [OPEN, CLOSE])
def test_contract(drawers, task):
    env = drawers[task]
    assert env.observation_space == spaces.Dict(
        {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
    )
    assert env.action_space == spaces.Box(-1, 1, (4,), np.float32)
    observation, info = env.reset(seed=7)
    assert observation in env.observation_space
    assert observation["image"].std() > 3  # something is drawn
    assert (info["discount"], info["control_steps"], info["success"]) == (1.0, 0, 0.0)
    assert np.isnan(info["distance"])
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert isinstance(reward, float)
    assert (terminated, truncated) == (False, False)
    assert (info["discount"], info["control_steps"], info["success"]) == (1.0, 2, 0.0)
    assert 0.1 < info["distance"] < 0.3


def test_fifty_goals_in_a_line(places, drawers):
    assert len(places) == 50
    x, y, z = np.array(list(places)).T
    assert (np.abs(x) <= 0.1).all()
    assert x.min() < -0.08
    assert x.max() > 0.08
    assert (y == 0.9).all()
    assert (z == 0).all()
    # Evaluation, and the other task, see the same and no others.
    for task, split in ((OPEN, "eval"), (CLOSE, "train")):
        seeds = [envs.episode_seed(0, split, index) for index in range(60)]
        seen = {tuple(reset(drawers[task], seed)) for seed in seeds}
        assert len(seen) > 25
        assert seen <= set(places)


def test_a_number_is_a_goal(drawers):
    of_number = {}
    for seed in range(60):
        env = drawers[OPEN if seed % 2 else CLOSE]
        place = tuple(reset(env, seed))
        assert of_number.setdefault(world(env).goal, place) == place
    assert len(set(of_number.values())) == len(of_number) > 25


@pytest.mark.parametrize("task", [OPEN, CLOSE])
def test_scripted_policies_reach_the_goals(drawers, places, task):
    env, policy = drawers[task], policy_of(task)
    succeeded = 0
    for seed in list(places.values())[::5]:
        reset(env, seed)
        successes, truncated, steps = [], False, 0
        while not truncated:
            _, _, terminated, truncated, info = step(env, policy(world(env).state))
            assert not terminated
            successes.append(info["success"])
            steps += 1
        assert steps == 100
        assert set(successes) <= {0.0, 1.0}
        succeeded += max(successes)
        assert successes[0] == 0
    assert succeeded >= 9  # of 10


@pytest.mark.parametrize(("task", "repeat"), [(OPEN, 2), (CLOSE, 3)])
def test_an_episode_is_the_packages(make, task, repeat):
    env, policy = make(task, action_repeat=repeat, time_limit=200), policy_of(task)
    plain = packaged(name_of(task), reset(env, 6), reward_function_version="v1")
    ours = world(env).sawyer
    lasted = [repeat] * (200 // repeat) + ([200 % repeat] if 200 % repeat else [])
    rewards, successes = [], []
    for t, count in enumerate(lasted):
        # A policy that succeeds, with some noise.
        action = np.clip(policy(world(env).state) + 0.1 * actions_for(1, t)[0], -1, 1)
        _, reward, terminated, truncated, info = step(env, action)
        outcomes = [plain.step(action) for _ in range(count)]
        # Not sum(), which mends what is lost in rounding from Python 3.12 on.
        *_, total = itertools.accumulate(float(outcome[1]) for outcome in outcomes)
        assert reward == total
        told = [outcome[4] for outcome in outcomes]
        assert info["success"] == max(float(one["success"]) for one in told)
        assert info["distance"] == told[-1]["obj_to_target"]
        assert (info["control_steps"], terminated) == (count, False)
        assert truncated == (t == len(lasted) - 1)
        np.testing.assert_array_equal(ours.data.qpos, plain.data.qpos)
        np.testing.assert_array_equal(ours.data.qvel, plain.data.qvel)
        rewards.append(reward)
        successes.append(info["success"])
    # Both branches of the reward were there, and failure and success.
    assert min(rewards) < 0
    assert max(rewards) > 30 * repeat
    assert set(successes) == {0.0, 1.0}


@pytest.mark.parametrize(("task", "margin"), [(OPEN, 0.2), (CLOSE, 0.15)])
def test_reward_is_the_papers_formula(make, task, margin):
    """M is 0.2 for open as in the paper, and the package's 0.15, not the first d, for close."""
    env, policy = make(task, action_repeat=1, time_limit=200), policy_of(task)
    chest = reset(env, 6)
    data = world(env).sawyer.data
    # The handle's place in the drawer; opening's goal is 0.2 in front of the closed drawer.
    handle_in_drawer = np.array([0, -0.16, 0.05 if task == CLOSE else 0.0])
    goal_y = chest[1] - 0.16 - (0.2 if task == OPEN else 0.0)
    held = 0
    for _ in range(150):
        action = policy(world(env).state)
        _, reward, _, _, info = step(env, action)
        handle = data.body("drawer_link").xpos + handle_in_drawer
        fingers = [data.site(name).xpos for name in ("rightEndEffector", "leftEndEffector")]
        reach = np.sqrt(np.sum((handle - (fingers[0] + fingers[1]) / 2) ** 2))
        d = abs(handle[1] - goal_y)
        expected = -reach
        if reach < 0.05:
            near = np.exp(-d * d / 0.01) + np.exp(-d * d / 0.001)
            expected += max(0, 1000 * (margin - d) + 1000 * near)
            held += 1
        assert reward == pytest.approx(expected, rel=0, abs=1e-9)
        assert info["distance"] == pytest.approx(d, rel=0, abs=1e-12)
        assert info["success"] == (d <= (0.03 if task == OPEN else 0.065))
    assert 5 <= held < 150


def test_any_control_step_counts_as_success(make):
    """A drawer that is pushed through its goal within one agent step."""
    told = []
    for repeat in (1, 4):
        env = make(OPEN, action_repeat=repeat)
        reset(env, 0)
        sawyer = world(env).sawyer
        qpos, qvel = sawyer.data.qpos.copy(), sawyer.data.qvel.copy()
        qpos[9], qvel[9] = -0.24, 3.0
        sawyer.set_state(qpos, qvel)
        told.append([step(env, np.zeros(4, np.float32))[4] for _ in range(4 // repeat)])
    each, (whole,) = told
    assert [info["success"] for info in each] == [1, 1, 0, 0]
    assert whole["success"] == 1.0
    assert whole["distance"] == each[-1]["distance"] > 0.03


def test_versions_name_the_reward(make):
    rewards, plain = {}, None
    for version in ("v1", "v2", "v3"):
        env = make(f"metaworld_drawer-open-{version}", action_repeat=1)
        place = reset(env, 2)
        plain = plain or packaged("drawer-open", place)
        rewards[version] = [step(env, action)[1] for action in actions_for(20)]
    assert rewards["v2"] == rewards["v3"] == [float(plain.step(a)[1]) for a in actions_for(20)]
    assert not np.isclose(rewards["v1"], rewards["v2"]).any()


@pytest.mark.parametrize("task", ["metaworld_reach-v2", "metaworld_push-v3"])
def test_other_tasks(make, task):
    env = make(task, size=(48, 80))
    image = env.reset(seed=0)[0]["image"]
    assert (image.shape, image.dtype) == ((48, 80, 3), np.uint8)
    for action in actions_for(3):
        observation, reward, *_, info = env.step(action)
        assert np.isfinite([reward, info["success"], info["distance"]]).all()
    assert (observation["image"] != image).any()


def test_names_are_the_packages():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{name}-v3" for name in NAMES} == set(ALL_V3_ENVIRONMENTS)
    assert len(NAMES) == len(ALL_V3_ENVIRONMENTS) == 50
    known = {name for name in envs.known_tasks() if name.startswith("metaworld_")}
    assert known == {f"metaworld_{n[:-1]}{v}" for n in ALL_V3_ENVIRONMENTS for v in (1, 2, 3)}


def test_episodes_may_be_longer_than_the_packages(make):
    env = make(OPEN, action_repeat=10, time_limit=600)
    reset(env, 0)
    ends = [step(env, np.zeros(4, np.float32))[3] for _ in range(60)]
    assert ends == [False] * 59 + [True]


def test_a_seed_determines_the_episode_whatever_came_before(make, drawers):
    used, fresh = drawers[CLOSE], make(CLOSE, time_limit=200)
    used.reset(seed=LEFT)
    for action in actions_for(5, seed=9):
        step(used, action)
    reset(used, None)
    episodes = []
    for env in (used, fresh):
        frames = [env.reset(seed=RIGHT, options={"variation": "train"})[0]["image"]]
        outcomes = [step(env, action)[1] for action in actions_for(10)]
        frames.append(env.step(np.ones(4, np.float32))[0]["image"])
        episodes.append((np.stack(frames), outcomes, world(env).sawyer.data.qpos.copy()))
    for one, other in zip(*episodes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_original_is_the_packages_table(drawers):
    env = drawers[CLOSE]
    frame = env.reset(seed=LEFT, options={"variation": "original"})[0]["image"]
    place = world(env).sawyer.model.body("drawer").pos
    plain = packaged("drawer-close", place, render_mode="rgb_array", width=64, height=64)
    plain.model.vis.quality.shadowsize = world(env).sawyer.model.vis.quality.shadowsize
    plain.mujoco_renderer.default_cam_config = {
        "azimuth": 180,
        "elevation": -90,
        "distance": 0.96,
        "lookat": np.array([0, 0.6, 0]),
    }
    np.testing.assert_array_equal(frame, plain.render())
    plain.close()


@pytest.mark.parametrize(
    ("task", "variation"),
    [(OPEN, "train"), (CLOSE, "original"), ("metaworld_basketball-v2", "test")],
)
def test_leaving_out_what_is_not_seen_changes_nothing(make, monkeypatch, task, variation):
    env = make(task, variation=variation, time_limit=200)
    monkeypatch.setattr("envs.drawerworld.leave_out_unseen", lambda model: None)
    whole = make(task, variation=variation, time_limit=200)
    np.testing.assert_array_equal(*(e.reset(seed=LEFT)[0]["image"] for e in (env, whole)))
    for t, action in enumerate(np.repeat(actions_for(3, seed=1), 4, axis=0)):
        if t % 4 == 3:
            frames = [e.step(action)[0] for e in (env, whole)]
            np.testing.assert_array_equal(*(frame["image"] for frame in frames))
        else:
            frames = [step(e, action) for e in (env, whole)]
    fewer, all_ = (world(e).sawyer.mujoco_renderer.viewer.scn.ngeom for e in (env, whole))
    assert fewer <= all_ - 6
    for name in ("qpos", "qvel", "qacc_warmstart"):
        one, other = (getattr(world(e).sawyer.data, name) for e in (env, whole))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("settings", [{"camera_id": 1}, {"size": (48, 80)}])
def test_all_is_drawn_where_more_is_seen(make, monkeypatch, settings):
    frame = make(CLOSE, **settings).reset(seed=LEFT)[0]["image"]
    monkeypatch.setattr("envs.drawerworld.leave_out_unseen", lambda model: None)
    np.testing.assert_array_equal(frame, make(CLOSE, **settings).reset(seed=LEFT)[0]["image"])


def test_an_episode_is_taken_up_where_it_was_left(make, drawers):
    actions, env = actions_for(6), drawers[OPEN]
    env.reset(seed=20, options={"variation": "switch"})
    for action in actions[:4]:
        step(env, action)
    expected = [env.step(action) for action in actions[4:]]
    entry = {"seed": 20, "variation": "switch", "actions": actions[:5]}
    resumed = make(OPEN, time_limit=200)
    first = resumed.reset(options={"replay": {0: entry}})[0]
    np.testing.assert_array_equal(first["image"], expected[0][0]["image"])
    after = resumed.step(actions[5])
    np.testing.assert_array_equal(after[0]["image"], expected[1][0]["image"])
    assert after[1:] == expected[1][1:]


def test_processes_give_the_same_numbers(equal_outcomes):
    outcomes = []
    for workers in ("none", "process"):
        with envs.make_vector(OPEN, 1, workers=workers, time_limit=4) as vector:
            first = vector.reset(seeds=[LEFT])
            results = [vector.step(actions_for(1, seed=t)) for t in range(2)]
            second = vector.reset(seeds=[3], variation="test")
        outcomes.append((first, results, second))
    first, results, second = equal_outcomes(*outcomes)
    assert results[-1].truncated.all()
    assert (results[0].success == 0).all()
    assert np.isfinite(results[0].distance).all()
    assert (second != first).any()


def test_unknown_variations_and_cameras_are_refused(drawers):
    with pytest.raises(ValueError, match="no variation 'stone': use one of train, switch, test"):
        drawers[OPEN].reset(options={"variation": "stone"})
    with pytest.raises(ValueError, match="camera_id must be between -1 and 6, not"):
        envs.make_env(OPEN, camera_id=99)


@pytest.mark.parametrize("task", [OPEN, CLOSE])
def test_the_state_is_that_of_the_scene_and_holds_the_goal(drawers, task):
    env = drawers[task]
    for seed in (LEFT, RIGHT):
        reset(env, seed)
        inner = world(env)
        for moved in (False, True):
            if moved:
                step(env, actions_for(1)[0])
            np.testing.assert_array_equal(inner.state[:3], inner.sawyer.data.body("hand").xpos)
            handle = np.add(inner.sawyer.data.body("drawer_link").xpos, [0.0, -0.16, 0.0])
            np.testing.assert_allclose(inner.state[4:6], handle[:2], atol=1e-12)
            np.testing.assert_array_equal(inner.state[-3:], inner.sawyer._target_pos)
        assert inner.observation_space.contains(inner.state)
        reset(env, seed)
        np.testing.assert_array_equal(inner.state[18:36], inner.state[:18])


def test_a_distance_that_the_package_does_not_measure_is_not_told(make):
    env = make("metaworld_door-open-v2", time_limit=20)
    with unseen(env):
        env.reset(seed=0)
    assert np.isnan(step(env, actions_for(1)[0])[4]["distance"])
