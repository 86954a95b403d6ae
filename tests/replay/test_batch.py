"""The way of a batch to the device: it arrives unharmed, whoever reads it when."""

import numpy as np
import pytest
import torch

from replay.batch import to_tensors
from tests.replay.rows import KINDS, equal, feed, make

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize("kind", ["host", "disk", "device"])
def test_on_a_cpu_batches_are_handed_over(tmp_path, kind):
    plain, given = make(), make(storage=KINDS[kind](tmp_path))
    for number in range(4):
        for replay in (plain, given):
            feed(replay, number, 9 + number)
        batch = to_tensors(given.sample(5, 7), CPU)
        assert all(isinstance(value, torch.Tensor) for value in batch.values())
        equal(batch, plain.sample(5, 7))


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["host", "disk", "cuda"])
def test_batches_cross_to_the_gpu_unharmed(tmp_path, kind):
    """Readers are slow, and each reads its own batch, with no wait by hand anywhere."""
    plain, given = make(), make(storage=KINDS[kind](tmp_path))
    for replay in (plain, given):
        for number in range(8):
            feed(replay, number, 40)
    copies = []
    busy = torch.randn(3000, 3000, device=GPU)
    for step in range(20):
        if step == 9:
            for replay in (plain, given):
                feed(replay, 50, 30)
        batch = to_tensors(given.sample(50, 20), GPU)
        assert all(value.device.type == "cuda" for value in batch.values())
        for _ in range(20):  # the reader comes late
            busy = busy @ busy / 100
        copies.append({name: value.clone() for name, value in batch.items()})
        del batch  # its memory may be the next one's
    torch.cuda.synchronize()
    for copy in copies:
        equal(copy, plain.sample(50, 20))


@pytest.mark.gpu
def test_a_batch_does_not_wait_for_the_gpu():
    feed(replay := make(), 0, 40)
    to_tensors(replay.sample(50, 20), GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            to_tensors(replay.sample(50, 20), GPU)
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
