"""Updates mix no devices and never make the host wait for one, as far as a CPU can show.

All registered agents and what they are pretrained with are tested by their names.
"""

import dataclasses

import pytest
import torch

from accel.runtime import Runtime
from agents.learner import GradientLearner
from agents.optimizer import Optimizer
from agents.registry import AGENTS, agent_class
from tests.helpers.dispatch import DeviceMix, HostSync, NoHostSyncs, OneDevice, meta_update
from tests.helpers.models import SPACES, make_batch, make_config

META = torch.device("meta")
# What a method needs beside its defaults; and others of its settings, each with changes of its own.
NEEDS = {name: {"beta_vae": False} for name in ("dreamerv2", "dv2_finetune", "apv")}
BONUS = {"queue_size": 20, "intr_seq_length": 2, "k": 3}
NEEDS["apv"] |= BONUS
NEEDS["contextwm"] = {"beta_vae": False, "dyn_discrete": 3, "res_layers": 1, **BONUS}
NEEDS["dreamerv3"] = NEEDS["hrssm"] = {"beta_vae": False, "dyn_discrete": 3}
SMALL = {"beta_vae": False, "hidden_dim": 16, "num_filters": 4, "encoder_feature_dim": 8}
NEEDS |= dict.fromkeys(("sac", "rad", "curl", "ted", "drqv2"), SMALL)
NEEDS["tdmpc2"] = {"beta_vae": False, "mlp_dim": 16, "num_channels": 4, "num_bins": 11}
NEEDS["svea"] = {**SMALL, "svea_augment": "overlay"}
LENGTHS = {"drqv2": 6, "ted": 7, "tdmpc2": 6}  # rows of the batches that they take; else 4 will do
NUMBERED = {"dreamerv3"}  # those whose batches tell which rows they hold
DISCRETE = {"actor_dist": "onehot", "imag_gradient": "both", "dyn_discrete": 3, "beta_vae": False}
OTHERS = [("diswm", DISCRETE | {"pred_discount": "True"})]
AUTHORS = {"af_latents": "sample", "concat_embed": True, "clip_apart": True, "beta_type": "rel"}
OTHERS += [("apv", DISCRETE | BONUS | AUTHORS)]
OTHERS += [("contextwm", NEEDS["contextwm"] | {"context_augment": "erasing"})]
OTHERS += [("diswm", {"opt": "momentum", "actor_dist": "tanh_normal"})]
CLASSES = {name: agent_class(name) for name in sorted(AGENTS)}
# Each first stage, and the method that it is of.
STAGES = {kept.pretrainer: name for name, kept in reversed(CLASSES.items()) if kept.pretrainer}
CASES = [(kept, NEEDS.get(name, {})) for name, kept in CLASSES.items()]
CASES += [(kept, NEEDS.get(name, {})) for kept, name in STAGES.items()]
CASES += [(CLASSES[name], changes) for name, changes in OTHERS]
LEARN = [case for case in CASES if issubclass(case[0], GradientLearner)]


def build(kind, changes, teacher=None, device=None):
    """A learner of that class; one that can have a teacher has one."""
    if changes.get("beta_vae", True) and hasattr(kind, "find_source"):
        changes = {**changes, "distillation": True, "pretrain_checkpoint_path": str(teacher)}
    c = make_config("--method_name", STAGES.get(kind, kind.name), **changes)
    runtime = Runtime.resolve(c)
    runtime = dataclasses.replace(runtime, device=device or runtime.device)
    torch.manual_seed(0)
    if kind in STAGES:
        return kind(c, runtime)
    spaces = SPACES._replace(discrete=c.actor_dist.startswith("onehot"))
    # What begins as a predictor computes the same from any weights.
    return kind(c, runtime, spaces, kind.find_source(c) if c.distillation else None)


def batch_of(kind, changes, seed=0):
    spaces = SPACES._replace(discrete=changes.get("actor_dist", "").startswith("onehot"))
    batch = make_batch(seed, length=LENGTHS.get(kind.name, 4), spaces=spaces)
    if kind.name in NUMBERED:
        batch["row"] = torch.arange(batch["reward"].numel()).view_as(batch["reward"])
    return batch


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_an_update_needs_no_number_and_no_other_device(tiny, kind, changes):
    learner = build(kind, changes, tiny.teacher, META)
    metrics = meta_update(learner, batch_of(kind, changes))
    assert len(metrics) > 8 or not isinstance(learner, GradientLearner)
    assert {value.device for value in metrics.values()} <= {META}


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_the_host_waits_for_no_update(tiny, kind, changes):
    learner = build(kind, changes, tiny.teacher)
    with NoHostSyncs():
        for turn in range(2):  # the slow critic moves in the first
            update = learner.learn(batch_of(kind, changes, turn), turn)
    assert all(torch.isfinite(value) for value in update.metrics.values())
    assert update.skipped is None or not update.skipped.any()


@pytest.mark.parametrize(("kind", "changes"), LEARN, ids=str)
def test_what_is_planted_in_an_update_is_found(monkeypatch, tiny, kind, changes):
    step = Optimizer.step

    def planted(self, loss, *args):
        return step(self, loss * plant(loss), *args)

    monkeypatch.setattr(Optimizer, "step", planted)
    plant = lambda loss: 1.0 if loss.item() else 0.0  # noqa: E731
    with pytest.raises(HostSync), NoHostSyncs():
        build(kind, changes, tiny.teacher).learn(batch_of(kind, changes), 0)
    on_meta = build(kind, changes, tiny.teacher, META)
    with pytest.raises(RuntimeError, match="meta"):
        meta_update(on_meta, batch_of(kind, changes))
    plant = lambda loss: torch.ones(1).mean()  # noqa: E731
    with pytest.raises(DeviceMix):
        meta_update(on_meta, batch_of(kind, changes))


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
