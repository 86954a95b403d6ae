"""Replay: rows in, files and batches out."""

import json
import threading

import numpy as np
import pytest

from replay import Replay, episodes
from replay.episodes import read_episode
from tests.replay.rows import SHAPE, decode, episode, equal, feed, make, row


def test_episode_file_has_one_row_per_step_after_the_reset(tmp_path):
    closed = feed(make(tmp_path / "train_eps"), 7, 4)
    assert (closed.index, closed.name, closed.length) == (0, "000000-s0-4.npz", 3)
    assert closed.ret == sum(np.float64(np.float32(7 + t / 1024)) for t in range(4))
    with np.load(closed.path) as file:
        content = dict(file)
    dtypes = {key: value.dtype.name for key, value in content.items()}
    numbers = dict.fromkeys(("action", "reward", "discount"), "float32")
    assert dtypes == {"image": "uint8", **numbers, "is_terminal": "bool"}
    np.testing.assert_array_equal(content["image"][:, 0, 0, 1], [0, 1, 2, 3])
    np.testing.assert_array_equal(content["action"], [[0, 0], [7, 1], [7, 2], [7, 3]])
    np.testing.assert_array_equal(content["is_terminal"], [False, False, False, True])
    np.testing.assert_array_equal(content["discount"], [1, 1, 1, 0.5])


def test_rows_are_copied_so_that_environments_may_reuse_buffers():
    replay, buffer = make(), np.zeros(SHAPE, np.uint8)
    for t in range(3):
        buffer[:] = t
        replay.add(0, row(0, t, 2, image=buffer))
    assert replay.sample(1, 3)["image"][0, :, 0, 0, 0].tolist() == [0, 1, 2]


def test_failed_write_leaves_no_file_and_nothing_sampleable(tmp_path, monkeypatch):
    def fail(file, **fields):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    replay = make(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        feed(replay, 0, 3)
    assert list(tmp_path.iterdir()) == []
    assert replay.episodes == 0


def test_existing_file_is_never_overwritten(tmp_path):
    closed = feed(make(tmp_path), 0, 3)
    before = closed.path.read_bytes()
    with pytest.raises(FileExistsError, match="000000-s0-3"):
        feed(make(tmp_path), 9, 3)
    assert closed.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros(SHAPE, np.float32)}, "image is float32"),
        ({"image": np.zeros((3, 2, 3), np.uint8)}, r"image is uint8 \[3, 2, 3\]"),
        ({"action": np.zeros(3)}, r"action is float32 \[3\]"),
        ({"reward": np.zeros(1)}, r"reward is float32 \[1\], expected \[\]"),
        ({"reward": np.nan}, "reward is not finite"),
        ({"is_first": True, "action": np.zeros(2)}, "worker 0 starts an episode"),
        ({"is_first": True, "action": np.ones(2)}, "must be zero"),
    ],
)
def test_unfit_row_is_refused_and_the_episode_goes_on(change, message):
    replay = make()
    replay.add(0, row(3, 0, 2))
    with pytest.raises(ValueError, match=message):
        replay.add(0, row(3, 1, 2, **change))
    replay.add(0, row(3, 1, 2))
    assert replay.add(0, row(3, 2, 2)).length == 2
    assert replay.steps == 2


def test_row_without_key_or_open_episode_is_refused():
    replay, whole = make(), row(0, 1, 5)
    with pytest.raises(ValueError, match="first row needs is_first"):
        replay.add(4, whole)
    for key in ("discount", "action"):
        with pytest.raises(ValueError, match=f"without {key}"):
            replay.add(4, {name: value for name, value in whole.items() if name != key})


def test_workers_fill_their_own_episodes_and_a_dropped_one_never_was():
    replay = make()
    assert replay.ongoing_actions() == {}
    for t in range(4):
        for worker in (0, 1, 2):
            if (worker, t) != (2, 3):
                closed = replay.add(worker, row(worker, t, 3))
    assert (closed.index, replay.episodes, replay.steps) == (1, 2, 8)
    assert set(decode(replay.sample(50, 4))[0].ravel()) == {0, 1}
    found = replay.ongoing_actions()
    assert found[2].tolist() == [[2, 1], [2, 2]]
    found[2][:] = 0
    assert replay.ongoing_actions()[2].any()
    replay.add(0, row(5, 0, 9))
    assert replay.ongoing_actions()[0].shape == (0, 2)
    for worker in (2, 0, 7):
        replay.drop(worker)
    assert replay.ongoing_actions() == {}


def test_nothing_to_sample_names_prefill():
    replay = make()
    replay.add(0, row(0, 0, 9))
    with pytest.raises(ValueError, match="prefill"):
        replay.sample(1, 1)
    with pytest.raises(ValueError, match="at least 1"):
        replay.sample(0, 1)


def test_batch_has_the_promised_shapes():
    feed(replay := make(), 1, 9)
    shapes = {key: (x.shape, x.dtype.name) for key, x in replay.sample(4, 5).items()}
    assert shapes == {
        "image": ((4, 5, *SHAPE), "uint8"),
        "action": ((4, 5, 2), "float32"),
        "reward": ((4, 5), "float32"),
        "discount": ((4, 5), "float32"),
        "is_first": ((4, 5), "bool"),
    }


