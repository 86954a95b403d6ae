"""Playing: what a row holds, in which order episodes come, and that interrupted ones go on."""

import numpy as np
import pytest

from agents.base import Spaces
from agents.random import RandomPolicy
from envs import VectorEnv, episode_seed
from replay import HostStorage, Replay, row_fields
from replay.episodes import read_episode
from tests.helpers.countdown import SHAPE, Countdown, Counting, step
from training.collector import Collector, first_row
from training.evaluator import play_episodes

# Whole episodes


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_play_gives_every_seed_its_episode_in_order(n):
    seeds = [4, 0, 3, 1, 2]  # of 6, 2, 5, 3, 4 steps
    envs, checks = Countdown(n), []
    episodes = play_episodes(envs, Counting(), seeds, "test", tick=lambda: checks.append(1))
    assert len(episodes) == 5
    for seed, episode in zip(seeds, episodes, strict=True):
        steps = 2 + seed % 5
        t = np.arange(steps + 1)
        assert (episode["image"][:, 0, 0, 0] == seed).all()
        np.testing.assert_array_equal(episode["image"][:, 0, 0, 1], t)
        np.testing.assert_array_equal(episode["reward"], (10 * seed + t) * (t > 0))
        actions = np.stack([t, -t], 1).astype(np.float32) / 10
        np.testing.assert_array_equal(episode["action"], actions)
        last = t == steps
        np.testing.assert_array_equal(episode["is_terminal"], last & (seed % 2 == 1))
        np.testing.assert_array_equal(episode["discount"], 1.0 - (last & (seed % 2 == 1)))
        kinds = {name: value.dtype.name for name, value in episode.items()}
        assert kinds.pop("image") == "uint8"
        assert kinds.pop("is_terminal") == "bool"
        assert set(kinds.values()) == {"float32"}
    assert set(envs.variations) == {"test"}
    assert len(checks) == len(envs.actions)


def test_play_starts_seeds_in_order_and_stops_when_the_last_has_ended():
    envs = Countdown(2)
    play_episodes(envs, Counting(), [4, 0, 3], "train")
    # 0 ends after 2 steps, 3 after 2 + 5; 4 after 6, and then its environment is idle.
    assert envs.resets == [(0, 4), (1, 0), (1, 3), (0, 4)]
    assert len(envs.actions) == 7


def test_play_with_more_environments_than_seeds_gives_each_seed_once():
    episodes = play_episodes(Countdown(6), Counting(), [1, 2], "train")
    assert [int(episode["image"][0, 0, 0, 0]) for episode in episodes] == [1, 2]


def test_play_stops_where_the_check_raises():
    envs, calls = Countdown(1), []

    def check():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_episodes(envs, Counting(), [4, 4], "train", tick=check)
    assert len(envs.actions) == 3


# The collector


def collector_of(folder, n, seed=0, variation=lambda: "train"):
    replay = Replay(HostStorage(row_fields(SHAPE, 2)), folder)
    return Collector(Countdown(n), replay, seed, variation)


@pytest.fixture
def small_seeds(monkeypatch):
    """Episode i of every run has seed i."""
    monkeypatch.setattr("training.collector.episode_seed", lambda seed, split, index: index)


def test_collector_numbers_episodes_and_asks_for_the_variation_of_each(tmp_path, small_seeds):
    asked = []

    def variation():
        asked.append(collector.steps)
        return "test" if collector.steps >= 8 else "train"

    collector = collector_of(tmp_path, 2, variation=variation)
    closed = [episode for _ in range(12) for episode in step(collector, Counting())]
    # Worker 0 plays 0 (2 steps), 2 (4), 4 (6); worker 1 plays 1 (3), 3 (5), 5 (2), 6 (3).
    assert collector.envs.resets == [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4), (1, 5), (1, 6)]
    assert asked == [0, 4, 6, 12, 16, 20]
    assert collector.envs.variations == ["train"] * 4 + ["test"] * 3
    assert [episode.index for episode in closed] == [0, 1, 2, 3, 4, 5]
    assert [episode.length for episode in closed] == [2, 3, 4, 5, 2, 6]
    assert [episode.variation for episode in closed] == ["train"] * 4 + ["test"] * 2
    assert collector.steps == collector.replay.steps == 24
    assert collector.begun == 7


