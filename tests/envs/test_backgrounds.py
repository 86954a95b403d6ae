"""Pictures behind and under the robot: keys, rules of play, and the textures of scenes."""

import colorsys

import gymnasium as gym
import numpy as np
import pytest

from distracting_control.sources import Player
from envs.backgrounds import Backdrop, is_blue, is_green
from tests.distracting_control.test_sources import Numbered

SMALL = {"size": (32, 32), "shadow_size": 64, "time_limit": 40}
MOVES = {"background_dataset_path": "procedural", "dynamic": True, "test_dynamic": True}


def by_definition(pixel):
    """Whether the benchmark's key takes a pixel, by the library's hue; None on its edge."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
    within = (360 * hue - 100, 185 - 360 * hue, 255 * saturation - 80, 255 * value - 70)
    if min(map(abs, within)) < 1e-9:
        return None
    return min(within) > 0


def test_the_benchmarks_key_is_its_definition():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (100, 100, 3)).astype(np.uint8)
    image[:40] = image[:40] // 4 + np.array([0, 120, 60], np.uint8)  # where hues are taken
    found = is_green(image)
    expected = [[by_definition(pixel) for pixel in row] for row in image.tolist()]
    pairs = [(e, bool(f)) for e, f in zip(np.ravel(expected), found.ravel(), strict=True)]
    sure = [(e, f) for e, f in pairs if e is not None]
    assert len(sure) > 9000
    assert 0.1 < np.mean([e for e, _ in sure]) < 0.9
    assert all(e == f for e, f in sure)
    assert is_green(np.full((1, 1, 3), (51, 204, 51), np.uint8)).all()
    assert not is_green(np.full((1, 1, 3), (178, 127, 76), np.uint8)).any()


def test_hrssms_key_is_blue_above_both():
    image = np.array([[[10, 20, 30], [30, 20, 30], [0, 0, 0], [10, 30, 30], [5, 5, 6]]], np.uint8)
    assert is_blue(image).tolist() == [[True, False, False, False, True]]


class Half(gym.Env):
    """Draws a picture of 2×2, whose left half is green, the other red."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {"factors": {"own": 1.0}}

    def step(self, action):
        return np.zeros(1), 0.0, False, False, {}

    def render(self):
        return np.array([[[51, 204, 51], [200, 0, 0]]] * 2, np.uint8)


def backdrop(**how):
    return Backdrop(Half(), Player(Numbered(), **how), is_green)


def numbers(env, steps):
    """What the left half shows after each step."""
    seen = []
    for _ in range(steps):
        env.step(np.zeros(1, np.float32))
        seen.append(int(env.render()[0, 0, 0]))
    return seen


def test_only_what_the_key_takes_is_replaced():
    env = backdrop(loops=True, from_start=True)
    _, info = env.reset(seed=0)
    assert info["factors"] == {"own": 1.0, "background": 0, "background_frame": 0}
    env.step(np.zeros(1, np.float32))
    image = env.render()
    assert image[:, 0].tolist() == [[1, 1, 1]] * 2
    assert image[:, 1].tolist() == [[200, 0, 0]] * 2


def test_gray_has_one_shade():
    class Colored:
        def draw(self, random):
            return "colored", [np.full((2, 2, 3), (255, 0, 0), np.uint8)], {}

    env = Backdrop(Half(), Player(Colored()), is_green, gray=True)
    env.reset(seed=0)
    assert env.render()[0, 0].tolist() == [77 * 255 >> 8] * 3


def test_a_seed_says_where_a_film_begins_and_without_one_it_goes_on():
    def begins(env, **reset):
        env.reset(**reset)
        return int(env.render()[0, 0, 0])

    env = backdrop(loops=True)
    first = {seed: begins(env, seed=seed) for seed in range(8)}
    assert {seed: begins(env, seed=seed) for seed in reversed(range(8))} == first
    assert set(first.values()) == {0, 1, 2, 3}
    never = Backdrop(Half(), Player(Numbered(), loops=True), is_green, resets=False)
    assert begins(never, seed=3) == first[3]
    for _ in range(5):  # never reset: an episode begins where the last one's film stands
        [last] = numbers(never, 1)
        assert begins(never) == last
    assert begins(never, seed=5) == first[5]  # but a seed determines all of an episode


