"""Games and grids: Atari, MiniGrid, Crafter, and Gymnasium's own with choices for actions."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import envs
from envs.palette import PaletteShift
from envs.wrappers import OneHot
from tests.envs.test_checks import Given
from tests.helpers.told import Told
from tools import UserError

GRID, PONG, CRAFTER = "minigrid_MiniGrid-Empty-5x5-v0", "atari_pong", "crafter_reward"
CARTPOLE = "gymnasium_CartPole-v1"
ACTIONS = {GRID: 7, PONG: 6, CRAFTER: 17, CARTPOLE: 2}
SHORT = {"action_repeat": 2, "time_limit": 40}
SHIFTED = (GRID, PONG)  # whose palettes shift


@pytest.fixture(autouse=True)
def small_worlds(monkeypatch):
    """Crafter's worlds, whose making takes a second each at their own size."""
    monkeypatch.setattr("envs.crafter.AREA", (24, 24))


def actions_for(task, k, seed=0):
    """k random choices, one-hot [k, A]."""
    drawn = np.random.default_rng(seed).integers(ACTIONS[task], size=k)
    return np.eye(ACTIONS[task], dtype=np.float32)[drawn]


def played(env, task, k, seed=3, **options):
    """What an episode of k steps shows and earns, until it ends."""
    told = [env.reset(seed=seed, options=options)[0]["image"]]
    for action in actions_for(task, k):
        observation, *rest, _ = env.step(action)
        told += [observation["image"], rest]
        if rest[1] or rest[2]:
            break
    return told


def assert_same(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ACTIONS)
def test_contract(make, task):
    env = make(task, **SHORT)
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.observation_space == spaces.Dict({"image": image})
    assert isinstance(env.action_space, OneHot)
    assert env.action_space.shape == (ACTIONS[task],)
    check_env(Told(env), skip_render_check=True)
    observation, info = env.reset(seed=1)
    assert observation["image"].std() > 3  # something is drawn
    assert (info["discount"], info["control_steps"]) == (1.0, 0)
    result = env.step(actions_for(task, 1)[0])
    assert result[4]["control_steps"] == SHORT["action_repeat"]


@pytest.mark.parametrize("task", ACTIONS)
def test_a_seed_determines_an_episode_whatever_came_before(make, task):
    env, other = make(task, **SHORT), make(task, **SHORT)
    first = played(env, task, 8)
    played(env, task, 5, seed=4)
    assert_same(played(env, task, 8), first)
    assert_same(played(other, task, 8), first)
    different = played(other, task, 8, seed=5)
    assert len(different) != len(first) or any(
        (np.asarray(one) != np.asarray(two)).any()
        for one, two in zip(first, different, strict=True)
    )


@pytest.mark.parametrize("task", ACTIONS)
def test_an_episode_is_taken_up_where_it_was_left(make, task):
    env, resumed = make(task, **SHORT), make(task, **SHORT)
    actions = actions_for(task, 6, seed=1)
    env.reset(seed=20, options={"variation": "test"})
    steps = [env.step(action) for action in actions]
    entry = {"seed": 20, "variation": "test", "actions": actions[:4]}
    observation, _ = resumed.reset(options={"replay": {0: entry}})
    np.testing.assert_array_equal(observation["image"], steps[3][0]["image"])
    for action, expected in zip(actions[4:], steps[4:], strict=True):
        found = resumed.step(action)
        np.testing.assert_array_equal(found[0]["image"], expected[0]["image"])
        assert found[1:4] == expected[1:4]


@pytest.mark.slow
def test_a_killed_worker_shows_nothing_in_a_world_made_of_sets_of_objects(monkeypatch):
    """As without workers: Crafter's objects are hashed by where they lie in memory."""
    monkeypatch.undo()  # a worker's worlds are of their own size
    shown = []
    for workers in ("none", "process"):
        with envs.make_vector(CRAFTER, 1, workers=workers, timeout=300, **SHORT) as vector:
            vector.restarts = 1
            images = [vector.reset(seeds=[7])]
            for t, action in enumerate(actions_for(CRAFTER, 16)):
                if workers == "process" and t == 12:
                    vector._envs._workers[0].process.kill()
                    vector._envs._workers[0].process.join()
                result = vector.step(action[None])
                assert not result.broken.any()
                images += [result.image, result.reward]
            assert vector.restarted == (workers == "process")
        shown.append(images)
    assert_same(*shown)