def test_collectors_rows_hold_the_action_that_led_to_them(tmp_path, small_seeds):
    collector = collector_of(tmp_path, 1)
    [closed] = [episode for _ in range(2) for episode in step(collector, Counting())]
    episode = read_episode(closed.path)
    assert episode["image"][:, 0, 0, 1].tolist() == [0, 1, 2]
    np.testing.assert_allclose(episode["action"], [[0, 0], [0.1, -0.1], [0.2, -0.2]])
    assert episode["reward"].tolist() == [0, 1, 2]
    assert closed.ret == 3


def test_collectors_seeds_follow_from_the_run(tmp_path):
    collector = collector_of(tmp_path, 2, seed=5)
    collector.envs.seed = np.zeros(2, np.int64)
    collector.envs.images = lambda: np.zeros((2, *SHAPE), np.uint8)
    step(collector, lambda obs, state: (np.zeros((2, 2), np.float32), None))
    assert collector.envs.resets == [
        (0, episode_seed(5, "train", 0)),
        (1, episode_seed(5, "train", 1)),
    ]


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 6, 11])
def test_collector_goes_on_from_its_state(tmp_path, small_seeds, at, under_way):
    """Between two steps, or between the sending of one and its result."""
    through = collector_of(tmp_path / "a" / "eps", 2)
    expected = [episode.ret for _ in range(20) for episode in step(through, Counting())]
    first = collector_of(tmp_path / "b" / "eps", 2)
    found = [episode.ret for _ in range(at) for episode in step(first, Counting())]
    if under_way:
        first.send(Counting())
    state = first.replay.state_dict(), first.save_state()
    second = collector_of(tmp_path / "b" / "eps", 2)
    second.replay.load_state_dict(state[0])
    assert second.load_state(state[1])
    assert second.envs.waiting == under_way
    found += [episode.ret for episode in second.receive()] if under_way else []
    left = range(20 - at - under_way)
    found += [episode.ret for _ in left for episode in step(second, Counting())]
    assert found == expected
    assert second.steps == through.steps
    resets = first.envs.resets + second.envs.resets[int((~first.ended).sum()) :]
    assert resets == through.envs.resets
    for path in sorted((tmp_path / "a" / "eps").iterdir()):
        one, other = read_episode(path), read_episode(tmp_path / "b" / "eps" / path.name)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_collector_says_when_the_renderer_draws_differently(tmp_path, small_seeds):
    first = collector_of(tmp_path / "eps", 2)
    step(first, Counting())
    state = first.replay.state_dict(), first.save_state()
    second = collector_of(tmp_path / "eps", 2)
    draw = second.envs.images
    second.envs.images = lambda: draw() + np.uint8(1)
    second.replay.load_state_dict(state[0])
    assert not second.load_state(state[1])


# The random policy


