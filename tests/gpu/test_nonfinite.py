"""Updates that are not finite, on a CUDA device: nothing waits, and nothing is lost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.gpu.test_gpu import BOTH, EAGER, GRAPHED, make_agent, make_batch
from training.nonfinite import NonFinite

pytestmark = pytest.mark.gpu


def make_watch(folder, most=10):
    good, events = [], []
    run = SimpleNamespace(
        folder=folder,
        last="there is no checkpoint yet",
        meter=SimpleNamespace(add=good.append),
        logger=SimpleNamespace(event=lambda name, **fields: events.append(fields)),
    )
    return NonFinite(run, most), good, events


def learned(agent):
    """What the optimisers have made so far."""
    parts = agent.optimizers.values()
    return [p.detach().clone() for part in parts for p in part.parameters]


def poisoned(batch, value):
    return batch | {"reward": torch.full_like(batch["reward"], value)}


@pytest.mark.parametrize("path", [EAGER, GRAPHED, BOTH], ids=["eager", "graphed", "both"])
def test_a_bad_update_changes_no_weight_and_the_next_goes_on(tmp_path, path):
    agent, (watch, good, events) = make_agent(**path), make_watch(tmp_path)

    def learn(batch):
        watch.submit(agent.updates + 1, batch, agent.learn(batch, 0))

    batch = make_batch()
    for _ in range(2):
        learn(batch)
    watch.flush()
    before = learned(agent)
    learn(poisoned(batch, np.nan))
    watch.flush()
    assert all(map(torch.equal, learned(agent), before))
    learn(batch)
    watch.flush()
    assert not all(map(torch.equal, learned(agent), before))
    assert (watch.bad, watch.in_a_row, len(good)) == (1, 0, 3)
    assert [event["update"] for event in events] == [3]
    record = np.load(tmp_path / "bad_updates" / "000000003.npz")
    assert np.isnan(record["batch/reward"]).all()


def test_watching_waits_for_no_update(tmp_path):
    agent, (watch, good, _) = make_agent(**GRAPHED), make_watch(tmp_path)
    data = make_batch()
    for _ in range(2):
        watch.submit(agent.updates + 1, data, agent.learn(data, 0))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            watch.submit(agent.updates + 1, data, agent.learn(data, 0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(good) == 4  # the last one has not been looked at
    watch.flush()
    assert len(good) == 5


@pytest.mark.parametrize("opt", ["adamax", "momentum"])
def test_other_optimisers_skip_in_a_recorded_update_too(opt):
    agent, batch = make_agent(opt=opt, **GRAPHED), make_batch()
    for _ in range(2):
        agent.learn(batch, 0)
    before = learned(agent)
    update = agent.learn(poisoned(batch, np.inf), 0)
    assert update.skipped.any()
    assert all(map(torch.equal, learned(agent), before))
