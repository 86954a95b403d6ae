"""Batches drawn ahead are the batches that would have been drawn, whatever comes between."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import Replay
from replay.prefetch import Feeder
from timing import Stopwatch
from tools import UserError

SHAPE, CPU = (2, 2, 3), torch.device("cpu")
SIZES = (5, 7)


def make(folder=None, **kwargs):
    return Replay(folder, **({"image_shape": SHAPE, "action_shape": (2,), "seed": 3} | kwargs))


def rows_of(number, rows):
    """The rows of an episode, each of its own content, as they come from an environment."""
    for t in range(rows):
        image = np.zeros(SHAPE, np.uint8)
        image[0, 0] = number % 256, t % 256, t // 256
        action = np.array([number, t], np.float32) * (t > 0)
        row = {"image": image, "action": action, "reward": number + t / 64, "discount": 1.0}
        yield row | {"is_first": t == 0, "is_last": t == rows - 1, "is_terminal": False}


def add(replay, number, rows):
    for row in rows_of(number, rows):
        replay.add(0, row)


def feeder_of(replay, prefetch="True"):
    return Feeder(replay, *SIZES, CPU, prefetch)


def assert_equal(batch, expected):
    assert list(batch) == list(expected)
    for name, value in expected.items():
        assert isinstance(batch[name], torch.Tensor)
        np.testing.assert_array_equal(batch[name].numpy(), value, err_msg=name)


def settle(feeder):
    """Waits until the thread has drawn."""
    if feeder._ahead is not None:
        feeder._ahead.drawn.result()


class Slow(Replay):
    """A replay whose draws in a thread wait until they are let go."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begun, self.go = threading.Event(), threading.Event()

    def draw(self, *args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            self.begun.set()
            assert self.go.wait(60)
        return super().draw(*args, **kwargs)


@settings(max_examples=60)
@given(
    moves=st.lists(
        st.sampled_from(["next", "next", "next", "row", "close", "save", "load", "rng", "look"]),
        min_size=5,
        max_size=40,
    ),
    wait=st.booleans(),
    capacity=st.sampled_from([0, 30]),
)
def test_batches_are_those_of_the_plain_replay(tmp_path_factory, moves, wait, capacity):
    """Any schedule of batches, rows, closed and evicted episodes, checkpoints and reports."""
    folders = [tmp_path_factory.mktemp("eps") / "train" for _ in range(2)]
    plain, fed = (make(folder, capacity=capacity) for folder in folders)
    for replay in (plain, fed):
        add(replay, 0, 9)
    feeder, number, states = feeder_of(fed), 1, []
    for move in moves:
        if wait:  # otherwise the thread is wherever it has come to
            settle(feeder)
        if move == "next":
            assert_equal(feeder.next(), plain.sample(*SIZES))
        elif move == "look":
            one, two = (r.sample(2, 3, rng=np.random.default_rng(1)) for r in (plain, fed))
            assert_equal({k: torch.from_numpy(v) for k, v in two.items()}, one)
        elif move == "row" and not plain.ongoing_actions():
            for replay in (plain, fed):
                replay.add(0, next(rows_of(99, 9)))
        elif move == "close":
            rows = list(rows_of(number, 3 + number % 11))[len(plain.ongoing_actions()) :]
            for replay in (plain, fed):
                for row in rows:
                    replay.add(0, row)
            number += 1
        elif move == "save":
            states = [replay.state_dict() for replay in (plain, fed)]
        elif move == "load" and states:
            for replay, state in zip((plain, fed), states, strict=True):
                replay.load_state_dict(state)
        elif move == "rng":
            for replay in (plain, fed):
                replay.load_rng(Replay(None, seed=number, action_shape=None).rng_state())
        assert fed.rng_state() == plain.rng_state()
    assert_equal(feeder.next(), plain.sample(*SIZES))
    feeder.close()


def test_a_draw_ahead_is_used_and_nothing_is_drawn_twice(monkeypatch):
    replay, drawn = make(), []
    add(replay, 0, 9)
    draw = replay.draw
    monkeypatch.setattr(
        replay,
        "draw",
        lambda *a, **k: drawn.append(threading.current_thread().name) or draw(*a, **k),
    )
    feeder = feeder_of(replay)
    for _ in range(4):
        feeder.next()
    settle(feeder)
    assert drawn[0] == "MainThread"
    assert all(name.startswith("feeder") for name in drawn[1:])
    assert len(drawn) == 5
    add(replay, 1, 5)  # the fifth does not count any more
    feeder.next()
    settle(feeder)
    assert drawn[5] == "MainThread"
    feeder.close()


def test_a_draw_that_sees_a_new_episode_in_time_counts():
    """It began before the episode closed, but drew after it: that is what drawing now gives."""
    plain, slow = make(), Slow(None, image_shape=SHAPE, action_shape=(2,), seed=3)
    for replay in (plain, slow):
        add(replay, 0, 9)
    feeder = feeder_of(slow)
    assert_equal(feeder.next(), plain.sample(*SIZES))
    assert slow.begun.wait(60)
    for replay in (plain, slow):
        add(replay, 1, 12)
    slow.go.set()
    assert_equal(feeder.next(), plain.sample(*SIZES))
    assert slow.rng_state() == plain.rng_state()
    feeder.close()


def test_an_episode_does_not_close_within_a_draw():
    """A thread inside the store holds back what would move its rows."""
    replay, order = make(), []
    add(replay, 0, 9)
    inside, go = threading.Event(), threading.Event()
    batch = replay._store.batch

    def slow(*args):
        inside.set()
        assert go.wait(60)
        result = batch(*args)
        order.append("drawn")
        return result

    feeder = feeder_of(replay)
    feeder.next()
    settle(feeder)
    replay._store.batch = slow
    feeder._draw_ahead()
    assert inside.wait(60)
    closing = threading.Thread(target=lambda: (add(replay, 1, 9), order.append("closed")))
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go.set()
    closing.join(60)
    assert order == ["drawn", "closed"]
    feeder.close()


def test_a_batch_is_not_written_to_before_the_next_is_asked_for():
    replay = make()
    for number in range(6):
        add(replay, number, 20)
    feeder = feeder_of(replay)
    for _ in range(5):
        batch = feeder.next()
        kept = {name: value.clone() for name, value in batch.items()}
        settle(feeder)
        assert all(torch.equal(batch[name], value) for name, value in kept.items())
    feeder.close()


def test_without_prefetch_no_thread_draws():
    replay, before = make(), set(threading.enumerate())
    add(replay, 0, 9)
    plain = make()
    add(plain, 0, 9)
    for choice in ("auto", "False"):
        feeder = feeder_of(replay, choice)
        assert not feeder.prefetch
        assert_equal(feeder.next(), plain.sample(*SIZES))
        assert set(threading.enumerate()) <= before
        feeder.close()
    assert feeder_of(replay, "True").prefetch


def test_nothing_to_draw_says_so():
    feeder = feeder_of(make())
    with pytest.raises(ValueError, match="raise prefill"):
        feeder.next()
    feeder.close()


def test_an_error_in_the_thread_is_raised_where_the_batch_is_asked_for(monkeypatch):
    replay = make()
    add(replay, 0, 9)
    feeder = feeder_of(replay)
    feeder.next()
    settle(feeder)

    def fail(*args):
        raise UserError("the disk is gone")

    monkeypatch.setattr(replay._store, "batch", fail)
    feeder.next()  # drawn before
    with pytest.raises(UserError, match="the disk is gone"):
        feeder.next()
    feeder.close()


def test_the_watch_tells_sampling_from_copying():
    replay, watch = make(), Stopwatch()
    add(replay, 0, 9)
    feeder = Feeder(replay, *SIZES, CPU, "False", watch)
    feeder.next()
    assert set(watch.flush()) == {"other", "sample", "transfer"}


def test_runs_with_and_without_prefetch_are_the_same(tmp_path, tiny, same):
    """Also where it is switched on in the middle: what a checkpoint holds does not know of it."""
    flags = {"eval_every": 0, "distillation": False, "train_steps": 3, "dataset_size": 25}
    plain = tiny.finish(tiny.finetune(tmp_path / "plain", prefetch=False, **flags))
    ahead = tiny.finish(tiny.finetune(tmp_path / "ahead", prefetch=True, **flags))
    same.run(plain, ahead)
    same.values(same.metrics(plain), same.metrics(ahead))


@pytest.mark.slow
def test_prefetch_may_change_when_a_run_resumes(tmp_path, tiny, videos, calling, same):
    from run import Stopped

    def stop():
        raise Stopped

    plain = tiny.finish(tiny.pretrain(tmp_path / "plain", videos))
    with calling({("update", 5): stop}):
        assert tiny.run(tiny.pretrain(tmp_path / "both", videos, prefetch=True)).code == 128
    folder = tiny.finish(tiny.pretrain(tmp_path / "both", videos, prefetch=False))
    same.run(plain, folder)


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("prefetch", ["True", "False"])
def test_batches_cross_to_the_gpu_unharmed(prefetch):
    """Readers are slow, and each reads its own batch, with no wait by hand anywhere."""
    plain, fed = make(), make()
    device = torch.device("cuda:0")
    for replay in (plain, fed):
        for number in range(8):
            add(replay, number, 40)
    feeder = Feeder(fed, 50, 20, device, prefetch)
    busy = torch.randn(3000, 3000, device=device)
    copies = []
    for step in range(20):
        if step == 9:
            for replay in (plain, fed):
                add(replay, 50, 30)
        batch = feeder.next()
        assert all(value.device.type == "cuda" for value in batch.values())
        for _ in range(20):  # the reader comes late
            busy = busy @ busy / 100
        copies.append({name: value.clone() for name, value in batch.items()})
    torch.cuda.synchronize()
    for copy in copies:
        assert_equal({k: v.cpu() for k, v in copy.items()}, plain.sample(50, 20))
    feeder.close()


@pytest.mark.gpu
def test_batches_without_actions_cross_to_the_gpu():
    plain, fed = make(action_shape=None), make(action_shape=None)
    image = np.random.default_rng(0).integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    for replay in (plain, fed):
        replay.replace([{"image": image}])
    feeder = Feeder(fed, *SIZES, torch.device("cuda:0"))
    for _ in range(4):
        batch = feeder.next()
        assert_equal({k: v.cpu() for k, v in batch.items()}, plain.sample(*SIZES))
    feeder.close()


@pytest.mark.gpu
def test_feeding_does_not_wait_for_the_gpu():
    replay = make()
    add(replay, 0, 40)
    feeder = Feeder(replay, 50, 20, torch.device("cuda:0"), "True")
    feeder.next()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            feeder.next()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    feeder.close()


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_run_on_the_gpu_steps_while_it_trains(tmp_path, tiny, where):
    """With all that is on by itself there: overlap, prefetch, episodes written beside it."""
    from logger import read_metrics

    folder = tiny.finish(tiny.finetune(tmp_path, device="cuda:0", replay_device=where))
    state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    assert state["learner"]["updates"] == 3 + 9
    assert state["collector"]["steps"] == 60
    assert len(list((folder / "train_eps").iterdir())) == 6
    rows = read_metrics(folder / "metrics.jsonl")
    assert all(np.isfinite(row["model_loss"]) for row in rows if "model_loss" in row)
