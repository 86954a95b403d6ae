"""The state of a replay: one that is restored goes on as if never stopped, rows keep numbers."""

import numpy as np
import pytest

from replay import Restored
from replay.episodes import read_episode
from replay.sampler import Windows
from tests.replay.rows import decode, equal, feed, make, row


@pytest.mark.parametrize("capacity", [0, 40])
def test_restored_replay_goes_on_as_if_never_interrupted(tmp_path, capacity):
    def run(replay, start, stop):
        """Two workers out of step; a batch now and then."""
        batches = []
        for i in range(start, stop):
            for worker, rows in ((0, 7), (1, 11)):
                number, t = divmod(i, rows)
                replay.add(worker, row(100 * worker + number, t, rows - 1))
            if i % 5 == 4 and i > 10:
                batches.append(replay.sample(6, 8))
        return batches

    def new(name):
        return make(tmp_path / name / "train_eps", capacity=capacity, seed=5, oversample_ends=True)

    expected = run(through := new("a"), 0, 120)
    run(killed := new("b"), 0, 62)
    state = killed.state_dict()
    steps, names = killed.steps, sorted(p.name for p in killed.directory.iterdir())
    assert sorted(state["ongoing"]) == [0, 1]
    assert len(state["files"]) == killed.episodes
    assert (len(names) > killed.episodes) == bool(capacity)  # evicted ones keep their files
    run(killed, 62, 90)  # after the checkpoint, and lost
    later = sorted({p.name for p in killed.directory.iterdir()} - set(names))
    assert later

    resumed = new("b")
    moved = resumed.load_state_dict(state).stale
    assert [path.name for path in moved] == later
    assert {path.parent for path in moved} == {tmp_path / "b" / "stale"}
    assert all(read_episode(path) for path in moved)
    assert sorted(p.name for p in resumed.directory.iterdir()) == names
    assert resumed.steps == steps
    equal(resumed.ongoing_actions(), {n: x["action"][1:] for n, x in state["ongoing"].items()})
    found = run(resumed, 62, 120)
    for one, other in zip(expected[-len(found) :], found, strict=True):
        equal(one, other)
    assert (resumed.steps, resumed.frames) == (through.steps, through.frames)
    for path in sorted(through.directory.iterdir()):
        equal(read_episode(path), read_episode(resumed.directory / path.name))
    assert len(list(resumed.directory.iterdir())) == len(list(through.directory.iterdir()))


def test_state_is_plain_and_survives_a_moved_run_folder(tmp_path):
    old = make(tmp_path / "old" / "train_eps")
    feed(old, 0, 9)
    old.add(3, row(1, 0, 5))
    state = old.state_dict()
    assert state["files"] == ["000000-s0-9.npz"]
    assert {type(value) for value in state.values()} == {str, list, int, dict}
    assert {type(value) for value in state["ongoing"][3].values()} == {np.ndarray}
    expected = old.sample(3, 4)
    (tmp_path / "old").rename(tmp_path / "new")
    new = make(tmp_path / "new" / "train_eps", seed=99)
    assert new.load_state_dict(state) == Restored()
    equal(expected, new.sample(3, 4))


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "cut", "renamed"])
def test_restoring_names_the_episodes_that_are_unfit(tmp_path, damage, left):
    """It goes on without them as long as one is left; damaged ones are set aside."""
    replay = make(tmp_path / "eps")
    paths = [feed(replay, number, 5).path for number in range(2 + left)]
    state = replay.state_dict()
    for path in paths[:2]:
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.write_bytes(feed(make(tmp_path / "other"), 0, 4).path.read_bytes())
            (tmp_path / "other" / "000000-s0-4.npz").unlink()
    resumed = make(tmp_path / "eps")
    if not left:
        with pytest.raises(ValueError, match=r"000000-s0-5\.npz: the checkpoint needs"):
            resumed.load_state_dict(state)
        return
    found = resumed.load_state_dict(state)
    assert [path for path, _ in found.lost] == paths[:2]
    assert set(decode(resumed.sample(20, 3))[0].ravel()) == {2}
    assert len(found.bad) == (0 if damage == "missing" else 2)
    assert all(path.parent == tmp_path / "bad" and path.exists() for path in found.bad)


def test_state_of_unsaved_episodes_is_refused():
    feed(replay := make(), 0, 5)
    with pytest.raises(ValueError, match="no state to restore"):
        replay.state_dict()


def test_loaded_dataset_is_restored_and_own_folder_numbers_go_on(tmp_path):
    feed(make(tmp_path / "data", tag="source"), 1, 6)
    replay = make(tmp_path / "own")
    replay.load(tmp_path / "data")
    feed(replay, 2, 5)
    state, expected = replay.state_dict(), replay.sample(5, 3)
    assert replay.contents() == [["000000-source-6.npz", 6], ["000000-s0-5.npz", 5]]
    restored = make(tmp_path / "own")
    restored.load_state_dict(state)
    equal(expected, restored.sample(5, 3))
    again = make(tmp_path / "own")
    again.load(tmp_path / "own")
    assert feed(again, 3, 4).name == "000001-s0-4.npz"


def numbered(replay):
    """{(episode, row within it): number} of all rows there are."""
    batch = replay.sample(100, Windows(5, numbered=True))
    assert batch["row"].dtype == np.int64
    places = zip(*(each.ravel().tolist() for each in decode(batch)), strict=True)
    pairs = {*zip(places, batch["row"].ravel().tolist(), strict=True)}
    found = dict(pairs)
    assert len(found) == len(pairs) == len({number for _, number in pairs}) == replay.frames
    return found


def test_rows_have_numbers_that_stay_theirs(tmp_path):
    replay = make(tmp_path / "eps", capacity=14)
    for number in range(4):  # the first two leave the storage
        feed(replay, number, 6)
    found = numbered(replay)
    first = found[2, 0]
    # in a row within an episode, and one number left out before the next
    expected = {(2, t): first + t for t in range(6)} | {(3, t): first + 7 + t for t in range(6)}
    assert found == expected
    assert "row" not in replay.sample(2, 5)
    restored = make(tmp_path / "eps", capacity=14)
    restored.load_state_dict(replay.state_dict())
    assert numbered(restored) == found
    feed(restored, 4, 6)
    assert numbered(restored) == {
        place: number for place, number in found.items() if place[0] == 3
    } | {(4, t): first + 14 + t for t in range(6)}


def test_numbers_stay_where_an_episode_is_lost(tmp_path):
    replay = make(tmp_path / "eps")
    paths = [feed(replay, number, 6).path for number in range(3)]
    state, found = replay.state_dict(), numbered(replay)
    paths[1].unlink()
    restored = make(tmp_path / "eps")
    restored.load_state_dict(state)
    assert numbered(restored) == {at: n for at, n in found.items() if at[0] != 1}
    del state["numbers"], state["number"]  # as checkpoints were before rows had numbers
    older = make(tmp_path / "eps")
    older.load_state_dict(state)
    assert {episode for episode, _ in numbered(older)} == {0, 2}
