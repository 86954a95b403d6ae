"""Any environment of Gymnasium's or of a module's: what is seen of it, and what is refused."""

import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs import registered
from envs.registered import Seen
from envs.settings import EnvSettings

OWN = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Own(gym.Env):
    action_space = spaces.Box(np.array([0.0, -3.0]), np.array([4.0, 3.0]), dtype=np.float64)
    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (3, 16, 12), np.uint8),
            "arm": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "gear": spaces.Discrete(3),
            "words": spaces.Text(9),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(size=2)
        return self.see(), {}

    def step(self, action):
        self.place = self.place + action
        return self.see(), float(action.sum()), False, False, {}

    def see(self):
        camera = np.full((3, 16, 12), int(self.place[0] * 10) % 256, np.uint8)
        camera[0] = 200
        return {"camera": camera, "arm": self.place, "gear": np.int64(1), "words": "go"}


gym.register("Own-v0", Own)
"""
TASK = "gymnasium_own_envs:Own-v0"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that registers an environment, where Python finds it."""
    (tmp_path / "own_envs.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield TASK
    sys.modules.pop("own_envs", None)
    gym.registry.pop("Own-v0", None)


def test_a_modules_environment_shows_its_image_and_its_numbers(make, own):
    env = make(own, action_repeat=2, time_limit=6, size=(16, 12))
    assert env.observation_space == spaces.Dict(
        {
            "image": spaces.Box(0, 255, (16, 12, 3), np.uint8),
            "vector": spaces.Box(-np.inf, np.inf, (5,), np.float32),
        }
    )
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    observation, _ = env.reset(seed=0)
    place = np.random.default_rng(np.random.SeedSequence(0)).uniform(size=2)
    np.testing.assert_allclose(observation["vector"], [*place, 0, 1, 0], rtol=1e-6)
    assert (observation["image"] == (200, int(place[0] * 10), int(place[0] * 10))).all()
    observation, reward, *_, info = env.step(np.array([0.5, 5.0], np.float32))
    # Twice; 0.5 of 0..4 is 3, and what is beyond the bounds is their edge.
    np.testing.assert_allclose(observation["vector"][:2], [place[0] + 6, place[1] + 6], rtol=1e-6)
    assert reward == pytest.approx(12)
    assert info["control_steps"] == 2
    env.step(np.zeros(2, np.float32))
    assert env.step(np.zeros(2, np.float32))[3]  # time is up


@pytest.mark.slow
def test_numbers_come_through_workers_and_are_taken_up(own, equal_outcomes):
    outcomes, actions = [], np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 1, 2)
    for workers in ("none", "process"):
        with envs.make_vector(own, 1, workers=workers, timeout=300) as vector:
            assert vector.vector_size == 5
            first = vector.reset(seeds=[3])
            begun = vector.vectors
            results = [vector.step(action) for action in actions]
            vector.restore([{"seed": 3, "variation": None, "actions": actions[:4, 0]}])
            np.testing.assert_array_equal(vector.vectors, results[3].vector)
            assert (results[0].vector != begun).any()
        outcomes.append((first, results, begun))
    equal_outcomes(*outcomes)


def test_gymnasiums_own_are_drawn_and_keep_their_limit(make):
    env = make("gymnasium_MountainCar-v0", action_repeat=4, time_limit=1000)
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"image"}  # numbers alone are not looked at
    assert observation["image"].std() > 3
    with env.get_wrapper_attr("unseen")():
        steps = [env.step(env.action_space.sample())[3] for _ in range(50)]
    assert steps == [False] * 49 + [True]  # its own 200 steps


class Plain(gym.Env):
    """Has whatever spaces it is given."""

    def __init__(self, observations, actions=None, modes=()):
        self.observation_space = observations
        self.action_space = actions or spaces.Discrete(2)
        self.metadata = {"render_modes": list(modes)}
        self.render_mode = modes[0] if modes else None


NUMBERS = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (Plain(NUMBERS), r"it shows no image: its observations are Box\(-1"),
        (Plain(NUMBERS, modes=["ansi"]), "draw that in render"),
        (Plain(spaces.Dict(a=IMAGE, b=IMAGE)), r"several images \(a, b\): call the one .* 'image'"),
        (Plain(IMAGE, UNBOUNDED), "its actions have no bounds .* a finite low and high"),
        (
            Plain(IMAGE, spaces.MultiDiscrete([2, 3])),
            r"MultiDiscrete\(\[2 3\]\): Discrete, or a Box",
        ),
        (Plain(IMAGE, spaces.Box(0, 1, (2, 2))), r"Box\(0.0, 1.0, \(2, 2\).*: Discrete, or a Box"),
        (Plain(IMAGE, spaces.Box(0, 9, (2,), np.int64)), "a Box .A. of floats is taken"),
    ],
)
def test_what_cannot_be_seen_or_acted_in_is_refused(monkeypatch, env, line):
    monkeypatch.setattr(registered, "_make", lambda name: env)
    with pytest.raises(ValueError, match=line) as caught:
        registered._build("x", EnvSettings())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "no_such_module:X-v0",
            "module no_such_module is not found: install it, or set PYTHONPATH",
        ),
        ("gymnasium.envs:Nowhere-v0", "Environment `Nowhere` doesn't exist"),
        ("phys2d/CartPole-v1", "jax"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_line(name, line):
    with pytest.raises(ValueError, match=line) as caught:
        envs.make_env(f"gymnasium_{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [IMAGE, spaces.Box(0, 255, (1, 9, 9), np.uint8), spaces.Box(0, 255, (5, 6), np.uint8)],
)
def test_images_of_any_layout_are_shown(space):
    env = Seen(Plain(space), (4, 4))
    env._see(space.sample())
    assert env.render().shape == (4, 4, 3)
    assert set(env.observation_space) == set()


def test_an_image_among_others_is_the_one_that_is_called_so():
    assert Seen(Plain(spaces.Dict(a=IMAGE, image=IMAGE, n=NUMBERS)), (4, 4)).key == "image"
    assert Seen(Plain(spaces.Dict(a=IMAGE, pixels=IMAGE)), (4, 4)).key == "pixels"
