"""Corrupted sight: each corruption does what it says, by its seed, and nothing else."""

import gymnasium as gym
import numpy as np
import pytest

import envs
from envs.corruptions import CORRUPTIONS, corrupt

NAMES = sorted(CORRUPTIONS)
SIDE = 32


class Picture(gym.Env):
    """Shows the same picture all the time."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.picture = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        self.picture[8:24, 8:24] = (250, 10, 90)
        self.kept = self.picture.copy()

    def reset(self, *, seed=None, options=None):
        return self.picture, {"factors": {"own": 1.0}}

    def step(self, action):
        return self.picture, 1.0, False, False, {}

    def render(self):
        return self.picture


def shown(name, strength=0.5, seed=0, episode=4, steps=5):
    """The pictures and factors of an episode."""
    env = corrupt(Picture(), name, strength, seed)
    image, info = env.reset(seed=episode)
    told = [(image, info["factors"])]
    for _ in range(steps):
        image, _, _, _, info = env.step(0)
        told.append((image, info["factors"]))
    assert (env.unwrapped.picture == env.unwrapped.kept).all()  # it draws on copies
    return [image for image, _ in told], [factors for _, factors in told]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_and_the_episodes_determine_what_is_seen(name):
    one, factors = shown(name)
    again, same = shown(name)
    np.testing.assert_array_equal(one, again)
    assert factors == same
    assert factors[0]["own"] == 1.0  # what was told before still is
    assert factors[-1][f"{name}_strength"] == 0.5
    if name != "blur":  # which draws nothing
        assert any((a != b).any() for a, b in zip(one, shown(name, seed=1)[0], strict=True))
        assert any((a != b).any() for a, b in zip(one, shown(name, episode=5)[0], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_strength_0_is_clear_sight_and_more_is_worse(name):
    clear = Picture().picture.astype(int)
    harm = []
    for strength in (0.0, 0.25, 1.0):
        images, _ = shown(name, strength)
        assert all(image.dtype == np.uint8 and image.shape == clear.shape for image in images)
        harm.append(np.mean([np.abs(image - clear).mean() for image in images]))
    assert harm[0] == 0 < harm[1] < harm[2]


def test_a_blur_is_scipys():
    from scipy.ndimage import gaussian_filter

    (image, *_), _ = shown("blur", 0.5)
    sigma = 0.5 * SIDE / 8
    expected = gaussian_filter(
        Picture().picture.astype(float), (sigma, sigma, 0), mode="nearest", truncate=3.0
    )
    assert np.abs(image - expected).max() <= 1


def test_noise_has_its_deviation_anew_in_each_step():
    env = corrupt(Picture(), "noise", 0.1)
    env.unwrapped.picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
    first, second = env.reset(seed=0)[0].astype(int), env.step(0)[0].astype(int)
    assert 0.95 < (first - 128).std() / 12.8 < 1.05
    assert (first != second).mean() > 0.9


def square(factors, name, side):
    """The slices that a square of that side covers, by what was told."""
    places = factors[f"{name}_row"], factors[f"{name}_column"]
    begins = [round(place * (SIDE - side)) for place in places]
    return tuple(slice(begin, begin + side) for begin in begins)


def test_an_occlusion_stays_and_a_patch_moves_where_they_say():
    images, factors = shown("occlusion", 0.5)
    assert all((image == images[0]).all() for image in images)
    assert (images[0][square(factors[0], "occlusion", 12)] == 128).all()
    images, factors = shown("moving_patch", 1.0, steps=60)
    assert len({tuple(told.values()) for told in factors}) > 30
    for image, told in zip(images, factors, strict=True):
        patch = image[square(told, "moving_patch", 12)]
        assert patch.shape == (12, 12, 3)  # all of it within the picture
        assert (patch == patch[0, 0]).all()


def test_jitter_shifts_by_what_it_says():
    images, factors = shown("jitter", 1.0, steps=20)
    clear = Picture().picture
    for image, told in zip(images, factors, strict=True):
        down, right = (round(told[f"jitter_{way}"] * SIDE) for way in ("down", "right"))
        assert max(abs(down), abs(right)) <= SIDE // 4
        rows = slice(max(0, down), SIDE + min(0, down))
        columns = slice(max(0, right), SIDE + min(0, right))
        back = [slice(max(0, -shift), SIDE - max(0, shift)) for shift in (down, right)]
        np.testing.assert_array_equal(image[rows, columns], clear[tuple(back)])
    assert len({tuple(told.values()) for told in factors}) > 10


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_is_corrupted_alike_however_often_it_is_drawn(name):
    env = corrupt(Picture(), name, 0.5)
    image, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), image)
    np.testing.assert_array_equal(env.render(), image)
    np.testing.assert_array_equal(env.step(0)[0], env.render())


def test_unknown_ones_and_strengths_are_refused():
    with pytest.raises(ValueError, match="no corruption 'fog': use one of blur, noise"):
        corrupt(Picture(), "fog", 0.5)
    with pytest.raises(ValueError, match=r"strength of blur must be in 0\.\.1, not 2"):
        corrupt(Picture(), "blur", 2)


def test_any_suite_is_seen_so_and_taken_up_so():
    task, settings = "minigrid_MiniGrid-Empty-5x5-v0", {"action_repeat": 1}
    actions = np.eye(7, dtype=np.float32)[[2, 1, 2, 0]]
    with envs.make_vector(task, 1, corruption=("noise", 0.5, 3), **settings) as vector:
        vector.reset(seeds=[5])
        seen = [vector.step(action[None]).image for action in actions]
        vector.reset(seeds=[6])
        entry = {"seed": 5, "variation": "original", "actions": actions[:3]}
        np.testing.assert_array_equal(vector.restore([entry]), seen[2])
        np.testing.assert_array_equal(vector.step(actions[3:]).image, seen[3])
    with envs.make_vector(task, 1, **settings) as vector:
        vector.reset(seeds=[5])
        clear = vector.step(actions[:1]).image
    assert (clear != seen[0]).mean() > 0.5