def test_random_policy_is_uniform_seeded_and_resumable():
    policy, again = (
        RandomPolicy(Spaces((8, 8, 3), 3, False), seed=1),
        RandomPolicy(Spaces((8, 8, 3), 3, False), seed=1),
    )
    obs = {"is_first": np.zeros(2000, bool)}
    actions, state = policy(obs, None)
    assert (actions.shape, actions.dtype, state) == ((2000, 3), np.float32, None)
    assert actions.min() > -1
    assert actions.max() < 1
    np.testing.assert_allclose(actions.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(actions.std(0), 3**-0.5, atol=0.05)
    np.testing.assert_array_equal(actions, again(obs, None)[0])
    assert (actions != RandomPolicy(Spaces((8, 8, 3), 3, False), seed=2)(obs, None)[0]).any()
    saved = policy.save_state()
    expected = policy(obs, None)[0]
    fresh = RandomPolicy(Spaces((8, 8, 3), 3, False), seed=9)
    fresh.load_state(saved)
    np.testing.assert_array_equal(expected, fresh(obs, None)[0])


def test_random_policy_of_choices_is_one_hot():
    actions, _ = RandomPolicy(Spaces((8, 8, 3), 4, True), seed=1)(
        {"is_first": np.zeros(400, bool)}, None
    )
    assert (actions.sum(1) == 1).all()
    assert set(np.unique(actions)) == {0, 1}
    assert actions.sum(0).min() > 60


def test_first_row_has_no_past():
    row = first_row(np.ones(SHAPE, np.uint8), np.zeros(0, np.float32))
    assert (row["reward"], row["discount"]) == (0.0, 1.0)
    assert (row["is_first"], row["is_last"], row["is_terminal"]) == (True, False, False)
    assert "action" not in row


# Against dm_control itself


def test_rows_are_what_dm_control_shows_and_pays(tmp_path, tiny):
    """Row t: the image after action t, and what it earned; by hand, with nothing of ours."""
    from dm_control import suite

    flags = {"task": "dmc_cheetah_run", "steps": 0, "prefill": 24, "time_limit": 24}
    flags |= {"beta_vae": False, "distillation": False, "action_repeat": 3, "seed": 4}
    flags |= {"shadow_size": None}
    folder = tiny.finish(tiny.finetune(tmp_path, **flags))
    paths = sorted((folder / "train_eps").iterdir())
    assert [path.name for path in paths] == [f"{i:06d}-s4-9.npz" for i in range(3)]
    env = suite.load("cheetah", "run", task_kwargs={"random": 0})
    env.physics.model.vis.quality.shadowsize = 1024
    for index, path in enumerate(paths):
        episode = read_episode(path)
        seed = episode_seed(4, "train", index)
        env.task._random = np.random.RandomState(seed)
        env.reset()
        image = env.physics.render(64, 64, camera_id=0)
        np.testing.assert_array_equal(episode["image"][0], image)
        assert not episode["action"][0].any()
        assert (episode["reward"][0], episode["discount"][0]) == (0, 1)
        for t in range(1, 9):
            pay = sum(env.step(episode["action"][t]).reward for _ in range(3))
            np.testing.assert_array_equal(
                episode["image"][t], env.physics.render(64, 64, camera_id=0)
            )
            np.testing.assert_allclose(episode["reward"][t], pay, rtol=1e-6)
        assert episode["action"][1:].any(1).all()
        assert not episode["is_terminal"].any()
    env.close()


def test_countdown_keeps_the_contract_of_the_real_vector():
    names = ("reset", "step_async", "step_wait", "restore")
    assert all(hasattr(VectorEnv, name) for name in names)


def test_play_keeps_success_and_distance_where_they_are_told():
    seeds = [3, 4, 6]
    episodes = play_episodes(Countdown(2, tells=True), Counting(), seeds, "test")
    for seed, episode in zip(seeds, episodes, strict=True):
        steps = 2 + seed % 5
        succeeds = 1.0 if seed % 3 == 0 else 0.0
        np.testing.assert_array_equal(episode["success"], [np.nan, succeeds] + [0.0] * (steps - 1))
        np.testing.assert_array_equal(episode["distance"], [np.nan, *range(1, steps + 1)])
        assert episode["success"].dtype == episode["distance"].dtype == np.float32
    untold = play_episodes(Countdown(2), Counting(), seeds, "test")
    assert all(not {"success", "distance"} & set(episode) for episode in untold)


@pytest.mark.parametrize("tells", [True, False])
def test_a_closed_episode_says_whether_any_step_succeeded(tmp_path, tells):
    replay = Replay(HostStorage(row_fields(SHAPE, 2)), tmp_path)
    collector = Collector(Countdown(2, tells), replay, 0, lambda: "train")
    policy, closed = Counting(), []
    while len(closed) < 8:
        closed += step(collector, policy)
    seeds = [episode_seed(0, "train", i) for i in range(collector.begun)]
    # Episodes close in the order of their ends: found again by their first reward.
    for episode in closed:
        reward = read_episode(episode.path)["reward"][1]
        matching = [seed for seed in seeds if np.float32(10 * seed + 1) == reward]
        assert len(matching) == 1
        expected = float(matching[0] % 3 == 0) if tells else None
        assert episode.success == expected
    if tells:
        assert {episode.success for episode in closed} == {0.0, 1.0}


def test_images_are_kept_of_the_first_episodes_alone():
    seeds = [3, 4, 6, 8, 2]
    kept = play_episodes(Countdown(2), Counting(), seeds, "test", images=2)
    whole = play_episodes(Countdown(2), Counting(), seeds, "test")
    assert ["image" in episode for episode in kept] == [True, True, False, False, False]
    for one, other in zip(kept, whole, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_episodes_begun_before_a_step_are_known(tmp_path, small_seeds):
    collector = collector_of(tmp_path, 2)
    policy, whole = Counting(), []
    for _ in range(10):
        step(collector, policy)
        whole.append(collector.whole_since(5))
    # Of worker 0 episode 2 began at step 4 and ended after 6 rounds, of worker 1 episode 1 did
    # after 3; episode 3 began at step 6.
    assert whole == [False] * 5 + [True] * 5
    assert collector.whole_since(0)
    assert not collector.whole_since(10**6)
