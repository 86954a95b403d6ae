"""Meters of metrics: what a checkpoint asks of them."""

import json

import torch

from logger import MeanMeter


def test_meter_goes_on_from_its_state():
    through, meter = MeanMeter(), MeanMeter()
    for one in (through, meter):
        one.add({"a": torch.tensor(1.0), "b": 2})
        one.add({"a": torch.tensor(4.0)})
    state = meter.state_dict()
    assert state == {"sums": {"a": 5.0, "b": 2.0}, "counts": {"a": 2, "b": 1}}
    assert json.loads(json.dumps(state)) == state
    resumed = MeanMeter()
    resumed.load_state_dict(state)
    for one in (through, resumed):
        one.add({"a": torch.tensor(4.0), "c": 7.0})
    assert through.flush() == resumed.flush() == {"a": 3.0, "b": 2.0, "c": 7.0}


def test_meter_state_is_a_copy_and_looking_changes_nothing():
    meter = MeanMeter()
    meter.add({"a": 1.0})
    state = meter.state_dict()
    meter.add({"a": 3.0})
    assert state == {"sums": {"a": 1.0}, "counts": {"a": 1}}
    other = MeanMeter()
    other.load_state_dict(state)
    other.add({"a": 5.0})
    assert state == {"sums": {"a": 1.0}, "counts": {"a": 1}}
    assert meter.flush() == {"a": 2.0}


def test_meter_of_float32_sums_resumes_bit_for_bit():
    """A sum kept as a tensor and one that went through a checkpoint round alike."""
    values = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 1e4
    through, resumed = MeanMeter(), MeanMeter()
    for number, value in enumerate(values):
        through.add({"a": value})
        if number == 50:
            state = resumed.state_dict()
            resumed = MeanMeter()
            resumed.load_state_dict(state)
        resumed.add({"a": value})
    assert through.flush() == resumed.flush()


def test_the_mean_of_a_constant_is_that_constant_also_across_a_checkpoint():
    constant, meter = torch.tensor(0.015), MeanMeter()
    for number in range(1000):
        if number == 500:
            state, meter = meter.state_dict(), MeanMeter()
            meter.load_state_dict(state)
        meter.add({"beta": constant})
    assert meter.flush() == {"beta": float(constant)}
