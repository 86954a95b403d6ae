"""A process of the authors' own, within this one."""

import sys

import pytest
import torch

from benchmarks import authors, noise, planner, sequences, stubs

# That a checkout of a test brings along, whether they are installed or not.
PACKAGES = ("hydra", "tensordict", "torchrl")


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """This process as one of their own: what is theirs is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for module in (authors, noise, planner):
        monkeypatch.setattr(module, "EPISODES", 2)
        monkeypatch.setattr(module, "STEPS", 4)
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "cuda", kind.cuda)
    for name in (*sequences.SHARED_NAMES, *PACKAGES):  # ours and others' by the names of theirs
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        # What PyTorch imported late is not theirs, and cannot be imported a second time.
        theirs = any(str(place).startswith(str(tmp_path)) for place in places)
        if theirs or isinstance(module, stubs.StubModule):
            del sys.modules[name]