@pytest.mark.parametrize("task", SHIFTED)
def test_palettes_shift_with_the_seed_and_apart_in_the_two_sets(make, task):
    env = make(task, **SHORT)
    shown = {}
    for variation in ("train", "test", "original"):
        told = [env.reset(seed=s, options={"variation": variation}) for s in (1, 2, 1)]
        images = [observation["image"] for observation, _ in told]
        np.testing.assert_array_equal(images[0], images[2])
        factors = [info.get("factors") for _, info in told]
        assert (factors[0] is None) == (variation == "original")
        if factors[0] is not None:
            assert factors[0] == factors[2] != factors[1]
            turn = {"train": 1 / 3, "test": 2 / 3}[variation]
            assert all(abs(drawn["hue_turn"] - turn) <= 0.1 for drawn in factors)
        shown[variation] = images[0]
    for one, other in (("train", "test"), ("train", "original"), ("test", "original")):
        assert np.abs(shown[one].astype(int) - shown[other]).mean() > 3


@pytest.mark.parametrize("task", SHIFTED)
def test_pictures_move_behind_what_is_no_ground(make, task):
    own = {"max_delta": 0.0, "disjoint_sets": None, "test_disjoint_sets": None}
    behind = {"background_dataset_path": "procedural", "dynamic": True, "test_dynamic": True}
    env = make(task, **SHORT, **own, **behind)
    shown = {}
    for name in ("original", "train", "test"):
        told = played(env, task, 6, variation=name)
        shown[name] = [told[0], *told[1::2]], told[2::2]
    [plain, rewards], [train, same], [test, _] = shown.values()
    assert same == rewards
    colours, counts = np.unique(plain[0].reshape(-1, 3), axis=0, return_counts=True)
    if task == PONG:
        things = (plain[0] != colours[counts.argmax()]).any(-1)
    else:  # the agent and the goal
        things = np.ptp(plain[0].astype(int), axis=-1) > 60
    assert 10 < things.sum() < things.size / 2
    for other in (train, test):
        changed = (other[0] != plain[0]).any(-1)
        assert not changed[things].any()
        assert changed.mean() > 0.1  # in so small a room few of the cells in view are floor
    replaced = (train[0] != plain[0]).any(-1)
    assert (train[0] != train[2]).any(-1)[replaced].mean() > 0.2
    again = played(env, task, 6, variation="test")
    np.testing.assert_array_equal(again[0], test[0])
    factors = env.reset(seed=3, options={"variation": "train"})[1]["factors"]
    assert factors["background"] < 3


def test_pictures_behind_a_game_are_refused_where_nobody_would_see_them(capsys):
    with pytest.raises(UserError, match="with --color_distractor True alone") as caught:
        envs.check(Given(PONG, background_dataset_path="procedural"))
    assert "\n" not in str(caught.value)
    envs.check(Given(PONG, background_dataset_path="procedural", color_distractor=True))
    assert "changes nothing" not in capsys.readouterr().err
    with pytest.raises(UserError, match="crafter_reward has no distractors: leave it out"):
        envs.check(Given(CRAFTER, background_dataset_path="procedural"))


def test_what_was_told_apart_by_colour_still_is(make):
    env = make(PONG, **SHORT)
    before = env.reset(seed=1, options={"variation": "original"})[0]["image"].reshape(-1, 3)
    after = env.reset(seed=1, options={"variation": "train"})[0]["image"].reshape(-1, 3)
    colours, counts = np.unique(before, axis=0, return_counts=True)
    common = colours[np.argsort(counts)[-3:]]
    shifted = [after[(before == colour).all(1)] for colour in common]
    assert all((each == each[0]).all() for each in shifted)  # the same colour stays one colour
    means = np.array([each[0].astype(int) for each in shifted])
    for i in range(3):
        for j in range(i):
            own = np.abs(common[i].astype(int) - common[j]).max()
            assert np.abs(means[i] - means[j]).max() > 0.2 * own


def test_a_palette_without_reach_and_set_is_grey_tinted_alone():
    env = PaletteShift(envs.gym.Env(), (0.0, None))
    env.env.reset = lambda **_: (None, {})
    env.env.render = lambda: np.array([[[255, 0, 0], [100, 100, 100]]], np.uint8)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), [[[223, 32, 32], [107, 107, 107]]])


# Atari


def inner(env):
    """The game within the environment."""
    return env.unwrapped.inner.unwrapped


