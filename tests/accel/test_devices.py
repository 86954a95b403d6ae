"""Updates mix no devices and never make the host wait for one, as far as a CPU can show."""

import pytest
import torch

from agents.diswm import Agent, Pretrainer
from behavior import ActorCritic
from tests.helpers.dispatch import DeviceMix, HostSync, NoHostSyncs, OneDevice, meta_update
from tests.helpers.learners import DREAMERV2, make_batch, make_learner

META = torch.device("meta")
DISCRETE = {"actor_dist": "onehot", "imag_gradient": "both", "dyn_discrete": 3}
LEARNERS = [(Agent, {}), (Agent, DREAMERV2), (Agent, DISCRETE | {"pred_discount": True})]
LEARNERS += [(Agent, {"opt": "momentum", "actor_dist": "tanh_normal"}), (Pretrainer, {})]


@pytest.mark.parametrize(("kind", "changes"), LEARNERS, ids=str)
def test_an_update_needs_no_number_and_no_other_device(kind, changes):
    learner = make_learner(kind, runtime={"device": META}, **changes)
    metrics = meta_update(learner, make_batch())
    assert len(metrics) > 8
    assert {value.device for value in metrics.values()} == {META}


@pytest.mark.parametrize(("kind", "changes"), LEARNERS, ids=str)
def test_the_host_waits_for_no_update(kind, changes):
    learner = make_learner(kind, **changes)
    with NoHostSyncs():
        for turn in range(2):  # the slow critic moves in the first
            metrics = learner.update(make_batch(turn))
    assert all(torch.isfinite(value) for value in metrics.values())


SYNCS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "float": lambda x: float(x.sum()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "mask, set": lambda x: x.index_put((x > 0,), torch.zeros(())),
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "equal": lambda x: torch.equal(x, x + 1),
    "unique": lambda x: torch.unique(x),
    "repeat": lambda x: x.repeat_interleave(x.long()),
    "is_nonzero": lambda x: torch.is_nonzero(x.sum()),
}


@pytest.mark.parametrize("name", SYNCS)
def test_what_waits_is_found(name):
    x = torch.arange(3.0)
    with pytest.raises(HostSync), NoHostSyncs():
        SYNCS[name](x)
    SYNCS[name](x)  # it is no error by itself


MIXES = {
    "sum": lambda x: x + torch.ones(2, 2),
    "number": lambda x: x * torch.tensor(2.0),
    "product": lambda x: x @ torch.ones(2, 2),
    "choice": lambda x: torch.where(x > 0, x, torch.ones(2, 2)),
    "copy": lambda x: x.copy_(torch.ones(2, 2)),
    "gradient": lambda x: torch.autograd.grad((x.requires_grad_() ** 2).sum(), x, torch.ones(())),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_tensor_of_another_device_is_found(name):
    x = torch.ones(2, 2, device=META)
    with pytest.raises((DeviceMix, RuntimeError)) as caught, OneDevice(META):
        MIXES[name](x)
    assert "cpu" in str(caught.value)


def test_both_are_found_deep_within_an_update(monkeypatch):
    loss = ActorCritic.value_loss

    def planted(self, *args):
        return loss(self, *args) * plant(args[0])

    monkeypatch.setattr(ActorCritic, "value_loss", planted)
    plant = lambda feat: 1.0 if feat.mean().item() else 0.0  # noqa: E731
    with pytest.raises(HostSync), NoHostSyncs():
        make_learner().update(make_batch())
    with pytest.raises(RuntimeError, match="meta"):
        meta_update(make_learner(runtime={"device": META}), make_batch())
    plant = lambda feat: torch.ones(1).mean()  # noqa: E731
    with pytest.raises(DeviceMix):
        meta_update(make_learner(runtime={"device": META}), make_batch())