def test_capacity_evicts_whole_old_episodes_and_no_file(tmp_path):
    replay = make(tmp_path, capacity=20)
    for number in range(30):
        feed(replay, number, 6)
        assert replay.frames <= 20
    assert (replay.episodes, replay.frames, replay.steps) == (3, 18, 150)
    assert len(list(tmp_path.iterdir())) == 30
    assert set(decode(replay.sample(300, 4))[0].ravel()) == {27, 28, 29}
    feed(replay, 30, 40)  # more than the capacity: it stays until the next
    assert (replay.episodes, replay.frames) == (1, 40)
    feed(replay, 31, 4)
    assert replay.frames == 4


def test_draws_follow_from_the_generator():
    def new(seed):
        replay = make(seed=seed)
        replay.replace([episode(number, 9) for number in range(8)])
        return replay

    replay, other = new(1), new(2)
    state = replay.rng_state()
    assert json.loads(state)["bit_generator"] == "PCG64"
    batches = [replay.sample(8, length) for length in (3, 30)]  # of one episode, of several
    assert (batches[0]["image"] != other.sample(8, 3)["image"]).any()
    for again in (new(1), replay, other):
        again.load_rng(state)
        for batch, length in zip(batches, (3, 30), strict=True):
            equal(batch, again.sample(8, length))
    state = replay.rng_state()
    for length in (3, 30):  # a borrowed generator draws, and the own one stands still
        one, two, three = (
            replay.sample(8, length, rng=np.random.default_rng(n)) for n in (5, 5, 6)
        )
        equal(one, two)
        assert (one["reward"] != three["reward"]).any()
    assert replay.rng_state() == state


# Episodes from elsewhere


def test_replace_forgets_the_old_and_holds_the_new(tmp_path):
    replay = make(tmp_path)
    for numbers in ((1, 2), (3,)):  # of one batch length: the table of starts is new, too
        replay.replace([episode(number, 5 * number) for number in numbers])
        assert (replay.episodes, replay.frames) == (len(numbers), 5 * sum(numbers))
        assert set(decode(replay.sample(100, 4))[0].ravel()) == set(numbers)
    assert list(tmp_path.iterdir()) == []
    replay.replace([{"image": np.zeros((4, *SHAPE), np.uint8)}])
    batch = replay.sample(2, 4)
    assert not batch["action"].any()
    assert (batch["discount"] == 1).all()
    replay.replace([])
    assert (replay.episodes, replay.frames) == (0, 0)
    with pytest.raises(ValueError, match="no closed episode"):
        replay.sample(1, 1)


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
    replay, given = make(), episode(2, 4)
    replay.replace([episode(1, 5)])
    with pytest.raises(ValueError, match=next(iter(change))):
        replay.replace([given, episode(2, 4) | change])
    assert set(decode(replay.sample(10, 3))[0].ravel()) == {1}
    assert set(given) == set(episode(2, 4))


# Writing beside what comes next


def fill(replay, count, start=0):
    """Plays whole episodes of 3 rows; what closed."""
    return [feed(replay, start + number, 3) for number in range(count)]


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until this is set."""
    event, save = threading.Event(), episodes.save_episode

    def slow(path, episode):
        assert event.wait(60)
        save(path, episode)

    monkeypatch.setattr(episodes, "save_episode", slow)
    return event


def test_an_episode_written_in_the_background_is_there_at_once(tmp_path, gate):
    replay = make(tmp_path, background=True)
    [closed] = fill(replay, 1)
    assert replay.sample(1, 3)["reward"].shape == (1, 3)
    assert not closed.path.exists()
    gate.set()
    replay.written()
    [plain] = fill(make(tmp_path / "plain"), 1)
    equal(read_episode(plain.path), read_episode(closed.path))


def test_a_checkpoint_and_the_next_episode_wait_for_the_last_one(tmp_path, gate):
    replay = make(tmp_path, background=True)
    [first] = fill(replay, 1)
    threading.Timer(0.1, gate.set).start()
    assert replay.state_dict()["files"] == [path.name for path in tmp_path.iterdir()]
    gate.clear()
    fill(replay, 1)
    threading.Timer(0.1, gate.set).start()
    fill(replay, 1)
    assert len(list(tmp_path.iterdir())) >= 2
    replay.written()
    assert len(list(tmp_path.iterdir())) == 3
    assert first.path.exists()


@pytest.mark.parametrize("ask", [Replay.state_dict, Replay.written, lambda r: fill(r, 1)])
def test_what_kept_an_episode_from_the_disk_is_raised(tmp_path, monkeypatch, ask):
    def full(path, episode):
        raise OSError("no space left")

    monkeypatch.setattr(episodes, "save_episode", full)
    replay = make(tmp_path, background=True)
    fill(replay, 1)
    with pytest.raises(OSError, match="no space left"):
        ask(replay)


@pytest.mark.parametrize("unfit", [{"capacity": -1}, {"tag": "../s0"}])
def test_arguments_that_cannot_be_are_refused(unfit):
    with pytest.raises(ValueError, match=next(iter(unfit))):
        make(**unfit)
