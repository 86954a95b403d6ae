"""Replay and meters, what a checkpoint and a report ask of them."""

import json
import threading

import numpy as np
import pytest
import torch

from logger import MeanMeter
from replay import Replay, episodes

SHAPE = (2, 2, 3)


def make(directory=None, **kwargs):
    return Replay(directory, **({"image_shape": SHAPE, "action_shape": (2,)} | kwargs))


def episode(number, rows):
    """An episode whose every value is its number."""
    return {
        "image": np.full((rows, *SHAPE), number, np.uint8),
        "action": np.full((rows, 2), number, np.float32),
        "reward": np.full(rows, number, np.float32),
        "discount": np.ones(rows, np.float32),
    }


def row(t, last=9):
    action = np.array([t, -t], np.float32)
    fields = {"image": np.full(SHAPE, t, np.uint8), "action": action, "reward": 0.0}
    fields |= {"discount": 1.0, "is_terminal": False}
    return fields | {"is_first": t == 0, "is_last": t == last}


def equal(one, other):
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_replace_forgets_the_old_and_holds_the_new(tmp_path):
    replay = make(tmp_path)
    replay.replace([episode(1, 5), episode(2, 30)])
    assert (replay.episodes, replay.frames) == (2, 35)
    assert set(replay.sample(100, 4)["reward"].ravel()) == {1, 2}
    replay.replace([episode(3, 4)])
    assert (replay.episodes, replay.frames) == (1, 4)
    assert set(replay.sample(100, 4)["reward"].ravel()) == {3}
    assert list(tmp_path.iterdir()) == []


def test_replace_samples_at_the_same_length_again():
    """The table of starts belongs to the episodes that were there."""
    replay = make()
    replay.replace([episode(1, 40)])
    replay.sample(4, 4)
    replay.replace([episode(2, 5)])
    assert (replay.sample(50, 4)["reward"] == 2).all()


def test_replace_fills_what_is_absent():
    replay = make()
    replay.replace([{"image": np.zeros((4, *SHAPE), np.uint8)}])
    batch = replay.sample(2, 4)
    assert not batch["action"].any()
    assert (batch["discount"] == 1).all()


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((4, 3, 2, 3), np.uint8)},
        {"action": np.zeros((4, 3), np.float32)},
        {"reward": np.zeros(3, np.float32)},
        {"reward": np.full(4, np.inf, np.float32)},
    ],
)
def test_replace_with_an_unfit_episode_changes_nothing(change):
    replay = make()
    replay.replace([episode(1, 5)])
    with pytest.raises(ValueError, match=next(iter(change))):
        replay.replace([episode(2, 4), episode(2, 4) | change])
    assert set(replay.sample(10, 3)["reward"].ravel()) == {1}


def test_replace_leaves_what_was_given_alone():
    given = episode(1, 4)
    keys = set(given)
    replay = make(action_shape=None)
    replay.replace([given])
    assert set(given) == keys
    given["image"][:] = 9
    assert (replay.sample(1, 4)["image"] == 1).all()


def test_replace_with_nothing_is_empty():
    replay = make()
    replay.replace([episode(1, 5)])
    replay.replace([])
    assert (replay.episodes, replay.frames) == (0, 0)
    with pytest.raises(ValueError, match="no closed episode"):
        replay.sample(1, 1)


def test_ongoing_actions_are_those_after_the_reset():
    replay = make()
    assert replay.ongoing_actions() == {}
    for t in range(4):
        replay.add(3, row(t))
    replay.add(1, row(0))
    found = replay.ongoing_actions()
    assert set(found) == {1, 3}
    assert found[3].tolist() == [[1, -1], [2, -2], [3, -3]]
    assert found[1].shape == (0, 2)
    assert {actions.dtype.name for actions in found.values()} == {"float32"}
    found[3][:] = 0
    assert replay.ongoing_actions()[3].any()


def test_closed_episode_is_not_ongoing():
    replay = make()
    for t in range(3):
        replay.add(0, row(t, last=2))
    assert replay.ongoing_actions() == {}


def test_ongoing_actions_survive_a_checkpoint(tmp_path):
    replay, other = make(tmp_path), make(tmp_path)
    for t in range(5):
        replay.add(0, row(t))
    other.load_state_dict(replay.state_dict())
    assert len(other.ongoing_actions()[0]) == 4
    equal(replay.ongoing_actions(), other.ongoing_actions())


