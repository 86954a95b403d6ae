"""Generators' states in checkpoints, and draws beside the run that leave them alone."""

import pytest
import torch

from accel.generators import rng_state, scratch_rng, set_rng_state
from fileio import checkpoints

CPU = torch.device("cpu")


def test_generator_states_travel(tmp_path):
    torch.manual_seed(3)
    checkpoints.save(tmp_path / "rng.pt", rng_state(CPU))
    expected = torch.randn(5)
    torch.manual_seed(4)
    set_rng_state(checkpoints.load(tmp_path / "rng.pt"), CPU)
    assert torch.equal(torch.randn(5), expected)


def scratch(seed):
    with scratch_rng(seed, CPU):
        return torch.randn(5)


def test_scratch_draws_leave_the_generator_alone():
    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    first, second, other = scratch(7), scratch(7), scratch(8)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.randn(5), expected)


def test_an_error_inside_restores_the_generator_too():
    def fail():
        with scratch_rng(7, CPU):
            torch.randn(3)
            raise KeyError

    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.randn(5), expected)
