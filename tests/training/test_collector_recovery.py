"""Playing in environments that fail: what is made anew shows nowhere, what is lost is left out."""

import functools
import os
import signal

import numpy as np
import pytest

from agents.base import Spaces
from agents.random import RandomPolicy
from envs import EnvError, VectorEnv, make_vector
from replay import HostStorage, Replay, row_fields
from replay.episodes import read_episode
from tests.envs.crashing import SMALL, TASK, crashing, processes, toy
from tests.helpers.countdown import Countdown, Counting, step
from training.collector import Collector
from training.evaluator import play_episodes

# The collector


@pytest.fixture
def small_seeds(monkeypatch):
    """Episode i of every run has seed i."""
    monkeypatch.setattr("training.collector.episode_seed", lambda seed, split, index: index)


def collector_of(folder, envs, seed=0):
    replay = Replay(HostStorage(row_fields(envs.image_shape, envs.action_size)), folder)
    return Collector(envs, replay, seed, lambda: "train")


def files(folder):
    """Every episode of a folder, by its name."""
    return {path.name: read_episode(path) for path in sorted(folder.iterdir())}


def assert_files(folder, other):
    found, expected = files(folder), files(other)
    assert list(found) == list(expected)
    assert found
    for name, episode in found.items():
        for key, value in episode.items():
            np.testing.assert_array_equal(value, expected[name][key])


def test_a_broken_episode_is_dropped_and_the_next_begins(tmp_path, small_seeds):
    # Worker 0 plays 0 (2 steps), then 2, which breaks in its third; worker 1 plays 1 (3), 3 (5).
    collector = collector_of(tmp_path, Countdown(2, breaks={(2, 3)}))
    closed = [step(collector, Counting()) for _ in range(8)]
    assert [[episode.length for episode in step] for step in closed] == [
        [], [2], [3], [], [], [], [], [5],
    ]  # fmt: skip
    assert collector.envs.resets == [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]
    assert collector.dropped == 1
    assert collector.begun == 5
    assert collector.steps == 16  # the clocks go on
    assert [len(actions) for actions in collector.replay.ongoing_actions().values()] == [3]
    seeds = {episode["reward"][1] // 10 for episode in files(tmp_path).values()}
    assert seeds == {0, 1, 3}


def test_an_episode_can_break_in_its_first_step_and_in_its_last(tmp_path, small_seeds):
    collector = collector_of(tmp_path, Countdown(1, breaks={(0, 1), (1, 3), (2, 1)}))
    closed = [episode for _ in range(10) for episode in step(collector, Counting())]
    # 1 + 3 + 1 steps are lost; then 3 is whole.
    assert [episode.length for episode in closed] == [5]
    assert (collector.dropped, collector.begun, collector.steps) == (3, 4, 10)


def test_what_was_dropped_is_remembered(tmp_path, small_seeds):
    first = collector_of(tmp_path, Countdown(2, breaks={(0, 1)}))
    step(first, Counting())
    state = first.replay.state_dict(), first.save_state()
    second = collector_of(tmp_path, Countdown(2))
    second.replay.load_state_dict(state[0])
    assert second.load_state(state[1])
    assert second.dropped == 1
    step(second, Counting())
    assert second.envs.resets == [(1, 1), (0, 2)]


def test_an_interrupted_episode_that_is_lost_is_dropped_and_changes_no_picture(tmp_path):
    def lost(vector):
        plan = {"moment": (second_seed, -2), "how": "raise", "times": 99}
        factories = [
            functools.partial(toy, 0),
            functools.partial(crashing, 1, toy, ledger=tmp_path / "ledger", **plan),
        ]
        return VectorEnv(factories, workers="none")

    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="none") as vector:
        first = collector_of(tmp_path / "eps", vector)
        policy = RandomPolicy(Spaces((8, 8, 3), 1, False), seed=1)
        for _ in range(2):
            step(first, policy)
        second_seed = first.playing[1]["seed"]
        state = first.replay.state_dict(), first.save_state()
    with lost(vector) as vector:
        vector.restarts = 2
        second = collector_of(tmp_path / "eps", vector)
        second.replay.load_state_dict(state[0])
        assert second.load_state(state[1])
        closed = [episode for _ in range(8) for episode in step(second, policy)]
    assert second.dropped == 1
    assert [episode.length for episode in closed] == [10]