def test_rng_state_is_json_and_brings_the_generator_back():
    replay = make(seed=3)
    replay.replace([episode(number, 9) for number in range(8)])
    replay.sample(2, 3)
    state = replay.rng_state()
    assert json.loads(state)["bit_generator"] == "PCG64"
    expected = [replay.sample(8, 3) for _ in range(3)]
    assert replay.rng_state() != state
    replay.load_rng(state)
    for batch in expected:
        equal(batch, replay.sample(8, 3))
    fresh = make(seed=99)
    fresh.replace([episode(number, 9) for number in range(8)])
    fresh.load_rng(state)
    equal(expected[0], fresh.sample(8, 3))


@pytest.mark.parametrize("length", [3, 30])
def test_borrowed_generator_draws_and_the_own_stands_still(length):
    """Also where windows are joined of several episodes, which draws more than once."""
    replay = make(seed=3)
    replay.replace([episode(number, 9) for number in range(8)])
    state = replay.rng_state()
    one = replay.sample(8, length, rng=np.random.default_rng(5))
    two = replay.sample(8, length, rng=np.random.default_rng(5))
    other = replay.sample(8, length, rng=np.random.default_rng(6))
    assert replay.rng_state() == state
    equal(one, two)
    assert (one["reward"] != other["reward"]).any()


def fill(replay, count):
    """Plays whole episodes of 3 rows; what closed."""
    return [replay.add(0, row(t, last=2)) for _ in range(count) for t in range(3)][2::3]


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until this is set."""
    event, save = threading.Event(), episodes.save_episode

    def slow(path, episode):
        assert event.wait(60)
        save(path, episode)

    monkeypatch.setattr(episodes, "save_episode", slow)
    return event


def test_an_episode_written_in_the_background_is_there_at_once_and_on_disk_when_asked(
    tmp_path, gate
):
    replay = make(tmp_path, background=True)
    [closed] = fill(replay, 1)
    assert replay.sample(1, 3)["reward"].shape == (1, 3)
    assert not closed.path.exists()
    gate.set()
    replay.written()
    plain = make(tmp_path / "plain")
    fill(plain, 1)
    equal(*(episodes.read_episode(r.directory / closed.name) for r in (plain, replay)))


def test_a_checkpoint_and_the_next_episode_wait_for_the_last_one(tmp_path, gate):
    replay = make(tmp_path, background=True)
    fill(replay, 1)
    threading.Timer(0.1, gate.set).start()
    assert replay.state_dict()["files"] == [path.name for path in tmp_path.iterdir()]
    gate.clear()
    fill(replay, 1)
    threading.Timer(0.1, gate.set).start()
    fill(replay, 1)
    assert len(list(tmp_path.iterdir())) >= 2
    replay.written()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("ask", [Replay.state_dict, Replay.written, lambda r: fill(r, 1)])
def test_what_kept_an_episode_from_the_disk_is_raised(tmp_path, monkeypatch, ask):
    def full(path, episode):
        raise OSError("no space left")

    monkeypatch.setattr(episodes, "save_episode", full)
    replay = make(tmp_path, background=True)
    fill(replay, 1)
    with pytest.raises(OSError, match="no space left"):
        ask(replay)


def test_meter_goes_on_from_its_state():
    through, meter = MeanMeter(), MeanMeter()
    for one in (through, meter):
        one.add({"a": torch.tensor(1.0), "b": 2})
        one.add({"a": torch.tensor(4.0)})
    state = meter.state_dict()
    assert state == {"sums": {"a": 5.0, "b": 2.0}, "counts": {"a": 2, "b": 1}}
    assert json.loads(json.dumps(state)) == state
    resumed = MeanMeter()
    resumed.load_state_dict(state)
    for one in (through, resumed):
        one.add({"a": torch.tensor(4.0), "c": 7.0})
    assert through.flush() == resumed.flush() == {"a": 3.0, "b": 2.0, "c": 7.0}


def test_meter_state_is_a_copy_and_looking_changes_nothing():
    meter = MeanMeter()
    meter.add({"a": 1.0})
    state = meter.state_dict()
    meter.add({"a": 3.0})
    assert state == {"sums": {"a": 1.0}, "counts": {"a": 1}}
    other = MeanMeter()
    other.load_state_dict(state)
    other.add({"a": 5.0})
    assert state == {"sums": {"a": 1.0}, "counts": {"a": 1}}
    assert meter.flush() == {"a": 2.0}


def test_meter_of_float32_sums_resumes_bit_for_bit():
    """A sum kept as a tensor and one that went through a checkpoint round alike."""
    values = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 1e4
    through, resumed = MeanMeter(), MeanMeter()
    for number, value in enumerate(values):
        through.add({"a": value})
        if number == 50:
            state = resumed.state_dict()
            resumed = MeanMeter()
            resumed.load_state_dict(state)
        resumed.add({"a": value})
    assert through.flush() == resumed.flush()