def test_atari_shows_the_brighter_of_the_last_two_frames(make):
    env = make(PONG, sticky_actions=False, noops=0, size=(210, 160), action_repeat=4)
    env.reset(seed=0, options={"variation": "original"})
    game, screens = inner(env)._ale, []
    act = game.act

    class Watched:
        def __getattr__(self, name):
            return getattr(game, name)

        def act(self, action):
            reward = act(action)
            screens.append(game.getScreenRGB().astype(int))
            return reward

    inner(env)._ale = Watched()
    for _ in range(20):
        image = env.step(actions_for(PONG, 1)[0])[0]["image"]
    assert len(screens) == 80
    np.testing.assert_array_equal(image, np.maximum(*screens[-2:]))


def test_atari_repeats_the_last_action_as_often_as_the_literature(make):
    chosen = {}
    for sticky in (True, False):
        env = make(PONG, sticky_actions=sticky, noops=0, action_repeat=1)
        env.reset(seed=0)
        game, acted = inner(env), []
        with env.get_wrapper_attr("unseen")():
            for t in range(400):
                env.step(np.eye(6, dtype=np.float32)[2 + t % 2])
                acted.append(game._pressed == game.actions[2 + t % 2])
        chosen[sticky] = np.mean(acted)
    assert chosen[False] == 1.0
    assert 0.70 < chosen[True] < 0.90  # one that sticks is the other one, for a frame or more


def test_atari_begins_with_frames_without_action_and_may_end_with_a_life(make):
    env = make("atari_breakout", noops=30, action_repeat=4)
    begins = {inner(env).reset(seed=s)[0].tobytes() for s in range(6)}
    assert len(begins) > 1
    ends = {}
    for loss in (False, True):
        env = make("atari_breakout", life_loss=loss, action_repeat=4, time_limit=3000)
        env.reset(seed=0)
        with env.get_wrapper_attr("unseen")():
            ended, t = (None, 0.0, False, False), 0
            while not (ended[2] or ended[3]):  # fire, and never move
                ended, t = env.step(np.eye(4, dtype=np.float32)[1]), t + 1
        ends[loss] = (t, ended[2], inner(env)._ale.lives())
    assert ends[True][1:] == (True, 4)
    assert ends[False][1:] == (True, 0)
    assert ends[True][0] < ends[False][0]


def test_atari_has_all_actions_if_asked_and_a_time_limit_in_frames(make):
    env = make(PONG, all_actions=True, action_repeat=4, time_limit=10)
    assert env.action_space.shape == (18,)
    env.reset(seed=0)
    steps = [env.step(np.eye(18, dtype=np.float32)[0]) for _ in range(3)]
    assert [step[4]["control_steps"] for step in steps] == [4, 4, 2]
    assert [step[2:4] for step in steps] == [(False, False)] * 2 + [(False, True)]


def test_grey_pictures_have_one_channel(make):
    assert make(PONG, grayscale=True).reset(seed=0)[0]["image"].shape == (64, 64, 1)


# MiniGrid and Crafter


def test_minigrid_tells_success_and_is_seen_by_the_agent_or_from_above(make):
    # Down the wall to the corner: ahead, ahead, turn right, ahead, ahead.
    way = np.eye(7, dtype=np.float32)[[2, 2, 1, 2, 2]]
    shown = []
    for full in (False, True):
        env = make(GRID, full_view=full, action_repeat=1)
        shown.append(env.reset(seed=0, options={"variation": "original"})[0]["image"])
        steps = [env.step(action) for action in way]
        assert [step[4]["success"] for step in steps] == [0, 0, 0, 0, 1]
        assert steps[-1][2]
        assert steps[-1][1] == pytest.approx(1 - 0.9 * 5 / 100)
    assert (shown[0] != shown[1]).any()
    green = (shown[1][..., 1] > 200) & (shown[1][..., 0] < 120)  # lighter, as it is looked at
    rows, columns = np.nonzero(green)
    assert rows.min() > 32  # the goal, in the corner below
    assert columns.min() > 32


def test_minigrid_ends_by_its_own_limit(make):
    env = make(GRID, action_repeat=1, time_limit=1000)
    env.reset(seed=0)
    with env.get_wrapper_attr("unseen")():
        ended = [env.step(np.eye(7, dtype=np.float32)[0])[2:4] for _ in range(100)]
    assert ended[-2:] == [(False, False), (False, True)]


def test_crafter_hides_the_old_gym_and_dies(make, capsys):
    env = make(CRAFTER, action_repeat=1)
    env.reset(seed=0)
    world = env.unwrapped.inner.unwrapped._world
    world._player.health = 0
    _, reward, terminated, truncated, info = env.step(actions_for(CRAFTER, 1)[0])
    assert (terminated, truncated, info["discount"]) == (True, False, 0.0)
    assert reward == pytest.approx(-0.9)
    assert "Gym" not in capsys.readouterr().err