def collected(folder, workers, when=None):
    """Twenty steps of two environments; a worker is killed around the fourteenth."""
    with make_vector(TASK, 2, workers=workers, **SMALL) as vector:
        vector.restarts = 1
        collector = collector_of(folder, vector)
        policy = RandomPolicy(Spaces((8, 8, 3), 1, False), seed=1)
        for t in range(14):
            last = t == 13
            if last and when == "send":
                os.kill(processes(vector)[0].pid, signal.SIGKILL)
            collector.send(policy)
            if last and when in ("receive", "state"):
                os.kill(processes(vector)[0].pid, signal.SIGKILL)
            state = collector.replay.state_dict(), collector.save_state()
            if last and when == "state":
                collector = collector_of(folder, vector)
                vector.step_wait()
                vector.restarts = 2
                os.kill(processes(vector)[1].pid, signal.SIGKILL)
                collector.replay.load_state_dict(state[0])
                assert collector.load_state(state[1])
            collector.receive()
        for _ in range(6):
            step(collector, policy)
        assert vector.restarted == {None: 0, "state": 2}.get(when, 1)
        return collector


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The episodes' folder, and the collector, of environments that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, collected(folder, "none")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["send", "receive", "state"])
def test_a_worker_killed_while_a_step_overlaps_changes_nothing(tmp_path, undisturbed, when):
    """Before the actions are sent, after, and where another start takes up that state."""
    disturbed, (folder, collector) = collected(tmp_path, "process", when), undisturbed
    assert disturbed.dropped == 0
    assert_files(tmp_path, folder)
    assert len(files(tmp_path)) == 4
    np.testing.assert_array_equal(disturbed.obs["image"], collector.obs["image"])


# Evaluations


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_broken_evaluation_episode_is_left_out(n):
    seeds, lost = [4, 0, 3, 1], []
    envs = Countdown(n, breaks={(0, 2), (3, 1)})
    episodes = play_episodes(envs, Counting(), seeds, "test", lost=lost.append)
    assert sorted(lost) == [1, 2]
    whole = play_episodes(Countdown(n), Counting(), seeds, "test")
    assert len(episodes) == 2
    for found, expected in zip(episodes, [whole[0], whole[3]], strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_an_idle_environment_may_break():
    """The seed 4 has ended after 6 steps, its environment plays it again beside 9, and breaks."""
    envs, checks, lost = Countdown(2), [], []

    def check():
        checks.append(1)
        if len(checks) == 7:
            envs.breaks = {(4, 1)}

    found = play_episodes(envs, Counting(), [4, 0, 9], "test", tick=check, lost=lost.append)
    assert envs.notes == [{"env": 0, "reason": "it broke"}]
    assert lost == []
    assert [len(episode["reward"]) for episode in found] == [7, 3, 7]


def test_an_evaluation_of_which_nothing_is_left_raises():
    envs = Countdown(2, breaks={(0, 1), (1, 2)})
    with pytest.raises(EnvError, match="no episode could be played to its end: it broke"):
        play_episodes(envs, Counting(), [0, 1], "test")


def test_an_evaluation_goes_on_in_new_environments(tmp_path):
    plan = {"moment": (7, 4), "how": "kill", "ledger": tmp_path / "ledger", "times": 1}
    factories = [functools.partial(crashing, i, toy, **plan) for i in range(2)]

    def policy(obs, state):
        return np.full((2, 1), 0.3, np.float32), None

    with VectorEnv(factories, workers="process") as vector:
        vector.restarts = 1
        found = play_episodes(vector, policy, [5, 6, 7], "test")
        assert vector.restarted == 1
        expected = play_episodes(vector, policy, [5, 6, 7], "test")
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)
