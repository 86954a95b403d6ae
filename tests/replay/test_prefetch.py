"""The way of the batches to the device: those of the plain replay, whatever reads them when."""

import numpy as np
import pytest
import torch

from replay.prefetch import Prefetcher
from tests.replay.rows import KINDS, equal, feed, make
from timing import Stopwatch

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize("kind", ["host", "disk", "device"])
def test_batches_are_the_replays_in_tensors_of_their_own(tmp_path, kind):
    plain, given, watch = make(), make(storage=KINDS[kind](tmp_path)), Stopwatch()
    prefetcher, batches, expected = Prefetcher(given, 5, 7, CPU, watch), [], []
    for number in range(6):
        for replay in (plain, given):
            feed(replay, number, 9 + number)
        batches.append(prefetcher.next())
        expected.append(plain.sample(5, 7))
    for batch, values in zip(batches, expected, strict=True):
        assert all(isinstance(value, torch.Tensor) for value in batch.values())
        equal(batch, values)
    assert plain.rng_state() == given.rng_state()
    assert set(watch.flush()) == {"other", "sample", "transfer"}


def test_nothing_to_draw_says_so():
    prefetcher = Prefetcher(replay := make(), 5, 7, CPU)
    with pytest.raises(ValueError, match="raise prefill"):
        prefetcher.next()
    feed(replay, 0, 9)
    assert prefetcher.next()["image"].shape[:2] == (5, 7)


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["host", "disk", "cuda"])
def test_batches_cross_to_the_gpu_unharmed(tmp_path, kind):
    """Readers are slow, and each reads its own batch, with no wait by hand anywhere."""
    plain, given = make(), make(storage=KINDS[kind](tmp_path), capacity=0)
    for replay in (plain, given):
        for number in range(8):
            feed(replay, number, 40)
    prefetcher, copies = Prefetcher(given, 50, 20, GPU), []
    busy = torch.randn(3000, 3000, device=GPU)
    for step in range(20):
        if step == 9:
            for replay in (plain, given):
                feed(replay, 50, 30)
        batch = prefetcher.next()
        assert all(value.device.type == "cuda" for value in batch.values())
        for _ in range(20):  # the reader comes late
            busy = busy @ busy / 100
        copies.append({name: value.clone() for name, value in batch.items()})
        del batch  # its memory may be the next one's
    torch.cuda.synchronize()
    for copy in copies:
        equal(copy, plain.sample(50, 20))


@pytest.mark.gpu
def test_drawing_does_not_wait_for_the_last_update():
    feed(replay := make(), 0, 40)
    prefetcher = Prefetcher(replay, 50, 20, GPU)
    prefetcher.next()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            prefetcher.next()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_run_on_the_gpu_steps_while_it_trains(tmp_path, tiny, where):
    """With all that is on by itself there: overlap, and episodes written beside it."""
    from logger import read_metrics

    folder = tiny.finish(tiny.finetune(tmp_path, device="cuda:0", replay_device=where))
    state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    assert state["learner"]["updates"] == 3 + 9
    assert state["collector"]["steps"] == 60
    assert len(list((folder / "train_eps").iterdir())) == 6
    rows = read_metrics(folder / "metrics.jsonl")
    assert all(np.isfinite(row["model_loss"]) for row in rows if "model_loss" in row)