def frames(env, variation, seed, steps=4):
    observation, info = env.reset(seed=seed, options={"variation": variation})
    seen = [observation["image"]]
    for _ in range(steps):
        observation, *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
        seen.append(observation["image"])
    return np.stack(seen).astype(int), info


def moved(seen, rows):
    """How much a part of the picture changes from frame to frame, on average."""
    return np.abs(np.diff(seen[:, rows], axis=0)).mean()


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("gymnasium_Pusher-v5", slice(0, 8)),
        ("gymnasium_HalfCheetah-v5", slice(24, 32)),
        ("metaworld_drawer-open-v1", slice(24, 32)),
    ],
)
def test_a_picture_moves_where_there_is_room(make, task, rows):
    env = make(task, **SMALL, **MOVES)
    seen, info = frames(env, "train", 3)
    assert moved(seen, rows) > 1
    assert info["factors"]["background"] < 3  # a family of training
    again, _ = frames(env, "train", 3)
    np.testing.assert_array_equal(again, seen)
    other, _ = frames(env, "train", 4)
    assert (other != seen).any()
    if task.startswith("metaworld"):
        plain, info = frames(env, "original", 3)
        assert moved(plain, rows) < moved(seen, rows) / 4
        assert "factors" not in info


def test_the_skys_picture_is_laid_behind_by_segmentation(make):
    settings = {**SMALL, **MOVES, "background_by": "segmentation", "disjoint_sets": None}
    env = make("dmc2gym_cartpole_balance", max_delta=0, step_std=0, **settings)
    seen, info = frames(env, "train", 0)
    plain, _ = frames(env, "original", 0)
    body = (plain[..., 0] > 150) & (plain[..., 2] < 120)
    assert body.sum() > 20
    inner = np.abs(seen - plain).max(axis=-1)[body]
    assert (inner == 0).mean() > 0.9  # all but edges that share a pixel
    assert moved(seen, slice(0, 6)) > 1
    assert info["factors"]["background"] < 3


@pytest.mark.parametrize(("look", "every"), [("train", 1), ("distracting_cs", 2)])
def test_films_behind_the_robot_move_as_those_in_the_sky_do(make, look, every):
    settings = {**SMALL, **MOVES, "background_by": "segmentation"}
    for repeat in (1, 2, 4):
        env = make("dmc2gym_cartpole_balance", action_repeat=repeat, **settings)
        with env.get_wrapper_attr("unseen")():
            told = [frames(env, look, seed, 1)[1]["factors"] for seed in range(3)]
            begun = [env.reset(seed=seed)[1]["factors"] for seed in range(3)]
        moved_by = [
            abs(after["background_frame"] - before["background_frame"])
            for before, after in zip(begun, told, strict=True)
        ]
        assert moved_by == [repeat // every] * 3


def test_a_film_behind_the_robot_is_taken_up_where_it_was(make):
    settings = {**SMALL, **MOVES, "background_by": "segmentation", "action_repeat": 3}
    env = make("dmc2gym_cartpole_balance", **settings)
    seen, info = frames(env, "distracting_cs", 3, 5)
    actions = np.zeros((5, *env.action_space.shape), np.float32)
    entry = {"seed": 3, "variation": "distracting_cs", "actions": actions}
    observation, told = env.reset(options={"replay": {0: entry}})
    np.testing.assert_array_equal(observation["image"], seen[-1])
    assert told["factors"] == info["factors"]


def test_textures_need_a_floor_or_a_sky():
    import mujoco

    from envs.backgrounds import add_surface

    spec = mujoco.MjSpec.from_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    with pytest.raises(ValueError, match="neither a floor nor a sky"):
        add_surface(spec, 16)
