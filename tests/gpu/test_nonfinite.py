"""Updates that are not finite, on a CUDA device: nothing waits, and nothing is lost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.test_gpu import BOTH, EAGER, GRAPHED, make_agent, make_batch, on_device
from training.nonfinite import Guard

pytestmark = pytest.mark.gpu


def make_guard(folder, most=10):
    good, events = [], []
    run = SimpleNamespace(
        folder=folder,
        last="there is no checkpoint yet",
        meter=SimpleNamespace(add=good.append),
        logger=SimpleNamespace(event=lambda name, **fields: events.append(fields)),
    )
    return Guard(run, most), good, events


@pytest.mark.parametrize("path", [EAGER, GRAPHED, BOTH], ids=["eager", "graphed", "both"])
def test_a_bad_update_changes_no_weight_and_the_next_goes_on(tmp_path, path):
    agent, (guard, good, events) = make_agent(**path), make_guard(tmp_path)
    batch = make_batch()
    poisoned = batch | {"reward": np.full_like(batch["reward"], np.nan)}
    for data in (batch, batch):
        guard.watch(agent.updates + 1, data, agent.update(data))
    guard.settle()
    before = [p.detach().clone() for p in agent.parameters()]
    guard.watch(agent.updates + 1, on_device(poisoned), agent.update(poisoned))
    guard.settle()
    assert all(torch.equal(p, old) for p, old in zip(agent.parameters(), before, strict=True))
    guard.watch(agent.updates + 1, batch, agent.update(batch))
    guard.settle()
    assert not all(torch.equal(p, old) for p, old in zip(agent.parameters(), before, strict=True))
    assert (guard.bad, guard.in_a_row, len(good)) == (1, 0, 3)
    assert [event["update"] for event in events] == [3]
    record = np.load(tmp_path / "bad_updates" / "000000003.npz")
    assert np.isnan(record["batch/reward"]).all()


def test_watching_waits_for_no_update(tmp_path):
    agent, (guard, good, _) = make_agent(**GRAPHED), make_guard(tmp_path)
    data = on_device(make_batch())
    for _ in range(2):
        guard.watch(agent.updates + 1, data, agent.update(data))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            guard.watch(agent.updates + 1, data, agent.update(data))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(good) == 4  # the last one has not been looked at
    guard.settle()
    assert len(good) == 5


@pytest.mark.parametrize("opt", ["adamax", "momentum"])
def test_other_optimisers_skip_in_a_recorded_update_too(opt):
    agent, batch = make_agent(opt=opt, **GRAPHED), make_batch()
    for _ in range(2):
        agent.update(batch)
    before = [p.detach().clone() for p in agent.parameters()]
    metrics = agent.update(batch | {"reward": np.full_like(batch["reward"], np.inf)})
    assert metrics["skipped_model"] == 1
    assert all(torch.equal(p, old) for p, old in zip(agent.parameters(), before, strict=True))
